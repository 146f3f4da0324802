//! Fine-tuning: a session's package with its denoisers trained.

use crate::{Arithmetic, Data, Error, Monitor, Package, Progress, Session, session::override_noise};
use melior::ir::{Module, operation::OperationMutLike};
use mxc_compiler::{
    pass::{CalibrationRun, Options, Pipeline},
    passes::REGISTRY,
};
use mxc_dialects::{analog::AnalogOp, denoise, ffi, ir::DictionaryValue, noise::LayerNoise};
use mxc_runtime::{
    data::{Dataset, Source, Split},
    evaluate,
    exec::Executor,
    finetune::{self, FinetuneReport, Loss, Recipe},
    package::Training,
    ranks::{self, Alone, Ranks},
};
use std::{collections::BTreeMap, path::PathBuf, sync::atomic::AtomicBool};

/// How to train. `None` leaves a choice to the recipe.
///
/// ```
/// let options = mxc::FinetuneOptions { epochs: Some(1), ..Default::default() };
/// assert_eq!(options.recipe, None);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FinetuneOptions {
    /// `None` is [`Recipe::Paper`] for the denoiser `paper`, else [`Recipe::Best`].
    pub recipe: Option<Recipe>,
    /// What is minimized.
    pub loss: Option<Loss>,
    /// The (first) learning rate.
    pub learning_rate: Option<f64>,
    /// Passes over the samples; see [`Recipe::epochs`].
    pub epochs: Option<u32>,
    /// Samples a step.
    pub batch: Option<usize>,
    /// How much matching the clean network's features counts: see [`Objective::features`](mxc_runtime::exec::Objective::features).
    pub features: f64,
    /// Only the first so many training samples.
    pub limit: Option<usize>,
    /// The last so many training samples are kept out; `None` is as compiled.
    pub holdout: Option<usize>,
    /// Keys the order of samples and the noise.
    pub seed: u64,
    /// Where the state is written, after every epoch and when the run is stopped; without, a stopped run is lost. Who has saved the
    /// result removes it.
    pub checkpoint: Option<PathBuf>,
    /// Goes on from the checkpoint, if there is one.
    pub resume: bool,
}

/// A trained package.
#[derive(Clone, Debug)]
pub struct Finetuned {
    /// The package with the denoisers' new weights; the backbone is the same to the bit.
    pub package: Package,
    /// What the run did; `None` where there are no denoisers, so that the package is a copy.
    pub report: Option<FinetuneReport>,
    /// How many images were left out; `None` unless [`Data::skip_bad`].
    pub skipped: Option<usize>,
}

impl Session {
    /// Trains the package's denoisers on labelled data (without labels by [`Loss::Distill`]) under its noise, or the session's. The
    /// session stays as it is. A package that was calibrated on synthetic inputs is calibrated on `data` first, which is told.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), mxc::Error> {
    /// use std::ops::ControlFlow;
    /// let package = mxc::Package::open("model.mxa".as_ref())?;
    /// let monitor = mxc::Monitor::new(|progress| match progress {
    ///     mxc::Progress::Training { now, .. } if now.loss < 0.1 => ControlFlow::Break(()),
    ///     _ => ControlFlow::Continue(()),
    /// });
    /// let session = package.session(&Default::default(), &monitor)?;
    /// let data = mxc::Data::new("/usr/share/datasets/fashion-mnist");
    /// let options = mxc::FinetuneOptions { checkpoint: Some("model.ckpt".into()), ..Default::default() };
    /// match session.finetune(&data, &options, &monitor) {
    ///     Ok(tuned) => tuned.package.write("model.tuned.mxa".as_ref())?,
    ///     Err(mxc::Error::Stopped { step, .. }) => eprintln!("stopped at step {step}"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Finetune`], [`Error::Data`], [`Error::Options`] for a session of a model or in fixed point, [`Error::Stopped`] when
    /// it was cancelled while training and [`Error::Cancelled`] when before.
    pub fn finetune(&self, data: &Data, options: &FinetuneOptions, monitor: &Monitor<'_>) -> Result<Finetuned, Error> {
        self.finetune_on(data, options, monitor, &Alone)
    }

    /// The same, shared among ranks: processes that each call this with the same package, data and options, which is checked. Every one is
    /// given the package that one process makes, to the bit. Only the first rank's checkpoint is read and written. Once one of them is
    /// cancelled all stop after the same step, and what fails on one fails on all.
    ///
    /// # Errors
    ///
    /// Those of [`Session::finetune`], and [`Error::Ranks`] where another rank has failed or was given something else.
    pub fn finetune_on(
        &self,
        data: &Data,
        options: &FinetuneOptions,
        monitor: &Monitor<'_>,
        ranks: &dyn Ranks,
    ) -> Result<Finetuned, Error> {
        let ready = ranks::agree(ranks, self.ready(data, options, monitor), |ready| {
            BTreeMap::from([("package".to_owned(), ready.parent_sha256.clone())])
        })?;
        let mut package = ready.package;
        let Some(mut run) = ready.run else {
            return Ok(Finetuned { package: descendant(package), report: None, skipped: None });
        };
        let samples = (run.training.images(&run.data) * run.training.copies) as u64;
        let stop: &AtomicBool = monitor.cancel().flag();
        let told = &mut |now| monitor.report(Progress::Training { now, samples });
        let checkpoint = options.checkpoint.as_deref();
        let report = finetune::finetune_on(&mut run.executor, &run.data, &run.training, checkpoint, stop, told, ranks)?;
        if !report.completed {
            return Err(Error::Stopped {
                step: report.steps,
                resumed_from: report.resumed_from,
                checkpoint: options.checkpoint.clone(),
            });
        }
        let finished = self.finished(&mut package, &run, &report);
        ranks::agree(ranks, finished, |()| BTreeMap::new())?;
        Ok(Finetuned { package: descendant(package), report: Some(report), skipped: run.skipped })
    }

    /// What training starts from.
    fn ready(&self, data: &Data, options: &FinetuneOptions, monitor: &Monitor<'_>) -> Result<Ready, Error> {
        let mut package = match (&self.package, self.options.arithmetic) {
            (Some(package), Arithmetic::Float) => package.clone(),
            (Some(_), Arithmetic::Fixed) => {
                return Err(Error::Options("fine-tuning computes in floating point, not in integers".to_owned()));
            }
            (None, _) => return Err(Error::Options("a model has no denoisers to train: compile it first".to_owned())),
        };
        monitor.check()?;
        let parent = package.sha256()?;
        let holdout = options.holdout.unwrap_or_else(|| package.holdout());
        let compiled_for = package.noise()?;
        if let Some(provenance) = &mut package.inner.manifest.provenance {
            provenance.parent_sha256 = Some(parent.clone());
        }
        if package.inner.denoisers.is_empty() {
            monitor.warn("the package has no denoisers, so there is nothing to train; it is copied");
            return Ok(Ready { package, parent_sha256: parent, run: None });
        }
        let preprocessing = self.preprocessing();
        let (opened, skipped) =
            data.open_limited(Split::Train, holdout, &preprocessing, self.threads(), options.limit, monitor)?;
        let mut program = self.program().clone();
        if package.is_synthetic() {
            self.recalibrate(&mut package, data, options.seed, holdout, monitor)?;
            program = package.program()?;
            override_noise(&mut program, self.options.noise.as_ref());
        }
        let executor = Executor::on(self.options.backend, program, self.threads())?;
        let training = training(options, &package, &opened, parent.clone());
        if let Some(path) = options.checkpoint.as_ref().filter(|path| !options.resume && path.exists()) {
            monitor.note(format!("starting anew; {} is replaced (--resume goes on from it)", path.display()));
        }
        let run = Run { executor, data: opened, training, skipped, compiled_for };
        Ok(Ready { package, parent_sha256: parent, run: Some(run) })
    }

    /// Puts what was trained into the package.
    fn finished(&self, package: &mut Package, run: &Run, report: &FinetuneReport) -> Result<(), Error> {
        package.inner.denoisers = package.inner.denoisers.union(&run.executor.trained()?);
        record_sigma(package, &run.executor, &run.data)?;
        let noise = self.options.noise.clone();
        let compiled = run.compiled_for.clone();
        let trained_under = compiled.map(|compiled| LayerNoise { spec: noise.unwrap_or(compiled.spec), ..compiled });
        package.inner.manifest.training = Some(Training {
            recipe: run.training.recipe.to_string(),
            learning_rate: report.learning_rate,
            epochs: run.training.epochs,
            batch: run.training.batch as u32,
            seed: run.training.seed,
            samples: report.samples as u64,
            noise: trained_under.as_ref().map(Into::into),
            losses: report.losses.clone(),
            loss: run.training.loss.to_string(),
            judged: report.judged.clone(),
            features: run.training.features,
        });
        Ok(())
    }

    /// Measures a package's layers anew on real data: it was calibrated on synthetic inputs. Placement stays as compiled.
    pub(crate) fn recalibrate(
        &self,
        package: &mut Package,
        data: &Data,
        seed: u64,
        holdout: usize,
        monitor: &Monitor<'_>,
    ) -> Result<(), Error> {
        let context = mxc_dialects::new_context();
        let mut module = package.module(&context)?;
        let before = ranking(&module);
        let mut calibration = Options::default();
        calibration.push("samples", crate::data::CALIBRATION_SAMPLES.to_string());
        let pipeline = Pipeline::new(&REGISTRY).then("rank-sensitivity", calibration);
        let (cx, _) =
            self.measure((&context, &mut module), &pipeline, package.inner.weights(), (data, holdout, seed), monitor)?;
        let after = ranking(&module);
        let calibration = cx.reports.calibration.map(CalibrationRun::to_manifest);
        let samples = calibration.as_ref().map_or(0, |calibration| calibration.samples);
        let moved = before.iter().zip(&after).filter(|(old, new)| old != new).count();
        monitor.note(format!(
            "recalibrated on {samples} samples of {}: {moved} of {} layers changed their rank; most sensitive now: {}",
            data.path.display(),
            after.len(),
            after.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
        ));
        package.inner.manifest.calibration = calibration;
        if let Some(placement) = &mut package.inner.manifest.placement {
            let measured: Vec<_> = AnalogOp::all(&module);
            for layer in &mut placement.layers {
                if let Some(op) = measured.iter().find(|op| op.layer() == layer.name) {
                    let failed = |message| Error::Module { file: package.name.display().to_string(), message };
                    layer.gradient_norm = op.gradient_norm();
                    layer.rank = op.rank().map(|rank| rank as u64 + 1);
                    let reference = op.noise().map_err(|error| failed(error.to_string()))?.reference;
                    let statistics = op.calibration().map_err(|error| failed(error.to_string()))?;
                    layer.reference = statistics.map(|statistics| statistics.reference(reference));
                }
            }
            placement.layers.sort_by_key(|layer| layer.rank);
        }
        package.set_module(&module)
    }
}

/// What training starts from.
struct Ready {
    package: Package,
    /// The SHA-256 of the package's file.
    parent_sha256: String,
    /// `None` where there is nothing to train.
    run: Option<Run>,
}

/// What a package is trained with.
struct Run {
    executor: Executor,
    data: Dataset,
    training: finetune::FinetuneOptions,
    skipped: Option<usize>,
    /// The noise that the package was compiled for.
    compiled_for: Option<LayerNoise>,
}

/// A package that is no longer what its file holds.
fn descendant(package: Package) -> Package {
    Package::of(package.inner, PathBuf::from("the fine-tuned package"), None)
}

/// A module's layers, most sensitive first.
fn ranking(module: &Module<'_>) -> Vec<String> {
    let mut layers: Vec<_> = AnalogOp::all(module).into_iter().map(|op| (op.rank(), op.layer())).collect();
    layers.sort();
    layers.into_iter().map(|(_, layer)| layer).collect()
}

/// The recipe, then what the caller overrides.
fn training(
    options: &FinetuneOptions,
    package: &Package,
    data: &Dataset,
    parent_sha256: String,
) -> finetune::FinetuneOptions {
    let placement = package.inner.manifest.placement.as_ref();
    let kind = placement.map_or("paper", |placement| placement.denoiser.as_str());
    let recipe = options.recipe.unwrap_or(if kind == "paper" { Recipe::Paper } else { Recipe::Best });
    let default = finetune::FinetuneOptions { limit: options.limit, ..finetune::FinetuneOptions::new(recipe) };
    let (loss, batch) = (options.loss.unwrap_or(default.loss), options.batch.unwrap_or(default.batch));
    let images = default.images(data);
    // A label need not hold for an image that is mirrored; what the clean network makes of it does.
    let copies = if loss == Loss::Distill && data.image().is_some() { recipe.copies(images) } else { 1 };
    let samples = images * copies;
    finetune::FinetuneOptions {
        loss,
        learning_rate: options.learning_rate.unwrap_or(default.learning_rate),
        epochs: options.epochs.unwrap_or_else(|| recipe.epochs(samples, batch)),
        batch,
        copies,
        mix: recipe.mixes(samples),
        features: options.features,
        seed: options.seed,
        parent_sha256,
        resume: options.resume,
        ..default
    }
}

/// Records on every block how much its σ̂ path adds to its input on the calibration samples: `drop-sigma` goes by it.
fn record_sigma(package: &mut Package, executor: &Executor, data: &dyn Source) -> Result<(), Error> {
    if !executor.program().has_sigma() {
        return Ok(());
    }
    let calibration = package.inner.manifest.calibration.clone().unwrap_or_default();
    let samples = usize::try_from(calibration.samples).unwrap_or(usize::MAX).max(1);
    let measured = evaluate::sigma_statistics(executor, data, samples, calibration.seed)?;
    let context = mxc_dialects::new_context();
    let module = package.module(&context)?;
    for block in denoise::Denoiser::all(&module) {
        let draws = block.kind().expression().drawn().next().is_some();
        let layers = executor.program().layers().iter().zip(&measured);
        let found = layers.filter(|(layer, _)| layer.name == block.layer()).find_map(|(_, measured)| *measured);
        // Without a signal there is no share of it to record.
        if let Some(found) = found.filter(|found| draws && found.input_rms.is_normal() && found.sigma_rms.is_finite()) {
            ffi::as_mut(block.operation()).set_attribute(denoise::MEASURED, found.to_attribute(&context));
        }
    }
    package.set_module(&module)
}
