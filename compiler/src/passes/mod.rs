//! The passes, one file each, and their registry.
//!
//! To add one: write its file, declare it here, and list it in [`REGISTRY`] under its stage.

pub mod annotate_noise;
pub mod canonicalize_graph;
pub mod drop_sigma;
pub mod equalize_ranges;
pub mod estimate_worth;
pub mod fit_denoisers;
pub mod insert_denoisers;
pub mod load_weights;
pub mod lower_to_dtile;
pub mod map_to_analog;
pub mod quantize_denoisers;
pub mod rank_sensitivity;
pub mod save_weights;
pub mod schedule_dtile;
pub mod spend_energy;
pub mod verify;

use crate::pass::{Alias, PassInfo, Registry, Upstream};
use melior::pass::transform;

/// Everything that pipelines can name.
pub static REGISTRY: Registry = Registry {
    passes: &[
        PassInfo::of::<canonicalize_graph::CanonicalizeGraph>("graph"),
        PassInfo::of::<map_to_analog::MapToAnalog>("graph to analog"),
        PassInfo::of::<annotate_noise::AnnotateNoise>("analog"),
        PassInfo::of::<rank_sensitivity::RankSensitivity>("analog"),
        PassInfo::of::<equalize_ranges::EqualizeRanges>("analog"),
        PassInfo::of::<spend_energy::SpendEnergy>("analog"),
        PassInfo::of::<estimate_worth::EstimateWorth>("analog"),
        PassInfo::of::<insert_denoisers::InsertDenoisers>("analog to denoise"),
        PassInfo::of::<fit_denoisers::FitDenoisers>("denoise"),
        PassInfo::of::<drop_sigma::DropSigma>("denoise"),
        PassInfo::of::<quantize_denoisers::QuantizeDenoisers>("denoise"),
        PassInfo::of::<lower_to_dtile::LowerToDtile>("denoise to dtile"),
        PassInfo::of::<schedule_dtile::ScheduleDtile>("dtile"),
        PassInfo::of::<load_weights::LoadWeights>("any level"),
        PassInfo::of::<save_weights::SaveWeights>("any level"),
        PassInfo::of::<verify::Verify>("any level"),
    ],
    upstream: &[
        Upstream { name: "canonicalize", description: "MLIR's canonicalizer", create: transform::create_canonicalizer },
        Upstream { name: "cse", description: "MLIR's common subexpression elimination", create: transform::create_cse },
        Upstream {
            name: "symbol-dce",
            description: "MLIR's removal of unused private symbols",
            create: transform::create_symbol_dce,
        },
    ],
    aliases: &[
        Alias {
            name: "compile",
            pipeline: "canonicalize-graph,map-to-analog,annotate-noise,rank-sensitivity,equalize-ranges,insert-denoisers,fit-denoisers",
            description: "from the imported graph to a network with denoisers, as `mxc compile --placement greedy --denoiser paper` does",
        },
        Alias {
            name: "lower-denoisers",
            pipeline: "drop-sigma,quantize-denoisers,lower-to-dtile,schedule-dtile",
            description: "from the denoise level to the digital tile",
        },
    ],
};
