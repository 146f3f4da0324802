//! The kind `depthwise`: `X̂ = X + dwconv3×3(X)`, every channel by itself.

use super::{
    Kind, Stage,
    expression::{Builder, Expression, Start},
};

pub(super) static KIND: Kind = Kind::new("depthwise", "a 3×3 filter of every channel", Stage::Block, expression);

fn expression() -> Expression {
    let mut e = Builder::default();
    let x = e.input();
    // A filter that starts at zero makes a fresh denoiser the identity.
    let filtered = e.depthwise("depthwise", x, Start::Zero);
    e.add("block", x, filtered);
    e.finish()
}
