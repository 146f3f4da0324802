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
        Self { values, row: columns, column: 1 }
    }

    /// The transpose of a row-major matrix with `columns` columns.
    pub fn transposed(values: &'a [f32], columns: usize) -> Self {
        Self { values, row: 1, column: columns }
    }
}

/// Sums run over blocks of this many columns of the left matrix.
const DEPTH: usize = 256;

/// What a product is added to.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Nothing.
    Zero,
    /// The result's old values.
    Result,
    /// A row, the same for every row of the result.
    Row(&'a [f32]),
}

/// `c = start + a·b`: a is m × k, b is k × n and c is m × n, the latter two row-major. Sums run in order of k, in
/// blocks of 256.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub fn gemm([m, n, k]: [usize; 3], a: View<'_>, b: &[f32], c: &mut [f32], start: Start<'_>) {
    const FMA: bool = target_cfg_f!(target_feature = "fma");
    let (b, c) = (&b[..k * n], &mut c[..m * n]);
    // An empty sum still writes the start.
    for from in (0..k.max(1)).step_by(DEPTH) {
        let depth = DEPTH.min(k - from);
        let start = if from > 0 { Start::Result } else { start };
        let b = &b[from * n..(from + depth) * n];
        let mut row = 0;
        while row < m {
            let left = m - row;
            let a = View { values: a.values.get(row * a.row + from * a.column..).unwrap_or(&[]), ..a };
            let c = &mut c[row * n..];
            row += match left {
                6.. => panel::<FMA, 6>(a, b, c, n, depth, start),
                4.. => panel::<FMA, 4>(a, b, c, n, depth, start),
                2.. => panel::<FMA, 2>(a, b, c, n, depth, start),
                _ => panel::<FMA, 1>(a, b, c, n, depth, start),
            };
        }
    }
}

/// `R` rows of the product; returns `R`.
#[inline(always)]
fn panel<const FMA: bool, const R: usize>(
    a: View<'_>,
    b: &[f32],
    c: &mut [f32],
    n: usize,
    depth: usize,
    start: Start<'_>,
) -> usize {
    if depth == 0 {
        columns::<FMA, R>(|_, _| 0.0, 0, b, c, n, start);
    } else if a.column == 1 {
        // Rows are read where they are.
        let mut rows: [&[f32]; R] = [&[]; R];
        for (row, values) in rows.iter_mut().enumerate() {
            *values = &a.values[row * a.row..][..depth];
        }
        columns::<FMA, R>(|row, at| rows[row][at], depth, b, c, n, start);
    } else {
        let mut packed = [[0f32; R]; DEPTH];
        let packed = &mut packed[..depth];
        for (at, column) in packed.iter_mut().enumerate() {
            if a.row == 1
                && let Some(values) = a.values[at * a.column..].first_chunk::<R>()
            {
                *column = *values;
                continue;
            }
            for (row, value) in column.iter_mut().enumerate() {
                *value = a.values[row * a.row + at * a.column];
            }
        }
        columns::<FMA, R>(|row, at| packed[at][row], depth, b, c, n, start);
    }
    R
}

#[inline(always)]
fn columns<const FMA: bool, const R: usize>(
    a: impl Fn(usize, usize) -> f32 + Copy,
    depth: usize,
    b: &[f32],
    c: &mut [f32],
    n: usize,
    start: Start<'_>,
) {
    let mut column = 0;
    while n - column >= 16 {
        tile::<FMA, R, 16>(a, depth, b, c, n, column, start);
        column += 16;
    }
    if n - column >= 8 {
        tile::<FMA, R, 8>(a, depth, b, c, n, column, start);
        column += 8;
    }
    if n - column >= 4 {
        tile::<FMA, R, 4>(a, depth, b, c, n, column, start);
        column += 4;
    }
    while column < n {
        tile::<FMA, R, 1>(a, depth, b, c, n, column, start);
        column += 1;
    }
}

#[inline(always)]
fn tile<const FMA: bool, const R: usize, const N: usize>(
    a: impl Fn(usize, usize) -> f32,
    depth: usize,
    b: &[f32],
    c: &mut [f32],
    n: usize,
    column: usize,
    start: Start<'_>,
) {
    let mut sums = [[0f32; N]; R];
    if let Start::Row(values) = start
        && let Some(values) = values[column..].first_chunk::<N>()
    {
        sums = [*values; R];
    }
    for at in 0..depth {
        let Some(b) = b[at * n + column..].first_chunk::<N>() else {
            return;
        };
        for (row, sums) in sums.iter_mut().enumerate() {
            let a = a(row, at);
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum = multiply_add::<FMA>(a, b, *sum);
            }
        }
    }
    let add = matches!(start, Start::Result);
    for (row, sums) in sums.iter().enumerate() {
        let c = &mut c[row * n + column..][..N];
        for (c, &sum) in c.iter_mut().zip(sums) {
            *c = if add { *c + sum } else { sum };
        }
    }
}

/// `out[o] = bias[o] + Σᵢ x[i]·weights[o][i]`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub fn matrix_vector(weights: &[f32], x: &[f32], bias: &[f32], out: &mut [f32]) {
    const FMA: bool = target_cfg_f!(target_feature = "fma");
    for ((out, row), &bias) in out.iter_mut().zip(weights.chunks_exact(x.len().max(1))).zip(bias) {
        let mut sums = [[0f32; 16]; 2];
        let (rows, xs) = (row.chunks_exact(32), x.chunks_exact(32));
        let rest: f32 = rows.remainder().iter().zip(xs.remainder()).map(|(&w, &x)| w * x).sum();
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

/// `out += the sum of the rows of g`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn sum_rows(g: &[f32], out: &mut [f32]) {
    const LANES: usize = 64;
    let columns = out.len().max(1);
    if LANES.is_multiple_of(columns) {
        // Several short rows at a time.
        let mut lanes = [0f32; LANES];
        let chunks = g.chunks_exact(LANES);
        for (lane, &g) in lanes.iter_mut().zip(chunks.remainder()) {
            *lane = g;
        }
        for chunk in chunks {
            for (lane, &g) in lanes.iter_mut().zip(chunk) {
                *lane += g;
            }
        }
        for row in lanes.chunks_exact(columns) {
            for (out, &lane) in out.iter_mut().zip(row) {
                *out += lane;
            }
        }
        return;
    }
    for row in g.chunks_exact(columns) {
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
        (0..len as u32).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0).collect()
    }

    #[test]
    fn products_match_the_definition() {
        for (m, n, k) in [(1, 1, 1), (7, 5, 3), (6, 16, 300), (13, 37, 19), (4, 8, 0), (49, 24, 96), (3, 20, 513)] {
            let (a, b, start) = (values(m * k, 1), values(k * n, 2), values(m * n, 3));
            for transposed in [false, true] {
                for kind in 0..3 {
                    let view = if transposed { View::transposed(&a, m) } else { View::rows(&a, k) };
                    let mut c = start.clone();
                    let row = values(n, 4);
                    let begin = [Start::Zero, Start::Result, Start::Row(&row)][kind];
                    gemm([m, n, k], view, &b, &mut c, begin);
                    for i in 0..m {
                        for j in 0..n {
                            let sum: f64 = (0..k)
                                .map(|l| {
                                    let a = if transposed { a[l * m + i] } else { a[i * k + l] };
                                    f64::from(a) * f64::from(b[l * n + j])
                                })
                                .sum();
                            let want = sum + f64::from([0.0, start[i * n + j], row[j]][kind]);
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
