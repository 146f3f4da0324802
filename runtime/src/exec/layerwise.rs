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
    program::{LayerId, Op, ValueId},
    sync::lock,
};
use mxc_spec::denoise::Kind;
use std::sync::Mutex;

/// A denoiser of a program.
#[derive(Clone, Debug)]
pub struct Denoiser {
    /// The layer that it cleans.
    pub layer: LayerId,
    /// What it computes.
    pub kind: &'static Kind,
    /// Its weights, in the order of the kind's parameters.
    pub weights: Vec<ValueId>,
}

/// Fits denoisers to pairs of a layer's clean output and the denoiser's noisy input.
pub trait Fit: Sync {
    /// What it needs of one sample.
    type Sums: Send;

    /// Whether it fits a denoiser.
    fn wants(&self, denoiser: &Denoiser) -> bool;

    /// Of a sample: the layer's output on the clean network, and what the denoiser reads on the noisy one.
    fn sums(&self, denoiser: &Denoiser, clean: &[f32], noisy: &[f32]) -> Self::Sums;

    /// The denoiser's weights, of all samples' sums in order.
    fn solve(&self, denoiser: &Denoiser, sums: Vec<Self::Sums>) -> Vec<Vec<f32>>;
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
    fn denoisers(&self) -> Vec<Denoiser> {
        let nodes = self.program.nodes().iter();
        let denoisers = nodes.filter_map(|node| match &node.op {
            Op::Denoise(denoise) => {
                Some(Denoiser { layer: denoise.layer, kind: denoise.kind, weights: node.inputs[1..].to_vec() })
            }
            _ => None,
        });
        denoisers.collect()
    }

    /// Runs a batch on the clean and on the noisy, denoised network side by side; at every denoiser that `fit` wants all samples wait
    /// until its weights are set. All samples' values of a layer are in memory at once.
    ///
    /// # Errors
    ///
    /// When the batch does not fit the program or it cannot be run.
    pub fn fit_denoisers<F: Fit>(&mut self, batch: Batch<'_>, key: Key, fit: &F) -> Result<(), ExecError> {
        self.check_batch(batch)?;
        let clean = PlanKey { noise: false, denoise: false, goal: Goal::Logits };
        let noisy = PlanKey { noise: true, denoise: true, goal: Goal::Logits };
        let clean = Plan::ready(&self.program, clean, &self.constants)?;
        let plans = [(clean, Mode::CLEAN), (Plan::ready(&self.program, noisy, &self.constants)?, Mode::DENOISED)];
        let states: Vec<Mutex<[Vec<Option<Buffer>>; 2]>> = batch.samples.iter().map(|_| Mutex::default()).collect();
        let mut done = [0, 0];
        for denoiser in self.denoisers().iter().filter(|denoiser| fit.wants(denoiser)) {
            // One that the logits do not depend on has no step; every other value is there until it is read.
            let (Some(target), Some(input)) = (behind(&plans[0].0, denoiser.layer), before(&plans[1].0, denoiser))
            else {
                continue;
            };
            // A layer's second denoiser finds the clean network where the first has left it.
            let next = [target.step.max(done[0]), input.step.max(done[1])];
            let sums = self.run_shards(batch, 1, |worker, range| {
                let inputs = self.sample_inputs(batch, range.start);
                let run = Inputs { constants: &self.constants, inputs: &inputs };
                let mut states = lock(&states[range.start]);
                for (which, (plan, mode)) in plans.iter().enumerate() {
                    let index = batch.samples[range.start];
                    let sample = Sample { mode: *mode, key, index, tape: false, level: 1.0 };
                    std::mem::swap(&mut worker.values, &mut states[which]);
                    let result = plan.advance(run, worker, &sample, done[which]..next[which], None);
                    std::mem::swap(&mut worker.values, &mut states[which]);
                    result?;
                }
                let value = |which: usize, id: Id| {
                    let (plan, _) = &plans[which];
                    let (plan, buffers) = (&plan.values, &states[which]);
                    Values { constants: run.constants, inputs: run.inputs, plan, buffers }.get(id)
                };
                Ok(fit.sums(denoiser, value(0, target.value), value(1, input.value)))
            })?;
            done = next;
            for (&value, values) in denoiser.weights.iter().zip(fit.solve(denoiser, sums)) {
                self.set_weight(value, &values)?;
            }
        }
        Ok(())
    }
}
