//! Operators as messages: words for enumerations, places and sizes of 64 bits.

use super::{message as proto, node::Operator};
use crate::program::{
    ArgMax, Binary, Broadcast, Cast, Concat, Conv2d, CumSum, DType, Denoise, FullyConnected, GridSample, Interpolation,
    MatMul, Op, Pad, Padding, Pick, Pool, Pooling, ProgramError, Reduce, Reduction, Reshape, Sampling, Scatter,
    Scattering, Select, Slice, Take, Tile, TopK, Transpose, Unary, Window, wrong,
};
use mxc_spec::denoise::Kind;

/// An enumeration as words.
pub(super) trait Word: Sized {
    /// Its word.
    fn word(self) -> &'static str;
    /// The value of a word.
    fn of(word: &str) -> Result<Self, String>;
}

/// The words of an enumeration; `what` is what errors call it.
macro_rules! words {
    ($name:ident, $what:literal: $($variant:ident = $word:literal),+ $(,)?) => {
        impl Word for $name {
            fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            fn of(word: &str) -> Result<Self, String> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("`{word}` is no {}", $what)),
                }
            }
        }
    };
}

words!(DType, "type of elements": F32 = "f32", I32 = "i32", I64 = "i64", Bool = "bool");
words!(Pooling, "pooling": Average = "average", Maximum = "maximum");
words!(Reduction, "reduction": Sum = "sum", Max = "max", Min = "min", Product = "product");
words!(Scattering, "way to scatter": Replace = "replace", Add = "add", Mul = "mul", Max = "max", Min = "min");
words!(Interpolation, "interpolation": Nearest = "nearest", Linear = "linear", Cubic = "cubic");
words!(Padding, "padding": Zeros = "zeros", Border = "border", Reflection = "reflection");
words!(Binary, "function of two operands":
    Add = "add",
    Sub = "sub",
    Mul = "mul",
    Max = "max",
    Min = "min",
    Pow = "pow",
    IntDiv = "int_div",
    Div = "div",
    Mod = "mod",
    Rem = "rem",
    Equal = "equal",
    Greater = "greater",
    GreaterEqual = "greater_equal",
    And = "and",
    Or = "or",
    Xor = "xor",
);

/// The functions of one operand: those with arguments, then the others.
macro_rules! functions {
    ($($variant:ident = $word:literal),+ $(,)?) => {
        fn from_unary(function: Unary) -> proto::Unary {
            let (word, arguments) = match function {
                Unary::Clamp { min, max } => ("clamp", vec![min, max]),
                Unary::Quantize { scale, zero, low, high } => ("quantize", vec![scale, zero, low, high]),
                $(Unary::$variant => ($word, Vec::new()),)+
            };
            proto::Unary { function: word.to_owned(), arguments }
        }

        fn to_unary(unary: &proto::Unary) -> Result<Unary, String> {
            match (unary.function.as_str(), unary.arguments.as_slice()) {
                // Not of a NaN, either.
                ("clamp", &[min, max]) if min <= max => Ok(Unary::Clamp { min, max }),
                ("quantize", &[scale, zero, low, high]) if low <= high => {
                    Ok(Unary::Quantize { scale, zero, low, high })
                }
                $(($word, []) => Ok(Unary::$variant),)+
                (function, arguments) => {
                    Err(format!("`{function}` with the arguments {arguments:?} is no function of one operand"))
                }
            }
        }
    };
}

functions!(
    Sigmoid = "sigmoid",
    Tanh = "tanh",
    Erf = "erf",
    Exp = "exp",
    Log = "log",
    Reciprocal = "reciprocal",
    Rsqrt = "rsqrt",
    Sqrt = "sqrt",
    Sign = "sign",
    Abs = "abs",
    Negate = "negate",
    Floor = "floor",
    Ceil = "ceil",
    Round = "round",
    Sin = "sin",
    Cos = "cos",
    Tan = "tan",
    Asin = "asin",
    Acos = "acos",
    Atan = "atan",
    Sinh = "sinh",
    Cosh = "cosh",
    Asinh = "asinh",
    Acosh = "acosh",
    Atanh = "atanh",
    Not = "not",
    Identity = "identity",
);

/// A place or size; one above what MLIR could say is refused, so that two of them can be added.
pub(super) fn size(value: u64) -> Result<usize, String> {
    let size = i64::try_from(value).ok().and_then(|value| usize::try_from(value).ok());
    size.ok_or_else(|| format!("{value} is too large"))
}

fn sizes(values: &[u64]) -> Result<Vec<usize>, String> {
    values.iter().map(|&value| size(value)).collect()
}

fn array<const N: usize>(values: &[u64]) -> Result<[usize; N], String> {
    sizes(values)?.try_into().map_err(|_| format!("{values:?} are not {N} numbers"))
}

fn wide(values: &[usize]) -> Vec<u64> {
    values.iter().map(|&value| value as u64).collect()
}

/// A shape as a message has it.
pub(super) fn from_shape(shape: &[Option<usize>]) -> Vec<i64> {
    shape.iter().map(|size| size.map_or(-1, |size| size as i64)).collect()
}

/// The shape that a message has.
pub(super) fn to_shape(shape: &[i64]) -> Result<Vec<Option<usize>>, String> {
    let size = |&size: &i64| match size {
        -1 => Ok(None),
        _ => usize::try_from(size).map(Some).map_err(|_| format!("{size} is no size")),
    };
    shape.iter().map(size).collect()
}

/// An operator as a message.
pub(super) fn from_op(op: &Op) -> Result<Operator, ProgramError> {
    Ok(match op {
        Op::Conv2d(Conv2d { window: Window { stride, pad, dilation }, groups, layer }) => {
            Operator::Conv2d(proto::Conv2d {
                stride: wide(stride),
                pad: wide(pad),
                dilation: wide(dilation),
                groups: *groups as u64,
                layer: layer.map(|layer| layer as u64),
            })
        }
        Op::FullyConnected(FullyConnected { layer }) => {
            Operator::FullyConnected(proto::FullyConnected { layer: layer.map(|layer| layer as u64) })
        }
        Op::MatMul(MatMul) => Operator::MatMul(proto::MatMul {}),
        Op::Denoise(Denoise { layer, kind }) => {
            Operator::Denoise(proto::Denoise { layer: *layer as u64, kind: kind.name.to_owned() })
        }
        Op::DenoiseTile(tile) => {
            let reason = format!(
                "@{} runs on the digital tile, but packages hold the denoise level; lower what they hold",
                tile.program.symbol
            );
            return wrong(op.name(), reason);
        }
        Op::Unary(function) => Operator::Unary(from_unary(*function)),
        Op::Binary(function) => Operator::Binary(proto::Binary { function: function.word().to_owned() }),
        Op::Cast(Cast { to }) => Operator::Cast(proto::Cast { to: to.word().to_owned() }),
        Op::Select(Select) => Operator::Select(proto::Select {}),
        Op::Pool(Pool { kind, kernel, stride, pad }) => Operator::Pool(proto::Pool {
            kind: kind.word().to_owned(),
            kernel: wide(kernel),
            stride: wide(stride),
            pad: wide(pad),
        }),
        Op::Reduce(Reduce { kind, axis }) => {
            Operator::Reduce(proto::Reduce { kind: kind.word().to_owned(), axis: *axis as u64 })
        }
        Op::ArgMax(ArgMax { axis, to }) => {
            Operator::ArgMax(proto::ArgMax { axis: *axis as u64, to: to.word().to_owned() })
        }
        Op::CumSum(CumSum { axis, exclusive, reverse }) => {
            Operator::CumSum(proto::CumSum { axis: *axis as u64, exclusive: *exclusive, reverse: *reverse })
        }
        Op::Reshape(Reshape { shape }) => Operator::Reshape(proto::Reshape { shape: from_shape(shape) }),
        Op::Broadcast(Broadcast { batched }) => Operator::Broadcast(proto::Broadcast { batched: *batched }),
        Op::Transpose(Transpose { perms }) => Operator::Transpose(proto::Transpose { perms: wide(perms) }),
        Op::Concat(Concat { axis }) => Operator::Concat(proto::Concat { axis: *axis as u64 }),
        Op::Slice(Slice { start, size }) => {
            Operator::Slice(proto::Slice { start: wide(start), size: from_shape(size) })
        }
        Op::Pad(Pad { pad, value }) => Operator::Pad(proto::Pad {
            before: pad.iter().map(|&[before, _]| before as u64).collect(),
            after: pad.iter().map(|&[_, after]| after as u64).collect(),
            value: *value,
        }),
        Op::Tile(Tile { repeats }) => Operator::Tile(proto::Tile { repeats: wide(repeats) }),
        Op::Take(Take { axis }) => Operator::Take(proto::Take { axis: *axis as u64 }),
        Op::Pick(Pick { axis }) => Operator::Pick(proto::Pick { axis: *axis as u64 }),
        Op::Scatter(Scatter { axis, reduction }) => {
            Operator::Scatter(proto::Scatter { axis: *axis as u64, reduction: reduction.word().to_owned() })
        }
        Op::TopK(TopK { axis, count, largest }) => {
            Operator::TopK(proto::TopK { axis: *axis as u64, count: *count as u64, largest: *largest })
        }
        Op::GridSample(GridSample(Sampling { interpolation, padding, align_corners })) => {
            Operator::GridSample(proto::GridSample {
                interpolation: interpolation.word().to_owned(),
                padding: padding.word().to_owned(),
                align_corners: *align_corners,
            })
        }
    })
}

/// The operator that a message says.
pub(super) fn to_op(operator: &Operator) -> Result<Op, String> {
    Ok(match operator {
        Operator::Conv2d(op) => {
            let window = Window { stride: array(&op.stride)?, pad: array(&op.pad)?, dilation: array(&op.dilation)? };
            Conv2d { window, groups: size(op.groups)?, layer: op.layer.map(size).transpose()? }.into()
        }
        Operator::FullyConnected(op) => FullyConnected { layer: op.layer.map(size).transpose()? }.into(),
        Operator::MatMul(proto::MatMul {}) => MatMul.into(),
        Operator::Denoise(op) => {
            let kind = Kind::named(&op.kind).ok_or_else(|| format!("there is no denoiser `{}`", op.kind))?;
            Denoise { layer: size(op.layer)?, kind }.into()
        }
        Operator::Unary(op) => to_unary(op)?.into(),
        Operator::Binary(op) => Binary::of(&op.function)?.into(),
        Operator::Cast(op) => Cast { to: DType::of(&op.to)? }.into(),
        Operator::Select(proto::Select {}) => Select.into(),
        Operator::Pool(op) => Pool {
            kind: Pooling::of(&op.kind)?,
            kernel: array(&op.kernel)?,
            stride: array(&op.stride)?,
            pad: array(&op.pad)?,
        }
        .into(),
        Operator::Reduce(op) => Reduce { kind: Reduction::of(&op.kind)?, axis: size(op.axis)? }.into(),
        Operator::ArgMax(op) => ArgMax { axis: size(op.axis)?, to: DType::of(&op.to)? }.into(),
        Operator::CumSum(op) => CumSum { axis: size(op.axis)?, exclusive: op.exclusive, reverse: op.reverse }.into(),
        Operator::Reshape(op) => Reshape { shape: to_shape(&op.shape)? }.into(),
        Operator::Broadcast(op) => Broadcast { batched: op.batched }.into(),
        Operator::Transpose(op) => Transpose { perms: sizes(&op.perms)? }.into(),
        Operator::Concat(op) => Concat { axis: size(op.axis)? }.into(),
        Operator::Slice(op) => Slice { start: sizes(&op.start)?, size: to_shape(&op.size)? }.into(),
        Operator::Pad(op) => {
            let (before, after) = (sizes(&op.before)?, sizes(&op.after)?);
            if before.len() != after.len() {
                return Err("its border has not as many axes in front as behind".to_owned());
            }
            let pad = before.into_iter().zip(after).map(|(before, after)| [before, after]).collect();
            Pad { pad, value: op.value }.into()
        }
        Operator::Tile(op) => Tile { repeats: sizes(&op.repeats)? }.into(),
        Operator::Take(op) => Take { axis: size(op.axis)? }.into(),
        Operator::Pick(op) => Pick { axis: size(op.axis)? }.into(),
        Operator::Scatter(op) => Scatter { axis: size(op.axis)?, reduction: Scattering::of(&op.reduction)? }.into(),
        Operator::TopK(op) => TopK { axis: size(op.axis)?, count: size(op.count)?, largest: op.largest }.into(),
        Operator::GridSample(op) => GridSample(Sampling {
            interpolation: Interpolation::of(&op.interpolation)?,
            padding: Padding::of(&op.padding)?,
            align_corners: op.align_corners,
        })
        .into(),
    })
}
