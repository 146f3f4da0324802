//! From a package to something that runs.

use super::{Failure, Global, args::Arithmetic};
use melior::{Context, ir::Module};
use mxc_compiler::{
    pass::{PassContext, Pipeline, Reports, RunOptions, run_pipeline},
    passes::REGISTRY,
};
use mxc_dialects::{
    ir,
    noise::{LayerNoise, NoiseSpec},
};
use mxc_runtime::{
    exec::{Backend, Executor},
    hardware::Hardware,
    load,
    package::Package,
    program::Program,
    store::WeightStore,
};
use std::path::Path;

/// A package's program, its denoisers in floating point.
pub fn packaged(package: &Package, path: &Path) -> Result<Program, Failure> {
    let context = mxc_dialects::new_context();
    let module = ir::parse(&context, &package.module, &path.display().to_string())?;
    Ok(load::program(&module, &package.weights())?)
}

/// A package's program, its denoisers in either arithmetic.
pub fn packaged_in(
    arithmetic: Arithmetic,
    package: &Package,
    path: &Path,
    global: &Global,
) -> Result<Program, Failure> {
    match arithmetic {
        Arithmetic::Float => packaged(package, path),
        Arithmetic::Fixed => {
            let context = mxc_dialects::new_context();
            let (module, _) = lowered(&context, package, path, &packaged_hardware(package)?, global)?;
            Ok(load::program(&module, &package.weights())?)
        }
    }
}

/// The hardware profile in a package.
pub fn packaged_hardware(package: &Package) -> Result<Hardware, Failure> {
    Ok(Hardware::parse(&package.manifest.hardware, "the package's hardware profile")?)
}

/// The noise of `--sigma` (the paper's Gaussian) or `--noise`, if one is given.
pub fn noise_option(sigma: Option<f64>, noise: Option<&NoiseSpec>) -> Option<NoiseSpec> {
    noise.cloned().or_else(|| sigma.map(NoiseSpec::gaussian))
}

/// The noise that a package was compiled for, if it says.
pub fn packaged_noise(package: &Package) -> Result<Option<LayerNoise>, Failure> {
    let parsed = package.manifest.noise.as_ref().map(LayerNoise::try_from).transpose();
    parsed.map_err(|error| format!("the package's manifest: {error}; compile the model again").into())
}

/// Replaces every layer's noise by `spec`, if one is given.
pub fn override_noise(program: &mut Program, spec: Option<&NoiseSpec>) {
    if let Some(spec) = spec {
        for layer in program.layers_mut() {
            layer.noise.spec.clone_from(spec);
        }
    }
}

/// Plans a program.
pub fn executor(program: Program, backend: Backend, global: &Global) -> Result<Executor, Failure> {
    Ok(Executor::on(backend, program, global.threads)?)
}

/// Whether a package was calibrated on synthetic inputs.
pub fn is_synthetic(package: &Package) -> bool {
    package.manifest.calibration.as_ref().is_some_and(|source| source.kind == "synthetic")
}

/// The number of training samples that a package was compiled to hold out.
pub fn compiled_holdout(package: &Package) -> usize {
    // More than memory can address is more than any data set has, and refused as such.
    usize::try_from(package.manifest.holdout).unwrap_or(usize::MAX)
}

/// The backbone's parameters after folding.
pub fn backbone_parameters(package: &Package) -> u64 {
    package.manifest.placement.as_ref().map_or(0, |placement| placement.backbone_parameters)
}

/// Lowers a module's denoisers to scheduled digital-tile programs; says what the passes warn of, and returns what they report.
pub fn lower_denoisers<'c>(
    context: &'c Context,
    module: &mut Module<'c>,
    weights: WeightStore,
    hardware: &Hardware,
    global: &Global,
) -> Result<Reports, Failure> {
    let pipeline = Pipeline::parse(&REGISTRY, "lower-denoisers")?;
    let mut cx = PassContext { weights, hardware: Some(hardware.clone()), ..PassContext::default() };
    run_pipeline(context, module, &pipeline, &mut cx, &RunOptions::default())?;
    for warning in cx.warnings {
        global.ui.warn(warning);
    }
    Ok(cx.reports)
}

/// A package's module with its denoisers lowered for a profile, and what the passes report.
pub fn lowered<'c>(
    context: &'c Context,
    package: &Package,
    path: &Path,
    hardware: &Hardware,
    global: &Global,
) -> Result<(Module<'c>, Reports), Failure> {
    let mut module = ir::parse(context, &package.module, &path.display().to_string())?;
    let reports = lower_denoisers(context, &mut module, package.weights(), hardware, global)?;
    Ok((module, reports))
}
