//! Where denoisers go: behind the values that the compiler recorded for their layers.

use super::{
    ExportError, ExportOptions, LayerDenoisers,
    block::{Builder, Place},
};
use crate::import;
use mxc_dialects::origin::{Origin, Step};
use onnx_protobuf::{GraphProto, ModelProto, NodeProto, tensor_proto::DataType, type_proto};
use protobuf::Enum;
use std::collections::{BTreeMap, BTreeSet};

/// Splices denoisers into a model.
pub(super) fn splice(
    model: &mut ModelProto,
    layers: &[LayerDenoisers],
    options: &ExportOptions,
) -> Result<(), ExportError> {
    let given: Vec<String> = model.graph.iter().flat_map(|graph| &graph.node).map(|node| node.name.clone()).collect();
    import::name_nodes(model);
    let unique: Vec<String> = model.graph.iter().flat_map(|graph| &graph.node).map(|node| node.name.clone()).collect();
    let layers: Vec<_> = layers.iter().filter(|layer| !layer.denoisers.is_empty()).collect();
    open(model, &layers)?;
    let constants_as_nodes = model.ir_version < 4;
    if let Some(graph) = model.graph.as_mut() {
        graph.node = import::sort(std::mem::take(&mut graph.node));
        let types = data_types(graph);
        for layer in layers {
            denoise(graph, layer, &types, options, constants_as_nodes)?;
        }
        graph.node = import::sort(std::mem::take(&mut graph.node));
        // Nodes keep the names that they have in the file, or have none.
        let given: BTreeMap<String, String> =
            unique.into_iter().zip(given).filter(|(unique, given)| unique != given).collect();
        restore(&mut graph.node, &given);
    }
    Ok(())
}

fn restore(nodes: &mut [NodeProto], given: &BTreeMap<String, String>) {
    for node in nodes {
        if let Some(name) = given.get(&node.name) {
            node.name.clone_from(name);
        }
    }
}

/// Makes some value of every layer a value of the graph.
fn open(model: &mut ModelProto, layers: &[&LayerDenoisers]) -> Result<(), ExportError> {
    let values = model.graph.as_ref().map(made).unwrap_or_default();
    let hidden = layers.iter().filter(|layer| !layer.origins.iter().any(|origin| values.contains(&origin.value)));
    let wanted: BTreeSet<String> =
        hidden.flat_map(|layer| layer.origins.iter().map(|origin| origin.value.clone())).collect();
    import::inline(model, &wanted).map_err(|reason| ExportError::Function { reason })?;
    let values = model.graph.as_ref().map(made).unwrap_or_default();
    for layer in layers {
        if !layer.origins.iter().any(|origin| values.contains(&origin.value)) {
            let values = layer.origins.iter().map(|origin| origin.value.clone()).collect();
            return Err(ExportError::NoValue { layer: layer.layer.clone(), values });
        }
    }
    Ok(())
}

/// The values that a graph's nodes make.
fn made(graph: &GraphProto) -> BTreeSet<String> {
    graph.node.iter().flat_map(|node| node.output.iter().cloned()).filter(|output| !output.is_empty()).collect()
}

/// Every name of a value.
fn taken(graph: &GraphProto) -> BTreeSet<String> {
    let mut names = made(graph);
    names.extend(graph.input.iter().map(|input| input.name.clone()));
    names.extend(graph.initializer.iter().map(|tensor| tensor.name.clone()));
    names.extend(graph.node.iter().flat_map(|node| node.input.iter().cloned()));
    names
}

/// Puts a layer's denoisers behind the values that are its output: usually one. Of several equal ones, which the compiler has
/// found to be one, those that follow from another are clean already.
fn denoise(
    graph: &mut GraphProto,
    layer: &LayerDenoisers,
    types: &BTreeMap<String, i32>,
    options: &ExportOptions,
    constants_as_nodes: bool,
) -> Result<(), ExportError> {
    let mut behind: BTreeSet<String> = BTreeSet::new();
    let mut chosen: Vec<&Origin> = Vec::new();
    for node in &graph.node {
        let follows = import::proto_reads(node).iter().any(|read| behind.contains(read));
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            let origin = layer.origins.iter().find(|origin| origin.value == *output);
            if follows {
                behind.insert(output.clone());
            } else if let Some(origin) = origin {
                behind.insert(output.clone());
                chosen.push(origin);
            }
        }
    }
    for origin in chosen {
        put_behind(graph, origin, layer, types, options, constants_as_nodes)?;
    }
    Ok(())
}

fn put_behind(
    graph: &mut GraphProto,
    origin: &Origin,
    layer: &LayerDenoisers,
    types: &BTreeMap<String, i32>,
    options: &ExportOptions,
    constants_as_nodes: bool,
) -> Result<(), ExportError> {
    let failed = |reason: &str| ExportError::Weights { layer: layer.layer.clone(), reason: reason.to_owned() };
    let value = origin.value.clone();
    let data_type = types.get(&value).and_then(|code| DataType::from_i32(*code)).unwrap_or(DataType::FLOAT);
    let (place, forth, back) = match direct(origin, layer) {
        Some(place) => (place, Vec::new(), Vec::new()),
        None => around(origin, layer).ok_or_else(|| failed("its recorded origin cannot be followed back"))?,
    };
    let mut names = taken(graph);
    let mut builder = Builder {
        layer: &layer.layer,
        place,
        channels: layer
            .shape
            .last()
            .copied()
            .flatten()
            .ok_or_else(|| failed("its layer's output has no fixed number of channels"))?,
        taken: &mut names,
        nodes: Vec::new(),
        initializers: Vec::new(),
        constants_as_nodes,
    };
    let is_output = graph.output.iter().any(|output| output.name == value);
    // A graph output keeps its name: it is then the denoised value, and the layer's own value is renamed.
    let (input, output) = match is_output {
        true => (builder.name("input"), value.clone()),
        false => (value.clone(), builder.name("output")),
    };
    builder.denoise(&input, &output, (&forth, &back), layer, data_type, options.sampling)?;
    let (nodes, constants) = (builder.nodes, builder.initializers);
    let names = BTreeMap::from([(value.clone(), if is_output { input } else { output })]);
    for node in &mut graph.node {
        let makes = node.output.contains(&value);
        if makes == is_output {
            import::rename(node, &names);
        }
    }
    graph.node.extend(nodes);
    graph.initializer.extend(constants);
    Ok(())
}

/// Where the denoisers work on the source's value itself: it has the axes of the layer's output, but for some of size 1, with
/// the channels behind the batch or at the end. `None` where it has to be brought into such a form first.
fn direct(origin: &Origin, layer: &LayerDenoisers) -> Option<Place> {
    // Which axis of the stored value each axis is.
    let mut axes: Vec<Option<usize>> = (0..origin.shape.len()).map(Some).collect();
    let mut shape = origin.shape.clone();
    for step in &origin.steps {
        let next = step.shape(&shape)?;
        axes = match step {
            Step::Transpose(perms) => perms.iter().map(|&axis| axes.get(axis).copied().flatten()).collect(),
            Step::Reshape(_) => {
                let moving = |shape: &[Option<usize>]| -> Vec<usize> {
                    (0..shape.len()).filter(|&axis| shape[axis] != Some(1)).collect()
                };
                let (from, to) = (moving(&shape), moving(&next));
                let same = from.len() == to.len() && from.iter().zip(&to).all(|(&a, &b)| shape[a] == next[b]);
                let mut moved = vec![None; next.len()];
                for (&a, &b) in from.iter().zip(&to).filter(|_| same) {
                    moved[b] = axes[a];
                }
                same.then_some(moved)?
            }
            Step::Scale(_) | Step::Shift(_) => return None,
        };
        shape = next;
    }
    if shape != layer.shape {
        return None;
    }
    let of_source =
        |axis: usize| axes.get(axis).copied().flatten().and_then(|stored| origin.order.get(stored).copied());
    let rank = origin.order.len();
    let channel = of_source(shape.len().checked_sub(1)?)?;
    if !layer.spatial {
        return (channel + 1 == rank).then_some(Place::Last);
    }
    let [_, rows, columns, _] = shape.as_slice() else {
        return None;
    };
    let there: Vec<usize> = [(0, rows), (1, columns)]
        .iter()
        .filter(|(axis, _)| of_source(axis + 1).is_some())
        .map(|(axis, _)| *axis)
        .collect();
    // What is not there must be of size 1.
    if [(0, rows), (1, columns)].iter().any(|(axis, size)| !there.contains(axis) && **size != Some(1)) {
        return None;
    }
    let flat = [rows, columns].iter().all(|size| **size == Some(1));
    if flat && channel + 1 == rank {
        return Some(Place::Last);
    }
    let in_place = of_source(0) == Some(0)
        && channel == 1
        && rank == 2 + there.len()
        && there.iter().enumerate().all(|(at, axis)| of_source(axis + 1) == Some(2 + at));
    (in_place && !there.is_empty()).then_some(Place::First(there))
}

/// The steps from the source's value to where the denoisers work, and back.
fn around(origin: &Origin, layer: &LayerDenoisers) -> Option<(Place, Vec<Step>, Vec<Step>)> {
    let stored = Step::Transpose(origin.order.clone());
    let mut source = vec![None; origin.order.len()];
    for (stored, &axis) in origin.order.iter().enumerate() {
        source[axis] = *origin.shape.get(stored)?;
    }
    let mut whole = Origin::new(&origin.value, &[], &source).then([stored]).then(origin.steps.clone());
    let mut place = Place::Last;
    if layer.spatial {
        // The nodes' own layout.
        whole = whole.then([Step::Transpose(vec![0, 3, 1, 2])]);
        place = Place::First(vec![0, 1]);
    }
    let is_moved = |step: &Step| !matches!(step, Step::Transpose(perms) if perms.is_sorted());
    let back = whole.back()?.into_iter().filter(is_moved).collect();
    Some((place, whole.steps.into_iter().filter(is_moved).collect(), back))
}

/// The data types of a graph's values, as far as its nodes tell: most make what their first operand is.
fn data_types(graph: &GraphProto) -> BTreeMap<String, i32> {
    let mut types: BTreeMap<String, i32> = BTreeMap::new();
    let declared = |info: &onnx_protobuf::ValueInfoProto| match &info.type_.value {
        Some(type_proto::Value::TensorType(tensor)) if tensor.elem_type != 0 => {
            Some((info.name.clone(), tensor.elem_type))
        }
        _ => None,
    };
    types.extend(graph.input.iter().chain(&graph.value_info).filter_map(declared));
    infer(graph, &mut types);
    types
}

/// Adds the data types of what a graph's nodes make to those known around it.
fn infer(graph: &GraphProto, types: &mut BTreeMap<String, i32>) {
    types.extend(graph.initializer.iter().map(|tensor| (tensor.name.clone(), tensor.data_type)));
    for node in &graph.node {
        let attribute = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name);
        let operand = |index: usize| node.input.get(index).and_then(|input| types.get(input)).copied();
        let r#type = match node.op_type.as_str() {
            "Cast" => attribute("to").map(|to| to.i as i32),
            "Constant" | "ConstantOfShape" => match attribute("value").and_then(|value| value.t.as_ref()) {
                Some(tensor) => Some(tensor.data_type),
                None if attribute("value_int").or(attribute("value_ints")).is_some() => Some(DataType::INT64.value()),
                None => Some(DataType::FLOAT.value()),
            },
            "Reshape" | "Expand" | "Tile" | "Slice" | "Gather" => operand(0),
            "Shape" | "Size" | "ArgMax" | "ArgMin" | "NonZero" => Some(DataType::INT64.value()),
            "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "IsNaN" | "IsInf" => {
                Some(DataType::BOOL.value())
            }
            "QuantizeLinear" => operand(2).or(Some(DataType::UINT8.value())),
            "DequantizeLinear" | "CastLike" | "Where" => operand(1),
            // Both branches make the same.
            "If" => attribute("then_branch").and_then(|branch| branch.g.as_ref()).and_then(|branch| {
                let mut inner = types.clone();
                infer(branch, &mut inner);
                inner.get(&branch.output.first()?.name).copied()
            }),
            "Loop" | "Scan" => None,
            _ => operand(0).or_else(|| (1..node.input.len()).find_map(operand)),
        };
        if let Some(r#type) = r#type {
            for output in &node.output {
                types.entry(output.clone()).or_insert(r#type);
            }
        }
    }
}
