//! Shape arithmetic: what exporters compute shapes with, on constants known at import time. Integers may depend on the batch
//! size, and what moves elements keeps fills as they are; everything else on constants is run by the executor
//! (`lower::execute`).

use super::{
    attributes::{axes, axis, integers},
    decode::{Attribute, Node},
    error::{Problem, invalid, unsupported},
    tensor::{Data, Element, Sym, Tensor, broadcast_shape, broadcast_steps, positions, strides},
};
use std::{cmp::Ordering, rc::Rc, sync::Arc};

/// Whether [`fold`] knows an operator.
pub(super) fn is_foldable(op: &str) -> bool {
    matches!(
        op,
        "Abs"
            | "Add"
            | "And"
            | "Cast"
            | "CastLike"
            | "Concat"
            | "Constant"
            | "ConstantOfShape"
            | "Div"
            | "Dropout"
            | "Equal"
            | "Expand"
            | "Flatten"
            | "Gather"
            | "Greater"
            | "GreaterOrEqual"
            | "Identity"
            | "Less"
            | "LessOrEqual"
            | "Max"
            | "Min"
            | "Mod"
            | "Mul"
            | "Neg"
            | "NonZero"
            | "Not"
            | "Or"
            | "Pow"
            | "Range"
            | "ReduceMax"
            | "ReduceMin"
            | "ReduceProd"
            | "ReduceSum"
            | "Sum"
            | "Xor"
            | "Reshape"
            | "Shape"
            | "Size"
            | "Slice"
            | "Split"
            | "Squeeze"
            | "Sub"
            | "Tile"
            | "Transpose"
            | "Unsqueeze"
            | "Where"
    )
}

/// Whether [`fold`] keeps a fill among an operator's inputs as it is, or looks at its elements one by one.
fn keeps_fills(op: &str) -> bool {
    !matches!(op, "Cast" | "CastLike" | "Concat" | "Gather" | "Range" | "Slice" | "Split" | "Where")
        && !op.starts_with("Reduce")
}

/// Whether an operator computes: on floats that is the executor's.
fn computes(op: &str) -> bool {
    matches!(
        op,
        "Abs"
            | "Add"
            | "Div"
            | "Equal"
            | "Greater"
            | "GreaterOrEqual"
            | "Less"
            | "LessOrEqual"
            | "Max"
            | "Min"
            | "Mod"
            | "Mul"
            | "Neg"
            | "Pow"
            | "ReduceMax"
            | "ReduceMin"
            | "ReduceProd"
            | "ReduceSum"
            | "Sub"
            | "Sum"
    )
}

/// The outputs of a node whose inputs are all constants (`None`: left out), or `None` where it is no shape arithmetic. `opset`
/// is that of ONNX's own operators, `room` the bytes that a result may take.
pub(super) fn fold(
    node: &Node,
    inputs: &[Option<Rc<Tensor>>],
    opset: i64,
    room: u64,
) -> Result<Option<Vec<Rc<Tensor>>>, Problem> {
    let floats = || inputs.iter().flatten().any(|input| input.data.element() == Element::F32);
    if !is_foldable(&node.op) || computes(&node.op) && floats() {
        return Ok(None);
    }
    folded(node, inputs, opset, room).map(Some)
}

fn folded(node: &Node, inputs: &[Option<Rc<Tensor>>], opset: i64, room: u64) -> Result<Vec<Rc<Tensor>>, Problem> {
    let inputs = &if keeps_fills(&node.op) {
        inputs.to_vec()
    } else {
        let written = |input: &Rc<Tensor>| written_out(input, room);
        inputs.iter().map(|input| input.as_ref().map(written).transpose()).collect::<Result<Vec<_>, _>>()?
    };
    let input = |index: usize| -> Result<&Rc<Tensor>, Problem> {
        match inputs.get(index) {
            Some(Some(tensor)) => Ok(tensor),
            _ => invalid(format!("its input {index} is missing")),
        }
    };
    let optional = |index: usize| inputs.get(index).and_then(Option::as_ref);
    let one = |tensor: Tensor| Ok(vec![Rc::new(tensor)]);
    match node.op.as_str() {
        "Identity" | "Dropout" => Ok(vec![input(0)?.clone()]),
        "Constant" => one(constant(node)?),
        "Shape" => {
            let shape = input(0)?.shape.iter().map(|&size| Sym::from(size as i64)).collect();
            one(shape_of(node, shape)?)
        }
        "Size" => one(Tensor::ints(vec![], [Sym::from(input(0)?.len() as i64)])),
        "Cast" => one(cast(input(0)?, node.int("to", 1)?)?),
        "CastLike" => {
            let to = match input(1)?.data {
                Data::Float(_) | Data::Fill(_) => 1,
                Data::Int(_) => 7,
                Data::Bool(_) => 9,
            };
            one(cast(input(0)?, to)?)
        }
        "Abs" | "Neg" => one(size_or_negative(&node.op, input(0)?)?),
        "NonZero" => one(non_zero(input(0)?)?),
        "Not" => match &input(0)?.data {
            Data::Bool(values) => {
                one(Tensor::bools(input(0)?.shape.clone(), values.iter().map(|value| !value).collect::<Vec<_>>()))
            }
            _ => invalid("its input must be boolean"),
        },
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "Equal" | "Greater" | "GreaterOrEqual" | "Less"
        | "LessOrEqual" | "And" | "Or" | "Xor" => {
            let op = if node.op == "Mod" && node.int("fmod", 0)? != 0 { "Rem" } else { &node.op };
            one(binary(op, input(0)?, input(1)?, room)?)
        }
        "Max" | "Min" | "Sum" => {
            let pairwise = if node.op == "Sum" { "Add" } else { &node.op };
            let mut result = input(0)?.as_ref().clone();
            for index in 1..inputs.len() {
                result = binary(pairwise, &result, input(index)?, room)?;
            }
            one(result)
        }
        "Where" => one(select(input(0)?, input(1)?, input(2)?, room)?),
        "Reshape" => {
            let tensor = input(0)?;
            let target = match optional(1) {
                Some(target) => integers("shape", target)?,
                None => node.ints("shape")?.unwrap_or_default(),
            };
            let shape = reshape(&tensor.shape, &target, node.int("allowzero", 0)? != 0)?;
            one(tensor.reshaped(shape))
        }
        "Flatten" => {
            let tensor = input(0)?;
            let at = split_axis(node.int("axis", 1)?, tensor.shape.len())?;
            let (outer, inner) = tensor.shape.split_at(at);
            one(tensor.reshaped(vec![outer.iter().product(), inner.iter().product()]))
        }
        "Transpose" => {
            let tensor = input(0)?;
            let perms = perms(node, tensor.shape.len())?;
            one(tensor.transposed(&perms))
        }
        "Squeeze" => {
            let tensor = input(0)?;
            let given = list(node, "axes", optional(1))?;
            let dropped = match given {
                Some(given) => axes(&given, tensor.shape.len())?,
                None => (0..tensor.shape.len()).filter(|&axis| tensor.shape[axis] == 1).collect(),
            };
            if let Some(axis) = dropped.iter().find(|&&axis| tensor.shape[axis] != 1) {
                return invalid(format!("axis {axis} of shape {:?} is not 1", tensor.shape));
            }
            let shape =
                (0..tensor.shape.len()).filter(|axis| !dropped.contains(axis)).map(|axis| tensor.shape[axis]).collect();
            one(tensor.reshaped(shape))
        }
        "Unsqueeze" => {
            let tensor = input(0)?;
            let given = list(node, "axes", optional(1))?.unwrap_or_default();
            let added = axes(&given, tensor.shape.len() + given.len())?;
            let mut sizes = tensor.shape.iter();
            let shape = (0..tensor.shape.len() + given.len())
                .map(|axis| if added.contains(&axis) { 1 } else { sizes.next().copied().unwrap_or(1) })
                .collect();
            one(tensor.reshaped(shape))
        }
        "Concat" => {
            let tensors = (0..inputs.len()).map(|index| input(index).cloned()).collect::<Result<Vec<_>, _>>()?;
            one(concat(&tensors, node.int("axis", 0)?, room)?)
        }
        "Gather" => {
            let (tensor, indices) = (input(0)?, input(1)?);
            let axis = axis(node.int("axis", 0)?, tensor.shape.len())?;
            let indices_shape = indices.shape.clone();
            let indices = integers("indices", indices)?
                .into_iter()
                .map(|index| self::axis(index, tensor.shape[axis]))
                .collect::<Result<Vec<_>, _>>()?;
            let strides = strides(&tensor.shape);
            let outer = positions(&tensor.shape[..axis], &strides[..axis], 0);
            let inner = positions(&tensor.shape[axis + 1..], &strides[axis + 1..], 0);
            let count = outer.len().saturating_mul(indices.len()).saturating_mul(inner.len());
            bounded(count, tensor, room)?;
            let mut picked = Vec::new();
            for &outer in &outer {
                for &index in &indices {
                    picked.extend(inner.iter().map(|inner| outer + index * strides[axis] + inner));
                }
            }
            let shape = [&tensor.shape[..axis], &indices_shape, &tensor.shape[axis + 1..]].concat();
            one(tensor.gather(shape, &picked))
        }
        "Slice" => {
            let tensor = input(0)?;
            let ranges = slices(node, &tensor.shape, &|index| optional(index).cloned(), opset)?;
            let strides = strides(&tensor.shape);
            let mut picked = vec![0];
            for (range, stride) in ranges.iter().zip(&strides) {
                let indices: Vec<_> = range.indices().map(|index| index * stride).collect();
                picked = picked.iter().flat_map(|&at| indices.iter().map(move |index| at + index)).collect();
            }
            one(tensor.gather(ranges.iter().map(|range| range.count).collect(), &picked))
        }
        "Split" => {
            let tensor = input(0)?;
            let axis = axis(node.int("axis", 0)?, tensor.shape.len())?;
            let sizes = split_sizes(node, tensor.shape[axis], list(node, "split", optional(1))?)?;
            let strides = strides(&tensor.shape);
            let mut start = 0;
            let mut parts = Vec::with_capacity(sizes.len());
            for size in sizes {
                let mut shape = tensor.shape.clone();
                shape[axis] = size;
                let positions = positions(&shape, &strides, start * strides[axis]);
                parts.push(Rc::new(tensor.gather(shape, &positions)));
                start += size;
            }
            Ok(parts)
        }
        "Expand" => {
            let tensor = input(0)?;
            let target = sizes(&integers("shape", input(1)?)?)?;
            let Some(shape) = broadcast_shape(&tensor.shape, &target) else {
                return invalid(format!("cannot expand {:?} to {target:?}", tensor.shape));
            };
            one(spread(tensor, &shape, room)?)
        }
        "Tile" => {
            let tensor = input(0)?;
            let repeats = sizes(&integers("repeats", input(1)?)?)?;
            if repeats.len() != tensor.shape.len() {
                return invalid(format!("'repeats' has {} values for {} axes", repeats.len(), tensor.shape.len()));
            }
            // Repeating an axis is broadcasting a new axis before it.
            let apart: Vec<_> = tensor.shape.iter().flat_map(|&size| [1, size]).collect();
            let wide: Vec<_> = tensor.shape.iter().zip(&repeats).flat_map(|(&size, &times)| [times, size]).collect();
            let wide = spread(&tensor.reshaped(apart), &wide, room)?;
            let shape = tensor.shape.iter().zip(&repeats).map(|(size, times)| size * times).collect();
            one(wide.reshaped(shape))
        }
        "ConstantOfShape" => {
            let shape = sizes(&integers("shape", input(0)?)?)?;
            let value = match node.attributes.get("value") {
                Some(Attribute::Tensor(value)) if value.len() == 1 => value.reshaped(vec![]),
                Some(_) => return invalid("attribute 'value' must be a tensor with one element"),
                None => Tensor::floats(vec![], [0.0]),
            };
            one(spread(&value, &shape, room)?)
        }
        "Range" => {
            if let (Some(start), Some(limit), Some(step)) =
                (input(0)?.known_ints(), input(1)?.known_ints(), input(2)?.known_ints())
                && let (&[start], &[limit], &[step]) = (start.as_slice(), limit.as_slice(), step.as_slice())
                && step != 0
            {
                let span = i128::from(limit) - i128::from(start);
                let count = (span + i128::from(step) - i128::from(step.signum())) / i128::from(step);
                let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
                bounded(count, input(0)?, room)?;
                let values: Vec<_> =
                    (0..count as i64).map(|index| Sym::from(start.wrapping_add(index.wrapping_mul(step)))).collect();
                return one(Tensor::ints(vec![count], values));
            }
            if let (Data::Float(start), Data::Float(limit), Data::Float(step)) =
                (&input(0)?.data, &input(1)?.data, &input(2)?.data)
                && let (&[start], &[limit], &[step]) = (start.as_ref(), limit.as_ref(), step.as_ref())
                && step != 0.0
            {
                let count = ((f64::from(limit) - f64::from(start)) / f64::from(step)).ceil().max(0.0) as usize;
                bounded(count, input(0)?, room)?;
                let values: Vec<_> =
                    (0..count).map(|index| (f64::from(start) + index as f64 * f64::from(step)) as f32).collect();
                return one(Tensor::floats(vec![count], values));
            }
            unsupported("only ranges of known numbers are supported")
        }
        "ReduceSum" | "ReduceProd" | "ReduceMax" | "ReduceMin" => {
            let tensor = input(0)?;
            let given = list(node, "axes", optional(1))?.unwrap_or_default();
            if given.is_empty() && node.int("noop_with_empty_axes", 0)? != 0 {
                return Ok(vec![tensor.clone()]);
            }
            let reduced =
                if given.is_empty() { (0..tensor.shape.len()).collect() } else { axes(&given, tensor.shape.len())? };
            one(reduce(&node.op, tensor, &reduced, node.int("keepdims", 1)? != 0)?)
        }
        _ => Err(Problem::Unsupported(None)),
    }
}

/// The value of a Constant node.
fn constant(node: &Node) -> Result<Tensor, Problem> {
    let integers = |values: &[i64]| values.iter().copied().map(Sym::from).collect::<Vec<_>>();
    for (name, value) in &node.attributes {
        match (name.as_str(), value) {
            ("value", Attribute::Tensor(tensor)) => return Ok(tensor.as_ref().clone()),
            ("value_float", Attribute::Float(value)) => {
                return Ok(Tensor::floats(vec![], [*value]));
            }
            ("value_floats", Attribute::Floats(values)) => {
                return Ok(Tensor::floats(vec![values.len()], values.as_slice()));
            }
            ("value_int", Attribute::Int(value)) => {
                return Ok(Tensor::ints(vec![], integers(&[*value])));
            }
            ("value_ints", Attribute::Ints(values)) => {
                return Ok(Tensor::ints(vec![values.len()], integers(values)));
            }
            _ => {}
        }
    }
    unsupported("only tensors, floats and integers are supported as its value")
}

/// The result of Shape for a value of the given shape.
pub(super) fn shape_of(node: &Node, shape: Vec<Sym>) -> Result<Tensor, Problem> {
    let rank = shape.len() as i64;
    let bound = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
    let (start, end) = (bound(node.int("start", 0)?), bound(node.int("end", rank)?));
    let dims = shape.get(start..end).unwrap_or_default().to_vec();
    Ok(Tensor::ints(vec![dims.len()], dims))
}

/// Refuses a constant of more than `room` bytes: `count` elements such as `like` holds.
fn bounded(count: usize, like: &Tensor, room: u64) -> Result<(), Problem> {
    let width = match like.data {
        Data::Float(_) | Data::Fill(_) => size_of::<f32>(),
        Data::Int(_) => size_of::<Sym>(),
        // Most of what making them takes is the list of positions that they are gathered from.
        Data::Bool(_) => size_of::<usize>(),
    };
    let bytes = count.saturating_mul(width) as u64;
    if bytes > room { Err(Problem::TooLarge(bytes)) } else { Ok(()) }
}

fn bounded_shape(shape: &[usize], like: &Tensor, room: u64) -> Result<(), Problem> {
    bounded(count(shape), like, room)
}

/// The number of elements of a shape that a model asks for; far too many also where only an axis of size 0 makes them none,
/// since axes move.
fn count(shape: &[usize]) -> usize {
    let others = shape.iter().filter(|&&size| size != 0).try_fold(1usize, |count, &size| count.checked_mul(size));
    match others {
        Some(_) if shape.contains(&0) => 0,
        others => others.unwrap_or(usize::MAX),
    }
}

/// A tensor with a fill written out, if that takes no more than `room` bytes.
pub(super) fn written_out(tensor: &Rc<Tensor>, room: u64) -> Result<Rc<Tensor>, Problem> {
    match tensor.data {
        Data::Fill(_) => {
            bounded(tensor.len(), tensor, room)?;
            Ok(Rc::new(tensor.written_out()))
        }
        _ => Ok(tensor.clone()),
    }
}

/// A tensor broadcast to `shape`, to which it must broadcast; one float becomes a fill.
pub(super) fn spread(tensor: &Tensor, shape: &[usize], room: u64) -> Result<Tensor, Problem> {
    match tensor.repeated() {
        Some(value) if count(shape) < usize::MAX => Ok(Tensor::filled(shape.to_vec(), value)),
        _ => {
            bounded_shape(shape, tensor, room)?;
            Ok(tensor.broadcast(shape))
        }
    }
}

pub(super) fn sizes(values: &[i64]) -> Result<Vec<usize>, Problem> {
    let sizes: Option<Vec<_>> = values.iter().map(|&value| usize::try_from(value).ok()).collect();
    match sizes {
        Some(sizes) => Ok(sizes),
        None => invalid(format!("the sizes {values:?} must not be negative")),
    }
}

/// A list of integers given as an input (newer opsets) or as an attribute (older ones).
pub(super) fn list(node: &Node, name: &str, input: Option<&Rc<Tensor>>) -> Result<Option<Vec<i64>>, Problem> {
    match input {
        Some(tensor) => integers(name, tensor).map(Some),
        None => node.ints(name),
    }
}

/// Flatten's axis, which may equal the rank.
pub(super) fn split_axis(axis: i64, rank: usize) -> Result<usize, Problem> {
    let counted = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    match usize::try_from(counted) {
        Ok(counted) if counted <= rank => Ok(counted),
        _ => invalid(format!("axis {axis} is out of range for {rank} axes")),
    }
}

/// Transpose's permutation.
pub(super) fn perms(node: &Node, rank: usize) -> Result<Vec<usize>, Problem> {
    let Some(given) = node.ints("perm")? else {
        return Ok((0..rank).rev().collect());
    };
    let perms = axes(&given, rank)?;
    if perms.len() != rank {
        return invalid(format!("attribute 'perm' is {given:?}; its input has {rank} axes"));
    }
    Ok(perms)
}

/// The sizes of Split's parts.
pub(super) fn split_sizes(node: &Node, size: usize, given: Option<Vec<i64>>) -> Result<Vec<usize>, Problem> {
    if let Some(given) = given {
        let parts = sizes(&given)?;
        let total = parts.iter().try_fold(0usize, |total, &part| total.checked_add(part));
        if total != Some(size) || parts.len() < node.outputs.len() {
            return invalid(format!("the parts {given:?} do not make up an axis of size {size}"));
        }
        return Ok(parts);
    }
    let count = node.outputs.len();
    if count == 0 || size < count {
        return invalid(format!("an axis of size {size} cannot be split into {count} parts"));
    }
    // The last part is smaller where the size does not divide (opset 18).
    let part = size.div_ceil(count);
    let mut left = size;
    Ok((0..count)
        .map(|_| {
            let taken = part.min(left);
            left -= taken;
            taken
        })
        .collect())
}

/// The part of an axis that Slice takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub start: usize,
    pub step: i64,
    pub count: usize,
}

impl Range {
    pub fn indices(self) -> impl Iterator<Item = usize> {
        (0..self.count as i64).map(move |index| (self.start as i64 + index * self.step) as usize)
    }
}

/// The parts that Slice takes of every axis; axes of unknown size are given as `usize::MAX` and can only be taken whole.
pub(super) fn slices(
    node: &Node,
    shape: &[usize],
    input: &dyn Fn(usize) -> Option<Rc<Tensor>>,
    opset: i64,
) -> Result<Vec<Range>, Problem> {
    let mut ranges: Vec<_> = shape.iter().map(|&size| Range { start: 0, step: 1, count: size }).collect();
    let get = |name: &str, index: usize| -> Result<Option<Vec<i64>>, Problem> {
        if opset < 10 {
            return node.ints(name);
        }
        input(index).map(|tensor| integers(name, &tensor)).transpose()
    };
    let (Some(starts), Some(ends)) = (get("starts", 1)?, get("ends", 2)?) else {
        return invalid("'starts' and 'ends' must be given");
    };
    let axes = match get("axes", 3)? {
        Some(given) => axes(&given, shape.len())?,
        None => (0..starts.len()).collect(),
    };
    let steps = get("steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()].iter().any(|&len| len != starts.len()) || starts.len() > shape.len() {
        return invalid("'starts', 'ends', 'axes' and 'steps' do not have one value per axis");
    }
    for (index, &axis) in axes.iter().enumerate() {
        let size = i64::try_from(shape[axis]).unwrap_or(i64::MAX);
        let count_from_front = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
        let (start, end, step) = (count_from_front(starts[index]), count_from_front(ends[index]), steps[index]);
        let (start, span) = match step.cmp(&0) {
            Ordering::Greater => {
                let (start, end) = (start.clamp(0, size), end.clamp(0, size));
                (start, end - start)
            }
            Ordering::Less => {
                let (start, end) = (start.clamp(-1, size - 1), end.clamp(-1, size - 1));
                (start, start - end)
            }
            Ordering::Equal => return invalid("'steps' holds a zero"),
        };
        let count = span.max(0).unsigned_abs().div_ceil(step.unsigned_abs()) as usize;
        ranges[axis] = Range { start: start.max(0) as usize, step, count };
    }
    Ok(ranges)
}

/// A static Reshape.
fn reshape(shape: &[usize], target: &[i64], allow_zero: bool) -> Result<Vec<usize>, Problem> {
    let total: usize = shape.iter().product();
    let mut result = Vec::with_capacity(target.len());
    let mut inferred = None;
    for (index, &size) in target.iter().enumerate() {
        match size {
            0 if !allow_zero => match shape.get(index) {
                Some(&size) => result.push(size),
                None => return invalid(format!("cannot reshape {shape:?} to {target:?}")),
            },
            -1 if inferred.is_none() => {
                inferred = Some(index);
                result.push(1);
            }
            _ => match usize::try_from(size) {
                Ok(size) => result.push(size),
                Err(_) => return invalid(format!("cannot reshape {shape:?} to {target:?}")),
            },
        }
    }
    let known = result.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
    match (inferred, known) {
        (Some(index), Some(known)) if known > 0 && total.is_multiple_of(known) => result[index] = total / known,
        (None, Some(known)) if known == total => {}
        _ => return invalid(format!("cannot reshape {shape:?} to {target:?}")),
    }
    Ok(result)
}

/// Cast to one of ONNX's data types.
pub(super) fn cast(tensor: &Tensor, to: i64) -> Result<Tensor, Problem> {
    let shape = tensor.shape.clone();
    let mut cast = match (to, &tensor.data) {
        (1 | 10 | 11 | 16, Data::Float(_) | Data::Fill(_))
        | (2..=7 | 12 | 13 | 21 | 22, Data::Int(_))
        | (9, Data::Bool(_)) => tensor.clone(),
        (1 | 10 | 11 | 16, _) => match tensor.to_floats() {
            Some(values) => Tensor::floats(shape, values),
            None => {
                return unsupported("a number that depends on the batch size is used as a float");
            }
        },
        (_, Data::Fill(_)) => return cast(&tensor.written_out(), to),
        (2..=7 | 12 | 13 | 21 | 22, Data::Float(values)) => {
            Tensor::ints(shape, values.iter().map(|&value| Sym::from(value as i64)).collect::<Vec<_>>())
        }
        (2..=7 | 12 | 13 | 21 | 22, Data::Bool(values)) => {
            Tensor::ints(shape, values.iter().map(|&value| Sym::from(i64::from(value))).collect::<Vec<_>>())
        }
        (9, Data::Float(values)) => Tensor::bools(shape, values.iter().map(|&value| value != 0.0).collect::<Vec<_>>()),
        (9, Data::Int(values)) => {
            let values: Option<Vec<_>> = values.iter().map(|value| value.equals(0.into()).map(|zero| !zero)).collect();
            match values {
                Some(values) => Tensor::bools(shape, values),
                None => return unsupported("a condition depends on the batch size"),
            }
        }
        _ => return unsupported(format!("data type {to} is not supported")),
    };
    cast.narrow = i32::try_from(to).ok().filter(|_| matches!(cast.data, Data::Int(_)));
    Ok(cast)
}

/// Abs or Neg of integers.
fn size_or_negative(op: &str, tensor: &Tensor) -> Result<Tensor, Problem> {
    let Some(values) = tensor.syms() else {
        return invalid("its input must hold numbers");
    };
    let values: Option<Vec<_>> = values
        .iter()
        .map(|&value| if op == "Abs" && value.known()? >= 0 { Some(value) } else { Sym::from(0).sub(value) })
        .collect();
    match values {
        Some(values) => Ok(Tensor::ints(tensor.shape.clone(), values)),
        None => unsupported("its input depends on the batch size"),
    }
}

/// NonZero: the positions of the elements that are not 0, one a column.
fn non_zero(tensor: &Tensor) -> Result<Tensor, Problem> {
    let Some(values) = tensor.to_floats() else {
        return unsupported("its input depends on the batch size");
    };
    let found: Vec<usize> = (0..values.len()).filter(|&at| values[at] != 0.0).collect();
    let strides = strides(&tensor.shape);
    let index = |axis: usize, at: usize| Sym::from((at / strides[axis] % tensor.shape[axis]) as i64);
    let indices: Vec<Sym> = (0..tensor.shape.len())
        .flat_map(|axis| found.iter().map(move |&at| (axis, at)))
        .map(|(axis, at)| index(axis, at))
        .collect();
    Ok(Tensor::ints(vec![tensor.shape.len(), found.len()], indices))
}

fn binary(op: &str, a: &Tensor, b: &Tensor, room: u64) -> Result<Tensor, Problem> {
    let Some(shape) = broadcast_shape(&a.shape, &b.shape) else {
        return invalid(format!("its operands of shapes {:?} and {:?} do not broadcast", a.shape, b.shape));
    };
    bounded_shape(&shape, a, room)?;
    let at_a = positions(&shape, &broadcast_steps(&a.shape, &shape), 0);
    let at_b = positions(&shape, &broadcast_steps(&b.shape, &shape), 0);
    let pairs = at_a.iter().copied().zip(at_b.iter().copied());
    match (&a.data, &b.data) {
        (Data::Int(a), Data::Int(b)) => {
            let order =
                |wanted: &'static [Ordering]| move |a: Sym, b: Sym| a.compare(b).map(|order| wanted.contains(&order));
            type Compare = Box<dyn Fn(Sym, Sym) -> Option<bool>>;
            let comparison: Option<Compare> = match op {
                "Equal" => Some(Box::new(Sym::equals)),
                "Greater" => Some(Box::new(order(&[Ordering::Greater]))),
                "GreaterOrEqual" => Some(Box::new(order(&[Ordering::Greater, Ordering::Equal]))),
                "Less" => Some(Box::new(order(&[Ordering::Less]))),
                "LessOrEqual" => Some(Box::new(order(&[Ordering::Less, Ordering::Equal]))),
                _ => None,
            };
            let dependent = "it computes with the batch size in a way that mxc cannot follow";
            if let Some(compare) = comparison {
                let values: Option<Vec<_>> = pairs.map(|(i, j)| compare(a[i], b[j])).collect();
                return match values {
                    Some(values) => Ok(Tensor::bools(shape, values)),
                    None => unsupported(dependent),
                };
            }
            let function: fn(Sym, Sym) -> Option<Sym> = match op {
                "Add" => Sym::add,
                "Sub" => Sym::sub,
                "Mul" => Sym::mul,
                "Div" => Sym::div,
                // The remainder has the divisor's sign, that of `fmod` the dividend's.
                "Mod" => |a, b| {
                    let (a, b) = (a.known()?, b.known()?);
                    let rest = a.checked_rem(b)?;
                    Some(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }.into())
                },
                "Rem" => |a, b| Some(a.known()?.checked_rem(b.known()?)?.into()),
                "Pow" => |a, b| Some(a.known()?.checked_pow(u32::try_from(b.known()?).ok()?)?.into()),
                "Max" => |a, b| Some(if a.compare(b)? == Ordering::Less { b } else { a }),
                "Min" => |a, b| Some(if a.compare(b)? == Ordering::Greater { b } else { a }),
                _ => return invalid("its operands must be boolean"),
            };
            let values: Option<Vec<_>> = pairs.map(|(i, j)| function(a[i], b[j])).collect();
            match values {
                Some(values) => Ok(Tensor::ints(shape, values)),
                None => unsupported(dependent),
            }
        }
        (Data::Bool(a), Data::Bool(b)) => {
            let function: fn(bool, bool) -> bool = match op {
                "And" => |a, b| a && b,
                "Or" => |a, b| a || b,
                "Xor" => |a, b| a != b,
                "Equal" => |a, b| a == b,
                _ => return invalid("its operands must be numbers"),
            };
            Ok(Tensor::bools(shape, pairs.map(|(i, j)| function(a[i], b[j])).collect::<Vec<_>>()))
        }
        _ => invalid("its operands have different data types"),
    }
}

/// Where.
fn select(condition: &Tensor, a: &Tensor, b: &Tensor, room: u64) -> Result<Tensor, Problem> {
    let Data::Bool(conditions) = &condition.data else {
        return invalid("its condition must be boolean");
    };
    let shape = broadcast_shape(&a.shape, &b.shape).and_then(|shape| broadcast_shape(&shape, &condition.shape));
    let Some(shape) = shape else {
        return invalid("its operands do not broadcast");
    };
    bounded_shape(&shape, a, room)?;
    let steps = |from: &[usize]| positions(&shape, &broadcast_steps(from, &shape), 0);
    let (at_condition, at_a, at_b) = (steps(&condition.shape), steps(&a.shape), steps(&b.shape));
    let taken = at_condition.iter().map(|&index| conditions[index]).zip(at_a.into_iter().zip(at_b));
    Ok(match (&a.data, &b.data) {
        (Data::Float(a), Data::Float(b)) => {
            Tensor::floats(shape.clone(), taken.map(|(yes, (i, j))| if yes { a[i] } else { b[j] }).collect::<Vec<_>>())
        }
        (Data::Int(a), Data::Int(b)) => {
            Tensor::ints(shape.clone(), taken.map(|(yes, (i, j))| if yes { a[i] } else { b[j] }).collect::<Vec<_>>())
        }
        (Data::Bool(a), Data::Bool(b)) => {
            Tensor::bools(shape.clone(), taken.map(|(yes, (i, j))| if yes { a[i] } else { b[j] }).collect::<Vec<_>>())
        }
        _ => return invalid("its operands have different data types"),
    })
}

/// Concat.
fn concat(tensors: &[Rc<Tensor>], at: i64, room: u64) -> Result<Tensor, Problem> {
    let Some(first) = tensors.first() else {
        return invalid("it has no inputs");
    };
    let at = axis(at, first.shape.len())?;
    let mut shape = first.shape.clone();
    shape[at] = 0;
    for tensor in tensors {
        let fits = tensor.shape.len() == shape.len()
            && (0..shape.len()).all(|axis| axis == at || tensor.shape[axis] == shape[axis]);
        if !fits {
            return invalid(format!("shapes {:?} and {:?} do not concatenate", first.shape, tensor.shape));
        }
        shape[at] = shape[at].saturating_add(tensor.shape[at]);
    }
    bounded_shape(&shape, first, room)?;
    let outer: usize = shape[..at].iter().product();
    fn join<T: Copy>(parts: &[(&[T], usize)], outer: usize) -> Vec<T> {
        (0..outer)
            .flat_map(|index| {
                parts.iter().flat_map(move |(part, run)| part[index * run..(index + 1) * run].iter().copied())
            })
            .collect()
    }
    let run = |tensor: &Tensor| tensor.shape[at..].iter().product::<usize>();
    let mixed = || invalid("its inputs have different data types");
    Ok(match &first.data {
        Data::Float(_) | Data::Fill(_) => {
            let parts: Option<Vec<(&[f32], usize)>> = tensors
                .iter()
                .map(|tensor| match &tensor.data {
                    Data::Float(values) => Some((values.as_ref(), run(tensor))),
                    _ => None,
                })
                .collect();
            match parts {
                Some(parts) => Tensor::floats(shape, join(&parts, outer)),
                None => return mixed(),
            }
        }
        Data::Int(_) => {
            let parts: Option<Vec<(&[Sym], usize)>> =
                tensors.iter().map(|tensor| Some((tensor.syms()?, run(tensor)))).collect();
            match parts {
                Some(parts) => Tensor::ints(shape, join(&parts, outer)),
                None => return mixed(),
            }
        }
        Data::Bool(_) => {
            let parts: Option<Vec<(&[bool], usize)>> = tensors
                .iter()
                .map(|tensor| match &tensor.data {
                    Data::Bool(values) => Some((values.as_ref(), run(tensor))),
                    _ => None,
                })
                .collect();
            match parts {
                Some(parts) => Tensor::bools(shape, join(&parts, outer)),
                None => return mixed(),
            }
        }
    })
}

/// ReduceSum, ReduceProd, ReduceMax, ReduceMin.
fn reduce(op: &str, tensor: &Tensor, axes: &[usize], keep: bool) -> Result<Tensor, Problem> {
    let rank = tensor.shape.len();
    let kept: Vec<_> = (0..rank).filter(|axis| !axes.contains(axis)).collect();
    let strides = strides(&tensor.shape);
    let pick = |axes: &[usize], from: &[usize]| axes.iter().map(|&axis| from[axis]).collect::<Vec<_>>();
    let outer = positions(&pick(&kept, &tensor.shape), &pick(&kept, &strides), 0);
    let inner = positions(&pick(axes, &tensor.shape), &pick(axes, &strides), 0);
    let shape: Vec<_> = if keep {
        (0..rank).map(|axis| if axes.contains(&axis) { 1 } else { tensor.shape[axis] }).collect()
    } else {
        pick(&kept, &tensor.shape)
    };
    if inner.is_empty() {
        return unsupported("it reduces an empty axis");
    }
    let pairwise = match op {
        "ReduceSum" => "Add",
        "ReduceProd" => "Mul",
        "ReduceMax" => "Max",
        _ => "Min",
    };
    let part = |offset: usize| {
        let at: Vec<_> = outer.iter().map(|outer| outer + offset).collect();
        tensor.gather(shape.clone(), &at)
    };
    let mut result = part(inner[0]);
    for &offset in &inner[1..] {
        result = binary(pairwise, &result, &part(offset), tensor.bytes())?;
    }
    Ok(result)
}

/// A constant's values as shared floats, for weights.
pub(super) fn floats(name: &str, tensor: &Tensor) -> Result<Arc<[f32]>, Problem> {
    match &tensor.data {
        Data::Float(values) => Ok(values.clone()),
        Data::Fill(_) => Ok(tensor.to_floats().unwrap_or_default()),
        _ => invalid(format!("'{name}' must hold floats")),
    }
}
