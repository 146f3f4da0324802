//! Energy against noise: how often a layer's products are computed on its tiles, of which the mean is taken, or whether a digital unit
//! computes them.
//!
//! k reads of a layer divide the variance of what is drawn for each by k, and cost k − 1 times its energy more; computed digitally it has
//! no noise at all, for many times the energy. The loss's second-order estimate, ½·Σ G·v over all layers with the curvature G and
//! the variance v of each channel's noise that is left, is then smallest, under a budget of energy, for a choice that a table over the
//! budget finds. As for converter ranges ([`crate::equalize`]) the estimate is one
//! of small noise: G is measured under the noise, the estimate may be flattened, and what is taken is decided by the distillation
//! loss of samples that the choice was not made of: never one that is worse than one read of every layer.

use crate::{
    cost::Costs,
    crossbar::{self, LayerEnergy},
    error::ExecError,
    exec::{
        Batch, Executor,
        samples::{Samples, halves},
    },
    kernels::noise::Law,
    knapsack::{self, Choice},
    measure::curvature::Slopes,
    program::{Execution, Layer, Program},
    search::{Found, Judge},
};
use mxc_spec::{
    execution::MAX_READS,
    noise::{Component, Lifetime, Site},
};

/// What was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// By layer; the losses without are those of one read of every layer.
    pub executions: Found<Vec<Execution>>,
    /// By how much the energy of the analog layers grows, as a share.
    pub energy: f64,
}

/// The powers of the layers' estimated losses that are tried: below 1 they share the budget more evenly, as where the loss
/// has left the range of its second order.
const POWERS: [f64; 3] = [1.0, 0.7, 0.4];

/// Whether energy cuts a layer's noise: there is some.
pub fn helps(layer: &Layer) -> bool {
    layer.is_noisy(false)
}

/// Chooses how every layer of a calibrated program is computed, from samples without labels: half of them measure, half of them judge. That
/// may raise the energy of the analog layers by the share `budget`, as `costs` counts it. The executor is left with what was chosen.
///
/// # Errors
///
/// When the program cannot be run or has no gradients, or the cost model gives what is no cost.
pub fn choose(
    executor: &mut Executor,
    batch: Batch<'_>,
    (costs, budget): (Costs<'_>, f64),
    seed: u64,
    stopped: &dyn Fn() -> bool,
) -> Result<Chosen, ExecError> {
    let [measuring, judging] = halves(batch.samples.len()).map(|places| Samples::new(batch, places));
    let energies = crossbar::energies(executor.program(), costs)?;
    let all: f64 = energies.iter().map(|energy| energy.first).sum();
    let powers = weight_powers(executor.program());
    let propose = |layers: &[Layer], curvature: &[Slopes], _: u32| {
        let losses = layers.iter().zip(curvature).zip(&powers);
        let losses: Vec<Estimate> =
            losses.map(|((layer, slopes), powers)| Estimate::of(layer, slopes, powers)).collect();
        let tried = |power| {
            let losses: Vec<Estimate> = losses.iter().map(|loss| loss.flattened(power)).collect();
            least(&losses, &energies, budget * all)
        };
        POWERS.map(tried).to_vec()
    };
    let judge = Judge::new(executor, judging, seed, stopped)?;
    let none = vec![Execution::default(); energies.len()];
    let executions = judge.search(executor, &measuring, none, propose, |layers, executions| {
        layers.iter_mut().zip(executions).for_each(|(layer, &execution)| layer.execution = execution);
    })?;
    let added =
        energies.iter().zip(&executions.choice).map(|(energy, &execution)| energy.added(execution)).sum::<f64>();
    Ok(Chosen { executions, energy: if all > 0.0 { added / all } else { 0.0 } })
}

/// The second-order estimate of the loss that a layer's noise causes, but for a factor that all layers share.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Estimate {
    /// Of what is drawn for every read.
    redrawn: f64,
    /// Of what is the same in all of them.
    kept: f64,
}

impl Estimate {
    /// Of a layer whose output channels have the sums of squared weights `powers`, by which noise of the input reaches them.
    fn of(layer: &Layer, Slopes { squares: slopes, .. }: &Slopes, powers: &[f64]) -> Self {
        let shift =
            |channel: usize| layer.columns.as_ref().and_then(|columns| columns.shift.get(channel)).map_or(0, |&k| k);
        let behind = slopes.iter().zip(powers).map(|(slope, power)| slope * power).sum::<f64>();
        let slopes = slopes.iter().enumerate().map(|(channel, slope)| slope * f64::from(-2 * shift(channel)).exp2());
        let sites = [(Site::Output, slopes.sum::<f64>()), (Site::Input, behind)];
        let of = |lifetime: Lifetime| -> f64 {
            let at = |(site, slopes): (Site, f64)| {
                let components = layer.noise.spec.components.iter();
                let of = |component: &&Component| component.site == site && component.lifetime == lifetime;
                let laws = components.filter(of).map(|component| Law::of(&component.model));
                let variance: f64 = laws.map(|law| law.power()).sum();
                let s = layer.magnitude(site, true).unwrap_or(0.0);
                s * s * variance * slopes
            };
            sites.map(at).iter().sum()
        };
        Self { redrawn: of(Lifetime::Sample), kept: of(Lifetime::Chip) }
    }

    /// Its sum to a power, in the same parts.
    fn flattened(&self, power: f64) -> Self {
        let all = self.redrawn + self.kept;
        let factor = if all > 0.0 { all.powf(power - 1.0) } else { 1.0 };
        Self { redrawn: factor * self.redrawn, kept: factor * self.kept }
    }

    /// What is left of it.
    fn left(&self, execution: Execution) -> f64 {
        match execution {
            Execution::Analog { reads } => self.redrawn / f64::from(reads.max(1)) + self.kept,
            Execution::Digital => 0.0,
        }
    }
}

/// By layer, the sum of every output channel's squared weights.
fn weight_powers(program: &Program) -> Vec<Vec<f64>> {
    let mut powers = vec![Vec::new(); program.layers().len()];
    for node in program.nodes() {
        if let Some(layer) = node.op.analog_layer()
            && let Some(weight) = &program.values()[node.inputs[1]].constant
        {
            // [O, …], an output's weights one after another.
            let outputs = weight.shape().first().copied().unwrap_or(1).max(1);
            let rows = weight.values().chunks_exact((weight.len() / outputs).max(1));
            powers[layer] = rows.map(|row| row.iter().map(|&w| f64::from(w).powi(2)).sum()).collect();
        }
    }
    powers
}

/// The executions that leave least, of those whose additional energy is within a budget.
fn least(losses: &[Estimate], energies: &[LayerEnergy], budget: f64) -> Vec<Execution> {
    let options = |loss: &Estimate| {
        let mut options = vec![Execution::default()];
        // What no energy helps is read once.
        if loss.redrawn.is_finite() && loss.redrawn > 0.0 {
            options.extend((2..=MAX_READS).map(|reads| Execution::Analog { reads }));
        }
        if (loss.redrawn + loss.kept).is_finite() && loss.redrawn + loss.kept > 0.0 {
            options.push(Execution::Digital);
        }
        options
    };
    let options: Vec<Vec<Execution>> = losses.iter().map(options).collect();
    let choice = |loss: &Estimate, energy: &LayerEnergy, execution: Execution| Choice {
        // What is saved where digital is cheaper than a read is not spent elsewhere.
        cost: energy.added(execution).max(0.0),
        loss: loss.left(execution),
    };
    let items: Vec<Vec<Choice>> = losses
        .iter()
        .zip(energies)
        .zip(&options)
        .map(|((loss, energy), options)| options.iter().map(|&execution| choice(loss, energy, execution)).collect())
        .collect();
    let chosen = knapsack::least(&items, budget);
    options.iter().zip(chosen).map(|(options, at)| options[at]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(losses: &[[f64; 2]], energies: &[[f64; 3]], budget: f64) -> Vec<Execution> {
        let losses: Vec<Estimate> = losses.iter().map(|&[redrawn, kept]| Estimate { redrawn, kept }).collect();
        let energies: Vec<LayerEnergy> = energies.iter().map(|&energies| energies.into()).collect();
        least(&losses, &energies, budget)
    }

    fn analog(reads: u32) -> Execution {
        Execution::Analog { reads }
    }

    #[test]
    fn energy_goes_where_it_helps() {
        let dear = [1.0, 1.0, 100.0];
        assert_eq!(
            chosen(&[[1.0, 0.0], [0.0, 0.0], [f64::NAN, 0.0]], &[dear; 3], 2.0),
            [analog(3), analog(1), analog(1)]
        );
        assert_eq!(chosen(&[[1.0, 0.0], [2.0, 0.0]], &[dear; 2], 0.0), [analog(1); 2]);
        assert_eq!(chosen(&[[1.0, 0.0]], &[[1.0, 1.0, 1e12]], 1e9), [analog(MAX_READS)]);
        // As dear as 7 reads, digital is better than 6; and the only thing that helps against what a chip keeps.
        let digital = [1.0, 1.0, 7.0];
        assert_eq!(chosen(&[[1.0, 0.0]], &[digital], 5.9), [analog(6)]);
        assert_eq!(chosen(&[[1.0, 0.0]], &[digital], 6.0), [Execution::Digital]);
        assert_eq!(chosen(&[[0.0, 1.0]], &[digital], 5.9), [analog(1)]);
        assert_eq!(chosen(&[[0.0, 1.0]], &[digital], 6.0), [Execution::Digital]);
        // Cheaper than a read: but for a budget of nothing, which chooses nothing.
        assert_eq!(chosen(&[[1.0, 0.0], [1.0, 0.0]], &[[1.0, 1.0, 0.5], dear], 1.0), [Execution::Digital, analog(2)]);
    }
}
