//! Peepholes: two steps in a row, the first of which only the second reads, become one.

use super::steps::Steps;
use crate::{
    exec::kernel::{Id, Place, Step, Value},
    kernels::broadcast::Arithmetic,
    ops::{
        binary::{AddClamp, Affine, Elementwise},
        unary::{Function, Unary},
    },
    program::value::ValueId,
};

/// How often each value is read.
fn uses(steps: &Steps<'_>, targets: &[Id]) -> Vec<usize> {
    let mut uses = vec![0usize; steps.values.len()];
    steps.steps.iter().flat_map(|step| &step.inputs).chain(targets).for_each(|&id| uses[id] += 1);
    uses
}

/// A clamp of a sum of equal shapes.
pub(super) fn clamps(steps: &mut Steps<'_>, targets: &[Id]) {
    let mut uses = uses(steps, targets);
    for index in 1..steps.steps.len() {
        let (before, after) = steps.steps.split_at_mut(index);
        let clamp = &mut after[0];
        let Some(&Function(Unary::Clamp { min, max })) = clamp.kernel() else {
            continue;
        };
        let Some(sum) = before.iter().find(|step| step.output == clamp.inputs[0]) else {
            continue;
        };
        let Some(Elementwise { op: Arithmetic::Add, .. }) = sum.kernel() else {
            continue;
        };
        let equal = sum.inputs.iter().all(|&id| steps.values[id].len == steps.values[sum.output].len);
        if equal && uses[sum.output] == 1 {
            clamp.kernel = Box::new(AddClamp { min, max });
            clamp.inputs.clone_from(&sum.inputs);
            uses[sum.output] = 0;
        }
    }
}

/// A product and a sum with a constant per channel each: an unfolded batch normalisation.
pub(super) fn affines(steps: &mut Steps<'_>, targets: &[Id]) {
    let mut uses = uses(steps, targets);
    for index in 1..steps.steps.len() {
        let (before, after) = steps.steps.split_at_mut(index);
        let sum = &mut after[0];
        let Some((product, shift, channels)) = with_constant(&steps.values, sum, Arithmetic::Add) else {
            continue;
        };
        let Some(step) = before.iter().find(|step| step.output == product) else {
            continue;
        };
        let Some((x, scale, same)) = with_constant(&steps.values, step, Arithmetic::Mul) else {
            continue;
        };
        if channels == same && uses[product] == 1 {
            sum.kernel = Box::new(Affine { scale, shift });
            sum.inputs = vec![x];
            uses[product] = 0;
        }
    }
}

/// The operand, the constant and the channels of a step that has one constant per channel as its other operand.
fn with_constant(values: &[Value], step: &Step, wanted: Arithmetic) -> Option<(Id, ValueId, usize)> {
    let Elementwise { op, shape } = step.kernel()?;
    if *op != wanted {
        return None;
    }
    let (left, right) = (step.inputs[0], step.inputs[1]);
    [(left, right, shape.clone()), (right, left, shape.swapped())].into_iter().find_map(|(x, y, shape)| {
        match values[y].place {
            Place::Constant(id) => Some((x, id, shape.per_channel()?)),
            Place::Input(_) | Place::Buffer => None,
        }
    })
}
