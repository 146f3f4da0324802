//! The best correction of low rank: the Wiener filter of a layer's channels, cut to what helps the loss most.
//!
//! Of noisy inputs x and what they lack, d = clean − x, the linear correction with the smallest mean square error is
//! M = Σ_dx·Σ_xx⁻¹. Among those of rank r, with errors weighted by the loss's curvature G in every channel, it is
//! G^-½·P·Pᵀ·G^½·M, where P holds the r leading eigenvectors of G^½·M·Σ_xx·Mᵀ·G^½ (reduced-rank regression; Izenman 1975).

use super::shrink;
use crate::{
    kernels::gemm::{Start, View, gemm},
    measure::curvature::Slopes,
};
use nalgebra::{DMatrix, DVector, SymmetricEigen};

/// Sums over pixels of what is read, x, and of what it lacks, d.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    channels: usize,
    /// The number of pixels.
    count: f64,
    /// Σx and Σd.
    sums: [Vec<f64>; 2],
    /// Σ x·xᵀ and Σ d·xᵀ, row-major.
    products: [Vec<f64>; 2],
    /// The same of x and d summed over every image's pixels, by the root of their number.
    images: [Vec<f64>; 2],
}

/// A correction U·V·x + c.
#[derive(Clone, Debug)]
pub(super) struct Correction {
    /// C × r.
    pub up: DMatrix<f64>,
    /// r × C, to a standard deviation of 1.
    pub down: DMatrix<f64>,
    /// What U·V·x lacks in the mean.
    pub constant: DVector<f64>,
    /// The means and standard deviations of V·x.
    pub narrow: Vec<[f64; 2]>,
}

impl Sums {
    /// Nothing.
    pub fn new(channels: usize) -> Self {
        let [products, images] = [(); 2].map(|()| [(); 2].map(|()| vec![0.0; channels * channels]));
        Self { channels, count: 0.0, sums: [(); 2].map(|()| vec![0.0; channels]), products, images }
    }

    /// Adds an image's pixels.
    pub fn add(&mut self, x: &[f32], lacks: &[f32]) {
        let c = self.channels;
        let pixels = x.len() / c.max(1);
        let mut product = vec![0f32; c * c];
        let mut image = [(); 2].map(|()| vec![0.0; c]);
        for ((image, products), values) in image.iter_mut().zip(&mut self.products).zip([x, lacks]) {
            gemm([c, c, pixels], View::transposed(values, c), x, &mut product, Start::Zero);
            products.iter_mut().zip(&product).for_each(|(sum, &part)| *sum += f64::from(part));
            for row in values.chunks_exact(c.max(1)) {
                image.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            }
        }
        for (products, values) in self.images.iter_mut().zip(&image) {
            for (row, value) in products.chunks_exact_mut(c.max(1)).zip(values) {
                let value = value / pixels.max(1) as f64;
                row.iter_mut().zip(&image[0]).for_each(|(sum, x)| *sum += value * x);
            }
        }
        self.sums.iter_mut().flatten().zip(image.iter().flatten()).for_each(|(sum, part)| *sum += part);
        self.count += pixels as f64;
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        let products = self.products.iter_mut().zip(&other.products).chain(self.images.iter_mut().zip(&other.images));
        let pairs = self.sums.iter_mut().zip(&other.sums).chain(products);
        for (sums, other) in pairs {
            sums.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
        }
    }

    /// Of x and d.
    pub fn means(&self) -> [DVector<f64>; 2] {
        [0, 1].map(|which| DVector::from_vec(self.sums[which].clone()) / self.count.max(1.0))
    }

    /// Σ_xx and Σ_dx: about the means, or about 0 where the correction has no constant; an image's mean counts so much more
    /// ([`Slopes::coherence`]).
    ///
    /// [`Slopes::coherence`]: crate::measure::curvature::Slopes::coherence
    pub fn moments(&self, centered: bool, coherence: f64) -> [DMatrix<f64>; 2] {
        let c = self.channels;
        let [x, d] = self.means();
        [(0, &x), (1, &d)].map(|(which, mean)| {
            let [pixels, images] = [&self.products, &self.images].map(|of| DMatrix::from_row_slice(c, c, &of[which]));
            let moment = (pixels + images * coherence) / (self.count.max(1.0) * (1.0 + coherence));
            if centered { moment - mean * x.transpose() } else { moment }
        })
    }
}

/// The best corrections of every rank.
pub(super) struct Corrections {
    /// G^½·M.
    weighted: DMatrix<f64>,
    /// The eigenvectors P, most helpful first.
    vectors: DMatrix<f64>,
    /// The diagonal of G^-½.
    inverse_roots: DVector<f64>,
}

impl Corrections {
    /// For channels whose errors weigh `roots`² each. `None` where x is 0.
    pub fn new(sums: &Sums, centered: bool, roots: &DVector<f64>) -> Option<Self> {
        let [xx, dx] = sums.moments(centered, 0.0);
        let c = sums.channels;
        // Of few pixels the moments know little: as if there were one more with the mean power in every channel.
        let ridge = xx.trace() / sums.count.max(1.0);
        let solved = (&xx + DMatrix::identity(c, c) * ridge).cholesky()?.solve(&dx.transpose());
        let weighted = scaled(solved.transpose(), roots);
        let explained = &weighted * &xx * weighted.transpose();
        let eigen = SymmetricEigen::new((&explained + explained.transpose()) * 0.5);
        let mut order: Vec<usize> = (0..c).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]).then(a.cmp(&b)));
        let vectors = eigen.eigenvectors.select_columns(&order);
        Some(Self { weighted, vectors, inverse_roots: roots.map(f64::recip) })
    }

    /// U and V of a rank.
    pub fn cut(&self, rank: usize) -> [DMatrix<f64>; 2] {
        let leading = self.vectors.columns(0, rank.min(self.vectors.ncols())).into_owned();
        let down = leading.transpose() * &self.weighted;
        [scaled(leading, &self.inverse_roots), down]
    }
}

/// diag(factors)·matrix.
fn scaled(mut matrix: DMatrix<f64>, factors: &DVector<f64>) -> DMatrix<f64> {
    matrix.row_iter_mut().zip(factors).for_each(|(mut row, &factor)| row *= factor);
    matrix
}

/// How much of a correction is worth while on other pixels.
fn worth(sums: &Sums, [up, down]: &[DMatrix<f64>; 2], centered: bool, roots: &DVector<f64>) -> f64 {
    let [xx, dx] = sums.moments(centered, 0.0);
    let left = scaled(up.clone(), &roots.map(|root| root * root)).transpose();
    let gained = (&left * dx * down.transpose()).trace();
    shrink(gained, (left * up * (down * xx * down.transpose())).trace())
}

/// By channel, the square root of what its errors weigh: of the curvature, of which few samples estimate some too low.
pub(super) fn roots(slopes: &Slopes) -> DVector<f64> {
    let mean = slopes.squares.iter().sum::<f64>() / slopes.squares.len().max(1) as f64;
    let root = |g: &f64| if mean > 0.0 { (g / mean + FLOOR).sqrt() } else { 1.0 };
    DVector::from_iterator(slopes.squares.len(), slopes.squares.iter().map(root))
}

/// The best correction of a rank: of all pixels, shortened by what such a correction of one half is worth on the other. `slopes`
/// weigh the errors. `None` where x is 0.
pub(super) fn solve(halves: &[Sums; 2], rank: usize, centered: bool, slopes: &Slopes) -> Option<Correction> {
    let [a, b] = halves;
    let mut all = a.clone();
    all.merge(b);
    let roots = roots(slopes);
    let reduced = |sums: &Sums| Some(Corrections::new(sums, centered, &roots)?.cut(rank));
    let shares = [worth(b, &reduced(a)?, centered, &roots), worth(a, &reduced(b)?, centered, &roots)];
    let [up, down] = reduced(&all)?;
    let up = up * (0.5 * (shares[0] + shares[1]));
    let [x, d] = all.means();
    let [xx, _] = all.moments(true, 0.0);
    let spread = (&down * xx * down.transpose()).diagonal().map(|square| square.max(0.0).sqrt());
    // What training changes in small steps should be of the order of 1.
    let unit = spread.map(|deviation| if deviation > 0.0 { deviation } else { 1.0 });
    let (up, down) = (up * DMatrix::from_diagonal(&unit), DMatrix::from_diagonal(&unit.map(f64::recip)) * down);
    let mean = &down * &x;
    let narrow = (0..mean.len()).map(|at| [mean[at], spread[at] / unit[at]]).collect();
    Some(Correction { constant: d - &up * mean, narrow, up, down })
}

/// The share of the mean curvature that every channel has at least: of few samples some are estimated too low.
const FLOOR: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Kind, StreamKey};

    const CHANNELS: usize = 6;
    const PIXELS: usize = 4000;

    /// The slopes of pixels that have nothing in common.
    fn slopes(squares: &[f64]) -> Slopes {
        Slopes { squares: squares.to_vec(), means: vec![0.0; squares.len()], pixels: 1, samples: 1 }
    }

    fn normals(layer: u64, len: usize) -> Vec<f32> {
        let key = StreamKey { seed: 3, purpose: 0, kind: Kind::Seed, component: 0, chip: 0, pass: 0, layer, sample: 0 };
        let mut values = vec![0.0; len];
        key.stream().fill_normals(0, &mut values);
        values
    }

    /// Clean signals that live in two directions, noise in all, and what the noisy ones lack.
    fn pair(half: u64) -> [Vec<f32>; 2] {
        let (sources, noise) = (normals(10 + half, PIXELS * 2), normals(20 + half, PIXELS * CHANNELS));
        let mix = normals(1, 2 * CHANNELS);
        let mut x = Vec::new();
        for (source, noise) in sources.chunks_exact(2).zip(noise.chunks_exact(CHANNELS)) {
            let clean = (0..CHANNELS).map(|c| 1.0 + source[0] * mix[c] + source[1] * mix[CHANNELS + c]);
            x.extend(clean.zip(noise).map(|(clean, noise)| clean + 0.7 * noise));
        }
        [x, noise.iter().map(|noise| -0.7 * noise).collect()]
    }

    fn halves() -> [Sums; 2] {
        [0, 1].map(|half| {
            let mut sums = Sums::new(CHANNELS);
            let [x, d] = pair(half);
            x.chunks(CHANNELS * 500).zip(d.chunks(CHANNELS * 500)).for_each(|(x, d)| sums.add(x, d));
            sums
        })
    }

    /// The mean over pixels of what a correction leaves of d, weighted by channel.
    fn left(correction: &Correction, [x, d]: &[Vec<f32>; 2], weights: &[f64]) -> f64 {
        let vector = |row: &[f32]| DVector::from_iterator(CHANNELS, row.iter().map(|&value| f64::from(value)));
        let rows = x.chunks_exact(CHANNELS).zip(d.chunks_exact(CHANNELS));
        let error = rows.map(|(x, d)| {
            let rest = vector(d) - (&correction.up * (&correction.down * vector(x)) + &correction.constant);
            rest.iter().zip(weights).map(|(rest, weight)| weight * rest * rest).sum::<f64>()
        });
        error.sum::<f64>() / PIXELS as f64
    }

    /// With four of six ranks all of the noise outside the signal's plane can be taken away; every rank less leaves more.
    #[test]
    fn every_rank_helps_until_the_noise_is_gone() {
        let (halves, flat) = (halves(), [1.0; CHANNELS]);
        let errors: Vec<f64> = (1..=CHANNELS)
            .map(|rank| left(&solve(&halves, rank, true, &slopes(&flat)).unwrap(), &pair(2), &flat))
            .collect();
        let noise = CHANNELS as f64 * 0.49;
        // 4,000 new pixels give an error's mean to about 2 %.
        assert!(errors.windows(2).all(|pair| pair[1] < pair[0] * 1.01), "{errors:?}");
        assert!(errors[3] < noise * 2.2 / 6.0 && errors[2] > noise * 2.5 / 6.0, "{errors:?} of {noise}");
    }

    /// No correction near it is better: it is the smallest weighted error of its rank.
    #[test]
    fn nothing_near_is_better() {
        let (halves, weights) = (halves(), [8.0, 1.0, 1.0, 1.0, 1.0, 0.1]);
        let best = solve(&halves, 2, true, &slopes(&weights)).unwrap();
        let pairs = [pair(0), pair(1)];
        let mean = weights.iter().sum::<f64>() / CHANNELS as f64;
        let floored = weights.map(|weight| weight + FLOOR * mean);
        let error = |correction: &Correction| pairs.iter().map(|pair| left(correction, pair, &floored)).sum::<f64>();
        let least = error(&best);
        for trial in 0..20 {
            let step = |matrix: &DMatrix<f64>, name: u64| {
                let by = normals(name, matrix.len());
                matrix
                    + DMatrix::from_fn(matrix.nrows(), matrix.ncols(), |i, j| {
                        0.05 * f64::from(by[i * matrix.ncols() + j])
                    })
            };
            let (up, down) = (step(&best.up, 100 + trial), step(&best.down, 200 + trial));
            let [x, d] = {
                let mut all = halves[0].clone();
                all.merge(&halves[1]);
                all.means()
            };
            let constant = d - &up * (&down * x);
            let near = Correction { up, down, constant, narrow: Vec::new() };
            assert!(error(&near) > least, "{trial}");
        }
    }

    /// As many ranks as channels are the Wiener filter.
    #[test]
    fn the_full_rank_is_the_wiener_filter() {
        let halves = halves();
        let found = solve(&halves, CHANNELS, true, &slopes(&[1.0; CHANNELS])).unwrap();
        let mut all = halves[0].clone();
        all.merge(&halves[1]);
        let [xx, dx] = all.moments(true, 0.0);
        let wiener = dx * xx.try_inverse().unwrap();
        // The ridge and the share taken are 1 to within a part in a hundred.
        assert!((&found.up * &found.down - &wiener).amax() < 0.02 * wiener.amax(), "{found:?} {wiener}");
    }

    #[test]
    fn nothing_is_not_corrected() {
        let sums = Sums::new(CHANNELS);
        assert!(solve(&[sums.clone(), sums], 2, true, &slopes(&[0.0; CHANNELS])).is_none());
    }
}
