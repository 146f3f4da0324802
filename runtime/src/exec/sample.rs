//! What a run of one sample depends on, what is told of it, and what it adds to.

use crate::{
    kernels::noise::fill_uniforms,
    program::value::{LayerId, ValueId},
    rng::{Kind, Stream, StreamKey},
};
use mxc_spec::noise::Lifetime;
use std::collections::BTreeMap;

/// What a run simulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Analog layers are noisy (and saturate under the scale `range`).
    pub noise: bool,
    /// Denoisers act; otherwise they are the identity.
    pub denoise: bool,
    /// The σ̂ path of the paper's block draws ε; otherwise ε = 0.
    pub sampling: bool,
}

impl Mode {
    /// No noise, no denoisers.
    pub const CLEAN: Self = Self { noise: false, denoise: false, sampling: false };
    /// Noise, no denoisers.
    pub const NOISY: Self = Self { noise: true, denoise: false, sampling: false };
    /// Noise and denoisers.
    pub const DENOISED: Self = Self { noise: true, denoise: true, sampling: true };
    /// Denoisers with ε = 0, no noise: `mxc run`.
    pub const CLEAN_DENOISED: Self = Self { noise: false, denoise: true, sampling: false };
}

/// What random draws are for; part of their key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Purpose {
    Calibrate,
    Train,
    Eval,
}

/// The key of a run's random draws; the rest of the key (stream, component, layer, sample, element) is added inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// `--seed`.
    pub seed: u64,
    /// Calibration, training or evaluation.
    pub purpose: Purpose,
    /// The epoch or evaluation run.
    pub pass: u32,
    /// The simulated chip.
    pub chip: u32,
}

impl Key {
    /// Of a pass of calibration.
    pub const fn calibration(seed: u64, pass: u32) -> Self {
        Self { seed, purpose: Purpose::Calibrate, pass, chip: 0 }
    }

    /// A number from 0 to 1 for a sample, besides what its run draws; `component` tells several apart.
    pub(crate) fn uniform(self, sample: u64, component: u32) -> f64 {
        let Self { seed, purpose, pass, chip } = self;
        let (purpose, kind) = (purpose as u8, Kind::Seed);
        let key = StreamKey { seed, purpose, kind, component, chip, pass, layer: 0, sample };
        let mut uniform = [0f32];
        fill_uniforms(&key.stream(), 0, &mut uniform);
        f64::from(uniform[0]) + 0.5
    }
}

/// What a run of one sample depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub mode: Mode,
    pub key: Key,
    /// Its data-set index.
    pub index: u64,
    /// Whether a backward pass follows.
    pub tape: bool,
    /// What its noise is multiplied by; negative ones draw the mirror image.
    pub level: f64,
}

impl Sample {
    /// The stream of draws of a layer's noise component, or of a denoiser's ε; `layer` is its [`layer_hash`].
    ///
    /// [`layer_hash`]: crate::rng::layer_hash
    pub fn stream(&self, layer: u64, kind: Kind, component: usize, lifetime: Lifetime) -> Stream {
        let key = self.key;
        let fixed = lifetime == Lifetime::Chip;
        StreamKey {
            seed: key.seed,
            purpose: key.purpose as u8,
            kind,
            component: component as u32,
            chip: key.chip,
            // A chip's draws outlast passes and samples; u64::MAX is no data-set index.
            pass: if fixed { 0 } else { key.pass },
            layer,
            sample: if fixed { u64::MAX } else { self.index },
        }
        .stream()
    }
}

/// What an observer sees of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen<'a> {
    /// The tile's input and its output before any noise.
    Product { input: &'a [f32], output: &'a [f32] },
    /// The output after its noise and saturation; a layer without noise has none.
    Noisy { output: &'a [f32] },
    /// A denoising block's input and its σ̂, where it draws ε.
    Sigma { input: &'a [f32], sigma: &'a [f32] },
}

/// What measurements see of a run's layers, in the order of the steps.
pub(crate) type Observer<'a> = dyn FnMut(LayerId, Seen<'_>) + 'a;

/// Sums of the trainable weights' gradients.
pub(crate) type WeightGradients = BTreeMap<ValueId, Vec<f32>>;
