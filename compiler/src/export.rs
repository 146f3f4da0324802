//! Export: splices trained denoisers into the user's own ONNX file.
//!
//! ```text
//! x ─ Conv ─ BatchNormalization ─ Relu            x ─ Conv ─ BatchNormalization ─┬─────────────────── Sub ─ Relu
//!                                  becomes                                       └─ block (mxc.…) ─────┘
//! ```
//!
//! A denoiser cleans a layer's folded output: it goes after the layer's node, and after what the compiler folds into that
//! layer: a BatchNormalization, or scales and shifts by constants, as long as each is the only reader of the value before
//! it. Everything else in the file stays: names, operator set, initializers with their bytes, external data references.
//! New nodes, values and initializers are named `mxc.LAYER.…`.

use crate::import::{self, ImportError, node_names};
use melior::ir::{Module, OperationRef, operation::OperationLike};
use mxc_dialects::ir;
use mxc_runtime::store::{Weight, WeightStore};
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, TensorProto, attribute_proto::AttributeType,
    tensor_proto::DataType,
};
use protobuf::Enum;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::Write as _,
    path::{Component, Path, PathBuf},
};

/// The denoisers of one layer. Where it has both, X̂ = affine(block(y)).
#[derive(Clone, Debug, Default)]
pub struct LayerDenoisers {
    /// The layer's name: its ONNX node's name, or that node's first output's.
    pub layer: String,
    /// The denoising block.
    pub block: Option<Block>,
    /// The per-channel affine.
    pub affine: Option<Affine>,
}

/// A denoising block's weights, laid out as the operands of `denoise.block`.
#[derive(Clone, Debug)]
pub struct Block {
    /// `[B, 1, 1, C]`.
    pub reduce_weight: Weight,
    /// `[B]`.
    pub reduce_bias: Weight,
    /// `[K, K, B, 1]`.
    pub depthwise_weight: Weight,
    /// `[B]`.
    pub depthwise_bias: Weight,
    /// `[C, 1, 1, B]`.
    pub mean_weight: Weight,
    /// `[C]`.
    pub mean_bias: Weight,
    /// The σ̂ head: `[C, 1, 1, B]` and `[C]`; `None` for the kind `mean`.
    pub sigma: Option<(Weight, Weight)>,
    /// LeakyReLU's slope.
    pub slope: f32,
}

/// A per-channel affine's weights, laid out as the operands of `denoise.affine`.
#[derive(Clone, Debug)]
pub struct Affine {
    /// `[C]`.
    pub scale: Weight,
    /// `[C]`.
    pub shift: Weight,
}

/// What the caller decides about an export.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// Whether the σ̂ path draws ε (`--sampling`, RandomNormalLike); otherwise ε = 0 and that path is left out.
    pub sampling: bool,
    /// The SHA-256 that the source file must have, in hexadecimal digits.
    pub sha256: Option<String>,
}

/// Why denoisers cannot be exported.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ExportError {
    /// The source is no ONNX model.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Source(#[from] ImportError),
    /// The source is not the file that the package was compiled from.
    #[error("'{file}' is not the model that the package was compiled from (its SHA-256 is {found}, not {expected})")]
    #[diagnostic(help("give the original file with --source"))]
    Hash {
        /// The file.
        file: String,
        /// Its hash.
        found: String,
        /// The recorded hash.
        expected: String,
    },
    /// A layer has no node in the source.
    #[error("the model has no node for the layer '{layer}'")]
    #[diagnostic(help(
        "the layer may lie in a function or nested graph of the model; inline those and compile again, or give the original \
         file with --source"
    ))]
    LayerNotFound {
        /// The layer.
        layer: String,
    },
    /// A layer's node is of a kind that holds no analog layer.
    #[error("node '{layer}' is a {op}, not a convolution or matrix product")]
    #[diagnostic(help("give the file that the package was compiled from with --source"))]
    NotALayer {
        /// The layer.
        layer: String,
        /// The node's operator.
        op: String,
    },
    /// A denoiser's weights do not fit together, or not its layer.
    #[error("the denoiser of layer '{layer}' does not fit: {reason}")]
    #[diagnostic(help("the package is damaged, or belongs to another model"))]
    Weights {
        /// The layer.
        layer: String,
        /// What is wrong.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("'{}': {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The result would need an external data file where another file lies.
    #[error("'{}' exists and is not the model's external data file of that name", path.display())]
    #[diagnostic(help("write the export to another folder"))]
    Occupied {
        /// The file in the way.
        path: PathBuf,
    },
}

/// The denoisers in a module's `@main`, by layer in execution order, with their weights.
pub fn denoisers(module: &Module<'_>, weights: &WeightStore) -> Result<Vec<LayerDenoisers>, ExportError> {
    let mut layers: Vec<LayerDenoisers> = Vec::new();
    let block = ir::main_function(module).and_then(ir::entry_block);
    for operation in block.map(ir::block_ops).unwrap_or_default() {
        let name = ir::op_name(&operation);
        if name != "denoise.block" && name != "denoise.affine" {
            continue;
        }
        let layer = ir::string_attr(&operation, "layer").unwrap_or_default();
        let index = match layers.iter().position(|each| each.layer == layer) {
            Some(index) => index,
            None => {
                layers.push(LayerDenoisers { layer: layer.clone(), ..Default::default() });
                layers.len() - 1
            }
        };
        let operand = |index: usize| operand_weight(&operation, index, &layer, weights);
        if name == "denoise.affine" {
            layers[index].affine = Some(Affine { scale: operand(1)?, shift: operand(2)? });
        } else {
            layers[index].block = Some(Block {
                reduce_weight: operand(1)?,
                reduce_bias: operand(2)?,
                depthwise_weight: operand(3)?,
                depthwise_bias: operand(4)?,
                mean_weight: operand(5)?,
                mean_bias: operand(6)?,
                sigma: if operation.operand_count() > 8 { Some((operand(7)?, operand(8)?)) } else { None },
                slope: ir::f64_attr(&operation, "slope").unwrap_or(1.0 / 128.0) as f32,
            });
        }
    }
    Ok(layers)
}

/// The weight behind an operand of a denoiser.
fn operand_weight(
    operation: &OperationRef<'_, '_>,
    index: usize,
    layer: &str,
    weights: &WeightStore,
) -> Result<Weight, ExportError> {
    let failed = |reason: String| ExportError::Weights { layer: layer.to_owned(), reason };
    let value = operation.operand(index).map_err(|error| failed(error.to_string()))?;
    let name = ir::loaded_global(value).ok_or_else(|| failed(format!("its operand {index} is no weight")))?;
    weights.get(&name).cloned().ok_or_else(|| failed(format!("the weight '{name}' is missing")))
}

/// Splices denoisers into the bytes of an ONNX file; `file` names it in errors.
pub fn onnx(
    source: &[u8],
    file: &str,
    layers: &[LayerDenoisers],
    options: &ExportOptions,
) -> Result<Vec<u8>, ExportError> {
    if let Some(expected) = &options.sha256 {
        let found = digest(source);
        if !found.eq_ignore_ascii_case(expected) {
            return Err(ExportError::Hash { file: file.to_owned(), found, expected: expected.clone() });
        }
    }
    let mut model = import::parse(source, file)?;
    splice(&mut model, layers, options)?;
    // Writing to memory cannot fail but for sizes beyond protobuf's 2 GiB.
    model.write_to_bytes().map_err(|error| {
        ImportError::NotOnnx { file: file.to_owned(), reason: format!("the result cannot be written: {error}") }.into()
    })
}

/// Splices denoisers into an ONNX file and writes the result to `target`, atomically. External data files are copied
/// beside the target if that lies in another folder; an existing file of the same content is left as it is.
pub fn onnx_file(
    source: &Path,
    target: &Path,
    layers: &[LayerDenoisers],
    options: &ExportOptions,
) -> Result<(), ExportError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ExportError::Io { path, source }
    };
    let bytes = std::fs::read(source).map_err(failed(source))?;
    let exported = onnx(&bytes, &source.display().to_string(), layers, options)?;
    let folder = |path: &Path| match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let (from, to) = (folder(source), folder(target));
    for location in external_files(&bytes, &source.display().to_string())? {
        let (source, copy) = (from.join(&location), to.join(&location));
        if copy == to.join(target.file_name().unwrap_or_default()) {
            return Err(ExportError::Occupied { path: copy });
        }
        let original = std::fs::canonicalize(&source).map_err(failed(&source))?;
        match std::fs::canonicalize(&copy) {
            Ok(existing) if existing == original => {}
            Ok(_) => {
                let read = |path: &Path| std::fs::read(path).map_err(failed(path));
                if read(&copy)? != read(&source)? {
                    return Err(ExportError::Occupied { path: copy });
                }
            }
            Err(_) => {
                let inside = folder(&copy);
                std::fs::create_dir_all(&inside).map_err(failed(&inside))?;
                std::fs::copy(&source, &copy).map_err(failed(&copy))?;
            }
        }
    }
    let mut file = tempfile::NamedTempFile::new_in(&to).map_err(failed(&to))?;
    file.write_all(&exported).and_then(|()| file.as_file().sync_all()).map_err(failed(target))?;
    file.persist(target).map_err(|error| ExportError::Io { path: target.to_owned(), source: error.error })?;
    Ok(())
}

/// The external data files that a model refers to, relative to its folder.
pub fn external_files(source: &[u8], file: &str) -> Result<Vec<PathBuf>, ExportError> {
    fn collect(graph: &GraphProto, found: &mut BTreeSet<PathBuf>) {
        let attributes = graph.node.iter().flat_map(|node| &node.attribute);
        let tensors = graph.initializer.iter().chain(attributes.clone().filter_map(|attribute| attribute.t.as_ref()));
        for tensor in tensors {
            for entry in tensor.external_data.iter().filter(|entry| entry.key == "location") {
                let path = PathBuf::from(&entry.value);
                // What points elsewhere is refused on import.
                if path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
                    found.insert(path);
                }
            }
        }
        for graph in attributes.filter_map(|attribute| attribute.g.as_ref()) {
            collect(graph, found);
        }
    }
    let model = import::parse(source, file)?;
    let mut found = BTreeSet::new();
    if let Some(graph) = model.graph.as_ref() {
        collect(graph, &mut found);
    }
    Ok(found.into_iter().collect())
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn splice(model: &mut ModelProto, layers: &[LayerDenoisers], options: &ExportOptions) -> Result<(), ExportError> {
    // Before IR version 4 every initializer had to be an input, too.
    let constants_as_nodes = model.ir_version < 4;
    let Some(graph) = model.graph.as_mut() else {
        return Ok(());
    };
    let names = node_names(&graph.node, &mut BTreeSet::new());
    let mut facts = Facts::of(graph);
    let mut taken = std::mem::take(&mut facts.values);
    let mut insertions: BTreeMap<usize, Vec<NodeProto>> = BTreeMap::new();
    let mut initializers = Vec::new();
    for denoisers in layers.iter().filter(|layer| layer.block.is_some() || layer.affine.is_some()) {
        let layer = &denoisers.layer;
        let Some(index) = names.iter().position(|name| name == layer) else {
            return Err(ExportError::LayerNotFound { layer: layer.clone() });
        };
        let node = &graph.node[index];
        let spatial = match node.op_type.as_str() {
            "Conv" => true,
            "Gemm" | "MatMul" => false,
            op => {
                return Err(ExportError::NotALayer { layer: layer.clone(), op: op.to_owned() });
            }
        };
        let data_type =
            node.input.get(1).and_then(|weight| facts.types.get(weight)).copied().unwrap_or(DataType::FLOAT);
        let channels = channels(denoisers)?;
        let end = facts.end_of_layer(graph, index, channels, spatial);
        let mut builder = Builder {
            layer,
            spatial,
            channels,
            taken: &mut taken,
            nodes: Vec::new(),
            initializers: Vec::new(),
            constants_as_nodes,
        };
        let value = graph.node[end].output.first().cloned().unwrap_or_default();
        let is_output = graph.output.iter().any(|output| output.name == value);
        // A graph output keeps its name: it is then the denoised value, and the layer's own value is renamed.
        let (input, output) =
            if is_output { (builder.name("input"), value.clone()) } else { (value.clone(), builder.name("output")) };
        builder.denoise(&input, &output, denoisers, data_type, options.sampling)?;
        let (nodes, constants) = (builder.nodes, builder.initializers);
        if is_output {
            if let Some(first) = graph.node[end].output.first_mut() {
                *first = input;
            }
        } else {
            for (at, node) in graph.node.iter_mut().enumerate() {
                if at != end {
                    rewire(node, &value, &output);
                }
            }
            for inserted in insertions.values_mut().flatten() {
                rewire(inserted, &value, &output);
            }
        }
        insertions.entry(end).or_default().extend(nodes);
        initializers.extend(constants);
    }
    let nodes = std::mem::take(&mut graph.node);
    for (index, node) in nodes.into_iter().enumerate() {
        graph.node.push(node);
        graph.node.extend(insertions.remove(&index).unwrap_or_default());
    }
    graph.initializer.extend(initializers);
    Ok(())
}

/// The number of channels that a layer's denoisers work on.
fn channels(denoisers: &LayerDenoisers) -> Result<usize, ExportError> {
    let block = denoisers.block.as_ref().map(|block| block.mean_bias.shape());
    let affine = denoisers.affine.as_ref().map(|affine| affine.scale.shape());
    match (block, affine) {
        (Some(&[block]), Some(&[affine])) if block == affine => Ok(block),
        (Some(&[channels]), None) | (None, Some(&[channels])) => Ok(channels),
        _ => Err(ExportError::Weights {
            layer: denoisers.layer.clone(),
            reason: "its parts have different numbers of channels".to_owned(),
        }),
    }
}

/// What splicing needs to know of a graph.
struct Facts {
    /// Every name of a value.
    values: BTreeSet<String>,
    /// Who reads a value, nested graphs included: the node at the top level.
    readers: BTreeMap<String, Vec<usize>>,
    /// The values that do not depend on an input, with their dimensions where the file tells.
    constants: BTreeMap<String, Option<Vec<i64>>>,
    /// The data types of the initializers.
    types: BTreeMap<String, DataType>,
}

impl Facts {
    fn of(graph: &GraphProto) -> Self {
        let mut values: BTreeSet<String> = graph.input.iter().map(|input| input.name.clone()).collect();
        let mut constants = BTreeMap::new();
        let mut types = BTreeMap::new();
        for tensor in &graph.initializer {
            constants.insert(tensor.name.clone(), Some(tensor.dims.clone()));
            values.insert(tensor.name.clone());
            if let Some(data_type) = DataType::from_i32(tensor.data_type) {
                types.insert(tensor.name.clone(), data_type);
            }
        }
        let mut readers: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, node) in graph.node.iter().enumerate() {
            let mut reads = BTreeSet::new();
            collect_reads(node, &mut reads);
            for read in reads {
                readers.entry(read).or_default().push(index);
            }
            values.extend(node.output.iter().cloned());
            // CastLike and Shape take only a type or a shape of an activation.
            let decisive = if node.op_type == "CastLike" { 1 } else { node.input.len() };
            if node.op_type != "RandomNormal"
                && node.attribute.iter().all(|attribute| attribute.g.is_none())
                && node.input.iter().take(decisive).all(|input| input.is_empty() || constants.contains_key(input))
            {
                let dims = node
                    .attribute
                    .iter()
                    .find(|attribute| attribute.name == "value")
                    .and_then(|attribute| attribute.t.as_ref())
                    .map(|tensor| tensor.dims.clone());
                let dims = dims.or_else(|| match node.op_type.as_str() {
                    "Identity" | "Cast" | "CastLike" | "Sqrt" | "Reciprocal" | "Neg" => {
                        constants.get(node.input.first()?).cloned().flatten()
                    }
                    _ => None,
                });
                for output in &node.output {
                    constants.insert(output.clone(), dims.clone());
                }
            }
        }
        Self { values, readers, constants, types }
    }

    /// The last node of what the compiler folds into the layer of node `index`.
    fn end_of_layer(&self, graph: &GraphProto, index: usize, channels: usize, spatial: bool) -> usize {
        let mut end = index;
        loop {
            let Some(value) = graph.node[end].output.first() else {
                return end;
            };
            let is_output = graph.output.iter().any(|output| &output.name == value);
            let Some(&[next]) = self.readers.get(value).map(Vec::as_slice) else {
                return end;
            };
            let node = &graph.node[next];
            let position = node.input.iter().position(|input| input == value);
            let folds = match (node.op_type.as_str(), position) {
                ("BatchNormalization", Some(0)) => true,
                ("Identity" | "Dropout", Some(0)) => true,
                ("Mul" | "Add", Some(at @ (0 | 1))) => self.per_channel(node.input.get(1 - at), channels, spatial),
                ("Sub" | "Div", Some(0)) => self.per_channel(node.input.get(1), channels, spatial),
                _ => false,
            };
            if is_output || !folds || next <= end {
                return end;
            }
            end = next;
        }
    }

    /// Whether a value is a constant with one element, or one per channel.
    fn per_channel(&self, value: Option<&String>, channels: usize, spatial: bool) -> bool {
        match value.and_then(|value| self.constants.get(value)) {
            None => false,
            // Computed in the graph: as exporters write a BatchNorm's scale and shift.
            Some(None) => true,
            Some(Some(dims)) => {
                let behind = if spatial { 2 } else { 0 };
                let at = dims.len().checked_sub(behind + 1);
                dims.iter().enumerate().all(|(axis, &size)| size == 1 || (Some(axis) == at && size == channels as i64))
            }
        }
    }
}

/// The values that a node reads, nested graphs included.
fn collect_reads(node: &NodeProto, reads: &mut BTreeSet<String>) {
    reads.extend(node.input.iter().filter(|input| !input.is_empty()).cloned());
    for graph in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
        for node in &graph.node {
            collect_reads(node, reads);
        }
        reads.extend(graph.output.iter().map(|output| output.name.clone()));
    }
}

/// Makes a node read `to` in place of `from`, nested graphs included.
fn rewire(node: &mut NodeProto, from: &str, to: &str) {
    for input in node.input.iter_mut().filter(|input| *input == from) {
        *input = to.to_owned();
    }
    for graph in node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut()) {
        for node in &mut graph.node {
            rewire(node, from, to);
        }
        for output in graph.output.iter_mut().filter(|output| output.name == from) {
            output.name = to.to_owned();
        }
    }
}

/// Builds the nodes of one layer's denoisers.
struct Builder<'a> {
    layer: &'a str,
    /// Whether the layer's output has spatial axes (channels are axis 1), or else the channels last.
    spatial: bool,
    channels: usize,
    /// The names of values so far.
    taken: &'a mut BTreeSet<String>,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    constants_as_nodes: bool,
}

impl Builder<'_> {
    /// A fresh name.
    fn name(&mut self, part: &str) -> String {
        let name = import::unique(&format!("mxc.{}.{part}", self.layer), |name| self.taken.contains(name));
        self.taken.insert(name.clone());
        name
    }

    fn weights_error<T>(&self, reason: impl Into<String>) -> Result<T, ExportError> {
        Err(ExportError::Weights { layer: self.layer.to_owned(), reason: reason.into() })
    }

    fn node(&mut self, op: &str, inputs: &[&str], part: &str, attributes: Vec<AttributeProto>) -> String {
        let name = self.name(part);
        self.node_to(op, inputs, &name, &name, attributes);
        name
    }

    fn node_to(&mut self, op: &str, inputs: &[&str], name: &str, output: &str, attributes: Vec<AttributeProto>) {
        self.nodes.push(NodeProto {
            op_type: op.to_owned(),
            name: name.to_owned(),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute: attributes,
            ..Default::default()
        });
    }

    fn constant(&mut self, part: &str, dims: &[usize], values: &[f32]) -> String {
        let name = self.name(part);
        let tensor = TensorProto {
            name: name.clone(),
            dims: dims.iter().map(|&size| size as i64).collect(),
            data_type: DataType::FLOAT.value(),
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ..Default::default()
        };
        if self.constants_as_nodes {
            let value = AttributeProto {
                name: "value".to_owned(),
                type_: AttributeType::TENSOR.into(),
                t: Some(tensor).into(),
                ..Default::default()
            };
            self.node_to("Constant", &[], &name, &name, vec![value]);
        } else {
            self.initializers.push(tensor);
        }
        name
    }

    /// The denoisers from value `input` to value `output`, in f32 whatever the layer's data type.
    fn denoise(
        &mut self,
        input: &str,
        output: &str,
        denoisers: &LayerDenoisers,
        data_type: DataType,
        sampling: bool,
    ) -> Result<(), ExportError> {
        let cast = |to: DataType| vec![integer("to", i64::from(to.value()))];
        let mut value = input.to_owned();
        if data_type != DataType::FLOAT {
            value = self.node("Cast", &[&value], "float", cast(DataType::FLOAT));
        }
        if let Some(block) = &denoisers.block {
            value = self.block(&value, block, sampling)?;
        }
        if let Some(affine) = &denoisers.affine {
            value = self.affine(&value, affine)?;
        }
        if data_type != DataType::FLOAT {
            self.node("Cast", &[&value], "cast", cast(data_type));
        }
        // The last node writes the result.
        if let Some(last) = self.nodes.last_mut() {
            last.output = vec![output.to_owned()];
        }
        Ok(())
    }

    /// `x − (μ̂ [+ ε·σ̂])`.
    fn block(&mut self, x: &str, block: &Block, sampling: bool) -> Result<String, ExportError> {
        let &[bottleneck, 1, 1, channels] = block.reduce_weight.shape() else {
            return self.weights_error(format!("its reduce weight has the shape {:?}", block.reduce_weight.shape()));
        };
        let &[kernel, width, middle, 1] = block.depthwise_weight.shape() else {
            return self
                .weights_error(format!("its depthwise weight has the shape {:?}", block.depthwise_weight.shape()));
        };
        let mut heads = vec![(&block.mean_weight, &block.mean_bias)];
        heads.extend(block.sigma.as_ref().map(|(weight, bias)| (weight, bias)));
        let heads_fit = heads
            .iter()
            .all(|(weight, bias)| weight.shape() == [channels, 1, 1, bottleneck] && bias.shape() == [channels]);
        if channels != self.channels
            || (kernel, middle) != (width, bottleneck)
            || kernel % 2 != 1
            || (!self.spatial && kernel != 1)
            || block.reduce_bias.shape() != [bottleneck]
            || block.depthwise_bias.shape() != [bottleneck]
            || !heads_fit
        {
            return self.weights_error("the shapes of its weights do not fit together");
        }
        let slope = || vec![float("alpha", block.slope)];
        let reduced = self.pointwise(x, "reduce", &block.reduce_weight, &block.reduce_bias);
        let h = self.node("LeakyRelu", &[&reduced], "reduce.relu", slope());
        let depthwise = self.depthwise(&h, kernel, bottleneck, block);
        let g = self.node("LeakyRelu", &[&depthwise], "depthwise.relu", slope());
        let mut noise = self.pointwise(&g, "mean", &block.mean_weight, &block.mean_bias);
        if let Some((weight, bias)) = block.sigma.as_ref().filter(|_| sampling) {
            let sigma = self.pointwise(&g, "sigma", weight, bias);
            let epsilon = self.node("RandomNormalLike", &[&sigma], "epsilon", vec![]);
            let drawn = self.node("Mul", &[&epsilon, &sigma], "drawn", vec![]);
            noise = self.node("Add", &[&drawn, &noise], "noise", vec![]);
        }
        Ok(self.node("Sub", &[x, &noise], "block", vec![]))
    }

    /// A 1×1 convolution, or a matrix product over the last axis; weight `[O, 1, 1, I]`.
    fn pointwise(&mut self, x: &str, part: &str, weight: &Weight, bias: &Weight) -> String {
        let (outputs, inputs) = (weight.shape()[0], weight.shape()[3]);
        let bias = self.constant(&format!("{part}.bias"), &[outputs], bias.values());
        if self.spatial {
            // [O, 1, 1, I] and [O, I, 1, 1] are the same bytes.
            let weight = self.constant(&format!("{part}.weight"), &[outputs, inputs, 1, 1], weight.values());
            return self.node("Conv", &[x, &weight, &bias], part, vec![integers("kernel_shape", &[1, 1])]);
        }
        let values: Vec<f32> = (0..inputs)
            .flat_map(|input| (0..outputs).map(move |output| (input, output)))
            .map(|(input, output)| weight.values()[output * inputs + input])
            .collect();
        let weight = self.constant(&format!("{part}.weight"), &[inputs, outputs], &values);
        let product = self.node("MatMul", &[x, &weight], &format!("{part}.product"), vec![]);
        self.node("Add", &[&product, &bias], part, vec![])
    }

    /// One filter per channel; weight `[K, K, B, 1]`.
    fn depthwise(&mut self, x: &str, kernel: usize, bottleneck: usize, block: &Block) -> String {
        let (weight, bias) = (&block.depthwise_weight, &block.depthwise_bias);
        let bias = self.constant("depthwise.bias", &[bottleneck], bias.values());
        if !self.spatial {
            let weight = self.constant("depthwise.weight", &[bottleneck], weight.values());
            let scaled = self.node("Mul", &[x, &weight], "depthwise.product", vec![]);
            return self.node("Add", &[&scaled, &bias], "depthwise", vec![]);
        }
        let taps = kernel * kernel;
        let values: Vec<f32> = (0..bottleneck)
            .flat_map(|channel| (0..taps).map(move |tap| (channel, tap)))
            .map(|(channel, tap)| weight.values()[tap * bottleneck + channel])
            .collect();
        let weight = self.constant("depthwise.weight", &[bottleneck, 1, kernel, kernel], &values);
        let (kernel, pad) = (kernel as i64, (kernel / 2) as i64);
        let attributes = vec![
            integers("kernel_shape", &[kernel, kernel]),
            integers("pads", &[pad; 4]),
            integer("group", bottleneck as i64),
        ];
        self.node("Conv", &[x, &weight, &bias], "depthwise", attributes)
    }

    /// `x·scale + shift` per channel.
    fn affine(&mut self, x: &str, affine: &Affine) -> Result<String, ExportError> {
        if affine.scale.shape() != [self.channels] || affine.shift.shape() != [self.channels] {
            return self.weights_error("its scale and shift do not have one value per channel");
        }
        let dims = if self.spatial { vec![self.channels, 1, 1] } else { vec![self.channels] };
        let scale = self.constant("scale", &dims, affine.scale.values());
        let shift = self.constant("shift", &dims, affine.shift.values());
        let scaled = self.node("Mul", &[x, &scale], "scaled", vec![]);
        Ok(self.node("Add", &[&scaled, &shift], "affine", vec![]))
    }
}

fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), type_: AttributeType::INT.into(), i: value, ..Default::default() }
}

fn integers(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        type_: AttributeType::INTS.into(),
        ints: values.to_vec(),
        ..Default::default()
    }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.to_owned(), type_: AttributeType::FLOAT.into(), f: value, ..Default::default() }
}
