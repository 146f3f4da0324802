//! Reductions over axes, and softmax.

use super::call::{Call, Lowering, Operator, Results, one};
use crate::import::{
    attributes::{axes, axis},
    emit::Activation,
    error::{Problem, invalid, unsupported},
    fold::{self, Fold, split_axis},
    tensor::{Dim, Element, element_count},
};
use mxc_dialects::tosa::{Binary, Reduction, Unary};

/// The operators of this file.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("LogSoftmax", |lowering, call| lowering.softmax(call, true)),
    Operator::new("ReduceL1", |lowering, call| {
        lowering.reduce(call, |lowering, x, axes| lowering.sum_of_sizes(x, axes))
    }),
    Operator::new("ReduceL2", |lowering, call| {
        lowering.reduce(call, |lowering, x, axes| lowering.root_of_squares(x, axes))
    }),
    Operator::new("ReduceLogSum", |lowering, call| {
        lowering.reduce(call, |lowering, x, axes| lowering.log_of_sum(x, axes))
    }),
    Operator::new("ReduceLogSumExp", |lowering, call| {
        lowering.reduce(call, |lowering, x, axes| lowering.log_of_exponentials(x, axes))
    }),
    Operator::new("ReduceMax", |lowering, call| {
        lowering.reduce(call, |lowering, x, axes| lowering.reduce_axes(Reducing::Max, x, axes))
    })
    .on_integers()
    .moving()
    .folding(Fold::new(|folding| folding.reduce(fold::MAXIMUM)).of_elements().not_on_floats()),
    Operator::new("ReduceMean", |lowering, call| {
        lowering.reduce(call, |lowering, x, axes| lowering.reduce_axes(Reducing::Mean, x, axes))
    }),
    Operator::new("ReduceMin", |lowering, call| {
        lowering.reduce(call, |lowering, x, axes| lowering.reduce_axes(Reducing::Min, x, axes))
    })
    .on_integers()
    .moving()
    .folding(Fold::new(|folding| folding.reduce(fold::MINIMUM)).of_elements().not_on_floats()),
    Operator::new("ReduceProd", |lowering, call| {
        lowering.reduce(call, |lowering, x, axes| lowering.reduce_axes(Reducing::Product, x, axes))
    })
    .on_integers()
    .folding(Fold::new(|folding| folding.reduce(fold::MULTIPLY)).of_elements().not_on_floats()),
    Operator::new("ReduceSum", |lowering, call| {
        lowering.reduce(call, |lowering, x, axes| lowering.reduce_axes(Reducing::Sum, x, axes))
    })
    .on_integers()
    .folding(Fold::new(|folding| folding.reduce(fold::ADD)).of_elements().not_on_floats()),
    Operator::new("ReduceSumSquare", |lowering, call| {
        lowering.reduce(call, |lowering, x, axes| lowering.sum_of_squares(x, axes))
    }),
    Operator::new("Softmax", |lowering, call| lowering.softmax(call, false)),
];

/// What becomes of the elements along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reducing {
    Sum,
    Mean,
    Product,
    Max,
    Min,
}

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// Reduces logical axes to size 1.
    pub(super) fn reduce_axes(
        &mut self,
        kind: Reducing,
        input: &Activation<'c, 'a>,
        axes: &[usize],
    ) -> Result<Activation<'c, 'a>, Problem> {
        let reduction = match kind {
            Reducing::Sum | Reducing::Mean => Reduction::Sum,
            Reducing::Product => Reduction::Product,
            Reducing::Max => Reduction::Max,
            Reducing::Min => Reduction::Min,
        };
        // In the order of storage, so that every way to write a global average gives the same operations.
        let mut positions: Vec<_> = axes.iter().map(|&axis| (input.position(axis), axis)).collect();
        positions.sort_unstable();
        let mut result = input.clone();
        let mut count = 1usize;
        for (_, axis) in positions {
            match input.shape[axis] {
                Dim::Fixed(1) => continue,
                Dim::Fixed(size) if size > 0 => count = count.saturating_mul(size),
                Dim::Fixed(_) => return invalid("it reduces an empty axis"),
                Dim::Batch(_) => return unsupported("it reduces over the batch"),
            }
            result = self.emit.reduce(reduction, &result, axis)?;
        }
        if kind == Reducing::Mean && count > 1 {
            result = self.emit.with_scalar(Binary::Mul, &result, (1.0 / count as f64) as f32)?;
        }
        Ok(result)
    }

    /// A reduction, `reduced` over logical axes to size 1.
    fn reduce(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        reduced: impl FnOnce(&mut Self, &Activation<'c, 'a>, &[usize]) -> Result<Activation<'c, 'a>, Problem>,
    ) -> Results<'c, 'a> {
        let node = call.node;
        let input = call.activation(0)?;
        let given = call.list("axes", 1)?.unwrap_or_default();
        let along = match given.as_slice() {
            [] if node.int("noop_with_empty_axes", 0)? != 0 => return one(input.clone()),
            [] => (0..input.rank()).collect(),
            given => axes(given, input.rank())?,
        };
        let input = input.clone();
        let booleans = input.element() == Element::Bool;
        // Of booleans: the greatest is whether any holds, the least whether all do.
        let numbers = if booleans { self.emit.cast(&input, Element::I32)? } else { input };
        let mut result = reduced(self, &numbers, &along)?;
        if booleans {
            result = self.emit.cast(&result, Element::Bool)?;
        }
        if node.int("keepdims", 1)? != 0 {
            return one(result);
        }
        one(self.squeeze(&result, &along)?)
    }

    /// `Σ|x|` over logical axes, to size 1.
    pub(super) fn sum_of_sizes(
        &mut self,
        x: &Activation<'c, 'a>,
        axes: &[usize],
    ) -> Result<Activation<'c, 'a>, Problem> {
        let size = self.emit.unary(Unary::Abs, x)?;
        self.reduce_axes(Reducing::Sum, &size, axes)
    }

    /// `Σx²` over logical axes, to size 1.
    fn sum_of_squares(&mut self, x: &Activation<'c, 'a>, axes: &[usize]) -> Result<Activation<'c, 'a>, Problem> {
        let squared = self.emit.binary(Binary::Mul, x, x)?;
        self.reduce_axes(Reducing::Sum, &squared, axes)
    }

    /// `√Σx²` over logical axes, to size 1.
    pub(super) fn root_of_squares(
        &mut self,
        x: &Activation<'c, 'a>,
        axes: &[usize],
    ) -> Result<Activation<'c, 'a>, Problem> {
        let sum = self.sum_of_squares(x, axes)?;
        self.emit.square_root(&sum)
    }

    /// `ln Σx` over logical axes, to size 1.
    fn log_of_sum(&mut self, x: &Activation<'c, 'a>, axes: &[usize]) -> Result<Activation<'c, 'a>, Problem> {
        let sum = self.reduce_axes(Reducing::Sum, x, axes)?;
        self.emit.unary(Unary::Log, &sum)
    }

    /// `ln Σeˣ` over logical axes, to size 1. Stable, as in softmax; an infinite maximum cannot be subtracted from itself.
    fn log_of_exponentials(&mut self, x: &Activation<'c, 'a>, axes: &[usize]) -> Result<Activation<'c, 'a>, Problem> {
        let max = self.reduce_axes(Reducing::Max, x, axes)?;
        let max = self.emit.clamp(&max, f32::MIN, f32::MAX)?;
        let shifted = self.pair(Binary::Sub, x, &max)?;
        let exp = self.emit.unary(Unary::Exp, &shifted)?;
        let sum = self.reduce_axes(Reducing::Sum, &exp, axes)?;
        let log = self.emit.unary(Unary::Log, &sum)?;
        self.pair(Binary::Add, &log, &max)
    }

    /// Softmax, or its `log`, made stable by subtracting the maximum. Before opset 13 they work on the input flattened to
    /// two axes.
    fn softmax(&mut self, call: &Call<'_, 'c, 'a>, log: bool) -> Results<'c, 'a> {
        let node = call.node;
        let input = call.activation(0)?;
        let rank = input.rank();
        if call.opset >= 13 {
            let axis = axis(node.int("axis", -1)?, rank)?;
            return one(self.softmax_axis(log, input, axis)?);
        }
        let at = split_axis(node.int("axis", 1)?, rank)?;
        let wide: Vec<_> = (at..rank).filter(|&axis| !input.shape[axis].is_one()).collect();
        match wide.as_slice() {
            &[axis] => one(self.softmax_axis(log, input, axis)?),
            _ => {
                let merge = |dims: &[Dim]| match element_count(dims) {
                    Some((count, 0)) => Ok(Dim::Fixed(count)),
                    Some((count, 1)) => Ok(Dim::Batch(count)),
                    _ => unsupported("its shape depends on the batch in two axes"),
                };
                let flat = [merge(&input.shape[..at])?, merge(&input.shape[at..])?];
                let flattened = self.emit.reshape(input, &flat)?;
                let result = self.softmax_axis(log, &flattened, 1)?;
                one(self.emit.reshape(&result, &input.shape)?)
            }
        }
    }

    /// [`Self::softmax`] along one axis.
    pub(super) fn softmax_axis(
        &mut self,
        log: bool,
        input: &Activation<'c, 'a>,
        axis: usize,
    ) -> Result<Activation<'c, 'a>, Problem> {
        if input.shape[axis].fixed().is_none() {
            return unsupported("it works over the batch");
        }
        let physical = input.physical();
        let max = self.emit.reduce(Reduction::Max, input, axis)?;
        let value = self.emit.binary_raw(Binary::Sub, input.value, max.value, &physical)?;
        let shifted = Activation { value, ..input.clone() };
        let exp = self.emit.unary(Unary::Exp, &shifted)?;
        let sum = self.emit.reduce(Reduction::Sum, &exp, axis)?;
        let value = if log {
            let logarithm = self.emit.unary(Unary::Log, &sum)?;
            self.emit.binary_raw(Binary::Sub, shifted.value, logarithm.value, &physical)?
        } else {
            let reciprocal = self.emit.unary(Unary::Reciprocal, &sum)?;
            self.emit.binary_raw(Binary::Mul, exp.value, reciprocal.value, &physical)?
        };
        Ok(Activation { value, ..input.clone() })
    }
}
