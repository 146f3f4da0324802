//! How the loss depends on every layer's output on the clean network.

use super::{Part, Probe};
use crate::{
    error::ExecError,
    exec::{run::SampleRun, sample::Mode},
    kernels::elementwise,
    plan::steps::Goal,
    task::Targets,
};

/// Σ ‖∂L/∂y‖₂ over samples; 0 for a layer that the loss does not depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GradientNorm(pub f64);

impl Part for GradientNorm {
    const GROUP: u64 = 32;

    fn add(&mut self, other: &Self) {
        self.0 += other.0;
    }
}

/// The measurement, towards the samples' labels, in the order of their places from `first` on.
pub(crate) struct Sensitivity<'l> {
    pub first: u64,
    pub labels: &'l [u32],
}

impl Probe for Sensitivity<'_> {
    type Part = GradientNorm;

    fn runs(&self) -> Vec<(Mode, Goal)> {
        vec![(Mode::CLEAN, Goal::Sensitivity)]
    }

    fn sample(&self, run: &mut SampleRun<'_>, place: u64) -> Result<Vec<GradientNorm>, ExecError> {
        let mut norms = vec![GradientNorm::default(); run.layers];
        let n = usize::try_from(place - self.first).unwrap_or(usize::MAX);
        run.backward(
            0,
            None,
            |task, logits, seed| {
                task.loss(Targets::Labels(self.labels), n, logits, 1.0, seed);
            },
            &mut |layer, gradient| norms[layer] = GradientNorm(elementwise::sums(gradient)[1].sqrt()),
        )?;
        Ok(norms)
    }
}
