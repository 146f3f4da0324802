//! Depthwise convolutions over NHWC activations, vectorised over channels. oneDNN's plain-layout kernels are several times
//! slower on them (`docs`: where the time goes).

use super::multiply_add;
use multiversion::{multiversion, target::target_cfg_f};

/// The geometry of a depthwise convolution with one filter per channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depthwise {
    /// Input height, width.
    pub input: [usize; 2],
    /// Output height, width.
    pub output: [usize; 2],
    /// The number of channels.
    pub channels: usize,
    /// Kernel height, width.
    pub kernel: [usize; 2],
    /// Vertical, horizontal.
    pub stride: [usize; 2],
    /// Top, left.
    pub pad: [usize; 2],
    /// Vertical, horizontal.
    pub dilation: [usize; 2],
}

/// One tap of one pixel: where its input pixel and its filter row start.
type Tap = (usize, usize);

/// No kernel has more taps; the planner checks it.
pub const MAX_TAPS: usize = 256;

/// The output position and tap that meet at an input position, along one axis.
#[inline(always)]
fn source(
    position: usize,
    tap: usize,
    stride: usize,
    pad: usize,
    dilation: usize,
    size: usize,
) -> Option<usize> {
    let at = (position * stride + tap * dilation).checked_sub(pad)?;
    (at < size).then_some(at)
}

#[inline(always)]
fn target(
    position: usize,
    tap: usize,
    stride: usize,
    pad: usize,
    dilation: usize,
    size: usize,
) -> Option<usize> {
    let at = (position + pad).checked_sub(tap * dilation)?;
    (at % stride == 0 && at / stride < size).then_some(at / stride)
}

/// `out[c] = start[c] + Σ x[tap][c]·w[tap][c]`.
#[inline(always)]
fn pixel<const FMA: bool>(
    taps: &[Tap],
    x: &[f32],
    w: &[f32],
    start: Option<&[f32]>,
    out: &mut [f32],
) {
    let channels = out.len();
    let mut channel = 0;
    while channels - channel >= 32 {
        lanes::<FMA, 32>(taps, x, w, start, out, channel);
        channel += 32;
    }
    if channels - channel >= 16 {
        lanes::<FMA, 16>(taps, x, w, start, out, channel);
        channel += 16;
    }
    if channels - channel >= 8 {
        lanes::<FMA, 8>(taps, x, w, start, out, channel);
        channel += 8;
    }
    if channels - channel >= 4 {
        lanes::<FMA, 4>(taps, x, w, start, out, channel);
        channel += 4;
    }
    while channel < channels {
        lanes::<FMA, 1>(taps, x, w, start, out, channel);
        channel += 1;
    }
}

#[inline(always)]
fn lanes<const FMA: bool, const L: usize>(
    taps: &[Tap],
    x: &[f32],
    w: &[f32],
    start: Option<&[f32]>,
    out: &mut [f32],
    channel: usize,
) {
    let mut sums = [0f32; L];
    if let Some(start) = start.and_then(|start| start[channel..].first_chunk::<L>()) {
        sums = *start;
    }
    for &(from, filter) in taps {
        let (Some(x), Some(w)) = (
            x[from + channel..].first_chunk::<L>(),
            w[filter + channel..].first_chunk::<L>(),
        ) else {
            return;
        };
        for lane in 0..L {
            sums[lane] = multiply_add::<FMA>(x[lane], w[lane], sums[lane]);
        }
    }
    out[channel..channel + L].copy_from_slice(&sums);
}

/// The convolution of one sample; `w` is `[KH, KW, C]`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub fn forward(shape: &Depthwise, x: &[f32], w: &[f32], bias: &[f32], out: &mut [f32]) {
    const FMA: bool =
        target_cfg_f!(target_feature = "fma") || target_cfg_f!(target_feature = "avx512f");
    let c = shape.channels;
    let mut taps = [(0, 0); MAX_TAPS];
    for (i, row) in out.chunks_exact_mut(shape.output[1] * c).enumerate() {
        for (j, out) in row.chunks_exact_mut(c).enumerate() {
            let mut count = 0;
            for kh in 0..shape.kernel[0] {
                let Some(y) = source(
                    i,
                    kh,
                    shape.stride[0],
                    shape.pad[0],
                    shape.dilation[0],
                    shape.input[0],
                ) else {
                    continue;
                };
                for kw in 0..shape.kernel[1] {
                    if let Some(x) = source(
                        j,
                        kw,
                        shape.stride[1],
                        shape.pad[1],
                        shape.dilation[1],
                        shape.input[1],
                    ) {
                        taps[count] = (
                            (y * shape.input[1] + x) * c,
                            (kh * shape.kernel[1] + kw) * c,
                        );
                        count += 1;
                    }
                }
            }
            pixel::<FMA>(&taps[..count], x, w, Some(bias), out);
        }
    }
}

/// The input's gradient from the output's.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub fn backward_data(shape: &Depthwise, g: &[f32], w: &[f32], out: &mut [f32]) {
    const FMA: bool =
        target_cfg_f!(target_feature = "fma") || target_cfg_f!(target_feature = "avx512f");
    let c = shape.channels;
    let mut taps = [(0, 0); MAX_TAPS];
    for (i, row) in out.chunks_exact_mut(shape.input[1] * c).enumerate() {
        for (j, out) in row.chunks_exact_mut(c).enumerate() {
            let mut count = 0;
            for kh in 0..shape.kernel[0] {
                let Some(y) = target(
                    i,
                    kh,
                    shape.stride[0],
                    shape.pad[0],
                    shape.dilation[0],
                    shape.output[0],
                ) else {
                    continue;
                };
                for kw in 0..shape.kernel[1] {
                    if let Some(x) = target(
                        j,
                        kw,
                        shape.stride[1],
                        shape.pad[1],
                        shape.dilation[1],
                        shape.output[1],
                    ) {
                        taps[count] = (
                            (y * shape.output[1] + x) * c,
                            (kh * shape.kernel[1] + kw) * c,
                        );
                        count += 1;
                    }
                }
            }
            pixel::<FMA>(&taps[..count], g, w, None, out);
        }
    }
}

/// Adds the filter's gradient `[KH, KW, C]` to `out`. Only for stride 1 and dilation 1 (the denoisers).
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub fn backward_weights(shape: &Depthwise, x: &[f32], g: &[f32], out: &mut [f32]) {
    const FMA: bool =
        target_cfg_f!(target_feature = "fma") || target_cfg_f!(target_feature = "avx512f");
    let c = shape.channels;
    for kh in 0..shape.kernel[0] {
        for kw in 0..shape.kernel[1] {
            let out = &mut out[(kh * shape.kernel[1] + kw) * c..][..c];
            // The output columns whose input column lies inside.
            let first = shape.pad[1].saturating_sub(kw);
            let last = (shape.input[1] + shape.pad[1])
                .saturating_sub(kw)
                .min(shape.output[1]);
            if first >= last {
                continue;
            }
            for i in 0..shape.output[0] {
                let Some(y) = source(i, kh, 1, shape.pad[0], 1, shape.input[0]) else {
                    continue;
                };
                let g = &g[(i * shape.output[1] + first) * c..(i * shape.output[1] + last) * c];
                let x = &x[(y * shape.input[1] + first + kw - shape.pad[1]) * c..][..g.len()];
                for (g, x) in g.chunks_exact(c).zip(x.chunks_exact(c)) {
                    for ((out, &g), &x) in out.iter_mut().zip(g).zip(x) {
                        *out = multiply_add::<FMA>(g, x, *out);
                    }
                }
            }
        }
    }
}
