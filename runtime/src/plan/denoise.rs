//! The steps of a denoiser: of any expression a step for every term, of the forms that have a kernel of their own that kernel.

use super::{Builder, Id, Kernel};
use crate::{
    kernels::{depthwise::Depthwise, elementwise::Broadcast},
    program::{Binary, LayerId, ValueId},
};
use mxc_dialects::denoise::expression::{Expression, Primitive, TermId};

/// The form `X − μ̂` or `X − (ε ⊙ σ̂ + μ̂)`, where both are 1×1 convolutions of
/// `g = lrelu(dwconv(lrelu(conv1×1(X))))`: the paper's block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub layer: LayerId,
    /// Pixels: rows of the operand.
    pub rows: usize,
    pub channels: usize,
    pub bottleneck: usize,
    pub depthwise: Depthwise,
    /// Weights and biases: reduce, depthwise, mean, and sigma if it draws.
    pub reduce: [ValueId; 2],
    pub spatial: [ValueId; 2],
    pub mean: [ValueId; 2],
    pub sigma: Option<[ValueId; 2]>,
}

impl Block {
    /// Its weights.
    pub fn parameters(&self) -> Vec<ValueId> {
        [Some(self.reduce), Some(self.spatial), Some(self.mean), self.sigma].into_iter().flatten().flatten().collect()
    }
}

/// Where a denoiser acts.
struct Site<'a> {
    layer: LayerId,
    /// Its weights, in the expression's order.
    parameters: &'a [ValueId],
    /// The value's shape, channels last.
    shape: &'a [usize],
    channels: usize,
    pixels: usize,
}

impl Builder<'_> {
    /// Emits a layer's denoiser on a value of a shape.
    pub(super) fn denoise(
        &mut self,
        layer: LayerId,
        expression: &Expression,
        x: Id,
        parameters: &[ValueId],
        shape: &[usize],
    ) -> Id {
        let channels = shape.last().copied().unwrap_or(1);
        let pixels = shape.iter().product::<usize>() / channels.max(1);
        let site = Site { layer, parameters, shape, channels, pixels };
        match self.block(expression, &site) {
            Some(block) => self.step(Kernel::Block(Box::new(block)), vec![x], pixels * channels),
            None => self.terms(expression, x, &site),
        }
    }

    /// A step for every term.
    fn terms(&mut self, expression: &Expression, x: Id, site: &Site<'_>) -> Id {
        let width = |term: TermId| expression.width(term).of(site.channels);
        let mut ids: Vec<Id> = Vec::new();
        let mut draws = 0..;
        for (index, term) in expression.terms().iter().enumerate() {
            let len = site.pixels * width(index);
            let binary = |op| Kernel::Binary { op, shape: Broadcast::equal(len) };
            let mut inputs: Vec<Id> = term.primitive.terms().iter().map(|operand| ids[*operand]).collect();
            let kernel = match &term.primitive {
                Primitive::Input => {
                    ids.push(x);
                    continue;
                }
                Primitive::Pointwise { x, weight, bias } => Kernel::Pointwise {
                    rows: site.pixels,
                    inputs: width(*x),
                    outputs: width(index),
                    weight: site.parameters[*weight],
                    bias: bias.map(|bias| site.parameters[bias]),
                },
                Primitive::Depthwise { weight, bias, .. } => Kernel::Filter {
                    shape: self.filter(site, *weight, width(index)),
                    weight: site.parameters[*weight],
                    bias: bias.map(|bias| site.parameters[bias]),
                },
                Primitive::LeakyRelu { .. } => Kernel::LeakyRelu,
                Primitive::ScaleShift { scale, shift, .. } => {
                    Kernel::Affine { scale: site.parameters[*scale], shift: site.parameters[*shift] }
                }
                Primitive::Draw { like } => {
                    inputs = vec![x, ids[*like]];
                    Kernel::Draw { layer: site.layer, number: draws.next().unwrap_or(0) }
                }
                Primitive::Multiply(_) => binary(Binary::Mul),
                Primitive::Add(_) => binary(Binary::Add),
                Primitive::Subtract(_) => binary(Binary::Sub),
            };
            let id = self.step(kernel, inputs, len);
            ids.push(id);
        }
        ids.last().copied().unwrap_or(x)
    }

    /// A depthwise convolution, as its weight says: over rows and columns, or 1×1 over one row of pixels.
    fn filter(&self, site: &Site<'_>, weight: usize, channels: usize) -> Depthwise {
        let kernel = self.network.shapes[site.parameters[weight]].first().copied().unwrap_or(1);
        let image = match site.shape {
            &[_, rows, columns, _] if kernel > 1 => [rows, columns],
            _ => [1, site.pixels],
        };
        Depthwise {
            input: image,
            output: image,
            channels,
            kernel: [kernel; 2],
            stride: [1; 2],
            pad: [kernel / 2; 2],
            dilation: [1; 2],
        }
    }

    /// The expression as a [`Block`], if it has that form.
    fn block(&self, expression: &Expression, site: &Site<'_>) -> Option<Block> {
        let primitive = |term: TermId| &expression.terms()[term].primitive;
        let pointwise = |term: TermId| match *primitive(term) {
            Primitive::Pointwise { x, weight, bias } => Some((x, [site.parameters[weight], site.parameters[bias?]])),
            _ => None,
        };
        let rectified = |term: TermId| match *primitive(term) {
            Primitive::LeakyRelu { x } => Some(x),
            _ => None,
        };
        let Primitive::Subtract([input, noise]) = *primitive(expression.result()) else {
            return None;
        };
        let (mean, sigma) = match *primitive(noise) {
            Primitive::Add([drawn, mean]) => match *primitive(drawn) {
                Primitive::Multiply([epsilon, sigma]) if *primitive(epsilon) == (Primitive::Draw { like: sigma }) => {
                    (mean, Some(sigma))
                }
                _ => return None,
            },
            _ => (noise, None),
        };
        let (g, mean) = pointwise(mean)?;
        let sigma = match sigma {
            Some(sigma) => Some(pointwise(sigma).filter(|(x, _)| *x == g)?.1),
            None => None,
        };
        let Primitive::Depthwise { x: h, weight, bias } = *primitive(rectified(g)?) else {
            return None;
        };
        let (x, reduce) = pointwise(rectified(h)?)?;
        if x != input || *primitive(input) != Primitive::Input {
            return None;
        }
        let bottleneck = expression.width(g).of(site.channels);
        Some(Block {
            layer: site.layer,
            rows: site.pixels,
            channels: site.channels,
            bottleneck,
            depthwise: self.filter(site, weight, bottleneck),
            reduce,
            spatial: [site.parameters[weight], site.parameters[bias?]],
            mean,
            sigma,
        })
    }
}
