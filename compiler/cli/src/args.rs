//! The command line as clap sees it. Flags that others' scripts rely on are listed in `docs/cli.md`.

use clap::{Args, Parser, Subcommand};
use mxc::Shard;
use mxc_options as options;
use std::path::PathBuf;

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
    pub output: Output,
}

/// What the program prints, and [`options::Common`].
#[derive(Clone, Debug, Args)]
pub struct Output {
    /// Print one JSON object on stdout and nothing else
    #[arg(long, global = true, help_heading = "Common options")]
    pub json: bool,
    #[command(flatten)]
    pub common: options::Common,
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

/// `mxc compile`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mxc compile model.onnx --budget 4%\n  \
    mxc compile model.onnx --data DIR --sigma 15% --denoiser mean+affine -o model.mxa\n  \
    mxc compile model.onnx --emit analog")]
pub struct CompileArgs {
    /// The trained model: ONNX, or a TOSA module (.mlir)
    pub model: PathBuf,
    /// The package to write [default: the model's name with .mxa, in the current folder]; with --emit, the text [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Data set for calibration and ranking; without it, synthetic inputs
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub compile: options::Compile,
    #[command(flatten)]
    pub import: options::Import,
    /// With --emit, weights as tosa.const instead of external globals
    #[arg(long, requires = "emit")]
    pub inline_weights: bool,
    /// Print each step's time to stderr
    #[arg(long)]
    pub timing: bool,
    #[command(flatten)]
    pub reading: options::Reading,
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
    #[command(flatten)]
    pub calibrate: options::Calibrate,
    #[command(flatten)]
    pub reading: options::Reading,
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
    /// The package to write [default: NAME.tuned.mxa]; its checkpoint is OUT.mxa.ckpt
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub finetune: options::Finetune,
    #[command(flatten)]
    pub reading: options::Reading,
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
    #[command(flatten)]
    pub evaluate: options::Evaluate,
    /// Run only part I of N of the evaluation, from 1/N to N/N, and write what it finds to -o; mxc merge puts parts together
    #[arg(long, value_name = "I/N", requires = "output")]
    pub shard: Option<Shard>,
    /// The file of the shard's part
    #[arg(short, long, value_name = "FILE", requires = "shard")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub reading: options::Reading,
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
    pub import: options::Import,
    #[command(flatten)]
    pub execute: options::Execute,
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
    #[command(flatten)]
    pub export: options::Export,
}

/// `mxc report`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  mxc report tuned.mxa")]
pub struct ReportArgs {
    /// The package
    pub package: PathBuf,
    #[command(flatten)]
    pub profile: options::Profile,
}
