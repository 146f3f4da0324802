//! The statistics of every layer's input and output on the clean network.

use super::{Part, Probe};
use crate::{
    error::ExecError,
    exec::{
        run::SampleRun,
        sample::{Mode, Seen},
    },
    kernels::elementwise::{absmax, sums},
    plan::steps::Goal,
    program::Calibration,
};

/// Sums of a layer's statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    elements: u64,
    /// Σy, Σy², Σ|y|.
    sums: [f64; 3],
    absmax: f32,
    input_absmax: f32,
}

impl Statistics {
    fn of(x: &[f32], y: &[f32]) -> Self {
        Self { elements: y.len() as u64, sums: sums(y), absmax: absmax(y), input_absmax: absmax(x) }
    }

    /// Over so many samples.
    pub fn calibration(&self, samples: u64) -> Calibration {
        let [sum, square, abs] = self.sums.map(|sum| sum / self.elements.max(1) as f64);
        Calibration {
            samples,
            rms: square.sqrt(),
            absmax: f64::from(self.absmax),
            mean_abs: abs,
            std: (square - sum * sum).max(0.0).sqrt(),
            input_absmax: f64::from(self.input_absmax),
        }
    }
}

impl Part for Statistics {
    const GROUP: u64 = 1;

    fn add(&mut self, other: &Self) {
        self.elements += other.elements;
        self.sums.iter_mut().zip(other.sums).for_each(|(total, sum)| *total += sum);
        self.absmax = self.absmax.max(other.absmax);
        self.input_absmax = self.input_absmax.max(other.input_absmax);
    }
}

/// The measurement.
pub(crate) struct Calibrate;

impl Probe for Calibrate {
    type Part = Statistics;

    fn runs(&self) -> Vec<(Mode, Goal)> {
        vec![(Mode::CLEAN, Goal::Layers)]
    }

    fn sample(&self, run: &mut SampleRun<'_>, _: u64) -> Result<Vec<Statistics>, ExecError> {
        let mut statistics = vec![Statistics::default(); run.layers];
        run.forward(
            0,
            None,
            Some(&mut |layer, seen| match seen {
                Seen::Product { input, output } => statistics[layer] = Statistics::of(input, output),
                Seen::Noisy { .. } | Seen::Sigma { .. } => {}
            }),
        )?;
        Ok(statistics)
    }
}
