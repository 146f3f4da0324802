//! The options of mxc by name: what they are called, what they take and mean, and what they are unless given. The command line
//! flattens these into its commands; [`named`] reads them from pairs of names and values, for callers from other languages.

#[cfg(feature = "compiler")]
mod compiler;
pub mod named;
mod running;

#[cfg(feature = "compiler")]
pub use compiler::{Calibrate, Compile, Export, Finetune, Import, Preprocess, Profile};
pub use running::{Common, Evaluate, Execute, Noise, Reading};

use mxc::spec::noise;

/// What `--noise` is for, and what it takes.
fn noise_help(purpose: &str) -> String {
    format!("{purpose}: ideal, or components joined by +{}", noise::help())
}
