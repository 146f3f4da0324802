//! `quantize-denoisers`: gives every tensor of a denoiser a 16-bit fixed-point format and its weights their words.
//!
//! ```mlir
//! %2 = "denoise.paper"(%1, %reduce, …) {layer = "conv1"} : (tensor<?x8x8x16xf32>, …) -> tensor<?x8x8x16xf32>
//! // becomes
//! %2 = quant.qcast %1 : tensor<?x8x8x16xf32> to tensor<?x8x8x16x!quant.uniform<i16:f32, 2.44140625E-4>>
//! %3 = ml_program.global_load_const @denoise.conv1.reduce.weight.i16 : tensor<4x1x1x16xi16>
//! %4 = quant.scast %3 : tensor<4x1x1x16xi16> to tensor<4x1x1x16x!quant.uniform<i16:f32, 3.05175781E-5>>
//! %5 = "denoise.paper"(%2, %4, …) {fractions = {depthwise = 11, mean = 11, reduce = 12, sigma = 13}, layer = "conv1"}
//! %6 = quant.dcast %5 : … to tensor<?x8x8x16xf32>
//! ```
//!
//! A format is a number of fraction bits f (scale 2^-f, zero point 0); scales are powers of two, so that aligning is shifting.
//!
//! - The **input**'s f comes from the layer's calibrated absmax: exactly that range where the tile saturates there
//!   (`range`), twice that for noise scales without saturation.
//! - **Weights and biases** use their own absmax; a bias is never finer than the sum it is added to.
//! - **The terms inside** (the paper's h, g, μ̂, σ̂) get the finest f at which no input can saturate them, by interval arithmetic
//!   on the words, channel by channel and term by term. What is cancelled from x (μ̂, σ̂) is at most 8 bits finer than the input:
//!   less would not show in x̂.
//! - **x̂** has one bit of headroom over the input (a fresh block, the identity, none) and saturates there; where nothing is
//!   cancelled, as in an affine, it has the finest f at which none can saturate it.
//!
//! That no sum overflows the accumulators is proved on the way; weights for which it cannot be are refused.

use crate::{
    pass::{
        OptionError, Options, Pass, PassContext, PassError,
        constants::{self, Source, built, fresh_symbol, insert_before},
    },
    tile::{
        placed::{FRACTIONS, HARDWARE_OPTION, Placed, cast, hardware, input_fraction, quantised_type},
        stages::{Stages, Unit},
    },
};
use melior::{
    Context,
    ir::{
        Attribute, BlockLike, BlockRef, Identifier, Location, Module, OperationRef, Type, Value, ValueLike,
        attribute::{DenseElementsAttribute, TypeAttribute},
        operation::{OperationBuilder, OperationLike},
    },
};
use mxc_dialects::{
    denoise, dtile,
    erase::{Eraser, ModuleMut},
    ffi, ir,
};
use mxc_runtime::{
    digital::{
        fixed::{self, MAX_FRACTION},
        gaussian,
    },
    hardware::Hardware,
};
use std::path::PathBuf;

/// How many bits finer than the input what is cancelled from it may be.
const HEAD_BITS: i32 = 8;

/// See the module.
pub struct QuantizeDenoisers {
    hardware: Option<PathBuf>,
}

impl Pass for QuantizeDenoisers {
    const NAME: &'static str = "quantize-denoisers";
    const DESCRIPTION: &'static str = "gives the denoisers 16-bit fixed-point formats and weights";
    const OPTIONS: &'static [(&'static str, &'static str)] = &[HARDWARE_OPTION];

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        Ok(Self { hardware: options.take("hardware").map(PathBuf::from) })
    }

    fn run<'c>(
        &mut self,
        context: &'c Context,
        module: &mut ModuleMut<'c, '_>,
        cx: &mut PassContext,
    ) -> Result<(), PassError> {
        let hardware = hardware(self.hardware.as_ref(), cx)?;
        run(context, module, cx, &hardware)
    }
}

/// Quantises every denoiser of `@main`.
fn run<'c>(
    context: &'c Context,
    module: &mut ModuleMut<'c, '_>,
    cx: &PassContext,
    hardware: &Hardware,
) -> Result<(), PassError> {
    let replaced = module.erasing(|module, eraser| quantise(context, module, eraser, cx, hardware))?;
    constants::remove_left(module, &replaced);
    Ok(())
}

/// Replaces the denoisers; returns the globals of the weights that they had.
fn quantise<'c, 'a>(
    context: &'c Context,
    module: &'a Module<'c>,
    eraser: &mut Eraser<'c, 'a>,
    cx: &PassContext,
    hardware: &Hardware,
) -> Result<Vec<String>, PassError> {
    let Some(block) = ir::main_function(module).and_then(ir::entry_block) else {
        return Ok(Vec::new());
    };
    let mut quantiser = Quantiser::new(context, module, block, cx, hardware, eraser);
    for operation in ir::block_ops(block) {
        let is_f32 = operation.operand(0).is_ok_and(|input| dtile::fraction(input).is_none());
        if is_f32 && let Some(placed) = Placed::read(operation)? {
            quantiser.denoiser(&placed)?;
        }
    }
    Ok(quantiser.replaced)
}

/// A tensor of words.
struct Words<'c, 'a> {
    words: Vec<i16>,
    fraction: i32,
    /// As a value of quantised type.
    value: Value<'c, 'a>,
}

impl Words<'_, '_> {
    /// A word brought to a finer fraction.
    fn aligned(&self, index: usize, fraction: i32) -> i128 {
        i128::from(self.words[index]) << (fraction - self.fraction)
    }
}

/// A closed interval of words or sums.
type Interval = (i128, i128);
const ANY_WORD: Interval = (i16::MIN as i128, i16::MAX as i128);

/// The format of a term, and the words it can have, by channel.
struct Format {
    fraction: i32,
    words: Vec<Interval>,
}

impl Format {
    /// That of its LeakyReLU.
    fn rectified(&self) -> Self {
        let rectify = |word: i128| i128::from(fixed::leaky_relu(word as i16, denoise::SLOPE_SHIFT));
        let words = self.words.iter().map(|(low, high)| (rectify(*low), rectify(*high))).collect();
        Self { fraction: self.fraction, words }
    }
}

pub(super) struct Quantiser<'c, 'a, 'x> {
    context: &'c Context,
    module: &'a Module<'c>,
    block: BlockRef<'c, 'a>,
    cx: &'x PassContext,
    hardware: &'x Hardware,
    eraser: &'x mut Eraser<'c, 'a>,
    replaced: Vec<String>,
}

impl<'c, 'a, 'x> Quantiser<'c, 'a, 'x> {
    /// Of the module whose `@main` has the block.
    pub(super) fn new(
        context: &'c Context,
        module: &'a Module<'c>,
        block: BlockRef<'c, 'a>,
        cx: &'x PassContext,
        hardware: &'x Hardware,
        eraser: &'x mut Eraser<'c, 'a>,
    ) -> Self {
        Self { context, module, block, cx, hardware, eraser, replaced: Vec::new() }
    }

    /// The quantised input of a denoiser: what another of the same layer left, else a cast of the f32 value.
    fn input(&self, operation: OperationRef<'c, 'a>, layer: &str) -> Result<(Value<'c, 'a>, i32), PassError> {
        let value = built("an operand", operation.operand(0))?;
        if let Some(cast) = ir::defining_op(value)
            && ir::op_name(&cast) == "quant.dcast"
            && let Ok(words) = cast.operand(0)
            && let Some(fraction) = dtile::fraction(words)
        {
            return Ok((words, fraction));
        }
        let fraction = input_fraction(self.module, operation, layer)?;
        let shape = ir::value_shape(value).unwrap_or_default();
        let to = quantised_type(self.context, fraction, &shape)?;
        let cast = cast(self.block, operation, "quant.qcast", value, to)?;
        Ok((cast, fraction))
    }

    /// Quantises a weight or bias: at most `finest` fraction bits.
    fn words(
        &mut self,
        operation: OperationRef<'c, 'a>,
        value: Value<'c, 'a>,
        layer: &str,
        part: &str,
        finest: i32,
    ) -> Result<Words<'c, 'a>, PassError> {
        let source = constants::source(value);
        let store = match &source {
            Some(Source::Global(name)) if self.cx.denoisers.get(name).is_some() => &self.cx.denoisers,
            _ => &self.cx.weights,
        };
        let weight = constants::weight(QuantizeDenoisers::NAME, value, store)?;
        let absmax = weight.values().iter().fold(0.0, |most: f64, value| most.max(f64::from(value.abs())));
        // A maximum skips NaN.
        if weight.values().iter().any(|value| !value.is_finite()) {
            return Err(PassError::new(format!("layer '{layer}': {part} holds a value that is not finite"))
                .at(operation.location()));
        }
        let fraction = fixed::fraction_for(absmax, f64::from(i16::MAX)).min(finest);
        let words: Vec<i16> = weight.values().iter().map(|value| fixed::quantise(*value, fraction)).collect();
        if let Some(Source::Global(name)) = source {
            self.replaced.push(name);
        }
        let stored = dtile::words(self.context, weight.shape());
        let name = fresh_symbol(self.module, &format!("{}.i16", denoise::global_name(layer, part)));
        self.global(&name, stored, &words)?;
        let load = built("a load", ir::load_global(self.context, &name, stored))?;
        let load = insert_before(self.block, operation, load)?;
        let shape: Vec<_> = weight.shape().iter().map(|&size| Some(size)).collect();
        let to = quantised_type(self.context, fraction, &shape)?;
        let value = cast(self.block, operation, "quant.scast", load, to)?;
        Ok(Words { words, fraction, value })
    }

    /// A global that holds its words in the module.
    fn global(&self, name: &str, r#type: Type<'c>, words: &[i16]) -> Result<(), PassError> {
        let id = |name: &str| Identifier::new(self.context, name);
        let splat = words.windows(2).all(|pair| pair[0] == pair[1]);
        let values = if splat { &words[..words.len().min(1)] } else { words };
        let global = OperationBuilder::new("ml_program.global", Location::unknown(self.context))
            .add_attributes(&[
                (id("sym_name"), ir::string(self.context, name)),
                (id("sym_visibility"), ir::string(self.context, "private")),
                (id("type"), TypeAttribute::new(r#type).into()),
                (id("value"), DenseElementsAttribute::i16_values(r#type, values).into()),
            ])
            .build();
        let global = built("a global", global)?;
        let last = ir::module_ops(self.module)
            .into_iter()
            .take_while(|operation| ir::op_name(operation) == "ml_program.global")
            .last();
        match last {
            Some(last) => self.module.body().insert_operation_after(last, global),
            None => self.module.body().insert_operation(0, global),
        };
        Ok(())
    }

    /// Replaces a denoiser by its quantised form.
    fn replace(
        &mut self,
        operation: OperationRef<'c, 'a>,
        operands: &[Value<'c, 'a>],
        output_fraction: i32,
        extra: Option<Attribute<'c>>,
    ) -> Result<(), PassError> {
        let before = built("an operand", operation.operand(0))?;
        let result = built("a result", operation.result(0))?;
        let shape = ir::value_shape(result.into()).unwrap_or_default();
        let mut attributes: Vec<_> = operation.attributes().collect();
        attributes.extend(extra.map(|fractions| (Identifier::new(self.context, FRACTIONS), fractions)));
        let quantised = OperationBuilder::new(&ir::op_name(&operation), operation.location())
            .add_operands(operands)
            .add_attributes(&attributes)
            .add_results(&[quantised_type(self.context, output_fraction, &shape)?])
            .build();
        let quantised = insert_before(self.block, operation, built("a denoiser", quantised)?)?;
        let float = cast(self.block, operation, "quant.dcast", quantised, result.r#type())?;
        ffi::replace_all_uses(result.into(), float);
        self.eraser.erase(operation);
        if let Some(cast) = ir::defining_op(before)
            && ir::op_name(&cast) == "quant.dcast"
        {
            // It stays while others use the value in between.
            self.eraser.erase(cast);
        }
        Ok(())
    }

    /// Quantises a denoiser, term by term.
    pub(super) fn denoiser(&mut self, placed: &Placed<'c, 'a, '_>) -> Result<(), PassError> {
        let Placed { operation, expression, layer, weights, .. } = placed;
        let stages = placed.stages()?;
        let parameters = expression.parameters();
        let (input, input_fraction) = self.input(*operation, layer)?;
        let accumulator_bits = self.hardware.conv.accumulator_bits;

        let mut quantised: Vec<Option<Value<'c, 'a>>> = vec![None; parameters.len()];
        let mut parameter = |this: &mut Self, index: usize, finest: i32| {
            let part = &parameters[index].name;
            let (Some(None), Some(weight)) = (quantised.get(index), weights.get(index)) else {
                return Err(placed.refused(format!("one term, and only one, must read {part}")));
            };
            let words = this.words(*operation, *weight, layer, part, finest)?;
            quantised[index] = Some(words.value);
            Ok(words)
        };
        let mut formats: Vec<Format> = Vec::new();
        let mut fractions = Vec::new();
        let result = stages.result();
        for (id, (stage, near)) in stages.all().iter().zip(near_the_input(&stages)).enumerate() {
            let finest = if near { (input_fraction + HEAD_BITS).min(MAX_FRACTION) } else { MAX_FRACTION };
            let narrowed = |sums: Vec<(Interval, i128)>, fraction: i32, part: &str| {
                if sums.iter().any(|(_, magnitude)| magnitude >> (accumulator_bits - 1) != 0) {
                    return Err(placed.refused(format!(
                        "the sums of {part} may overflow the tile's {accumulator_bits}-bit accumulators"
                    )));
                }
                let sums: Vec<Interval> = sums.into_iter().map(|(sum, _)| sum).collect();
                Ok(narrow(&sums, fraction, finest))
            };
            let format = match stage.unit {
                Unit::Load => Format { fraction: input_fraction, words: vec![ANY_WORD; stage.channels] },
                Unit::Conv { x, taps, weight, bias } => {
                    let x = &formats[x];
                    let kernel = parameter(self, weight, MAX_FRACTION)?;
                    let sum_fraction = x.fraction + kernel.fraction;
                    let bias = bias.map(|bias| parameter(self, bias, sum_fraction)).transpose()?;
                    let sums = (0..stage.channels).map(|filter| {
                        let bias = bias.as_ref().map_or(0, |bias| bias.aligned(filter, sum_fraction));
                        match taps {
                            None => {
                                let row = &kernel.words[filter * x.words.len()..];
                                sum(bias, row.iter().zip(x.words.iter().copied()))
                            }
                            // The kernel is [taps, channels]; a border tap may be the padding's zero.
                            Some(_) => {
                                let (low, high) = x.words[filter];
                                let column = kernel.words[filter..].iter().step_by(stage.channels);
                                sum(bias, column.zip(std::iter::repeat((low.min(0), high.max(0)))))
                            }
                        }
                    });
                    narrowed(sums.collect(), sum_fraction, &parameters[weight].name)?
                }
                Unit::Relu { x } => formats[x].rectified(),
                Unit::Affine { x, scale, shift } => {
                    let x = &formats[x];
                    let scales = scale.map(|scale| parameter(self, scale, MAX_FRACTION)).transpose()?;
                    // Where there is none, a word of 1.
                    let sum_fraction = x.fraction + scales.as_ref().map_or(0, |scales| scales.fraction);
                    let shifts = parameter(self, shift, sum_fraction)?;
                    if sum_fraction - shifts.fraction > 30 {
                        return Err(placed.refused(format!(
                            "{} ranges {} bits wider than what it is added to",
                            parameters[shift].name,
                            sum_fraction - shifts.fraction
                        )));
                    }
                    let sums = x.words.iter().enumerate().map(|(channel, &word)| {
                        let scale = scales.as_ref().map_or(&1, |scales| &scales.words[channel]);
                        sum(shifts.aligned(channel, sum_fraction), std::iter::once((scale, word)))
                    });
                    narrowed(sums.collect(), sum_fraction, &parameters[scale.unwrap_or(shift)].name)?
                }
                Unit::Cancel { x, mean, drawn, adds } => {
                    let operands = [Some(x), mean, drawn].map(|operand| operand.map(|operand| &formats[operand]));
                    cancelled(operands, adds, self.hardware.noise.lfsr_width, id == result)
                        .map_err(|message| placed.refused(message))?
                }
                Unit::Store { .. } => break,
            };
            if id != result && matches!(stage.unit, Unit::Conv { .. } | Unit::Affine { .. } | Unit::Cancel { .. }) {
                let name = expression.terms()[stage.term].name.as_str();
                fractions.push((name, ir::integer(self.context, i64::from(format.fraction))));
            }
            formats.push(format);
        }
        let weights: Option<Vec<_>> = quantised.into_iter().collect();
        let weights = weights.ok_or_else(|| placed.refused("no term reads one of its weights".to_owned()))?;
        let operands: Vec<_> = std::iter::once(input).chain(weights).collect();
        let fractions = (!fractions.is_empty()).then(|| ir::dictionary(self.context, &fractions));
        self.replace(*operation, &operands, formats[result].fraction, fractions)
    }
}

/// Whether a stage's result is at most [`HEAD_BITS`] finer than the input: what is cancelled from it, and X̂.
fn near_the_input(stages: &Stages) -> Vec<bool> {
    let all = stages.all();
    let mut near = vec![false; all.len()];
    for (id, stage) in all.iter().enumerate().rev() {
        match stage.unit {
            Unit::Store { x } => near[x] = true,
            Unit::Cancel { mean, drawn, .. } => mean.into_iter().chain(drawn).for_each(|noise| near[noise] = true),
            Unit::Relu { x } => near[x] |= near[id],
            Unit::Load | Unit::Conv { .. } | Unit::Affine { .. } => {}
        }
    }
    near
}

/// The interval of the exact sum of a bias and products, and a bound of all its partial sums.
fn sum<'w>(bias: i128, products: impl Iterator<Item = (&'w i16, Interval)>) -> (Interval, i128) {
    products.fold(((bias, bias), bias.abs()), |((least, most), magnitude), (w, (low, high))| {
        let (a, b) = (i128::from(*w) * low, i128::from(*w) * high);
        ((least + a.min(b), most + a.max(b)), magnitude + a.abs().max(b.abs()))
    })
}

/// The format of `x ∓ (ε·drawn + mean)`, whose operands are x, mean, drawn. The result X̂ has one bit of headroom over x, none
/// where nothing is ever cancelled; another sum the finest fraction at which none can saturate it.
fn cancelled(
    [x, mean, drawn]: [Option<&Format>; 3],
    adds: bool,
    lfsr_width: u32,
    is_result: bool,
) -> Result<Format, String> {
    let normal = gaussian::fraction(lfsr_width);
    // The sum's operands with their fractions: ε is as likely negative.
    let most = (gaussian::cap(lfsr_width) * fixed::exp2(normal)).ceil() as i128;
    let random = drawn.map(|drawn| {
        let spread = drawn.words.iter().map(|(low, high)| low.abs().max(high.abs()) * most);
        Format { fraction: drawn.fraction + normal, words: spread.map(|spread| (-spread, spread)).collect() }
    });
    let noise: Vec<&Format> = mean.into_iter().chain(&random).collect();
    let x = x.ok_or("there is nothing to cancel from")?;
    let fractions = || noise.iter().map(|format| format.fraction).chain([x.fraction]);
    let common = fractions().max().unwrap_or_default();
    let furthest = common - fractions().min().unwrap_or_default();
    if furthest > 30 {
        return Err(format!("its predicted noise ranges {furthest} bits wider than its output"));
    }
    if is_result {
        let identity = noise.iter().all(|format| format.words.iter().all(|word| *word == (0, 0)));
        return Ok(Format { fraction: x.fraction - i32::from(!identity), words: vec![ANY_WORD; x.words.len()] });
    }
    let sums: Vec<Interval> = (0..x.words.len())
        .map(|channel| {
            let aligned = |format: &Format| {
                let (low, high) = format.words[channel];
                (low << (common - format.fraction), high << (common - format.fraction))
            };
            noise.iter().map(|format| aligned(format)).fold(aligned(x), |(least, most), (low, high)| match adds {
                true => (least + low, most + high),
                false => (least - high, most - low),
            })
        })
        .collect();
    Ok(narrow(&sums, common, MAX_FRACTION))
}

/// The finest fraction, at most `finest` and the sums' own, at which no sum saturates, and the words' intervals there.
fn narrow(sums: &[Interval], sum_fraction: i32, finest: i32) -> Format {
    let round = |sum: i128, fraction: i32| fixed::shift_round(sum, sum_fraction - fraction);
    let most = sums.iter().flat_map(|(low, high)| [*low, *high]).max_by_key(|sum| sum.abs()).unwrap_or(0);
    let mut fraction = finest.min(sum_fraction).min(MAX_FRACTION);
    while round(most, fraction).abs() > i128::from(i16::MAX) {
        fraction -= 1;
    }
    let words = sums.iter().map(|(low, high)| (round(*low, fraction), round(*high, fraction))).collect();
    Format { fraction, words }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowing_keeps_all_sums_in_range() {
        // 40000 does not fit; halved, 20000 does.
        let Format { fraction, words } = narrow(&[(-3, 40_000), (5, 7)], 10, 30);
        assert_eq!(fraction, 9);
        assert_eq!(words, [(-2, 20_000), (2, 4)]);
        assert_eq!(narrow(&[(0, 0)], 10, 30).fraction, 10);
        assert_eq!(narrow(&[(0, 1)], 10, 4).fraction, 4);
    }
}
