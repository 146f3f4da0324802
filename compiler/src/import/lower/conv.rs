//! Convolutions, pooling over windows and batch normalization: the operators that want channels last.

use super::{Call, Entry, Lowering, Results, one};
use crate::import::{
    emit::{Activation, NHWC},
    error::{Problem, invalid, unsupported},
    tensor::{Dim, Tensor, show},
};
use std::sync::Arc;

/// The window of a convolution or pooling over two spatial axes.
struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    /// Before and after, per axis.
    pad: [[usize; 2]; 2],
    /// The result's size.
    output: [usize; 2],
    /// How many rows and columns at the end of the input no window covers, beyond its padding.
    crop: [usize; 2],
}

impl Window {
    /// Reads the attributes of a window for an input of logical shape `shape`. The padding at the end is trimmed (or with
    /// `ceil_mode` extended) so that the windows cover the padded input exactly, as TOSA requires.
    fn new(call: &Call<'_, '_, '_>, shape: &[Dim], kernel: [usize; 2]) -> Result<Self, Problem> {
        let node = call.node;
        let pair = |name: &str| node.sizes(name, 2, 1, 1).map(|sizes| [sizes[0], sizes[1]]);
        let (stride, dilation) = (pair("strides")?, pair("dilations")?);
        let pads = node.sizes("pads", 4, 0, 0)?;
        let ceil = node.int("ceil_mode", 0)? != 0;
        let auto = node.string("auto_pad", "NOTSET")?;
        let mut window = Self {
            kernel,
            stride,
            dilation,
            pad: [[pads[0], pads[2]], [pads[1], pads[3]]],
            output: [0; 2],
            crop: [0; 2],
        };
        for axis in 0..2 {
            let Some(size) = shape[axis + 2].fixed() else {
                return unsupported(format!("its input's spatial axes must be fixed, not {}", show(shape)));
            };
            let reach = (kernel[axis] - 1).checked_mul(dilation[axis]).and_then(|reach| reach.checked_add(1));
            let Some(reach) = reach else {
                return invalid("its kernel is too large");
            };
            let stride = stride[axis];
            let [before, after] = &mut window.pad[axis];
            match auto {
                "NOTSET" | "" => {}
                "VALID" => (*before, *after) = (0, 0),
                "SAME_UPPER" | "SAME_LOWER" => {
                    let total = ((size.div_ceil(stride).max(1) - 1) * stride + reach).saturating_sub(size);
                    let (small, large) = (total / 2, total - total / 2);
                    (*before, *after) = if auto == "SAME_UPPER" { (small, large) } else { (large, small) };
                }
                _ => return invalid(format!("attribute 'auto_pad' is '{auto}'")),
            }
            let padded = size + *before + *after;
            let Some(span) = padded.checked_sub(reach) else {
                return invalid(format!(
                    "its window of size {reach} does not fit its input '{}' of shape {} with padding {before} and {after}",
                    node.input(0),
                    show(shape)
                ));
            };
            let rest = span % stride;
            window.output[axis] = span / stride + 1;
            // A further, partial window must start inside the input or the padding before it.
            if ceil && rest > 0 && window.output[axis] * stride < size + *before {
                window.output[axis] += 1;
                *after += stride - rest;
            } else {
                let trimmed = rest.min(*after);
                *after -= trimmed;
                window.crop[axis] = rest - trimmed;
            }
        }
        Ok(window)
    }

    /// Top, bottom, left, right.
    fn pads(&self) -> [usize; 4] {
        let [[top, bottom], [left, right]] = self.pad;
        [top, bottom, left, right]
    }

    /// The NHWC shape of the result.
    fn result(&self, batch: Dim, channels: usize) -> [Dim; 4] {
        [batch, Dim::Fixed(self.output[0]), Dim::Fixed(self.output[1]), Dim::Fixed(channels)]
    }
}

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// The channels-last input without the rows and columns that no window covers.
    fn windowed(&mut self, input: &Activation<'c, 'a>, window: &Window) -> Result<Activation<'c, 'a>, Problem> {
        let input = self.emit.nhwc(input)?;
        let mut shape = input.shape.clone();
        for axis in 0..2 {
            if let Dim::Fixed(size) = &mut shape[axis + 2] {
                // A crop reaches past the input only where the padding alone is wider than the window.
                *size = size.saturating_sub(window.crop[axis]);
            }
        }
        self.emit.slice(&input, &[0; 4], &shape)
    }

    pub(super) fn conv(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let input = call.activation(0)?;
        let weight = call.constant(1)?;
        let name = node.input(1);
        if input.rank() != 4 || weight.shape.len() != 4 {
            if weight.shape.len() == input.rank() && (3..=5).contains(&input.rank()) {
                return unsupported(format!("a convolution over {} spatial axes", input.rank() - 2));
            }
            return invalid(format!(
                "its input '{}' of shape {} and weight '{name}' of shape {:?} do not fit",
                node.input(0),
                show(&input.shape),
                weight.shape
            ));
        }
        let [outputs, per_group, height, width] = [0, 1, 2, 3].map(|axis| weight.shape[axis]);
        let groups = usize::try_from(node.int("group", 1)?).unwrap_or(0);
        let channels = input.shape[1].fixed().unwrap_or(0);
        if groups == 0
            || per_group.checked_mul(groups) != Some(channels)
            || outputs == 0
            || outputs % groups != 0
            || channels == 0
        {
            return invalid(format!(
                "its input '{}' of shape {}, weight '{name}' of shape {:?} and group {groups} do not fit",
                node.input(0),
                show(&input.shape),
                weight.shape
            ));
        }
        if height == 0 || width == 0 {
            return invalid(format!("its weight '{name}' is empty"));
        }
        if let Some(kernel) = node.ints("kernel_shape")?
            && kernel != [height as i64, width as i64]
        {
            return invalid(format!(
                "attribute 'kernel_shape' is {kernel:?}, its weight '{name}' has {:?}",
                weight.shape
            ));
        }
        let values = call.floats(1)?;
        let window = Window::new(call, &input.shape, [height, width])?;
        let bias = match call.optional_constant(2)? {
            Some(bias) if bias.shape == [outputs] => self.emit.weight(node.input(2), &[outputs], call.floats(2)?)?,
            Some(bias) => {
                return invalid(format!(
                    "its bias '{}' has the shape {:?}, not [{outputs}]",
                    node.input(2),
                    bias.shape
                ));
            }
            None => self.emit.constant(&[outputs], &vec![0.0; outputs])?,
        };
        let source = self.windowed(input, &window)?;
        let result = window.result(input.shape[0], outputs);
        let weight = Tensor::floats(weight.shape.clone(), values);
        let zero = self.emit.zero()?;
        let attributes = [
            ("pad", self.emit.integers(&window.pads())),
            ("stride", self.emit.integers(&window.stride)),
            ("dilation", self.emit.integers(&window.dilation)),
            ("acc_type", self.emit.accumulator()),
        ];
        let value = if groups == 1 {
            let weight = self.transposed_weight(name, &weight, &[0, 2, 3, 1])?;
            self.emit.shaped("tosa.conv2d", &[source.value, weight, bias, zero, zero], &attributes, &result)?
        } else if groups == channels {
            // [C·M, 1, H, W] → [H, W, C, M]
            let split = weight.reshaped(vec![channels, outputs / channels, height, width]);
            let weight = self.transposed_weight(name, &split, &[2, 3, 0, 1])?;
            let operands = [source.value, weight, bias, zero, zero];
            self.emit.shaped("tosa.depthwise_conv2d", &operands, &attributes, &result)?
        } else {
            // TOSA has no groups.
            let weight = self.transposed_weight(name, &weight, &[0, 2, 3, 1])?;
            let list = |values: &[usize]| values.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
            let description = format!(
                "stride={};pad={};dilation={};groups={groups}",
                list(&window.stride),
                list(&window.pads()),
                list(&window.dilation)
            );
            let attributes = [
                ("operator_name", self.emit.string("conv2d")),
                ("domain_name", self.emit.string("mxc")),
                ("implementation_attrs", self.emit.string(&description)),
            ];
            self.emit.shaped("tosa.custom", &[source.value, weight, bias], &attributes, &result)?
        };
        one(nhwc(value, result))
    }

    /// A weight with its axes permuted, in the weight store under the initializer's name.
    fn transposed_weight(
        &mut self,
        name: &str,
        weight: &Tensor,
        perms: &[usize],
    ) -> Result<melior::ir::Value<'c, 'a>, Problem> {
        let transposed = weight.transposed(perms);
        let values = transposed.to_floats().unwrap_or_else(|| Arc::from([]));
        self.emit.weight(name, &transposed.shape, values)
    }

    /// `x·scale + shift` per channel; scale = γ/√(variance + ε), shift = β − mean·scale, in double precision.
    pub(super) fn batch_normalization(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        if node.int("training_mode", 0)? != 0 {
            return unsupported("training_mode; export the model in evaluation mode");
        }
        // Further outputs exist only in training.
        let input = call.activation(0)?;
        if input.rank() < 2 {
            return invalid(format!("its input '{}' of shape {} has no channels", node.input(0), show(&input.shape)));
        }
        let Some(channels) = input.shape[1].fixed() else {
            return unsupported("its channels depend on the batch size");
        };
        let mut parameters = Vec::with_capacity(4);
        for index in 1..5 {
            let parameter = call.constant(index)?;
            if parameter.len() != channels {
                return invalid(format!(
                    "'{}' has the shape {:?}, its input '{}' has {channels} channels",
                    node.input(index),
                    parameter.shape,
                    node.input(0)
                ));
            }
            parameters.push(call.floats(index)?);
        }
        let epsilon = f64::from(node.float("epsilon", 1e-5)?);
        let at = |parameter: usize, channel: usize| f64::from(parameters[parameter][channel]);
        let scale: Vec<f64> = (0..channels).map(|channel| at(0, channel) / (at(3, channel) + epsilon).sqrt()).collect();
        let shift: Vec<f32> =
            (0..channels).map(|channel| (at(1, channel) - at(2, channel) * scale[channel]) as f32).collect();
        let scale: Vec<f32> = scale.into_iter().map(|scale| scale as f32).collect();
        let input = if input.rank() == 4 { self.emit.nhwc(input)? } else { input.clone() };
        let mut shape = vec![1; input.rank()];
        shape[input.position(1)] = channels;
        let name = call.name;
        let scale = self.emit.weight(&format!("{name}.scale"), &shape, scale)?;
        let shift = self.emit.weight(&format!("{name}.shift"), &shape, shift)?;
        let physical = input.physical();
        let scaled = self.emit.binary_raw("tosa.mul", input.value, scale, &physical)?;
        let value = self.emit.binary_raw("tosa.add", scaled, shift, &physical)?;
        one(Activation { value, ..input })
    }

    /// The window of a pooling.
    fn pooling_window(&mut self, call: &Call<'_, 'c, 'a>) -> Result<Window, Problem> {
        let input = call.activation(0)?;
        if input.rank() != 4 {
            return unsupported(format!("pooling over {} spatial axes", input.rank().saturating_sub(2)));
        }
        let Some(kernel) = call.node.ints("kernel_shape")? else {
            return invalid("attribute 'kernel_shape' is missing");
        };
        if kernel.len() != 2 {
            return invalid(format!("attribute 'kernel_shape' is {kernel:?}; its input has two spatial axes"));
        }
        let kernel = call.node.sizes("kernel_shape", 2, 1, 1)?;
        let window = Window::new(call, &input.shape, [kernel[0], kernel[1]])?;
        if window.dilation != [1, 1] {
            return unsupported("dilations");
        }
        Ok(window)
    }

    pub(super) fn max_pool(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        if call.node.outputs.get(1).is_some_and(|output| !output.is_empty()) {
            return unsupported("its output 'Indices'");
        }
        let input = call.activation(0)?;
        let window = self.pooling_window(call)?;
        if (0..2).any(|axis| window.pad[axis].iter().any(|&pad| pad >= window.kernel[axis])) {
            return invalid("its padding is not smaller than its kernel");
        }
        let source = self.windowed(input, &window)?;
        let result = window.result(source.shape[0], channels(&source)?);
        let attributes = [
            ("kernel", self.emit.integers(&window.kernel)),
            ("stride", self.emit.integers(&window.stride)),
            ("pad", self.emit.integers(&window.pads())),
        ];
        let value = self.emit.shaped("tosa.max_pool2d", &[source.value], &attributes, &result)?;
        one(nhwc(value, result))
    }

    pub(super) fn average_pool(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let input = call.activation(0)?;
        let mut window = self.pooling_window(call)?;
        // TOSA leaves padding out of the average.
        let counted = call.node.int("count_include_pad", 0)? != 0;
        let mut source = self.windowed(input, &window)?;
        if counted && window.pads() != [0; 4] {
            // What ceil_mode added at the end does not count; the rest becomes explicit.
            let declared = call.node.sizes("pads", 4, 0, 0)?;
            let auto = !matches!(call.node.string("auto_pad", "NOTSET")?, "NOTSET" | "");
            let mut explicit = [[0; 2]; 4];
            for axis in 0..2 {
                let [before, after] = window.pad[axis];
                let kept = if auto { after } else { after.min(declared[axis + 2]) };
                explicit[axis + 2] = [before, kept];
                window.pad[axis] = [0, after - kept];
            }
            source = self.emit.pad(&source, &explicit, 0.0)?;
        }
        if (0..2).any(|axis| window.pad[axis].iter().any(|&pad| pad >= window.kernel[axis])) {
            return invalid("its padding is not smaller than its kernel");
        }
        let result = window.result(source.shape[0], channels(&source)?);
        let zero = self.emit.zero()?;
        let attributes = [
            ("kernel", self.emit.integers(&window.kernel)),
            ("stride", self.emit.integers(&window.stride)),
            ("pad", self.emit.integers(&window.pads())),
            ("acc_type", self.emit.accumulator()),
        ];
        let value = self.emit.shaped("tosa.avg_pool2d", &[source.value, zero, zero], &attributes, &result)?;
        one(nhwc(value, result))
    }

    /// GlobalAveragePool and GlobalMaxPool: a reduction over the spatial axes that keeps them.
    pub(super) fn global_pool(&mut self, call: &Call<'_, 'c, 'a>, op: &str) -> Results<'c, 'a> {
        let input = call.activation(0)?;
        if input.rank() < 3 {
            return invalid(format!("its input has the shape {}; it has no spatial axes", show(&input.shape)));
        }
        let input = if input.rank() == 4 { self.emit.nhwc(input)? } else { input.clone() };
        let axes: Vec<_> = (2..input.rank()).collect();
        Ok(vec![Entry::Activation(self.reduce_axes(op, &input, &axes)?)])
    }
}

/// The number of channels of a rank-4 activation.
fn channels(activation: &Activation<'_, '_>) -> Result<usize, Problem> {
    match activation.shape[1] {
        Dim::Fixed(channels) => Ok(channels),
        Dim::Batch(_) => unsupported("its channels depend on the batch size"),
    }
}

/// A channels-last value with its physical shape.
fn nhwc<'c, 'a>(value: melior::ir::Value<'c, 'a>, physical: [Dim; 4]) -> Activation<'c, 'a> {
    let [batch, height, width, channels] = physical;
    Activation { value, shape: vec![batch, channels, height, width], order: NHWC.to_vec() }
}
