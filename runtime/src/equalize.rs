//! Converter ranges: by how much each output channel of a layer is scaled in front of the converter.
//!
//! A converter adds the same noise to every channel, whatever a channel's own range. Scaling channel c by 2^k in front of it, by its
//! stationary weights, and undoing that digitally behind it leaves the network as it is and divides the channel's noise by 2^k; the
//! full scale, and with it the noise of all channels, grows with what is scaled up. The loss's second-order estimate,
//! Σ G·s²/4^k with the curvature G of every channel and s² = Σ 4^k·r² of its mean squares r², is smallest for
//! k = ¼·log₂(G/r²) + constant (Cauchy-Schwarz). The estimate is one of small noise, so that G is measured under the noise, and
//! whether a choice is taken, and how far along its direction, is decided by the distillation loss of samples that it was not made of:
//! never one that is worse than none.

use crate::{
    error::ExecError,
    exec::{
        Batch, Executor,
        samples::{Samples, halves},
    },
    measure::{channels::ChannelSums, curvature::Slopes},
    program::{Calibration, Columns, Layer},
    search::{Found, Judge},
};
use mxc_spec::{
    calibration::MAX_COLUMN_SHIFT,
    noise::{Reference, Scale},
};

/// How scales are chosen.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// α·½·log₂(G/r²), of α = ½ the second-order optimum.
    Curvature { alpha: f64, by: Magnitude },
    /// Towards a full scale of h times the channel's largest value: ⌊log₂(A/(h·A_c))⌋.
    Headroom(f64),
}

/// Which magnitude of a channel.
#[derive(Clone, Copy, Debug)]
enum Magnitude {
    Rms,
    Absmax,
}

/// The share of the layer's mean curvature that every channel has at least: of few samples some are estimated too low.
const CURVATURE_FLOOR: f64 = 0.1;
/// The share of the layer's mean square that every channel has at least: a dead channel must not take all of the range.
const POWER_FLOOR: f64 = 1e-3;

/// Chooses the scales of every layer whose noise follows a converter's range ([`Scale::Range`]) on a calibrated program, from
/// samples without labels: half of them measure, half of them judge. By layer; `None` where
/// nothing is scaled. The executor is left with what was chosen.
///
/// # Errors
///
/// When the program cannot be run or has no gradients.
pub fn equalize(
    executor: &mut Executor,
    batch: Batch<'_>,
    seed: u64,
    stopped: &dyn Fn() -> bool,
) -> Result<Found<Vec<Option<Columns>>>, ExecError> {
    let count = batch.samples.len();
    let [measuring, judging] = halves(count).map(|places| Samples::new(batch, places));
    let channels = executor.channels(&mut Samples::new(batch, 0..count).batches())?;
    let propose = |layers: &[Layer], curvature: &[Slopes], round: u32| {
        let columns = |rule| columns(layers, rule, &channels, curvature);
        rules(layers, round).into_iter().map(columns).collect()
    };
    let judge = Judge::new(executor, judging, seed, stopped)?;
    judge.search(executor, &measuring, vec![None; channels.len()], propose, |layers, columns| {
        layers.iter_mut().zip(columns).for_each(|(layer, columns)| layer.columns.clone_from(columns));
    })
}

/// The rules to try; later rounds refine.
fn rules(layers: &[Layer], round: u32) -> Vec<Rule> {
    let absolute = layers.iter().any(|layer| layer.noise.reference == Reference::Absmax);
    let alphas: &[f64] = if round == 0 { &[0.35, 0.5, 0.65] } else { &[0.5, 0.65] };
    let mut rules: Vec<Rule> = alphas.iter().map(|&alpha| Rule::Curvature { alpha, by: Magnitude::Rms }).collect();
    if absolute {
        rules.extend(alphas.iter().map(|&alpha| Rule::Curvature { alpha, by: Magnitude::Absmax }));
        if round == 0 {
            rules.extend([2.0, 4.0, 8.0].map(Rule::Headroom));
        }
    }
    rules
}

/// A rule's scales of every layer.
fn columns(layers: &[Layer], rule: Rule, channels: &[ChannelSums], curvature: &[Slopes]) -> Vec<Option<Columns>> {
    let layers = layers.iter().zip(channels).zip(curvature);
    let choose = |((layer, sums), Slopes { squares: slopes, .. }): ((&Layer, &ChannelSums), &Slopes)| {
        let calibration = layer.calibration.filter(|_| layer.noise.scale == Scale::Range)?;
        if !layer.is_noisy(true) || sums.elements == 0 {
            return None;
        }
        let shift = shifts(rule, sums, slopes)?;
        let calibration = sums.calibration(&shift, calibration);
        Some(Columns { shift, calibration })
    };
    layers.map(choose).collect()
}

/// The scales of a layer's channels; `None` where all would be equal.
fn shifts(rule: Rule, sums: &ChannelSums, slopes: &[f64]) -> Option<Vec<i8>> {
    let wanted: Vec<f64> = match rule {
        Rule::Curvature { alpha, by } => {
            let powers: Vec<f64> = match by {
                Magnitude::Rms => sums.square.iter().map(|square| square / sums.elements as f64).collect(),
                Magnitude::Absmax => sums.absmax.iter().map(|&max| f64::from(max).powi(2)).collect(),
            };
            let floors = [mean(slopes) * CURVATURE_FLOOR, mean(&powers) * POWER_FLOOR];
            let pairs = slopes.iter().zip(&powers);
            pairs.map(|(g, r)| alpha * 0.5 * ((g + floors[0]) / (r + floors[1])).log2()).collect()
        }
        Rule::Headroom(h) => {
            let full = sums.absmax.iter().copied().fold(0.0, f32::max);
            sums.absmax.iter().map(|&max| (f64::from(full) / (h * f64::from(max))).log2().floor().max(0.0)).collect()
        }
    };
    // A layer that nothing depends on, or that is 0, is left alone.
    if !wanted.iter().any(|wanted| wanted.is_finite()) {
        return None;
    }
    let lowest = wanted.iter().copied().filter(|wanted| wanted.is_finite()).fold(f64::INFINITY, f64::min);
    let whole = |wanted: &f64| match wanted.is_finite() {
        true => (wanted - lowest).round().min(f64::from(MAX_COLUMN_SHIFT)) as i8,
        false => 0,
    };
    let shift: Vec<i8> = wanted.iter().map(whole).collect();
    shift.iter().any(|&k| k != 0).then_some(shift)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

impl ChannelSums {
    /// What calibration would measure of the channels scaled by powers of two; `unscaled` gives what does not depend on them.
    fn calibration(&self, shift: &[i8], unscaled: Calibration) -> Calibration {
        let count = (self.elements.max(1) * shift.len().max(1) as u64) as f64;
        let factors: Vec<f64> = shift.iter().map(|&k| f64::from(k).exp2()).collect();
        let total = |sums: &[f64], power: i32| {
            sums.iter().zip(&factors).map(|(sum, factor)| sum * factor.powi(power)).sum::<f64>() / count
        };
        let (mean, square) = (total(&self.sum, 1), total(&self.square, 2));
        let largest = self.absmax.iter().zip(&factors).map(|(&max, factor)| f64::from(max) * factor);
        Calibration {
            rms: square.sqrt(),
            absmax: largest.fold(0.0, f64::max),
            mean_abs: total(&self.abs, 1),
            std: (square - mean * mean).max(0.0).sqrt(),
            ..unscaled
        }
    }
}
