//! Which values are freed where, and which buffers are taken over.

use super::steps::Steps;
use crate::exec::kernel::{Id, Place};
use std::collections::BTreeSet;

/// Decides both for every step.
pub(super) fn assign(steps: &mut Steps<'_>, targets: &[Id]) {
    let mut last = vec![None; steps.values.len()];
    for (index, step) in steps.steps.iter().enumerate() {
        step.inputs.iter().for_each(|&id| last[id] = Some(index));
        last[step.output] = last[step.output].or(Some(index));
    }
    let values = &steps.values;
    let keep = |id: Id| values[id].saved || targets.contains(&id) || values[id].place != Place::Buffer;
    for (index, step) in steps.steps.iter_mut().enumerate() {
        let first = step.inputs[0];
        step.takes_buffer = step.kernel.in_place() && last[first] == Some(index) && !keep(first);
        let read = step.inputs.iter().chain([&step.output]).copied();
        let mut frees: BTreeSet<Id> = read.filter(|&id| last[id] == Some(index) && !keep(id)).collect();
        if step.takes_buffer {
            frees.remove(&first);
        }
        step.frees = frees.into_iter().collect();
    }
}
