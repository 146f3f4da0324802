//! Shape arithmetic: what exporters compute shapes with, on constants known at import time. Integers may depend on the batch
//! size, and what moves elements keeps fills as they are; everything else on constants is run by the executor
//! (`lower::execute`).

use super::{
    attributes::{axes, axis, integers},
    decode::{Attribute, Node},
    error::{Problem, invalid, unsupported},
    tensor::{Data, Element, Sym, Tensor, broadcast_shape, broadcast_steps, positions},
};
use mxc_runtime::kernels::layout::strides;
use std::{cmp::Ordering, rc::Rc, sync::Arc};

/// The arithmetic of an operator on constants: an entry of the families' tables (`lower::operators`).
#[derive(Clone, Copy)]
pub(super) struct Fold {
    function: fn(&Folding<'_>) -> Folded,
    /// Whether a fill among the inputs stays one, or the elements are looked at one by one.
    keeps_fills: bool,
    /// Whether it is for floats, too, or these are the executor's.
    on_floats: bool,
}

impl Fold {
    /// Of all types of elements; fills stay as they are.
    pub const fn new(function: fn(&Folding<'_>) -> Folded) -> Self {
        Self { function, keeps_fills: true, on_floats: true }
    }

    /// Fills among the inputs are written out.
    pub const fn of_elements(self) -> Self {
        Self { keeps_fills: false, ..self }
    }

    /// It computes: on floats that is the executor's.
    pub const fn not_on_floats(self) -> Self {
        Self { on_floats: false, ..self }
    }

    /// The outputs of a node whose inputs are all constants (`None`: left out), or `None` where it is no shape arithmetic. `opset`
    /// is that of ONNX's own operators, `room` the bytes that a result may take.
    pub fn apply(
        self,
        node: &Node,
        inputs: &[Option<Rc<Tensor>>],
        opset: i64,
        room: u64,
    ) -> Result<Option<Vec<Rc<Tensor>>>, Problem> {
        if !self.on_floats && inputs.iter().flatten().any(|input| input.data.element() == Element::F32) {
            return Ok(None);
        }
        let inputs = &if self.keeps_fills {
            inputs.to_vec()
        } else {
            let written = |input: &Rc<Tensor>| written_out(input, room);
            inputs.iter().map(|input| input.as_ref().map(written).transpose()).collect::<Result<Vec<_>, _>>()?
        };
        (self.function)(&Folding { node, inputs, opset, room }).map(Some)
    }
}

/// What folding a node makes.
pub(super) type Folded = Result<Vec<Rc<Tensor>>, Problem>;

/// A node to fold.
pub(super) struct Folding<'t> {
    node: &'t Node,
    /// `None` where one is left out.
    inputs: &'t [Option<Rc<Tensor>>],
    opset: i64,
    room: u64,
}

/// A tensor as a node's only result.
fn single(tensor: Tensor) -> Folded {
    Ok(vec![Rc::new(tensor)])
}

impl<'t> Folding<'t> {
    fn get(&self, index: usize) -> Result<&'t Rc<Tensor>, Problem> {
        self.optional(index).map_or_else(|| invalid(format!("its input {index} is missing")), Ok)
    }

    fn optional(&self, index: usize) -> Option<&'t Rc<Tensor>> {
        self.inputs.get(index).and_then(Option::as_ref)
    }

    /// A list of integers given as input 1 (newer opsets) or as an attribute (older ones).
    fn list(&self, name: &str) -> Result<Option<Vec<i64>>, Problem> {
        list(self.node, name, self.optional(1))
    }

    /// The first input.
    pub fn same(&self) -> Folded {
        Ok(vec![self.get(0)?.clone()])
    }

    /// Shape.
    pub fn shape(&self) -> Folded {
        let shape = self.get(0)?.shape.iter().map(|&size| Sym::from(size as i64)).collect();
        single(shape_of(self.node, shape)?)
    }

    /// Size.
    pub fn size(&self) -> Folded {
        single(Tensor::ints(vec![], [Sym::from(self.get(0)?.len() as i64)]))
    }

    /// Cast.
    pub fn cast(&self) -> Folded {
        single(cast(self.get(0)?, self.node.int("to", 1)?)?)
    }

    /// CastLike.
    pub fn cast_like(&self) -> Folded {
        let to = match self.get(1)?.data {
            Data::Float(_) | Data::Fill(_) => 1,
            Data::Int(_) => 7,
            Data::Bool(_) => 9,
        };
        single(cast(self.get(0)?, to)?)
    }

    /// A function of each integer.
    pub fn each(&self, function: fn(Sym) -> Option<Sym>) -> Folded {
        let tensor = self.get(0)?;
        let Some(values) = tensor.syms() else {
            return invalid("its input must hold numbers");
        };
        match values.iter().copied().map(function).collect::<Option<Vec<_>>>() {
            Some(values) => single(Tensor::ints(tensor.shape.clone(), values)),
            None => unsupported("its input depends on the batch size"),
        }
    }

    /// NonZero.
    pub fn non_zero(&self) -> Folded {
        single(non_zero(self.get(0)?)?)
    }

    /// Not.
    pub fn not(&self) -> Folded {
        match &self.get(0)?.data {
            Data::Bool(values) => {
                let negated = values.iter().map(|value| !value).collect::<Vec<_>>();
                single(Tensor::bools(self.get(0)?.shape.clone(), negated))
            }
            Data::Float(_) | Data::Fill(_) | Data::Int(_) => invalid("its input must be boolean"),
        }
    }

    /// A function of two operands.
    pub fn pair(&self, function: Pairing) -> Folded {
        single(binary(function, self.get(0)?, self.get(1)?, self.room)?)
    }

    /// Mod.
    pub fn modulo(&self) -> Folded {
        self.pair(if self.node.int("fmod", 0)? != 0 { REMAINDER } else { MODULO })
    }

    /// A function of two operands over any number of them.
    pub fn chain(&self, function: Pairing) -> Folded {
        let mut result = self.get(0)?.as_ref().clone();
        for index in 1..self.inputs.len() {
            result = binary(function, &result, self.get(index)?, self.room)?;
        }
        single(result)
    }

    /// A reduction by a function of two operands.
    pub fn reduce(&self, function: Pairing) -> Folded {
        let tensor = self.get(0)?;
        let given = self.list("axes")?.unwrap_or_default();
        if given.is_empty() && self.node.int("noop_with_empty_axes", 0)? != 0 {
            return Ok(vec![tensor.clone()]);
        }
        let reduced =
            if given.is_empty() { (0..tensor.shape.len()).collect() } else { axes(&given, tensor.shape.len())? };
        single(reduce(function, tensor, &reduced, self.node.int("keepdims", 1)? != 0)?)
    }

    /// Where.
    pub fn select(&self) -> Folded {
        single(select(self.get(0)?, self.get(1)?, self.get(2)?, self.room)?)
    }

    /// Reshape; newer opsets give the shape as an input.
    pub fn reshape(&self) -> Folded {
        let tensor = self.get(0)?;
        let target = match self.optional(1) {
            Some(target) => integers("shape", target)?,
            None => self.node.ints("shape")?.unwrap_or_default(),
        };
        let shape = reshape(&tensor.shape, &target, self.node.int("allowzero", 0)? != 0)?;
        single(tensor.reshaped(shape))
    }

    /// Flatten.
    pub fn flatten(&self) -> Folded {
        let tensor = self.get(0)?;
        let at = split_axis(self.node.int("axis", 1)?, tensor.shape.len())?;
        let (outer, inner) = tensor.shape.split_at(at);
        single(tensor.reshaped(vec![outer.iter().product(), inner.iter().product()]))
    }

    /// Squeeze.
    pub fn squeeze(&self) -> Folded {
        let tensor = self.get(0)?;
        let rank = tensor.shape.len();
        let dropped = match self.list("axes")? {
            Some(given) => axes(&given, rank)?,
            None => (0..rank).filter(|&axis| tensor.shape[axis] == 1).collect(),
        };
        if let Some(axis) = dropped.iter().find(|&&axis| tensor.shape[axis] != 1) {
            return invalid(format!("axis {axis} of shape {:?} is not 1", tensor.shape));
        }
        let kept = (0..rank).filter(|axis| !dropped.contains(axis)).map(|axis| tensor.shape[axis]).collect();
        single(tensor.reshaped(kept))
    }

    /// Unsqueeze.
    pub fn unsqueeze(&self) -> Folded {
        let tensor = self.get(0)?;
        let given = self.list("axes")?.unwrap_or_default();
        let rank = tensor.shape.len() + given.len();
        let added = axes(&given, rank)?;
        let mut sizes = tensor.shape.iter();
        let size = |axis: usize| if added.contains(&axis) { 1 } else { sizes.next().copied().unwrap_or(1) };
        single(tensor.reshaped((0..rank).map(size).collect()))
    }

    /// Transpose.
    pub fn transpose(&self) -> Folded {
        let tensor = self.get(0)?;
        single(tensor.transposed(&perms(self.node, tensor.shape.len())?))
    }

    /// Concat.
    pub fn concat(&self) -> Folded {
        let all: Vec<&Tensor> =
            (0..self.inputs.len()).map(|index| self.get(index).map(Rc::as_ref)).collect::<Result<_, _>>()?;
        single(concat(&all, self.node.int("axis", 0)?, self.room)?)
    }

    /// Expand.
    pub fn expand(&self) -> Folded {
        let tensor = self.get(0)?;
        let target = sizes(&integers("shape", self.get(1)?)?)?;
        let Some(shape) = broadcast_shape(&tensor.shape, &target) else {
            return invalid(format!("cannot expand {:?} to {target:?}", tensor.shape));
        };
        single(spread(tensor, &shape, self.room)?)
    }

    /// Tile.
    pub fn tile(&self) -> Folded {
        single(tile(self.get(0)?, &sizes(&integers("repeats", self.get(1)?)?)?, self.room)?)
    }

    /// Gather.
    pub fn gather(&self) -> Folded {
        single(gather(self)?)
    }

    /// Slice.
    pub fn slice(&self) -> Folded {
        single(slice(self)?)
    }

    /// Split: its parts.
    pub fn split(&self) -> Folded {
        split(self)
    }

    /// ConstantOfShape.
    pub fn constant_of_shape(&self) -> Folded {
        single(constant_of_shape(self)?)
    }

    /// Range.
    pub fn range(&self) -> Folded {
        single(range(self)?)
    }

    /// Constant.
    pub fn constant(&self) -> Folded {
        single(constant(self.node)?)
    }
}

/// A function of two operands: of integers, where it is `None` for what cannot be known before the batch size is, or of Booleans.
#[derive(Clone, Copy)]
pub(super) enum Pairing {
    Number(fn(Sym, Sym) -> Option<Sym>),
    Comparison(fn(Sym, Sym) -> Option<bool>),
    Logic(fn(bool, bool) -> bool),
    /// Whether they are equal: of both.
    Equality,
}

pub(super) const ADD: Pairing = Pairing::Number(Sym::add);
pub(super) const SUBTRACT: Pairing = Pairing::Number(Sym::sub);
pub(super) const MULTIPLY: Pairing = Pairing::Number(Sym::mul);
pub(super) const DIVIDE: Pairing = Pairing::Number(Sym::div);
/// The remainder with the divisor's sign.
const MODULO: Pairing = Pairing::Number(|a, b| {
    let (a, b) = (a.known()?, b.known()?);
    let rest = a.checked_rem(b)?;
    Some(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }.into())
});
/// The remainder with the dividend's sign.
const REMAINDER: Pairing = Pairing::Number(|a, b| Some(a.known()?.checked_rem(b.known()?)?.into()));
pub(super) const POWER: Pairing =
    Pairing::Number(|a, b| Some(a.known()?.checked_pow(u32::try_from(b.known()?).ok()?)?.into()));
pub(super) const MAXIMUM: Pairing = Pairing::Number(|a, b| Some(if a.compare(b)?.is_lt() { b } else { a }));
pub(super) const MINIMUM: Pairing = Pairing::Number(|a, b| Some(if a.compare(b)?.is_gt() { b } else { a }));
pub(super) const GREATER: Pairing = Pairing::Comparison(|a, b| a.compare(b).map(Ordering::is_gt));
pub(super) const GREATER_OR_EQUAL: Pairing = Pairing::Comparison(|a, b| a.compare(b).map(Ordering::is_ge));
pub(super) const LESS: Pairing = Pairing::Comparison(|a, b| a.compare(b).map(Ordering::is_lt));
pub(super) const LESS_OR_EQUAL: Pairing = Pairing::Comparison(|a, b| a.compare(b).map(Ordering::is_le));

/// Abs of an integer.
pub(super) fn size(value: Sym) -> Option<Sym> {
    if value.known()? >= 0 { Some(value) } else { negative(value) }
}

/// Neg of an integer.
pub(super) fn negative(value: Sym) -> Option<Sym> {
    Sym::from(0).sub(value)
}

/// Gather.
fn gather(folding: &Folding<'_>) -> Result<Tensor, Problem> {
    let (tensor, indices) = (folding.get(0)?, folding.get(1)?);
    let axis = axis(folding.node.int("axis", 0)?, tensor.shape.len())?;
    let indices_shape = indices.shape.clone();
    let indices = integers("indices", indices)?
        .into_iter()
        .map(|index| self::axis(index, tensor.shape[axis]))
        .collect::<Result<Vec<_>, _>>()?;
    let strides = strides(&tensor.shape);
    let outer = positions(&tensor.shape[..axis], &strides[..axis], 0);
    let inner = positions(&tensor.shape[axis + 1..], &strides[axis + 1..], 0);
    let count = outer.len().saturating_mul(indices.len()).saturating_mul(inner.len());
    bounded(count, tensor, folding.room)?;
    let mut picked = Vec::new();
    for &outer in &outer {
        for &index in &indices {
            picked.extend(inner.iter().map(|inner| outer + index * strides[axis] + inner));
        }
    }
    let shape = [&tensor.shape[..axis], &indices_shape, &tensor.shape[axis + 1..]].concat();
    Ok(tensor.gather(shape, &picked))
}

/// Slice.
fn slice(folding: &Folding<'_>) -> Result<Tensor, Problem> {
    let tensor = folding.get(0)?;
    let input = |index: usize| folding.optional(index).cloned();
    let ranges = slices(folding.node, &tensor.shape, &input, folding.opset)?;
    let strides = strides(&tensor.shape);
    let mut picked = vec![0];
    for (range, stride) in ranges.iter().zip(&strides) {
        let indices: Vec<_> = range.indices().map(|index| index * stride).collect();
        picked = picked.iter().flat_map(|&at| indices.iter().map(move |index| at + index)).collect();
    }
    Ok(tensor.gather(ranges.iter().map(|range| range.count).collect(), &picked))
}

/// Split: its parts.
fn split(folding: &Folding<'_>) -> Folded {
    let tensor = folding.get(0)?;
    let axis = axis(folding.node.int("axis", 0)?, tensor.shape.len())?;
    let sizes = split_sizes(folding.node, tensor.shape[axis], folding.list("split")?)?;
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

/// Tile.
fn tile(tensor: &Tensor, repeats: &[usize], room: u64) -> Result<Tensor, Problem> {
    if repeats.len() != tensor.shape.len() {
        return invalid(format!("'repeats' has {} values for {} axes", repeats.len(), tensor.shape.len()));
    }
    // Repeating an axis is broadcasting a new axis before it.
    let apart: Vec<_> = tensor.shape.iter().flat_map(|&size| [1, size]).collect();
    let wide: Vec<_> = tensor.shape.iter().zip(repeats).flat_map(|(&size, &times)| [times, size]).collect();
    let wide = spread(&tensor.reshaped(apart), &wide, room)?;
    let shape = tensor.shape.iter().zip(repeats).map(|(size, times)| size * times).collect();
    Ok(wide.reshaped(shape))
}

/// ConstantOfShape.
fn constant_of_shape(folding: &Folding<'_>) -> Result<Tensor, Problem> {
    let shape = sizes(&integers("shape", folding.get(0)?)?)?;
    let value = match folding.node.attributes.get("value") {
        Some(Attribute::Tensor(value)) if value.len() == 1 => value.reshaped(vec![]),
        Some(_) => return invalid("attribute 'value' must be a tensor with one element"),
        None => Tensor::floats(vec![], [0.0]),
    };
    spread(&value, &shape, folding.room)
}

/// Range.
fn range(folding: &Folding<'_>) -> Result<Tensor, Problem> {
    let (start, limit, step) = (folding.get(0)?, folding.get(1)?, folding.get(2)?);
    let room = folding.room;
    let like = start;
    if let (Some(start), Some(limit), Some(step)) = (start.known_ints(), limit.known_ints(), step.known_ints())
        && let (&[start], &[limit], &[step]) = (start.as_slice(), limit.as_slice(), step.as_slice())
        && step != 0
    {
        let span = i128::from(limit) - i128::from(start);
        let count = (span + i128::from(step) - i128::from(step.signum())) / i128::from(step);
        let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
        bounded(count, like, room)?;
        let values: Vec<_> =
            (0..count as i64).map(|index| Sym::from(start.wrapping_add(index.wrapping_mul(step)))).collect();
        return Ok(Tensor::ints(vec![count], values));
    }
    if let (Data::Float(start), Data::Float(limit), Data::Float(step)) = (&start.data, &limit.data, &step.data)
        && let (&[start], &[limit], &[step]) = (start.as_ref(), limit.as_ref(), step.as_ref())
        && step != 0.0
    {
        let count = ((f64::from(limit) - f64::from(start)) / f64::from(step)).ceil().max(0.0) as usize;
        bounded(count, like, room)?;
        let values: Vec<_> =
            (0..count).map(|index| (f64::from(start) + index as f64 * f64::from(step)) as f32).collect();
        return Ok(Tensor::floats(vec![count], values));
    }
    unsupported("only ranges of known numbers are supported")
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

/// A function of two operands that broadcast.
fn binary(function: Pairing, a: &Tensor, b: &Tensor, room: u64) -> Result<Tensor, Problem> {
    let Some(shape) = broadcast_shape(&a.shape, &b.shape) else {
        return invalid(format!("its operands of shapes {:?} and {:?} do not broadcast", a.shape, b.shape));
    };
    bounded_shape(&shape, a, room)?;
    let at_a = positions(&shape, &broadcast_steps(&a.shape, &shape), 0);
    let at_b = positions(&shape, &broadcast_steps(&b.shape, &shape), 0);
    let pairs = at_a.iter().copied().zip(at_b.iter().copied());
    match (&a.data, &b.data) {
        (Data::Int(a), Data::Int(b)) => {
            let compared = |function: fn(Sym, Sym) -> Option<bool>| {
                let values: Option<Vec<_>> = pairs.clone().map(|(i, j)| function(a[i], b[j])).collect();
                values.map(|values| Tensor::bools(shape.clone(), values))
            };
            let result = match function {
                Pairing::Number(function) => {
                    let values: Option<Vec<_>> = pairs.map(|(i, j)| function(a[i], b[j])).collect();
                    values.map(|values| Tensor::ints(shape, values))
                }
                Pairing::Comparison(function) => compared(function),
                Pairing::Equality => compared(Sym::equals),
                Pairing::Logic(_) => return invalid("its operands must be boolean"),
            };
            let dependent = "it computes with the batch size in a way that mxc cannot follow";
            result.map_or_else(|| unsupported(dependent), Ok)
        }
        (Data::Bool(a), Data::Bool(b)) => {
            let function = match function {
                Pairing::Logic(function) => function,
                Pairing::Equality => |a, b| a == b,
                Pairing::Number(_) | Pairing::Comparison(_) => return invalid("its operands must be numbers"),
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
fn concat(tensors: &[&Tensor], at: i64, room: u64) -> Result<Tensor, Problem> {
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
    /// The tensors' values joined; `None` where one has values of another type.
    fn join<T: Copy>(
        tensors: &[&Tensor],
        at: usize,
        outer: usize,
        values: impl Fn(&Tensor) -> Option<&[T]>,
    ) -> Option<Vec<T>> {
        let run = |tensor: &Tensor| tensor.shape[at..].iter().product::<usize>();
        let parts: Vec<(&[T], usize)> =
            tensors.iter().map(|tensor| Some((values(tensor)?, run(tensor)))).collect::<Option<_>>()?;
        let runs = |index: usize| {
            parts.iter().flat_map(move |(part, run)| part[index * run..(index + 1) * run].iter().copied())
        };
        Some((0..outer).flat_map(runs).collect())
    }
    let joined = match &first.data {
        Data::Float(_) | Data::Fill(_) => join(tensors, at, outer, |tensor| match &tensor.data {
            Data::Float(values) => Some(values),
            Data::Fill(_) | Data::Int(_) | Data::Bool(_) => None,
        })
        .map(|values| Tensor::floats(shape, values)),
        Data::Int(_) => join(tensors, at, outer, Tensor::syms).map(|values| Tensor::ints(shape, values)),
        Data::Bool(_) => join(tensors, at, outer, |tensor| match &tensor.data {
            Data::Bool(values) => Some(values),
            Data::Float(_) | Data::Fill(_) | Data::Int(_) => None,
        })
        .map(|values| Tensor::bools(shape, values)),
    };
    joined.map_or_else(|| invalid("its inputs have different data types"), Ok)
}

/// A reduction by a function of two operands.
fn reduce(function: Pairing, tensor: &Tensor, axes: &[usize], keep: bool) -> Result<Tensor, Problem> {
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
    let part = |offset: usize| {
        let at: Vec<_> = outer.iter().map(|outer| outer + offset).collect();
        tensor.gather(shape.clone(), &at)
    };
    let mut result = part(inner[0]);
    for &offset in &inner[1..] {
        result = binary(function, &result, &part(offset), tensor.bytes())?;
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
