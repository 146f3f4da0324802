//! What every operator says of itself, and rules that several share.

use super::reference::{Exact, Tensor};
use crate::{
    error::ExecError,
    exec::kernel::Id,
    kernels::broadcast::Broadcast,
    plan::steps::{Argument, Steps},
    program::value::DType,
};
use std::fmt::Debug;

/// A value's type: that of its elements and its dimensions, where `None` is the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// Of the elements.
    pub dtype: DType,
    /// The dimensions.
    pub shape: Vec<Option<usize>>,
}

/// What is known of an operand where an operator is checked.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// The type of its elements.
    pub dtype: DType,
    /// Its dimensions; `None` is the batch. Without one it is what a single sample has.
    pub shape: &'a [Option<usize>],
    /// Whether its values are known.
    pub constant: bool,
}

impl Operand<'_> {
    /// The operand's type with another shape.
    pub fn reshaped(&self, shape: Vec<Option<usize>>) -> Type {
        Type { dtype: self.dtype, shape }
    }

    /// The same type.
    pub fn same(&self) -> Type {
        self.reshaped(self.shape.to_vec())
    }

    /// Checks an axis that is not the batch; returns its size.
    pub fn axis(&self, axis: usize) -> Result<usize, String> {
        match self.shape.get(axis) {
            Some(Some(size)) => Ok(*size),
            Some(None) => Err(format!("axis {axis} is the batch")),
            None => Err(format!("there is no axis {axis} in {}", show(self.shape))),
        }
    }
}

/// A shape as messages have it.
pub(crate) fn show(shape: &[Option<usize>]) -> String {
    let sizes: Vec<String> = shape.iter().map(|size| size.map_or("N".to_owned(), |size| size.to_string())).collect();
    format!("[{}]", sizes.join(", "))
}

/// An operator: all that the rest of the runtime knows of it.
pub(crate) trait Operator: Debug {
    /// The result's type, or what is wrong with the operands.
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String>;

    /// [`Operator::infer`] of what one sample has, without a batch.
    fn infer_sample(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        self.infer(operands)
    }

    /// Whether the result grows by γ > 0 where all operands do that are not constant; `constant` says which are. What does not say so
    /// is taken not to.
    fn keeps_scale(&self, _constant: &[bool]) -> bool {
        false
    }

    /// Emits the steps that compute it for one sample; returns the result.
    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError>;

    /// What it means, plainly in f64, for one sample; the result has the shape `shape`.
    fn exact(&self, run: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String>;
}

/// A node where its steps are made, for one sample.
pub(crate) struct Planned<'a> {
    /// Its place in the program.
    pub number: usize,
    pub operands: Vec<Argument<'a>>,
    pub dtype: DType,
    pub shape: &'a [usize],
}

impl Planned<'_> {
    /// The number of words of the result.
    pub fn words(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.words()
    }

    /// The first operand.
    pub fn x(&self) -> Id {
        self.operands[0].id
    }

    /// Whether all elements, of operands and result, are f32.
    pub fn is_float(&self) -> bool {
        self.dtype == DType::F32 && self.operands.iter().all(|operand| operand.dtype == DType::F32)
    }
}

/// The operands, if they are as many as wanted.
pub(crate) fn exactly<'o, 'a, const N: usize>(operands: &'o [Operand<'a>]) -> Result<&'o [Operand<'a>; N], String> {
    operands.try_into().map_err(|_| format!("it has {} operands, not {N}", operands.len()))
}

/// Why operands are of wrong types.
pub(crate) fn wrong_types<T>(operands: &[Operand<'_>]) -> Result<T, String> {
    let types: Vec<DType> = operands.iter().map(|operand| operand.dtype).collect();
    Err(format!("it does not take operands of types {types:?}"))
}

/// Checks that all operands hold f32.
pub(crate) fn floats(operands: &[Operand<'_>]) -> Result<(), String> {
    match operands.iter().all(|operand| operand.dtype == DType::F32) {
        true => Ok(()),
        false => wrong_types(operands),
    }
}

/// The shape of two operands of equal rank whose axes of size 1 repeat.
pub(crate) fn broadcast(a: &[Option<usize>], b: &[Option<usize>]) -> Result<Vec<Option<usize>>, String> {
    let size = |(&a, &b): (&Option<usize>, &Option<usize>)| match (a, b) {
        _ if a == b => Some(a),
        // The batch wins over a constant's 1.
        (other, Some(1)) | (Some(1), other) => Some(other),
        _ => None,
    };
    let shape = (a.len() == b.len()).then(|| a.iter().zip(b).map(size).collect::<Option<_>>()).flatten();
    shape.ok_or_else(|| format!("shapes {} and {} do not broadcast", show(a), show(b)))
}

/// [`broadcast`] of operands that are planned.
pub(crate) fn broadcast_of(a: &[usize], b: &[usize]) -> Result<Broadcast, ExecError> {
    Broadcast::new(a, b).ok_or_else(|| ExecError::Program(format!("shapes {a:?} and {b:?} do not broadcast")))
}

/// `[before, axis, after]`.
pub(crate) fn around(shape: &[usize], axis: usize) -> [usize; 3] {
    [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()]
}
