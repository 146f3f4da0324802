//! Convolutions, pooling over windows and batch normalization: the operators that want channels last. What windows over three
//! spatial axes and transposed convolutions are made of is in [`super::volume`] and [`super::transposed`].

use super::{
    call::{Call, Entry, Lowering, Operator, Results, one},
    reduce::Reducing,
};
use crate::import::{
    emit::{Activation, NHWC, check_picked},
    error::{Problem, invalid, unsupported},
    tensor::{Dim, Tensor, show},
};
use melior::ir::Value;
use mxc_dialects::tosa::{self, Binary, Custom, Flag, NanMode, Unary};

/// The operators of this file.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("AveragePool", |lowering, call| lowering.average_pool(call)),
    Operator::new("BatchNormalization", |lowering, call| lowering.batch_normalization(call)),
    Operator::new("Conv", |lowering, call| lowering.conv(call)).with_weight(1),
    Operator::new("GlobalAveragePool", |lowering, call| lowering.global_pool(call, Reducing::Mean)),
    Operator::new("GlobalLpPool", |lowering, call| lowering.global_lp_pool(call)),
    Operator::new("GlobalMaxPool", |lowering, call| lowering.global_pool(call, Reducing::Max)).moving(),
    Operator::new("LpPool", |lowering, call| lowering.lp_pool(call)),
    Operator::new("MaxPool", |lowering, call| lowering.max_pool(call)).moving(),
];

/// The window of a convolution or pooling over N spatial axes.
pub(super) struct Window<const N: usize> {
    pub kernel: [usize; N],
    pub stride: [usize; N],
    pub dilation: [usize; N],
    /// Before and after, per axis.
    pub pad: [[usize; 2]; N],
    /// The result's size.
    pub output: [usize; N],
    /// How many rows and columns at the end of the input no window covers, beyond its padding.
    pub crop: [usize; N],
}

/// A list attribute with a size for each of `spatial` axes, 1 where it is left out and for the axes beyond.
pub(super) fn spatial_sizes<const N: usize>(
    call: &Call<'_, '_, '_>,
    name: &str,
    spatial: usize,
) -> Result<[usize; N], Problem> {
    let sizes = call.node.sizes(name, spatial, 1, 1)?;
    Ok(std::array::from_fn(|axis| sizes.get(axis).copied().unwrap_or(1)))
}

/// The attribute `pads` of a window over `spatial` axes as before and after, per axis.
pub(super) fn declared_pads<const N: usize>(
    call: &Call<'_, '_, '_>,
    spatial: usize,
) -> Result<[[usize; 2]; N], Problem> {
    let pads = call.node.sizes("pads", 2 * spatial, 0, 0)?;
    Ok(std::array::from_fn(|axis| if axis < spatial { [pads[axis], pads[spatial + axis]] } else { [0; 2] }))
}

impl<const N: usize> Window<N> {
    /// Reads the attributes of a window for an input of logical shape `shape`. The padding at the end is trimmed (or with
    /// `ceil_mode` extended) so that the windows cover the padded input exactly, as TOSA requires.
    fn new(call: &Call<'_, '_, '_>, shape: &[Dim], kernel: [usize; N], spatial: usize) -> Result<Self, Problem> {
        let node = call.node;
        let (stride, dilation) = (spatial_sizes(call, "strides", spatial)?, spatial_sizes(call, "dilations", spatial)?);
        let ceil = node.int("ceil_mode", 0)? != 0;
        let auto = node.string("auto_pad", "NOTSET")?;
        let mut window =
            Self { kernel, stride, dilation, pad: declared_pads(call, spatial)?, output: [0; N], crop: [0; N] };
        for axis in 0..N {
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
            // Negative where the window is larger than the padded input, which ceil_mode may round up to one partial window.
            let span = padded as i64 - reach as i64;
            if span < 0 && !(ceil && span > -(stride as i64)) {
                return invalid(format!(
                    "its window of size {reach} does not fit its input '{}' of shape {} with padding {before} and {after}",
                    node.input(0),
                    show(shape)
                ));
            }
            let rest = span.rem_euclid(stride as i64) as usize;
            window.output[axis] = (span.div_euclid(stride as i64) + 1) as usize;
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

    /// The positions that the window at `at` covers on an axis of the input; some may lie outside.
    fn taps(&self, axis: usize, at: usize) -> Vec<i64> {
        let first = (at * self.stride[axis]) as i64 - self.pad[axis][0] as i64;
        (0..self.kernel[axis]).map(|step| first + (step * self.dilation[axis]) as i64).collect()
    }
}

impl Window<2> {
    /// Top, bottom, left, right.
    fn pads(&self) -> [usize; 4] {
        let [[top, bottom], [left, right]] = self.pad;
        [top, bottom, left, right]
    }

    /// Whether TOSA's poolings can express it: without dilation, and the padding smaller than the window.
    fn is_plain(&self) -> bool {
        self.dilation == [1, 1] && (0..2).all(|axis| self.pad[axis].iter().all(|&pad| pad < self.kernel[axis]))
    }

    /// The NHWC shape of the result.
    fn result(&self, batch: Dim, channels: usize) -> [Dim; 4] {
        [batch, Dim::Fixed(self.output[0]), Dim::Fixed(self.output[1]), Dim::Fixed(channels)]
    }
}

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// The channels-last input without the rows and columns that no window covers.
    fn windowed(&mut self, input: &Activation<'c, 'a>, window: &Window<2>) -> Result<Activation<'c, 'a>, Problem> {
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

    /// An input with one spatial axis as one with two, the second of size 1.
    pub(super) fn planar(&mut self, input: &Activation<'c, 'a>) -> Result<(Activation<'c, 'a>, usize), Problem> {
        match input.rank() {
            3 => {
                let shape = [input.shape.as_slice(), &[Dim::Fixed(1)]].concat();
                Ok((self.emit.reshape(input, &shape)?, 1))
            }
            4 => Ok((input.clone(), 2)),
            rank => unsupported(format!("windows over {} spatial axes", rank.saturating_sub(2))),
        }
    }

    /// A channels-last result with as many spatial axes as the input had.
    pub(super) fn spatial(&mut self, result: Activation<'c, 'a>, spatial: usize) -> Results<'c, 'a> {
        one(if spatial == 1 { self.squeeze(&result, &[3])? } else { result })
    }

    /// Conv over one to three spatial axes.
    fn conv(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let input = call.activation(0)?.clone();
        let (filter, groups) = self.filter(call, &input)?;
        let shape = filter.shape().to_vec();
        let (outputs, per_group) = (shape[0], shape[1]);
        let channels = input.shape[1].fixed().unwrap_or(0);
        if groups == 0
            || per_group.checked_mul(groups) != Some(channels)
            || outputs == 0
            || outputs % groups != 0
            || channels == 0
        {
            return misfit(call, &input, &shape);
        }
        let kernel = Kernel { name: call.node.input(1), filter, groups, bias: self.bias(call, outputs)? };
        if input.rank() == 5 {
            let window = Window::new(call, &input.shape, [shape[2], shape[3], shape[4]], 3)?;
            return one(self.volume(&input, kernel, &window)?);
        }
        let (planar, spatial) = self.planar(&input)?;
        let sizes = [shape[2], shape.get(3).copied().unwrap_or(1)];
        let window = Window::new(call, &planar.shape, sizes, spatial)?;
        let result = self.plane(&planar, kernel, &window)?;
        self.spatial(result, spatial)
    }

    /// The weight of a convolution and the number of its groups: as many axes as the input, none empty.
    pub(super) fn filter(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        input: &Activation<'c, 'a>,
    ) -> Result<(Filter<'c, 'a>, usize), Problem> {
        let node = call.node;
        let name = node.input(1);
        let filter = match call.entry(1)? {
            Entry::Constant(_) => Filter::Stationary(call.weight(1)?.clone()),
            Entry::Activation(weight) => match weight.shape.iter().map(|dim| dim.fixed()).collect() {
                Some(shape) => Filter::Computed(weight.clone(), shape),
                None => return unsupported(format!("its weight '{name}' depends on the batch")),
            },
            Entry::Unknown => return unsupported("its weight is not known"),
        };
        let shape = filter.shape();
        if input.rank() < 3 || shape.len() != input.rank() {
            return invalid(format!(
                "its input '{}' of shape {} and weight '{name}' of shape {shape:?} do not fit",
                node.input(0),
                show(&input.shape),
            ));
        }
        if input.rank() > 5 {
            return unsupported(format!("windows over {} spatial axes", input.rank() - 2));
        }
        if shape[2..].contains(&0) {
            return invalid(format!("its weight '{name}' is empty"));
        }
        if let Some(declared) = node.ints("kernel_shape")?
            && !declared.iter().copied().eq(shape[2..].iter().map(|&size| size as i64))
        {
            return invalid(format!("attribute 'kernel_shape' is {declared:?}, its weight '{name}' has {shape:?}"));
        }
        Ok((filter, usize::try_from(node.int("group", 1)?).unwrap_or(0)))
    }

    /// The bias of a convolution of so many output channels, zeros where it has none, and whether it is computed.
    pub(super) fn bias(&mut self, call: &Call<'_, 'c, 'a>, outputs: usize) -> Result<(Value<'c, 'a>, bool), Problem> {
        let name = call.node.input(2);
        Ok(match call.optional(2) {
            Some(Entry::Activation(bias)) if bias.shape == [Dim::Fixed(outputs)] => (bias.value, true),
            _ => match call.optional_constant(2)? {
                Some(bias) if bias.shape == [outputs] => (self.emit.weight(name, &[outputs], call.floats(2)?)?, false),
                Some(bias) => {
                    return invalid(format!("its bias '{name}' has the shape {:?}, not [{outputs}]", bias.shape));
                }
                None => (self.emit.constant(&[outputs], &vec![0.0; outputs])?, false),
            },
        })
    }

    /// A convolution over two spatial axes, channels last.
    pub(super) fn plane(
        &mut self,
        input: &Activation<'c, 'a>,
        Kernel { name, filter, groups, bias: (bias, given) }: Kernel<'_, 'c, 'a>,
        window: &Window<2>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let [height, width] = window.kernel;
        let (outputs, per_group) = (filter.shape()[0], filter.shape()[1]);
        let source = self.windowed(input, window)?;
        let result = window.result(input.shape[0], outputs);
        let zero = self.emit.zero()?;
        let (pad, stride, dilation) = (window.pads(), window.stride, window.dilation);
        let (input_zp, weight_zp, acc_type, local_bound) = (zero, zero, self.emit.f32(), Flag(false));
        let input = source.value;
        let r#type = self.emit.like(input, &result)?;
        let value = match filter {
            // [C·M, 1, H, W] → [H, W, C, M]
            Filter::Stationary(weight) if per_group == 1 && groups != 1 && !given => {
                let split = weight.reshaped(vec![groups, outputs / groups, height, width]);
                let weight = self.emit.tensor(name, &split.transposed(&[2, 3, 0, 1]))?;
                self.emit.append(tosa::DepthwiseConv2d {
                    input,
                    weight,
                    bias,
                    input_zp,
                    weight_zp,
                    pad,
                    stride,
                    dilation,
                    acc_type,
                    local_bound,
                    result: r#type,
                })?
            }
            filter => {
                let weight = match filter {
                    Filter::Stationary(weight) => {
                        let planar = weight.reshaped(vec![outputs, per_group, height, width]);
                        self.emit.tensor(name, &planar.transposed(&[0, 2, 3, 1]))?
                    }
                    // Digital, whatever the groups.
                    Filter::Computed(weight, _) => {
                        let (weight, _) = self.planar(&weight)?;
                        self.emit.in_order(&weight, &NHWC)?.value
                    }
                };
                if groups == 1 {
                    self.emit.append(tosa::Conv2d {
                        input,
                        weight,
                        bias,
                        input_zp,
                        weight_zp,
                        pad,
                        stride,
                        dilation,
                        acc_type,
                        local_bound,
                        result: r#type,
                    })?
                } else {
                    // TOSA has no groups.
                    let custom = Custom::Conv2d { stride, pad, dilation, groups };
                    self.emit.custom(custom, &[input, weight, bias], &result)?
                }
            }
        };
        Ok(nhwc(value, result))
    }

    /// `x·scale + shift` per channel; scale = γ/√(variance + ε), shift = β − mean·scale, in double precision.
    fn batch_normalization(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        if node.int("training_mode", 0)? != 0 {
            return unsupported("training_mode; export the model in evaluation mode");
        }
        // Before version 14 a node trains if it has more than one output.
        if call.opset < 14 && node.outputs.iter().skip(1).any(|output| !output.is_empty()) {
            return unsupported(format!(
                "with {} outputs it is in training mode; export the model in evaluation mode",
                node.outputs.len()
            ));
        }
        let input = call.activation(0)?;
        if input.rank() < 2 {
            return invalid(format!("its input '{}' of shape {} has no channels", node.input(0), show(&input.shape)));
        }
        let Some(channels) = input.shape[1].fixed() else {
            return unsupported("its channels depend on the batch size");
        };
        if (1..5).any(|index| matches!(call.optional(index), Some(Entry::Activation(_)))) {
            return self.computed_batch_normalization(call, channels);
        }
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
        let scaled = self.emit.binary_raw(Binary::Mul, input.value, scale, &physical)?;
        let value = self.emit.binary_raw(Binary::Add, scaled, shift, &physical)?;
        one(Activation { value, ..input })
    }

    /// A batch normalization whose parameters depend on the model's inputs.
    fn computed_batch_normalization(&mut self, call: &Call<'_, 'c, 'a>, channels: usize) -> Results<'c, 'a> {
        let input = call.activation(0)?.clone();
        let mut parameters = Vec::with_capacity(4);
        for index in 1..5 {
            parameters.push(match self.per_channel(call, index, input.rank(), channels)? {
                Entry::Constant(tensor) => self.materialized(call.node.input(index), &tensor, None)?,
                Entry::Activation(activation) => activation,
                Entry::Unknown => return unsupported("its input is not known"),
            });
        }
        let [scale, bias, mean, variance] = [0, 1, 2, 3].map(|index| &parameters[index]);
        let variance = self.emit.with_scalar(Binary::Add, variance, call.node.float("epsilon", 1e-5)?)?;
        let inverse = self.emit.unary(Unary::Rsqrt, &variance)?;
        let scale = self.pair(Binary::Mul, scale, &inverse)?;
        let centred = self.pair(Binary::Sub, &input, mean)?;
        let scaled = self.pair(Binary::Mul, &centred, &scale)?;
        one(self.pair(Binary::Add, &scaled, bias)?)
    }

    /// The planar input and the window of a pooling, and its number of spatial axes.
    fn pooling(&mut self, call: &Call<'_, 'c, 'a>) -> Result<(Activation<'c, 'a>, Window<2>, usize), Problem> {
        let (input, spatial) = self.planar(call.activation(0)?)?;
        let window = pool_window(call, &input, spatial)?;
        Ok((input, window, spatial))
    }

    fn max_pool(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        if call.node.outputs.get(1).is_some_and(|output| !output.is_empty()) {
            return unsupported("its output 'Indices'");
        }
        if let Some((input, window)) = volume_pooling(call)? {
            return one(self.pooled(&input, &window, Binary::Maximum, f32::MIN)?);
        }
        let (input, window, spatial) = self.pooling(call)?;
        if !window.is_plain() {
            let pooled = self.pooled(&input, &window, Binary::Maximum, f32::NEG_INFINITY)?;
            return self.spatial(pooled, spatial);
        }
        let source = self.windowed(&input, &window)?;
        let result = window.result(source.shape[0], channels(&source)?);
        let (kernel, stride, pad, nan_mode) = (window.kernel, window.stride, window.pads(), NanMode::Propagate);
        let (input, r#type) = (source.value, self.emit.like(source.value, &result)?);
        let value = self.emit.append(tosa::MaxPool2d { input, kernel, stride, pad, nan_mode, result: r#type })?;
        self.spatial(nhwc(value, result), spatial)
    }

    fn average_pool(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        if let Some((input, window)) = volume_pooling(call)? {
            return one(self.averaged(call, &input, &window, 3)?);
        }
        let (input, mut window, spatial) = self.pooling(call)?;
        if !window.is_plain() {
            let averaged = self.averaged(call, &input, &window, spatial)?;
            return self.spatial(averaged, spatial);
        }
        // TOSA leaves padding out of the average.
        let counted = call.node.int("count_include_pad", 0)? != 0;
        let counts = counted_pads(call, &window, spatial)?;
        let mut source = self.windowed(&input, &window)?;
        if counted && window.pads() != [0; 4] {
            // What counts becomes explicit.
            let mut explicit = [[0; 2]; 4];
            for axis in 0..2 {
                let [before, after] = window.pad[axis];
                // What ceil_mode added at the end does not count.
                let kept = after.min(counts[axis]);
                explicit[axis + 2] = [before, kept];
                window.pad[axis] = [0, after - kept];
            }
            source = self.emit.pad(&source, &explicit, 0.0)?;
        }
        let result = window.result(source.shape[0], channels(&source)?);
        let zero = self.emit.zero()?;
        let value = self.emit.append(tosa::AvgPool2d {
            input: source.value,
            input_zp: zero,
            output_zp: zero,
            kernel: window.kernel,
            stride: window.stride,
            pad: window.pads(),
            acc_type: self.emit.f32(),
            result: self.emit.like(source.value, &result)?,
        })?;
        self.spatial(nhwc(value, result), spatial)
    }

    /// An average that TOSA has no operation for: the sum over the window times the share of each element.
    fn averaged<const N: usize>(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        input: &Activation<'c, 'a>,
        window: &Window<N>,
        spatial: usize,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let sum = self.pooled(input, window, Binary::Add, 0.0)?;
        check_picked(window.output.iter().fold(1, |count: usize, &size| count.saturating_mul(size)))?;
        let counted = call.node.int("count_include_pad", 0)? != 0;
        let counts = counted_pads(call, window, spatial)?;
        // How many elements count at each position of each axis.
        let mut within = vec![1usize];
        for (axis, &counted_end) in counts.iter().enumerate() {
            let size = input.shape[axis + 2].fixed().unwrap_or(0);
            let counting = |tap: &&i64| match counted {
                true => **tap < (size + counted_end) as i64,
                false => (0..size as i64).contains(*tap),
            };
            let along: Vec<usize> =
                (0..window.output[axis]).map(|at| window.taps(axis, at).iter().filter(counting).count()).collect();
            within = within.iter().flat_map(|&before| along.iter().map(move |&own| before * own)).collect();
        }
        let shares: Vec<f32> = within.into_iter().map(|count| 1.0 / count.max(1) as f32).collect();
        let shares = Tensor::floats([&[1], window.output.as_slice()].concat(), shares);
        self.with_constant(Binary::Mul, &sum, &format!("{}.shares", call.name), &shares, false)
    }

    /// The attribute `p` and |x|ᵖ.
    fn power_of_size(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        input: &Activation<'c, 'a>,
    ) -> Result<(f32, Activation<'c, 'a>), Problem> {
        let p = call.node.int("p", 2)? as f32;
        let size = self.emit.unary(Unary::Abs, input)?;
        Ok((p, self.emit.with_scalar(Binary::Pow, &size, p)?))
    }

    /// LpPool: `(Σ|x|ᵖ)^(1/p)` over windows.
    fn lp_pool(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        if let Some((input, window)) = volume_pooling(call)? {
            let (p, power) = self.power_of_size(call, &input)?;
            let sum = self.pooled(&power, &window, Binary::Add, 0.0)?;
            return one(self.emit.with_scalar(Binary::Pow, &sum, 1.0 / p)?);
        }
        let (input, window, spatial) = self.pooling(call)?;
        let (p, power) = self.power_of_size(call, &input)?;
        let sum = self.pooled(&power, &window, Binary::Add, 0.0)?;
        let root = self.root_of(&sum, p)?;
        self.spatial(root, spatial)
    }

    /// GlobalLpPool.
    fn global_lp_pool(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let input = call.activation(0)?.clone();
        let (p, power) = self.power_of_size(call, &input)?;
        let axes: Vec<_> = (2..input.rank()).collect();
        let sum = self.reduce_axes(Reducing::Sum, &power, &axes)?;
        one(self.root_of(&sum, p)?)
    }

    /// `x^(1/p)` of a sum of powers.
    fn root_of(&mut self, sum: &Activation<'c, 'a>, p: f32) -> Result<Activation<'c, 'a>, Problem> {
        if p == 2.0 { self.emit.square_root(sum) } else { self.emit.with_scalar(Binary::Pow, sum, 1.0 / p) }
    }

    /// A pooling that TOSA has no operation for, one axis after the other: the elements of each step of the window, combined.
    /// `border` is what the padding holds.
    fn pooled<const N: usize>(
        &mut self,
        input: &Activation<'c, 'a>,
        window: &Window<N>,
        operation: Binary,
        border: f32,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let mut result = self.emit.channels_last(input)?;
        for axis in 0..N {
            let Some(size) = input.shape[axis + 2].fixed() else {
                return unsupported("its spatial axes depend on the batch size");
            };
            check_picked(window.output[axis].saturating_mul(window.kernel[axis]))?;
            let taps: Vec<_> = (0..window.output[axis]).map(|at| window.taps(axis, at)).collect();
            let outside = |tap: i64| !(0..size as i64).contains(&tap);
            let mut source = result.clone();
            if taps.iter().flatten().any(|&tap| outside(tap)) {
                let mut pad = vec![[0; 2]; input.rank()];
                pad[axis + 2][1] = 1;
                source = self.emit.pad(&result, &pad, border)?;
            }
            let mut combined: Option<Activation<'c, 'a>> = None;
            for step in 0..window.kernel[axis] {
                let indices: Vec<_> =
                    taps.iter().map(|taps| if outside(taps[step]) { size } else { taps[step] as usize }).collect();
                let part = self.emit.take(&source, axis + 2, &indices)?;
                combined = Some(match combined {
                    Some(before) => self.emit.binary(operation, &before, &part)?,
                    None => part,
                });
            }
            if let Some(combined) = combined {
                result = combined;
            }
        }
        Ok(result)
    }

    /// GlobalAveragePool and GlobalMaxPool: a reduction over the spatial axes that keeps them.
    fn global_pool(&mut self, call: &Call<'_, 'c, 'a>, kind: Reducing) -> Results<'c, 'a> {
        let input = call.activation(0)?;
        if input.rank() < 3 {
            return invalid(format!("its input has the shape {}; it has no spatial axes", show(&input.shape)));
        }
        let input = if input.rank() > 3 { self.emit.channels_last(input)? } else { input.clone() };
        let axes: Vec<_> = (2..input.rank()).collect();
        Ok(vec![Entry::Activation(self.reduce_axes(kind, &input, &axes)?)])
    }
}

/// What a convolution multiplies with: a weight `[O, I / groups, …]` with the spatial axes of its input.
#[derive(Clone)]
pub(super) enum Filter<'c, 'a> {
    /// Known at import time.
    Stationary(Tensor),
    /// Computed from the model's inputs, and its shape.
    Computed(Activation<'c, 'a>, Vec<usize>),
}

impl Filter<'_, '_> {
    /// The shape.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Stationary(weight) => &weight.shape,
            Self::Computed(_, shape) => shape,
        }
    }
}

/// The operands of a convolution but its input.
pub(super) struct Kernel<'n, 'c, 'a> {
    /// The weight's name.
    pub name: &'n str,
    pub filter: Filter<'c, 'a>,
    pub groups: usize,
    /// The bias and whether it is computed.
    pub bias: (Value<'c, 'a>, bool),
}

/// The error of a convolution whose input, weight and groups do not fit.
pub(super) fn misfit<T>(call: &Call<'_, '_, '_>, input: &Activation<'_, '_>, weight: &[usize]) -> Result<T, Problem> {
    invalid(format!(
        "its input '{}' of shape {}, weight '{}' of shape {weight:?} and group {} do not fit",
        call.node.input(0),
        show(&input.shape),
        call.node.input(1),
        call.node.int("group", 1)?
    ))
}

/// The window of a pooling.
fn pool_window<const N: usize>(
    call: &Call<'_, '_, '_>,
    input: &Activation<'_, '_>,
    spatial: usize,
) -> Result<Window<N>, Problem> {
    let Some(kernel) = call.node.ints("kernel_shape")? else {
        return invalid("attribute 'kernel_shape' is missing");
    };
    if kernel.len() != spatial {
        return invalid(format!("attribute 'kernel_shape' is {kernel:?}; its input has {spatial} spatial axes"));
    }
    Window::new(call, &input.shape, spatial_sizes(call, "kernel_shape", spatial)?, spatial)
}

/// The input and the window of a pooling over three spatial axes; `None` where it has fewer.
fn volume_pooling<'c, 'a>(call: &Call<'_, 'c, 'a>) -> Result<Option<(Activation<'c, 'a>, Window<3>)>, Problem> {
    let input = call.activation(0)?;
    if input.rank() != 5 {
        return Ok(None);
    }
    Ok(Some((input.clone(), pool_window(call, input, 3)?)))
}

/// How much of the padding at the end of each axis an average with `count_include_pad` counts: what is declared, not what
/// ceil_mode adds.
fn counted_pads<const N: usize>(
    call: &Call<'_, '_, '_>,
    window: &Window<N>,
    spatial: usize,
) -> Result<[usize; N], Problem> {
    let pads = match call.node.string("auto_pad", "NOTSET")? {
        "NOTSET" | "" => declared_pads(call, spatial)?,
        "VALID" => [[0; 2]; N],
        _ => window.pad,
    };
    Ok(pads.map(|[_, after]| after))
}

/// The number of channels of a rank-4 activation.
fn channels(activation: &Activation<'_, '_>) -> Result<usize, Problem> {
    match activation.shape[1] {
        Dim::Fixed(channels) => Ok(channels),
        Dim::Batch(_) => unsupported("its channels depend on the batch size"),
    }
}

/// A channels-last value with its physical shape.
fn nhwc<'c, 'a>(value: Value<'c, 'a>, physical: [Dim; 4]) -> Activation<'c, 'a> {
    let [batch, height, width, channels] = physical;
    Activation { value, shape: vec![batch, channels, height, width], order: NHWC.to_vec() }
}
