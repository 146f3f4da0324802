//! Filters of every channel by itself, by least squares.

use super::shrink;
use crate::exec::layerwise::Denoiser;
use multiversion::multiversion;
use mxc_spec::denoise::expression::Site;
use nalgebra::{DMatrix, DVector};

/// Sums over pixels of products of what a filter reads and is to give, by channel.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    /// K·K taps and the constant 1, for which there is a bias.
    features: usize,
    channels: usize,
    /// The number of pixels.
    count: f64,
    pixels: Products,
    /// Of the same summed over every image's pixels, by the root of their number.
    images: Products,
    /// Σ d² of every channel.
    squares: Vec<f64>,
}

/// Products of features, and of features and what is to be given.
#[derive(Clone, Debug)]
struct Products {
    /// Of features i ≤ j: Σ fᵢ·fⱼ of every channel, in the order (0, 0), (0, 1), ….
    pairs: Vec<f64>,
    /// Of every feature: Σ fᵢ·d of every channel.
    targets: Vec<f64>,
}

impl Products {
    fn new(features: usize, channels: usize) -> Self {
        Self { pairs: vec![0.0; features * (features + 1) / 2 * channels], targets: vec![0.0; features * channels] }
    }

    fn merge(&mut self, other: &Self) {
        let pairs = self.pairs.iter_mut().zip(&other.pairs).chain(self.targets.iter_mut().zip(&other.targets));
        pairs.for_each(|(sum, other)| *sum += other);
    }
}

/// The rows and columns of what a denoiser reads, as a filter at a site sees them: one tap does not care how pixels lie.
pub(super) fn image(denoiser: &Denoiser, site: Site) -> [usize; 2] {
    match denoiser.shape.as_slice() {
        &[_, rows, columns, _] if site.spatial => [rows, columns],
        shape => [shape.iter().product::<usize>() / site.channels.max(1), 1],
    }
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
        let [pixels, images] = [(); 2].map(|()| Products::new(features, channels));
        Self { features, channels, count: 0.0, pixels, images, squares: vec![0.0; channels] }
    }

    /// Adds an image of `rows` × `columns` pixels, zeros around it: what the filter reads, and what it is to give.
    pub fn add(&mut self, [rows, columns]: [usize; 2], x: &[f32], targets: &[f32]) {
        let side = (self.features - 1).isqrt();
        let channels = self.channels;
        let (zeros, ones) = (vec![0.0; channels], vec![1.0; channels]);
        let mut sums = vec![0.0; (self.features + 1) * channels];
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
            let target = &targets[pixel * channels..][..channels];
            add_products(&mut self.pixels, &features, target);
            accumulate(&mut self.squares, target, target);
            for (sums, values) in sums.chunks_exact_mut(channels.max(1)).zip(features.iter().chain([&target])) {
                sums.iter_mut().zip(*values).for_each(|(sum, &value)| *sum += f64::from(value));
            }
        }
        let pixels = (rows * columns) as f64;
        sums.iter_mut().for_each(|sum| *sum /= pixels.sqrt());
        let (features, target) = sums.split_at(self.features * channels);
        add_products(&mut self.images, &features.chunks_exact(channels.max(1)).collect::<Vec<_>>(), target);
        self.count += pixels;
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.pixels.merge(&other.pixels);
        self.images.merge(&other.images);
        self.squares.iter_mut().zip(&other.squares).for_each(|(sum, other)| *sum += other);
    }

    /// Of both halves.
    fn of([a, b]: &[Self; 2]) -> Self {
        let mut all = a.clone();
        all.merge(b);
        all
    }

    /// A channel's matrix E[f·fᵀ] and vector E[f·d], where an image's mean counts so much more ([`Slopes::coherence`]).
    ///
    /// [`Slopes::coherence`]: crate::measure::curvature::Slopes::coherence
    fn equations(&self, channel: usize, coherence: f64) -> (DMatrix<f64>, DVector<f64>) {
        let n = self.features;
        let of = |products: fn(&Products) -> &[f64], place: usize| {
            let at = place * self.channels + channel;
            let sum = products(&self.pixels)[at] + coherence * products(&self.images)[at];
            sum / (self.count.max(1.0) * (1.0 + coherence))
        };
        let pair = |i: usize, j: usize| i * n - i * (i + 1) / 2 + j;
        let matrix = DMatrix::from_fn(n, n, |i, j| of(|products| &products.pairs, pair(i.min(j), i.max(j))));
        (matrix, DVector::from_fn(n, |i, _| of(|products| &products.targets, i)))
    }

    /// A channel's least squares; with one pixel for each mean power of a tap the solution is held back.
    fn solve(&self, channel: usize) -> Option<DVector<f64>> {
        let (mut matrix, target) = self.equations(channel, 0.0);
        let taps = self.features - 1;
        let power = (0..taps).map(|tap| matrix[(tap, tap)]).sum::<f64>() / taps.max(1) as f64;
        for tap in 0..taps {
            matrix[(tap, tap)] += power / self.count.max(1.0);
        }
        Some(matrix.cholesky()?.solve(&target))
    }
}

/// Adds the products of one pixel, or image: by feature a value of every channel. Without fused multiplications, so that the sums are
/// the same on every processor.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn add_products<T: Copy + Into<f64>>(to: &mut Products, features: &[&[T]], target: &[T]) {
    let channels = target.len();
    let mut pairs = to.pairs.chunks_exact_mut(channels.max(1));
    for (i, a) in features.iter().enumerate() {
        for (b, sums) in features[i..].iter().zip(pairs.by_ref()) {
            accumulate(sums, a, b);
        }
    }
    for (feature, sums) in features.iter().zip(to.targets.chunks_exact_mut(channels.max(1))) {
        accumulate(sums, feature, target);
    }
}

#[inline(always)]
fn accumulate<T: Copy + Into<f64>>(sums: &mut [f64], a: &[T], b: &[T]) {
    for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
        *sum += a.into() * b.into();
    }
}

/// Every channel's filter: of all pixels, shortened by what such a filter of one half is worth on the other.
pub(super) fn solve(halves: &[Sums; 2]) -> Filters {
    let ([a, b], all) = (halves, Sums::of(halves));
    let (channels, taps) = (all.channels, all.features - 1);
    let onto = [products(a, b, 0.0), products(b, a, 0.0)];
    let mut filters = Filters { taps: vec![0.0; taps * channels], constants: vec![0.0; channels] };
    for channel in 0..channels {
        // A channel that is 0 everywhere has no filter.
        let Some(solution) = all.solve(channel) else {
            continue;
        };
        let share = |products: &[[f64; 2]]| shrink(products[channel][0], products[channel][1]);
        let solution = solution * (0.5 * (share(&onto[0]) + share(&onto[1])));
        for tap in 0..taps {
            filters.taps[tap * channels + channel] = solution[tap];
        }
        filters.constants[channel] = solution[taps];
    }
    filters
}

impl Filters {
    /// The same followed by the scale and shift of every channel that give it the mean and deviation of `gain` times what was to be
    /// given: least squares shrink every channel, which compounds over many layers.
    pub fn rescaled(mut self, halves: &[Sums; 2], gain: f64) -> Self {
        let all = Sums::of(halves);
        let taps = all.features - 1;
        let middle = taps / 2;
        for channel in 0..all.channels {
            let (matrix, target) = all.equations(channel, 0.0);
            let mut output = DVector::from_fn(taps + 1, |feature, _| match feature {
                feature if feature == taps => self.constants[channel],
                tap => self.taps[tap * all.channels + channel] + f64::from(u8::from(tap == middle)),
            });
            let products = &matrix * &output;
            let (mean, power) = (products[taps], output.dot(&products));
            let clean_mean = matrix[(middle, taps)] + target[taps];
            let square = all.squares[channel] / all.count.max(1.0);
            let clean_power = matrix[(middle, middle)] + 2.0 * target[middle] + square;
            let (deviation, clean) = (power - mean * mean, clean_power - clean_mean * clean_mean);
            // A channel that is constant has no scale to fit.
            let scale = if deviation > 0.0 && clean > 0.0 { gain * (clean / deviation).sqrt() } else { gain };
            output *= scale;
            for tap in 0..taps {
                self.taps[tap * all.channels + channel] = output[tap] - f64::from(u8::from(tap == middle));
            }
            self.constants[channel] = output[taps] + gain * clean_mean - scale * mean;
        }
        self
    }
}

/// By channel, E[d̂·d] and E[d̂²] of the filter of one half on the pixels of the other, whose images' means count so much more.
pub(super) fn products(fitted: &Sums, judging: &Sums, coherence: f64) -> Vec<[f64; 2]> {
    let of = |channel: usize| {
        let solution = fitted.solve(channel)?;
        let (matrix, target) = judging.equations(channel, coherence);
        Some([solution.dot(&target), solution.dot(&(&matrix * &solution))])
    };
    (0..fitted.channels).map(|channel| of(channel).unwrap_or_default()).collect()
}

/// The same of each channel's mean alone.
pub(super) fn mean_products(fitted: &Sums, judging: &Sums) -> Vec<[f64; 2]> {
    let means = |sums: &Sums| {
        let constant = (sums.features - 1) * sums.channels;
        let mean = |&sum: &f64| sum / sums.count.max(1.0);
        sums.pixels.targets[constant..].iter().map(mean).collect::<Vec<_>>()
    };
    means(fitted).into_iter().zip(means(judging)).map(|(own, other)| [own * other, own * own]).collect()
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

    /// What rescaled filters give has the mean and the deviation of the gain times what they were to give.
    #[test]
    fn rescaled_filters_keep_moments() {
        let mut numbers = Net::new();
        let mut halves = [(); 2].map(|()| Sums::new(9, CHANNELS));
        let mut pairs = Vec::new();
        for at in 0..40 {
            let (clean, noise) = (image(&mut numbers), image(&mut numbers));
            let x: Vec<f32> = clean.iter().zip(&noise).map(|(clean, noise)| 0.2 + clean + 0.8 * noise).collect();
            let lacks: Vec<f32> = clean.iter().zip(&x).map(|(clean, x)| clean - x).collect();
            halves[at % 2].add(IMAGE, &x, &lacks);
            pairs.push((clean, x));
        }
        let filters = solve(&halves).rescaled(&halves, 1.5);
        for channel in 0..CHANNELS {
            let (mut given, mut wanted) = (Vec::new(), Vec::new());
            for (clean, x) in &pairs {
                let at = |row: usize, column: usize| f64::from(x[(row * IMAGE[1] + column) * CHANNELS + channel]);
                for (row, column) in (0..IMAGE[0]).flat_map(|row| (0..IMAGE[1]).map(move |column| (row, column))) {
                    let mut value = at(row, column) + filters.constants[channel];
                    for tap in 0..9 {
                        let (r, c) = ((row + tap / 3).wrapping_sub(1), (column + tap % 3).wrapping_sub(1));
                        if r < IMAGE[0] && c < IMAGE[1] {
                            value += filters.taps[tap * CHANNELS + channel] * at(r, c);
                        }
                    }
                    given.push(value);
                    wanted.push(1.5 * f64::from(clean[(row * IMAGE[1] + column) * CHANNELS + channel]));
                }
            }
            let moments = |values: &[f64]| {
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let square = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
                [mean, square.sqrt()]
            };
            let ([mean, deviation], [clean_mean, clean]) = (moments(&given), moments(&wanted));
            // Sums are of products in f32.
            assert!((mean - clean_mean).abs() < 1e-5 && (deviation - clean).abs() < 1e-5, "{deviation} {clean}");
        }
    }

    #[test]
    fn a_dead_channel_has_no_filter() {
        let sums = Sums::new(9, CHANNELS);
        let found = solve(&[sums.clone(), sums]);
        assert!(found.taps.iter().chain(&found.constants).all(|&value| value == 0.0));
    }
}
