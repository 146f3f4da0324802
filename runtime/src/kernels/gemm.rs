//! Small matrix products: a register-blocked kernel without packing of the right-hand side, for the denoisers' 1×1
//! convolutions, fully connected layers and activation products.

use super::multiply_add;
use multiversion::{multiversion, target::target_cfg_f};

/// A strided view of a matrix: element (i, j) is at `i·row + j·column`.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The values.
    pub values: &'a [f32],
    /// The distance between rows.
    pub row: usize,
    /// The distance between columns.
    pub column: usize,
}

impl<'a> View<'a> {
    /// A row-major matrix with `columns` columns.
    pub fn rows(values: &'a [f32], columns: usize) -> Self {
        Self {
            values,
            row: columns,
            column: 1,
        }
    }

    /// The transpose of a row-major matrix with `columns` columns.
    pub fn transposed(values: &'a [f32], columns: usize) -> Self {
        Self {
            values,
            row: 1,
            column: columns,
        }
    }
}

/// Rows of the left matrix are packed this many columns at a time.
const DEPTH: usize = 256;

/// `c = a·b`, or `c += a·b` if `accumulate`: a is m × k, b is k × n and c is m × n, both row-major. Sums run in order
/// of k, in blocks of 256.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub fn gemm([m, n, k]: [usize; 3], a: View<'_>, b: &[f32], c: &mut [f32], accumulate: bool) {
    const FMA: bool =
        target_cfg_f!(target_feature = "fma") || target_cfg_f!(target_feature = "avx512f");
    let (b, c) = (&b[..k * n], &mut c[..m * n]);
    if !accumulate && k == 0 {
        c.fill(0.0);
    }
    let mut packed = [0f32; DEPTH * 6];
    for start in (0..k).step_by(DEPTH) {
        let depth = DEPTH.min(k - start);
        let accumulate = accumulate || start > 0;
        let b = &b[start * n..(start + depth) * n];
        let mut row = 0;
        while row < m {
            let left = m - row;
            let a = View {
                values: &a.values[row * a.row + start * a.column..],
                ..a
            };
            let c = &mut c[row * n..];
            row += match left {
                6.. => panel::<FMA, 6>(&mut packed, a, b, c, n, depth, accumulate),
                4.. => panel::<FMA, 4>(&mut packed, a, b, c, n, depth, accumulate),
                2.. => panel::<FMA, 2>(&mut packed, a, b, c, n, depth, accumulate),
                _ => panel::<FMA, 1>(&mut packed, a, b, c, n, depth, accumulate),
            };
        }
    }
}

/// `R` rows of the product; returns `R`.
#[inline(always)]
fn panel<const FMA: bool, const R: usize>(
    packed: &mut [f32],
    a: View<'_>,
    b: &[f32],
    c: &mut [f32],
    n: usize,
    depth: usize,
    accumulate: bool,
) -> usize {
    let (packed, _) = packed.as_chunks_mut::<R>();
    let packed = &mut packed[..depth];
    for (j, column) in packed.iter_mut().enumerate() {
        for (i, value) in column.iter_mut().enumerate() {
            *value = a.values[i * a.row + j * a.column];
        }
    }
    let mut column = 0;
    while n - column >= 16 {
        tile::<FMA, R, 16>(packed, b, c, n, column, accumulate);
        column += 16;
    }
    if n - column >= 8 {
        tile::<FMA, R, 8>(packed, b, c, n, column, accumulate);
        column += 8;
    }
    if n - column >= 4 {
        tile::<FMA, R, 4>(packed, b, c, n, column, accumulate);
        column += 4;
    }
    while column < n {
        tile::<FMA, R, 1>(packed, b, c, n, column, accumulate);
        column += 1;
    }
    R
}

#[inline(always)]
fn tile<const FMA: bool, const R: usize, const N: usize>(
    packed: &[[f32; R]],
    b: &[f32],
    c: &mut [f32],
    n: usize,
    column: usize,
    accumulate: bool,
) {
    let mut sums = [[0f32; N]; R];
    for (a, b) in packed.iter().zip(b.chunks_exact(n)) {
        let Some(b) = b[column..].first_chunk::<N>() else {
            return;
        };
        for (sums, &a) in sums.iter_mut().zip(a) {
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum = multiply_add::<FMA>(a, b, *sum);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        let c = &mut c[row * n + column..][..N];
        for (c, &sum) in c.iter_mut().zip(sums) {
            *c = if accumulate { *c + sum } else { sum };
        }
    }
}

/// `out[o] = bias[o] + Σᵢ x[i]·weights[o][i]`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub fn matrix_vector(weights: &[f32], x: &[f32], bias: &[f32], out: &mut [f32]) {
    const FMA: bool =
        target_cfg_f!(target_feature = "fma") || target_cfg_f!(target_feature = "avx512f");
    for ((out, row), &bias) in out
        .iter_mut()
        .zip(weights.chunks_exact(x.len().max(1)))
        .zip(bias)
    {
        let mut sums = [[0f32; 16]; 2];
        let (rows, xs) = (row.chunks_exact(32), x.chunks_exact(32));
        let rest: f32 = rows
            .remainder()
            .iter()
            .zip(xs.remainder())
            .map(|(&w, &x)| w * x)
            .sum();
        for (row, x) in rows.zip(xs) {
            for (half, sums) in sums.iter_mut().enumerate() {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    *sum = multiply_add::<FMA>(row[half * 16 + lane], x[half * 16 + lane], *sum);
                }
            }
        }
        let mut lanes = [0f32; 16];
        for (lane, value) in lanes.iter_mut().enumerate() {
            *value = sums[0][lane] + sums[1][lane];
        }
        *out = bias + (lanes.iter().sum::<f32>() + rest);
    }
}

/// Adds `bias` to each row of `c`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn add_rows(c: &mut [f32], bias: &[f32]) {
    for row in c.chunks_exact_mut(bias.len().max(1)) {
        for (c, &bias) in row.iter_mut().zip(bias) {
            *c += bias;
        }
    }
}

/// `out += the sum of the rows of g`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn sum_rows(g: &[f32], out: &mut [f32]) {
    for row in g.chunks_exact(out.len().max(1)) {
        for (out, &g) in out.iter_mut().zip(row) {
            *out += g;
        }
    }
}

/// `out[j][i] = a[i][j]` for a row-major matrix with `columns` columns.
pub fn transpose(a: &[f32], columns: usize, out: &mut [f32]) {
    let rows = a.len() / columns.max(1);
    for (i, row) in a.chunks_exact(columns.max(1)).enumerate() {
        for (j, &value) in row.iter().enumerate() {
            out[j * rows + i] = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(len: usize, seed: u32) -> Vec<f32> {
        (0..len as u32)
            .map(|i| ((i * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0)
            .collect()
    }

    #[test]
    fn products_match_the_definition() {
        for (m, n, k) in [
            (1, 1, 1),
            (7, 5, 3),
            (6, 16, 300),
            (13, 37, 19),
            (4, 8, 0),
            (49, 24, 96),
            (3, 20, 513),
        ] {
            let (a, b, start) = (values(m * k, 1), values(k * n, 2), values(m * n, 3));
            for transposed in [false, true] {
                for accumulate in [false, true] {
                    let view = if transposed {
                        View::transposed(&a, m)
                    } else {
                        View::rows(&a, k)
                    };
                    let mut c = start.clone();
                    gemm([m, n, k], view, &b, &mut c, accumulate);
                    for i in 0..m {
                        for j in 0..n {
                            let sum: f64 = (0..k)
                                .map(|l| {
                                    let a = if transposed {
                                        a[l * m + i]
                                    } else {
                                        a[i * k + l]
                                    };
                                    f64::from(a) * f64::from(b[l * n + j])
                                })
                                .sum();
                            let want = sum
                                + if accumulate {
                                    f64::from(start[i * n + j])
                                } else {
                                    0.0
                                };
                            assert!((f64::from(c[i * n + j]) - want).abs() < 1e-4, "{m} {n} {k}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn matrix_vector_matches_the_definition() {
        let (w, x, bias) = (values(5 * 75, 1), values(75, 2), values(5, 3));
        let mut out = vec![0.0; 5];
        matrix_vector(&w, &x, &bias, &mut out);
        for o in 0..5 {
            let want: f32 = bias[o] + (0..75).map(|i| w[o * 75 + i] * x[i]).sum::<f32>();
            assert!((out[o] - want).abs() < 1e-4);
        }
    }
}
