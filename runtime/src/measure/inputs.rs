//! How every layer's input fills its converters' range, on the clean network.

use super::{Part, Probe};
use crate::{
    error::ExecError,
    exec::{
        run::SampleRun,
        sample::{Mode, Seen},
    },
    plan::steps::Goal,
    program::Layer,
};

/// A histogram of magnitudes as shares of the calibrated full scale, in equal steps; what is beyond it counts as 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Magnitudes {
    /// By step, the number of values, the sum of their shares and of the shares' squares.
    steps: Vec<[f64; 3]>,
}

impl Magnitudes {
    /// The steps of the full scale.
    const STEPS: usize = 256;

    /// Of values under a full scale above 0.
    pub fn of(values: &[f32], full: f64) -> Self {
        let mut steps = vec![[0.0; 3]; Self::STEPS];
        let inverse = (1.0 / full) as f32;
        for value in values {
            let share = (value.abs() * inverse).min(1.0);
            let step = &mut steps[((share * Self::STEPS as f32) as usize).min(Self::STEPS - 1)];
            let share = f64::from(share);
            step.iter_mut().zip([1.0, share, share * share]).for_each(|(sum, of)| *sum += of);
        }
        Self { steps }
    }

    /// The share of the full scale at which the mean squared error is least of a converter that clips there and whose noise has the
    /// variance `noise` times the share's square; `None` where nothing was measured. All shares are of the full scale as it is.
    pub fn least_error(&self, noise: f64) -> Option<f64> {
        let count: f64 = self.steps.iter().map(|step| step[0]).sum();
        let (mut beyond, mut best) = ([0.0; 3], None);
        // From the full scale down: what the steps above are clipped by.
        for (at, step) in self.steps.iter().enumerate().rev() {
            let share = (at + 1) as f64 / Self::STEPS as f64;
            let [n, sum, square] = beyond;
            let clipped = f64::max(square - 2.0 * share * sum + share * share * n, 0.0);
            let error = clipped / count + noise * share * share;
            if count > 0.0 && best.is_none_or(|(least, _)| error < least) {
                best = Some((error, share));
            }
            beyond.iter_mut().zip(step).for_each(|(sum, of)| *sum += of);
        }
        best.map(|(_, share)| share)
    }
}

impl Part for Magnitudes {
    const GROUP: u64 = 1;

    fn add(&mut self, other: &Self) {
        if self.steps.is_empty() {
            self.clone_from(other);
            return;
        }
        let pairs = self.steps.iter_mut().flatten().zip(other.steps.iter().flatten());
        pairs.for_each(|(total, part)| *total += part);
    }
}

/// The measurement; layers without calibration have none.
pub(crate) struct InputMagnitudes<'a> {
    pub layers: &'a [Layer],
}

impl Probe for InputMagnitudes<'_> {
    type Part = Magnitudes;

    fn runs(&self) -> Vec<(Mode, Goal)> {
        vec![(Mode::CLEAN, Goal::Layers)]
    }

    fn sample(&self, run: &mut SampleRun<'_>, _: u64) -> Result<Vec<Magnitudes>, ExecError> {
        let mut found = vec![Magnitudes::default(); run.layers];
        run.forward(
            0,
            None,
            Some(&mut |layer, seen| match seen {
                Seen::Product { input, .. } => {
                    let full = self.layers[layer].calibration.map(|calibration| calibration.input_absmax);
                    if let Some(full) = full.filter(|&full| full > 0.0) {
                        found[layer] = Magnitudes::of(input, full);
                    }
                }
                Seen::Noisy { .. } | Seen::Sigma { .. } => {}
            }),
        )?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error at every share, written out.
    fn exhaustive(values: &[f32], full: f64, noise: f64) -> f64 {
        let error = |share: f64| {
            let clipped =
                values.iter().map(|value| (f64::from(value.abs()) / full - share).max(0.0).powi(2)).sum::<f64>();
            clipped / values.len() as f64 + noise * share * share
        };
        let shares = (1..=Magnitudes::STEPS).map(|step| step as f64 / Magnitudes::STEPS as f64);
        shares.min_by(|&a, &b| error(a).total_cmp(&error(b))).unwrap_or(1.0)
    }

    #[test]
    fn ranges_clip_where_that_costs_less_than_noise() {
        // Many small values and a few large ones.
        let values: Vec<f32> =
            (0..4000).map(|n| if n % 100 == 0 { 2.0 } else { 0.001 * (n % 200) as f32 - 0.1 }).collect();
        let of = |noise: f64| Magnitudes::of(&values, 2.0).least_error(noise);
        for noise in [1e-6, 1e-4, 1e-3, 1e-2, 0.1] {
            let (found, wanted) = (of(noise).unwrap_or(0.0), exhaustive(&values, 2.0, noise));
            assert!((found - wanted).abs() < 1e-9, "{noise}: {found}, not {wanted}");
        }
        assert_eq!(of(0.0), Some(1.0), "without noise nothing is clipped");
        assert!(of(0.1) < of(1e-2) && of(1e-2) < Some(1.0));
        assert_eq!(Magnitudes::default().least_error(1.0), None);
    }
}
