//! Linear corrections of a layer's channels, pixel by pixel, and what they are worth.

use super::wiener::Sums;
use nalgebra::{DMatrix, DVector};

/// A correction d̂ = diag(a)·x + U·V·x + c.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    /// a.
    diagonal: DVector<f64>,
    /// U and V, if any.
    low_rank: Option<[DMatrix<f64>; 2]>,
    /// c.
    constant: DVector<f64>,
}

/// Mean products of what is read, x, and of what it lacks, d: all that a linear correction's error depends on but for the mean of d².
pub(super) struct Moments {
    /// Means of x and d.
    means: [DVector<f64>; 2],
    /// E[x·xᵀ].
    xx: DMatrix<f64>,
    /// E[d·xᵀ].
    dx: DMatrix<f64>,
}

impl Moments {
    /// Where an image's mean counts so much more.
    pub fn of(sums: &Sums, coherence: f64) -> Self {
        let [xx, dx] = sums.moments(false, coherence);
        Self { means: sums.means(), xx, dx }
    }
}

impl Linear {
    /// Nothing but U·V·x and the mean of what it leaves, if there is a constant.
    pub fn low_rank([up, down]: [DMatrix<f64>; 2], moments: &Moments, constant: bool) -> Self {
        let [x, d] = &moments.means;
        let rest = if constant { d - &up * (&down * x) } else { DVector::zeros(x.len()) };
        Self { diagonal: DVector::zeros(x.len()), low_rank: Some([up, down]), constant: rest }
    }

    /// E[d̂·xᵀ].
    fn product(&self, moments: &Moments) -> DMatrix<f64> {
        let mut product = moments.xx.clone();
        product.row_iter_mut().zip(&self.diagonal).for_each(|(mut row, &a)| row *= a);
        if let Some([up, down]) = &self.low_rank {
            product += up * (down * &moments.xx);
        }
        product + &self.constant * moments.means[0].transpose()
    }

    /// Followed by the scale and shift of every channel, or the shift alone, that leave the least error.
    pub fn then_affine(self, moments: &Moments, scales: bool) -> Self {
        let [x, d] = &moments.means;
        let channels = x.len();
        let product = self.product(moments);
        // Of x′ = x + d̂ and of what it lacks, d′ = d − d̂, by channel.
        let (means, squares, crosses) = (self.mean(moments), self.squares(moments, &product), self.crosses(moments));
        let mut affine = self;
        for c in 0..channels {
            let (x_mean, d_mean) = (x[c] + means[c], d[c] - means[c]);
            let variance = moments.xx[(c, c)] + 2.0 * product[(c, c)] + squares[c] - x_mean * x_mean;
            let covariance = moments.dx[(c, c)] - product[(c, c)] + crosses[c] - squares[c] - x_mean * d_mean;
            let scale = if scales && variance > 0.0 { covariance / variance } else { 0.0 };
            let shift = d_mean - scale * x_mean;
            affine.diagonal[c] = affine.diagonal[c] * (1.0 + scale) + scale;
            affine.constant[c] = affine.constant[c] * (1.0 + scale) + shift;
            if let Some([up, _]) = &mut affine.low_rank {
                up.row_mut(c).scale_mut(1.0 + scale);
            }
        }
        affine
    }

    /// E[d̂].
    fn mean(&self, moments: &Moments) -> DVector<f64> {
        let [x, _] = &moments.means;
        let mut mean = self.diagonal.component_mul(x) + &self.constant;
        if let Some([up, down]) = &self.low_rank {
            mean += up * (down * x);
        }
        mean
    }

    /// E[d̂²] by channel, of E[d̂·xᵀ].
    fn squares(&self, moments: &Moments, product: &DMatrix<f64>) -> DVector<f64> {
        let mean = self.mean(moments);
        let mut squares = self.diagonal.component_mul(&product.diagonal()) + self.constant.component_mul(&mean);
        if let Some([up, down]) = &self.low_rank {
            let narrow = product * down.transpose();
            squares += up.component_mul(&narrow).column_sum();
        }
        squares
    }

    /// E[d̂·d] by channel.
    fn crosses(&self, moments: &Moments) -> DVector<f64> {
        let mut crosses =
            self.diagonal.component_mul(&moments.dx.diagonal()) + self.constant.component_mul(&moments.means[1]);
        if let Some([up, down]) = &self.low_rank {
            let narrow = &moments.dx * down.transpose();
            crosses += up.component_mul(&narrow).column_sum();
        }
        crosses
    }

    /// Σ w·E[d̂·d] and Σ w·E[d̂²] over channels of weights w: a share s of the correction takes 2·s times the first less s² times the
    /// second off the weighted error Σ w·E[d²].
    pub fn products(&self, moments: &Moments, weights: &DVector<f64>) -> [f64; 2] {
        let squares = self.squares(moments, &self.product(moments));
        [weights.dot(&self.crosses(moments)), weights.dot(&squares)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::testing::Net;

    const CHANNELS: usize = 5;
    const PIXELS: usize = 300;

    /// What is read, and what it lacks, which depends on it.
    fn pair() -> [Vec<f32>; 2] {
        let mut numbers = Net::new();
        let x: Vec<f32> = numbers.randoms(PIXELS * CHANNELS, 1.0).iter().map(|value| value + 0.3).collect();
        let noise = numbers.randoms(PIXELS * CHANNELS, 0.5);
        let neighbour = |at: usize| if at.is_multiple_of(CHANNELS) { 0.4 * x[at + 1] } else { -0.2 * x[at] };
        let lacks = (0..x.len()).map(|at| neighbour(at) + noise[at] - 0.1).collect();
        [x, lacks]
    }

    fn moments() -> Moments {
        let [x, lacks] = pair();
        let mut sums = Sums::new(CHANNELS);
        sums.add(&x, &lacks);
        Moments::of(&sums, 0.0)
    }

    fn low_rank() -> [DMatrix<f64>; 2] {
        let mut numbers = Net::new();
        let mut matrix = |rows, columns| DMatrix::from_fn(rows, columns, |_, _| f64::from(numbers.randoms(1, 0.4)[0]));
        [matrix(CHANNELS, 2), matrix(2, CHANNELS)]
    }

    fn nothing() -> Linear {
        Linear { diagonal: DVector::zeros(CHANNELS), low_rank: None, constant: DVector::zeros(CHANNELS) }
    }

    /// The weighted error of a correction, pixel by pixel.
    fn error(linear: &Linear, weights: &DVector<f64>) -> f64 {
        let [x, lacks] = pair();
        let vector = |row: &[f32]| DVector::from_iterator(CHANNELS, row.iter().map(|&value| f64::from(value)));
        let rows = x.chunks_exact(CHANNELS).zip(lacks.chunks_exact(CHANNELS));
        let errors = rows.map(|(x, lacks)| {
            let x = vector(x);
            let mut found = linear.diagonal.component_mul(&x) + &linear.constant;
            if let Some([up, down]) = &linear.low_rank {
                found += up * (down * &x);
            }
            weights.dot(&(vector(lacks) - found).map(|rest| rest * rest))
        });
        errors.sum::<f64>() / PIXELS as f64
    }

    /// The moments give the error that the pixels have, to the f32 that they are added up in.
    #[test]
    fn products_are_the_pixels() {
        let (moments, weights) = (moments(), DVector::from_vec(vec![1.0, 0.5, 2.0, 0.1, 1.0]));
        let none = error(&nothing(), &weights);
        let block = Linear::low_rank(low_rank(), &moments, true);
        for linear in [nothing().then_affine(&moments, true), block.clone(), block.then_affine(&moments, true)] {
            let [cross, square] = linear.products(&moments, &weights);
            let expected = error(&linear, &weights);
            assert!((none - 2.0 * cross + square - expected).abs() < 1e-5, "{none} {cross} {square} {expected}");
        }
    }

    /// No other scale or shift leaves less, with a block before it and without.
    #[test]
    fn affines_leave_least() {
        let (moments, flat) = (moments(), DVector::from_element(CHANNELS, 1.0));
        for start in [nothing(), Linear::low_rank(low_rank(), &moments, false)] {
            let before = error(&start, &flat);
            let shifted = error(&start.clone().then_affine(&moments, false), &flat);
            let best = start.then_affine(&moments, true);
            let least = error(&best, &flat);
            assert!(least < shifted && shifted < before, "{least} {shifted} {before}");
            for (channel, step) in [(0, 0.01), (3, -0.01)] {
                let mut near = best.clone();
                near.constant[channel] += step;
                assert!(error(&near, &flat) > least);
            }
        }
    }
}
