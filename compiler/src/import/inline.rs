//! `--inline-weights`: weights as constants in the module, for upstream's lowerings.

use super::ffi::erase;
use melior::{
    Context,
    ir::{
        BlockLike, Identifier, Module, RegionLike, ShapedTypeLike, Value, ValueLike,
        attribute::DenseElementsAttribute,
        operation::{OperationBuilder, OperationLike},
        r#type::RankedTensorType,
    },
};
use mxc_dialects::{ffi, ir};
use mxc_runtime::store::WeightStore;

/// Replaces every `ml_program.global_load_const` by a `tosa.const` that holds the weight, and removes the globals.
///
/// # Errors
///
/// Names the first weight that the store lacks, or that has another shape there.
pub fn inline_weights<'c>(
    context: &'c Context,
    module: &Module<'c>,
    weights: &WeightStore,
) -> Result<(), String> {
    let mut functions = Vec::new();
    let mut globals = Vec::new();
    let mut next = module.body().first_operation_mut();
    while let Some(operation) = next {
        next = operation.next_in_block_mut();
        match operation.name().as_string_ref().as_str() {
            Ok("ml_program.global") => globals.push(operation),
            Ok("func.func") => functions.push(operation),
            _ => {}
        }
    }
    for function in &functions {
        let Some(block) = function
            .region(0)
            .ok()
            .and_then(|region| region.first_block())
        else {
            continue;
        };
        let mut next = block.first_operation_mut();
        while let Some(operation) = next {
            next = operation.next_in_block_mut();
            if operation.name().as_string_ref().as_str() != Ok("ml_program.global_load_const") {
                continue;
            }
            let name = operation
                .attribute("global")
                .ok()
                .and_then(|symbol| {
                    melior::ir::attribute::FlatSymbolRefAttribute::try_from(symbol).ok()
                })
                .map(|symbol| symbol.value().to_owned())
                .unwrap_or_default();
            let Some(weight) = weights.get(&name) else {
                return Err(format!(
                    "the weight '{name}' is not in the weight store; give its file with --weights"
                ));
            };
            let loaded: Value<'_, '_> = operation
                .result(0)
                .map_err(|error| error.to_string())?
                .into();
            let r#type = loaded.r#type();
            let shape = ir::tensor_shape(r#type)
                .and_then(|shape| shape.into_iter().collect::<Option<Vec<_>>>());
            let is_f32 =
                RankedTensorType::try_from(r#type).is_ok_and(|tensor| tensor.element().is_f32());
            if shape.as_deref() != Some(weight.shape()) || !is_f32 {
                return Err(format!(
                    "the weight '{name}' has the shape {:?}, the module wants {}",
                    weight.shape()
                ));
            }
            let values = DenseElementsAttribute::f32_values(r#type, weight.values());
            let constant = OperationBuilder::new("tosa.const", operation.location())
                .add_attributes(&[(Identifier::new(context, "values"), values.into())])
                .add_results(&[r#type])
                .build()
                .map_err(|error| error.to_string())?;
            let constant = block.insert_operation_before(*operation, constant);
            let value: Value<'_, '_> = constant
                .result(0)
                .map_err(|error| error.to_string())?
                .into();
            ffi::replace_all_uses(loaded, value);
            erase(operation);
        }
    }
    for global in globals {
        erase(global);
    }
    Ok(())
}
