//! What a step of a plan runs: a kernel with its geometry, and what it sees of a run.

use super::{
    buffers::{Buffer, Pool},
    constants::Constants,
    sample::{Observer, Sample, Seen, WeightGradients},
    worker::{Extra, Tools},
};
use crate::{
    error::ExecError,
    kernels::elementwise,
    program::value::{LayerId, ValueId},
};
use std::{any::Any, fmt::Debug};

/// A value of a plan.
pub(crate) type Id = usize;

/// A kernel with its geometry.
pub(crate) trait Kernel: Any + Debug + Send + Sync {
    /// Whether it works in place on its first operand's values: `forward` finds them in `out`.
    fn in_place(&self) -> bool;

    /// Whether small changes of its operands change nothing: integers and booleans are constant almost everywhere.
    fn is_constant(&self) -> bool {
        false
    }

    /// The constants that it reads and that may be trained.
    fn parameters(&self) -> Vec<ValueId> {
        Vec::new()
    }

    /// What `backward` reads, where its parameters are trained or not; `Err` with the operation's name where no gradient is known.
    fn reads(&self, trained: bool) -> Result<Reads, &'static str>;

    /// Makes what it needs of constants, so that threads find it.
    fn prepare(&self, _: &Constants) -> Result<(), ExecError> {
        Ok(())
    }

    /// Computes the result.
    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError>;

    /// From the result's gradient `g` those of the operands that are wanted, and of the weights that are trained.
    fn backward(&self, run: &mut Backward<'_>, g: Buffer) -> Result<(), ExecError>;
}

/// Which values a backward pass reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    /// Positions among the operands.
    pub operands: &'static [usize],
    pub result: bool,
}

impl Reads {
    pub const NOTHING: Self = Self { operands: &[], result: false };
    pub const OPERAND: Self = Self { operands: &[0], result: false };
    pub const OPERANDS: Self = Self { operands: &[0, 1], result: false };
    pub const RESULT: Self = Self { operands: &[], result: true };
    pub const BOTH: Self = Self { operands: &[0], result: true };
}

/// Where a plan's value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A program input.
    Input(usize),
    /// A program constant.
    Constant(ValueId),
    /// A buffer of the run.
    Buffer,
}

/// A value of a plan.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub place: Place,
    pub len: usize,
    /// Whether a gradient of it is wanted.
    pub gradient: bool,
    /// Whether it is kept until the backward pass.
    pub saved: bool,
}

/// One step of a plan.
#[derive(Debug)]
pub(crate) struct Step {
    pub kernel: Box<dyn Kernel>,
    pub inputs: Vec<Id>,
    pub output: Id,
    /// The analog layer whose output y this computes.
    pub layer: Option<LayerId>,
    /// Whether an in-place kernel may take over its operand's buffer.
    pub takes_buffer: bool,
    /// Values that are not read after this step.
    pub frees: Vec<Id>,
    /// Whether the backward pass visits it.
    pub gradient: bool,
}

impl Step {
    /// The kernel, if it is this one.
    pub fn kernel<K: Kernel>(&self) -> Option<&K> {
        (self.kernel.as_ref() as &dyn Any).downcast_ref()
    }
}

/// The values of a run.
#[derive(Clone, Copy)]
pub(crate) struct Values<'r> {
    pub constants: &'r Constants,
    pub inputs: &'r [&'r [f32]],
    pub plan: &'r [Value],
    pub buffers: &'r [Option<Buffer>],
}

impl<'r> Values<'r> {
    pub fn get(&self, id: Id) -> &'r [f32] {
        match self.plan[id].place {
            Place::Input(input) => self.inputs[input],
            Place::Constant(constant) => self.constants.get(constant),
            Place::Buffer => self.buffers[id].as_deref().unwrap_or(&[]),
        }
    }
}

/// What a step's forward pass works on.
pub(crate) struct Forward<'r> {
    pub values: Values<'r>,
    pub step: &'r Step,
    /// The result; of a kernel that works in place first the operand's values.
    pub out: &'r mut [f32],
    pub tools: &'r mut Tools,
    pub sample: &'r Sample,
    pub observer: Option<&'r mut Observer<'r>>,
    /// What the backward pass will need.
    pub extra: Extra,
}

impl<'r> Forward<'r> {
    pub fn operand(&self, position: usize) -> &'r [f32] {
        self.values.get(self.step.inputs[position])
    }

    pub fn constant(&self, value: ValueId) -> &'r [f32] {
        self.values.constants.get(value)
    }

    pub fn constants(&self) -> &'r Constants {
        self.values.constants
    }

    pub fn pool(&mut self) -> &mut Pool {
        &mut self.tools.pool
    }

    /// Tells the observer, if there is one.
    pub fn observe(&mut self, layer: LayerId, seen: Seen<'_>) {
        if let Some(observer) = &mut self.observer {
            observer(layer, seen);
        }
    }
}

/// What a step's backward pass works on.
pub(crate) struct Backward<'r> {
    pub values: Values<'r>,
    pub step: &'r Step,
    pub tools: &'r mut Tools,
    pub gradients: &'r mut Gradients,
    pub weights: &'r mut WeightGradients,
    pub extra: &'r Extra,
}

impl<'r> Backward<'r> {
    pub fn operand(&self, position: usize) -> &'r [f32] {
        self.values.get(self.step.inputs[position])
    }

    pub fn result(&self) -> &'r [f32] {
        self.values.get(self.step.output)
    }

    pub fn constant(&self, value: ValueId) -> &'r [f32] {
        self.values.constants.get(value)
    }

    pub fn pool(&mut self) -> &mut Pool {
        &mut self.tools.pool
    }

    /// The number of elements of an operand.
    pub fn len(&self, position: usize) -> usize {
        self.values.plan[self.step.inputs[position]].len
    }

    /// Whether an operand's gradient is wanted.
    pub fn wanted(&self, position: usize) -> bool {
        self.values.plan[self.step.inputs[position]].gradient
    }

    /// Adds a whole contribution to an operand's gradient, if it is wanted.
    pub fn add(&mut self, position: usize, buffer: Buffer) {
        let id = self.step.inputs[position];
        if self.wanted(position) {
            self.gradients.add(id, buffer, &mut self.tools.pool);
        } else {
            self.tools.pool.give(buffer);
        }
    }

    /// An operand's gradient so far, for kernels that add to it; [`Backward::put`] takes it back.
    pub fn take(&mut self, position: usize) -> Buffer {
        let id = self.step.inputs[position];
        match self.gradients.of[id].take() {
            Some(sum) => sum,
            None => self.tools.pool.take_zeroed(self.values.plan[id].len),
        }
    }

    /// See [`Backward::take`].
    pub fn put(&mut self, position: usize, sum: Buffer) {
        self.gradients.of[self.step.inputs[position]] = Some(sum);
    }

    /// The gradient of a sum of equal shapes: the same for both operands.
    pub fn share(&mut self, g: Buffer) {
        if self.wanted(0) && self.wanted(1) {
            let copy = self.tools.pool.take_copy(&g);
            self.add(0, copy);
        } else if self.wanted(0) {
            return self.add(0, g);
        }
        self.add(1, g);
    }
}

/// The gradients of a sample's values, by plan value.
#[derive(Default)]
pub(crate) struct Gradients {
    pub of: Vec<Option<Buffer>>,
}

impl Gradients {
    pub fn add(&mut self, id: Id, buffer: Buffer, pool: &mut Pool) {
        match &mut self.of[id] {
            Some(sum) => {
                elementwise::add_assign(sum, &buffer);
                pool.give(buffer);
            }
            empty => *empty = Some(buffer),
        }
    }
}
