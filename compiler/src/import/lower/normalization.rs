//! Normalizations but the batch's, and what else divides by a norm.

use super::{
    call::{Call, Entry, Lowering, Operator, Results, one},
    reduce::Reducing,
};
use crate::import::{
    attributes::{axes, axis},
    emit::{Activation, check_picked},
    error::{Problem, invalid, unsupported},
    tensor::{Dim, Tensor, element_count, show},
};
use mxc_dialects::tosa::{Binary, Unary};
use std::rc::Rc;

/// The operators of this file.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("GroupNormalization", |lowering, call| lowering.group_normalization(call, false)),
    Operator::new("InstanceNormalization", |lowering, call| lowering.group_normalization(call, true)),
    Operator::new("LRN", |lowering, call| lowering.local_response(call)),
    Operator::new("LayerNormalization", |lowering, call| lowering.layer_normalization(call)),
    Operator::new("LpNormalization", |lowering, call| lowering.lp_normalization(call)),
    Operator::new("MeanVarianceNormalization", |lowering, call| lowering.mean_variance(call)),
    Operator::new("RMSNormalization", |lowering, call| lowering.rms_normalization(call)),
];

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// `(x − mean)/√(variance + ε)` over axes; also the mean and `1/√(variance + ε)`.
    fn standardized(
        &mut self,
        input: &Activation<'c, 'a>,
        axes: &[usize],
        epsilon: f32,
    ) -> Result<[Activation<'c, 'a>; 3], Problem> {
        let mean = self.reduce_axes(Reducing::Mean, input, axes)?;
        let physical = input.physical();
        let value = self.emit.binary_raw(Binary::Sub, input.value, mean.value, &physical)?;
        let centred = Activation { value, ..input.clone() };
        let squared = self.emit.binary(Binary::Mul, &centred, &centred)?;
        let variance = self.reduce_axes(Reducing::Mean, &squared, axes)?;
        let variance = self.emit.with_scalar(Binary::Add, &variance, epsilon)?;
        let inverse = self.emit.unary(Unary::Rsqrt, &variance)?;
        let value = self.emit.binary_raw(Binary::Mul, centred.value, inverse.value, &physical)?;
        Ok([Activation { value, ..input.clone() }, mean, inverse])
    }

    /// `x·scale + bias` for inputs 1 and 2 where given.
    fn scaled(&mut self, call: &Call<'_, 'c, 'a>, x: Activation<'c, 'a>) -> Result<Activation<'c, 'a>, Problem> {
        let mut result = x;
        for (index, operation) in [(1, Binary::Mul), (2, Binary::Add)] {
            if let Some(entry) = call.optional(index) {
                let name = call.node.input(index);
                result = self.join(operation, (&Entry::Activation(result), ""), (entry, name))?;
            }
        }
        Ok(result)
    }

    /// LayerNormalization over the last axes.
    fn layer_normalization(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let input = call.activation(0)?.clone();
        let first = axis(node.int("axis", -1)?, input.rank())?;
        let axes: Vec<_> = (first..input.rank()).collect();
        let [standard, mean, inverse] = self.standardized(&input, &axes, node.float("epsilon", 1e-5)?)?;
        let result = self.scaled(call, standard)?;
        Ok([result, mean, inverse].into_iter().map(Entry::Activation).collect())
    }

    /// RMSNormalization over the last axes.
    fn rms_normalization(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let input = call.activation(0)?.clone();
        let first = axis(node.int("axis", -1)?, input.rank())?;
        let axes: Vec<_> = (first..input.rank()).collect();
        let squared = self.emit.binary(Binary::Mul, &input, &input)?;
        let mean = self.reduce_axes(Reducing::Mean, &squared, &axes)?;
        let mean = self.emit.with_scalar(Binary::Add, &mean, node.float("epsilon", 1e-5)?)?;
        let inverse = self.emit.unary(Unary::Rsqrt, &mean)?;
        let normal = self.pair(Binary::Mul, &input, &inverse)?;
        one(self.scaled(call, normal)?)
    }

    /// GroupNormalization, or InstanceNormalization, whose groups are `single` channels.
    fn group_normalization(&mut self, call: &Call<'_, 'c, 'a>, single: bool) -> Results<'c, 'a> {
        let node = call.node;
        let input = call.activation(0)?.clone();
        let shape = input.shape.clone();
        let Some(channels) = shape.get(1).and_then(|dim| dim.fixed()) else {
            return invalid(format!("its input of shape {} has no channels", show(&shape)));
        };
        let groups = if single { channels } else { usize::try_from(node.int("num_groups", 0)?).unwrap_or(0) };
        if groups == 0 || channels % groups != 0 {
            return invalid(format!("{channels} channels do not make {groups} groups"));
        }
        let Some((rest, 0)) = element_count(&shape[1..]) else {
            return unsupported(format!("its input's shape {} depends on the batch twice", show(&shape)));
        };
        let flat = [shape[0], Dim::Fixed(groups), Dim::Fixed(rest / groups)];
        let grouped = self.emit.reshape(&input, &flat)?;
        let [standard, ..] = self.standardized(&grouped, &[2], node.float("epsilon", 1e-5)?)?;
        let mut result = self.emit.reshape(&standard, &shape)?;
        for (index, operation) in [(1, Binary::Mul), (2, Binary::Add)] {
            let entry = self.per_channel(call, index, shape.len(), channels)?;
            result = self.join(operation, (&Entry::Activation(result), ""), (&entry, node.input(index)))?;
        }
        one(result)
    }

    /// A vector input, one value a channel or a group of channels, as a tensor of `rank` axes that broadcasts along axis 1.
    pub(super) fn per_channel(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        index: usize,
        rank: usize,
        channels: usize,
    ) -> Result<Entry<'c, 'a>, Problem> {
        let fits = |len: usize| len > 0 && channels.is_multiple_of(len);
        let mut shape = vec![1; rank];
        shape[1] = channels;
        let wrong =
            |len: usize| invalid(format!("'{}' has {len} values for {channels} channels", call.node.input(index)));
        match call.entry(index)? {
            Entry::Constant(tensor) => {
                let (len, values) = (tensor.len(), call.floats(index)?);
                if !fits(len) {
                    return wrong(len);
                }
                let values: Vec<f32> = (0..channels).map(|channel| values[channel * len / channels]).collect();
                Ok(Entry::Constant(Rc::new(Tensor::floats(shape, values))))
            }
            Entry::Activation(vector) => {
                if vector.has_batch() {
                    return unsupported(format!("'{}' depends on the batch", call.node.input(index)));
                }
                let len = vector.shape.iter().filter_map(|dim| dim.fixed()).product::<usize>();
                if !fits(len) || vector.rank() != 1 {
                    return wrong(len);
                }
                let indices: Vec<_> = (0..channels).map(|channel| channel * len / channels).collect();
                let vector = vector.clone();
                let spread = self.emit.take(&vector, 0, &indices)?;
                let shape: Vec<_> = shape.into_iter().map(Dim::Fixed).collect();
                Ok(Entry::Activation(self.emit.reshape(&spread, &shape)?))
            }
            Entry::Unknown => unsupported("its input is not known"),
        }
    }

    /// MeanVarianceNormalization: without ε in the root, as ONNX's function has it.
    fn mean_variance(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let input = call.activation(0)?.clone();
        let given = call.node.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
        let axes = axes(&given, input.rank())?;
        let [result, ..] = self.standardized(&input, &axes, 1e-9)?;
        one(result)
    }

    /// LpNormalization: `x` over its 1- or 2-norm along an axis, 0 where that is 0.
    fn lp_normalization(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let input = call.activation(0)?.clone();
        let axis = axis(node.int("axis", -1)?, input.rank())?;
        let norm = match node.int("p", 2)? {
            1 => self.sum_of_sizes(&input, &[axis])?,
            2 => self.root_of_squares(&input, &[axis])?,
            p => return invalid(format!("attribute 'p' is {p}")),
        };
        // A norm of 0 belongs to zeros, which any divisor keeps; an infinite one also makes their gradient 0.
        let none = self.emit.with_scalar(Binary::Equal, &norm, 0.0)?;
        let infinite = self.single(&norm, f32::INFINITY)?;
        let norm = self.selected(&none, &infinite, &norm)?;
        let inverse = self.emit.unary(Unary::Reciprocal, &norm)?;
        one(self.pair(Binary::Mul, &input, &inverse)?)
    }

    /// LRN: `x / (bias + α/size·Σx²)^β`, the sum over `size` neighbouring channels.
    fn local_response(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let mut input = call.activation(0)?.clone();
        let size = usize::try_from(node.int("size", 0)?).unwrap_or(0);
        let Some(channels) = input.shape.get(1).and_then(|dim| dim.fixed()).filter(|_| size > 0) else {
            return invalid(format!("its input of shape {} and size {size} do not fit", show(&input.shape)));
        };
        if size > 2 * channels {
            return unsupported(format!("a size of {size} for {channels} channels"));
        }
        check_picked(size.saturating_mul(channels))?;
        if input.rank() == 4 {
            input = self.emit.nhwc(&input)?;
        }
        let squared = self.emit.binary(Binary::Mul, &input, &input)?;
        let mut pad = vec![[0; 2]; input.rank()];
        pad[1] = [(size - 1) / 2, size / 2];
        let padded = self.emit.pad(&squared, &pad, 0.0)?;
        let mut sum: Option<Activation<'c, 'a>> = None;
        for offset in 0..size {
            let part = self.emit.take(&padded, 1, &(offset..offset + channels).collect::<Vec<_>>())?;
            sum = Some(match sum {
                Some(sum) => self.emit.binary(Binary::Add, &sum, &part)?,
                None => part,
            });
        }
        let Some(sum) = sum else { return invalid("its size is 0") };
        let scaled = self.emit.with_scalar(Binary::Mul, &sum, node.float("alpha", 1e-4)? / size as f32)?;
        let shifted = self.emit.with_scalar(Binary::Add, &scaled, node.float("bias", 1.0)?)?;
        let power = self.emit.with_scalar(Binary::Pow, &shifted, -node.float("beta", 0.75)?)?;
        one(self.emit.binary(Binary::Mul, &input, &power)?)
    }
}
