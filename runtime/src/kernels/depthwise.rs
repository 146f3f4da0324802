//! Depthwise convolutions over NHWC activations. oneDNN's plain-layout kernels are several times slower on them.
//!
//! Four neighbouring pixels of sixteen channels share the filter's values that are read for them; what of a window lies outside the
//! input is left out. Where there are few channels the input is copied into a zero border, and a row's pixels and channels are one long
//! vector against a filter repeated along it.

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
        None => {
            let row = shape.input[1] * shape.channels;
            out.chunks_exact_mut(row).enumerate().for_each(|(y, out)| gather_row::<FMA>(shape, g, w, y, out));
        }
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
    let taps = shape.taps();
    let start = |tap: usize| (if reverse { taps - 1 - tap } else { tap }) * c;
    let row = shape.output[1] * c;
    if !(shape.stride[1] == 1 && (c < 8 || (!c.is_multiple_of(8) && row <= FLAT))) {
        for (i, out) in out.chunks_exact_mut(row).enumerate() {
            convolve_row::<FMA>(shape, x, w, reverse, bias, i, out);
        }
        return;
    }
    let [height, width] = shape.padded();
    let (padded, tiled) = work.split_at_mut(height * width * c);
    shape.pad_input(x, padded);
    let mut offsets = [0; MAX_TAPS];
    for (tap, offset) in offsets[..taps].iter_mut().enumerate() {
        *offset = shape.offset(tap);
    }
    let offsets = &offsets[..taps];
    let tiled = &mut tiled[..taps * row];
    for (tap, tiled) in tiled.chunks_exact_mut(row).enumerate() {
        for tiled in tiled.chunks_exact_mut(c) {
            tiled.copy_from_slice(&w[start(tap)..][..c]);
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
}

/// A tap that lies inside the input.
#[derive(Clone, Copy, Default)]
struct Tap {
    /// Its input's first channel, for the pixel whose window starts at column 0.
    x: usize,
    /// Its filter's first channel.
    w: usize,
}

/// An output row's windows, one after another.
struct Row<'a> {
    shape: &'a Depthwise,
    i: usize,
    /// Whether the filter's taps are taken in reverse.
    reverse: bool,
    /// The columns of pixels whose windows lie inside from left to right.
    inside: [usize; 2],
    taps: [Tap; MAX_TAPS],
    count: usize,
    /// Whether the taps are those of windows inside.
    ready: bool,
}

/// The windows of one or four neighbouring pixels, of the same taps.
struct Windows<'a> {
    /// One or four.
    count: usize,
    /// The taps inside the input, of the first pixel.
    taps: &'a [Tap],
    /// What is added to the places of their inputs.
    base: usize,
}

impl<'a> Row<'a> {
    fn new(shape: &'a Depthwise, i: usize, reverse: bool) -> Self {
        let (columns, stride, pad) = (shape.output[1], shape.stride[1], shape.pad[1]);
        let reach = (shape.kernel[1] - 1) * shape.dilation[1];
        let first = pad.div_ceil(stride).min(columns);
        let last = (shape.input[1] + pad).checked_sub(reach + 1).map_or(0, |last| last / stride + 1);
        let inside = [first, last.min(columns).max(first)];
        Self { shape, i, reverse, inside, taps: [Tap::default(); MAX_TAPS], count: 0, ready: false }
    }

    /// The windows from column `j` on.
    fn windows(&mut self, j: usize) -> Windows<'_> {
        let [first, last] = self.inside;
        let middle = (first..last).contains(&j);
        if !(middle && self.ready) {
            self.gather(if middle { None } else { Some(j) });
            self.ready = middle;
        }
        let shape = self.shape;
        let base = if middle { (j * shape.stride[1] - shape.pad[1]) * shape.channels } else { 0 };
        let count = if middle && last - j >= 4 { 4 } else { 1 };
        Windows { count, taps: &self.taps[..self.count], base }
    }

    /// Collects the taps of the pixel in a column, or of a window that starts at column 0.
    fn gather(&mut self, column: Option<usize>) {
        let shape = self.shape;
        let inside = |axis: usize, position: usize, tap: usize| {
            let at = (position * shape.stride[axis] + tap * shape.dilation[axis]).checked_sub(shape.pad[axis])?;
            (at < shape.input[axis]).then_some(at)
        };
        self.count = 0;
        for kh in 0..shape.kernel[0] {
            let Some(y) = inside(0, self.i, kh) else { continue };
            for kw in 0..shape.kernel[1] {
                let at = match column {
                    Some(j) => inside(1, j, kw),
                    None => Some(kw * shape.dilation[1]),
                };
                let Some(at) = at else { continue };
                let tap = kh * shape.kernel[1] + kw;
                let tap = if self.reverse { shape.taps() - 1 - tap } else { tap };
                let x = (y * shape.input[1] + at) * shape.channels;
                self.taps[self.count] = Tap { x, w: tap * shape.channels };
                self.count += 1;
            }
        }
    }
}

/// An output row, of any number of channels.
#[inline(always)]
fn convolve_row<const FMA: bool>(
    shape: &Depthwise,
    x: &[f32],
    w: &[f32],
    reverse: bool,
    bias: Option<&[f32]>,
    i: usize,
    out: &mut [f32],
) {
    let c = shape.channels;
    let steps = [shape.stride[1] * c, c];
    let mut row = Row::new(shape, i, reverse);
    let mut j = 0;
    while j < shape.output[1] {
        let Windows { count, taps, base } = row.windows(j);
        let (x, out) = (&x[base..], &mut out[j * c..]);
        match count {
            4 => pixels::<FMA, 4>(taps, x, w, bias, steps, c, out),
            _ => pixels::<FMA, 1>(taps, x, w, bias, steps, c, out),
        }
        j += count;
    }
}

/// All channels of P pixels, which are so far apart where they are read and written.
#[inline(always)]
fn pixels<const FMA: bool, const P: usize>(
    taps: &[Tap],
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    steps: [usize; 2],
    c: usize,
    out: &mut [f32],
) {
    let mut channel = 0;
    while c - channel >= 16 {
        pixel_tile::<FMA, P, 16>(taps, x, w, bias, channel, steps, out);
        channel += 16;
    }
    if c - channel >= 8 {
        pixel_tile::<FMA, P, 8>(taps, x, w, bias, channel, steps, out);
        channel += 8;
    }
    if c - channel >= 4 {
        pixel_tile::<FMA, P, 4>(taps, x, w, bias, channel, steps, out);
        channel += 4;
    }
    while channel < c {
        pixel_tile::<FMA, P, 1>(taps, x, w, bias, channel, steps, out);
        channel += 1;
    }
}

/// L channels of them.
#[inline(always)]
fn pixel_tile<const FMA: bool, const P: usize, const L: usize>(
    taps: &[Tap],
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    channel: usize,
    [step, out_step]: [usize; 2],
    out: &mut [f32],
) {
    let start = bias.map_or([0.0; L], |bias| bias[channel..].first_chunk::<L>().copied().unwrap_or([0.0; L]));
    let mut sums = [start; P];
    for tap in taps {
        let Some(w) = w[tap.w + channel..].first_chunk::<L>() else {
            return;
        };
        let x = &x[tap.x + channel..];
        for (pixel, sums) in sums.iter_mut().enumerate() {
            let Some(x) = x[pixel * step..].first_chunk::<L>() else {
                return;
            };
            for lane in 0..L {
                sums[lane] = multiply_add::<FMA>(x[lane], w[lane], sums[lane]);
            }
        }
    }
    for (pixel, sums) in sums.iter().enumerate() {
        out[pixel * out_step + channel..][..L].copy_from_slice(sums);
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

/// A row of the input's gradient, of any number of channels: every pixel gathers from the outputs whose windows it is in. Pixels a stride
/// apart are in the same places of their windows.
#[inline(always)]
fn gather_row<const FMA: bool>(shape: &Depthwise, g: &[f32], w: &[f32], y: usize, out: &mut [f32]) {
    let c = shape.channels;
    let stride = shape.stride[1];
    let mut rows = [(0, 0); MAX_TAPS];
    let mut row_count = 0;
    for kh in 0..shape.kernel[0] {
        let Some(at) = (y + shape.pad[0]).checked_sub(kh * shape.dilation[0]) else { continue };
        if at.is_multiple_of(shape.stride[0]) && at / shape.stride[0] < shape.output[0] {
            rows[row_count] = (at / shape.stride[0], kh);
            row_count += 1;
        }
    }
    let rows = &rows[..row_count];
    let mut taps = [Tap::default(); MAX_TAPS];
    for phase in 0..stride.min(shape.input[1]) {
        let count = (shape.input[1] - phase).div_ceil(stride);
        // The output column of a tap, for pixel `phase + stride·t`.
        let column = |t: usize, kw: usize| {
            let at = (phase + shape.pad[1] + t * stride).checked_sub(kw * shape.dilation[1])?;
            let inside = at.is_multiple_of(stride) && at / stride < shape.output[1];
            inside.then_some(at / stride)
        };
        let gather = |taps: &mut [Tap; MAX_TAPS], t: usize| {
            let mut found = 0;
            for &(row, kh) in rows {
                for kw in 0..shape.kernel[1] {
                    let Some(at) = column(t, kw) else { continue };
                    let x = (row * shape.output[1] + at) * c;
                    taps[found] = Tap { x, w: (kh * shape.kernel[1] + kw) * c };
                    found += 1;
                }
            }
            found
        };
        let whole = |t: usize| {
            let ahead = phase + shape.pad[1] + shape.kernel[1] * stride * shape.dilation[1];
            let due = |kw: &usize| (ahead - kw * shape.dilation[1]).is_multiple_of(stride);
            (0..shape.kernel[1]).filter(due).all(|kw| column(t, kw).is_some())
        };
        let first = (0..count).find(|&t| whole(t)).unwrap_or(count);
        let last = (first..count).find(|&t| !whole(t)).unwrap_or(count);
        let mut t = 0;
        while t < count {
            let found = gather(&mut taps, t);
            let out = &mut out[(phase + t * stride) * c..];
            // Four in the middle have the same taps, one output further each.
            if t >= first && t + 4 <= last {
                pixels::<FMA, 4>(&taps[..found], g, w, None, [c, stride * c], c, out);
                t += 4;
            } else {
                pixels::<FMA, 1>(&taps[..found], g, w, None, [c, stride * c], c, out);
                t += 1;
            }
        }
    }
}

/// Adds the filter's gradient `[KH, KW, C]` to `out`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub fn backward_weights(shape: &Depthwise, x: &[f32], g: &[f32], out: &mut [f32]) {
    const FMA: bool = target_cfg_f!(target_feature = "fma");
    let c = shape.channels;
    for (i, g) in g.chunks_exact(shape.output[1] * c).enumerate() {
        let mut row = Row::new(shape, i, false);
        let mut j = 0;
        while j < shape.output[1] {
            let Windows { count, taps, base } = row.windows(j);
            let (x, g) = (&x[base..], &g[j * c..]);
            match count {
                4 => pull_pixels::<FMA, 4>(taps, x, g, shape.stride[1] * c, c, out),
                _ => pull_pixels::<FMA, 1>(taps, x, g, shape.stride[1] * c, c, out),
            }
            j += count;
        }
    }
}

/// All channels' gradients of P neighbouring pixels.
#[inline(always)]
fn pull_pixels<const FMA: bool, const P: usize>(
    taps: &[Tap],
    x: &[f32],
    g: &[f32],
    step: usize,
    c: usize,
    out: &mut [f32],
) {
    let mut channel = 0;
    while c - channel >= 16 {
        pull_tile::<FMA, P, 16>(taps, x, g, channel, step, c, out);
        channel += 16;
    }
    if c - channel >= 8 {
        pull_tile::<FMA, P, 8>(taps, x, g, channel, step, c, out);
        channel += 8;
    }
    if c - channel >= 4 {
        pull_tile::<FMA, P, 4>(taps, x, g, channel, step, c, out);
        channel += 4;
    }
    while channel < c {
        pull_tile::<FMA, P, 1>(taps, x, g, channel, step, c, out);
        channel += 1;
    }
}

/// L channels of them.
#[inline(always)]
fn pull_tile<const FMA: bool, const P: usize, const L: usize>(
    taps: &[Tap],
    x: &[f32],
    g: &[f32],
    channel: usize,
    step: usize,
    c: usize,
    out: &mut [f32],
) {
    let mut own = [[0.0; L]; P];
    for (pixel, own) in own.iter_mut().enumerate() {
        own.copy_from_slice(&g[pixel * c + channel..][..L]);
    }
    for tap in taps {
        let x = &x[tap.x + channel..];
        let Some(out) = out[tap.w + channel..].first_chunk_mut::<L>() else {
            return;
        };
        let mut sums = *out;
        for (pixel, g) in own.iter().enumerate() {
            let Some(x) = x[pixel * step..].first_chunk::<L>() else {
                return;
            };
            for lane in 0..L {
                sums[lane] = multiply_add::<FMA>(x[lane], g[lane], sums[lane]);
            }
        }
        *out = sums;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::testing::Net;

    /// Every pair of an input and an output of one channel: their places, and the tap between them.
    fn pairs(shape: &Depthwise) -> Vec<(usize, usize, usize)> {
        let mut pairs = Vec::new();
        for (i, j) in (0..shape.output[0]).flat_map(|i| (0..shape.output[1]).map(move |j| (i, j))) {
            for (kh, kw) in (0..shape.kernel[0]).flat_map(|kh| (0..shape.kernel[1]).map(move |kw| (kh, kw))) {
                let at = |axis: usize, position: usize, tap: usize| {
                    let at = position * shape.stride[axis] + tap * shape.dilation[axis];
                    at.checked_sub(shape.pad[axis]).filter(|&at| at < shape.input[axis])
                };
                if let (Some(y), Some(x)) = (at(0, i, kh), at(1, j, kw)) {
                    pairs.push((y * shape.input[1] + x, i * shape.output[1] + j, kh * shape.kernel[1] + kw));
                }
            }
        }
        pairs
    }

    /// Random shapes against sums in f64: to the rounding of 49 products, or of 300 for a filter.
    #[test]
    fn any_shape_agrees_with_its_definition() {
        let mut net = Net::new();
        for case in 0..600 {
            let mut pick = |low: usize, high: usize| {
                low + ((net.random() + 1.0) * 0.5 * (high - low + 1) as f32) as usize % (high - low + 1)
            };
            let kernel = [pick(1, 7), pick(1, 7)];
            let (stride, dilation) = ([pick(1, 3), pick(1, 3)], [pick(1, 2), pick(1, 2)]);
            let input = [pick(1, 15), pick(1, 20)];
            let reach = [0, 1].map(|axis| (kernel[axis] - 1) * dilation[axis]);
            let pad = [pick(0, reach[0] + 1), pick(0, reach[1] + 1)];
            let after = [pick(0, reach[0]), pick(0, reach[1])];
            let covered = [0, 1].map(|axis| (input[axis] + pad[axis] + after[axis]).checked_sub(reach[axis] + 1));
            let ([Some(rows), Some(columns)], channels) = (covered, pick(1, 45)) else {
                continue;
            };
            let output = [rows / stride[0] + 1, columns / stride[1] + 1];
            let shape = Depthwise { input, output, channels, kernel, stride, pad, dilation };
            let [ins, outs, taps] = [input, output, kernel].map(|size| size[0] * size[1] * channels);
            let (x, g, w, bias) =
                (net.randoms(ins, 1.0), net.randoms(outs, 1.0), net.randoms(taps, 1.0), net.randoms(channels, 1.0));
            let mut work = vec![f32::NAN; shape.work_len()];
            let (mut out, mut gradient) = (vec![f32::NAN; outs], vec![f32::NAN; ins]);
            forward(&shape, &x, &w, Some(&bias), &mut work, &mut out);
            backward_data(&shape, &g, &w, &mut work, &mut gradient);
            let mut filter = vec![0.5; taps];
            backward_weights(&shape, &x, &g, &mut filter);
            let mut expected: Vec<f64> = (0..outs).map(|at| f64::from(bias[at % channels])).collect();
            let (mut pulled, mut steep) = (vec![0.0; ins], vec![0.5; taps]);
            for (from, to, tap) in pairs(&shape) {
                for channel in 0..channels {
                    let [from, to, tap] = [from, to, tap].map(|place| place * channels + channel);
                    expected[to] += f64::from(x[from]) * f64::from(w[tap]);
                    pulled[from] += f64::from(g[to]) * f64::from(w[tap]);
                    steep[tap] += f64::from(g[to]) * f64::from(x[from]);
                }
            }
            let agree = |found: &[f32], expected: &[f64]| {
                found.iter().zip(expected).all(|(&found, expected)| (f64::from(found) - expected).abs() < 2e-5)
            };
            assert!(agree(&out, &expected), "case {case}: {shape:?}");
            assert!(agree(&gradient, &pulled), "case {case}, backward: {shape:?}");
            assert!(agree(&filter, &steep), "case {case}, filter: {shape:?}");
        }
    }
}
