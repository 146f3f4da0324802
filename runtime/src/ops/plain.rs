//! What has no kernel of its own: integers and booleans, conditions, what is computed from indices. An operator reads whole
//! operands, works element by element in i64 or f32, and writes words.

use super::operator::Planned;
use crate::{
    error::ExecError,
    exec::{
        buffers::Buffer,
        kernel::{Backward, Forward, Id, Kernel, Reads},
    },
    kernels::layout::walk,
    plan::steps::Steps,
    program::value::DType,
};
use std::fmt::Debug;

/// An operator that runs on whole operands.
pub(crate) trait Interpreted: Debug + Clone + Send + Sync + 'static {
    /// The operator's name.
    const NAME: &'static str;

    /// Computes the result's words.
    fn run(&self, types: &Types, operands: &[&[f32]], out: &mut [f32]);

    /// Which operands the gradient of f32 results in f32 operands reads; `None` if it is not known.
    fn gradient_reads(&self) -> Option<&'static [usize]> {
        None
    }

    /// Adds the gradient of operand `position` to `out`; operands that `gradient_reads` does not name may be empty.
    fn gradient(&self, _: &Types, _position: usize, _operands: &[&[f32]], _g: &[f32], _out: &mut [f32]) {}
}

/// The types and the shapes of a node, for one sample.
#[derive(Clone, Debug)]
pub(crate) struct Types {
    pub operands: Vec<(DType, Vec<usize>)>,
    pub dtype: DType,
    pub shape: Vec<usize>,
}

/// A tensor's elements.
pub(crate) enum Elements {
    Float(Vec<f32>),
    Int(Vec<i64>),
}

impl Types {
    /// An operand's shape.
    pub fn shape_of(&self, index: usize) -> &[usize] {
        &self.operands[index].1
    }

    /// An operand's elements.
    pub fn elements(&self, index: usize, operands: &[&[f32]]) -> Elements {
        match self.operands[index].0 {
            DType::F32 => Elements::Float(operands[index].to_vec()),
            dtype @ (DType::I32 | DType::I64 | DType::Bool) => Elements::Int(dtype.decode(operands[index])),
        }
    }

    /// An operand's elements as integers.
    pub fn ints(&self, index: usize, operands: &[&[f32]]) -> Vec<i64> {
        self.operands[index].0.decode(operands[index])
    }

    /// For every element of the result, where it is in an operand whose axes of size 1 repeat.
    pub fn offsets(&self, index: usize) -> Vec<usize> {
        let from = self.shape_of(index);
        walk(&self.shape, |at| {
            from.iter().zip(at).fold(0, |sum, (&size, &at)| sum * size + if size == 1 { 0 } else { at })
        })
    }

    /// Writes the result's elements.
    pub fn write(&self, elements: Elements, out: &mut [f32]) {
        match elements {
            Elements::Float(values) => out.copy_from_slice(&values),
            Elements::Int(values) => out.copy_from_slice(&self.dtype.encode(&values)),
        }
    }
}

/// Emits an operator that is interpreted.
pub(crate) fn interpret(op: &impl Interpreted, node: &Planned<'_>, steps: &mut Steps<'_>) -> Id {
    let types = Types {
        operands: node.operands.iter().map(|operand| (operand.dtype, operand.shape.to_vec())).collect(),
        dtype: node.dtype,
        shape: node.shape.to_vec(),
    };
    let inputs = node.operands.iter().map(|operand| operand.id).collect();
    steps.push(Plain { op: op.clone(), types }, inputs, node.words())
}

/// The kernel of an operator that is interpreted.
#[derive(Clone, Debug)]
struct Plain<O> {
    op: O,
    types: Types,
}

impl<O: Interpreted> Kernel for Plain<O> {
    fn in_place(&self) -> bool {
        false
    }

    fn is_constant(&self) -> bool {
        self.types.dtype != DType::F32
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(Reads { operands: self.op.gradient_reads().ok_or(O::NAME)?, result: false })
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        let operands: Vec<&[f32]> = (0..run.step.inputs.len()).map(|position| run.operand(position)).collect();
        self.op.run(&self.types, &operands, run.out);
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: Buffer) -> Result<(), ExecError> {
        let operands: Vec<&[f32]> = (0..run.step.inputs.len()).map(|position| run.operand(position)).collect();
        for position in 0..operands.len() {
            if run.wanted(position) {
                let mut out = run.take(position);
                self.op.gradient(&self.types, position, &operands, &g, &mut out);
                run.put(position, out);
            }
        }
        run.pool().give(g);
        Ok(())
    }
}
