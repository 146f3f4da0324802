//! The backward pass of one sample: data gradients through the frozen backbone, weight gradients of denoisers only.

use super::{
    Executor,
    buffers::Buffer,
    kernel::{Backward, Gradients, Values},
    sample::WeightGradients,
    worker::Worker,
};
use crate::{error::ExecError, plan::Plan, program::LayerId};

/// What is told of every layer's output gradient.
pub(super) type GradientObserver<'a> = dyn FnMut(LayerId, &[f32]) + 'a;

impl Executor {
    /// Runs the backward pass of the sample whose forward pass the worker has just run with a tape. `seed` is the
    /// gradient of the plan's logits.
    pub(super) fn run_backward(
        &self,
        plan: &Plan,
        worker: &mut Worker,
        inputs: &[&[f32]],
        seed: Buffer,
        weights: &mut WeightGradients,
        mut observer: Option<&mut GradientObserver<'_>>,
    ) -> Result<(), ExecError> {
        let Worker { values, extras, tools } = worker;
        let values = Values { constants: &self.constants, inputs, plan: &plan.values, buffers: values };
        let mut gradients = Gradients::default();
        gradients.of.resize_with(plan.values.len(), || None);
        if plan.values[plan.logits].gradient {
            gradients.add(plan.logits, seed, &mut tools.pool);
        } else {
            tools.pool.give(seed);
        }
        for (step, extra) in plan.steps.iter().zip(extras).rev().filter(|(step, _)| step.gradient) {
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
