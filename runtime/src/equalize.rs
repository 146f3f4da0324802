//! Converter ranges: by how much each output channel of a layer is scaled in front of the converter, and where the converters of its
//! input clip.
//!
//! A converter adds the same noise to every channel, whatever a channel's own range. Scaling channel c by 2^k in front of it, by its
//! stationary weights, and undoing that digitally behind it leaves the network as it is and divides the channel's noise by 2^k; the
//! full scale, and with it the noise of all channels, grows with what is scaled up. The loss's second-order estimate,
//! Σ G·s²/4^k with the curvature G of every channel and s² = Σ 4^k·r² of its mean squares r², is smallest for
//! k = ¼·log₂(G/r²) + constant (Cauchy-Schwarz). The estimate is one of small noise, so that G is measured under the noise, and
//! whether a choice is taken, and how far along its direction, is decided by the distillation loss of samples that it was not made of:
//! never one that is worse than none.
//!
//! Noise at the input follows the full scale of the input's converters, which need not reach the largest value: what they clip is an
//! error, too, and a full scale at which both together are least, or one on the way to it, is tried with every choice of scales.

use crate::{
    error::ExecError,
    exec::{
        Batch, Executor,
        samples::{Samples, halves},
    },
    kernels::noise::Law,
    measure::{channels::ChannelSums, curvature::Slopes, inputs::Magnitudes},
    program::{Calibration, Columns, Layer},
    search::{Found, Judge},
};
use mxc_spec::{
    calibration::MAX_COLUMN_SHIFT,
    noise::{Reference, Scale, Site},
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

/// How a layer's converters are used, where it is not as calibrated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranges {
    /// Those of the output.
    pub columns: Option<Columns>,
    /// The full scale of the input's.
    pub input: Option<f64>,
}

/// Of the shares of the input's full scale at which errors are least, the powers that are tried.
const CLIPPED: [f64; 2] = [1.0, 0.5];

/// Chooses the ranges of every layer whose noise follows a converter's range ([`Scale::Range`]) on a calibrated program, from
/// samples without labels: half of them measure, half of them judge. By layer. The executor is left with what was chosen.
///
/// # Errors
///
/// When the program cannot be run or has no gradients.
pub fn equalize(
    executor: &mut Executor,
    batch: Batch<'_>,
    seed: u64,
    stopped: &dyn Fn() -> bool,
) -> Result<Found<Vec<Ranges>>, ExecError> {
    let count = batch.samples.len();
    let [measuring, judging] = halves(count).map(|places| Samples::new(batch, places));
    let channels = executor.channels(&mut Samples::new(batch, 0..count).batches())?;
    let inputs = input_ranges(executor, &Samples::new(batch, 0..count))?;
    let propose = |layers: &[Layer], curvature: &[Slopes], round: u32| {
        let own: Vec<Option<Columns>> = layers.iter().map(|layer| layer.columns.clone()).collect();
        let scaled = rules(layers, round).into_iter().map(|rule| columns(layers, rule, &channels, curvature));
        let scaled: Vec<Vec<Option<Columns>>> = scaled.collect();
        let both = |columns: &[Option<Columns>], inputs: &[Option<f64>]| -> Vec<Ranges> {
            let pairs = columns.iter().zip(inputs);
            pairs.map(|(columns, &input)| Ranges { columns: columns.clone(), input }).collect()
        };
        let kept: Vec<Option<f64>> = layers.iter().map(|layer| layer.input_range).collect();
        let mut choices: Vec<Vec<Ranges>> = scaled.iter().map(|columns| both(columns, &kept)).collect();
        for inputs in &inputs {
            choices.extend([&own].into_iter().chain(&scaled).map(|columns| both(columns, inputs)));
        }
        choices
    };
    let judge = Judge::new(executor, judging, seed, stopped)?;
    judge.search(executor, &measuring, vec![Ranges::default(); channels.len()], propose, |layers, ranges| {
        for (layer, ranges) in layers.iter_mut().zip(ranges) {
            (layer.columns, layer.input_range) = (ranges.columns.clone(), ranges.input);
        }
    })
}

/// The full scales to try of every layer's input; none where no layer has noise there.
fn input_ranges(executor: &Executor, samples: &Samples<'_>) -> Result<Vec<Vec<Option<f64>>>, ExecError> {
    // The mean square of what is added, as a share of the full scale's.
    let noise = |layer: &Layer| -> f64 {
        let components = layer.noise.spec.components.iter().filter(|component| component.site == Site::Input);
        let laws = components.map(|component| Law::of(&component.model));
        let [mean, variance] = laws.fold([0.0; 2], |[mean, variance], law| [mean + law.mean, variance + law.power()]);
        variance + mean * mean
    };
    let layers = executor.program().layers();
    let noises = layers.iter().map(|layer| if has_range(layer) { noise(layer) } else { 0.0 });
    let noises: Vec<f64> = noises.collect();
    if noises.iter().all(|&noise| noise == 0.0) {
        return Ok(Vec::new());
    }
    let magnitudes = executor.input_magnitudes(&mut samples.batches())?;
    let shares = magnitudes.iter().zip(&noises).map(|(magnitudes, &noise): (&Magnitudes, _)| {
        magnitudes.least_error(noise).filter(|&share| noise > 0.0 && share < 1.0)
    });
    let shares: Vec<Option<f64>> = shares.collect();
    let range = |(layer, share): (&Layer, &Option<f64>), power: f64| {
        Some(layer.calibration?.input_absmax * (*share)?.powf(power))
    };
    Ok(CLIPPED.map(|power| layers.iter().zip(&shares).map(|pair| range(pair, power)).collect()).to_vec())
}

/// Whether a converter's range is the layer's to choose.
fn has_range(layer: &Layer) -> bool {
    layer.is_noisy(true) && layer.noise.scale == Scale::Range && layer.calibration.is_some()
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
        let calibration = layer.calibration.filter(|_| has_range(layer) && sums.elements > 0)?;
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
