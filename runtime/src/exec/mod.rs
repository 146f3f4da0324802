//! The executor: a [`Program`] turned once into plans, then run for many batches.
//!
//! **Threads and determinism.** A worker thread runs the whole network for one sample at a time, so that the
//! activations stay in its cache and a sample's result depends on nothing but the sample. Forward results are
//! therefore bit-equal for any number of threads and any batch. A gradient's sum over the batch is taken in a fixed
//! order: over the samples of a shard of 16, then over the shards. Bit-identity holds per instruction set.

mod backward;
pub(crate) mod buffers;
pub(crate) mod constants;
mod distortion;
mod forward;
pub(crate) mod kernel;
mod loss;
#[cfg(test)]
mod reference;
pub(crate) mod sample;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod worker;

use crate::{
    error::ExecError,
    onednn,
    plan::{
        Plan,
        steps::{Goal, PlanKey},
    },
    program::{Calibration, DType, LayerId, Program, ValueId},
    sync::lock,
};
use constants::Constants;
pub use distortion::Distortion;
pub use loss::Targets;
pub(crate) use loss::cross_entropy;
use mxc_dialects::{denoise::Measured, noise::NoiseSpec};
pub use sample::{Key, Mode, Purpose};
use sample::{Sample, Seen, WeightGradients};
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use worker::Worker;

/// Weight gradients are summed over shards of this many samples, each on one thread, then over the shards in order.
const SHARD: usize = 16;

/// Samples to run.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// One slice per program input: the samples' values one after another, in the input's layout, integers as
    /// [`DType::encode`] makes them.
    pub inputs: &'a [&'a [f32]],
    /// The samples' data-set indices; their number is the batch size.
    pub samples: &'a [u64],
}

/// What a training step computed over a batch.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// The sum of the samples' losses.
    pub loss: f64,
    /// How many samples' largest logit is their target's.
    pub correct: usize,
    /// ∂(mean loss)/∂w of every trainable constant.
    pub weights: BTreeMap<ValueId, Vec<f32>>,
}

/// Runs a program.
pub struct Executor {
    program: Program,
    threads: usize,
    constants: Constants,
    plans: Mutex<BTreeMap<PlanKey, Arc<Plan>>>,
    idle: Mutex<Vec<Worker>>,
}

impl Executor {
    /// Plans a program for `threads` worker threads (at least one).
    pub fn new(program: Program, threads: usize) -> Result<Self, ExecError> {
        let constants = Constants::new(program.values(), program.nodes().len())?;
        let threads = threads.max(1);
        Ok(Self { program, threads, constants, plans: Mutex::default(), idle: Mutex::default() })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The values of a constant (a trainable weight, as last set); empty for a value that is no constant.
    pub fn weight(&self, value: ValueId) -> &[f32] {
        self.constants.get(value)
    }

    /// Replaces a trainable weight's values.
    pub fn set_weight(&mut self, value: ValueId, values: &[f32]) -> Result<(), ExecError> {
        let name = self.program.values().get(value).map_or("", |value| value.name.as_str()).to_owned();
        match self.constants.trained(value) {
            None => Err(ExecError::Input(format!("`{name}` (value {value}) is not trainable"))),
            Some(old) if old.len() != values.len() => {
                Err(ExecError::Input(format!("`{name}` has {} values, not {}", old.len(), values.len())))
            }
            Some(old) => {
                old.copy_from_slice(values);
                Ok(())
            }
        }
    }

    /// Replaces a layer's noise specification.
    pub fn set_noise(&mut self, layer: LayerId, spec: NoiseSpec) -> Result<(), ExecError> {
        let Some(layer) = self.program.layers_mut().get_mut(layer) else {
            return Err(ExecError::Input(format!("there is no layer {layer}")));
        };
        layer.noise.spec = spec;
        // Plans hold the noise and the limits of their layers; what chips drew was for the old components.
        lock(&self.plans).clear();
        lock(&self.idle).iter_mut().for_each(|worker| worker.tools.chip.clear());
        Ok(())
    }

    /// The program's outputs, each with all samples one after another.
    pub fn forward(&self, batch: Batch<'_>, mode: Mode, key: Key) -> Result<Vec<Vec<f32>>, ExecError> {
        self.run(batch, mode, key, Goal::Outputs)
    }

    /// The logits only (the value the loss is taken of).
    pub fn logits(&self, batch: Batch<'_>, mode: Mode, key: Key) -> Result<Vec<f32>, ExecError> {
        Ok(self.run(batch, mode, key, Goal::Logits)?.pop().unwrap_or_default())
    }

    /// The loss against `targets` and its gradient in every trainable weight, under noise with the denoisers sampling
    /// ([`Mode::DENOISED`]). Bit-equal for any number of threads. Denoisers at the dtile level have no gradient: an error.
    pub fn gradients(&self, batch: Batch<'_>, targets: Targets<'_>, key: Key) -> Result<Gradients, ExecError> {
        self.gradients_in(Mode::DENOISED, batch, targets, key)
    }

    /// [`Self::gradients`] in any mode.
    pub fn gradients_in(
        &self,
        mode: Mode,
        batch: Batch<'_>,
        targets: Targets<'_>,
        key: Key,
    ) -> Result<Gradients, ExecError> {
        self.check_targets(batch, targets)?;
        let plan = self.plan(mode, Goal::Train)?;
        let count = batch.samples.len();
        let weight = 1.0 / count.max(1) as f64;
        let shards = self.run_shards(batch, SHARD, |worker, range| {
            let mut weights: WeightGradients =
                self.constants.trainable().map(|(id, values)| (id, vec![0.0; values.len()])).collect();
            let (mut loss, mut correct) = (0.0, 0);
            for n in range {
                let inputs = self.sample_inputs(batch, n);
                let sample = Sample { mode, key, index: batch.samples[n], tape: true };
                self.run_forward(&plan, worker, &inputs, &sample, None)?;
                let mut seed = worker.tools.pool.take(plan.values[plan.logits].len);
                let logits = self.values(&plan, worker, &inputs).get(plan.logits);
                let (sample_loss, right) = targets.loss(n, logits, weight, &mut seed);
                loss += sample_loss;
                correct += usize::from(right);
                self.run_backward(&plan, worker, &inputs, seed, &mut weights, None)?;
            }
            Ok((loss, correct, weights))
        })?;
        let mut shards = shards.into_iter();
        let Some((loss, correct, weights)) = shards.next() else {
            return Err(ExecError::Input("the batch is empty".to_owned()));
        };
        let mut total = Gradients { loss, correct, weights };
        for (loss, correct, weights) in shards {
            total.loss += loss;
            total.correct += correct;
            for (total, shard) in total.weights.values_mut().zip(weights.values()) {
                crate::kernels::elementwise::add_assign(total, shard);
            }
        }
        Ok(total)
    }

    /// Per layer, the sum over the batch's samples of ‖∂L/∂y‖₂ on the clean model without denoisers; 0
    /// for a layer that the loss does not depend on.
    pub fn sensitivity(&self, batch: Batch<'_>, labels: &[u32]) -> Result<Vec<f64>, ExecError> {
        let targets = Targets::Labels(labels);
        self.check_targets(batch, targets)?;
        let plan = self.plan(Mode::CLEAN, Goal::Sensitivity)?;
        let layers = self.program.layers().len();
        let mut total = vec![0.0; layers];
        self.sum_samples(
            batch,
            &mut total,
            |total, norm| *total += norm,
            |worker, n| {
                let inputs = self.sample_inputs(batch, n);
                let sample = Sample { mode: Mode::CLEAN, key: NO_DRAWS, index: batch.samples[n], tape: true };
                self.run_forward(&plan, worker, &inputs, &sample, None)?;
                let mut seed = worker.tools.pool.take(plan.values[plan.logits].len);
                let logits = self.values(&plan, worker, &inputs).get(plan.logits);
                targets.loss(n, logits, 1.0, &mut seed);
                let mut norms = vec![0.0; layers];
                let mut observe = |layer: LayerId, gradient: &[f32]| {
                    norms[layer] = crate::kernels::elementwise::sums(gradient)[1].sqrt();
                };
                self.run_backward(&plan, worker, &inputs, seed, &mut BTreeMap::new(), Some(&mut observe))?;
                Ok(norms)
            },
        )?;
        Ok(total)
    }

    /// Every layer's statistics over the batches on the clean model (the batches are the calibration samples).
    pub fn calibrate<'a>(&self, batches: &mut dyn Iterator<Item = Batch<'a>>) -> Result<Vec<Calibration>, ExecError> {
        let plan = self.plan(Mode::CLEAN, Goal::Layers)?;
        let layers = self.program.layers().len();
        let mut total = vec![Statistics::default(); layers];
        let mut count = 0u64;
        for batch in batches {
            self.check_batch(batch)?;
            count += batch.samples.len() as u64;
            self.sum_samples(batch, &mut total, Statistics::add, |worker, n| {
                let inputs = self.sample_inputs(batch, n);
                let sample = Sample { mode: Mode::CLEAN, key: NO_DRAWS, index: batch.samples[n], tape: false };
                let mut statistics = vec![Statistics::default(); layers];
                let mut observe = |layer: LayerId, seen: Seen<'_>| match seen {
                    Seen::Product { input, output } => statistics[layer].observe(input, output),
                    Seen::Noisy { .. } | Seen::Sigma { .. } => {}
                };
                self.run_forward(&plan, worker, &inputs, &sample, Some(&mut observe))?;
                Ok(statistics)
            })?;
        }
        Ok(total.iter().map(|statistics| statistics.calibration(count)).collect())
    }

    /// What the σ̂ path of every paper block adds over the batches on the noisy, denoised network; `None` for other layers.
    pub fn sigma_statistics<'a>(
        &self,
        batches: &mut dyn Iterator<Item = Batch<'a>>,
        key: Key,
    ) -> Result<Vec<Option<Measured>>, ExecError> {
        let plan = self.plan(Mode::DENOISED, Goal::Outputs)?;
        let layers = self.program.layers().len();
        // Elements, ΣX², Σσ̂².
        let mut total = vec![[0.0f64; 3]; layers];
        let mut count = 0u64;
        for batch in batches {
            self.check_batch(batch)?;
            count += batch.samples.len() as u64;
            let add = |total: &mut [f64; 3], sums: &[f64; 3]| {
                total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum)
            };
            self.sum_samples(batch, &mut total, add, |worker, n| {
                let inputs = self.sample_inputs(batch, n);
                let sample = Sample { mode: Mode::DENOISED, key, index: batch.samples[n], tape: false };
                let mut sums = vec![[0.0f64; 3]; layers];
                let mut observe = |layer: LayerId, seen: Seen<'_>| match seen {
                    Seen::Sigma { input, sigma } => {
                        let squares = [input, sigma].map(|values| crate::kernels::elementwise::sums(values)[1]);
                        sums[layer] = [input.len() as f64, squares[0], squares[1]];
                    }
                    Seen::Product { .. } | Seen::Noisy { .. } => {}
                };
                self.run_forward(&plan, worker, &inputs, &sample, Some(&mut observe))?;
                Ok(sums)
            })?;
        }
        let measured = |[elements, input, sigma]: [f64; 3]| Measured {
            samples: count,
            input_rms: (input / elements).sqrt(),
            sigma_rms: (sigma / elements).sqrt(),
        };
        Ok(total.into_iter().map(|sums| (sums[0] > 0.0).then(|| measured(sums))).collect())
    }

    /// The plan for a kind of run, made at its first use.
    fn plan(&self, mode: Mode, goal: Goal) -> Result<Arc<Plan>, ExecError> {
        let key = PlanKey { noise: mode.noise, denoise: mode.denoise, goal };
        if let Some(plan) = lock(&self.plans).get(&key) {
            return Ok(Arc::clone(plan));
        }
        let plan = Arc::new(Plan::new(&self.program, key)?);
        plan.prepare(&self.constants)?;
        lock(&self.plans).insert(key, Arc::clone(&plan));
        Ok(plan)
    }

    fn check_batch(&self, batch: Batch<'_>) -> Result<(), ExecError> {
        let inputs = self.program.inputs();
        if batch.inputs.len() != inputs.len() {
            return Err(ExecError::Input(format!(
                "the model has {} inputs, the batch {}",
                inputs.len(),
                batch.inputs.len()
            )));
        }
        for (values, &input) in batch.inputs.iter().zip(inputs) {
            let want = self.program.values()[input].words() * batch.samples.len();
            if values.len() != want {
                return Err(ExecError::Input(format!(
                    "input `{}` has {} values, but {} samples of shape {:?} need {want}",
                    self.program.values()[input].name,
                    values.len(),
                    batch.samples.len(),
                    self.program.values()[input].sample,
                )));
            }
        }
        Ok(())
    }

    fn check_targets(&self, batch: Batch<'_>, targets: Targets<'_>) -> Result<(), ExecError> {
        self.check_batch(batch)?;
        let logits = &self.program.values()[self.program.logits()];
        let classes = logits.words();
        if logits.dtype != DType::F32 {
            return Err(ExecError::Program(
                "the output taken for the logits holds integers; a loss needs floating-point ones: mxc compile --logits NAME \
                 chooses another"
                    .to_owned(),
            ));
        }
        let count = batch.samples.len();
        match targets {
            Targets::Labels(labels) if labels.len() != count => {
                Err(ExecError::Input(format!("{} labels for {count} samples", labels.len())))
            }
            Targets::Labels(labels) => match labels.iter().find(|&&label| label as usize >= classes) {
                Some(label) => Err(ExecError::Input(format!("label {label}, but the model has {classes} classes"))),
                None => Ok(()),
            },
            Targets::Logits(rows) if rows.len() != count * classes => {
                Err(ExecError::Input(format!("{} target logits for {count} samples of {classes} classes", rows.len())))
            }
            Targets::Logits(_) => Ok(()),
        }
    }

    /// The inputs of the batch's `n`th sample.
    fn sample_inputs<'a>(&self, batch: Batch<'a>, n: usize) -> Vec<&'a [f32]> {
        batch
            .inputs
            .iter()
            .zip(self.program.inputs())
            .map(|(values, &input)| {
                let len = self.program.values()[input].words();
                &values[n * len..(n + 1) * len]
            })
            .collect()
    }

    /// Adds what `work` finds of every layer for each of the batch's samples to `total`: in the samples' order, so that the sums
    /// do not depend on the threads.
    fn sum_samples<T: Send>(
        &self,
        batch: Batch<'_>,
        total: &mut [T],
        add: impl Fn(&mut T, &T),
        work: impl Fn(&mut Worker, usize) -> Result<Vec<T>, ExecError> + Sync,
    ) -> Result<(), ExecError> {
        let samples = self.run_shards(batch, self.shard(batch), |worker, range| {
            range.map(|n| work(worker, n)).collect::<Result<Vec<_>, ExecError>>()
        })?;
        for sample in samples.iter().flatten() {
            total.iter_mut().zip(sample).for_each(|(total, part)| add(total, part));
        }
        Ok(())
    }

    /// How many samples a thread takes at a time where their results are not summed.
    fn shard(&self, batch: Batch<'_>) -> usize {
        batch.samples.len().div_ceil(self.threads).clamp(1, SHARD)
    }

    /// Runs `work` for every shard of `size` samples on the worker threads; the results are in the shards' order. The
    /// first failing shard's error is returned.
    fn run_shards<R: Send>(
        &self,
        batch: Batch<'_>,
        size: usize,
        work: impl Fn(&mut Worker, Range<usize>) -> Result<R, ExecError> + Sync,
    ) -> Result<Vec<R>, ExecError> {
        let count = batch.samples.len();
        let shards = count.div_ceil(size);
        let results: Vec<Mutex<Option<Result<R, ExecError>>>> = (0..shards).map(|_| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        let mut workers = Vec::new();
        for _ in 0..self.threads.min(shards) {
            let idle = lock(&self.idle).pop();
            workers.push(match idle {
                Some(worker) => worker,
                None => Worker::new(&self.constants.engine)?,
            });
        }
        std::thread::scope(|scope| {
            for worker in &mut workers {
                scope.spawn(|| {
                    let _one_thread = onednn::OneThread::enter();
                    loop {
                        let shard = next.fetch_add(1, Ordering::Relaxed);
                        let Some(result) = results.get(shard) else {
                            break;
                        };
                        let done = work(worker, shard * size..((shard + 1) * size).min(count));
                        *lock(result) = Some(done);
                    }
                });
            }
        });
        lock(&self.idle).append(&mut workers);
        results
            .into_iter()
            .map(|result| {
                lock(&result).take().unwrap_or_else(|| Err(ExecError::Engine("a worker thread ended early".to_owned())))
            })
            .collect()
    }

    fn run(&self, batch: Batch<'_>, mode: Mode, key: Key, goal: Goal) -> Result<Vec<Vec<f32>>, ExecError> {
        self.check_batch(batch)?;
        let plan = self.plan(mode, goal)?;
        let shards = self.run_shards(batch, self.shard(batch), |worker, range| {
            let mut outputs: Vec<Vec<f32>> =
                plan.targets.iter().map(|&id| Vec::with_capacity(plan.values[id].len * range.len())).collect();
            for n in range {
                let inputs = self.sample_inputs(batch, n);
                let sample = Sample { mode, key, index: batch.samples[n], tape: false };
                self.run_forward(&plan, worker, &inputs, &sample, None)?;
                let values = self.values(&plan, worker, &inputs);
                for (output, &id) in outputs.iter_mut().zip(&plan.targets) {
                    output.extend_from_slice(values.get(id));
                }
            }
            Ok(outputs)
        })?;
        let mut outputs: Vec<Vec<f32>> =
            plan.targets.iter().map(|&id| Vec::with_capacity(plan.values[id].len * batch.samples.len())).collect();
        for shard in shards {
            outputs.iter_mut().zip(shard).for_each(|(output, part)| output.extend_from_slice(&part));
        }
        Ok(outputs)
    }
}

/// The key of runs that draw nothing.
const NO_DRAWS: Key = Key { seed: 0, purpose: Purpose::Calibrate, pass: 0, chip: 0 };

/// Sums of a layer's statistics.
#[derive(Clone, Copy, Debug, Default)]
struct Statistics {
    elements: u64,
    /// Σy, Σy², Σ|y|.
    sums: [f64; 3],
    absmax: f32,
    input_absmax: f32,
}

impl Statistics {
    fn observe(&mut self, x: &[f32], y: &[f32]) {
        use crate::kernels::elementwise::{absmax, sums};
        self.elements += y.len() as u64;
        self.sums.iter_mut().zip(sums(y)).for_each(|(total, sum)| *total += sum);
        self.absmax = self.absmax.max(absmax(y));
        self.input_absmax = self.input_absmax.max(absmax(x));
    }

    fn add(&mut self, other: &Self) {
        self.elements += other.elements;
        self.sums.iter_mut().zip(other.sums).for_each(|(total, sum)| *total += sum);
        self.absmax = self.absmax.max(other.absmax);
        self.input_absmax = self.input_absmax.max(other.input_absmax);
    }

    fn calibration(&self, samples: u64) -> Calibration {
        let [sum, square, abs] = self.sums.map(|sum| sum / self.elements.max(1) as f64);
        Calibration {
            samples,
            rms: square.sqrt(),
            absmax: f64::from(self.absmax),
            mean_abs: abs,
            std: (square - sum * sum).max(0.0).sqrt(),
            input_absmax: f64::from(self.input_absmax),
        }
    }
}
