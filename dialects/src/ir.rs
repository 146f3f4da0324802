//! What the dialects, the passes and the program loader share of MLIR: reading attributes, shapes and weights, walking
//! `@main`, and collecting diagnostics.

use melior::{
    Context,
    diagnostic::DiagnosticSeverity,
    ir::{
        Attribute, BlockLike, BlockRef, Module, OperationRef, RegionLike, ShapedTypeLike, Type,
        Value, ValueLike,
        attribute::{
            AttributeLike, DenseI32ArrayAttribute, DenseI64ArrayAttribute, DictionaryAttribute,
            FlatSymbolRefAttribute, FloatAttribute, IntegerAttribute, StringAttribute,
        },
        operation::{OperationLike, OperationResult},
        r#type::RankedTensorType,
    },
};
use std::{cell::RefCell, rc::Rc};

/// The name of the function that holds the network.
pub const MAIN: &str = "main";
/// The argument and result attribute with an input's or output's name in the source model.
pub const NAME_ATTRIBUTE: &str = "mxc.name";

/// Runs `action` and returns its result with the error diagnostics (notes appended) that MLIR emitted meanwhile.
pub fn with_diagnostics<R>(context: &Context, action: impl FnOnce() -> R) -> (R, Vec<String>) {
    let messages = Rc::new(RefCell::new(Vec::new()));
    let sink = messages.clone();
    let id = context.attach_diagnostic_handler(move |diagnostic| {
        if matches!(diagnostic.severity(), DiagnosticSeverity::Error) {
            let mut text = format!("{}: {diagnostic}", diagnostic.location());
            for index in 0..diagnostic.note_count() {
                if let Ok(note) = diagnostic.note(index) {
                    text.push_str(&format!("\n  note: {note}"));
                }
            }
            sink.borrow_mut().push(text);
        }
        true
    });
    let result = action();
    context.detach_diagnostic_handler(id);
    (result, messages.take())
}

/// Parses MLIR text or bytecode, or returns the parser's and verifier's messages.
pub fn parse<'c>(context: &'c Context, source: &[u8], name: &str) -> Result<Module<'c>, String> {
    let (module, messages) =
        with_diagnostics(context, || crate::ffi::parse_module(context, source, name));
    match module {
        Some(module) => Ok(module),
        None if messages.is_empty() => Err(format!("{name}: not an MLIR module")),
        None => Err(messages.join("\n")),
    }
}

/// The operation's name, such as `tosa.conv2d`.
pub fn op_name(operation: &OperationRef<'_, '_>) -> String {
    operation
        .name()
        .as_string_ref()
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// The operations of a block, in order.
pub fn block_ops<'c, 'a>(block: BlockRef<'c, 'a>) -> Vec<OperationRef<'c, 'a>> {
    std::iter::successors(block.first_operation(), |operation| {
        operation.next_in_block()
    })
    .collect()
}

/// The module's top-level operations.
pub fn module_ops<'c, 'a>(module: &'a Module<'c>) -> Vec<OperationRef<'c, 'a>> {
    block_ops(module.body())
}

/// The entry block of a function-like operation.
pub fn entry_block<'c, 'a>(function: OperationRef<'c, 'a>) -> Option<BlockRef<'c, 'a>> {
    function
        .region(0)
        .ok()
        .and_then(|region| region.first_block())
}

/// The function `@main` of a module.
pub fn main_function<'c, 'a>(module: &'a Module<'c>) -> Option<OperationRef<'c, 'a>> {
    module_ops(module).into_iter().find(|operation| {
        op_name(operation) == "func.func"
            && string_attr(operation, "sym_name").as_deref() == Some(MAIN)
    })
}

/// The operation that defines a value, or `None` for a block argument.
pub fn defining_op<'c, 'a>(value: Value<'c, 'a>) -> Option<OperationRef<'c, 'a>> {
    OperationResult::try_from(value)
        .ok()
        .map(|result| result.owner())
}

/// A string attribute.
pub fn string_attr(operation: &OperationRef<'_, '_>, name: &str) -> Option<String> {
    operation.attribute(name).ok().and_then(as_string)
}

/// An integer attribute.
pub fn i64_attr(operation: &OperationRef<'_, '_>, name: &str) -> Option<i64> {
    operation.attribute(name).ok().and_then(as_i64)
}

/// A floating-point attribute.
pub fn f64_attr(operation: &OperationRef<'_, '_>, name: &str) -> Option<f64> {
    operation.attribute(name).ok().and_then(as_f64)
}

/// An `array<i64: …>` or `array<i32: …>` attribute.
pub fn i64s_attr(operation: &OperationRef<'_, '_>, name: &str) -> Option<Vec<i64>> {
    let attribute = operation.attribute(name).ok()?;
    if let Ok(array) = DenseI64ArrayAttribute::try_from(attribute) {
        return (0..array.len()).map(|i| array.element(i).ok()).collect();
    }
    let array = DenseI32ArrayAttribute::try_from(attribute).ok()?;
    (0..array.len())
        .map(|i| array.element(i).ok().map(i64::from))
        .collect()
}

/// A dictionary attribute.
pub fn dict_attr<'c>(
    operation: &OperationRef<'c, '_>,
    name: &str,
) -> Option<DictionaryAttribute<'c>> {
    DictionaryAttribute::try_from(operation.attribute(name).ok()?).ok()
}

/// A symbol reference's name.
pub fn symbol_attr(operation: &OperationRef<'_, '_>, name: &str) -> Option<String> {
    FlatSymbolRefAttribute::try_from(operation.attribute(name).ok()?)
        .ok()
        .map(|symbol| symbol.value().to_owned())
}

/// The text of a string attribute.
pub fn as_string(attribute: Attribute<'_>) -> Option<String> {
    StringAttribute::try_from(attribute)
        .ok()
        .map(|string| string.value().to_owned())
}

/// The value of an integer attribute.
pub fn as_i64(attribute: Attribute<'_>) -> Option<i64> {
    IntegerAttribute::try_from(attribute)
        .ok()
        .map(|integer| integer.value())
}

/// The value of a floating-point attribute.
pub fn as_f64(attribute: Attribute<'_>) -> Option<f64> {
    attribute.is_float().then_some(())?;
    FloatAttribute::try_from(attribute)
        .ok()
        .map(|float| float.value())
}

/// A string attribute's value.
pub fn string<'c>(context: &'c Context, value: &str) -> Attribute<'c> {
    StringAttribute::new(context, value).into()
}

/// An `i64` attribute's value.
pub fn integer<'c>(context: &'c Context, value: i64) -> Attribute<'c> {
    IntegerAttribute::new(
        melior::ir::r#type::IntegerType::new(context, 64).into(),
        value,
    )
    .into()
}

/// An `f64` attribute's value.
pub fn float<'c>(context: &'c Context, value: f64) -> Attribute<'c> {
    FloatAttribute::new(context, Type::float64(context), value).into()
}

/// An `array<i64: …>` attribute.
pub fn i64s<'c>(context: &'c Context, values: &[i64]) -> Attribute<'c> {
    DenseI64ArrayAttribute::new(context, values).into()
}

/// A dictionary attribute.
pub fn dictionary<'c>(context: &'c Context, entries: &[(&str, Attribute<'c>)]) -> Attribute<'c> {
    let entries: Vec<_> = entries
        .iter()
        .map(|(name, value)| (melior::ir::Identifier::new(context, name), *value))
        .collect();
    DictionaryAttribute::new(context, &entries).into()
}

/// The dimensions of a ranked tensor type, `None` for a dynamic one (the batch); `None` for another type.
pub fn tensor_shape(r#type: Type<'_>) -> Option<Vec<Option<usize>>> {
    let tensor = RankedTensorType::try_from(r#type).ok()?;
    (0..tensor.rank())
        .map(|axis| {
            tensor.dim_size(axis).ok().map(|size| match size {
                melior::ir::r#type::DimSize::Static(size) => Some(size as usize),
                melior::ir::r#type::DimSize::Dynamic => None,
            })
        })
        .collect()
}

/// The dimensions of a value's ranked tensor type, `None` for a dynamic one.
pub fn value_shape(value: Value<'_, '_>) -> Option<Vec<Option<usize>>> {
    tensor_shape(value.r#type())
}

/// A ranked tensor type; `None` is a dynamic dimension.
pub fn tensor_type<'c>(element: Type<'c>, shape: &[Option<usize>]) -> Type<'c> {
    let dimensions: Vec<u64> = shape
        .iter()
        .map(|size| size.map_or(i64::MIN as u64, |size| size as u64))
        .collect();
    RankedTensorType::new(&dimensions, element, None).into()
}

/// The name of the `ml_program` global that a value loads, if it is a `global_load_const`.
pub fn loaded_global(value: Value<'_, '_>) -> Option<String> {
    let operation = defining_op(value)?;
    (op_name(&operation) == "ml_program.global_load_const")
        .then(|| symbol_attr(&operation, "global"))
        .flatten()
}
