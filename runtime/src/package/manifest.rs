//! The messages of `runtime/proto/manifest.proto`, written out so that building needs no `protoc`.

use crate::closed_form::Fitted;
use mxc_spec::noise::{LayerNoise, NoiseError};
use serde::Serialize;

/// What a package is and how it was made.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Manifest {
    /// The version of the package format; another one is refused.
    #[prost(uint32, tag = "1")]
    pub format_version: u32,
    /// What a reader must know beyond the format; one it does not know is refused.
    #[prost(string, repeated, tag = "2")]
    pub required_features: Vec<String>,
    /// The hardware profile, TOML text.
    #[prost(string, tag = "3")]
    pub hardware: String,
    /// The noise compiled for.
    #[prost(message, optional, tag = "4")]
    pub noise: Option<Noise>,
    /// What calibration ran on.
    #[prost(message, optional, tag = "5")]
    pub calibration: Option<CalibrationSource>,
    /// From image bytes to the model's input.
    #[prost(message, optional, tag = "6")]
    pub preprocessing: Option<Preprocessing>,
    /// Where denoisers sit, and why.
    #[prost(message, optional, tag = "7")]
    pub placement: Option<Placement>,
    /// Where the package comes from.
    #[prost(message, optional, tag = "8")]
    pub provenance: Option<Provenance>,
    /// How the denoisers were trained; absent in a fresh package.
    #[prost(message, optional, tag = "9")]
    pub training: Option<Training>,
    /// The last so many training samples are read by neither calibration nor fine-tuning.
    #[prost(uint64, tag = "10")]
    pub holdout: u64,
    /// What the network is for: a [`Task`](crate::task::Task)'s name.
    #[prost(string, tag = "11")]
    pub task: String,
    /// How the denoisers were fitted before any training, if they were.
    #[prost(message, optional, tag = "12")]
    pub closed_form: Option<ClosedForm>,
}

/// How denoisers were fitted in closed form.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct ClosedForm {
    /// The number of samples, moved images counted as often as they come.
    #[prost(uint64, tag = "1")]
    pub samples: u64,
    /// What keyed their drawing and the noise.
    #[prost(uint64, tag = "2")]
    pub seed: u64,
    /// The gain; absent where no fit was better than fresh denoisers.
    #[prost(double, optional, tag = "3")]
    pub gain: Option<f64>,
}

/// What was fitted, and the seed that keyed it.
impl From<(&Fitted, u64)> for ClosedForm {
    fn from((fitted, seed): (&Fitted, u64)) -> Self {
        Self { samples: fitted.samples as u64, seed, gain: fitted.gain }
    }
}

/// A [`LayerNoise`] in its text form.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize)]
pub struct Noise {
    /// The specification's text form.
    #[prost(string, tag = "1")]
    pub spec: String,
    /// `range`, `constant` or `signal`.
    #[prost(string, tag = "2")]
    pub scale: String,
    /// `rms`, `absmax`, `mean-abs` or `std`.
    #[prost(string, tag = "3")]
    pub reference: String,
}

impl From<&LayerNoise> for Noise {
    fn from(noise: &LayerNoise) -> Self {
        Self { spec: noise.spec.to_string(), scale: noise.scale.to_string(), reference: noise.reference.to_string() }
    }
}

impl TryFrom<&Noise> for LayerNoise {
    type Error = NoiseError;

    fn try_from(noise: &Noise) -> Result<Self, NoiseError> {
        Ok(Self { spec: noise.spec.parse()?, scale: noise.scale.parse()?, reference: noise.reference.parse()? })
    }
}

/// What calibration ran on.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize)]
pub struct CalibrationSource {
    /// `data` or `synthetic`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The number of samples.
    #[prost(uint64, tag = "2")]
    pub samples: u64,
    /// What the drawing of samples is keyed by.
    #[prost(uint64, tag = "3")]
    pub seed: u64,
}

/// From image bytes to the model's input.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Preprocessing {
    /// Per channel, of values in 0..1; empty is 0.
    #[prost(float, repeated, tag = "1")]
    pub mean: Vec<f32>,
    /// Per channel, of values in 0..1; empty is 1.
    #[prost(float, repeated, tag = "2")]
    pub std: Vec<f32>,
    /// What the shorter side of images is resized to; absent: as they are.
    #[prost(uint32, optional, tag = "3")]
    pub resize: Option<u32>,
    /// The side of the centre that images are cropped to; absent: as they are.
    #[prost(uint32, optional, tag = "4")]
    pub crop: Option<u32>,
    /// `NCHW` or `NHWC`.
    #[prost(string, tag = "5")]
    pub layout: String,
    /// The input's height.
    #[prost(uint32, tag = "6")]
    pub height: u32,
    /// The input's width.
    #[prost(uint32, tag = "7")]
    pub width: u32,
    /// The input's channels.
    #[prost(uint32, tag = "8")]
    pub channels: u32,
    /// `bilinear` or `bicubic`; empty where nothing is resized.
    #[prost(string, tag = "9")]
    pub interpolation: String,
    /// The model takes an image's bytes as they are; needs the feature [`super::BYTE_INPUT`].
    #[prost(bool, tag = "10")]
    pub bytes: bool,
    /// The shape of one sample, where it is no image and the layout is empty.
    #[prost(uint64, repeated, tag = "11")]
    pub shape: Vec<u64>,
}

/// Where denoisers sit, and why.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Placement {
    /// `greedy`, `greedy-fill` or `at=…`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The kind of denoiser, such as `mean+affine`.
    #[prost(string, tag = "2")]
    pub denoiser: String,
    /// The share of the backbone's parameters that denoisers may have, in percent.
    #[prost(double, tag = "3")]
    pub budget_percent: f64,
    /// The backbone's weights and biases after folding.
    #[prost(uint64, tag = "4")]
    pub backbone_parameters: u64,
    /// The parameters of all denoisers.
    #[prost(uint64, tag = "5")]
    pub denoiser_parameters: u64,
    /// Every analog layer.
    #[prost(message, repeated, tag = "6")]
    pub layers: Vec<PlacedLayer>,
}

/// One analog layer of the placement report.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct PlacedLayer {
    /// The layer's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its output channels.
    #[prost(uint64, tag = "2")]
    pub channels: u64,
    /// The calibrated magnitude of the noise reference.
    #[prost(double, optional, tag = "3")]
    pub reference: Option<f64>,
    /// The mean norm of the loss gradient at its output.
    #[prost(double, optional, tag = "4")]
    pub gradient_norm: Option<f64>,
    /// Its place by gradient norm, from 1.
    #[prost(uint64, optional, tag = "5")]
    pub rank: Option<u64>,
    /// The denoisers on it: `affine`, `paper`, `mean`.
    #[prost(string, repeated, tag = "6")]
    pub denoisers: Vec<String>,
    /// Their parameters.
    #[prost(uint64, tag = "7")]
    pub denoiser_parameters: u64,
    /// Whether it has a denoiser.
    #[prost(bool, tag = "8")]
    pub chosen: bool,
    /// Why, or why not.
    #[prost(string, tag = "9")]
    pub reason: String,
}

/// Where a package comes from.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize)]
pub struct Provenance {
    /// The model's path as given.
    #[prost(string, tag = "1")]
    pub source: String,
    /// The model's SHA-256.
    #[prost(string, tag = "2")]
    pub source_sha256: String,
    /// The version of mxc.
    #[prost(string, tag = "3")]
    pub tool_version: String,
    /// The options that shaped the package, as `name=value`.
    #[prost(string, repeated, tag = "4")]
    pub options: Vec<String>,
    /// The SHA-256 of the package this one was trained from.
    #[prost(string, optional, tag = "5")]
    pub parent_sha256: Option<String>,
}

/// How denoisers were trained.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Training {
    /// `best`, `paper` or `cosine`.
    #[prost(string, tag = "1")]
    pub recipe: String,
    /// The (first) learning rate.
    #[prost(double, tag = "2")]
    pub learning_rate: f64,
    /// Passes over the samples.
    #[prost(uint32, tag = "3")]
    pub epochs: u32,
    /// Samples per step.
    #[prost(uint32, tag = "4")]
    pub batch: u32,
    /// `--seed`.
    #[prost(uint64, tag = "5")]
    pub seed: u64,
    /// The number of training samples, each counted once.
    #[prost(uint64, tag = "6")]
    pub samples: u64,
    /// The noise trained under.
    #[prost(message, optional, tag = "7")]
    pub noise: Option<Noise>,
    /// Each epoch's mean loss.
    #[prost(double, repeated, tag = "8")]
    pub losses: Vec<f64>,
    /// `cross-entropy` or `distill`.
    #[prost(string, tag = "9")]
    pub loss: String,
    /// The loss of the samples that judge, at the start and after each epoch, if there were such: the weights of the least were kept, of
    /// equals the last.
    #[prost(double, repeated, tag = "10")]
    pub judged: Vec<f64>,
    /// How much matching the clean network's features counted.
    #[prost(double, tag = "11")]
    pub features: f64,
}

impl Training {
    /// The epoch whose weights were kept, 0 for the start; `None` where that was the last without asking.
    pub fn kept(&self) -> Option<usize> {
        let least = self.judged.iter().copied().fold(f64::INFINITY, f64::min);
        self.judged.iter().rposition(|&loss| loss == least)
    }
}
