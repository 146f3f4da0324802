//! What calibration measures of a layer, and how its tile's converters are used.

use crate::noise::Reference;

/// The largest column shift: four bits a channel.
pub const MAX_COLUMN_SHIFT: i8 = 15;

/// How a tile's converters see a layer's output: channel c scaled by 2^k, k = `shift[c]`, which is undone digitally behind them.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns {
    /// By channel, from 0 to [`MAX_COLUMN_SHIFT`].
    pub shift: Vec<i8>,
    /// What calibration measured of the scaled output: full scale, and the magnitude that noise follows.
    pub calibration: Calibration,
}

impl Columns {
    /// The largest value behind the converter: a channel reaches as far as its scale leaves of the full scale.
    pub fn reach(&self) -> f64 {
        let least = self.shift.iter().copied().min().unwrap_or(0);
        self.calibration.absmax * f64::from(-least).exp2()
    }

    /// The factors 2^k of every channel, and those that undo them.
    pub fn scales(&self) -> [Vec<f32>; 2] {
        [1.0, -1.0].map(|sign: f32| self.shift.iter().map(|&k| (sign * f32::from(k)).exp2()).collect())
    }
}

/// What calibration measured over all elements of all samples on the clean model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Calibration {
    /// The number of samples.
    pub samples: u64,
    /// Output: √mean(y²).
    pub rms: f64,
    /// Output: max |y|; the ADC's full scale A_out.
    pub absmax: f64,
    /// Output: mean |y|.
    pub mean_abs: f64,
    /// Output: the standard deviation of y.
    pub std: f64,
    /// Input: max |x|; the DAC's full scale A_in.
    pub input_absmax: f64,
}

impl Calibration {
    /// The output's statistic that a noise reference names.
    pub fn reference(&self, reference: Reference) -> f64 {
        match reference {
            Reference::Rms => self.rms,
            Reference::Absmax => self.absmax,
            Reference::MeanAbs => self.mean_abs,
            Reference::Std => self.std,
        }
    }
}
