//! What indices that are values of the graph do: picking, scattering, ranking; and running sums.

use super::{
    elementwise::{chain, greater, lesser},
    layout::{strides, walk},
};
use crate::program::value::DType;
use std::cmp::Ordering;

/// How [`scatter`] puts an update in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Scattering {
    /// The last one stays.
    Replace,
    Add,
    Mul,
    Max,
    Min,
}

/// An operand's type, shape and words.
pub type Operand<'a> = (DType, &'a [usize], &'a [f32]);

/// For every run of a tensor of shape `over`, where it is in the data: an index gives the place along an axis, the other axes
/// are the same, those of size 1 repeating. Also the runs' length in elements: 1, unless the indices are the same for all that
/// follows the axis.
fn places(axis: usize, over: &[usize], data: &[usize], (dtype, shape, words): Operand<'_>) -> (Vec<usize>, usize) {
    let steps = |shape: &[usize]| -> Vec<usize> {
        strides(shape).into_iter().zip(shape).map(|(stride, &size)| if size == 1 { 0 } else { stride }).collect()
    };
    let (indices, from, to) = (dtype.decode(words), steps(shape), steps(data));
    let rows = shape[axis + 1..].iter().all(|&size| size == 1) && over[axis + 1..] == data[axis + 1..];
    let outer = if rows { &over[..=axis] } else { over };
    let size = data[axis] as i64;
    let places = walk(outer, |at| {
        let index = indices[at.iter().zip(&from).map(|(at, step)| at * step).sum::<usize>()];
        let index = if index < 0 { index + size } else { index }.clamp(0, size - 1) as usize;
        let along = |(each, (at, step)): (usize, (&usize, &usize))| if each == axis { index * step } else { at * step };
        at.iter().zip(&to).enumerate().map(along).sum()
    });
    (places, over[outer.len()..].iter().product())
}

/// `Op::Pick`.
pub fn pick(axis: usize, (dtype, data, x): Operand<'_>, indices: Operand<'_>, result: &[usize], out: &mut [f32]) {
    let (places, run) = places(axis, result, data, indices);
    let words = dtype.words();
    for (out, from) in out.chunks_exact_mut((run * words).max(1)).zip(places) {
        out.copy_from_slice(&x[from * words..(from + run) * words]);
    }
}

/// Adds the data's gradient of [`pick`] to `out`.
pub fn pick_backward(axis: usize, data: &[usize], indices: Operand<'_>, result: &[usize], g: &[f32], out: &mut [f32]) {
    let (places, run) = places(axis, result, data, indices);
    for (g, to) in g.chunks_exact(run.max(1)).zip(places) {
        out[to..to + run].iter_mut().zip(g).for_each(|(out, g)| *out += g);
    }
}

/// `Op::Scatter`.
pub fn scatter(
    axis: usize,
    reduction: Scattering,
    (dtype, data, x): Operand<'_>,
    indices: Operand<'_>,
    (_, over, updates): Operand<'_>,
    out: &mut [f32],
) {
    let (places, run) = places(axis, over, data, indices);
    out.copy_from_slice(x);
    if reduction == Scattering::Replace {
        let words = dtype.words();
        for (update, to) in updates.chunks_exact((run * words).max(1)).zip(places) {
            out[to * words..(to + run) * words].copy_from_slice(update);
        }
        return;
    }
    let places = places.into_iter().flat_map(|to| to..to + run);
    if dtype == DType::F32 {
        for (&update, to) in updates.iter().zip(places) {
            out[to] = match reduction {
                Scattering::Replace => update,
                Scattering::Add => out[to] + update,
                Scattering::Mul => out[to] * update,
                Scattering::Max => greater(out[to], update),
                Scattering::Min => lesser(out[to], update),
            };
        }
        return;
    }
    let mut values = dtype.decode(x);
    for (update, to) in dtype.decode(updates).into_iter().zip(places) {
        values[to] = match reduction {
            Scattering::Replace => update,
            Scattering::Add => values[to].wrapping_add(update),
            Scattering::Mul => values[to].wrapping_mul(update),
            Scattering::Max => values[to].max(update),
            Scattering::Min => values[to].min(update),
        };
    }
    out.copy_from_slice(&dtype.encode(&values));
}

/// Adds the gradient of [`scatter`] to `out`: the data's, or the updates'. Of equal extremes the first gets it, the data before
/// the updates.
#[allow(clippy::too_many_arguments)]
pub fn scatter_backward(
    axis: usize,
    reduction: Scattering,
    data: Operand<'_>,
    indices: Operand<'_>,
    updates: Operand<'_>,
    of_data: bool,
    g: &[f32],
    out: &mut [f32],
) {
    let ((_, shape, x), (_, over, u)) = (data, updates);
    let (places, run) = places(axis, over, shape, indices);
    let places: Vec<usize> = places.into_iter().flat_map(|to| to..to + run).collect();
    // Per element of the data: which update stays, if any.
    let mut stays = vec![None; g.len()];
    match reduction {
        Scattering::Add if of_data => out.iter_mut().zip(g).for_each(|(out, g)| *out += g),
        Scattering::Add => out.iter_mut().zip(&places).for_each(|(out, &at)| *out += g[at]),
        Scattering::Mul => {
            // The product of what is not 0, and how many are.
            let mut products: Vec<(f32, usize)> = x.iter().map(|&x| if x == 0.0 { (1.0, 1) } else { (x, 0) }).collect();
            for (&u, &at) in u.iter().zip(&places) {
                let (product, zeros) = products[at];
                products[at] = if u == 0.0 { (product, zeros + 1) } else { (product * u, zeros) };
            }
            let others = |own: f32, (product, zeros): (f32, usize)| match (zeros, own == 0.0) {
                (0, _) => product / own,
                (1, true) => product,
                _ => 0.0,
            };
            if of_data {
                let all = out.iter_mut().zip(g).zip(x.iter().zip(&products));
                all.for_each(|((out, &g), (&x, &products))| *out += chain(g, others(x, products)));
            } else {
                let all = out.iter_mut().zip(&places).zip(u);
                all.for_each(|((out, &at), &u)| *out += chain(g[at], others(u, products[at])));
            }
        }
        Scattering::Replace => places.iter().enumerate().for_each(|(update, &at)| stays[at] = Some(update)),
        Scattering::Max | Scattering::Min => {
            let mut most = x.to_vec();
            for (update, (&u, &at)) in u.iter().zip(&places).enumerate() {
                let beyond = if reduction == Scattering::Max { u > most[at] } else { u < most[at] };
                if beyond {
                    (most[at], stays[at]) = (u, Some(update));
                }
            }
        }
    }
    if matches!(reduction, Scattering::Replace | Scattering::Max | Scattering::Min) {
        for (at, (&g, stays)) in g.iter().zip(stays).enumerate() {
            match stays {
                None if of_data => out[at] += g,
                Some(update) if !of_data => out[update] += g,
                _ => {}
            }
        }
    }
}

/// `Op::TopK`: the indices for `x` of `[outer, axis, inner]`.
pub fn top_k(
    [outer, size, inner]: [usize; 3],
    count: usize,
    largest: bool,
    compare: impl Fn(usize, usize) -> Ordering,
) -> Vec<i64> {
    let mut result = vec![0; outer * count * inner];
    for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
        let at = |k: &usize| (o * size + k) * inner + i;
        let mut order: Vec<usize> = (0..size).collect();
        order.sort_by(|a, b| if largest { compare(at(b), at(a)) } else { compare(at(a), at(b)) });
        for (k, index) in order.into_iter().take(count).enumerate() {
            result[(o * count + k) * inner + i] = index as i64;
        }
    }
    result
}

/// Floats in order, NaN as the greatest.
pub fn compare(a: f32, b: f32) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// `Op::CumSum` of `[outer, axis, inner]`; its gradient is the sum from the other end.
pub fn running_sums<T: Copy>(
    [outer, size, inner]: [usize; 3],
    [exclusive, reverse]: [bool; 2],
    x: &[T],
    zero: T,
    add: impl Fn(T, T) -> T,
    mut put: impl FnMut(usize, T),
) {
    for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
        let mut sum = zero;
        for step in 0..size {
            let at = (o * size + if reverse { size - 1 - step } else { step }) * inner + i;
            let next = add(sum, x[at]);
            put(at, if exclusive { sum } else { next });
            sum = next;
        }
    }
}
