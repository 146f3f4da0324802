//! Passes by name, on the caller's own module and context.

use crate::{Error, Monitor, data};
use melior::ir::{Module, operation::OperationLike};
use mxc_compiler::{
    opt,
    pass::{PassContext, Pipeline, Reports, RunOptions, SampleSource, run::print_module, run_pipeline},
    passes::REGISTRY,
};
use mxc_runtime::{cost::CostModel, hardware::Hardware, store::WeightStore};
use std::sync::Arc;

/// A pass, or a named pipeline of passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassInfo {
    /// Its name in pipelines.
    pub name: &'static str,
    /// What it does, in one line.
    pub description: &'static str,
    /// Its options: key (a trailing `*` admits a family) and one line.
    pub options: &'static [(&'static str, &'static str)],
    /// The passes that it stands for, where it is a pipeline.
    pub pipeline: Option<&'static str>,
}

/// Every pass and named pipeline, in the order in which a network goes through them.
///
/// ```
/// assert!(mxc::passes::list().any(|pass| pass.name == "map-to-analog"));
/// ```
pub fn list() -> impl Iterator<Item = PassInfo> {
    let own = REGISTRY.passes.iter().map(|pass| PassInfo {
        name: pass.name,
        description: pass.description,
        options: pass.options,
        pipeline: None,
    });
    let upstream = REGISTRY.upstream.iter().map(|pass| PassInfo {
        name: pass.name,
        description: pass.description,
        options: &[],
        pipeline: None,
    });
    let aliases = REGISTRY.aliases.iter().map(|alias| PassInfo {
        name: alias.name,
        description: alias.description,
        options: &[],
        pipeline: Some(alias.pipeline),
    });
    own.chain(upstream).chain(aliases)
}

/// How passes are run.
#[derive(Clone, Debug, Default)]
pub struct PassOptions {
    /// The values of the module's globals.
    pub weights: WeightStore,
    /// The hardware profile of passes that lower to the digital tile; the paper's if `None`.
    pub hardware: Option<Hardware>,
    /// What passes that count energy count by; the profile's own figures if `None`.
    pub costs: Option<Arc<dyn CostModel>>,
    /// Runs mxc's verifier before the first and after every pass (MLIR's own always runs).
    pub verify_each: bool,
    /// The default seed of passes.
    pub seed: u64,
    /// Worker threads of passes that run the network; 0 is one per core.
    pub threads: usize,
}

/// What passes leave besides the module.
#[derive(Clone, Debug, Default)]
pub struct PassResults {
    /// The weights, as the passes changed them.
    pub weights: WeightStore,
    /// The denoisers' initial weights, if any were inserted.
    pub denoisers: WeightStore,
    /// What they measured and decided.
    pub reports: Reports,
}

/// Runs a pipeline, such as `canonicalize-graph,map-to-analog{keep-digital=fc*}`, on a module of the caller's. After an error the
/// module is as the failing pass left it. Warnings go to the monitor.
///
/// ```
/// # fn main() -> Result<(), mxc::Error> {
/// let context = mxc::Context::new();
/// let text = "func.func @main(%x: tensor<?x4xf32>) -> tensor<?x4xf32> { return %x : tensor<?x4xf32> }";
/// let mut module = melior::ir::Module::parse(&context, text).unwrap();
/// mxc::passes::run(&context, &mut module, "canonicalize-graph", &Default::default(), &mxc::Monitor::default())?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`Error::Pipeline`] where the text names no pass or option, [`Error::Pass`] which names the pass and the operation, or
/// [`Error::Cancelled`].
pub fn run<'c>(
    context: &'c melior::Context,
    module: &mut Module<'c>,
    pipeline: &str,
    options: &PassOptions,
    monitor: &Monitor<'_>,
) -> Result<PassResults, Error> {
    let pipeline = Pipeline::parse(&REGISTRY, pipeline)?;
    let mut cx = context_of(options);
    let verify_each = options.verify_each || cfg!(debug_assertions);
    let result =
        monitor.watching(|run| run_pipeline(context, module, &pipeline, &mut cx, &RunOptions { verify_each, ..run }));
    cx.warnings.iter().for_each(|warning| monitor.warn(warning));
    monitor.result(result)?;
    Ok(PassResults { weights: cx.weights, denoisers: cx.denoisers, reports: cx.reports })
}

/// What passes are given that somebody else runs one by one, on a module of theirs: they read weight files and data sets by their options.
pub fn context_of(options: &PassOptions) -> PassContext {
    PassContext {
        weights: options.weights.clone(),
        weight_loader: Some(Box::new(opt::load_weights)),
        samples: Some(samples(options.threads)),
        hardware: options.hardware.clone(),
        costs: options.costs.clone(),
        seed: options.seed,
        threads: options.threads,
        ..PassContext::default()
    }
}

/// A module's text; weights are globals without their values.
pub fn print(module: &Module<'_>) -> String {
    print_module(module, false)
}

/// A module as MLIR bytecode.
pub fn bytecode(module: &Module<'_>) -> Vec<u8> {
    module.as_operation().write_bytecode()
}

/// Reads the data sets that passes name by their option `data=`; pixels are scaled to 0..1.
pub fn samples(threads: usize) -> SampleSource {
    let threads = crate::threads(threads);
    Box::new(move |request| data::requested(request, threads))
}

/// Lowers a module's denoisers to scheduled digital-tile programs.
pub(crate) fn lower_denoisers<'c>(
    context: &'c melior::Context,
    module: &mut Module<'c>,
    weights: WeightStore,
    hardware: &Hardware,
    monitor: &Monitor<'_>,
) -> Result<Reports, Error> {
    let options = PassOptions { weights, hardware: Some(hardware.clone()), ..PassOptions::default() };
    Ok(run(context, module, "lower-denoisers", &options, monitor)?.reports)
}
