//! What is left of a denoiser's arithmetic where some of its terms are zero, by egg.
//!
//! ```text
//! (- x (+ (* epsilon sigma) mean))     X̂ = X − (ε ⊙ σ̂ + μ̂); with sigma = 0: (- x mean)
//! ```
//!
//! The rules hold exactly: a product with 0, a sum with 0, a difference with 0. The cheapest equal expression is the shortest,
//! since every operation costs something wherever it runs.

use egg::{AstSize, EGraph, Extractor, Id, Language, Rewrite, Runner, StopReason, define_language, rewrite};
use mxc_dialects::denoise::expression::{Expression, Primitive, Term, TermId};
use std::{collections::BTreeMap, time::Duration};

define_language! {
    /// A term of a denoiser.
    enum Arithmetic {
        "0" = Zero,
        "*" = Multiply([Id; 2]),
        "+" = Add([Id; 2]),
        "-" = Subtract([Id; 2]),
        // A term that no rule looks into, by its number.
        Other(TermId, Vec<Id>),
    }
}

/// The shortest expression that equals a denoiser's where terms are zero: some of its terms, with their names and parameters.
/// An expression of which nothing is left is an error.
pub fn simplify(expression: &Expression, zero: &[TermId]) -> Result<Expression, String> {
    let rules: [Rewrite<Arithmetic, ()>; 5] = [
        rewrite!("times-zero"; "(* ?a 0)" => "0"),
        rewrite!("zero-times"; "(* 0 ?a)" => "0"),
        rewrite!("plus-zero"; "(+ ?a 0)" => "?a"),
        rewrite!("zero-plus"; "(+ 0 ?a)" => "?a"),
        rewrite!("minus-zero"; "(- ?a 0)" => "?a"),
    ];
    let mut egraph = EGraph::new(());
    let mut classes: Vec<Id> = Vec::new();
    for index in 0..expression.terms().len() {
        let node = node(expression, index, |operand| classes[operand]);
        classes.push(egraph.add(node));
    }
    let nothing = egraph.add(Arithmetic::Zero);
    for &term in zero {
        egraph.union(classes[term], nothing);
    }
    // A limit in time would make the result depend on the machine.
    let runner = Runner::default().with_egraph(egraph).with_time_limit(Duration::MAX).run(&rules);
    match runner.stop_reason {
        Some(StopReason::Saturated) => {}
        other => return Err(format!("egg stopped before it had tried everything: {other:?}")),
    }
    let egraph = runner.egraph;
    let class = |term: TermId| egraph.find(classes[term]);
    // No rule makes a node: every one is a term of the expression, but for 0.
    let mut terms: BTreeMap<Arithmetic, TermId> = BTreeMap::new();
    for index in 0..expression.terms().len() {
        terms.entry(node(expression, index, class)).or_insert(index);
    }
    let extractor = Extractor::new(&egraph, AstSize);
    let chosen = |term: TermId| {
        let best = extractor.find_best_node(class(term)).clone().map_children(|child| egraph.find(child));
        terms.get(&best).copied().ok_or_else(|| format!("the term `{}` is zero", expression.terms()[term].name))
    };
    let mut kept: BTreeMap<TermId, Primitive> = BTreeMap::new();
    let mut wanted = vec![chosen(expression.result())?];
    while let Some(term) = wanted.pop() {
        if kept.contains_key(&term) {
            continue;
        }
        let primitive = expression.terms()[term].primitive.renumbered(chosen, |parameter| parameter)?;
        wanted.extend(primitive.terms());
        kept.insert(term, primitive);
    }
    let parameters: Vec<usize> = (0..expression.parameters().len())
        .filter(|parameter| kept.values().any(|primitive| primitive.parameters().contains(parameter)))
        .collect();
    let place = |list: &[usize], item: usize| list.iter().position(|other| *other == item).unwrap_or_default();
    let order: Vec<TermId> = kept.keys().copied().collect();
    let mut terms = Vec::new();
    for (term, primitive) in kept {
        let primitive = primitive.renumbered(|term| Ok::<_, String>(place(&order, term)), |p| place(&parameters, p))?;
        terms.push(Term { name: expression.terms()[term].name.clone(), primitive });
    }
    let parameters = parameters.iter().map(|parameter| expression.parameters()[*parameter].clone()).collect();
    Ok(Expression::new(terms, parameters))
}

/// A term as a node over the classes of its operands.
fn node(expression: &Expression, term: TermId, class: impl Fn(TermId) -> Id) -> Arithmetic {
    let primitive = &expression.terms()[term].primitive;
    match primitive {
        Primitive::Multiply([a, b]) => Arithmetic::Multiply([class(*a), class(*b)]),
        Primitive::Add([a, b]) => Arithmetic::Add([class(*a), class(*b)]),
        Primitive::Subtract([a, b]) => Arithmetic::Subtract([class(*a), class(*b)]),
        Primitive::Input
        | Primitive::Pointwise { .. }
        | Primitive::Depthwise { .. }
        | Primitive::LeakyRelu { .. }
        | Primitive::ScaleShift { .. }
        | Primitive::Draw { .. } => Arithmetic::Other(term, primitive.terms().into_iter().map(class).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mxc_dialects::denoise::{KINDS, Kind};

    #[test]
    fn without_zeros_everything_stays() {
        for kind in KINDS {
            assert_eq!(simplify(kind.expression(), &[]).as_ref(), Ok(kind.expression()), "{kind:?}");
        }
    }

    #[test]
    fn the_paper_s_block_without_sigma_or_without_draws_is_mean() {
        let [paper, mean] = ["paper", "mean"].map(|name| Kind::named(name).unwrap().expression());
        let sigma: Vec<TermId> = paper.drawn().collect();
        let draws: Vec<TermId> = (0..paper.terms().len())
            .filter(|term| matches!(paper.terms()[*term].primitive, Primitive::Draw { .. }))
            .collect();
        assert_eq!((sigma.len(), draws.len()), (1, 1));
        for zero in [sigma, draws] {
            assert_eq!(simplify(paper, &zero).as_ref(), Ok(mean));
        }
    }

    #[test]
    fn what_becomes_zero_is_no_denoiser() {
        let affine = Kind::named("affine").unwrap().expression();
        assert!(simplify(affine, &[affine.result()]).unwrap_err().contains("`affine` is zero"));
    }
}
