//! Denoisers: trainable digital blocks on an analog layer's noisy output. What a denoiser computes is its [`Kind`]'s
//! [`expression`].

mod affine;
mod bias;
mod depthwise;
pub mod expression;
mod lowrank;
mod mean;
mod paper;

use expression::Expression;
use std::{fmt, sync::LazyLock};

/// A kind of denoiser: what mxc knows of it.
pub struct Kind {
    /// Its name on the command line, in the IR and in packages.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Where it acts among a layer's denoisers.
    pub stage: Stage,
    expression: LazyLock<Expression>,
}

/// The denoisers of a layer act in this order, at most one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// A block, on the layer's output.
    Block,
    /// An affine or a bias, behind the block if there is one.
    Affine,
}

/// What the dialect's operations begin with.
const PREFIX: &str = "denoise.";

/// Every kind of denoiser.
pub static KINDS: [&Kind; 6] =
    [&paper::KIND, &mean::KIND, &affine::KIND, &bias::KIND, &depthwise::KIND, &lowrank::KIND];

impl Kind {
    /// A kind; `expression` writes its arithmetic down, and is called once.
    pub const fn new(name: &'static str, about: &'static str, stage: Stage, expression: fn() -> Expression) -> Self {
        Self { name, about, stage, expression: LazyLock::new(expression) }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        KINDS.into_iter().find(|kind| kind.name == name)
    }

    /// Its operation's name: `denoise.KIND`.
    pub fn operation_name(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    /// The kind whose operation has that name.
    pub fn of_operation(name: &str) -> Option<&'static Self> {
        Self::named(name.strip_prefix(PREFIX)?)
    }

    /// What can be asked for, in words: every kind, and how kinds go together.
    pub fn choices() -> String {
        let names: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
        format!("{}, or a sum of a block and affine or bias such as mean+affine", names.join(", "))
    }

    /// Its arithmetic.
    pub fn expression(&self) -> &Expression {
        &self.expression
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

/// LeakyReLU's slope in float and fixed point alike: a power of two, so a shift in hardware.
pub const SLOPE: f64 = 1.0 / (1u32 << SLOPE_SHIFT) as f64;
/// The bits by which [`SLOPE`] shifts right.
pub const SLOPE_SHIFT: u32 = 7;

/// The name of a denoiser weight's global: `denoise.LAYER.PART`.
pub fn global_name(layer: &str, part: &str) -> String {
    format!("denoise.{layer}.{part}")
}

/// What `mxc finetune` measured of a block, over all elements of the calibration samples on the noisy, denoised network.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// The number of samples.
    pub samples: u64,
    /// √mean(X²) of the block's noisy input.
    pub input_rms: f64,
    /// √mean(σ̂²).
    pub sigma_rms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use expression::{Site, Width};
    use std::collections::BTreeSet;

    #[test]
    fn bottleneck_rounds_halves_up() {
        let widths: Vec<_> = [1, 2, 5, 6, 10, 16, 64].map(|channels| Width::Bottleneck(4).of(channels)).into();
        assert_eq!(widths, [1, 1, 1, 2, 3, 4, 16]);
    }

    /// The counts of the paper: C·B + T·B + 2·B·C weights and 2·B + 2·C biases, T = 9 with rows and columns.
    #[test]
    fn parameters_count_as_in_the_paper() {
        let count = |kind: &Kind, channels, spatial| kind.expression().parameter_count(Site { channels, spatial });
        for (channels, b, spatial) in [(1, 1, true), (10, 3, false), (16, 4, true), (64, 16, true)] {
            let (c, taps) = (channels as u64, if spatial { 9 } else { 1 });
            assert_eq!(count(&paper::KIND, channels, spatial), 3 * c * b + taps * b + 2 * b + 2 * c);
            assert_eq!(count(&mean::KIND, channels, spatial), 2 * c * b + taps * b + 2 * b + c);
            assert_eq!(count(&affine::KIND, channels, spatial), 2 * c);
        }
    }

    /// What everything that walks an expression relies on.
    #[test]
    fn expressions_are_well_formed() {
        for kind in KINDS {
            let expression = kind.expression();
            let names: BTreeSet<_> = expression.terms().iter().map(|term| &term.name).collect();
            assert_eq!(names.len(), expression.terms().len(), "{kind:?}: two terms of one name");
            let read: Vec<_> = expression.terms().iter().flat_map(|term| term.primitive.parameters()).collect();
            assert!(read.into_iter().eq(0..expression.parameters().len()), "{kind:?}: parameters out of order");
            for (index, term) in expression.terms().iter().enumerate() {
                assert!(term.primitive.terms().iter().all(|operand| *operand < index), "{kind:?}: {}", term.name);
                if let [a, b] = *term.primitive.terms() {
                    assert_eq!(expression.width(a), expression.width(b), "{kind:?}: {}", term.name);
                }
            }
            assert_eq!(expression.width(expression.result()), Width::Channels, "{kind:?}");
        }
    }
}
