//! Values of a program: their types and constants; and the analog layers.

use crate::store::Weight;
use mxc_spec::noise::{LayerNoise, Scale, Site};
pub use mxc_spec::{
    calibration::{Calibration, Columns},
    execution::Execution,
};

/// The index of a value in [`Program::values`].
///
/// [`Program::values`]: crate::program::Program::values
pub type ValueId = usize;
/// The index of an analog layer in [`Program::layers`].
///
/// [`Program::layers`]: crate::program::Program::layers
pub type LayerId = usize;

/// The type of a value's elements. The executor keeps every value in 32-bit words, typed as f32: an integer of 32 bits or fewer
/// is one word, of 64 bits two, bit by bit, so that no integer is ever rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DType {
    #[default]
    F32,
    I32,
    I64,
    /// One word, 0 or 1.
    Bool,
}

impl DType {
    /// The number of words of one element.
    pub fn words(self) -> usize {
        if self == Self::I64 { 2 } else { 1 }
    }

    /// Integers as the executor keeps them; wider ones lose their upper bits. For [`DType::F32`], the numbers themselves.
    pub fn encode(self, values: &[i64]) -> Vec<f32> {
        let word = |value: i32| f32::from_bits(value.cast_unsigned());
        match self {
            Self::F32 => values.iter().map(|&value| value as f32).collect(),
            Self::I32 => values.iter().map(|&value| word(value as i32)).collect(),
            Self::Bool => values.iter().map(|&value| word(i32::from(value != 0))).collect(),
            Self::I64 => values.iter().flat_map(|&value| [word(value as i32), word((value >> 32) as i32)]).collect(),
        }
    }

    /// The integers that words hold. For [`DType::F32`], the numbers rounded to zero.
    pub fn decode(self, words: &[f32]) -> Vec<i64> {
        let low = |word: f32| i64::from(word.to_bits());
        match self {
            Self::F32 => words.iter().map(|&value| value as i64).collect(),
            Self::I32 | Self::Bool => words.iter().map(|word| i64::from(word.to_bits().cast_signed())).collect(),
            Self::I64 => words.chunks_exact(2).map(|pair| low(pair[0]) | low(pair[1]) << 32).collect(),
        }
    }
}

/// One value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Value {
    /// The source model's name for an input or output, the global's name for a weight, else empty.
    pub name: String,
    /// The dimensions; `None` is the batch.
    pub shape: Vec<Option<usize>>,
    /// The dimensions for one sample: the batch is 1, or k where a reshape folded another axis into it.
    pub sample: Vec<usize>,
    /// The type of its elements.
    pub dtype: DType,
    /// The values of a constant; those that are not f32 as words in one axis.
    pub constant: Option<Weight>,
    /// Whether fine-tuning updates this constant (denoiser weights).
    pub trainable: bool,
}

impl Value {
    /// The number of words of one sample: of elements, unless they are wide.
    pub fn words(&self) -> usize {
        self.sample.iter().product::<usize>() * self.dtype.words()
    }
}

/// An analog layer: a node that runs on analog tiles.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Its unique, stable name.
    pub name: String,
    /// The number of output channels.
    pub channels: usize,
    /// Its noise.
    pub noise: LayerNoise,
    /// What calibration measured on the clean model, if it has run.
    pub calibration: Option<Calibration>,
    /// How its tile's converters see the output, where the channels' ranges were equalized. That belongs to what mxc adds to a
    /// network, as denoisers do: the noisy network without them is as it was.
    pub columns: Option<Columns>,
    /// The full scale of the converters of its input, where it is not the calibrated largest value. What mxc adds, too.
    pub input_range: Option<f64>,
    /// How its products are computed. What mxc adds, too.
    pub execution: Execution,
}

impl Layer {
    /// Its columns in a run with or without what mxc adds.
    pub(crate) fn columns(&self, denoise: bool) -> Option<&Columns> {
        self.columns.as_ref().filter(|_| denoise)
    }

    /// How its products are computed in a run with or without what mxc adds.
    pub(crate) fn execution(&self, denoise: bool) -> Execution {
        if denoise { self.execution } else { Execution::default() }
    }

    /// Whether mxc has added anything to the layer itself, denoisers aside.
    pub(crate) fn is_helped(&self) -> bool {
        self.columns.is_some() || self.input_range.is_some() || self.execution != Execution::default()
    }

    /// Whether a run with noise, with or without what mxc adds, adds any to it.
    pub(crate) fn is_noisy(&self, denoise: bool) -> bool {
        self.execution(denoise) != Execution::Digital && !self.noise.spec.is_ideal()
    }

    /// The calibrated magnitude s at a site, with or without what mxc adds, in the units that a converter sees; `None` where nothing
    /// is measured. Of the input that is only the DAC's full scale, whatever the reference.
    pub fn magnitude(&self, site: Site, denoise: bool) -> Option<f64> {
        let calibration = self.columns(denoise).map(|columns| columns.calibration).or(self.calibration)?;
        match site {
            Site::Input => Some(self.input_full_scale(calibration, denoise)),
            Site::Weight | Site::PartialSum => None,
            Site::Output => Some(calibration.reference(self.noise.reference)),
        }
    }

    /// The tile's input and output limits, if it saturates.
    pub(crate) fn limits(&self, denoise: bool) -> Option<[f32; 2]> {
        let calibration = self.calibration.filter(|_| self.noise.scale == Scale::Range)?;
        let output = self.columns(denoise).map_or(calibration, |columns| columns.calibration);
        Some([self.input_full_scale(calibration, denoise) as f32, output.absmax as f32])
    }

    /// The full scale of its input's converters, with or without what mxc adds.
    fn input_full_scale(&self, calibration: Calibration, denoise: bool) -> f64 {
        self.input_range.filter(|_| denoise).unwrap_or(calibration.input_absmax)
    }
}
