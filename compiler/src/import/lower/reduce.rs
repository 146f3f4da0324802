//! Reductions over axes, and what is made of them: softmax and layer normalization.

use super::{Call, Lowering, Results, one};
use crate::import::{
    attributes::{axes, axis},
    emit::Activation,
    error::{Problem, invalid, unsupported},
    fold::split_axis,
    tensor::{Dim, element_count},
};

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// Reduces logical axes to size 1. `op` is ReduceSum, ReduceMean, ReduceMax or ReduceMin.
    pub(super) fn reduce_axes(
        &mut self,
        op: &str,
        input: &Activation<'c, 'a>,
        axes: &[usize],
    ) -> Result<Activation<'c, 'a>, Problem> {
        let name = match op {
            "ReduceMax" => "tosa.reduce_max",
            "ReduceMin" => "tosa.reduce_min",
            _ => "tosa.reduce_sum",
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
            result = self.emit.with_scalar("tosa.mul", &result, (1.0 / count as f64) as f32)?;
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
        let result = self.reduce_axes(&node.op, input, &reduced)?;
        if node.int("keepdims", 1)? != 0 {
            return one(result);
        }
        one(self.squeeze(&result, &reduced)?)
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

    fn softmax_axis(
        &mut self,
        op: &str,
        input: &Activation<'c, 'a>,
        axis: usize,
    ) -> Result<Activation<'c, 'a>, Problem> {
        if input.shape[axis].fixed().is_none() {
            return unsupported("it works over the batch");
        }
        let physical = input.physical();
        let max = self.emit.reduce("tosa.reduce_max", input, axis)?;
        let value = self.emit.binary_raw("tosa.sub", input.value, max.value, &physical)?;
        let shifted = Activation { value, ..input.clone() };
        let exp = self.emit.unary("tosa.exp", &shifted)?;
        let sum = self.emit.reduce("tosa.reduce_sum", &exp, axis)?;
        let value = if op == "LogSoftmax" {
            let log = self.emit.unary("tosa.log", &sum)?;
            self.emit.binary_raw("tosa.sub", shifted.value, log.value, &physical)?
        } else {
            let reciprocal = self.emit.unary("tosa.reciprocal", &sum)?;
            self.emit.binary_raw("tosa.mul", exp.value, reciprocal.value, &physical)?
        };
        Ok(Activation { value, ..input.clone() })
    }

    /// `(x − mean)/√(variance + ε)·scale + bias` over the last axes.
    pub(super) fn layer_normalization(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        if node.outputs.iter().skip(1).any(|output| !output.is_empty()) {
            return unsupported("its outputs 'Mean' and 'InvStdDev'");
        }
        let input = call.activation(0)?.clone();
        let first = axis(node.int("axis", -1)?, input.rank())?;
        let axes: Vec<_> = (first..input.rank()).collect();
        let mean = self.reduce_axes("ReduceMean", &input, &axes)?;
        let physical = input.physical();
        let value = self.emit.binary_raw("tosa.sub", input.value, mean.value, &physical)?;
        let centred = Activation { value, ..input.clone() };
        let squared = self.emit.binary("tosa.mul", &centred, &centred)?;
        let variance = self.reduce_axes("ReduceMean", &squared, &axes)?;
        let variance = self.emit.with_scalar("tosa.add", &variance, node.float("epsilon", 1e-5)?)?;
        let inverse = self.emit.unary("tosa.rsqrt", &variance)?;
        let value = self.emit.binary_raw("tosa.mul", centred.value, inverse.value, &physical)?;
        let mut result = Activation { value, ..input };
        for (index, operation) in [(1, "tosa.mul"), (2, "tosa.add")] {
            if call.optional(index).is_some() {
                let constant = call.constant(index)?.clone();
                result = self.with_constant(operation, &result, node.input(index), &constant, false)?;
            }
        }
        one(result)
    }
}
