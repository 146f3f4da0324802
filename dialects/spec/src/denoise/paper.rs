//! The kind `paper`: the denoising block of the paper (§III-B, Fig. 1), `X̂ = X − (ε ⊙ σ̂ + μ̂)`.

use super::{
    Kind, Stage,
    expression::{Builder, Expression, Start, Width},
    mean,
};

pub(super) static KIND: Kind =
    Kind::new("paper", "the paper's block, which subtracts a mean and a random part", Stage::Block, expression);

fn expression() -> Expression {
    let mut e = Builder::default();
    let x = e.input();
    let g = mean::hidden(&mut e, x);
    // Heads that start at zero make a fresh block the identity.
    let mean = e.pointwise("mean", g, Width::Channels, Start::Zero);
    let sigma = e.pointwise("sigma", g, Width::Channels, Start::Zero);
    let epsilon = e.draw("epsilon", sigma);
    let drawn = e.multiply("drawn", epsilon, sigma);
    let noise = e.add("noise", drawn, mean);
    e.subtract("block", x, noise);
    e.finish()
}
