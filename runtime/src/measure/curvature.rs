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

/// By channel, the sum over samples and elements of the squared gradient in the layer's output of the loss against a label drawn
/// from the network's own prediction: the diagonal of Fisher's information, which is the loss's curvature in the output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slopes(pub Vec<f64>);

impl Part for Slopes {
    const GROUP: u64 = 1;

    fn add(&mut self, other: &Self) {
        if self.0.is_empty() {
            self.0.clone_from(&other.0);
        } else {
            self.0.iter_mut().zip(&other.0).for_each(|(total, part)| *total += part);
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
        let mut slopes: Vec<Slopes> = self.layers.iter().map(|layer| Slopes(vec![0.0; layer.channels])).collect();
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
                let slopes = &mut slopes[layer].0;
                for row in gradient.chunks_exact(slopes.len().max(1)) {
                    slopes.iter_mut().zip(row).for_each(|(total, &g)| *total += f64::from(g) * f64::from(g));
                }
            },
        )?;
        Ok(slopes)
    }
}
