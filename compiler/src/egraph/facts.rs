//! What is known of the leaves of an e-graph, and the tables that its nodes index.

use super::language::Shape;
use std::collections::BTreeMap;

/// Constants of up to this many elements are computed while rewriting, so that equal ones are one e-class; larger
/// ones (the weights) stay symbolic.
pub const MAX_KNOWN_ELEMENTS: usize = 4096;

/// A constant in f64, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// The shape.
    pub shape: Vec<usize>,
    /// The values.
    pub values: Vec<f64>,
}

impl Tensor {
    /// One repeated value.
    pub fn splat(shape: Vec<usize>, value: f64) -> Self {
        let values = vec![value; shape.iter().product()];
        Self { shape, values }
    }

    /// The only value, if all are equal.
    pub fn repeated(&self) -> Option<f64> {
        let first = *self.values.first()?;
        let all = self.values.iter().all(|value| value.to_bits() == first.to_bits());
        (all && !first.is_nan()).then_some(first)
    }

    /// The values as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        self.values.iter().map(|value| *value as f32).collect()
    }
}

/// What is known of the leaves, and the tables that nodes index.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The arguments of `@main`.
    pub arguments: Vec<Known>,
    /// The constants of the source program.
    pub constants: Vec<KnownConstant>,
    /// Convolutions and matrix products.
    pub sites: Vec<Site>,
    /// The results of other operations.
    pub opaque: Vec<Known>,
    /// The values of [`super::language::Op::Value`].
    pub values: Vec<Tensor>,
    /// The number of a value, by shape and bits.
    numbers: BTreeMap<(Vec<usize>, Vec<u64>), usize>,
}

impl Facts {
    /// The number of a small constant's values; `None` for one that is too large.
    pub fn intern(&mut self, tensor: Tensor) -> Option<usize> {
        if tensor.values.len() > MAX_KNOWN_ELEMENTS {
            return None;
        }
        let bits = tensor.values.iter().map(|value| value.to_bits()).collect();
        let next = self.values.len();
        let number = *self.numbers.entry((tensor.shape.clone(), bits)).or_insert(next);
        if number == next {
            self.values.push(tensor);
        }
        Some(number)
    }
}

/// A value's type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The shape; empty for a value that is no tensor.
    pub shape: Shape,
    /// Whether its elements are f32.
    pub float: bool,
}

/// What is known of a constant.
#[derive(Clone, Debug)]
pub struct KnownConstant {
    /// The shape.
    pub shape: Vec<usize>,
    /// Whether its elements are f32.
    pub float: bool,
    /// Its only value, if it repeats one.
    pub splat: Option<f64>,
    /// The number of its values, if it is small and they are at hand.
    pub value: Option<usize>,
}

/// Which operation a site is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteKind {
    /// `tosa.conv2d`, weight OHWI.
    Conv2d,
    /// `tosa.depthwise_conv2d`, weight HWCM.
    Depthwise,
    /// `tosa.custom` (mxc's grouped convolution), weight OHWI with I = C / groups.
    Grouped,
    /// `tosa.matmul`, right operand `[N, I, O]`.
    MatMul,
}

/// One convolution or matrix product of the source program. Every site is distinct, even from one that computes the
/// same: two layers have two names and independent noise.
#[derive(Clone, Debug)]
pub struct Site {
    /// Which operation.
    pub kind: SiteKind,
    /// The layer's name, for the names of folded weights.
    pub layer: String,
    /// Groups; 1 unless `Grouped`.
    pub groups: usize,
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// The result's shape.
    pub shape: Shape,
}
