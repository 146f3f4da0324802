//! The kind `mean`: the paper's block without its σ̂ path, `X̂ = X − μ̂`.

use super::{
    Kind, Stage,
    expression::{Builder, Expression, Start, TermId, Width},
};

pub(super) static KIND: Kind = Kind::new("mean", "the paper's block without the σ̂ path", Stage::Block, expression);

fn expression() -> Expression {
    let mut e = Builder::default();
    let x = e.input();
    let g = hidden(&mut e, x);
    let mean = e.pointwise("mean", g, Width::Channels, Start::Zero);
    e.subtract("block", x, mean);
    e.finish()
}

/// What the heads read (paper, Fig. 1): `lrelu(dwconv3×3(lrelu(conv1×1(X))))` at a quarter of the channels.
pub(super) fn hidden(e: &mut Builder, x: TermId) -> TermId {
    let h = e.pointwise("reduce", x, Width::Bottleneck(4), Start::Uniform);
    let h = e.leaky_relu(h);
    let g = e.depthwise("depthwise", h, Start::Uniform);
    e.leaky_relu(g)
}
