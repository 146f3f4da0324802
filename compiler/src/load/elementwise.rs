//! Elementwise functions, conversions and reductions.

use super::{Bound, LoadError, Loader, dtype, fail, result};
use melior::ir::{OperationRef, ValueLike};
use mxc_dialects::tosa::{self, CustomBinary, CustomUnary};
use mxc_runtime::{
    program::{ArgMax, Binary, Cast, DType, Op, Reduce, Reduction, Select, Unary},
    store::Weight,
};

impl<'c> Loader<'c, '_> {
    pub(super) fn unary(&mut self, op: &OperationRef<'c, '_>, function: tosa::Unary) -> Result<(), LoadError> {
        let function = match function {
            tosa::Unary::Sigmoid => Unary::Sigmoid,
            tosa::Unary::Tanh => Unary::Tanh,
            tosa::Unary::Erf => Unary::Erf,
            tosa::Unary::Exp => Unary::Exp,
            tosa::Unary::Log => Unary::Log,
            tosa::Unary::Reciprocal => Unary::Reciprocal,
            tosa::Unary::Rsqrt => Unary::Rsqrt,
            tosa::Unary::Abs => Unary::Abs,
            tosa::Unary::Negate => {
                self.zero(op, &[1, 2])?;
                Unary::Negate
            }
            tosa::Unary::Floor => Unary::Floor,
            tosa::Unary::Ceil => Unary::Ceil,
            tosa::Unary::Sin => Unary::Sin,
            tosa::Unary::Cos => Unary::Cos,
            tosa::Unary::LogicalNot => Unary::Not,
        };
        self.one(op, function)
    }

    pub(super) fn custom_unary(&mut self, op: &OperationRef<'c, '_>, function: CustomUnary) -> Result<(), LoadError> {
        let function = match function {
            CustomUnary::Round => Unary::Round,
            CustomUnary::Sign => Unary::Sign,
            CustomUnary::Tan => Unary::Tan,
            CustomUnary::Asin => Unary::Asin,
            CustomUnary::Acos => Unary::Acos,
            CustomUnary::Atan => Unary::Atan,
            CustomUnary::Sinh => Unary::Sinh,
            CustomUnary::Cosh => Unary::Cosh,
            CustomUnary::Asinh => Unary::Asinh,
            CustomUnary::Acosh => Unary::Acosh,
            CustomUnary::Atanh => Unary::Atanh,
        };
        self.one(op, function)
    }

    pub(super) fn clamp(&mut self, op: &OperationRef<'c, '_>, min: f32, max: f32) -> Result<(), LoadError> {
        self.one(op, Unary::Clamp { min, max })
    }

    pub(super) fn quantize(
        &mut self,
        op: &OperationRef<'c, '_>,
        [scale, zero, low, high]: [f32; 4],
    ) -> Result<(), LoadError> {
        self.one(op, Unary::Quantize { scale, zero, low, high })
    }

    /// A function of the first operand that keeps its axes.
    fn one(&mut self, op: &OperationRef<'c, '_>, function: impl Into<Op>) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        self.emit(op, function, &[input], view)?;
        Ok(())
    }

    pub(super) fn binary(&mut self, op: &OperationRef<'c, '_>, function: tosa::Binary) -> Result<(), LoadError> {
        let function = match function {
            tosa::Binary::Add => Binary::Add,
            tosa::Binary::Sub => Binary::Sub,
            tosa::Binary::Mul => {
                self.zero(op, &[2])?;
                Binary::Mul
            }
            tosa::Binary::Maximum => Binary::Max,
            tosa::Binary::Minimum => Binary::Min,
            tosa::Binary::Pow => Binary::Pow,
            tosa::Binary::IntDiv => Binary::IntDiv,
            tosa::Binary::Equal => Binary::Equal,
            tosa::Binary::Greater => Binary::Greater,
            tosa::Binary::GreaterEqual => Binary::GreaterEqual,
            tosa::Binary::LogicalAnd => Binary::And,
            tosa::Binary::LogicalOr => Binary::Or,
            tosa::Binary::LogicalXor => Binary::Xor,
        };
        self.two(op, function)
    }

    pub(super) fn custom_binary(&mut self, op: &OperationRef<'c, '_>, function: CustomBinary) -> Result<(), LoadError> {
        let function = match function {
            CustomBinary::Mod => Binary::Mod,
            CustomBinary::Rem => Binary::Rem,
            CustomBinary::Div => Binary::Div,
        };
        self.two(op, function)
    }

    fn two(&mut self, op: &OperationRef<'c, '_>, function: Binary) -> Result<(), LoadError> {
        let (inputs, view) = self.operands(op, &[0, 1])?;
        self.emit(op, function, &inputs, view)?;
        Ok(())
    }

    pub(super) fn select(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let (inputs, view) = self.operands(op, &[0, 1, 2])?;
        self.emit(op, Select, &inputs, view)?;
        Ok(())
    }

    pub(super) fn cast(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let value = result(op)?;
        let to = dtype(value).ok_or_else(|| fail(op, format!("its result {} cannot be a value", value.r#type())))?;
        match self.operand(op, 0)?.clone() {
            Bound::Activation(input, view) if self.program.value(input).dtype != to => {
                self.emit(op, Cast { to }, &[input], view)?;
            }
            Bound::Integers(values, shape) => {
                let bound = match to {
                    DType::Bool => {
                        Bound::Integers(values.into_iter().map(|value| i64::from(value != 0)).collect(), shape)
                    }
                    DType::F32 => {
                        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
                        let weight = Weight::new(shape, values);
                        let weight = weight.ok_or_else(|| fail(op, "its constant has a wrong size".into()))?;
                        Bound::Constant(String::new(), weight)
                    }
                    DType::I32 | DType::I64 => Bound::Integers(values, shape),
                };
                self.bind(value, bound);
            }
            Bound::Constant(..) if to != DType::F32 => {
                return Err(fail(op, "a float constant must be folded before it is cast".into()));
            }
            Bound::Activation(..) | Bound::Words(..) | Bound::Constant(..) => self.alias(op)?,
        }
        Ok(())
    }

    pub(super) fn reduce(
        &mut self,
        op: &OperationRef<'c, '_>,
        reduction: tosa::Reduction,
        axis: i32,
    ) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let kind = match reduction {
            tosa::Reduction::Sum => Reduction::Sum,
            tosa::Reduction::Max => Reduction::Max,
            tosa::Reduction::Min => Reduction::Min,
            tosa::Reduction::Product => Reduction::Product,
        };
        let axis = self.axis(op, view, axis.into())?;
        self.emit(op, Reduce { kind, axis }, &[input], view)?;
        Ok(())
    }

    pub(super) fn argmax(&mut self, op: &OperationRef<'c, '_>, axis: i32) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let axis = self.axis(op, view, axis.into())?;
        let to = dtype(result(op)?).unwrap_or(DType::I32);
        self.emit(op, ArgMax { axis, to }, &[input], view)?;
        Ok(())
    }
}
