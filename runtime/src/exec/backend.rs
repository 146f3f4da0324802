//! What runs programs: a backend makes a kind of run of a program ready, and what it has made runs sample by sample.

use super::{
    buffers::Buffer,
    constants::Constants,
    sample::{Observer, Sample, WeightGradients},
    worker::Worker,
};
use crate::{
    error::ExecError,
    plan::steps::PlanKey,
    program::{LayerId, Program},
};
use std::sync::Arc;

/// What is told of every layer's output gradient.
pub(crate) type GradientObserver<'a> = dyn FnMut(LayerId, &[f32]) + 'a;

/// What runs programs.
pub(crate) trait Backend: Send + Sync {
    /// Makes a kind of run ready.
    fn prepare(
        &self,
        program: &Arc<Program>,
        key: PlanKey,
        constants: &Constants,
    ) -> Result<Arc<dyn Prepared>, ExecError>;
}

/// A kind of run of a program. Samples may run on several threads at once, each with a worker of its own.
pub(crate) trait Prepared: Send + Sync {
    /// Runs one sample; the worker keeps what [`Prepared::output`] and [`Prepared::backward`] read.
    fn forward(
        &self,
        run: Inputs<'_>,
        worker: &mut Worker,
        sample: &Sample,
        observer: Option<&mut Observer<'_>>,
    ) -> Result<(), ExecError>;

    /// The words of one of the results of the sample that the worker has run last: of the program's outputs, or the logits where
    /// only these are asked for.
    fn output<'r>(&'r self, run: Inputs<'r>, worker: &'r Worker, index: usize) -> &'r [f32];

    /// The gradients of the sample that the worker has run last, with a tape, from that of the logits: adds to those of the trainable
    /// weights.
    fn backward(
        &self,
        run: Inputs<'_>,
        worker: &mut Worker,
        seed: Buffer,
        weights: &mut WeightGradients,
        observer: Option<&mut GradientObserver<'_>>,
    ) -> Result<(), ExecError>;
}

/// What a sample's run reads.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'r> {
    pub constants: &'r Constants,
    /// The words of the program's inputs.
    pub inputs: &'r [&'r [f32]],
}
