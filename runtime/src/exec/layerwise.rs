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

/// A network that samples run on.
struct Run<'a> {
    plan: &'a Plan,
    mode: Mode,
    key: Key,
    level: f64,
    /// The next step.
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

    /// How many of a batch's samples [`Executor::fit_denoisers`] takes so many bytes for, if every one runs on the noisy network so
    /// many times.
    ///
    /// # Errors
    ///
    /// When the program cannot be run.
    pub fn fitting(&self, bytes: usize, runs: usize) -> Result<usize, ExecError> {
        let (clean, noisy) = (Plan::new(&self.program, CLEAN)?.held(), Plan::new(&self.program, NOISY)?.held());
        Ok(bytes / (size_of::<f32>() * (clean + runs * noisy)).max(1))
    }

    /// Runs a batch on the clean and on the noisy, denoised network side by side; at every denoiser that `fit` wants all samples wait
    /// until its weights are set. All samples' values of a layer are in memory at once.
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
        for denoiser in &self.denoisers()? {
            if stopped() {
                return Err(ExecError::Stopped);
            }
            // One that the logits do not depend on has no step; every other value is there until it is read.
            let (Some(target), Some(input)) = (behind(clean, denoiser.layer), before(noisy, denoiser)) else {
                continue;
            };
            if fit.start(denoiser).is_none() {
                continue;
            }
            let pauses: Vec<Pause> = (0..runs.len()).map(|run| if run == 0 { target } else { input }).collect();
            let parts = self.run_shards(batch, batch.samples.len().div_ceil(PARTS), |worker, range| {
                let mut sums = fit.start(denoiser);
                for place in range {
                    let inputs = self.sample_inputs(batch, place);
                    let from = Inputs { constants: &self.constants, inputs: &inputs };
                    let mut states = lock(&states[place]);
                    for ((run, pause), state) in runs.iter().zip(&pauses).zip(states.iter_mut()) {
                        let &Run { plan, mode, key, level, next } = run;
                        let sample = Sample { mode, key, index: batch.samples[place], tape: false, level };
                        std::mem::swap(&mut worker.values, state);
                        let result = plan.advance(from, worker, &sample, next..pause.step.max(next), None);
                        std::mem::swap(&mut worker.values, state);
                        result?;
                    }
                    let mut values = runs.iter().zip(&pauses).zip(states.iter()).map(|((run, pause), buffers)| {
                        let (constants, inputs, plan) = (from.constants, from.inputs, &run.plan.values);
                        Values { constants, inputs, plan, buffers }.get(pause.value)
                    });
                    if let (Some(sums), Some(clean)) = (&mut sums, values.next()) {
                        values.for_each(|noisy| fit.add(denoiser, sums, place, clean, noisy));
                    }
                }
                // Of another layer's lengths there would be as many again for every one of these samples.
                worker.tools.pool.clear();
                Ok(sums)
            })?;
            // A layer's second denoiser finds the clean network where the first has left it.
            runs.iter_mut().zip(&pauses).for_each(|(run, pause)| run.next = pause.step.max(run.next));
            for (parameter, values) in fit.solve(denoiser, parts.into_iter().flatten().collect()) {
                self.set_weight(denoiser.weights[parameter], &values)?;
            }
        }
        Ok(())
    }
}
