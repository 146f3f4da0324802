//! Moving values: transposes, slices, borders, concatenation.

/// A strided copy: the result's axes (size, source stride), outermost first, and the source's first element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gather {
    offset: usize,
    axes: Vec<(usize, usize)>,
}

impl Gather {
    fn new(offset: usize, sizes: &[usize], strides: &[usize]) -> Self {
        let mut axes: Vec<(usize, usize)> = Vec::new();
        for (&size, &stride) in sizes.iter().zip(strides).filter(|(size, _)| **size != 1) {
            match axes.last_mut() {
                Some((outer, outer_stride)) if *outer_stride == stride * size => {
                    *outer *= size;
                    *outer_stride = stride;
                }
                _ => axes.push((size, stride)),
            }
        }
        if axes.is_empty() {
            axes.push((1, 1));
        }
        Self { offset, axes }
    }

    /// Result axis i is source axis `permutation[i]`.
    pub fn transpose(shape: &[usize], permutation: &[usize]) -> Self {
        let strides = strides(shape);
        let pick = |values: &[usize]| permutation.iter().map(|&axis| values[axis]).collect::<Vec<_>>();
        Self::new(0, &pick(shape), &pick(&strides))
    }

    /// The sub-tensor of `size` at `start`.
    pub fn slice(shape: &[usize], start: &[usize], size: &[usize]) -> Self {
        let strides = strides(shape);
        let offset = start.iter().zip(&strides).map(|(start, stride)| start * stride).sum();
        Self::new(offset, size, &strides)
    }

    /// The operand repeated along its axes.
    pub fn tile(shape: &[usize], repeats: &[usize]) -> Self {
        // Repeating an axis is a new axis before it that stays in place.
        let sizes: Vec<usize> = shape.iter().zip(repeats).flat_map(|(&size, &times)| [times, size]).collect();
        let steps: Vec<usize> = strides(shape).into_iter().flat_map(|stride| [0, stride]).collect();
        Self::new(0, &sizes, &steps)
    }

    /// Whether it copies all of its source in order.
    pub fn is_identity(&self, len: usize) -> bool {
        self.offset == 0 && self.axes.len() == 1 && (self.axes[0] == (len, 1) || len == 1)
    }

    /// Calls `run(source offset, result offset, length, source stride)` for every run of the innermost axis.
    #[inline(always)]
    fn runs(&self, mut run: impl FnMut(usize, usize, usize, usize)) {
        let Some((&(length, stride), outer)) = self.axes.split_last() else {
            return;
        };
        let count: usize = outer.iter().map(|axis| axis.0).product();
        for index in 0..count {
            let (mut rest, mut from) = (index, self.offset);
            for &(size, stride) in outer.iter().rev() {
                from += rest % size * stride;
                rest /= size;
            }
            run(from, index * length, length, stride);
        }
    }

    /// `out = the picked elements of x`.
    pub fn copy(&self, x: &[f32], out: &mut [f32]) {
        self.runs(|from, to, length, stride| {
            let out = &mut out[to..to + length];
            match stride {
                0 => out.fill(x[from]),
                1 => out.copy_from_slice(&x[from..from + length]),
                _ => {
                    for (out, x) in out.iter_mut().zip(x[from..].iter().step_by(stride)) {
                        *out = *x;
                    }
                }
            }
        });
    }

    /// The gradient: adds `g` to the picked elements of `out`, some of which may have been picked several times.
    pub fn scatter_add(&self, g: &[f32], out: &mut [f32]) {
        self.runs(|to, from, length, stride| {
            let g = &g[from..from + length];
            if stride == 0 {
                out[to] += g.iter().sum::<f32>();
            } else {
                for (out, g) in out[to..].iter_mut().step_by(stride).zip(g) {
                    *out += *g;
                }
            }
        });
    }

    /// The reverse: writes `g` to the picked elements of `out`.
    pub fn scatter(&self, g: &[f32], out: &mut [f32]) {
        self.runs(|to, from, length, stride| {
            let g = &g[from..from + length];
            if stride == 1 {
                out[to..to + length].copy_from_slice(g);
            } else {
                for (out, g) in out[to..].iter_mut().step_by(stride).zip(g) {
                    *out = *g;
                }
            }
        });
    }
}

/// Row-major strides.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// A tensor whose element at each index is `element`.
pub(crate) fn walk<T>(shape: &[usize], mut element: impl FnMut(&[usize]) -> T) -> Vec<T> {
    let mut index = vec![0; shape.len()];
    (0..shape.iter().product())
        .map(|at: usize| {
            let mut rest = at;
            for axis in (0..shape.len()).rev() {
                index[axis] = rest % shape[axis];
                rest /= shape[axis];
            }
            element(&index)
        })
        .collect()
}

/// `out = x[:, indices, :]` of `[outer, axis, inner]`.
pub fn take([outer, axis, inner]: [usize; 3], indices: &[usize], x: &[f32], out: &mut [f32]) {
    for o in 0..outer {
        for (k, &index) in indices.iter().enumerate() {
            let from = (o * axis + index) * inner;
            out[(o * indices.len() + k) * inner..][..inner].copy_from_slice(&x[from..from + inner]);
        }
    }
}

/// Adds the operand's gradient of [`take`] to `out`.
pub fn take_backward([outer, axis, inner]: [usize; 3], indices: &[usize], g: &[f32], out: &mut [f32]) {
    for o in 0..outer {
        for (k, &index) in indices.iter().enumerate() {
            let to = (o * axis + index) * inner;
            let g = &g[(o * indices.len() + k) * inner..][..inner];
            out[to..to + inner].iter_mut().zip(g).for_each(|(out, g)| *out += g);
        }
    }
}

/// Copies `part`, whose rows are `width` long, to the columns `at..` of rows of `total`.
pub fn copy_columns(part: &[f32], width: usize, at: usize, total: usize, out: &mut [f32]) {
    for (part, out) in part.chunks_exact(width.max(1)).zip(out.chunks_exact_mut(total.max(1))) {
        out[at..at + width].copy_from_slice(part);
    }
}

/// Copies the columns `at..at + width` of rows of `total` to `part`.
pub fn take_columns(x: &[f32], width: usize, at: usize, total: usize, part: &mut [f32]) {
    for (part, x) in part.chunks_exact_mut(width.max(1)).zip(x.chunks_exact(total.max(1))) {
        part.copy_from_slice(&x[at..at + width]);
    }
}

/// The images of a sample (one, unless a reshape folded an axis into the batch).
pub fn images<'a>(
    x: &'a [f32],
    out: &'a mut [f32],
    input: [usize; 2],
    output: [usize; 2],
    channels: usize,
) -> impl Iterator<Item = (&'a [f32], &'a mut [f32])> {
    let (from, to) = (input[0] * input[1] * channels, output[0] * output[1] * channels);
    x.chunks_exact(from.max(1)).zip(out.chunks_exact_mut(to.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_match_the_definition() {
        let x: Vec<f32> = (0..120).map(|i| i as f32).collect();
        let shape = [2, 3, 4, 5];
        let gather = Gather::transpose(&shape, &[0, 2, 3, 1]);
        let mut out = vec![0.0; 120];
        gather.copy(&x, &mut out);
        for n in 0..2 {
            for (h, w, c) in (0..4).flat_map(|h| (0..5).flat_map(move |w| (0..3).map(move |c| (h, w, c)))) {
                assert_eq!(out[((n * 4 + h) * 5 + w) * 3 + c], x[((n * 3 + c) * 4 + h) * 5 + w]);
            }
        }
        let mut back = vec![0.0; 120];
        gather.scatter(&out, &mut back);
        assert_eq!(back, x);
        let gather = Gather::slice(&shape, &[0, 1, 0, 2], &[2, 1, 4, 3]);
        let mut out = vec![0.0; 24];
        gather.copy(&x, &mut out);
        assert_eq!(out[..6], [22.0, 23.0, 24.0, 27.0, 28.0, 29.0]);
        let tile = Gather::tile(&[2, 1, 2], &[2, 3, 1]);
        let mut out = vec![0.0; 24];
        tile.copy(&[1.0, 2.0, 3.0, 4.0], &mut out);
        let row = [[1.0, 2.0].repeat(3), [3.0, 4.0].repeat(3)].concat();
        assert_eq!(out, row.repeat(2));
        let mut back = vec![0.0; 4];
        tile.scatter_add(&[1.0; 24], &mut back);
        assert_eq!(back, [6.0; 4]);
        assert!(Gather::transpose(&[1, 1, 4, 5], &[0, 2, 3, 1]).is_identity(20));
        assert!(!Gather::slice(&[20], &[0], &[10]).is_identity(20));
    }

    #[test]
    fn columns_round_trip() {
        let mut out = vec![0.0; 10];
        copy_columns(&[1.0, 2.0], 1, 0, 5, &mut out);
        copy_columns(&[3.0, 4.0, 5.0, 6.0], 2, 1, 5, &mut out);
        assert_eq!(out, [1.0, 3.0, 4.0, 0.0, 0.0, 2.0, 5.0, 6.0, 0.0, 0.0]);
        let mut part = vec![0.0; 4];
        take_columns(&out, 2, 1, 5, &mut part);
        assert_eq!(part, [3.0, 4.0, 5.0, 6.0]);
    }
}
