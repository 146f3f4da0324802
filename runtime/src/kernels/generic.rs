//! A plain interpreter for what has no kernel of its own: integers and booleans, conditions, and convolutions whose weights are
//! computed. It reads a whole operand, works element by element in i64 or f32, and writes words.

use super::{
    elementwise::chain,
    indexed::{self, Operand},
    layout::walk,
    sample,
};
use crate::program::{Binary, DType, Op, Reduce, Scattering, Unary};

/// An operation with its operands' and its result's types and shapes.
#[derive(Clone, Debug)]
pub struct Generic {
    /// The operation.
    pub op: Op,
    /// The operands'.
    pub operands: Vec<(DType, Vec<usize>)>,
    /// The result's.
    pub result: (DType, Vec<usize>),
}

/// A tensor's elements.
enum Elements {
    Float(Vec<f32>),
    Int(Vec<i64>),
}

/// Whether [`run`] knows an operation on operands of these types; the shapes are checked elsewhere. `Err` says what is wrong.
pub fn check(op: &Op, operands: &[DType], result: DType) -> Result<(), String> {
    let first = operands.first().copied().unwrap_or_default();
    let same = |from: usize| operands[from..].iter().all(|&dtype| dtype == operands[from]);
    let is = |dtype: DType| (result == dtype && first == dtype).then_some(());
    let number = first != DType::Bool;
    let fits = match op {
        Op::Unary(Unary::Not) => is(DType::Bool),
        Op::Unary(Unary::Identity | Unary::Abs | Unary::Negate | Unary::Sign) => (result == first).then_some(()),
        Op::Unary(_) => is(DType::F32),
        Op::Binary(Binary::Equal) => (same(0) && result == DType::Bool).then_some(()),
        Op::Binary(Binary::Greater | Binary::GreaterEqual) => {
            (same(0) && number && result == DType::Bool).then_some(())
        }
        Op::Binary(Binary::And | Binary::Or | Binary::Xor) => is(DType::Bool).filter(|()| same(0)),
        Op::Binary(Binary::Div) => is(DType::F32).filter(|()| same(0)),
        Op::Binary(Binary::IntDiv) => (same(0) && result == first && number && first != DType::F32).then_some(()),
        Op::Binary(_) => (same(0) && result == first && number).then_some(()),
        Op::Cast => Some(()),
        Op::Select => (first == DType::Bool && same(1) && result == operands[1]).then_some(()),
        Op::ArgMax { .. } => (number && matches!(result, DType::I32 | DType::I64)).then_some(()),
        Op::Take { .. } | Op::Pick { .. } => (result == first && is_index(operands.get(1))).then_some(()),
        Op::Scatter { reduction, .. } => {
            let numbers = number || *reduction == Scattering::Replace;
            (numbers && result == first && is_index(operands.get(1)) && operands.get(2) == Some(&first)).then_some(())
        }
        Op::TopK { .. } => (number && result == DType::I64).then_some(()),
        Op::CumSum { .. } => (number && result == first).then_some(()),
        Op::Reduce { .. }
        | Op::Reshape
        | Op::Transpose { .. }
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Tile { .. } => (result == first).then_some(()),
        Op::Concat { .. } | Op::MatMul => (same(0) && result == first).then_some(()),
        _ => is(DType::F32).filter(|()| same(0)),
    };
    fits.ok_or_else(|| format!("it cannot make {result:?} of {operands:?}"))
}

fn is_index(dtype: Option<&DType>) -> bool {
    matches!(dtype, Some(DType::I32 | DType::I64))
}

/// Which operands the gradient of f32 results in f32 operands reads ([`backward`]); `None` if it is not known.
pub fn gradient_reads(op: &Op) -> Option<&'static [usize]> {
    match op {
        Op::Select => Some(&[0]),
        Op::Take { .. } | Op::Pick { .. } | Op::Scatter { reduction: Scattering::Replace | Scattering::Add, .. } => {
            Some(&[1])
        }
        Op::Scatter { .. } => Some(&[0, 1, 2]),
        Op::CumSum { .. } => Some(&[]),
        Op::GridSample(_) | Op::Binary(Binary::Mod | Binary::Rem) => Some(&[0, 1]),
        _ => None,
    }
}

/// Computes the result; `check` has accepted the types.
pub fn run(generic: &Generic, operands: &[&[f32]], out: &mut [f32]) {
    let elements = |index: usize| match generic.operands[index].0 {
        DType::F32 => Elements::Float(operands[index].to_vec()),
        dtype => Elements::Int(dtype.decode(operands[index])),
    };
    let (dtype, shape) = &generic.result;
    let from = |index: usize| generic.operands[index].1.as_slice();
    let operand = |index: usize| -> Operand<'_> { (generic.operands[index].0, from(index), operands[index]) };
    let ints = |index: usize| match elements(index) {
        Elements::Int(values) => values,
        Elements::Float(values) => values.into_iter().map(|value| value as i64).collect(),
    };
    let result = match &generic.op {
        Op::Unary(op) => match elements(0) {
            Elements::Int(values) => Elements::Int(values.into_iter().map(|x| unary(*op, x)).collect()),
            floats => floats,
        },
        Op::Binary(op) => {
            let pairs = offsets(from(0), shape).into_iter().zip(offsets(from(1), shape));
            match (elements(0), elements(1)) {
                (Elements::Float(a), Elements::Float(b)) if *dtype == DType::Bool => {
                    Elements::Int(pairs.map(|(i, j)| i64::from(compare(*op, &a[i], &b[j]))).collect())
                }
                (Elements::Int(a), Elements::Int(b)) if *dtype == DType::Bool => Elements::Int(
                    pairs
                        .map(|(i, j)| match op {
                            Binary::And => a[i] & b[j],
                            Binary::Or => a[i] | b[j],
                            Binary::Xor => a[i] ^ b[j],
                            _ => i64::from(compare(*op, &a[i], &b[j])),
                        })
                        .collect(),
                ),
                (Elements::Float(a), Elements::Float(b)) => {
                    Elements::Float(pairs.map(|(i, j)| float_binary(*op, a[i], b[j])).collect())
                }
                (Elements::Int(a), Elements::Int(b)) => {
                    Elements::Int(pairs.map(|(i, j)| int_binary(*op, a[i], b[j])).collect())
                }
                _ => return,
            }
        }
        Op::Cast => match (elements(0), dtype) {
            (Elements::Float(values), DType::F32) => Elements::Float(values),
            (Elements::Int(values), DType::F32) => Elements::Float(values.into_iter().map(|x| x as f32).collect()),
            (Elements::Float(values), DType::Bool) => {
                Elements::Int(values.into_iter().map(|x| i64::from(x != 0.0)).collect())
            }
            (Elements::Float(values), DType::I32) => {
                Elements::Int(values.into_iter().map(|x| i64::from(x.round_ties_even() as i32)).collect())
            }
            (Elements::Float(values), DType::I64) => {
                Elements::Int(values.into_iter().map(|x| x.round_ties_even() as i64).collect())
            }
            (ints, _) => ints,
        },
        Op::Select => {
            let condition = ints(0);
            let at = [1, 2].map(|index| offsets(from(index), shape));
            let taken: Vec<bool> = offsets(from(0), shape).into_iter().map(|i| condition[i] != 0).collect();
            let pick = |i: usize| if taken[i] { (0, at[0][i]) } else { (1, at[1][i]) };
            match (elements(1), elements(2)) {
                (Elements::Float(a), Elements::Float(b)) => Elements::Float(choose(taken.len(), pick, [&a, &b])),
                (Elements::Int(a), Elements::Int(b)) => Elements::Int(choose(taken.len(), pick, [&a, &b])),
                _ => return,
            }
        }
        Op::Pick { axis } => return indexed::pick(*axis, operand(0), operand(1), shape, out),
        Op::Scatter { axis, reduction } => {
            return indexed::scatter(*axis, *reduction, operand(0), operand(1), operand(2), out);
        }
        Op::GridSample(sampling) => {
            let shapes = sample::Shapes { data: from(0), points: from(1) };
            return sample::forward(shapes, *sampling, operands[0], operands[1], out);
        }
        Op::TopK { axis, count, largest } => {
            let around = around(from(0), *axis);
            Elements::Int(match elements(0) {
                Elements::Float(x) => indexed::top_k(around, *count, *largest, |a, b| indexed::compare(x[a], x[b])),
                Elements::Int(x) => indexed::top_k(around, *count, *largest, |a, b| x[a].cmp(&x[b])),
            })
        }
        Op::CumSum { axis, exclusive, reverse } => {
            let (around, how) = (around(from(0), *axis), [*exclusive, *reverse]);
            match elements(0) {
                Elements::Float(x) => {
                    return indexed::running_sums(around, how, &x, 0.0, |a, b| a + b, |at, sum| out[at] = sum);
                }
                Elements::Int(x) => {
                    let mut sums = vec![0; x.len()];
                    indexed::running_sums(around, how, &x, 0, i64::wrapping_add, |at, sum| sums[at] = sum);
                    Elements::Int(sums)
                }
            }
        }
        Op::ArgMax { axis } => {
            let [outer, size, inner] = around(from(0), *axis);
            let positions = (0..outer).flat_map(|o| (0..inner).map(move |i| o * size * inner + i));
            Elements::Int(match elements(0) {
                Elements::Float(x) => positions.map(|at| first_greatest(size, |k| x[at + k * inner])).collect(),
                Elements::Int(x) => positions.map(|at| first_greatest(size, |k| x[at + k * inner])).collect(),
            })
        }
        Op::Reduce { kind, axis } => {
            let [outer, size, inner] = around(from(0), *axis);
            let positions = (0..outer).flat_map(|o| (0..inner).map(move |i| o * size * inner + i));
            let Elements::Int(x) = elements(0) else { return };
            Elements::Int(
                positions
                    .map(|at| {
                        let all = (0..size).map(|k| x[at + k * inner]);
                        match kind {
                            Reduce::Sum => all.fold(0i64, i64::wrapping_add),
                            Reduce::Product => all.fold(1i64, i64::wrapping_mul),
                            Reduce::Max => all.max().unwrap_or(i64::MIN),
                            Reduce::Min => all.min().unwrap_or(i64::MAX),
                        }
                    })
                    .collect(),
            )
        }
        Op::MatMul => {
            let (Elements::Int(a), Elements::Int(b)) = (elements(0), elements(1)) else { return };
            let (&[.., rows, inner], &[.., columns]) = (from(0), from(1)) else { return };
            Elements::Int(
                (0..shape.iter().product())
                    .map(|at: usize| {
                        let (image, row, column) = (at / columns / rows, at / columns % rows, at % columns);
                        (0..inner).fold(0i64, |sum, k| {
                            let product = a[(image * rows + row) * inner + k]
                                .wrapping_mul(b[(image * inner + k) * columns + column]);
                            sum.wrapping_add(product)
                        })
                    })
                    .collect(),
            )
        }
        Op::Conv2d { .. } => {
            convolution(generic, operands, out);
            return;
        }
        Op::Concat { axis } => {
            let mut all = Vec::new();
            let mut starts = vec![0];
            for ((dtype, _), words) in generic.operands.iter().zip(operands) {
                all.extend(ints_or_bits(*dtype, words));
                starts.push(all.len());
            }
            let [outer, ..] = around(shape, *axis);
            let runs: Vec<usize> =
                (0..operands.len()).map(|index| (starts[index + 1] - starts[index]) / outer).collect();
            let picked = (0..outer).flat_map(|o| {
                let (starts, runs, all) = (&starts, &runs, &all);
                (0..runs.len()).flat_map(move |index| {
                    let at = starts[index] + o * runs[index];
                    all[at..at + runs[index]].iter().copied()
                })
            });
            let picked: Vec<i64> = picked.collect();
            write_bits(*dtype, &picked, out);
            return;
        }
        op => {
            // Moves: every element of the result is one of the operand's, or the border.
            let x = ints_or_bits(*dtype, operands[0]);
            let indices = match op {
                Op::Take { .. } => ints(1),
                _ => Vec::new(),
            };
            let border = match op {
                Op::Pad { value, .. } if *dtype == DType::F32 => i64::from(value.to_bits()),
                Op::Pad { value, .. } => *value as i64,
                _ => 0,
            };
            let moved: Vec<i64> =
                walk(shape, |at| source(op, from(0), &indices, at).map_or(border, |offset| x[offset]));
            write_bits(*dtype, &moved, out);
            return;
        }
    };
    match result {
        Elements::Float(values) => out.copy_from_slice(&values),
        Elements::Int(values) => out.copy_from_slice(&dtype.encode(&values)),
    }
}

/// Adds the gradient of operand `position` to `out`, for operations that [`gradient_reads`] knows; operands that it does not name
/// may be empty.
pub fn backward(generic: &Generic, position: usize, operands: &[&[f32]], g: &[f32], out: &mut [f32]) {
    let shape = &generic.result.1;
    let from = |index: usize| generic.operands[index].1.as_slice();
    let operand = |index: usize| -> Operand<'_> { (generic.operands[index].0, from(index), operands[index]) };
    match &generic.op {
        Op::Pick { axis } => indexed::pick_backward(*axis, from(0), operand(1), shape, g, out),
        Op::Scatter { axis, reduction } => {
            let [data, indices, updates] = [0, 1, 2].map(operand);
            indexed::scatter_backward(*axis, *reduction, data, indices, updates, position == 0, g, out);
        }
        Op::CumSum { axis, exclusive, reverse } => {
            let put = |at: usize, sum: f32| out[at] += sum;
            indexed::running_sums(around(shape, *axis), [*exclusive, !*reverse], g, 0.0, |a, b| a + b, put);
        }
        Op::GridSample(sampling) => {
            let shapes = sample::Shapes { data: from(0), points: from(1) };
            match position {
                0 => sample::backward_data(shapes, *sampling, operands[1], g, out),
                _ => sample::backward_points(shapes, *sampling, operands[0], operands[1], g, out),
            }
        }
        // The dividend less a multiple of the divisor, which is constant almost everywhere.
        Op::Binary(op @ (Binary::Mod | Binary::Rem)) => {
            let at = [0, 1].map(|index| offsets(from(index), shape));
            for (index, &g) in g.iter().enumerate() {
                let quotient = operands[0][at[0][index]] / operands[1][at[1][index]];
                let multiple = if *op == Binary::Mod { quotient.floor() } else { quotient.trunc() };
                out[at[position][index]] += if position == 0 { g } else { chain(g, -multiple) };
            }
        }
        Op::Select => {
            let (dtype, from) = &generic.operands[0];
            let condition = dtype.decode(operands[0]);
            let taken = offsets(from, shape).into_iter().map(|i| condition[i] != 0);
            let at = offsets(&generic.operands[position].1, shape);
            for ((taken, at), g) in taken.zip(at).zip(g) {
                if taken == (position == 1) {
                    out[at] += g;
                }
            }
        }
        op @ Op::Take { .. } => {
            let indices = generic.operands[1].0.decode(operands[1]);
            let sources = walk(shape, |at| source(op, from(0), &indices, at).unwrap_or(0));
            for (at, g) in sources.into_iter().zip(g) {
                out[at] += g;
            }
        }
        _ => {}
    }
}

/// The elements' integers, or the bits of floats: for what moves elements without looking at them.
fn ints_or_bits(dtype: DType, words: &[f32]) -> Vec<i64> {
    match dtype {
        DType::F32 => words.iter().map(|word| i64::from(word.to_bits())).collect(),
        dtype => dtype.decode(words),
    }
}

fn write_bits(dtype: DType, values: &[i64], out: &mut [f32]) {
    match dtype {
        DType::F32 => out.iter_mut().zip(values).for_each(|(out, &value)| *out = f32::from_bits(value as u32)),
        dtype => out.copy_from_slice(&dtype.encode(values)),
    }
}

/// Where a move takes the element at an index of the result from; `None` outside.
fn source(op: &Op, from: &[usize], indices: &[i64], at: &[usize]) -> Option<usize> {
    let offset =
        |index: &mut dyn Iterator<Item = usize>| from.iter().zip(index).fold(0, |sum, (size, at)| sum * size + at);
    Some(match op {
        Op::Transpose { perms } => {
            let mut index = vec![0; at.len()];
            perms.iter().zip(at).for_each(|(&axis, &at)| index[axis] = at);
            offset(&mut index.into_iter())
        }
        Op::Slice { start } => offset(&mut at.iter().zip(start).map(|(at, start)| at + start)),
        Op::Tile { .. } => offset(&mut at.iter().zip(from).map(|(at, size)| at % size)),
        Op::Take { axis } => {
            let last = from[*axis].saturating_sub(1);
            let picked = usize::try_from(indices[at[*axis]]).unwrap_or(0).min(last);
            offset(&mut at.iter().enumerate().map(|(each, &at)| if each == *axis { picked } else { at }))
        }
        Op::Pad { pad, .. } => {
            let inside = at.iter().zip(pad).zip(from).all(|((&at, pad), &size)| at >= pad[0] && at - pad[0] < size);
            if !inside {
                return None;
            }
            offset(&mut at.iter().zip(pad).map(|(at, pad)| at - pad[0]))
        }
        _ => offset(&mut at.iter().copied()),
    })
}

/// `[before, axis, after]`.
fn around(shape: &[usize], axis: usize) -> [usize; 3] {
    [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()]
}

/// For every element of `shape`, where it is in a tensor of shape `from`, whose axes of size 1 repeat.
fn offsets(from: &[usize], shape: &[usize]) -> Vec<usize> {
    walk(shape, |at| from.iter().zip(at).fold(0, |sum, (&size, &at)| sum * size + if size == 1 { 0 } else { at }))
}

fn choose<T: Copy>(len: usize, pick: impl Fn(usize) -> (usize, usize), from: [&[T]; 2]) -> Vec<T> {
    (0..len)
        .map(|i| {
            let (which, at) = pick(i);
            from[which][at]
        })
        .collect()
}

fn first_greatest<T: PartialOrd>(size: usize, at: impl Fn(usize) -> T) -> i64 {
    let is_nan = |x: &T| x.partial_cmp(x).is_none();
    (1..size).fold(0, |best, k| {
        let (next, most) = (at(k), at(best));
        if next > most || is_nan(&next) && !is_nan(&most) { k } else { best }
    }) as i64
}

fn compare<T: PartialOrd>(op: Binary, a: &T, b: &T) -> bool {
    match op {
        Binary::Equal => a == b,
        Binary::Greater => a > b,
        _ => a >= b,
    }
}

fn unary(op: Unary, x: i64) -> i64 {
    match op {
        Unary::Abs => x.wrapping_abs(),
        Unary::Negate => x.wrapping_neg(),
        Unary::Sign => x.signum(),
        Unary::Not => i64::from(x == 0),
        _ => x,
    }
}

fn float_binary(op: Binary, a: f32, b: f32) -> f32 {
    match op {
        Binary::Div => a / b,
        Binary::Rem => a % b,
        // As Python's.
        Binary::Mod => {
            let rest = a % b;
            if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
        }
        _ => f32::NAN,
    }
}

fn int_binary(op: Binary, a: i64, b: i64) -> i64 {
    match op {
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Mul => a.wrapping_mul(b),
        Binary::Max => a.max(b),
        Binary::Min => a.min(b),
        Binary::Pow => u32::try_from(b).map_or(0, |exponent| a.wrapping_pow(exponent)),
        Binary::IntDiv if b != 0 => a.wrapping_div(b),
        Binary::Rem if b != 0 => a.wrapping_rem(b),
        Binary::Mod if b != 0 => {
            let rest = a.wrapping_rem(b);
            if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
        }
        _ => 0,
    }
}

fn convolution(generic: &Generic, operands: &[&[f32]], out: &mut [f32]) {
    let Op::Conv2d { stride, pad, dilation, groups, .. } = &generic.op else { return };
    let [input, weight, ..] = generic.operands.as_slice() else { return };
    let (&[_, rows, columns, channels], &[outputs, kh, kw, depth]) = (input.1.as_slice(), weight.1.as_slice()) else {
        return;
    };
    let [x, w, bias] = operands else { return };
    let per_group = (outputs / groups).max(1);
    let inside = |at: usize, step: usize, axis: usize, size: usize| {
        (at * stride[axis] + step * dilation[axis]).checked_sub(pad[2 * axis]).filter(|&at| at < size)
    };
    let values = walk(&generic.result.1, |at| {
        let &[image, i, j, o] = at else { return 0.0 };
        let mut sum = f64::from(bias[if bias.len() == 1 { 0 } else { o }]);
        for (y, x_step) in (0..kh).flat_map(|y| (0..kw).map(move |x| (y, x))) {
            if let (Some(row), Some(column)) = (inside(i, y, 0, rows), inside(j, x_step, 1, columns)) {
                let from = ((image * rows + row) * columns + column) * channels + o / per_group * depth;
                let with = ((o * kh + y) * kw + x_step) * depth;
                sum += x[from..from + depth]
                    .iter()
                    .zip(&w[with..with + depth])
                    .map(|(&x, &w)| f64::from(x) * f64::from(w))
                    .sum::<f64>();
            }
        }
        sum as f32
    });
    out.copy_from_slice(&values);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact() {
        let shape = vec![2];
        let values = [(1i64 << 53) + 1, -(1i64 << 40)];
        for dtype in [DType::I64, DType::I32] {
            let words = dtype.encode(&values);
            let generic = Generic {
                op: Op::Binary(Binary::Add),
                operands: vec![(dtype, shape.clone()), (dtype, shape.clone())],
                result: (dtype, shape.clone()),
            };
            let mut out = vec![0.0; words.len()];
            run(&generic, &[&words, &words], &mut out);
            let wanted = values.map(|value| match dtype {
                DType::I64 => 2 * value,
                _ => i64::from((value as i32).wrapping_mul(2)),
            });
            assert_eq!(dtype.decode(&out), wanted);
        }
    }

    #[test]
    fn remainders_have_the_signs_asked_for() {
        assert_eq!([-7, 7].map(|a| int_binary(Binary::Mod, a, -3)), [-1, -2]);
        assert_eq!([-7, 7].map(|a| int_binary(Binary::Rem, a, -3)), [-1, 1]);
        assert_eq!([-7.0, 7.0].map(|a| float_binary(Binary::Mod, a, 3.0)), [2.0, 1.0]);
    }
}
