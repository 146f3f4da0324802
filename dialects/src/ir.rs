//! What the dialects, the passes and the program loader share of MLIR: reading attributes, shapes and weights, walking
//! `@main`, and collecting diagnostics.

use melior::{
    Context,
    diagnostic::DiagnosticSeverity,
    ir::{
        Attribute, BlockLike, BlockRef, Identifier, Location, Module, Operation, OperationRef, RegionLike,
        ShapedTypeLike, Type, TypeLike, Value, ValueLike,
        attribute::{
            AttributeLike, BoolAttribute, DenseElementsAttribute, DenseI32ArrayAttribute, DenseI64ArrayAttribute,
            DictionaryAttribute, FlatSymbolRefAttribute, FloatAttribute, IntegerAttribute, StringAttribute,
            TypeAttribute,
        },
        operation::{OperationBuilder, OperationLike, OperationResult},
        r#type::{IntegerType, RankedTensorType},
    },
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    rc::Rc,
};

/// The name of the function that holds the network.
pub const MAIN: &str = "main";
/// The argument and result attribute with an input's or output's name in the source model.
pub const NAME_ATTRIBUTE: &str = "mxc.name";
/// `@main`'s attribute with the name of the output that holds the logits; without it, the first.
pub const LOGITS_ATTRIBUTE: &str = "mxc.logits";
/// `@main`'s attribute with what the network is for; without it, classification.
pub const TASK_ATTRIBUTE: &str = "mxc.task";
/// `@main`'s attribute that says that axis 0 is no batch: the module computes across it.
pub const WHOLE_ATTRIBUTE: &str = "mxc.whole";

/// A Rust value that is a dictionary attribute.
pub trait DictionaryValue: Sized {
    /// The attribute.
    fn to_attribute<'c>(&self, context: &'c Context) -> Attribute<'c>;

    /// Reads the attribute; says what is missing or wrong.
    fn from_attribute(dictionary: &DictionaryAttribute<'_>) -> Result<Self, String>;
}

/// Runs `action` and returns its result with the error diagnostics (notes appended) that MLIR emitted meanwhile.
pub fn with_diagnostics<R>(context: &Context, action: impl FnOnce() -> R) -> (R, Vec<String>) {
    let messages = Rc::new(RefCell::new(Vec::new()));
    let sink = messages.clone();
    let id = context.attach_diagnostic_handler(move |diagnostic| {
        if matches!(diagnostic.severity(), DiagnosticSeverity::Error) {
            // Printing stops at what is not UTF-8, such as half a character that the lexer stumbled over.
            let mut text = String::new();
            let _ = write!(text, "{}: {diagnostic}", diagnostic.location());
            for index in 0..diagnostic.note_count() {
                if let Ok(note) = diagnostic.note(index) {
                    let _ = write!(text, "\n  note: {note}");
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

/// Things inside one another that MLIR text may have.
const MAX_DEPTH: usize = 256;
/// The bytes that one affine map or set may have.
const MAX_AFFINE: usize = 4096;

/// Checks that MLIR's parser withstands a source from anywhere. The parser recurses without a limit, so deep text overflows
/// the stack and ends the process: brackets, aliases of aliases and the operators of affine maps are counted first. Strings must
/// be UTF-8, as melior takes for granted. Of bytecode nothing can be told without reading it, so it is refused.
fn check_source(source: &[u8]) -> Result<(), String> {
    if source.starts_with(b"ML\xefR") {
        return Err("MLIR bytecode is not read, because a hostile file could end the program; \
                    make text of it with mlir-opt"
            .to_owned());
    }
    if std::str::from_utf8(source).is_err() {
        return Err("the text is not UTF-8".to_owned());
    }
    let too_deep = || format!("the text is nested more than {MAX_DEPTH} deep");
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_$.-".contains(&byte);
    // The open brackets, and where each stands.
    let mut open: Vec<(u8, usize)> = Vec::new();
    let mut affine = None;
    // How deep each alias is, and the one being defined.
    let mut aliases: BTreeMap<&[u8], usize> = BTreeMap::new();
    let mut defined: Option<&[u8]> = None;
    let mut at = 0;
    while let Some(&byte) = source.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'"' => {
                let mut text = Vec::new();
                while let Some(&byte) = source.get(at) {
                    at += 1;
                    match byte {
                        b'"' | b'\n' => break,
                        b'\\' => {
                            // Two hexadecimal digits are a byte; what else follows is one ASCII character.
                            let digits = source.get(at..at + 2).and_then(|digits| std::str::from_utf8(digits).ok());
                            match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                                Some(byte) => {
                                    text.push(byte);
                                    at += 2;
                                }
                                None => at += 1,
                            }
                        }
                        byte => text.push(byte),
                    }
                }
                if std::str::from_utf8(&text).is_err() {
                    return Err("a string is not UTF-8".to_owned());
                }
            }
            b'/' if source.get(at) == Some(&b'/') => {
                at += source[at..].iter().position(|&byte| byte == b'\n').unwrap_or(source.len() - at);
            }
            b'(' | b'[' | b'{' | b'<' => open.push((byte, start)),
            b')' | b']' | b'}' | b'>' => {
                let opening = match byte {
                    b')' => b'(',
                    b']' => b'[',
                    b'}' => b'{',
                    _ => b'<',
                };
                // An arrow or a comparison closes nothing.
                if open.last().is_some_and(|&(last, _)| last == opening)
                    && !(byte == b'>' && source[..start].ends_with(b"-"))
                {
                    open.pop();
                }
            }
            b'#' | b'!' | b'a'..=b'z' | b'A'..=b'Z' => {
                at += source[at..].iter().position(|&byte| !is_name(byte)).unwrap_or(source.len() - at);
                let name = &source[start..at];
                let rest = source[at..].trim_ascii_start();
                if matches!(name, b"affine_map" | b"affine_set") {
                    affine = affine.or(Some((start, open.len())));
                } else if !byte.is_ascii_alphabetic() {
                    if open.is_empty() && rest.starts_with(b"=") && !rest.starts_with(b"==") {
                        defined = Some(name);
                        aliases.insert(name, 0);
                    } else if let Some(&depth) = aliases.get(name) {
                        let depth = depth + open.len() + 1;
                        if depth > MAX_DEPTH {
                            return Err(too_deep());
                        }
                        // Whoever uses it has seen its end; text behind the last alias else counts as its own.
                        if defined == Some(name) {
                            defined = None;
                        } else if let Some(own) = defined.and_then(|alias| aliases.get_mut(alias)) {
                            *own = depth.max(*own);
                        }
                    }
                }
            }
            _ => {}
        }
        if open.len() > MAX_DEPTH {
            return Err(too_deep());
        }
        if let Some((from, depth)) = affine {
            if at - from > MAX_AFFINE {
                return Err(format!("an affine map or set has more than {MAX_AFFINE} bytes"));
            }
            if open.len() == depth && byte == b'>' {
                affine = None;
            }
        }
        if let Some(own) = defined.and_then(|alias| aliases.get_mut(alias)) {
            *own = open.len().max(*own);
        }
    }
    Ok(())
}

/// Parses MLIR text (with or without an enclosing `module`), or returns the parser's and verifier's messages. Text that would
/// be nested deeper than MLIR's parser withstands, and bytecode, is refused.
pub fn parse<'c>(context: &'c Context, source: &[u8], name: &str) -> Result<Module<'c>, String> {
    check_source(source).map_err(|reason| format!("{name}: {reason}"))?;
    let (mut module, mut messages) = with_diagnostics(context, || crate::ffi::parse_module(context, source, name));
    // Nothing, several or other operations at the top level.
    let bare = messages.is_empty()
        || messages.iter().any(|message| message.contains("source must contain a single top-level operation"));
    if module.is_none() && bare {
        (module, messages) = with_diagnostics(context, || crate::ffi::parse_bare_module(context, source));
    }
    match module {
        Some(module) => Ok(module),
        None if messages.is_empty() => Err(format!("{name}: not an MLIR module")),
        None => Err(messages.join("\n")),
    }
}

/// The operation's name, such as `tosa.conv2d`.
pub fn op_name(operation: &OperationRef<'_, '_>) -> String {
    crate::ffi::identifier_text(operation.name()).unwrap_or_default()
}

/// The operations of a block, in order.
pub fn block_ops<'c, 'a>(block: BlockRef<'c, 'a>) -> Vec<OperationRef<'c, 'a>> {
    std::iter::successors(block.first_operation(), |operation| operation.next_in_block()).collect()
}

/// The module's top-level operations.
pub fn module_ops<'c, 'a>(module: &'a Module<'c>) -> Vec<OperationRef<'c, 'a>> {
    block_ops(module.body())
}

/// The entry block of a function-like operation.
pub fn entry_block<'c, 'a>(function: OperationRef<'c, 'a>) -> Option<BlockRef<'c, 'a>> {
    // melior prints the whole module into its error about a region that is not there.
    (function.region_count() > 0).then(|| function.region(0).ok()).flatten().and_then(|region| region.first_block())
}

/// The function `@main` of a module.
pub fn main_function<'c, 'a>(module: &'a Module<'c>) -> Option<OperationRef<'c, 'a>> {
    module_ops(module).into_iter().find(|operation| {
        op_name(operation) == "func.func" && string_attr(operation, "sym_name").as_deref() == Some(MAIN)
    })
}

/// The operation that defines a value, or `None` for a block argument.
pub fn defining_op<'c, 'a>(value: Value<'c, 'a>) -> Option<OperationRef<'c, 'a>> {
    OperationResult::try_from(value).ok().map(|result| result.owner())
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
    as_i64s(operation.attribute(name).ok()?)
}

/// The integers of an `array<i64: …>` or `array<i32: …>` attribute.
pub fn as_i64s(attribute: Attribute<'_>) -> Option<Vec<i64>> {
    if let Ok(array) = DenseI64ArrayAttribute::try_from(attribute) {
        return (0..array.len()).map(|i| array.element(i).ok()).collect();
    }
    let array = DenseI32ArrayAttribute::try_from(attribute).ok()?;
    (0..array.len()).map(|i| array.element(i).ok().map(i64::from)).collect()
}

/// A dictionary attribute.
pub fn dict_attr<'c>(operation: &OperationRef<'c, '_>, name: &str) -> Option<DictionaryAttribute<'c>> {
    DictionaryAttribute::try_from(operation.attribute(name).ok()?).ok()
}

/// A symbol reference's name.
pub fn symbol_attr(operation: &OperationRef<'_, '_>, name: &str) -> Option<String> {
    crate::ffi::symbol_text(operation.attribute(name).ok()?)
}

/// The text of a string attribute.
pub fn as_string(attribute: Attribute<'_>) -> Option<String> {
    crate::ffi::string_text(attribute)
}

/// The value of an integer attribute.
pub fn as_i64(attribute: Attribute<'_>) -> Option<i64> {
    IntegerAttribute::try_from(attribute).ok().map(|integer| integer.value())
}

/// The value of a floating-point attribute.
pub fn as_f64(attribute: Attribute<'_>) -> Option<f64> {
    attribute.is_float().then_some(())?;
    FloatAttribute::try_from(attribute).ok().map(|float| float.value())
}

/// A string attribute's value.
pub fn string<'c>(context: &'c Context, value: &str) -> Attribute<'c> {
    StringAttribute::new(context, value).into()
}

/// An `i64` attribute's value.
pub fn integer<'c>(context: &'c Context, value: i64) -> Attribute<'c> {
    IntegerAttribute::new(melior::ir::r#type::IntegerType::new(context, 64).into(), value).into()
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
    let entries: Vec<_> =
        entries.iter().map(|(name, value)| (melior::ir::Identifier::new(context, name), *value)).collect();
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
    let dimensions: Vec<u64> = shape.iter().map(|size| size.map_or(i64::MIN as u64, |size| size as u64)).collect();
    RankedTensorType::new(&dimensions, element, None).into()
}

/// The name of the `ml_program` global that a value loads, if it is a `global_load_const`.
pub fn loaded_global(value: Value<'_, '_>) -> Option<String> {
    let operation = defining_op(value)?;
    (op_name(&operation) == "ml_program.global_load_const").then(|| symbol_attr(&operation, "global")).flatten()
}

/// The values of a dense integer or index elements attribute, such as a `tosa.const_shape`'s, splats of reasonable size
/// written out.
pub fn dense_integers(attribute: Attribute<'_>) -> Option<Vec<i64>> {
    let elements = DenseElementsAttribute::try_from(attribute).ok()?;
    let element = RankedTensorType::try_from(attribute.r#type()).ok()?.element();
    let width = IntegerType::try_from(element).ok().map(|integer| integer.width());
    if elements.is_splat() && elements.len() > crate::ffi::MAX_SPLAT / 2 {
        return None;
    }
    (0..elements.len())
        .map(|index| match width {
            Some(8) => elements.i8_element(index).ok().map(i64::from),
            Some(16) => elements.i16_element(index).ok().map(i64::from),
            Some(32) => elements.i32_element(index).ok().map(i64::from),
            Some(64) => elements.i64_element(index).ok(),
            None if element.is_index() => elements.index_element(index).ok().map(|v| v as i64),
            _ => None,
        })
        .collect()
}

/// The names of a module's symbols.
pub fn symbols(module: &Module<'_>) -> BTreeSet<String> {
    module_ops(module).iter().filter_map(|operation| string_attr(operation, "sym_name")).collect()
}

/// The module's `ml_program` globals by name.
pub fn globals<'c, 'a>(module: &'a Module<'c>) -> BTreeMap<String, OperationRef<'c, 'a>> {
    module_ops(module)
        .into_iter()
        .filter(|operation| op_name(operation) == "ml_program.global")
        .filter_map(|operation| Some((string_attr(&operation, "sym_name")?, operation)))
        .collect()
}

/// A type attribute's type.
pub fn type_attr<'c>(operation: &OperationRef<'c, '_>, name: &str) -> Option<Type<'c>> {
    TypeAttribute::try_from(operation.attribute(name).ok()?).ok().map(|attribute| attribute.value())
}

/// A Boolean attribute's value.
pub fn boolean(context: &Context, value: bool) -> Attribute<'_> {
    BoolAttribute::new(context, value).into()
}

/// A static f32 tensor type.
pub fn f32_tensor<'c>(context: &'c Context, shape: &[usize]) -> Type<'c> {
    let shape: Vec<_> = shape.iter().map(|size| Some(*size)).collect();
    tensor_type(Type::float32(context), &shape)
}

/// Whether a global's values lie in the weight store, and not in the module.
pub fn is_extern_global(global: &OperationRef<'_, '_>) -> bool {
    global.attribute("value").is_ok_and(|value| value.to_string().starts_with("#ml_program.extern"))
}

/// `ml_program.global private @name(#ml_program.extern) : type`, a weight whose values lie in the weight store.
pub fn extern_global<'c>(context: &'c Context, name: &str, r#type: Type<'c>) -> Result<Operation<'c>, melior::Error> {
    let id = |name: &str| Identifier::new(context, name);
    let value =
        Attribute::parse(context, &format!("#ml_program.extern : {type}")).ok_or(melior::Error::OperationBuild)?;
    OperationBuilder::new("ml_program.global", Location::unknown(context))
        .add_attributes(&[
            (id("sym_name"), string(context, name)),
            (id("sym_visibility"), string(context, "private")),
            (id("type"), TypeAttribute::new(r#type).into()),
            (id("value"), value),
        ])
        .build()
}

/// `ml_program.global_load_const @name : type`.
pub fn load_global<'c>(context: &'c Context, name: &str, r#type: Type<'c>) -> Result<Operation<'c>, melior::Error> {
    OperationBuilder::new("ml_program.global_load_const", Location::unknown(context))
        .add_attributes(&[(Identifier::new(context, "global"), FlatSymbolRefAttribute::new(context, name).into())])
        .add_results(&[r#type])
        .build()
}

/// A `tosa.const` of f32 values; `values` has one element (a splat) or as many as the shape.
pub fn tosa_const<'c>(context: &'c Context, shape: &[usize], values: &[f32]) -> Result<Operation<'c>, melior::Error> {
    let r#type = f32_tensor(context, shape);
    let values = DenseElementsAttribute::f32_values(r#type, values);
    OperationBuilder::new("tosa.const", Location::unknown(context))
        .add_attributes(&[(Identifier::new(context, "values"), values.into())])
        .add_results(&[r#type])
        .build()
}

/// The name in a location: the first `NameLoc` met from the outside in (fused and call-site locations are searched).
pub fn location_name(location: Location<'_>) -> Option<String> {
    if location.is_name() {
        return crate::ffi::identifier_text(location.name_value());
    }
    if location.is_fused() {
        return (0..location.fused_num_locations()).find_map(|index| location_name(location.fused_location(index)));
    }
    location.is_call_site().then(|| location_name(location.call_site_callee())).flatten()
}
