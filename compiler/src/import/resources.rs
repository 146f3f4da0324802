//! Constants that MLIR text keeps apart: front ends write large ones as `dense_resource<name>` and their bytes as
//! hexadecimal digits in the section `{-# dialect_resources … #-}` behind the module. MLIR's C API cannot tell whether such a
//! constant has its bytes, so they are taken from the text, and the constants become weights:
//!
//! ```mlir
//! %0 = "tosa.const"() <{values = dense_resource<w> : tensor<2xf32>}> : () -> tensor<2xf32>
//! ```
//! becomes
//! ```mlir
//! ml_program.global private @w(#ml_program.extern : tensor<2xf32>) : tensor<2xf32>
//! %0 = ml_program.global_load_const @w : tensor<2xf32>
//! ```

use super::proto::unique;
use melior::{
    Context,
    ir::{
        BlockLike, BlockRef, Module, OperationRef, ShapedTypeLike, TypeLike, Value, ValueLike,
        operation::OperationLike, r#type::RankedTensorType,
    },
};
use mxc_dialects::{
    erase::{Eraser, ModuleMut},
    ffi, ir,
};
use mxc_runtime::store::{Weight, WeightStore};
use std::collections::{BTreeMap, BTreeSet};

/// Turns the constants of `@main` whose values are resources of `source`, the text that `module` was parsed from, into
/// external globals, and returns their values.
///
/// # Errors
///
/// Names the first constant whose bytes are missing, do not fit its shape or are not f32. A context that has parsed resources
/// of these names before renames them, which is an error, too: which bytes are whose could not be told.
pub(super) fn to_weights<'c>(
    context: &'c Context,
    module: &mut Module<'c>,
    source: &str,
) -> Result<WeightStore, String> {
    ModuleMut::new(module).erasing(|module, eraser| {
        let block =
            ir::main_function(module).and_then(ir::entry_block).ok_or("it has no function '@main' with a body")?;
        replace(context, module, block, eraser, source)
    })
}

fn replace<'c, 'a>(
    context: &'c Context,
    module: &'a Module<'c>,
    block: BlockRef<'c, 'a>,
    eraser: &mut Eraser<'c, 'a>,
    source: &str,
) -> Result<WeightStore, String> {
    let written: BTreeSet<String> =
        source.match_indices(RESOURCE).filter_map(|(at, _)| resource(source[at..].split('\n').next()?)).collect();
    let found: BTreeSet<String> = ir::block_ops(block).iter().filter_map(key).collect();
    if let Some(key) = written.symmetric_difference(&found).next() {
        return Err(format!(
            "the resource '{key}' is not the value of a tosa.const in @main, or the context has parsed another of this name"
        ));
    }
    let blobs = blobs(source);
    let mut taken = ir::symbols(module);
    // The global of each resource, which several constants may share.
    let mut globals: BTreeMap<String, String> = BTreeMap::new();
    let mut store = WeightStore::new();
    for constant in ir::block_ops(block) {
        let Some(key) = key(&constant) else {
            continue;
        };
        let failed = |reason: String| format!("the resource '{key}' {reason}");
        let value: Value<'c, '_> = constant.result(0).map_err(|error| error.to_string())?.into();
        let r#type = value.r#type();
        let shape = ir::tensor_shape(r#type).and_then(|shape| shape.into_iter().collect::<Option<Vec<_>>>());
        let is_f32 = RankedTensorType::try_from(r#type).is_ok_and(|tensor| tensor.element().is_f32());
        let Some(shape) = shape.filter(|_| is_f32) else {
            return Err(failed(format!("has the type {type}; only f32 is read from resources", r#type = r#type)));
        };
        let global = match globals.get(&key) {
            Some(global) => global.clone(),
            None => {
                let digits = blobs.get(key.as_str()).ok_or_else(|| {
                    failed("has no bytes in the file; print it without eliding large constants".into())
                })?;
                let values =
                    floats(digits).ok_or_else(|| failed("is not a hexadecimal number of whole floats".into()))?;
                let count = values.len();
                let weight = Weight::new(shape.clone(), values)
                    .ok_or_else(|| failed(format!("has {count} floats, which do not fit {shape:?}")))?;
                let name = unique(&key, |name| taken.contains(name));
                taken.insert(name.clone());
                let global = ir::extern_global(context, &name, r#type).map_err(|error| error.to_string())?;
                module.body().insert_operation(0, global);
                store.insert(name.clone(), weight);
                globals.insert(key.clone(), name.clone());
                name
            }
        };
        if store.get(&global).is_none_or(|weight| weight.shape() != shape) {
            return Err(failed(format!("is used with the shape {shape:?} and another one")));
        }
        let load = ir::load_global(context, &global, r#type).map_err(|error| error.to_string())?;
        let load = block.insert_operation_before(constant, load);
        ffi::replace_all_uses(value, load.result(0).map_err(|error| error.to_string())?.into());
        eraser.erase(constant);
    }
    Ok(store)
}

const RESOURCE: &str = "dense_resource<";

/// The resource that a constant's values are.
fn key(operation: &OperationRef<'_, '_>) -> Option<String> {
    let values = operation.attribute("values").ok().filter(|_| ir::op_name(operation) == "tosa.const")?;
    resource(&values.to_string())
}

/// The key at the beginning of `dense_resource<key> : type`.
fn resource(text: &str) -> Option<String> {
    let (key, _) = text.strip_prefix(RESOURCE)?.split_once('>')?;
    Some(key.trim_matches('"').to_owned())
}

/// The digits of every `key: "0x…"` in a module's resource section.
fn blobs(source: &str) -> BTreeMap<&str, &str> {
    let section = source.rfind("{-#").map_or("", |start| &source[start..]);
    let mut blobs = BTreeMap::new();
    // Between quotes: digits of the blob whose key stands before, or such a key.
    let mut quoted = "";
    let mut parts = section.split('"');
    let mut before = parts.next().unwrap_or_default();
    while let (Some(inside), Some(after)) = (parts.next(), parts.next()) {
        match (inside.strip_prefix("0x"), before.trim_end().strip_suffix(':')) {
            (Some(digits), Some(key)) => {
                let bare = key.trim_end().rsplit(|c: char| c.is_whitespace() || c == '{' || c == ',').next();
                blobs.insert(bare.filter(|key| !key.is_empty()).unwrap_or(quoted), digits);
            }
            _ => quoted = inside,
        }
        before = after;
    }
    blobs
}

/// The floats of a blob: four bytes that give its alignment, then the data, little-endian.
fn floats(digits: &str) -> Option<Vec<f32>> {
    let digits = digits.as_bytes().get(8..)?;
    let nibble = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    digits
        .chunks(8)
        .map(|float| {
            let mut bytes = [0; 4];
            for (byte, pair) in bytes.iter_mut().zip(float.chunks(2)) {
                let &[high, low] = pair else {
                    return None;
                };
                *byte = nibble(high)? << 4 | nibble(low)?;
            }
            (float.len() == 8).then(|| f32::from_le_bytes(bytes))
        })
        .collect()
}
