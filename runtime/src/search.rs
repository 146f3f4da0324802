//! Choices by measured loss: what some samples without labels propose, others judge.

use crate::{
    error::ExecError,
    exec::{Executor, Key, Mode, samples::Samples},
    measure::curvature::Slopes,
    program::Layer,
    task::Targets,
};

/// Judges a noisy, denoised network by how far its results are from the clean network's: what is chosen by them needs no labels.
pub struct Judge<'a> {
    samples: Samples<'a>,
    logits: Vec<f32>,
    key: Key,
    stopped: &'a dyn Fn() -> bool,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Found<C> {
    /// The choice.
    pub choice: C,
    /// The distillation loss of the judging samples without it.
    pub before: f64,
    /// And with it.
    pub after: f64,
}

/// How often choices are proposed, of what the last choice leaves.
const ROUNDS: u32 = 2;

/// The mean of samples' losses, added in their order; 0 of none.
pub(crate) fn mean(losses: impl IntoIterator<Item = f64>) -> f64 {
    let (mut total, mut count) = (0.0, 0usize);
    for loss in losses {
        total += loss;
        count += 1;
    }
    total / count.max(1) as f64
}

/// What the loss without noise counts against that under the noise that a network is compiled for: on a chip with less noise it should
/// not lose what it has gained. Of few images the loss without noise is told worse than that under it.
const QUIET: f64 = 0.5;

/// A loss under noise, and half of that without it.
fn weighed([noisy, quiet]: [f64; 2]) -> f64 {
    noisy + QUIET * quiet
}

/// The mean of samples' losses under noise, and half of the mean of those without it.
pub(crate) fn both(losses: &[[f64; 2]]) -> f64 {
    weighed([0, 1].map(|mode| mean(losses.iter().map(|loss| loss[mode]))))
}

impl<'a> Judge<'a> {
    /// Runs the samples on the clean network. Judging draws the noise of the seed's first calibration pass; `stopped` says when the
    /// caller wants no more of it.
    ///
    /// # Errors
    ///
    /// When the network cannot be run.
    pub fn new(
        executor: &Executor,
        samples: Samples<'a>,
        seed: u64,
        stopped: &'a dyn Fn() -> bool,
    ) -> Result<Self, ExecError> {
        let key = Key::calibration(seed, 0);
        let mut logits = Vec::new();
        for batch in samples.batches() {
            logits.extend(executor.logits(batch, Mode::CLEAN, key)?);
        }
        Ok(Self::taught(samples, logits, seed, stopped))
    }

    /// The same, where the clean network's logits of the samples are known.
    pub(crate) fn taught(samples: Samples<'a>, logits: Vec<f32>, seed: u64, stopped: &'a dyn Fn() -> bool) -> Self {
        Self { samples, logits, key: Key::calibration(seed, 0), stopped }
    }

    /// An error once the caller wants no more.
    ///
    /// # Errors
    ///
    /// That one.
    pub fn unless_stopped(&self) -> Result<(), ExecError> {
        if (self.stopped)() { Err(ExecError::Stopped) } else { Ok(()) }
    }

    /// The samples' mean distillation loss, KL(softmax(clean logits) ‖ softmax(logits)), with noise and denoisers.
    ///
    /// # Errors
    ///
    /// When the network cannot be run.
    pub fn loss(&self, executor: &Executor) -> Result<f64, ExecError> {
        Ok(mean(self.losses_in(executor, Mode::DENOISED)?))
    }

    /// Every sample's loss with denoisers, under noise and without: what judges denoisers, which change the network without noise, too.
    ///
    /// # Errors
    ///
    /// When the network cannot be run.
    pub(crate) fn losses(&self, executor: &Executor) -> Result<Vec<[f64; 2]>, ExecError> {
        let noisy = self.losses_in(executor, Mode::DENOISED)?;
        let quiet = self.losses_in(executor, Mode::CLEAN_DENOISED)?;
        Ok(noisy.into_iter().zip(quiet).map(|(noisy, quiet)| [noisy, quiet]).collect())
    }

    /// [`both`] of the samples' losses with denoisers; where those under noise alone reach `limit`, their mean.
    ///
    /// # Errors
    ///
    /// When the network cannot be run.
    pub(crate) fn both(&self, executor: &Executor, limit: f64) -> Result<f64, ExecError> {
        let noisy = self.loss(executor)?;
        if noisy >= limit {
            return Ok(noisy);
        }
        Ok(weighed([noisy, mean(self.losses_in(executor, Mode::CLEAN_DENOISED)?)]))
    }

    /// Every sample's loss, in any mode.
    ///
    /// # Errors
    ///
    /// When the network cannot be run.
    pub fn losses_in(&self, executor: &Executor, mode: Mode) -> Result<Vec<f64>, ExecError> {
        let task = executor.program().task();
        let row = self.logits.len() / self.samples.len().max(1);
        let (mut gradient, mut losses) = (vec![0.0; row], Vec::with_capacity(self.samples.len()));
        let mut teachers = self.logits.as_slice();
        for batch in self.samples.batches() {
            let (teacher, rest) = teachers.split_at(row * batch.samples.len());
            teachers = rest;
            let logits = executor.logits(batch, mode, self.key)?;
            for (n, logits) in logits.chunks_exact(row.max(1)).enumerate() {
                losses.push(task.loss(Targets::Logits(teacher), n, logits, 0.0, &mut gradient).0);
            }
        }
        Ok(losses)
    }

    /// Tries what `propose` makes of the layers and the curvature that the measuring samples show under the noise, round by round,
    /// and leaves the executor with the best: never one that is worse than `none`.
    ///
    /// # Errors
    ///
    /// When the network cannot be run or has no gradients, or the caller wants no more.
    pub fn search<C: Clone>(
        &self,
        executor: &mut Executor,
        measuring: &Samples<'_>,
        none: C,
        propose: impl Fn(&[Layer], &[Slopes], u32) -> Vec<C>,
        apply: impl Fn(&mut [Layer], &C),
    ) -> Result<Found<C>, ExecError> {
        executor.change_layers(|layers| apply(layers, &none));
        let before = self.loss(executor)?;
        let (mut choice, mut after) = (none, before);
        for round in 0..ROUNDS {
            let key = Key { pass: 1 + round, ..self.key };
            let curvature = executor.curvature(&mut measuring.batches(), key)?;
            let mut better = false;
            for tried in propose(executor.program().layers(), &curvature, round) {
                self.unless_stopped()?;
                executor.change_layers(|layers| apply(layers, &tried));
                let loss = self.loss(executor)?;
                if loss < after {
                    (choice, after, better) = (tried, loss, true);
                }
            }
            executor.change_layers(|layers| apply(layers, &choice));
            if !better {
                break;
            }
        }
        Ok(Found { choice, before, after })
    }
}
