//! Fine-tuning: trains the denoisers with the noise simulated while the backbone stays as it is.
//!
//! Every random choice is keyed by the seed, the epoch and the step, and the state is written to a checkpoint after
//! every epoch and when the run is stopped, so that a resumed run ends in the same bytes as an uninterrupted one. [`Ranks`] may share a
//! run: each computes its part of every step and of what is judged, and all of them add up the same and change the same weights. The
//! first reads and writes the checkpoint.

mod adam;
mod checkpoint;
mod kept;
mod shared;
mod step;

pub use adam::Adam;
pub use checkpoint::CheckpointError;

use crate::{
    data::{self, DataError, Moved, Source},
    error::ExecError,
    evaluate,
    exec::{Batch, Executor, Gradients, Key, Mode, Objective, Purpose, samples::Samples},
    onednn,
    program::{DType, Layer, Op, Program, ValueId},
    ranks::{self, Alone, Ranks, RanksError},
    search::Judge,
    task::Targets,
};
use checkpoint::{Checkpoint, Tensor};
use kept::{Jury, Kept};
use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    path::Path,
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

/// A named set of training options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// The paper's: Adam at a constant 10⁻³.
    Paper,
    /// Adam from 10⁻² along half a cosine to 0 over all steps.
    Cosine,
    /// For few images: from 10⁻² along half a cosine, in units of what weights change, towards the clean network's own outputs on mixed images, under
    /// noise of any level up to one and a half times the package's.
    Best,
}

impl Recipe {
    /// Passes over samples of which there are many.
    const EPOCHS: u32 = 5;

    /// The learning rate unless `--lr` says otherwise.
    pub fn learning_rate(self) -> f64 {
        match self {
            Self::Paper => 1e-3,
            Self::Cosine => 1e-2,
            Self::Best => 1e-2,
        }
    }

    /// What is minimized unless `--loss` says otherwise.
    pub fn loss(self) -> Loss {
        match self {
            Self::Paper | Self::Cosine => Loss::CrossEntropy,
            Self::Best => Loss::Distill,
        }
    }

    /// Samples a step unless `--batch` says otherwise.
    pub fn batch(self) -> usize {
        match self {
            Self::Paper | Self::Cosine => 128,
            Self::Best => 32,
        }
    }

    /// Passes over so many samples, in steps of `batch`, unless `--epochs` says otherwise: 5, and of few images as many more as make
    /// enough steps. After a few steps Adam has only moved away from where the closed form has put the weights; where images are
    /// blended, and each time under another noise, even a few dozen do not wear out.
    pub fn epochs(self, samples: usize, batch: usize) -> u32 {
        const STEPS: u32 = 320;
        match self {
            Self::Paper | Self::Cosine => Self::EPOCHS,
            Self::Best => {
                let steps = u32::try_from(samples.div_ceil(batch.max(1))).unwrap_or(u32::MAX).max(1);
                STEPS.div_ceil(steps).max(Self::EPOCHS)
            }
        }
    }

    /// How many of so many samples judge what is kept. They are trained on as well: denoisers are small beside what even a few dozen
    /// samples under ever new noise say, while an eighth of them kept back is missed in training and judges badly.
    pub fn judging(self, samples: usize) -> usize {
        match self {
            Self::Paper | Self::Cosine => 0,
            Self::Best => samples.min(512),
        }
    }

    /// Whether weights move in units of what they change: see [`step`].
    fn has_units(self) -> bool {
        match self {
            Self::Paper | Self::Cosine => false,
            Self::Best => true,
        }
    }

    /// How often an epoch passes every image of so many, each time moved about: see [`Moved`]. Without that, what is learned of ten images
    /// can be worse than nothing, and they cannot judge it; 64 gain nothing by it.
    pub fn copies(self, samples: usize) -> usize {
        const FEW: usize = 64;
        const ENOUGH: usize = 256;
        match self {
            Self::Best if (1..FEW).contains(&samples) => ENOUGH / samples,
            Self::Best | Self::Paper | Self::Cosine => 1,
        }
    }

    /// Whether so many samples are blended: where they are so few that they are passed more often than others. More are better as they
    /// are: a blend is no image, and what is learned of it costs some of what is learned of images.
    pub fn mixes(self, samples: usize) -> bool {
        match self {
            Self::Paper | Self::Cosine => false,
            Self::Best => self.epochs(samples, self.batch()) > Self::EPOCHS,
        }
    }

    /// Between which levels of noise samples are trained: shares of the noise as it is.
    pub fn levels(self) -> [f64; 2] {
        match self {
            Self::Paper | Self::Cosine => [1.0, 1.0],
            Self::Best => [0.0, 1.5],
        }
    }

    /// The learning rate of step `step` of `steps`.
    fn scheduled(self, learning_rate: f64, step: u64, steps: u64) -> f64 {
        match self {
            Self::Paper => learning_rate,
            Self::Cosine | Self::Best => {
                let progress = step as f64 / steps.max(1) as f64;
                learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
        }
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paper => "paper",
            Self::Cosine => "cosine",
            Self::Best => "best",
        })
    }
}

impl FromStr for Recipe {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "paper" => Ok(Self::Paper),
            "cosine" => Ok(Self::Cosine),
            "best" => Ok(Self::Best),
            _ => Err(format!("`{text}` is no recipe; use best, paper or cosine")),
        }
    }
}

/// What the denoised, noisy network is trained towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The labels: cross-entropy, as in the paper.
    CrossEntropy,
    /// The clean network's own outputs: KL(softmax(clean logits) ‖ softmax(logits)). Needs no labels.
    Distill,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CrossEntropy => "cross-entropy",
            Self::Distill => "distill",
        })
    }
}

impl FromStr for Loss {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cross-entropy" => Ok(Self::CrossEntropy),
            "distill" => Ok(Self::Distill),
            _ => Err(format!("`{text}` is no loss; use cross-entropy or distill")),
        }
    }
}

/// How to train.
#[derive(Clone, Debug, PartialEq)]
pub struct FinetuneOptions {
    /// The schedule.
    pub recipe: Recipe,
    /// What is minimized.
    pub loss: Loss,
    /// The (first) learning rate.
    pub learning_rate: f64,
    /// Passes over the samples.
    pub epochs: u32,
    /// Samples per step; the last step of an epoch takes what is left.
    pub batch: usize,
    /// Trains on the first so many samples only.
    pub limit: Option<usize>,
    /// The share of the noise that samples are trained under: each draws its own, uniformly between the two; 1 is the noise as it is.
    pub levels: [f64; 2],
    /// How often an epoch passes every image: first as it is, then moved about ([`Moved`]). What is no image is passed once.
    pub copies: usize,
    /// Whether every sample is blended with another of its step before it is trained on: the clean network's outputs are known for
    /// any input, so that few images serve as many (mixup with a consistent teacher; Beyer et al., CVPR 2022). Only by
    /// [`Loss::Distill`] and on inputs of floats.
    pub mix: bool,
    /// How much matching the clean network's features counts beside the loss: see [`Objective::features`]. Costs a run of the clean
    /// network a step.
    pub features: f64,
    /// Whether the first samples judge what is kept: the weights of the epoch, or those of the start, under which the network is
    /// closest to the clean one, with noise of its own and without ([`Recipe::judging`]).
    pub judge: bool,
    /// Keys the order of samples and the noise.
    pub seed: u64,
    /// The SHA-256 of the package that is trained; a checkpoint of another one is refused.
    pub parent_sha256: String,
    /// Goes on from the checkpoint, if there is one.
    pub resume: bool,
}

impl FinetuneOptions {
    /// A recipe's options: as for many samples, all of them, seed 0.
    pub fn new(recipe: Recipe) -> Self {
        Self {
            recipe,
            loss: recipe.loss(),
            learning_rate: recipe.learning_rate(),
            epochs: recipe.epochs(usize::MAX, recipe.batch()),
            batch: recipe.batch(),
            limit: None,
            levels: recipe.levels(),
            copies: recipe.copies(usize::MAX),
            mix: recipe.mixes(usize::MAX),
            features: 0.0,
            judge: recipe.judging(usize::MAX) > 0,
            seed: 0,
            parent_sha256: String::new(),
            resume: false,
        }
    }
}

/// A number from 0 to 1 for every sample of a step.
fn uniforms(samples: &[u64], key: Key, component: u32) -> Vec<f64> {
    samples.iter().map(|&sample| key.uniform(sample, component)).collect()
}

/// Blends every sample of a step with another: at least half of it stays.
fn mix(inputs: &mut [f32], samples: &[u64], key: Key) {
    let len = inputs.len() / samples.len().max(1);
    if len == 0 || samples.len() < 2 {
        return;
    }
    let own = inputs.to_vec();
    let shares = uniforms(samples, key, 1);
    // The step's first number also says how far away the others are.
    let distance = 1 + (shares[0] * (samples.len() - 1) as f64) as usize % (samples.len() - 1);
    for (n, (mixed, share)) in inputs.chunks_exact_mut(len).zip(shares).enumerate() {
        let other = (n + distance) % samples.len();
        let share = (0.5 * share) as f32;
        for (mixed, &other) in mixed.iter_mut().zip(&own[other * len..(other + 1) * len]) {
            *mixed += share * (other - *mixed);
        }
    }
}

impl FinetuneOptions {
    /// How many samples of `data` are trained on.
    pub fn images(&self, data: &dyn Source) -> usize {
        self.limit.unwrap_or(usize::MAX).min(data.len())
    }

    /// Whether samples are blended: see [`FinetuneOptions::mix`].
    fn mixes(&self, program: &Program) -> bool {
        let floats = program.inputs().iter().all(|&input| program.values()[input].dtype == DType::F32);
        self.mix && self.loss == Loss::Distill && floats
    }

    /// The samples' levels of noise in a step; none where all are 1.
    fn levels(&self, samples: &[u64], key: Key) -> Vec<f64> {
        let [low, high] = self.levels;
        if [low, high] == [1.0; 2] {
            return Vec::new();
        }
        uniforms(samples, key, 0).into_iter().map(|uniform| low + (high - low) * uniform).collect()
    }
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The epoch, from 0.
    pub epoch: u32,
    /// How many epochs there are.
    pub epochs: u32,
    /// Steps done, over all epochs.
    pub step: u64,
    /// How many steps there are, over all epochs.
    pub steps: u64,
    /// The mean loss of this epoch so far.
    pub loss: f64,
    /// The share of this epoch's samples so far that were classified as their label (or, without labels, as the clean
    /// network classifies them), in percent.
    pub accuracy: f64,
    /// Samples per second since the run started or was resumed.
    pub images_per_second: f64,
}

/// What a run did.
#[derive(Clone, Debug, PartialEq)]
pub struct FinetuneReport {
    /// Whether all epochs are done; otherwise the run was stopped, and the checkpoint holds its state.
    pub completed: bool,
    /// The step that the run was resumed from.
    pub resumed_from: Option<u64>,
    /// Steps done, over all epochs.
    pub steps: u64,
    /// The number of samples that were trained on, each counted once.
    pub samples: usize,
    /// The (first) learning rate: a part of the one asked for where that led away from the clean network.
    pub learning_rate: f64,
    /// Each finished epoch's mean loss.
    pub losses: Vec<f64>,
    /// Each finished epoch's training accuracy, in percent.
    pub accuracies: Vec<f64>,
    /// The judging samples' loss at the start and after each finished epoch, if there are such: the weights of the least are kept, of
    /// equals the last.
    pub judged: Vec<f64>,
}

/// Why fine-tuning fails.
#[derive(Debug, thiserror::Error)]
pub enum FinetuneError {
    /// The options or the data do not fit the program.
    #[error("{0}")]
    Options(String),
    /// The executor failed.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// A sample cannot be loaded.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The checkpoint cannot be read, written or used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Ranks cannot go on together.
    #[error(transparent)]
    Ranks(#[from] RanksError),
    /// The loss is no number any more.
    #[error("the loss became {loss} at step {step}: training diverged; use a smaller --lr")]
    Diverged {
        /// The step, from 0.
        step: u64,
        /// The loss.
        loss: f64,
    },
}

/// What is trained: the executor, or a stand-in in tests.
trait Trainee {
    fn program(&self) -> &Program;
    fn weight(&self, value: ValueId) -> &[f32];
    fn set_weight(&mut self, value: ValueId, values: &[f32]) -> Result<(), ExecError>;
    /// The clean network's logits.
    fn clean_logits(&self, batch: Batch<'_>) -> Result<Vec<f32>, ExecError>;
    /// The gradients of an objective over a part of a batch of `count` samples, by shard: see [`Executor::gradients_by_shard`].
    fn gradients(
        &self,
        batch: Batch<'_>,
        count: usize,
        targets: Targets<'_>,
        key: Key,
        objective: Objective<'_>,
    ) -> Result<Vec<Gradients>, ExecError>;
    /// How far each sample's result is from the clean network's logits: the distillation loss, with noise and without.
    fn judged(&self, batch: Batch<'_>, clean: &[f32], seed: u64) -> Result<Vec<[f64; 2]>, ExecError>;
}

impl Trainee for Executor {
    fn program(&self) -> &Program {
        self.program()
    }

    fn weight(&self, value: ValueId) -> &[f32] {
        self.weight(value)
    }

    fn set_weight(&mut self, value: ValueId, values: &[f32]) -> Result<(), ExecError> {
        self.set_weight(value, values)
    }

    fn clean_logits(&self, batch: Batch<'_>) -> Result<Vec<f32>, ExecError> {
        // A clean run draws nothing, so its key is of no account.
        self.logits(batch, Mode::CLEAN, Key { seed: 0, purpose: Purpose::Train, pass: 0, chip: 0 })
    }

    fn gradients(
        &self,
        batch: Batch<'_>,
        count: usize,
        targets: Targets<'_>,
        key: Key,
        objective: Objective<'_>,
    ) -> Result<Vec<Gradients>, ExecError> {
        self.gradients_by_shard(Mode::DENOISED, batch, count, targets, key, objective)
    }

    fn judged(&self, batch: Batch<'_>, clean: &[f32], seed: u64) -> Result<Vec<[f64; 2]>, ExecError> {
        let samples = Samples::new(batch, 0..batch.samples.len());
        Judge::taught(samples, clean.to_vec(), seed, &|| false).losses(self)
    }
}

/// Trains the executor's trainable weights on `data` (the training split); they are left in the executor.
///
/// `checkpoint` is the file that the state is written to; without one a stopped run is lost. When `stop` becomes true
/// the run ends after the current step with [`FinetuneReport::completed`] unset. The caller removes the checkpoint once
/// it has saved the result. A program without denoisers is left alone.
pub fn finetune(
    executor: &mut Executor,
    data: &dyn Source,
    options: &FinetuneOptions,
    checkpoint: Option<&Path>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress),
) -> Result<FinetuneReport, FinetuneError> {
    finetune_on(executor, data, options, checkpoint, stop, progress, &Alone)
}

/// The same, shared among ranks: every one calls this with the same program, data and options, which is checked, and is left with the
/// same weights, those of one process to the bit. Only the first rank's `checkpoint` is read and written. When `stop` becomes true on any
/// rank all end after the same step; one that waits for others meanwhile writes the checkpoint at once, for it may not live
/// long enough to see them. An error on one ends all: see [`ranks::agree`].
pub fn finetune_on(
    executor: &mut Executor,
    data: &dyn Source,
    options: &FinetuneOptions,
    checkpoint: Option<&Path>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress),
    ranks: &dyn Ranks,
) -> Result<FinetuneReport, FinetuneError> {
    train(executor, data, options, checkpoint, stop, progress, ranks)
}

/// The trainable weights: value and name, in the order of values.
fn trainable(program: &Program) -> Vec<(ValueId, String)> {
    program
        .values()
        .iter()
        .enumerate()
        .filter(|(_, value)| value.trainable)
        .map(|(id, value)| (id, value.name.clone()))
        .collect()
}

/// The options that must agree for a checkpoint to be used, by the name of the flag that sets them.
fn identity(program: &Program, data: &dyn Source, options: &FinetuneOptions) -> BTreeMap<String, String> {
    let noise: Vec<String> = program
        .layers()
        .iter()
        .map(|Layer { noise, .. }| format!("{} {} {}", noise.spec, noise.scale, noise.reference))
        .collect();
    // One line where all layers agree, as is usual.
    let mut distinct = noise.clone();
    distinct.dedup();
    let noise = if distinct.len() == 1 { distinct } else { noise };
    BTreeMap::from(
        [
            ("--recipe", options.recipe.to_string()),
            ("--loss", options.loss.to_string()),
            ("--lr", options.learning_rate.to_string()),
            ("--epochs", options.epochs.to_string()),
            ("--batch", options.batch.to_string()),
            ("--match-features", options.features.to_string()),
            ("--limit", options.limit.map_or("none".into(), |limit| limit.to_string())),
            ("--seed", options.seed.to_string()),
            ("--noise", noise.join("; ")),
            ("--data or --holdout", data.fingerprint()),
            ("the package", options.parent_sha256.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    )
}

/// What ranks must have been given alike: what checkpoints are known by, and what the bits of results depend on besides.
fn common(program: &Program, data: &dyn Source, options: &FinetuneOptions) -> BTreeMap<String, String> {
    let mut common = identity(program, data, options);
    common.extend(
        [
            ("--resume", options.resume.to_string()),
            ("instruction set", onednn::instruction_sets()),
            ("version of mxc", env!("CARGO_PKG_VERSION").to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    common
}

/// The clean network's logits of samples met before: the backbone is frozen, so that they are computed once.
#[derive(Default)]
struct Teacher {
    rows: BTreeMap<u64, Box<[f32]>>,
    batch: Vec<f32>,
}

impl Teacher {
    /// The most logits that are kept: 256 MiB. Samples beyond are computed anew every epoch.
    const KEPT: usize = 64 << 20;

    /// The rows of a batch. They do not depend on the batch's other samples.
    fn logits<T: Trainee>(&mut self, trainee: &T, batch: Batch<'_>) -> Result<&[f32], ExecError> {
        self.batch.clear();
        for sample in batch.samples {
            match self.rows.get(sample) {
                Some(row) => self.batch.extend_from_slice(row),
                None => {
                    self.batch = trainee.clean_logits(batch)?;
                    break;
                }
            }
        }
        let classes = self.batch.len() / batch.samples.len().max(1);
        for (&sample, row) in batch.samples.iter().zip(self.batch.chunks_exact(classes.max(1))) {
            if self.rows.len() * classes < Self::KEPT {
                self.rows.entry(sample).or_insert_with(|| row.into());
            }
        }
        Ok(&self.batch)
    }
}

/// Checks that there is something to train, and that the options, the data and the network go together.
fn check(program: &Program, data: &dyn Source, options: &FinetuneOptions) -> Result<(), FinetuneError> {
    if options.images(data) == 0 || options.batch == 0 {
        return Err(FinetuneError::Options(
            "there is nothing to train on: the data, --limit and --batch must not be 0".into(),
        ));
    }
    if !(options.learning_rate > 0.0 && options.learning_rate.is_finite()) {
        return Err(FinetuneError::Options(format!("--lr {} must be positive", options.learning_rate)));
    }
    if !(options.features >= 0.0 && options.features.is_finite()) {
        return Err(FinetuneError::Options(format!("--match-features {} must be 0 or more", options.features)));
    }
    if options.loss == Loss::CrossEntropy && data.labels(&[0]).is_none() {
        return Err(FinetuneError::Options(
            "cross-entropy needs labels and the data has none; --loss distill does without".into(),
        ));
    }
    if program.inputs().len() != 1 {
        return Err(FinetuneError::Options(format!(
            "the network has {} inputs; only networks with one can be trained",
            program.inputs().len()
        )));
    }
    if options.loss == Loss::CrossEntropy {
        let outputs = evaluate::classes(program).map_err(|error| FinetuneError::Options(error.to_string()))?;
        data.check_classes(outputs)?;
    }
    if program.nodes().iter().any(|node| matches!(node.op, Op::DenoiseTile { .. })) {
        return Err(FinetuneError::Options(
            "its denoisers are integers of the digital tile; train the package before it is lowered".into(),
        ));
    }
    Ok(())
}

/// After fewer steps Adam has not found its way yet.
const SETTLED: u64 = 16;
/// By what the learning rate is divided where a run begins again.
const CUT: f64 = 3.0;

/// How far a run has come: all that a checkpoint holds but the weights' values.
struct State {
    identity: BTreeMap<String, String>,
    parameters: Vec<(ValueId, String)>,
    optimizers: Vec<Adam>,
    /// By parameter, what the learning rate is multiplied by.
    steps: Vec<f64>,
    report: FinetuneReport,
    kept: Kept,
    /// The sum of the losses, and the hits, of the epoch that `report.steps` is in.
    loss: f64,
    correct: u64,
}

impl State {
    /// The start of a run over so many samples.
    fn new<T: Trainee>(trainee: &T, data: &dyn Source, options: &FinetuneOptions, samples: usize) -> Self {
        let parameters = trainable(trainee.program());
        let units = if options.recipe.has_units() { step::units(trainee) } else { BTreeMap::new() };
        Self {
            steps: parameters.iter().map(|(id, _)| units.get(id).copied().unwrap_or(1.0)).collect(),
            identity: identity(trainee.program(), data, options),
            optimizers: parameters.iter().map(|&(id, _)| Adam::new(trainee.weight(id).len())).collect(),
            parameters,
            report: FinetuneReport {
                completed: true,
                resumed_from: None,
                steps: 0,
                samples,
                learning_rate: options.learning_rate,
                losses: Vec::new(),
                accuracies: Vec::new(),
                judged: Vec::new(),
            },
            kept: Kept::default(),
            loss: 0.0,
            correct: 0,
        }
    }

    /// Goes on where a checkpoint left off.
    fn resume<T: Trainee>(
        &mut self,
        trainee: &mut T,
        (path, file): (&Path, &[u8]),
        (steps, steps_per_epoch): (u64, u64),
        judges: bool,
    ) -> Result<(), FinetuneError> {
        let saved = Checkpoint::from_bytes(path, file)?;
        saved.check_options(path, &self.identity)?;
        let fits = saved.tensors.len() == self.parameters.len()
            && saved.step <= steps
            && saved.losses.len() as u64 == saved.step / steps_per_epoch
            && saved.accuracies.len() == saved.losses.len()
            && saved.judged.len() == if judges { saved.losses.len() + 1 } else { 0 }
            && saved.tensors.iter().zip(&self.parameters).all(|(tensor, (id, name))| {
                let len = trainee.weight(*id).len();
                tensor.name == *name
                    && [&tensor.weight, &tensor.first, &tensor.second].iter().all(|values| values.len() == len)
                    && tensor.best.len() == if judges { len } else { 0 }
            });
        if !fits {
            return Err(CheckpointError::corrupt(path, "its weights are not this package's").into());
        }
        for ((tensor, &(id, _)), optimizer) in saved.tensors.iter().zip(&self.parameters).zip(&mut self.optimizers) {
            trainee.set_weight(id, &tensor.weight)?;
            *optimizer = Adam::resume(tensor.first.clone(), tensor.second.clone(), saved.step);
        }
        self.report.steps = saved.step;
        self.report.learning_rate = saved.learning_rate;
        self.report.resumed_from = Some(saved.step);
        self.report.losses = saved.losses;
        self.report.accuracies = saved.accuracies;
        if judges {
            self.kept =
                Kept { losses: saved.judged, best: saved.tensors.into_iter().map(|tensor| tensor.best).collect() };
        }
        (self.loss, self.correct) = (saved.epoch_loss, saved.epoch_correct);
        Ok(())
    }

    /// Writes a checkpoint.
    fn save<T: Trainee>(&self, trainee: &T, path: &Path) -> Result<(), CheckpointError> {
        Checkpoint {
            options: self.identity.clone(),
            step: self.report.steps,
            epoch_loss: self.loss,
            epoch_correct: self.correct,
            losses: self.report.losses.clone(),
            accuracies: self.report.accuracies.clone(),
            judged: self.kept.losses.clone(),
            learning_rate: self.report.learning_rate,
            tensors: self
                .parameters
                .iter()
                .zip(&self.optimizers)
                .enumerate()
                .map(|(at, ((id, name), optimizer))| Tensor {
                    name: name.clone(),
                    weight: trainee.weight(*id).to_vec(),
                    first: optimizer.first().to_vec(),
                    second: optimizer.second().to_vec(),
                    best: self.kept.best.get(at).cloned().unwrap_or_default(),
                })
                .collect(),
        }
        .write(path)
    }

    /// Begins again from the start, at a part of the learning rate.
    fn restart<T: Trainee>(&mut self, trainee: &mut T) -> Result<(), ExecError> {
        self.kept.restore(trainee, &self.parameters)?;
        self.kept.losses.truncate(1);
        self.optimizers = self.parameters.iter().map(|&(id, _)| Adam::new(trainee.weight(id).len())).collect();
        self.report.learning_rate /= CUT;
        self.report.steps = 0;
        self.report.losses.clear();
        self.report.accuracies.clear();
        Ok(())
    }

    /// One step of every optimizer.
    fn update<T: Trainee>(&mut self, trainee: &mut T, gradients: &Gradients, rate: f64) -> Result<(), ExecError> {
        let mut weights = Vec::new();
        for ((&(id, ref name), optimizer), step) in self.parameters.iter().zip(&mut self.optimizers).zip(&self.steps) {
            let gradient = gradients
                .weights
                .get(&id)
                .ok_or_else(|| ExecError::Program(format!("the executor gave no gradient for `{name}`")))?;
            weights.clear();
            weights.extend_from_slice(trainee.weight(id));
            optimizer.step(&mut weights, gradient, rate * step);
            trainee.set_weight(id, &weights)?;
        }
        self.loss += gradients.loss;
        self.correct += gradients.correct as u64;
        self.report.steps += 1;
        Ok(())
    }
}

/// A rank's part of steps.
struct Part<'a> {
    data: &'a dyn Source,
    options: &'a FinetuneOptions,
    /// Whether samples are blended, for which all of a step's are needed.
    mixes: bool,
    teacher: Teacher,
    inputs: Vec<f32>,
}

impl Part<'_> {
    /// Which of a step's samples are loaded.
    fn loaded<'i>(&self, indices: &'i [usize], own: &Range<usize>) -> &'i [usize] {
        if self.mixes && !own.is_empty() { indices } else { &indices[own.clone()] }
    }

    /// The gradients of the samples `own` of a step, by shard.
    fn gradients<T: Trainee>(
        &mut self,
        trainee: &T,
        indices: &[usize],
        own: Range<usize>,
        key: Key,
    ) -> Result<Vec<Gradients>, FinetuneError> {
        if own.is_empty() {
            return Ok(Vec::new());
        }
        let loaded = self.loaded(indices, &own);
        self.data.load(loaded, &mut self.inputs)?;
        let mut ids: Vec<u64> = loaded.iter().map(|&index| self.data.id(index)).collect();
        let mut inputs = self.inputs.as_mut_slice();
        if self.mixes {
            mix(inputs, &ids, key);
            let len = inputs.len() / ids.len();
            inputs = &mut inputs[own.start * len..own.end * len];
            ids = ids[own.clone()].to_vec();
        }
        let batch = Batch { inputs: &[inputs], samples: &ids };
        let mixed;
        let labels;
        let targets = match self.options.loss {
            Loss::CrossEntropy => {
                labels = self.data.labels(&indices[own]).unwrap_or_default();
                Targets::Labels(&labels)
            }
            Loss::Distill if self.mixes => {
                mixed = trainee.clean_logits(batch)?;
                Targets::Logits(&mixed)
            }
            Loss::Distill => Targets::Logits(self.teacher.logits(trainee, batch)?),
        };
        let levels = self.options.levels(&ids, key);
        let objective = Objective { levels: &levels, features: self.options.features };
        Ok(trainee.gradients(batch, indices.len(), targets, key, objective)?)
    }
}

fn train<T: Trainee>(
    trainee: &mut T,
    data: &dyn Source,
    options: &FinetuneOptions,
    checkpoint: Option<&Path>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress),
    ranks: &dyn Ranks,
) -> Result<FinetuneReport, FinetuneError> {
    let checked = check(trainee.program(), data, options);
    ranks::agree(ranks, checked, |()| common(trainee.program(), data, options))?;
    let images = options.images(data);
    let data: &dyn Source = &Moved::times(data, images, options.copies.max(1));
    let samples = data.len();
    let judging = if options.judge { options.recipe.judging(samples) } else { 0 };
    let steps_per_epoch = samples.div_ceil(options.batch) as u64;
    let steps = steps_per_epoch * u64::from(options.epochs);
    let mut state = State::new(trainee, data, options, images);
    if state.parameters.is_empty() {
        return Ok(state.report);
    }
    let lens: Vec<usize> = state.parameters.iter().map(|&(id, _)| trainee.weight(id).len()).collect();
    let checkpoint = checkpoint.filter(|_| ranks.rank() == 0);
    if options.resume {
        let file = checkpoint.filter(|path| path.exists()).map(checkpoint::read).transpose();
        // One that is there has a byte in front of it.
        let sent = file.map(|file| file.map_or_else(Vec::new, |file| [&[1], file.as_slice()].concat()));
        let sent = ranks::gather_all(ranks, sent.map_err(FinetuneError::from))?;
        if let Some((_, file)) = sent.first().and_then(|file| file.split_first()) {
            let path = checkpoint.unwrap_or(Path::new("the checkpoint"));
            state.resume(trainee, (path, file), (steps, steps_per_epoch), judging > 0)?;
        }
    }
    let jury = Jury::load(trainee, data, judging, options.seed, ranks);
    let jury = ranks::agree(ranks, jury, |_| BTreeMap::new())?;
    if let Some(jury) = jury.as_ref().filter(|_| state.kept.losses.is_empty()) {
        state.kept.judge(trainee, &state.parameters, jury, ranks)?;
    }
    let write = |state: &State, trainee: &T| checkpoint.map_or(Ok(()), |path| state.save(trainee, path));
    let save = |state: &State, trainee: &T| {
        let written = write(state, trainee).map_err(FinetuneError::from);
        ranks::agree(ranks, written, |()| BTreeMap::new())
    };

    let start = Instant::now();
    let mut trained = 0;
    let mut spent = shared::Spent::default();
    let mixes = options.mixes(trainee.program());
    let mut part = Part { data, options, mixes, teacher: Teacher::default(), inputs: Vec::new() };
    let own = |indices: &[usize]| shared::places(ranks, ranks.rank(), indices.len());
    while state.report.steps < steps {
        let epoch = state.report.steps / steps_per_epoch;
        let order = data::permutation(samples, options.seed, "train", epoch);
        let done = (state.report.steps % steps_per_epoch) as usize;
        let coming = order.chunks(options.batch).skip(done).map(|indices| part.loaded(indices, &own(indices)).to_vec());
        data.announce(coming.filter(|indices| !indices.is_empty()).collect());
        for indices in order.chunks(options.batch).skip(done) {
            let step = state.report.steps;
            // A new chip every step.
            let key = Key { seed: options.seed, purpose: Purpose::Train, pass: epoch as u32, chip: step as u32 };
            let begun = Instant::now();
            let own = if stop.load(Ordering::Relaxed) {
                Ok(None)
            } else {
                let shards = part.gradients(trainee, indices, own(indices), key);
                shards.and_then(|shards| Ok(Some(shared::encode(&shards, &state.parameters)?)))
            };
            let computed = Instant::now();
            let mut written = false;
            let mut waiting = || {
                if !written && stop.load(Ordering::Relaxed) {
                    written = true;
                    // Where this fails it fails again, and is told of, if the others come.
                    let _ = write(&state, trainee);
                }
            };
            let Some(said) = ranks::gather(ranks, own, &mut waiting)? else {
                state.report.completed = false;
                save(&state, trainee)?;
                return Ok(state.report);
            };
            let gathered = Instant::now();
            let shards = shared::decode(&said, indices.len(), &state.parameters, &lens, ranks)?;
            let gradients =
                Gradients::sum(shards).ok_or_else(|| FinetuneError::Options("a step has no samples".to_owned()))?;
            spent.count([begun, computed, gathered, Instant::now()], &said);
            if !gradients.loss.is_finite() {
                return Err(FinetuneError::Diverged { step, loss: gradients.loss });
            }
            state.update(trainee, &gradients, options.recipe.scheduled(state.report.learning_rate, step, steps))?;
            trained += indices.len();
            let seen = ((step % steps_per_epoch) as usize + 1) * options.batch;
            let seen = seen.min(samples) as f64;
            progress(Progress {
                epoch: epoch as u32,
                epochs: options.epochs,
                step: state.report.steps,
                steps,
                loss: state.loss / seen,
                accuracy: 100.0 * state.correct as f64 / seen,
                images_per_second: trained as f64 / start.elapsed().as_secs_f64().max(1e-9),
            });
        }
        state.report.losses.push(state.loss / samples as f64);
        state.report.accuracies.push(100.0 * state.correct as f64 / samples as f64);
        (state.loss, state.correct) = (0.0, 0);
        if let Some(jury) = &jury {
            state.kept.judge(trainee, &state.parameters, jury, ranks)?;
            if epoch == 0 && state.kept.is_astray() && state.report.steps >= SETTLED {
                state.restart(trainee)?;
            }
        }
        save(&state, trainee)?;
    }
    spent.tell(ranks);
    state.kept.restore(trainee, &state.parameters)?;
    state.report.judged = state.kept.losses;
    Ok(state.report)
}

#[cfg(test)]
mod tests;
