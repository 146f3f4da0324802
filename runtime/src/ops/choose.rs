//! Conversions between types, and conditions.

use super::{
    operator::{Operand, Operator, Planned, Type, broadcast, exactly, wrong_types},
    plain::{Elements, Interpreted, Types, interpret},
    reference::{Exact, Tensor},
};
use crate::{error::ExecError, exec::kernel::Id, plan::steps::Steps, program::value::DType};

/// Converts to a type: from f32 to integers to the nearest, ties to even, and within the type's range; to bool whether it is
/// not 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cast {
    /// The result's.
    pub to: DType,
}

impl Operator for Cast {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x] = exactly(operands)?;
        Ok(Type { dtype: self.to, shape: x.shape.to_vec() })
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        Ok(interpret(self, node, steps))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], _: &[usize]) -> Result<Tensor, String> {
        Ok(operands[0].map(|x| match self.to {
            DType::F32 => x,
            DType::Bool => f64::from(u8::from(x != 0.0)),
            DType::I32 => f64::from(x.round_ties_even() as i32),
            DType::I64 => x.round_ties_even() as i64 as f64,
        }))
    }
}

impl Interpreted for Cast {
    const NAME: &str = "Cast";

    fn run(&self, types: &Types, operands: &[&[f32]], out: &mut [f32]) {
        let result = match (types.elements(0, operands), self.to) {
            (Elements::Float(values), DType::F32) => Elements::Float(values),
            (Elements::Int(values), DType::F32) => Elements::Float(values.into_iter().map(|x| x as f32).collect()),
            (Elements::Float(values), DType::Bool) => {
                Elements::Int(values.into_iter().map(|x| i64::from(x != 0.0)).collect())
            }
            (Elements::Float(values), DType::I32) => {
                Elements::Int(values.into_iter().map(|x| i64::from(x.round_ties_even() as i32)).collect())
            }
            (Elements::Float(values), DType::I64) => {
                Elements::Int(values.into_iter().map(|x| x.round_ties_even() as i64).collect())
            }
            (ints @ Elements::Int(_), DType::I32 | DType::I64 | DType::Bool) => ints,
        };
        types.write(result, out);
    }
}

/// condition, a, b of equal rank, size-1 axes broadcasting: a where the condition holds, else b.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Select;

impl Operator for Select {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [condition, a, b] = exactly(operands)?;
        if condition.dtype != DType::Bool || a.dtype != b.dtype {
            return wrong_types(operands);
        }
        Ok(a.reshaped(broadcast(&broadcast(condition.shape, a.shape)?, b.shape)?))
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        Ok(interpret(self, node, steps))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        Ok(Tensor::from_fn(shape, |i| operands[if operands[0].at(i) != 0.0 { 1 } else { 2 }].at(i)))
    }
}

impl Interpreted for Select {
    const NAME: &str = "Select";

    fn run(&self, types: &Types, operands: &[&[f32]], out: &mut [f32]) {
        let condition = types.ints(0, operands);
        let at = [types.offsets(1), types.offsets(2)];
        let taken: Vec<bool> = types.offsets(0).into_iter().map(|i| condition[i] != 0).collect();
        let pick = |i: usize| if taken[i] { (0, at[0][i]) } else { (1, at[1][i]) };
        let result = match (types.elements(1, operands), types.elements(2, operands)) {
            (Elements::Float(a), Elements::Float(b)) => Elements::Float(choose(taken.len(), pick, [&a, &b])),
            (Elements::Int(a), Elements::Int(b)) => Elements::Int(choose(taken.len(), pick, [&a, &b])),
            // The operands are of one type.
            (Elements::Float(_), Elements::Int(_)) | (Elements::Int(_), Elements::Float(_)) => return,
        };
        types.write(result, out);
    }

    fn gradient_reads(&self) -> Option<&'static [usize]> {
        Some(&[0])
    }

    fn gradient(&self, types: &Types, position: usize, operands: &[&[f32]], g: &[f32], out: &mut [f32]) {
        let condition = types.ints(0, operands);
        let taken = types.offsets(0).into_iter().map(|i| condition[i] != 0);
        for ((taken, at), g) in taken.zip(types.offsets(position)).zip(g) {
            if taken == (position == 1) {
                out[at] += g;
            }
        }
    }
}

fn choose<T: Copy>(len: usize, pick: impl Fn(usize) -> (usize, usize), from: [&[T]; 2]) -> Vec<T> {
    (0..len)
        .map(|i| {
            let (which, at) = pick(i);
            from[which][at]
        })
        .collect()
}
