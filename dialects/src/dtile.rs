//! Typed views and builders of the `dtile` dialect, and its verifier.
//!
//! Every operation has a struct with its operands, attributes and result types: `parse` reads one from the IR, `build`
//! makes the operation. [`Instruction`] is any of them.

pub use crate::operations::Symbol;

use crate::{ffi, ir, operations::operations};
use melior::{
    Context,
    ir::{
        Module, OperationRef, RegionLike, ShapedTypeLike, Type, Value, ValueLike,
        operation::{OperationLike, OperationMutLike},
        r#type::{IntegerType, RankedTensorType},
    },
};
use std::{collections::BTreeMap, ops::Range};

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

/// The units that the control unit enables, as `dtile.phase` names them.
pub const UNITS: [&str; 5] = ["transfer", "convolution", "leaky_relu", "noise_cancellation", "affine"];

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
        /// One of [`UNITS`].
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
    /// The unit that runs it, one of [`UNITS`]; `None` for what takes no time.
    pub fn unit(&self) -> Option<&'static str> {
        match self {
            Self::Load(_) | Self::Store(_) => Some("transfer"),
            Self::SystolicConv(_) | Self::SystolicConvPair(_) => Some("convolution"),
            Self::LeakyRelu(_) => Some("leaky_relu"),
            Self::Lfsr(_) | Self::BoxMuller(_) | Self::NoiseCancel(_) => Some("noise_cancellation"),
            Self::Affine(_) => Some("affine"),
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

/// Checks what IRDL cannot state of the dtile programs and launches of a module; returns every violation.
///
/// Shapes; buffer sizes and, once scheduled, addresses (inside the memory, live buffers disjoint); no read of a value that
/// was overwritten in its buffer; phases in order, without gaps, one unit at a time; LFSR draws without gaps.
pub fn verify(module: &Module<'_>) -> Result<(), Vec<String>> {
    let mut violations = Vec::new();
    let programs = programs(module);
    let mut weights = Vec::new();
    for program in &programs {
        let name = ir::string_attr(program, "sym_name").unwrap_or_default();
        let mut found = Vec::new();
        if let Err(message) = verify_program(*program, &mut found, &mut weights) {
            found.push(message);
        }
        violations.extend(found.into_iter().map(|message| format!("dtile program @{name}: {message}")));
    }
    weights.sort();
    for pair in weights.windows(2) {
        if pair[0].0 == pair[1].0 && pair[0].2 > pair[1].1 {
            violations.push(format!(
                "the weights of @{} and @{} overlap at address {} of the weight memory",
                pair[0].3, pair[1].3, pair[1].1
            ));
        }
    }
    let main = ir::main_function(module).and_then(ir::entry_block);
    for operation in main.map(ir::block_ops).unwrap_or_default() {
        if let Err(message) = verify_launch(operation, &programs) {
            violations.push(message);
        }
    }
    if violations.is_empty() { Ok(()) } else { Err(violations) }
}

fn verify_launch(operation: OperationRef<'_, '_>, programs: &[OperationRef<'_, '_>]) -> Result<(), String> {
    let Some(Instruction::Launch(launch)) = Instruction::parse(operation)? else {
        return Ok(());
    };
    let at = format!("dtile.launch of layer {}", launch.layer);
    let program = programs
        .iter()
        .find(|program| ir::string_attr(program, "sym_name").as_deref() == Some(&launch.program.0))
        .ok_or_else(|| format!("{at}: no dtile program @{}", launch.program.0))?;
    if ir::string_attr(program, LAYER).as_deref() != Some(&launch.layer) {
        return Err(format!("{at}: @{} is of another layer", launch.program.0));
    }
    let block = ir::entry_block(*program).ok_or_else(|| format!("{at}: the program is empty"))?;
    let argument =
        melior::ir::BlockLike::argument(&block, 0).map_err(|_| format!("{at}: the program has no argument"))?;
    let wanted: usize = shape(argument.into())?.iter().product();
    let sample: Option<usize> = sample_shape(launch.input.r#type()).map(|shape| shape.iter().product());
    if sample != Some(wanted) || launch.types.first() != Some(&launch.input.r#type()) {
        return Err(format!("{at}: {} does not fit the program's {wanted} words per sample", launch.input.r#type()));
    }
    Ok(())
}

fn ensure(condition: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(message()) }
}

/// Operand shapes, attribute ranges and sizes of one operation.
fn verify_shapes(instruction: &Instruction<'_, '_>) -> Result<(), String> {
    let rank3 = |value: Value<'_, '_>, what: &str| -> Result<[usize; 3], String> {
        <[usize; 3]>::try_from(shape(value)?)
            .map_err(|shape| format!("{what} is {shape:?}, rows x columns x channels are wanted"))
    };
    let result = |types: &[Type<'_>]| -> Vec<usize> {
        types
            .first()
            .and_then(|r#type| ir::tensor_shape(*r#type))
            .and_then(|shape| shape.into_iter().collect())
            .unwrap_or_default()
    };
    let rows = |first: i64, count: usize, of: usize| {
        ensure(usize::try_from(first).is_ok_and(|first| first + count <= of), || {
            format!("rows {first} to {} of {of}", first + count as i64)
        })
    };
    let mapping = |cores: &[i64], order: &str, partials: usize| {
        ensure(cores.len() == 2 && cores.iter().all(|n| *n > 0), || {
            format!("cores {cores:?}: [pixel groups, filter groups] are wanted")
        })?;
        match (order, partials) {
            ("accumulate", 0) | ("spill", 1) => Ok(()),
            _ => Err(format!("order {order:?} with {partials} buffers for partial sums")),
        }
    };
    match instruction {
        Instruction::WeightAlloc(alloc) => {
            let bytes = tensor_bytes(alloc.value.r#type());
            ensure(
                element_width(alloc.value.r#type()) == Some(16) && bytes == usize::try_from(alloc.bytes).ok(),
                || format!("{} bytes for {}", alloc.bytes, alloc.value.r#type()),
            )
        }
        Instruction::ActivationAlloc(alloc) => {
            let bytes = alloc.types.first().and_then(|r#type| tensor_bytes(*r#type));
            ensure(bytes.is_some() && bytes == usize::try_from(alloc.bytes).ok(), || {
                format!("{} bytes for a buffer of {bytes:?}", alloc.bytes)
            })
        }
        Instruction::Load(load) => {
            let (source, into) = (rank3(load.source, "source")?, rank3(load.into, "into")?);
            ensure(source[1..] == into[1..], || format!("{into:?} of {source:?}: whole rows are wanted"))?;
            rows(load.first_row, into[0], source[0])
        }
        Instruction::Store(store) => {
            let (strip, output) = (rank3(store.strip, "strip")?, rank3(store.output, "output")?);
            let count = usize::try_from(store.rows).unwrap_or(usize::MAX / 2);
            ensure(strip[1..] == output[1..], || format!("{strip:?} into {output:?}: whole rows are wanted"))?;
            rows(store.strip_row, count, strip[0])?;
            rows(store.first_row, count, output[0])
        }
        Instruction::SystolicConv(conv) => {
            mapping(&conv.cores, &conv.order, conv.partials.len())?;
            let (input, into) = (rank3(conv.input, "input")?, rank3(conv.into, "into")?);
            let (weight, bias) = (shape(conv.weight)?, shape(conv.bias)?);
            let first = usize::try_from(conv.first_filter).unwrap_or(usize::MAX / 2);
            let pad: Vec<usize> =
                conv.pad.iter().filter_map(|pad| usize::try_from(*pad).ok().filter(|pad| *pad < 1 << 20)).collect();
            let fits = match (conv.kind.as_str(), &weight[..], &pad[..]) {
                ("pointwise", [filters, 1, 1, channels], [0, 0, 0, 0]) => {
                    *channels == input[2] && bias == [*filters] && first + into[2] <= *filters && into[1] == input[1]
                }
                ("depthwise", [_, width, channels, 1], [_, _, left, right]) => {
                    first == 0
                        && *channels == input[2]
                        && *channels == into[2]
                        && bias == [*channels]
                        && (input[1] + left + right).checked_sub(*width) == into[1].checked_sub(1)
                }
                _ => false,
            };
            ensure(fits && conv.input_rows(into[0])?.end <= input[0], || {
                format!(
                    "{} of {input:?} with weight {weight:?}, bias {bias:?}, pad {:?}, first filter {} into {into:?}",
                    conv.kind, conv.pad, conv.first_filter
                )
            })
        }
        Instruction::SystolicConvPair(pair) => {
            mapping(&pair.cores, &pair.order, pair.partials.len())?;
            let input = rank3(pair.input, "input")?;
            let into = rank3(pair.first_into, "into")?;
            let (weight, bias) = (shape(pair.first_weight)?, shape(pair.first_bias)?);
            let first = usize::try_from(pair.first_filter).unwrap_or(usize::MAX / 2);
            let fits = matches!(weight[..], [filters, 1, 1, channels]
                if channels == input[2] && bias == [filters] && first + into[2] <= filters)
                && into[1] == input[1]
                && pair.input_rows(into[0])?.end <= input[0]
                && pair.first_into.r#type() == pair.second_into.r#type()
                && pair.first_weight.r#type() == pair.second_weight.r#type()
                && [&pair.weight_fractions, &pair.bias_fractions, &pair.output_fractions]
                    .iter()
                    .all(|fractions| fractions.len() == 2);
            ensure(fits, || format!("heads {weight:?} on {input:?} into {into:?} do not fit"))
        }
        Instruction::LeakyRelu(relu) => {
            rank3(relu.input, "input")?;
            ensure((1..16).contains(&relu.shift), || format!("shift {}", relu.shift))
        }
        Instruction::Affine(affine) => {
            let input = rank3(affine.input, "input")?;
            let count = usize::try_from(affine.rows).unwrap_or(usize::MAX / 2);
            rows(affine.first_row, count, input[0])?;
            ensure(shape(affine.scale)? == [input[2]] && shape(affine.shift)? == [input[2]], || {
                format!("one scale and one shift per channel of {input:?} are wanted")
            })
        }
        Instruction::Lfsr(lfsr) => {
            let width = lfsr.types.first().and_then(|r#type| element_width(*r#type));
            ensure(
                width.map(i64::from) == Some(lfsr.width)
                    && lfsr.taps.first() == Some(&lfsr.width)
                    && lfsr.taps.windows(2).all(|pair| pair[0] > pair[1])
                    && lfsr.taps.last() > Some(&0)
                    && !lfsr.seeds.is_empty()
                    && lfsr.seeds.iter().all(|seed| *seed != 0)
                    && (1..=4096).contains(&lfsr.shifts_per_draw),
                || format!("width {}, taps {:?}, seeds {:?}", lfsr.width, lfsr.taps, lfsr.seeds),
            )
        }
        Instruction::BoxMuller(unit) => ensure(
            shape(unit.first)? == result(&unit.types)
                && element_width(unit.first.r#type()).map(i64::from) == Some(unit.width)
                && unit.first.r#type() == unit.second.r#type(),
            || format!("{} to {:?}", unit.first.r#type(), result(&unit.types)),
        ),
        Instruction::NoiseCancel(cancel) => {
            let input = rank3(cancel.input, "input")?;
            let noise: Vec<[usize; 3]> =
                cancel.noise.iter().map(|noise| rank3(*noise, "noise")).collect::<Result<_, _>>()?;
            let (first, alike) =
                (noise.first().copied().unwrap_or_default(), noise.windows(2).all(|pair| pair[0] == pair[1]));
            rows(cancel.first_row, first[0], input[0])?;
            rows(cancel.first_channel, first[2], input[2])?;
            ensure(alike && input[1] == first[1] && (1..=3).contains(&noise.len()) && cancel.lanes > 0, || {
                format!("noise {noise:?} of {input:?}, {} lanes", cancel.lanes)
            })
        }
        Instruction::Launch(_) | Instruction::Phase(_) => Ok(()),
    }
}

/// Fractions for which no alignment overflows.
fn verify_fractions(operation: &OperationRef<'_, '_>) -> Result<(), String> {
    for (name, attribute) in operation.attributes() {
        let name = name.as_string_ref().as_str().unwrap_or_default();
        let fractions = match ir::as_i64(attribute) {
            Some(fraction) => vec![fraction],
            None => ir::i64s_attr(operation, name).unwrap_or_default(),
        };
        let inside = fractions.iter().all(|fraction| (-62..=62).contains(fraction));
        ensure(!name.contains("fraction") || inside, || format!("`{name}` is {fractions:?}, -62 to 62 are allowed"))?;
    }
    Ok(())
}

/// A buffer of the activation memory while the program is walked.
struct Live<'c, 'a> {
    allocated: Value<'c, 'a>,
    range: Option<(i64, i64)>,
    holds: Value<'c, 'a>,
    first: usize,
    last: usize,
}

fn verify_program(
    program: OperationRef<'_, '_>,
    violations: &mut Vec<String>,
    weights: &mut Vec<(String, i64, i64, String)>,
) -> Result<(), String> {
    let name = ir::string_attr(&program, "sym_name").unwrap_or_default();
    let capacity = |key: &str| {
        ir::i64_attr(&program, key).filter(|bytes| *bytes > 0).ok_or_else(|| format!("lacks the attribute `{key}`"))
    };
    let (weight_memory, activation_memory) = (capacity(WEIGHT_MEMORY)?, capacity(ACTIVATION_MEMORY)?);
    ensure(
        program
            .region(0)
            .ok()
            .and_then(|region| region.first_block())
            .is_some_and(|block| melior::ir::BlockLike::next_in_region(&block).is_none()),
        || "is not a straight-line program".to_owned(),
    )?;
    let operations = ir::entry_block(program).map(ir::block_ops).unwrap_or_default();
    let scheduled = operations.iter().any(|operation| ir::op_name(operation) == Phase::MNEMONIC);
    let mut live: Vec<Live<'_, '_>> = Vec::new();
    let mut draws: BTreeMap<Vec<i64>, i64> = BTreeMap::new();
    let (mut clock, mut phases, mut unit) = (0, 0, String::new());
    for (position, operation) in operations.iter().enumerate() {
        let op = ir::op_name(operation);
        if !op.starts_with("dtile.") {
            continue;
        }
        let Some(instruction) = Instruction::parse(*operation)? else {
            continue;
        };
        let at = |message: String| format!("{op} (operation {position}): {message}");
        verify_shapes(&instruction).map_err(at)?;
        verify_fractions(operation).map_err(at)?;
        match &instruction {
            Instruction::WeightAlloc(alloc) => {
                if let Some(address) = alloc.address {
                    let end = address.saturating_add(alloc.bytes);
                    ensure(address >= 0 && end <= weight_memory, || {
                        at(format!("bytes {address} to {end} are not in the weight memory of {weight_memory}"))
                    })?;
                    // Programs that bring their weights along take turns in the memory.
                    let resident = ir::i64_attr(&program, WEIGHT_LOAD).unwrap_or_default() == 0;
                    let space = if resident { String::new() } else { name.clone() };
                    weights.push((space, address, end, name.clone()));
                } else if scheduled {
                    violations.push(at("has no address".to_owned()));
                }
            }
            Instruction::ActivationAlloc(alloc) => {
                let range = alloc.address.map(|address| (address, address.saturating_add(alloc.bytes)));
                if let Some((address, end)) = range {
                    ensure(address >= 0 && end <= activation_memory, || {
                        at(format!("bytes {address} to {end} are not in the activation memory of {activation_memory}"))
                    })?;
                } else if scheduled {
                    violations.push(at("has no address".to_owned()));
                }
                if let Ok(buffer) = operation.result(0) {
                    live.push(Live {
                        allocated: buffer.into(),
                        range,
                        holds: buffer.into(),
                        first: usize::MAX,
                        last: 0,
                    });
                }
            }
            Instruction::Phase(phase) => {
                ensure(UNITS.contains(&phase.unit.as_str()), || at(format!("no unit `{}`", phase.unit)))?;
                ensure(phase.index == phases && phase.start == clock, || {
                    at(format!(
                        "phase {} at cycle {} where phase {phases} at cycle {clock} is due",
                        phase.index, phase.start
                    ))
                })?;
                ensure(phase.cycles > 0, || at("takes no cycles".to_owned()))?;
                phases += 1;
                clock = i64::saturating_add(clock, phase.cycles);
                unit.clone_from(&phase.unit);
            }
            Instruction::Lfsr(lfsr) => {
                let elements = operation
                    .result(0)
                    .ok()
                    .and_then(|words| shape(words.into()).ok())
                    .map_or(0, |shape| shape.iter().product::<usize>());
                let drawn = draws.entry(lfsr.seeds.clone()).or_default();
                ensure(lfsr.first_draw == *drawn, || {
                    at(format!("starts at draw {}, {drawn} are due", lfsr.first_draw))
                })?;
                *drawn += elements.div_ceil(lfsr.seeds.len().max(1)) as i64;
            }
            Instruction::Launch(_) => violations.push(at("inside a program".to_owned())),
            _ => {}
        }
        if scheduled && let Some(wanted) = instruction.unit() {
            ensure(unit == wanted, || at(format!("runs on {wanted}, but the phase enables {unit:?}")))?;
        }
        // Which buffers it touches, whether what it reads is still there.
        let (reads, writes) = instruction.accesses();
        let mut written = Vec::new();
        for (value, is_read) in reads.iter().map(|value| (value, true)).chain(writes.iter().map(|value| (value, false)))
        {
            let Some(alloc) = buffer(*value) else {
                return Err(at("an operand is in no buffer".to_owned()));
            };
            let allocated = alloc.result(0).ok().map(Value::from);
            let Some(index) = live.iter().position(|live| Some(live.allocated) == allocated) else {
                continue; // a weight
            };
            let buffer = &mut live[index];
            ensure(!is_read || buffer.holds == *value, || {
                at("reads a value that was overwritten in its buffer".to_owned())
            })?;
            buffer.first = buffer.first.min(position);
            buffer.last = position;
            if !is_read {
                written.push(index);
            }
        }
        for (result, index) in operation.results().zip(written) {
            live[index].holds = result.into();
        }
    }
    for (index, one) in live.iter().enumerate() {
        for other in &live[..index] {
            let at_once = one.first <= other.last && other.first <= one.last;
            if let (true, Some(a), Some(b)) = (at_once, one.range, other.range)
                && a.0 < b.1
                && b.0 < a.1
            {
                violations.push(format!(
                    "buffers at {} and {} of the activation memory overlap while both are in use",
                    a.0, b.0
                ));
            }
        }
    }
    if scheduled {
        ensure(ir::i64_attr(&program, CYCLES) == Some(clock), || format!("`{CYCLES}` is not the phases' sum {clock}"))?;
    }
    Ok(())
}
