//! Reads: how often each layer's products are computed, of which the mean is taken.
//!
//! k reads of a layer divide the variance of what is drawn for each by k, and cost k − 1 times its energy more. The loss's second-order
//! estimate, ½·Σ G·v/k over all layers with the curvature G and the variance v of each channel's noise, is then smallest, under a budget
//! of energy, for a choice of whole numbers that a table over the budget finds. As for converter ranges ([`crate::equalize`]) the estimate is one
//! of small noise: G is measured under the noise, the estimate may be flattened, and what is taken is decided by the distillation
//! loss of samples that the choice was not made of: never one that is worse than none.

use crate::{
    crossbar::{self, ReadEnergy},
    error::ExecError,
    exec::{
        Batch, Executor,
        samples::{Samples, halves},
    },
    hardware::Hardware,
    kernels::noise::Law,
    knapsack::{self, Choice},
    measure::curvature::Slopes,
    ops::analog::is_redrawn,
    program::Layer,
    search::{Found, Judge},
};
use mxc_spec::{
    calibration::MAX_READS,
    noise::{Lifetime, Site},
};

/// What was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// By layer; the losses without are those with one read of every layer.
    pub reads: Found<Vec<u32>>,
    /// By how much the energy of the analog part grows, as a share.
    pub energy: f64,
}

/// The powers of the layers' estimated losses that are tried: below 1 they share the budget more evenly, as where the loss
/// has left the range of its second order.
const POWERS: [f64; 3] = [1.0, 0.7, 0.4];

/// Whether reading a layer often cuts its noise: some of its output's is drawn anew for every read.
pub fn helps(layer: &Layer) -> bool {
    is_redrawn(layer, Site::Output)
}

/// Chooses the reads of every layer of a calibrated program whose noise they cut, from samples without labels: half of them measure,
/// half of them judge. They may raise the energy of the analog part on `hardware` by the share `budget`. The executor is left with what
/// was chosen.
///
/// # Errors
///
/// When the program cannot be run or has no gradients.
pub fn choose(
    executor: &mut Executor,
    batch: Batch<'_>,
    (hardware, budget): (&Hardware, f64),
    seed: u64,
    stopped: &dyn Fn() -> bool,
) -> Result<Chosen, ExecError> {
    let [measuring, judging] = halves(batch.samples.len()).map(|places| Samples::new(batch, places));
    let energies = crossbar::read_energies(executor.program(), hardware);
    let all: f64 = energies.iter().map(|energy| energy.first).sum();
    let costs: Vec<f64> = energies.iter().map(|ReadEnergy { other, .. }| *other).collect();
    let propose = |layers: &[Layer], curvature: &[Slopes], _: u32| {
        let losses: Vec<f64> = layers.iter().zip(curvature).map(estimate).collect();
        let powers = POWERS.map(|power| losses.iter().map(|loss| loss.powf(power)).collect::<Vec<_>>());
        powers.iter().map(|losses| least(losses, &costs, budget * all)).collect()
    };
    let judge = Judge::new(executor, judging, seed, stopped)?;
    let reads = judge.search(executor, &measuring, vec![1; costs.len()], propose, |layers, reads| {
        layers.iter_mut().zip(reads).for_each(|(layer, &reads)| layer.reads = reads);
    })?;
    let added = costs.iter().zip(&reads.choice).map(|(cost, &reads)| cost * f64::from(reads - 1)).sum::<f64>();
    Ok(Chosen { reads, energy: if all > 0.0 { added / all } else { 0.0 } })
}

/// The second-order estimate of the loss that the noise of a single read causes, but for a factor that all layers share.
fn estimate((layer, Slopes { squares: slopes, .. }): (&Layer, &Slopes)) -> f64 {
    let components = layer.noise.spec.components.iter().filter(|component| component.site == Site::Output);
    let redrawn = components.filter(|component| component.lifetime == Lifetime::Sample);
    let laws = redrawn.map(|component| Law::of(&component.model));
    let variance: f64 = laws.map(|law| law.spread * law.spread * law.variance).sum();
    let s = layer.magnitude(Site::Output, true).unwrap_or(0.0);
    let shift =
        |channel: usize| layer.columns.as_ref().and_then(|columns| columns.shift.get(channel)).map_or(0, |&k| k);
    let slopes = slopes.iter().enumerate().map(|(channel, slope)| slope * f64::from(-2 * shift(channel)).exp2());
    s * s * variance * slopes.sum::<f64>()
}

/// The whole numbers k from 1 to [`MAX_READS`] that make Σ loss/k least, of those whose Σ cost·(k − 1) is within a budget.
fn least(losses: &[f64], costs: &[f64], budget: f64) -> Vec<u32> {
    let choices = |(&loss, &cost): (&f64, &f64)| {
        // What another read does not help, or costs nothing, is read once.
        let most = if loss.is_finite() && loss > 0.0 && cost > 0.0 { MAX_READS } else { 1 };
        let choice = |reads: u32| Choice { cost: cost * f64::from(reads - 1), loss: loss / f64::from(reads) };
        (1..=most).map(|reads| if most > 1 { choice(reads) } else { Choice { cost: 0.0, loss: 0.0 } }).collect()
    };
    let items: Vec<Vec<Choice>> = losses.iter().zip(costs).map(choices).collect();
    knapsack::least(&items, budget).into_iter().map(|at| at as u32 + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_share_a_budget() {
        assert_eq!(least(&[1.0, 0.0, f64::NAN], &[1.0, 1.0, 1.0], 2.0), [3, 1, 1]);
        assert_eq!(least(&[1.0, 2.0], &[1.0, 1.0], 0.0), [1, 1]);
        assert_eq!(least(&[1.0], &[1.0], 1e9), [MAX_READS]);
    }
}
