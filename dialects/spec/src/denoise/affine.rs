//! The kind `affine`: `X̂ = scale·X + shift` per channel.

use super::{
    Kind, Stage,
    expression::{Builder, Expression},
};

pub(super) static KIND: Kind = Kind::new("affine", "a scale and a shift per channel", Stage::Affine, expression);

fn expression() -> Expression {
    let mut e = Builder::default();
    let x = e.input();
    e.scale_shift("affine", x);
    e.finish()
}
