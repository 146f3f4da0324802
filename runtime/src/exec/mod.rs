//! The executor: a [`Program`] turned once into plans, then run for many batches.
//!
//! **Threads and determinism.** A worker thread runs the whole network for one sample at a time, so that the
//! activations stay in its cache and a sample's result depends on nothing but the sample. Forward results are
//! therefore bit-equal for any number of threads and any batch. A gradient's sum over the batch is taken in a fixed
//! order: over the samples of a shard of 16, then over the shards. Bit-identity holds per instruction set.

pub(crate) mod backend;
pub(crate) mod buffers;
pub(crate) mod constants;
mod features;
pub(crate) mod kernel;
pub mod layerwise;
mod native;
mod reference;
pub(crate) mod run;
pub(crate) mod sample;
pub mod samples;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod worker;

use crate::{
    error::ExecError,
    kernels::elementwise,
    measure::{
        Measured, Probe,
        calibration::{Calibrate, Statistics},
        channels::{ChannelSums, Channels},
        curvature::{Curvature, Slopes},
        distortion::{Distort, Distortion},
        inputs::{InputMagnitudes, Magnitudes},
        sensitivity::{GradientNorm, Sensitivity},
        sigma::{Sigma, SigmaSums},
    },
    onednn,
    plan::steps::{Goal, PlanKey},
    program::{Calibration, DType, Layer, LayerId, Program, ValueId},
    store::{Weight, WeightStore},
    sync::lock,
    task::Targets,
};
use backend::{Inputs, Prepared};
use constants::Constants;
use features::Features;
use mxc_spec::{denoise, noise::NoiseSpec};
use native::Native;
use reference::Reference;
use run::SampleRun;
pub use sample::{Key, Mode, Purpose};
use sample::{Sample, Seen, WeightGradients};
use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    str::FromStr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use worker::Worker;

/// Weight gradients are summed over shards of this many samples, each on one thread, then over the shards in order.
pub const SHARD: usize = 16;

/// What runs programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// Kernels of oneDNN and our own, in f32: `onednn`.
    #[default]
    OneDnn,
    /// Plain f64 arithmetic, operator by operator, slowly, without gradients: `reference`.
    Reference,
}

impl Backend {
    /// Every backend with its name.
    pub const NAMES: [(Self, &'static str); 2] = [(Self::OneDnn, "onednn"), (Self::Reference, "reference")];

    fn implementation(self) -> &'static dyn backend::Backend {
        match self {
            Self::OneDnn => &Native,
            Self::Reference => &Reference,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Self::NAMES.iter().filter(|(backend, _)| backend == self).try_for_each(|(_, name)| f.write_str(name))
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(_, name)| *name == text).map(|(backend, _)| *backend);
        let known = Self::NAMES.map(|(_, name)| name).join(", ");
        found.ok_or_else(|| format!("`{text}` is no backend; there are {known}"))
    }
}

/// Samples to run.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// One slice per program input: the samples' values one after another, in the input's layout, integers as
    /// [`DType::encode`] makes them.
    pub inputs: &'a [&'a [f32]],
    /// The samples' data-set indices; their number is the batch size.
    pub samples: &'a [u64],
}

/// What a training step differentiates, besides the loss of the targets under the noise as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Objective<'a> {
    /// What every sample's noise is multiplied by; a negative level mirrors it. Without any all are 1.
    pub levels: &'a [f64],
    /// How much it counts, on the mean over the analog layers, that what a layer is given is not what the clean network gives it: the
    /// share of the clean input's energy that no multiple of the layer's input gives, 0 to 1.
    pub features: f64,
}

/// What a training step computed over a batch.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// The sum of the samples' losses, with what features count.
    pub loss: f64,
    /// How many samples' largest logit is their target's.
    pub correct: usize,
    /// ∂(mean loss)/∂w of every trainable constant.
    pub weights: BTreeMap<ValueId, Vec<f32>>,
}

impl Gradients {
    /// The sum of a batch's shards, in the order that they are in. `None` of none.
    pub fn sum(shards: impl IntoIterator<Item = Self>) -> Option<Self> {
        shards.into_iter().reduce(|mut total, shard| {
            total.loss += shard.loss;
            total.correct += shard.correct;
            for (total, shard) in total.weights.values_mut().zip(shard.weights.values()) {
                elementwise::add_assign(total, shard);
            }
            total
        })
    }
}

/// Runs a program.
pub struct Executor {
    program: Arc<Program>,
    backend: Backend,
    threads: usize,
    constants: Constants,
    prepared: Mutex<BTreeMap<PlanKey, Arc<dyn Prepared>>>,
    idle: Mutex<Vec<Worker>>,
}

impl Executor {
    /// Plans a program for `threads` worker threads (at least one), on the default backend.
    pub fn new(program: Program, threads: usize) -> Result<Self, ExecError> {
        Self::on(Backend::default(), program, threads)
    }

    /// Plans a program for `threads` worker threads (at least one) of a backend.
    pub fn on(backend: Backend, program: Program, threads: usize) -> Result<Self, ExecError> {
        let constants = Constants::new(program.values(), program.nodes().len())?;
        Ok(Self {
            program: Arc::new(program),
            backend,
            threads: threads.max(1),
            constants,
            prepared: Mutex::default(),
            idle: Mutex::default(),
        })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The worker threads.
    pub fn threads(&self) -> usize {
        self.threads
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
        if layer >= self.program.layers().len() {
            return Err(ExecError::Input(format!("there is no layer {layer}")));
        }
        self.change_layers(|layers| layers[layer].noise.spec = spec);
        Ok(())
    }

    /// The trainable weights as last set, by name.
    pub fn trained(&self) -> Result<WeightStore, ExecError> {
        let mut store = WeightStore::new();
        for (id, value) in self.program.values().iter().enumerate().filter(|(_, value)| value.trainable) {
            let shape = value.shape.iter().map(|size| size.unwrap_or(1)).collect();
            let weight = Weight::new(shape, self.weight(id))
                .ok_or_else(|| ExecError::Program(format!("`{}`: its values do not fit its shape", value.name)))?;
            store.insert(value.name.clone(), weight);
        }
        Ok(store)
    }

    /// Changes the layers: their noise, calibration and column shifts.
    pub fn change_layers(&mut self, change: impl FnOnce(&mut [Layer])) {
        // Plans hold what they need of their layers; what chips drew was for the old components.
        lock(&self.prepared).clear();
        change(Arc::make_mut(&mut self.program).layers_mut());
        lock(&self.idle).iter_mut().for_each(|worker| worker.tools.chip.clear());
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
        self.gradients_of(mode, batch, targets, key, Objective::default())
    }

    /// [`Self::gradients`] in any mode, of an objective that may be more than the loss.
    pub fn gradients_of(
        &self,
        mode: Mode,
        batch: Batch<'_>,
        targets: Targets<'_>,
        key: Key,
        objective: Objective<'_>,
    ) -> Result<Gradients, ExecError> {
        let shards = self.gradients_by_shard(mode, batch, batch.samples.len(), targets, key, objective)?;
        Gradients::sum(shards).ok_or_else(|| ExecError::Input("the batch is empty".to_owned()))
    }

    /// The same of a part of a batch of `count` samples, by shard of [`SHARD`] samples. All parts' shards, where every part but the last
    /// is of whole ones, are those of the batch, and their [sum](Gradients::sum) in its order is its gradients to the bit.
    pub fn gradients_by_shard(
        &self,
        mode: Mode,
        batch: Batch<'_>,
        count: usize,
        targets: Targets<'_>,
        key: Key,
        Objective { levels, features }: Objective<'_>,
    ) -> Result<Vec<Gradients>, ExecError> {
        self.check_targets(batch, targets)?;
        let prepared = self.prepared(mode, Goal::Train)?;
        let clean = (features > 0.0).then(|| self.prepared(Mode::CLEAN, Goal::Logits)).transpose()?;
        let layers = self.program.layers().len();
        let weight = 1.0 / count.max(1) as f64;
        self.run_shards(batch, SHARD, |worker, range| {
            let mut weights: WeightGradients =
                self.constants.trainable().map(|(id, values)| (id, vec![0.0; values.len()])).collect();
            let (mut loss, mut correct) = (0.0, 0);
            for n in range {
                let inputs = self.sample_inputs(batch, n);
                let run = Inputs { constants: &self.constants, inputs: &inputs };
                let sample = Sample {
                    mode,
                    key,
                    index: batch.samples[n],
                    tape: true,
                    level: levels.get(n).copied().unwrap_or(1.0),
                };
                if let Some(clean) = &clean {
                    let weight = features / layers.max(1) as f64;
                    let slope = weight / count.max(1) as f64;
                    let mut features = Features { clean: vec![Vec::new(); layers], weight, slope, loss: 0.0 };
                    let sample = Sample { mode: Mode::CLEAN, tape: false, ..sample };
                    let observer = &mut |layer: LayerId, seen: Seen<'_>| {
                        if let Seen::Product { input, .. } = seen {
                            features.clean[layer].extend_from_slice(input);
                        }
                    };
                    clean.forward(run, worker, &sample, Some(observer))?;
                    worker.tools.features = Some(features);
                }
                prepared.forward(run, worker, &sample, None)?;
                loss += worker.tools.features.take().map_or(0.0, |features| features.loss);
                let mut seed = worker.tools.pool.take(self.logits_len());
                let logits = prepared.output(run, worker, 0);
                let (sample_loss, right) = self.program.task().loss(targets, n, logits, weight, &mut seed);
                loss += sample_loss;
                correct += usize::from(right);
                prepared.backward(run, worker, seed, &mut weights, None)?;
            }
            Ok(Gradients { loss, correct, weights })
        })
    }

    /// Measures the batches' samples, the first of which is at the place `first` of the measurement.
    fn measure<'a, P: Probe>(
        &self,
        probe: &P,
        first: u64,
        batches: &mut dyn Iterator<Item = Batch<'a>>,
    ) -> Result<Measured<P::Part>, ExecError> {
        let runs = probe.runs().into_iter().map(|(mode, goal)| Ok((mode, self.prepared(mode, goal)?)));
        let runs: Vec<(Mode, Arc<dyn Prepared>)> = runs.collect::<Result<_, ExecError>>()?;
        let layers = self.program.layers().len();
        let mut measured = Measured::new(layers);
        let mut place = first;
        for batch in batches {
            self.check_batch(batch)?;
            let parts = self.run_shards(batch, self.shard(batch), |worker, range| {
                let sample = |n: usize| {
                    let inputs = self.sample_inputs(batch, n);
                    let mut run = SampleRun {
                        runs: &runs,
                        inputs: Inputs { constants: &self.constants, inputs: &inputs },
                        worker: &mut *worker,
                        index: batch.samples[n],
                        layers,
                        task: self.program.task(),
                    };
                    probe.sample(&mut run, place + n as u64)
                };
                range.map(sample).collect::<Result<Vec<_>, ExecError>>()
            })?;
            for part in parts.into_iter().flatten() {
                measured.insert(place, part)?;
                place += 1;
            }
        }
        Ok(measured)
    }

    /// Per layer, Σ ‖∂L/∂y‖₂ over samples on the clean model without denoisers; 0 for a layer that the loss does not depend on.
    /// `labels` are those of all samples.
    pub fn sensitivity<'a>(
        &self,
        batches: &mut dyn Iterator<Item = Batch<'a>>,
        labels: &[u32],
    ) -> Result<Vec<f64>, ExecError> {
        let (norms, samples) = self.sensitivity_from(0, batches, labels)?.finish()?;
        if samples != labels.len() as u64 {
            return Err(ExecError::Input(format!("{} labels for {samples} samples", labels.len())));
        }
        Ok(norms.into_iter().map(|GradientNorm(norm)| norm).collect())
    }

    /// A part of [`Executor::sensitivity`], of the samples from the place `first` on, with their labels.
    pub fn sensitivity_from<'a>(
        &self,
        first: u64,
        batches: &mut dyn Iterator<Item = Batch<'a>>,
        labels: &[u32],
    ) -> Result<Measured<GradientNorm>, ExecError> {
        self.check_labels(labels)?;
        self.measure(&Sensitivity { first, labels }, first, batches)
    }

    /// Every layer's statistics over the batches on the clean model (the batches are the calibration samples).
    pub fn calibrate<'a>(&self, batches: &mut dyn Iterator<Item = Batch<'a>>) -> Result<Vec<Calibration>, ExecError> {
        let (statistics, samples) = self.calibrate_from(0, batches)?.finish()?;
        Ok(statistics.iter().map(|statistics| statistics.calibration(samples)).collect())
    }

    /// A part of [`Executor::calibrate`], of the samples from the place `first` on.
    pub fn calibrate_from<'a>(
        &self,
        first: u64,
        batches: &mut dyn Iterator<Item = Batch<'a>>,
    ) -> Result<Measured<Statistics>, ExecError> {
        self.measure(&Calibrate, first, batches)
    }

    /// Every layer's statistics by output channel over the batches, before noise, on the clean model.
    pub fn channels<'a>(&self, batches: &mut dyn Iterator<Item = Batch<'a>>) -> Result<Vec<ChannelSums>, ExecError> {
        Ok(self.measure(&Channels { layers: self.program.layers() }, 0, batches)?.finish()?.0)
    }

    /// How every layer's input fills its calibrated full scale over the batches, on the clean network.
    pub fn input_magnitudes<'a>(
        &self,
        batches: &mut dyn Iterator<Item = Batch<'a>>,
    ) -> Result<Vec<Magnitudes>, ExecError> {
        Ok(self.measure(&InputMagnitudes { layers: self.program.layers() }, 0, batches)?.finish()?.0)
    }

    /// How much every output channel's noise curves the loss, over the batches on the noisy, denoised network.
    pub fn curvature<'a>(
        &self,
        batches: &mut dyn Iterator<Item = Batch<'a>>,
        key: Key,
    ) -> Result<Vec<Slopes>, ExecError> {
        self.check_logits()?;
        Ok(self.measure(&Curvature { layers: self.program.layers(), key }, 0, batches)?.finish()?.0)
    }

    /// What the σ̂ path of every block that draws adds over the batches on the noisy, denoised network; `None` for other layers.
    pub fn sigma_statistics<'a>(
        &self,
        batches: &mut dyn Iterator<Item = Batch<'a>>,
        key: Key,
    ) -> Result<Vec<Option<denoise::Measured>>, ExecError> {
        let (sums, samples) = self.sigma_statistics_from(0, batches, key)?.finish()?;
        Ok(sums.iter().map(|sums| sums.measured(samples)).collect())
    }

    /// A part of [`Executor::sigma_statistics`], of the samples from the place `first` on.
    pub fn sigma_statistics_from<'a>(
        &self,
        first: u64,
        batches: &mut dyn Iterator<Item = Batch<'a>>,
        key: Key,
    ) -> Result<Measured<SigmaSums>, ExecError> {
        self.measure(&Sigma { key }, first, batches)
    }

    /// Every layer's distortion over the batches; 0 for a layer that the logits do not depend on.
    pub fn distortion<'a>(
        &self,
        batches: &mut dyn Iterator<Item = Batch<'a>>,
        key: Key,
    ) -> Result<Vec<Distortion>, ExecError> {
        Ok(self.distortion_from(0, batches, key)?.finish()?.0)
    }

    /// A part of [`Executor::distortion`], of the samples from the place `first` on.
    pub fn distortion_from<'a>(
        &self,
        first: u64,
        batches: &mut dyn Iterator<Item = Batch<'a>>,
        key: Key,
    ) -> Result<Measured<Distortion>, ExecError> {
        self.measure(&Distort { key }, first, batches)
    }

    /// What the backend has made ready for a kind of run, made at its first use.
    fn prepared(&self, mode: Mode, goal: Goal) -> Result<Arc<dyn Prepared>, ExecError> {
        let key = PlanKey { noise: mode.noise, denoise: mode.denoise, goal };
        if let Some(prepared) = lock(&self.prepared).get(&key) {
            return Ok(Arc::clone(prepared));
        }
        let prepared = self.backend.implementation().prepare(&self.program, key, &self.constants)?;
        lock(&self.prepared).insert(key, Arc::clone(&prepared));
        Ok(prepared)
    }

    /// The number of logits of a sample.
    fn logits_len(&self) -> usize {
        self.program.values()[self.program.logits()].words()
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
        let (count, classes) = (batch.samples.len(), self.logits_len());
        match targets {
            Targets::Labels(labels) if labels.len() != count => {
                Err(ExecError::Input(format!("{} labels for {count} samples", labels.len())))
            }
            Targets::Labels(labels) => self.check_labels(labels),
            Targets::Logits(rows) if rows.len() != count * classes => {
                Err(ExecError::Input(format!("{} target logits for {count} samples of {classes} classes", rows.len())))
            }
            Targets::Logits(_) => self.check_logits(),
        }
    }

    /// Checks that the loss can be taken of the logits.
    fn check_logits(&self) -> Result<(), ExecError> {
        if self.program.values()[self.program.logits()].dtype == DType::F32 {
            return Ok(());
        }
        Err(ExecError::Program(
            "the output taken for the logits holds integers; a loss needs floating-point ones: mxc compile --logits NAME \
             chooses another"
                .to_owned(),
        ))
    }

    /// Checks that labels are classes.
    fn check_labels(&self, labels: &[u32]) -> Result<(), ExecError> {
        self.check_logits()?;
        let classes = self.logits_len();
        match labels.iter().find(|&&label| label as usize >= classes) {
            Some(label) => Err(ExecError::Input(format!("label {label}, but the model has {classes} classes"))),
            None => Ok(()),
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
        let prepared = self.prepared(mode, goal)?;
        let ids = if goal == Goal::Outputs { self.program.outputs() } else { &[self.program.logits()] };
        let words: Vec<usize> = ids.iter().map(|&id| self.program.values()[id].words()).collect();
        let shards = self.run_shards(batch, self.shard(batch), |worker, range| {
            let mut outputs: Vec<Vec<f32>> =
                words.iter().map(|words| Vec::with_capacity(words * range.len())).collect();
            for n in range {
                let inputs = self.sample_inputs(batch, n);
                let run = Inputs { constants: &self.constants, inputs: &inputs };
                let sample = Sample { mode, key, index: batch.samples[n], tape: false, level: 1.0 };
                prepared.forward(run, worker, &sample, None)?;
                for (index, output) in outputs.iter_mut().enumerate() {
                    output.extend_from_slice(prepared.output(run, worker, index));
                }
            }
            Ok(outputs)
        })?;
        let mut outputs: Vec<Vec<f32>> =
            words.iter().map(|words| Vec::with_capacity(words * batch.samples.len())).collect();
        for shard in shards {
            outputs.iter_mut().zip(shard).for_each(|(output, part)| output.extend_from_slice(&part));
        }
        Ok(outputs)
    }
}
