//! Denoisers for tests: today's kinds, and expressions that no kind has.

use super::{plan::Task, stages::Stages};
use mxc_dialects::denoise::{
    Kind,
    expression::{Expression, Initial, Layout, Parameter, ParameterId, Primitive, Site, Term, TermId, Width},
};

/// Writes an expression down; its first term is X.
pub struct Sketch {
    terms: Vec<Term>,
    parameters: Vec<Parameter>,
}

/// X alone.
impl Default for Sketch {
    fn default() -> Self {
        let input = Term { name: "x".to_owned(), primitive: Primitive::Input };
        Self { terms: vec![input], parameters: Vec::new() }
    }
}

impl Sketch {
    /// Another term.
    pub fn term(&mut self, name: &str, primitive: Primitive) -> TermId {
        self.terms.push(Term { name: name.to_owned(), primitive });
        self.terms.len() - 1
    }

    fn parameter(&mut self, name: &str, part: &str, layout: Layout) -> ParameterId {
        self.parameters.push(Parameter { name: format!("{name}.{part}"), layout, initial: Initial::Zero });
        self.parameters.len() - 1
    }

    /// A 1×1 convolution.
    pub fn pointwise(&mut self, name: &str, x: TermId, [from, to]: [Width; 2], biased: bool) -> TermId {
        let weight = self.parameter(name, "weight", Layout::Pointwise { to, from });
        let bias = biased.then(|| self.parameter(name, "bias", Layout::PerChannel(to)));
        self.term(name, Primitive::Pointwise { x, weight, bias })
    }

    /// A depthwise convolution with a bias.
    pub fn depthwise(&mut self, name: &str, x: TermId, width: Width) -> TermId {
        let weight = self.parameter(name, "weight", Layout::Depthwise(width));
        let bias = Some(self.parameter(name, "bias", Layout::PerChannel(width)));
        self.term(name, Primitive::Depthwise { x, weight, bias })
    }

    /// A scale and a shift per channel.
    pub fn scale_shift(&mut self, name: &str, x: TermId, width: Width) -> TermId {
        let scale = self.parameter(name, "scale", Layout::PerChannel(width));
        let shift = self.parameter(name, "shift", Layout::PerChannel(width));
        self.term(name, Primitive::ScaleShift { x, scale: Some(scale), shift })
    }

    /// The product of a term and a draw.
    pub fn drawn(&mut self, like: TermId) -> TermId {
        let epsilon = self.term("epsilon", Primitive::Draw { like });
        self.term("drawn", Primitive::Multiply([epsilon, like]))
    }

    /// The expression.
    pub fn finish(self) -> Expression {
        Expression::new(self.terms, self.parameters)
    }
}

/// `X + dwconv3×3(X)`.
pub fn depthwise() -> Expression {
    let mut e = Sketch::default();
    let noise = e.depthwise("noise", 0, Width::Channels);
    e.term("sum", Primitive::Add([0, noise]));
    e.finish()
}

/// `X + U·V·X` through an eighth of the channels, without biases.
pub fn low_rank() -> Expression {
    let (mut e, narrow) = (Sketch::default(), Width::Bottleneck(8));
    let down = e.pointwise("down", 0, [Width::Channels, narrow], false);
    let up = e.pointwise("up", down, [narrow, Width::Channels], false);
    e.term("sum", Primitive::Add([0, up]));
    e.finish()
}

/// `X − ε·(W·X)`: a random part alone, from X itself.
pub fn random() -> Expression {
    let mut e = Sketch::default();
    let sigma = e.pointwise("sigma", 0, [Width::Channels; 2], true);
    let drawn = e.drawn(sigma);
    e.term("sum", Primitive::Subtract([0, drawn]));
    e.finish()
}

/// Two depthwise convolutions in a row, of which a random part and a mean are made, the mean also of X itself, scaled and
/// added up in two sums: halos of different heights meet.
pub fn mixed() -> Expression {
    let (mut e, half) = (Sketch::default(), Width::Bottleneck(2));
    let reduced = e.pointwise("reduce", 0, [Width::Channels, half], true);
    let mean = e.pointwise("mean", 0, [Width::Channels; 2], false);
    let first = e.depthwise("first", reduced, half);
    let first = e.term("first.relu", Primitive::LeakyRelu { x: first });
    let second = e.depthwise("second", first, half);
    let second = e.scale_shift("second.scaled", second, half);
    let sigma = e.pointwise("sigma", second, [half, Width::Channels], true);
    let other = e.pointwise("other", second, [half, Width::Channels], true);
    let inner = e.term("inner", Primitive::Subtract([other, mean]));
    let drawn = e.drawn(sigma);
    let noise = e.term("noise", Primitive::Add([inner, drawn]));
    let cleaned = e.term("cleaned", Primitive::Add([noise, 0]));
    e.scale_shift("affine", cleaned, Width::Channels);
    e.finish()
}

/// The named kinds, one behind the other, on an output with rows and columns.
pub fn kinds(names: &[&str], [rows, columns, channels]: [usize; 3]) -> Task {
    let expressions: Vec<&Expression> = names.iter().map(|name| Kind::named(name).unwrap().expression()).collect();
    task(&expressions, [rows, columns, channels])
}

/// Denoisers, one behind the other, on an output with rows and columns.
pub fn task(expressions: &[&Expression], [rows, columns, channels]: [usize; 3]) -> Task {
    let denoisers: Vec<_> = expressions.iter().map(|e| (*e, Site { channels, spatial: true })).collect();
    Task { rows, columns, stages: Stages::new(&denoisers).unwrap() }
}
