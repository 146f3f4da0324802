//! mxc as a library: compiles trained networks for noisy analog accelerators and simulates them.
//!
//! ```text
//! Model ── compile ──► Compiled ── package ──► Package ── session ──► Session: run, evaluate, calibrate, finetune, effective_noise
//!   └───── session: the model itself             ├── export: the source ONNX model with the denoisers
//!                                                └── report: their cycles and energy on the digital tile
//! ```
//!
//! ```
//! # fn main() -> Result<(), mxc::Error> {
//! let context = mxc::Context::new();
//! let monitor = mxc::Monitor::default();
//! let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/models/resnet20.onnx");
//! let model = mxc::Model::from_file(&context, file.as_ref(), &Default::default())?;
//! let input = model.inputs()[0].name.clone();
//!
//! // Without data it is calibrated on synthetic inputs; four are enough for an example.
//! let options = mxc::CompileOptions { budget: 0.04, samples: Some(4), ..Default::default() };
//! let package = model.compile(&options, None, &monitor)?.package()?;
//! let session = package.session(&Default::default(), &monitor)?;
//!
//! let images = mxc::Array::new(vec![2, 1, 28, 28], mxc::Values::F32(vec![0.0; 2 * 28 * 28]))?;
//! let outputs = session.run(&[(input, images)].into(), 0)?;
//! assert_eq!(outputs.arrays[0].1.shape(), [2, 10]);
//! # Ok(()) }
//! ```
//!
//! Nothing here prints or ends the process, and nothing is kept for the whole of it but the laws of noise that it registers
//! ([`register_noise`]). Long calls take a [`Monitor`]: it is told of progress, notes and
//! warnings, and cancels them. Errors are one enum by stage, [`Error`], whose variants hold the node, layer, file or option that
//! they are about. Importing tells of what it decides through the crate `tracing`.
//!
//! A program may have noise and costs of its own: laws of noise that stand in specifications by name ([`register_noise`]), and a model of what
//! analog layers and the digital tile's work cost ([`CostModel`]).
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A level that is up in a quarter of all reads: its mean is 1/4, its variance 3/16.
//! let levels = mxc::NoiseLaw::new(0.25, 0.1875, |words, draws| {
//!     for (draw, word) in draws.iter_mut().zip(words) {
//!         *draw = if *word < 1 << 30 { 1.0 } else { 0.0 };
//!     }
//! });
//! mxc::register_noise("trap", levels)?;
//! let noise = mxc::LayerNoise { spec: "trap(scale=6%)+gaussian(sigma=2%)".parse()?, ..Default::default() };
//! let options = mxc::CompileOptions { noise, ..Default::default() };
//! # assert_eq!(options.noise.spec.components.len(), 2);
//! # Ok(()) }
//! ```
//!
//! [`passes`] runs passes by name on a caller's own module. The crates below are at hand for what the types here do not reach:
//! [`compiler`], [`dialects`], [`runtime`] and [`spec`]; they change more often.
//!
//! Without the feature `compiler`, which is on by default, packages are opened, run and evaluated, and neither MLIR nor LLVM is linked.

mod arrays;
#[cfg(feature = "compiler")]
mod calibrate;
#[cfg(feature = "compiler")]
mod compile;
mod data;
mod error;
#[cfg(feature = "compiler")]
mod finetune;
#[cfg(feature = "compiler")]
mod json;
#[cfg(feature = "compiler")]
mod model;
mod package;
#[cfg(feature = "compiler")]
pub mod passes;
mod progress;
mod session;
#[cfg(feature = "compiler")]
mod source;

pub use arrays::{Array, Arrays, Values, npz_bytes, read_npz};
pub use data::Data;
pub use error::Error;
pub use package::Package;
pub use progress::{Cancel, Monitor, Progress};
pub use session::{Arithmetic, EvalOptions, Outputs, Session, SessionOptions};

#[cfg(feature = "compiler")]
pub use {
    calibrate::{CalibrateOptions, Calibrated},
    compile::{CompileOptions, Compiled, PreprocessOptions},
    finetune::{FinetuneOptions, Finetuned},
    model::{Context, Model, ModelNode},
    mxc_compiler::{
        self as compiler,
        driver::{Init, Level},
        export::ExportError,
        import::{ImportError, ImportOptions, SourceInfo, SourceInput},
        pass::{PipelineError, Ranges, RunError, SpentEnergy},
        placement::Strategy,
    },
    mxc_dialects as dialects,
    source::{Cost, ExportOptions, Exported},
};

pub use mxc_runtime::{
    closed_form::Fitted,
    cost::{AnalogCost, AnalogLayer, CostError, CostModel, DigitalCost, DigitalPart},
    data::{DataError, Memory, Split},
    digital::schedule::Work,
    evaluate::{ChipOptions, EffectiveNoise, EvalReport, Part, PartError, Shard, merge},
    exec::Backend,
    finetune::{Loss, Recipe},
    hardware::Hardware,
    law::{LawFailure, NoiseLaw, RegisterError, register as register_noise},
    package::Manifest,
    program::Execution,
    ranks::{Ranks, RanksError},
    store::{Bytes, Weight, WeightStore},
};
pub use mxc_spec::noise::{LayerNoise, NoiseError, NoiseSpec, Reference, Scale};

pub use mxc_runtime as runtime;
pub use mxc_spec as spec;

/// So many threads, or for 0 as many as there are cores.
fn threads(wanted: usize) -> usize {
    match wanted {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        wanted => wanted,
    }
}
