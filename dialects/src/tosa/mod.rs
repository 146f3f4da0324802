//! Typed views and builders of the TOSA operations that mxc reads or writes.
//!
//! Operations that differ by name only are one struct with a table of names ([`Unary`], [`Binary`], [`Reduction`]); every other has
//! a struct of its own, with its operands (zero points included), attributes and the result's type. [`Op`] is any of them. What TOSA
//! lacks is in [`custom`].

pub mod custom;

pub use crate::operations::Flag;
pub use custom::{Custom, CustomBinary, CustomOp, CustomUnary, Interpolation, Padding, Scattering};

use crate::{
    ir,
    operations::{AttributeValue, missing, named, names, operand, operations, result_type},
};
use melior::{
    Context,
    ir::{
        Attribute, Location, Operation, OperationRef, Type, Value,
        operation::{OperationBuilder, OperationLike},
    },
};

names! {
    /// Elementwise functions of one operand.
    pub enum Unary {
        Abs = "tosa.abs",
        Ceil = "tosa.ceil",
        Cos = "tosa.cos",
        Erf = "tosa.erf",
        Exp = "tosa.exp",
        Floor = "tosa.floor",
        Log = "tosa.log",
        LogicalNot = "tosa.logical_not",
        /// The only one with zero points.
        Negate = "tosa.negate",
        Reciprocal = "tosa.reciprocal",
        Rsqrt = "tosa.rsqrt",
        Sigmoid = "tosa.sigmoid",
        Sin = "tosa.sin",
        Tanh = "tosa.tanh",
    }

    /// Elementwise functions of two operands of equal rank, which broadcast.
    pub enum Binary {
        Add = "tosa.add",
        Sub = "tosa.sub",
        /// The only one with a shift.
        Mul = "tosa.mul",
        Maximum = "tosa.maximum",
        Minimum = "tosa.minimum",
        Pow = "tosa.pow",
        IntDiv = "tosa.intdiv",
        Equal = "tosa.equal",
        Greater = "tosa.greater",
        GreaterEqual = "tosa.greater_equal",
        LogicalAnd = "tosa.logical_and",
        LogicalOr = "tosa.logical_or",
        LogicalXor = "tosa.logical_xor",
    }

    /// Reductions of one axis to size 1.
    pub enum Reduction {
        Sum = "tosa.reduce_sum",
        Max = "tosa.reduce_max",
        Min = "tosa.reduce_min",
        Product = "tosa.reduce_product",
    }

    /// Constants.
    pub enum Constant {
        /// A tensor.
        Tensor = "tosa.const",
        /// A shape, start or list of amounts.
        Shape = "tosa.const_shape",
    }
}

impl Binary {
    /// Whether the result is of Booleans, whatever the operands are of.
    pub fn is_comparison(self) -> bool {
        match self {
            Self::Equal | Self::Greater | Self::GreaterEqual => true,
            Self::Add
            | Self::Sub
            | Self::Mul
            | Self::Maximum
            | Self::Minimum
            | Self::Pow
            | Self::IntDiv
            | Self::LogicalAnd
            | Self::LogicalOr
            | Self::LogicalXor => false,
        }
    }
}

/// What maxima, minima and clamps do with NaN, their attribute `nan_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NanMode {
    /// The result is NaN: TOSA's default, which is not written.
    #[default]
    Propagate,
    /// The other operand is the result.
    Ignore,
}

impl<'c> AttributeValue<'c> for NanMode {
    fn read(operation: &OperationRef<'c, '_>, name: &str) -> Option<Self> {
        let ignores = operation.attribute(name).is_ok_and(|mode| !mode.to_string().contains("PROPAGATE"));
        Some(if ignores { Self::Ignore } else { Self::Propagate })
    }
    fn write(&self, context: &'c Context) -> Option<Attribute<'c>> {
        match self {
            Self::Propagate => None,
            Self::Ignore => Attribute::parse(context, "#tosa.nan_mode<IGNORE>"),
        }
    }
}

/// An elementwise operation of one operand.
#[derive(Clone, Debug)]
pub struct UnaryOp<'c, 'a> {
    /// What it computes.
    pub function: Unary,
    /// The operand.
    pub input: Value<'c, 'a>,
    /// The operand's and the result's, of [`Unary::Negate`]; none of the others.
    pub zero_points: Vec<Value<'c, 'a>>,
    /// The result's type.
    pub result: Type<'c>,
}

impl<'c, 'a> UnaryOp<'c, 'a> {
    /// Reads an operation; `None` when it is none of [`Unary`].
    pub fn parse(operation: OperationRef<'c, 'a>) -> Result<Option<Self>, String> {
        let Some(function) = Unary::of(&ir::op_name(&operation)) else {
            return Ok(None);
        };
        let most = if function == Unary::Negate { 3 } else { 1 };
        Ok(Some(Self {
            function,
            input: operand(&operation, 0, "input")?,
            zero_points: operation.operands().skip(1).collect(),
            result: result_type(&operation, operation.operand_count() > most)?,
        }))
    }

    /// The operation's name.
    pub fn mnemonic(&self) -> &'static str {
        self.function.name()
    }

    /// Makes the operation.
    ///
    /// # Errors
    ///
    /// When MLIR does not build it.
    pub fn build(&self, _context: &'c Context, location: Location<'c>) -> Result<Operation<'c>, melior::Error> {
        OperationBuilder::new(self.function.name(), location)
            .add_operands(&[self.input])
            .add_operands(&self.zero_points)
            .add_results(&[self.result])
            .build()
    }
}

/// An elementwise operation of two operands.
#[derive(Clone, Debug)]
pub struct BinaryOp<'c, 'a> {
    /// What it computes.
    pub function: Binary,
    /// The operands.
    pub inputs: [Value<'c, 'a>; 2],
    /// The shift to the right of integer products, of [`Binary::Mul`]; none of the others.
    pub shift: Option<Value<'c, 'a>>,
    /// Of [`Binary::Maximum`] and [`Binary::Minimum`].
    pub nan_mode: NanMode,
    /// The result's type.
    pub result: Type<'c>,
}

impl<'c, 'a> BinaryOp<'c, 'a> {
    /// Reads an operation; `None` when it is none of [`Binary`].
    pub fn parse(operation: OperationRef<'c, 'a>) -> Result<Option<Self>, String> {
        let Some(function) = Binary::of(&ir::op_name(&operation)) else {
            return Ok(None);
        };
        let most = if function == Binary::Mul { 3 } else { 2 };
        Ok(Some(Self {
            function,
            inputs: [operand(&operation, 0, "input1")?, operand(&operation, 1, "input2")?],
            shift: operation.operands().nth(2),
            nan_mode: NanMode::read(&operation, "nan_mode").unwrap_or_default(),
            result: result_type(&operation, operation.operand_count() > most)?,
        }))
    }

    /// The operation's name.
    pub fn mnemonic(&self) -> &'static str {
        self.function.name()
    }

    /// Makes the operation.
    ///
    /// # Errors
    ///
    /// When MLIR does not build it.
    pub fn build(&self, context: &'c Context, location: Location<'c>) -> Result<Operation<'c>, melior::Error> {
        OperationBuilder::new(self.function.name(), location)
            .add_operands(&self.inputs)
            .add_operands(self.shift.as_slice())
            .add_attributes(&named(context, [("nan_mode", self.nan_mode.write(context))]))
            .add_results(&[self.result])
            .build()
    }
}

/// A reduction.
#[derive(Clone, Debug)]
pub struct ReduceOp<'c, 'a> {
    /// What it computes.
    pub reduction: Reduction,
    /// The operand.
    pub input: Value<'c, 'a>,
    /// The axis.
    pub axis: i32,
    /// Of [`Reduction::Max`] and [`Reduction::Min`].
    pub nan_mode: NanMode,
    /// The result's type.
    pub result: Type<'c>,
}

impl<'c, 'a> ReduceOp<'c, 'a> {
    /// Reads an operation; `None` when it is none of [`Reduction`].
    pub fn parse(operation: OperationRef<'c, 'a>) -> Result<Option<Self>, String> {
        let Some(reduction) = Reduction::of(&ir::op_name(&operation)) else {
            return Ok(None);
        };
        Ok(Some(Self {
            reduction,
            input: operand(&operation, 0, "input")?,
            axis: i32::read(&operation, "axis").ok_or_else(|| missing(&operation, "attribute", "axis"))?,
            nan_mode: NanMode::read(&operation, "nan_mode").unwrap_or_default(),
            result: result_type(&operation, operation.operand_count() > 1)?,
        }))
    }

    /// The operation's name.
    pub fn mnemonic(&self) -> &'static str {
        self.reduction.name()
    }

    /// Makes the operation.
    ///
    /// # Errors
    ///
    /// When MLIR does not build it.
    pub fn build(&self, context: &'c Context, location: Location<'c>) -> Result<Operation<'c>, melior::Error> {
        let attributes = [("axis", self.axis.write(context)), ("nan_mode", self.nan_mode.write(context))];
        OperationBuilder::new(self.reduction.name(), location)
            .add_operands(&[self.input])
            .add_attributes(&named(context, attributes))
            .add_results(&[self.result])
            .build()
    }
}

/// A constant whose values are in the IR.
#[derive(Clone, Debug)]
pub struct ConstantOp<'c> {
    /// A tensor's or a shape's.
    pub constant: Constant,
    /// The values.
    pub values: Attribute<'c>,
    /// The result's type.
    pub result: Type<'c>,
}

impl<'c> ConstantOp<'c> {
    /// Reads an operation; `None` when it is none of [`Constant`].
    pub fn parse(operation: OperationRef<'c, '_>) -> Result<Option<Self>, String> {
        let Some(constant) = Constant::of(&ir::op_name(&operation)) else {
            return Ok(None);
        };
        Ok(Some(Self {
            constant,
            values: operation.attribute("values").map_err(|_| missing(&operation, "attribute", "values"))?,
            result: result_type(&operation, operation.operand_count() > 0)?,
        }))
    }

    /// The operation's name.
    pub fn mnemonic(&self) -> &'static str {
        self.constant.name()
    }

    /// Makes the operation.
    ///
    /// # Errors
    ///
    /// When MLIR does not build it.
    pub fn build(&self, context: &'c Context, location: Location<'c>) -> Result<Operation<'c>, melior::Error> {
        OperationBuilder::new(self.constant.name(), location)
            .add_attributes(&named(context, [("values", Some(self.values))]))
            .add_results(&[self.result])
            .build()
    }
}

operations! {
    /// Any of these operations.
    pub enum Op {
        /// An elementwise operation of one operand.
        Unary(UnaryOp<'c, 'a>),
        /// An elementwise operation of two operands.
        Binary(BinaryOp<'c, 'a>),
        /// A reduction.
        Reduce(ReduceOp<'c, 'a>),
        /// A constant.
        Constant(ConstantOp<'c>),
        /// An operator that TOSA lacks.
        Custom(CustomOp<'c, 'a>),
    }

    /// A convolution: input NHWC, weight OHWI, bias O.
    Conv2d = "tosa.conv2d" {
        (input, weight, bias, input_zp, weight_zp) => result
        /// Top, bottom, left, right.
        pad: [usize; 4],
        /// Vertical, horizontal.
        stride: [usize; 2],
        /// Vertical, horizontal.
        dilation: [usize; 2],
        /// The type that is summed in.
        acc_type: Type<'c>,
        /// Whether values outside the window may be left out of its bounds.
        local_bound: Flag,
    }
    /// A convolution of each channel by itself: input NHWC, weight HWCM, bias C·M.
    DepthwiseConv2d = "tosa.depthwise_conv2d" {
        (input, weight, bias, input_zp, weight_zp) => result
        /// Top, bottom, left, right.
        pad: [usize; 4],
        /// Vertical, horizontal.
        stride: [usize; 2],
        /// Vertical, horizontal.
        dilation: [usize; 2],
        /// The type that is summed in.
        acc_type: Type<'c>,
        /// Whether values outside the window may be left out of its bounds.
        local_bound: Flag,
    }
    /// Matrix products of a batch: `[N, R, I]` by `[N, I, C]`.
    MatMul = "tosa.matmul" {
        (a, b, a_zp, b_zp) => result
    }
    /// Means over windows of NHWC, without the padding.
    AvgPool2d = "tosa.avg_pool2d" {
        (input, input_zp, output_zp) => result
        /// Vertical, horizontal.
        kernel: [usize; 2],
        /// Vertical, horizontal.
        stride: [usize; 2],
        /// Top, bottom, left, right.
        pad: [usize; 4],
        /// The type that is summed in.
        acc_type: Type<'c>,
    }
    /// Maxima over windows of NHWC.
    MaxPool2d = "tosa.max_pool2d" {
        (input) => result
        /// Vertical, horizontal.
        kernel: [usize; 2],
        /// Vertical, horizontal.
        stride: [usize; 2],
        /// Top, bottom, left, right.
        pad: [usize; 4],
        /// What becomes of NaN.
        nan_mode: NanMode,
    }
    /// `min(max(x, min_val), max_val)` of floats.
    Clamp = "tosa.clamp" {
        (input) => result
        /// The least value.
        min_val: f32,
        /// The greatest.
        max_val: f32,
        /// What becomes of NaN.
        nan_mode: NanMode,
    }
    /// The second operand where the condition holds, else the third.
    Select = "tosa.select" {
        (condition, on_true, on_false) => result
    }
    /// The first index of the greatest element along an axis, which the result lacks.
    ArgMax = "tosa.argmax" {
        (input) => result
        /// The axis.
        axis: i32,
        /// What becomes of NaN.
        nan_mode: NanMode,
    }
    /// Operands joined along an axis.
    Concat = "tosa.concat" {
        (; inputs) => result
        /// The axis.
        axis: i32,
    }
    /// A border of one value: the amounts are before and after, an axis.
    Pad = "tosa.pad" {
        (input, padding, pad_const) => result
    }
    /// The same elements under another shape.
    Reshape = "tosa.reshape" {
        (input, shape) => result
    }
    /// A part of the operand.
    Slice = "tosa.slice" {
        (input, start, size) => result
    }
    /// The operand repeated along its axes.
    Tile = "tosa.tile" {
        (input, multiples) => result
    }
    /// Axes in another order.
    Transpose = "tosa.transpose" {
        (input) => result
        /// Result axis `i` is operand axis `perms[i]`.
        perms: Vec<i32>,
    }
    /// To another type of elements; from floats to the nearest integer, ties to even.
    Cast = "tosa.cast" {
        (input) => result
    }
    /// The operand.
    Identity = "tosa.identity" {
        (input) => result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use melior::ir::BlockLike;

    /// One of every form.
    const SOURCE: &str = r#"
func.func @main(%x: tensor<1x4x4x2xf32>, %m: tensor<1x2x2xf32>, %i: tensor<2xi1>) {
  %z = "tosa.const"() {values = dense<0.0> : tensor<1xf32>} : () -> tensor<1xf32>
  %h = "tosa.const"() {values = dense<0> : tensor<1xi8>} : () -> tensor<1xi8>
  %w = "tosa.const"() {values = dense<1.0> : tensor<2x1x1x2xf32>} : () -> tensor<2x1x1x2xf32>
  %d = "tosa.const"() {values = dense<1.0> : tensor<1x1x2x1xf32>} : () -> tensor<1x1x2x1xf32>
  %b = "tosa.const"() {values = dense<1.0> : tensor<2xf32>} : () -> tensor<2xf32>
  %s = tosa.const_shape {values = dense<[1, 16, 2, 1]> : tensor<4xindex>} : () -> !tosa.shape<4>
  %o = tosa.const_shape {values = dense<1> : tensor<4xindex>} : () -> !tosa.shape<4>
  %p = tosa.const_shape {values = dense<[0, 0, 1, 1, 1, 1, 0, 0]> : tensor<8xindex>} : () -> !tosa.shape<8>
  %0 = tosa.conv2d %x, %w, %b, %z, %z {acc_type = f32, dilation = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 1, 1>, local_bound = true} : (tensor<1x4x4x2xf32>, tensor<2x1x1x2xf32>, tensor<2xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<1x4x4x2xf32>
  %1 = tosa.depthwise_conv2d %x, %d, %b, %z, %z {acc_type = f32, dilation = array<i64: 1, 1>, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 1, 1>} : (tensor<1x4x4x2xf32>, tensor<1x1x2x1xf32>, tensor<2xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<1x4x4x2xf32>
  %2 = tosa.matmul %m, %m, %z, %z : (tensor<1x2x2xf32>, tensor<1x2x2xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<1x2x2xf32>
  %3 = tosa.avg_pool2d %x, %z, %z {acc_type = f32, kernel = array<i64: 2, 2>, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 2, 2>} : (tensor<1x4x4x2xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<1x2x2x2xf32>
  %4 = tosa.max_pool2d %x {kernel = array<i64: 2, 2>, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 2, 2>, nan_mode = IGNORE} : (tensor<1x4x4x2xf32>) -> tensor<1x2x2x2xf32>
  %5 = tosa.clamp %x {min_val = 0.5 : f32, max_val = 0x7F800000 : f32} : (tensor<1x4x4x2xf32>) -> tensor<1x4x4x2xf32>
  %6 = tosa.greater %x, %1 : (tensor<1x4x4x2xf32>, tensor<1x4x4x2xf32>) -> tensor<1x4x4x2xi1>
  %7 = tosa.select %6, %x, %1 : (tensor<1x4x4x2xi1>, tensor<1x4x4x2xf32>, tensor<1x4x4x2xf32>) -> tensor<1x4x4x2xf32>
  %8 = tosa.argmax %x {axis = 3 : i32} : (tensor<1x4x4x2xf32>) -> tensor<1x4x4xi64>
  %9 = tosa.concat %x, %1 {axis = 0 : i32} : (tensor<1x4x4x2xf32>, tensor<1x4x4x2xf32>) -> tensor<2x4x4x2xf32>
  %10 = tosa.pad %x, %p, %z : (tensor<1x4x4x2xf32>, !tosa.shape<8>, tensor<1xf32>) -> tensor<1x6x6x2xf32>
  %11 = tosa.reshape %x, %s : (tensor<1x4x4x2xf32>, !tosa.shape<4>) -> tensor<1x16x2x1xf32>
  %12 = tosa.slice %x, %o, %o : (tensor<1x4x4x2xf32>, !tosa.shape<4>, !tosa.shape<4>) -> tensor<1x1x1x1xf32>
  %13 = tosa.tile %x, %o : (tensor<1x4x4x2xf32>, !tosa.shape<4>) -> tensor<1x4x4x2xf32>
  %14 = tosa.transpose %x {perms = array<i32: 0, 2, 1, 3>} : (tensor<1x4x4x2xf32>) -> tensor<1x4x4x2xf32>
  %15 = tosa.cast %x : (tensor<1x4x4x2xf32>) -> tensor<1x4x4x2xi32>
  %16 = tosa.identity %x : (tensor<1x4x4x2xf32>) -> tensor<1x4x4x2xf32>
  %17 = tosa.negate %x, %z, %z : (tensor<1x4x4x2xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<1x4x4x2xf32>
  %18 = tosa.exp %x : (tensor<1x4x4x2xf32>) -> tensor<1x4x4x2xf32>
  %19 = tosa.mul %x, %1, %h : (tensor<1x4x4x2xf32>, tensor<1x4x4x2xf32>, tensor<1xi8>) -> tensor<1x4x4x2xf32>
  %20 = tosa.maximum %x, %1 {nan_mode = IGNORE} : (tensor<1x4x4x2xf32>, tensor<1x4x4x2xf32>) -> tensor<1x4x4x2xf32>
  %21 = tosa.reduce_sum %x {axis = 3 : i32} : (tensor<1x4x4x2xf32>) -> tensor<1x4x4x1xf32>
  %22 = tosa.reduce_max %x {axis = 3 : i32, nan_mode = IGNORE} : (tensor<1x4x4x2xf32>) -> tensor<1x4x4x1xf32>
  %23 = tosa.custom %x {domain_name = "mxc", implementation_attrs = "axis=1;count=2;largest=1", operator_name = "topk"} : (tensor<1x4x4x2xf32>) -> tensor<1x2x4x2xi64>
  return
}"#;

    #[test]
    fn what_is_read_is_built_again() {
        let context = crate::new_context();
        let module = ir::parse(&context, SOURCE.as_bytes(), "test").expect("valid");
        let main = ir::main_function(&module).and_then(ir::entry_block).expect("a function");
        let operations = ir::block_ops(main);
        for operation in operations.iter().filter(|operation| ir::op_name(operation) != "func.return") {
            let view = Op::parse(*operation).expect("it fits").expect("a known operation");
            assert_eq!(view.mnemonic(), ir::op_name(operation));
            let built = view.build(&context, operation.location()).expect("it is built");
            let built = main.insert_operation_before(*operation, built);
            // The same operation, up to the name of the result.
            let text =
                |operation: &dyn ToString| operation.to_string().split_once(" = ").map(|(_, text)| text.to_owned());
            assert_eq!(text(&built), text(operation));
        }
        assert!(module.as_operation().verify());
        let last = operations.last().expect("a return");
        assert!(Op::parse(*last).expect("no error").is_none());
    }

    #[test]
    fn the_tables_name_operations_of_the_dialect() {
        let context = crate::new_context();
        let names = Unary::ALL
            .iter()
            .map(|function| function.name())
            .chain(Binary::ALL.iter().map(|function| function.name()))
            .chain(Reduction::ALL.iter().map(|reduction| reduction.name()))
            .chain(Constant::ALL.iter().map(|constant| constant.name()));
        for name in names {
            assert!(context.is_registered_operation(name), "{name}");
        }
    }
}
