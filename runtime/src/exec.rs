//! The executor: a [`Program`] turned once into a plan, then run for many batches.

use crate::program::{Calibration, LayerId, Program, ValueId};
use std::{collections::BTreeMap, sync::Arc};

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
    pub const CLEAN: Self = Self {
        noise: false,
        denoise: false,
        sampling: false,
    };
    /// Noise, no denoisers.
    pub const NOISY: Self = Self {
        noise: true,
        denoise: false,
        sampling: false,
    };
    /// Noise and denoisers.
    pub const DENOISED: Self = Self {
        noise: true,
        denoise: true,
        sampling: true,
    };
    /// Denoisers with ε = 0, no noise: `mxc run`.
    pub const CLEAN_DENOISED: Self = Self {
        noise: false,
        denoise: true,
        sampling: false,
    };
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

/// Samples to run.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// One slice per program input: the samples' values one after another, in the input's layout.
    pub inputs: &'a [&'a [f32]],
    /// The samples' data-set indices; their number is the batch size.
    pub samples: &'a [u64],
}

/// What a training step computed over a batch.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// The sum of the samples' losses.
    pub loss: f64,
    /// How many samples were classified right.
    pub correct: usize,
    /// ∂(mean loss)/∂w of every trainable constant.
    pub weights: BTreeMap<ValueId, Vec<f32>>,
}

/// Why a program cannot be planned or run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The program is inconsistent or uses something unsupported.
    #[error("{0}")]
    Program(String),
    /// The batch does not fit the program's inputs.
    #[error("{0}")]
    Input(String),
    /// oneDNN failed.
    #[error("oneDNN: {0}")]
    Engine(String),
}

/// A denoiser executed by other means than the float plan: the integer digital tile.
pub trait DenoiserUnit: Send + Sync {
    /// Cleans one sample's layer output in place: `x` is HWC (`H = W = 1` without spatial axes), `key` and `sample` seed
    /// the unit's own random generator.
    fn run(&self, x: &mut [f32], shape: [usize; 3], sample: u64, key: Key);
}

/// Runs a program.
pub struct Executor {
    program: Program,
}

impl Executor {
    /// Plans a program for `threads` worker threads.
    pub fn new(program: Program, _threads: usize) -> Result<Self, ExecError> {
        Ok(Self { program })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The values of a constant (a trainable weight, as last set).
    pub fn weight(&self, _value: ValueId) -> &[f32] {
        todo!()
    }

    /// Replaces a trainable weight's values.
    pub fn set_weight(&mut self, _value: ValueId, _values: &[f32]) -> Result<(), ExecError> {
        todo!()
    }

    /// Replaces the denoisers of layers by other units (the digital tile) in runs with [`Mode::denoise`].
    pub fn set_denoiser_units(&mut self, _units: BTreeMap<LayerId, Arc<dyn DenoiserUnit>>) {
        todo!()
    }

    /// The program's outputs, each with all samples one after another.
    pub fn forward(
        &self,
        _batch: Batch<'_>,
        _mode: Mode,
        _key: Key,
    ) -> Result<Vec<Vec<f32>>, ExecError> {
        todo!()
    }

    /// The logits only (the value the loss is taken of).
    pub fn logits(&self, _batch: Batch<'_>, _mode: Mode, _key: Key) -> Result<Vec<f32>, ExecError> {
        todo!()
    }

    /// Cross-entropy with `labels` and its gradient in every trainable weight. Bit-equal for any number of threads.
    pub fn gradients(
        &self,
        _batch: Batch<'_>,
        _labels: &[u32],
        _key: Key,
    ) -> Result<Gradients, ExecError> {
        todo!()
    }

    /// Per layer, the sum over the batch's samples of ‖∂L/∂y‖₂ on the clean model without denoisers (DESIGN §6).
    pub fn sensitivity(&self, _batch: Batch<'_>, _labels: &[u32]) -> Result<Vec<f64>, ExecError> {
        todo!()
    }

    /// Every layer's statistics over the batches on the clean model (the batches are the calibration samples).
    pub fn calibrate<'a>(
        &self,
        _batches: &mut dyn Iterator<Item = Batch<'a>>,
    ) -> Result<Vec<Calibration>, ExecError> {
        todo!()
    }
}
