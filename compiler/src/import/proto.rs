//! What is done to a model's protobuf before it is read: every node gets its unique name, and fused quantised operators
//! are spelled out as what they mean: `DequantizeLinear → operator → QuantizeLinear`.
//!
//! ```text
//! QLinearConv "conv" (x, …) → y      becomes      y.x = DequantizeLinear(x, …)      y.weight = (w − zero point)·scale
//!                                                 y.float = Conv "conv" (y.x, y.weight, y.bias)      y = QuantizeLinear(y.float, …)
//! ```
//!
//! A layer's output is then a value of the graph, `y.float` here, also where the file has none; export spells the same nodes
//! out the same way.

use onnx_protobuf::{AttributeProto, GraphProto, ModelProto, NodeProto, attribute_proto::AttributeType, tensor_proto::DataType};
use protobuf::Enum;
use std::collections::BTreeSet;

/// Gives every node its unique, stable name: its own, else its first output's. A name that an earlier node took gives way to
/// the first output's name, and that to the name with a number. The nodes of the graph come first, then those of the graphs
/// nested in them, then those of functions.
pub(crate) fn name_nodes(model: &mut ModelProto) {
    let mut taken = BTreeSet::new();
    if let Some(graph) = model.graph.as_mut() {
        name_all(&mut graph.node, &mut taken);
    }
    for function in &mut model.functions {
        name_all(&mut function.node, &mut taken);
    }
}

fn name_all(nodes: &mut [NodeProto], taken: &mut BTreeSet<String>) {
    for node in &mut *nodes {
        let output = node.output.iter().find(|output| !output.is_empty()).cloned().unwrap_or_default();
        let candidates: Vec<&String> = [&node.name, &output].into_iter().filter(|name| !name.is_empty()).collect();
        let base = candidates.first().map_or_else(|| node.op_type.clone(), |name| (*name).clone());
        let free = candidates.into_iter().find(|name| !taken.contains(*name)).cloned();
        let name = free.unwrap_or_else(|| unique(&base, |name| taken.contains(name)));
        taken.insert(name.clone());
        node.name = name;
    }
    for graph in nodes.iter_mut().flat_map(graphs_mut) {
        name_all(&mut graph.node, taken);
    }
}

/// The graphs nested in a node.
pub(crate) fn graphs_mut(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut())
}

/// `base`, or `base.1`, `base.2`, … if it is taken.
pub(crate) fn unique(base: &str, taken: impl Fn(&str) -> bool) -> String {
    if !taken(base) {
        return base.to_owned();
    }
    (1u64..).map(|number| format!("{base}.{number}")).find(|name| !taken(name)).unwrap_or_else(|| base.to_owned())
}

/// Spells out the fused quantised operators among nodes.
pub(crate) fn spell_out(nodes: Vec<NodeProto>) -> Vec<NodeProto> {
    nodes.into_iter().flat_map(|node| spelled(&node).unwrap_or_else(|| vec![node])).collect()
}

/// The domain of onnxruntime's own operators.
pub(crate) const MICROSOFT: &str = "com.microsoft";

/// What a fused quantised operator means, as ONNX's own operators (QLinearConv-10, QLinearMatMul-10, ConvInteger-10,
/// MatMulInteger-10, and those of onnxruntime that `quantize_static` writes); `None` for any other node. The one that
/// computes has the node's name.
pub(crate) fn spelled(node: &NodeProto) -> Option<Vec<NodeProto>> {
    let domain = match node.domain.as_str() {
        "ai.onnx" => "",
        domain => domain,
    };
    let mut spelling = Spelling { node, nodes: Vec::new() };
    let has = |index: usize| node.input.get(index).is_some_and(|input| !input.is_empty());
    let channels_last = node.attribute.iter().any(|attribute| attribute.name == "channels_last" && attribute.i != 0);
    node.output.first().filter(|output| !output.is_empty())?;
    match (domain, node.op_type.as_str()) {
        ("", "QLinearConv") => {
            let x = spelling.dequantized("x", 0);
            let weight = spelling.scaled("weight", [3, 4, 5]);
            let mut inputs = vec![x, weight];
            if has(8) {
                inputs.push(spelling.accumulator_scaled("bias", 8, [1, 4]));
            }
            let y = spelling.main("Conv", &inputs, &[]);
            spelling.quantized(&y, 6);
        }
        ("", "QLinearMatMul") | (MICROSOFT, "QLinearMatMul") => {
            let (a, b) = (spelling.dequantized("a", 0), spelling.dequantized("b", 3));
            let y = spelling.main("MatMul", &[a, b], &[]);
            spelling.quantized(&y, 6);
        }
        (MICROSOFT, "QGemm") => {
            let a = spelling.dequantized("a", 0);
            // Per output: the rows of a transposed B.
            let rows = node.attribute.iter().any(|attribute| attribute.name == "transB" && attribute.i != 0);
            let b = if rows { spelling.scaled("b", [3, 4, 5]) } else { spelling.scaled_last("b", [3, 4, 5]) };
            let mut inputs = vec![a, b];
            if has(6) {
                let mut bias = spelling.accumulator_scaled("bias", 6, [1, 4]);
                if let Some(alpha) = node.attribute.iter().find(|attribute| attribute.name == "alpha" && attribute.f != 1.0) {
                    let alpha = spelling.constant("alpha", alpha.f);
                    bias = spelling.add("Mul", "bias.alpha", &[bias, alpha], Vec::new());
                }
                inputs.push(bias);
            }
            let y = spelling.main("Gemm", &inputs, &[]);
            match has(7) {
                true => spelling.quantized(&y, 7),
                false => spelling.rename_last(),
            }
        }
        (MICROSOFT, op @ ("QLinearAdd" | "QLinearMul")) => {
            let (a, b) = (spelling.dequantized("a", 0), spelling.dequantized("b", 3));
            let y = spelling.main(&op["QLinear".len()..], &[a, b], &[]);
            spelling.quantized(&y, 6);
        }
        (MICROSOFT, "QLinearGlobalAveragePool" | "QLinearAveragePool") if channels_last => return None,
        (
            MICROSOFT,
            op @ ("QLinearGlobalAveragePool" | "QLinearAveragePool" | "QLinearLeakyRelu" | "QLinearSigmoid"
            | "QLinearSoftmax" | "QLinearReduceMean"),
        ) => {
            let x = spelling.dequantized("x", 0);
            let y = spelling.main(&op["QLinear".len()..], &[x], &["channels_last", "opset"]);
            spelling.quantized(&y, 3);
        }
        (MICROSOFT, "QLinearConcat") => {
            let parts = node.input.len().saturating_sub(2) / 3;
            let inputs: Vec<_> =
                (0..parts).map(|part| spelling.dequantized(&format!("part{part}"), 2 + 3 * part)).collect();
            let y = spelling.main("Concat", &inputs, &[]);
            spelling.quantized(&y, 0);
        }
        (MICROSOFT, "QLinearWhere") => {
            let (x, y) = (spelling.dequantized("x", 1), spelling.dequantized("y", 4));
            let y = spelling.main("Where", &[node.input.first()?.clone(), x, y], &[]);
            spelling.quantized(&y, 7);
        }
        ("", "ConvInteger") => {
            let (x, weight) = (spelling.centred("x", 0, 2, false), spelling.centred("weight", 1, 3, true));
            let y = spelling.main("Conv", &[x, weight], &[]);
            spelling.integers(&y);
        }
        ("", "MatMulInteger") => {
            let (a, b) = (spelling.centred("a", 0, 2, false), spelling.centred("b", 1, 3, false));
            let y = spelling.main("MatMul", &[a, b], &[]);
            spelling.integers(&y);
        }
        _ => return None,
    }
    Some(spelling.nodes)
}

/// Writes what one node means.
struct Spelling<'n> {
    node: &'n NodeProto,
    nodes: Vec<NodeProto>,
}

impl Spelling<'_> {
    fn input(&self, index: usize) -> String {
        self.node.input.get(index).cloned().unwrap_or_default()
    }

    /// A new value `OUTPUT.part`.
    fn add(&mut self, op: &str, part: &str, inputs: &[String], attribute: Vec<AttributeProto>) -> String {
        let value = format!("{}.{part}", self.node.output.first().map_or("", String::as_str));
        let used = inputs.iter().rposition(|input| !input.is_empty()).map_or(0, |last| last + 1);
        self.nodes.push(NodeProto {
            op_type: op.to_owned(),
            name: format!("{}.{part}", self.node.name),
            input: inputs[..used].to_vec(),
            output: vec![value.clone()],
            attribute,
            ..Default::default()
        });
        value
    }

    /// The operator itself on floats, with the node's attributes but for `dropped`.
    fn main(&mut self, op: &str, inputs: &[String], dropped: &[&str]) -> String {
        let kept = |attribute: &&AttributeProto| !dropped.contains(&attribute.name.as_str());
        let attributes = self.node.attribute.iter().filter(kept).cloned().collect();
        let value = self.add(op, "float", inputs, attributes);
        if let Some(last) = self.nodes.last_mut() {
            last.name.clone_from(&self.node.name);
        }
        value
    }

    /// The input at `index` dequantised with the scale and the zero point behind it.
    fn dequantized(&mut self, part: &str, index: usize) -> String {
        let inputs = [0, 1, 2].map(|offset| self.input(index + offset));
        self.add("DequantizeLinear", part, &inputs, Vec::new())
    }

    /// The last node makes the output: floats.
    fn rename_last(&mut self) {
        if let (Some(last), Some(output)) = (self.nodes.last_mut(), self.node.output.first()) {
            last.output = vec![output.clone()];
        }
    }

    /// The output: `value` quantised with the scale at `index` and the zero point behind it.
    fn quantized(&mut self, value: &str, index: usize) {
        let inputs = [value.to_owned(), self.input(index), self.input(index + 1)];
        self.add("QuantizeLinear", "quantized", &inputs, Vec::new());
        self.rename_last();
    }

    fn floats(&mut self, part: &str, index: usize) -> String {
        let input = self.input(index);
        self.add("Cast", part, &[input], vec![integer("to", i64::from(DataType::FLOAT.value()))])
    }

    /// An input as floats less its zero point, which belongs to its last axis, or, `first`, to its first one.
    fn centred(&mut self, part: &str, index: usize, zero: usize, first: bool) -> String {
        let value = self.floats(&format!("{part}.float"), index);
        if self.input(zero).is_empty() {
            return value;
        }
        let zero = self.floats(&format!("{part}.zero"), zero);
        self.along(part, "Sub", value, zero, first)
    }

    /// An operation with a value per index of the last axis, or, `first`, of the first one. Transposing (which reverses the
    /// axes) says that without knowing their number, and in every version of ONNX.
    fn along(&mut self, part: &str, op: &str, value: String, operand: String, first: bool) -> String {
        if !first {
            return self.add(op, part, &[value, operand], Vec::new());
        }
        let turned = self.add("Transpose", &format!("{part}.turned"), &[value], Vec::new());
        let result = self.add(op, &format!("{part}.{}", op.to_lowercase()), &[turned, operand], Vec::new());
        self.add("Transpose", part, &[result], Vec::new())
    }

    /// Weights `(w − zero point)·scale`, by tensor or along the first axis.
    fn scaled(&mut self, part: &str, [index, scale, zero]: [usize; 3]) -> String {
        let centred = self.centred(&format!("{part}.centred"), index, zero, true);
        let scale = self.input(scale);
        self.along(part, "Mul", centred, scale, true)
    }

    /// Weights `(w − zero point)·scale`, by tensor or along the last axis.
    fn scaled_last(&mut self, part: &str, [index, scale, zero]: [usize; 3]) -> String {
        let centred = self.centred(&format!("{part}.centred"), index, zero, false);
        let scale = self.input(scale);
        self.along(part, "Mul", centred, scale, false)
    }

    /// Integers in units of the product of two scales.
    fn accumulator_scaled(&mut self, part: &str, index: usize, scales: [usize; 2]) -> String {
        let value = self.floats(&format!("{part}.float"), index);
        let scales = scales.map(|scale| self.input(scale));
        let unit = self.add("Mul", &format!("{part}.scale"), &scales, Vec::new());
        self.add("Mul", part, &[value, unit], Vec::new())
    }

    fn constant(&mut self, part: &str, value: f32) -> String {
        let value = AttributeProto {
            name: "value_float".to_owned(),
            type_: AttributeType::FLOAT.into(),
            f: value,
            ..Default::default()
        };
        self.add("Constant", part, &[], vec![value])
    }

    /// The output: whole numbers as 32-bit integers. Sums of floats may be off by a rounding.
    fn integers(&mut self, value: &str) {
        let whole = self.add("Round", "whole", &[value.to_owned()], Vec::new());
        self.add("Cast", "integers", &[whole], vec![integer("to", i64::from(DataType::INT32.value()))]);
        self.rename_last();
    }
}

/// An integer attribute.
pub(crate) fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), type_: AttributeType::INT.into(), i: value, ..Default::default() }
}
