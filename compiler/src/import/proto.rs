//! What is done to a model's protobuf before it is read: every node gets its unique name, and fused quantised operators
//! are spelled out as what they mean: `DequantizeLinear → operator → QuantizeLinear`.
//!
//! ```text
//! QLinearConv "conv" (x, …) → y      becomes      y.x = DequantizeLinear(x, …)      y.weight = (w − zero point)·scale
//!                                                 y.float = Conv "conv" (y.x, y.weight, y.bias)      y = QuantizeLinear(y.float, …)
//! ```
//!
//! A layer's output is then a value of the graph, `y.float` here, also where the file has none. Export spells the same nodes out
//! the same way, and inlines what a layer's output is in: functions, and branches of Ifs.

use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, attribute_proto::AttributeType,
    tensor_proto::DataType,
};
use protobuf::Enum;
use std::collections::{BTreeMap, BTreeSet};

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
    let domain = normal(&node.domain);
    let mut spelling = Spelling { node, nodes: Vec::new() };
    let has = |index: usize| node.input.get(index).is_some_and(|input| !input.is_empty());
    let channels_last = node.attribute.iter().any(|attribute| attribute.name == "channels_last" && attribute.i != 0);
    node.output.first().filter(|output| !output.is_empty())?;
    match (domain, node.op_type.as_str()) {
        ("", "QLinearConv") => {
            let x = spelling.dequantized("x", 0);
            let weight = spelling.scaled("weight", [3, 4, 5], true);
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
            let b = spelling.scaled("b", [3, 4, 5], rows);
            let mut inputs = vec![a, b];
            if has(6) {
                let mut bias = spelling.accumulator_scaled("bias", 6, [1, 4]);
                if let Some(alpha) =
                    node.attribute.iter().find(|attribute| attribute.name == "alpha" && attribute.f != 1.0)
                {
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
            op @ ("QLinearGlobalAveragePool"
            | "QLinearAveragePool"
            | "QLinearLeakyRelu"
            | "QLinearSigmoid"
            | "QLinearSoftmax"
            | "QLinearReduceMean"),
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

    /// Weights `(w − zero point)·scale`, by tensor or along the last axis, or, `first`, along the first one.
    fn scaled(&mut self, part: &str, [index, scale, zero]: [usize; 3], first: bool) -> String {
        let centred = self.centred(&format!("{part}.centred"), index, zero, first);
        let scale = self.input(scale);
        self.along(part, "Mul", centred, scale, first)
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

/// What the names of nodes and values inside a call of a function, or a branch of an If, begin with once it is inlined.
pub(crate) fn inlined_prefix(node: &str, branch: Option<&str>) -> String {
    match branch {
        Some(branch) => format!("{node}/{branch}/"),
        None => format!("{node}/"),
    }
}

/// Makes the wanted values values of the graph itself: inlines the functions and the branches of Ifs that they are in, and
/// spells out the operators that they are inside of. Nodes have their unique names ([`name_nodes`]).
///
/// # Errors
///
/// Names the function whose operator sets differ from the model's, so that its nodes would mean something else.
pub(crate) fn inline(model: &mut ModelProto, wanted: &BTreeSet<String>) -> Result<(), String> {
    let within = |prefix: &str| wanted.range(prefix.to_owned()..).next().is_some_and(|name| name.starts_with(prefix));
    let Some(mut graph) = model.graph.take() else {
        return Ok(());
    };
    loop {
        let mut changed = false;
        for mut node in std::mem::take(&mut graph.node) {
            let function = model
                .functions
                .iter()
                .find(|function| function.name == node.op_type && normal(&function.domain) == normal(&node.domain));
            if let Some(function) = function.filter(|_| within(&inlined_prefix(&node.name, None))) {
                for import in &function.opset_import {
                    let own = model.opset_import.iter().find(|own| normal(&own.domain) == normal(&import.domain));
                    if own.is_some_and(|own| own.version != import.version) {
                        return Err(format!(
                            "function '{}' uses operator set {} and the model another one, so that it cannot be inlined",
                            function.name, import.version
                        ));
                    }
                }
                call(&node, function, &mut graph.node);
                changed = true;
                continue;
            }
            let branch = ["then_branch", "else_branch"]
                .into_iter()
                .find(|branch| node.op_type == "If" && within(&inlined_prefix(&node.name, Some(branch))));
            if let Some(branch) = branch {
                let body = node.attribute.iter_mut().find(|attribute| attribute.name == branch);
                if let Some(body) = body.and_then(|attribute| attribute.g.take()) {
                    take_branch(&node, branch, body, &mut graph);
                    changed = true;
                    continue;
                }
            }
            match spelled(&node) {
                Some(nodes) if nodes.iter().any(|each| each.output.iter().any(|output| wanted.contains(output))) => {
                    graph.node.extend(nodes);
                    changed = true;
                }
                _ => graph.node.push(node),
            }
        }
        if !changed {
            break;
        }
    }
    model.graph = Some(graph).into();
    Ok(())
}

/// ONNX's own domain has two spellings.
pub(crate) fn normal(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// The nodes of a call of a function.
fn call(node: &NodeProto, function: &FunctionProto, nodes: &mut Vec<NodeProto>) {
    let prefix = inlined_prefix(&node.name, None);
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for (index, input) in function.input.iter().enumerate() {
        names.insert(input.clone(), node.input.get(index).cloned().unwrap_or_default());
    }
    for output in function.node.iter().flat_map(|node| &node.output).filter(|output| !output.is_empty()) {
        names.insert(output.clone(), format!("{prefix}{output}"));
    }
    for inner in &function.node {
        let mut inner = inner.clone();
        bind(&mut inner, &node.attribute, &function.attribute_proto);
        rename(&mut inner, &names);
        inner.name = format!("{prefix}{}", inner.name);
        nodes.push(inner);
    }
    let made = function.output.iter().map(|output| names.get(output).unwrap_or(output));
    hand_over(&prefix, made, &node.output, nodes);
}

/// The nodes and initializers of a branch of an If.
fn take_branch(node: &NodeProto, branch: &str, body: GraphProto, graph: &mut GraphProto) {
    let prefix = inlined_prefix(&node.name, Some(branch));
    let own = body.node.iter().flat_map(|node| node.output.iter().cloned());
    let own = own.chain(body.initializer.iter().map(|tensor| tensor.name.clone())).filter(|name| !name.is_empty());
    let names: BTreeMap<String, String> = own.map(|name| (name.clone(), format!("{prefix}{name}"))).collect();
    for mut tensor in body.initializer {
        tensor.name = format!("{prefix}{}", tensor.name);
        graph.initializer.push(tensor);
    }
    for mut inner in body.node {
        rename(&mut inner, &names);
        inner.name = format!("{prefix}{}", inner.name);
        graph.node.push(inner);
    }
    let outputs: Vec<String> = body.output.into_iter().map(|output| output.name).collect();
    hand_over(&prefix, outputs.iter().map(|output| names.get(output).unwrap_or(output)), &node.output, &mut graph.node);
}

/// What was made inside under the names outside.
fn hand_over<'a>(prefix: &str, made: impl Iterator<Item = &'a String>, outputs: &[String], nodes: &mut Vec<NodeProto>) {
    for (from, to) in made.zip(outputs).filter(|(_, to)| !to.is_empty()) {
        nodes.push(NodeProto {
            op_type: "Identity".to_owned(),
            name: format!("{prefix}output/{to}"),
            input: vec![from.clone()],
            output: vec![to.clone()],
            ..Default::default()
        });
    }
}

/// Replaces references to a function's attributes by the call's values, else the defaults; what has neither is left out.
fn bind(node: &mut NodeProto, given: &[AttributeProto], defaults: &[AttributeProto]) {
    node.attribute.retain_mut(|attribute| {
        if attribute.ref_attr_name.is_empty() {
            return true;
        }
        let wanted = |each: &&AttributeProto| each.name == attribute.ref_attr_name;
        let Some(value) = given.iter().find(wanted).or_else(|| defaults.iter().find(wanted)) else {
            return false;
        };
        *attribute = AttributeProto { name: attribute.name.clone(), ..value.clone() };
        true
    });
    for inner in graphs_mut(node).flat_map(|graph| &mut graph.node) {
        bind(inner, given, defaults);
    }
}

/// Renames the values that a node reads and makes, those that nested graphs read from outside included.
pub(crate) fn rename(node: &mut NodeProto, names: &BTreeMap<String, String>) {
    let replace = |value: &mut String| {
        if let Some(name) = names.get(value.as_str()) {
            value.clone_from(name);
        }
    };
    node.input.iter_mut().for_each(replace);
    node.output.iter_mut().for_each(replace);
    for graph in graphs_mut(node) {
        let own =
            graph.input.iter().map(|input| &input.name).chain(graph.initializer.iter().map(|tensor| &tensor.name));
        let own: BTreeSet<&String> = own.chain(graph.node.iter().flat_map(|node| &node.output)).collect();
        let outer: BTreeMap<String, String> = names
            .iter()
            .filter(|(name, _)| !own.contains(name))
            .map(|(name, new)| (name.clone(), new.clone()))
            .collect();
        graph.node.iter_mut().for_each(|node| rename(node, &outer));
        for output in &mut graph.output {
            if let Some(name) = outer.get(&output.name) {
                output.name.clone_from(name);
            }
        }
    }
}

/// Sorts nodes so that each stands behind those whose values it reads; nodes in order stay so.
pub(crate) fn sort(nodes: Vec<NodeProto>) -> Vec<NodeProto> {
    let mut producers: BTreeMap<String, usize> = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        producers.extend(node.output.iter().filter(|output| !output.is_empty()).map(|output| (output.clone(), index)));
    }
    let depends = |node: &NodeProto| reads(node).iter().filter_map(|read| producers.get(read).copied()).collect();
    let dependencies: Vec<Vec<usize>> = nodes.iter().map(depends).collect();
    let mut nodes: Vec<Option<NodeProto>> = nodes.into_iter().map(Some).collect();
    execution_order(&dependencies).0.into_iter().filter_map(|index| nodes[index].take()).collect()
}

/// An order of nodes that depend on others, by Kahn's algorithm: always the first ready one in file order. Those on and behind
/// a cycle are left out: what they still wait for is the second result.
pub(super) fn execution_order(dependencies: &[Vec<usize>]) -> (Vec<usize>, Vec<usize>) {
    let mut waiting: Vec<usize> = dependencies.iter().map(Vec::len).collect();
    let mut users = vec![Vec::new(); dependencies.len()];
    for (index, producers) in dependencies.iter().enumerate() {
        for &producer in producers {
            users[producer].push(index);
        }
    }
    let mut ready: BTreeSet<usize> = (0..dependencies.len()).filter(|&index| waiting[index] == 0).collect();
    let mut order = Vec::with_capacity(dependencies.len());
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for &user in &users[index] {
            waiting[user] -= 1;
            if waiting[user] == 0 {
                ready.insert(user);
            }
        }
    }
    (order, waiting)
}

/// The values that a node reads, those of its nested graphs included.
pub(crate) fn reads(node: &NodeProto) -> Vec<String> {
    let mut reads: Vec<_> = node.input.iter().filter(|input| !input.is_empty()).cloned().collect();
    for graph in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
        let mut own: BTreeSet<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
        own.extend(graph.initializer.iter().map(|tensor| tensor.name.as_str()));
        own.extend(graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str)));
        let nested = graph.node.iter().flat_map(self::reads);
        let outputs = graph.output.iter().map(|output| output.name.clone());
        reads.extend(nested.chain(outputs).filter(|read| !own.contains(read.as_str())));
    }
    reads
}
