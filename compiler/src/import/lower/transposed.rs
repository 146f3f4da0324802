//! ConvTranspose as a convolution: zeros between the elements of the input, then the flipped weight at stride 1.
//!
//! So a transposed convolution is a layer like any other: its stationary product runs on analog tiles, a batch normalization
//! behind it folds into it, and its output is ONNX's. The price is that the tile multiplies the zeros, too: with a stride of s
//! on both axes s² times the products that ONNX's definition has.

use super::{
    call::{Call, Lowering, Operator, Results, one},
    conv::{Filter, Kernel, Window, declared_pads, misfit, spatial_sizes},
};
use crate::import::{
    emit::{Activation, check_picked},
    error::{Problem, invalid, unsupported},
    tensor::{Dim, show},
};

/// The operators of this file.
pub(super) const OPERATORS: &[Operator] =
    &[Operator::new("ConvTranspose", |lowering, call| lowering.conv_transpose(call))];

/// A transposed convolution's geometry over N spatial axes.
struct Stretch<const N: usize> {
    /// One more than the zeros put between (and after) the elements.
    stride: [usize; N],
    /// How many elements at the start and end of the stretched input no window touches.
    cut: [[usize; 2]; N],
    /// The convolution of what is left, at stride 1.
    window: Window<N>,
}

impl<const N: usize> Stretch<N> {
    /// Reads the attributes for an input of logical shape `shape` and a window over `spatial` axes.
    fn new(call: &Call<'_, '_, '_>, shape: &[Dim], kernel: [usize; N], spatial: usize) -> Result<Self, Problem> {
        let node = call.node;
        let stride: [usize; N] = spatial_sizes(call, "strides", spatial)?;
        let dilation: [usize; N] = spatial_sizes(call, "dilations", spatial)?;
        let declared: [[usize; 2]; N] = declared_pads(call, spatial)?;
        let extra = node.sizes("output_padding", spatial, 0, 0)?;
        let wanted = node.ints("output_shape")?.filter(|list| !list.is_empty());
        // Some exporters write the batch and the channels, too.
        let wanted = match wanted {
            Some(list) if list.len() == spatial + 2 => Some(list[2..].to_vec()),
            Some(list) if list.len() != spatial => {
                return invalid(format!("attribute 'output_shape' is {list:?}; its input has {spatial} spatial axes"));
            }
            wanted => wanted,
        };
        let auto = node.string("auto_pad", "NOTSET")?;
        if !matches!(auto, "NOTSET" | "" | "VALID" | "SAME_UPPER" | "SAME_LOWER") {
            return invalid(format!("attribute 'auto_pad' is '{auto}'"));
        }
        let mut stretch = Self {
            stride,
            cut: [[0; 2]; N],
            window: Window { kernel, stride: [1; N], dilation, pad: [[0; 2]; N], output: [0; N], crop: [0; N] },
        };
        for axis in 0..N {
            let Some(size) = shape[axis + 2].fixed() else {
                return unsupported(format!("its input's spatial axes must be fixed, not {}", show(shape)));
            };
            // Sizes are bounded so that these cannot overflow: attributes by i32, shapes by 2³².
            let number = |value: usize| i128::try_from(value).unwrap_or(i128::MAX >> 64);
            let reach = number(kernel[axis] - 1) * number(dilation[axis]);
            let extra = number(extra.get(axis).copied().unwrap_or(0));
            let spread = (number(size) - 1) * number(stride[axis]) + 1;
            let natural = spread + reach + extra;
            let target = match (&wanted, auto) {
                (Some(list), _) => list.get(axis).copied().map(i128::from),
                (None, "SAME_UPPER" | "SAME_LOWER") if axis < spatial => Some(number(size) * number(stride[axis])),
                _ => None,
            };
            let (before, output) = match target {
                Some(target) => {
                    let total = (natural - target).max(0);
                    let before = if auto == "SAME_UPPER" { total / 2 } else { total - total / 2 };
                    // Padding by itself only takes away; as onnxruntime reads it, it does not reach a larger size.
                    (before, if wanted.is_some() { target } else { natural - total })
                }
                None if auto == "VALID" => (0, natural),
                None => {
                    let [before, after] = declared[axis].map(number);
                    (before, natural - before - after)
                }
            };
            if output <= 0 {
                return invalid(format!("its padding leaves nothing of its output along spatial axis {axis}"));
            }
            // The zeros behind the last element are part of what follows it.
            let lead = reach - before;
            let trail = output + reach - spread - lead - (number(stride[axis]) - 1);
            let sized = |value: i128| match usize::try_from(value) {
                Ok(value) if value <= u32::MAX as usize => Ok(value),
                _ => invalid("its padding or output is too large"),
            };
            for (side, amount) in [lead, trail].into_iter().enumerate() {
                let at = if amount < 0 { &mut stretch.cut } else { &mut stretch.window.pad };
                at[axis][side] = sized(amount.abs())?;
            }
            stretch.window.output[axis] = sized(output)?;
        }
        Ok(stretch)
    }
}

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// ConvTranspose over one to three spatial axes.
    fn conv_transpose(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let input = call.activation(0)?.clone();
        let (filter, groups) = self.filter(call, &input)?;
        let shape = filter.shape().to_vec();
        let (inputs, per_group) = (shape[0], shape[1]);
        let channels = input.shape[1].fixed().unwrap_or(0);
        if groups == 0 || inputs != channels || channels == 0 || channels % groups != 0 || per_group == 0 {
            return misfit(call, &input, &shape);
        }
        let filter = self.flipped(&filter, groups)?;
        let outputs = filter.shape()[0];
        let kernel = Kernel { name: call.node.input(1), filter, groups, bias: self.bias(call, outputs)? };
        if input.rank() == 5 {
            let stretch = Stretch::new(call, &input.shape, [shape[2], shape[3], shape[4]], 3)?;
            let source = self.stretched(&input, &stretch)?;
            return one(self.volume(&source, kernel, &stretch.window)?);
        }
        let (planar, spatial) = self.planar(&input)?;
        let sizes = [shape[2], shape.get(3).copied().unwrap_or(1)];
        let stretch = Stretch::new(call, &planar.shape, sizes, spatial)?;
        let source = self.stretched(&planar, &stretch)?;
        let result = self.plane(&source, kernel, &stretch.window)?;
        self.spatial(result, spatial)
    }

    /// The weight `[C, O / groups, …]` as that of a convolution, `[O, C / groups, …]`, each kernel back to front.
    fn flipped(&mut self, filter: &Filter<'c, 'a>, groups: usize) -> Result<Filter<'c, 'a>, Problem> {
        let shape = filter.shape();
        let (inputs, outputs) = (shape[0] / groups, shape[1]);
        let taps: usize = shape[2..].iter().product();
        let sizes = [&[groups * outputs, inputs], &shape[2..]].concat();
        let (split, perms) = ([groups, inputs, outputs, taps], [0, 2, 1, 3]);
        Ok(match filter {
            Filter::Stationary(weight) => {
                // All axes of a kernel reversed are its elements in reverse.
                let back: Vec<_> = (0..weight.len()).map(|at| at - at % taps + (taps - 1 - at % taps)).collect();
                let reversed = weight.gather(split.to_vec(), &back);
                Filter::Stationary(reversed.transposed(&perms).reshaped(sizes))
            }
            Filter::Computed(weight, _) => {
                check_picked(taps)?;
                let flat = self.emit.reshape(weight, &split.map(Dim::Fixed))?;
                let reversed = self.emit.take(&flat, 3, &(0..taps).rev().collect::<Vec<_>>())?;
                let moved = self.permuted(&reversed, &perms);
                let dims: Vec<_> = sizes.iter().map(|&size| Dim::Fixed(size)).collect();
                Filter::Computed(self.emit.reshape(&moved, &dims)?, sizes)
            }
        })
    }

    /// The input with `stride − 1` zeros behind each element of every spatial axis, less what no window touches.
    fn stretched<const N: usize>(
        &mut self,
        input: &Activation<'c, 'a>,
        stretch: &Stretch<N>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let source = self.emit.channels_last(input)?;
        let mut result = source.clone();
        if stretch.stride.iter().any(|&stride| stride > 1) {
            let physical = source.physical();
            // [N, H, W, C] → [N, H, 1, W, 1, C], the new axes padded to the stride, and flat again.
            let (mut split, mut pad) = (vec![physical[0]], vec![[0; 2]]);
            for axis in 0..N {
                split.extend([physical[axis + 1], Dim::Fixed(1)]);
                pad.extend([[0; 2], [0, stretch.stride[axis] - 1]]);
                if let Dim::Fixed(size) = &mut result.shape[axis + 2] {
                    *size = size.saturating_mul(stretch.stride[axis]);
                }
            }
            split.push(physical[N + 1]);
            pad.push([0; 2]);
            let value = self.emit.reshape_raw(source.value, &physical, &split)?;
            let order = (0..split.len()).collect();
            let padded = self.emit.pad(&Activation { value, shape: split, order }, &pad, 0.0)?;
            result.value = self.emit.reshape_raw(padded.value, &padded.shape, &result.physical())?;
        }
        let mut start = vec![0; N + 2];
        let mut shape = result.shape.clone();
        for (axis, &[before, after]) in stretch.cut.iter().enumerate() {
            if let Dim::Fixed(size) = &mut shape[axis + 2] {
                start[axis + 2] = before;
                match size.checked_sub(before + after) {
                    Some(left) if left > 0 => *size = left,
                    _ => return unsupported("its padding leaves nothing of its input"),
                }
            }
        }
        self.emit.slice(&result, &start, &shape)
    }
}
