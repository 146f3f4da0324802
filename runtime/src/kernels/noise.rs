//! The kernels of the noise models, and the pass that adds them to a layer's values.

use super::elementwise::{add_assign, add_constant, add_inside, clamp, scale, scaled_add};
use crate::{
    law::{self, LawFailure},
    rng::{BLOCK, Stream},
};
use multiversion::multiversion;
use mxc_spec::{
    law::{NoiseLaw, Registered},
    noise::Model,
};

/// Elements that a fused pass handles at a time: fits the first-level cache.
const CHUNK: usize = 16 * BLOCK;

/// A distribution that is drawn from.
#[derive(Clone, Copy, Debug)]
pub enum Fill {
    /// By a kernel, compiled for every instruction set, which cannot fail: it writes the draws of a stream, the elements from the
    /// block of the given number on, to a slice.
    Kernel(fn(&Stream, u64, &mut [f32])),
    /// By a law of the embedding program.
    Registered(&'static Registered),
}

impl Fill {
    /// Writes the draws of a stream, the elements from a block on, to a slice.
    ///
    /// # Errors
    ///
    /// When a registered law fails.
    #[inline]
    pub fn fill(self, stream: &Stream, first_block: u64, out: &mut [f32]) -> Result<(), LawFailure> {
        match self {
            Self::Kernel(fill) => {
                fill(stream, first_block, out);
                Ok(())
            }
            Self::Registered(law) => law::fill(law.law(), stream, first_block, out)
                .map_err(|problem| LawFailure { law: law.name(), problem }),
        }
    }
}

/// How a model draws: it adds `mean + spread·d`, in units of the layer's magnitude s.
#[derive(Clone, Copy, Debug)]
pub struct Law {
    /// The constant part.
    pub mean: f64,
    /// The factor of the draws d; nothing is drawn where it is 0.
    pub spread: f64,
    /// The draws d.
    pub fill: Fill,
    /// The variance of d.
    pub variance: f64,
}

impl Law {
    /// The variance of what it adds.
    pub fn power(&self) -> f64 {
        self.spread * self.spread * self.variance
    }

    /// The law of a model.
    pub fn of(model: &Model) -> Self {
        match *model {
            Model::Gaussian { sigma, mu } => {
                Self { mean: mu, spread: sigma, fill: Fill::Kernel(Stream::fill_normals), variance: 1.0 }
            }
            Model::Uniform { width } => {
                Self { mean: 0.0, spread: width, fill: Fill::Kernel(fill_uniforms), variance: 1.0 / 12.0 }
            }
            Model::Registered { law, scale } => {
                let NoiseLaw { mean, variance, .. } = *law.law();
                Self { mean: scale * mean, spread: scale, fill: Fill::Registered(law), variance }
            }
        }
    }
}

/// Numbers uniform from −1/2 to 1/2, in steps of 2⁻²⁴ and symmetric about 0, which is none of them. Exact, so that every
/// instruction set gives the same bits.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn fill_uniforms(stream: &Stream, first_block: u64, out: &mut [f32]) {
    const STEP: f32 = 1.0 / 16_777_216.0;
    stream.fill(first_block, out, |words, out| {
        for (out, &word) in out.iter_mut().zip(words) {
            *out = ((word.cast_signed() >> 8) as f32 + 0.5) * STEP;
        }
    });
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
///
/// # Errors
///
/// When a registered law fails.
pub fn add_noise(y: &mut [f32], offset: f32, parts: &[(Draws<'_>, f32)], limit: Option<f32>) -> Result<(), LawFailure> {
    let mut buffer = [0f32; CHUNK];
    for (index, chunk) in y.chunks_mut(CHUNK).enumerate() {
        let mut offset = offset;
        for &(draws, coefficient) in parts {
            let draws = match draws {
                Draws::Stream(stream, fill) => {
                    let buffer = &mut buffer[..chunk.len()];
                    fill.fill(&stream, (index * CHUNK / BLOCK) as u64, buffer)?;
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
    Ok(())
}

/// The block of a stream that a read's draws begin at; those of the first are where the draws of a single read are. No value has
/// as many elements.
pub fn first_block(read: u32) -> u64 {
    u64::from(read) << 44
}

/// What `reads` reads of `y` make in the mean. Each has the offset and the draws made before, which are the same in all, draws of
/// its own from the streams, and is clamped to ±`limit` by itself. To `inside` is added, by element, the share of the reads that
/// were not clamped.
///
/// # Errors
///
/// When a registered law fails.
pub fn average_reads(
    y: &mut [f32],
    offset: f32,
    parts: &[(Draws<'_>, f32)],
    limit: Option<f32>,
    reads: u32,
    mut inside: Option<&mut [f32]>,
) -> Result<(), LawFailure> {
    let [mut draws, mut same, mut one] = [[0f32; CHUNK]; 3];
    let share = 1.0 / reads as f32;
    for (index, sum) in y.chunks_mut(CHUNK).enumerate() {
        let [draws, same, one] = [&mut draws, &mut same, &mut one].map(|buffer| &mut buffer[..sum.len()]);
        if offset != 0.0 {
            add_constant(sum, offset);
        }
        for &(part, coefficient) in parts {
            if let Draws::Values(values) = part {
                scaled_add(sum, &values[index * CHUNK..][..same.len()], coefficient, 0.0);
            }
        }
        same.copy_from_slice(sum);
        sum.fill(0.0);
        for read in 0..reads {
            one.copy_from_slice(same);
            for &(part, coefficient) in parts {
                if let Draws::Stream(stream, fill) = part {
                    fill.fill(&stream, first_block(read) + (index * CHUNK / BLOCK) as u64, draws)?;
                    scaled_add(one, draws, coefficient, 0.0);
                }
            }
            if let Some(limit) = limit {
                if let Some(inside) = &mut inside {
                    add_inside(&mut inside[index * CHUNK..][..one.len()], one, limit, share);
                }
                clamp(one, -limit, limit);
            }
            add_assign(sum, one);
        }
        scale(sum, share);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Kind, StreamKey};

    const NORMALS: Fill = Fill::Kernel(Stream::fill_normals);

    fn stream() -> Stream {
        StreamKey { seed: 1, purpose: 0, kind: Kind::Noise, component: 0, chip: 0, pass: 0, layer: 0, sample: 0 }
            .stream()
    }

    /// Moments at ±4.5 standard errors and the Kolmogorov-Smirnov distance √n·D below 2.5: false-alarm rates of 7·10⁻⁶ each; the
    /// draws are fixed by the key, so the test never flickers.
    #[test]
    fn uniforms_are_uniform() {
        const N: usize = 1 << 20;
        let n = N as f64;
        let mut draws = vec![0.0; N];
        fill_uniforms(&stream(), 0, &mut draws);
        let mut part = [0.0; 1000];
        fill_uniforms(&stream(), 2, &mut part);
        assert_eq!(part, draws[2 * BLOCK..][..1000], "however they are filled");
        assert!(draws.iter().all(|draw| draw.abs() < 0.5 && *draw != 0.0));
        let moment = |power: i32| draws.iter().map(|&draw| f64::from(draw).powi(power)).sum::<f64>() / n;
        // The variances of u and u² are 1/12 and 1/180.
        assert!(moment(1).abs() < 4.5 * (1.0 / 12.0 / n).sqrt(), "{}", moment(1));
        assert!((moment(2) - 1.0 / 12.0).abs() < 4.5 * (1.0 / 180.0 / n).sqrt(), "{}", moment(2));
        let neighbours: f64 = draws.windows(2).map(|pair| f64::from(pair[0] * pair[1])).sum();
        assert!(neighbours.abs() < 4.5 * n.sqrt() / 12.0, "{neighbours}");
        draws.sort_by(f32::total_cmp);
        let distance = draws.iter().enumerate().map(|(below, &draw)| {
            let expected = f64::from(draw) + 0.5;
            (expected - below as f64 / n).abs().max((expected - (below + 1) as f64 / n).abs())
        });
        let distance = distance.fold(0.0, f64::max) * n.sqrt();
        assert!(distance < 2.5, "{distance}");
    }

    #[test]
    fn noise_is_the_sum_of_its_parts() {
        let stream = stream();
        let mut normals = vec![0.0; 3000];
        stream.fill_normals(0, &mut normals);
        let mut y = vec![1.0; 3000];
        add_noise(&mut y, 0.25, &[(Draws::Stream(stream, NORMALS), 0.5), (Draws::Values(&normals), 0.5)], Some(2.0))
            .unwrap();
        for (y, normal) in y.iter().zip(&normals) {
            assert!((y - (1.25 + normal).clamp(-2.0, 2.0)).abs() < 1e-6);
        }
    }

    #[test]
    fn reads_are_drawn_and_clamped_one_by_one() {
        const N: usize = 3000;
        let stream = stream();
        let mut fixed = vec![0.0; N];
        fill_uniforms(&stream, 7, &mut fixed);
        let start: Vec<f32> = (0..N).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
        let parts = [(Draws::Stream(stream, NORMALS), 0.5), (Draws::Values(&fixed), 0.75)];
        for limit in [None, Some(1.0)] {
            let (mut y, mut inside) = (start.clone(), vec![0.0; N]);
            average_reads(&mut y, 0.25, &parts, limit, 3, Some(&mut inside)).unwrap();
            let mut draws = vec![0.0; 3 * N];
            draws.chunks_mut(N).zip(0..).for_each(|(draws, read)| stream.fill_normals(first_block(read), draws));
            assert!(draws[..N] != draws[N..2 * N]);
            for (i, (y, inside)) in y.iter().zip(&inside).enumerate() {
                let limit = limit.unwrap_or(f32::INFINITY);
                let reads = [0, 1, 2].map(|read| start[i] + 0.25 + 0.75 * fixed[i] + 0.5 * draws[read * N + i]);
                let mean = reads.iter().map(|y| y.clamp(-limit, limit)).sum::<f32>() / 3.0;
                assert!((y - mean).abs() < 1e-6, "{i}: {y}, not {mean}");
                let share = reads.iter().filter(|y| y.abs() < limit).count() as f32 / 3.0;
                assert!(limit.is_infinite() || (inside - share).abs() < 1e-6, "{i}: {inside}, not {share}");
            }
        }
    }
}
