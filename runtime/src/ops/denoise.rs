//! Denoisers: of any expression a step for every term; of the paper's form a kernel for the whole block.

use super::{
    binary::{Affine, Elementwise},
    operator::{Operand, Operator, Planned, Type, floats, show},
    reference::{Exact, Tensor},
};
use crate::{
    error::ExecError,
    exec::{
        buffers::{Buffer, Pool},
        kernel::{Backward, Forward, Id, Kernel, Reads},
        sample::Seen,
        worker::Extra,
    },
    kernels::{
        broadcast::{Arithmetic, Broadcast},
        depthwise::{self, Depthwise},
        elementwise,
        gemm::{self, Start, View, gemm, sum_rows},
        layout::images,
        noise::Fill,
    },
    plan::steps::{Argument, Steps},
    program::value::{LayerId, ValueId},
    rng::{self, Stream, layer_hash},
};
use mxc_spec::{
    denoise::{
        Kind, SLOPE,
        expression::{Expression, Layout, Primitive, TermId},
    },
    noise::Lifetime,
};

/// A denoiser: input, then the parameters of the kind's expression, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Denoise {
    /// The layer it cleans.
    pub layer: LayerId,
    /// What it computes.
    pub kind: &'static Kind,
}

impl Operator for Denoise {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let expression = self.kind.expression();
        let Some((x, weights)) = operands.split_first() else {
            return Err("it has no operand".to_owned());
        };
        if weights.len() != expression.parameters().len() {
            return Err(format!("it has {} operands, not {}", operands.len(), 1 + expression.parameters().len()));
        }
        floats(operands)?;
        if weights.iter().any(|weight| !weight.constant) {
            return Err("its weights must be constants".to_owned());
        }
        let shapes: Option<Vec<Vec<usize>>> =
            weights.iter().map(|weight| weight.shape.iter().copied().collect()).collect();
        let shapes = shapes.unwrap_or_default();
        let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        let channels = x.shape.get(1..).and_then(<[_]>::last).copied().flatten();
        let channels = channels.ok_or_else(|| format!("its input {} has no channel axis", show(x.shape)))?;
        let site = expression.fit(channels, &shapes)?;
        let reaches = |layout| matches!(layout, Layout::Depthwise(_));
        if site.spatial
            && x.shape.len() != 4
            && expression.parameters().iter().any(|parameter| reaches(parameter.layout))
        {
            return Err(format!("its operand has rank {}, not 4", x.shape.len()));
        }
        Ok(x.same())
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        let x = node.x();
        if !steps.key.denoise {
            return Ok(x);
        }
        let channels = node.shape.last().copied().unwrap_or(1);
        let pixels = node.shape.iter().product::<usize>() / channels.max(1);
        let name = steps.layers.get(self.layer).map_or("", |layer| layer.name.as_str());
        let layer = Layer { id: self.layer, hash: layer_hash(name) };
        let site = Site { layer, parameters: &node.operands[1..], shape: node.shape, channels, pixels };
        let expression = self.kind.expression();
        Ok(match block(expression, &site) {
            Some(block) => steps.push(block, vec![x], pixels * channels),
            None => terms(expression, x, &site, steps),
        })
    }

    fn exact(&self, run: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        if !run.sample.mode.denoise {
            return Ok(operands[0].clone());
        }
        exact(run, self.layer, self.kind.expression(), operands, shape)
    }
}

/// The layer that a denoiser cleans, and its part of the name of ε's stream.
#[derive(Clone, Copy, Debug)]
struct Layer {
    id: LayerId,
    hash: u64,
}

/// Where a denoiser acts.
struct Site<'a> {
    layer: Layer,
    /// Its weights, in the expression's order.
    parameters: &'a [Argument<'a>],
    /// The value's shape, channels last.
    shape: &'a [usize],
    channels: usize,
    pixels: usize,
}

impl Site<'_> {
    fn parameter(&self, number: usize) -> ValueId {
        self.parameters[number].value
    }

    /// A depthwise convolution, as its weight says: over rows and columns, or 1×1 over one row of pixels.
    fn filter(&self, weight: usize, channels: usize) -> Depthwise {
        let kernel = self.parameters[weight].shape.first().copied().unwrap_or(1);
        let image = match self.shape {
            &[_, rows, columns, _] if kernel > 1 => [rows, columns],
            _ => [1, self.pixels],
        };
        Depthwise {
            input: image,
            output: image,
            channels,
            kernel: [kernel; 2],
            stride: [1; 2],
            pad: [kernel / 2; 2],
            dilation: [1; 2],
        }
    }
}

/// A step for every term.
fn terms(expression: &Expression, x: Id, site: &Site<'_>, steps: &mut Steps<'_>) -> Id {
    let width = |term: TermId| expression.width(term).of(site.channels);
    let mut ids: Vec<Id> = Vec::new();
    let mut draws = 0..;
    for (index, term) in expression.terms().iter().enumerate() {
        let len = site.pixels * width(index);
        let binary = |op| Elementwise { op, shape: Broadcast::equal(len) };
        let inputs: Vec<Id> = term.primitive.terms().iter().map(|operand| ids[*operand]).collect();
        ids.push(match &term.primitive {
            Primitive::Input => x,
            Primitive::Pointwise { x, weight, bias } => {
                let kernel = Pointwise {
                    size: [site.pixels, width(*x), width(index)],
                    weight: site.parameter(*weight),
                    bias: bias.map(|bias| site.parameter(bias)),
                };
                steps.push(kernel, inputs, len)
            }
            Primitive::Depthwise { weight, bias, .. } => {
                let kernel = Filter {
                    shape: site.filter(*weight, width(index)),
                    weight: site.parameter(*weight),
                    bias: bias.map(|bias| site.parameter(bias)),
                };
                steps.push(kernel, inputs, len)
            }
            Primitive::LeakyRelu { .. } => steps.push(LeakyRelu, inputs, len),
            Primitive::ScaleShift { scale: Some(scale), shift, .. } => {
                let kernel = Affine { scale: site.parameter(*scale), shift: site.parameter(*shift) };
                steps.push(kernel, inputs, len)
            }
            Primitive::ScaleShift { scale: None, shift, .. } => {
                steps.push(Shift { shift: site.parameter(*shift) }, inputs, len)
            }
            Primitive::Draw { like } => {
                let kernel = Draw { layer: site.layer, number: draws.next().unwrap_or(0) };
                steps.push(kernel, vec![x, ids[*like]], len)
            }
            Primitive::Multiply(_) => steps.push(binary(Arithmetic::Mul), inputs, len),
            Primitive::Add(_) => steps.push(binary(Arithmetic::Add), inputs, len),
            Primitive::Subtract(_) => steps.push(binary(Arithmetic::Sub), inputs, len),
        });
    }
    ids.last().copied().unwrap_or(x)
}

/// The expression as a [`Block`], if it has that form.
fn block(expression: &Expression, site: &Site<'_>) -> Option<Block> {
    let primitive = |term: TermId| &expression.terms()[term].primitive;
    let pointwise = |term: TermId| match *primitive(term) {
        Primitive::Pointwise { x, weight, bias } => Some((x, [site.parameter(weight), site.parameter(bias?)])),
        _ => None,
    };
    let rectified = |term: TermId| match *primitive(term) {
        Primitive::LeakyRelu { x } => Some(x),
        _ => None,
    };
    let Primitive::Subtract([input, noise]) = *primitive(expression.result()) else {
        return None;
    };
    let (mean, sigma) = match *primitive(noise) {
        Primitive::Add([drawn, mean]) => match *primitive(drawn) {
            Primitive::Multiply([epsilon, sigma]) if *primitive(epsilon) == (Primitive::Draw { like: sigma }) => {
                (mean, Some(sigma))
            }
            _ => return None,
        },
        _ => (noise, None),
    };
    let (g, mean) = pointwise(mean)?;
    let sigma = match sigma {
        Some(sigma) => Some(pointwise(sigma).filter(|(x, _)| *x == g)?.1),
        None => None,
    };
    let Primitive::Depthwise { x: h, weight, bias } = *primitive(rectified(g)?) else {
        return None;
    };
    let (x, reduce) = pointwise(rectified(h)?)?;
    if x != input || *primitive(input) != Primitive::Input {
        return None;
    }
    let bottleneck = expression.width(g).of(site.channels);
    Some(Block {
        layer: site.layer,
        rows: site.pixels,
        channels: site.channels,
        bottleneck,
        depthwise: site.filter(weight, bottleneck),
        reduce,
        spatial: [site.parameter(weight), site.parameter(bias?)],
        mean,
        sigma,
    })
}

/// A denoiser's 1×1 convolution.
#[derive(Clone, Copy, Debug)]
struct Pointwise {
    /// Rows, inputs, outputs.
    size: [usize; 3],
    weight: ValueId,
    bias: Option<ValueId>,
}

impl Kernel for Pointwise {
    fn in_place(&self) -> bool {
        false
    }

    fn parameters(&self) -> Vec<ValueId> {
        [self.weight].into_iter().chain(self.bias).collect()
    }

    fn reads(&self, trained: bool) -> Result<Reads, &'static str> {
        Ok(if trained { Reads::OPERAND } else { Reads::NOTHING })
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        let (weight, bias) = (run.constant(self.weight), self.bias.map(|bias| run.constant(bias)));
        pointwise(self.size, run.operand(0), weight, bias, &mut run.tools.pool, run.out);
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: Buffer) -> Result<(), ExecError> {
        let [rows, inputs, outputs] = self.size;
        let x = run.operand(0);
        if let Some(total) = self.bias.and_then(|bias| run.weights.get_mut(&bias)) {
            sum_rows(&g, total);
        }
        if let Some(total) = run.weights.get_mut(&self.weight) {
            gemm([outputs, inputs, rows], View::transposed(&g, outputs), x, total, Start::Result);
        }
        if run.wanted(0) {
            let mut out = run.pool().take(rows * inputs);
            gemm([rows, inputs, outputs], View::rows(&g, outputs), run.constant(self.weight), &mut out, Start::Zero);
            run.add(0, out);
        }
        run.pool().give(g);
        Ok(())
    }
}

/// A denoiser's depthwise convolution.
#[derive(Clone, Copy, Debug)]
struct Filter {
    shape: Depthwise,
    weight: ValueId,
    bias: Option<ValueId>,
}

impl Kernel for Filter {
    fn in_place(&self) -> bool {
        false
    }

    fn parameters(&self) -> Vec<ValueId> {
        [self.weight].into_iter().chain(self.bias).collect()
    }

    fn reads(&self, trained: bool) -> Result<Reads, &'static str> {
        Ok(if trained { Reads::OPERAND } else { Reads::NOTHING })
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        let (weight, bias) = (run.constant(self.weight), self.bias.map(|bias| run.constant(bias)));
        filter(&self.shape, run.operand(0), weight, bias, &mut run.tools.pool, run.out);
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: Buffer) -> Result<(), ExecError> {
        if let Some(total) = self.bias.and_then(|bias| run.weights.get_mut(&bias)) {
            sum_rows(&g, total);
        }
        let (x, weight, len) = (run.operand(0), run.constant(self.weight), run.len(0));
        let pool = &mut run.tools.pool;
        let mut out = pool.take(len);
        filter_backward(&self.shape, (x, &g), weight, run.weights.get_mut(&self.weight), pool, &mut out);
        run.add(0, out);
        run.pool().give(g);
        Ok(())
    }
}

/// A shift per channel, in place.
#[derive(Clone, Copy, Debug)]
struct Shift {
    shift: ValueId,
}

impl Kernel for Shift {
    fn in_place(&self) -> bool {
        true
    }

    fn parameters(&self) -> Vec<ValueId> {
        vec![self.shift]
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(Reads::NOTHING)
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        elementwise::shift_rows(run.out, run.constant(self.shift));
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: Buffer) -> Result<(), ExecError> {
        if let Some(total) = run.weights.get_mut(&self.shift) {
            sum_rows(&g, total);
        }
        run.add(0, g);
        Ok(())
    }
}

/// In place.
#[derive(Clone, Copy, Debug)]
struct LeakyRelu;

impl Kernel for LeakyRelu {
    fn in_place(&self) -> bool {
        true
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(Reads::RESULT)
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        elementwise::leaky_relu(run.out, SLOPE as f32);
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, mut g: Buffer) -> Result<(), ExecError> {
        elementwise::leaky_relu_backward(&mut g, run.result(), SLOPE as f32);
        run.add(0, g);
        Ok(())
    }
}

/// A denoiser's `number`th ε for every element of its second operand; the first is the denoiser's input.
#[derive(Clone, Copy, Debug)]
struct Draw {
    layer: Layer,
    number: usize,
}

impl Kernel for Draw {
    fn in_place(&self) -> bool {
        false
    }

    /// A draw depends on nothing.
    fn is_constant(&self) -> bool {
        true
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(Reads::NOTHING)
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        if !run.sample.mode.sampling {
            run.out.fill(0.0);
            return Ok(());
        }
        let (input, sigma) = (run.operand(0), run.operand(1));
        run.observe(self.layer.id, Seen::Sigma { input, sigma });
        let stream = run.sample.stream(self.layer.hash, rng::Kind::Epsilon, self.number, Lifetime::Sample);
        stream.fill_normals(0, run.out);
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: Buffer) -> Result<(), ExecError> {
        run.pool().give(g);
        Ok(())
    }
}

/// The form `X − μ̂` or `X − (ε ⊙ σ̂ + μ̂)`, where both are 1×1 convolutions of
/// `g = lrelu(dwconv(lrelu(conv1×1(X))))`: the paper's block.
#[derive(Clone, Debug)]
struct Block {
    layer: Layer,
    /// Pixels: rows of the operand.
    rows: usize,
    channels: usize,
    bottleneck: usize,
    depthwise: Depthwise,
    /// Weights and biases: reduce, depthwise, mean, and sigma if it draws.
    reduce: [ValueId; 2],
    spatial: [ValueId; 2],
    mean: [ValueId; 2],
    sigma: Option<[ValueId; 2]>,
}

impl Kernel for Block {
    fn in_place(&self) -> bool {
        true
    }

    fn parameters(&self) -> Vec<ValueId> {
        [Some(self.reduce), Some(self.spatial), Some(self.mean), self.sigma].into_iter().flatten().flatten().collect()
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(Reads::OPERAND)
    }

    /// `x − (ε ⊙ σ̂ + μ̂)`.
    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        let Self { rows, channels, bottleneck, .. } = *self;
        let constants = run.values.constants;
        let constants = |pair: [ValueId; 2]| pair.map(|id| constants.get(id));
        let pool = &mut run.tools.pool;
        let x = &mut *run.out;
        let mut h = pool.take(rows * bottleneck);
        let [weight, bias] = constants(self.reduce);
        pointwise([rows, channels, bottleneck], x, weight, Some(bias), pool, &mut h);
        elementwise::leaky_relu(&mut h, SLOPE as f32);

        let mut g = pool.take(rows * bottleneck);
        let [weight, bias] = constants(self.spatial);
        filter(&self.depthwise, &h, weight, Some(bias), pool, &mut g);
        elementwise::leaky_relu(&mut g, SLOPE as f32);

        let head = |pair: [ValueId; 2], pool: &mut Pool| {
            let mut out = pool.take(rows * channels);
            let [weight, bias] = constants(pair);
            pointwise([rows, bottleneck, channels], &g, weight, Some(bias), pool, &mut out);
            out
        };
        let mu = head(self.mean, pool);
        let mut epsilon = None;
        match self.sigma.filter(|_| run.sample.mode.sampling) {
            Some(pair) => {
                let sigma = head(pair, pool);
                if let Some(observer) = &mut run.observer {
                    observer(self.layer.id, Seen::Sigma { input: x, sigma: &sigma });
                }
                let mut draws = pool.take(rows * channels);
                run.sample.stream(self.layer.hash, rng::Kind::Epsilon, 0, Lifetime::Sample).fill_normals(0, &mut draws);
                elementwise::subtract_noise(x, &mu, &sigma, &draws);
                pool.give(sigma);
                epsilon = Some(draws);
            }
            None => elementwise::subtract(x, &mu),
        }
        pool.give(mu);
        run.extra = Extra::Buffers([h, g].into_iter().chain(epsilon).collect());
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, mut out: Buffer) -> Result<(), ExecError> {
        let Self { rows, channels, bottleneck, ref depthwise, .. } = *self;
        let Extra::Buffers(saved) = run.extra else {
            run.add(0, out);
            return Ok(());
        };
        let saved =
            Saved { x: run.operand(0), h: &saved[0], g: &saved[1], epsilon: saved.get(2).map(|epsilon| &**epsilon) };
        let constants = run.values.constants;
        let (pool, weights) = (&mut run.tools.pool, &mut *run.weights);
        // Everything below the subtraction sees the negated gradient.
        let mut back = pool.take_copy(&out);
        elementwise::negate(&mut back);
        let mut inner = pool.take(rows * bottleneck);
        let mut filter = pool.take(channels * bottleneck);
        let mut head = |pair: [ValueId; 2], g: &[f32], inner: &mut [f32], start: Start<'_>| {
            if let Some(total) = weights.get_mut(&pair[0]) {
                // [B, C], then added transposed.
                gemm([bottleneck, channels, rows], View::transposed(saved.g, bottleneck), g, &mut filter, Start::Zero);
                for (channel, total) in total.chunks_exact_mut(bottleneck.max(1)).enumerate() {
                    for (at, total) in total.iter_mut().enumerate() {
                        *total += filter[at * channels + channel];
                    }
                }
            }
            if let Some(total) = weights.get_mut(&pair[1]) {
                sum_rows(g, total);
            }
            gemm([rows, bottleneck, channels], View::rows(g, channels), constants.get(pair[0]), inner, start);
        };
        head(self.mean, &back, &mut inner, Start::Zero);
        if let (Some(pair), Some(epsilon)) = (self.sigma, saved.epsilon) {
            let mut scaled = pool.take(rows * channels);
            elementwise::multiply(&back, epsilon, &mut scaled);
            head(pair, &scaled, &mut inner, Start::Result);
            pool.give(scaled);
        }
        elementwise::leaky_relu_backward(&mut inner, saved.g, SLOPE as f32);
        if let Some(total) = weights.get_mut(&self.spatial[1]) {
            sum_rows(&inner, total);
        }
        let mut outer = pool.take(rows * bottleneck);
        let total = weights.get_mut(&self.spatial[0]);
        filter_backward(depthwise, (saved.h, &inner), constants.get(self.spatial[0]), total, pool, &mut outer);
        elementwise::leaky_relu_backward(&mut outer, saved.h, SLOPE as f32);
        if let Some(total) = weights.get_mut(&self.reduce[1]) {
            sum_rows(&outer, total);
        }
        if let Some(total) = weights.get_mut(&self.reduce[0]) {
            gemm([bottleneck, channels, rows], View::transposed(&outer, bottleneck), saved.x, total, Start::Result);
        }
        gemm(
            [rows, channels, bottleneck],
            View::rows(&outer, bottleneck),
            constants.get(self.reduce[0]),
            &mut out,
            Start::Result,
        );
        for buffer in [back, inner, filter, outer] {
            pool.give(buffer);
        }
        run.add(0, out);
        Ok(())
    }
}

/// What a block's forward pass kept.
struct Saved<'a> {
    x: &'a [f32],
    h: &'a [f32],
    g: &'a [f32],
    epsilon: Option<&'a [f32]>,
}

/// A 1×1 convolution: x is `[rows, inputs]`, the weight `[outputs, inputs]`.
fn pointwise(
    [rows, inputs, outputs]: [usize; 3],
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    pool: &mut Pool,
    out: &mut [f32],
) {
    let mut transposed = pool.take(inputs * outputs);
    gemm::transpose(weight, inputs, &mut transposed);
    let start = bias.map_or(Start::Zero, Start::Row);
    gemm([rows, outputs, inputs], View::rows(x, inputs), &transposed, out, start);
    pool.give(transposed);
}

/// A depthwise convolution, image by image; the weight is `[KH, KW, C]`.
fn filter(shape: &Depthwise, x: &[f32], weight: &[f32], bias: Option<&[f32]>, pool: &mut Pool, out: &mut [f32]) {
    let mut work = pool.take(shape.work_len());
    images(x, out, shape.input, shape.output, shape.channels)
        .for_each(|(x, out)| depthwise::forward(shape, x, weight, bias, &mut work, out));
    pool.give(work);
}

/// The gradients of [`filter`]: adds to the weight's, if it is trained, and gives the operand's.
fn filter_backward(
    shape: &Depthwise,
    (x, g): (&[f32], &[f32]),
    weight: &[f32],
    total: Option<&mut Vec<f32>>,
    pool: &mut Pool,
    out: &mut [f32],
) {
    let mut work = pool.take(shape.work_len());
    if let Some(total) = total {
        let image = shape.input[0] * shape.input[1] * shape.channels;
        for (x, g) in x.chunks_exact(image.max(1)).zip(g.chunks_exact(image.max(1))) {
            depthwise::backward_weights(shape, x, g, total);
        }
    }
    images(g, out, shape.output, shape.input, shape.channels)
        .for_each(|(g, out)| depthwise::backward_data(shape, g, weight, &mut work, out));
    pool.give(work);
}

/// A denoiser, term by term.
fn exact(
    run: &Exact<'_>,
    layer: LayerId,
    expression: &Expression,
    operands: &[&Tensor],
    shape: &[usize],
) -> Result<Tensor, String> {
    let channels = shape.last().copied().unwrap_or(1);
    // Images, rows, columns; what has none is one column of pixels.
    let image = match shape {
        &[n, h, w, _] => [n, h, w],
        _ => [1, operands[0].values.len() / channels, 1],
    };
    let weight = |parameter: usize| operands[1 + parameter];
    let bias = |bias: Option<usize>, channel: usize| bias.map_or(0.0, |bias| weight(bias).values[channel]);
    let mut values: Vec<Tensor> = Vec::new();
    for (index, term) in expression.terms().iter().enumerate() {
        let full = [image.as_slice(), &[expression.width(index).of(channels)]].concat();
        let both = |[a, b]: [usize; 2], f: fn(f64, f64) -> f64| {
            let pairs = values[a].values.iter().zip(&values[b].values);
            Tensor { shape: full.clone(), values: pairs.map(|(a, b)| f(*a, *b)).collect() }
        };
        let value = match &term.primitive {
            Primitive::Input => Tensor { shape: full.clone(), values: operands[0].values.clone() },
            Primitive::Pointwise { x, weight: w, bias: b } => {
                let (x, w) = (&values[*x], weight(*w));
                let inputs = x.shape[3];
                Tensor::from_fn(&full, |i| {
                    let products = (0..inputs).map(|k| x.at(&[i[0], i[1], i[2], k]) * w.values[i[3] * inputs + k]);
                    bias(*b, i[3]) + products.sum::<f64>()
                })
            }
            Primitive::Depthwise { x, weight: w, bias: b } => {
                let (x, w) = (&values[*x], weight(*w));
                let kernel = w.shape[0];
                let half = kernel / 2;
                Tensor::from_fn(&full, |i| {
                    let mut sum = bias(*b, i[3]);
                    for (kh, kw) in (0..kernel).flat_map(|kh| (0..kernel).map(move |kw| (kh, kw))) {
                        let (row, column) = (i[1] + kh, i[2] + kw);
                        if row >= half && column >= half && row - half < full[1] && column - half < full[2] {
                            sum += x.at(&[i[0], row - half, column - half, i[3]])
                                * w.values[(kh * kernel + kw) * full[3] + i[3]];
                        }
                    }
                    sum
                })
            }
            Primitive::LeakyRelu { x } => {
                let rectified = |&x: &f64| if x >= 0.0 { x } else { SLOPE * x };
                Tensor { shape: full.clone(), values: values[*x].values.iter().map(rectified).collect() }
            }
            Primitive::ScaleShift { x, scale, shift } => {
                let factor = |channel: usize| scale.map_or(1.0, |scale| weight(scale).values[channel]);
                Tensor::from_fn(&full, |i| values[*x].at(i) * factor(i[3]) + weight(*shift).values[i[3]])
            }
            Primitive::Draw { like } => {
                let count = full.iter().product();
                let number = expression.terms()[..index]
                    .iter()
                    .filter(|term| matches!(term.primitive, Primitive::Draw { .. }))
                    .count();
                let values = match run.sample.mode.sampling {
                    true => {
                        let seen = [operands[0], &values[*like]];
                        run.observe(layer, seen, |[input, sigma]| Seen::Sigma { input, sigma });
                        let fill = Fill::Kernel(Stream::fill_normals);
                        run.draws(fill, layer, rng::Kind::Epsilon, number, (Lifetime::Sample, 0), count)?
                    }
                    false => vec![0.0; count],
                };
                Tensor { shape: full.clone(), values }
            }
            Primitive::Multiply(pair) => both(*pair, |a, b| a * b),
            Primitive::Add(pair) => both(*pair, |a, b| a + b),
            Primitive::Subtract(pair) => both(*pair, |a, b| a - b),
        };
        values.push(value);
    }
    Ok(Tensor { shape: shape.to_vec(), values: values.pop().unwrap_or_default().values })
}
