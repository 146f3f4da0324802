//! Options of what needs the compiler.

use crate::{Common, Noise, noise_help};
use bytesize::ByteSize;
use clap::{
    Args,
    builder::{BoolishValueParser, PossibleValue, PossibleValuesParser, TypedValueParser},
};
use mxc::{
    CalibrateOptions, CompileOptions, Error, ExportOptions, FinetuneOptions, Hardware, ImportOptions, Init, LayerNoise,
    Level, Loss, NoiseSpec, PreprocessOptions, Recipe, Reference, Scale, SessionOptions, Strategy,
    compiler::placement::Kinds,
    dialects::denoise::Kind,
    spec::{noise::NoiseError, share},
};
use std::{path::PathBuf, str::FromStr};

/// How a model's file is read.
#[derive(Clone, Debug, Default, Args)]
pub struct Import {
    /// The shape of an input whose dimensions the model leaves open; it pins a batch that the network is made for
    #[arg(long, value_name = "NAME=1,3,H,W", value_parser = input_shape)]
    input_shape: Vec<(String, Vec<usize>)>,
    /// The most memory for constants that an ONNX model computes, such as 4GiB [default: 1GiB, less for a small file]
    #[arg(long, value_name = "BYTES")]
    max_constant_bytes: Option<ByteSize>,
}

impl Import {
    /// The importer's options.
    pub fn options(&self) -> ImportOptions {
        ImportOptions {
            input_shapes: self.input_shape.iter().cloned().collect(),
            max_constant_bytes: self.max_constant_bytes.map(|size| size.as_u64()),
            ..ImportOptions::default()
        }
    }
}

/// `NAME=1,3,H,W`.
fn input_shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let parsed = text.split_once('=').and_then(|(name, sizes)| {
        let sizes: Option<Vec<usize>> = sizes.split(',').map(|size| size.trim().parse().ok()).collect();
        Some((name.to_owned(), sizes.filter(|sizes| !sizes.contains(&0))?))
    });
    parsed.ok_or_else(|| "write NAME=1,3,H,W".to_owned())
}

/// How pixels become inputs; kept in the package.
#[derive(Clone, Debug, Default, Args)]
pub struct Preprocess {
    /// Mean per channel, subtracted after scaling bytes to 0..1
    #[arg(long, value_name = "F,…", value_delimiter = ',')]
    mean: Vec<f32>,
    /// Standard deviation per channel, divided by after the mean
    #[arg(long, value_name = "F,…", value_delimiter = ',')]
    std: Vec<f32>,
    /// Scale images so that their shorter side is N pixels
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    resize: Option<u32>,
    /// Then cut out the centre N×N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    crop: Option<u32>,
    /// How --resize interpolates: bilinear or bicubic, both antialiased [default: bilinear]
    #[arg(long, value_name = "NAME", value_parser = ["bilinear", "bicubic"], requires = "resize")]
    interpolation: Option<String>,
}

impl Preprocess {
    fn options(&self) -> PreprocessOptions {
        PreprocessOptions {
            mean: self.mean.clone(),
            std: self.std.clone(),
            resize: self.resize,
            crop: self.crop,
            interpolation: self.interpolation.clone(),
        }
    }
}

/// A hardware profile.
#[derive(Clone, Debug, Default, Args)]
pub struct Profile {
    /// Hardware profile (TOML) [default: the package's]
    #[arg(long, value_name = "FILE")]
    hardware: Option<PathBuf>,
}

impl Profile {
    /// The profile, if one is named.
    ///
    /// # Errors
    ///
    /// [`Error::Hardware`] where its file is none.
    pub fn load(&self) -> Result<Option<Hardware>, Error> {
        Ok(self.hardware.as_deref().map(Hardware::load).transpose()?)
    }
}

/// One of an enumeration's words.
fn words<T>(words: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = NoiseError> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|word| word.parse::<T>())
}

/// One of the starts of denoisers.
fn inits() -> impl TypedValueParser<Value = Init> {
    PossibleValuesParser::new(Init::NAMES.map(|(_, name, meaning)| PossibleValue::new(name).help(meaning)))
        .try_map(|word| word.parse::<Init>())
}

/// One of the IR's levels.
fn levels() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(Level::ALL.map(|level| PossibleValue::new(level.name()).help(level.description())))
        .try_map(|word| word.parse::<Level>())
}

/// How to compile.
#[derive(Clone, Debug, Args)]
pub struct Compile {
    /// Denoiser parameters allowed, as a share of the backbone's
    #[arg(long, value_name = "P%", default_value = "4%", value_parser = share::parse_positive)]
    budget: f64,
    /// Calibration samples [default: 512; 64 synthetic ones without data]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Standard deviation of Gaussian noise, relative to the layer's magnitude [default: 6%]
    #[arg(long, value_name = "S%", value_parser = share::parse_positive, conflicts_with = "noise")]
    sigma: Option<f64>,
    #[arg(long, value_name = "SPEC", help = noise_help("Noise of the layers"))]
    noise: Option<NoiseSpec>,
    /// The magnitude that the noise is relative to
    #[arg(long, value_name = "NAME", default_value_t = LayerNoise::default().reference, value_parser = words::<Reference>(Reference::WORDS))]
    noise_reference: Reference,
    /// What the magnitude is taken of
    #[arg(long, value_name = "NAME", default_value_t = LayerNoise::default().scale, value_parser = words::<Scale>(Scale::WORDS))]
    noise_scale: Scale,
    /// best: what takes most of the loss away within the budget, of any kind, fitted in closed form behind equalized converter
    /// ranges; paper: the paper's block and placement, and nothing else. The next four options change parts
    #[arg(long, value_name = "NAME", default_value = "best", value_parser = ["best", "paper"])]
    pub recipe: String,
    /// Where denoisers go.
    #[arg(long, value_name = "HOW", help = format!("Where denoisers go: {} [default: the recipe's]", Strategy::choices()))]
    placement: Option<Strategy>,
    /// The denoisers' kind.
    #[arg(long, value_name = "KIND", help = format!("The denoiser: {}; by --placement worth also any [default: the recipe's]", Kind::choices()))]
    denoiser: Option<String>,
    /// Whether output channels are scaled towards their converters' full scale, where there are data [default: the recipe's]
    #[arg(long, value_name = "YES", value_parser = BoolishValueParser::new())]
    equalize: Option<bool>,
    /// Reads layers more than once and takes the mean, or computes them digitally, where that helps most: what it may add to the energy
    /// of the analog layers, such as +5%; takes data
    #[arg(long, value_name = "P%", default_value = "0%", value_parser = share::parse_positive)]
    energy_budget: f64,
    /// Where the denoisers' weights come from [default: the recipe's]
    #[arg(long, value_name = "HOW", value_parser = inits())]
    init: Option<Init>,
    /// The output that holds the logits [default: the first of floats]
    #[arg(long, value_name = "NAME")]
    logits: Option<String>,
    /// Keep the last N training samples out of calibration and fine-tuning
    #[arg(long, value_name = "N", default_value_t = 0)]
    holdout: usize,
    /// Layers that stay on the digital side
    #[arg(long, value_name = "GLOB")]
    keep_digital: Vec<String>,
    /// Hardware profile (TOML) [default: the paper's]
    #[arg(long, value_name = "FILE")]
    pub hardware: Option<PathBuf>,
    /// Give the MLIR of a level instead of a package
    #[arg(long, value_name = "LEVEL", value_parser = levels())]
    pub emit: Option<Level>,
    #[command(flatten)]
    preprocess: Preprocess,
}

impl Compile {
    /// The options of the compilation.
    ///
    /// # Errors
    ///
    /// [`Error::Hardware`] where the profile's file is none, [`Error::Options`] where the recipe is none.
    pub fn options(&self, common: &Common) -> Result<CompileOptions, Error> {
        let spec = self.noise.clone().or_else(|| self.sigma.map(NoiseSpec::gaussian));
        let recipe = CompileOptions::new(self.recipe.parse().map_err(Error::Options)?);
        let placement = self.placement.clone().unwrap_or(recipe.placement);
        // A placement that chooses no kinds needs some.
        let in_order = recipe.denoiser == Kinds::ANY && !matches!(placement, Strategy::Worth);
        let denoiser = if in_order { Kinds::IN_ORDER.to_owned() } else { recipe.denoiser };
        Ok(CompileOptions {
            level: self.emit.unwrap_or(Level::Denoise),
            budget: self.budget,
            noise: LayerNoise {
                spec: spec.unwrap_or(LayerNoise::default().spec),
                scale: self.noise_scale,
                reference: self.noise_reference,
            },
            placement,
            denoiser: self.denoiser.clone().unwrap_or(denoiser),
            equalize: self.equalize.unwrap_or(recipe.equalize),
            energy_budget: self.energy_budget,
            init: self.init.unwrap_or(recipe.init),
            logits: self.logits.clone(),
            keep_digital: self.keep_digital.clone(),
            samples: self.samples,
            holdout: self.holdout,
            preprocessing: self.preprocess.options(),
            hardware: self.hardware.as_deref().map(Hardware::load).transpose()?.unwrap_or_else(Hardware::paper),
            costs: None,
            seed: common.seed,
            threads: common.threads(),
        })
    }
}

/// How to calibrate.
#[derive(Clone, Debug, Args)]
pub struct Calibrate {
    /// Samples, half of which judge what the others propose [default: 256, fewer of large images]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    samples: Option<u32>,
    /// Whether the converters' ranges are equalized anew
    #[arg(long, value_name = "YES", default_value = "yes", action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    equalize: bool,
    /// Keep the last N training samples out [default: as compiled]
    #[arg(long, value_name = "N")]
    holdout: Option<usize>,
}

impl Calibrate {
    /// Those of the session that is calibrated.
    pub fn session(&self, common: &Common) -> SessionOptions {
        SessionOptions { threads: common.threads(), ..SessionOptions::default() }
    }

    /// The options of the calibration.
    pub fn options(&self, common: &Common) -> CalibrateOptions {
        CalibrateOptions {
            samples: self.samples.map(|samples| samples as usize),
            equalize: self.equalize,
            holdout: self.holdout,
            seed: common.seed,
        }
    }
}

/// How to fine-tune.
#[derive(Clone, Debug, Args)]
pub struct Finetune {
    /// best: distill, few images moved and blended, Adam 1e-2 decaying to 0, batches of 32, noise of any level up to 1.5 times; paper: Adam 1e-3, constant;
    /// cosine: Adam 1e-2 decaying to 0 [default: paper for the denoiser paper, else best]
    #[arg(long, value_name = "NAME", value_parser = recipes())]
    recipe: Option<Recipe>,
    /// What to train towards: cross-entropy with the labels, or distill, the clean model's own outputs (no labels needed)
    /// [default: the recipe's]
    #[arg(long, value_name = "NAME", value_parser = losses())]
    loss: Option<Loss>,
    /// How much it counts, beside the loss, that layers are given what the clean network gives them, up to a gain
    #[arg(long, value_name = "W", default_value_t = 0.0)]
    match_features: f64,
    /// Use only the first N training samples
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Passes over the data [default: the recipe's: 5, by best more of few images]
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// Learning rate [default: the recipe's]
    #[arg(long, value_name = "F")]
    lr: Option<f64>,
    /// Samples a step [default: the recipe's, 32 or 128]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    #[command(flatten)]
    noise: Noise,
    /// Keep the last N training samples out [default: as compiled]
    #[arg(long, value_name = "N")]
    holdout: Option<usize>,
    /// Go on from the checkpoint
    #[arg(long)]
    resume: bool,
}

/// One of the recipes.
fn recipes() -> impl TypedValueParser<Value = Recipe> {
    PossibleValuesParser::new(["best", "paper", "cosine"]).try_map(|word| word.parse::<Recipe>())
}

/// One of the losses.
fn losses() -> impl TypedValueParser<Value = Loss> {
    PossibleValuesParser::new(["cross-entropy", "distill"]).try_map(|word| word.parse::<Loss>())
}

impl Finetune {
    /// The options of the training, whose state is kept in `checkpoint`.
    pub fn options(&self, checkpoint: Option<PathBuf>, common: &Common) -> FinetuneOptions {
        FinetuneOptions {
            recipe: self.recipe,
            loss: self.loss,
            learning_rate: self.lr,
            features: self.match_features,
            epochs: self.epochs,
            batch: self.batch,
            limit: self.limit,
            holdout: self.holdout,
            seed: common.seed,
            checkpoint,
            resume: self.resume,
        }
    }

    /// Those of the session that is trained.
    pub fn session(&self, common: &Common) -> SessionOptions {
        SessionOptions { threads: common.threads(), noise: self.noise.spec(), ..SessionOptions::default() }
    }
}

/// How to export.
#[derive(Clone, Debug, Default, Args)]
pub struct Export {
    /// The source ONNX file [default: the path recorded in the package]
    #[arg(long, value_name = "FILE")]
    source: Option<PathBuf>,
    /// Add the paper's σ̂ path with RandomNormal
    #[arg(long)]
    pub sampling: bool,
}

impl Export {
    /// The options of the export.
    pub fn options(&self) -> ExportOptions {
        ExportOptions { source: self.source.clone(), sampling: self.sampling }
    }
}
