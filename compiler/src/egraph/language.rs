//! The terms of the e-graph.

use egg::{Id, Language};
use mxc_dialects::tosa::{self, Unary};

/// A shape; `None` is the batch.
pub type Shape = Vec<Option<usize>>;

/// An operation applied to the values of other e-classes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// Its operands.
    pub children: Box<[Id]>,
}

/// What a node does. Numbers index the tables of [`crate::egraph::facts::Facts`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// An argument of `@main`.
    Argument(usize),
    /// A constant of the source program.
    Constant(usize),
    /// A constant of one repeated value (the bits of an f64).
    Splat(Vec<usize>, u64),
    /// A small constant whose values are known: what small constants fold to.
    Value(usize),
    /// Arithmetic on constants, computed once the program is chosen.
    Fold(Fold),
    /// input, weight, bias; the number of a site and the padding, which rewriting may enlarge.
    Convolution(usize, [usize; 4]),
    /// Left and right operand; the number of a site.
    MatMul(usize),
    /// Elementwise with two operands of equal rank.
    Binary(Binary),
    /// Elementwise with one operand.
    Unary(Unary),
    /// min and max (the bits of f32).
    Clamp(u32, u32),
    /// Result axis `i` is operand axis `perms[i]`.
    Transpose(Vec<usize>),
    /// To a shape.
    Reshape(Shape),
    /// Before and after per axis, and the value (the bits of an f32).
    Pad(Vec<[usize; 2]>, u32),
    /// Anything else with one result.
    Opaque(usize),
}

/// Elementwise functions of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Max,
    Min,
    Pow,
}

impl Binary {
    const ALL: [Self; 6] = [Self::Add, Self::Sub, Self::Mul, Self::Max, Self::Min, Self::Pow];

    /// By TOSA name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.tosa().name() == name)
    }

    /// TOSA's.
    pub fn tosa(self) -> tosa::Binary {
        match self {
            Self::Add => tosa::Binary::Add,
            Self::Sub => tosa::Binary::Sub,
            Self::Mul => tosa::Binary::Mul,
            Self::Max => tosa::Binary::Maximum,
            Self::Min => tosa::Binary::Minimum,
            Self::Pow => tosa::Binary::Pow,
        }
    }

    /// Whether the operands may change places.
    pub fn is_commutative(self) -> bool {
        !matches!(self, Self::Sub | Self::Pow)
    }

    /// Computes it.
    pub fn apply(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Max => a.max(b),
            Self::Min => a.min(b),
            Self::Pow => a.powf(b),
        }
    }
}

/// A function of one number.
pub type Function = fn(f64) -> f64;

/// The elementwise functions of one operand that rules know, and how to compute them on constants where this crate can.
const UNARY: [(Unary, Option<Function>); 11] = [
    (Unary::Sigmoid, Some(|x| 1.0 / (1.0 + (-x).exp()))),
    (Unary::Tanh, Some(f64::tanh)),
    (Unary::Erf, None),
    (Unary::Exp, Some(f64::exp)),
    (Unary::Log, Some(f64::ln)),
    (Unary::Reciprocal, Some(f64::recip)),
    (Unary::Rsqrt, Some(|x| x.sqrt().recip())),
    (Unary::Abs, Some(f64::abs)),
    (Unary::Negate, Some(|x| -x)),
    (Unary::Floor, Some(f64::floor)),
    (Unary::Ceil, Some(f64::ceil)),
];

/// The elementwise function of one operand of a TOSA name, if rules know it.
pub fn unary(name: &str) -> Option<Unary> {
    Unary::of(name).filter(|function| UNARY.iter().any(|(known, _)| known == function))
}

/// How to compute an elementwise function of one operand on constants, where this crate can.
pub fn function(function: Unary) -> Option<Function> {
    UNARY.iter().find(|(known, _)| *known == function).and_then(|(_, computed)| *computed)
}

/// `tosa.clamp` on a constant; the bounds are the bits of f32.
pub fn clamp(x: f64, min: u32, max: u32) -> f64 {
    // Not f64::clamp, which panics on min > max.
    x.max(f64::from(f32::from_bits(min))).min(f64::from(f32::from_bits(max)))
}

/// Arithmetic on constants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fold {
    /// Elementwise, operands of equal rank broadcast.
    Binary(Binary),
    /// Elementwise.
    Unary(Unary),
    /// min and max (the bits of f32).
    Clamp(u32, u32),
    /// Result axis `i` is operand axis `perms[i]`.
    Transpose(Vec<usize>),
    /// To a static shape.
    Reshape(Vec<usize>),
    /// A constant with one value or one per channel (the last axis), as a vector of so many channels.
    Vector(usize),
    /// The weight of a site and a vector: the weight with each output channel scaled.
    ScaleOutputs(usize),
    /// The weight of a site and a vector: the weight with each input channel scaled.
    ScaleInputs(usize),
    /// The weight of a site and a vector: per output channel, the sum over taps and input channels of weight · vector.
    Contract(usize),
}

impl Node {
    /// A node.
    pub fn new(op: Op, children: impl Into<Box<[Id]>>) -> Self {
        Self { op, children: children.into() }
    }
}

impl Language for Node {
    type Discriminant = std::mem::Discriminant<Op>;

    fn discriminant(&self) -> Self::Discriminant {
        std::mem::discriminant(&self.op)
    }

    fn matches(&self, other: &Self) -> bool {
        self.op == other.op && self.children.len() == other.children.len()
    }

    fn children(&self) -> &[Id] {
        &self.children
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}
