//! What passes report besides the IR they leave.

use mxc_runtime::{closed_form::Fitted, package::CalibrationSource};

/// What the passes of a pipeline reported; the last run of a pass counts.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    /// By `rank-sensitivity`.
    pub calibration: Option<CalibrationRun>,
    /// By `equalize-ranges`.
    pub ranges: Option<Ranges>,
    /// By `spend-energy`.
    pub energy: Option<SpentEnergy>,
    /// By `insert-denoisers`.
    pub placement: Option<Placement>,
    /// By `fit-denoisers`.
    pub fitted: Option<Fitted>,
    /// By `drop-sigma`: the blocks whose σ̂ path was measured.
    pub sigma: Vec<SigmaPath>,
}

/// What the converters' ranges were changed by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranges {
    /// How many channels have a scale: a number of four bits each.
    pub channels: u64,
    /// How many layers' inputs have a full scale other than their largest value.
    pub inputs: u64,
    /// The distillation loss under noise without scales, on samples that the scales were not made of.
    pub before: f64,
    /// And with them.
    pub after: f64,
}

/// What a budget of energy was spent on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpentEnergy {
    /// How many layers are read more than once.
    pub read: u64,
    /// The reads of the layer that is read most often.
    pub most: u32,
    /// How many layers are computed digitally.
    pub digital: u64,
    /// By how much the energy of the analog layers grows, as a share.
    pub share: f64,
    /// The distillation loss under noise with one read of every layer, on samples that the choice was not made of.
    pub before: f64,
    /// And with what was chosen.
    pub after: f64,
}

/// Whether a block keeps its σ̂ path on the digital tile.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct SigmaPath {
    /// The layer.
    pub layer: String,
    /// rms(σ̂)/rms(X) as measured.
    pub ratio: f64,
    /// One fixed-point step (or the steps asked for) over rms(X).
    pub limit: f64,
    /// Whether the ratio reaches the limit.
    pub kept: bool,
}

/// What calibration ran on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalibrationRun {
    /// Whether there were no data.
    pub synthetic: bool,
    /// The number of samples, which may be fewer than were asked for.
    pub samples: usize,
    /// What their drawing was keyed by.
    pub seed: u64,
}

impl CalibrationRun {
    /// The manifest's form.
    pub fn to_manifest(self) -> CalibrationSource {
        let kind = if self.synthetic { "synthetic" } else { "data" };
        CalibrationSource { kind: kind.to_owned(), samples: self.samples as u64, seed: self.seed }
    }
}

/// Which layers got denoisers, and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    /// The backbone's weights and biases after folding.
    pub backbone_parameters: u64,
    /// The parameters that the budget allows.
    pub budget: u64,
    /// The parameters of all denoisers.
    pub denoiser_parameters: u64,
    /// Every analog layer, largest gradient norm first.
    pub layers: Vec<LayerPlacement>,
}

/// One analog layer's place in the ranking and its denoisers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerPlacement {
    /// The layer's name.
    pub layer: String,
    /// Its output channels.
    pub channels: usize,
    /// Its `reference` statistic (rms by default) on the clean model, if calibrated.
    pub reference: Option<f64>,
    /// The mean over samples of ‖∂L/∂y‖₂, if ranked.
    pub gradient_norm: Option<f64>,
    /// 0 for the largest gradient norm.
    pub rank: Option<usize>,
    /// The kinds inserted, in the order of placement: `affine`, then `paper` or `mean`.
    pub denoisers: Vec<String>,
    /// Their parameters.
    pub parameters: u64,
    /// Whether any denoiser was inserted.
    pub chosen: bool,
    /// Why it was chosen or not.
    pub reason: String,
}
