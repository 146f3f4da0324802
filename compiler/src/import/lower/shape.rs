//! Operators that move elements without computing on them. Transpose costs nothing here: an activation only notes in
//! which order its axes are stored.

use super::call::{Call, Entry, Lowering, Operator, Results, one, syms};
use crate::import::{
    attributes::{axes, axis, integers},
    emit::{Activation, check_picked, logical},
    error::{Problem, invalid, unsupported},
    fold::{self, Fold, perms, shape_of, slices, split_axis, split_sizes},
    tensor::{Data, Dim, Element, Sym, Tensor, broadcast_shape, element_count, show},
};
use mxc_dialects::tosa::{Concat, Custom};
use std::rc::Rc;

/// The operators of this file.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Concat", |lowering, call| lowering.concat(call))
        .on_integers()
        .moving()
        .folding(Fold::new(|folding| folding.concat()).of_elements()),
    Operator::new("Constant", |lowering, call| lowering.known_only(call))
        .folding(Fold::new(|folding| folding.constant())),
    Operator::new("ConstantOfShape", |lowering, call| lowering.batched(call, 0))
        .folding(Fold::new(|folding| folding.constant_of_shape()))
        .with_shape(0),
    Operator::new("Dropout", |lowering, call| lowering.dropout(call))
        .on_integers()
        .moving()
        .folding(Fold::new(|folding| folding.same())),
    Operator::new("Expand", |lowering, call| lowering.expand(call))
        .on_integers()
        .moving()
        .folding(Fold::new(|folding| folding.expand()))
        .with_shape(1),
    Operator::new("Flatten", |lowering, call| lowering.flatten(call))
        .on_integers()
        .moving()
        .folding(Fold::new(|folding| folding.flatten())),
    Operator::new("Gather", |lowering, call| lowering.gather(call))
        .on_integers()
        .moving()
        .folding(Fold::new(|folding| folding.gather()).of_elements()),
    Operator::new("Identity", |lowering, call| lowering.identity(call))
        .on_integers()
        .moving()
        .folding(Fold::new(|folding| folding.same())),
    Operator::new("Pad", |lowering, call| lowering.pad(call)).on_integers().moving(),
    Operator::new("Range", |lowering, call| lowering.known_only(call))
        .folding(Fold::new(|folding| folding.range()).of_elements()),
    Operator::new("Reshape", |lowering, call| lowering.reshape(call))
        .on_integers()
        .moving()
        .folding(Fold::new(|folding| folding.reshape())),
    Operator::new("Shape", |lowering, call| lowering.shape(call))
        .on_integers()
        .folding(Fold::new(|folding| folding.shape())),
    Operator::new("Size", |lowering, call| lowering.size(call))
        .on_integers()
        .folding(Fold::new(|folding| folding.size())),
    Operator::new("Slice", |lowering, call| lowering.slice(call))
        .on_integers()
        .moving()
        .folding(Fold::new(|folding| folding.slice()).of_elements()),
    Operator::new("Split", |lowering, call| lowering.split(call))
        .on_integers()
        .moving()
        .folding(Fold::new(|folding| folding.split()).of_elements()),
    Operator::new("Squeeze", |lowering, call| lowering.squeezed(call))
        .on_integers()
        .moving()
        .folding(Fold::new(|folding| folding.squeeze())),
    Operator::new("Tile", |lowering, call| lowering.tile(call))
        .on_integers()
        .moving()
        .folding(Fold::new(|folding| folding.tile())),
    Operator::new("Transpose", |lowering, call| lowering.transpose(call))
        .on_integers()
        .moving()
        .folding(Fold::new(|folding| folding.transpose())),
    Operator::new("Unsqueeze", |lowering, call| lowering.unsqueezed(call))
        .on_integers()
        .moving()
        .folding(Fold::new(|folding| folding.unsqueeze())),
];

/// Whether a node on constants makes a constant for every sample of the batch, which cannot be folded: its shape has the batch as
/// one of its axes.
pub(super) fn is_batched(operator: &Operator, inputs: &[Option<Rc<Tensor>>]) -> bool {
    let shape = operator.shape.and_then(|index| inputs.get(index));
    shape.and_then(Option::as_ref).and_then(|shape| shape.syms()).is_some_and(|syms| batch_axis(syms).is_some())
}

/// The only axis of a shape that is the batch.
fn batch_axis(shape: &[Sym]) -> Option<usize> {
    let mut axes = shape.iter().enumerate().filter(|(_, size)| size.known().is_none());
    let (axis, size) = axes.next()?;
    (*size == Sym { constant: 0, batch: 1 } && axes.next().is_none()).then_some(axis)
}

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// What can only be folded.
    fn known_only(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        call.activation(0)?;
        unsupported("it depends on the model's inputs")
    }

    /// Identity.
    fn identity(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        one(call.activation(0)?.clone())
    }

    /// Dropout: its input, and a mask that keeps everything.
    fn dropout(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let input = call.activation(0)?;
        let trains = call.optional_constant(2)?.and_then(|mode| mode.scalar()).is_some_and(|mode| mode != 0.0);
        if trains {
            return unsupported("training_mode; export the model in evaluation mode");
        }
        let mut results = vec![Entry::Activation(input.clone())];
        // Everything is kept.
        if let Some(shape) = input.shape.iter().map(|dim| dim.fixed()).collect::<Option<Vec<_>>>()
            && call.node.outputs.len() > 1
        {
            let mask = vec![true; shape.iter().product()];
            results.push(Entry::Constant(Rc::new(Tensor::bools(shape, mask))));
        }
        Ok(results)
    }

    /// Shape.
    fn shape(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        Ok(vec![Entry::Constant(Rc::new(shape_of(call.node, syms(&call.activation(0)?.shape))?))])
    }

    /// Size.
    fn size(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        match element_count(&call.activation(0)?.shape) {
            Some((count, power @ (0 | 1))) => {
                let dim = if power == 0 { Dim::Fixed(count) } else { Dim::Batch(count) };
                Ok(vec![Entry::Constant(Rc::new(Tensor::ints(vec![], [Sym::from(dim)])))])
            }
            _ => unsupported("the shape of its input depends on the batch in two axes"),
        }
    }

    /// Reshape.
    fn reshape(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let input = call.activation(0)?;
        let target: Vec<Sym> = match call.optional_constant(1)? {
            Some(target) => match &target.data {
                Data::Int(target) => target.to_vec(),
                _ => return invalid(format!("'{}' must hold integers", node.input(1))),
            },
            None => node.ints("shape")?.unwrap_or_default().into_iter().map(Sym::from).collect(),
        };
        let shape = self.reshaped(&input.shape, &target, node.int("allowzero", 0)? != 0)?;
        one(self.emit.reshape(input, &shape)?)
    }

    /// Transpose.
    fn transpose(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let input = call.activation(0)?;
        let perms = perms(call.node, input.rank())?;
        one(self.permuted(input, &perms))
    }

    /// Gather.
    fn gather(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        match call.entry(1)? {
            Entry::Activation(indices) => {
                let data = self.value(call, 0, None)?;
                one(self.gather_at(&data, axis(call.node.int("axis", 0)?, data.rank())?, indices)?)
            }
            Entry::Constant(_) | Entry::Unknown => self.pick(call),
        }
    }

    /// Tile.
    fn tile(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let input = call.activation(0)?;
        let node = call.node;
        let rank = input.rank();
        let repeats = crate::import::fold::sizes(&integers(node.input(1), call.constant(1)?)?)?;
        if repeats.len() != rank {
            return invalid(format!("'repeats' has {} values for {rank} axes", repeats.len()));
        }
        let mut shape = input.shape.clone();
        for (dim, &times) in shape.iter_mut().zip(&repeats) {
            match dim {
                Dim::Fixed(size) => *size = size.saturating_mul(times),
                Dim::Batch(_) if times == 1 => {}
                Dim::Batch(_) => return unsupported("it repeats the batch"),
            }
        }
        if repeats.contains(&0) {
            return unsupported("it would make an empty tensor");
        }
        one(self.emit.tile(input, &repeats, shape)?)
    }

    /// Flatten.
    fn flatten(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let input = call.activation(0)?;
        let node = call.node;
        let rank = input.rank();
        let at = split_axis(node.int("axis", 1)?, rank)?;
        let merge = |dims: &[Dim]| match element_count(dims) {
            Some((count, 0)) => Ok(Dim::Fixed(count)),
            Some((count, 1)) => Ok(Dim::Batch(count)),
            _ => unsupported("the shape of its input depends on the batch in two axes"),
        };
        let shape = [merge(&input.shape[..at])?, merge(&input.shape[at..])?];
        one(self.emit.reshape(input, &shape)?)
    }

    /// Squeeze.
    fn squeezed(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let input = call.activation(0)?;
        let rank = input.rank();
        let dropped = match call.list("axes", 1)? {
            Some(given) => axes(&given, rank)?,
            // The batch of a file that fixes it to 1 is such an axis: the network has none.
            None if self.fixed_batch == Some(1) && input.has_batch() => {
                return unsupported("it drops the batch axis, whose size the file fixes to 1");
            }
            None => (0..rank).filter(|&axis| input.shape[axis].is_one()).collect(),
        };
        if let Some(axis) = dropped.iter().find(|&&axis| !input.shape[axis].is_one()) {
            return invalid(format!("axis {axis} of shape {} is not 1", show(&input.shape)));
        }
        one(self.squeeze(input, &dropped)?)
    }

    /// Unsqueeze.
    fn unsqueezed(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let input = call.activation(0)?;
        let rank = input.rank();
        let given = call.list("axes", 1)?.unwrap_or_default();
        let added = axes(&given, rank + given.len())?;
        let mut dims = input.shape.iter();
        let shape: Vec<_> = (0..rank + added.len())
            .map(
                |axis| {
                    if added.contains(&axis) { Dim::Fixed(1) } else { dims.next().copied().unwrap_or(Dim::Fixed(1)) }
                },
            )
            .collect();
        one(self.emit.reshape(input, &shape)?)
    }

    /// Split: its parts.
    fn split(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let input = call.activation(0)?;
        let node = call.node;
        let rank = input.rank();
        let axis = axis(node.int("axis", 0)?, rank)?;
        let Some(size) = input.shape[axis].fixed() else {
            return unsupported("it splits the batch");
        };
        let sizes = split_sizes(node, size, call.list("split", 1)?)?;
        let mut start = vec![0; rank];
        let mut parts = Vec::with_capacity(sizes.len());
        for size in sizes {
            let mut shape = input.shape.clone();
            shape[axis] = Dim::Fixed(size);
            if size == 0
                && let Some(shape) = shape.iter().map(|dim| dim.fixed()).collect::<Option<Vec<_>>>()
            {
                // Nothing, which no graph value can hold, is known.
                parts.push(Entry::Constant(Rc::new(Tensor::floats(shape, []))));
                continue;
            }
            parts.push(Entry::Activation(self.emit.slice(input, &start, &shape)?));
            start[axis] += size;
        }
        Ok(parts)
    }

    /// Slice.
    fn slice(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let input = call.activation(0)?;
        let node = call.node;
        let rank = input.rank();
        // An axis that depends on the batch counts as endless.
        let sizes: Vec<_> = input.shape.iter().map(|dim| dim.fixed().unwrap_or(usize::MAX)).collect();
        for index in 1..call.inputs.len() {
            call.optional_constant(index)?;
        }
        let constant = |index: usize| call.optional_constant(index).ok().flatten().cloned();
        let ranges = slices(node, &sizes, &constant, call.opset)?;
        let mut result = input.clone();
        for (axis, range) in ranges.iter().enumerate().filter(|(_, range)| range.step != 1) {
            if input.shape[axis].fixed().is_some() && range.count != 1 {
                check_picked(range.count)?;
                result = self.emit.take(&result, axis, &range.indices().collect::<Vec<_>>())?;
            }
        }
        let mut shape = result.shape.clone();
        let mut start = vec![0; rank];
        for ((axis, dim), range) in shape.iter_mut().enumerate().zip(&ranges) {
            let whole = range.start == 0 && range.step == 1 && range.count >= i64::MAX as usize;
            match dim {
                Dim::Batch(_) if whole => {}
                Dim::Batch(_) => return unsupported("it takes a part of the batch"),
                // Taken above.
                Dim::Fixed(_) if range.step != 1 && range.count != 1 => {}
                Dim::Fixed(size) => (*size, start[axis]) = (range.count, range.start),
            }
        }
        one(self.emit.slice(&result, &start, &shape)?)
    }

    /// Gather, of indices that are known.
    fn pick(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let input = call.activation(0)?;
        let node = call.node;
        let rank = input.rank();
        let axis = axis(node.int("axis", 0)?, rank)?;
        let indices = call.constant(1)?;
        let Some(size) = input.shape[axis].fixed() else {
            return unsupported("it picks samples out of the batch");
        };
        let numbers = integers(node.input(1), indices)?;
        let &[index] = numbers.as_slice() else {
            let numbers: Vec<_> = numbers.into_iter().map(|index| self::axis(index, size)).collect::<Result<_, _>>()?;
            let taken = self.emit.take(input, axis, &numbers)?;
            if indices.shape.len() == 1 {
                return one(taken);
            }
            let inner: Vec<_> = indices.shape.iter().map(|&size| Dim::Fixed(size)).collect();
            let shape = [&input.shape[..axis], &inner, &input.shape[axis + 1..]].concat();
            return one(self.emit.reshape(&taken, &shape)?);
        };
        let mut start = vec![0; rank];
        start[axis] = self::axis(index, size)?;
        let mut shape = input.shape.clone();
        shape[axis] = Dim::Fixed(1);
        let picked = self.emit.slice(input, &start, &shape)?;
        if indices.shape.is_empty() {
            return one(self.squeeze(&picked, &[axis])?);
        }
        let lead = vec![Dim::Fixed(1); indices.shape.len()];
        let shape = [&input.shape[..axis], &lead, &input.shape[axis + 1..]].concat();
        one(self.emit.reshape(&picked, &shape)?)
    }

    /// An activation with its logical axes permuted: logical axis `i` of the result is `perms[i]` of the input.
    pub(super) fn permuted(&mut self, input: &Activation<'c, 'a>, perms: &[usize]) -> Activation<'c, 'a> {
        let to = |axis: usize| perms.iter().position(|&from| from == axis).unwrap_or(axis);
        Activation {
            value: input.value,
            shape: perms.iter().map(|&axis| input.shape[axis]).collect(),
            order: input.order.iter().map(|&axis| to(axis)).collect(),
        }
    }

    /// Drops logical axes of size 1 without moving the others in storage.
    pub(super) fn squeeze(
        &mut self,
        input: &Activation<'c, 'a>,
        axes: &[usize],
    ) -> Result<Activation<'c, 'a>, Problem> {
        let renumbered = |axis: usize| axis - axes.iter().filter(|&&dropped| dropped < axis).count();
        let order = input.order.iter().filter(|axis| !axes.contains(axis)).map(|&axis| renumbered(axis)).collect();
        let shape = (0..input.rank()).filter(|axis| !axes.contains(axis)).map(|axis| input.shape[axis]).collect();
        let mut squeezed = Activation { value: input.value, shape, order };
        squeezed.value = self.emit.reshape_raw(input.value, &input.physical(), &squeezed.physical())?;
        Ok(squeezed)
    }

    /// The shape that Reshape makes of `shape`.
    fn reshaped(&self, shape: &[Dim], target: &[Sym], allow_zero: bool) -> Result<Vec<Dim>, Problem> {
        let attempt = |target: &[Sym]| -> Option<Vec<Dim>> {
            let mut dims = Vec::with_capacity(target.len());
            let mut inferred = None;
            for (index, &size) in target.iter().enumerate() {
                dims.push(match (size.constant, size.batch) {
                    (0, 0) if !allow_zero => *shape.get(index)?,
                    (-1, 0) if inferred.is_none() => {
                        inferred = Some(index);
                        Dim::Fixed(1)
                    }
                    (size, 0) => Dim::Fixed(usize::try_from(size).ok()?),
                    (0, factor) => Dim::Batch(usize::try_from(factor).ok()?),
                    _ => return None,
                });
            }
            let (total, power) = element_count(shape)?;
            let (known, known_power) = element_count(&dims)?;
            match inferred {
                Some(index) => {
                    let rest = total.checked_div(known).filter(|_| total % known == 0)?;
                    dims[index] = match power.checked_sub(known_power)? {
                        0 => Dim::Fixed(rest),
                        1 => Dim::Batch(rest),
                        _ => return None,
                    };
                }
                None if (total, power) != (known, known_power) => return None,
                None => {}
            }
            Some(dims)
        };
        // In a model exported with a fixed batch size, that number in front stands for the batch.
        if let (Some(batch), Some(first), Some(Dim::Batch(1))) = (self.fixed_batch, target.first(), shape.first())
            && first.known() == Some(batch)
        {
            let mut dynamic = target.to_vec();
            dynamic[0] = Sym { constant: 0, batch: 1 };
            if let Some(dims) = attempt(&dynamic) {
                return Ok(dims);
            }
        }
        attempt(target).map_or_else(
            || {
                let target: Vec<_> = target
                    .iter()
                    .map(|size| match (size.constant, size.batch) {
                        (constant, 0) => constant.to_string(),
                        (0, 1) => "N".to_owned(),
                        (constant, batch) => format!("{constant} + {batch}·N"),
                    })
                    .collect();
                invalid(format!("cannot reshape {} to [{}]", show(shape), target.join(", ")))
            },
            Ok,
        )
    }

    fn concat(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let Some(first) = call.inputs.iter().flatten().find_map(|entry| match entry {
            Entry::Activation(activation) => Some(activation),
            _ => None,
        }) else {
            return unsupported("its inputs are constants");
        };
        let axis = axis(node.int("axis", 0)?, first.rank())?;
        if first.shape[axis].fixed().is_none() {
            return unsupported("it joins along the batch");
        }
        let (order, element) = (first.order.clone(), first.element());
        let mut shape = first.shape.clone();
        shape[axis] = Dim::Fixed(0);
        let mut values = Vec::with_capacity(call.inputs.len());
        for index in 0..call.inputs.len() {
            let part = match call.entry(index)? {
                Entry::Constant(tensor) if tensor.len() == 0 => continue,
                Entry::Activation(activation) => activation.clone(),
                Entry::Constant(tensor) => self.materialized(node.input(index), tensor, Some(element))?,
                Entry::Unknown => return Ok(vec![Entry::Unknown]),
            };
            let fits = part.rank() == shape.len()
                && (0..shape.len()).all(|each| each == axis || part.shape[each] == shape[each]);
            let (true, Dim::Fixed(total), Dim::Fixed(size)) =
                (fits, shape[axis], part.shape.get(axis).copied().unwrap_or(Dim::Batch(1)))
            else {
                return invalid(format!(
                    "its inputs '{}' of shape {} and '{}' of shape {} do not concatenate along axis {axis}",
                    node.input(0),
                    show(&first.shape),
                    node.input(index),
                    show(&part.shape)
                ));
            };
            shape[axis] = Dim::Fixed(total.saturating_add(size));
            values.push(self.emit.in_order(&part, &order)?.value);
        }
        let mut result = Activation { value: values[0], shape, order };
        if values.len() > 1 {
            let r#type = self.emit.like(values[0], &result.physical())?;
            let axis = result.position(axis) as i32;
            result.value = self.emit.append(Concat { inputs: values, axis, result: r#type })?;
        }
        one(result)
    }

    /// A constant as a value of the graph, of a type of elements or its own.
    pub fn materialized(
        &mut self,
        name: &str,
        tensor: &Tensor,
        element: Option<Element>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let cannot = || unsupported(format!("'{name}' depends on the batch size or is empty"));
        if tensor.len() == 0 {
            return cannot();
        }
        let element = element.unwrap_or_else(|| tensor.data.element());
        let value = match element {
            Element::F32 if tensor.data.element() == Element::F32 => self.emit.constant_or_weight(name, tensor)?,
            Element::F32 => match tensor.to_floats() {
                Some(values) => self.emit.constant_or_weight(name, &Tensor::floats(tensor.shape.clone(), values))?,
                None => return cannot(),
            },
            element => match tensor.integers() {
                Some(values) => self.emit.integer_constant(&tensor.shape, &values, element)?,
                None => return cannot(),
            },
        };
        Ok(Activation {
            value,
            shape: tensor.shape.iter().map(|&size| Dim::Fixed(size)).collect(),
            order: logical(tensor.shape.len()),
        })
    }

    fn pad(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let input = call.activation(0)?;
        let node = call.node;
        let rank = input.rank();
        let mode = node.string("mode", "constant")?;
        let (pads, value) = if call.opset < 11 {
            (node.ints("pads")?.unwrap_or_default(), node.float("value", 0.0)?)
        } else {
            let value = match call.optional_constant(2)? {
                Some(value) => match value.scalar() {
                    Some(value) => value,
                    None => return invalid(format!("'{}' must be a scalar", node.input(2))),
                },
                None => 0.0,
            };
            (integers(node.input(1), call.constant(1)?)?, value)
        };
        let padded = match call.optional_constant(3)? {
            Some(given) => axes(&integers(node.input(3), given)?, rank)?,
            None => (0..rank).collect(),
        };
        if pads.len() != 2 * padded.len() {
            return invalid(format!("its padding {pads:?} does not hold two values per axis"));
        }
        let mut pad = vec![[0; 2]; rank];
        let mut cut = vec![[0; 2]; rank];
        for (index, &axis) in padded.iter().enumerate() {
            for (side, amount) in [pads[index], pads[padded.len() + index]].into_iter().enumerate() {
                let at = if amount < 0 { &mut cut } else { &mut pad };
                match usize::try_from(amount.unsigned_abs()) {
                    Ok(amount) if amount <= i32::MAX as usize => at[axis][side] = amount,
                    _ => return unsupported(format!("a padding of {amount}")),
                }
            }
        }
        // A negative amount takes away.
        let mut shape = input.shape.clone();
        for (dim, [before, after]) in shape.iter_mut().zip(&cut) {
            match dim {
                Dim::Fixed(size) => match size.checked_sub(before + after) {
                    Some(left) => *size = left,
                    None => return invalid(format!("its padding {pads:?} takes away more than there is")),
                },
                Dim::Batch(_) if before + after > 0 => return unsupported("it cuts the batch"),
                Dim::Batch(_) => {}
            }
        }
        let start: Vec<_> = cut.iter().map(|[before, _]| *before).collect();
        let input = self.emit.slice(input, &start, &shape)?;
        if mode == "constant" {
            return one(self.emit.pad(&input, &pad, value)?);
        }
        let mut result = input;
        for (axis, [before, after]) in pad.into_iter().enumerate().filter(|(_, pad)| *pad != [0; 2]) {
            let Some(size) = result.shape[axis].fixed() else {
                return unsupported("it pads the batch");
            };
            check_picked(before.saturating_add(size).saturating_add(after))?;
            let (size, before) = (size as i64, before as i64);
            let indices = (-before..size + after as i64)
                .map(|at| {
                    let index = match mode {
                        "edge" => at.clamp(0, size - 1),
                        "wrap" => at.rem_euclid(size),
                        "reflect" if size == 1 => 0,
                        "reflect" => {
                            let at = at.rem_euclid(2 * (size - 1));
                            at.min(2 * (size - 1) - at)
                        }
                        other => return invalid(format!("attribute 'mode' is '{other}'")),
                    };
                    Ok(index as usize)
                })
                .collect::<Result<Vec<_>, Problem>>()?;
            result = self.emit.take(&result, axis, &indices)?;
        }
        one(result)
    }

    /// Expand and ConstantOfShape to a shape with the batch, input `at`: the same constant for every sample.
    fn batched(&mut self, call: &Call<'_, 'c, 'a>, at: usize) -> Results<'c, 'a> {
        let node = call.node;
        let shape = call.constant(at)?;
        let Some(shape) = shape.syms() else {
            return invalid("its shape must hold integers");
        };
        let sized = |size: &Sym| size.known().map_or(Some(1), |size| usize::try_from(size).ok());
        let (Some(sizes), Some(batch)) = (shape.iter().map(sized).collect::<Option<Vec<_>>>(), batch_axis(shape))
        else {
            return unsupported("its shape depends on the batch size in more than one axis");
        };
        let value = match node.attributes.get("value") {
            // Expand has what it repeats as input 0.
            _ if at > 0 => call.constant(0)?.as_ref().clone(),
            Some(crate::import::decode::Attribute::Tensor(value)) if value.len() == 1 => value.reshaped(vec![]),
            _ => Tensor::floats(vec![], [0.0]),
        };
        let wide = broadcast_shape(&value.shape, &sizes).filter(|wide| wide.len() == sizes.len() && wide[batch] == 1);
        let (Some(wide), Data::Float(_)) = (wide, &value.data) else {
            return unsupported("only a float constant can be repeated for every sample");
        };
        let constant = fold::spread(&value, &wide, self.room())?;
        one(self.as_computed(node.input(0), &constant, Some(batch))?)
    }

    /// A float constant as a value like those that are computed. Of size 1 along the axis `batch`, which becomes the batch,
    /// it is the same for every sample.
    pub(super) fn as_computed(
        &mut self,
        name: &str,
        constant: &Tensor,
        batch: Option<usize>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        // The batch is stored in front.
        let rest = (0..constant.shape.len()).filter(|&axis| Some(axis) != batch);
        let order: Vec<_> = batch.into_iter().chain(rest).collect();
        let stored = self.materialized(name, &constant.transposed(&order), None)?;
        let Some(&like) = self.emit.arguments().first() else {
            return unsupported("the model has no inputs");
        };
        let mut result = Activation { value: stored.value, shape: Vec::new(), order };
        result.shape = constant.shape.iter().map(|&size| Dim::Fixed(size)).collect();
        if let Some(axis) = batch {
            result.shape[axis] = Dim::Batch(1);
        }
        result.value = self.emit.custom(Custom::Broadcast, &[stored.value, like], &result.physical())?;
        Ok(result)
    }

    /// Expand.
    fn expand(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        if let Entry::Constant(_) = call.entry(0)? {
            return self.batched(call, 1);
        }
        let node = call.node;
        let input = call.activation(0)?;
        let Some(target) = call.constant(1)?.syms().map(<[Sym]>::to_vec) else {
            return invalid(format!("'{}' must hold integers", node.input(1)));
        };
        let rank = input.rank().max(target.len());
        let input = self.with_rank(input, rank)?;
        let mut shape = input.shape.clone();
        let mut repeats = vec![1; rank];
        for (index, &size) in target.iter().enumerate() {
            let axis = rank - target.len() + index;
            let own = Sym::from(shape[axis]);
            match (size.known(), shape[axis]) {
                _ if size == own || size.known() == Some(1) => {}
                (size, Dim::Batch(1)) if size.is_some() && size == self.fixed_batch => {}
                (Some(size), Dim::Fixed(1)) if size > 0 => {
                    shape[axis] = Dim::Fixed(size as usize);
                    repeats[axis] = size as usize;
                }
                (None, Dim::Fixed(1)) => return unsupported("it repeats a value for every sample"),
                _ => {
                    return invalid(format!("cannot expand {} along axis {axis}", show(&input.shape)));
                }
            }
        }
        one(self.emit.tile(&input, &repeats, shape)?)
    }
}
