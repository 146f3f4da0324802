//! The Adam optimizer, with PyTorch's semantics and defaults.

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Adam's state for one tensor: β₁ = 0.9, β₂ = 0.999, ε = 10⁻⁸, no weight decay.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    first: Vec<f32>,
    second: Vec<f32>,
    step: u64,
}

impl Adam {
    /// A fresh state for `len` weights.
    pub fn new(len: usize) -> Self {
        Self { first: vec![0.0; len], second: vec![0.0; len], step: 0 }
    }

    /// A state after `step` steps.
    pub fn resume(first: Vec<f32>, second: Vec<f32>, step: u64) -> Self {
        Self { first, second, step }
    }

    /// The running mean of the gradient.
    pub fn first(&self) -> &[f32] {
        &self.first
    }

    /// The running mean of the squared gradient.
    pub fn second(&self) -> &[f32] {
        &self.second
    }

    /// Moves the weights one step against the gradient. All three have the state's length.
    pub fn step(&mut self, weights: &mut [f32], gradient: &[f32], learning_rate: f64) {
        self.step += 1;
        let exponent = self.step as f64;
        let correction1 = 1.0 - BETA1.powf(exponent);
        let correction2 = (1.0 - BETA2.powf(exponent)).sqrt();
        let step_size = (learning_rate / correction1) as f32;
        let correction2 = correction2 as f32;
        let (first_share, second_share) = ((1.0 - BETA1) as f32, (1.0 - BETA2) as f32);
        for (((weight, gradient), first), second) in
            weights.iter_mut().zip(gradient).zip(&mut self.first).zip(&mut self.second)
        {
            *first += first_share * (gradient - *first);
            *second = *second * BETA2 as f32 + second_share * gradient * gradient;
            let denominator = second.sqrt() / correction2 + EPSILON as f32;
            *weight -= step_size * (*first / denominator);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three steps worked out in double precision from the update rule of Kingma and Ba, Algorithm 1.
    #[test]
    fn follows_the_update_rule() {
        let gradients = [[0.5f32, -2.0], [0.1, 0.0], [-0.3, 4.0]];
        let mut weights = [1.0f32, -1.0];
        let mut adam = Adam::new(2);
        let mut expected = [1.0f64, -1.0];
        let (mut m, mut v) = ([0.0f64; 2], [0.0f64; 2]);
        for (t, gradient) in gradients.iter().enumerate() {
            adam.step(&mut weights, gradient, 0.01);
            for i in 0..2 {
                let g = f64::from(gradient[i]);
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let t = t as i32 + 1;
                let (mean, square) = (m[i] / (1.0 - 0.9f64.powi(t)), v[i] / (1.0 - 0.999f64.powi(t)));
                expected[i] -= 0.01 * mean / (square.sqrt() + 1e-8);
                assert!((f64::from(weights[i]) - expected[i]).abs() < 1e-6, "{weights:?} {expected:?}");
            }
        }
        // The first step has the size of the learning rate whatever the gradient.
        let mut first = [0.0f32];
        Adam::new(1).step(&mut first, &[1e-3], 0.01);
        assert!((first[0] + 0.01).abs() < 1e-6);
    }
}
