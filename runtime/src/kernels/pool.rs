//! Pooling over NHWC activations, and reductions.

use super::elementwise::{chain, greater, lesser};

use multiversion::multiversion;

/// Reductions over one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reduce {
    Sum,
    Max,
    Min,
    Product,
}

/// The geometry of a pooling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
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
}

impl Window {
    /// The input rows (or columns) of an output position that lie inside.
    #[inline(always)]
    fn span(&self, axis: usize, position: usize) -> std::ops::Range<usize> {
        let start = position * self.stride[axis];
        let from = start.saturating_sub(self.pad[axis]);
        let to = (start + self.kernel[axis]).saturating_sub(self.pad[axis]).min(self.input[axis]);
        from..to.max(from)
    }

    /// Calls `visit(output offset, input offset, how many inputs the window holds)` for every pair of an output and
    /// an input pixel.
    #[inline(always)]
    fn pairs(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let c = self.channels;
        for i in 0..self.output[0] {
            let rows = self.span(0, i);
            for j in 0..self.output[1] {
                let columns = self.span(1, j);
                let count = rows.len() * columns.len();
                for y in rows.clone() {
                    for x in columns.clone() {
                        visit((i * self.output[1] + j) * c, (y * self.input[1] + x) * c, count);
                    }
                }
            }
        }
    }
}

macro_rules! kernels {
    ($($(#[$doc:meta])* pub fn $name:ident($($args:tt)*) $body:block)*) => {$(
        $(#[$doc])*
        #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
        pub fn $name($($args)*) $body
    )*};
}

kernels! {
/// Average of the inputs inside each window.
pub fn average(window: &Window, x: &[f32], out: &mut [f32]) {
    let c = window.channels;
    out.fill(0.0);
    window.pairs(|to, from, _| {
        for (out, &x) in out[to..to + c].iter_mut().zip(&x[from..from + c]) {
            *out += x;
        }
    });
    for i in 0..window.output[0] {
        for j in 0..window.output[1] {
            let count = window.span(0, i).len() * window.span(1, j).len();
            let scale = 1.0 / count.max(1) as f32;
            for out in &mut out[(i * window.output[1] + j) * c..][..c] {
                *out *= scale;
            }
        }
    }
}

/// Adds the input's gradient of [`average`] to `out`.
pub fn average_backward(window: &Window, g: &[f32], out: &mut [f32]) {
    let c = window.channels;
    window.pairs(|from, to, count| {
        let scale = 1.0 / count as f32;
        for (out, &g) in out[to..to + c].iter_mut().zip(&g[from..from + c]) {
            *out += g * scale;
        }
    });
}

/// Maximum of the inputs inside each window; NaN where one is none.
pub fn maximum(window: &Window, x: &[f32], out: &mut [f32]) {
    let c = window.channels;
    out.fill(f32::NEG_INFINITY);
    window.pairs(|to, from, _| {
        for (out, &x) in out[to..to + c].iter_mut().zip(&x[from..from + c]) {
            *out = greater(*out, x);
        }
    });
}
}

/// Adds the input's gradient of [`maximum`] to `out`; the first of equal inputs gets it. `taken` is work space of the
/// output's size.
pub fn maximum_backward(window: &Window, x: &[f32], y: &[f32], g: &[f32], out: &mut [f32], taken: &mut [f32]) {
    let c = window.channels;
    taken.fill(0.0);
    window.pairs(|from, to, _| {
        for channel in 0..c {
            if taken[from + channel] == 0.0 && x[to + channel] == y[from + channel] {
                taken[from + channel] = 1.0;
                out[to + channel] += g[from + channel];
            }
        }
    });
}

/// Reduces the middle of `[outer, axis, inner]`.
pub fn reduce(kind: Reduce, [outer, axis, inner]: [usize; 3], x: &[f32], out: &mut [f32]) {
    let start = match kind {
        Reduce::Sum => 0.0,
        Reduce::Product => 1.0,
        Reduce::Max => f32::NEG_INFINITY,
        Reduce::Min => f32::INFINITY,
    };
    out.fill(start);
    for o in 0..outer {
        let out = &mut out[o * inner..(o + 1) * inner];
        for x in x[o * axis * inner..(o + 1) * axis * inner].chunks_exact(inner.max(1)) {
            match kind {
                Reduce::Sum => super::elementwise::add_assign(out, x),
                Reduce::Product => out.iter_mut().zip(x).for_each(|(out, &x)| *out *= x),
                Reduce::Max => out.iter_mut().zip(x).for_each(|(out, &x)| *out = greater(*out, x)),
                Reduce::Min => out.iter_mut().zip(x).for_each(|(out, &x)| *out = lesser(*out, x)),
            }
        }
    }
}

/// Adds the input's gradient of [`reduce`] to `out`.
pub fn reduce_backward(
    kind: Reduce,
    [outer, axis, inner]: [usize; 3],
    (x, y): (&[f32], &[f32]),
    g: &[f32],
    out: &mut [f32],
) {
    for o in 0..outer {
        for i in 0..inner {
            let result = o * inner + i;
            let at = |k: usize| (o * axis + k) * inner + i;
            match kind {
                Reduce::Sum => (0..axis).for_each(|k| out[at(k)] += g[result]),
                Reduce::Max | Reduce::Min => {
                    if let Some(k) = (0..axis).find(|&k| x[at(k)] == y[result]) {
                        out[at(k)] += g[result];
                    }
                }
                Reduce::Product => {
                    for k in 0..axis {
                        let others: f32 = (0..axis).filter(|&other| other != k).map(|other| x[at(other)]).product();
                        out[at(k)] += chain(g[result], others);
                    }
                }
            }
        }
    }
}

/// The class with the largest logit, the first of equal ones; class 0 if all are NaN.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (class, logit) in logits.iter().enumerate() {
        if *logit > logits[best] || logits[best].is_nan() {
            best = class;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_largest_and_no_nan() {
        assert_eq!(argmax(&[0.0, 2.0, 2.0]), 1);
        assert_eq!(argmax(&[f32::NAN, -1.0]), 1);
    }
}
