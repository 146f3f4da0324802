//! Matrix products. One with a constant right-hand side becomes `tosa.matmul` on rank-3 operands with the weight
//! `[1, I, O]`, which `map-to-analog` recognises as a fully connected layer.

use super::{Call, Entry, Lowering, Results, one};
use crate::import::{
    emit::{Activation, logical},
    error::{Problem, invalid, unsupported},
    tensor::{Dim, Tensor, element_count, show},
};
use melior::ir::Value;
use std::sync::Arc;

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// `x·W (+ b)` for x `[…, I]`, W `[I, O]` (named `name`) and b `[O]` (with its name).
    fn fully_connected(
        &mut self,
        input: &Activation<'c, 'a>,
        name: &str,
        weight: &Tensor,
        bias: Option<(&str, Arc<[f32]>)>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let (rows, columns) = (weight.shape[0], weight.shape[1]);
        let input = self.emit.logical(input)?;
        let Some((&last, lead)) = input.shape.split_last() else {
            return invalid("its input is a scalar");
        };
        if last != Dim::Fixed(rows) || rows == 0 || columns == 0 {
            return invalid(format!(
                "its input of shape {} and weight '{name}' of shape {:?} do not fit",
                show(&input.shape),
                weight.shape
            ));
        }
        let samples = match element_count(lead) {
            Some((count, 0)) => Dim::Fixed(count),
            Some((count, 1)) => Dim::Batch(count),
            _ => {
                return unsupported(format!("its input's shape {} depends on the batch twice", show(&input.shape)));
            }
        };
        let flat = [Dim::Fixed(1), samples, Dim::Fixed(rows)];
        let value = self.emit.reshape_raw(input.value, &input.shape, &flat)?;
        let values = weight.to_floats().unwrap_or_default();
        let weight = self.emit.weight(name, &[1, rows, columns], values)?;
        let zero = self.emit.zero()?;
        let result = [Dim::Fixed(1), samples, Dim::Fixed(columns)];
        let mut value = self.emit.shaped("tosa.matmul", &[value, weight, zero, zero], &[], &result)?;
        if let Some((name, bias)) = bias {
            let bias = self.emit.weight(name, &[1, 1, columns], bias)?;
            value = self.emit.binary_raw("tosa.add", value, bias, &result)?;
        }
        let mut shape = lead.to_vec();
        shape.push(Dim::Fixed(columns));
        let value = self.emit.reshape_raw(value, &result, &shape)?;
        let order = logical(shape.len());
        Ok(Activation { value, shape, order })
    }

    /// `α·A'·B' + β·C`.
    pub(super) fn gemm(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let (alpha, beta) = (node.float("alpha", 1.0)?, node.float("beta", 1.0)?);
        let mut input = call.activation(0)?.clone();
        if input.rank() != 2 {
            return invalid(format!(
                "its input '{}' has the shape {}, not two axes",
                node.input(0),
                show(&input.shape)
            ));
        }
        if node.int("transA", 0)? != 0 {
            input = self.permuted(&input, &[1, 0]);
        }
        let weight = call.constant(1)?;
        if weight.shape.len() != 2 {
            return invalid(format!("its weight '{}' has the shape {:?}, not two axes", node.input(1), weight.shape));
        }
        let weight = Tensor::floats(weight.shape.clone(), call.floats(1)?);
        let weight = if node.int("transB", 0)? != 0 { weight.transposed(&[1, 0]) } else { weight };
        let scaled = |values: Arc<[f32]>, factor: f32| -> Arc<[f32]> {
            if factor == 1.0 { values } else { values.iter().map(|value| value * factor).collect() }
        };
        let weight = Tensor::floats(weight.shape.clone(), scaled(weight.to_floats().unwrap_or_default(), alpha));
        let outputs = weight.shape[1];
        // A constant of one row is the bias.
        let bias = match call.optional(2) {
            Some(Entry::Constant(bias))
                if bias.len() == 1 || bias.len() == outputs && bias.shape.last() == Some(&outputs) =>
            {
                let values = scaled(call.floats(2)?, beta);
                Some(if values.len() == 1 { vec![values[0]; outputs].into() } else { values })
            }
            _ => None,
        };
        let has_bias = bias.is_some();
        let mut result =
            self.fully_connected(&input, node.input(1), &weight, bias.map(|bias| (node.input(2), bias)))?;
        match call.optional(2) {
            Some(entry) if !has_bias => {
                result = match entry {
                    Entry::Constant(added) => {
                        let values = scaled(call.floats(2)?, beta);
                        let added = Tensor::floats(added.shape.clone(), values);
                        self.with_constant("tosa.add", &result, node.input(2), &added, false)?
                    }
                    Entry::Activation(added) => {
                        let added =
                            if beta == 1.0 { added.clone() } else { self.emit.with_scalar("tosa.mul", added, beta)? };
                        self.pair("tosa.add", &result, &added)?
                    }
                    Entry::Unknown => return Ok(vec![Entry::Unknown]),
                };
                one(result)
            }
            _ => one(result),
        }
    }

    pub(super) fn matmul(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        match (call.entry(0)?, call.entry(1)?) {
            (Entry::Activation(input), Entry::Constant(weight)) => {
                let rank = weight.shape.len();
                let matrix = rank >= 2 && weight.shape[..rank - 2].iter().all(|&size| size == 1);
                if !matrix || rank > input.rank().max(2) || input.rank() < 2 {
                    return unsupported(format!("a product with a constant of shape {:?}", weight.shape));
                }
                let weight = Tensor::floats(weight.shape[rank - 2..].to_vec(), call.floats(1)?);
                let input = input.clone();
                one(self.fully_connected(&input, node.input(1), &weight, None)?)
            }
            (Entry::Activation(a), Entry::Activation(b)) => {
                let (a, b) = (self.emit.logical(a)?, self.emit.logical(b)?);
                let rank = a.rank();
                if rank < 2 || b.rank() != rank || a.shape[..rank - 2] != b.shape[..rank - 2] {
                    return unsupported(format!(
                        "a product of activations of shapes {} and {}",
                        show(&a.shape),
                        show(&b.shape)
                    ));
                }
                let [rows, inner] = [a.shape[rank - 2], a.shape[rank - 1]];
                let columns = b.shape[rank - 1];
                if b.shape[rank - 2] != inner {
                    return invalid(format!(
                        "its operands' shapes {} and {} do not fit",
                        show(&a.shape),
                        show(&b.shape)
                    ));
                }
                let lead = match element_count(&a.shape[..rank - 2]) {
                    Some((count, 0)) => Dim::Fixed(count),
                    Some((count, 1)) => Dim::Batch(count),
                    _ => return unsupported("its shape depends on the batch in two axes"),
                };
                let left = self.emit.reshape_raw(a.value, &a.shape, &[lead, rows, inner])?;
                let right = self.emit.reshape_raw(b.value, &b.shape, &[lead, inner, columns])?;
                let zero = self.emit.zero()?;
                let flat = [lead, rows, columns];
                let value: Value<'c, 'a> = self.emit.shaped("tosa.matmul", &[left, right, zero, zero], &[], &flat)?;
                let mut shape = a.shape.clone();
                shape[rank - 1] = columns;
                let value = self.emit.reshape_raw(value, &flat, &shape)?;
                one(Activation { value, shape, order: logical(rank) })
            }
            (Entry::Constant(weight), Entry::Activation(_)) => {
                unsupported(format!("a product with a constant of shape {:?} on the left", weight.shape))
            }
            _ => unsupported("its inputs are constants"),
        }
    }
}
