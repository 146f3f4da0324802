//! A denoiser's arithmetic as an expression over a few primitives.
//!
//! Everything that mxc does with a denoiser walks its expression: shapes and initial values of its parameters, verification,
//! execution and gradients, ONNX export, fixed point, and the program of the digital tile.

use std::fmt;

/// The index of a term in [`Expression::terms`].
pub type TermId = usize;
/// The index of a parameter in [`Expression::parameters`].
pub type ParameterId = usize;

/// A denoiser's output as a function of a layer's output X: terms in the order in which they are computed, the last one X̂.
/// X and X̂ have C channels on the last axis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expression {
    terms: Vec<Term>,
    parameters: Vec<Parameter>,
}

/// A term.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// What it is called in exported models and in the fixed-point formats of a quantised denoiser; unique.
    pub name: String,
    /// What it computes.
    pub primitive: Primitive,
}

/// What a term computes, at every pixel unless said otherwise.
#[derive(Clone, Debug, PartialEq)]
pub enum Primitive {
    /// X.
    Input,
    /// A 1×1 convolution.
    Pointwise {
        /// The operand.
        x: TermId,
        /// `[O, 1, 1, I]`.
        weight: ParameterId,
        /// `[O]`.
        bias: Option<ParameterId>,
    },
    /// A 3×3 convolution of every channel by itself, zeros around the image; 1×1 where the layer's output has no rows and columns.
    Depthwise {
        /// The operand.
        x: TermId,
        /// `[3, 3, C, 1]` or `[1, 1, C, 1]`.
        weight: ParameterId,
        /// `[C]`.
        bias: Option<ParameterId>,
    },
    /// x where x ≥ 0, else [`SLOPE`](super::SLOPE)·x.
    LeakyRelu {
        /// The operand.
        x: TermId,
    },
    /// `x·scale + shift` per channel.
    ScaleShift {
        /// The operand.
        x: TermId,
        /// `[C]`; 1 where there is none.
        scale: Option<ParameterId>,
        /// `[C]`.
        shift: ParameterId,
    },
    /// ε: a standard normal for every element of another term, drawn anew for every sample; 0 where sampling is off.
    Draw {
        /// The term that has as many elements.
        like: TermId,
    },
    /// The product, element by element.
    Multiply([TermId; 2]),
    /// The sum.
    Add([TermId; 2]),
    /// The first less the second.
    Subtract([TermId; 2]),
}

impl Primitive {
    /// The terms it depends on, in order.
    pub fn terms(&self) -> Vec<TermId> {
        match self {
            Self::Input => Vec::new(),
            Self::Pointwise { x, .. }
            | Self::Depthwise { x, .. }
            | Self::LeakyRelu { x }
            | Self::ScaleShift { x, .. }
            | Self::Draw { like: x } => vec![*x],
            Self::Multiply(pair) | Self::Add(pair) | Self::Subtract(pair) => pair.to_vec(),
        }
    }

    /// The parameters it reads, in order.
    pub fn parameters(&self) -> Vec<ParameterId> {
        match self {
            Self::Pointwise { weight, bias, .. } | Self::Depthwise { weight, bias, .. } => {
                [*weight].into_iter().chain(*bias).collect()
            }
            Self::ScaleShift { scale, shift, .. } => (*scale).into_iter().chain([*shift]).collect(),
            Self::Input
            | Self::LeakyRelu { .. }
            | Self::Draw { .. }
            | Self::Multiply(_)
            | Self::Add(_)
            | Self::Subtract(_) => Vec::new(),
        }
    }

    /// The same of other terms and parameters.
    pub fn renumbered<E>(
        &self,
        term: impl Fn(TermId) -> Result<TermId, E>,
        parameter: impl Fn(ParameterId) -> ParameterId,
    ) -> Result<Self, E> {
        let pair = |pair: [TermId; 2]| Ok([term(pair[0])?, term(pair[1])?]);
        Ok(match *self {
            Self::Input => Self::Input,
            Self::Pointwise { x, weight, bias } => {
                Self::Pointwise { x: term(x)?, weight: parameter(weight), bias: bias.map(parameter) }
            }
            Self::Depthwise { x, weight, bias } => {
                Self::Depthwise { x: term(x)?, weight: parameter(weight), bias: bias.map(parameter) }
            }
            Self::LeakyRelu { x } => Self::LeakyRelu { x: term(x)? },
            Self::ScaleShift { x, scale, shift } => {
                Self::ScaleShift { x: term(x)?, scale: scale.map(&parameter), shift: parameter(shift) }
            }
            Self::Draw { like } => Self::Draw { like: term(like)? },
            Self::Multiply(operands) => Self::Multiply(pair(operands)?),
            Self::Add(operands) => Self::Add(pair(operands)?),
            Self::Subtract(operands) => Self::Subtract(pair(operands)?),
        })
    }
}

/// What a denoiser is placed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The layer's output channels C.
    pub channels: usize,
    /// Whether its output has rows and columns, over which a depthwise convolution reaches.
    pub spatial: bool,
}

impl Site {
    /// The taps of a depthwise convolution along rows and columns.
    pub fn taps(self) -> usize {
        if self.spatial { 3 } else { 1 }
    }
}

/// A number of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// C.
    Channels,
    /// max(1, round(C / d)), halves away from zero.
    Bottleneck(usize),
}

impl Width {
    /// The number for C channels.
    pub fn of(self, channels: usize) -> usize {
        match self {
            Self::Channels => channels,
            // round(c/d) with halves up is floor((c + d/2) / d) for even d and non-negative integers.
            Self::Bottleneck(divisor) => (channels.saturating_add(divisor / 2) / divisor.max(1)).max(1),
        }
    }
}

/// How a parameter's values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[to, 1, 1, from]`: output channels, then input channels.
    Pointwise {
        /// Output channels.
        to: Width,
        /// Input channels.
        from: Width,
    },
    /// `[K, K, channels, 1]`, where K is [`Site::taps`].
    Depthwise(Width),
    /// `[channels]`.
    PerChannel(Width),
}

/// A parameter's values before training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    /// All 0.
    Zero,
    /// All 1.
    One,
    /// Uniform in ±1/√fan-in, as PyTorch's convolutions start, weights and biases alike; the fan-in is that of the convolution
    /// with weights of this layout.
    Uniform(Layout),
}

/// A trainable parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The last part of its global's name, such as `reduce.weight`; unique.
    pub name: String,
    /// How its values lie.
    pub layout: Layout,
    /// Its values before training.
    pub initial: Initial,
}

impl Layout {
    /// The shape at a site.
    pub fn shape(self, site: Site) -> Vec<usize> {
        match self {
            Self::Pointwise { to, from } => vec![to.of(site.channels), 1, 1, from.of(site.channels)],
            Self::Depthwise(width) => vec![site.taps(), site.taps(), width.of(site.channels), 1],
            Self::PerChannel(width) => vec![width.of(site.channels)],
        }
    }

    /// The products that a convolution with weights of this layout adds up for one output.
    pub fn fan_in(self, site: Site) -> usize {
        match self {
            Self::Pointwise { from, .. } => from.of(site.channels),
            Self::Depthwise(_) => site.taps() * site.taps(),
            Self::PerChannel(_) => 1,
        }
    }
}

impl Expression {
    /// An expression of terms in the order in which they are computed and of the parameters that they read.
    pub fn new(terms: Vec<Term>, parameters: Vec<Parameter>) -> Self {
        Self { terms, parameters }
    }

    /// The terms in the order in which they are computed; the last one is X̂.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The parameters, in the order of a denoiser's operands.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The last term.
    pub fn result(&self) -> TermId {
        self.terms.len().saturating_sub(1)
    }

    /// The number of trainable values at a site.
    pub fn parameter_count(&self, site: Site) -> u64 {
        self.parameters.iter().map(|parameter| parameter.layout.shape(site).iter().product::<usize>() as u64).sum()
    }

    /// The channels of a term.
    pub fn width(&self, term: TermId) -> Width {
        match &self.terms[term].primitive {
            Primitive::Input => Width::Channels,
            Primitive::Pointwise { weight, .. } => match self.parameters[*weight].layout {
                Layout::Pointwise { to, .. } => to,
                Layout::Depthwise(width) | Layout::PerChannel(width) => width,
            },
            Primitive::Depthwise { x, .. } | Primitive::LeakyRelu { x } | Primitive::ScaleShift { x, .. } => {
                self.width(*x)
            }
            Primitive::Draw { like } => self.width(*like),
            Primitive::Multiply([x, _]) | Primitive::Add([x, _]) | Primitive::Subtract([x, _]) => self.width(*x),
        }
    }

    /// The terms that random parts are drawn like, which scale them: the paper's σ̂.
    pub fn drawn(&self) -> impl Iterator<Item = TermId> {
        self.terms.iter().filter_map(|term| match term.primitive {
            Primitive::Draw { like } => Some(like),
            _ => None,
        })
    }

    /// The site that parameters of these shapes are for, on C channels: with rows and columns, unless they only fit without. Says
    /// which parameter fits neither.
    pub fn fit(&self, channels: usize, shapes: &[&[usize]]) -> Result<Site, String> {
        let misfit = |site: Site| {
            let mut pairs = self.parameters.iter().zip(shapes);
            pairs.find_map(|(parameter, shape)| {
                let wanted = parameter.layout.shape(site);
                (wanted != **shape).then(|| format!("its {} has shape {shape:?}, not {wanted:?}", parameter.name))
            })
        };
        if shapes.len() != self.parameters.len() {
            return Err(format!("it has {} weights, not {}", shapes.len(), self.parameters.len()));
        }
        let [spatial, pixels] = [true, false].map(|spatial| Site { channels, spatial });
        match (misfit(spatial), misfit(pixels)) {
            (None, _) => Ok(spatial),
            (Some(_), None) => Ok(pixels),
            (Some(message), Some(_)) => Err(message),
        }
    }
}

/// One line a term: `h = pointwise(x)`.
impl fmt::Display for Expression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |term: &TermId| self.terms[*term].name.as_str();
        for term in &self.terms {
            let parameter = |index: &ParameterId| self.parameters[*index].name.as_str();
            let value = match &term.primitive {
                Primitive::Input => continue,
                Primitive::Pointwise { x, .. } => format!("pointwise({})", name(x)),
                Primitive::Depthwise { x, .. } => format!("depthwise({})", name(x)),
                Primitive::LeakyRelu { x } => format!("lrelu({})", name(x)),
                Primitive::ScaleShift { x, scale: Some(scale), shift } => {
                    format!("{} * {} + {}", name(x), parameter(scale), parameter(shift))
                }
                Primitive::ScaleShift { x, scale: None, shift } => format!("{} + {}", name(x), parameter(shift)),
                Primitive::Draw { like } => format!("draw({})", name(like)),
                Primitive::Multiply([a, b]) => format!("{} * {}", name(a), name(b)),
                Primitive::Add([a, b]) => format!("{} + {}", name(a), name(b)),
                Primitive::Subtract([a, b]) => format!("{} - {}", name(a), name(b)),
            };
            writeln!(formatter, "{} = {value}", term.name)?;
        }
        Ok(())
    }
}

/// Writes an expression down, term by term. Parameters are named after the term that reads them: `reduce.weight`.
#[derive(Debug, Default)]
pub(super) struct Builder {
    expression: Expression,
}

impl Builder {
    fn term(&mut self, name: impl Into<String>, primitive: Primitive) -> TermId {
        self.expression.terms.push(Term { name: name.into(), primitive });
        self.expression.result()
    }

    fn parameter(&mut self, name: String, layout: Layout, initial: Initial) -> ParameterId {
        self.expression.parameters.push(Parameter { name, layout, initial });
        self.expression.parameters.len() - 1
    }

    /// X.
    pub fn input(&mut self) -> TermId {
        self.term("x", Primitive::Input)
    }

    /// A 1×1 convolution with a bias, to as many channels.
    pub fn pointwise(&mut self, name: &str, x: TermId, to: Width, initial: Start) -> TermId {
        let layout = Layout::Pointwise { to, from: self.expression.width(x) };
        let (weight, bias) = self.convolution(name, layout, to, initial);
        self.term(name, Primitive::Pointwise { x, weight, bias: Some(bias) })
    }

    /// A 1×1 convolution without a bias.
    pub fn linear(&mut self, name: &str, x: TermId, to: Width, initial: Start) -> TermId {
        let layout = Layout::Pointwise { to, from: self.expression.width(x) };
        let weight = self.parameter(format!("{name}.weight"), layout, initial.of(layout));
        self.term(name, Primitive::Pointwise { x, weight, bias: None })
    }

    /// A depthwise convolution with a bias.
    pub fn depthwise(&mut self, name: &str, x: TermId, initial: Start) -> TermId {
        let width = self.expression.width(x);
        let (weight, bias) = self.convolution(name, Layout::Depthwise(width), width, initial);
        self.term(name, Primitive::Depthwise { x, weight, bias: Some(bias) })
    }

    fn convolution(&mut self, name: &str, layout: Layout, to: Width, initial: Start) -> (ParameterId, ParameterId) {
        let initial = initial.of(layout);
        let weight = self.parameter(format!("{name}.weight"), layout, initial);
        (weight, self.parameter(format!("{name}.bias"), Layout::PerChannel(to), initial))
    }

    /// LeakyReLU.
    pub fn leaky_relu(&mut self, x: TermId) -> TermId {
        let name = format!("{}.relu", self.expression.terms[x].name);
        self.term(name, Primitive::LeakyRelu { x })
    }

    /// A scale and a shift per channel; the identity before training.
    pub fn scale_shift(&mut self, name: &str, x: TermId) -> TermId {
        let layout = Layout::PerChannel(self.expression.width(x));
        let scale = self.parameter(format!("{name}.scale"), layout, Initial::One);
        let shift = self.parameter(format!("{name}.shift"), layout, Initial::Zero);
        self.term(name, Primitive::ScaleShift { x, scale: Some(scale), shift })
    }

    /// A shift per channel; the identity before training.
    pub fn shift(&mut self, name: &str, x: TermId) -> TermId {
        let layout = Layout::PerChannel(self.expression.width(x));
        let shift = self.parameter(format!("{name}.shift"), layout, Initial::Zero);
        self.term(name, Primitive::ScaleShift { x, scale: None, shift })
    }

    /// ε for every element of another term.
    pub fn draw(&mut self, name: &str, like: TermId) -> TermId {
        self.term(name, Primitive::Draw { like })
    }

    /// a·b.
    pub fn multiply(&mut self, name: &str, a: TermId, b: TermId) -> TermId {
        self.term(name, Primitive::Multiply([a, b]))
    }

    /// a + b.
    pub fn add(&mut self, name: &str, a: TermId, b: TermId) -> TermId {
        self.term(name, Primitive::Add([a, b]))
    }

    /// a − b.
    pub fn subtract(&mut self, name: &str, a: TermId, b: TermId) -> TermId {
        self.term(name, Primitive::Subtract([a, b]))
    }

    /// The expression, whose result is the last term.
    pub fn finish(self) -> Expression {
        self.expression
    }
}

/// How a convolution starts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    /// At zero.
    Zero,
    /// See [`Initial::Uniform`].
    Uniform,
}

impl Start {
    fn of(self, layout: Layout) -> Initial {
        match self {
            Self::Zero => Initial::Zero,
            Self::Uniform => Initial::Uniform(layout),
        }
    }
}
