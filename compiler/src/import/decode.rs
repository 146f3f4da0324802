//! From the bytes of an ONNX file to a plain graph with typed constants, in execution order.
//!
//! Nothing here trusts the file: sizes are checked against the data before anything is allocated, names against each
//! other, and protobuf's own recursion limit bounds nested graphs.

use super::{
    error::ImportError,
    proto::{execution_order, name_nodes, normal, reads, spell_out},
    tensor::{Data, Element, Sym, Tensor},
};
use mxc_runtime::store::Bytes;
use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, Message, ModelProto, NodeProto, TensorProto, TypeProto,
    attribute_proto::AttributeType, tensor_proto::DataLocation, tensor_proto::DataType, tensor_shape_proto::dimension,
    type_proto,
};
use protobuf::Enum;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
    rc::Rc,
};

/// A decoded model.
pub(super) struct Model {
    pub graph: Graph,
    /// The operator set version per domain; ONNX's own is `""`.
    pub opsets: BTreeMap<String, i64>,
    /// Functions local to the model, by domain and name.
    pub functions: BTreeMap<(String, String), Rc<Function>>,
    /// The exporter's name and version.
    pub producer: String,
    /// Whether its inputs or weights are of f64.
    pub is_double: bool,
}

/// A function local to the model.
pub(super) struct Function {
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub nodes: Vec<Node>,
    /// Values of attributes that a call leaves out.
    pub defaults: BTreeMap<String, Attribute>,
    pub opsets: BTreeMap<String, i64>,
}

/// A graph, its nodes in execution order.
pub(super) struct Graph {
    pub inputs: Vec<Input>,
    pub outputs: Vec<String>,
    pub initializers: BTreeMap<String, Rc<Tensor>>,
    /// ONNX's data types of the inputs and initializers.
    pub data_types: BTreeMap<String, i32>,
    pub nodes: Vec<Node>,
}

/// A graph input that no initializer defines.
pub(super) struct Input {
    pub name: String,
    /// Per dimension its size or its name; `None` where the file declares no shape.
    pub shape: Option<Vec<InputDim>>,
    /// What its elements are; `None` if no activation can hold them.
    pub element: Option<Element>,
    /// Whether they are bytes (uint8).
    pub bytes: bool,
}

impl Input {
    /// Fixes the dimensions that are open to those given, or the first to `batch`, as if the file did.
    pub fn pin(&mut self, given: Option<&[usize]>, batch: Option<usize>) {
        let rank = self.shape.as_ref().map_or(given.unwrap_or_default().len(), Vec::len);
        let shape = self.shape.get_or_insert_with(|| vec![InputDim::Dynamic(String::new()); rank]);
        let given = given.filter(|given| given.len() == rank);
        for (axis, dim) in shape.iter_mut().enumerate().filter(|(_, dim)| matches!(dim, InputDim::Dynamic(_))) {
            let size = given.map(|given| given[axis]).or(batch.filter(|_| axis == 0));
            if let Some(size) = size.and_then(|size| i64::try_from(size).ok()) {
                *dim = InputDim::Fixed(size);
            }
        }
    }
}

/// A declared dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum InputDim {
    Fixed(i64),
    /// A symbolic or unknown dimension, and its name, which may be empty.
    Dynamic(String),
}

/// A node.
#[derive(Clone)]
pub(super) struct Node {
    /// Unique in the model: see [`name_nodes`].
    pub name: String,
    pub op: String,
    pub domain: String,
    /// Names of values; empty for an optional input left out.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub attributes: BTreeMap<String, Attribute>,
}

/// An attribute's value.
#[derive(Clone)]
pub(super) enum Attribute {
    Int(i64),
    Float(f32),
    String(String),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strings(Vec<String>),
    Tensor(Rc<Tensor>),
    Graph(Rc<Graph>),
    /// In a function: the attribute of that name of the call.
    Reference(String),
    /// A kind that no supported operator uses.
    Other,
}

/// Parses an ONNX file's bytes; `file` names it in errors.
pub(crate) fn parse(bytes: &[u8], file: &str) -> Result<ModelProto, ImportError> {
    let not_onnx = |reason: String| ImportError::NotOnnx { file: file.to_owned(), reason };
    let model = ModelProto::parse_from_bytes(bytes).map_err(|error| not_onnx(error.to_string()))?;
    if model.graph.is_none() {
        return Err(not_onnx("it holds no graph".to_owned()));
    }
    Ok(model)
}

/// Decodes a model; external data files are those in memory, else looked up relative to `folder`.
pub(super) fn decode(
    mut model: ModelProto,
    folder: &Path,
    memory: &BTreeMap<String, Bytes>,
) -> Result<Model, ImportError> {
    name_nodes(&mut model);
    let mut decoder = Decoder { folder, memory, files: BTreeMap::new(), is_double: false };
    let graph = decoder.graph(model.graph.take().unwrap_or_default(), &BTreeSet::new())?;
    let is_double = decoder.is_double || graph.inputs.iter().any(|input| is_double(graph.data_types.get(&input.name)));
    let functions = std::mem::take(&mut model.functions)
        .into_iter()
        .map(|function| {
            let key = (normal(&function.domain).to_owned(), function.name.clone());
            Ok((key, Rc::new(decoder.function(function)?)))
        })
        .collect::<Result<_, ImportError>>()?;
    Ok(Model {
        graph,
        opsets: opsets(&model.opset_import),
        functions,
        producer: format!("{} {}", model.producer_name, model.producer_version).trim().to_owned(),
        is_double,
    })
}

fn is_double(data_type: Option<&i32>) -> bool {
    data_type == Some(&DataType::DOUBLE.value())
}

fn opsets(imports: &[onnx_protobuf::OperatorSetIdProto]) -> BTreeMap<String, i64> {
    imports.iter().map(|import| (normal(&import.domain).to_owned(), import.version)).collect()
}

struct Decoder<'a> {
    folder: &'a Path,
    /// External data files by location.
    memory: &'a BTreeMap<String, Bytes>,
    /// The external data files in use and their lengths.
    files: BTreeMap<PathBuf, (std::fs::File, u64)>,
    /// Whether a weight of f64 was read: one number of it is not one, exporters write such constants in any network.
    is_double: bool,
}

impl Decoder<'_> {
    /// Decodes a graph; `outer` are the values of the enclosing graphs that it may read.
    fn graph(&mut self, graph: GraphProto, outer: &BTreeSet<String>) -> Result<Graph, ImportError> {
        let mut data_types: BTreeMap<_, _> = graph
            .input
            .iter()
            .filter_map(|input| Some((input.name.clone(), tensor_type(input.type_.as_ref())?.elem_type)))
            .collect();
        data_types.extend(graph.initializer.iter().map(|tensor| (tensor.name.clone(), tensor.data_type)));
        let mut initializers = BTreeMap::new();
        for tensor in graph.initializer {
            let name = tensor.name.clone();
            initializers.insert(name, Rc::new(self.tensor(tensor)?));
        }
        if let Some(sparse) = graph.sparse_initializer.first() {
            return Err(ImportError::Tensor {
                tensor: sparse.values.as_ref().map_or("", |values| values.name.as_str()).to_owned(),
                reason: "sparse initializers are not supported".to_owned(),
            });
        }
        // An input that is also an initializer is a constant with a default; the default holds.
        let inputs: Vec<_> = graph
            .input
            .iter()
            .filter(|input| !initializers.contains_key(&input.name))
            .map(|input| self::input(&input.name, input.type_.as_ref()))
            .collect();
        let mut own = BTreeSet::new();
        own.extend(inputs.iter().map(|input| input.name.clone()));
        own.extend(initializers.keys().cloned());
        let outputs: Vec<_> = graph.output.iter().map(|output| output.name.clone()).collect();
        let nodes = self.nodes(graph.node, own, outer, &outputs)?;
        Ok(Graph { inputs, outputs, initializers, data_types, nodes })
    }

    fn function(&mut self, function: FunctionProto) -> Result<Function, ImportError> {
        let defined = function.input.iter().cloned().collect();
        let defaults = function
            .attribute_proto
            .into_iter()
            .map(|attribute| Ok((attribute.name.clone(), self.attribute(attribute, &BTreeSet::new())?)))
            .collect::<Result<_, ImportError>>()?;
        Ok(Function {
            inputs: function.input,
            nodes: self.nodes(function.node, defined, &BTreeSet::new(), &function.output)?,
            outputs: function.output,
            defaults,
            opsets: opsets(&function.opset_import),
        })
    }

    /// Decodes nodes and sorts them topologically (stable: nodes that are already in order stay so), leaving out those
    /// that no output depends on.
    ///
    /// `own` are the inputs and initializers, `outer` the values of the enclosing graphs, whose names may be taken anew.
    fn nodes(
        &mut self,
        nodes: Vec<NodeProto>,
        own: BTreeSet<String>,
        outer: &BTreeSet<String>,
        outputs: &[String],
    ) -> Result<Vec<Node>, ImportError> {
        let defined: BTreeSet<String> = own.union(outer).cloned().collect();
        let nodes = spell_out(nodes);
        let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        // Who defines what.
        let mut producers: BTreeMap<String, usize> = BTreeMap::new();
        for (index, node) in nodes.iter().enumerate() {
            for output in node.output.iter().filter(|output| !output.is_empty()) {
                if own.contains(output) || producers.insert(output.clone(), index).is_some() {
                    return Err(ImportError::Redefined { value: output.clone(), node: names[index].clone() });
                }
            }
        }
        for output in outputs {
            if !defined.contains(output) && !producers.contains_key(output) {
                return Err(ImportError::UndefinedOutput { output: output.clone() });
            }
        }
        let reads: Vec<Vec<String>> = nodes.iter().map(reads).collect();
        let mut dependencies = vec![Vec::new(); nodes.len()];
        for (index, read) in reads.iter().enumerate() {
            for input in read {
                match producers.get(input) {
                    Some(&producer) => dependencies[index].push(producer),
                    None if defined.contains(input) => {}
                    None => {
                        return Err(ImportError::Undefined { node: names[index].clone(), input: input.clone() });
                    }
                }
            }
        }
        // Which nodes an output depends on.
        let mut needed = vec![false; nodes.len()];
        let mut pending: Vec<usize> = outputs.iter().filter_map(|output| producers.get(output).copied()).collect();
        while let Some(index) = pending.pop() {
            if !std::mem::replace(&mut needed[index], true) {
                pending.extend(&dependencies[index]);
            }
        }
        let (order, waiting) = execution_order(&dependencies);
        if order.len() < nodes.len() {
            return Err(cycle(&dependencies, &waiting, &names, &nodes));
        }
        let mut scope = defined;
        scope.extend(producers.into_keys());
        let mut nodes: Vec<_> = nodes.into_iter().map(Some).collect();
        let mut sorted = Vec::with_capacity(order.len());
        for index in order.into_iter().filter(|&index| needed[index]) {
            let Some(node) = nodes[index].take() else {
                continue;
            };
            let attributes = node
                .attribute
                .into_iter()
                .map(|attribute| Ok((attribute.name.clone(), self.attribute(attribute, &scope)?)))
                .collect::<Result<_, ImportError>>()?;
            sorted.push(Node {
                name: names[index].clone(),
                op: node.op_type,
                domain: normal(&node.domain).to_owned(),
                inputs: node.input,
                outputs: node.output,
                attributes,
            });
        }
        Ok(sorted)
    }

    fn attribute(&mut self, attribute: AttributeProto, scope: &BTreeSet<String>) -> Result<Attribute, ImportError> {
        if !attribute.ref_attr_name.is_empty() {
            return Ok(Attribute::Reference(attribute.ref_attr_name));
        }
        Ok(match attribute.type_.enum_value_or_default() {
            AttributeType::INT => Attribute::Int(attribute.i),
            AttributeType::FLOAT => Attribute::Float(attribute.f),
            AttributeType::STRING => Attribute::String(String::from_utf8_lossy(&attribute.s).into_owned()),
            AttributeType::INTS => Attribute::Ints(attribute.ints),
            AttributeType::FLOATS => Attribute::Floats(attribute.floats),
            AttributeType::STRINGS => Attribute::Strings(
                attribute.strings.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect(),
            ),
            AttributeType::TENSOR => match attribute.t.into_option() {
                Some(tensor) => Attribute::Tensor(Rc::new(self.tensor(tensor)?)),
                None => Attribute::Other,
            },
            AttributeType::GRAPH => match attribute.g.into_option() {
                Some(graph) => Attribute::Graph(Rc::new(self.graph(graph, scope)?)),
                None => Attribute::Other,
            },
            _ => Attribute::Other,
        })
    }

    fn tensor(&mut self, mut tensor: TensorProto) -> Result<Tensor, ImportError> {
        let name = std::mem::take(&mut tensor.name);
        let failed = |reason: String| ImportError::Tensor { tensor: name.clone(), reason };
        let shape = tensor
            .dims
            .iter()
            .map(|&size| usize::try_from(size).map_err(|_| failed(format!("its dimension {size} is negative"))))
            .collect::<Result<Vec<_>, _>>()?;
        let count = shape
            .iter()
            .try_fold(1usize, |count, &size| count.checked_mul(size))
            .filter(|&count| count <= isize::MAX as usize / 16)
            .ok_or_else(|| failed(format!("its shape {shape:?} is too large")))?;
        let data_type = DataType::from_i32(tensor.data_type)
            .ok_or_else(|| failed(format!("its data type {} is unknown", tensor.data_type)))?;
        let width = match data_type {
            DataType::FLOAT | DataType::INT32 | DataType::UINT32 => 4,
            DataType::DOUBLE | DataType::INT64 | DataType::UINT64 => 8,
            DataType::FLOAT16 | DataType::BFLOAT16 | DataType::INT16 | DataType::UINT16 => 2,
            // Of 4 bits, two are in a byte.
            DataType::BOOL | DataType::INT8 | DataType::UINT8 | DataType::INT4 | DataType::UINT4 => 1,
            _ => {
                return Err(failed(format!("its data type {data_type:?} is not supported")));
            }
        };
        self.is_double |= data_type == DataType::DOUBLE && count > 1;
        let halves = matches!(data_type, DataType::INT4 | DataType::UINT4);
        let size = if halves { count.div_ceil(2) } else { count * width };
        let raw = if tensor.data_location.enum_value_or_default() == DataLocation::EXTERNAL {
            Some(self.external(&name, &tensor, size)?)
        } else if !tensor.raw_data.is_empty() {
            Some(std::mem::take(&mut tensor.raw_data))
        } else {
            None
        };
        let data = match raw {
            Some(bytes) if bytes.len() == size => from_raw(data_type, count, &bytes),
            Some(bytes) => {
                return Err(failed(format!("its shape {shape:?} needs {size} bytes of data, it has {}", bytes.len())));
            }
            None => from_typed(data_type, count, &tensor),
        };
        let tensor = Tensor { shape, narrow: matches!(data, Data::Int(_)).then_some(tensor.data_type), data };
        if tensor.len() != count {
            return Err(failed(format!(
                "its shape {:?} needs {count} elements, it has {}",
                tensor.shape,
                tensor.len()
            )));
        }
        Ok(tensor)
    }

    /// Reads a tensor's bytes from its external data file.
    fn external(&mut self, name: &str, tensor: &TensorProto, size: usize) -> Result<Vec<u8>, ImportError> {
        let entry =
            |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
        let location = entry("location").unwrap_or_default();
        let path = self.folder.join(location);
        let failed = |reason: String| ImportError::ExternalData { tensor: name.to_owned(), file: path.clone(), reason };
        // A model must not read files that do not belong to it.
        let inside = Path::new(location)
            .components()
            .all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
        if location.is_empty() || !inside {
            return Err(failed("is not inside the model's folder".to_owned()));
        }
        let number = |key: &str| match entry(key) {
            None | Some("") => Ok(None),
            Some(text) => text
                .parse::<u64>()
                .map(Some)
                .map_err(|_| failed(format!("has the {key} '{text}', which is not a number"))),
        };
        let offset = number("offset")?.unwrap_or(0);
        let declared = number("length")?;
        if declared.is_some_and(|length| length != size as u64) {
            return Err(failed(format!("holds {} bytes for it, its shape needs {size}", declared.unwrap_or_default())));
        }
        let end = offset.checked_add(size as u64);
        let short = |length: u64| format!("is too short: {size} bytes at offset {offset} are needed, it has {length}");
        if let Some(bytes) = self.memory.get(location) {
            let range = usize::try_from(offset).ok().zip(end.and_then(|end| usize::try_from(end).ok()));
            let found = range.and_then(|(offset, end)| bytes.get(offset..end));
            return Ok(found.ok_or_else(|| failed(short(bytes.len() as u64)))?.to_vec());
        }
        if !self.files.contains_key(&path) {
            let open = || {
                let file = std::fs::File::open(&path)?;
                let length = file.metadata()?.len();
                Ok::<_, std::io::Error>((file, length))
            };
            let opened = open().map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => failed("is missing".to_owned()),
                _ => failed(format!("cannot be read: {error}")),
            })?;
            self.files.insert(path.clone(), opened);
        }
        let Some((file, length)) = self.files.get_mut(&path) else {
            return Err(failed("is missing".to_owned()));
        };
        if end.is_none_or(|end| end > *length) {
            return Err(failed(short(*length)));
        }
        let mut bytes = vec![0; size];
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|error| failed(format!("cannot be read: {error}")))?;
        Ok(bytes)
    }
}

/// The error for nodes that depend on each other: a node on the cycle itself, not merely behind it.
fn cycle(dependencies: &[Vec<usize>], waiting: &[usize], names: &[String], nodes: &[NodeProto]) -> ImportError {
    // Walking back from a blocked node along blocked nodes must come around.
    let mut seen = BTreeSet::new();
    let mut at = waiting.iter().position(|&count| count > 0).unwrap_or_default();
    while seen.insert(at) {
        at = dependencies[at].iter().copied().find(|&producer| waiting[producer] > 0).unwrap_or(at);
    }
    ImportError::Cycle { node: names[at].clone(), value: nodes[at].output.first().cloned().unwrap_or_default() }
}

fn tensor_type(r#type: Option<&TypeProto>) -> Option<&type_proto::Tensor> {
    match &r#type?.value {
        Some(type_proto::Value::TensorType(tensor)) => Some(tensor),
        _ => None,
    }
}

fn input(name: &str, r#type: Option<&TypeProto>) -> Input {
    let tensor = tensor_type(r#type);
    let shape = tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| {
        shape
            .dim
            .iter()
            .map(|dim| match &dim.value {
                Some(dimension::Value::DimValue(size)) if *size >= 0 => InputDim::Fixed(*size),
                Some(dimension::Value::DimParam(name)) => InputDim::Dynamic(name.clone()),
                _ => InputDim::Dynamic(String::new()),
            })
            .collect()
    });
    Input {
        name: name.to_owned(),
        shape,
        element: tensor.and_then(|tensor| Element::of(tensor.elem_type)),
        bytes: tensor.is_some_and(|tensor| tensor.elem_type == DataType::UINT8 as i32),
    }
}

/// So many integers of 4 bits, the lower half of a byte first.
fn halves(data_type: DataType, count: usize, bytes: impl Iterator<Item = u8>) -> Data {
    let signed = data_type == DataType::INT4;
    let value = |half: u8| i64::from(half) - if signed && half > 7 { 16 } else { 0 };
    Data::Int(bytes.flat_map(|byte| [byte & 15, byte >> 4]).take(count).map(|half| Sym::from(value(half))).collect())
}

/// Little-endian elements.
fn from_raw(data_type: DataType, count: usize, bytes: &[u8]) -> Data {
    fn each<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> impl Iterator<Item = T> {
        bytes.chunks_exact(N).map(move |chunk| {
            let mut array = [0; N];
            array.copy_from_slice(chunk);
            convert(array)
        })
    }
    let ints = |values: &mut dyn Iterator<Item = i64>| Data::Int(values.map(Sym::from).collect());
    match data_type {
        DataType::FLOAT => Data::Float(each(bytes, f32::from_le_bytes).collect()),
        DataType::DOUBLE => Data::Float(each(bytes, |b| f64::from_le_bytes(b) as f32).collect()),
        DataType::FLOAT16 => Data::Float(each(bytes, |b| half::f16::from_le_bytes(b).to_f32()).collect()),
        DataType::BFLOAT16 => Data::Float(each(bytes, |b| half::bf16::from_le_bytes(b).to_f32()).collect()),
        DataType::BOOL => Data::Bool(bytes.iter().map(|&byte| byte != 0).collect()),
        DataType::INT4 | DataType::UINT4 => halves(data_type, count, bytes.iter().copied()),
        DataType::INT8 => ints(&mut each(bytes, |b| i64::from(i8::from_le_bytes(b)))),
        DataType::UINT8 => ints(&mut each(bytes, |b| i64::from(u8::from_le_bytes(b)))),
        DataType::INT16 => ints(&mut each(bytes, |b| i64::from(i16::from_le_bytes(b)))),
        DataType::UINT16 => ints(&mut each(bytes, |b| i64::from(u16::from_le_bytes(b)))),
        DataType::INT32 => ints(&mut each(bytes, |b| i64::from(i32::from_le_bytes(b)))),
        DataType::UINT32 => ints(&mut each(bytes, |b| i64::from(u32::from_le_bytes(b)))),
        DataType::UINT64 => ints(&mut each(bytes, |b| i64::try_from(u64::from_le_bytes(b)).unwrap_or(i64::MAX))),
        _ => ints(&mut each(bytes, i64::from_le_bytes)),
    }
}

/// Elements from the field that ONNX keeps a data type's elements in.
fn from_typed(data_type: DataType, count: usize, tensor: &TensorProto) -> Data {
    let ints = |values: &mut dyn Iterator<Item = i64>| Data::Int(values.map(Sym::from).collect());
    let narrow = tensor.int32_data.iter();
    match data_type {
        DataType::FLOAT => Data::Float(tensor.float_data.as_slice().into()),
        DataType::DOUBLE => Data::Float(tensor.double_data.iter().map(|&value| value as f32).collect()),
        DataType::FLOAT16 => Data::Float(narrow.map(|&bits| half::f16::from_bits(bits as u16).to_f32()).collect()),
        DataType::BFLOAT16 => Data::Float(narrow.map(|&bits| half::bf16::from_bits(bits as u16).to_f32()).collect()),
        DataType::BOOL => Data::Bool(narrow.map(|&value| value != 0).collect()),
        DataType::INT4 | DataType::UINT4 => halves(data_type, count, narrow.map(|&value| value as u8)),
        DataType::INT64 => ints(&mut tensor.int64_data.iter().copied()),
        DataType::UINT32 | DataType::UINT64 => {
            ints(&mut tensor.uint64_data.iter().map(|&value| i64::try_from(value).unwrap_or(i64::MAX)))
        }
        _ => ints(&mut narrow.map(|&value| i64::from(value))),
    }
}
