//! What goes by indices: slices and elements at indices, elements put at indices, the indices that sort.

use super::{
    operator::{Operand, Operator, Planned, Type, around, broadcast, exactly, show, wrong_types},
    plain::{Elements, Interpreted, Types, interpret},
    reference::{Exact, Tensor},
};
use crate::{
    error::ExecError,
    exec::{
        buffers::Buffer,
        kernel::{Backward, Forward, Id, Kernel, Reads},
    },
    kernels::{
        indexed::{self, Operand as Indexed},
        layout,
    },
    plan::steps::Steps,
    program::value::DType,
};
use std::sync::Arc;

pub use indexed::Scattering;

/// Whether elements may be indices.
fn is_index(dtype: DType) -> bool {
    match dtype {
        DType::I32 | DType::I64 => true,
        DType::F32 | DType::Bool => false,
    }
}

/// An index as a place on an axis: a negative one counts from the end.
fn place(index: f64, size: usize) -> usize {
    (if index < 0.0 { index + size as f64 } else { index }) as usize
}

/// operand, indices of one axis: the operand's slices of those indices along an axis. An index out of range counts as the
/// nearest one within.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Take {
    /// The axis.
    pub axis: usize,
}

impl Operator for Take {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x, indices] = exactly(operands)?;
        if !is_index(indices.dtype) {
            return wrong_types(operands);
        }
        x.axis(self.axis)?;
        let &[Some(count)] = indices.shape else {
            return Err(format!("its indices have shape {}, not one axis", show(indices.shape)));
        };
        let mut shape = x.shape.to_vec();
        shape[self.axis] = Some(count);
        Ok(x.reshaped(shape))
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        let [x, indices] = [0, 1].map(|position| node.operands[position]);
        let Some(constant) = indices.constant else {
            return Ok(interpret(self, node, steps));
        };
        let last = x.shape[self.axis].saturating_sub(1);
        let indices = indices.dtype.decode(constant.values());
        let indices = indices.into_iter().map(|index| nearest(index, last)).collect();
        let mut shape = around(x.shape, self.axis);
        shape[2] *= x.dtype.words();
        Ok(steps.push(Slices { shape, indices }, vec![x.id], node.words()))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        Ok(Tensor::from_fn(shape, |i| {
            let mut index = i.to_vec();
            index[self.axis] = operands[1].values[i[self.axis]] as usize;
            operands[0].at(&index)
        }))
    }
}

fn nearest(index: i64, last: usize) -> usize {
    usize::try_from(index).unwrap_or(0).min(last)
}

impl Take {
    /// The constant kernel's geometry with indices that are values of the run.
    fn slices(&self, types: &Types, operands: &[&[f32]]) -> Slices {
        let mut shape = around(types.shape_of(0), self.axis);
        let last = shape[1].saturating_sub(1);
        shape[2] *= types.dtype.words();
        Slices { shape, indices: types.ints(1, operands).into_iter().map(|index| nearest(index, last)).collect() }
    }
}

/// With indices that are computed.
impl Interpreted for Take {
    const NAME: &str = "Take";

    fn run(&self, types: &Types, operands: &[&[f32]], out: &mut [f32]) {
        let Slices { shape, indices } = self.slices(types, operands);
        layout::take(shape, &indices, operands[0], out);
    }

    fn gradient_reads(&self) -> Option<&'static [usize]> {
        Some(&[1])
    }

    fn gradient(&self, types: &Types, _: usize, operands: &[&[f32]], g: &[f32], out: &mut [f32]) {
        let Slices { shape, indices } = self.slices(types, operands);
        layout::take_backward(shape, &indices, g, out);
    }
}

/// Of `[outer, axis, inner]`, the indices along the axis.
#[derive(Clone, Debug)]
struct Slices {
    shape: [usize; 3],
    indices: Arc<[usize]>,
}

impl Kernel for Slices {
    fn in_place(&self) -> bool {
        false
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(Reads::NOTHING)
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        layout::take(self.shape, &self.indices, run.operand(0), run.out);
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: Buffer) -> Result<(), ExecError> {
        let mut out = run.take(0);
        layout::take_backward(self.shape, &self.indices, &g, &mut out);
        run.put(0, out);
        run.pool().give(g);
        Ok(())
    }
}

/// An operand of the kernels.
fn indexed<'a>(types: &'a Types, operands: &[&'a [f32]], index: usize) -> Indexed<'a> {
    (types.operands[index].0, types.shape_of(index), operands[index])
}

/// data, indices of equal rank: along an axis the data's elements at the indices; the other axes broadcast. A negative index
/// counts from the end; what is out of range counts as the nearest within.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The axis.
    pub axis: usize,
}

impl Operator for Pick {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x, indices] = exactly(operands)?;
        if !is_index(indices.dtype) {
            return wrong_types(operands);
        }
        if x.axis(self.axis)? == 0 {
            return Err(format!("axis {} is empty", self.axis));
        }
        let mut shape = x.shape.to_vec();
        shape[self.axis] = Some(1);
        Ok(x.reshaped(broadcast(&shape, indices.shape)?))
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        Ok(interpret(self, node, steps))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        let x = operands[0];
        Ok(Tensor::from_fn(shape, |i| {
            let mut index = i.to_vec();
            index[self.axis] = place(operands[1].at(i), x.shape[self.axis]);
            x.at(&index)
        }))
    }
}

impl Interpreted for Pick {
    const NAME: &str = "Pick";

    fn run(&self, types: &Types, operands: &[&[f32]], out: &mut [f32]) {
        let [x, indices] = [0, 1].map(|index| indexed(types, operands, index));
        indexed::pick(self.axis, x, indices, &types.shape, out);
    }

    fn gradient_reads(&self) -> Option<&'static [usize]> {
        Some(&[1])
    }

    fn gradient(&self, types: &Types, _: usize, operands: &[&[f32]], g: &[f32], out: &mut [f32]) {
        let indices = indexed(types, operands, 1);
        indexed::pick_backward(self.axis, types.shape_of(0), indices, &types.shape, g, out);
    }
}

/// data, indices, updates of equal rank → the data with the updates put in: each goes to its own place but along an axis,
/// where the index says. Axes of the indices of size 1 repeat. Indices as in [`Pick`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scatter {
    /// The axis.
    pub axis: usize,
    /// How an update meets what is there.
    pub reduction: Scattering,
}

impl Operator for Scatter {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x, indices, updates] = exactly(operands)?;
        let numbers = x.dtype != DType::Bool || self.reduction == Scattering::Replace;
        if !numbers || !is_index(indices.dtype) || updates.dtype != x.dtype {
            return wrong_types(operands);
        }
        let size = x.axis(self.axis)?;
        // The batch, `None`, wins over a constant's 1.
        let within = |(at, (&x, &update)): (usize, (&Option<usize>, &Option<usize>))| match (x, update) {
            _ if at == self.axis => true,
            (Some(x), Some(update)) => update <= x,
            (None, None | Some(1)) | (Some(1), None) => true,
            (None, Some(_)) | (Some(_), None) => false,
        };
        let repeats = |(&index, &update): (&Option<usize>, &Option<usize>)| {
            index == update || index == Some(1) || (index.is_none() && update == Some(1))
        };
        let fits = indices.shape.len() == x.shape.len()
            && updates.shape.len() == x.shape.len()
            && indices.shape.iter().zip(updates.shape).all(repeats)
            && x.shape.iter().zip(updates.shape).enumerate().all(within)
            && size > 0;
        if !fits {
            let shapes = [x, indices, updates].map(|operand| show(operand.shape)).join(", ");
            return Err(format!("its operands' shapes {shapes} do not fit"));
        }
        let batched = operands.iter().any(|operand| operand.shape.first() == Some(&None));
        let mut shape = x.shape.to_vec();
        if batched && let Some(first) = shape.first_mut().filter(|first| **first == Some(1)) {
            *first = None;
        }
        Ok(x.reshaped(shape))
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        Ok(interpret(self, node, steps))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        let (x, indices, updates) = (operands[0], operands[1], operands[2]);
        Ok(Tensor::from_fn(shape, |i| {
            // Every update that goes here, in order.
            let here = Tensor::from_fn(&updates.shape, |j| {
                let own = |each: usize| match each == self.axis {
                    true => place(indices.at(j), shape[self.axis]),
                    false => j[each],
                };
                f64::from(u8::from((0..j.len()).all(|each| i[each] == own(each))))
            });
            let met = here.values.iter().zip(&updates.values).filter(|(here, _)| **here == 1.0);
            met.fold(x.at(i), |value, (_, &update)| match self.reduction {
                Scattering::Replace => update,
                Scattering::Add => value + update,
                Scattering::Mul => value * update,
                Scattering::Max => value.max(update),
                Scattering::Min => value.min(update),
            })
        }))
    }
}

impl Interpreted for Scatter {
    const NAME: &str = "Scatter";

    fn run(&self, types: &Types, operands: &[&[f32]], out: &mut [f32]) {
        let [data, indices, updates] = [0, 1, 2].map(|index| indexed(types, operands, index));
        indexed::scatter(self.axis, self.reduction, data, indices, updates, out);
    }

    fn gradient_reads(&self) -> Option<&'static [usize]> {
        Some(match self.reduction {
            Scattering::Replace | Scattering::Add => &[1],
            Scattering::Mul | Scattering::Max | Scattering::Min => &[0, 1, 2],
        })
    }

    fn gradient(&self, types: &Types, position: usize, operands: &[&[f32]], g: &[f32], out: &mut [f32]) {
        let [data, indices, updates] = [0, 1, 2].map(|index| indexed(types, operands, index));
        indexed::scatter_backward(self.axis, self.reduction, data, indices, updates, position == 0, g, out);
    }
}

/// The indices of the first of the elements along an axis, sorted; of equal ones the lower index first, NaN as the greatest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopK {
    /// The axis.
    pub axis: usize,
    /// How many.
    pub count: usize,
    /// From the greatest down, or from the least up.
    pub largest: bool,
}

impl Operator for TopK {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x] = exactly(operands)?;
        if x.dtype == DType::Bool {
            return wrong_types(operands);
        }
        let size = x.axis(self.axis)?;
        if self.count > size {
            return Err(format!("an axis of {size} elements has no first {}", self.count));
        }
        let mut shape = x.shape.to_vec();
        shape[self.axis] = Some(self.count);
        Ok(Type { dtype: DType::I64, shape })
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        Ok(interpret(self, node, steps))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        let (x, axis) = (operands[0], self.axis);
        Ok(Tensor::from_fn(shape, |i| {
            let mut index = i.to_vec();
            let own: Vec<f64> = (0..x.shape[axis])
                .map(|at| {
                    index[axis] = at;
                    x.at(&index) * if self.largest { -1.0 } else { 1.0 }
                })
                .collect();
            // The one that as many come before as this rank says.
            let before = |k: usize| (0..own.len()).filter(|&j| (own[j], j) < (own[k], k)).count();
            (0..own.len()).find(|&k| before(k) == i[axis]).map_or(f64::NAN, |k| k as f64)
        }))
    }
}

impl Interpreted for TopK {
    const NAME: &str = "TopK";

    fn run(&self, types: &Types, operands: &[&[f32]], out: &mut [f32]) {
        let (around, Self { count, largest, .. }) = (around(types.shape_of(0), self.axis), self);
        let ranked = match types.elements(0, operands) {
            Elements::Float(x) => indexed::top_k(around, *count, *largest, |a, b| indexed::compare(x[a], x[b])),
            Elements::Int(x) => indexed::top_k(around, *count, *largest, |a, b| x[a].cmp(&x[b])),
        };
        types.write(Elements::Int(ranked), out);
    }
}
