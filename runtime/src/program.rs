//! The program: what the executor runs. A plain, MLIR-free form of `@main`, read once from a module of any level
//! (module `load`), in execution order, with constants bound to weights.
//!
//! Values are f32 unless their [`DType`] says otherwise; the words of a denoiser at the dtile level stay inside its node. Spatial
//! tensors are NHWC, as in the IR; the batch is axis 0 of every non-constant value that depends on an input, and is written as
//! `None` in shapes. A program that works on its inputs as a whole has no such axis: what the executor takes for a sample is then
//! everything.

use crate::{digital::program::TileProgram, store::Weight};
pub use mxc_dialects::analog::Calibration;
use mxc_dialects::{
    denoise::Kind,
    noise::{LayerNoise, Scale, Site},
};
use std::sync::Arc;

/// The index of a value in [`Program::values`].
pub type ValueId = usize;
/// The index of an analog layer in [`Program::layers`].
pub type LayerId = usize;

/// A network, ready to be planned.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Every value; nodes refer to them by index.
    pub values: Vec<Value>,
    /// The operations in execution order: a node's inputs are defined before it.
    pub nodes: Vec<Node>,
    /// The inputs, in the source model's layout, with its names in [`Value::name`].
    pub inputs: Vec<ValueId>,
    /// The outputs.
    pub outputs: Vec<ValueId>,
    /// The value that the loss is taken of: the output that the module names, else the first, before a final Softmax if it ends
    /// in one.
    pub logits: ValueId,
    /// The analog layers in execution order.
    pub layers: Vec<Layer>,
}

impl Program {
    /// Whether any layer is cleaned.
    pub fn has_denoisers(&self) -> bool {
        self.nodes.iter().any(|node| node.op.cleans().is_some())
    }

    /// Whether any denoiser draws: has a σ̂ path.
    pub fn has_sigma(&self) -> bool {
        self.nodes.iter().any(|node| match node.op {
            Op::Denoise { kind, .. } => kind.expression().drawn().next().is_some(),
            _ => false,
        })
    }

    /// The parameters of all denoisers: trainable weights, and weights of the digital tile's programs.
    pub fn denoiser_parameters(&self) -> u64 {
        let trainable = self.values.iter().filter(|value| value.trainable).filter_map(|value| value.constant.as_ref());
        let tile = self
            .nodes
            .iter()
            .map(|node| if let Op::DenoiseTile { program, .. } = &node.op { program.parameters } else { 0 });
        trainable.map(|weight| weight.values().len()).chain(tile).sum::<usize>() as u64
    }
}

/// The type of a value's elements. The executor keeps every value in 32-bit words, typed as f32: an integer of 32 bits or fewer
/// is one word, of 64 bits two, bit by bit, so that no integer is ever rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DType {
    #[default]
    F32,
    I32,
    I64,
    /// One word, 0 or 1.
    Bool,
}

impl DType {
    /// The number of words of one element.
    pub fn words(self) -> usize {
        if self == Self::I64 { 2 } else { 1 }
    }

    /// Integers as the executor keeps them; wider ones lose their upper bits. For [`DType::F32`], the numbers themselves.
    pub fn encode(self, values: &[i64]) -> Vec<f32> {
        let word = |value: i32| f32::from_bits(value.cast_unsigned());
        match self {
            Self::F32 => values.iter().map(|&value| value as f32).collect(),
            Self::I32 => values.iter().map(|&value| word(value as i32)).collect(),
            Self::Bool => values.iter().map(|&value| word(i32::from(value != 0))).collect(),
            Self::I64 => values.iter().flat_map(|&value| [word(value as i32), word((value >> 32) as i32)]).collect(),
        }
    }

    /// The integers that words hold. For [`DType::F32`], the numbers rounded to zero.
    pub fn decode(self, words: &[f32]) -> Vec<i64> {
        let low = |word: f32| i64::from(word.to_bits());
        match self {
            Self::F32 => words.iter().map(|&value| value as i64).collect(),
            Self::I32 | Self::Bool => words.iter().map(|word| i64::from(word.to_bits().cast_signed())).collect(),
            Self::I64 => words.chunks_exact(2).map(|pair| low(pair[0]) | low(pair[1]) << 32).collect(),
        }
    }
}

/// One value.
#[derive(Clone, Debug, Default)]
pub struct Value {
    /// The source model's name for an input or output, the global's name for a weight, else empty.
    pub name: String,
    /// The dimensions; `None` is the batch.
    pub shape: Vec<Option<usize>>,
    /// The type of its elements.
    pub dtype: DType,
    /// The values of a constant; those that are not f32 as words in one axis.
    pub constant: Option<Weight>,
    /// Whether fine-tuning updates this constant (denoiser weights).
    pub trainable: bool,
}

/// One operation with one result.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// Its operands.
    pub inputs: Vec<ValueId>,
    /// Its result.
    pub output: ValueId,
}

/// An analog layer: a node that runs on analog tiles.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its unique, stable name.
    pub name: String,
    /// The number of output channels.
    pub channels: usize,
    /// Its noise.
    pub noise: LayerNoise,
    /// What calibration measured on the clean model, if it has run.
    pub calibration: Option<Calibration>,
}

impl Layer {
    /// The calibrated magnitude s at a site, in the units of the values there; `None` where nothing is measured. Of the input
    /// that is only the DAC's full scale, whatever the reference.
    pub fn magnitude(&self, site: Site) -> Option<f64> {
        let calibration = self.calibration?;
        match site {
            Site::Input => Some(calibration.input_absmax),
            Site::Weight | Site::PartialSum => None,
            Site::Output => Some(calibration.reference(self.noise.reference)),
        }
    }

    /// The tile's input and output limits, if it saturates.
    pub(crate) fn limits(&self) -> Option<[f32; 2]> {
        let calibration = self.calibration.filter(|_| self.noise.scale == Scale::Range)?;
        Some([calibration.input_absmax as f32, calibration.absmax as f32])
    }
}

/// What a node computes. TOSA names and semantics unless said otherwise.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// input NHWC, weight OHWI (I = C / groups), bias O → NHWC; floor semantics. A depthwise convolution has
    /// groups = C, its weight laid out `[C·M, KH, KW, 1]`. Only a digital one may have a weight that is no constant.
    Conv2d {
        /// Vertical, horizontal.
        stride: [usize; 2],
        /// Top, bottom, left, right.
        pad: [usize; 4],
        /// Vertical, horizontal.
        dilation: [usize; 2],
        /// The number of groups.
        groups: usize,
        /// The analog layer, if it runs on analog tiles.
        layer: Option<LayerId>,
    },
    /// input `[..., I]`, weight `[O, I]`, bias `[O]` → `[..., O]`.
    FullyConnected {
        /// The analog layer, if it runs on analog tiles.
        layer: Option<LayerId>,
    },
    /// `[…, H, C] × […, C, W] → […, H, W]`, of rank 3 or more and equal leading axes.
    MatMul,
    /// A denoiser: input, then the parameters of the kind's expression, in order.
    Denoise {
        /// The layer it cleans.
        layer: LayerId,
        /// What it computes.
        kind: &'static Kind,
    },
    /// A layer's denoisers in integers, as a program of the digital tile: quantises, runs the program, dequantises.
    DenoiseTile {
        /// The layer it cleans.
        layer: LayerId,
        /// What the tile runs on every sample.
        program: Arc<TileProgram>,
    },
    /// Elementwise with one operand.
    Unary(Unary),
    /// Elementwise with two operands of equal rank; size-1 axes broadcast.
    Binary(Binary),
    /// Over the given window; padding does not count towards the average.
    AvgPool {
        /// Vertical, horizontal.
        kernel: [usize; 2],
        /// Vertical, horizontal.
        stride: [usize; 2],
        /// Top, bottom, left, right.
        pad: [usize; 4],
    },
    /// The window's maximum.
    MaxPool {
        /// Vertical, horizontal.
        kernel: [usize; 2],
        /// Vertical, horizontal.
        stride: [usize; 2],
        /// Top, bottom, left, right.
        pad: [usize; 4],
    },
    /// Reduces one axis to size 1.
    Reduce {
        /// What is reduced.
        kind: Reduce,
        /// The axis.
        axis: usize,
    },
    /// Same elements, the result's shape.
    Reshape,
    /// Permutes the axes: result axis `i` is operand axis `perms[i]`.
    Transpose {
        /// The permutation.
        perms: Vec<usize>,
    },
    /// Joins the operands along an axis.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// A sub-tensor: `start` per axis; the size is the result's shape.
    Slice {
        /// The first index per axis.
        start: Vec<usize>,
    },
    /// Adds a constant border.
    Pad {
        /// Before and after, per axis.
        pad: Vec<[usize; 2]>,
        /// The border's value.
        value: f32,
    },
    /// Repeats the operand along its axes.
    Tile {
        /// How often, per axis.
        repeats: Vec<usize>,
    },
    /// operand, indices of one axis: the operand's slices of those indices along an axis. An index out of range counts as the
    /// nearest one within.
    Take {
        /// The axis.
        axis: usize,
    },
    /// data, indices of equal rank: along an axis the data's elements at the indices; the other axes broadcast. A negative index
    /// counts from the end; what is out of range counts as the nearest within.
    Pick {
        /// The axis.
        axis: usize,
    },
    /// data, indices, updates of equal rank → the data with the updates put in: each goes to its own place but along an axis,
    /// where the index says. Axes of the indices of size 1 repeat. Indices as in [`Op::Pick`].
    Scatter {
        /// The axis.
        axis: usize,
        /// How an update meets what is there.
        reduction: Scattering,
    },
    /// The indices of the first of the elements along an axis, sorted; of equal ones the lower index first, NaN as the greatest.
    TopK {
        /// The axis.
        axis: usize,
        /// How many.
        count: usize,
        /// From the greatest down, or from the least up.
        largest: bool,
    },
    /// Running sums along an axis.
    CumSum {
        /// The axis.
        axis: usize,
        /// Without the element itself.
        exclusive: bool,
        /// From the end.
        reverse: bool,
    },
    /// data `[N, C, D…]`, points `[N, P…, d]` in ±1, the last spatial axis first → `[N, C, P…]`: the data interpolated at the
    /// points, as ONNX's GridSample.
    GridSample(Sampling),
    /// The first index of the greatest element along an axis, which the result lacks; a NaN is the greatest.
    ArgMax {
        /// The axis.
        axis: usize,
    },
    /// Converts to the result's type: from f32 to integers to the nearest, ties to even, and within the type's range; to bool
    /// whether it is not 0.
    Cast,
    /// condition, a, b of equal rank, size-1 axes broadcasting: a where the condition holds, else b.
    Select,
}

impl Op {
    /// The layer that it cleans, if it is a denoiser.
    pub fn cleans(&self) -> Option<LayerId> {
        match self {
            Self::Denoise { layer, .. } | Self::DenoiseTile { layer, .. } => Some(*layer),
            Self::Conv2d { .. }
            | Self::FullyConnected { .. }
            | Self::MatMul
            | Self::Unary(_)
            | Self::Binary(_)
            | Self::AvgPool { .. }
            | Self::MaxPool { .. }
            | Self::Reduce { .. }
            | Self::Reshape
            | Self::Transpose { .. }
            | Self::Concat { .. }
            | Self::Slice { .. }
            | Self::Pad { .. }
            | Self::Tile { .. }
            | Self::Take { .. }
            | Self::Pick { .. }
            | Self::Scatter { .. }
            | Self::TopK { .. }
            | Self::CumSum { .. }
            | Self::GridSample(_)
            | Self::ArgMax { .. }
            | Self::Cast
            | Self::Select => None,
        }
    }
}

/// Elementwise functions of one operand.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Unary {
    Clamp {
        min: f32,
        max: f32,
    },
    Sigmoid,
    Tanh,
    Erf,
    Exp,
    Log,
    Reciprocal,
    Rsqrt,
    Sqrt,
    /// −1, 0 or 1, or NaN.
    Sign,
    Abs,
    Negate,
    Floor,
    Ceil,
    /// To the nearest, ties to even. Its gradient passes straight through.
    Round,
    /// `clamp(round(x / scale) + zero, low, high)`: a quantiser's whole numbers, as floats. Its gradient passes straight through
    /// within the range: 1/scale.
    Quantize {
        scale: f32,
        zero: f32,
        low: f32,
        high: f32,
    },
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Asinh,
    Acosh,
    Atanh,
    /// Of booleans.
    Not,
    Identity,
}

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
    /// Whether f32 operands have a kernel and a gradient of their own.
    pub(crate) fn is_arithmetic(self) -> bool {
        match self {
            Self::Add | Self::Sub | Self::Mul | Self::Div | Self::Max | Self::Min | Self::Pow => true,
            Self::IntDiv
            | Self::Mod
            | Self::Rem
            | Self::Equal
            | Self::Greater
            | Self::GreaterEqual
            | Self::And
            | Self::Or
            | Self::Xor => false,
        }
    }
}

/// How [`Op::Scatter`] puts an update in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Scattering {
    /// The last one stays.
    Replace,
    Add,
    Mul,
    Max,
    Min,
}

/// What [`Op::GridSample`] does between and beyond the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Between samples.
    pub interpolation: Interpolation,
    /// Beyond the border.
    pub padding: Padding,
    /// Whether ±1 are the centres of the outermost samples, or their edges.
    pub align_corners: bool,
}

/// Between samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Interpolation {
    /// Ties to even.
    Nearest,
    Linear,
    /// With a = −3/4.
    Cubic,
}

/// Beyond the border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// Reductions over one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reduce {
    Sum,
    Max,
    Min,
    Product,
}
