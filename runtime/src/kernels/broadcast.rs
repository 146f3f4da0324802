//! Arithmetic of two operands with broadcasting.

use super::elementwise::{chain, greater, lesser};
use multiversion::multiversion;

/// How two operands are broadcast: axes (size, left stride, right stride), outermost first, merged where possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    axes: Vec<(usize, usize, usize)>,
}

impl Broadcast {
    /// Of two shapes of equal rank; `None` if they do not broadcast.
    pub fn new(left: &[usize], right: &[usize]) -> Option<Self> {
        if left.len() != right.len() {
            return None;
        }
        let mut axes: Vec<(usize, usize, usize)> = Vec::new();
        let (mut left_stride, mut right_stride) = (1, 1);
        for (&l, &r) in left.iter().zip(right).rev() {
            if l != r && l != 1 && r != 1 {
                return None;
            }
            let size = l.max(r);
            if size > 1 {
                let strides = (if l == 1 { 0 } else { left_stride }, if r == 1 { 0 } else { right_stride });
                match axes.last_mut() {
                    Some((inner, a, b)) if strides == (*a * *inner, *b * *inner) => *inner *= size,
                    _ => axes.push((size, strides.0, strides.1)),
                }
            }
            left_stride *= l;
            right_stride *= r;
        }
        if axes.is_empty() {
            axes.push((1, 1, 1));
        }
        axes.reverse();
        Some(Self { axes })
    }

    /// Of two operands of as many elements.
    pub fn equal(len: usize) -> Self {
        Self { axes: vec![(len, 1, 1)] }
    }

    /// The result's shape.
    pub fn shape(left: &[usize], right: &[usize]) -> Vec<usize> {
        left.iter().zip(right).map(|(&l, &r)| l.max(r)).collect()
    }

    /// The (left offset, right offset) of every run of the innermost axis, in the result's order.
    #[inline(always)]
    fn rows(&self) -> Rows<'_> {
        let outer = &self.axes[..self.axes.len() - 1];
        Rows { outer, next: 0, count: outer.iter().map(|axis| axis.0).product() }
    }

    /// The number of channels, if the right operand is one value per channel (the last axis) of the left one.
    pub fn per_channel(&self) -> Option<usize> {
        match *self.axes.as_slice() {
            [(_, stride, 0), (channels, 1, 1)] if stride == channels => Some(channels),
            _ => None,
        }
    }

    fn inner(&self) -> (usize, usize, usize) {
        self.axes.last().copied().unwrap_or((1, 1, 1))
    }

    /// Swaps the operands.
    pub fn swapped(&self) -> Self {
        Self { axes: self.axes.iter().map(|&(size, a, b)| (size, b, a)).collect() }
    }
}

/// See [`Broadcast::rows`].
struct Rows<'a> {
    outer: &'a [(usize, usize, usize)],
    next: usize,
    count: usize,
}

impl Iterator for Rows<'_> {
    type Item = (usize, usize);

    // Inlined into the kernels, which are compiled for their instruction sets.
    #[inline(always)]
    fn next(&mut self) -> Option<(usize, usize)> {
        if self.next == self.count {
            return None;
        }
        let (mut rest, mut left, mut right) = (self.next, 0, 0);
        self.next += 1;
        match *self.outer {
            [] => {}
            [(_, a, b)] => (left, right) = (rest * a, rest * b),
            _ => {
                for &(size, a, b) in self.outer.iter().rev() {
                    left += rest % size * a;
                    right += rest % size * b;
                    rest /= size;
                }
            }
        }
        Some((left, right))
    }
}

/// `out = f(a, b)` with broadcasting.
#[inline(always)]
fn zip_with(shape: &Broadcast, a: &[f32], b: &[f32], out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    let (size, left, right) = shape.inner();
    for (out, (i, j)) in out.chunks_exact_mut(size).zip(shape.rows()) {
        match (left, right) {
            (1, 1) => {
                for ((out, &a), &b) in out.iter_mut().zip(&a[i..i + size]).zip(&b[j..j + size]) {
                    *out = f(a, b);
                }
            }
            (1, 0) => {
                let b = b[j];
                for (out, &a) in out.iter_mut().zip(&a[i..i + size]) {
                    *out = f(a, b);
                }
            }
            (0, 1) => {
                let a = a[i];
                for (out, &b) in out.iter_mut().zip(&b[j..j + size]) {
                    *out = f(a, b);
                }
            }
            _ => out.fill(f(a[i], b[j])),
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn arithmetic(op: Arithmetic, shape: &Broadcast, a: &[f32], b: &[f32], out: &mut [f32]) {
    match op {
        Arithmetic::Add => zip_with(shape, a, b, out, |a, b| a + b),
        Arithmetic::Sub => zip_with(shape, a, b, out, |a, b| a - b),
        Arithmetic::Mul => zip_with(shape, a, b, out, |a, b| a * b),
        Arithmetic::Div => zip_with(shape, a, b, out, |a, b| a / b),
        Arithmetic::Max => zip_with(shape, a, b, out, greater),
        Arithmetic::Min => zip_with(shape, a, b, out, lesser),
        Arithmetic::Pow => zip_with(shape, a, b, out, f32::powf),
    }
}

/// The functions of two f32 that have a gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
    Pow,
}

impl Arithmetic {
    /// `out = a op b` with broadcasting.
    pub fn apply(self, shape: &Broadcast, a: &[f32], b: &[f32], out: &mut [f32]) {
        arithmetic(self, shape, a, b, out);
    }

    /// Whether [`Arithmetic::gradient`] reads the operands.
    pub fn gradient_reads(self) -> bool {
        match self {
            Self::Add | Self::Sub => false,
            Self::Mul | Self::Div | Self::Max | Self::Min | Self::Pow => true,
        }
    }

    /// Adds to `out` the gradient of the **left** operand of `a op b` (for the right one call with swapped operands and
    /// `Broadcast` and `left = false`). Gradients of broadcast elements are summed.
    pub fn gradient(self, left: bool, shape: &Broadcast, g: &[f32], (own, other): (&[f32], &[f32]), out: &mut [f32]) {
        match self {
            Arithmetic::Add => reduce_into(shape, g, own, other, out, |g, _, _| g),
            Arithmetic::Sub if left => reduce_into(shape, g, own, other, out, |g, _, _| g),
            Arithmetic::Sub => reduce_into(shape, g, own, other, out, |g, _, _| -g),
            Arithmetic::Mul => reduce_multiply(shape, g, other, out),
            // A tie goes to the left operand, as in the forward pass.
            Arithmetic::Max => {
                reduce_into(shape, g, own, other, out, |g, x, y| if x > y || (left && x == y) { g } else { 0.0 })
            }
            Arithmetic::Min => {
                reduce_into(shape, g, own, other, out, |g, x, y| if x < y || (left && x == y) { g } else { 0.0 })
            }
            Arithmetic::Div if left => reduce_into(shape, g, own, other, out, |g, _, y| chain(g, 1.0 / y)),
            Arithmetic::Div => reduce_into(shape, g, own, other, out, |g, y, x| chain(g, -(x / y) / y)),
            Arithmetic::Pow if left => {
                reduce_into(
                    shape,
                    g,
                    own,
                    other,
                    out,
                    |g, x, y| if y == 0.0 { 0.0 } else { chain(g, y * x.powf(y - 1.0)) },
                )
            }
            Arithmetic::Pow => {
                reduce_into(
                    shape,
                    g,
                    own,
                    other,
                    out,
                    |g, y, x| if x > 0.0 { chain(g, x.powf(y) * x.ln()) } else { 0.0 },
                )
            }
        }
    }
}

/// `out += g·other`, summed over what was broadcast.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn reduce_multiply(shape: &Broadcast, g: &[f32], other: &[f32], out: &mut [f32]) {
    let (size, left, right) = shape.inner();
    for (g, (i, j)) in g.chunks_exact(size).zip(shape.rows()) {
        match (left, right) {
            (1, 1) => {
                for ((out, &g), &other) in out[i..i + size].iter_mut().zip(g).zip(&other[j..j + size]) {
                    *out += chain(g, other);
                }
            }
            (1, 0) => {
                let other = other[j];
                for (out, &g) in out[i..i + size].iter_mut().zip(g) {
                    *out += chain(g, other);
                }
            }
            (0, 1) => out[i] += g.iter().zip(&other[j..j + size]).map(|(&g, &other)| chain(g, other)).sum::<f32>(),
            _ => out[i] += chain(g.iter().sum::<f32>(), other[j]),
        }
    }
}

#[inline(always)]
fn reduce_into(
    shape: &Broadcast,
    g: &[f32],
    own: &[f32],
    other: &[f32],
    out: &mut [f32],
    f: impl Fn(f32, f32, f32) -> f32,
) {
    let (size, left, right) = shape.inner();
    // Values that the function does not read may be absent.
    let at = |values: &[f32], index: usize| values.get(index).copied().unwrap_or(0.0);
    for (g, (i, j)) in g.chunks_exact(size).zip(shape.rows()) {
        match (left, right) {
            (1, 1) if other.len() >= j + size => {
                for (index, (&g, &other)) in g.iter().zip(&other[j..j + size]).enumerate() {
                    out[i + index] += f(g, at(own, i + index), other);
                }
            }
            (1, 0) => {
                let other = at(other, j);
                for (index, (out, &g)) in out[i..i + size].iter_mut().zip(g).enumerate() {
                    *out += f(g, at(own, i + index), other);
                }
            }
            (0, 1) => {
                let own = at(own, i);
                let mut sum = 0f32;
                for (index, &g) in g.iter().enumerate() {
                    sum += f(g, own, at(other, j + index));
                }
                out[i] += sum;
            }
            _ => {
                for (index, &g) in g.iter().enumerate() {
                    let (i, j) = (i + index * left, j + index * right);
                    out[i] += f(g, at(own, i), at(other, j));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasts_merge_axes() {
        let axes = |l: &[usize], r: &[usize]| Broadcast::new(l, r).unwrap().axes;
        assert_eq!(axes(&[1, 4, 5, 3], &[1, 4, 5, 3]), [(60, 1, 1)]);
        assert_eq!(axes(&[1, 4, 5, 3], &[1, 1, 1, 3]), [(20, 3, 0), (3, 1, 1)]);
        assert_eq!(axes(&[1, 4, 5, 3], &[1, 1, 1, 1]), [(60, 1, 0)]);
        assert_eq!(axes(&[1, 1], &[1, 1]), [(1, 1, 1)]);
        assert!(Broadcast::new(&[2], &[3]).is_none());
    }

    #[test]
    fn binary_matches_the_definition() {
        let shapes: [[[usize; 4]; 2]; 6] = [
            [[1, 4, 5, 3], [1, 4, 5, 3]],
            [[1, 4, 5, 3], [1, 1, 1, 3]],
            [[1, 1, 5, 1], [1, 4, 5, 3]],
            [[1, 4, 1, 3], [1, 1, 5, 1]],
            [[1, 1, 1, 1], [2, 4, 5, 3]],
            [[2, 4, 1, 3], [2, 1, 1, 1]],
        ];
        for [l, r] in shapes {
            let values = |shape: [usize; 4], seed: usize| {
                (0..shape.iter().product()).map(|i| ((i * 7 + seed) % 13) as f32 / 4.0 + 0.2).collect::<Vec<_>>()
            };
            let (a, b) = (values(l, 1), values(r, 5));
            let shape = Broadcast::new(&l, &r).unwrap();
            let out_shape = Broadcast::shape(&l, &r);
            let mut out = vec![0.0; out_shape.iter().product()];
            Arithmetic::Sub.apply(&shape, &a, &b, &mut out);
            let offset = |shape: [usize; 4], index: [usize; 4]| {
                (0..4).fold(0, |at, axis| at * shape[axis] + if shape[axis] == 1 { 0 } else { index[axis] })
            };
            for (at, &value) in out.iter().enumerate() {
                let mut rest = at;
                let mut index = [0; 4];
                for axis in (0..4).rev() {
                    index[axis] = rest % out_shape[axis];
                    rest /= out_shape[axis];
                }
                assert_eq!(value, a[offset(l, index)] - b[offset(r, index)]);
            }
        }
    }

    /// No derivative that is infinite or undefined gets into a gradient.
    #[test]
    fn gradients_stay_finite() {
        let specials = [0.0, -0.0, 1e-42, -1e-42, 1.0, -2.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        for op in [Arithmetic::Mul, Arithmetic::Div, Arithmetic::Pow, Arithmetic::Max, Arithmetic::Min] {
            for (&a, &b) in specials.iter().flat_map(|a| specials.iter().map(move |b| (a, b))) {
                let shape = Broadcast::new(&[1], &[1]).unwrap();
                for (left, own, other) in [(true, a, b), (false, b, a)] {
                    let mut out = [0.0];
                    op.gradient(left, &shape, &[1.0], (&[own], &[other]), &mut out);
                    assert!(out[0].is_finite(), "{op:?} of {a} and {b}, {left}: {}", out[0]);
                }
            }
        }
    }
}
