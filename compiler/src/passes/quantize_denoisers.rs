//! `quantize-denoisers`: gives every tensor of a denoiser a 16-bit fixed-point format and its weights their words.
//!
//! ```mlir
//! %2 = "denoise.block"(%1, %reduce, …) {layer = "conv1", …} : (tensor<?x8x8x16xf32>, …) -> tensor<?x8x8x16xf32>
//! // becomes
//! %2 = quant.qcast %1 : tensor<?x8x8x16xf32> to tensor<?x8x8x16x!quant.uniform<i16:f32, 2.44140625E-4>>
//! %3 = ml_program.global_load_const @denoise.conv1.reduce.weight.i16 : tensor<4x1x1x16xi16>
//! %4 = quant.scast %3 : tensor<4x1x1x16xi16> to tensor<4x1x1x16x!quant.uniform<i16:f32, 3.05175781E-5>>
//! %5 = "denoise.block"(%2, %4, …) {fractions = {depthwise = 11, hidden = 12, mean = 11, sigma = 13}, layer = "conv1", …}
//! %6 = quant.dcast %5 : … to tensor<?x8x8x16xf32>
//! ```
//!
//! A format is a number of fraction bits f (scale 2^-f, zero point 0); scales are powers of two, so that aligning is shifting.
//!
//! - The **input**'s f comes from the layer's calibrated absmax: exactly that range where the tile saturates there
//!   (`range`), twice that for noise scales without saturation.
//! - **Weights and biases** use their own absmax; a bias is never finer than the sum it is added to.
//! - **h, g, μ̂, σ̂** get the finest f at which no input can saturate them, by interval arithmetic on the words, channel by
//!   channel through both LeakyReLUs. μ̂ and σ̂ are at most 8 bits finer than the input: less would not show in x̂.
//! - **x̂** has one bit of headroom over the input (a fresh block, the identity, none) and saturates there; an affine's output
//!   has the finest f at which none can saturate it.
//!
//! That no sum overflows the accumulators is proved on the way; weights for which it cannot be are refused.

use super::{
    OptionError, Options, Pass, PassContext, PassError,
    constants::{self, Source, built, fresh_symbol, insert_before},
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
    analog::AnalogOp,
    denoise::{self, AFFINE_WEIGHTS, BLOCK_WEIGHTS},
    dtile,
    erase::{Eraser, ModuleMut},
    ffi, ir,
    noise::Scale,
};
use mxc_runtime::{
    digital::{
        fixed::{self, MAX_FRACTION},
        gaussian,
    },
    hardware::Hardware,
};
use std::path::PathBuf;

/// The attribute of a quantised `denoise.block` with the fraction bits inside it: `hidden`, `depthwise`, `mean`, `sigma`.
pub const FRACTIONS: &str = "fractions";
/// How many bits finer than the input a head's output may be.
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

/// The option of the three digital-tile passes.
pub const HARDWARE_OPTION: (&str, &str) =
    ("hardware", "a hardware profile (TOML) instead of the caller's or the paper's");

/// The profile a digital-tile pass works for: its option's file, else the caller's, else the paper's.
pub fn hardware(option: Option<&PathBuf>, cx: &mut PassContext) -> Result<Hardware, PassError> {
    let hardware = match (option, &cx.hardware) {
        (Some(path), _) => Hardware::load(path).map_err(|error| PassError::new(error.to_string()))?,
        (None, Some(hardware)) => hardware.clone(),
        (None, None) => Hardware::paper(),
    };
    for warning in hardware.warnings() {
        if !cx.warnings.contains(&warning) {
            cx.warnings.push(warning);
        }
    }
    Ok(hardware)
}

/// A static or batched tensor of words with `fraction` fraction bits.
pub fn quantised_type<'c>(context: &'c Context, fraction: i32, shape: &[Option<usize>]) -> Result<Type<'c>, PassError> {
    // Powers of two print exactly, and always with a point or exponent that MLIR accepts.
    let text = format!("!quant.uniform<i16:f32, {:?}>", fixed::exp2(-fraction));
    Type::parse(context, &text)
        .map(|element| ir::tensor_type(element, shape))
        .ok_or_else(|| PassError::new(format!("the type {text} cannot be built")))
}

/// `quant.qcast`, `quant.dcast` or `quant.scast`.
pub fn cast<'c, 'a>(
    context: &'c Context,
    block: BlockRef<'c, 'a>,
    before: OperationRef<'c, 'a>,
    name: &str,
    value: Value<'c, 'a>,
    to: Type<'c>,
) -> Result<Value<'c, 'a>, PassError> {
    let _ = context;
    let operation = OperationBuilder::new(name, before.location()).add_operands(&[value]).add_results(&[to]).build();
    insert_before(block, before, built(name, operation)?)
}

/// Quantises every denoiser of `@main`.
fn run<'c>(
    context: &'c Context,
    module: &mut ModuleMut<'c, '_>,
    cx: &PassContext,
    hardware: &Hardware,
) -> Result<(), PassError> {
    let replaced = module.erasing(|module, eraser| quantise(context, module, eraser, cx, hardware))?;
    module.erasing(constants::remove_dead);
    let used = constants::referenced_globals(module);
    module.erasing(|module, eraser| {
        for (name, global) in ir::globals(module) {
            if replaced.contains(&name) && !used.contains(&name) {
                eraser.erase(global);
            }
        }
    });
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
    let mut quantiser = Quantiser { context, module, block, cx, hardware, eraser, replaced: Vec::new() };
    for operation in ir::block_ops(block) {
        let is_f32 = operation.operand(0).is_ok_and(|input| dtile::fraction(input).is_none());
        match ir::op_name(&operation).as_str() {
            "denoise.block" if is_f32 => quantiser.block(operation)?,
            "denoise.affine" if is_f32 => quantiser.affine(operation)?,
            _ => {}
        }
    }
    Ok(quantiser.replaced)
}

/// The fraction bits of a layer's output, as the denoiser `operation` reads it.
pub fn input_fraction(module: &Module<'_>, operation: OperationRef<'_, '_>, layer: &str) -> Result<i32, PassError> {
    let refused = |message: String| PassError::new(format!("layer '{layer}': {message}")).at(operation.location());
    let op = AnalogOp::all(module)
        .into_iter()
        .find(|op| op.layer() == layer)
        .ok_or_else(|| refused("its denoiser has no analog layer of that name".to_owned()))?;
    let calibration = op.calibration().map_err(refused)?.ok_or_else(|| {
        refused("it is not calibrated, so the range of its words is not known".to_owned())
            .hint("run rank-sensitivity before, or `mxc compile`, which does")
    })?;
    let noise = op.noise().map_err(refused)?;
    let range = if noise.scale == Scale::Range { calibration.absmax } else { 2.0 * calibration.absmax };
    Ok(fixed::fraction_for(range, f64::from(i16::MAX)))
}

/// A tensor of words.
struct Words<'c, 'a> {
    words: Vec<i16>,
    fraction: i32,
    /// As a value of quantised type.
    value: Value<'c, 'a>,
}

/// A closed interval of words or sums.
type Interval = (i128, i128);

struct Quantiser<'c, 'a, 'x> {
    context: &'c Context,
    module: &'a Module<'c>,
    block: BlockRef<'c, 'a>,
    cx: &'x PassContext,
    hardware: &'x Hardware,
    eraser: &'x mut Eraser<'c, 'a>,
    replaced: Vec<String>,
}

impl<'c, 'a> Quantiser<'c, 'a, '_> {
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
        let cast = cast(self.context, self.block, operation, "quant.qcast", value, to)?;
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
        let value = cast(self.context, self.block, operation, "quant.scast", load, to)?;
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
        let float = cast(self.context, self.block, operation, "quant.dcast", quantised, result.r#type())?;
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

    fn block(&mut self, operation: OperationRef<'c, 'a>) -> Result<(), PassError> {
        let Some(view) = denoise::Block::new(operation) else {
            return Ok(());
        };
        let layer = view.layer();
        let weights = view.weights();
        let sizes = view.channels().zip(view.bottleneck());
        let (Some((channels, bottleneck)), 6 | 8) = (sizes, weights.len()) else {
            return Err(PassError::new(format!("layer '{layer}': a denoise.block of {} weights", weights.len()))
                .at(operation.location()));
        };
        let (input, input_fraction) = self.input(operation, &layer)?;
        let mut operands = vec![input];
        let fail = |message: String| PassError::new(format!("layer '{layer}': {message}")).at(operation.location());

        let x = vec![(i128::from(i16::MIN), i128::from(i16::MAX)); channels];
        let mut stage = |this: &mut Self, first: usize, input_fraction: i32, finest: i32, input: &[Interval]| {
            let weight = this.words(operation, weights[first], &layer, BLOCK_WEIGHTS[first], MAX_FRACTION)?;
            let sum_fraction = input_fraction + weight.fraction;
            let bias = this.words(operation, weights[first + 1], &layer, BLOCK_WEIGHTS[first + 1], sum_fraction)?;
            operands.extend([weight.value, bias.value]);
            let shift = sum_fraction - bias.fraction;
            // The depthwise kernel is [taps, channels]; a border tap may be the padding's zero.
            let depthwise = first == 2;
            let filters = bias.words.len();
            let mut sums = Vec::with_capacity(filters);
            for (filter, bias) in bias.words.iter().enumerate() {
                let bias = i128::from(*bias) << shift;
                let mut sum = (bias, bias);
                let mut magnitude = bias.abs();
                let terms: Vec<(i128, Interval)> = if depthwise {
                    let (low, high) = input[filter];
                    weight.words[filter..]
                        .iter()
                        .step_by(filters)
                        .map(|w| (i128::from(*w), (low.min(0), high.max(0))))
                        .collect()
                } else {
                    weight.words[filter * input.len()..][..input.len()]
                        .iter()
                        .zip(input)
                        .map(|(w, x)| (i128::from(*w), *x))
                        .collect()
                };
                for (w, (low, high)) in terms {
                    let (a, b) = (w * low, w * high);
                    sum = (sum.0 + a.min(b), sum.1 + a.max(b));
                    magnitude += a.abs().max(b.abs());
                }
                if magnitude >> (this.hardware.conv.accumulator_bits - 1) != 0 {
                    return Err(fail(format!(
                        "the sums of {} may overflow the tile's {}-bit accumulators",
                        BLOCK_WEIGHTS[first], this.hardware.conv.accumulator_bits
                    )));
                }
                sums.push(sum);
            }
            Ok::<_, PassError>(narrow(&sums, sum_fraction, finest))
        };
        let rectify = |words: Vec<Interval>| -> Vec<Interval> {
            let rectify = |word: i128| i128::from(fixed::leaky_relu(word as i16, 7));
            words.into_iter().map(|(low, high)| (rectify(low), rectify(high))).collect()
        };
        let (hidden, h) = stage(self, 0, input_fraction, MAX_FRACTION, &x)?;
        let (depthwise, g) = stage(self, 2, hidden, MAX_FRACTION, &rectify(h))?;
        let g = rectify(g);
        debug_assert_eq!(g.len(), bottleneck);
        let finest = (input_fraction + HEAD_BITS).min(MAX_FRACTION);
        let (mean, mean_words) = stage(self, 4, depthwise, finest, &g)?;
        let sigma = match weights.len() {
            8 => Some(stage(self, 6, depthwise, finest, &g)?),
            _ => None,
        };

        // The common fraction of x, μ̂ and ε·σ̂, and how far each is shifted to it.
        let normal = gaussian::fraction(self.hardware.noise.lfsr_width);
        let product = sigma.as_ref().map(|(sigma, _)| sigma + normal);
        let common = input_fraction.max(mean).max(product.unwrap_or(mean));
        let furthest = (common - input_fraction).max(common - mean).max(product.map_or(0, |product| common - product));
        if furthest > 30 {
            return Err(fail(format!("its predicted noise ranges {furthest} bits wider than its output")));
        }
        let zero = |words: &[Interval]| words.iter().all(|range| *range == (0, 0));
        let identity = zero(&mean_words) && sigma.as_ref().is_none_or(|(_, words)| zero(words));
        let output_fraction = input_fraction - i32::from(!identity);
        let fraction = |fraction: i32| ir::integer(self.context, i64::from(fraction));
        let mut fractions =
            vec![("hidden", fraction(hidden)), ("depthwise", fraction(depthwise)), ("mean", fraction(mean))];
        if let Some((sigma, _)) = &sigma {
            fractions.push(("sigma", fraction(*sigma)));
        }
        self.replace(operation, &operands, output_fraction, Some(ir::dictionary(self.context, &fractions)))
    }

    fn affine(&mut self, operation: OperationRef<'c, 'a>) -> Result<(), PassError> {
        let Some(view) = denoise::Affine::new(operation) else {
            return Ok(());
        };
        let layer = view.layer();
        let (Some(scale), Some(shift)) = (view.scale(), view.shift()) else {
            return Ok(());
        };
        let (input, input_fraction) = self.input(operation, &layer)?;
        let scale = self.words(operation, scale, &layer, AFFINE_WEIGHTS[0], MAX_FRACTION)?;
        let sum_fraction = input_fraction + scale.fraction;
        let shift = self.words(operation, shift, &layer, AFFINE_WEIGHTS[1], sum_fraction)?;
        let alignment = sum_fraction - shift.fraction;
        let sums: Vec<Interval> = scale
            .words
            .iter()
            .zip(&shift.words)
            .map(|(scale, shift)| {
                let ends = [i16::MIN, i16::MAX]
                    .map(|x| i128::from(x) * i128::from(*scale) + (i128::from(*shift) << alignment));
                (ends[0].min(ends[1]), ends[0].max(ends[1]))
            })
            .collect();
        let most = sums.iter().map(|sum| sum.0.abs().max(sum.1.abs())).max();
        if alignment > 30 || most.unwrap_or(0) >> (self.hardware.conv.accumulator_bits - 1) != 0 {
            return Err(PassError::new(format!(
                "layer '{layer}': its affine's shift may overflow the tile's {}-bit sums",
                self.hardware.conv.accumulator_bits
            ))
            .at(operation.location()));
        }
        let finest = (input_fraction + HEAD_BITS).min(MAX_FRACTION);
        let (output_fraction, _) = narrow(&sums, sum_fraction, finest);
        self.replace(operation, &[input, scale.value, shift.value], output_fraction, None)
    }
}

/// The finest fraction, at most `finest` and the sums' own, at which no sum saturates, and the words' intervals there.
fn narrow(sums: &[Interval], sum_fraction: i32, finest: i32) -> (i32, Vec<Interval>) {
    let round = |sum: i128, fraction: i32| fixed::shift_round(sum, sum_fraction - fraction);
    let most = sums.iter().flat_map(|(low, high)| [*low, *high]).max_by_key(|sum| sum.abs()).unwrap_or(0);
    let mut fraction = finest.min(sum_fraction).min(MAX_FRACTION);
    while round(most, fraction).abs() > i128::from(i16::MAX) {
        fraction -= 1;
    }
    let words = sums.iter().map(|(low, high)| (round(*low, fraction), round(*high, fraction))).collect();
    (fraction, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowing_keeps_all_sums_in_range() {
        // 40000 does not fit; halved, 20000 does.
        let (fraction, words) = narrow(&[(-3, 40_000), (5, 7)], 10, 30);
        assert_eq!(fraction, 9);
        assert_eq!(words, [(-2, 20_000), (2, 4)]);
        assert_eq!(narrow(&[(0, 0)], 10, 30).0, 10);
        assert_eq!(narrow(&[(0, 1)], 10, 4).0, 4);
    }
}
