//! The backward pass of one sample: data gradients through the frozen backbone, weight gradients of denoisers only.

use super::{
    Executor,
    denoise::{Saved, filter_backward},
    forward::value,
    sample::WeightGradients,
    worker::{Buffer, Extra, Pool, Worker},
};
use crate::{
    error::ExecError,
    kernels::{
        depthwise, elementwise,
        gemm::{Start, View, gemm, sum_rows, transpose},
        generic,
        layout::{self, images},
        pool,
    },
    onednn::Direction,
    plan::{Id, Kernel, Plan, Product},
    program::LayerId,
};
use mxc_dialects::{
    denoise::SLOPE,
    noise::{Scale, Site},
};

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
                Kernel::Product { product, limit } => {
                    if gradients.wanted(first) {
                        let mut out = pool.take(plan.values[first].len);
                        self.product_backward(product, worker, &g, &mut out)?;
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
                Kernel::Pointwise { rows, inputs, outputs, weight, bias } => {
                    if let Some(total) = bias.and_then(|bias| weights.get_mut(&bias)) {
                        sum_rows(&g, total);
                    }
                    if let Some(total) = weights.get_mut(weight) {
                        gemm([*outputs, *inputs, *rows], View::transposed(&g, *outputs), x, total, Start::Result);
                    }
                    if gradients.wanted(first) {
                        let mut out = pool.take(plan.values[first].len);
                        let g = View::rows(&g, *outputs);
                        gemm([*rows, *inputs, *outputs], g, self.constant(*weight), &mut out, Start::Zero);
                        gradients.add(first, out, pool);
                    }
                    pool.give(g);
                }
                Kernel::Filter { shape, weight, bias } => {
                    if let Some(total) = bias.and_then(|bias| weights.get_mut(&bias)) {
                        sum_rows(&g, total);
                    }
                    let mut out = pool.take(plan.values[first].len);
                    filter_backward(shape, (x, &g), self.constant(*weight), weights.get_mut(weight), pool, &mut out);
                    gradients.add(first, out, pool);
                    pool.give(g);
                }
                Kernel::LeakyRelu => {
                    elementwise::leaky_relu_backward(&mut g, y, SLOPE as f32);
                    gradients.add(first, g, pool);
                }
                // It depends on nothing: no plan has a gradient of it.
                Kernel::Draw { .. } => pool.give(g),
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
                        elementwise::Reads::Input | elementwise::Reads::Nothing => x,
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
                Kernel::Average(window) => {
                    let mut out = gradients.take(first, pool);
                    images(&g, &mut out, window.output, window.input, window.channels)
                        .for_each(|(g, out)| pool::average_backward(window, g, out));
                    gradients.of[first] = Some(out);
                    pool.give(g);
                }
                Kernel::Maximum(window) => {
                    let mut out = gradients.take(first, pool);
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
                    gradients.of[first] = Some(out);
                    pool.give(g);
                }
                Kernel::Take { shape, indices } => {
                    let mut out = gradients.take(first, pool);
                    layout::take_backward(*shape, indices, &g, &mut out);
                    gradients.of[first] = Some(out);
                    pool.give(g);
                }
                Kernel::Reduce { kind, shape } => {
                    let mut out = gradients.take(first, pool);
                    pool::reduce_backward(*kind, *shape, (x, y), &g, &mut out);
                    gradients.of[first] = Some(out);
                    pool.give(g);
                }
                Kernel::Gather(gather) => {
                    let mut part = pool.take_zeroed(plan.values[first].len);
                    gather.scatter_add(&g, &mut part);
                    gradients.add(first, part, pool);
                    pool.give(g);
                }
                Kernel::Pad { place, .. } => {
                    let mut part = pool.take(plan.values[first].len);
                    place.copy(&g, &mut part);
                    gradients.add(first, part, pool);
                    pool.give(g);
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
        product: &Product,
        worker: &mut Worker,
        g: &[f32],
        out: &mut [f32],
    ) -> Result<(), ExecError> {
        match product {
            Product::Convolution { node } => {
                let (number, convolution) = self.convolution(*node, Direction::BackwardData)?;
                worker.convolve(&self.engine, number, convolution, g, out)?;
            }
            Product::Depthwise { shape, filter, .. } => {
                let mut work = worker.pool.take(shape.work_len());
                images(g, out, shape.output, shape.input, shape.channels)
                    .for_each(|(g, out)| depthwise::backward_data(shape, g, filter, &mut work, out));
                worker.pool.give(work);
            }
            Product::FullyConnected { rows, inputs, outputs, weights, .. } => {
                gemm([*rows, *inputs, *outputs], View::rows(g, *outputs), self.constant(*weights), out, Start::Zero);
            }
        }
        Ok(())
    }
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
