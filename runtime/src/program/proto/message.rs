//! The messages of `runtime/proto/program.proto`.

/// An executable network.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Program {
    /// The analog layers, in execution order.
    #[prost(message, repeated, tag = "1")]
    pub layers: Vec<Layer>,
    /// Every value, in the order that they are made in; others refer to them by their place.
    #[prost(message, repeated, tag = "2")]
    pub values: Vec<Value>,
    /// The outputs.
    #[prost(message, repeated, tag = "3")]
    pub outputs: Vec<Output>,
    /// The place among the outputs of the one whose loss is taken.
    #[prost(uint64, tag = "4")]
    pub chosen: u64,
    /// What the network is for.
    #[prost(string, tag = "5")]
    pub task: String,
}

/// An analog layer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Layer {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The number of output channels.
    #[prost(uint64, tag = "2")]
    pub channels: u64,
    /// The noise specification's text form.
    #[prost(string, tag = "3")]
    pub noise_spec: String,
    /// `range`, `constant` or `signal`.
    #[prost(string, tag = "4")]
    pub noise_scale: String,
    /// `rms`, `absmax`, `mean-abs` or `std`.
    #[prost(string, tag = "5")]
    pub noise_reference: String,
    /// What calibration measured, if it has run.
    #[prost(message, optional, tag = "6")]
    pub calibration: Option<Calibration>,
    /// How its tile's converters see the output, where the channels' ranges were equalized.
    #[prost(message, optional, tag = "7")]
    pub columns: Option<Columns>,
    /// How often its tile computes each product, of which the mean is taken; once if absent.
    #[prost(uint32, optional, tag = "8")]
    pub reads: Option<u32>,
    /// Whether it is computed on a digital unit instead.
    #[prost(bool, tag = "9")]
    pub digital: bool,
    /// The full scale of its input's converters, where it is not the calibrated largest value.
    #[prost(double, optional, tag = "10")]
    pub input_range: Option<f64>,
}

/// How converters see a layer's output.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Columns {
    /// By output channel, the power of two that it is scaled by, which is undone behind the converter.
    #[prost(uint32, repeated, tag = "1")]
    pub shift: Vec<u32>,
    /// What calibration measured of the scaled output.
    #[prost(message, optional, tag = "2")]
    pub calibration: Option<Calibration>,
}

/// What calibration measured on the clean model, in the units of the values.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Calibration {
    /// The number of samples.
    #[prost(uint64, tag = "1")]
    pub samples: u64,
    /// Output: the root of the mean square.
    #[prost(double, tag = "2")]
    pub rms: f64,
    /// Output: the largest magnitude.
    #[prost(double, tag = "3")]
    pub absmax: f64,
    /// Output: the mean magnitude.
    #[prost(double, tag = "4")]
    pub mean_abs: f64,
    /// Output: the standard deviation.
    #[prost(double, tag = "5")]
    pub std: f64,
    /// Input: the largest magnitude.
    #[prost(double, tag = "6")]
    pub input_absmax: f64,
}

/// An output.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Output {
    /// The place among the values.
    #[prost(uint64, tag = "1")]
    pub value: u64,
    /// The source model's name.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// A value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Value {
    /// Where it comes from.
    #[prost(oneof = "value::What", tags = "1, 2, 3")]
    pub what: Option<value::What>,
}

/// An input.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Input {
    /// The source model's name; empty for one that is an output under its own name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The type of its elements: `f32`, `i32`, `i64` or `bool`.
    #[prost(string, tag = "2")]
    pub kind: String,
    /// The dimensions; -1 is the batch.
    #[prost(sint64, repeated, tag = "3")]
    pub shape: Vec<i64>,
}

/// A constant.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Constant {
    /// The weight's name; empty for one without, or one that is an output.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The type of its elements: `f32`, `i32`, `i64` or `bool`.
    #[prost(string, tag = "2")]
    pub kind: String,
    /// The dimensions.
    #[prost(uint64, repeated, tag = "3")]
    pub shape: Vec<u64>,
    /// Whether fine-tuning updates it.
    #[prost(bool, tag = "4")]
    pub trainable: bool,
    /// Its values in row-major order.
    #[prost(oneof = "constant::Values", tags = "5, 6, 7")]
    pub values: Option<constant::Values>,
}

/// An operation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// The operands' places among the values; all come before it.
    #[prost(uint64, repeated, tag = "1")]
    pub inputs: Vec<u64>,
    /// What it computes.
    #[prost(
        oneof = "node::Operator",
        tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25"
    )]
    pub operator: Option<node::Operator>,
}

/// A convolution.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Conv2d {
    /// Vertical, horizontal.
    #[prost(uint64, repeated, tag = "1")]
    pub stride: Vec<u64>,
    /// Top, bottom, left, right.
    #[prost(uint64, repeated, tag = "2")]
    pub pad: Vec<u64>,
    /// Vertical, horizontal.
    #[prost(uint64, repeated, tag = "3")]
    pub dilation: Vec<u64>,
    /// The number of groups.
    #[prost(uint64, tag = "4")]
    pub groups: u64,
    /// The analog layer's place among the layers, if it runs on analog tiles.
    #[prost(uint64, optional, tag = "5")]
    pub layer: Option<u64>,
}

/// A product with a constant matrix.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FullyConnected {
    /// The analog layer's place among the layers, if it runs on analog tiles.
    #[prost(uint64, optional, tag = "1")]
    pub layer: Option<u64>,
}

/// A product of two activations.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MatMul {}

/// A layer's denoiser; its operands are the value and the weights.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Denoise {
    /// The place among the layers of the one that it cleans.
    #[prost(uint64, tag = "1")]
    pub layer: u64,
    /// The denoiser's kind.
    #[prost(string, tag = "2")]
    pub kind: String,
}

/// Elementwise with one operand.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Unary {
    /// The function.
    #[prost(string, tag = "1")]
    pub function: String,
    /// Of `clamp` the least and the greatest, of `quantize` scale, zero, least and greatest; else none.
    #[prost(float, repeated, tag = "2")]
    pub arguments: Vec<f32>,
}

/// Elementwise with two operands.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Binary {
    /// The function.
    #[prost(string, tag = "1")]
    pub function: String,
}

/// A conversion.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Cast {
    /// The type of the result's elements.
    #[prost(string, tag = "1")]
    pub to: String,
}

/// One of two values by a condition.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Select {}

/// A window's mean or maximum.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Pool {
    /// `average` or `maximum`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Height, width.
    #[prost(uint64, repeated, tag = "2")]
    pub kernel: Vec<u64>,
    /// Vertical, horizontal.
    #[prost(uint64, repeated, tag = "3")]
    pub stride: Vec<u64>,
    /// Top, bottom, left, right.
    #[prost(uint64, repeated, tag = "4")]
    pub pad: Vec<u64>,
}

/// One axis to size 1.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Reduce {
    /// `sum`, `max`, `min` or `product`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The axis.
    #[prost(uint64, tag = "2")]
    pub axis: u64,
}

/// The place of the greatest.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ArgMax {
    /// The axis.
    #[prost(uint64, tag = "1")]
    pub axis: u64,
    /// The type of the result's elements.
    #[prost(string, tag = "2")]
    pub to: String,
}

/// Running sums.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CumSum {
    /// The axis.
    #[prost(uint64, tag = "1")]
    pub axis: u64,
    /// Whether a sum leaves its own element out.
    #[prost(bool, tag = "2")]
    pub exclusive: bool,
    /// Whether it runs from the end.
    #[prost(bool, tag = "3")]
    pub reverse: bool,
}

/// The same elements in another shape.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Reshape {
    /// The dimensions; -1 is the batch.
    #[prost(sint64, repeated, tag = "1")]
    pub shape: Vec<i64>,
}

/// A constant for every sample.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Broadcast {
    /// Whether axis 0 becomes the batch.
    #[prost(bool, tag = "1")]
    pub batched: bool,
}

/// Axes in another order.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Transpose {
    /// The operand's axis for each of the result's.
    #[prost(uint64, repeated, tag = "1")]
    pub perms: Vec<u64>,
}

/// Operands joined.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Concat {
    /// The axis.
    #[prost(uint64, tag = "1")]
    pub axis: u64,
}

/// A part.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Slice {
    /// The first index per axis.
    #[prost(uint64, repeated, tag = "1")]
    pub start: Vec<u64>,
    /// The dimensions; -1 is the batch, whole.
    #[prost(sint64, repeated, tag = "2")]
    pub size: Vec<i64>,
}

/// A border around.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Pad {
    /// What is added in front, per axis.
    #[prost(uint64, repeated, tag = "1")]
    pub before: Vec<u64>,
    /// What is added behind, per axis.
    #[prost(uint64, repeated, tag = "2")]
    pub after: Vec<u64>,
    /// What is added.
    #[prost(float, tag = "3")]
    pub value: f32,
}

/// Repetitions.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Tile {
    /// How often, per axis.
    #[prost(uint64, repeated, tag = "1")]
    pub repeats: Vec<u64>,
}

/// Slices at indices.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Take {
    /// The axis.
    #[prost(uint64, tag = "1")]
    pub axis: u64,
}

/// Elements at indices.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Pick {
    /// The axis.
    #[prost(uint64, tag = "1")]
    pub axis: u64,
}

/// Elements put at indices.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Scatter {
    /// The axis.
    #[prost(uint64, tag = "1")]
    pub axis: u64,
    /// `replace`, `add`, `mul`, `max` or `min`: how an update meets what is there.
    #[prost(string, tag = "2")]
    pub reduction: String,
}

/// The indices that sort.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TopK {
    /// The axis.
    #[prost(uint64, tag = "1")]
    pub axis: u64,
    /// How many.
    #[prost(uint64, tag = "2")]
    pub count: u64,
    /// Whether the largest come first.
    #[prost(bool, tag = "3")]
    pub largest: bool,
}

/// Values between samples.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GridSample {
    /// `nearest`, `linear` or `cubic`.
    #[prost(string, tag = "1")]
    pub interpolation: String,
    /// `zeros`, `border` or `reflection`: what is beyond the samples.
    #[prost(string, tag = "2")]
    pub padding: String,
    /// Whether the corners' points are at the centres of the corner samples.
    #[prost(bool, tag = "3")]
    pub align_corners: bool,
}

/// The choices of [`Value`].
pub mod value {
    /// Where it comes from.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum What {
        /// It is given.
        #[prost(message, tag = "1")]
        Input(super::Input),
        /// It is known.
        #[prost(message, tag = "2")]
        Constant(super::Constant),
        /// It is computed.
        #[prost(message, tag = "3")]
        Node(super::Node),
    }
}

/// The choices of [`Constant`].
pub mod constant {
    /// Its values in row-major order.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Values {
        /// Those of the package's weight of this name: 0: as they are; else transposed as a matrix of so many rows.
        #[prost(uint64, tag = "5")]
        Stored(u64),
        /// The same value everywhere.
        #[prost(float, tag = "6")]
        Fill(f32),
        /// Little-endian words of 32 bits; an `i64` is two, the lower one first.
        #[prost(bytes = "vec", tag = "7")]
        Words(Vec<u8>),
    }
}

/// The choices of [`Node`].
pub mod node {
    /// What it computes.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Operator {
        /// A convolution.
        #[prost(message, tag = "2")]
        Conv2d(super::Conv2d),
        /// A product with a constant matrix.
        #[prost(message, tag = "3")]
        FullyConnected(super::FullyConnected),
        /// A product of two activations.
        #[prost(message, tag = "4")]
        MatMul(super::MatMul),
        /// A layer's denoiser.
        #[prost(message, tag = "5")]
        Denoise(super::Denoise),
        /// Elementwise with one operand.
        #[prost(message, tag = "6")]
        Unary(super::Unary),
        /// Elementwise with two operands.
        #[prost(message, tag = "7")]
        Binary(super::Binary),
        /// A conversion.
        #[prost(message, tag = "8")]
        Cast(super::Cast),
        /// One of two values by a condition.
        #[prost(message, tag = "9")]
        Select(super::Select),
        /// A window's mean or maximum.
        #[prost(message, tag = "10")]
        Pool(super::Pool),
        /// One axis to size 1.
        #[prost(message, tag = "11")]
        Reduce(super::Reduce),
        /// The place of the greatest.
        #[prost(message, tag = "12")]
        ArgMax(super::ArgMax),
        /// Running sums.
        #[prost(message, tag = "13")]
        CumSum(super::CumSum),
        /// The same elements in another shape.
        #[prost(message, tag = "14")]
        Reshape(super::Reshape),
        /// A constant for every sample.
        #[prost(message, tag = "15")]
        Broadcast(super::Broadcast),
        /// Axes in another order.
        #[prost(message, tag = "16")]
        Transpose(super::Transpose),
        /// Operands joined.
        #[prost(message, tag = "17")]
        Concat(super::Concat),
        /// A part.
        #[prost(message, tag = "18")]
        Slice(super::Slice),
        /// A border around.
        #[prost(message, tag = "19")]
        Pad(super::Pad),
        /// Repetitions.
        #[prost(message, tag = "20")]
        Tile(super::Tile),
        /// Slices at indices.
        #[prost(message, tag = "21")]
        Take(super::Take),
        /// Elements at indices.
        #[prost(message, tag = "22")]
        Pick(super::Pick),
        /// Elements put at indices.
        #[prost(message, tag = "23")]
        Scatter(super::Scatter),
        /// The indices that sort.
        #[prost(message, tag = "24")]
        TopK(super::TopK),
        /// Values between samples.
        #[prost(message, tag = "25")]
        GridSample(super::GridSample),
    }
}
