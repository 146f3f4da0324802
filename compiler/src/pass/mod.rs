//! What passes are made of and how they run. The passes themselves are in [`crate::passes`].

pub mod constants;
pub mod definition;
pub mod globs;
pub mod pipeline;
pub mod random;
pub mod registry;
pub mod reports;
pub mod run;

pub use definition::{
    DynPass, OptionError, Options, Pass, PassContext, PassError, SampleRequest, SampleSource, Samples, WeightLoader,
    family,
};
pub use pipeline::{Pipeline, PipelineError};
pub use registry::{Alias, PassInfo, Registry, Upstream};
pub use reports::{CalibrationRun, LayerPlacement, Placement, Ranges, Reports, SigmaPath, SpentEnergy};
pub use run::{RunError, RunOptions, run_pipeline};
