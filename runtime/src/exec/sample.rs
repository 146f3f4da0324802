//! What a run of one sample depends on, what is told of it, and what it adds to.

use super::{Key, Mode};
use crate::program::{LayerId, ValueId};
use std::collections::BTreeMap;

/// What a run of one sample depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub mode: Mode,
    pub key: Key,
    /// Its data-set index.
    pub index: u64,
    /// Whether a backward pass follows.
    pub tape: bool,
}

/// What an observer sees of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen<'a> {
    /// The tile's input and its output before any noise.
    Product { input: &'a [f32], output: &'a [f32] },
    /// The output after its noise and saturation; a layer without noise has none.
    Noisy { output: &'a [f32] },
    /// A denoising block's input and its σ̂, where it draws ε.
    Sigma { input: &'a [f32], sigma: &'a [f32] },
}

/// What measurements see of a run's layers, in the order of the steps.
pub(super) type Observer<'a> = dyn FnMut(LayerId, Seen<'_>) + 'a;

/// Sums of the trainable weights' gradients.
pub(super) type WeightGradients = BTreeMap<ValueId, Vec<f32>>;
