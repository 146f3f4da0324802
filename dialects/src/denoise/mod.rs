//! Typed views and builders of the `denoise` dialect: trainable digital blocks on an analog layer's noisy output. What a
//! denoiser computes is its [`Kind`]'s [`expression`].

mod affine;
pub mod expression;
mod mean;
mod paper;

use crate::ir;
use expression::Expression;
use melior::{
    Context,
    ir::{
        Attribute, Identifier, Location, Operation, OperationRef, Type, Value, ValueLike,
        attribute::{DenseI32ArrayAttribute, DictionaryAttribute, FloatAttribute},
        operation::{OperationBuilder, OperationLike},
    },
};
use std::{fmt, sync::LazyLock};

/// A kind of denoiser: what mxc knows of it.
pub struct Kind {
    /// Its name on the command line, in the IR and in packages.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Where it acts among a layer's denoisers.
    pub stage: Stage,
    expression: LazyLock<Expression>,
}

/// The denoisers of a layer act in this order, at most one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// A block, on the layer's output.
    Block,
    /// An affine, behind the block if there is one.
    Affine,
}

/// Every kind of denoiser.
pub static KINDS: [&Kind; 3] = [&paper::KIND, &mean::KIND, &affine::KIND];

impl Kind {
    /// The kind of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        KINDS.into_iter().find(|kind| kind.name == name)
    }

    /// Its arithmetic.
    pub fn expression(&self) -> &Expression {
        &self.expression
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

/// LeakyReLU's slope in float and fixed point alike: 2⁻⁷, a shift in hardware.
pub const SLOPE: f64 = 1.0 / 128.0;

/// The bottleneck width of a block on C channels: max(1, round(C / 4)), halves away from zero.
pub fn bottleneck(channels: usize) -> usize {
    // round(c/4) with halves up is floor((c + 2) / 4) for non-negative integers.
    (channels.saturating_add(2) / 4).max(1)
}

/// The parameters of a block: C·B + T·B + 2·B·C weights and 2·B + 2·C biases, where T is 9 with spatial axes and 1
/// without; without σ̂ (`sigma = false`, the kind `mean`) B·C weights and C biases fewer.
pub fn block_parameters(channels: usize, spatial: bool, sigma: bool) -> u64 {
    let (c, b) = (channels as u64, bottleneck(channels) as u64);
    let taps = if spatial { 9 } else { 1 };
    let heads = if sigma { 2 } else { 1 };
    c * b + taps * b + heads * b * c + 2 * b + heads * c
}

/// The parameters of an affine: a scale and a shift per channel.
pub fn affine_parameters(channels: usize) -> u64 {
    2 * channels as u64
}

/// The operands of a block after its input, in order, as the last part of their globals' names
/// (`denoise.LAYER.reduce.weight`, …). The kind `mean` has the first six.
pub const BLOCK_WEIGHTS: [&str; 8] = [
    "reduce.weight",
    "reduce.bias",
    "depthwise.weight",
    "depthwise.bias",
    "mean.weight",
    "mean.bias",
    "sigma.weight",
    "sigma.bias",
];

/// The operands of an affine after its input, likewise (`denoise.LAYER.affine.scale`, …).
pub const AFFINE_WEIGHTS: [&str; 2] = ["affine.scale", "affine.shift"];

/// The shapes of a block's weights, in the order of [`BLOCK_WEIGHTS`].
pub fn block_weight_shapes(channels: usize, spatial: bool) -> [Vec<usize>; 8] {
    let (c, b) = (channels, bottleneck(channels));
    let taps = if spatial { 3 } else { 1 };
    [vec![b, 1, 1, c], vec![b], vec![taps, taps, b, 1], vec![b], vec![c, 1, 1, b], vec![c], vec![c, 1, 1, b], vec![c]]
}

/// The name of a denoiser weight's global: `denoise.LAYER.PART`.
pub fn global_name(layer: &str, part: &str) -> String {
    format!("denoise.{layer}.{part}")
}

/// The attribute of a trained `denoise.block` with a σ̂ head: [`Measured`].
pub const MEASURED: &str = "measured";

/// What `mxc finetune` measured of a block, over all elements of the calibration samples on the noisy, denoised network.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// The number of samples.
    pub samples: u64,
    /// √mean(X²) of the block's noisy input.
    pub input_rms: f64,
    /// √mean(σ̂²).
    pub sigma_rms: f64,
}

impl Measured {
    /// The dictionary attribute.
    pub fn to_attribute<'c>(&self, context: &'c Context) -> Attribute<'c> {
        ir::dictionary(
            context,
            &[
                ("samples", ir::integer(context, self.samples as i64)),
                ("input_rms", ir::float(context, self.input_rms)),
                ("sigma_rms", ir::float(context, self.sigma_rms)),
            ],
        )
    }

    /// Reads the dictionary; says what is missing or wrong.
    pub fn from_attribute(dictionary: &DictionaryAttribute<'_>) -> Result<Self, String> {
        let number = |key: &str, least: f64| {
            dictionary
                .element_by_name(key)
                .and_then(ir::as_f64)
                .filter(|value| value.is_finite() && *value >= least)
                .ok_or_else(|| format!("its `{MEASURED}` has no f64 `{key}` of at least {least}"))
        };
        Ok(Self {
            samples: dictionary
                .element_by_name("samples")
                .and_then(ir::as_i64)
                .and_then(|samples| u64::try_from(samples).ok())
                .ok_or_else(|| format!("its `{MEASURED}` has no integer `samples`"))?,
            // Without any signal there is no share of it.
            input_rms: number("input_rms", f64::MIN_POSITIVE)?,
            sigma_rms: number("sigma_rms", 0.0)?,
        })
    }
}

/// A view of `denoise.block`.
#[derive(Clone, Copy, Debug)]
pub struct Block<'c, 'a>(OperationRef<'c, 'a>);

/// A view of `denoise.affine`.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'c, 'a>(OperationRef<'c, 'a>);

impl<'c, 'a> Block<'c, 'a> {
    /// The view of an operation; `None` when it is another.
    pub fn new(operation: OperationRef<'c, 'a>) -> Option<Self> {
        (ir::op_name(&operation) == "denoise.block").then_some(Self(operation))
    }

    /// The operation.
    pub fn operation(self) -> OperationRef<'c, 'a> {
        self.0
    }

    /// The layer it cleans.
    pub fn layer(self) -> String {
        ir::string_attr(&self.0, crate::analog::LAYER).unwrap_or_default()
    }

    /// The bottleneck width B.
    pub fn bottleneck(self) -> Option<usize> {
        ir::i64_attr(&self.0, "bottleneck").and_then(|b| usize::try_from(b).ok())
    }

    /// LeakyReLU's slope.
    pub fn slope(self) -> Option<f64> {
        ir::f64_attr(&self.0, "slope")
    }

    /// The noisy input.
    pub fn input(self) -> Option<Value<'c, 'a>> {
        self.0.operand(0).ok()
    }

    /// The weights, in the order of [`BLOCK_WEIGHTS`]: eight, or six without the σ̂ head.
    pub fn weights(self) -> Vec<Value<'c, 'a>> {
        self.0.operands().skip(1).collect()
    }

    /// Whether it has the σ̂ head.
    pub fn has_sigma(self) -> bool {
        self.0.operand_count() == 9
    }

    /// What fine-tuning measured; `Ok(None)` before it.
    pub fn measured(self) -> Result<Option<Measured>, String> {
        ir::dict_attr(&self.0, MEASURED).map(|dictionary| Measured::from_attribute(&dictionary)).transpose()
    }

    /// The cleaned output.
    pub fn output(self) -> Option<Value<'c, 'a>> {
        self.0.result(0).ok().map(Value::from)
    }

    /// The channels C: the size of the input's last axis.
    pub fn channels(self) -> Option<usize> {
        last_axis(self.input()?)
    }
}

impl<'c, 'a> Affine<'c, 'a> {
    /// The view of an operation; `None` when it is another.
    pub fn new(operation: OperationRef<'c, 'a>) -> Option<Self> {
        (ir::op_name(&operation) == "denoise.affine").then_some(Self(operation))
    }

    /// The operation.
    pub fn operation(self) -> OperationRef<'c, 'a> {
        self.0
    }

    /// The layer it cleans.
    pub fn layer(self) -> String {
        ir::string_attr(&self.0, crate::analog::LAYER).unwrap_or_default()
    }

    /// The input.
    pub fn input(self) -> Option<Value<'c, 'a>> {
        self.0.operand(0).ok()
    }

    /// The scale per channel.
    pub fn scale(self) -> Option<Value<'c, 'a>> {
        self.0.operand(1).ok()
    }

    /// The shift per channel.
    pub fn shift(self) -> Option<Value<'c, 'a>> {
        self.0.operand(2).ok()
    }

    /// The output.
    pub fn output(self) -> Option<Value<'c, 'a>> {
        self.0.result(0).ok().map(Value::from)
    }

    /// The channels C: the size of the input's last axis.
    pub fn channels(self) -> Option<usize> {
        last_axis(self.input()?)
    }
}

fn last_axis(value: Value<'_, '_>) -> Option<usize> {
    ir::value_shape(value)?.last().copied().flatten()
}

/// The attribute of `denoise.block` that says how many values each operand takes: IRDL's variadic operands.
pub const SEGMENTS: &str = "operandSegmentSizes";

/// The value of [`SEGMENTS`] with or without the weights of σ̂.
pub fn segments<'c>(context: &'c Context, sigma: bool) -> Attribute<'c> {
    let sigma = i32::from(sigma);
    DenseI32ArrayAttribute::new(context, &[1, 1, 1, 1, 1, 1, 1, sigma, sigma]).into()
}

/// Builds `denoise.block`; `weights` are six or eight values in the order of [`BLOCK_WEIGHTS`].
pub fn block<'c>(
    context: &'c Context,
    location: Location<'c>,
    input: Value<'c, '_>,
    weights: &[Value<'c, '_>],
    layer: &str,
    bottleneck: usize,
) -> Result<Operation<'c>, melior::Error> {
    let id = |name: &str| Identifier::new(context, name);
    let mut operands = vec![input];
    operands.extend_from_slice(weights);
    OperationBuilder::new("denoise.block", location)
        .add_operands(&operands)
        .add_results(&[input.r#type()])
        .add_attributes(&[
            (id(crate::analog::LAYER), ir::string(context, layer)),
            (id("bottleneck"), ir::integer(context, bottleneck as i64)),
            (id("slope"), FloatAttribute::new(context, Type::float32(context), SLOPE).into()),
            (id(SEGMENTS), segments(context, weights.len() == 8)),
        ])
        .build()
}

/// Builds `denoise.affine`.
pub fn affine<'c>(
    context: &'c Context,
    location: Location<'c>,
    input: Value<'c, '_>,
    scale: Value<'c, '_>,
    shift: Value<'c, '_>,
    layer: &str,
) -> Result<Operation<'c>, melior::Error> {
    OperationBuilder::new("denoise.affine", location)
        .add_operands(&[input, scale, shift])
        .add_results(&[input.r#type()])
        .add_attributes(&[(Identifier::new(context, crate::analog::LAYER), ir::string(context, layer))])
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bottleneck_rounds_halves_up() {
        let widths: Vec<_> = [1, 2, 5, 6, 10, 16, 64].map(bottleneck).into();
        assert_eq!(widths, [1, 1, 1, 2, 3, 4, 16]);
    }

    #[test]
    fn expressions_are_the_paper_s() {
        for channels in [1, 10, 16, 64] {
            for spatial in [true, false] {
                let site = expression::Site { channels, spatial };
                let count = |kind: &Kind| kind.expression().parameter_count(site);
                assert_eq!(count(&paper::KIND), block_parameters(channels, spatial, true));
                assert_eq!(count(&mean::KIND), block_parameters(channels, spatial, false));
                assert_eq!(count(&affine::KIND), affine_parameters(channels));
                let shapes = paper::KIND.expression().parameters().iter().map(|p| p.layout.shape(site));
                assert!(shapes.eq(block_weight_shapes(channels, spatial)));
            }
        }
        let names = paper::KIND.expression().parameters().iter().map(|parameter| parameter.name.as_str());
        assert!(names.eq(BLOCK_WEIGHTS));
    }

    #[test]
    fn parameter_counts_follow_the_shapes() {
        for (channels, spatial) in [(1, true), (10, false), (16, true), (64, true)] {
            let sizes = block_weight_shapes(channels, spatial).map(|shape| shape.iter().product::<usize>() as u64);
            let all: u64 = sizes.iter().sum();
            let mean: u64 = sizes[..6].iter().sum();
            assert_eq!(block_parameters(channels, spatial, true), all);
            assert_eq!(block_parameters(channels, spatial, false), mean);
        }
        assert_eq!(block_parameters(16, true, true), 64 + 36 + 128 + 8 + 32);
        assert_eq!(affine_parameters(10), 20);
    }
}
