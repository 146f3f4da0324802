//! The kind `affine`: `X̂ = scale·X + shift` per channel.

use super::{
    Kind, Stage,
    expression::{Builder, Expression},
};
use std::sync::LazyLock;

pub(super) static KIND: Kind = Kind {
    name: "affine",
    about: "a scale and a shift per channel",
    stage: Stage::Affine,
    expression: LazyLock::new(expression),
};

fn expression() -> Expression {
    let mut e = Builder::default();
    let x = e.input();
    e.scale_shift("affine", x);
    e.finish()
}
