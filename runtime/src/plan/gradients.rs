//! What the backward pass visits, and the values that it reads.

use super::steps::{Goal, Steps};
use crate::{error::ExecError, program::value::Value};

/// Marks the steps and the values.
pub(super) fn mark(steps: &mut Steps<'_>, program: &[Value]) -> Result<(), ExecError> {
    for index in 0..steps.steps.len() {
        let step = &steps.steps[index];
        let trained = step.kernel.parameters().iter().any(|&id| program[id].trainable);
        let starts = match steps.key.goal {
            Goal::Sensitivity => step.layer.is_some(),
            Goal::Train => trained,
            Goal::Outputs | Goal::Logits | Goal::Layers => false,
        };
        let passes = !step.kernel.is_constant() && step.inputs.iter().any(|&id| steps.values[id].gradient);
        let visited = starts || passes;
        if visited {
            let reads = step.kernel.reads(trained).map_err(|name| {
                ExecError::Program(format!(
                    "{name} of values that depend on a denoiser has no gradient; place the denoisers behind it \
                     (--placement at=GLOB)"
                ))
            })?;
            let saved: Vec<_> = reads.operands.iter().map(|&position| step.inputs[position]).collect();
            let result = step.output;
            saved.into_iter().chain(reads.result.then_some(result)).for_each(|id| steps.values[id].saved = true);
        }
        let output = steps.steps[index].output;
        steps.values[output].gradient = visited;
        steps.steps[index].gradient = visited;
    }
    Ok(())
}
