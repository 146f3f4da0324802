//! The kind `bias`: `X̂ = X + shift` per channel.

use super::{
    Kind, Stage,
    expression::{Builder, Expression},
};

pub(super) static KIND: Kind = Kind::new("bias", "a shift per channel", Stage::Affine, expression);

fn expression() -> Expression {
    let mut e = Builder::default();
    let x = e.input();
    e.shift("bias", x);
    e.finish()
}
