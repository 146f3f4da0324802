//! The kind `lowrank`: `X̂ = X + U·V·X`, where V leads to an eighth of the channels and U back.

use super::{
    Kind, Stage,
    expression::{Builder, Expression, Start, Width},
};

pub(super) static KIND: Kind =
    Kind::new("lowrank", "a correction of low rank, pixel by pixel", Stage::Block, expression);

fn expression() -> Expression {
    let mut e = Builder::default();
    let x = e.input();
    let narrow = e.linear("v", x, Width::Bottleneck(8), Start::Uniform);
    // What starts at zero makes a fresh denoiser the identity.
    let correction = e.linear("u", narrow, Width::Channels, Start::Zero);
    e.add("block", x, correction);
    e.finish()
}
