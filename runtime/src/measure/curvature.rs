//! How much noise on every layer's channels curves the loss.

use super::{Part, Probe};
use crate::{
    error::ExecError,
    exec::{
        run::SampleRun,
        sample::{Key, Mode},
    },
    plan::steps::Goal,
    program::Layer,
    task::Targets,
};

/// What squared gradients in a layer's output, of the loss against a label drawn from the network's own prediction, add up to: Fisher's
/// information, which is the loss's curvature in the output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slopes {
    /// By channel, the sum over samples and elements of the squared gradient: the diagonal.
    pub squares: Vec<f64>,
    /// By channel, the sum over samples of (the sum over elements of the gradient)² ÷ the number of elements: the curvature in the mean of
    /// an image. The gradient of elements that the network averages has one sign, so that this is larger than [`Slopes::squares`].
    pub means: Vec<f64>,
    /// A channel's elements in a sample.
    pub pixels: usize,
    /// The samples.
    pub samples: usize,
}

impl Slopes {
    /// By channel, what a mean squared error of 1 of every element adds to the loss, if the errors of two elements have nothing in common.
    pub fn weights(&self) -> Vec<f64> {
        self.squares.iter().map(|square| 0.5 * square / self.samples.max(1) as f64).collect()
    }

    /// How much more the mean of an image's errors matters than what is left of them: 0 where the gradients of two elements have nothing
    /// in common. The loss of errors e of an image's P elements is then as Σ e² + β·(Σ e)²/P.
    pub fn coherence(&self) -> f64 {
        let [all, means] = [&self.squares, &self.means].map(|sums| sums.iter().sum::<f64>());
        if self.pixels < 2 || all <= 0.0 {
            return 0.0;
        }
        let pixels = self.pixels as f64;
        // What is left may be nothing but rounding.
        let rest = ((all - means) / (pixels - 1.0)).max(LEAST_REST * all / pixels);
        (means / rest - 1.0).max(0.0)
    }
}

/// The share of the mean curvature that all directions but an image's mean have at least.
const LEAST_REST: f64 = 0.01;

impl Part for Slopes {
    const GROUP: u64 = 1;

    fn add(&mut self, other: &Self) {
        if self.squares.is_empty() {
            self.clone_from(other);
        } else {
            let pairs = self.squares.iter_mut().zip(&other.squares).chain(self.means.iter_mut().zip(&other.means));
            pairs.for_each(|(total, part)| *total += part);
            self.samples += other.samples;
        }
    }
}

/// The measurement.
pub(crate) struct Curvature<'a> {
    pub layers: &'a [Layer],
    pub key: Key,
}

impl Probe for Curvature<'_> {
    type Part = Slopes;

    fn runs(&self) -> Vec<(Mode, Goal)> {
        vec![(Mode::DENOISED, Goal::Sensitivity)]
    }

    fn sample(&self, run: &mut SampleRun<'_>, _: u64) -> Result<Vec<Slopes>, ExecError> {
        let none = |layer: &Layer| Slopes {
            squares: vec![0.0; layer.channels],
            means: vec![0.0; layer.channels],
            pixels: 0,
            samples: 1,
        };
        let mut slopes: Vec<Slopes> = self.layers.iter().map(none).collect();
        let uniform = self.key.uniform(run.index, 0);
        run.backward(
            0,
            Some(self.key),
            |task, logits, seed| {
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let weights: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - max).exp()).collect();
                let mut left = uniform * weights.iter().sum::<f64>();
                let label = weights
                    .iter()
                    .position(|weight| {
                        left -= weight;
                        left <= 0.0
                    })
                    .unwrap_or(0) as u32;
                task.loss(Targets::Labels(&[label]), 0, logits, 1.0, seed);
            },
            &mut |layer, gradient| {
                let Slopes { squares, means, pixels, .. } = &mut slopes[layer];
                for row in gradient.chunks_exact(squares.len().max(1)) {
                    squares.iter_mut().zip(row).for_each(|(total, &g)| *total += f64::from(g) * f64::from(g));
                    means.iter_mut().zip(row).for_each(|(total, &g)| *total += f64::from(g));
                    *pixels += 1;
                }
                means.iter_mut().for_each(|sum| *sum = *sum * *sum / (*pixels).max(1) as f64);
            },
        )?;
        Ok(slopes)
    }
}
