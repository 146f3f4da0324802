//! Typed views and builders of the `analog` dialect: matrix-vector multiplications with stationary weights that run on
//! noisy tiles.
//!
//! Attributes that passes add later are optional: `calibration`, `gradient_norm` and `rank` (by `rank-sensitivity`),
//! `worth` (by `estimate-worth`), `denoisers`, `denoiser_parameters`, `chosen` and `reason` (by `insert-denoisers`).

pub use mxc_spec::{
    calibration::{Calibration, Columns, MAX_COLUMN_SHIFT},
    execution::{Execution, MAX_READS},
    shape::Window,
};

use crate::{
    ffi,
    ir::{self, DictionaryValue},
};
use melior::{
    Context,
    ir::{
        Attribute, Identifier, Location, Module, Operation, OperationRef, Type, Value,
        attribute::DictionaryAttribute,
        operation::{OperationBuilder, OperationLike, OperationMutLike},
    },
};
use mxc_spec::noise::{LayerNoise, NoiseError};

/// The unique, stable name of a layer: the ONNX node's name, else its first output's.
pub const LAYER: &str = "layer";
/// The noise dictionary: [`LayerNoise`].
pub const NOISE: &str = "noise";
/// The calibration dictionary: [`Calibration`].
pub const CALIBRATION: &str = "calibration";
/// Array of integers: by output channel, the k of the power of two that the converter sees it scaled by ([`Columns`]).
pub const COLUMN_SHIFT: &str = "column_shift";
/// The calibration dictionary of the output so scaled.
pub const COLUMN_CALIBRATION: &str = "column_calibration";
/// f64: the full scale of the converters of the layer's input, where it is not the calibrated largest value.
pub const INPUT_RANGE: &str = "input_range";
/// i64, 2 to [`MAX_READS`]: how often the tile computes each product, of which the mean is taken digitally; once if absent.
pub const READS: &str = "reads";
/// Unit: the layer is computed on a digital unit, without noise. It is an analog one all the same, of the network that mxc was given.
pub const DIGITAL: &str = "digital";
/// f64: the mean over calibration samples of the per-sample ‖∂L/∂y‖₂ on the clean model.
pub const GRADIENT_NORM: &str = "gradient_norm";
/// i64: the layer's place when sorted by descending gradient norm, 0 for the largest.
pub const RANK: &str = "rank";
/// Dictionary of f64: by choice of denoisers, such as `mean+affine`, what they would take away of the distillation loss, in nats per
/// sample.
pub const WORTH: &str = "worth";
/// Array of strings: the denoisers placed after the layer.
pub const DENOISERS: &str = "denoisers";
/// i64: their parameters.
pub const DENOISER_PARAMETERS: &str = "denoiser_parameters";
/// bool: whether any was placed.
pub const CHOSEN: &str = "chosen";
/// string: why, or why not.
pub const REASON: &str = "reason";

impl DictionaryValue for LayerNoise {
    /// Its values are in their text form.
    fn to_attribute<'c>(&self, context: &'c Context) -> Attribute<'c> {
        ir::dictionary(
            context,
            &[
                ("spec", ir::string(context, &self.spec.to_string())),
                ("scale", ir::string(context, &self.scale.to_string())),
                ("reference", ir::string(context, &self.reference.to_string())),
            ],
        )
    }

    fn from_attribute(dictionary: &DictionaryAttribute<'_>) -> Result<Self, String> {
        let text = |key: &str| {
            entry(dictionary, key).and_then(ir::as_string).ok_or_else(|| format!("its noise has no string `{key}`"))
        };
        let wrong = |error: NoiseError| error.to_string();
        Ok(Self {
            spec: text("spec")?.parse().map_err(wrong)?,
            scale: text("scale")?.parse().map_err(wrong)?,
            reference: text("reference")?.parse().map_err(wrong)?,
        })
    }
}

impl DictionaryValue for Calibration {
    fn to_attribute<'c>(&self, context: &'c Context) -> Attribute<'c> {
        ir::dictionary(
            context,
            &[
                ("samples", ir::integer(context, self.samples as i64)),
                ("rms", ir::float(context, self.rms)),
                ("absmax", ir::float(context, self.absmax)),
                ("mean_abs", ir::float(context, self.mean_abs)),
                ("std", ir::float(context, self.std)),
                ("input_absmax", ir::float(context, self.input_absmax)),
            ],
        )
    }

    fn from_attribute(dictionary: &DictionaryAttribute<'_>) -> Result<Self, String> {
        let number = |key: &str| {
            entry(dictionary, key)
                .and_then(ir::as_f64)
                .filter(|value| value.is_finite() && *value >= 0.0)
                .ok_or_else(|| format!("its calibration has no finite, non-negative f64 `{key}`"))
        };
        Ok(Self {
            samples: entry(dictionary, "samples")
                .and_then(ir::as_i64)
                .and_then(|samples| u64::try_from(samples).ok())
                .ok_or("its calibration has no integer `samples`")?,
            rms: number("rms")?,
            absmax: number("absmax")?,
            mean_abs: number("mean_abs")?,
            std: number("std")?,
            input_absmax: number("input_absmax")?,
        })
    }
}

fn entry<'c>(dictionary: &DictionaryAttribute<'c>, key: &str) -> Option<Attribute<'c>> {
    dictionary.element_by_name(key)
}

/// Which of the three operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `analog.conv2d`
    Conv2d,
    /// `analog.depthwise_conv2d`
    DepthwiseConv2d,
    /// `analog.fully_connected`
    FullyConnected,
}

impl Kind {
    /// The operation's name.
    pub const fn op_name(self) -> &'static str {
        match self {
            Self::Conv2d => "analog.conv2d",
            Self::DepthwiseConv2d => "analog.depthwise_conv2d",
            Self::FullyConnected => "analog.fully_connected",
        }
    }
}

/// Reads `stride`, `pad` and `dilation` of any operation that has them (TOSA's or ours).
pub fn window(operation: &OperationRef<'_, '_>) -> Option<Window> {
    Some(Window {
        stride: sizes(operation, "stride")?,
        pad: sizes(operation, "pad")?,
        dilation: sizes(operation, "dilation")?,
    })
}

fn sizes<const N: usize>(operation: &OperationRef<'_, '_>, name: &str) -> Option<[usize; N]> {
    let values: Option<Vec<usize>> =
        ir::i64s_attr(operation, name)?.into_iter().map(|value| usize::try_from(value).ok()).collect();
    values?.try_into().ok()
}

/// Any operation of the dialect.
#[derive(Clone, Copy, Debug)]
pub enum AnalogOp<'c, 'a> {
    /// A 2-D convolution.
    Conv2d(Conv2d<'c, 'a>),
    /// A depthwise convolution.
    DepthwiseConv2d(DepthwiseConv2d<'c, 'a>),
    /// A fully connected layer.
    FullyConnected(FullyConnected<'c, 'a>),
}

/// `analog.conv2d`: input NHWC, weight OHWI (I = C / groups), bias O.
#[derive(Clone, Copy, Debug)]
pub struct Conv2d<'c, 'a>(OperationRef<'c, 'a>);
/// `analog.depthwise_conv2d`: input NHWC, weight HWCM, bias C·M.
#[derive(Clone, Copy, Debug)]
pub struct DepthwiseConv2d<'c, 'a>(OperationRef<'c, 'a>);
/// `analog.fully_connected`: input `[…, I]`, weight `[O, I]`, bias `[O]`.
#[derive(Clone, Copy, Debug)]
pub struct FullyConnected<'c, 'a>(OperationRef<'c, 'a>);

impl<'c, 'a> Conv2d<'c, 'a> {
    /// The operation.
    pub fn operation(self) -> OperationRef<'c, 'a> {
        self.0
    }

    /// Stride, padding and dilation; `None` when an attribute is malformed.
    pub fn window(self) -> Option<Window> {
        window(&self.0)
    }

    /// The number of groups; `None` when malformed.
    pub fn groups(self) -> Option<usize> {
        ir::i64_attr(&self.0, "groups").and_then(|groups| usize::try_from(groups).ok())
    }
}

impl<'c, 'a> DepthwiseConv2d<'c, 'a> {
    /// The operation.
    pub fn operation(self) -> OperationRef<'c, 'a> {
        self.0
    }

    /// Stride, padding and dilation; `None` when an attribute is malformed.
    pub fn window(self) -> Option<Window> {
        window(&self.0)
    }
}

impl<'c, 'a> FullyConnected<'c, 'a> {
    /// The operation.
    pub fn operation(self) -> OperationRef<'c, 'a> {
        self.0
    }
}

impl<'c, 'a> AnalogOp<'c, 'a> {
    /// The view of an operation; `None` when it is not of the dialect.
    pub fn new(operation: OperationRef<'c, 'a>) -> Option<Self> {
        match ir::op_name(&operation).as_str() {
            "analog.conv2d" => Some(Self::Conv2d(Conv2d(operation))),
            "analog.depthwise_conv2d" => Some(Self::DepthwiseConv2d(DepthwiseConv2d(operation))),
            "analog.fully_connected" => Some(Self::FullyConnected(FullyConnected(operation))),
            _ => None,
        }
    }

    /// The analog operations of `@main`, in order.
    pub fn all(module: &'a Module<'c>) -> Vec<Self> {
        ir::main_function(module)
            .and_then(ir::entry_block)
            .map(|block| ir::block_ops(block).into_iter().filter_map(Self::new).collect())
            .unwrap_or_default()
    }

    /// The operation.
    pub fn operation(self) -> OperationRef<'c, 'a> {
        match self {
            Self::Conv2d(op) => op.0,
            Self::DepthwiseConv2d(op) => op.0,
            Self::FullyConnected(op) => op.0,
        }
    }

    /// Which of the three it is.
    pub fn kind(self) -> Kind {
        match self {
            Self::Conv2d(_) => Kind::Conv2d,
            Self::DepthwiseConv2d(_) => Kind::DepthwiseConv2d,
            Self::FullyConnected(_) => Kind::FullyConnected,
        }
    }

    /// The layer's name.
    pub fn layer(self) -> String {
        ir::string_attr(&self.operation(), LAYER).unwrap_or_default()
    }

    /// The noise dictionary.
    pub fn noise(self) -> Result<LayerNoise, String> {
        ir::dict_attr(&self.operation(), NOISE)
            .ok_or_else(|| "it has no noise dictionary".to_owned())
            .and_then(|dictionary| LayerNoise::from_attribute(&dictionary))
    }

    /// The calibration dictionary; `Ok(None)` before calibration.
    pub fn calibration(self) -> Result<Option<Calibration>, String> {
        ir::dict_attr(&self.operation(), CALIBRATION)
            .map(|dictionary| Calibration::from_attribute(&dictionary))
            .transpose()
    }

    /// How its converters see the output; `Ok(None)` where ranges are not equalized.
    pub fn columns(self) -> Result<Option<Columns>, String> {
        let operation = self.operation();
        let calibration = ir::dict_attr(&operation, COLUMN_CALIBRATION);
        let (attribute, calibration) = match (operation.attribute(COLUMN_SHIFT), calibration) {
            (Ok(shift), Some(calibration)) => (shift, Calibration::from_attribute(&calibration)?),
            (Err(_), None) => return Ok(None),
            _ => return Err(format!("it has one of `{COLUMN_SHIFT}` and `{COLUMN_CALIBRATION}` without the other")),
        };
        let shifts = ir::as_i64s(attribute).ok_or_else(|| format!("its `{COLUMN_SHIFT}` is no array of integers"))?;
        let small = |shift: i64| i8::try_from(shift).ok().filter(|shift| (0..=MAX_COLUMN_SHIFT).contains(shift));
        let shifts: Option<Vec<i8>> = shifts.into_iter().map(small).collect();
        let shift = shifts.ok_or_else(|| format!("its `{COLUMN_SHIFT}` are not all from 0 to {MAX_COLUMN_SHIFT}"))?;
        Ok(Some(Columns { shift, calibration }))
    }

    /// The full scale of its input's converters; `Ok(None)` where it is the calibrated largest value.
    pub fn input_range(self) -> Result<Option<f64>, String> {
        let operation = self.operation();
        if !operation.has_attribute(INPUT_RANGE) {
            return Ok(None);
        }
        let range = ir::f64_attr(&operation, INPUT_RANGE).filter(|range| range.is_finite() && *range > 0.0);
        range.map(Some).ok_or_else(|| format!("its `{INPUT_RANGE}` is no finite f64 above 0"))
    }

    /// Says how its converters see input and output: as calibrated where there is nothing else.
    pub fn set_ranges(self, context: &'c Context, columns: Option<&Columns>, input: Option<f64>) {
        let shift = columns.map(|columns| columns.shift.iter().map(|&k| i64::from(k)).collect::<Vec<_>>());
        self.set(COLUMN_SHIFT, shift.map(|shift| ir::i64s(context, &shift)));
        self.set(COLUMN_CALIBRATION, columns.map(|columns| columns.calibration.to_attribute(context)));
        self.set(INPUT_RANGE, input.map(|range| ir::float(context, range)));
    }

    /// Sets an attribute, or removes it.
    fn set(self, name: &str, value: Option<Attribute<'c>>) {
        let mut operation = ffi::as_mut(self.operation());
        match value {
            Some(value) => operation.set_attribute(name, value),
            // What is not there needs no removal.
            None => drop(operation.remove_attribute(name)),
        }
    }

    /// How its products are computed.
    pub fn execution(self) -> Result<Execution, String> {
        let operation = self.operation();
        match (operation.attribute(DIGITAL), operation.has_attribute(READS)) {
            (Err(_), false) => Ok(Execution::default()),
            (Ok(digital), false) if digital.to_string() == "unit" => Ok(Execution::Digital),
            (Ok(_), false) => Err(format!("its `{DIGITAL}` is no unit")),
            (Ok(_), true) => Err(format!("it has `{READS}` and is `{DIGITAL}`, where no tile reads")),
            (Err(_), true) => {
                let reads = ir::i64_attr(&operation, READS).and_then(|reads| u32::try_from(reads).ok());
                let reads = reads.filter(|reads| (2..=MAX_READS).contains(reads)).ok_or_else(|| {
                    format!("its `{READS}` is no integer from 2 to {MAX_READS}; a layer that is read once has none")
                })?;
                Ok(Execution::Analog { reads })
            }
        }
    }

    /// Says how its products are computed.
    pub fn set_execution(self, context: &'c Context, execution: Execution) {
        let (reads, digital) = match execution {
            Execution::Analog { reads } => (Some(reads).filter(|&reads| reads > 1), false),
            Execution::Digital => (None, true),
        };
        self.set(READS, reads.map(|reads| ir::integer(context, i64::from(reads))));
        self.set(DIGITAL, digital.then(|| Attribute::unit(context)));
    }

    /// The sensitivity, once ranked.
    pub fn gradient_norm(self) -> Option<f64> {
        ir::f64_attr(&self.operation(), GRADIENT_NORM)
    }

    /// The rank (0 = largest gradient norm), once ranked.
    pub fn rank(self) -> Option<usize> {
        ir::i64_attr(&self.operation(), RANK).and_then(|rank| usize::try_from(rank).ok())
    }

    /// The input.
    pub fn input(self) -> Option<Value<'c, 'a>> {
        self.operation().operand(0).ok()
    }

    /// The weight.
    pub fn weight(self) -> Option<Value<'c, 'a>> {
        self.operation().operand(1).ok()
    }

    /// The bias.
    pub fn bias(self) -> Option<Value<'c, 'a>> {
        self.operation().operand(2).ok()
    }

    /// The noisy output.
    pub fn output(self) -> Option<Value<'c, 'a>> {
        self.operation().result(0).ok().map(Value::from)
    }

    /// The output's channels: the size of its last axis.
    pub fn channels(self) -> Option<usize> {
        ir::value_shape(self.output()?)?.last().copied().flatten()
    }

    /// What a choice of denoisers, such as `mean+affine`, would take away of the loss, in nats per sample; `None` where that was not
    /// measured.
    pub fn worth(self, choice: &str) -> Option<f64> {
        let dictionary = ir::dict_attr(&self.operation(), WORTH)?;
        entry(&dictionary, choice).and_then(ir::as_f64).filter(|worth| worth.is_finite())
    }

    /// Whether its noise is any.
    pub fn is_noisy(self) -> bool {
        self.noise().is_ok_and(|noise| !noise.spec.is_ideal())
    }

    /// Whether `estimate-worth` has looked at the layer.
    pub fn is_estimated(self) -> bool {
        self.operation().has_attribute(WORTH)
    }

    /// Whether the layer computes on spatial axes: a denoising block's depthwise stage is 3×3 there, and 1×1 after a fully
    /// connected layer, whatever the axes before its channels are (tokens, or the pixels of a channels-last network).
    pub fn is_spatial(self) -> bool {
        !matches!(self, Self::FullyConnected(_))
    }
}

/// Builds an analog operation. `window` and `groups` apply to the convolutions.
#[allow(clippy::too_many_arguments)]
pub fn build<'c>(
    context: &'c Context,
    location: Location<'c>,
    kind: Kind,
    operands: [Value<'c, '_>; 3],
    output: Type<'c>,
    layer: &str,
    window: Option<Window>,
    groups: usize,
    noise: &LayerNoise,
) -> Result<Operation<'c>, melior::Error> {
    let id = |name: &str| Identifier::new(context, name);
    let mut attributes = vec![(id(LAYER), ir::string(context, layer)), (id(NOISE), noise.to_attribute(context))];
    if let Some(window) = window {
        let array = |values: &[usize]| {
            let values: Vec<i64> = values.iter().map(|value| *value as i64).collect();
            ir::i64s(context, &values)
        };
        attributes.push((id("stride"), array(&window.stride)));
        attributes.push((id("pad"), array(&window.pad)));
        attributes.push((id("dilation"), array(&window.dilation)));
    }
    if kind == Kind::Conv2d {
        attributes.push((id("groups"), ir::integer(context, groups as i64)));
    }
    OperationBuilder::new(kind.op_name(), location)
        .add_operands(&operands)
        .add_results(&[output])
        .add_attributes(&attributes)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionaries_round_trip() {
        let context = crate::new_context();
        let noise = LayerNoise::default();
        let attribute = noise.to_attribute(&context);
        let dictionary = DictionaryAttribute::try_from(attribute).expect("a dictionary");
        assert_eq!(LayerNoise::from_attribute(&dictionary), Ok(noise));
        let calibration =
            Calibration { samples: 512, rms: 0.5, absmax: 3.25, mean_abs: 0.25, std: 0.125, input_absmax: 6.0 };
        let attribute = calibration.to_attribute(&context);
        let dictionary = DictionaryAttribute::try_from(attribute).expect("a dictionary");
        assert_eq!(Calibration::from_attribute(&dictionary), Ok(calibration));
        assert_eq!(calibration.reference(mxc_spec::noise::Reference::MeanAbs), 0.25);
        assert!(LayerNoise::from_attribute(&dictionary).is_err());
    }
}
