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
/// The parts of the budget that costs are counted in.
const PARTS: usize = 4096;

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
fn estimate((layer, Slopes(slopes)): (&Layer, &Slopes)) -> f64 {
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

/// The whole numbers k from 1 to [`MAX_READS`] that make Σ loss/k least, of those whose Σ cost·(k − 1) is within a budget. Costs
/// are rounded up to parts of the budget, [`PARTS`] of it, and what rounding leaves is spent on the best that still fits.
fn least(losses: &[f64], costs: &[f64], budget: f64) -> Vec<u32> {
    let mut reads = vec![1; losses.len()];
    let matters = |loss: f64| loss.is_finite() && loss > 0.0;
    // Nothing to spend, or nothing that costs.
    if !(budget.is_finite() && budget > 0.0) {
        return reads;
    }
    // By parts spent at most, the least loss of the layers so far; and by layer the reads that reach it.
    let mut table = vec![0.0; PARTS + 1];
    let mut chosen: Vec<Vec<u8>> = Vec::with_capacity(losses.len());
    let parts = |cost: f64, reads: u32| (cost * f64::from(reads - 1) / budget * PARTS as f64).ceil() as usize;
    for (&loss, &cost) in losses.iter().zip(costs) {
        let most = if matters(loss) { MAX_READS } else { 1 };
        let mut next = vec![f64::INFINITY; PARTS + 1];
        let mut choice = vec![1; PARTS + 1];
        for reads in 1..=most {
            let own = if matters(loss) { loss / f64::from(reads) } else { 0.0 };
            let spent = parts(cost, reads);
            for left in 0..(PARTS + 1).saturating_sub(spent) {
                let total = table[left] + own;
                if total < next[left + spent] {
                    (next[left + spent], choice[left + spent]) = (total, reads as u8);
                }
            }
        }
        table = next;
        chosen.push(choice);
    }
    let mut left = PARTS;
    for (layer, choice) in chosen.iter().enumerate().rev() {
        reads[layer] = u32::from(choice[left]);
        left -= parts(costs[layer], reads[layer]);
    }
    let mut rest = budget - costs.iter().zip(&reads).map(|(cost, &reads)| cost * f64::from(reads - 1)).sum::<f64>();
    // By gain per cost, the first of equals.
    let gain = |layer: usize, reads: u32| losses[layer] / (f64::from(reads) * f64::from(reads + 1)) / costs[layer];
    loop {
        let fits = |&layer: &usize| matters(losses[layer]) && costs[layer] <= rest && reads[layer] < MAX_READS;
        let candidates = (0..reads.len()).rev().filter(fits).filter(|&layer| costs[layer] > 0.0);
        let best = candidates.max_by(|&a, &b| gain(a, reads[a]).total_cmp(&gain(b, reads[b])));
        let Some(layer) = best else {
            return reads;
        };
        rest -= costs[layer];
        reads[layer] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(costs: &[f64], reads: &[u32]) -> f64 {
        costs.iter().zip(reads).map(|(cost, &reads)| cost * f64::from(reads - 1)).sum()
    }

    fn loss(losses: &[f64], reads: &[u32]) -> f64 {
        losses.iter().zip(reads).map(|(loss, &reads)| loss / f64::from(reads)).sum()
    }

    /// The least loss of all choices within a budget.
    fn exhaustive(losses: &[f64], costs: &[f64], budget: f64) -> f64 {
        let (Some((first, losses)), Some((cost, costs))) = (losses.split_first(), costs.split_first()) else {
            return 0.0;
        };
        let reads = (1..=MAX_READS).take_while(|&reads| cost * f64::from(reads - 1) <= budget);
        reads
            .map(|reads| first / f64::from(reads) + exhaustive(losses, costs, budget - cost * f64::from(reads - 1)))
            .fold(f64::INFINITY, f64::min)
    }

    /// No choice within the budget, less what rounding takes of it, is better; where the costs are whole parts none at all is.
    #[test]
    fn choices_are_the_best() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1u64 << 24) as f64
        };
        for case in 0..300 {
            let layers = 1 + case % 4;
            let losses: Vec<f64> = (0..layers).map(|_| (8.0 * random() - 4.0).exp()).collect();
            let any: Vec<f64> = (0..layers).map(|_| 0.05 + random()).collect();
            let budget = 0.1 + 3.0 * random();
            let reads = least(&losses, &any, budget);
            assert!(cost(&any, &reads) <= budget * (1.0 + 1e-12), "{reads:?}");
            let rounded = exhaustive(&losses, &any, budget * (1.0 - layers as f64 / PARTS as f64));
            assert!(loss(&losses, &reads) <= rounded * (1.0 + 1e-12), "case {case}: {reads:?}");
            let whole: Vec<f64> = (0..layers).map(|_| (1.0 + 12.0 * random()).floor()).collect();
            let reads = least(&losses, &whole, 32.0);
            let best = exhaustive(&losses, &whole, 32.0);
            assert!(cost(&whole, &reads) <= 32.0 && loss(&losses, &reads) <= best * (1.0 + 1e-12), "case {case}");
        }
        assert_eq!(least(&[1.0, 0.0, f64::NAN], &[1.0, 1.0, 1.0], 2.0), [3, 1, 1]);
        assert_eq!(least(&[1.0, 2.0], &[1.0, 1.0], 0.0), [1, 1]);
        assert_eq!(least(&[1.0], &[1.0], 1e9), [MAX_READS]);
    }
}
