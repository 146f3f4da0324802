//! Checks that IRDL cannot state: shape relations, layer names, dictionaries, globals.

use crate::{
    analog::{self, AnalogOp},
    denoise::{self, expression::Site},
    diagnostic::Diagnostic,
    dtile, ir,
    shape::{self, Window, show},
};
use melior::ir::{
    Module, OperationRef, ShapedTypeLike, TypeLike, Value, ValueLike, operation::OperationLike,
    r#type::RankedTensorType,
};
use std::collections::{BTreeMap, BTreeSet};

type Shape = Vec<Option<usize>>;

/// Checks a module of any level; returns every violation, each at its operation, which it names with its layer.
pub fn verify(module: &Module<'_>) -> Result<(), Vec<Diagnostic>> {
    let mut violations = Vec::new();
    let functions = ir::module_ops(module).into_iter().filter(|operation| ir::op_name(operation) == "func.func");
    let globals = ir::globals(module);
    for (name, global) in &globals {
        if let Err(message) = verify_global(global) {
            violations.push(Diagnostic::at(global.location(), format!("ml_program.global @{name}: {message}")));
        }
    }
    let mut layers = BTreeSet::new();
    let mut placed = BTreeSet::new();
    for function in functions {
        let mut outputs = BTreeMap::new();
        for operation in ir::entry_block(function).map(ir::block_ops).unwrap_or_default() {
            let name = ir::op_name(&operation);
            let result = if name == "ml_program.global_load_const" {
                verify_load(&operation, &globals)
            } else if let Some(block) = denoise::Denoiser::new(operation) {
                verify_denoiser(block, &outputs, &mut placed)
            } else if let Some(op) = AnalogOp::new(operation) {
                verify_analog(op, &mut layers, &mut outputs)
            } else {
                Ok(())
            };
            if let Err(message) = result {
                let layer =
                    ir::string_attr(&operation, analog::LAYER).map_or(String::new(), |layer| format!(" \"{layer}\""));
                violations.push(Diagnostic::at(operation.location(), format!("{name}{layer}: {message}")));
            }
        }
    }
    if let Err(found) = dtile::verify::verify(module) {
        violations.extend(found);
    }
    if violations.is_empty() { Ok(()) } else { Err(violations) }
}

fn verify_global(global: &OperationRef<'_, '_>) -> Result<(), String> {
    let r#type = ir::type_attr(global, "type").ok_or("it has no type")?;
    let shape = ir::tensor_shape(r#type);
    if ir::is_extern_global(global) && shape.is_none_or(|shape| shape.contains(&None)) {
        return Err(format!("an external weight has the type {type}, not a static tensor"));
    }
    Ok(())
}

fn verify_load(load: &OperationRef<'_, '_>, globals: &BTreeMap<String, OperationRef<'_, '_>>) -> Result<(), String> {
    let name = ir::symbol_attr(load, "global").ok_or("it names no global")?;
    let global = globals.get(&name).ok_or_else(|| format!("there is no global @{name}"))?;
    let declared = ir::type_attr(global, "type").map(|r#type| r#type.to_string());
    let loaded = load.result(0).map(|result| result.r#type().to_string()).ok();
    if declared != loaded {
        return Err(format!(
            "@{name} is {} but is loaded as {}",
            declared.unwrap_or_default(),
            loaded.unwrap_or_default()
        ));
    }
    Ok(())
}

/// The shape of an f32 operand or result.
fn float_shape(what: &str, value: Option<Value<'_, '_>>) -> Result<Shape, String> {
    let value = value.ok_or_else(|| format!("it has no {what}"))?;
    let tensor = RankedTensorType::try_from(value.r#type()).ok();
    match ir::value_shape(value) {
        Some(shape) if tensor.is_some_and(|tensor| tensor.element().is_f32()) => Ok(shape),
        _ => Err(format!("the {what} is {}, not a ranked f32 tensor", value.r#type())),
    }
}

fn verify_analog(
    op: AnalogOp<'_, '_>,
    layers: &mut BTreeSet<String>,
    layer_outputs: &mut BTreeMap<String, Site>,
) -> Result<(), String> {
    let layer = op.layer();
    if layer.is_empty() {
        return Err("its layer has no name".to_owned());
    }
    if !layers.insert(layer.clone()) {
        return Err("another layer has this name".to_owned());
    }
    op.noise()?;
    op.calibration()?;
    if let (Some(columns), Some(channels)) = (op.columns()?, op.channels())
        && columns.shift.len() != channels
    {
        return Err(format!("its column_shift has {} numbers for {channels} channels", columns.shift.len()));
    }
    op.input_range()?;
    op.execution()?;
    let operation = op.operation();
    if operation.has_attribute(analog::GRADIENT_NORM)
        && !op.gradient_norm().is_some_and(|norm| norm.is_finite() && norm >= 0.0)
    {
        return Err("its gradient_norm is not a finite, non-negative f64".to_owned());
    }
    if operation.has_attribute(analog::RANK) && op.rank().is_none() {
        return Err("its rank is not a non-negative integer".to_owned());
    }
    let input = float_shape("input", op.input())?;
    let weight = float_shape("weight", op.weight())?;
    let bias = float_shape("bias", op.bias())?;
    let output = float_shape("output", op.output())?;
    let weight: Vec<usize> = weight
        .iter()
        .copied()
        .collect::<Option<_>>()
        .ok_or_else(|| format!("the weight {} is not static", show(&weight)))?;
    let window = |window: Option<Window>| window.ok_or("stride and dilation want 2 sizes, pad 4");
    let expected = match op {
        AnalogOp::FullyConnected(_) => shape::fully_connected(&input, &weight)?,
        AnalogOp::Conv2d(conv) => {
            let window = window(conv.window())?;
            let groups = conv.groups().filter(|groups| *groups > 0).ok_or("groups must be positive")?;
            shape::convolution(&input, &weight, &window, groups)?
        }
        AnalogOp::DepthwiseConv2d(conv) => {
            let [height, width, channels, multiplier] = *weight else {
                return Err(format!("the weight {weight:?} has not rank 4"));
            };
            if let Some(inputs) = input.last().copied().flatten().filter(|inputs| *inputs != channels) {
                return Err(format!("the weight (HWCM) has {channels} channels but the input {inputs}"));
            }
            let outputs = channels.checked_mul(multiplier).ok_or("the weight is too large")?;
            shape::convolution(&input, &[outputs, height, width, 1], &window(conv.window())?, channels)?
        }
    };
    if output != expected {
        return Err(format!("the output is {} but must be {}", show(&output), show(&expected)));
    }
    let outputs = expected.last().copied().flatten().unwrap_or_default();
    shape::bias(&bias, outputs)?;
    layer_outputs.insert(layer, Site { channels: outputs, spatial: op.is_spatial() });
    Ok(())
}

fn verify_denoiser(
    block: denoise::Denoiser<'_, '_>,
    layers: &BTreeMap<String, Site>,
    placed: &mut BTreeSet<(String, denoise::Stage)>,
) -> Result<(), String> {
    let layer = block.layer();
    let site = *layers.get(&layer).ok_or("no analog layer of this name comes before it")?;
    let kind = block.kind();
    if placed.range((layer.clone(), kind.stage)..).next().is_some_and(|(other, _)| *other == layer) {
        return Err(match kind.stage {
            denoise::Stage::Block => "the layer has another block, or an affine or a bias before it".to_owned(),
            denoise::Stage::Affine => "the layer has another affine or bias".to_owned(),
        });
    }
    placed.insert((layer, kind.stage));
    let shape = |value: Option<Value<'_, '_>>| value.and_then(ir::value_shape).unwrap_or_default();
    let (input, output) = (shape(block.input()), shape(block.output()));
    if input != output {
        return Err(format!("the input is {} but the output {}", show(&input), show(&output)));
    }
    if input.last() != Some(&Some(site.channels)) {
        return Err(format!("the input is {} but the layer has {} channels", show(&input), site.channels));
    }
    block.measured()?;
    for (parameter, weight) in kind.expression().parameters().iter().zip(block.weights()) {
        check_weight(&parameter.name, weight, &parameter.layout.shape(site))?;
    }
    Ok(())
}

/// Checks a weight's shape; its elements are f32, or words after `quantize-denoisers`.
fn check_weight(part: &str, weight: Value<'_, '_>, shape: &[usize]) -> Result<(), String> {
    let found = ir::value_shape(weight).unwrap_or_default();
    let expected: Shape = shape.iter().map(|size| Some(*size)).collect();
    if found != expected {
        return Err(format!("{part} is {} but must be {}", show(&found), show(&expected)));
    }
    Ok(())
}
