//! Constants as the passes see them: the values behind `tosa.const` and `ml_program.global_load_const`, and new ones.

use super::{PassContext, PassError};
use melior::{
    Context,
    ir::{BlockLike, BlockRef, Module, OperationRef, Value, ValueLike, operation::OperationLike},
};
use mxc_dialects::{ffi, ir};
use mxc_runtime::store::{Weight, WeightStore};
use std::collections::BTreeSet;

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
    let refused = |message: String| {
        let error = PassError::new(message);
        match &operation {
            Some(operation) => error.at(operation.location()),
            None => error,
        }
    };
    let shape: Vec<usize> = ir::value_shape(value)
        .and_then(|shape| shape.into_iter().collect())
        .ok_or_else(|| refused(format!("{pass}: a constant has the type {}", value.r#type())))?;
    match (source(value), &operation) {
        (Some(Source::Global(name)), _) => {
            let weight = store
                .get(&name)
                .ok_or_else(|| PassError::missing_weight(pass, &name))?;
            if weight.shape() != shape {
                return Err(refused(format!(
                    "@{name} is {shape:?} in the IR but {:?} in the weights",
                    weight.shape()
                )));
            }
            Ok(weight.clone())
        }
        (Some(Source::Inline), Some(operation)) => operation
            .attribute("values")
            .ok()
            .and_then(ffi::dense_f32_values)
            .and_then(|values| Weight::new(shape, values))
            .ok_or_else(|| refused(format!("{pass} cannot read this constant: f32 expected"))),
        _ => Err(refused(format!("{pass} needs a constant here"))),
    }
}

/// A name that no symbol of the module has: `name`, else `name.1`, `name.2`, ….
pub fn fresh_symbol(module: &Module<'_>, name: &str) -> String {
    let taken: BTreeSet<String> = ir::module_ops(module)
        .iter()
        .filter_map(|operation| ir::string_attr(operation, "sym_name"))
        .collect();
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
    let last = ir::module_ops(module)
        .into_iter()
        .take_while(|operation| ir::op_name(operation) == "ml_program.global")
        .last();
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
pub fn remove_unreferenced(module: &Module<'_>, cx: &mut PassContext) -> Vec<String> {
    let used = referenced_globals(module);
    let mut removed = Vec::new();
    for (name, global) in ir::globals(module) {
        let private = ir::string_attr(&global, "sym_visibility").as_deref() == Some("private");
        if private && !used.contains(&name) {
            ffi::erase(global);
            cx.weights.remove(&name);
            removed.push(name);
        }
    }
    removed
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
