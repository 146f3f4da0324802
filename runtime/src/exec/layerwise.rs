//! Samples side by side, denoiser by denoiser: each is fitted on what the fitted ones before it leave.

use super::{
    Batch, Executor, Key, Mode,
    backend::Inputs,
    buffers::Buffer,
    kernel::{Id, Values},
    sample::Sample,
};
use crate::{
    error::ExecError,
    plan::{
        Plan,
        steps::{Goal, PlanKey},
    },
    program::{Denoise, LayerId, Op, ValueId},
    sync::lock,
};
use mxc_spec::denoise::{Kind, expression::Site};
use std::{collections::BTreeSet, sync::Mutex};

/// A denoiser of a program.
#[derive(Clone, Debug)]
pub struct Denoiser {
    /// The layer that it cleans.
    pub layer: LayerId,
    /// What it computes.
    pub kind: &'static Kind,
    /// What it is placed on.
    pub site: Site,
    /// The dimensions of what it reads of one sample, channels last.
    pub shape: Vec<usize>,
    /// Its weights, in the order of the kind's parameters.
    pub weights: Vec<ValueId>,
}

/// Fits denoisers to pairs of a layer's clean output and the denoiser's noisy input.
pub trait Fit: Sync {
    /// What it needs of the samples.
    type Sums: Send;

    /// Every sample runs on the noisy network once for each, on a chip of its own: shares of the noise as it is.
    fn levels(&self) -> &[f64] {
        &[1.0]
    }

    /// Of no samples; `None` for a denoiser that it leaves as it is.
    fn start(&self, denoiser: &Denoiser) -> Option<Self::Sums>;

    /// Adds a run of the sample at a place of the batch: the layer's output on the clean network, and what the denoiser reads on the
    /// noisy one.
    fn add(&self, denoiser: &Denoiser, sums: &mut Self::Sums, place: usize, clean: &[f32], noisy: &[f32]);

    /// The denoiser's weights that it sets, by their places among the kind's parameters, of the sums of all samples' parts in order.
    fn solve(&self, denoiser: &Denoiser, parts: Vec<Self::Sums>) -> Vec<(usize, Vec<f32>)>;
}

/// The most parts that a batch's samples are added up in, each on one thread.
const PARTS: usize = 16;

/// The clean network's plan.
const CLEAN: PlanKey = PlanKey { noise: false, denoise: false, goal: Goal::Logits };

/// The noisy, denoised network's plan.
const NOISY: PlanKey = PlanKey { noise: true, denoise: true, goal: Goal::Logits };

/// How many words of samples' values are in memory at a time: 2 GiB.
const WORDS: usize = (2 << 30) / size_of::<f32>();

/// Of samples that do not fit, steps run again, to at most so many times the work of running all once.
const WORK: usize = 2;

/// A network that samples run on.
struct Run<'a> {
    plan: &'a Plan,
    mode: Mode,
    key: Key,
    level: f64,
    /// The step that comes next behind what is kept.
    next: usize,
}

/// Where plans pause: the step that comes next, and the value that is looked at.
#[derive(Clone, Copy)]
struct Pause {
    step: usize,
    value: Id,
}

/// Before the first step that reads a denoiser's weights.
fn before(plan: &Plan, denoiser: &Denoiser) -> Option<Pause> {
    let reads = |id: &ValueId| denoiser.weights.contains(id);
    let step = plan.steps.iter().position(|step| step.kernel.parameters().iter().any(reads))?;
    Some(Pause { step, value: plan.steps[step].inputs[0] })
}

/// Behind a layer's product.
fn behind(plan: &Plan, layer: LayerId) -> Option<Pause> {
    let step = plan.steps.iter().position(|step| step.layer == Some(layer))?;
    Some(Pause { step: step + 1, value: plan.steps[step].output })
}

/// Where the clean and the noisy network pause for a denoiser.
struct Stop {
    denoiser: Denoiser,
    pauses: [Pause; 2],
}

/// What a sample's runs are at a stop.
struct Load {
    /// The words that they hold there.
    held: usize,
    /// The words that they have computed since the stop before.
    computed: usize,
}

impl Load {
    /// Whether a sample that may hold so many words is kept there.
    fn is_kept(&self, allowed: usize) -> bool {
        self.held <= allowed
    }
}

/// By stop.
struct Loads(Vec<Load>);

impl Loads {
    /// Of one run of the first plan, and so many of the second.
    fn new(stops: &[Stop], plans: [&Plan; 2], runs: usize) -> Self {
        let counted = plans.into_iter().zip([1, runs]);
        let networks: Vec<_> = counted.map(|(plan, runs)| (plan, runs, plan.held())).collect();
        let mut next = [0; 2];
        let load = |stop: &Stop| {
            let mut load = Load { held: 0, computed: 0 };
            for (((plan, runs, held), pause), next) in networks.iter().zip(stop.pauses).zip(&mut next) {
                let end = pause.step.max(*next);
                load.held += runs * held[end];
                load.computed +=
                    runs * plan.steps[*next..end].iter().map(|step| plan.values[step.output].len).sum::<usize>();
                *next = end;
            }
            load
        };
        Self(stops.iter().map(load).collect())
    }

    /// How many samples can be in memory at a time, for no more than [`WORK`].
    fn most(&self) -> usize {
        let once: usize = self.0.iter().map(|load| load.computed).sum();
        let mut allowed: Vec<usize> = self.0.iter().map(|load| load.held).chain([0]).collect();
        allowed.sort_unstable();
        let least = allowed.into_iter().find(|&allowed| self.work(allowed) <= WORK * once);
        WORDS / least.unwrap_or(0).max(1)
    }

    /// The words that a sample's runs compute where no more than `allowed` is kept.
    fn work(&self, allowed: usize) -> usize {
        let (mut since, mut work) = (0, 0);
        for load in &self.0 {
            since += load.computed;
            work += since;
            if load.is_kept(allowed) {
                since = 0;
            }
        }
        work
    }
}

impl Executor {
    /// The program's denoisers, in the order of execution.
    fn denoisers(&self) -> Result<Vec<Denoiser>, ExecError> {
        let (values, nodes) = (self.program.values(), self.program.nodes());
        let convolutions = nodes.iter().filter(|node| matches!(node.op, Op::Conv2d(_)));
        let spatial: BTreeSet<LayerId> = convolutions.filter_map(|node| node.op.analog_layer()).collect();
        let mut denoisers = Vec::new();
        for node in nodes {
            let Op::Denoise(Denoise { layer, kind }) = node.op else {
                continue;
            };
            let (shape, weights) = (values[node.inputs[0]].sample.clone(), node.inputs[1..].to_vec());
            let shapes: Vec<&[usize]> = weights.iter().map(|&weight| values[weight].sample.as_slice()).collect();
            let site = kind.expression().fit(self.program.layers()[layer].channels, &shapes);
            let site = site.map_err(|misfit| ExecError::Program(format!("denoise.{}: {misfit}", kind.name)))?;
            // The weights of a kind without taps do not tell.
            let site = Site { spatial: spatial.contains(&layer), ..site };
            denoisers.push(Denoiser { layer, kind, site, shape, weights });
        }
        Ok(denoisers)
    }

    /// Where the clean and the noisy network pause for the denoisers that `wanted` says. Left out are those that the logits do not depend
    /// on, which have no step; every other value is there until it is read.
    fn stops(&self, clean: &Plan, noisy: &Plan, wanted: impl Fn(&Denoiser) -> bool) -> Result<Vec<Stop>, ExecError> {
        let wanted = self.denoisers()?.into_iter().filter(wanted);
        let stop = |denoiser: Denoiser| {
            let pauses = [behind(clean, denoiser.layer)?, before(noisy, &denoiser)?];
            Some(Stop { denoiser, pauses })
        };
        Ok(wanted.filter_map(stop).collect())
    }

    /// How many of so many samples [`Executor::fit_denoisers`] should be given, if every one runs on the noisy network so many times: as
    /// many as fit 2 GiB, at least two, without running more than twice as many steps, weighed by what they compute, as one run has.
    ///
    /// # Errors
    ///
    /// When the program cannot be run.
    pub fn fitting(&self, count: usize, runs: usize) -> Result<usize, ExecError> {
        let (clean, noisy) = (Plan::new(&self.program, CLEAN)?, Plan::new(&self.program, NOISY)?);
        let loads = Loads::new(&self.stops(&clean, &noisy, |_| true)?, [&clean, &noisy], runs);
        Ok(loads.most().max(2).min(count))
    }

    /// Runs a batch on the clean and on the noisy, denoised network side by side; at every denoiser that `fit` wants all samples wait
    /// until its weights are set. What they hold there is in memory at once, or, where that is more than 2 GiB, comes anew from where it
    /// was less.
    ///
    /// # Errors
    ///
    /// When the batch does not fit the program or it cannot be run, or `stopped` says that the caller wants no more.
    pub fn fit_denoisers<F: Fit>(
        &mut self,
        batch: Batch<'_>,
        key: Key,
        fit: &F,
        stopped: &dyn Fn() -> bool,
    ) -> Result<(), ExecError> {
        self.fit_within(WORDS, batch, key, fit, stopped)
    }

    fn fit_within<F: Fit>(
        &mut self,
        words: usize,
        batch: Batch<'_>,
        key: Key,
        fit: &F,
        stopped: &dyn Fn() -> bool,
    ) -> Result<(), ExecError> {
        self.check_batch(batch)?;
        let clean = &Plan::ready(&self.program, CLEAN, &self.constants)?;
        let noisy = &Plan::ready(&self.program, NOISY, &self.constants)?;
        let mut runs = vec![Run { plan: clean, mode: Mode::CLEAN, key, level: 1.0, next: 0 }];
        runs.extend(fit.levels().iter().zip(key.chip..).map(|(&level, chip)| Run {
            plan: noisy,
            mode: Mode::DENOISED,
            key: Key { chip, ..key },
            level,
            next: 0,
        }));
        let states: Vec<Mutex<Vec<Vec<Option<Buffer>>>>> =
            batch.samples.iter().map(|_| Mutex::new(runs.iter().map(|_| Vec::new()).collect())).collect();
        let stops = self.stops(clean, noisy, |denoiser| fit.start(denoiser).is_some())?;
        let loads = Loads::new(&stops, [clean, noisy], runs.len() - 1);
        let allowed = words / batch.samples.len().max(1);
        for (Stop { denoiser, pauses: [target, input] }, load) in stops.iter().zip(&loads.0) {
            if stopped() {
                return Err(ExecError::Stopped);
            }
            let kept = load.is_kept(allowed);
            let pauses: Vec<Pause> = (0..runs.len()).map(|run| if run == 0 { *target } else { *input }).collect();
            let parts = self.run_shards(batch, batch.samples.len().div_ceil(PARTS), |worker, range| {
                let mut sums = fit.start(denoiser);
                for place in range {
                    let inputs = self.sample_inputs(batch, place);
                    let from = Inputs { constants: &self.constants, inputs: &inputs };
                    let mut states = lock(&states[place]);
                    let mut reached = Vec::with_capacity(runs.len());
                    for ((run, pause), state) in runs.iter().zip(&pauses).zip(states.iter_mut()) {
                        let &Run { plan, mode, key, level, next } = run;
                        let sample = Sample { mode, key, index: batch.samples[place], tape: false, level };
                        let pool = &mut worker.tools.pool;
                        let own = match kept {
                            true => std::mem::take(state),
                            false => state.iter().map(|value| Some(pool.take_copy(value.as_deref()?))).collect(),
                        };
                        let before = std::mem::replace(&mut worker.values, own);
                        let result = plan.advance(from, worker, &sample, next..pause.step.max(next), None);
                        reached.push(std::mem::replace(&mut worker.values, before));
                        result?;
                    }
                    let mut values = runs.iter().zip(&pauses).zip(&reached).map(|((run, pause), buffers)| {
                        let (constants, inputs, plan) = (from.constants, from.inputs, &run.plan.values);
                        Values { constants, inputs, plan, buffers }.get(pause.value)
                    });
                    if let (Some(sums), Some(clean)) = (&mut sums, values.next()) {
                        values.for_each(|noisy| fit.add(denoiser, sums, place, clean, noisy));
                    }
                    match kept {
                        true => *states = reached,
                        false => {
                            let buffers = reached.into_iter().flatten().flatten();
                            buffers.for_each(|buffer| worker.tools.pool.give(buffer));
                        }
                    }
                }
                // Of another layer's lengths there would be as many again for every one of these samples.
                worker.tools.pool.clear();
                Ok(sums)
            })?;
            // A layer's second denoiser finds the clean network where the first has left it.
            if kept {
                runs.iter_mut().zip(&pauses).for_each(|(run, pause)| run.next = pause.step.max(run.next));
            }
            for (parameter, values) in fit.solve(denoiser, parts.into_iter().flatten().collect()) {
                self.set_weight(denoiser.weights[parameter], &values)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        exec::testing::Net,
        program::{Binary, Program},
    };
    use mxc_spec::noise::LayerNoise;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A network that widens and narrows, with a bias behind every layer.
    fn network() -> Program {
        let mut net = Net::new();
        net.noise = LayerNoise { spec: "30%".parse().unwrap(), ..LayerNoise::default() };
        let bias = Kind::named("bias").unwrap();
        let x = net.input(&[8, 8, 3]);
        let mut x = net.conv(x, 4, 3, 1, 1);
        for _ in 0..3 {
            let wide = net.conv(x, 24, 1, 1, 1);
            let wide = net.denoiser(bias, wide, true, 0.0);
            let wide = net.relu(wide);
            let narrow = net.conv(wide, 4, 3, 1, 1);
            let narrow = net.denoiser(bias, narrow, true, 0.0);
            x = net.binary(Binary::Add, x, narrow);
        }
        net.classify(x, 5)
    }

    /// Biases that give channels their clean means of 6 images of 64 pixels seen twice, and how often a run has come to a denoiser.
    #[derive(Default)]
    struct Means(AtomicUsize);

    impl Fit for Means {
        type Sums = Vec<f64>;

        fn levels(&self) -> &[f64] {
            &[1.0, 0.5]
        }

        fn start(&self, denoiser: &Denoiser) -> Option<Vec<f64>> {
            Some(vec![0.0; denoiser.site.channels])
        }

        fn add(&self, denoiser: &Denoiser, sums: &mut Vec<f64>, _: usize, clean: &[f32], noisy: &[f32]) {
            self.0.fetch_add(1, Ordering::Relaxed);
            for (at, (clean, noisy)) in clean.iter().zip(noisy).enumerate() {
                sums[at % denoiser.site.channels] += f64::from(clean - noisy);
            }
        }

        fn solve(&self, denoiser: &Denoiser, parts: Vec<Vec<f64>>) -> Vec<(usize, Vec<f32>)> {
            let channel = |channel: usize| (parts.iter().map(|part| part[channel]).sum::<f64>() / 768.0) as f32;
            vec![(0, (0..denoiser.site.channels).map(channel).collect())]
        }
    }

    /// What is not kept comes anew to the last bit, whatever part that is.
    #[test]
    fn memory_changes_nothing() {
        let images = Net::new().randoms(6 * 8 * 8 * 3, 1.0);
        let ids: Vec<u64> = (0..6).collect();
        let fitted = |words: usize, threads: usize| {
            let mut executor = Executor::new(network(), threads).unwrap();
            let (batch, means) = (Batch { inputs: &[&images], samples: &ids }, Means::default());
            executor.fit_within(words * ids.len(), batch, Key::calibration(1, 0), &means, &|| false).unwrap();
            assert_eq!(means.0.into_inner(), 6 * 2 * ids.len());
            let values = executor.program().values().iter().enumerate();
            values.filter(|(_, value)| value.trainable).map(|(id, _)| executor.weight(id).to_vec()).collect::<Vec<_>>()
        };
        let all = fitted(usize::MAX / 64, 2);
        assert!(all.iter().flatten().all(|&bias| bias != 0.0));
        // Three runs hold 24 channels of 64 pixels, with the 4 that are added, or 4 and 4.
        for (words, threads) in [(3 * 64 * 24, 1), (3 * 64 * 8, 3), (0, 2)] {
            assert_eq!(fitted(words, threads), all, "{words} words a sample");
        }
    }

    /// Where memory is short, what is narrow is kept and what is wide comes anew.
    #[test]
    fn narrow_values_are_kept() {
        let executor = Executor::new(network(), 1).unwrap();
        let (clean, noisy) =
            (Plan::new(&executor.program, CLEAN).unwrap(), Plan::new(&executor.program, NOISY).unwrap());
        let loads = Loads::new(&executor.stops(&clean, &noisy, |_| true).unwrap(), [&clean, &noisy], 2);
        let once: usize = loads.0.iter().map(|load| load.computed).sum();
        let held: Vec<usize> = loads.0.iter().map(|load| load.held).collect();
        assert_eq!(held, [28, 8, 28, 8, 28, 8].map(|channels| 3 * 64 * channels));
        assert_eq!(loads.work(held[0]), once);
        assert!((once + 1..WORK * once).contains(&loads.work(held[1])));
        assert!(loads.work(0) > WORK * once);
        assert_eq!(loads.most(), WORDS / held[1]);
        assert_eq!(executor.fitting(10, 2).unwrap(), 10);
        assert_eq!(executor.fitting(1, 2).unwrap(), 1);
        assert_eq!(executor.fitting(usize::MAX, 2).unwrap(), loads.most());
    }
}
