//! Operator conformance: the single-operator test cases of the `onnx` package (kept in `data/conformance.bin.gz`, which
//! `data/conformance.py` writes) run through importer and executor. `docs/conformance.md` is the result; the test fails where
//! the two differ, and `MXC_UPDATE_DOCS=1` rewrites the page.

use crate::common::root;
use flate2::read::GzDecoder;
use mxc_compiler::{
    import::{self, ImportOptions},
    load,
    pass::{PassContext, Pipeline, RunOptions, run_pipeline},
    passes::REGISTRY,
};
use mxc_runtime::{
    exec::{Batch, Executor, Key, Mode, Purpose},
    program::{DType, Program, proto},
};
use onnx_protobuf::{
    GraphProto, Message, ModelProto, NodeProto, TensorProto, ValueInfoProto, attribute_proto::AttributeType,
    tensor_proto::DataType, type_proto,
};
use protobuf::Enum;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

/// The operators in scope: those that classifiers use, and the rest of the elementwise ones.
const SCOPE: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "And",
    "ArgMax",
    "ArgMin",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Attention",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "Cos",
    "Cosh",
    "CumSum",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "DynamicQuantizeLinear",
    "Einsum",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "EyeLike",
    "Flatten",
    "Floor",
    "GRU",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "GridSample",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "If",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LRN",
    "LSTM",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "Loop",
    "LpNormalization",
    "LpPool",
    "MatMul",
    "MatMulInteger",
    "Max",
    "MaxPool",
    "Mean",
    "MeanVarianceNormalization",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "NonZero",
    "Not",
    "OneHot",
    "Or",
    "PRelu",
    "Pad",
    "Pow",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "RNN",
    "RMSNormalization",
    "Range",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Resize",
    "RotaryEmbedding",
    "Round",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Shape",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Size",
    "Slice",
    "Softmax",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Upsample",
    "Where",
    "Xor",
];

/// The inputs that are like shapes: bound as initializers where a case gives them at run time.
fn shape_like(op: &str) -> &'static [usize] {
    match op {
        "Reshape" | "Expand" | "Tile" | "Squeeze" | "Unsqueeze" | "Split" | "Upsample" => &[1],
        "CumSum" | "OneHot" | "TopK" | "Trilu" => &[1],
        op if op.starts_with("Reduce") => &[1],
        "Slice" => &[1, 2, 3, 4],
        // What a quantiser makes is its zero point's data type.
        "QuantizeLinear" | "DequantizeLinear" => &[1, 2],
        "Pad" | "Resize" => &[1, 2, 3],
        "ConstantOfShape" | "If" | "NonZero" => &[0],
        "Range" => &[0, 1, 2],
        "Loop" => &[0, 1],
        "Dropout" => &[1, 2],
        // Of these only the functions are in scope.
        "AffineGrid" | "CenterCropPad" => &[1],
        "BlackmanWindow" | "HammingWindow" | "HannWindow" => &[0],
        _ => &[],
    }
}

struct Case {
    name: String,
    op: String,
    rtol: f32,
    model: ModelProto,
    /// Inputs and outputs.
    sets: Vec<[Vec<TensorProto>; 2]>,
}

/// What became of a case.
enum Outcome {
    Passed,
    /// Passed with shape-like inputs bound.
    Bound,
    NotYet(String),
    Out(String),
}

fn cases() -> Vec<Case> {
    let file = fs::File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/conformance.bin.gz")).unwrap();
    let mut bytes = Vec::new();
    GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    let mut rest = bytes.as_slice();
    let mut cases = Vec::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|&byte| byte == b'\n').unwrap();
        let header: serde_json::Value = serde_json::from_slice(&rest[..end]).unwrap();
        let size = |value: &serde_json::Value| value.as_u64().unwrap() as usize;
        let text = |name: &str| header[name].as_str().unwrap().to_owned();
        rest = &rest[end + 1..];
        let mut take = |size: usize| {
            let (bytes, left) = rest.split_at(size);
            rest = left;
            bytes
        };
        let model = ModelProto::parse_from_bytes(take(size(&header["model"]))).unwrap();
        let mut tensors = |sizes: &serde_json::Value| -> Vec<TensorProto> {
            let sizes = sizes.as_array().unwrap().iter();
            sizes.map(|each| TensorProto::parse_from_bytes(take(size(each))).unwrap()).collect()
        };
        let sets = header["sets"].as_array().unwrap().iter();
        let sets = sets.map(|set| [tensors(&set["inputs"]), tensors(&set["outputs"])]).collect();
        let rtol = header["rtol"].as_f64().unwrap() as f32;
        cases.push(Case { name: text("name"), op: text("op"), rtol, model, sets });
    }
    cases
}

/// All nodes, those of nested graphs included.
fn nodes(graph: &GraphProto) -> Vec<&NodeProto> {
    graph
        .node
        .iter()
        .flat_map(|node| {
            let inner = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()).flat_map(nodes);
            std::iter::once(node).chain(inner)
        })
        .collect()
}

fn tensor_type(value: &ValueInfoProto) -> Option<&type_proto::Tensor> {
    match &value.type_.as_ref()?.value {
        Some(type_proto::Value::TensorType(tensor)) => Some(tensor),
        _ => None,
    }
}

fn attribute(node: &NodeProto, name: &str) -> i64 {
    node.attribute.iter().find(|attribute| attribute.name == name).map_or(0, |attribute| attribute.i)
}

/// Why a case is out of scope. Rules, no list of cases: what no classifier uses, and what TOSA's tensors cannot be.
fn out_of_scope(case: &Case) -> Option<String> {
    let graph = case.model.graph.as_ref().unwrap();
    let all = nodes(graph);
    if let Some(node) = all.iter().find(|node| !node.domain.is_empty() || !SCOPE.contains(&node.op_type.as_str())) {
        let name =
            if node.domain.is_empty() { node.op_type.clone() } else { format!("{}.{}", node.domain, node.op_type) };
        return Some(match name == case.op {
            true => "operator that classifiers do not use".to_owned(),
            false => format!("its function uses {name}, which classifiers do not use"),
        });
    }
    if case.model.opset_import.iter().any(|import| import.domain.is_empty() && import.version < 7) {
        return Some("operator set older than 7".to_owned());
    }
    let quantization = matches!(
        case.op.as_str(),
        "ConvInteger"
            | "DequantizeLinear"
            | "DynamicQuantizeLinear"
            | "MatMulInteger"
            | "QLinearConv"
            | "QLinearMatMul"
            | "QuantizeLinear"
    );
    let values = graph.input.iter().chain(&graph.output);
    let mut data_types: Vec<i32> = Vec::new();
    for value in values {
        match tensor_type(value) {
            Some(tensor) => data_types.push(tensor.elem_type),
            None => return Some("sequence or optional".to_owned()),
        }
    }
    for node in &all {
        for attribute in &node.attribute {
            data_types.extend(attribute.t.as_ref().map(|tensor| tensor.data_type));
            // But for the names of a recurrent operator's functions.
            if attribute.type_.enum_value_or_default() == AttributeType::STRINGS && attribute.name != "activations" {
                return Some("data type STRING".to_owned());
            }
            if matches!(attribute.name.as_str(), "to" | "output_dtype" | "dtype") && attribute.i != 0 {
                data_types.push(attribute.i as i32);
            }
        }
    }
    for data_type in data_types {
        let known = DataType::from_i32(data_type);
        let fits = match known {
            Some(
                DataType::FLOAT
                | DataType::FLOAT16
                | DataType::DOUBLE
                | DataType::INT32
                | DataType::INT64
                | DataType::BOOL,
            ) => true,
            Some(
                DataType::INT4
                | DataType::UINT4
                | DataType::INT8
                | DataType::UINT8
                | DataType::INT16
                | DataType::UINT16,
            ) => quantization,
            _ => false,
        };
        if !fits {
            return Some(format!("data type {}", known.map_or("unknown".to_owned(), |known| format!("{known:?}"))));
        }
    }
    if graph.input.iter().chain(&graph.output).filter_map(tensor_type).any(|tensor| {
        tensor
            .shape
            .as_ref()
            .is_some_and(|shape| shape.dim.iter().any(|dim| dim.has_dim_value() && dim.dim_value() == 0))
    }) {
        return Some("empty tensor, which TOSA has not".to_owned());
    }
    for node in &all {
        if node.op_type == "BatchNormalization" && attribute(node, "training_mode") != 0 {
            return Some("training mode".to_owned());
        }
        if node.op_type == "Dropout"
            && let Some(mode) = node.input.get(2)
            && let Some(position) = graph.input.iter().position(|value| &value.name == mode)
            && case.sets.iter().any(|[inputs, _]| inputs[position].raw_data.iter().any(|&byte| byte != 0))
        {
            return Some("training mode".to_owned());
        }
        if node.op_type == "MaxPool" && node.output.len() > 1 {
            return Some("output Indices, which serves unpooling".to_owned());
        }
        if node.op_type == "Einsum" {
            let equation = node.attribute.iter().find(|attribute| attribute.name == "equation");
            let equation =
                equation.map(|attribute| String::from_utf8_lossy(&attribute.s).into_owned()).unwrap_or_default();
            let repeated =
                |term: &str| term.chars().enumerate().any(|(at, c)| c.is_alphabetic() && term[..at].contains(c));
            if equation.contains('.') || equation.split(['-', ',', '>']).any(repeated) {
                return Some("equation with an ellipsis or a diagonal, no matrix product".to_owned());
            }
        }
    }
    if case.sets.is_empty() {
        return Some("data too large to be kept".to_owned());
    }
    None
}

/// The elements: floats as they are, everything else as integers.
enum Elements {
    Floats(Vec<f64>),
    Integers(Vec<i64>),
}

fn elements(tensor: &TensorProto) -> Elements {
    fn each<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.chunks_exact(N).map(|chunk| convert(chunk.try_into().unwrap())).collect()
    }
    let raw = tensor.raw_data.as_slice();
    let data_type = DataType::from_i32(tensor.data_type).unwrap();
    if raw.is_empty() && matches!(data_type, DataType::INT8 | DataType::UINT8 | DataType::INT16 | DataType::UINT16) {
        return Elements::Integers(tensor.int32_data.iter().map(|&value| i64::from(value)).collect());
    }
    match data_type {
        DataType::FLOAT => Elements::Floats(each(raw, |b| f64::from(f32::from_le_bytes(b)))),
        DataType::DOUBLE => Elements::Floats(each(raw, f64::from_le_bytes)),
        DataType::FLOAT16 => Elements::Floats(each(raw, |b| half(u16::from_le_bytes(b)))),
        DataType::INT64 => Elements::Integers(each(raw, i64::from_le_bytes)),
        DataType::INT32 => Elements::Integers(each(raw, |b| i64::from(i32::from_le_bytes(b)))),
        DataType::INT8 => Elements::Integers(each(raw, |b| i64::from(i8::from_le_bytes(b)))),
        DataType::INT16 => Elements::Integers(each(raw, |b| i64::from(i16::from_le_bytes(b)))),
        DataType::UINT16 => Elements::Integers(each(raw, |b| i64::from(u16::from_le_bytes(b)))),
        data_type @ (DataType::INT4 | DataType::UINT4) => {
            let count = tensor.dims.iter().product::<i64>() as usize;
            let typed: Vec<u8> = tensor.int32_data.iter().map(|&byte| byte as u8).collect();
            let raw = if raw.is_empty() { &typed } else { raw };
            let signed = |half: u8| i64::from(half) - if data_type == DataType::INT4 && half > 7 { 16 } else { 0 };
            let halves = raw.iter().flat_map(|byte| [byte & 15, byte >> 4]);
            Elements::Integers(halves.take(count).map(signed).collect())
        }
        _ => Elements::Integers(each(raw, |b: [u8; 1]| i64::from(b[0]))),
    }
}

/// A half-precision number.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    }
}

/// Words as the executor wants them.
fn encode(tensor: &TensorProto, dtype: DType) -> Vec<f32> {
    match elements(tensor) {
        Elements::Floats(values) => values.into_iter().map(|value| value as f32).collect(),
        Elements::Integers(values) => dtype.encode(&values),
    }
}

/// Whether the words of a result are the reference. Integers and booleans exactly; floats to 1e-5 of each element and 1e-6 of the
/// greatest (where terms cancel, the order of a sum shows), or to the case's own tolerance, half precision or the digits of
/// a reference that is written down where these are coarser. The package's default, 1e-3, is for hardware of any precision.
fn compare(words: &[f32], dtype: DType, reference: &TensorProto, rtol: f32) -> Result<(), String> {
    match elements(reference) {
        Elements::Integers(wanted) => {
            let found = dtype.decode(words);
            (found == wanted).then_some(()).ok_or_else(|| format!("{found:?} instead of {wanted:?}"))
        }
        Elements::Floats(wanted) => {
            let half = DataType::from_i32(reference.data_type) == Some(DataType::FLOAT16);
            let own = if rtol > 1.1e-3 { f64::from(rtol) } else { 1e-5 };
            // Some references are written down with four digits.
            let short = wanted.iter().all(|x| (x * 1e4 - (x * 1e4).round()).abs() < 1e-3 * x.abs().max(1.0))
                && wanted.iter().any(|x| (x * 1e2 - (x * 1e2).round()).abs() > 1e-3);
            let relative = if half || short { own.max(1e-3) } else { own };
            let greatest = wanted.iter().filter(|x| x.is_finite()).fold(0f64, |most, x| most.max(x.abs()));
            if words.len() != wanted.len() || dtype != DType::F32 {
                return Err(format!("{} values of {dtype:?} instead of {} floats", words.len(), wanted.len()));
            }
            for (index, (&found, &wanted)) in words.iter().zip(&wanted).enumerate() {
                let found = f64::from(found);
                let same = found == wanted || found == f64::from(wanted as f32) || found.is_nan() && wanted.is_nan();
                // False of what is not a number.
                let close = (found - wanted).abs() <= relative * wanted.abs() + 0.1 * relative * greatest;
                if !same && !close {
                    return Err(format!("{found} instead of {wanted} at {index}"));
                }
            }
            Ok(())
        }
    }
}

fn execute(program: &Program, inputs: &[Vec<f32>], samples: usize) -> Result<Vec<Vec<f32>>, String> {
    let executor = Executor::new(program.clone(), 1).map_err(|error| error.to_string())?;
    let slices: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let indices: Vec<u64> = (0..samples as u64).collect();
    let key = Key { seed: 0, purpose: Purpose::Eval, pass: 0, chip: 0 };
    executor.forward(Batch { inputs: &slices, samples: &indices }, Mode::CLEAN, key).map_err(|error| error.to_string())
}

/// Runs a case; whether inputs were bound.
fn run(case: &Case) -> Result<bool, String> {
    if case.sets.is_empty() {
        return Err("the test data was left out of data/conformance.bin.gz".to_owned());
    }
    let graph = case.model.graph.as_ref().unwrap();
    // A function's inputs are the graph's, in order.
    let own = shape_like(&case.op).iter().filter_map(|&index| graph.input.get(index)).map(|value| &value.name);
    let bound: BTreeSet<&str> = nodes(graph)
        .into_iter()
        .flat_map(|node| shape_like(&node.op_type).iter().filter_map(|&index| node.input.get(index)))
        .chain(own.filter(|_| case.name.contains("_expanded")))
        .map(String::as_str)
        .collect();
    for [inputs, outputs] in &case.sets {
        let mut model = case.model.clone();
        let graph = model.graph.as_mut().unwrap();
        graph.input.retain(|value| !bound.contains(value.name.as_str()));
        graph.initializer.extend(inputs.iter().filter(|tensor| bound.contains(tensor.name.as_str())).cloned());
        let bytes = model.write_to_bytes().unwrap();
        let context = mxc_dialects::new_context();
        let imported = import::onnx_bytes(&context, &bytes, "case.onnx", Path::new(""), &ImportOptions::default())
            .map_err(|error| error.to_string())?;
        let program = load::program(&imported.module, &imported.weights).map_err(|error| format!("load: {error}"))?;
        let given: BTreeMap<&str, &TensorProto> = inputs.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let values =
            program.inputs().iter().map(|&id| (&program.values()[id], given[program.values()[id].name.as_str()]));
        let samples = values.clone().find(|(value, _)| value.shape.first() == Some(&None));
        let samples = samples.map_or(1, |(_, tensor)| tensor.dims[0] as usize);
        let words: Vec<_> = values.map(|(value, tensor)| encode(tensor, value.dtype)).collect();
        let check = |program: &Program| {
            let results = execute(program, &words, samples).map_err(|error| format!("run: {error}"))?;
            check_results(case, program, &results, samples, outputs)
        };
        check(&program)?;
        // So does what a package holds of it.
        let read = proto::Program::new(&program, &imported.weights).and_then(|message| message.read(&imported.weights));
        if read.map_err(|error| format!("as a message: {error}"))? != program {
            return Err("as a message it is another program".to_owned());
        }
        // What compile makes of it computes the same.
        let (mut module, mut cx) = (imported.module, PassContext::with_weights(imported.weights));
        let pipeline = Pipeline::parse(&REGISTRY, "canonicalize-graph,map-to-analog,annotate-noise").unwrap();
        let compiled = run_pipeline(&context, &mut module, &pipeline, &mut cx, &RunOptions::default())
            .map_err(|error| error.to_string())
            .and_then(|()| load::program(&module, &cx.weights).map_err(|error| format!("load: {error}")))
            .and_then(|program| check(&program));
        compiled.map_err(|error| format!("after the passes: {error}"))?;
    }
    Ok(graph.input.iter().any(|value| bound.contains(value.name.as_str())))
}

/// Compares the outputs of a run with the reference.
fn check_results(
    case: &Case,
    program: &Program,
    results: &[Vec<f32>],
    samples: usize,
    outputs: &[TensorProto],
) -> Result<(), String> {
    for ((words, &id), reference) in results.iter().zip(program.outputs()).zip(outputs) {
        let value = &program.values()[id];
        let shape: Vec<i64> = value.shape.iter().map(|size| size.unwrap_or(samples) as i64).collect();
        if shape != reference.dims {
            return Err(format!("output '{}' has the shape {shape:?}, not {:?}", reference.name, reference.dims));
        }
        compare(words, value.dtype, reference, case.rtol)
            .map_err(|error| format!("output '{}': {}", reference.name, error.chars().take(200).collect::<String>()))?;
    }
    Ok(())
}

fn outcome(case: &Case) -> Outcome {
    if let Some(reason) = out_of_scope(case) {
        return Outcome::Out(reason);
    }
    match catch_unwind(AssertUnwindSafe(|| run(case))) {
        Ok(Ok(false)) => Outcome::Passed,
        Ok(Ok(true)) => Outcome::Bound,
        Ok(Err(reason)) => Outcome::NotYet(reason.split_whitespace().collect::<Vec<_>>().join(" ")),
        Err(_) => Outcome::NotYet("panic".to_owned()),
    }
}

/// One operator's line.
#[derive(Default)]
struct Line {
    versions: BTreeSet<i64>,
    passed: usize,
    bound: usize,
    not_yet: usize,
    out: BTreeMap<String, usize>,
}

fn page(cases: &[(Case, Outcome)]) -> String {
    let mut lines: BTreeMap<&str, Line> = BTreeMap::new();
    let mut missing = String::new();
    for (case, outcome) in cases {
        let line = lines.entry(&case.op).or_default();
        let domain = case.op.rsplit_once('.').map_or("", |(domain, _)| domain);
        line.versions.extend(
            case.model.opset_import.iter().filter(|import| import.domain == domain).map(|import| import.version),
        );
        match outcome {
            Outcome::Passed => line.passed += 1,
            Outcome::Bound => line.bound += 1,
            Outcome::NotYet(reason) => {
                line.not_yet += 1;
                let _ = writeln!(missing, "| `{}` | {} |", case.name, reason.replace('|', "\\|"));
            }
            Outcome::Out(reason) => *line.out.entry(reason.clone()).or_default() += 1,
        }
    }
    let total = |count: &dyn Fn(&Line) -> usize| lines.values().map(count).sum::<usize>();
    let [passed, bound, not_yet, out] = [
        total(&|line| line.passed),
        total(&|line| line.bound),
        total(&|line| line.not_yet),
        total(&|line| line.out.values().sum()),
    ];
    let mut page = String::from(HEAD);
    let _ = writeln!(
        page,
        "**{} cases: {passed} passed, {bound} passed with inputs bound, {not_yet} not yet, {out} out of scope.**\n",
        cases.len()
    );
    page.push_str("| operator | opsets | passed | bound | not yet | out of scope |\n|---|---|--:|--:|--:|---|\n");
    let number = |count: usize| if count == 0 { String::new() } else { count.to_string() };
    let in_scope = |line: &&Line| line.passed + line.bound + line.not_yet > 0;
    for (op, line) in lines.iter().filter(|(_, line)| in_scope(line)) {
        let versions: Vec<_> = line.versions.iter().map(i64::to_string).collect();
        let out: Vec<_> = line.out.iter().map(|(reason, count)| format!("{count}: {reason}")).collect();
        let _ = writeln!(
            page,
            "| {op} | {} | {} | {} | {} | {} |",
            versions.join(", "),
            number(line.passed),
            number(line.bound),
            number(line.not_yet),
            out.join("; ")
        );
    }
    if !missing.is_empty() {
        let _ = write!(page, "\n## Not yet\n\n| case | what happens |\n|---|---|\n{missing}");
    }
    page.push_str("\n## Operators out of scope\n\n");
    let others: Vec<_> = lines
        .iter()
        .filter(|(_, line)| !in_scope(line))
        .map(|(op, line)| format!("{op} ({})", line.out.values().sum::<usize>()))
        .collect();
    let _ = writeln!(page, "With the number of their cases: {}.", others.join(", "));
    page
}

const HEAD: &str = "\
# Operator conformance

The single-operator test cases of the `onnx` package 1.23.2 through mxc's importer and executor, as they are
and again after the passes of `mxc compile` (`canonicalize-graph`, `map-to-analog`). This page is written by the test
`conformance` (`tests/conformance.rs`), which fails where the page and the run differ.

- **passed**: with the inputs given at run time. Weights given at run time run digitally.
- **bound**: with inputs that are like shapes (shapes, axes, pads, scales of Resize, numbers of iterations, conditions of If)
  bound as initializers; networks compute them from constants.
- **out of scope**: by the rules of the test, not case by case. In scope are f32, i32, i64, bool, (u)int8 for quantization, f16
  and f64 as f32, and every operator that classifiers use, be they convolutional, recurrent or of attention, with the other
  elementwise ones.
- A case `…_expanded` counts for the operator whose function it spells out, and is in scope if what it uses is.
- Integers and booleans must be equal, floats within 1e-5 (f16, and references written down with four digits: 1e-3).

";

#[test]
fn single_operator_cases_of_the_onnx_package() {
    let cases = cases();
    let threads = 2;
    let next = std::sync::atomic::AtomicUsize::new(0);
    let mut outcomes: Vec<(usize, Outcome)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    loop {
                        let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        match cases.get(index) {
                            Some(case) => done.push((index, outcome(case))),
                            None => return done,
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    outcomes.sort_by_key(|(index, _)| *index);
    let results: Vec<_> = cases.into_iter().zip(outcomes).map(|(case, (_, outcome))| (case, outcome)).collect();
    let missing: Vec<_> = results
        .iter()
        .filter_map(|(case, outcome)| match outcome {
            Outcome::NotYet(reason) => Some(format!("{}: {reason}", case.name)),
            _ => None,
        })
        .collect();
    assert!(missing.is_empty(), "cases in scope that do not pass:\n{}", missing.join("\n"));
    let page = page(&results);
    let path = root().join("docs/conformance.md");
    if std::env::var_os("MXC_UPDATE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    if let Some((old, new)) = kept.lines().zip(page.lines()).find(|(old, new)| old != new) {
        panic!("docs/conformance.md says\n{old}\nbut the run\n{new}\nMXC_UPDATE_DOCS=1 rewrites it");
    }
    assert_eq!(kept, page, "docs/conformance.md is not what the run gives; MXC_UPDATE_DOCS=1 rewrites it");
}
