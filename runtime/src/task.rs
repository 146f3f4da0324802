//! What a network is for: what its targets are, its loss, and how its results are scored.

use crate::kernels::pool::argmax;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What a network is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Task {
    /// One class a sample: a target is a class's number, the logits hold a score for every class, the loss is cross-entropy, and
    /// results are scored by top-1 and top-5 accuracy.
    #[default]
    Classification,
}

/// Every task with its name in modules and packages.
const NAMES: [(Task, &str); 1] = [(Task::Classification, "classification")];

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        NAMES.iter().filter(|(task, _)| task == self).try_for_each(|(_, name)| f.write_str(name))
    }
}

/// A task that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task `{0}` is not known; known is {known}", known = NAMES.map(|(_, name)| name).join(", "))]
pub struct UnknownTask(String);

impl FromStr for Task {
    type Err = UnknownTask;

    fn from_str(text: &str) -> Result<Self, UnknownTask> {
        let known = NAMES.iter().find(|(_, name)| *name == text).map(|(task, _)| *task);
        known.ok_or_else(|| UnknownTask(text.to_owned()))
    }
}

/// What a batch's samples are trained towards.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a> {
    /// One class per sample: the loss is the task's own.
    Labels(&'a [u32]),
    /// One row of logits per sample, a teacher's: the loss is KL(softmax(teacher) ‖ softmax(logits)).
    Logits(&'a [f32]),
}

impl Task {
    /// The loss of a batch's `n`th sample, and whether its prediction is the target's; `gradient` becomes `weight` times the
    /// loss's gradient.
    pub(crate) fn loss(
        self,
        targets: Targets<'_>,
        n: usize,
        logits: &[f32],
        weight: f64,
        gradient: &mut [f32],
    ) -> (f64, bool) {
        match (self, targets) {
            (Self::Classification, Targets::Labels(labels)) => {
                classification(logits, labels[n] as usize, weight, gradient)
            }
            (Self::Classification, Targets::Logits(rows)) => {
                divergence(logits, &rows[n * logits.len()..][..logits.len()], weight, gradient)
            }
        }
    }

    /// The loss against a label.
    pub(crate) fn loss_of(self, logits: &[f32], label: u32) -> f64 {
        match self {
            Self::Classification => cross_entropy(logits, label as usize),
        }
    }

    /// The label that the logits predict: of equal scores the first.
    pub fn prediction(self, logits: &[f32]) -> u32 {
        match self {
            Self::Classification => argmax(logits),
        }
    }

    /// Counts a sample's result. Logits with a NaN are wrong.
    pub(crate) fn score(self, logits: &[f32], label: u32, scores: &mut Scores) {
        match self {
            Self::Classification => {
                scores.samples += 1;
                if let Some(rank) = rank(logits, label as usize) {
                    scores.first += u64::from(rank < 1);
                    scores.five += u64::from(rank < 5);
                }
            }
        }
    }
}

/// How many results were right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scores {
    pub samples: u64,
    first: u64,
    five: u64,
}

impl Scores {
    /// Those of both.
    pub fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.first += other.first;
        self.five += other.five;
    }

    /// Whether no more are right than there are.
    pub fn are_possible(&self) -> bool {
        self.first <= self.five && self.five <= self.samples
    }

    /// Top-1 and top-5 accuracy in percent.
    pub fn percent(self) -> [f64; 2] {
        [self.first, self.five].map(|hits| 100.0 * hits as f64 / self.samples as f64)
    }
}

/// How many logits come before the label's: the larger ones, and equal ones of a smaller class (as argmax takes the
/// first). `None` when a logit is NaN or the label is no class.
fn rank(logits: &[f32], label: usize) -> Option<usize> {
    let &own = logits.get(label)?;
    if logits.iter().any(|logit| logit.is_nan()) {
        return None;
    }
    let before = |(class, &logit): (usize, &f32)| logit > own || (logit == own && class < label);
    Some(logits.iter().enumerate().filter(|&item| before(item)).count())
}

/// log Σ exp(logits).
fn log_sum(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(max) + logits.iter().map(|&logit| f64::from(logit - max).exp()).sum::<f64>().ln()
}

/// Cross-entropy.
fn cross_entropy(logits: &[f32], label: usize) -> f64 {
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

    const TASK: Task = Task::Classification;

    /// Both losses' gradients against central differences in f64, and KL = 0 where the two agree.
    #[test]
    fn gradients_are_the_losses_slopes() {
        let logits = [1.0f32, -2.0, 0.5, 3.0];
        let teacher = [0.25f32, 2.0, -1.0, 4.0];
        for targets in [Targets::Labels(&[2]), Targets::Logits(&teacher)] {
            let mut gradient = [0.0; 4];
            TASK.loss(targets, 0, &logits, 2.0, &mut gradient);
            for class in 0..4 {
                let at = |delta: f32| {
                    let mut moved = logits;
                    moved[class] += delta;
                    TASK.loss(targets, 0, &moved, 1.0, &mut [0.0; 4]).0
                };
                // Steps of 2⁻⁸ are exact in f32; the error is O(step²).
                let step = 1.0 / 256.0;
                let slope = (at(step) - at(-step)) / (2.0 * f64::from(step));
                assert!((2.0 * slope - f64::from(gradient[class])).abs() < 1e-4, "{targets:?} {class}");
            }
        }
        let (loss, agrees) = TASK.loss(Targets::Logits(&logits.map(|x| x + 7.0)), 0, &logits, 1.0, &mut [0.0; 4]);
        assert!(loss.abs() < 1e-6 && agrees);
    }

    #[test]
    fn extreme_logits_stay_finite() {
        let mut gradient = [0.0; 2];
        let (loss, _) = TASK.loss(Targets::Logits(&[3e38, -3e38]), 0, &[1.0, 1.0], 1.0, &mut gradient);
        assert!(loss.is_finite() && gradient.iter().all(|g| g.is_finite()), "{loss} {gradient:?}");
    }

    #[test]
    fn ranks_break_ties_by_class_and_refuse_nan() {
        assert_eq!(rank(&[1.0, 3.0, 2.0], 1), Some(0));
        assert_eq!(rank(&[1.0, 3.0, 2.0], 0), Some(2));
        assert_eq!(rank(&[2.0, 2.0, 2.0], 0), Some(0));
        assert_eq!(rank(&[2.0, 2.0, 2.0], 2), Some(2));
        assert_eq!(rank(&[2.0, f32::NAN, 3.0], 2), None);
        assert_eq!(rank(&[2.0], 1), None);
        assert_eq!(rank(&[f32::INFINITY, 0.0], 0), Some(0));
    }
}
