//! What calibration measures of a layer.

use crate::noise::Reference;

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
