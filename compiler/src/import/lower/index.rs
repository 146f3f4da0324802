//! Operators that find elements by index, rank them or put them somewhere, and what is made of such: one-hot codes, triangles,
//! running sums, sampling at computed points.

use super::call::{Call, Entry, Lowering, Operator, Results, one};
use crate::import::{
    attributes::{axis, integers},
    emit::{Activation, check_picked, logical},
    error::{Problem, invalid, unsupported},
    fold::Fold,
    tensor::{Data, Dim, Element, Sym, Tensor, element_count, show},
};
use mxc_dialects::tosa::{Binary, Custom, Interpolation, Padding, Scattering};
use mxc_runtime::kernels::layout::strides;
use std::rc::Rc;

/// The operators of this file.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("CumSum", |lowering, call| lowering.cum_sum(call)).on_integers(),
    Operator::new("EyeLike", |lowering, call| lowering.eye_like(call)).on_integers(),
    Operator::new("GatherElements", |lowering, call| lowering.gather_elements(call)).on_integers(),
    Operator::new("GatherND", |lowering, call| lowering.gather_nd(call)).on_integers(),
    Operator::new("GridSample", |lowering, call| lowering.grid_sample(call)),
    Operator::new("NonZero", |lowering, call| lowering.non_zero(call))
        .on_integers()
        .folding(Fold::new(|folding| folding.non_zero())),
    Operator::new("OneHot", |lowering, call| lowering.one_hot(call)).on_integers(),
    Operator::new("Scatter", |lowering, call| lowering.scatter_elements(call)).on_integers(),
    Operator::new("ScatterElements", |lowering, call| lowering.scatter_elements(call)).on_integers(),
    Operator::new("ScatterND", |lowering, call| lowering.scatter_nd(call)).on_integers(),
    Operator::new("TopK", |lowering, call| lowering.top_k(call)).on_integers(),
    Operator::new("Trilu", |lowering, call| lowering.trilu(call)).on_integers(),
];

/// An integer constant of the graph's own.
fn ints(shape: Vec<usize>, values: Vec<i64>) -> Tensor {
    Tensor::ints(shape, values.into_iter().map(Sym::from).collect::<Vec<_>>())
}

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// An input in ONNX's own axis order.
    fn logical_value(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        index: usize,
        like: Option<Element>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let value = self.value(call, index, like)?;
        self.emit.logical(&value)
    }

    /// An input that says how many or where: one constant integer.
    fn number(&self, call: &Call<'_, 'c, 'a>, index: usize) -> Result<i64, Problem> {
        let name = call.node.input(index);
        let tensor = call.constant(index)?;
        let values = match tensor.data {
            Data::Float(_) | Data::Fill(_) => {
                tensor.to_floats().map(|values| values.iter().map(|&x| x as i64).collect())
            }
            _ => Some(integers(name, tensor)?),
        };
        match values.as_deref() {
            Some(&[value]) => Ok(value),
            _ => invalid(format!("'{name}' must be one number")),
        }
    }

    /// An activation under another shape and in ONNX's order.
    fn viewed(&mut self, x: &Activation<'c, 'a>, shape: &[Dim]) -> Result<Activation<'c, 'a>, Problem> {
        let x = self.emit.logical(x)?;
        self.emit.reshape(&x, shape)
    }

    /// TopK: the ranks by one operation, the values picked at them.
    fn top_k(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let input = self.value(call, 0, None)?;
        let axis = axis(node.int("axis", -1)?, input.rank())?;
        let Some(size) = input.shape[axis].fixed() else {
            return unsupported("it ranks the samples of the batch");
        };
        let k = if call.optional(1).is_some() { self.number(call, 1)? } else { node.int("k", 0)? };
        let count = match usize::try_from(k) {
            Ok(0) => return unsupported("it would make an empty tensor"),
            Ok(count) if count <= size => count,
            _ => return invalid(format!("its k is {k}, its axis {axis} has {size} elements")),
        };
        let ranks = self.emit.top_k(&input, axis, count, node.int("largest", 1)? != 0)?;
        let values = self.emit.pick(&input, &ranks, axis)?;
        Ok(vec![Entry::Activation(values), Entry::Activation(ranks)])
    }

    /// GatherElements.
    fn gather_elements(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let mut data = self.logical_value(call, 0, None)?;
        let mut indices = self.logical_value(call, 1, None)?;
        let rank = data.rank();
        let mut axis = axis(call.node.int("axis", 0)?, rank)?;
        if indices.rank() != rank {
            return invalid(format!(
                "its data of shape {} and indices of shape {} differ in rank",
                show(&data.shape),
                show(&indices.shape)
            ));
        }
        let result = indices.shape.clone();
        let shared = axis == 0 && indices.has_batch() && !data.has_batch();
        if shared {
            // Every sample has rows of its own to pick from what is the same for all.
            data = self.viewed(&data, &[&[Dim::Fixed(1)], data.shape.clone().as_slice()].concat())?;
            indices = self.viewed(&indices, &[&result[..1], &[Dim::Fixed(1)], &result[1..]].concat())?;
            axis = 1;
        }
        let mut shape = data.shape.clone();
        for (each, (own, other)) in shape.iter_mut().zip(&indices.shape).enumerate() {
            match (*own, *other) {
                _ if each == axis && own.fixed().is_none() => return unsupported("it picks samples out of the batch"),
                _ if each == axis || *own == *other || shared && each == 0 => {}
                (Dim::Fixed(from), Dim::Fixed(to)) if to <= from => *own = *other,
                (Dim::Batch(_), _) | (_, Dim::Batch(_)) => {
                    return unsupported("its data or its indices are the same for every sample, the others are not");
                }
                _ => return invalid(format!("its indices have the shape {}", show(&result))),
            }
        }
        let data = self.emit.slice(&data, &vec![0; shape.len()], &shape)?;
        let picked = self.emit.pick(&data, &indices, axis)?;
        one(self.viewed(&picked, &result)?)
    }

    /// Gather at indices that depend on the model's inputs: `D[..a] + I + D[a + 1..]` of data D and indices I.
    pub(super) fn gather_at(
        &mut self,
        data: &Activation<'c, 'a>,
        axis: usize,
        indices: &Activation<'c, 'a>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let data = self.emit.logical(data)?;
        let Some(size) = data.shape[axis].fixed() else {
            return unsupported("it picks samples out of the batch");
        };
        let (before, after) = (data.shape[..axis].to_vec(), data.shape[axis + 1..].to_vec());
        let rest = self.fixed_count(&after)?;
        let shape = [before.as_slice(), &indices.shape, &after].concat();
        // A batch of the indices comes first and is no axis to pick along.
        let (lead, own) = match (indices.has_batch(), data.has_batch()) {
            (true, true) => {
                return unsupported("its data and its indices both have the batch: every sample would pick from all");
            }
            (true, false) => match indices.shape.split_first() {
                Some((batch @ Dim::Batch(1), own)) => (Some(*batch), own.to_vec()),
                _ => return unsupported(format!("its indices of shape {} mix samples", show(&indices.shape))),
            },
            _ => (None, indices.shape.clone()),
        };
        let count = self.fixed_count(&own)?;
        let front: Vec<Dim> = lead.iter().map(|_| Dim::Fixed(1)).chain(before.iter().copied()).collect();
        let data = self.viewed(&data, &[front.as_slice(), &[Dim::Fixed(size), Dim::Fixed(rest)]].concat())?;
        let ones = vec![Dim::Fixed(1); before.len()];
        let flat: Vec<Dim> = lead.iter().copied().chain(ones).chain([Dim::Fixed(count), Dim::Fixed(1)]).collect();
        let flat = self.viewed(indices, &flat)?;
        let picked = self.emit.pick(&data, &flat, front.len())?;
        let Some(batch) = lead.filter(|_| axis > 0) else {
            return self.viewed(&picked, &shape);
        };
        // The batch stays in front in storage.
        let stored = [&[batch], before.as_slice(), &own, &after].concat();
        let stored = self.viewed(&picked, &stored)?;
        let perms: Vec<usize> = (1..=axis).chain([0]).chain(axis + 1..stored.rank()).collect();
        Ok(self.permuted(&stored, &perms))
    }

    /// The number of elements of axes that must not depend on the batch.
    fn fixed_count(&self, shape: &[Dim]) -> Result<usize, Problem> {
        match element_count(shape) {
            Some((count, 0)) => Ok(count),
            _ => unsupported(format!("its axes {} depend on the batch", show(shape))),
        }
    }

    /// Indices of several axes (the last axis of input `index`) as positions in the axes' elements, row by row; `sizes` are the
    /// axes'. The result has the indices' shape without the last axis.
    fn flat_indices(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        index: usize,
        sizes: &[usize],
    ) -> Result<Activation<'c, 'a>, Problem> {
        let (name, steps) = (call.node.input(index), strides(sizes));
        if let Entry::Constant(tensor) = call.entry(index)? {
            let rows = integers(name, tensor)?;
            let flat: Vec<i64> = rows
                .chunks_exact(sizes.len().max(1))
                .map(|row| {
                    row.iter().zip(sizes).zip(&steps).try_fold(0, |sum, ((&at, &size), &step)| {
                        Ok::<_, Problem>(sum + axis(at, size)? as i64 * step as i64)
                    })
                })
                .collect::<Result<_, _>>()?;
            let shape = tensor.shape[..tensor.shape.len() - 1].to_vec();
            return self.materialized(name, &ints(shape, flat), Some(Element::I64));
        }
        let indices = self.logical_value(call, index, None)?;
        let lead = indices.shape[..indices.rank() - 1].to_vec();
        let mut sum: Option<Activation<'c, 'a>> = None;
        for (each, (&size, &step)) in sizes.iter().zip(&steps).enumerate() {
            let mut start = vec![0; indices.rank()];
            start[lead.len()] = each;
            let part = self.emit.slice(&indices, &start, &[lead.as_slice(), &[Dim::Fixed(1)]].concat())?;
            let part = self.viewed(&part, &lead)?;
            let counted = self.counted_from_front(&part, size)?;
            let scaled = self.with_constant(Binary::Mul, &counted, "", &ints(vec![], vec![step as i64]), false)?;
            sum = Some(match sum {
                Some(sum) => self.emit.binary(Binary::Add, &sum, &scaled)?,
                None => scaled,
            });
        }
        match sum {
            Some(sum) => Ok(sum),
            None => invalid(format!("'{name}' indexes no axis")),
        }
    }

    /// Indices with those that count from the end counted from the front.
    fn counted_from_front(&mut self, indices: &Activation<'c, 'a>, size: usize) -> Result<Activation<'c, 'a>, Problem> {
        let number = |value: i64| ints(vec![], vec![value]);
        let negative = self.with_constant(Binary::Greater, indices, "", &number(0), true)?;
        let counted = self.with_constant(Binary::Add, indices, "", &number(size as i64), false)?;
        self.selected(&negative, &counted, indices)
    }

    /// The shape of an input, and whether it depends on the batch.
    fn input_shape(&self, call: &Call<'_, 'c, 'a>, index: usize) -> Result<Vec<Dim>, Problem> {
        match call.entry(index)? {
            Entry::Constant(tensor) => Ok(tensor.shape.iter().map(|&size| Dim::Fixed(size)).collect()),
            Entry::Activation(activation) => Ok(activation.shape.clone()),
            Entry::Unknown => unsupported("its input is not known"),
        }
    }

    /// GatherND.
    fn gather_nd(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let data = self.logical_value(call, 0, None)?;
        let indices = self.input_shape(call, 1)?;
        let batch = usize::try_from(call.node.int("batch_dims", 0)?).unwrap_or(usize::MAX);
        let (depth, shape) = self.nd_shapes(call, &data.shape, &indices, batch)?;
        let indexed = &data.shape[batch..batch + depth];
        let Some(sizes) = indexed.iter().map(|dim| dim.fixed()).collect::<Option<Vec<_>>>() else {
            return unsupported("its indices address the batch axis; only batch_dims of 1 or more keep samples apart");
        };
        if data.shape[..batch] != indices[..batch] {
            return invalid(format!(
                "its data of shape {} and indices of shape {} differ in the first {batch} axes",
                show(&data.shape),
                show(&indices)
            ));
        }
        let flat = self.flat_indices(call, 1, &sizes)?;
        let total = Dim::Fixed(sizes.iter().product());
        let rest = Dim::Fixed(self.fixed_count(&data.shape[batch + depth..])?);
        let lead = flat.shape[..batch].to_vec();
        // The indices' own batch, where the data has none, stays in front.
        let (front, own) = match flat.shape[batch..].split_first() {
            Some((first @ Dim::Batch(1), own)) if batch == 0 => (vec![*first], own.to_vec()),
            _ => (lead.clone(), flat.shape[batch..].to_vec()),
        };
        let kept: Vec<Dim> = if batch == 0 { front.iter().map(|_| Dim::Fixed(1)).collect() } else { lead };
        let count = Dim::Fixed(self.fixed_count(&own)?);
        let data = self.viewed(&data, &[kept.as_slice(), &[total, rest]].concat())?;
        let flat = self.viewed(&flat, &[front.as_slice(), &[count, Dim::Fixed(1)]].concat())?;
        let picked = self.emit.pick(&data, &flat, front.len())?;
        one(self.viewed(&picked, &shape)?)
    }

    /// How many axes the indices of GatherND or ScatterND address, and the shape of what they pick.
    fn nd_shapes(
        &self,
        call: &Call<'_, 'c, 'a>,
        data: &[Dim],
        indices: &[Dim],
        batch: usize,
    ) -> Result<(usize, Vec<Dim>), Problem> {
        let depth = indices.last().and_then(|dim| dim.fixed());
        match depth {
            Some(depth) if depth > 0 && batch < indices.len() && batch + depth <= data.len() => {
                Ok((depth, [&indices[..indices.len() - 1], &data[batch + depth..]].concat()))
            }
            _ => invalid(format!(
                "its data '{}' of shape {} and indices of shape {} do not fit",
                call.node.input(0),
                show(data),
                show(indices)
            )),
        }
    }

    /// The attribute `reduction`, whose words are ours.
    fn reduction(&self, call: &Call<'_, 'c, 'a>) -> Result<Scattering, Problem> {
        let word = call.node.string("reduction", "none")?;
        match Scattering::of(word) {
            Some(reduction) => Ok(reduction),
            None => invalid(format!("attribute 'reduction' is '{word}'")),
        }
    }

    /// ScatterElements, and Scatter, its old name.
    fn scatter_elements(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let reduction = self.reduction(call)?;
        let data = self.data_and_updates(call)?;
        let indices = self.logical_value(call, 1, None)?;
        let updates = self.logical_value(call, 2, Some(data.element()))?;
        let axis = axis(call.node.int("axis", 0)?, data.rank())?;
        if data.shape[axis].fixed().is_none() {
            return unsupported("it puts samples into the batch");
        }
        let fits = indices.shape == updates.shape && indices.rank() == data.rank();
        if !fits {
            return invalid(format!(
                "its data of shape {}, indices of shape {} and updates of shape {} do not fit",
                show(&data.shape),
                show(&indices.shape),
                show(&updates.shape)
            ));
        }
        if data.shape[0].fixed().is_some() != updates.shape[0].fixed().is_some() {
            return unsupported("its data or its updates are the same for every sample, the others are not");
        }
        one(self.emit.scatter([&data, &indices, &updates], axis, reduction)?)
    }

    /// The data of a scattering, of the updates' type where it is a constant.
    fn data_and_updates(&mut self, call: &Call<'_, 'c, 'a>) -> Result<Activation<'c, 'a>, Problem> {
        let element = match call.entry(2)? {
            Entry::Activation(updates) => Some(updates.element()),
            _ => None,
        };
        self.logical_value(call, 0, element)
    }

    /// ScatterND.
    fn scatter_nd(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let reduction = self.reduction(call)?;
        let data = self.data_and_updates(call)?;
        let indices = self.input_shape(call, 1)?;
        let (depth, shape) = self.nd_shapes(call, &data.shape, &indices, 0)?;
        let updates = self.logical_value(call, 2, Some(data.element()))?;
        let rest = Dim::Fixed(self.fixed_count(&data.shape[depth..])?);
        let batched = data.has_batch();
        if !batched && (updates.has_batch() || indices.iter().any(|dim| dim.fixed().is_none())) {
            return unsupported("it puts values of every sample into one tensor");
        }
        let sizes: Vec<usize> = data.shape[..depth].iter().map(|dim| dim.fixed().unwrap_or(1)).collect();
        // A file with a fixed batch of 1 writes the batch's only index, 0, before the others.
        let own_sample = batched
            && self.fixed_batch == Some(1)
            && call
                .constant(1)
                .ok()
                .and_then(|tensor| tensor.known_ints())
                .is_some_and(|values| values.chunks_exact(depth).all(|row| matches!(row.first(), Some(0 | -1))));
        if batched && !own_sample {
            return unsupported("its indices address the batch axis");
        }
        let flat = self.flat_indices(call, 1, &sizes)?;
        let count = flat.shape.iter().filter_map(|dim| dim.fixed()).product();
        let fits = updates.rank() == shape.len()
            && updates
                .shape
                .iter()
                .zip(&shape)
                .all(|(own, wanted)| own == wanted || batched && *own == Dim::Batch(1) && wanted.is_one());
        if !fits {
            return invalid(format!("its updates have the shape {}, not {}", show(&updates.shape), show(&shape)));
        }
        let total = Dim::Fixed(sizes.iter().product());
        let front = |dim: Dim| if batched { vec![dim] } else { Vec::new() };
        let flat_data = self.viewed(&data, &[front(data.shape[0]).as_slice(), &[total, rest]].concat())?;
        let one_sample = Dim::Fixed(1);
        let flat = self.viewed(&flat, &[front(one_sample).as_slice(), &[Dim::Fixed(count), one_sample]].concat())?;
        let own = if updates.has_batch() { data.shape[0] } else { one_sample };
        let updates = self.viewed(&updates, &[front(own).as_slice(), &[Dim::Fixed(count), rest]].concat())?;
        let placed = self.emit.scatter([&flat_data, &flat, &updates], usize::from(batched), reduction)?;
        one(self.viewed(&placed, &data.shape)?)
    }

    /// OneHot: `on` where an index is the position along a new axis, else `off`.
    fn one_hot(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let indices = self.logical_value(call, 0, None)?;
        let indices = self.truncated(&indices, Element::I64)?;
        let depth = self.number(call, 1)?;
        let Some(depth) = usize::try_from(depth).ok().filter(|&depth| depth > 0) else {
            return invalid(format!("its depth is {depth}"));
        };
        check_picked(depth)?;
        let axis = axis(node.int("axis", -1)?, indices.rank() + 1)?;
        let counted = self.counted_from_front(&indices, depth)?;
        let shape = [&indices.shape[..axis], &[Dim::Fixed(1)], &indices.shape[axis..]].concat();
        let counted = self.viewed(&counted, &shape)?;
        let mut along = vec![1; shape.len()];
        along[axis] = depth;
        let range = ints(along, (0..depth as i64).collect());
        let hot = self.with_constant(Binary::Equal, &counted, "", &range, false)?;
        let pair = self.input_shape(call, 2)?;
        if pair != [Dim::Fixed(2)] {
            return invalid(format!("'{}' has the shape {}, not [2]", node.input(2), show(&pair)));
        }
        let mut parts = Vec::with_capacity(2);
        for index in 0..2 {
            let part = match call.entry(2)? {
                Entry::Constant(tensor) => {
                    let part = tensor.gather(vec![1; shape.len()], &[index]);
                    self.materialized(&format!("{}.{index}", node.input(2)), &part, None)?
                }
                _ => {
                    let values = self.logical_value(call, 2, None)?;
                    let part = self.emit.slice(&values, &[index], &[Dim::Fixed(1)])?;
                    self.viewed(&part, &vec![Dim::Fixed(1); shape.len()])?
                }
            };
            parts.push(part);
        }
        one(self.selected(&hot, &parts[1], &parts[0])?)
    }

    /// EyeLike: a constant of the input's shape.
    fn eye_like(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let shape = self.input_shape(call, 0)?;
        let own = match call.entry(0)? {
            Entry::Activation(input) => input.element(),
            Entry::Constant(input) => input.data.element(),
            Entry::Unknown => return unsupported("its input is not known"),
        };
        let element = match node.int("dtype", 0)? {
            0 => own,
            code => match i32::try_from(code).ok().and_then(Element::of) {
                Some(element) => element,
                None => return unsupported(format!("data type {code}")),
            },
        };
        let &[Dim::Fixed(rows), Dim::Fixed(columns)] = shape.as_slice() else {
            return match shape.len() {
                2 => unsupported("its shape depends on the batch size"),
                _ => invalid(format!("its input has the shape {}, not two axes", show(&shape))),
            };
        };
        check_picked(rows.saturating_mul(columns))?;
        let k = node.int("k", 0)?;
        let on = (0..rows * columns).map(|at| (at % columns) as i64 == (at / columns) as i64 + k);
        let shape = vec![rows, columns];
        let eye = match element {
            Element::F32 => Tensor::floats(shape, on.map(|on| f32::from(u8::from(on))).collect::<Vec<_>>()),
            Element::Bool => Tensor::bools(shape, on.collect::<Vec<_>>()),
            Element::I32 | Element::I64 => ints(shape, on.map(i64::from).collect()),
        };
        Ok(vec![Entry::Constant(Rc::new(eye))])
    }

    /// CumSum.
    fn cum_sum(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let input = self.value(call, 0, None)?;
        let axis = axis(self.number(call, 1)?, input.rank())?;
        if input.shape[axis].fixed().is_none() {
            return unsupported("it sums over the batch");
        }
        let flag = |name: &str| call.node.int(name, 0).map(|value| value != 0);
        let (exclusive, reverse) = (flag("exclusive")?, flag("reverse")?);
        let custom = Custom::CumSum { axis: input.position(axis), exclusive, reverse };
        let value = self.emit.custom(custom, &[input.value], &input.physical())?;
        one(Activation { value, ..input })
    }

    /// Trilu: zeros above or below a diagonal of the last two axes.
    fn trilu(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let input = self.logical_value(call, 0, None)?;
        let (&[.., rows, columns], rank) = (input.shape.as_slice(), input.rank()) else {
            return invalid(format!("its input has the shape {}", show(&input.shape)));
        };
        let (Dim::Fixed(rows), Dim::Fixed(columns)) = (rows, columns) else {
            return unsupported("its last two axes depend on the batch size");
        };
        check_picked(rows.saturating_mul(columns))?;
        let k = if call.optional(1).is_some() { self.number(call, 1)? } else { 0 };
        let upper = call.node.int("upper", 1)? != 0;
        let kept = (0..rows * columns).map(|at| {
            let right = (at % columns) as i64 - (at / columns) as i64;
            if upper { right >= k } else { right <= k }
        });
        let mut shape = vec![1; rank];
        (shape[rank - 2], shape[rank - 1]) = (rows, columns);
        let kept = self.materialized("", &Tensor::bools(shape, kept.collect::<Vec<_>>()), None)?;
        let zero = self.materialized("", &ints(vec![1; rank], vec![0]), Some(input.element()))?;
        one(self.selected(&kept, &input, &zero)?)
    }

    /// NonZero, whose result's shape depends on its input's values: known for constants only.
    fn non_zero(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let Entry::Constant(tensor) = call.entry(0)? else {
            return unsupported("the shape of its result depends on the values of its input, which must be a constant");
        };
        let Some(values) = tensor.to_floats() else {
            return unsupported(format!("'{}' depends on the batch size", call.node.input(0)));
        };
        let found: Vec<usize> = values.iter().enumerate().filter(|(_, x)| **x != 0.0).map(|(at, _)| at).collect();
        // A scalar counts as one element of an axis.
        let shape = if tensor.shape.is_empty() { vec![1] } else { tensor.shape.clone() };
        let steps = strides(&shape);
        let rows = shape.iter().zip(&steps).flat_map(|(&size, &step)| {
            found.iter().map(move |at| (at / step % size.max(1)) as i64).collect::<Vec<_>>()
        });
        let indices = ints(vec![shape.len(), found.len()], rows.collect());
        Ok(vec![Entry::Constant(Rc::new(indices))])
    }

    /// GridSample.
    fn grid_sample(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let (data, points) = (self.logical_value(call, 0, None)?, self.logical_value(call, 1, None)?);
        let mode = match node.string("mode", "linear")? {
            "linear" | "bilinear" => Interpolation::Linear,
            "cubic" | "bicubic" => Interpolation::Cubic,
            "nearest" => Interpolation::Nearest,
            other => return invalid(format!("attribute 'mode' is '{other}'")),
        };
        // ONNX's words are ours.
        let word = node.string("padding_mode", "zeros")?;
        let Some(padding) = Padding::of(word) else {
            return invalid(format!("attribute 'padding_mode' is '{word}'"));
        };
        let spatial = data.rank().saturating_sub(2);
        let fits = spatial > 0
            && points.rank() == data.rank()
            && points.shape.last() == Some(&Dim::Fixed(spatial))
            && (2..data.rank()).all(|axis| data.shape[axis].fixed().is_some());
        if !fits {
            return invalid(format!(
                "its input of shape {} and grid of shape {} do not fit",
                show(&data.shape),
                show(&points.shape)
            ));
        }
        if data.shape[0] != points.shape[0] {
            return unsupported("its input or its grid is the same for every sample, the other is not");
        }
        let align_corners = node.int("align_corners", 0)? != 0;
        let shape = [&data.shape[..2], &points.shape[1..points.rank() - 1]].concat();
        let value = self.emit.custom(
            Custom::GridSample { mode, padding, align_corners },
            &[data.value, points.value],
            &shape,
        )?;
        one(Activation { value, order: logical(shape.len()), shape })
    }
}
