//! The command line as clap sees it. Flags that others' scripts rely on are listed in `docs/cli.md`.

use bytesize::ByteSize;
use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use mxc::{
    Arithmetic, Backend, Data, ImportOptions, Init, LayerNoise, Level, NoiseSpec, Reference, Scale, Shard, Strategy,
    dialects::{
        denoise::Kind,
        noise::{self, NoiseError},
        share,
    },
};
use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

/// Compiles trained CNN classifiers for noisy analog accelerators and simulates them.
#[derive(Debug, Parser)]
#[command(
    name = "mxc",
    version,
    max_term_width = 110,
    after_help = "Examples:\n  \
        mxc compile resnet20.onnx --budget 4% --data /usr/share/datasets/fashion-mnist --mean 0.2860 --std 0.3530\n  \
        mxc finetune resnet20.mxa --data /usr/share/datasets/fashion-mnist\n  \
        mxc eval resnet20.tuned.mxa --data /usr/share/datasets/fashion-mnist"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Print one JSON object on stdout and nothing else
    #[arg(long, global = true, help_heading = "Common options")]
    pub json: bool,
    /// Worker threads; the results do not depend on it [default: the machine's cores]
    #[arg(long, global = true, value_name = "N", help_heading = "Common options")]
    pub threads: Option<usize>,
    /// Seed of every random draw
    #[arg(long, global = true, value_name = "N", default_value_t = 0, help_heading = "Common options")]
    pub seed: u64,
    /// No progress, no notes, no warnings; only results and errors
    #[arg(long, global = true, help_heading = "Common options")]
    pub quiet: bool,
    /// Say more: -v for what is decided, -vv for debugging (or set MXC_LOG)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Common options")]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Import a model, place denoisers within a parameter budget, write a package (.mxa)
    Compile(Box<CompileArgs>),
    /// Fit a package's denoisers in closed form and equalize its converters' ranges; no labels, seconds
    Calibrate(CalibrateArgs),
    /// Train a package's denoisers under simulated noise; the backbone stays as it is
    Finetune(FinetuneArgs),
    /// Measure clean, noisy and denoised accuracy
    Eval(EvalArgs),
    /// Put the parts of an evaluation together that eval --shard has written
    Merge(MergeArgs),
    /// Run a model or package on arrays of an .npz: no noise, denoisers on, sampling off
    Run(RunArgs),
    /// Show what a package holds
    Inspect(InspectArgs),
    /// Run passes on MLIR, as mlir-opt would
    Opt(OptArgs),
    /// Splice the trained denoisers into the source ONNX file
    Export(ExportArgs),
    /// Cycles and energy of the denoisers on the digital tile, energy and time of the layers on analog tiles
    Report(ReportArgs),
    /// Print a shell completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages, mxc.1 and one of every command
    Man {
        /// The folder to write them to; it is made if it is not there
        folder: PathBuf,
    },
}

/// How pixels become inputs; kept in the package.
#[derive(Clone, Debug, Default, Args)]
pub struct PreprocessArgs {
    /// Mean per channel, subtracted after scaling bytes to 0..1
    #[arg(long, value_name = "F,…", value_delimiter = ',')]
    pub mean: Vec<f32>,
    /// Standard deviation per channel, divided by after the mean
    #[arg(long, value_name = "F,…", value_delimiter = ',')]
    pub std: Vec<f32>,
    /// Scale images so that their shorter side is N pixels
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub resize: Option<u32>,
    /// Then cut out the centre N×N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub crop: Option<u32>,
    /// How --resize interpolates: bilinear or bicubic, both antialiased [default: bilinear]
    #[arg(long, value_name = "NAME", value_parser = ["bilinear", "bicubic"], requires = "resize")]
    pub interpolation: Option<String>,
}

/// One of an enumeration's words.
fn words<T>(words: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = NoiseError> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|word| word.parse::<T>())
}

/// One of the IR's levels.
fn levels() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(Level::ALL.map(|level| PossibleValue::new(level.name()).help(level.description())))
        .try_map(|word| word.parse::<Level>())
}

/// One of the starts of denoisers.
fn inits() -> impl TypedValueParser<Value = Init> {
    PossibleValuesParser::new(Init::NAMES.map(|(_, name, meaning)| PossibleValue::new(name).help(meaning)))
        .try_map(|word| word.parse::<Init>())
}

/// One of the arithmetics.
fn arithmetics() -> impl TypedValueParser<Value = Arithmetic> {
    let values = Arithmetic::NAMES.map(|(_, name, meaning)| PossibleValue::new(name).help(meaning));
    PossibleValuesParser::new(values).try_map(|word| word.parse::<Arithmetic>())
}

/// What `--noise` is for, and what it takes.
fn noise_help(purpose: &str) -> String {
    format!("{purpose}: ideal, or components joined by +{}", noise::help())
}

/// `mxc compile`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mxc compile model.onnx --budget 4%\n  \
    mxc compile model.onnx --data DIR --sigma 15% --denoiser mean+affine -o model.mxa\n  \
    mxc compile model.onnx --emit analog")]
pub struct CompileArgs {
    /// The trained model: ONNX, or a TOSA module (.mlir)
    pub model: PathBuf,
    /// The package to write [default: the model's name with .mxa, in the current folder]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Denoiser parameters allowed, as a share of the backbone's
    #[arg(long, value_name = "P%", default_value = "4%", value_parser = share::parse_positive)]
    pub budget: f64,
    /// Data set for calibration and ranking; without it, synthetic inputs
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Calibration samples [default: 512; 64 synthetic ones without data]
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// Standard deviation of Gaussian noise, relative to the layer's magnitude [default: 6%]
    #[arg(long, value_name = "S%", value_parser = share::parse_positive, conflicts_with = "noise")]
    pub sigma: Option<f64>,
    #[arg(long, value_name = "SPEC", help = noise_help("Noise of the layers"))]
    pub noise: Option<NoiseSpec>,
    /// The magnitude that the noise is relative to
    #[arg(long, value_name = "NAME", default_value_t = LayerNoise::default().reference, value_parser = words::<Reference>(Reference::WORDS))]
    pub noise_reference: Reference,
    /// What the magnitude is taken of
    #[arg(long, value_name = "NAME", default_value_t = LayerNoise::default().scale, value_parser = words::<Scale>(Scale::WORDS))]
    pub noise_scale: Scale,
    /// best: what takes most of the loss away within the budget, of any kind, fitted in closed form behind equalized converter
    /// ranges; paper: the paper's block and placement, and nothing else. The next four options change parts
    #[arg(long, value_name = "NAME", default_value = "best", value_parser = ["best", "paper"])]
    pub recipe: String,
    /// Where denoisers go.
    #[arg(long, value_name = "HOW", help = format!("Where denoisers go: {} [default: the recipe's]", Strategy::choices()))]
    pub placement: Option<Strategy>,
    /// The denoisers' kind.
    #[arg(long, value_name = "KIND", help = format!("The denoiser: {}; by --placement worth also any [default: the recipe's]", Kind::choices()))]
    pub denoiser: Option<String>,
    /// Whether output channels are scaled towards their converters' full scale, where there are data [default: the recipe's]
    #[arg(long, value_name = "YES", value_parser = clap::builder::BoolishValueParser::new())]
    pub equalize: Option<bool>,
    /// Reads layers more than once and takes the mean, or computes them digitally, where that helps most: what it may add to the energy
    /// of the analog layers, such as +5%; takes data
    #[arg(long, value_name = "P%", default_value = "0%", value_parser = share::parse_positive)]
    pub energy_budget: f64,
    /// Where the denoisers' weights come from [default: the recipe's]
    #[arg(long, value_name = "HOW", value_parser = inits())]
    pub init: Option<Init>,
    /// The output that holds the logits [default: the first of floats]
    #[arg(long, value_name = "NAME")]
    pub logits: Option<String>,
    #[command(flatten)]
    pub import: ImportArgs,
    /// Keep the last N training samples out of calibration and fine-tuning
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub holdout: usize,
    /// Layers that stay on the digital side
    #[arg(long, value_name = "GLOB")]
    pub keep_digital: Vec<String>,
    /// Hardware profile (TOML) [default: the paper's]
    #[arg(long, value_name = "FILE")]
    pub hardware: Option<PathBuf>,
    /// Print the MLIR of a level instead of writing a package (to stdout or -o)
    #[arg(long, value_name = "LEVEL", value_parser = levels())]
    pub emit: Option<Level>,
    /// With --emit, weights as tosa.const instead of external globals
    #[arg(long, requires = "emit")]
    pub inline_weights: bool,
    /// Print each step's time to stderr
    #[arg(long)]
    pub timing: bool,
    #[command(flatten)]
    pub preprocess: PreprocessArgs,
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// `mxc calibrate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mxc calibrate model.mxa --data DIR\n  \
    mxc calibrate model.mxa --data DIR --samples 64 --equalize no -o calibrated.mxa")]
pub struct CalibrateArgs {
    /// The compiled package
    pub package: PathBuf,
    /// The data set; labels are not looked at
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// The package to write [default: NAME.calibrated.mxa]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Samples, half of which judge what the others propose
    #[arg(long, value_name = "N", default_value = "128", value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,
    /// Whether the converters' ranges are equalized anew
    #[arg(long, value_name = "YES", default_value = "yes", action = clap::ArgAction::Set, value_parser = clap::builder::BoolishValueParser::new())]
    pub equalize: bool,
    /// Keep the last N training samples out [default: as compiled]
    #[arg(long, value_name = "N")]
    pub holdout: Option<usize>,
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// `mxc finetune`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mxc finetune model.mxa --data DIR\n  \
    mxc finetune model.mxa --data DIR --recipe cosine --epochs 2 --limit 10000 -o tuned.mxa\n  \
    mxc finetune model.mxa --data DIR --resume")]
pub struct FinetuneArgs {
    /// The compiled package
    pub package: PathBuf,
    /// The labelled data set
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// The package to write [default: NAME.tuned.mxa]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// best: distill, few images blended, Adam 1e-2 decaying to 0, batches of 32, noise of any level up to 1.5 times; paper: Adam 1e-3, constant;
    /// cosine: Adam 1e-2 decaying to 0 [default: paper for the denoiser paper, else best]
    #[arg(long, value_name = "NAME", value_parser = ["best", "paper", "cosine"])]
    pub recipe: Option<String>,
    /// What to train towards: cross-entropy with the labels, or distill, the clean model's own outputs (no labels needed)
    /// [default: the recipe's]
    #[arg(long, value_name = "NAME", value_parser = ["cross-entropy", "distill"])]
    pub loss: Option<String>,
    /// How much it counts, beside the loss, that layers are given what the clean network gives them, up to a gain
    #[arg(long, value_name = "W", default_value_t = 0.0)]
    pub match_features: f64,
    /// Use only the first N training samples
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Passes over the data [default: the recipe's: 5, by best more of few images]
    #[arg(long, value_name = "N")]
    pub epochs: Option<u32>,
    /// Learning rate [default: the recipe's]
    #[arg(long, value_name = "F")]
    pub lr: Option<f64>,
    /// Samples a step [default: the recipe's, 32 or 128]
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Train at another sigma than the package's
    #[arg(long, value_name = "S%", value_parser = share::parse_positive, conflicts_with = "noise")]
    pub sigma: Option<f64>,
    #[arg(long, value_name = "SPEC", help = noise_help("Train under another noise than the package's"))]
    pub noise: Option<NoiseSpec>,
    /// Keep the last N training samples out [default: as compiled]
    #[arg(long, value_name = "N")]
    pub holdout: Option<usize>,
    /// Go on from OUT.mxa.ckpt
    #[arg(long)]
    pub resume: bool,
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// `mxc eval`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mxc eval tuned.mxa --data DIR\n  \
    mxc eval tuned.mxa --data DIR --sigma 10% --seeds 10 --json\n  \
    mxc eval tuned.mxa --data DIR --digital fixed --limit 500")]
pub struct EvalArgs {
    /// The package
    pub package: PathBuf,
    /// The labelled data set
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// Noise draws (runs) over the data
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub seeds: u32,
    /// Also simulate N chips (noise components with lifetime=chip are drawn once a chip) and give the yield
    #[arg(long, value_name = "N", requires = "floor")]
    pub chips: Option<u32>,
    /// The accuracy in percent that a good chip reaches
    #[arg(long, value_name = "A", requires = "chips")]
    pub floor: Option<f64>,
    /// Evaluate at another sigma than the package's
    #[arg(long, value_name = "S%", value_parser = share::parse_positive, conflicts_with = "noise")]
    pub sigma: Option<f64>,
    #[arg(long, value_name = "SPEC", help = noise_help("Evaluate under another noise than the package's"))]
    pub noise: Option<NoiseSpec>,
    /// The split: test, train or holdout
    #[arg(long, value_name = "NAME", default_value = "test", value_parser = ["test", "train", "holdout"])]
    pub split: String,
    /// Use only the first N samples
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// The last N training samples are the holdout [default: as compiled]
    #[arg(long, value_name = "N")]
    pub holdout: Option<usize>,
    /// Samples a batch; the results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub batch: usize,
    /// The denoisers' arithmetic: float, or fixed (the digital tile's integers)
    #[arg(long, value_name = "NAME", default_value_t, value_parser = arithmetics())]
    pub digital: Arithmetic,
    /// What computes: onednn, or reference (plain f64 arithmetic, slowly, to check results)
    #[arg(long, value_name = "NAME", default_value_t)]
    pub backend: Backend,
    /// Run only part I of N of the evaluation, from 1/N to N/N, and write what it finds to -o; mxc merge puts parts together
    #[arg(long, value_name = "I/N", requires = "output")]
    pub shard: Option<Shard>,
    /// The file of the shard's part
    #[arg(short, long, value_name = "FILE", requires = "shard")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// `mxc merge`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  mxc eval model.mxa --data imagenet --shard 3/8 -o part-3.json\n  mxc merge part-*.json"
)]
pub struct MergeArgs {
    /// The files that `mxc eval --shard` has written, of every shard one
    #[arg(required = true, value_name = "PART")]
    pub parts: Vec<PathBuf>,
}

/// How a data set is read.
#[derive(Clone, Debug, Default, Args)]
pub struct ReadingArgs {
    /// The names of the class folders in the order of the network's outputs, one a line
    #[arg(long, value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// Leave out images that cannot be decoded, and count them, instead of failing
    #[arg(long)]
    pub skip_bad: bool,
}

impl ReadingArgs {
    /// The data at `path`.
    pub fn data(&self, path: &Path) -> Data {
        Data { path: path.to_owned(), classes: self.classes.clone(), skip_bad: self.skip_bad }
    }
}

/// How a model's file is read.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The shape of an input whose dimensions the model leaves open; it pins a batch that the network is made for
    #[arg(long, value_name = "NAME=1,3,H,W", value_parser = input_shape)]
    pub input_shape: Vec<(String, Vec<usize>)>,
    /// The most memory for constants that an ONNX model computes, such as 4GiB [default: 1GiB, less for a small file]
    #[arg(long, value_name = "BYTES")]
    pub max_constant_bytes: Option<ByteSize>,
}

impl ImportArgs {
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

/// `mxc run`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  mxc run model.onnx --input in.npz -o out.npz")]
pub struct RunArgs {
    /// A package, an ONNX model, or the MLIR of any level (.mlir) with its weights inline
    pub model: PathBuf,
    /// The input arrays (f32), by input name
    #[arg(long, value_name = "IN.npz")]
    pub input: PathBuf,
    /// The output arrays, by output name
    #[arg(short, long, value_name = "OUT.npz")]
    pub output: PathBuf,
    #[command(flatten)]
    pub import: ImportArgs,
    /// A package's denoisers in float, or fixed (the digital tile's integers)
    #[arg(long, value_name = "NAME", default_value_t, value_parser = arithmetics())]
    pub digital: Arithmetic,
    /// What computes: onednn, or reference (plain f64 arithmetic, slowly, to check results)
    #[arg(long, value_name = "NAME", default_value_t)]
    pub backend: Backend,
}

/// `mxc inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mxc inspect model.mxa\n  \
    mxc inspect model.tuned.mxa --data DIR --samples 256")]
pub struct InspectArgs {
    /// The package
    pub package: PathBuf,
    /// Measure every layer's noise on training samples instead: magnitude, SNR with and without the denoisers before it, and
    /// the share of the loss that its noise alone causes
    #[arg(long, value_name = "PATH", conflicts_with = "mlir")]
    pub data: Option<PathBuf>,
    /// Training samples for --data
    #[arg(long, value_name = "N", default_value_t = 512, requires = "data")]
    pub samples: usize,
    /// The names of the class folders in the order of the network's outputs, one a line
    #[arg(long, requires = "data", value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// Print the MLIR module instead
    #[arg(long)]
    pub mlir: bool,
}

/// `mxc opt`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mxc opt graph.mlir --pass-pipeline='canonicalize-graph,map-to-analog'\n  \
    mxc compile m.onnx --emit graph | mxc opt - --pass-pipeline='builtin.module(map-to-analog,annotate-noise{spec=gaussian(sigma=6%)})'")]
pub struct OptArgs {
    /// MLIR text; - is stdin
    #[arg(default_value = "-")]
    pub file: PathBuf,
    /// The passes, comma separated, each with options in braces
    #[arg(long, value_name = "PASSES", default_value = "")]
    pub pass_pipeline: String,
    /// Weights that the module's globals name: a .safetensors or .mxa file
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Where the result goes [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Where the weights go that passes changed or added (.safetensors)
    #[arg(long, value_name = "FILE")]
    pub output_weights: Option<PathBuf>,
    /// Print locations, which carry the layers' names
    #[arg(long)]
    pub print_debuginfo: bool,
    /// Print the IR after each pass to stderr
    #[arg(long)]
    pub print_ir_after_all: bool,
    /// Verify after each pass
    #[arg(long)]
    pub verify_each: bool,
    /// Print each pass's time to stderr
    #[arg(long)]
    pub timing: bool,
    /// Treat the parts between // ----- lines as modules of their own
    #[arg(long)]
    pub split_input_file: bool,
    /// Replay the pipeline in a reproducer's first line
    #[arg(long)]
    pub run_reproducer: bool,
    /// Where a failing pipeline leaves its reproducer [default: mxc-reproducer.mlir]
    #[arg(long, value_name = "FILE")]
    pub reproducer: Option<PathBuf>,
    /// List the passes and pipelines
    #[arg(long)]
    pub show_passes: bool,
    /// Print the dialects' IRDL definitions, for mlir-opt --irdl-file
    #[arg(long)]
    pub show_irdl: bool,
}

/// `mxc export`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  mxc export tuned.mxa -o tuned.onnx")]
pub struct ExportArgs {
    /// The package
    pub package: PathBuf,
    /// The ONNX file to write
    #[arg(short, long, value_name = "OUT.onnx")]
    pub output: PathBuf,
    /// The source ONNX file [default: the path recorded in the package]
    #[arg(long, value_name = "FILE")]
    pub source: Option<PathBuf>,
    /// Add the paper's σ̂ path with RandomNormal
    #[arg(long)]
    pub sampling: bool,
}

/// `mxc report`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  mxc report tuned.mxa")]
pub struct ReportArgs {
    /// The package
    pub package: PathBuf,
    /// Hardware profile (TOML) [default: the package's]
    #[arg(long, value_name = "FILE")]
    pub hardware: Option<PathBuf>,
}
