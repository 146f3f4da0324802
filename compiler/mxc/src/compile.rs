//! From a model to a package, or to the MLIR of a level.

use crate::{
    Data, Error, Model, Monitor, Package,
    data::{CALIBRATION_SAMPLES, SYNTHETIC_SAMPLES},
    passes,
};
use melior::ir::{Module, operation::OperationLike};
use mxc_compiler::{
    driver::{self, Init, Level, Record},
    import::{self, SourceInfo, SourceInput},
    pass::{Placement, Ranges, SpentEnergy, run::print_module},
    placement::{Kinds, Strategy},
};
use mxc_dialects::{noise::LayerNoise, share};
use mxc_runtime::{
    closed_form::Fitted, cost::CostModel, finetune::Recipe, hardware::Hardware, package::Preprocessing,
    store::WeightStore, task::Task,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// How pixels become a model's input; the model says its size and layout.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PreprocessOptions {
    /// Per channel, or once for all, subtracted after bytes were scaled to 0..1; none is 0.
    pub mean: Vec<f32>,
    /// Per channel, or once for all, divided by after the mean; none is 1. Must be positive.
    pub std: Vec<f32>,
    /// Scales images so that their shorter side has so many pixels.
    pub resize: Option<u32>,
    /// Then cuts out a centre of so many pixels each way.
    pub crop: Option<u32>,
    /// How `resize` interpolates: `bilinear` (which `None` is) or `bicubic`.
    pub interpolation: Option<String>,
}

/// How to compile.
///
/// ```
/// let options = mxc::CompileOptions { budget: 0.02, level: mxc::Level::Analog, ..Default::default() };
/// assert_eq!(options.denoiser, "any");
/// assert_eq!(mxc::CompileOptions::new(mxc::Recipe::Paper).denoiser, "paper");
/// ```
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// How far to go; [`Compiled::package`] needs [`Level::Denoise`], the default.
    pub level: Level,
    /// Denoiser parameters allowed, as a fraction of the backbone's.
    pub budget: f64,
    /// Every layer's noise.
    pub noise: LayerNoise,
    /// Which layers get denoisers.
    pub placement: Strategy,
    /// The denoiser's kind, such as `mean+affine`; by [`Strategy::Worth`] also `any`.
    pub denoiser: String,
    /// Whether the converters' ranges are equalized; takes data.
    pub equalize: bool,
    /// What reading layers more than once may add to the energy of the analog part, as a share; with 0 none is. Takes data.
    pub energy_budget: f64,
    /// Where the denoisers' weights come from.
    pub init: Init,
    /// The output that holds the logits; `None` is the first of floats.
    pub logits: Option<String>,
    /// Globs of layers that stay digital.
    pub keep_digital: Vec<String>,
    /// Calibration samples; `None` is 512, or 64 without data.
    pub samples: Option<usize>,
    /// The last so many training samples are kept out of calibration and fine-tuning.
    pub holdout: usize,
    /// From image bytes to the model's input.
    pub preprocessing: PreprocessOptions,
    /// The hardware profile.
    pub hardware: Hardware,
    /// What the energy budget is counted by; the profile's own figures if `None`. The package keeps its name only, among the options.
    pub costs: Option<Arc<dyn CostModel>>,
    /// The seed of every draw.
    pub seed: u64,
    /// Worker threads, on which results do not depend; 0 is one per core.
    pub threads: usize,
}

impl Default for CompileOptions {
    /// Those of [`Recipe::Best`].
    fn default() -> Self {
        Self::new(Recipe::Best)
    }
}

impl CompileOptions {
    /// A recipe's options: which denoisers, where, how they start, and whether ranges are equalized; a budget of 4 %, the default
    /// noise, seed 0.
    pub fn new(recipe: Recipe) -> Self {
        let (placement, denoiser, equalize, init) = match recipe {
            Recipe::Best => (Strategy::Worth, Kinds::ANY, true, Init::ClosedForm),
            Recipe::Cosine => (Strategy::Fill, "mean+affine", false, Init::Identity),
            Recipe::Paper => (Strategy::Greedy, "paper", false, Init::Identity),
        };
        Self {
            level: Level::Denoise,
            budget: 0.04,
            noise: LayerNoise::default(),
            placement,
            denoiser: denoiser.to_owned(),
            equalize,
            energy_budget: 0.0,
            init,
            logits: None,
            keep_digital: Vec::new(),
            samples: None,
            holdout: 0,
            preprocessing: PreprocessOptions::default(),
            hardware: Hardware::paper(),
            costs: None,
            seed: 0,
            threads: 0,
        }
    }
}

/// A compiled network.
///
/// ```
/// # fn main() -> Result<(), mxc::Error> {
/// let context = mxc::Context::new();
/// let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/models/resnet20.onnx");
/// let model = mxc::Model::from_file(&context, file.as_ref(), &Default::default())?;
/// let options = mxc::CompileOptions { level: mxc::Level::Analog, ..Default::default() };
/// let compiled = model.compile(&options, None, &mxc::Monitor::default())?;
/// assert!(compiled.ir().contains("analog.conv2d"));
/// # Ok(()) }
/// ```
pub struct Compiled<'c> {
    context: &'c melior::Context,
    inner: driver::Compiled<'c>,
    driven: driver::CompileOptions,
    level: Level,
    record: Record,
    skipped: Option<usize>,
}

impl<'c> Compiled<'c> {
    /// The level it was compiled to.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The module.
    pub fn module(&self) -> &Module<'c> {
        &self.inner.module
    }

    /// The module's text; weights are globals without their values.
    pub fn ir(&self) -> String {
        print_module(&self.inner.module, false)
    }

    /// The module as MLIR bytecode; weights are globals without their values.
    pub fn bytecode(&self) -> Vec<u8> {
        self.inner.module.as_operation().write_bytecode()
    }

    /// Puts the weights into the module, as `tosa.const`: its text is then complete.
    ///
    /// # Errors
    ///
    /// [`Error::Module`] where a weight does not fit its global.
    pub fn inline_weights(&mut self) -> Result<(), Error> {
        let weights = self.weights();
        import::inline_weights(self.context, &mut self.inner.module, &weights)
            .map_err(|message| Error::Module { file: self.record.model.display().to_string(), message })
    }

    /// Every weight by the name of its global: the backbone's and the denoisers'.
    pub fn weights(&self) -> WeightStore {
        self.inner.all_weights()
    }

    /// Where denoisers sit, and why; `None` below the denoise level.
    pub fn placement(&self) -> Option<&Placement> {
        self.inner.placement.as_ref()
    }

    /// How the converters' ranges were changed; `None` where they were not.
    pub fn ranges(&self) -> Option<Ranges> {
        self.inner.ranges
    }

    /// What the energy budget was spent on; `None` where there was none, or no data.
    pub fn energy(&self) -> Option<SpentEnergy> {
        self.inner.energy
    }

    /// How the denoisers were fitted; `None` where they were not.
    pub fn fitted(&self) -> Option<&Fitted> {
        self.inner.fitted.as_ref()
    }

    /// How many images calibration has left out; `None` unless [`Data::skip_bad`].
    pub fn skipped(&self) -> Option<usize> {
        self.skipped
    }

    /// Packs it: what is run, trained and evaluated from here on.
    ///
    /// # Errors
    ///
    /// [`Error::Options`] unless it was compiled to the denoise level.
    pub fn package(&self) -> Result<Package, Error> {
        if self.level != Level::Denoise {
            return Err(Error::Options(format!("a package is of the level denoise, not {}", self.level)));
        }
        let package = driver::package(&self.inner, &self.driven, self.record.clone())?;
        Ok(Package::of(package, PathBuf::from("the compiled package"), None))
    }
}

impl std::fmt::Debug for Compiled<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").field("level", &self.level).finish_non_exhaustive()
    }
}

pub(crate) fn compile<'c>(
    model: Model<'c>,
    options: &CompileOptions,
    data: Option<&Data>,
    monitor: &Monitor<'_>,
) -> Result<Compiled<'c>, Error> {
    monitor.check()?;
    model.choose_logits(options.logits.as_deref(), monitor)?;
    if options.level == Level::Denoise {
        check_samples(&model.path, model.source())?;
    }
    let preprocessing = preprocessing(&options.preprocessing, data.is_some(), model.source())?;
    let Model { context, imported, path } = model;
    let mut driven = driver::CompileOptions {
        budget: options.budget,
        noise: options.noise.clone(),
        placement: options.placement.clone(),
        denoiser: options.denoiser.clone(),
        equalize: options.equalize,
        energy_budget: options.energy_budget,
        init: options.init,
        keep_digital: options.keep_digital.clone(),
        hardware: options.hardware.clone(),
        costs: options.costs.clone(),
        seed: options.seed,
        threads: options.threads,
        samples: options.samples.unwrap_or(if data.is_some() { CALIBRATION_SAMPLES } else { SYNTHETIC_SAMPLES }),
        task: Task::default(),
    };
    if data.is_none() && options.level >= Level::Denoise {
        driven.without_data().iter().for_each(|given_up| monitor.warn(given_up));
    }
    let (samples, left_out) = match data {
        Some(data) => {
            let (samples, left_out) =
                data.calibration(options.holdout, &preprocessing, crate::threads(options.threads))?;
            (Some(samples), Some(left_out))
        }
        None => (None, None),
    };
    let compiled = monitor.watching(|run| driver::compile(context, imported, &driven, options.level, samples, &run));
    let mut skipped = None;
    if let Some(left_out) = left_out {
        let left_out = left_out.borrow();
        left_out.tell(monitor);
        skipped = left_out.count();
    }
    let mut inner = monitor.result(compiled)?;
    inner.warnings.iter().for_each(|warning| monitor.warn(warning));
    if options.level == Level::Dtile {
        let weights = inner.all_weights();
        passes::lower_denoisers(context, &mut inner.module, weights, &options.hardware, monitor)?;
    }
    let record = Record { preprocessing, model: path, holdout: options.holdout, options: recorded(options, &driven) };
    Ok(Compiled { context, inner, driven, level: options.level, record, skipped })
}

/// The options that shaped a package.
fn recorded(options: &CompileOptions, driven: &driver::CompileOptions) -> Vec<String> {
    let mut recorded = vec![
        format!("budget={}", share::show(options.budget)),
        format!("noise={}", options.noise.spec),
        format!("noise-scale={}", options.noise.scale),
        format!("noise-reference={}", options.noise.reference),
        format!("placement={}", driven.placement),
        format!("denoiser={}", driven.denoiser),
        format!("equalize={}", driven.equalize),
        format!("init={}", driven.init),
        format!("samples={}", driven.samples),
        format!("seed={}", options.seed),
        format!("holdout={}", options.holdout),
    ];
    if driven.energy_budget > 0.0 {
        recorded.push(format!("energy-budget={}", share::show(driven.energy_budget)));
        recorded.extend(driven.costs.as_ref().map(|costs| format!("costs={}", costs.name())));
    }
    recorded.extend(options.logits.as_ref().map(|name| format!("logits={name}")));
    if !options.keep_digital.is_empty() {
        recorded.push(format!("keep-digital={}", options.keep_digital.join(",")));
    }
    recorded
}

/// A package is calibrated, trained and evaluated on samples of floats, or on images as bytes, one at a time.
fn check_samples(model: &Path, source: &SourceInfo) -> Result<(), Error> {
    let fits = |input: &SourceInput| input.is_float || (input.is_bytes && source.inputs.len() == 1 && is_image(input));
    if let Some(input) = source.inputs.iter().find(|input| !fits(input)) {
        return Err(Error::Options(format!(
            "{}: input '{}' holds integers; compile a network whose inputs are floats, or whose only one is an image of bytes \
             (mxc run executes any)",
            model.display(),
            input.name
        )));
    }
    let several = |input: &&SourceInput| input.shape.first() != Some(&Some(1));
    if let Some(input) = source.inputs.iter().find(several).filter(|_| source.whole) {
        return Err(Error::Options(format!(
            "{}: it computes across the first axis of its input '{}', so that its samples cannot be told apart; export it with \
             a dynamic batch or a batch of 1",
            model.display(),
            input.name
        )));
    }
    Ok(())
}

/// Whether an input may be a batch of images.
fn is_image(input: &SourceInput) -> bool {
    matches!(input.shape.as_slice(), [_, Some(_), Some(_), Some(_)])
}

/// How samples become the model's only input: image bytes if it is an image, else numbers of its shape.
fn preprocessing(options: &PreprocessOptions, with_data: bool, source: &SourceInfo) -> Result<Preprocessing, Error> {
    let refused = |message: &str| Err(Error::Options(message.to_owned()));
    let mut result = Preprocessing {
        mean: options.mean.clone(),
        std: options.std.clone(),
        resize: options.resize,
        crop: options.crop,
        interpolation: match options.resize {
            Some(_) => options.interpolation.clone().unwrap_or("bilinear".to_owned()),
            None => String::new(),
        },
        ..Preprocessing::default()
    };
    match source.inputs.as_slice() {
        [input] => match input.shape.as_slice() {
            [_, Some(a), Some(b), Some(c)] => {
                // Where no convolution reads the input itself, few channels tell.
                let last = input.channel_axis.map_or(*a > 4 && *c <= 4, |axis| axis == 3);
                let (height, width, channels) = if last { (a, b, c) } else { (b, c, a) };
                result.layout = if last { "NHWC" } else { "NCHW" }.to_owned();
                result.height = *height as u32;
                result.width = *width as u32;
                result.channels = *channels as u32;
                result.bytes = input.is_bytes;
            }
            shape => result.shape = shape.iter().skip(1).map(|size| size.unwrap_or(0) as u64).collect(),
        },
        _ if with_data => return refused("--data needs a model with one input"),
        _ => {}
    }
    if result.bytes && !(result.mean.is_empty() && result.std.is_empty()) {
        return refused("--mean, --std: the model takes bytes, 0 to 255, and normalises them itself; leave them out");
    }
    for (option, values) in [("--mean", &result.mean), ("--std", &result.std)] {
        let fits = values.is_empty() || values.len() == 1 || values.len() == result.channels as usize;
        if !fits {
            return refused(&format!("{option}: {} values for {} channels", values.len(), result.channels));
        }
    }
    if result.std.iter().any(|&std| std <= 0.0) {
        return refused("--std: values must be positive");
    }
    Ok(result)
}
