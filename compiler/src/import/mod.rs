//! Import: from a trained model's file to the graph level, TOSA.
//!
//! An ONNX file takes three steps, one file each: [`decode`](self) reads it into a plain graph with typed constants in
//! execution order; constant subgraphs (shape arithmetic, the batch size staying symbolic) are folded; what remains is
//! emitted as TOSA in f32.
//!
//! - `@main` keeps the model's signature: inputs and outputs in ONNX's layout, their names in the attribute `mxc.name`,
//!   the batch `?`. Inside, convolutional networks run channels last (NHWC): the importer tracks in which order each
//!   value's axes are stored and transposes only where an operator needs another.
//! - Weights are `ml_program` globals named after their ONNX initializers; the values are in the [`WeightStore`]:
//!   convolutions OHWI, depthwise ones HWCM, matrix products `[1, I, O]`.
//! - Every operation's location is its ONNX node's name ([`name_nodes`]), which passes take as the layer's name.

mod attributes;
mod decode;
mod emit;
mod error;
mod fold;
mod inline;
mod lower;
mod proto;
mod resources;
mod tensor;

pub use error::{ImportError, UnsupportedNode};
pub use inline::inline_weights;

pub(crate) use decode::parse;
pub(crate) use proto::{inline, integer, name_nodes, reads, rename, sort, unique};

use decode::{InputDim, Model};
use emit::Emitter;
use lower::{Entry, Lowering, Scope};
use melior::{
    Context,
    ir::{
        Block, BlockLike, Location, Module, OperationRef, ShapedTypeLike, Type, TypeLike, ValueLike,
        attribute::ArrayAttribute,
        operation::{OperationLike, OperationMutLike},
        r#type::RankedTensorType,
    },
};
use mxc_dialects::{
    erase::{Eraser, ModuleMut},
    ir,
    origin::{self, Origin},
};
use mxc_runtime::{
    files::sha256,
    store::{Bytes, WeightStore},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};
use tensor::{Dim, Element, show};

/// The oldest operator set that is read.
const OLDEST_OPSET: i64 = 7;
/// The newest operator set that the importer was checked against.
const NEWEST_OPSET: i64 = 26;

/// What the caller decides about an import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Shapes for inputs with dynamic dimensions, by the input's name (`--input-shape NAME=1,3,H,W`). The first dimension
    /// is the batch and stays dynamic, unless the network is made for one of this size alone.
    pub input_shapes: BTreeMap<String, Vec<usize>>,
    /// The shapes of the arrays that the network is to run on, by name: they give dimensions that neither the model nor
    /// `input_shapes` fixes. The only array serves the only input, whatever its name.
    pub array_shapes: BTreeMap<String, Vec<usize>>,
    /// The most memory, in bytes, that constants may take which the model computes out of smaller ones
    /// (`--max-constant-bytes`). `None` is [`MAX_CONSTANT_BYTES`], but no more than 64 MiB and 64 times the file's size, so
    /// that a small file cannot ask for a large computation.
    pub max_constant_bytes: Option<u64>,
    /// External data files that are in memory, by the location that the model's tensors name; other locations are looked up beside the
    /// model.
    pub external_data: BTreeMap<String, Bytes>,
}

impl ImportOptions {
    /// The shape of the array for an input.
    fn array_shape(&self, model: &Model, input: &str) -> Option<&Vec<usize>> {
        let only = || self.array_shapes.values().next().filter(|_| self.array_shapes.len() == 1);
        self.array_shapes.get(input).or_else(|| only().filter(|_| model.graph.inputs.len() == 1))
    }
}

/// See [`ImportOptions::max_constant_bytes`].
pub const MAX_CONSTANT_BYTES: u64 = 1 << 30;

/// An imported network.
#[derive(Debug)]
pub struct Imported<'c> {
    /// The module at the graph level, verified.
    pub module: Module<'c>,
    /// The values of its globals.
    pub weights: WeightStore,
    /// What it was imported from.
    pub source: SourceInfo,
}

/// Where a network comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceInfo {
    /// The SHA-256 of the file, in hexadecimal digits.
    pub sha256: String,
    /// The version of ONNX's operator set that the file imports; `None` for MLIR.
    pub opset: Option<i64>,
    /// The exporter's name and version, as far as the file tells.
    pub producer: String,
    /// Whether the network computes across axis 0 of its inputs, so that this is no batch: it runs on all of them at once.
    pub whole: bool,
    /// The inputs.
    pub inputs: Vec<SourceInput>,
    /// The names of the outputs.
    pub outputs: Vec<String>,
}

/// A network's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInput {
    /// Its name in the source model.
    pub name: String,
    /// Its dimensions, `None` for the batch.
    pub shape: Vec<Option<usize>>,
    /// Whether its elements are floating-point numbers.
    pub is_float: bool,
    /// Whether its elements are bytes (uint8).
    pub is_bytes: bool,
    /// The axis that holds the channels, as far as the network tells: the first convolution, pooling or normalization
    /// that reads it. 1 is NCHW, 3 NHWC.
    pub channel_axis: Option<usize>,
}

/// Imports an ONNX file. External data files are looked up beside it.
pub fn onnx<'c>(context: &'c Context, path: &Path, options: &ImportOptions) -> Result<Imported<'c>, ImportError> {
    let bytes = read(path)?;
    let file = path.display().to_string();
    let (model, found) = (decode::parse(&bytes, &file)?, File { sha256: sha256(&bytes), size: bytes.len() as u64 });
    // The model holds its weights now; a second copy would be most of the peak.
    drop(bytes);
    onnx_model(context, model, found, &file, path.parent().unwrap_or(Path::new("")), options)
}

/// Imports the bytes of an ONNX file; `file` names it in errors, `folder` is where its external data files are.
pub fn onnx_bytes<'c>(
    context: &'c Context,
    bytes: &[u8],
    file: &str,
    folder: &Path,
    options: &ImportOptions,
) -> Result<Imported<'c>, ImportError> {
    let found = File { sha256: sha256(bytes), size: bytes.len() as u64 };
    onnx_model(context, decode::parse(bytes, file)?, found, file, folder, options)
}

/// What is known of a model's bytes once they are parsed.
struct File {
    sha256: String,
    size: u64,
}

fn onnx_model<'c>(
    context: &'c Context,
    model: onnx_protobuf::ModelProto,
    File { sha256, size }: File,
    file: &str,
    folder: &Path,
    options: &ImportOptions,
) -> Result<Imported<'c>, ImportError> {
    let mut model = decode::decode(model, folder, &options.external_data)?;
    let Some(&opset) = model.opsets.get("") else {
        return Err(ImportError::NotOnnx {
            file: file.to_owned(),
            reason: "it does not say which operator set it uses".to_owned(),
        });
    };
    if opset < OLDEST_OPSET {
        return Err(ImportError::Opset { file: file.to_owned(), opset, oldest: OLDEST_OPSET });
    }
    if opset > NEWEST_OPSET {
        tracing::warn!("'{file}' uses ONNX opset {opset}, which is newer than {NEWEST_OPSET}, the newest checked");
    }
    if model.is_double {
        tracing::warn!("'{file}' is of f64; mxc computes it in f32");
    }
    let small = (64 << 20) + 64 * size;
    let limit = options.max_constant_bytes.unwrap_or(small.min(MAX_CONSTANT_BYTES));
    let found = read_model(context, &model, &sha256, options, limit);
    let open = |input: &decode::Input| {
        input.shape.as_ref().is_none_or(|shape| matches!(shape.first(), Some(InputDim::Dynamic(_))))
    };
    if !model.graph.inputs.iter().any(open) {
        return found;
    }
    // A batch that is declared dynamic may be used as one of a certain size: then that is what the caller says it is, or 1.
    let given: Vec<Option<Vec<usize>>> = model
        .graph
        .inputs
        .iter()
        .map(|input| {
            options.input_shapes.get(&input.name).or_else(|| options.array_shape(&model, &input.name)).cloned()
        })
        .collect();
    let asked = given.iter().any(Option::is_some);
    let worth = match &found {
        Ok(imported) => asked && crate::load::program(&imported.module, &imported.weights).is_err(),
        Err(ImportError::Node { .. }) => true,
        Err(ImportError::Unsupported { .. }) => asked,
        Err(_) => false,
    };
    if !worth {
        return found;
    }
    let mut pin = |batch: Option<usize>| {
        for (input, given) in model.graph.inputs.iter_mut().zip(&given) {
            input.pin(given.as_deref(), batch);
        }
        read_model(context, &model, &sha256, options, limit)
    };
    if let Some(batch) = given.iter().flatten().find_map(|shape| shape.first().copied()) {
        match pin(Some(batch)) {
            Ok(pinned) => return Ok(pinned),
            Err(error) if found.is_err() && !options.input_shapes.is_empty() => return Err(error),
            Err(_) => return found,
        }
    }
    let pinned = pin(Some(1));
    match (found, pinned) {
        (Err(ImportError::Node { node, op, reason }), Ok(_)) => {
            let help = format!("the network is made for a batch of 1: pin it with {}", pin_options(&model, "1"));
            Err(ImportError::Node { node, op, reason: format!("{reason}; {help}") })
        }
        // A target without a free axis fixes the batch, too.
        (Err(ImportError::Node { node, op, reason }), Err(_))
            if op == "Reshape" && reason.contains("[N") && !reason.contains("-1") =>
        {
            let help =
                format!("if it is made for a batch of one size alone, pin that with {}", pin_options(&model, "SIZE"));
            Err(ImportError::Node { node, op, reason: format!("{reason}; {help}") })
        }
        (found, _) => found,
    }
}

/// The options that pin the batch of a model's inputs to `size`.
fn pin_options(model: &Model, size: &str) -> String {
    let option = |input: &decode::Input| {
        let rest = input.shape.iter().flatten().skip(1).map(|dim| match dim {
            InputDim::Fixed(size) => size.to_string(),
            InputDim::Dynamic(_) => "…".to_owned(),
        });
        let sizes: Vec<String> = std::iter::once(size.to_owned()).chain(rest).collect();
        format!("--input-shape '{}={}'", input.name, sizes.join(","))
    };
    model.graph.inputs.iter().map(option).collect::<Vec<_>>().join(" ")
}

/// Imports a decoded model; where its file fixes all shapes, axis 0 is the batch only if the network does not compute across it.
fn read_model<'c>(
    context: &'c Context,
    model: &Model,
    sha256: &str,
    options: &ImportOptions,
    limit: u64,
) -> Result<Imported<'c>, ImportError> {
    let build = |whole: bool| build(context, model, sha256, options, limit, whole);
    let found = build(false);
    if !model.graph.inputs.iter().all(is_static) {
        return found;
    }
    // What looks like a batch may be an axis that the network computes across.
    let runs = |imported: &Imported<'c>| crate::load::program(&imported.module, &imported.weights).is_ok();
    match found {
        Ok(imported) if runs(&imported) => Ok(imported),
        Ok(imported) => Ok(build(true).unwrap_or(imported)),
        Err(error) => build(true).map_err(|other| match (&error, &other) {
            (ImportError::Input { .. }, _) | (ImportError::Unsupported { .. }, ImportError::Unsupported { .. }) => {
                other
            }
            _ => error,
        }),
    }
}

/// Whether the file fixes an input's shape.
fn is_static(input: &decode::Input) -> bool {
    let fixed = |dim: &InputDim| matches!(dim, InputDim::Fixed(_));
    input.shape.as_ref().is_some_and(|shape| shape.iter().all(fixed))
}

/// Imports a decoded model, taking axis 0 of its inputs for the batch, or, `whole`, as any other axis.
fn build<'c>(
    context: &'c Context,
    model: &Model,
    sha256: &str,
    options: &ImportOptions,
    max_constant_bytes: u64,
    whole: bool,
) -> Result<Imported<'c>, ImportError> {
    let (inputs, fixed_batch) = inputs(model, options, whole)?;
    let elements: Vec<Element> = model.graph.inputs.iter().filter_map(|input| input.element).collect();
    let types: Vec<Type<'c>> = inputs
        .iter()
        .zip(&elements)
        .map(|((_, shape), element)| {
            let shape: Vec<_> = shape.iter().map(|dim| dim.fixed()).collect();
            ir::tensor_type(emit::element_type(context, *element), &shape)
        })
        .collect();
    let named = |name: &str| Location::name(context, name, Location::unknown(context));
    let arguments: Vec<_> = inputs.iter().zip(&types).map(|((name, _), r#type)| (*r#type, named(name))).collect();
    let block = Block::new(&arguments);
    let lowered = lower(context, &block, model, (&inputs, fixed_batch), max_constant_bytes, whole)?;
    let mut module = Module::new(Location::unknown(context));
    for global in lowered.globals {
        module.body().append_operation(global);
    }
    let names: Vec<_> = inputs.iter().map(|(name, _)| name.clone()).collect();
    let outputs = model.graph.outputs.clone();
    let function = emit::main_function(context, block, (&types, &names), (&lowered.results, &outputs), whole)
        .map_err(ImportError::Invalid)?;
    module.body().append_operation(function);
    ModuleMut::new(&mut module).erasing(prune);
    let (valid, messages) = ir::with_diagnostics(context, || module.as_operation().verify());
    if !valid {
        return Err(ImportError::Invalid(messages.join("\n")));
    }
    let mut weights = lowered.weights;
    drop_unused_globals(&mut module, &mut weights);
    let inputs = inputs
        .into_iter()
        .enumerate()
        .map(|(index, (name, shape))| SourceInput {
            name,
            is_float: elements.get(index) == Some(&Element::F32),
            is_bytes: model.graph.inputs.get(index).is_some_and(|input| input.bytes),
            shape: shape.iter().map(|dim| dim.fixed()).collect(),
            channel_axis: lowered.channel_axes.get(&index).copied(),
        })
        .collect();
    Ok(Imported {
        module,
        weights,
        source: SourceInfo {
            sha256: sha256.to_owned(),
            opset: model.opsets.get("").copied(),
            producer: model.producer.clone(),
            whole,
            inputs,
            outputs,
        },
    })
}

/// Imports a module in the TOSA dialect, as text. Its only function is renamed to `@main`; constants whose values are
/// resources behind the module become weights, others stay where they are, and globals without a value need weights from
/// elsewhere.
pub fn mlir<'c>(context: &'c Context, path: &Path) -> Result<Imported<'c>, ImportError> {
    mlir_bytes(context, &read(path)?, &path.display().to_string(), &WeightStore::new())
}

/// Imports the bytes of a module in the TOSA dialect, whose globals have the values of `weights` unless it holds them itself; `file`
/// names it in errors. See [`mlir`].
pub fn mlir_bytes<'c>(
    context: &'c Context,
    bytes: &[u8],
    file: &str,
    weights: &WeightStore,
) -> Result<Imported<'c>, ImportError> {
    let failed = |reason: String| ImportError::Mlir { file: file.to_owned(), reason };
    let mut module = ir::parse(context, bytes, file).map_err(failed)?;
    if ir::main_function(&module).is_none() {
        let functions: Vec<_> =
            ir::module_ops(&module).into_iter().filter(|operation| ir::op_name(operation) == "func.func").collect();
        let [_] = functions.as_slice() else {
            return Err(failed(format!("it has {} functions, none of them '@main'", functions.len())));
        };
        let mut next = module.body().first_operation_mut();
        while let Some(mut operation) = next {
            if operation.name().as_string_ref().as_str() == Ok("func.func") {
                operation.set_attribute("sym_name", ir::string(context, ir::MAIN));
            }
            next = operation.next_in_block_mut();
        }
    }
    let source = std::str::from_utf8(bytes).map_err(|error| failed(error.to_string()))?;
    let weights = weights.union(&resources::to_weights(context, &mut module, source).map_err(failed)?);
    let Some(main) = ir::main_function(&module) else {
        return Err(failed("it has no function '@main'".to_owned()));
    };
    let Some(block) = ir::entry_block(main) else {
        return Err(failed("its function '@main' has no body".to_owned()));
    };
    // There is no ONNX file to export into.
    origin::set(context, main, &[]);
    let mut inputs = Vec::new();
    for index in 0..block.argument_count() {
        let shape = block.argument(index).ok().and_then(|argument| ir::tensor_shape(argument.r#type()));
        let Some(shape) = shape else {
            return Err(failed(format!("argument {index} of '@main' is not a ranked tensor")));
        };
        let name = attribute_name(&main, "arg_attrs", index).unwrap_or_else(|| format!("input{index}"));
        let element =
            block.argument(index).ok().and_then(|argument| RankedTensorType::try_from(argument.r#type()).ok());
        let is_float = element.is_some_and(|tensor| tensor.element().is_f32());
        inputs.push(SourceInput { name, shape, is_float, is_bytes: false, channel_axis: None });
    }
    let whole = main.attribute(ir::WHOLE_ATTRIBUTE).is_ok();
    let results = block.terminator().map_or(0, |terminator| terminator.operand_count());
    let outputs = (0..results)
        .map(|index| attribute_name(&main, "res_attrs", index).unwrap_or_else(|| format!("output{index}")))
        .collect();
    Ok(Imported {
        weights,
        source: SourceInfo { sha256: sha256(bytes), whole, inputs, outputs, ..SourceInfo::default() },
        module,
    })
}

/// The name that a function's argument or result has in the source model.
fn attribute_name(function: &melior::ir::OperationRef<'_, '_>, list: &str, index: usize) -> Option<String> {
    let list = ArrayAttribute::try_from(function.attribute(list).ok()?).ok()?;
    let entry = melior::ir::attribute::DictionaryAttribute::try_from(list.element(index).ok()?).ok()?;
    entry.element_by_name(ir::NAME_ATTRIBUTE).and_then(ir::as_string)
}

fn read(path: &Path) -> Result<Vec<u8>, ImportError> {
    std::fs::read(path).map_err(|source| ImportError::Read { path: path.to_owned(), source })
}

/// The graph's inputs with the batch made dynamic, and the batch size that the file fixes, if it does.
type Inputs = (Vec<(String, Vec<Dim>)>, Option<i64>);

fn inputs(model: &Model, options: &ImportOptions, whole: bool) -> Result<Inputs, ImportError> {
    let failed = |input: &str, reason: String, help: &str| ImportError::Input {
        input: input.to_owned(),
        reason,
        help: help.to_owned(),
    };
    let names: BTreeSet<_> = model.graph.inputs.iter().map(|input| input.name.as_str()).collect();
    if let Some(unknown) = options.input_shapes.keys().find(|name| !names.contains(name.as_str())) {
        let known: Vec<_> = names.into_iter().map(|name| format!("'{name}'")).collect();
        return Err(failed(
            unknown,
            "the model has no such input".to_owned(),
            &format!("its inputs are {}", known.join(", ")),
        ));
    }
    let mut inputs = Vec::with_capacity(names.len());
    let mut fixed_batch = None;
    for input in &model.graph.inputs {
        let name = &input.name;
        let mend = format!("give its shape with --input-shape '{name}=1,3,H,W' (the first dimension is the batch)");
        if input.element.is_none() {
            return Err(failed(
                name,
                "it is not a tensor of floats, integers or booleans".to_owned(),
                "mxc compiles networks whose inputs are tensors of numbers",
            ));
        }
        let given = options.input_shapes.get(name);
        let array = options.array_shape(model, name);
        let declared = match (&input.shape, given.or(array)) {
            (Some(shape), _) => shape.clone(),
            (None, Some(given)) => vec![InputDim::Dynamic(String::new()); given.len()],
            (None, None) => {
                return Err(failed(name, "the file does not declare its shape".to_owned(), &mend));
            }
        };
        if let Some(given) = given
            && given.len() != declared.len()
        {
            let reason =
                format!("--input-shape gives {} dimensions, the model declares {}", given.len(), declared.len());
            return Err(failed(name, reason, &mend));
        }
        if declared.is_empty() && !whole {
            return Err(failed(
                name,
                "it is a scalar".to_owned(),
                "mxc needs inputs whose first dimension is the batch",
            ));
        }
        let mut shape = Vec::with_capacity(declared.len());
        for (axis, dim) in declared.iter().enumerate() {
            if axis == 0 && !whole {
                if let InputDim::Fixed(size) = dim {
                    if fixed_batch.is_some_and(|batch| batch != *size) {
                        let reason = format!("its first dimension is {size}, that of another input is not");
                        return Err(failed(name, reason, "all inputs must have the same batch size"));
                    }
                    fixed_batch = Some(*size);
                }
                shape.push(Dim::Batch(1));
                continue;
            }
            let size = match (dim, given.map(|given| given[axis])) {
                (InputDim::Fixed(size), None) => *size,
                (InputDim::Fixed(size), Some(given)) if given as i64 == *size => *size,
                (InputDim::Fixed(size), Some(given)) => {
                    let reason =
                        format!("--input-shape gives {given} for dimension {axis}, the model fixes it to {size}");
                    return Err(failed(name, reason, "leave the fixed dimensions as they are"));
                }
                (InputDim::Dynamic(_), Some(given)) => given as i64,
                (InputDim::Dynamic(_), None) if array.is_some_and(|array| array.len() == declared.len()) => {
                    array.map_or(0, |array| array[axis] as i64)
                }
                (InputDim::Dynamic(symbol), None) => {
                    let symbol = if symbol.is_empty() { String::new() } else { format!(" ('{symbol}')") };
                    return Err(failed(name, format!("its dimension {axis}{symbol} is dynamic"), &mend));
                }
            };
            match usize::try_from(size) {
                Ok(size) if size > 0 => shape.push(Dim::Fixed(size)),
                _ => {
                    return Err(failed(name, format!("its dimension {axis} is {size}"), &mend));
                }
            }
        }
        // Far beyond any real input; keeps later products of sizes from overflowing.
        if tensor::element_count(&shape).is_none_or(|(count, _)| count > 1 << 32) {
            return Err(failed(name, format!("its shape {} is too large", show(&shape)), &mend));
        }
        inputs.push((name.clone(), shape));
    }
    Ok((inputs, fixed_batch))
}

/// What lowering leaves behind, besides the function's body.
struct Lowered<'c> {
    globals: Vec<melior::ir::Operation<'c>>,
    weights: WeightStore,
    results: Vec<Type<'c>>,
    channel_axes: BTreeMap<usize, usize>,
}

/// Fills the function's body.
fn lower<'c>(
    context: &'c Context,
    block: &Block<'c>,
    model: &Model,
    (inputs, fixed_batch): (&[(String, Vec<Dim>)], Option<i64>),
    max_constant_bytes: u64,
    whole: bool,
) -> Result<Lowered<'c>, ImportError> {
    let emit = Emitter::new(context, block);
    let mut scope: Scope<'c, '_> = BTreeMap::new();
    for ((name, shape), &value) in inputs.iter().zip(emit.arguments()) {
        let order = emit::logical(shape.len());
        scope.insert(name.clone(), Entry::Activation(emit::Activation { value, shape: shape.clone(), order }));
    }
    let mut lowering = Lowering::new(emit, model, fixed_batch, max_constant_bytes);
    let outputs = lowering.run(scope)?;
    if !lowering.unsupported.is_empty() {
        return Err(ImportError::Unsupported { nodes: lowering.unsupported });
    }
    record(context, &lowering.named);
    let mut values = Vec::with_capacity(outputs.len());
    let failed = |output: &str, reason: &str| ImportError::Node {
        node: output.to_owned(),
        op: "graph output".to_owned(),
        reason: reason.to_owned(),
    };
    for (output, entry) in model.graph.outputs.iter().zip(&outputs) {
        let entry = match entry {
            Entry::Activation(activation) => lowering.emit.logical(activation),
            Entry::Constant(tensor) if whole => lowering.materialized(output, tensor, None),
            Entry::Constant(_) => return Err(failed(output, "it does not depend on the inputs")),
            Entry::Unknown => {
                return Err(failed(output, "it is an output that its node does not compute here"));
            }
        };
        match entry {
            Ok(activation) => values.push(activation.value),
            Err(_) => return Err(failed(output, "its layout cannot be restored")),
        }
    }
    let channel_axes = lowering.emit.channel_axes.clone();
    lowering.emit.r#return(&values).map_err(|_| ImportError::Invalid("func.return cannot be built".to_owned()))?;
    let results = values.iter().map(|value| value.r#type()).collect();
    let (globals, weights) = lowering.emit.finish();
    Ok(Lowered { globals, weights, results, channel_axes })
}

/// Records on each operation which of the model's values its result is.
fn record<'c>(context: &'c Context, named: &[(String, emit::Activation<'c, '_>)]) {
    let mut origins: BTreeMap<usize, (OperationRef<'c, '_>, Vec<Origin>)> = BTreeMap::new();
    for (name, activation) in named {
        if let Some(operation) = ir::defining_op(activation.value) {
            let shape: Vec<_> = activation.physical().iter().map(|dim| dim.fixed()).collect();
            let key = operation.to_raw().ptr as usize;
            let origin = Origin::new(name, &activation.order, &shape);
            origins.entry(key).or_insert((operation, Vec::new())).1.push(origin);
        }
    }
    for (operation, origins) in origins.into_values() {
        origin::set(context, operation, &origins);
    }
}

/// Removes the operations of `@main` whose results nothing uses.
fn prune<'c, 'a>(module: &'a Module<'c>, eraser: &mut Eraser<'c, 'a>) {
    for operation in ir::main_function(module).and_then(ir::entry_block).map(ir::block_ops).unwrap_or_default() {
        // Without results it is there for its effect; in use, it stays.
        if operation.result_count() > 0 {
            eraser.erase(operation);
        }
    }
}

/// Removes the globals that nothing loads, with their weights.
fn drop_unused_globals(module: &mut Module<'_>, weights: &mut WeightStore) {
    let mut loaded = BTreeSet::new();
    if let Some(block) = ir::main_function(module).and_then(ir::entry_block) {
        for operation in ir::block_ops(block) {
            if ir::op_name(&operation) == "ml_program.global_load_const" {
                loaded.extend(ir::symbol_attr(&operation, "global"));
            }
        }
    }
    ModuleMut::new(module).erasing(|module, eraser| {
        for operation in ir::module_ops(module) {
            let name = ir::string_attr(&operation, "sym_name").unwrap_or_default();
            if name != ir::MAIN && !loaded.contains(&name) {
                eraser.erase(operation);
            }
        }
    });
    weights.retain(|name| loaded.contains(name));
}
