//! How far noise moves every layer's output from the clean network's.

use super::{Part, Probe};
use crate::{
    error::ExecError,
    exec::{
        run::SampleRun,
        sample::{Key, Mode, Seen},
    },
    plan::steps::Goal,
};

/// What one layer's output under noise, y*, has in common with the clean network's, y; summed over samples and elements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distortion {
    /// Σ y².
    pub clean: f64,
    /// Σ y·y* on the noisy network without denoisers and on the denoised one. y* is the output after the layer's own noise, with
    /// what the layers before it left, and before its own denoisers.
    pub common: [f64; 2],
    /// Σ y*² on the two.
    pub energy: [f64; 2],
}

impl Distortion {
    /// The signal-to-noise ratio in dB of the noisy and the denoised network: y* = a·y + n with the a that makes n smallest, and
    /// the ratio is a²Σy²/Σn². A denoiser that only amplifies so gains nothing. `None` without a signal or without noise.
    pub fn snr_db(&self) -> [Option<f64>; 2] {
        [0, 1].map(|mode| {
            let signal = self.common[mode].powi(2) / self.clean;
            let noise = self.energy[mode] - signal;
            // Below 10⁻¹² of the energy the difference is rounding.
            (signal > 0.0 && noise > 1e-12 * signal).then(|| 10.0 * (signal / noise).log10())
        })
    }
}

impl Part for Distortion {
    const GROUP: u64 = 64;

    fn add(&mut self, other: &Self) {
        self.clean += other.clean;
        for (total, part) in [(&mut self.common, other.common), (&mut self.energy, other.energy)] {
            total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
        }
    }
}

/// The measurement. A layer that the logits do not depend on has no distortion.
pub(crate) struct Distort {
    pub key: Key,
}

impl Probe for Distort {
    type Part = Distortion;

    fn runs(&self) -> Vec<(Mode, Goal)> {
        vec![(Mode::CLEAN, Goal::Logits), (Mode::NOISY, Goal::Logits), (Mode::DENOISED, Goal::Logits)]
    }

    fn sample(&self, run: &mut SampleRun<'_>, _: u64) -> Result<Vec<Distortion>, ExecError> {
        let layers = run.layers;
        let mut outputs: [Vec<Vec<f32>>; 3] = std::array::from_fn(|_| vec![Vec::new(); layers]);
        for (which, outputs) in outputs.iter_mut().enumerate() {
            run.forward(
                which,
                Some(self.key),
                Some(&mut |layer, seen| match seen {
                    // A layer's noise follows its product, and what is seen last counts.
                    Seen::Product { output, .. } | Seen::Noisy { output } => {
                        outputs[layer].clear();
                        outputs[layer].extend_from_slice(output);
                    }
                    Seen::Sigma { .. } => {}
                }),
            )?;
        }
        let [clean, others @ ..] = &outputs;
        let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
        Ok((0..layers)
            .map(|layer| Distortion {
                clean: dot(&clean[layer], &clean[layer]),
                common: [0, 1].map(|mode: usize| dot(&clean[layer], &others[mode][layer])),
                energy: [0, 1].map(|mode: usize| dot(&others[mode][layer], &others[mode][layer])),
            })
            .collect())
    }
}
