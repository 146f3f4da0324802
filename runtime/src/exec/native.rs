//! The fast backend: plans of kernels, oneDNN's among them.

use super::{
    backend::{Backend, GradientObserver, Inputs, Prepared},
    buffers::Buffer,
    constants::Constants,
    kernel::{Backward, Forward, Gradients, Values},
    sample::{Observer, Sample, WeightGradients},
    worker::{Extra, Worker},
};
use crate::{
    error::ExecError,
    plan::{Plan, steps::PlanKey},
    program::Program,
};
use std::{ops::Range, sync::Arc};

/// Plans of kernels.
pub(crate) struct Native;

impl Backend for Native {
    fn prepare(
        &self,
        program: &Arc<Program>,
        key: PlanKey,
        constants: &Constants,
    ) -> Result<Arc<dyn Prepared>, ExecError> {
        Ok(Arc::new(Plan::ready(program, key, constants)?))
    }
}

impl Plan {
    /// Plans a kind of run and makes what its kernels need.
    pub fn ready(program: &Program, key: PlanKey, constants: &Constants) -> Result<Self, ExecError> {
        let plan = Self::new(program, key)?;
        plan.steps.iter().try_for_each(|step| step.kernel.prepare(constants))?;
        Ok(plan)
    }

    /// Runs some of a sample's steps, those before having run.
    pub fn advance(
        &self,
        Inputs { constants, inputs }: Inputs<'_>,
        worker: &mut Worker,
        sample: &Sample,
        steps: Range<usize>,
        mut observer: Option<&mut Observer<'_>>,
    ) -> Result<(), ExecError> {
        if steps.start == 0 {
            worker.reset(self.values.len(), self.steps.len());
        }
        for (index, step) in self.steps.iter().enumerate().take(steps.end).skip(steps.start) {
            let first = step.inputs[0];
            let mut out = match step.takes_buffer {
                true => worker.values[first].take().unwrap_or_default(),
                false => worker.tools.pool.take(self.values[step.output].len),
            };
            let Worker { values, tools, .. } = worker;
            let values = Values { constants, inputs, plan: &self.values, buffers: values };
            if step.kernel.in_place() && !step.takes_buffer {
                out.copy_from_slice(values.get(first));
            }
            let observer = observer.as_mut().map(|observer| &mut **observer as &mut Observer<'_>);
            let mut run = Forward { values, step, out: &mut out, tools, sample, observer, extra: Extra::Nothing };
            step.kernel.forward(&mut run)?;
            let extra = run.extra;
            worker.values[step.output] = Some(out);
            match sample.tape {
                true => worker.extras[index] = extra,
                false => extra.release(&mut worker.tools.pool),
            }
            for &id in &step.frees {
                if let Some(buffer) = worker.values[id].take() {
                    worker.tools.pool.give(buffer);
                }
            }
        }
        Ok(())
    }
}

impl Prepared for Plan {
    fn forward(
        &self,
        inputs: Inputs<'_>,
        worker: &mut Worker,
        sample: &Sample,
        observer: Option<&mut Observer<'_>>,
    ) -> Result<(), ExecError> {
        self.advance(inputs, worker, sample, 0..self.steps.len(), observer)
    }

    fn output<'r>(&'r self, Inputs { constants, inputs }: Inputs<'r>, worker: &'r Worker, index: usize) -> &'r [f32] {
        Values { constants, inputs, plan: &self.values, buffers: &worker.values }.get(self.targets[index])
    }

    fn backward(
        &self,
        Inputs { constants, inputs }: Inputs<'_>,
        worker: &mut Worker,
        seed: Buffer,
        weights: &mut WeightGradients,
        mut observer: Option<&mut GradientObserver<'_>>,
    ) -> Result<(), ExecError> {
        let Worker { values, extras, tools } = worker;
        let values = Values { constants, inputs, plan: &self.values, buffers: values };
        let mut gradients = Gradients::default();
        gradients.of.resize_with(self.values.len(), || None);
        match self.values[self.logits].gradient {
            true => gradients.add(self.logits, seed, &mut tools.pool),
            false => tools.pool.give(seed),
        }
        for (step, extra) in self.steps.iter().zip(extras).rev().filter(|(step, _)| step.gradient) {
            let Some(g) = gradients.of[step.output].take() else {
                continue;
            };
            if let (Some(observer), Some(layer)) = (&mut observer, step.layer) {
                observer(layer, &g);
            }
            let mut run = Backward { values, step, tools, gradients: &mut gradients, weights, extra };
            step.kernel.backward(&mut run, g)?;
        }
        for buffer in gradients.of.into_iter().flatten() {
            tools.pool.give(buffer);
        }
        Ok(())
    }
}
