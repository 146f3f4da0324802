//! Depthwise convolutions over NHWC activations. oneDNN's plain-layout kernels are several times slower on them.
//!
//! The input is first copied into a zero border, so that no pixel is special. Then either eight channels at a time go
//! along a row with their filter in registers, or, where there are few channels, a row's pixels and channels are one
//! long vector against a filter repeated along it.

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

/// No kernel has more taps; the planner checks it.
pub const MAX_TAPS: usize = 256;

/// A row of at most this many values is worked on as one vector.
const FLAT: usize = 512;

impl Depthwise {
    /// The size of the input with its border: what the windows cover.
    fn padded(&self) -> [usize; 2] {
        [0, 1]
            .map(|axis| (self.output[axis] - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1)
    }

    /// The convolution that takes the output's gradient to the input's, with the taps in reverse: only for stride 1 and
    /// a border no wider than the window.
    fn adjoint(&self) -> Option<Self> {
        let reach = [0, 1].map(|axis| (self.kernel[axis] - 1) * self.dilation[axis]);
        if self.stride != [1, 1] || reach[0] < self.pad[0] || reach[1] < self.pad[1] {
            return None;
        }
        Some(Self {
            input: self.output,
            output: self.input,
            pad: [reach[0] - self.pad[0], reach[1] - self.pad[1]],
            ..*self
        })
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    fn own_work_len(&self) -> usize {
        let [height, width] = self.padded();
        (height * width + self.taps() * self.output[1]) * self.channels
    }

    /// The number of f32 of work space that the kernels need.
    pub fn work_len(&self) -> usize {
        self.own_work_len().max(self.adjoint().map_or(0, |adjoint| adjoint.own_work_len()))
    }

    /// Where a tap starts in the padded input, from the window's first value.
    fn offset(&self, tap: usize) -> usize {
        let (row, column) = (tap / self.kernel[1], tap % self.kernel[1]);
        let [_, width] = self.padded();
        (row * self.dilation[0] * width + column * self.dilation[1]) * self.channels
    }

    /// Copies the input into its border.
    fn pad_input(&self, x: &[f32], padded: &mut [f32]) {
        let [height, width] = self.padded();
        let c = self.channels;
        let columns = self.input[1].min(width.saturating_sub(self.pad[1])) * c;
        let mut rows = x.chunks_exact(self.input[1] * c);
        for (i, padded) in padded.chunks_exact_mut(width * c).take(height).enumerate() {
            match if i < self.pad[0] { None } else { rows.next() } {
                None => padded.fill(0.0),
                Some(x) => {
                    let (before, rest) = padded.split_at_mut((self.pad[1] * c).min(width * c));
                    let (inside, after) = rest.split_at_mut(columns);
                    before.fill(0.0);
                    inside.copy_from_slice(&x[..columns]);
                    after.fill(0.0);
                }
            }
        }
    }
}

/// The convolution of one sample; `w` is `[KH, KW, C]`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub fn forward(shape: &Depthwise, x: &[f32], w: &[f32], bias: Option<&[f32]>, work: &mut [f32], out: &mut [f32]) {
    const FMA: bool = target_cfg_f!(target_feature = "fma");
    convolve::<FMA>(shape, x, w, bias, false, work, out);
}

/// The input's gradient from the output's.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub fn backward_data(shape: &Depthwise, g: &[f32], w: &[f32], work: &mut [f32], out: &mut [f32]) {
    const FMA: bool = target_cfg_f!(target_feature = "fma");
    match shape.adjoint() {
        Some(adjoint) => convolve::<FMA>(&adjoint, g, w, None, true, work, out),
        None => scatter::<FMA>(shape, g, w, out),
    }
}

#[inline(always)]
fn convolve<const FMA: bool>(
    shape: &Depthwise,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    reverse: bool,
    work: &mut [f32],
    out: &mut [f32],
) {
    let c = shape.channels;
    let [height, width] = shape.padded();
    let (padded, tiled) = work.split_at_mut(height * width * c);
    shape.pad_input(x, padded);
    let taps = shape.taps();
    let mut offsets = [0; MAX_TAPS];
    for (tap, offset) in offsets[..taps].iter_mut().enumerate() {
        *offset = shape.offset(tap);
    }
    let offsets = &offsets[..taps];
    let filter = |tap: usize| {
        let tap = if reverse { taps - 1 - tap } else { tap };
        &w[tap * c..(tap + 1) * c]
    };
    let row = shape.output[1] * c;
    let flat = shape.stride[1] == 1 && (c < 8 || (!c.is_multiple_of(8) && row <= FLAT));
    if flat {
        let tiled = &mut tiled[..taps * row];
        for (tap, tiled) in tiled.chunks_exact_mut(row).enumerate() {
            for tiled in tiled.chunks_exact_mut(c) {
                tiled.copy_from_slice(filter(tap));
            }
        }
        for (i, out) in out.chunks_exact_mut(row).enumerate() {
            let x = &padded[i * shape.stride[0] * width * c..];
            match bias {
                Some(bias) => out.chunks_exact_mut(c).for_each(|out| out.copy_from_slice(bias)),
                None => out.fill(0.0),
            }
            let mut at = 0;
            while row - at >= 32 {
                flat_tile::<FMA, 32>(offsets, x, tiled, row, at, out);
                at += 32;
            }
            while row - at >= 8 {
                flat_tile::<FMA, 8>(offsets, x, tiled, row, at, out);
                at += 8;
            }
            while at < row {
                flat_tile::<FMA, 1>(offsets, x, tiled, row, at, out);
                at += 1;
            }
        }
        return;
    }
    for (i, out) in out.chunks_exact_mut(row).enumerate() {
        let x = &padded[i * shape.stride[0] * width * c..];
        let step = shape.stride[1] * c;
        let mut channel = 0;
        while c - channel >= 8 {
            row_tile::<FMA, 8>(offsets, x, filter, bias, channel, step, c, out);
            channel += 8;
        }
        if c - channel >= 4 {
            row_tile::<FMA, 4>(offsets, x, filter, bias, channel, step, c, out);
            channel += 4;
        }
        while channel < c {
            row_tile::<FMA, 1>(offsets, x, filter, bias, channel, step, c, out);
            channel += 1;
        }
    }
}

/// L values of a row, over all taps.
#[inline(always)]
fn flat_tile<const FMA: bool, const L: usize>(
    offsets: &[usize],
    x: &[f32],
    tiled: &[f32],
    row: usize,
    at: usize,
    out: &mut [f32],
) {
    let Some(out) = out[at..].first_chunk_mut::<L>() else {
        return;
    };
    let mut sums = *out;
    for (&offset, w) in offsets.iter().zip(tiled.chunks_exact(row)) {
        let (Some(x), Some(w)) = (x[offset + at..].first_chunk::<L>(), w[at..].first_chunk::<L>()) else {
            return;
        };
        for lane in 0..L {
            sums[lane] = multiply_add::<FMA>(x[lane], w[lane], sums[lane]);
        }
    }
    *out = sums;
}

/// L channels along a row.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn row_tile<'a, const FMA: bool, const L: usize>(
    offsets: &[usize],
    x: &[f32],
    filter: impl Fn(usize) -> &'a [f32],
    bias: Option<&[f32]>,
    channel: usize,
    step: usize,
    c: usize,
    out: &mut [f32],
) {
    let lanes = |values: &[f32]| values[channel..].first_chunk::<L>().copied().unwrap_or([0.0; L]);
    let start = bias.map_or([0.0; L], lanes);
    if let Ok(offsets) = <[usize; 9]>::try_from(offsets) {
        // A 3×3 filter stays in registers.
        let mut w = [[0.0; L]; 9];
        for (tap, w) in w.iter_mut().enumerate() {
            *w = lanes(filter(tap));
        }
        for (j, out) in out.chunks_exact_mut(c).enumerate() {
            let x = &x[j * step + channel..];
            let mut sums = start;
            for tap in 0..9 {
                let Some(x) = x[offsets[tap]..].first_chunk::<L>() else {
                    return;
                };
                for lane in 0..L {
                    sums[lane] = multiply_add::<FMA>(x[lane], w[tap][lane], sums[lane]);
                }
            }
            out[channel..channel + L].copy_from_slice(&sums);
        }
        return;
    }
    for (j, out) in out.chunks_exact_mut(c).enumerate() {
        let x = &x[j * step + channel..];
        let mut sums = start;
        for (tap, &offset) in offsets.iter().enumerate() {
            let (Some(x), Some(w)) = (x[offset..].first_chunk::<L>(), filter(tap)[channel..].first_chunk::<L>()) else {
                return;
            };
            for lane in 0..L {
                sums[lane] = multiply_add::<FMA>(x[lane], w[lane], sums[lane]);
            }
        }
        out[channel..channel + L].copy_from_slice(&sums);
    }
}

/// The input's gradient for any geometry: every output pixel adds to the inputs of its window.
#[inline(always)]
fn scatter<const FMA: bool>(shape: &Depthwise, g: &[f32], w: &[f32], out: &mut [f32]) {
    let c = shape.channels;
    let inside = |axis: usize, position: usize, tap: usize| {
        let at = (position * shape.stride[axis] + tap * shape.dilation[axis]).checked_sub(shape.pad[axis])?;
        (at < shape.input[axis]).then_some(at)
    };
    out.fill(0.0);
    for i in 0..shape.output[0] {
        for kh in 0..shape.kernel[0] {
            let Some(y) = inside(0, i, kh) else { continue };
            for j in 0..shape.output[1] {
                let g = &g[(i * shape.output[1] + j) * c..][..c];
                for kw in 0..shape.kernel[1] {
                    let Some(x) = inside(1, j, kw) else { continue };
                    let w = &w[(kh * shape.kernel[1] + kw) * c..][..c];
                    let out = &mut out[(y * shape.input[1] + x) * c..][..c];
                    for ((out, &g), &w) in out.iter_mut().zip(g).zip(w) {
                        *out = multiply_add::<FMA>(g, w, *out);
                    }
                }
            }
        }
    }
}

/// Adds the filter's gradient `[KH, KW, C]` to `out`. Only for horizontal stride 1 (the denoisers).
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub fn backward_weights(shape: &Depthwise, x: &[f32], g: &[f32], work: &mut [f32], out: &mut [f32]) {
    const FMA: bool = target_cfg_f!(target_feature = "fma");
    let c = shape.channels;
    let [height, width] = shape.padded();
    let padded = &mut work[..height * width * c];
    shape.pad_input(x, padded);
    let row = shape.output[1] * c;
    for (tap, out) in out.chunks_exact_mut(c).enumerate() {
        let x = &padded[shape.offset(tap)..];
        let step = shape.stride[0] * width * c;
        let mut at = 0;
        while row - at >= 32 {
            tap_tile::<FMA, 32>(x, g, step, row, at, out);
            at += 32;
        }
        while row - at >= 8 {
            tap_tile::<FMA, 8>(x, g, step, row, at, out);
            at += 8;
        }
        while at < row {
            tap_tile::<FMA, 1>(x, g, step, row, at, out);
            at += 1;
        }
    }
}

/// One tap's gradient over L values of every row.
#[inline(always)]
fn tap_tile<const FMA: bool, const L: usize>(
    x: &[f32],
    g: &[f32],
    step: usize,
    row: usize,
    at: usize,
    out: &mut [f32],
) {
    let mut sums = [0f32; L];
    for (i, g) in g.chunks_exact(row).enumerate() {
        let (Some(x), Some(g)) = (x[i * step + at..].first_chunk::<L>(), g[at..].first_chunk::<L>()) else {
            return;
        };
        for lane in 0..L {
            sums[lane] = multiply_add::<FMA>(x[lane], g[lane], sums[lane]);
        }
    }
    let mut channel = at % out.len();
    for sum in sums {
        out[channel] += sum;
        channel = if channel + 1 == out.len() { 0 } else { channel + 1 };
    }
}
