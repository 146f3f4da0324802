//! The backward pass of one sample: data gradients through the frozen backbone, weight gradients of denoisers only.

use super::{
    ExecError, Executor,
    forward::{images, value},
    worker::{Buffer, Extra, Pool, Worker},
};
use crate::{
    kernels::{
        depthwise, elementwise,
        gemm::{Start, View, gemm, sum_rows, transpose},
        generic, layout, pool,
    },
    onednn::Direction,
    plan::{Block, Id, Kernel, Plan},
    program::{LayerId, ValueId},
};
use mxc_dialects::noise::{Scale, Site};
use std::collections::BTreeMap;

/// Sums of the trainable weights' gradients.
pub(super) type WeightGradients = BTreeMap<ValueId, Vec<f32>>;

/// What is told of every layer's output gradient.
pub(super) type GradientObserver<'a> = dyn FnMut(LayerId, &[f32]) + 'a;

/// The gradients of a sample's values, by plan value.
struct Gradients<'a> {
    plan: &'a Plan,
    of: Vec<Option<Buffer>>,
}

impl Gradients<'_> {
    fn wanted(&self, id: Id) -> bool {
        self.plan.values[id].gradient
    }

    /// Adds a whole contribution.
    fn add(&mut self, id: Id, buffer: Buffer, pool: &mut Pool) {
        match &mut self.of[id] {
            _ if !self.plan.values[id].gradient => pool.give(buffer),
            Some(sum) => {
                elementwise::add_assign(sum, &buffer);
                pool.give(buffer);
            }
            empty => *empty = Some(buffer),
        }
    }

    /// Takes the sum so far, for kernels that add to it.
    fn take(&mut self, id: Id, pool: &mut Pool) -> Buffer {
        match self.of[id].take() {
            Some(sum) => sum,
            None => pool.take_zeroed(self.plan.values[id].len),
        }
    }
}

impl Executor {
    /// Runs the backward pass of the sample whose forward pass the worker has just run with a tape. `seed` is the
    /// gradient of the plan's logits.
    #[allow(clippy::too_many_lines)]
    pub(super) fn run_backward<'a>(
        &'a self,
        plan: &Plan,
        worker: &mut Worker,
        inputs: &[&'a [f32]],
        seed: Buffer,
        weights: &mut WeightGradients,
        mut observer: Option<&mut GradientObserver<'_>>,
    ) -> Result<(), ExecError> {
        let mut gradients = Gradients { plan, of: Vec::new() };
        gradients.of.resize_with(plan.values.len(), || None);
        gradients.add(plan.logits, seed, &mut worker.pool);
        // The values move out of the worker, whose pool and primitives are used below.
        let values = std::mem::take(&mut worker.values);
        for (index, step) in plan.steps.iter().enumerate().rev().filter(|(_, step)| step.gradient) {
            let Some(mut g) = gradients.of[step.output].take() else {
                continue;
            };
            if let (Some(observer), Some(layer)) = (&mut observer, step.layer) {
                observer(layer, &g);
            }
            let read = |id: Id| value(self, plan, &values, inputs, id);
            let first = step.inputs[0];
            let x = read(first);
            let y = read(step.output);
            let pool = &mut worker.pool;
            match &step.kernel {
                Kernel::Convolution { .. } | Kernel::Depthwise { .. } | Kernel::FullyConnected { .. } => {
                    if gradients.wanted(first) {
                        let mut out = pool.take(plan.values[first].len);
                        self.product_backward(&step.kernel, worker, &g, &mut out)?;
                        let (Kernel::Convolution { limit, .. }
                        | Kernel::Depthwise { limit, .. }
                        | Kernel::FullyConnected { limit, .. }) = &step.kernel
                        else {
                            continue;
                        };
                        if let (Some(limit), Extra::Clamped(true)) = (limit, &worker.extras[index]) {
                            elementwise::mask_beyond(&mut out, x, *limit);
                        }
                        gradients.add(first, out, &mut worker.pool);
                    }
                    worker.pool.give(g);
                }
                Kernel::Noise { layer, site } => {
                    let layer = &self.network.program.layers[*layer];
                    if let (Some([_, limit]), Site::Output) = (layer.limits(), site) {
                        elementwise::mask_clamped(&mut g, y, -limit, limit);
                    }
                    if let (Scale::Signal, Extra::Magnitude(s)) = (layer.noise.scale, &worker.extras[index])
                        && *s > 0.0
                    {
                        // ∂y*/∂s = (y* − y)/s.
                        let along: f64 = g
                            .iter()
                            .zip(y)
                            .zip(x)
                            .map(|((&g, &noisy), &clean)| f64::from(g) * f64::from(noisy - clean))
                            .sum();
                        elementwise::magnitude_backward(x, layer.noise.reference, *s, along / s, &mut g);
                    }
                    gradients.add(first, g, pool);
                }
                Kernel::Block(block) => {
                    if let Extra::Block { h, g: inner, epsilon } = &worker.extras[index] {
                        let saved = Saved { x, h, g: inner, epsilon: epsilon.as_deref() };
                        self.block_backward(block, &mut worker.pool, &mut g, &saved, weights);
                    }
                    gradients.add(first, g, &mut worker.pool);
                }
                Kernel::Affine { scale, shift } => {
                    let values = self.constant(*scale);
                    if !weights.contains_key(scale) && !weights.contains_key(shift) {
                        elementwise::scale_rows(&mut g, values);
                        gradients.add(first, g, pool);
                        continue;
                    }
                    let mut sums = [pool.take_zeroed(values.len()), pool.take_zeroed(values.len())];
                    let [scale_sum, shift_sum] = &mut sums;
                    elementwise::affine_backward(&mut g, x, values, scale_sum, shift_sum);
                    for (id, sum) in [*scale, *shift].into_iter().zip(sums) {
                        if let Some(total) = weights.get_mut(&id) {
                            elementwise::add_assign(total, &sum);
                        }
                        pool.give(sum);
                    }
                    gradients.add(first, g, pool);
                }
                // Integers have no gradient: no plan with gradients holds one.
                Kernel::Tile(_) => gradients.add(first, g, pool),
                Kernel::Unary(op) => {
                    let saved = match elementwise::unary_reads(*op) {
                        elementwise::Reads::Output => y,
                        _ => x,
                    };
                    elementwise::unary_backward(*op, &mut g, saved);
                    gradients.add(first, g, pool);
                }
                Kernel::Silu => {
                    elementwise::silu_backward(&mut g, x);
                    gradients.add(first, g, pool);
                }
                Kernel::AddClamp { min, max } => {
                    elementwise::mask_clamped(&mut g, y, *min, *max);
                    share(&mut gradients, &step.inputs, g, pool);
                }
                Kernel::Binary { op, shape } => {
                    let second = step.inputs[1];
                    let plain = [first, second].iter().all(|&id| plan.values[id].len == g.len());
                    if *op == crate::program::Binary::Add && plain {
                        share(&mut gradients, &step.inputs, g, pool);
                        continue;
                    }
                    if gradients.wanted(first) {
                        let mut out = gradients.take(first, pool);
                        elementwise::binary_backward(*op, true, shape, &g, (x, read(second)), &mut out);
                        gradients.of[first] = Some(out);
                    }
                    if gradients.wanted(second) {
                        let mut out = gradients.take(second, pool);
                        elementwise::binary_backward(*op, false, &shape.swapped(), &g, (read(second), x), &mut out);
                        gradients.of[second] = Some(out);
                    }
                    pool.give(g);
                }
                Kernel::MatMul { batch, m, n, k } => {
                    let second = step.inputs[1];
                    if gradients.wanted(first) {
                        let mut out = gradients.take(first, pool);
                        let mut right = pool.take(k * n);
                        for image in 0..*batch {
                            transpose(&read(second)[image * k * n..][..k * n], *n, &mut right);
                            let g = View::rows(&g[image * m * n..][..m * n], *n);
                            gemm([*m, *k, *n], g, &right, &mut out[image * m * k..][..m * k], Start::Result);
                        }
                        pool.give(right);
                        gradients.of[first] = Some(out);
                    }
                    if gradients.wanted(second) {
                        let mut out = gradients.take(second, pool);
                        for image in 0..*batch {
                            let left = View::transposed(&x[image * m * k..][..m * k], *k);
                            let g = &g[image * m * n..][..m * n];
                            gemm([*k, *n, *m], left, g, &mut out[image * k * n..][..k * n], Start::Result);
                        }
                        gradients.of[second] = Some(out);
                    }
                    pool.give(g);
                }
                Kernel::Generic(generic) => {
                    let operands: Vec<&[f32]> = step.inputs.iter().map(|&id| read(id)).collect();
                    for (position, &id) in step.inputs.iter().enumerate().filter(|(_, id)| plan.values[**id].gradient) {
                        let mut out = gradients.take(id, pool);
                        generic::backward(generic, position, &operands, &g, &mut out);
                        gradients.of[id] = Some(out);
                    }
                    pool.give(g);
                }
                kernel => {
                    let mut out = match kernel {
                        Kernel::Gather(_) | Kernel::Concat { .. } | Kernel::Pad { .. } => Buffer::default(),
                        _ => gradients.take(first, pool),
                    };
                    match kernel {
                        Kernel::Average(window) => {
                            images(&g, &mut out, window.output, window.input, window.channels)
                                .for_each(|(g, out)| pool::average_backward(window, g, out));
                        }
                        Kernel::Maximum(window) => {
                            let one = window.output[0] * window.output[1] * window.channels;
                            let mut taken = pool.take(one);
                            let whole = window.input[0] * window.input[1] * window.channels;
                            images(&g, &mut out, window.output, window.input, window.channels).enumerate().for_each(
                                |(image, (g, out))| {
                                    let (x, y) = (&x[image * whole..][..whole], &y[image * one..][..one]);
                                    pool::maximum_backward(window, x, y, g, out, &mut taken);
                                },
                            );
                            pool.give(taken);
                        }
                        Kernel::Take { shape, indices } => layout::take_backward(*shape, indices, &g, &mut out),
                        Kernel::Reduce { kind, shape } => pool::reduce_backward(*kind, *shape, (x, y), &g, &mut out),
                        Kernel::Gather(gather) => {
                            let mut part = pool.take_zeroed(plan.values[first].len);
                            gather.scatter_add(&g, &mut part);
                            gradients.add(first, part, pool);
                        }
                        Kernel::Pad { place, .. } => {
                            let mut part = pool.take(plan.values[first].len);
                            place.copy(&g, &mut part);
                            gradients.add(first, part, pool);
                        }
                        Kernel::Concat { widths } => {
                            let total = widths.iter().sum();
                            let mut at = 0;
                            for (&id, &width) in step.inputs.iter().zip(widths) {
                                if gradients.wanted(id) {
                                    let mut part = pool.take(plan.values[id].len);
                                    layout::take_columns(&g, width, at, total, &mut part);
                                    gradients.add(id, part, pool);
                                }
                                at += width;
                            }
                        }
                        _ => {}
                    }
                    if !matches!(kernel, Kernel::Gather(_) | Kernel::Concat { .. } | Kernel::Pad { .. }) {
                        gradients.of[first] = Some(out);
                    }
                    pool.give(g);
                }
            }
        }
        worker.values = values;
        for buffer in gradients.of.into_iter().flatten() {
            worker.pool.give(buffer);
        }
        Ok(())
    }

    /// The gradient of an analog layer's operand.
    fn product_backward(
        &self,
        kernel: &Kernel,
        worker: &mut Worker,
        g: &[f32],
        out: &mut [f32],
    ) -> Result<(), ExecError> {
        match kernel {
            Kernel::Convolution { node, .. } => {
                let (number, convolution) = self.convolution(*node, Direction::BackwardData)?;
                worker.convolve(&self.engine, number, convolution, g, out)?;
            }
            Kernel::Depthwise { shape, filter, .. } => {
                let mut work = worker.pool.take(shape.work_len());
                images(g, out, shape.output, shape.input, shape.channels)
                    .for_each(|(g, out)| depthwise::backward_data(shape, g, filter, &mut work, out));
                worker.pool.give(work);
            }
            Kernel::FullyConnected { rows, inputs, outputs, weights, .. } => {
                gemm([*rows, *inputs, *outputs], View::rows(g, *outputs), self.constant(*weights), out, Start::Zero);
            }
            _ => {}
        }
        Ok(())
    }

    /// The block's gradients: adds to `weights` and turns `out` into the operand's gradient.
    fn block_backward(
        &self,
        block: &Block,
        pool: &mut Pool,
        out: &mut [f32],
        saved: &Saved<'_>,
        weights: &mut WeightGradients,
    ) {
        let Block { rows, channels, bottleneck, ref depthwise, .. } = *block;
        // Everything below the subtraction sees the negated gradient.
        let mut back = pool.take_copy(out);
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
            gemm([rows, bottleneck, channels], View::rows(g, channels), self.constant(pair[0]), inner, start);
        };
        head(block.mean, &back, &mut inner, Start::Zero);
        if let (Some(pair), Some(epsilon)) = (block.sigma, saved.epsilon) {
            let mut scaled = pool.take(rows * channels);
            elementwise::multiply(&back, epsilon, &mut scaled);
            head(pair, &scaled, &mut inner, Start::Result);
            pool.give(scaled);
        }
        elementwise::leaky_relu_backward(&mut inner, saved.g, block.slope);
        if let Some(total) = weights.get_mut(&block.spatial[1]) {
            sum_rows(&inner, total);
        }
        let image = depthwise.input[0] * depthwise.input[1] * bottleneck;
        let mut work = pool.take(depthwise.work_len());
        if let Some(total) = weights.get_mut(&block.spatial[0]) {
            for (h, g) in saved.h.chunks_exact(image.max(1)).zip(inner.chunks_exact(image.max(1))).take(block.images) {
                depthwise::backward_weights(depthwise, h, g, &mut work, total);
            }
        }
        let mut outer = pool.take(rows * bottleneck);
        let spatial = self.constant(block.spatial[0]);
        images(&inner, &mut outer, depthwise.output, depthwise.input, bottleneck)
            .for_each(|(g, out)| depthwise::backward_data(depthwise, g, spatial, &mut work, out));
        pool.give(work);
        elementwise::leaky_relu_backward(&mut outer, saved.h, block.slope);
        if let Some(total) = weights.get_mut(&block.reduce[1]) {
            sum_rows(&outer, total);
        }
        if let Some(total) = weights.get_mut(&block.reduce[0]) {
            gemm([bottleneck, channels, rows], View::transposed(&outer, bottleneck), saved.x, total, Start::Result);
        }
        gemm(
            [rows, channels, bottleneck],
            View::rows(&outer, bottleneck),
            self.constant(block.reduce[0]),
            out,
            Start::Result,
        );
        for buffer in [back, inner, filter, outer] {
            pool.give(buffer);
        }
    }
}

/// What a block's forward pass kept.
struct Saved<'a> {
    x: &'a [f32],
    h: &'a [f32],
    g: &'a [f32],
    epsilon: Option<&'a [f32]>,
}

/// The gradient of a sum of equal shapes: the same for both operands.
fn share(gradients: &mut Gradients<'_>, inputs: &[Id], g: Buffer, pool: &mut Pool) {
    if let [first, second] = *inputs {
        if gradients.wanted(first) && gradients.wanted(second) {
            let copy = pool.take_copy(&g);
            gradients.add(first, copy, pool);
            gradients.add(second, g, pool);
        } else if gradients.wanted(first) {
            gradients.add(first, g, pool);
        } else {
            gradients.add(second, g, pool);
        }
    }
}
