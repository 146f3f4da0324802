//! The kernels of denoisers: their convolutions, whose weights are trained, and whole blocks.

use super::{
    Executor,
    sample::{Observer, Sample, Seen, WeightGradients},
    worker::{Extra, Pool, Worker},
};
use crate::{
    kernels::{
        depthwise::{self, Depthwise},
        elementwise,
        gemm::{self, Start, View, gemm, sum_rows},
        layout::images,
    },
    plan::Block,
    program::ValueId,
    rng::Kind,
};
use mxc_dialects::{denoise::SLOPE, noise::Lifetime};

/// A 1×1 convolution: x is `[rows, inputs]`, the weight `[outputs, inputs]`.
pub(super) fn pointwise(
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
pub(super) fn filter(
    shape: &Depthwise,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    pool: &mut Pool,
    out: &mut [f32],
) {
    let mut work = pool.take(shape.work_len());
    images(x, out, shape.input, shape.output, shape.channels)
        .for_each(|(x, out)| depthwise::forward(shape, x, weight, bias, &mut work, out));
    pool.give(work);
}

/// The gradients of [`filter`]: adds to the weight's, if it is trained, and gives the operand's.
pub(super) fn filter_backward(
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
            depthwise::backward_weights(shape, x, g, &mut work, total);
        }
    }
    images(g, out, shape.output, shape.input, shape.channels)
        .for_each(|(g, out)| depthwise::backward_data(shape, g, weight, &mut work, out));
    pool.give(work);
}

impl Executor {
    /// A block in place: `x − (ε ⊙ σ̂ + μ̂)`.
    pub(super) fn block(
        &self,
        block: &Block,
        worker: &mut Worker,
        x: &mut [f32],
        sample: &Sample,
        observer: &mut Option<&mut Observer<'_>>,
    ) -> Extra {
        let Block { rows, channels, bottleneck, .. } = *block;
        let pool = &mut worker.pool;
        let constants = |pair: [ValueId; 2]| pair.map(|id| self.constant(id));
        let mut h = pool.take(rows * bottleneck);
        let [weight, bias] = constants(block.reduce);
        pointwise([rows, channels, bottleneck], x, weight, Some(bias), pool, &mut h);
        elementwise::leaky_relu(&mut h, SLOPE as f32);

        let mut g = pool.take(rows * bottleneck);
        let [weight, bias] = constants(block.spatial);
        filter(&block.depthwise, &h, weight, Some(bias), pool, &mut g);
        elementwise::leaky_relu(&mut g, SLOPE as f32);

        let head = |pair: [ValueId; 2], pool: &mut Pool| {
            let mut out = pool.take(rows * channels);
            let [weight, bias] = constants(pair);
            pointwise([rows, bottleneck, channels], &g, weight, Some(bias), pool, &mut out);
            out
        };
        let mu = head(block.mean, pool);
        let mut epsilon = None;
        match block.sigma.filter(|_| sample.mode.sampling) {
            Some(pair) => {
                let sigma = head(pair, pool);
                if let Some(observer) = observer {
                    observer(block.layer, Seen::Sigma { input: x, sigma: &sigma });
                }
                let mut draws = pool.take(rows * channels);
                self.stream(block.layer, Kind::Epsilon, 0, Lifetime::Sample, sample).fill_normals(0, &mut draws);
                elementwise::subtract_noise(x, &mu, &sigma, &draws);
                pool.give(sigma);
                epsilon = Some(draws);
            }
            None => elementwise::subtract(x, &mu),
        }
        pool.give(mu);
        Extra::Block { h, g, epsilon }
    }

    /// The block's gradients: adds to `weights` and turns `out` into the operand's gradient.
    pub(super) fn block_backward(
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
        elementwise::leaky_relu_backward(&mut inner, saved.g, SLOPE as f32);
        if let Some(total) = weights.get_mut(&block.spatial[1]) {
            sum_rows(&inner, total);
        }
        let mut outer = pool.take(rows * bottleneck);
        let total = weights.get_mut(&block.spatial[0]);
        filter_backward(depthwise, (saved.h, &inner), self.constant(block.spatial[0]), total, pool, &mut outer);
        elementwise::leaky_relu_backward(&mut outer, saved.h, SLOPE as f32);
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
pub(super) struct Saved<'a> {
    pub x: &'a [f32],
    pub h: &'a [f32],
    pub g: &'a [f32],
    pub epsilon: Option<&'a [f32]>,
}
