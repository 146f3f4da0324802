//! Elementwise functions of two operands of equal rank; size-1 axes broadcast.

use super::{
    operator::{Operand, Operator, Planned, Type, broadcast, broadcast_of, exactly, wrong_types},
    plain::{Elements, Interpreted, Types, interpret},
    reference::{Exact, Tensor},
    unary::{Silu, Unary, operand_of},
};
use crate::{
    error::ExecError,
    exec::{
        buffers::Buffer,
        kernel::{Backward, Forward, Id, Kernel, Reads},
    },
    kernels::{
        broadcast::{Arithmetic, Broadcast},
        elementwise::{self, chain},
    },
    plan::steps::Steps,
    program::value::{DType, ValueId},
};

/// Elementwise functions of two operands. Integers wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Max,
    Min,
    Pow,
    /// The quotient rounded to zero, of integers; 0 where the divisor is.
    IntDiv,
    /// The quotient of floats.
    Div,
    /// The remainder with the divisor's sign.
    Mod,
    /// The remainder with the dividend's sign.
    Rem,
    /// Gives booleans, as all below.
    Equal,
    Greater,
    GreaterEqual,
    And,
    Or,
    Xor,
}

impl Binary {
    /// As a function of f32 that has a kernel and a gradient of its own.
    fn arithmetic(self) -> Option<Arithmetic> {
        Some(match self {
            Self::Add => Arithmetic::Add,
            Self::Sub => Arithmetic::Sub,
            Self::Mul => Arithmetic::Mul,
            Self::Div => Arithmetic::Div,
            Self::Max => Arithmetic::Max,
            Self::Min => Arithmetic::Min,
            Self::Pow => Arithmetic::Pow,
            Self::IntDiv
            | Self::Mod
            | Self::Rem
            | Self::Equal
            | Self::Greater
            | Self::GreaterEqual
            | Self::And
            | Self::Or
            | Self::Xor => return None,
        })
    }

    /// The type of the result on operands of a type; `None` where it does not take them.
    fn result(self, dtype: DType) -> Option<DType> {
        let number = dtype != DType::Bool;
        match self {
            Self::Equal => Some(DType::Bool),
            Self::Greater | Self::GreaterEqual => number.then_some(DType::Bool),
            Self::And | Self::Or | Self::Xor => (!number).then_some(DType::Bool),
            Self::Div => (dtype == DType::F32).then_some(dtype),
            Self::IntDiv => (number && dtype != DType::F32).then_some(dtype),
            Self::Add | Self::Sub | Self::Mul | Self::Max | Self::Min | Self::Pow | Self::Mod | Self::Rem => {
                number.then_some(dtype)
            }
        }
    }
}

impl Operator for Binary {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [a, b] = exactly(operands)?;
        match self.result(a.dtype).filter(|_| a.dtype == b.dtype) {
            Some(dtype) => Ok(Type { dtype, shape: broadcast(a.shape, b.shape)? }),
            None => wrong_types(operands),
        }
    }

    fn keeps_scale(&self, constant: &[bool]) -> bool {
        match self {
            Self::Add | Self::Sub | Self::Max | Self::Min => !constant.contains(&true),
            Self::Mul => constant.contains(&true),
            Self::Div => constant.last() == Some(&true),
            _ => false,
        }
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        let Some(op) = self.arithmetic().filter(|_| node.is_float()) else {
            return Ok(interpret(self, node, steps));
        };
        let [x, y] = [node.operands[0].id, node.operands[1].id];
        let shape = broadcast_of(node.operands[0].shape, node.operands[1].shape)?;
        let len = node.words();
        if op == Arithmetic::Mul {
            let is_gate = |gate: Id, of: Id| operand_of(steps, gate, Unary::Sigmoid) == Some(of);
            if is_gate(y, x) {
                return Ok(steps.push(Silu, vec![x], len));
            }
            if is_gate(x, y) {
                return Ok(steps.push(Silu, vec![y], len));
            }
            // TOSA has no division of floats: it is spelled with reciprocals.
            let op = Arithmetic::Div;
            if let Some(divisor) = operand_of(steps, y, Unary::Reciprocal) {
                return Ok(steps.push(Elementwise { op, shape }, vec![x, divisor], len));
            }
            if let Some(divisor) = operand_of(steps, x, Unary::Reciprocal) {
                return Ok(steps.push(Elementwise { op, shape: shape.swapped() }, vec![y, divisor], len));
            }
        }
        Ok(steps.push(Elementwise { op, shape }, vec![x, y], len))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        let truth = |holds: bool| f64::from(u8::from(holds));
        Ok(Tensor::from_fn(shape, |i| {
            let (a, b) = (operands[0].at(i), operands[1].at(i));
            match self {
                Self::Add => a + b,
                Self::Sub => a - b,
                Self::Mul => a * b,
                Self::Div => a / b,
                Self::IntDiv => (a / b).trunc(),
                Self::Mod => a - b * (a / b).floor(),
                Self::Rem => a % b,
                Self::Max => a.max(b),
                Self::Min => a.min(b),
                Self::Pow => a.powf(b),
                Self::Equal => truth(a == b),
                Self::Greater => truth(a > b),
                Self::GreaterEqual => truth(a >= b),
                Self::And => truth(a != 0.0 && b != 0.0),
                Self::Or => truth(a != 0.0 || b != 0.0),
                Self::Xor => truth((a != 0.0) != (b != 0.0)),
            }
        }))
    }
}

impl Interpreted for Binary {
    const NAME: &str = "Binary";

    fn run(&self, types: &Types, operands: &[&[f32]], out: &mut [f32]) {
        let pairs = types.offsets(0).into_iter().zip(types.offsets(1));
        let result = match (types.elements(0, operands), types.elements(1, operands)) {
            (Elements::Float(a), Elements::Float(b)) if types.dtype == DType::Bool => {
                Elements::Int(pairs.map(|(i, j)| i64::from(compare(*self, &a[i], &b[j]))).collect())
            }
            (Elements::Int(a), Elements::Int(b)) if types.dtype == DType::Bool => Elements::Int(
                pairs
                    .map(|(i, j)| match self {
                        Self::And => a[i] & b[j],
                        Self::Or => a[i] | b[j],
                        Self::Xor => a[i] ^ b[j],
                        _ => i64::from(compare(*self, &a[i], &b[j])),
                    })
                    .collect(),
            ),
            (Elements::Float(a), Elements::Float(b)) => {
                Elements::Float(pairs.map(|(i, j)| of_floats(*self, a[i], b[j])).collect())
            }
            (Elements::Int(a), Elements::Int(b)) => {
                Elements::Int(pairs.map(|(i, j)| of_integers(*self, a[i], b[j])).collect())
            }
            // The operands are of one type.
            (Elements::Float(_), Elements::Int(_)) | (Elements::Int(_), Elements::Float(_)) => return,
        };
        types.write(result, out);
    }

    fn gradient_reads(&self) -> Option<&'static [usize]> {
        match self {
            Self::Mod | Self::Rem => Some(&[0, 1]),
            _ => None,
        }
    }

    /// The dividend less a multiple of the divisor, which is constant almost everywhere.
    fn gradient(&self, types: &Types, position: usize, operands: &[&[f32]], g: &[f32], out: &mut [f32]) {
        let at = [types.offsets(0), types.offsets(1)];
        for (index, &g) in g.iter().enumerate() {
            let quotient = operands[0][at[0][index]] / operands[1][at[1][index]];
            let multiple = if *self == Self::Mod { quotient.floor() } else { quotient.trunc() };
            out[at[position][index]] += if position == 0 { g } else { chain(g, -multiple) };
        }
    }
}

fn compare<T: PartialOrd>(op: Binary, a: &T, b: &T) -> bool {
    match op {
        Binary::Equal => a == b,
        Binary::Greater => a > b,
        _ => a >= b,
    }
}

fn of_floats(op: Binary, a: f32, b: f32) -> f32 {
    match op {
        Binary::Rem => a % b,
        // As Python's.
        Binary::Mod => {
            let rest = a % b;
            if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
        }
        _ => f32::NAN,
    }
}

fn of_integers(op: Binary, a: i64, b: i64) -> i64 {
    match op {
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Mul => a.wrapping_mul(b),
        Binary::Max => a.max(b),
        Binary::Min => a.min(b),
        Binary::Pow => u32::try_from(b).map_or(0, |exponent| a.wrapping_pow(exponent)),
        Binary::IntDiv if b != 0 => a.wrapping_div(b),
        Binary::Rem if b != 0 => a.wrapping_rem(b),
        Binary::Mod if b != 0 => {
            let rest = a.wrapping_rem(b);
            if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
        }
        _ => 0,
    }
}

/// The kernel of f32.
#[derive(Clone, Debug)]
pub(crate) struct Elementwise {
    pub op: Arithmetic,
    pub shape: Broadcast,
}

impl Kernel for Elementwise {
    fn in_place(&self) -> bool {
        false
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(if self.op.gradient_reads() { Reads::OPERANDS } else { Reads::NOTHING })
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        self.op.apply(&self.shape, run.operand(0), run.operand(1), run.out);
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: Buffer) -> Result<(), ExecError> {
        let (x, y) = (run.operand(0), run.operand(1));
        if self.op == Arithmetic::Add && [0, 1].iter().all(|&position| run.len(position) == g.len()) {
            run.share(g);
            return Ok(());
        }
        if run.wanted(0) {
            let mut out = run.take(0);
            self.op.gradient(true, &self.shape, &g, (x, y), &mut out);
            run.put(0, out);
        }
        if run.wanted(1) {
            let mut out = run.take(1);
            self.op.gradient(false, &self.shape.swapped(), &g, (y, x), &mut out);
            run.put(1, out);
        }
        run.pool().give(g);
        Ok(())
    }
}

/// `clamp(a + b)` of equal shapes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddClamp {
    pub min: f32,
    pub max: f32,
}

impl Kernel for AddClamp {
    fn in_place(&self) -> bool {
        false
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(Reads::RESULT)
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        elementwise::add_clamp(run.operand(0), run.operand(1), self.min, self.max, run.out);
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, mut g: Buffer) -> Result<(), ExecError> {
        elementwise::mask_clamped(&mut g, run.result(), self.min, self.max);
        run.share(g);
        Ok(())
    }
}

/// A scale and a shift per channel, in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Affine {
    pub scale: ValueId,
    pub shift: ValueId,
}

impl Kernel for Affine {
    fn in_place(&self) -> bool {
        true
    }

    fn parameters(&self) -> Vec<ValueId> {
        vec![self.scale, self.shift]
    }

    fn reads(&self, trained: bool) -> Result<Reads, &'static str> {
        Ok(if trained { Reads::OPERAND } else { Reads::NOTHING })
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        let (scale, shift) = (run.constant(self.scale), run.constant(self.shift));
        elementwise::affine(run.out, scale, shift);
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, mut g: Buffer) -> Result<(), ExecError> {
        let values = run.constant(self.scale);
        if !run.weights.contains_key(&self.scale) && !run.weights.contains_key(&self.shift) {
            elementwise::scale_rows(&mut g, values);
            run.add(0, g);
            return Ok(());
        }
        let x = run.operand(0);
        let mut sums = [run.pool().take_zeroed(values.len()), run.pool().take_zeroed(values.len())];
        let [scale_sum, shift_sum] = &mut sums;
        elementwise::affine_backward(&mut g, x, values, scale_sum, shift_sum);
        for (id, sum) in [self.scale, self.shift].into_iter().zip(sums) {
            if let Some(total) = run.weights.get_mut(&id) {
                elementwise::add_assign(total, &sum);
            }
            run.pool().give(sum);
        }
        run.add(0, g);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact() {
        let shape = vec![2];
        let values = [(1i64 << 53) + 1, -(1i64 << 40)];
        for dtype in [DType::I64, DType::I32] {
            let words = dtype.encode(&values);
            let types = Types { operands: vec![(dtype, shape.clone()); 2], dtype, shape: shape.clone() };
            let mut out = vec![0.0; words.len()];
            Binary::Add.run(&types, &[&words, &words], &mut out);
            let wanted = values.map(|value| match dtype {
                DType::I64 => 2 * value,
                _ => i64::from((value as i32).wrapping_mul(2)),
            });
            assert_eq!(dtype.decode(&out), wanted);
        }
    }

    #[test]
    fn remainders_have_the_signs_asked_for() {
        assert_eq!([-7, 7].map(|a| of_integers(Binary::Mod, a, -3)), [-1, -2]);
        assert_eq!([-7, 7].map(|a| of_integers(Binary::Rem, a, -3)), [-1, 1]);
        assert_eq!([-7.0, 7.0].map(|a| of_floats(Binary::Mod, a, 3.0)), [2.0, 1.0]);
    }
}
