//! Matching of features: how far what a layer's tile is given is from what the clean network gives it.
//!
//! The distance is 1 − cos², of a sample's whole input of the layer as a vector: the share of the clean input's energy that no multiple of
//! the input gives. It takes no notice of a gain, which denoisers are free to choose (the closed form's lift signals above the next
//! converter's noise).

use crate::program::value::LayerId;

/// What a run that is trained compares its layers' inputs with.
#[derive(Debug, Default)]
pub(crate) struct Features {
    /// By layer, the clean network's input; empty where it has none.
    pub clean: Vec<Vec<f32>>,
    /// What a distance of 1 of one layer counts in the loss.
    pub weight: f64,
    /// What it counts in the gradient: of a mean over samples a part.
    pub slope: f64,
    /// What the layers so far count.
    pub loss: f64,
}

impl Features {
    /// Compares a layer's input and adds to the loss; the gradient of it in the input is written to `gradient`. Whether there is one: of
    /// nothing, or of another length than the clean network's, there is not.
    pub fn compare(&mut self, layer: LayerId, x: &[f32], gradient: &mut [f32]) -> bool {
        let Some(clean) = self.clean.get(layer).filter(|clean| clean.len() == x.len()) else {
            return false;
        };
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        let (own, target, both) = (dot(x, x), dot(clean, clean), dot(x, clean));
        if own <= 0.0 || target <= 0.0 {
            return false;
        }
        self.loss += self.weight * (1.0 - both / own * (both / target)).max(0.0);
        let scale = -2.0 * self.slope * both / own / target;
        let share = both / own;
        for ((gradient, &x), &clean) in gradient.iter_mut().zip(x).zip(clean) {
            *gradient = (scale * (f64::from(clean) - share * f64::from(x))) as f32;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::testing::Net;

    #[test]
    fn gradients_are_the_distances_slopes() {
        let mut numbers = Net::new();
        let (x, clean) = (numbers.randoms(24, 1.0), numbers.randoms(24, 1.0));
        let distance = |x: &[f32], gradient: &mut [f32]| {
            let mut features = Features { clean: vec![clean.clone()], weight: 3.0, slope: 3.0, loss: 0.0 };
            assert!(features.compare(0, x, gradient));
            features.loss
        };
        let mut gradient = vec![0.0; x.len()];
        let start = distance(&x, &mut gradient);
        assert!(start > 0.0 && start < 3.0);
        for at in 0..x.len() {
            let moved = |by: f32| {
                let mut x = x.clone();
                x[at] += by;
                distance(&x, &mut vec![0.0; x.len()])
            };
            // Steps of 2⁻⁸; the error is O(step²).
            let step = 1.0 / 256.0;
            let slope = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
            assert!((slope - f64::from(gradient[at])).abs() < 1e-4, "{at}: {slope}, not {}", gradient[at]);
        }
        // A gain is none of its business.
        let scaled: Vec<f32> = clean.iter().map(|&y| 4.0 * y).collect();
        assert!(distance(&scaled, &mut gradient) < 1e-6);
    }

    #[test]
    fn what_cannot_be_compared_adds_nothing() {
        let mut features =
            Features { clean: vec![vec![1.0; 3], vec![0.0; 3], vec![]], weight: 1.0, slope: 1.0, loss: 0.0 };
        for (layer, x) in [(0, [0.0; 3]), (1, [1.0; 3]), (2, [1.0; 3]), (3, [1.0; 3])] {
            assert!(!features.compare(layer, &x, &mut [0.0; 3]), "{layer}");
        }
        assert_eq!(features.loss, 0.0);
    }
}
