//! Denoisers as they stand in the IR, and what the passes that bring them to the tile share: the profile they work for, casts to
//! fixed-point words.

use super::stages::Stages;
use crate::pass::{
    PassContext, PassError,
    constants::{built, insert_before},
};
use melior::{
    Context,
    ir::{
        BlockRef, Module, OperationRef, Type, Value,
        operation::{OperationBuilder, OperationLike},
    },
};
use mxc_dialects::{
    analog::AnalogOp,
    denoise::{
        self,
        expression::{Expression, Site},
    },
    dtile, ir,
    noise::Scale,
};
use mxc_runtime::{digital::fixed, hardware::Hardware};
use std::path::PathBuf;

/// The attribute of a quantised denoiser with the fraction bits inside it, by the names of the terms that have a format of their
/// own (a LeakyReLU has its operand's).
pub const FRACTIONS: &str = "fractions";
/// The option of passes that depend on the hardware.
pub const HARDWARE_OPTION: (&str, &str) =
    ("hardware", "a hardware profile (TOML) instead of the caller's or the paper's");

/// The profile that such a pass works for: its option's file, else the caller's, else the paper's.
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
    block: BlockRef<'c, 'a>,
    before: OperationRef<'c, 'a>,
    name: &str,
    value: Value<'c, 'a>,
    to: Type<'c>,
) -> Result<Value<'c, 'a>, PassError> {
    let operation = OperationBuilder::new(name, before.location()).add_operands(&[value]).add_results(&[to]).build();
    insert_before(block, before, built(name, operation)?)
}

/// A denoiser in the IR.
pub struct Placed<'c, 'a, 'e> {
    /// Its operation.
    pub operation: OperationRef<'c, 'a>,
    /// The layer that it cleans.
    pub layer: String,
    /// Where it acts among the layer's.
    pub stage: denoise::Stage,
    /// What it computes.
    pub expression: &'e Expression,
    /// What it is placed on.
    pub site: Site,
    /// Its weights, in the order of the expression's parameters.
    pub weights: Vec<Value<'c, 'a>>,
}

impl<'c, 'a> Placed<'c, 'a, 'static> {
    /// Reads an operation; `None` when it is no denoiser.
    pub fn read(operation: OperationRef<'c, 'a>) -> Result<Option<Self>, PassError> {
        let Some(view) = denoise::Denoiser::new(operation) else {
            return Ok(None);
        };
        let (layer, weights, expression) = (view.layer(), view.weights(), view.kind().expression());
        let refused = |message: String| PassError::new(format!("layer '{layer}': {message}")).at(operation.location());
        let channels = view.channels().ok_or_else(|| refused("its denoiser's channels are not known".to_owned()))?;
        let shapes: Vec<Vec<usize>> =
            weights.iter().map(|weight| dtile::shape(*weight)).collect::<Result<_, _>>().map_err(refused)?;
        let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        let site = expression.fit(channels, &shapes).map_err(refused)?;
        Ok(Some(Self { operation, layer, stage: view.kind().stage, expression, site, weights }))
    }
}

impl Placed<'_, '_, '_> {
    /// What the tile does for it alone.
    pub fn stages(&self) -> Result<Stages, PassError> {
        Stages::new(&[(self.expression, self.site)]).map_err(|message| self.refused(message))
    }

    /// An error about it.
    pub fn refused(&self, message: String) -> PassError {
        PassError::new(format!("layer '{}': {message}", self.layer)).at(self.operation.location())
    }
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
    let columns = op.columns().map_err(refused)?;
    let full = columns.map_or(calibration.absmax, |columns| columns.reach());
    let range = if noise.scale == Scale::Range { full } else { 2.0 * calibration.absmax };
    Ok(fixed::fraction_for(range, f64::from(i16::MAX)))
}
