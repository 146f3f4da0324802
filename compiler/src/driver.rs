//! What `mxc compile` does, as functions: from a model file to a package.
//!
//! ```text
//! model.onnx → import → canonicalize-graph → map-to-analog → annotate-noise → rank-sensitivity → equalize-ranges →
//!     (spend-energy →) insert-denoisers → fit-denoisers → Package
//! ```

use crate::{
    import::{self, ImportOptions, Imported},
    measuring::Few,
    pass::{
        CalibrationRun, Options, PassContext, Pipeline, Placement, Ranges, RunOptions, SampleSource, SpentEnergy,
        run::print_module, run_pipeline,
    },
    passes::REGISTRY,
    placement::{Kinds, Strategy},
};
use melior::{
    Context,
    ir::{Module, OperationRef, operation::OperationMutLike},
};
use mxc_dialects::{ffi, ir, noise::LayerNoise, share};
use mxc_runtime::{
    closed_form::Fitted,
    cost::CostModel,
    hardware::Hardware,
    package::{self, Manifest, Package},
    store::WeightStore,
    task::Task,
};
use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

/// Why a model does not compile. Each is one message that names the node, file or option.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The model cannot be imported.
    #[error(transparent)]
    Import(#[from] import::ImportError),
    /// A pass failed.
    #[error(transparent)]
    Pass(#[from] crate::pass::RunError),
    /// The package could not be run.
    #[error("the model cannot be executed: {0}")]
    Program(#[from] crate::load::LoadError),
    /// The program does not fit a package.
    #[error("the model cannot be packaged: {0}")]
    Package(#[from] mxc_runtime::program::ProgramError),
}

/// How to compile.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// Denoiser parameters allowed, as a fraction of the backbone's.
    pub budget: f64,
    /// Every layer's noise.
    pub noise: LayerNoise,
    /// Which layers get denoisers.
    pub placement: Strategy,
    /// The denoiser's kind, such as `mean+affine`.
    pub denoiser: String,
    /// Whether the converters' ranges are equalized.
    pub equalize: bool,
    /// What reading layers more than once may add to the energy of the analog part, as a share; with 0 none is.
    pub energy_budget: f64,
    /// Where the denoisers' weights come from.
    pub init: Init,
    /// Globs of layers that stay digital.
    pub keep_digital: Vec<String>,
    /// The hardware profile.
    pub hardware: Hardware,
    /// What the energy budget is counted by; the profile's own figures if `None`.
    pub costs: Option<Arc<dyn CostModel>>,
    /// The seed of every draw.
    pub seed: u64,
    /// Worker threads; 0 is one per core.
    pub threads: usize,
    /// Calibration samples.
    pub samples: usize,
    /// What the network is for.
    pub task: Task,
}

impl CompileOptions {
    /// Gives up what is chosen by the loss on data, where there are none: on random inputs it would fit random inputs. Says what.
    pub fn without_data(&mut self) -> Vec<String> {
        let mut given_up = Vec::new();
        if self.equalize || self.init == Init::ClosedForm {
            (self.equalize, self.init) = (false, Init::Identity);
            given_up.push("no data: converter ranges are not equalized and denoisers start as the identity".to_owned());
        }
        if self.energy_budget > 0.0 {
            self.energy_budget = 0.0;
            given_up.push("no data: every layer is read once".to_owned());
        }
        if matches!(self.placement, Strategy::Worth) {
            self.placement = Strategy::Fill;
            if self.denoiser == Kinds::ANY {
                Kinds::IN_ORDER.clone_into(&mut self.denoiser);
            }
            let Self { placement, denoiser, .. } = self;
            given_up
                .push(format!("no data: denoisers {denoiser} are placed by {placement}, not by what they are worth"));
        }
        given_up
    }
}

/// Where the weights of fresh denoisers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// A fresh denoiser changes nothing.
    Identity,
    /// Fitted to the clean network's outputs, where there are data.
    ClosedForm,
}

impl Init {
    /// Every one with its name and what it means in a few words.
    pub const NAMES: [(Self, &'static str, &'static str); 2] = [
        (Self::Identity, "identity", "A fresh denoiser changes nothing"),
        (Self::ClosedForm, "closed-form", "Fitted to the clean network's outputs, where there are data"),
    ];
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Self::NAMES.iter().filter(|(own, ..)| own == self).try_for_each(|(_, name, _)| f.write_str(name))
    }
}

/// A start of denoisers that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no start of denoisers; there are identity and closed-form")]
pub struct UnknownInit(String);

impl FromStr for Init {
    type Err = UnknownInit;

    fn from_str(text: &str) -> Result<Self, UnknownInit> {
        let found = Self::NAMES.iter().find(|(_, name, _)| *name == text).map(|(own, ..)| *own);
        found.ok_or_else(|| UnknownInit(text.to_owned()))
    }
}

/// An IR level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// TOSA after `canonicalize-graph`.
    Graph,
    /// MVMs on analog tiles, with noise.
    Analog,
    /// Denoisers inserted.
    Denoise,
    /// Denoisers as digital-tile programs.
    Dtile,
}

impl Level {
    /// Every level, in the order in which a network goes through them.
    pub const ALL: [Self; 4] = [Self::Graph, Self::Analog, Self::Denoise, Self::Dtile];

    /// The level's name, such as `graph`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Graph => "graph",
            Self::Analog => "analog",
            Self::Denoise => "denoise",
            Self::Dtile => "dtile",
        }
    }

    /// What a module of the level holds, in a few words.
    pub fn description(self) -> &'static str {
        match self {
            Self::Graph => "TOSA after canonicalize-graph",
            Self::Analog => "MVMs on analog tiles, with noise",
            Self::Denoise => "Denoisers inserted",
            Self::Dtile => "Denoisers as digital-tile programs",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A level that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no level; there are {known}", known = Level::ALL.map(Level::name).join(", "))]
pub struct UnknownLevel(String);

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        Self::ALL.into_iter().find(|level| level.name() == text).ok_or_else(|| UnknownLevel(text.to_owned()))
    }
}

/// A compiled network.
pub struct Compiled<'c> {
    /// The module at the level asked for.
    pub module: Module<'c>,
    /// The model as imported, module left out: its source and signature.
    pub source: import::SourceInfo,
    /// The backbone's weights.
    pub weights: WeightStore,
    /// The denoisers' initial weights.
    pub denoisers: WeightStore,
    /// What calibration ran on; `None` below the denoise level, or without analog layers.
    pub calibration: Option<CalibrationRun>,
    /// How the converters' ranges were changed, if they were.
    pub ranges: Option<Ranges>,
    /// How often layers are read, if that was chosen.
    pub energy: Option<SpentEnergy>,
    /// How the denoisers were fitted, if they were.
    pub fitted: Option<Fitted>,
    /// Where denoisers sit; `None` below the denoise level.
    pub placement: Option<Placement>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Compiled<'_> {
    /// Every weight, backbone and denoisers; values are shared.
    pub fn all_weights(&self) -> WeightStore {
        self.weights.union(&self.denoisers)
    }
}

/// Imports a model by its file name: `.mlir` is a TOSA module, everything else ONNX.
pub fn import<'c>(
    context: &'c Context,
    model: &Path,
    options: &ImportOptions,
) -> Result<Imported<'c>, import::ImportError> {
    match model.extension().and_then(|extension| extension.to_str()) {
        Some("mlir" | "mlirbc") => import::mlir(context, model),
        _ => import::onnx(context, model, options),
    }
}

/// The passes of `mxc compile` up to a level, at most [`Level::Denoise`]: `lower-denoisers` goes on from there.
pub fn pipeline(options: &CompileOptions, level: Level) -> Pipeline {
    let pairs = |entries: &[(&str, &str)]| {
        Options::new(entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
    };
    let mut pipeline = Pipeline::new(&REGISTRY).then("canonicalize-graph", Options::default());
    if level >= Level::Analog {
        let mut map = Options::default();
        if !options.keep_digital.is_empty() {
            map.push("keep-digital", options.keep_digital.join(","));
        }
        let LayerNoise { spec, scale, reference } = &options.noise;
        pipeline = pipeline.then("map-to-analog", map).then(
            "annotate-noise",
            pairs(&[("spec", &spec.to_string()), ("scale", &scale.to_string()), ("reference", &reference.to_string())]),
        );
    }
    if level >= Level::Denoise {
        let samples = options.samples.to_string();
        let seed = options.seed.to_string();
        let budget = share::show(options.budget);
        let placement = options.placement.to_string();
        let measured = pairs(&[("samples", samples.as_str()), ("seed", seed.as_str())]);
        // A loss decides by these, each time for the whole network: few must do, and how many, the passes know.
        let deciding = if options.samples < Few::MOST { measured.clone() } else { pairs(&[("seed", seed.as_str())]) };
        pipeline = pipeline.then("rank-sensitivity", measured);
        if options.equalize {
            pipeline = pipeline.then("equalize-ranges", deciding.clone());
        }
        if options.energy_budget > 0.0 {
            let mut energy = deciding.clone();
            energy.push("energy-budget", share::show(options.energy_budget));
            pipeline = pipeline.then("spend-energy", energy);
        }
        if matches!(options.placement, Strategy::Worth) {
            let mut worth = deciding.clone();
            worth.push("budget", budget.clone());
            worth.push("kind", options.denoiser.clone());
            pipeline = pipeline.then("estimate-worth", worth);
        }
        pipeline = pipeline.then(
            "insert-denoisers",
            pairs(&[
                ("budget", budget.as_str()),
                ("placement", placement.as_str()),
                ("kind", options.denoiser.as_str()),
                ("seed", seed.as_str()),
            ]),
        );
        if options.init == Init::ClosedForm {
            pipeline = pipeline.then("fit-denoisers", deciding);
        }
    }
    pipeline
}

/// Folds the constants of a module at the graph level: other front ends leave batch normalization spelled out, and the
/// executor computes nothing on constants alone. A module of a later level stays as it is.
pub fn fold_constants<'c>(context: &'c Context, imported: &mut Imported<'c>) -> Result<(), CompileError> {
    let block = ir::main_function(&imported.module).and_then(ir::entry_block);
    let is_graph = |operation: &OperationRef<'_, '_>| {
        let name = ir::op_name(operation);
        ["tosa.", "func.", "ml_program."].iter().any(|dialect| name.starts_with(dialect))
    };
    if !block.is_some_and(|block| ir::block_ops(block).iter().all(is_graph)) {
        return Ok(());
    }
    let mut cx = PassContext { weights: std::mem::take(&mut imported.weights), ..PassContext::default() };
    let pipeline = Pipeline::new(&REGISTRY).then("canonicalize-graph", Options::default());
    run_pipeline(context, &mut imported.module, &pipeline, &mut cx, &RunOptions::default())?;
    imported.weights = cx.weights;
    Ok(())
}

/// Compiles an imported model up to a level, as far as [`pipeline`] goes. `samples` gives calibration data; `None` calibrates on synthetic inputs.
pub fn compile<'c>(
    context: &'c Context,
    imported: Imported<'c>,
    options: &CompileOptions,
    level: Level,
    samples: Option<SampleSource>,
    run: &RunOptions<'_>,
) -> Result<Compiled<'c>, CompileError> {
    let Imported { mut module, weights, source, .. } = imported;
    if let Some(main) = ir::main_function(&module) {
        ffi::as_mut(main).set_attribute(ir::TASK_ATTRIBUTE, ir::string(context, &options.task.to_string()));
    }
    let mut cx = PassContext {
        weights,
        samples,
        hardware: Some(options.hardware.clone()),
        costs: options.costs.clone(),
        seed: options.seed,
        threads: options.threads,
        ..PassContext::default()
    };
    run_pipeline(context, &mut module, &pipeline(options, level), &mut cx, run)?;
    if level >= Level::Denoise {
        // What is packaged can be run; without layers no pass has tried.
        crate::load::program(&module, &cx.weights.union(&cx.denoisers))?;
    }
    Ok(Compiled {
        module,
        source,
        weights: cx.weights,
        denoisers: cx.denoisers,
        calibration: cx.reports.calibration,
        ranges: cx.reports.ranges,
        energy: cx.reports.energy,
        fitted: cx.reports.fitted,
        placement: cx.reports.placement,
        warnings: cx.warnings,
    })
}

/// What a package records besides the network.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// From image bytes to the model's input.
    pub preprocessing: package::Preprocessing,
    /// The model's path as given.
    pub model: PathBuf,
    /// The last so many training samples are kept out of calibration and fine-tuning.
    pub holdout: usize,
    /// Options that shaped the package, as `name=value`.
    pub options: Vec<String>,
}

/// Packs a network compiled to the denoise level. Errors say what cannot be executed.
pub fn package(compiled: &Compiled<'_>, options: &CompileOptions, record: Record) -> Result<Package, CompileError> {
    let placement = compiled.placement.clone().unwrap_or_default();
    let program = crate::load::program(&compiled.module, &compiled.all_weights())?;
    let package = Package::new(
        Manifest {
            format_version: package::FORMAT_VERSION,
            required_features: record.preprocessing.bytes.then(|| package::BYTE_INPUT.to_owned()).into_iter().collect(),
            hardware: options.hardware.to_toml(),
            noise: Some((&options.noise).into()),
            calibration: compiled.calibration.map(CalibrationRun::to_manifest),
            preprocessing: Some(record.preprocessing),
            placement: Some(placed(&placement, options)),
            provenance: Some(package::Provenance {
                source: record.model.display().to_string(),
                source_sha256: compiled.source.sha256.clone(),
                tool_version: env!("CARGO_PKG_VERSION").to_owned(),
                options: record.options,
                parent_sha256: None,
            }),
            training: None,
            closed_form: compiled.fitted.as_ref().map(|fitted| (fitted, options.seed).into()),
            holdout: record.holdout as u64,
            task: options.task.to_string(),
        },
        print_module(&compiled.module, true).into_bytes(),
        &program,
        compiled.weights.clone(),
        compiled.denoisers.clone(),
    )?;
    Ok(package)
}

/// The manifest's form of a placement.
pub fn placed(placement: &Placement, options: &CompileOptions) -> package::Placement {
    package::Placement {
        kind: options.placement.to_string(),
        denoiser: options.denoiser.clone(),
        budget_percent: options.budget * 100.0,
        backbone_parameters: placement.backbone_parameters,
        denoiser_parameters: placement.denoiser_parameters,
        layers: placement
            .layers
            .iter()
            .map(|layer| package::PlacedLayer {
                name: layer.layer.clone(),
                channels: layer.channels as u64,
                reference: layer.reference,
                gradient_norm: layer.gradient_norm,
                rank: layer.rank.map(|rank| rank as u64 + 1),
                denoisers: layer.denoisers.clone(),
                denoiser_parameters: layer.parameters,
                chosen: layer.chosen,
                reason: layer.reason.clone(),
            })
            .collect(),
    }
}
