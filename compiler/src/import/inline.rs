//! `--inline-weights`: weights as constants in the module, for upstream's lowerings.

use melior::{
    Context,
    ir::{
        BlockLike, Identifier, Module, ShapedTypeLike, TypeLike, Value, ValueLike,
        attribute::DenseElementsAttribute,
        operation::{OperationBuilder, OperationLike},
        r#type::RankedTensorType,
    },
};
use mxc_dialects::{
    erase::{Eraser, ModuleMut},
    ffi, ir,
};
use mxc_runtime::store::WeightStore;
use std::collections::BTreeSet;

/// Replaces every load of an external `ml_program.global` by a `tosa.const` that holds the weight, and removes these globals.
///
/// # Errors
///
/// Names the first weight that the store lacks, or that has another shape there.
pub fn inline_weights<'c>(context: &'c Context, module: &mut Module<'c>, weights: &WeightStore) -> Result<(), String> {
    ModuleMut::new(module).erasing(|module, eraser| inline(context, module, eraser, weights))
}

fn inline<'c, 'a>(
    context: &'c Context,
    module: &'a Module<'c>,
    eraser: &mut Eraser<'c, 'a>,
    weights: &WeightStore,
) -> Result<(), String> {
    let operations = ir::module_ops(module);
    let external: Vec<_> = operations
        .iter()
        .filter(|operation| ir::op_name(operation) == "ml_program.global" && ir::is_extern_global(operation))
        .collect();
    let names: BTreeSet<_> = external.iter().filter_map(|global| ir::string_attr(global, "sym_name")).collect();
    for function in operations.iter().filter(|operation| ir::op_name(operation) == "func.func") {
        let Some(block) = ir::entry_block(*function) else {
            continue;
        };
        for load in ir::block_ops(block) {
            if ir::op_name(&load) != "ml_program.global_load_const" {
                continue;
            }
            let name = ir::symbol_attr(&load, "global").unwrap_or_default();
            if !names.contains(&name) {
                continue;
            }
            let Some(weight) = weights.get(&name) else {
                return Err(format!("the weight '{name}' is not in the weight store; give its file with --weights"));
            };
            let loaded: Value<'_, '_> = load.result(0).map_err(|error| error.to_string())?.into();
            let r#type = loaded.r#type();
            let shape = ir::tensor_shape(r#type).and_then(|shape| shape.into_iter().collect::<Option<Vec<_>>>());
            let is_f32 = RankedTensorType::try_from(r#type).is_ok_and(|tensor| tensor.element().is_f32());
            if shape.as_deref() != Some(weight.shape()) || !is_f32 {
                return Err(format!(
                    "the weight '{name}' has the shape {:?}, the module wants {type}",
                    weight.shape(),
                    type = r#type
                ));
            }
            let values = DenseElementsAttribute::f32_values(r#type, weight.values());
            let constant = OperationBuilder::new("tosa.const", load.location())
                .add_attributes(&[(Identifier::new(context, "values"), values.into())])
                .add_results(&[r#type])
                .build()
                .map_err(|error| error.to_string())?;
            let constant = block.insert_operation_before(load, constant);
            let value: Value<'_, '_> = constant.result(0).map_err(|error| error.to_string())?.into();
            ffi::replace_all_uses(loaded, value);
            eraser.erase(load);
        }
    }
    for global in external {
        eraser.erase(*global);
    }
    Ok(())
}
