//! Steps under construction: what operators emit.

use crate::{
    exec::kernel::{Id, Kernel, Place, Step, Value},
    program::value::{DType, Layer, ValueId},
    store::Weight,
};

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Goal {
    /// All outputs.
    Outputs,
    /// The logits.
    Logits,
    /// Every layer's output.
    Layers,
    /// The logits, and gradients in the trainable weights.
    Train,
    /// The logits, and gradients in every layer's output.
    Sensitivity,
}

/// Which plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PlanKey {
    pub noise: bool,
    pub denoise: bool,
    pub goal: Goal,
}

/// An operand of a node whose steps are made.
#[derive(Clone, Copy)]
pub(crate) struct Argument<'a> {
    pub id: Id,
    pub value: ValueId,
    pub dtype: DType,
    /// For one sample.
    pub shape: &'a [usize],
    pub constant: Option<&'a Weight>,
}

/// The steps and values so far.
pub(crate) struct Steps<'a> {
    pub key: PlanKey,
    /// The program's analog layers.
    pub layers: &'a [Layer],
    pub values: Vec<Value>,
    pub steps: Vec<Step>,
}

impl Steps<'_> {
    /// A new value.
    pub fn value(&mut self, place: Place, len: usize) -> Id {
        self.values.push(Value { place, len, gradient: false, saved: false });
        self.values.len() - 1
    }

    /// Emits a kernel; returns its result, of `len` words.
    pub fn push(&mut self, kernel: impl Kernel, inputs: Vec<Id>, len: usize) -> Id {
        let output = self.value(Place::Buffer, len);
        self.steps.push(Step {
            kernel: Box::new(kernel),
            inputs,
            output,
            layer: None,
            takes_buffer: false,
            frees: Vec::new(),
            gradient: false,
        });
        output
    }

    /// The step that computes a value.
    pub fn producer(&self, id: Id) -> Option<&Step> {
        self.steps.iter().rev().find(|step| step.output == id)
    }
}
