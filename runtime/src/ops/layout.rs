//! What moves elements without looking at them: reshapes, permutations, joins, cuts, borders, repetitions. An element of 64 bits
//! is two words, one more axis.

use super::{
    operator::{Operand, Operator, Planned, Type, exactly, show, wrong_types},
    reference::{Exact, Tensor},
};
use crate::{
    error::ExecError,
    exec::{
        buffers::Buffer,
        kernel::{Backward, Forward, Id, Kernel, Reads},
    },
    kernels::layout::{self, Gather},
    plan::steps::{Argument, Steps},
    program::value::DType,
};
use std::collections::BTreeSet;

/// A shape in words.
fn in_words(shape: &[usize], dtype: DType) -> Vec<usize> {
    match dtype.words() {
        1 => shape.to_vec(),
        words => [shape, &[words]].concat(),
    }
}

/// What says something of every axis, with what it says of an element's words.
fn with_words<T: Clone>(axes: &[T], dtype: DType, words: T) -> Vec<T> {
    match dtype.words() {
        1 => axes.to_vec(),
        _ => [axes, &[words]].concat(),
    }
}

/// Same elements, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reshape {
    /// The result's shape. Its batch, `None`, is as many as the elements make.
    pub shape: Vec<Option<usize>>,
}

impl Operator for Reshape {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x] = exactly(operands)?;
        let misfit = || format!("{} and {} differ in size", show(x.shape), show(&self.shape));
        let rest: Option<usize> = self.shape.iter().copied().flatten().try_fold(1usize, usize::checked_mul);
        let rest = rest.ok_or_else(misfit)?;
        let known: Option<usize> = x.shape.iter().copied().try_fold(1usize, |size, each| size.checked_mul(each?));
        let dynamic = self.shape.first() == Some(&None);
        if self.shape.iter().skip(1).any(Option::is_none) {
            return Err(format!("only axis 0 of {} may be the batch", show(&self.shape)));
        }
        let shape = match known {
            // A whole batch: how many elements it has is not known.
            None if dynamic && x.shape.first() == Some(&None) => self.shape.clone(),
            Some(known) if dynamic && rest > 0 && known.is_multiple_of(rest) => {
                let mut shape = self.shape.clone();
                shape[0] = Some(known / rest);
                shape
            }
            Some(known) if !dynamic && known == rest => self.shape.clone(),
            Some(_) | None => return Err(misfit()),
        };
        Ok(x.reshaped(shape))
    }

    fn keeps_scale(&self, _: &[bool]) -> bool {
        true
    }

    fn plan(&self, node: &Planned<'_>, _: &mut Steps<'_>) -> Result<Id, ExecError> {
        Ok(node.x())
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        Ok(Tensor { shape: shape.to_vec(), values: operands[0].values.clone() })
    }
}

/// The operand, a constant, for every sample: its axis of size 1 in front becomes the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// Whether there is a batch.
    pub batched: bool,
}

impl Operator for Broadcast {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x] = exactly(operands)?;
        let mut result = x.same();
        if self.batched {
            match result.shape.first_mut() {
                Some(first) if *first == Some(1) => *first = None,
                _ => return Err(format!("axis 0 of {} is not 1", show(x.shape))),
            }
        }
        Ok(result)
    }

    fn infer_sample(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x] = exactly(operands)?;
        Ok(x.same())
    }

    fn keeps_scale(&self, _: &[bool]) -> bool {
        true
    }

    fn plan(&self, node: &Planned<'_>, _: &mut Steps<'_>) -> Result<Id, ExecError> {
        Ok(node.x())
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], _: &[usize]) -> Result<Tensor, String> {
        Ok(operands[0].clone())
    }
}

/// Permutes the axes: result axis `i` is operand axis `perms[i]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transpose {
    /// The permutation.
    pub perms: Vec<usize>,
}

impl Operator for Transpose {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x] = exactly(operands)?;
        let rank = x.shape.len();
        let distinct = self.perms.iter().collect::<BTreeSet<_>>().len();
        if self.perms.len() != rank || distinct != rank || self.perms.iter().any(|&axis| axis >= rank) {
            return Err(format!("{:?} does not permute {rank} axes", self.perms));
        }
        let shape: Vec<_> = self.perms.iter().map(|&axis| x.shape[axis]).collect();
        if shape.iter().skip(1).any(Option::is_none) {
            return Err("it moves the batch from the front".to_owned());
        }
        Ok(x.reshaped(shape))
    }

    fn keeps_scale(&self, _: &[bool]) -> bool {
        true
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        let x = &node.operands[0];
        let perms = with_words(&self.perms, x.dtype, x.shape.len());
        Ok(gather(Gather::transpose(&in_words(x.shape, x.dtype), &perms), x, node, steps))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        Ok(Tensor::from_fn(shape, |i| {
            let mut index = vec![0; i.len()];
            self.perms.iter().zip(i).for_each(|(&axis, &at)| index[axis] = at);
            operands[0].at(&index)
        }))
    }
}

/// A sub-tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The first index per axis.
    pub start: Vec<usize>,
    /// The result's shape; the batch, `None`, stays whole.
    pub size: Vec<Option<usize>>,
}

impl Operator for Slice {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x] = exactly(operands)?;
        let misfit = || format!("{} at {:?} reaches out of {}", show(&self.size), self.start, show(x.shape));
        if self.start.len() != x.shape.len() || self.size.len() != x.shape.len() {
            return Err(misfit());
        }
        let sizes =
            x.shape.iter().zip(&self.size).zip(&self.start).map(|((&from, &size), &start)| match (from, size) {
                (from, None) if start == 0 => Some(from),
                (Some(from), Some(size)) => start.checked_add(size).filter(|&end| end <= from).map(|_| Some(size)),
                (_, None) | (None, Some(_)) => None,
            });
        let shape: Option<Vec<_>> = sizes.collect();
        Ok(x.reshaped(shape.ok_or_else(misfit)?))
    }

    fn keeps_scale(&self, _: &[bool]) -> bool {
        true
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        let x = &node.operands[0];
        let start = with_words(&self.start, x.dtype, 0);
        let cut = Gather::slice(&in_words(x.shape, x.dtype), &start, &in_words(node.shape, x.dtype));
        Ok(gather(cut, x, node, steps))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        Ok(Tensor::from_fn(shape, |i| {
            operands[0].at(&i.iter().zip(&self.start).map(|(i, start)| i + start).collect::<Vec<_>>())
        }))
    }
}

/// Repeats the operand along its axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// How often, per axis.
    pub repeats: Vec<usize>,
}

impl Operator for Tile {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x] = exactly(operands)?;
        if self.repeats.len() != x.shape.len() || self.repeats.contains(&0) {
            return Err(format!("{:?} does not fit {}", self.repeats, show(x.shape)));
        }
        let sizes = x.shape.iter().zip(&self.repeats).map(|(&size, &times)| match size {
            Some(size) => size.checked_mul(times).map(Some),
            None => (times == 1).then_some(None),
        });
        let shape: Option<Vec<_>> = sizes.collect();
        Ok(x.reshaped(shape.ok_or_else(|| format!("{:?} repeats the batch, or too much", self.repeats))?))
    }

    fn keeps_scale(&self, _: &[bool]) -> bool {
        true
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        let x = &node.operands[0];
        let repeats = with_words(&self.repeats, x.dtype, 1);
        Ok(gather(Gather::tile(&in_words(x.shape, x.dtype), &repeats), x, node, steps))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        let x = operands[0];
        Ok(Tensor::from_fn(shape, |i| x.at(&i.iter().zip(&x.shape).map(|(i, size)| i % size).collect::<Vec<_>>())))
    }
}

/// Adds a constant border.
#[derive(Clone, Debug, PartialEq)]
pub struct Pad {
    /// Before and after, per axis.
    pub pad: Vec<[usize; 2]>,
    /// The border's value.
    pub value: f32,
}

impl Operator for Pad {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x] = exactly(operands)?;
        if self.pad.len() != x.shape.len() {
            return Err(format!("{:?} does not fit {}", self.pad, show(x.shape)));
        }
        let sizes = x.shape.iter().zip(&self.pad).map(|(&size, &[before, after])| match size {
            Some(size) => size.checked_add(before)?.checked_add(after).map(Some),
            None => (before + after == 0).then_some(None),
        });
        let shape: Option<Vec<_>> = sizes.collect();
        Ok(x.reshaped(shape.ok_or_else(|| format!("{:?} pads the batch, or too much", self.pad))?))
    }

    fn keeps_scale(&self, _: &[bool]) -> bool {
        self.value == 0.0
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        let x = &node.operands[0];
        let start: Vec<usize> = self.pad.iter().map(|[before, _]| *before).collect();
        let start = with_words(&start, x.dtype, 0);
        let place = Gather::slice(&in_words(node.shape, x.dtype), &start, &in_words(x.shape, x.dtype));
        if place.is_identity(node.words()) {
            return Ok(x.id);
        }
        let border = match x.dtype {
            DType::F32 => vec![self.value],
            dtype @ (DType::I32 | DType::I64 | DType::Bool) => dtype.encode(&[self.value as i64]),
        };
        Ok(steps.push(Border { place, border }, vec![x.id], node.words()))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        let x = operands[0];
        Ok(Tensor::from_fn(shape, |i| {
            let inside =
                i.iter().zip(&self.pad).zip(&x.shape).all(|((i, pad), size)| *i >= pad[0] && i - pad[0] < *size);
            match inside {
                true => x.at(&i.iter().zip(&self.pad).map(|(i, pad)| i - pad[0]).collect::<Vec<_>>()),
                false => f64::from(self.value),
            }
        }))
    }
}

/// Joins the operands along an axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concat {
    /// The axis.
    pub axis: usize,
}

impl Operator for Concat {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let first = operands.first().ok_or("it has no operands")?;
        first.axis(self.axis)?;
        let mut total = 0usize;
        for (index, operand) in operands.iter().enumerate() {
            if operand.dtype != first.dtype {
                return wrong_types(operands);
            }
            let fits = operand.shape.len() == first.shape.len()
                && operand.shape.iter().zip(first.shape).enumerate().all(|(at, (a, b))| at == self.axis || a == b);
            if !fits {
                return Err(format!("operand {index} differs off the axis"));
            }
            total = total.saturating_add(operand.axis(self.axis)?);
        }
        let mut shape = first.shape.to_vec();
        shape[self.axis] = Some(total);
        Ok(first.reshaped(shape))
    }

    fn keeps_scale(&self, constant: &[bool]) -> bool {
        !constant.contains(&true)
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        if let [only] = node.operands.as_slice() {
            return Ok(only.id);
        }
        let width =
            |operand: &Argument<'_>| operand.shape[self.axis..].iter().product::<usize>() * operand.dtype.words();
        let widths = node.operands.iter().map(width).collect();
        let inputs = node.operands.iter().map(|operand| operand.id).collect();
        Ok(steps.push(Columns { widths }, inputs, node.words()))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        Ok(Tensor::from_fn(shape, |i| {
            let mut index = i.to_vec();
            for operand in operands {
                if index[self.axis] < operand.shape[self.axis] {
                    return operand.at(&index);
                }
                index[self.axis] -= operand.shape[self.axis];
            }
            f64::NAN
        }))
    }
}

/// Emits a strided copy, unless it copies everything in order.
fn gather(gather: Gather, x: &Argument<'_>, node: &Planned<'_>, steps: &mut Steps<'_>) -> Id {
    let len = node.words();
    if gather.is_identity(len) && steps.values[x.id].len == len {
        x.id
    } else {
        steps.push(Copy(gather), vec![x.id], len)
    }
}

#[derive(Clone, Debug)]
struct Copy(Gather);

impl Kernel for Copy {
    fn in_place(&self) -> bool {
        false
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(Reads::NOTHING)
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        self.0.copy(run.operand(0), run.out);
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: Buffer) -> Result<(), ExecError> {
        let len = run.len(0);
        let mut part = run.pool().take_zeroed(len);
        self.0.scatter_add(&g, &mut part);
        run.add(0, part);
        run.pool().give(g);
        Ok(())
    }
}

/// Writes the operand to where the gather reads.
#[derive(Clone, Debug)]
struct Border {
    place: Gather,
    /// The border's value, in words.
    border: Vec<f32>,
}

impl Kernel for Border {
    fn in_place(&self) -> bool {
        false
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(Reads::NOTHING)
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        match self.border.as_slice() {
            [value] => run.out.fill(*value),
            words => run.out.chunks_exact_mut(words.len().max(1)).for_each(|out| out.copy_from_slice(words)),
        }
        self.place.scatter(run.operand(0), run.out);
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: Buffer) -> Result<(), ExecError> {
        let len = run.len(0);
        let mut part = run.pool().take(len);
        self.place.copy(&g, &mut part);
        run.add(0, part);
        run.pool().give(g);
        Ok(())
    }
}

/// The operands' rows side by side.
#[derive(Clone, Debug)]
struct Columns {
    /// The lengths of their rows, in words.
    widths: Vec<usize>,
}

impl Kernel for Columns {
    fn in_place(&self) -> bool {
        false
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(Reads::NOTHING)
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        let total = self.widths.iter().sum();
        let mut at = 0;
        for (position, &width) in self.widths.iter().enumerate() {
            layout::copy_columns(run.operand(position), width, at, total, run.out);
            at += width;
        }
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: Buffer) -> Result<(), ExecError> {
        let total = self.widths.iter().sum();
        let mut at = 0;
        for (position, &width) in self.widths.iter().enumerate() {
            if run.wanted(position) {
                let len = run.len(position);
                let mut part = run.pool().take(len);
                layout::take_columns(&g, width, at, total, &mut part);
                run.add(position, part);
            }
            at += width;
        }
        run.pool().give(g);
        Ok(())
    }
}
