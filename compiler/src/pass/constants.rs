//! Constants as the passes see them: the values behind `tosa.const` and `ml_program.global_load_const`, and new ones.

use super::definition::{PassContext, PassError};
use crate::load;
use melior::{
    Context,
    ir::{
        Attribute, BlockLike, BlockRef, Module, OperationRef, Value, ValueLike,
        attribute::FlatSymbolRefAttribute,
        operation::{OperationLike, OperationMutLike},
    },
};
use mxc_dialects::{
    erase::{Eraser, ModuleMut},
    ffi, ir,
};
use mxc_runtime::store::{Weight, WeightStore};
use std::collections::{BTreeMap, BTreeSet};

/// Where a constant value's numbers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A global of this name: its values are in the weight store.
    Global(String),
    /// A `tosa.const`.
    Inline,
}

/// Whether a value is constant, and where its numbers are.
pub fn source(value: Value<'_, '_>) -> Option<Source> {
    if let Some(name) = ir::loaded_global(value) {
        return Some(Source::Global(name));
    }
    let operation = ir::defining_op(value)?;
    (ir::op_name(&operation) == "tosa.const").then_some(Source::Inline)
}

/// The values of a constant f32 value. `pass` names who asks, for the error when a global's bytes are missing.
pub fn weight(pass: &str, value: Value<'_, '_>, store: &WeightStore) -> Result<Weight, PassError> {
    let operation = ir::defining_op(value);
    let at = |error: PassError| match &operation {
        Some(operation) => error.at(operation.location()),
        None => error,
    };
    let refused = |message: String| at(PassError::new(message));
    let shape: Vec<usize> = ir::value_shape(value)
        .and_then(|shape| shape.into_iter().collect())
        .ok_or_else(|| refused(format!("{pass}: a constant has the type {}", value.r#type())))?;
    match (source(value), &operation) {
        (Some(Source::Global(name)), _) => {
            let weight = store.get(&name).ok_or_else(|| at(PassError::missing_weight(&name)))?;
            if weight.shape() != shape {
                return Err(refused(format!("@{name} is {shape:?} in the IR but {:?} in the weights", weight.shape())));
            }
            Ok(weight.clone())
        }
        (Some(Source::Inline), Some(operation)) => operation
            .attribute("values")
            .ok()
            .and_then(|values| load::inline_weight(shape, values))
            .ok_or_else(|| refused(format!("{pass} cannot read this constant: f32 expected"))),
        _ => Err(refused(format!("{pass} needs a constant here"))),
    }
}

/// A name that no symbol of the module has: `name`, else `name.1`, `name.2`, ….
pub fn fresh_symbol(module: &Module<'_>, name: &str) -> String {
    let taken = ir::symbols(module);
    fresh(name, |name| taken.contains(name))
}

/// `name`, else `name.1`, `name.2`, …, the first that is not taken.
pub fn fresh(name: &str, taken: impl Fn(&str) -> bool) -> String {
    if !taken(name) {
        return name.to_owned();
    }
    let mut number = 1u64;
    loop {
        let candidate = format!("{name}.{number}");
        if !taken(&candidate) {
            return candidate;
        }
        number += 1;
    }
}

/// An MLIR building error as a pass error.
pub fn built<T>(what: &str, result: Result<T, melior::Error>) -> Result<T, PassError> {
    result.map_err(|error| PassError::new(format!("{what} cannot be built: {error}")))
}

/// Inserts an operation before another and returns its first result.
pub fn insert_before<'c, 'a>(
    block: BlockRef<'c, 'a>,
    before: OperationRef<'c, 'a>,
    operation: melior::ir::Operation<'c>,
) -> Result<Value<'c, 'a>, PassError> {
    let operation = block.insert_operation_before(before, operation);
    built("an operation", operation.result(0)).map(Value::from)
}

/// Declares an external global at the front of the module, after the globals that are there.
pub fn declare_global<'c>(
    context: &'c Context,
    module: &Module<'c>,
    name: &str,
    shape: &[usize],
) -> Result<(), PassError> {
    let r#type = ir::f32_tensor(context, shape);
    let global = built("a global", ir::extern_global(context, name, r#type))?;
    let body = module.body();
    let last =
        ir::module_ops(module).into_iter().take_while(|operation| ir::op_name(operation) == "ml_program.global").last();
    match last {
        Some(last) => {
            body.insert_operation_after(last, global);
        }
        None => {
            body.insert_operation(0, global);
        }
    }
    Ok(())
}

/// Removes globals that no operation refers to, and their weights from the stores. Returns the names.
pub fn remove_unreferenced(module: &mut ModuleMut<'_, '_>, cx: &mut PassContext) -> Vec<String> {
    let used = referenced_globals(module);
    module.erasing(|module, eraser| {
        let mut removed = Vec::new();
        for (name, global) in ir::globals(module) {
            let private = ir::string_attr(&global, "sym_visibility").as_deref() == Some("private");
            if private && !used.contains(&name) {
                eraser.erase(global);
                cx.weights.remove(&name);
                removed.push(name);
            }
        }
        removed
    })
}

/// Puts the globals that are loaded in the order of their loads, before everything else in the module.
pub fn order_globals(module: &Module<'_>) {
    let globals = ir::globals(module);
    let Some(function) = ir::main_function(module) else {
        return;
    };
    let mut moved = BTreeSet::new();
    for load in ir::entry_block(function).map(ir::block_ops).unwrap_or_default() {
        let Some(name) = ir::symbol_attr(&load, "global") else {
            continue;
        };
        if let Some(global) = globals.get(&name)
            && moved.insert(name)
        {
            ffi::as_mut(*global).move_before(function);
        }
    }
}

/// The globals that some `global_load…`/`global_store…` operation names.
pub fn referenced_globals(module: &Module<'_>) -> BTreeSet<String> {
    ir::module_ops(module)
        .into_iter()
        .filter_map(ir::entry_block)
        .flat_map(ir::block_ops)
        .filter_map(|operation| ir::symbol_attr(&operation, "global"))
        .collect()
}

/// Whether a constant value is written in the IR as all zeros: the bias of an operation that has none.
pub fn is_inline_zero(value: Value<'_, '_>) -> bool {
    let values = || ffi::dense_f32(inline(value)?);
    match inline_splat(value) {
        Some(value) => value == 0.0,
        None => values().is_some_and(|values| values.iter().all(|value| *value == 0.0)),
    }
}

/// The value that a constant in the IR repeats.
fn inline_splat(value: Value<'_, '_>) -> Option<f32> {
    inline(value).and_then(ffi::dense_f32_splat)
}

/// The values of a constant in the IR.
fn inline<'c>(value: Value<'c, '_>) -> Option<Attribute<'c>> {
    let operation = ir::defining_op(value).filter(|_| source(value) == Some(Source::Inline))?;
    operation.attribute("values").ok()
}

/// The operations of a block that use a value, in order, each once.
pub fn users<'c, 'a>(block: BlockRef<'c, 'a>, value: Value<'c, 'a>) -> Vec<OperationRef<'c, 'a>> {
    ir::block_ops(block).into_iter().filter(|operation| operation.operands().any(|operand| operand == value)).collect()
}

/// Erases operations of `@main` that compute something nobody uses: TOSA's, ours and loads of constants.
pub fn remove_dead<'c, 'a>(module: &'a Module<'c>, eraser: &mut Eraser<'c, 'a>) {
    for operation in ir::main_function(module).and_then(ir::entry_block).map(ir::block_ops).unwrap_or_default() {
        let name = ir::op_name(&operation);
        let pure = ["tosa.", "analog.", "denoise."].iter().any(|dialect| name.starts_with(dialect))
            || name == "ml_program.global_load_const";
        if pure && operation.result_count() > 0 {
            eraser.erase(operation);
        }
    }
}

/// After operations were replaced: erases what computes for nobody ([`remove_dead`]), then those of the named globals that
/// nothing loads any more.
pub fn remove_left(module: &mut ModuleMut<'_, '_>, names: &[String]) {
    module.erasing(remove_dead);
    let used = referenced_globals(module);
    module.erasing(|module, eraser| {
        for (name, global) in ir::globals(module) {
            if names.contains(&name) && !used.contains(&name) {
                eraser.erase(global);
            }
        }
    });
}

/// Adds a constant to a block and gives its value: inline, or as a new external global whose values go to the store.
///
/// A global gets a name that is free now; the wanted one is noted in `renames`, see [`settle_names`].
#[allow(clippy::too_many_arguments)]
pub fn add_constant<'c, 'a>(
    context: &'c Context,
    module: &Module<'c>,
    block: BlockRef<'c, 'a>,
    before: OperationRef<'c, 'a>,
    store: &mut WeightStore,
    inline: bool,
    name: &str,
    weight: Weight,
    renames: &mut Vec<(String, String)>,
) -> Result<Value<'c, 'a>, PassError> {
    if inline {
        let splat = weight.repeated();
        let values = splat.as_ref().map_or_else(|| weight.values(), std::slice::from_ref);
        let constant = built("a constant", ir::tosa_const(context, weight.shape(), values))?;
        return insert_before(block, before, constant);
    }
    let fresh = fresh_symbol(module, name);
    declare_global(context, module, &fresh, weight.shape())?;
    let r#type = ir::f32_tensor(context, weight.shape());
    store.insert(fresh.clone(), weight);
    if fresh != name {
        renames.push((fresh.clone(), name.to_owned()));
    }
    let load = built("a load", ir::load_global(context, &fresh, r#type))?;
    insert_before(block, before, load)
}

/// Removes what is no longer referenced and gives new globals the names that were wanted for them, where those have
/// become free.
pub fn settle_names<'c>(
    context: &'c Context,
    module: &mut ModuleMut<'c, '_>,
    cx: &mut PassContext,
    renames: &[(String, String)],
) {
    remove_unreferenced(module, cx);
    let mut taken = ir::symbols(module);
    let mut globals = ir::globals(module);
    let mut loads: BTreeMap<String, Vec<OperationRef<'c, '_>>> = BTreeMap::new();
    for operation in ir::module_ops(module).into_iter().filter_map(ir::entry_block).flat_map(ir::block_ops) {
        if let Some(global) = ir::symbol_attr(&operation, "global") {
            loads.entry(global).or_default().push(operation);
        }
    }
    let mut pending: Vec<_> = renames.iter().collect();
    // A name may be held by a global that is itself about to be renamed.
    loop {
        let before = pending.len();
        pending.retain(|(now, wanted)| {
            if taken.contains(wanted) {
                return true;
            }
            let Some(global) = globals.remove(now) else {
                return false;
            };
            ffi::as_mut(global).set_attribute("sym_name", ir::string(context, wanted));
            let users = loads.remove(now).unwrap_or_default();
            for load in &users {
                ffi::as_mut(*load).set_attribute("global", FlatSymbolRefAttribute::new(context, wanted).into());
            }
            loads.insert(wanted.clone(), users);
            globals.insert(wanted.clone(), global);
            taken.remove(now);
            taken.insert(wanted.clone());
            if let Some(weight) = cx.weights.remove(now) {
                cx.weights.insert(wanted, weight);
            }
            false
        });
        if pending.len() == before {
            return;
        }
    }
}

/// The number of the backbone's weights and biases: those of every convolution and matrix product with stationary
/// weights, and scales and shifts per channel that no convolution could take up. A bias of zeros written in the IR
/// stands for none, a scale or shift of one repeated value for a number.
pub fn backbone_parameters(module: &Module<'_>) -> u64 {
    let elements = |value: Value<'_, '_>| -> u64 {
        let shape = ir::value_shape(value).unwrap_or_default();
        shape.iter().map(|size| size.unwrap_or(1) as u64).product()
    };
    // A weight that two operations share counts once.
    let mut shared = BTreeSet::new();
    let mut count = |value: Value<'_, '_>| match source(value) {
        Some(Source::Global(name)) if shared.insert(name.clone()) => elements(value),
        Some(Source::Inline) if !is_inline_zero(value) => elements(value),
        _ => 0,
    };
    let mut total = 0;
    for operation in ir::main_function(module).and_then(ir::entry_block).map(ir::block_ops).unwrap_or_default() {
        let name = ir::op_name(&operation);
        match name.as_str() {
            "tosa.conv2d" | "tosa.depthwise_conv2d" | "tosa.custom" => {
                total += operation.operands().skip(1).take(2).map(&mut count).sum::<u64>();
            }
            "tosa.matmul" => total += operation.operands().take(2).map(&mut count).sum::<u64>(),
            "tosa.add" | "tosa.sub" | "tosa.mul" => {
                let is_vector = |value: &Value<'_, '_>| elements(*value) > 1 && inline_splat(*value).is_none();
                total += operation.operands().take(2).filter(is_vector).map(&mut count).sum::<u64>();
            }
            name if name.starts_with("analog.") => {
                total += operation.operands().skip(1).map(&mut count).sum::<u64>();
            }
            _ => {}
        }
    }
    total
}
