//! The passes, one file each, and their registry.
//!
//! To add one: write its file, declare it here, and list it in [`REGISTRY`] under its stage.

pub mod annotate_noise;
pub mod canonicalize_graph;
pub mod constants;
pub mod drop_sigma;
pub mod globs;
pub mod insert_denoisers;
pub mod lower_to_dtile;
pub mod map_to_analog;
pub mod pass;
pub mod pipeline;
pub mod quantize_denoisers;
pub mod random;
pub mod rank_sensitivity;
pub mod reports;
pub mod run;
pub mod schedule_dtile;
pub mod verify;

pub use pass::{
    DynPass, OptionError, Options, Pass, PassContext, PassError, SampleRequest, SampleSource, Samples, WeightLoader,
};
pub use pipeline::{Pipeline, PipelineError};
pub use reports::{CalibrationRun, GraphReport, LayerPlacement, Placement, Reports, SigmaPath};
pub use run::{RunError, RunOptions, run_pipeline};

/// A registered pass. Its address is its MLIR type id, hence the alignment.
#[repr(align(8))]
pub struct PassInfo {
    /// The name in pipelines.
    pub name: &'static str,
    /// One line.
    pub description: &'static str,
    /// Key and description of each option.
    pub options: &'static [(&'static str, &'static str)],
    /// The level it works on, for `--show-passes`.
    pub stage: &'static str,
    build: fn(&mut Options) -> Result<Box<dyn DynPass>, OptionError>,
}

impl PassInfo {
    const fn of<P: Pass + 'static>(stage: &'static str) -> Self {
        Self {
            name: P::NAME,
            description: P::DESCRIPTION,
            options: P::OPTIONS,
            stage,
            build: |options| Ok(Box::new(P::from_options(options)?)),
        }
    }

    /// Makes the pass with the given options, all of which it must know.
    pub fn build(&self, options: &Options) -> Result<Box<dyn DynPass>, OptionError> {
        let mut rest = options.clone();
        let pass = (self.build)(&mut rest)?;
        match rest.iter().next() {
            None => Ok(pass),
            Some((key, _)) => {
                let known: Vec<_> = self.options.iter().map(|(name, _)| *name).collect();
                Err(OptionError(if known.is_empty() {
                    format!("it takes no options, but got {key}=")
                } else {
                    format!("unknown option {key}=; it takes {}", known.join(", "))
                }))
            }
        }
    }
}

/// Every pass of ours, grouped by stage, in the order in which a pipeline runs them.
pub static REGISTRY: &[PassInfo] = &[
    PassInfo::of::<canonicalize_graph::CanonicalizeGraph>("graph"),
    PassInfo::of::<map_to_analog::MapToAnalog>("graph to analog"),
    PassInfo::of::<annotate_noise::AnnotateNoise>("analog"),
    PassInfo::of::<rank_sensitivity::RankSensitivity>("analog"),
    PassInfo::of::<insert_denoisers::InsertDenoisers>("analog to denoise"),
    PassInfo::of::<drop_sigma::DropSigma>("denoise"),
    PassInfo::of::<quantize_denoisers::QuantizeDenoisers>("denoise"),
    PassInfo::of::<lower_to_dtile::LowerToDtile>("denoise to dtile"),
    PassInfo::of::<schedule_dtile::ScheduleDtile>("dtile"),
    PassInfo::of::<verify::Verify>("any level"),
];

/// Named pipelines, usable wherever a pass name is.
pub static ALIASES: &[(&str, &str, &str)] = &[
    (
        "compile",
        "canonicalize-graph,map-to-analog,annotate-noise,rank-sensitivity,insert-denoisers",
        "from the imported graph to a network with denoisers, as `mxc compile` does",
    ),
    (
        "lower-denoisers",
        "drop-sigma,quantize-denoisers,lower-to-dtile,schedule-dtile",
        "from the denoise level to the digital tile",
    ),
];

/// Upstream passes usable by name: name, description, whether they may be nested under `func.func`.
pub static UPSTREAM: &[(&str, &str)] = &[
    ("canonicalize", "MLIR's canonicalizer"),
    ("cse", "MLIR's common subexpression elimination"),
    ("symbol-dce", "MLIR's removal of unused private symbols"),
];

/// A pass of ours by name.
pub fn find(name: &str) -> Option<&'static PassInfo> {
    REGISTRY.iter().find(|pass| pass.name == name)
}

/// The text of `mxc opt --show-passes`.
pub fn pass_help() -> String {
    let mut text = String::from("Passes, by the level they work on:\n");
    let mut stage = "";
    for pass in REGISTRY {
        if pass.stage != stage {
            stage = pass.stage;
            text.push_str(&format!("\n{stage}\n"));
        }
        text.push_str(&format!("  {:<22} {}\n", pass.name, pass.description));
        for (key, description) in pass.options {
            text.push_str(&format!("    {:<20} {description}\n", format!("{key}=")));
        }
    }
    text.push_str("\nupstream\n");
    for (name, description) in UPSTREAM {
        text.push_str(&format!("  {name:<22} {description}\n"));
    }
    text.push_str("\naliases\n");
    for (name, pipeline, description) in ALIASES {
        text.push_str(&format!("  {name:<22} {description}\n    = {pipeline}\n"));
    }
    text
}
