//! One sample of a measurement.

use super::{
    backend::{GradientObserver, Inputs, Prepared},
    sample::{Key, Mode, Observer, Sample},
    worker::Worker,
};
use crate::{error::ExecError, task::Task};
use std::{collections::BTreeMap, sync::Arc};

/// The key of runs that draw nothing.
const NO_DRAWS: Key = Key::calibration(0, 0);

/// A sample, and the runs of it that are ready.
pub(crate) struct SampleRun<'r> {
    pub runs: &'r [(Mode, Arc<dyn Prepared>)],
    pub inputs: Inputs<'r>,
    pub worker: &'r mut Worker,
    /// Its data-set index.
    pub index: u64,
    /// The number of analog layers.
    pub layers: usize,
    pub task: Task,
}

impl SampleRun<'_> {
    fn run(
        &mut self,
        which: usize,
        key: Option<Key>,
        tape: bool,
        observer: Option<&mut Observer<'_>>,
    ) -> Result<(), ExecError> {
        let (mode, prepared) = &self.runs[which];
        let sample = Sample { mode: *mode, key: key.unwrap_or(NO_DRAWS), index: self.index, tape, level: 1.0 };
        prepared.forward(self.inputs, self.worker, &sample, observer)
    }

    /// One of the runs.
    pub fn forward(
        &mut self,
        which: usize,
        key: Option<Key>,
        observer: Option<&mut Observer<'_>>,
    ) -> Result<(), ExecError> {
        self.run(which, key, false, observer)
    }

    /// The gradient of the loss in every layer's output; `loss` turns the logits into the loss's gradient.
    pub fn backward(
        &mut self,
        which: usize,
        key: Option<Key>,
        loss: impl FnOnce(Task, &[f32], &mut [f32]),
        observer: &mut GradientObserver<'_>,
    ) -> Result<(), ExecError> {
        self.run(which, key, true, None)?;
        let prepared = &self.runs[which].1;
        let len = prepared.output(self.inputs, self.worker, 0).len();
        let mut seed = self.worker.tools.pool.take(len);
        loss(self.task, prepared.output(self.inputs, self.worker, 0), &mut seed);
        prepared.backward(self.inputs, self.worker, seed, &mut BTreeMap::new(), Some(observer))
    }
}
