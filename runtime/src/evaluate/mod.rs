//! Evaluation: clean, noisy and denoised accuracy with confidence intervals, and the statistics of the clean model
//! (calibration, sensitivity).

mod shards;

pub use shards::{Part, PartError, Shard, evaluate_shard, merge};

use crate::{
    data::{self, DataError, Source},
    error::ExecError,
    exec::{Batch, Executor, Key, Mode, Purpose},
    package::Placement,
    program::{Calibration, Layer, Program},
    task::Scores,
};
use mxc_spec::{
    denoise::Measured,
    noise::{LayerNoise, NoiseSpec, Site},
};
use serde::{Deserialize, Serialize};
use statrs::distribution::{Beta, ContinuousCDF, StudentsT};
use std::{ops::Range, time::Instant};

/// Why an evaluation fails.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The options or the data do not fit the program.
    #[error("{0}")]
    Options(String),
    /// A sample cannot be loaded.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The executor failed.
    #[error(transparent)]
    Exec(#[from] ExecError),
}

/// How to evaluate.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalOptions {
    /// Noise draws; their spread gives the interval (`--seeds`).
    pub runs: u32,
    /// Keys the noise.
    pub seed: u64,
    /// Evaluates the first so many samples only.
    pub limit: Option<usize>,
    /// Samples per executor call; does not change the result.
    pub batch: usize,
    /// Backbone and denoisers as their package counts them, whatever is left of them in a lowered program; without it the program's
    /// own denoisers are counted, on a backbone of unknown size.
    pub parameters: Option<Parameters>,
    /// Also evaluates a population of chips, for the yield.
    pub chips: Option<ChipOptions>,
}

/// A population of simulated chips (`--chips N --floor A`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChipOptions {
    /// The number of chips.
    pub count: u32,
    /// The accuracy in percent that a good chip reaches.
    pub floor: f64,
}

impl Default for EvalOptions {
    fn default() -> Self {
        Self { runs: 5, seed: 0, limit: None, batch: 100, parameters: None, chips: None }
    }
}

/// The noise that a report is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoiseLabel {
    /// The specification's text form; several, where layers differ, joined by `; `.
    pub spec: String,
    /// `range`, `constant` or `signal`.
    pub scale: String,
    /// `rms`, `absmax`, `mean-abs` or `std`.
    pub reference: String,
}

impl NoiseLabel {
    /// The noise of a program's layers.
    pub fn of(program: &Program) -> Self {
        let join = |field: fn(&LayerNoise) -> String| {
            let mut values: Vec<String> = Vec::new();
            for value in program.layers().iter().map(|layer| field(&layer.noise)) {
                if !values.contains(&value) {
                    values.push(value);
                }
            }
            values.join("; ")
        };
        Self {
            spec: join(|noise| noise.spec.to_string()),
            scale: join(|noise| noise.scale.to_string()),
            reference: join(|noise| noise.reference.to_string()),
        }
    }
}

/// Accuracy of one deterministic run, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Accuracy {
    /// The label has the largest logit.
    pub top1: f64,
    /// The label is among the five largest logits.
    pub top5: f64,
}

/// Accuracy over several noise draws, in percent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Accuracies {
    /// The mean over the draws.
    pub top1: f64,
    /// Half the width of the 95 % interval of the mean (Student t); absent with one draw.
    pub ci95: Option<f64>,
    /// Each draw's accuracy.
    pub runs: Vec<f64>,
    /// The mean over the draws of top-5.
    pub top5: f64,
}

/// The sizes of backbone and denoisers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Parameters {
    /// Weights and biases after folding.
    pub backbone: u64,
    /// The denoisers' parameters.
    pub denoisers: u64,
    /// Their ratio, in percent.
    pub overhead_percent: f64,
}

impl From<&Placement> for Parameters {
    fn from(placement: &Placement) -> Self {
        Self::new(placement.backbone_parameters, placement.denoiser_parameters)
    }
}

impl Parameters {
    /// The sizes and their ratio.
    pub fn new(backbone: u64, denoisers: u64) -> Self {
        Self {
            backbone,
            denoisers,
            overhead_percent: if backbone == 0 { 0.0 } else { 100.0 * denoisers as f64 / backbone as f64 },
        }
    }
}

/// The share of chips at or above a floor.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Yield {
    /// In percent.
    pub percent: f64,
    /// The 95 % interval of the share (Clopper-Pearson), in percent.
    pub ci95: [f64; 2],
    /// Each chip's accuracy, in percent.
    pub top1: Vec<f64>,
}

/// Accuracy over a population of chips, one pass over the data each.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChipReport {
    /// The accuracy in percent that a good chip reaches.
    pub floor: f64,
    /// Without denoisers.
    pub noisy: Yield,
    /// With denoisers.
    pub denoised: Yield,
}

/// What `mxc eval --json` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EvalReport {
    /// The number of samples.
    pub samples: usize,
    /// Images that could not be decoded and are not among the samples; absent unless such are left out (`--skip-bad`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<usize>,
    /// The noise.
    pub noise: NoiseLabel,
    /// No noise, no denoisers.
    pub clean: Accuracy,
    /// Noise, no denoisers.
    pub noisy: Accuracies,
    /// Noise and denoisers, on the same noise draws.
    pub denoised: Accuracies,
    /// Denoisers (with ε = 0), no noise.
    pub clean_denoised: Accuracy,
    /// The share of the drop that the denoisers undo, in percent; absent where nothing was lost.
    pub recovered_percent: Option<f64>,
    /// The sizes.
    pub parameters: Parameters,
    /// The yield, if a population of chips was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chips: Option<ChipReport>,
}

/// Where an evaluation is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvalProgress {
    /// What is run: `clean`, `noisy`, `denoised` or `clean denoised`.
    pub stage: &'static str,
    /// The draw, from 0.
    pub run: u32,
    /// Samples done, over all stages.
    pub done: u64,
    /// Samples to do, over all stages.
    pub total: u64,
    /// Samples per second so far.
    pub images_per_second: f64,
}

/// What is evaluated: the executor, or a stand-in in tests.
trait Model {
    fn program(&self) -> &Program;
    fn logits(&self, batch: Batch<'_>, mode: Mode, key: Key) -> Result<Vec<f32>, ExecError>;
}

impl Model for Executor {
    fn program(&self) -> &Program {
        self.program()
    }

    fn logits(&self, batch: Batch<'_>, mode: Mode, key: Key) -> Result<Vec<f32>, ExecError> {
        self.logits(batch, mode, key)
    }
}

/// Evaluates a program on `data`, reporting to `progress` after every batch.
///
/// Only what can differ is run: without analog layers the noisy model is the clean one, without denoisers the denoised
/// one is the noisy one. A sample whose logits hold a NaN counts as wrong.
pub fn evaluate(
    executor: &Executor,
    data: &dyn Source,
    options: &EvalOptions,
    progress: &mut dyn FnMut(EvalProgress),
) -> Result<EvalReport, EvalError> {
    evaluate_model(executor, data, options, progress)
}

fn evaluate_model(
    model: &dyn Model,
    data: &dyn Source,
    options: &EvalOptions,
    progress: &mut dyn FnMut(EvalProgress),
) -> Result<EvalReport, EvalError> {
    let plan = EvalPlan::new(model.program(), data, options)?;
    let scores = plan.run(model, data, options, 0..plan.work(), progress)?;
    Ok(plan.report(&scores))
}

/// What an evaluation runs, and what its report says besides what was right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalPlan {
    samples: u64,
    skipped: Option<usize>,
    noise: NoiseLabel,
    backbone_parameters: u64,
    denoiser_parameters: u64,
    /// Whether there are layers that may be noisy; else the noisy network is the clean one.
    noisy_layers: bool,
    denoisers: bool,
    /// Whether the denoised network is another than the noisy one.
    cleans: bool,
    runs: u32,
    chips: Option<ChipOptions>,
}

/// One run over all samples.
struct Pass {
    mode: Mode,
    stage: &'static str,
    /// The pass and the chip of its key.
    draw: (u32, u32),
}

impl EvalPlan {
    /// Checks data and options against the program.
    fn new(program: &Program, data: &dyn Source, options: &EvalOptions) -> Result<Self, EvalError> {
        let samples = check(program, data, options)? as u64;
        let (noisy_layers, denoisers) = (!program.layers().is_empty(), program.has_denoisers());
        let parameters = options.parameters.unwrap_or_else(|| Parameters::new(0, program.denoiser_parameters()));
        Ok(Self {
            samples,
            skipped: None,
            noise: NoiseLabel::of(program),
            backbone_parameters: parameters.backbone,
            denoiser_parameters: parameters.denoisers,
            noisy_layers,
            denoisers,
            // Converter ranges and reads change what noise does, and nothing without it.
            cleans: denoisers || program.layers().iter().any(Layer::is_helped),
            runs: if noisy_layers { options.runs } else { 1 },
            chips: options.chips,
        })
    }

    /// The draws of noise that runs differ in.
    fn draws(&self) -> impl Iterator<Item = (u32, u32)> {
        let runs = if self.noisy_layers { self.runs } else { 0 };
        let chips = if self.noisy_layers { self.chips.map_or(0, |chips| chips.count) } else { 0 };
        (0..runs).map(|pass| (pass, 0)).chain((0..chips).map(|chip| (0, chip)))
    }

    /// The runs over all samples, in order.
    fn passes(&self) -> impl Iterator<Item = Pass> {
        let pass = |mode, stage, draw| Pass { mode, stage, draw };
        let quiet = std::iter::once(pass(Mode::CLEAN, "clean", (0, 0)))
            .chain(self.denoisers.then(|| pass(Mode::CLEAN_DENOISED, "clean denoised", (0, 0))));
        quiet.chain(self.draws().flat_map(move |draw| {
            let denoised = self.cleans.then(|| pass(Mode::DENOISED, "denoised", draw));
            std::iter::once(pass(Mode::NOISY, "noisy", draw)).chain(denoised)
        }))
    }

    /// How many draws the report tells of.
    fn draws_wanted(&self) -> u64 {
        u64::from(self.runs) + self.chips.map_or(0, |chips| u64::from(chips.count))
    }

    /// How many runs there are.
    fn pass_count(&self) -> u64 {
        let noisy = if self.noisy_layers { self.draws_wanted() * (1 + u64::from(self.cleans)) } else { 0 };
        1 + u64::from(self.denoisers) + noisy
    }

    /// The samples of all runs, one after another.
    fn work(&self) -> u64 {
        self.pass_count().saturating_mul(self.samples)
    }

    /// The samples of a run, by its number, that are in a part of the work.
    fn samples_of(&self, number: u64, work: &Range<u64>) -> Range<u64> {
        let start = number.saturating_mul(self.samples);
        let place = |at: u64| at.clamp(start, start.saturating_add(self.samples)) - start;
        place(work.start)..place(work.end)
    }

    /// What is right of a part of the work, by run.
    fn run(
        &self,
        model: &dyn Model,
        data: &dyn Source,
        options: &EvalOptions,
        work: Range<u64>,
        progress: &mut dyn FnMut(EvalProgress),
    ) -> Result<Vec<Scores>, EvalError> {
        let total = work.end.saturating_sub(work.start);
        let mut meter = Meter { progress, start: Instant::now(), done: 0, total };
        let of = |(number, pass): (u64, Pass)| {
            let Range { start, end } = self.samples_of(number, &work);
            let samples = start as usize..end as usize;
            let Pass { mode, stage, draw } = pass;
            count(model, data, samples, options, (mode, draw), |count| meter.advance(stage, draw.0.max(draw.1), count))
        };
        (0..).zip(self.passes()).map(of).collect()
    }

    /// The report, of what is right by run.
    fn report(&self, scores: &[Scores]) -> EvalReport {
        let mut runs = scores.iter().map(|scores| {
            let [top1, top5] = scores.percent();
            Accuracy { top1, top5 }
        });
        let mut next = || runs.next().unwrap_or_default();
        let clean = next();
        let clean_denoised = if self.denoisers { next() } else { clean };
        // One noise draw without and with denoisers.
        let mut pair = || {
            let noisy = if self.noisy_layers { next() } else { clean };
            let denoised = match (self.cleans, self.noisy_layers) {
                (true, true) => next(),
                (true, false) => clean_denoised,
                (false, _) => noisy,
            };
            (noisy, denoised)
        };
        let (noisy, denoised): (Vec<_>, Vec<_>) = (0..self.runs).map(|_| pair()).unzip();
        let (noisy, denoised) = (summary(&noisy), summary(&denoised));
        let chips = self.chips.map(|ChipOptions { count, floor }| {
            let (noisy, denoised): (Vec<_>, Vec<_>) = (0..count).map(|_| pair()).unzip();
            ChipReport { floor, noisy: yield_of(&noisy, floor), denoised: yield_of(&denoised, floor) }
        });
        let lost = clean.top1 - noisy.top1;
        EvalReport {
            samples: self.samples as usize,
            skipped: self.skipped,
            noise: self.noise.clone(),
            recovered_percent: (lost > 0.0).then(|| 100.0 * (denoised.top1 - noisy.top1) / lost),
            clean,
            noisy,
            denoised,
            clean_denoised,
            parameters: Parameters::new(self.backbone_parameters, self.denoiser_parameters),
            chips,
        }
    }
}

/// The share of chips whose accuracy is at least `floor`, with its Clopper-Pearson interval.
fn yield_of(chips: &[Accuracy], floor: f64) -> Yield {
    let top1: Vec<f64> = chips.iter().map(|chip| chip.top1).collect();
    let count = top1.len();
    let good = top1.iter().filter(|&&accuracy| accuracy >= floor).count();
    let quantile = |successes: usize, failures: usize, probability: f64| {
        Beta::new(successes as f64, failures as f64).map_or(f64::NAN, |beta| beta.inverse_cdf(probability))
    };
    let low = if good == 0 { 0.0 } else { quantile(good, count - good + 1, 0.025) };
    let high = if good == count { 1.0 } else { quantile(good + 1, count - good, 0.975) };
    Yield { percent: 100.0 * good as f64 / count.max(1) as f64, ci95: [100.0 * low, 100.0 * high], top1 }
}

/// Checks data and options against the program; the number of samples to evaluate.
fn check(program: &Program, data: &dyn Source, options: &EvalOptions) -> Result<usize, EvalError> {
    let error = |reason: String| EvalError::Options(reason);
    let samples = options.limit.unwrap_or(usize::MAX).min(data.len());
    let no_chips = options.chips.is_some_and(|chips| chips.count == 0);
    if samples == 0 || options.batch == 0 || options.runs == 0 || no_chips {
        return Err(error("there is nothing to evaluate: the data, --limit, --seeds and --chips must not be 0".into()));
    }
    single_input(program, data)?;
    let labels = data.labels(&(0..samples).collect::<Vec<_>>()).ok_or_else(|| {
        error("evaluation needs labels, which the data lacks: an array y in an .npz, class folders of images".into())
    })?;
    let classes = classes(program)?;
    data.check_classes(classes)?;
    if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
        return Err(error(format!("the data has label {label} but the network only {classes} classes")));
    }
    Ok(samples)
}

/// Checks that the program has one input, of the data's size.
fn single_input(program: &Program, data: &dyn Source) -> Result<(), EvalError> {
    let &[input] = program.inputs() else {
        return Err(EvalError::Options(format!(
            "the network has {} inputs; data sets can feed networks with one",
            program.inputs().len()
        )));
    };
    let shape = &program.values()[input].shape;
    let len: usize = shape.iter().skip(1).map(|size| size.unwrap_or(0)).product();
    if len != data.sample_len() {
        return Err(EvalError::Options(format!(
            "the network takes {len} values per sample but the data gives {}",
            data.sample_len()
        )));
    }
    Ok(())
}

/// The number of logits per sample.
pub fn classes(program: &Program) -> Result<usize, EvalError> {
    let shape = &program.values()[program.logits()].shape;
    // A network without a batch, which runs on one sample, may give a vector.
    let first = shape.first().map_or(1, |size| size.unwrap_or(1));
    match shape.iter().skip(1).map(|size| size.unwrap_or(0)).product::<usize>() * first {
        0 => Err(EvalError::Options("the network gives no logits".into())),
        classes => Ok(classes),
    }
}

/// Reports progress.
struct Meter<'a> {
    progress: &'a mut dyn FnMut(EvalProgress),
    start: Instant,
    done: u64,
    total: u64,
}

impl Meter<'_> {
    fn advance(&mut self, stage: &'static str, run: u32, count: usize) {
        self.done += count as u64;
        (self.progress)(EvalProgress {
            stage,
            run,
            done: self.done,
            total: self.total,
            images_per_second: self.done as f64 / self.start.elapsed().as_secs_f64().max(1e-9),
        });
    }
}

/// What is right of some samples in one run.
fn count(
    model: &dyn Model,
    data: &dyn Source,
    samples: Range<usize>,
    options: &EvalOptions,
    (mode, (pass, chip)): (Mode, (u32, u32)),
    mut advance: impl FnMut(usize),
) -> Result<Scores, EvalError> {
    let key = Key { seed: options.seed, purpose: Purpose::Eval, pass, chip };
    let classes = classes(model.program())?;
    let all: Vec<usize> = samples.collect();
    let mut inputs = Vec::new();
    let (task, mut scores) = (model.program().task(), Scores::default());
    data.announce(all.chunks(options.batch).map(<[usize]>::to_vec).collect());
    for indices in all.chunks(options.batch) {
        data.load(indices, &mut inputs)?;
        let ids: Vec<u64> = indices.iter().map(|&index| data.id(index)).collect();
        let labels = data.labels(indices).unwrap_or_default();
        let batch = Batch { inputs: &[&inputs], samples: &ids };
        let logits = model.logits(batch, mode, key)?;
        for (logits, &label) in logits.chunks_exact(classes).zip(&labels) {
            task.score(logits, label, &mut scores);
        }
        advance(indices.len());
    }
    Ok(scores)
}

/// The mean and its interval.
fn summary(runs: &[Accuracy]) -> Accuracies {
    let count = runs.len() as f64;
    let top1: Vec<f64> = runs.iter().map(|run| run.top1).collect();
    Accuracies {
        top1: top1.iter().sum::<f64>() / count,
        ci95: confidence95(&top1),
        top5: runs.iter().map(|run| run.top5).sum::<f64>() / count,
        runs: top1,
    }
}

/// Half the width of the 95 % confidence interval of the mean of `values` (Student t); `None` for fewer than two.
pub fn confidence95(values: &[f64]) -> Option<f64> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let freedom = count - 1.0;
    let quantile = StudentsT::new(0.0, 1.0, freedom).ok()?.inverse_cdf(0.975);
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / freedom;
    Some(quantile * (variance / count).sqrt())
}

/// Every layer's statistics on the clean model, over `samples` samples of `data` drawn without replacement by `seed`;
/// in the order of [`Program::layers`]. The number of samples used is in each [`Calibration`].
pub fn calibrate(
    executor: &Executor,
    data: &dyn Source,
    samples: usize,
    seed: u64,
) -> Result<Vec<Calibration>, EvalError> {
    let drawn = Drawn::new(executor.program(), data, samples, seed)?;
    let inputs = drawn.inputs();
    let mut batches = drawn.batches(&inputs);
    Ok(executor.calibrate(&mut batches)?)
}

/// What the σ̂ path of every paper block adds, over the samples of [`calibrate`] on the noisy, denoised network; in the order of
/// [`Program::layers`], `None` for layers without such a block.
pub fn sigma_statistics(
    executor: &Executor,
    data: &dyn Source,
    samples: usize,
    seed: u64,
) -> Result<Vec<Option<Measured>>, EvalError> {
    let drawn = Drawn::new(executor.program(), data, samples, seed)?;
    let inputs = drawn.inputs();
    let key = Key::calibration(seed, 0);
    let mut batches = drawn.batches(&inputs);
    Ok(executor.sigma_statistics(&mut batches, key)?)
}

/// What the noise of one analog layer does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerEffect {
    /// The layer.
    pub layer: String,
    /// Its noise specification's text form.
    pub noise: String,
    /// `range`, `constant` or `signal`.
    pub scale: String,
    /// Which magnitude the noise is relative to.
    pub reference: String,
    /// That magnitude as calibrated, in the units of the layer's output.
    pub magnitude: Option<f64>,
    /// The signal-to-noise ratio at the layer's output after its own noise, on the noisy network without denoisers, in dB
    /// ([`Distortion::snr_db`](crate::measure::distortion::Distortion::snr_db)). `None` where nothing is noisy.
    pub snr_db: Option<f64>,
    /// The same with the denoisers of the layers before it; its own act after this point.
    pub snr_denoised_db: Option<f64>,
    /// (L − clean)/(noisy − clean): L is the loss with this layer's noise alone, without denoisers. `None` where noise does not
    /// raise the loss. The shares do not sum to 1: layers' noise adds up in ways that single layers do not show.
    pub loss_share: Option<f64>,
}

/// What the noise of every layer does, over calibration samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EffectiveNoise {
    /// The number of samples.
    pub samples: usize,
    /// Mean cross-entropy of the clean network.
    pub clean_loss: f64,
    /// With every layer's noise, without denoisers.
    pub noisy_loss: f64,
    /// With noise and denoisers.
    pub denoised_loss: f64,
    /// The layers, in the order of execution.
    pub layers: Vec<LayerEffect>,
}

/// Measures every layer's effective noise over `samples` samples, those of [`calibrate`], with one noise draw each. `step` is
/// called after every layer with their number.
pub fn effective_noise(
    program: &Program,
    threads: usize,
    data: &dyn Source,
    samples: usize,
    seed: u64,
    step: &mut dyn FnMut(usize),
) -> Result<EffectiveNoise, EvalError> {
    let mut executor = Executor::new(program.clone(), threads)?;
    let drawn = Drawn::new(program, data, samples, seed)?;
    let labels = drawn.labels(&executor, data, seed)?;
    let key = Key { seed, purpose: Purpose::Eval, pass: 0, chip: 0 };
    let clean_loss = drawn.loss(&executor, &labels, Mode::CLEAN, key)?;
    let noisy_loss = drawn.loss(&executor, &labels, Mode::NOISY, key)?;
    let denoised_loss = drawn.loss(&executor, &labels, Mode::DENOISED, key)?;

    let distortions = executor.distortion(&mut drawn.batches(&drawn.inputs()), key)?;
    for index in 0..program.layers().len() {
        executor.set_noise(index, NoiseSpec::default())?;
    }
    let mut layers = Vec::new();
    for (index, (layer, distortion)) in program.layers().iter().zip(distortions).enumerate() {
        executor.set_noise(index, layer.noise.spec.clone())?;
        let loss = drawn.loss(&executor, &labels, Mode::NOISY, key)?;
        executor.set_noise(index, NoiseSpec::default())?;
        let [snr_db, snr_denoised_db] = distortion.snr_db();
        layers.push(LayerEffect {
            layer: layer.name.clone(),
            noise: layer.noise.spec.to_string(),
            scale: layer.noise.scale.to_string(),
            reference: layer.noise.reference.to_string(),
            magnitude: layer.magnitude(Site::Output, false),
            snr_db,
            snr_denoised_db,
            loss_share: (noisy_loss > clean_loss).then(|| (loss - clean_loss) / (noisy_loss - clean_loss)),
        });
        step(index + 1);
    }
    Ok(EffectiveNoise { samples: labels.len(), clean_loss, noisy_loss, denoised_loss, layers })
}

/// Samples drawn for calibration, loaded.
struct Drawn {
    indices: Vec<usize>,
    ids: Vec<u64>,
    values: Vec<f32>,
    sample_len: usize,
}

impl Drawn {
    /// A multiple of the executor's shards of 16 samples.
    const BATCH: usize = 64;

    fn new(program: &Program, data: &dyn Source, samples: usize, seed: u64) -> Result<Self, EvalError> {
        single_input(program, data)?;
        let indices = data::sample(data.len(), samples, seed);
        if indices.is_empty() {
            return Err(EvalError::Options(
                "calibration needs at least one sample; --samples and the data must not be empty".into(),
            ));
        }
        let mut values = Vec::new();
        data.load(&indices, &mut values)?;
        Ok(Self {
            ids: indices.iter().map(|&index| data.id(index)).collect(),
            indices,
            values,
            sample_len: data.sample_len(),
        })
    }

    /// The samples' labels; without any, what the clean model predicts.
    fn labels(&self, executor: &Executor, data: &dyn Source, seed: u64) -> Result<Vec<u32>, EvalError> {
        let (classes, task) = (classes(executor.program())?, executor.program().task());
        let labels = match data.labels(&self.indices) {
            Some(labels) => {
                data.check_classes(classes)?;
                labels
            }
            None => {
                let key = Key::calibration(seed, 0);
                let mut labels = Vec::new();
                for batch in self.batches(&self.inputs()) {
                    let logits = executor.logits(batch, Mode::CLEAN, key)?;
                    labels.extend(logits.chunks_exact(classes).map(|logits| task.prediction(logits)));
                }
                labels
            }
        };
        match labels.iter().find(|&&label| label as usize >= classes) {
            Some(label) => {
                Err(EvalError::Options(format!("the data has label {label} but the network only {classes} classes")))
            }
            None => Ok(labels),
        }
    }

    /// The mean cross-entropy.
    fn loss(&self, executor: &Executor, labels: &[u32], mode: Mode, key: Key) -> Result<f64, EvalError> {
        let (classes, task) = (classes(executor.program())?, executor.program().task());
        let inputs = self.inputs();
        let mut total = 0.0;
        for (batch, labels) in self.batches(&inputs).zip(labels.chunks(Self::BATCH)) {
            let logits = executor.logits(batch, mode, key)?;
            let rows = logits.chunks_exact(classes).zip(labels);
            total += rows.map(|(row, &label)| task.loss_of(row, label)).sum::<f64>();
        }
        Ok(total / labels.len() as f64)
    }

    /// One slice per batch.
    fn inputs(&self) -> Vec<[&[f32]; 1]> {
        self.values.chunks(Self::BATCH * self.sample_len).map(|values| [values]).collect()
    }

    fn batches<'a>(&'a self, inputs: &'a [[&'a [f32]; 1]]) -> impl Iterator<Item = Batch<'a>> {
        inputs.iter().zip(self.ids.chunks(Self::BATCH)).map(|(inputs, samples)| Batch { inputs, samples })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_is_students_t() {
        // t(0.975, 4) = 2.7764451; the standard deviation of 1..=5 is √2.5.
        let half = confidence95(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert!((half - 2.776_445_105 * (2.5f64 / 5.0).sqrt()).abs() < 1e-6, "{half}");
        assert_eq!(confidence95(&[1.0]), None);
        assert_eq!(confidence95(&[]), None);
        assert_eq!(confidence95(&[4.0, 4.0]), Some(0.0));
    }

    #[test]
    fn report_has_the_documented_shape() {
        let report = EvalReport {
            samples: 10,
            noise: NoiseLabel { spec: "gaussian(sigma=6%)".into(), scale: "range".into(), reference: "rms".into() },
            clean: Accuracy { top1: 90.0, top5: 99.0 },
            noisy: summary(&[Accuracy { top1: 80.0, top5: 90.0 }]),
            parameters: Parameters::new(1000, 40),
            ..Default::default()
        };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["noise"]["spec"], "gaussian(sigma=6%)");
        assert_eq!(json["noisy"]["runs"], serde_json::json!([80.0]));
        assert!(json["noisy"]["ci95"].is_null() && json["recovered_percent"].is_null());
        assert_eq!(json["parameters"]["overhead_percent"], 4.0);
        let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected =
            ["samples", "noise", "clean", "noisy", "denoised", "clean_denoised", "recovered_percent", "parameters"];
        expected.sort_unstable();
        assert_eq!(keys, expected);
    }

    /// Classifies sample `i` of class `i % 3` rightly unless a mode or run spoils it; counts its calls per mode.
    pub(super) struct Fake {
        program: Program,
        calls: std::cell::RefCell<Vec<(Mode, u32, usize)>>,
    }

    impl Model for Fake {
        fn program(&self) -> &Program {
            &self.program
        }

        fn logits(&self, batch: Batch<'_>, mode: Mode, key: Key) -> Result<Vec<f32>, ExecError> {
            self.calls.borrow_mut().push((mode, key.pass, batch.samples.len()));
            Ok(batch
                .samples
                .iter()
                .flat_map(|&sample| {
                    let mut logits = [0.0; 3];
                    logits[sample as usize % 3] = 1.0;
                    match mode {
                        // One NaN sample, and as many wrong ones as the run says.
                        Mode::NOISY if sample == 0 => logits[1] = f32::NAN,
                        Mode::NOISY if sample <= 2 + u64::from(key.pass) => logits[(sample as usize + 1) % 3] = 2.0,
                        Mode::DENOISED if sample == 5 => logits[(sample as usize + 1) % 3] = 2.0,
                        _ => {}
                    }
                    logits
                })
                .collect())
        }
    }

    pub(super) struct Numbers;

    impl Source for Numbers {
        fn len(&self) -> usize {
            12
        }

        fn sample_len(&self) -> usize {
            2
        }

        fn image(&self) -> Option<crate::data::Layout> {
            None
        }

        fn load(&self, indices: &[usize], out: &mut Vec<f32>) -> Result<(), DataError> {
            out.clear();
            out.resize(indices.len() * 2, 0.0);
            Ok(())
        }

        fn labels(&self, indices: &[usize]) -> Option<Vec<u32>> {
            Some(indices.iter().map(|&index| index as u32 % 3).collect())
        }

        fn fingerprint(&self) -> String {
            String::new()
        }
    }

    pub(super) fn fake(layers: usize, denoisers: bool) -> Fake {
        fake_of(layers, denoisers, 2, 3)
    }

    /// A network of `inputs` numbers and `outputs` classes.
    fn fake_of(layers: usize, denoisers: bool, inputs: usize, outputs: usize) -> Fake {
        use crate::{
            program::{Builder, DType, Denoise, FullyConnected, Layer},
            store::Weight,
        };
        let mut program = Builder::new();
        let x = program.input("", DType::F32, vec![None, Some(inputs)]).unwrap();
        let layer = |index: usize| Layer {
            name: format!("layer{index}"),
            channels: outputs,
            noise: LayerNoise::default(),
            calibration: None,
            columns: None,
            input_range: None,
            execution: crate::program::Execution::default(),
        };
        for index in 0..layers {
            program.layer(layer(index)).unwrap();
        }
        let mut constant = |shape: Vec<usize>, trainable| {
            let weight = Weight::new(shape.clone(), vec![1.0; shape.iter().product()]).unwrap();
            program.constant("", weight, trainable).unwrap()
        };
        let (w, b) = (constant(vec![outputs, inputs], false), constant(vec![outputs], false));
        let affine = denoisers.then(|| constant(vec![outputs], true));
        let mut y = program.node(FullyConnected { layer: None }, &[x, w, b]).unwrap();
        if let Some(weight) = affine {
            let kind = mxc_spec::denoise::Kind::named("affine").unwrap();
            y = program.node(Denoise { layer: 0, kind }, &[y, weight, weight]).unwrap();
        }
        program.output(y, "logits").unwrap();
        Fake { program: program.finish(0).unwrap(), calls: Default::default() }
    }

    #[test]
    fn evaluates_every_mode_over_the_runs() {
        let model = fake(2, true);
        let options =
            EvalOptions { runs: 2, batch: 5, parameters: Some(Parameters::new(300, 6)), ..Default::default() };
        let mut last = None;
        let report = evaluate_model(&model, &Numbers, &options, &mut |progress| last = Some(progress)).unwrap();
        assert_eq!(report.samples, 12);
        assert_eq!(report.noise.spec, "gaussian(sigma=6%)");
        assert_eq!(report.clean.top1, 100.0);
        // Run 0 spoils samples 0 to 2, run 1 sample 3, too; the NaN sample is not in the top 5 either.
        assert_eq!(report.noisy.runs, [75.0, 100.0 * 8.0 / 12.0]);
        assert!((report.noisy.top5 - 100.0 * 11.0 / 12.0).abs() < 1e-9);
        assert!(report.noisy.ci95.unwrap() > 0.0);
        assert_eq!(report.denoised.ci95, Some(0.0));
        assert_eq!(report.clean_denoised.top1, 100.0);
        let noisy = (75.0 + 100.0 * 8.0 / 12.0) / 2.0;
        let recovered = 100.0 * (100.0 * 11.0 / 12.0 - noisy) / (100.0 - noisy);
        assert!((report.recovered_percent.unwrap() - recovered).abs() < 1e-9);
        assert_eq!(report.parameters, Parameters { backbone: 300, denoisers: 6, overhead_percent: 2.0 });
        let last = last.unwrap();
        assert_eq!((last.done, last.total), (72, 72));
        assert_eq!(model.calls.borrow().len(), 6 * 3);
        let own = evaluate_model(&model, &Numbers, &EvalOptions { parameters: None, ..options }, &mut |_| {}).unwrap();
        assert_eq!(own.parameters, Parameters { backbone: 0, denoisers: 3, overhead_percent: 0.0 });
    }

    #[test]
    fn runs_only_what_can_differ() {
        let options = EvalOptions::default();
        let model = fake(2, false);
        let report = evaluate_model(&model, &Numbers, &options, &mut |_| {}).unwrap();
        assert_eq!(report.denoised, report.noisy);
        assert_eq!(report.recovered_percent, Some(0.0));
        assert_eq!(model.calls.borrow().len(), 6);
        let mut model = fake(2, false);
        let columns = crate::program::Columns { shift: vec![1; 3], calibration: Calibration::default() };
        model.program.layers_mut()[0].columns = Some(columns);
        let report = evaluate_model(&model, &Numbers, &options, &mut |_| {}).unwrap();
        assert_eq!(report.clean_denoised, report.clean);
        assert_eq!(model.calls.borrow().len(), 11, "under noise, the ranges make another network");
        let model = fake(0, false);
        let report = evaluate_model(&model, &Numbers, &options, &mut |_| {}).unwrap();
        assert_eq!((report.noisy.top1, report.recovered_percent), (100.0, None));
        assert_eq!(model.calls.borrow().len(), 1);
        let limited = EvalOptions { limit: Some(4), ..options.clone() };
        assert_eq!(evaluate_model(&model, &Numbers, &limited, &mut |_| {}).unwrap().samples, 4);
        let none = EvalOptions { runs: 0, ..options.clone() };
        let error = evaluate_model(&model, &Numbers, &none, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("nothing to evaluate"), "{error}");
        let small = fake_of(0, false, 2, 2);
        let error = evaluate_model(&small, &Numbers, &options, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("label 2 but the network only 2 classes"), "{error}");
        let small = fake_of(0, false, 7, 3);
        let error = evaluate_model(&small, &Numbers, &options, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("takes 7 values per sample but the data gives 2"), "{error}");
    }

    #[test]
    fn yield_has_the_exact_interval() {
        let chips = |good: usize, bad: usize| -> Vec<Accuracy> {
            let of = |top1| Accuracy { top1, top5: 100.0 };
            std::iter::repeat_n(of(91.0), good).chain(std::iter::repeat_n(of(80.0), bad)).collect()
        };
        // R: binom.test(8, 10)$conf.int and binom.test(10, 10)$conf.int
        let part = yield_of(&chips(8, 2), 90.0);
        assert_eq!(part.percent, 80.0);
        assert!((part.ci95[0] - 44.39045).abs() < 1e-3 && (part.ci95[1] - 97.47893).abs() < 1e-3);
        let all = yield_of(&chips(10, 0), 91.0);
        assert!((all.ci95[0] - 69.15029).abs() < 1e-3 && all.ci95[1] == 100.0);
        assert_eq!(yield_of(&chips(0, 3), 91.0).ci95[0], 0.0);
    }
}
