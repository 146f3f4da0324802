//! A denoising block's arithmetic as a term, and what is left of it when its σ̂ is negligible.
//!
//! ```text
//! (- x (+ (* epsilon (sigma g)) (mean g)))     X̂ = X − (ε ⊙ σ̂ + μ̂)
//! ```
//!
//! One rule is an approximation, put in only where it was measured to hold: `(sigma ?g) => 0`. What follows from it is exact:
//! a product with 0, a sum with 0. The cheapest equal term is the shortest, since every operation costs cycles on any profile.

use egg::{AstSize, Extractor, Id, Rewrite, Runner, StopReason, define_language, rewrite};
use std::time::Duration;

define_language! {
    /// A block's output.
    enum Term {
        "0" = Zero,
        "x" = Input,
        "g" = Hidden,
        "epsilon" = Epsilon,
        "mean" = Mean([Id; 1]),
        "sigma" = Sigma([Id; 1]),
        "+" = Add([Id; 2]),
        "*" = Multiply([Id; 2]),
        "-" = Subtract([Id; 2]),
    }
}

/// Whether the cheapest form of a block computes σ̂.
pub fn needs_sigma(negligible: bool) -> Result<bool, String> {
    let mut rules: Vec<Rewrite<Term, ()>> = vec![
        rewrite!("times-zero"; "(* ?a 0)" => "0"),
        rewrite!("plus-zero"; "(+ 0 ?a)" => "?a"),
        rewrite!("minus-zero"; "(- ?a 0)" => "?a"),
    ];
    if negligible {
        rules.push(rewrite!("negligible-sigma"; "(sigma ?g)" => "0"));
    }
    let block = "(- x (+ (* epsilon (sigma g)) (mean g)))";
    let block = block.parse().map_err(|error| format!("the term {block}: {error}"))?;
    // A limit in time would make the result depend on the machine.
    let runner = Runner::default().with_expr(&block).with_time_limit(Duration::MAX).run(&rules);
    match runner.stop_reason {
        Some(StopReason::Saturated) => {}
        other => return Err(format!("egg stopped before it had tried everything: {other:?}")),
    }
    let root = runner.roots.first().copied().ok_or("the e-graph holds no term")?;
    let (_, best) = Extractor::new(&runner.egraph, AstSize).find_best(root);
    Ok(best.as_ref().iter().any(|node| matches!(node, Term::Sigma(_))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_negligible_sigma_goes() {
        assert_eq!(needs_sigma(false), Ok(true));
        assert_eq!(needs_sigma(true), Ok(false));
    }
}
