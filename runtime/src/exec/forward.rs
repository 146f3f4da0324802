//! The forward pass of one sample.

use super::{
    Executor,
    kernel::{Forward, Values},
    sample::{Observer, Sample},
    worker::{Extra, Worker},
};
use crate::{error::ExecError, plan::Plan};

impl Executor {
    /// The values of the sample that a worker has run last.
    pub(super) fn values<'r>(&'r self, plan: &'r Plan, worker: &'r Worker, inputs: &'r [&'r [f32]]) -> Values<'r> {
        Values { constants: &self.constants, inputs, plan: &plan.values, buffers: &worker.values }
    }

    /// Runs a plan for one sample; the worker keeps the values that outlive their last use.
    pub(super) fn run_forward(
        &self,
        plan: &Plan,
        worker: &mut Worker,
        inputs: &[&[f32]],
        sample: &Sample,
        mut observer: Option<&mut Observer<'_>>,
    ) -> Result<(), ExecError> {
        worker.reset(plan.values.len(), plan.steps.len());
        for (index, step) in plan.steps.iter().enumerate() {
            let first = step.inputs[0];
            let mut out = match step.takes_buffer {
                true => worker.values[first].take().unwrap_or_default(),
                false => worker.tools.pool.take(plan.values[step.output].len),
            };
            let Worker { values, tools, .. } = worker;
            let values = Values { constants: &self.constants, inputs, plan: &plan.values, buffers: values };
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
