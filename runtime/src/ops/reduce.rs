//! Along one axis: reductions, the place of the greatest, running sums.

use super::{
    operator::{Operand, Operator, Planned, Type, around, exactly, wrong_types},
    plain::{Elements, Interpreted, Types, interpret},
    reference::{Exact, Tensor},
};
use crate::{
    error::ExecError,
    exec::{
        buffers::Buffer,
        kernel::{Backward, Forward, Id, Kernel, Reads},
    },
    kernels::{indexed, pool},
    plan::steps::Steps,
    program::value::DType,
};

pub use pool::Reduce as Reduction;

/// Reduces one axis to size 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reduce {
    /// What is reduced.
    pub kind: Reduction,
    /// The axis.
    pub axis: usize,
}

impl Operator for Reduce {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x] = exactly(operands)?;
        x.axis(self.axis)?;
        let mut shape = x.shape.to_vec();
        shape[self.axis] = Some(1);
        Ok(x.reshaped(shape))
    }

    fn keeps_scale(&self, _: &[bool]) -> bool {
        match self.kind {
            Reduction::Sum | Reduction::Max | Reduction::Min => true,
            Reduction::Product => false,
        }
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        if !node.is_float() {
            return Ok(interpret(self, node, steps));
        }
        let shape = around(node.operands[0].shape, self.axis);
        if shape[1] == 1 {
            return Ok(node.x());
        }
        Ok(steps.push(ReduceAxis { kind: self.kind, shape }, vec![node.x()], node.words()))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        let x = operands[0];
        Ok(Tensor::from_fn(shape, |i| {
            let mut index = i.to_vec();
            let all = (0..x.shape[self.axis]).map(|at| {
                index[self.axis] = at;
                x.at(&index)
            });
            match self.kind {
                Reduction::Sum => all.sum(),
                Reduction::Product => all.product(),
                Reduction::Max => all.fold(f64::NEG_INFINITY, f64::max),
                Reduction::Min => all.fold(f64::INFINITY, f64::min),
            }
        }))
    }
}

/// Of integers.
impl Interpreted for Reduce {
    const NAME: &str = "Reduce";

    fn run(&self, types: &Types, operands: &[&[f32]], out: &mut [f32]) {
        let [outer, size, inner] = around(types.shape_of(0), self.axis);
        let x = types.ints(0, operands);
        let positions = (0..outer).flat_map(|o| (0..inner).map(move |i| o * size * inner + i));
        let reduced = positions.map(|at| {
            let all = (0..size).map(|k| x[at + k * inner]);
            match self.kind {
                Reduction::Sum => all.fold(0i64, i64::wrapping_add),
                Reduction::Product => all.fold(1i64, i64::wrapping_mul),
                Reduction::Max => all.max().unwrap_or(i64::MIN),
                Reduction::Min => all.min().unwrap_or(i64::MAX),
            }
        });
        types.write(Elements::Int(reduced.collect()), out);
    }
}

/// The kernel of f32: the middle of three axes.
#[derive(Clone, Copy, Debug)]
struct ReduceAxis {
    kind: Reduction,
    shape: [usize; 3],
}

impl Kernel for ReduceAxis {
    fn in_place(&self) -> bool {
        false
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(Reads::BOTH)
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        pool::reduce(self.kind, self.shape, run.operand(0), run.out);
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: Buffer) -> Result<(), ExecError> {
        let mut out = run.take(0);
        pool::reduce_backward(self.kind, self.shape, (run.operand(0), run.result()), &g, &mut out);
        run.put(0, out);
        run.pool().give(g);
        Ok(())
    }
}

/// The first index of the greatest element along an axis, which the result lacks; a NaN is the greatest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgMax {
    /// The axis.
    pub axis: usize,
    /// The indices' type.
    pub to: DType,
}

impl Operator for ArgMax {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x] = exactly(operands)?;
        if x.dtype == DType::Bool || !matches!(self.to, DType::I32 | DType::I64) {
            return wrong_types(operands);
        }
        x.axis(self.axis)?;
        let mut shape = x.shape.to_vec();
        shape.remove(self.axis);
        Ok(Type { dtype: self.to, shape })
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        Ok(interpret(self, node, steps))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        let x = operands[0];
        Ok(Tensor::from_fn(shape, |i| {
            let mut index = i.to_vec();
            index.insert(self.axis, 0);
            let along: Vec<f64> = (0..x.shape[self.axis])
                .map(|at| {
                    index[self.axis] = at;
                    x.at(&index)
                })
                .collect();
            first_greatest(along.len(), |k| along[k]) as f64
        }))
    }
}

impl Interpreted for ArgMax {
    const NAME: &str = "ArgMax";

    fn run(&self, types: &Types, operands: &[&[f32]], out: &mut [f32]) {
        let [outer, size, inner] = around(types.shape_of(0), self.axis);
        let positions = (0..outer).flat_map(|o| (0..inner).map(move |i| o * size * inner + i));
        let greatest = match types.elements(0, operands) {
            Elements::Float(x) => positions.map(|at| first_greatest(size, |k| x[at + k * inner])).collect(),
            Elements::Int(x) => positions.map(|at| first_greatest(size, |k| x[at + k * inner])).collect(),
        };
        types.write(Elements::Int(greatest), out);
    }
}

fn first_greatest<T: PartialOrd>(size: usize, at: impl Fn(usize) -> T) -> i64 {
    let is_nan = |x: &T| x.partial_cmp(x).is_none();
    (1..size).fold(0, |best, k| {
        let (next, most) = (at(k), at(best));
        if next > most || is_nan(&next) && !is_nan(&most) { k } else { best }
    }) as i64
}

/// Running sums along an axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CumSum {
    /// The axis.
    pub axis: usize,
    /// Without the element itself.
    pub exclusive: bool,
    /// From the end.
    pub reverse: bool,
}

impl Operator for CumSum {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x] = exactly(operands)?;
        if x.dtype == DType::Bool {
            return wrong_types(operands);
        }
        x.axis(self.axis)?;
        Ok(x.same())
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        Ok(interpret(self, node, steps))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        let (x, axis) = (operands[0], self.axis);
        Ok(Tensor::from_fn(shape, |i| {
            let mut index = i.to_vec();
            let summed = |at: &usize| {
                let before = if self.reverse { *at > i[axis] } else { *at < i[axis] };
                before || *at == i[axis] && !self.exclusive
            };
            let terms = (0..shape[axis]).filter(summed).map(|at| {
                index[axis] = at;
                x.at(&index)
            });
            terms.sum()
        }))
    }
}

impl Interpreted for CumSum {
    const NAME: &str = "CumSum";

    fn run(&self, types: &Types, operands: &[&[f32]], out: &mut [f32]) {
        let (around, how) = (around(types.shape_of(0), self.axis), [self.exclusive, self.reverse]);
        match types.elements(0, operands) {
            Elements::Float(x) => {
                indexed::running_sums(around, how, &x, 0.0, |a, b| a + b, |at, sum| out[at] = sum);
            }
            Elements::Int(x) => {
                let mut sums = vec![0; x.len()];
                indexed::running_sums(around, how, &x, 0, i64::wrapping_add, |at, sum| sums[at] = sum);
                types.write(Elements::Int(sums), out);
            }
        }
    }

    fn gradient_reads(&self) -> Option<&'static [usize]> {
        Some(&[])
    }

    fn gradient(&self, types: &Types, _: usize, _: &[&[f32]], g: &[f32], out: &mut [f32]) {
        let put = |at: usize, sum: f32| out[at] += sum;
        let how = [self.exclusive, !self.reverse];
        indexed::running_sums(around(&types.shape, self.axis), how, g, 0.0, |a, b| a + b, put);
    }
}
