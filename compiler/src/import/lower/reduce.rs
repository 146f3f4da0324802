//! Reductions over axes, and softmax.

use super::{Call, Lowering, Results, one};
use crate::import::{
    attributes::{axes, axis},
    emit::Activation,
    error::{Problem, invalid, unsupported},
    fold::split_axis,
    tensor::{Dim, Element, element_count},
};
use mxc_dialects::tosa::{Binary, Reduction, Unary};

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// Reduces logical axes to size 1. `op` is ReduceSum, ReduceMean, ReduceProd, ReduceMax or ReduceMin.
    pub(super) fn reduce_axes(
        &mut self,
        op: &str,
        input: &Activation<'c, 'a>,
        axes: &[usize],
    ) -> Result<Activation<'c, 'a>, Problem> {
        let name = match op {
            "ReduceMax" => Reduction::Max,
            "ReduceMin" => Reduction::Min,
            "ReduceProd" => Reduction::Product,
            _ => Reduction::Sum,
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
            result = self.emit.reduce(name, &result, axis)?;
        }
        if op == "ReduceMean" && count > 1 {
            result = self.emit.with_scalar(Binary::Mul, &result, (1.0 / count as f64) as f32)?;
        }
        Ok(result)
    }

    pub(super) fn reduce(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let input = call.activation(0)?;
        let given = call.list("axes", 1)?.unwrap_or_default();
        let reduced = match given.as_slice() {
            [] if node.int("noop_with_empty_axes", 0)? != 0 => return one(input.clone()),
            [] => (0..input.rank()).collect(),
            given => axes(given, input.rank())?,
        };
        let input = input.clone();
        let booleans = input.element() == Element::Bool;
        // Of booleans: the greatest is whether any holds, the least whether all do.
        let numbers = if booleans { self.emit.cast(&input, Element::I32)? } else { input };
        let mut result = self.reduced(&node.op, &numbers, &reduced)?;
        if booleans {
            result = self.emit.cast(&result, Element::Bool)?;
        }
        if node.int("keepdims", 1)? != 0 {
            return one(result);
        }
        one(self.squeeze(&result, &reduced)?)
    }

    /// Any of ONNX's reductions over logical axes, to size 1.
    pub(super) fn reduced(
        &mut self,
        op: &str,
        input: &Activation<'c, 'a>,
        axes: &[usize],
    ) -> Result<Activation<'c, 'a>, Problem> {
        match op {
            "ReduceL1" => {
                let size = self.emit.unary(Unary::Abs, input)?;
                self.reduce_axes("ReduceSum", &size, axes)
            }
            "ReduceSumSquare" | "ReduceL2" => {
                let squared = self.emit.binary(Binary::Mul, input, input)?;
                let sum = self.reduce_axes("ReduceSum", &squared, axes)?;
                if op == "ReduceL2" { self.emit.square_root(&sum) } else { Ok(sum) }
            }
            "ReduceLogSum" => {
                let sum = self.reduce_axes("ReduceSum", input, axes)?;
                self.emit.unary(Unary::Log, &sum)
            }
            // Stable, as in softmax; an infinite maximum cannot be subtracted from itself.
            "ReduceLogSumExp" => {
                let max = self.reduce_axes("ReduceMax", input, axes)?;
                let max = self.emit.clamp(&max, f32::MIN, f32::MAX)?;
                let shifted = self.pair(Binary::Sub, input, &max)?;
                let exp = self.emit.unary(Unary::Exp, &shifted)?;
                let sum = self.reduce_axes("ReduceSum", &exp, axes)?;
                let log = self.emit.unary(Unary::Log, &sum)?;
                self.pair(Binary::Add, &log, &max)
            }
            _ => self.reduce_axes(op, input, axes),
        }
    }

    /// Softmax and LogSoftmax, made stable by subtracting the maximum. Before opset 13 they work on the input flattened to
    /// two axes.
    pub(super) fn softmax(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let input = call.activation(0)?;
        let rank = input.rank();
        if call.opset >= 13 {
            let axis = axis(node.int("axis", -1)?, rank)?;
            return one(self.softmax_axis(&node.op, input, axis)?);
        }
        let at = split_axis(node.int("axis", 1)?, rank)?;
        let wide: Vec<_> = (at..rank).filter(|&axis| !input.shape[axis].is_one()).collect();
        match wide.as_slice() {
            &[axis] => one(self.softmax_axis(&node.op, input, axis)?),
            _ => {
                let merge = |dims: &[Dim]| match element_count(dims) {
                    Some((count, 0)) => Ok(Dim::Fixed(count)),
                    Some((count, 1)) => Ok(Dim::Batch(count)),
                    _ => unsupported("its shape depends on the batch in two axes"),
                };
                let flat = [merge(&input.shape[..at])?, merge(&input.shape[at..])?];
                let flattened = self.emit.reshape(input, &flat)?;
                let result = self.softmax_axis(&node.op, &flattened, 1)?;
                one(self.emit.reshape(&result, &input.shape)?)
            }
        }
    }

    pub(super) fn softmax_axis(
        &mut self,
        op: &str,
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
        let value = if op == "LogSoftmax" {
            let log = self.emit.unary(Unary::Log, &sum)?;
            self.emit.binary_raw(Binary::Sub, shifted.value, log.value, &physical)?
        } else {
            let reciprocal = self.emit.unary(Unary::Reciprocal, &sum)?;
            self.emit.binary_raw(Binary::Mul, exp.value, reciprocal.value, &physical)?
        };
        Ok(Activation { value, ..input.clone() })
    }
}
