//! Filters of every channel by itself, by least squares.

use super::shrink;
use nalgebra::{DMatrix, DVector};

/// Sums over pixels of products of what a filter reads and is to give, by channel.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    /// K·K taps and the constant 1, for which there is a bias.
    features: usize,
    channels: usize,
    /// The number of pixels.
    count: f64,
    /// Of features i ≤ j: Σ fᵢ·fⱼ of every channel, in the order (0, 0), (0, 1), ….
    pairs: Vec<f64>,
    /// Of every feature: Σ fᵢ·d of every channel.
    targets: Vec<f64>,
}

/// The taps and the constant of every channel.
#[derive(Clone, Debug)]
pub(super) struct Filters {
    /// `[K, K, C]`.
    pub taps: Vec<f64>,
    /// `[C]`.
    pub constants: Vec<f64>,
}

impl Sums {
    /// Nothing, of filters with so many taps.
    pub fn new(taps: usize, channels: usize) -> Self {
        let features = taps + 1;
        let pairs = vec![0.0; features * (features + 1) / 2 * channels];
        Self { features, channels, count: 0.0, pairs, targets: vec![0.0; features * channels] }
    }

    /// Adds an image of `rows` × `columns` pixels, zeros around it: what the filter reads, and what it is to give.
    pub fn add(&mut self, [rows, columns]: [usize; 2], x: &[f32], targets: &[f32]) {
        let side = (self.features - 1).isqrt();
        let (zeros, ones) = (vec![0.0; self.channels], vec![1.0; self.channels]);
        let channels = self.channels;
        for pixel in 0..rows * columns {
            let (row, column) = (pixel / columns, pixel % columns);
            let tap = |tap: usize| -> &[f32] {
                let at = |center: usize, offset: usize, size: usize| {
                    (center + offset).checked_sub(side / 2).filter(|&at| at < size)
                };
                match (at(row, tap / side, rows), at(column, tap % side, columns)) {
                    (Some(row), Some(column)) => &x[(row * columns + column) * channels..][..channels],
                    _ => &zeros,
                }
            };
            let features: Vec<&[f32]> =
                (0..self.features).map(|feature| if feature < side * side { tap(feature) } else { &ones }).collect();
            let mut pairs = self.pairs.chunks_exact_mut(channels);
            for (i, a) in features.iter().enumerate() {
                for (b, sums) in features[i..].iter().zip(pairs.by_ref()) {
                    accumulate(sums, a, b);
                }
            }
            let target = &targets[pixel * channels..][..channels];
            for (feature, sums) in features.iter().zip(self.targets.chunks_exact_mut(channels)) {
                accumulate(sums, feature, target);
            }
        }
        self.count += (rows * columns) as f64;
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        for (sums, other) in [(&mut self.pairs, &other.pairs), (&mut self.targets, &other.targets)] {
            sums.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
        }
    }

    /// A channel's matrix Σ f·fᵀ and vector Σ f·d.
    fn equations(&self, channel: usize) -> (DMatrix<f64>, DVector<f64>) {
        let n = self.features;
        let pair = |i: usize, j: usize| i * n - i * (i + 1) / 2 + j;
        let matrix = DMatrix::from_fn(n, n, |i, j| self.pairs[pair(i.min(j), i.max(j)) * self.channels + channel]);
        (matrix, DVector::from_fn(n, |i, _| self.targets[i * self.channels + channel]))
    }

    /// A channel's least squares; with one pixel for each mean power of a tap the solution is held back.
    fn solve(&self, channel: usize) -> Option<DVector<f64>> {
        let (mut matrix, target) = self.equations(channel);
        let taps = self.features - 1;
        let power = (0..taps).map(|tap| matrix[(tap, tap)]).sum::<f64>() / taps.max(1) as f64;
        for tap in 0..taps {
            matrix[(tap, tap)] += power / self.count.max(1.0);
        }
        Some(matrix.cholesky()?.solve(&target))
    }
}

fn accumulate(sums: &mut [f64], a: &[f32], b: &[f32]) {
    for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
        *sum += f64::from(a * b);
    }
}

/// Every channel's filter: of all pixels, shortened by what such a filter of one half is worth on the other.
pub(super) fn solve(halves: &[Sums; 2]) -> Filters {
    let [a, b] = halves;
    let mut all = a.clone();
    all.merge(b);
    let (channels, taps) = (all.channels, all.features - 1);
    let mut filters = Filters { taps: vec![0.0; taps * channels], constants: vec![0.0; channels] };
    for channel in 0..channels {
        let worth = |fitted: &Sums, judging: &Sums| {
            let solution = fitted.solve(channel)?;
            let (matrix, target) = judging.equations(channel);
            Some(shrink(solution.dot(&target), solution.dot(&(&matrix * &solution))))
        };
        // A channel that is 0 everywhere has no filter.
        let (Some(first), Some(second), Some(solution)) = (worth(a, b), worth(b, a), all.solve(channel)) else {
            continue;
        };
        let solution = solution * (0.5 * (first + second));
        for tap in 0..taps {
            filters.taps[tap * channels + channel] = solution[tap];
        }
        filters.constants[channel] = solution[taps];
    }
    filters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::testing::Net;

    const IMAGE: [usize; 2] = [7, 5];
    const CHANNELS: usize = 3;

    /// An image of uniform numbers.
    fn image(numbers: &mut Net) -> Vec<f32> {
        numbers.randoms(IMAGE[0] * IMAGE[1] * CHANNELS, 0.5)
    }

    /// A filter with a constant, written out, zeros around the image.
    fn filtered(x: &[f32], taps: &[f64], constants: &[f64]) -> Vec<f32> {
        let [rows, columns] = IMAGE.map(|size| size as isize);
        let mut out = Vec::new();
        for row in 0..rows {
            for column in 0..columns {
                for (channel, constant) in constants.iter().enumerate() {
                    let mut sum = *constant;
                    for (at, [i, j]) in (-1..2).flat_map(|i| (-1..2).map(move |j| [row + i, column + j])).enumerate() {
                        if (0..rows).contains(&i) && (0..columns).contains(&j) {
                            let pixel = (i * columns + j) as usize;
                            sum += taps[at * CHANNELS + channel] * f64::from(x[pixel * CHANNELS + channel]);
                        }
                    }
                    out.push(sum as f32);
                }
            }
        }
        out
    }

    #[test]
    fn a_filter_is_found() {
        let mut numbers = Net::new();
        let taps: Vec<f64> = numbers.randoms(9 * CHANNELS, 0.5).into_iter().map(f64::from).collect();
        let constants = [0.3, -0.2, 0.0];
        let halves = [(); 2].map(|()| {
            let mut sums = Sums::new(9, CHANNELS);
            for _ in 0..40 {
                let x = image(&mut numbers);
                sums.add(IMAGE, &x, &filtered(&x, &taps, &constants));
            }
            sums
        });
        let found = solve(&halves);
        // The sums are of 1,400 pixels a half, whose ridge moves the solution by about 1/1,400 of it.
        let close = |found: &[f64], wanted: &[f64]| found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 2e-3);
        assert!(close(&found.taps, &taps), "{found:?} {taps:?}");
        assert!(close(&found.constants, &constants), "{found:?}");
    }

    /// What has nothing to do with the image is not fitted: one half's filter is worth nothing on the other.
    #[test]
    fn what_is_random_is_left_alone() {
        let mut numbers = Net::new();
        let halves = [(); 2].map(|()| {
            let mut sums = Sums::new(9, CHANNELS);
            sums.add(IMAGE, &image(&mut numbers), &image(&mut numbers));
            sums
        });
        let found = solve(&halves);
        let largest = found.taps.iter().fold(0.0, |max: f64, tap| max.max(tap.abs()));
        let mut free = halves[0].clone();
        free.merge(&halves[1]);
        let bare: f64 = (0..CHANNELS).map(|channel| free.solve(channel).unwrap().amax()).fold(0.0, f64::max);
        assert!(largest < 0.6 * bare, "{largest} of {bare}");
    }

    #[test]
    fn one_tap_scales_and_shifts() {
        let x = image(&mut Net::new());
        let d: Vec<f32> = x.iter().map(|x| 0.5 * x - 0.1).collect();
        let mut sums = Sums::new(1, CHANNELS);
        (0..100).for_each(|_| sums.add([IMAGE[0] * IMAGE[1], 1], &x, &d));
        let found = solve(&[sums.clone(), sums]);
        assert!(found.taps.iter().all(|tap| (tap - 0.5).abs() < 1e-3), "{found:?}");
        assert!(found.constants.iter().all(|constant| (constant + 0.1).abs() < 1e-3), "{found:?}");
    }

    #[test]
    fn a_dead_channel_has_no_filter() {
        let sums = Sums::new(9, CHANNELS);
        let found = solve(&[sums.clone(), sums]);
        assert!(found.taps.iter().chain(&found.constants).all(|&value| value == 0.0));
    }
}
