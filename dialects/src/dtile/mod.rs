//! Typed views and builders of the `dtile` dialect; [`verify`] checks what IRDL cannot state of it.
//!
//! Every operation has a struct with its operands, attributes and result types: `parse` reads one from the IR, `build`
//! makes the operation. [`Instruction`] is any of them.

pub mod verify;

pub use crate::operations::Symbol;
pub use mxc_spec::tile::Unit;

use crate::{ffi, ir, operations::operations};
use melior::{
    Context,
    ir::{
        Module, OperationRef, ShapedTypeLike, Type, Value, ValueLike,
        operation::{OperationLike, OperationMutLike},
        r#type::{IntegerType, RankedTensorType},
    },
};
use std::ops::Range;

/// The function attribute with the name of the layer that the program denoises; marks a function as a dtile program.
pub const LAYER: &str = "dtile.layer";
/// The function attribute with the fraction bits of the program's input words.
pub const INPUT_FRACTION: &str = "dtile.input_fraction";
/// The function attribute with the fraction bits of the program's output words.
pub const OUTPUT_FRACTION: &str = "dtile.output_fraction";
/// The function attribute with the weight memory's size.
pub const WEIGHT_MEMORY: &str = "dtile.weight_memory_bytes";
/// The function attribute with the activation memory's size.
pub const ACTIVATION_MEMORY: &str = "dtile.activation_memory_bytes";
/// The function attribute with the total number of cycles per sample, once scheduled.
pub const CYCLES: &str = "dtile.cycles";
/// The function attribute with the words brought into the weight memory before every sample: 0 when the weights of all
/// programs fit and stay there.
pub const WEIGHT_LOAD: &str = "dtile.weight_load_words";
/// The function attribute that records the chosen mapping.
pub const MAPPING: &str = "dtile.mapping";

operations! {
    /// Any operation of the dialect.
    pub enum Instruction {}

    /// Runs a program on every sample of the batch.
    Launch = "dtile.launch" {
        (input) -> 1
        /// The function.
        program: Symbol,
        /// The layer whose output it cleans.
        layer: String,
    }
    /// A weight tensor's place in the weight memory.
    WeightAlloc = "dtile.weight_alloc" {
        (value) -> 1
        /// The size.
        bytes: i64,
        /// The byte address, once scheduled.
        address: Option<i64>,
        /// Whether it stands for a bias that the denoiser does not have, and is no parameter.
        absent: bool,
    }
    /// A buffer in the activation memory.
    ActivationAlloc = "dtile.activation_alloc" {
        () -> 1
        /// The size.
        bytes: i64,
        /// The byte address, once scheduled.
        address: Option<i64>,
    }
    /// The control unit enables a unit.
    Phase = "dtile.phase" {
        () -> 0
        /// The phase's number in the program.
        index: i64,
        /// The name of a [`Unit`].
        unit: String,
        /// The first cycle.
        start: i64,
        /// The duration.
        cycles: i64,
    }
    /// Brings rows of the layer's output into the activation memory.
    Load = "dtile.load" {
        (source, into) -> 1
        /// The first row.
        first_row: i64,
    }
    /// Writes rows of a strip to the denoised output.
    Store = "dtile.store" {
        (strip, output) -> 1
        /// The first row of the output.
        first_row: i64,
        /// The first row of the strip.
        strip_row: i64,
        /// The number of rows.
        rows: i64,
    }
    /// A convolution on the systolic cores.
    SystolicConv = "dtile.systolic_conv" {
        (input, weight, bias, into; partials) -> 1
        /// `pointwise` or `depthwise`.
        kind: String,
        /// Top, bottom, left, right.
        pad: Vec<i64>,
        /// The first row of the input that is read, if not the first.
        first_row: Option<i64>,
        /// The first filter; as many follow as the output has channels.
        first_filter: i64,
        /// Fraction bits of the input.
        input_fraction: i64,
        /// Fraction bits of the weight.
        weight_fraction: i64,
        /// Fraction bits of the bias.
        bias_fraction: i64,
        /// Fraction bits of the output.
        output_fraction: i64,
        /// Pixel groups, filter groups.
        cores: Vec<i64>,
        /// `accumulate` or `spill`.
        order: String,
    }
    /// Two pointwise convolutions of one input.
    SystolicConvPair = "dtile.systolic_conv_pair" {
        (input, first_weight, first_bias, second_weight, second_bias, first_into, second_into; partials) -> 2
        /// The first row of the input that is read, if not the first.
        first_row: Option<i64>,
        /// The first filter of either head.
        first_filter: i64,
        /// Fraction bits of the input.
        input_fraction: i64,
        /// Fraction bits of the weights, per head.
        weight_fractions: Vec<i64>,
        /// Fraction bits of the biases, per head.
        bias_fractions: Vec<i64>,
        /// Fraction bits of the outputs, per head.
        output_fractions: Vec<i64>,
        /// Pixel groups, filter groups.
        cores: Vec<i64>,
        /// `accumulate` or `spill`.
        order: String,
    }
    /// LeakyReLU with slope 2^-shift.
    LeakyRelu = "dtile.leaky_relu" {
        (input) -> 1
        /// The slope's exponent.
        shift: i64,
    }
    /// An affine map per channel.
    Affine = "dtile.affine" {
        (input, scale, shift) -> 1
        /// The first row.
        first_row: i64,
        /// The number of rows.
        rows: i64,
        /// Fraction bits of the input.
        input_fraction: i64,
        /// Fraction bits of the scale.
        scale_fraction: i64,
        /// Fraction bits of the shift.
        shift_fraction: i64,
        /// Fraction bits of the output.
        output_fraction: i64,
    }
    /// Words of the lanes' LFSRs.
    Lfsr = "dtile.lfsr" {
        () -> 1
        /// The registers' width in bits.
        width: i64,
        /// The stages fed back.
        taps: Vec<i64>,
        /// One seed per lane.
        seeds: Vec<i64>,
        /// Shifts between two words.
        shifts_per_draw: i64,
        /// The number of words each lane has drawn before.
        first_draw: i64,
    }
    /// Normal values of uniform words.
    BoxMuller = "dtile.box_muller" {
        (first, second) -> 1
        /// The uniform words' width in bits.
        width: i64,
        /// Fraction bits of the result.
        fraction: i64,
    }
    /// Subtracts or adds the predicted noise: see [`NoiseCancel::mean`] and [`NoiseCancel::drawn`].
    NoiseCancel = "dtile.noise_cancel" {
        (input; noise) -> 1
        /// Whether it is added.
        adds: bool,
        /// The first row of the input.
        first_row: i64,
        /// The first channel of the input.
        first_channel: i64,
        /// Elements per cycle.
        lanes: i64,
        /// Fraction bits of the input.
        input_fraction: i64,
        /// Fraction bits of the mean; 0 without one.
        mean_fraction: i64,
        /// Fraction bits of σ̂; 0 without one.
        sigma_fraction: i64,
        /// Fraction bits of the normal values.
        normal_fraction: i64,
        /// Fraction bits of the output.
        output_fraction: i64,
    }
}

impl<'c, 'a> NoiseCancel<'c, 'a> {
    /// What is cancelled as it is: among `noise`, which is (mean), (σ̂, normal values) or (mean, σ̂, normal values).
    pub fn mean(&self) -> Option<Value<'c, 'a>> {
        self.noise.first().copied().filter(|_| self.noise.len() != 2)
    }

    /// σ̂ and the normal values whose product is cancelled.
    pub fn drawn(&self) -> Option<[Value<'c, 'a>; 2]> {
        self.noise.last_chunk().copied()
    }
}

impl SystolicConv<'_, '_> {
    /// The rows of its input that it reads, for so many rows of the result.
    pub fn input_rows(&self, rows: usize) -> Result<Range<usize>, String> {
        let taps = match self.kind.as_str() {
            "depthwise" => shape(self.weight)?.first().copied().unwrap_or_default(),
            _ => 1,
        };
        let padding: i64 = self.pad.iter().take(2).fold(0, |sum, pad| sum.saturating_add(*pad));
        let padding = usize::try_from(padding).map_err(|_| format!("pad {:?}", self.pad))?;
        let count = (rows + taps).checked_sub(1 + padding).ok_or_else(|| format!("pad {:?}", self.pad))?;
        rows_from(self.first_row, count)
    }
}

impl SystolicConvPair<'_, '_> {
    /// The rows of its input that it reads, for so many rows of the results.
    pub fn input_rows(&self, rows: usize) -> Result<Range<usize>, String> {
        rows_from(self.first_row, rows)
    }
}

fn rows_from(first: Option<i64>, count: usize) -> Result<Range<usize>, String> {
    let first = first.unwrap_or_default();
    let end = usize::try_from(first).ok().and_then(|start| Some(start..start.checked_add(count)?));
    end.ok_or_else(|| format!("first row {first}"))
}

/// A static tensor of i16 words.
pub fn words<'c>(context: &'c Context, shape: &[usize]) -> Type<'c> {
    integers(context, 16, shape)
}

/// A static tensor of integers of any width.
pub fn integers<'c>(context: &'c Context, width: u32, shape: &[usize]) -> Type<'c> {
    let shape: Vec<_> = shape.iter().map(|&size| Some(size)).collect();
    ir::tensor_type(IntegerType::new(context, width).into(), &shape)
}

/// The static shape of a value.
pub fn shape(value: Value<'_, '_>) -> Result<Vec<usize>, String> {
    ir::value_shape(value)
        .and_then(|shape| shape.into_iter().collect())
        .ok_or_else(|| format!("a static tensor is wanted, not {}", value.r#type()))
}

/// The shape of one sample of a batched tensor: without the dynamic axis (before which only axes of size 1 may be), or without
/// the first when all are static. `None` for any other type.
pub fn sample_shape(r#type: Type<'_>) -> Option<Vec<usize>> {
    let shape = ir::tensor_shape(r#type)?;
    let batch = shape.iter().position(Option::is_none).unwrap_or(0);
    if shape[..batch].iter().any(|size| *size != Some(1)) {
        return None;
    }
    shape.get(batch + 1..)?.iter().copied().collect()
}

/// The fraction bits of a tensor of quantised 16-bit words; `None` for another type, or a scale that is no power of two.
pub fn fraction(value: Value<'_, '_>) -> Option<i32> {
    use melior::ir::{ShapedTypeLike, r#type::RankedTensorType};
    let tensor = RankedTensorType::try_from(value.r#type()).ok()?;
    let scale = crate::ffi::quantized_words_scale(tensor.element())?;
    let fraction = -(scale.log2().round() as i32);
    (2f64.powi(-fraction) == scale).then_some(fraction)
}

/// The bytes that a static tensor of integers fills, each element in whole 16-bit words.
pub fn tensor_bytes(r#type: Type<'_>) -> Option<usize> {
    let width = element_width(r#type)?;
    let elements =
        ir::tensor_shape(r#type)?.into_iter().try_fold(1usize, |product, size| product.checked_mul(size?))?;
    elements.checked_mul(2 * (width as usize).div_ceil(16))
}

fn element_width(r#type: Type<'_>) -> Option<u32> {
    let tensor = RankedTensorType::try_from(r#type).ok()?;
    IntegerType::try_from(tensor.element()).ok().map(|integer| integer.width())
}

/// The functions that are dtile programs, in the module's order.
pub fn programs<'c, 'a>(module: &'a Module<'c>) -> Vec<OperationRef<'c, 'a>> {
    ir::module_ops(module)
        .into_iter()
        .filter(|operation| ir::op_name(operation) == "func.func" && operation.has_attribute(LAYER))
        .collect()
}

/// The allocation whose buffer holds a value: of the weight or the activation memory.
pub fn buffer<'c, 'a>(value: Value<'c, 'a>) -> Option<OperationRef<'c, 'a>> {
    let operation = ir::defining_op(value)?;
    let next = match Instruction::parse(operation).ok()?? {
        Instruction::WeightAlloc(_) | Instruction::ActivationAlloc(_) => return Some(operation),
        Instruction::Load(load) => load.into,
        Instruction::SystolicConv(conv) => conv.into,
        Instruction::SystolicConvPair(pair) => {
            if operation.result(0).is_ok_and(|first| Value::from(first) == value) {
                pair.first_into
            } else {
                pair.second_into
            }
        }
        Instruction::LeakyRelu(relu) => relu.input,
        Instruction::Affine(affine) => affine.input,
        Instruction::NoiseCancel(cancel) => cancel.input,
        _ => return None,
    };
    buffer(next)
}

impl<'c, 'a> Instruction<'c, 'a> {
    /// The unit that runs it; `None` for what takes no time.
    pub fn unit(&self) -> Option<Unit> {
        match self {
            Self::Load(_) | Self::Store(_) => Some(Unit::Transfer),
            Self::SystolicConv(_) | Self::SystolicConvPair(_) => Some(Unit::Convolution),
            Self::LeakyRelu(_) => Some(Unit::LeakyRelu),
            Self::Lfsr(_) | Self::BoxMuller(_) | Self::NoiseCancel(_) => Some(Unit::NoiseCancellation),
            Self::Affine(_) => Some(Unit::Affine),
            Self::Launch(_) | Self::WeightAlloc(_) | Self::ActivationAlloc(_) | Self::Phase(_) => None,
        }
    }

    /// The values in buffers that it reads, and those that it overwrites.
    pub fn accesses(&self) -> (Vec<Value<'c, 'a>>, Vec<Value<'c, 'a>>) {
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        match self {
            Self::Load(load) => writes.push(load.into),
            Self::Store(store) => reads.push(store.strip),
            Self::SystolicConv(conv) => {
                reads.extend([conv.input, conv.weight, conv.bias]);
                writes.push(conv.into);
                writes.extend(&conv.partials);
            }
            Self::SystolicConvPair(pair) => {
                reads.extend([pair.input, pair.first_weight, pair.first_bias, pair.second_weight, pair.second_bias]);
                writes.extend([pair.first_into, pair.second_into]);
                writes.extend(&pair.partials);
            }
            Self::LeakyRelu(relu) => {
                reads.push(relu.input);
                writes.push(relu.input);
            }
            Self::Affine(affine) => {
                reads.extend([affine.input, affine.scale, affine.shift]);
                writes.push(affine.input);
            }
            Self::NoiseCancel(cancel) => {
                reads.push(cancel.input);
                reads.extend(cancel.mean());
                // The normal values come from the converter, not from a buffer.
                reads.extend(cancel.drawn().map(|[sigma, _]| sigma));
                writes.push(cancel.input);
            }
            Self::Launch(_)
            | Self::WeightAlloc(_)
            | Self::ActivationAlloc(_)
            | Self::Phase(_)
            | Self::Lfsr(_)
            | Self::BoxMuller(_) => {}
        }
        (reads, writes)
    }
}

/// Sets an integer attribute of an operation.
pub fn set_integer<'c>(context: &'c Context, operation: OperationRef<'c, '_>, name: &str, value: i64) {
    ffi::as_mut(operation).set_attribute(name, ir::integer(context, value));
}
