//! The kernels of the noise models, and the pass that adds them to a layer's values.

use super::elementwise::{add_constant, clamp, scaled_add};
use crate::rng::{BLOCK, Stream};
use mxc_dialects::noise::Model;

/// Elements that a fused pass handles at a time: fits the first-level cache.
const CHUNK: usize = 16 * BLOCK;

/// Writes a distribution's draws of a stream, the elements from the block of the given number on, to a slice.
pub type Fill = fn(&Stream, u64, &mut [f32]);

/// How a model draws: it adds `mean + spread·d`, in units of the layer's magnitude s.
#[derive(Clone, Copy, Debug)]
pub struct Law {
    /// The constant part.
    pub mean: f64,
    /// The factor of the draws d; nothing is drawn where it is 0.
    pub spread: f64,
    /// The draws d.
    pub fill: Fill,
}

impl Law {
    /// The law of a model.
    pub fn of(model: &Model) -> Self {
        match *model {
            Model::Gaussian { sigma, mu } => Self { mean: mu, spread: sigma, fill: Stream::fill_normals },
        }
    }
}

/// Where a noise component's draws come from.
#[derive(Clone, Copy, Debug)]
pub enum Draws<'a> {
    /// Drawn here.
    Stream(Stream, Fill),
    /// Drawn before (those of a chip are the same for all samples).
    Values(&'a [f32]),
}

/// `y += offset + Σ coefficient·draws`, then clamped to ±`limit`, in one pass.
pub fn add_noise(y: &mut [f32], offset: f32, parts: &[(Draws<'_>, f32)], limit: Option<f32>) {
    let mut buffer = [0f32; CHUNK];
    for (index, chunk) in y.chunks_mut(CHUNK).enumerate() {
        let mut offset = offset;
        for &(draws, coefficient) in parts {
            let draws = match draws {
                Draws::Stream(stream, fill) => {
                    let buffer = &mut buffer[..chunk.len()];
                    fill(&stream, (index * CHUNK / BLOCK) as u64, buffer);
                    &*buffer
                }
                Draws::Values(values) => &values[index * CHUNK..][..chunk.len()],
            };
            scaled_add(chunk, draws, coefficient, offset);
            offset = 0.0;
        }
        if parts.is_empty() && offset != 0.0 {
            add_constant(chunk, offset);
        }
        if let Some(limit) = limit {
            clamp(chunk, -limit, limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_the_sum_of_its_parts() {
        let stream = crate::rng::StreamKey {
            seed: 1,
            purpose: 0,
            kind: crate::rng::Kind::Noise,
            component: 0,
            chip: 0,
            pass: 0,
            layer: 0,
            sample: 0,
        }
        .stream();
        let mut normals = vec![0.0; 3000];
        stream.fill_normals(0, &mut normals);
        let mut y = vec![1.0; 3000];
        add_noise(
            &mut y,
            0.25,
            &[(Draws::Stream(stream, Stream::fill_normals), 0.5), (Draws::Values(&normals), 0.5)],
            Some(2.0),
        );
        for (y, normal) in y.iter().zip(&normals) {
            assert!((y - (1.25 + normal).clamp(-2.0, 2.0)).abs() < 1e-6);
        }
    }
}
