//! Matrix products. One with a constant right-hand side becomes `tosa.matmul` on rank-3 operands with the weight
//! `[1, I, O]`, which `map-to-analog` recognises as a fully connected layer.

use super::{
    call::{Call, Entry, Lowering, Operator, Results, one},
    elementwise::broadcast,
    reduce::Reducing,
};
use crate::import::{
    emit::{Activation, logical},
    error::{Problem, invalid, unsupported},
    tensor::{Dim, Tensor, element_count, show},
};
use melior::ir::Value;
use mxc_dialects::tosa::{Binary, MatMul};
use std::sync::Arc;

/// The operators of this file.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Einsum", |lowering, call| lowering.einsum(call)),
    Operator::new("Gemm", |lowering, call| lowering.gemm(call)).with_weight(1),
    Operator::new("MatMul", |lowering, call| lowering.matmul(call)).with_weight(1),
];

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// `x·W (+ b)` for x `[…, I]`, W `[I, O]` (named `name`) and b `[O]` (with its name).
    pub(super) fn fully_connected(
        &mut self,
        input: &Activation<'c, 'a>,
        name: &str,
        weight: &Tensor,
        bias: Option<(&str, Arc<[f32]>)>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let (rows, columns) = (weight.shape[0], weight.shape[1]);
        // Only the last axis matters; the others may be stored in any order.
        let stays = input.order.last().is_some_and(|&last| last + 1 == input.rank());
        let input = if stays { input.clone() } else { self.emit.logical(input)? };
        let physical = input.physical();
        let Some((&last, lead)) = physical.split_last() else {
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
        let value = self.emit.reshape_raw(input.value, &physical, &flat)?;
        let weight = self.emit.tensor(name, &weight.reshaped(vec![1, rows, columns]))?;
        let zero = self.emit.zero()?;
        let result = [Dim::Fixed(1), samples, Dim::Fixed(columns)];
        let r#type = self.emit.like(value, &result)?;
        let product = MatMul { a: value, b: weight, a_zp: zero, b_zp: zero, result: r#type };
        let mut value = self.emit.append(product)?;
        if let Some((name, bias)) = bias {
            let bias = self.emit.weight(name, &[1, 1, columns], bias)?;
            value = self.emit.binary_raw(Binary::Add, value, bias, &result)?;
        }
        let mut output = Activation { value, ..input.clone() };
        output.shape[input.rank() - 1] = Dim::Fixed(columns);
        output.value = self.emit.reshape_raw(value, &result, &output.physical())?;
        Ok(output)
    }

    /// `α·A'·B' + β·C`.
    fn gemm(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
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
        if let (Entry::Activation(_), _) | (_, Some(Entry::Activation(_))) = (call.entry(1)?, call.optional(2))
            && !matches!(call.entry(1)?, Entry::Constant(_))
        {
            let mut weight = call.activation(1)?.clone();
            if node.int("transB", 0)? != 0 && weight.rank() == 2 {
                weight = self.permuted(&weight, &[1, 0]);
            }
            let mut result = self.product(&input, &weight)?;
            if alpha != 1.0 {
                result = self.emit.with_scalar(Binary::Mul, &result, alpha)?;
            }
            if call.optional(2).is_some() && beta != 0.0 {
                let mut added = self.value(call, 2, None)?;
                if beta != 1.0 {
                    added = self.emit.with_scalar(Binary::Mul, &added, beta)?;
                }
                result = self.pair(Binary::Add, &result, &added)?;
            }
            return one(result);
        }
        let weight = call.constant(1)?;
        if weight.shape.len() != 2 {
            return invalid(format!("its weight '{}' has the shape {:?}, not two axes", node.input(1), weight.shape));
        }
        let weight = call.weight(1)?;
        let weight = if node.int("transB", 0)? != 0 { weight.transposed(&[1, 0]) } else { weight.clone() };
        let scaled = |values: Arc<[f32]>, factor: f32| -> Arc<[f32]> {
            if factor == 1.0 { values } else { values.iter().map(|value| value * factor).collect() }
        };
        let weight = if alpha == 1.0 { weight } else { weight.map(|value| value * alpha) };
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
                        self.with_constant(Binary::Add, &result, node.input(2), &added, false)?
                    }
                    Entry::Activation(added) => {
                        let added = if beta == 1.0 {
                            added.clone()
                        } else {
                            self.emit.with_scalar(Binary::Mul, added, beta)?
                        };
                        self.pair(Binary::Add, &result, &added)?
                    }
                    Entry::Unknown => return Ok(vec![Entry::Unknown]),
                };
                one(result)
            }
            _ => one(result),
        }
    }

    fn matmul(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        match (call.entry(0)?, call.entry(1)?) {
            (Entry::Activation(input), Entry::Constant(weight)) => {
                let rank = weight.shape.len();
                let matrix = rank >= 2 && weight.shape[..rank - 2].iter().all(|&size| size == 1);
                if !matrix || rank > input.rank().max(2) || input.rank() < 2 {
                    if input.has_batch() {
                        return unsupported(format!("a product with a constant of shape {:?}", weight.shape));
                    }
                    let weight = self.materialized(node.input(1), &weight.clone(), None)?;
                    return one(self.product(&input.clone(), &weight)?);
                }
                let weight = call.weight(1)?.reshaped(weight.shape[rank - 2..].to_vec());
                let input = input.clone();
                one(self.fully_connected(&input, node.input(1), &weight, None)?)
            }
            (Entry::Activation(a), Entry::Activation(b)) => {
                let (a, b) = (a.clone(), b.clone());
                one(self.product(&a, &b)?)
            }
            (Entry::Constant(weight), Entry::Activation(input)) => {
                if input.has_batch() {
                    return unsupported(format!("a product with a constant of shape {:?} on the left", weight.shape));
                }
                let weight = self.materialized(node.input(0), &weight.clone(), None)?;
                one(self.product(&weight, &input.clone())?)
            }
            _ => unsupported("its inputs are constants"),
        }
    }

    /// The product of two values by NumPy's rules: the last two axes multiply, those before broadcast, a vector is a row on
    /// the left and a column on the right.
    pub(super) fn product(
        &mut self,
        a: &Activation<'c, 'a>,
        b: &Activation<'c, 'a>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let (a, b) = (self.emit.logical(a)?, self.emit.logical(b)?);
        if a.rank() == 0 || b.rank() == 0 {
            return invalid("an operand is a scalar");
        }
        let one = Dim::Fixed(1);
        let (row, column) = (a.rank() == 1, b.rank() == 1);
        let a = if row { self.emit.reshape(&a, &[one, a.shape[0]])? } else { a };
        let b = if column { self.emit.reshape(&b, &[b.shape[0], one])? } else { b };
        let rank = a.rank().max(b.rank());
        let (a, b) = (self.with_rank(&a, rank)?, self.with_rank(&b, rank)?);
        let [rows, inner] = [a.shape[rank - 2], a.shape[rank - 1]];
        let columns = b.shape[rank - 1];
        if b.shape[rank - 2] != inner {
            return invalid(format!("its operands' shapes {} and {} do not fit", show(&a.shape), show(&b.shape)));
        }
        let around = broadcast(&a.shape[..rank - 2], &b.shape[..rank - 2])?;
        let lead = match element_count(&around) {
            Some((count, 0)) => Dim::Fixed(count),
            Some((count, 1)) => Dim::Batch(count),
            _ => return unsupported("its shape depends on the batch in two axes"),
        };
        let mut flat = Vec::with_capacity(2);
        for operand in [&a, &b] {
            let mut repeats = vec![1; rank];
            let mut shape = operand.shape.clone();
            for (axis, &wanted) in around.iter().enumerate() {
                match (shape[axis], wanted) {
                    (own, wanted) if own == wanted => {}
                    (_, Dim::Fixed(size)) => (repeats[axis], shape[axis]) = (size, wanted),
                    _ => return unsupported("it repeats a value for every sample"),
                }
            }
            let wide = self.emit.tile(operand, &repeats, shape)?;
            let matrix = [lead, wide.shape[rank - 2], wide.shape[rank - 1]];
            flat.push(self.emit.reshape_raw(wide.value, &wide.shape, &matrix)?);
        }
        let zero = self.emit.zero()?;
        let result = [lead, rows, columns];
        let r#type = self.emit.like(flat[0], &result)?;
        let product = MatMul { a: flat[0], b: flat[1], a_zp: zero, b_zp: zero, result: r#type };
        let value: Value<'c, 'a> = self.emit.append(product)?;
        let mut shape = around;
        shape.extend([rows, columns].into_iter().zip([row, column]).filter(|(_, vector)| !vector).map(|(dim, _)| dim));
        let value = self.emit.reshape_raw(value, &result, &shape)?;
        let order = logical(shape.len());
        Ok(Activation { value, shape, order })
    }

    /// Einsum with one or two operands and without repeated indices in one: sums, permutations, matrix products.
    fn einsum(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let equation: String = node.string("equation", "")?.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, output) = match equation.split_once("->") {
            Some((left, output)) => (left.to_owned(), output.to_owned()),
            None => {
                let mut letters: Vec<char> = equation.chars().filter(|c| c.is_alphabetic()).collect();
                letters.sort_unstable();
                let once = |c: &char| letters.iter().filter(|other| *other == c).count() == 1;
                let output = letters.iter().copied().filter(once).collect();
                (equation.clone(), output)
            }
        };
        let terms: Vec<Vec<char>> = left.split(',').map(|term| term.chars().collect()).collect();
        let output: Vec<char> = output.chars().collect();
        let repeats = |term: &[char]| term.iter().enumerate().any(|(at, c)| term[..at].contains(c));
        if equation.contains('.') || terms.iter().any(|term| repeats(term)) || terms.len() != call.inputs.len() {
            return unsupported(format!("the equation '{equation}'"));
        }
        let constant = matches!(call.optional(1), Some(Entry::Constant(_)));
        if constant && call.activation(0)?.has_batch() {
            return self.einsum_layer(call, &terms, &output, &equation);
        }
        let mut operands = Vec::with_capacity(terms.len());
        for (index, term) in terms.iter().enumerate() {
            let value = self.value(call, index, None)?;
            if value.rank() != term.len() {
                return invalid(format!("'{}' does not have the axes of '{equation}'", node.input(index)));
            }
            // What only this operand has and the result lacks is summed first.
            let elsewhere = |c: &char| {
                output.contains(c) || terms.iter().enumerate().any(|(other, term)| other != index && term.contains(c))
            };
            let summed: Vec<_> = (0..term.len()).filter(|&axis| !elsewhere(&term[axis])).collect();
            let sum = self.reduce_axes(Reducing::Sum, &value, &summed)?;
            let value = if summed.is_empty() { sum } else { self.squeeze(&sum, &summed)? };
            operands.push((value, term.iter().copied().filter(elsewhere).collect::<Vec<_>>()));
        }
        let (value, letters) = match operands.as_slice() {
            [(value, letters)] => (value.clone(), letters.clone()),
            [(a, left), (b, right)] => {
                let pick = |wanted: &dyn Fn(&char) -> bool, of: &[char]| -> Vec<char> {
                    of.iter().copied().filter(|c| wanted(c)).collect()
                };
                let batch = pick(&|c| right.contains(c) && output.contains(c), left);
                let inner = pick(&|c| right.contains(c) && !output.contains(c), left);
                let rows = pick(&|c| !right.contains(c), left);
                let columns = pick(&|c| !left.contains(c), right);
                let size = |c: char| {
                    let found = left.iter().position(|&each| each == c).map(|axis| a.shape[axis]);
                    found.or_else(|| right.iter().position(|&each| each == c).map(|axis| b.shape[axis]))
                };
                let dims = |of: &[char]| -> Vec<Dim> { of.iter().filter_map(|&c| size(c)).collect() };
                let merged = |of: &[char]| match element_count(&dims(of)) {
                    Some((count, 0)) => Ok(Dim::Fixed(count)),
                    Some((count, 1)) => Ok(Dim::Batch(count)),
                    _ => unsupported("its shape depends on the batch in two axes"),
                };
                let [n, m, k, l] = [merged(&batch)?, merged(&rows)?, merged(&inner)?, merged(&columns)?];
                let mut flat = Vec::with_capacity(2);
                for (value, own, wanted, shape) in [
                    (a, left, [batch.as_slice(), &rows, &inner].concat(), [n, m, k]),
                    (b, right, [batch.as_slice(), &inner, &columns].concat(), [n, k, l]),
                ] {
                    let perms: Vec<_> = wanted.iter().filter_map(|c| own.iter().position(|each| each == c)).collect();
                    let moved = self.permuted(value, &perms);
                    flat.push(self.emit.reshape(&moved, &shape)?);
                }
                let product = self.product(&flat[0], &flat[1])?;
                let letters = [batch.as_slice(), &rows, &columns].concat();
                (self.emit.reshape(&product, &dims(&letters))?, letters)
            }
            _ => return unsupported(format!("the equation '{equation}'")),
        };
        let perms: Vec<_> = output.iter().filter_map(|c| letters.iter().position(|each| each == c)).collect();
        if perms.len() != output.len() || perms.len() != letters.len() {
            return invalid(format!("the equation '{equation}' names an axis that no input has"));
        }
        one(self.permuted(&value, &perms))
    }

    /// Einsum of an activation with a weight, contracted over the activation's last axis: a fully connected layer.
    fn einsum_layer(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        terms: &[Vec<char>],
        output: &[char],
        equation: &str,
    ) -> Results<'c, 'a> {
        let input = call.activation(0)?.clone();
        let weight = call.constant(1)?;
        let (Some((&inner, lead)), &[a, b]) = (terms[0].split_last(), terms[1].as_slice()) else {
            return unsupported(format!("the equation '{equation}'"));
        };
        let column = if a == inner { b } else { a };
        let fits = [a, b].contains(&inner) && output == [lead, &[column]].concat() && weight.shape.len() == 2;
        if !fits || input.rank() != terms[0].len() {
            return unsupported(format!("the equation '{equation}' with a constant"));
        }
        let weight = Tensor::floats(weight.shape.clone(), call.floats(1)?);
        let weight = if a == inner { weight } else { weight.transposed(&[1, 0]) };
        one(self.fully_connected(&input, call.node.input(1), &weight, None)?)
    }
}
