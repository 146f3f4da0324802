//! From a package to something that runs.

use super::{Failure, Global};
use mxc_dialects::ir;
use mxc_runtime::{
    exec::Executor,
    load,
    package::{Noise, Package},
    program::Program,
    store::WeightStore,
};
use std::path::Path;

/// Reads MLIR (bytecode or text) into a program.
pub fn program(module: &[u8], name: &str, weights: &WeightStore) -> Result<Program, Failure> {
    let context = mxc_dialects::new_context();
    let module = ir::parse(&context, module, name)?;
    Ok(load::program(&module, weights)?)
}

/// A package's program.
pub fn packaged(package: &Package, path: &Path) -> Result<Program, Failure> {
    program(&package.module, &path.display().to_string(), &package.weights())
}

/// The noise of `--sigma` or `--noise`, if one is given.
pub fn noise_option(sigma: Option<f64>, noise: Option<String>) -> Option<String> {
    noise.or_else(|| sigma.map(gaussian))
}

/// The paper's Gaussian at a σ.
pub fn gaussian(sigma: f64) -> String {
    format!("gaussian(sigma={}%)", percent(sigma))
}

/// A fraction in percent, without the digits that binary fractions add.
pub fn percent(fraction: f64) -> f64 {
    (fraction * 100.0 * 1e9).round() / 1e9
}

/// The noise a package was compiled for.
pub fn packaged_noise(package: &Package) -> Noise {
    package.manifest.noise.clone().unwrap_or_default()
}

/// Replaces every layer's noise by `spec`, if one is given.
pub fn override_noise(program: &mut Program, spec: Option<&str>) {
    if let Some(spec) = spec {
        for layer in &mut program.layers {
            spec.clone_into(&mut layer.noise);
        }
    }
}

/// Plans a program.
pub fn executor(program: Program, global: &Global) -> Result<Executor, Failure> {
    Ok(Executor::new(program, global.threads)?)
}
