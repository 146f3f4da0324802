//! How far a run's results are from the clean network's.

use crate::{
    error::ExecError,
    exec::{Executor, Key, Mode, samples::Samples},
    task::Targets,
};

/// The clean network's results for samples, to judge others by: what is chosen by them needs no labels.
pub struct Teacher<'a> {
    samples: Samples<'a>,
    logits: Vec<f32>,
}

impl<'a> Teacher<'a> {
    /// Runs the samples on the clean network.
    pub fn new(executor: &Executor, samples: Samples<'a>, key: Key) -> Result<Self, ExecError> {
        let mut logits = Vec::new();
        for batch in samples.batches() {
            logits.extend(executor.logits(batch, Mode::CLEAN, key)?);
        }
        Ok(Self { samples, logits })
    }

    /// The samples' mean distillation loss, KL(softmax(clean logits) ‖ softmax(logits)), of a kind of run.
    pub fn loss(&self, executor: &Executor, mode: Mode, key: Key) -> Result<f64, ExecError> {
        let task = executor.program().task();
        let row = self.logits.len() / self.samples.len().max(1);
        let (mut gradient, mut total) = (vec![0.0; row], 0.0);
        let mut teachers = self.logits.as_slice();
        for batch in self.samples.batches() {
            let (teacher, rest) = teachers.split_at(row * batch.samples.len());
            teachers = rest;
            let logits = executor.logits(batch, mode, key)?;
            for (n, logits) in logits.chunks_exact(row.max(1)).enumerate() {
                total += task.loss(Targets::Logits(teacher), n, logits, 0.0, &mut gradient).0;
            }
        }
        Ok(total / self.samples.len().max(1) as f64)
    }
}
