//! `mxc finetune`: trains a package's denoisers.

use super::{
    Failure, Global,
    args::FinetuneArgs,
    data::{self, Location, SkipBad, sample_source},
    interrupt::{self, Interrupted},
    session,
};
use melior::ir::operation::OperationMutLike;
use mxc_compiler::{
    files::Inputs,
    pass::{CalibrationRun, Options, PassContext, Pipeline, RunOptions, run::print_module, run_pipeline},
    passes::REGISTRY,
};
use mxc_dialects::{analog::AnalogOp, denoise, ffi, ir, noise::LayerNoise};
use mxc_runtime::{
    data::{Source, Split},
    evaluate,
    exec::{Backend, Executor},
    files::sha256_file,
    finetune::{FinetuneOptions, Loss, Recipe, finetune},
    package::{Package, Training},
    store::Weight,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

pub fn run(args: FinetuneArgs, global: &Global) -> Result<(), Failure> {
    let output = args.output.clone().unwrap_or_else(|| args.package.with_extension("tuned.mxa"));
    let checkpoint = checkpoint_path(&output);
    let inputs = Inputs::default()
        .file("the package", Some(&args.package))
        .data(Some(&args.data))
        .file("the list of classes", args.classes.as_deref());
    inputs.check(if args.output.is_some() { "-o" } else { "the default name" }, &output)?;
    inputs.check("the checkpoint of -o", &checkpoint)?;
    let mut package = Package::open(&args.package)?;
    let parent = sha256_file(&args.package).map_err(|error| format!("{}: {error}", args.package.display()))?;
    let holdout = args.holdout.unwrap_or_else(|| session::compiled_holdout(&package));
    let noise = session::noise_option(args.sigma, args.noise.as_ref());
    let compiled_for = session::packaged_noise(&package)?;
    if let Some(provenance) = &mut package.manifest.provenance {
        provenance.parent_sha256 = Some(parent.clone());
    }
    if package.denoisers.is_empty() {
        global.ui.warn("the package has no denoisers, so there is nothing to train; it is copied");
        package.write(&output)?;
        return finish(&package, &output, None, global);
    }
    let mut data = data::open(&package, location(&args), Split::Train, holdout, global)?;
    let skip = SkipBad::new(args.skip_bad, global);
    skip.apply(&mut data, args.limit)?;
    if session::is_synthetic(&package) {
        recalibrate(&mut package, &args, global, holdout)?;
    }

    let mut program = session::packaged(&package, &args.package)?;
    session::override_noise(&mut program, noise.as_ref());
    let mut executor = session::executor(program, Backend::default(), global)?;
    let options = options(&args, &package, global, parent)?;
    if !args.resume && checkpoint.exists() {
        global.ui.note(format!("starting anew; {} is replaced (--resume goes on from it)", checkpoint.display()));
    }
    let samples = options.limit.unwrap_or(usize::MAX).min(data.len()) as u64;
    let mut progress = global.ui.progress("finetune", samples * u64::from(options.epochs));
    let report = finetune(&mut executor, &data, &options, Some(&checkpoint), interrupt::graceful(), &mut |now| {
        progress.update(
            now.step * samples * u64::from(now.epochs) / now.steps.max(1),
            &format!(" epoch {}/{} loss {:.4}", now.epoch + 1, now.epochs, now.loss),
        );
    })?;
    drop(progress);
    if let Some(step) = report.resumed_from {
        global.ui.note(format!("resumed from step {step} of {}", checkpoint.display()));
    }
    if !report.completed {
        let (step, state) = (report.steps, checkpoint.display());
        let message = format!("stopped at step {step}; go on with the same command and --resume (state in {state})");
        return Err(Interrupted::new(message).into());
    }

    let program = executor.program();
    for (id, value) in program.values().iter().enumerate().filter(|(_, value)| value.trainable) {
        let shape = value.shape.iter().map(|size| size.unwrap_or(1)).collect();
        let weight = Weight::new(shape, executor.weight(id)).ok_or("a denoiser's shape changed")?;
        package.denoisers.insert(value.name.clone(), weight);
    }
    record_sigma(&mut package, &args.package, &executor, &data)?;
    let trained_under = compiled_for.map(|compiled| LayerNoise { spec: noise.unwrap_or(compiled.spec), ..compiled });
    package.manifest.training = Some(Training {
        recipe: options.recipe.to_string(),
        learning_rate: options.learning_rate,
        epochs: options.epochs,
        batch: options.batch as u32,
        seed: options.seed,
        samples: report.samples as u64,
        noise: trained_under.as_ref().map(Into::into),
        losses: report.losses.clone(),
        loss: options.loss.to_string(),
    });
    package.write(&output)?;
    // The package stands; the state that led to it is of no more use.
    let _ = fs::remove_file(&checkpoint);
    finish(&package, &output, skip.skipped(), global)
}

fn finish(package: &Package, output: &Path, skipped: Option<usize>, global: &Global) -> Result<(), Failure> {
    let training = package.manifest.training.clone();
    if global.ui.json {
        let mut report = serde_json::json!({ "training": training });
        if let Some(skipped) = skipped {
            report["skipped"] = skipped.into();
        }
        return super::print_json(&report);
    }
    if let Some(training) = training {
        for (epoch, loss) in training.losses.iter().enumerate() {
            super::print(&format!("epoch {}: loss {loss:.4}\n", epoch + 1))?;
        }
    }
    super::print(&format!("{}\n", output.display()))
}

fn location(args: &FinetuneArgs) -> Location<'_> {
    Location { path: &args.data, classes: args.classes.as_deref() }
}

fn checkpoint_path(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".ckpt");
    PathBuf::from(name)
}

/// The recipe, then what the command line overrides.
fn options(
    args: &FinetuneArgs,
    package: &Package,
    global: &Global,
    parent: String,
) -> Result<FinetuneOptions, Failure> {
    let kind = package.manifest.placement.as_ref().map_or("paper", |placement| placement.denoiser.as_str());
    let recipe: Recipe = match &args.recipe {
        Some(name) => name.parse()?,
        None if kind == "paper" => Recipe::Paper,
        None => Recipe::Cosine,
    };
    let default = FinetuneOptions::new(recipe);
    let loss: Loss = args.loss.parse()?;
    Ok(FinetuneOptions {
        loss,
        learning_rate: args.lr.unwrap_or(default.learning_rate),
        epochs: args.epochs.unwrap_or(default.epochs),
        batch: args.batch.unwrap_or(default.batch),
        limit: args.limit,
        seed: global.seed,
        parent_sha256: parent,
        resume: args.resume,
        ..default
    })
}

/// Records on every block how much its σ̂ path adds to its input on the calibration samples: `drop-sigma` goes by it.
fn record_sigma(package: &mut Package, path: &Path, executor: &Executor, data: &dyn Source) -> Result<(), Failure> {
    if !executor.program().has_sigma() {
        return Ok(());
    }
    let calibration = package.manifest.calibration.clone().unwrap_or_default();
    let samples = usize::try_from(calibration.samples)?.max(1);
    let measured = evaluate::sigma_statistics(executor, data, samples, calibration.seed)?;
    let context = mxc_dialects::new_context();
    let module = ir::parse(&context, &package.module, &path.display().to_string())?;
    for block in denoise::Denoiser::all(&module) {
        let draws = block.kind().expression().drawn().next().is_some();
        let layers = executor.program().layers().iter().zip(&measured);
        let found = layers.filter(|(layer, _)| layer.name == block.layer()).find_map(|(_, measured)| *measured);
        // Without a signal there is no share of it to record.
        if let Some(found) = found.filter(|found| draws && found.input_rms.is_normal() && found.sigma_rms.is_finite()) {
            ffi::as_mut(block.operation()).set_attribute(denoise::MEASURED, found.to_attribute(&context));
        }
    }
    package.module = print_module(&module, true).into_bytes();
    Ok(())
}

/// Measures a package's layers anew on real data: it was calibrated on synthetic inputs. Placement stays as compiled.
fn recalibrate(package: &mut Package, args: &FinetuneArgs, global: &Global, holdout: usize) -> Result<(), Failure> {
    let context = mxc_dialects::new_context();
    let name = args.package.display().to_string();
    let mut module = ir::parse(&context, &package.module, &name)?;
    let ranking = |module: &melior::ir::Module<'_>| {
        let mut layers: Vec<_> = AnalogOp::all(module).into_iter().map(|op| (op.rank(), op.layer())).collect();
        layers.sort();
        layers.into_iter().map(|(_, layer)| layer).collect::<Vec<_>>()
    };
    let before = ranking(&module);
    let preprocessing = package.manifest.preprocessing.clone().unwrap_or_default();
    let mut cx = PassContext {
        weights: package.weights(),
        samples: Some(sample_source(
            location(args),
            holdout,
            &preprocessing,
            global.threads,
            SkipBad::new(args.skip_bad, global),
        )?),
        seed: global.seed,
        threads: global.threads,
        ..PassContext::default()
    };
    let mut options = Options::default();
    options.push("samples", "512");
    let pipeline = Pipeline::new(&REGISTRY).then("rank-sensitivity", options);
    run_pipeline(&context, &mut module, &pipeline, &mut cx, &RunOptions::default())?;
    let after = ranking(&module);
    let calibration = cx.reports.calibration.map(CalibrationRun::to_manifest);
    let samples = calibration.as_ref().map_or(0, |calibration| calibration.samples);
    let moved = before.iter().zip(&after).filter(|(old, new)| old != new).count();
    global.ui.note(format!(
        "recalibrated on {samples} samples of {}: {moved} of {} layers changed their rank; most sensitive now: {}",
        args.data.display(),
        after.len(),
        after.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
    ));
    package.manifest.calibration = calibration;
    if let Some(placement) = &mut package.manifest.placement {
        let measured: Vec<_> = AnalogOp::all(&module);
        for layer in &mut placement.layers {
            if let Some(op) = measured.iter().find(|op| op.layer() == layer.name) {
                layer.gradient_norm = op.gradient_norm();
                layer.rank = op.rank().map(|rank| rank as u64 + 1);
                let reference = op.noise()?.reference;
                layer.reference = op.calibration()?.map(|statistics| statistics.reference(reference));
            }
        }
        placement.layers.sort_by_key(|layer| layer.rank);
    }
    package.module = print_module(&module, true).into_bytes();
    Ok(())
}
