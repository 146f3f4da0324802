//! The losses of training, per sample: the value and its gradient at the logits.

use crate::kernels::pool::argmax;

/// What a batch's samples are trained towards.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a> {
    /// One class per sample: the loss is cross-entropy.
    Labels(&'a [u32]),
    /// One row of logits per sample, a teacher's: the loss is KL(softmax(teacher) ‖ softmax(logits)).
    Logits(&'a [f32]),
}

impl Targets<'_> {
    /// The loss of the batch's `n`th sample, and whether its (first) largest logit is the target's; `gradient` becomes
    /// `weight` times the loss's gradient.
    pub(super) fn loss(&self, n: usize, logits: &[f32], weight: f64, gradient: &mut [f32]) -> (f64, bool) {
        match self {
            Self::Labels(labels) => classification(logits, labels[n] as usize, weight, gradient),
            Self::Logits(rows) => divergence(logits, &rows[n * logits.len()..][..logits.len()], weight, gradient),
        }
    }
}

/// log Σ exp(logits).
fn log_sum(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(max) + logits.iter().map(|&logit| f64::from(logit - max).exp()).sum::<f64>().ln()
}

/// Cross-entropy.
pub(crate) fn cross_entropy(logits: &[f32], label: usize) -> f64 {
    log_sum(logits) - f64::from(logits[label])
}

/// Cross-entropy and its gradient, softmax − one-hot.
fn classification(logits: &[f32], label: usize, weight: f64, gradient: &mut [f32]) -> (f64, bool) {
    let sum = log_sum(logits);
    for (class, (gradient, &logit)) in gradient.iter_mut().zip(logits).enumerate() {
        let p = (f64::from(logit) - sum).exp();
        *gradient = (weight * (p - f64::from(class == label))) as f32;
    }
    (sum - f64::from(logits[label]), argmax(logits) as usize == label)
}

/// The divergence from the teacher's distribution p to the logits' q; its gradient is q − p.
fn divergence(logits: &[f32], teacher: &[f32], weight: f64, gradient: &mut [f32]) -> (f64, bool) {
    let (sum, teacher_sum) = (log_sum(logits), log_sum(teacher));
    let mut loss = 0.0;
    for ((gradient, &logit), &target) in gradient.iter_mut().zip(logits).zip(teacher) {
        let (log_q, log_p) = (f64::from(logit) - sum, f64::from(target) - teacher_sum);
        let p = log_p.exp();
        // p log p → 0 where p underflows.
        loss += p * (log_p.max(f64::MIN) - log_q);
        *gradient = (weight * (log_q.exp() - p)) as f32;
    }
    (loss, argmax(logits) == argmax(teacher))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both losses' gradients against central differences in f64, and KL = 0 where the two agree.
    #[test]
    fn gradients_are_the_losses_slopes() {
        let logits = [1.0f32, -2.0, 0.5, 3.0];
        let teacher = [0.25f32, 2.0, -1.0, 4.0];
        for targets in [Targets::Labels(&[2]), Targets::Logits(&teacher)] {
            let mut gradient = [0.0; 4];
            targets.loss(0, &logits, 2.0, &mut gradient);
            for class in 0..4 {
                let at = |delta: f32| {
                    let mut moved = logits;
                    moved[class] += delta;
                    targets.loss(0, &moved, 1.0, &mut [0.0; 4]).0
                };
                // Steps of 2⁻⁸ are exact in f32; the error is O(step²).
                let step = 1.0 / 256.0;
                let slope = (at(step) - at(-step)) / (2.0 * f64::from(step));
                assert!((2.0 * slope - f64::from(gradient[class])).abs() < 1e-4, "{targets:?} {class}");
            }
        }
        let (loss, agrees) = Targets::Logits(&logits.map(|x| x + 7.0)).loss(0, &logits, 1.0, &mut [0.0; 4]);
        assert!(loss.abs() < 1e-6 && agrees);
    }

    #[test]
    fn extreme_logits_stay_finite() {
        let mut gradient = [0.0; 2];
        let (loss, _) = Targets::Logits(&[3e38, -3e38]).loss(0, &[1.0, 1.0], 1.0, &mut gradient);
        assert!(loss.is_finite() && gradient.iter().all(|g| g.is_finite()), "{loss} {gradient:?}");
    }
}
