//! What melior 0.27 lacks of the MLIR C API. The only `unsafe` code of this crate.

use melior::{
    Context, StringRef,
    dialect::DialectHandle,
    ir::{
        Attribute, Module, ShapedTypeLike, TypeLike, Value, ValueLike,
        attribute::{AttributeLike, DenseElementsAttribute},
        r#type::RankedTensorType,
    },
};
use std::mem::ManuallyDrop;

/// The handle of the `tosa` dialect.
pub fn tosa_handle() -> DialectHandle {
    // SAFETY: the C function returns a static handle.
    unsafe { DialectHandle::from_raw(mlir_sys::mlirGetDialectHandle__tosa__()) }
}

/// The handle of the `ml_program` dialect.
pub fn ml_program_handle() -> DialectHandle {
    // SAFETY: the C function returns a static handle.
    unsafe { DialectHandle::from_raw(mlir_sys::mlirGetDialectHandle__ml_program__()) }
}

/// The handle of the `irdl` dialect.
pub fn irdl_handle() -> DialectHandle {
    // SAFETY: the C function returns a static handle.
    unsafe { DialectHandle::from_raw(mlir_sys::mlirGetDialectHandle__irdl__()) }
}

/// Parses MLIR text or bytecode. Diagnostics go to the context's handlers; `name` is the file name they show.
///
/// Returns `None` when the source does not parse or verify. A hostile source ends the process, since MLIR recurses without a
/// limit: [`crate::ir::parse`] checks it first.
pub fn parse_module<'c>(context: &'c Context, source: &[u8], name: &str) -> Option<Module<'c>> {
    // The C API takes a pointer and a length, but MLIR's lexer wants a terminating zero after the buffer.
    let mut terminated = Vec::with_capacity(source.len() + 1);
    terminated.extend_from_slice(source);
    terminated.push(0);
    // SAFETY: both strings outlive the call, the source is followed by a zero byte, and the returned module (null on
    // failure) owns itself, so that `from_option_raw` may take it over.
    unsafe {
        let operation = mlir_sys::mlirOperationCreateParse(
            context.to_raw(),
            mlir_sys::MlirStringRef { data: terminated.as_ptr().cast(), length: source.len() },
            StringRef::new(name).to_raw(),
        );
        if operation.ptr.is_null() {
            return None;
        }
        let module = mlir_sys::mlirModuleFromOperation(operation);
        if module.ptr.is_null() {
            mlir_sys::mlirOperationDestroy(operation);
            return None;
        }
        Module::from_option_raw(module)
    }
}

/// Parses MLIR text whose top-level operations stand in no `module`, as `mlir-opt` takes it; they get one. Locations lack
/// the file's name, which this C function does not take.
pub fn parse_bare_module<'c>(context: &'c Context, source: &[u8]) -> Option<Module<'c>> {
    let mut terminated = Vec::with_capacity(source.len() + 1);
    terminated.extend_from_slice(source);
    terminated.push(0);
    // SAFETY: as in `parse_module`.
    unsafe {
        Module::from_option_raw(mlir_sys::mlirModuleCreateParse(
            context.to_raw(),
            mlir_sys::MlirStringRef { data: terminated.as_ptr().cast(), length: source.len() },
        ))
    }
}

/// A copy of a module, in its context.
pub fn duplicate<'c>(module: &Module<'c>) -> Module<'c> {
    // SAFETY: the copy of a module's operation is one of a module, which nobody else owns.
    unsafe {
        Module::from_raw(mlir_sys::mlirModuleFromOperation(mlir_sys::mlirOperationClone(
            module.as_operation().to_raw(),
        )))
    }
}

/// Replaces every use of `of` by `with`.
pub fn replace_all_uses<'c>(of: Value<'c, '_>, with: Value<'c, '_>) {
    // SAFETY: both values belong to the same context by their lifetimes.
    unsafe { mlir_sys::mlirValueReplaceAllUsesOfWith(of.to_raw(), with.to_raw()) }
}

/// Replaces every use of `of` by `with`, except in operation `except`.
pub fn replace_all_uses_except<'c>(of: Value<'c, '_>, with: Value<'c, '_>, except: melior::ir::OperationRef<'c, '_>) {
    let mut excepted = except.to_raw();
    // SAFETY: the values and the operation belong to the same context; the array has one element.
    unsafe { mlir_sys::mlirValueReplaceAllUsesExcept(of.to_raw(), with.to_raw(), 1, &mut excepted) }
}

/// Whether a value has no uses.
pub fn is_unused(value: Value<'_, '_>) -> bool {
    // SAFETY: the value is alive by its lifetime.
    unsafe { mlir_sys::mlirOpOperandIsNull(mlir_sys::mlirValueGetFirstUse(value.to_raw())) }
}

/// The number of uses of a value.
pub fn use_count(value: Value<'_, '_>) -> usize {
    let mut count = 0;
    // SAFETY: the value is alive by its lifetime; the chain of uses ends with a null operand.
    unsafe {
        let mut operand = mlir_sys::mlirValueGetFirstUse(value.to_raw());
        while !mlir_sys::mlirOpOperandIsNull(operand) {
            count += 1;
            operand = mlir_sys::mlirOpOperandGetNextUse(operand);
        }
    }
    count
}

/// A deep copy of a module.
pub fn clone_module<'c>(module: &Module<'c>) -> Option<Module<'c>> {
    // SAFETY: the clone is a fresh module operation that nobody else owns.
    unsafe {
        let operation = mlir_sys::mlirOperationClone(module.as_operation().to_raw());
        Module::from_option_raw(mlir_sys::mlirModuleFromOperation(operation))
    }
}

/// The values of a dense f32 elements attribute in row-major order, splats expanded; `None` for another attribute (also
/// for resource blobs, whose presence the C API cannot check).
pub fn dense_f32(attribute: Attribute<'_>) -> Option<Vec<f32>> {
    let elements = DenseElementsAttribute::try_from(attribute).ok()?;
    let tensor = RankedTensorType::try_from(attribute.r#type()).ok()?;
    if !tensor.element().is_f32() {
        return None;
    }
    if let Some(value) = dense_f32_splat(attribute) {
        return (elements.len() <= MAX_SPLAT).then(|| vec![value; elements.len()]);
    }
    if elements.is_empty() {
        return Some(Vec::new());
    }
    // SAFETY: a dense attribute of 4-byte floats that is no splat packs its `len` elements as native f32, aligned as
    // MLIR's storage is (8 bytes); the context owns them and outlives this copy.
    let values = unsafe { std::slice::from_raw_parts(elements.raw_data().cast::<f32>(), elements.len()) };
    Some(values.to_vec())
}

/// The most elements of an attribute that stands for all of them with one, to be written out: a GiB of floats.
pub const MAX_SPLAT: usize = 1 << 28;

/// The value that every element of a dense f32 elements attribute is, if the attribute says it once.
pub fn dense_f32_splat(attribute: Attribute<'_>) -> Option<f32> {
    let elements = DenseElementsAttribute::try_from(attribute).ok()?;
    let tensor = RankedTensorType::try_from(attribute.r#type()).ok()?;
    (tensor.element().is_f32() && elements.is_splat()).then(|| elements.f32_splat_value())
}

/// A module that its owner, who is not to use it meanwhile, still holds.
pub(crate) fn lend<'c>(module: &mut Module<'c>) -> ManuallyDrop<Module<'c>> {
    // SAFETY: the pointer is a live module's; `ManuallyDrop` keeps it from being destroyed twice.
    ManuallyDrop::new(unsafe { Module::from_raw(module.to_raw()) })
}

/// The module that an operation is, still held by its owner.
pub(crate) fn module_of<'c>(operation: melior::ir::OperationRef<'c, '_>) -> Option<ManuallyDrop<Module<'c>>> {
    use melior::ir::operation::OperationLike;
    // SAFETY: the operation is alive by its lifetime; `ManuallyDrop` keeps the module, which its owner still holds, from being
    // destroyed here.
    unsafe {
        let raw = mlir_sys::mlirModuleFromOperation(OperationLike::to_raw(&operation));
        Module::from_option_raw(raw).map(ManuallyDrop::new)
    }
}

/// Removes an operation from its block and destroys it; refused (`false`) while one of its results is used. For
/// [`crate::erase`] alone, which sees to it that no reference is left.
pub(crate) fn erase(operation: melior::ir::OperationRef<'_, '_>) -> bool {
    use melior::ir::operation::OperationLike;
    if operation.results().any(|result| !is_unused(Value::from(result))) {
        return false;
    }
    // SAFETY: nothing uses the results; the operation is alive by its lifetime, and references to it must not be used
    // after this call, as with every MLIR erasure.
    unsafe {
        let raw = OperationLike::to_raw(&operation);
        mlir_sys::mlirOperationRemoveFromParent(raw);
        mlir_sys::mlirOperationDestroy(raw);
    }
    true
}

/// A mutable handle of an operation, to set attributes and operands through melior's mutable interface.
pub fn as_mut<'c, 'a>(operation: melior::ir::OperationRef<'c, 'a>) -> melior::ir::operation::OperationRefMut<'c, 'a> {
    use melior::ir::operation::OperationLike;
    // SAFETY: the operation is alive by its lifetime. MLIR has no exclusive references; the context is single-threaded.
    unsafe { melior::ir::operation::OperationRefMut::from_raw(OperationLike::to_raw(&operation)) }
}

/// The text of a string that MLIR owns; `None` when it is not UTF-8. melior's own conversion fails on empty strings.
///
/// # Safety
///
/// The pointer must be valid for `length` bytes, or `length` be 0.
unsafe fn text(string: mlir_sys::MlirStringRef) -> Option<String> {
    if string.length == 0 {
        return Some(String::new());
    }
    // SAFETY: by the caller's promise; the bytes are copied at once.
    let bytes = unsafe { std::slice::from_raw_parts(string.data.cast::<u8>(), string.length) };
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// The text of a string attribute; `None` for another attribute or text that is not UTF-8.
pub fn string_text(attribute: Attribute<'_>) -> Option<String> {
    // SAFETY: the attribute is a string attribute, whose text lives in the context.
    attribute.is_string().then(|| unsafe { text(mlir_sys::mlirStringAttrGetValue(attribute.to_raw())) }).flatten()
}

/// The symbol that a flat symbol reference names; `None` for another attribute.
pub fn symbol_text(attribute: Attribute<'_>) -> Option<String> {
    // SAFETY: the attribute is a flat symbol reference, whose text lives in the context.
    attribute
        .is_flat_symbol_ref()
        .then(|| unsafe { text(mlir_sys::mlirFlatSymbolRefAttrGetValue(attribute.to_raw())) })
        .flatten()
}

/// The text of an identifier: an operation's or attribute's name, or the name in a location.
pub fn identifier_text(identifier: melior::ir::Identifier<'_>) -> Option<String> {
    // SAFETY: the identifier's text lives in the context.
    unsafe { text(mlir_sys::mlirIdentifierStr(identifier.to_raw())) }
}

/// The scale of a `!quant.uniform<i16:…, scale>` type with the zero point 0 and the whole range of i16; `None` for another type.
pub fn quantized_words_scale(r#type: melior::ir::Type<'_>) -> Option<f64> {
    use melior::ir::TypeLike;
    let raw = r#type.to_raw();
    // SAFETY: the type is alive by its lifetime; its parameters are asked for only when it is of the right kind.
    unsafe {
        let words = mlir_sys::mlirTypeIsAUniformQuantizedType(raw)
            && mlir_sys::mlirUniformQuantizedTypeGetZeroPoint(raw) == 0
            && mlir_sys::mlirQuantizedTypeGetStorageTypeMin(raw) == i64::from(i16::MIN)
            && mlir_sys::mlirQuantizedTypeGetStorageTypeMax(raw) == i64::from(i16::MAX)
            && mlir_sys::mlirQuantizedTypeGetStorageTypeIntegralWidth(raw) == 16;
        words.then(|| mlir_sys::mlirUniformQuantizedTypeGetScale(raw))
    }
}
