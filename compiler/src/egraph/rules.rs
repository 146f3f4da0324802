//! The rewrites: each finds, for a node of an e-class, terms that are equal to it.
//!
//! A rule that reaches through an inner operation (to fold a scale that follows a convolution into its weight, say)
//! applies only where that inner value has no other use: otherwise the convolution would have to be computed twice.
//! Rules that only move cheap operations leave the choice to the cost model.

use super::{
    analysis::{Data, Graph, binaries},
    facts::Facts,
    language::{Binary, Fold, Node, Op, Shape},
};
use egg::{Applier, Id, PatternAst, Rewrite, SearchMatches, Searcher, Subst, Symbol, Var};
use mxc_dialects::tosa::Unary;

/// A term to add: nodes over e-classes that exist.
#[derive(Clone, Debug)]
pub enum Term {
    /// An e-class.
    Class(Id),
    /// A node over terms.
    Node(Op, Vec<Term>),
}

impl From<Id> for Term {
    fn from(id: Id) -> Self {
        Self::Class(id)
    }
}

fn node(op: Op, children: impl IntoIterator<Item = Term>) -> Term {
    Term::Node(op, children.into_iter().collect())
}

fn fold(fold: Fold, children: impl IntoIterator<Item = Term>) -> Term {
    node(Op::Fold(fold), children)
}

fn binary(op: Binary, a: impl Into<Term>, b: impl Into<Term>) -> Term {
    node(Op::Binary(op), [a.into(), b.into()])
}

/// A rewrite.
#[derive(Clone, Copy)]
pub struct Rule {
    /// What it does, in kebab-case.
    pub name: &'static str,
    /// The terms that equal `node`, a node of the e-class.
    pub find: fn(&Graph, Id, &Node) -> Vec<Term>,
}

/// Every rule.
pub const RULES: &[Rule] = &[
    Rule { name: "fold-constants", find: fold_constants },
    Rule { name: "drop-identities", find: drop_identities },
    Rule { name: "fuse-clamps", find: fuse_clamps },
    Rule { name: "scale-into-producer", find: scale_into_producer },
    Rule { name: "shift-into-producer", find: shift_into_producer },
    Rule { name: "scale-into-consumer", find: scale_into_consumer },
    Rule { name: "shift-into-consumer", find: shift_into_consumer },
    Rule { name: "pad-into-convolution", find: pad_into_convolution },
    Rule { name: "merge-scales-and-shifts", find: merge_scales_and_shifts },
    Rule { name: "affine-form", find: affine_form },
    Rule { name: "merge-reshapes", find: merge_reshapes },
    Rule { name: "merge-transposes", find: merge_transposes },
    Rule { name: "move-transposes", find: move_transposes },
    Rule { name: "move-reshapes", find: move_reshapes },
];

/// The rules as egg takes them.
pub fn rewrites() -> Vec<Rewrite<Node, Facts>> {
    rewrites_of(RULES)
}

/// Some rules as egg takes them.
pub fn rewrites_of(rules: &[Rule]) -> Vec<Rewrite<Node, Facts>> {
    rules.iter().filter_map(|rule| Rewrite::new(rule.name, *rule, *rule).ok()).collect()
}

impl Searcher<Node, Facts> for Rule {
    fn search_eclass_with_limit(&self, egraph: &Graph, eclass: Id, _: usize) -> Option<SearchMatches<'_, Node>> {
        let found = egraph[eclass].nodes.iter().any(|node| !(self.find)(egraph, eclass, node).is_empty());
        found.then(|| SearchMatches { eclass, substs: vec![Subst::default()], ast: None })
    }

    fn vars(&self) -> Vec<Var> {
        Vec::new()
    }
}

impl Applier<Node, Facts> for Rule {
    fn apply_one(&self, egraph: &mut Graph, eclass: Id, _: &Subst, _: Option<&PatternAst<Node>>, _: Symbol) -> Vec<Id> {
        let terms: Vec<Term> = egraph[eclass].nodes.iter().flat_map(|node| (self.find)(egraph, eclass, node)).collect();
        let mut changed = Vec::new();
        for term in terms {
            let id = add(egraph, &term);
            if egraph.union(eclass, id) {
                changed.push(egraph.find(eclass));
            }
        }
        changed
    }
}

/// Adds a term.
pub fn add(egraph: &mut Graph, term: &Term) -> Id {
    match term {
        Term::Class(id) => egraph.find(*id),
        Term::Node(op, children) => {
            let children: Vec<Id> = children.iter().map(|child| add(egraph, child)).collect();
            egraph.add(Node::new(op.clone(), children))
        }
    }
}

fn data(egraph: &Graph, id: Id) -> &Data {
    &egraph[id].data
}

fn is_constant(egraph: &Graph, id: Id) -> bool {
    data(egraph, id).constant
}

/// The splat's value where the e-class is a constant of one value.
fn splat(egraph: &Graph, id: Id) -> Option<f64> {
    data(egraph, id).splat
}

/// Whether an inner value may be reached through: at most one operation uses it.
fn is_private(egraph: &Graph, id: Id) -> bool {
    let data = data(egraph, id);
    data.uses <= 1 && !data.shared
}

/// Whether a constant applies per channel: all axes have size 1 but the last, which has `channels` or 1.
fn is_per_channel(egraph: &Graph, constant: Id, channels: usize) -> bool {
    let data = data(egraph, constant);
    data.constant
        && data.float
        && data.shape.split_last().is_some_and(|(last, rest)| {
            rest.iter().all(|size| *size == Some(1)) && (*last == Some(channels) || *last == Some(1))
        })
}

/// Operations on constants alone are computed at compile time.
fn fold_constants(egraph: &Graph, _: Id, found: &Node) -> Vec<Term> {
    let all_constant = !found.children.is_empty()
        && found.children.iter().all(|child| {
            let data = data(egraph, *child);
            data.constant && data.float && data.static_shape().is_some()
        });
    if !all_constant {
        return Vec::new();
    }
    let folded = match &found.op {
        Op::Binary(op) => Fold::Binary(*op),
        Op::Unary(unary) => {
            if super::language::function(*unary).is_none() {
                return Vec::new();
            }
            Fold::Unary(*unary)
        }
        Op::Clamp(min, max) => Fold::Clamp(*min, *max),
        Op::Transpose(perms) => Fold::Transpose(perms.clone()),
        Op::Reshape(shape) => match shape.iter().copied().collect::<Option<Vec<usize>>>() {
            Some(shape) => Fold::Reshape(shape),
            None => return Vec::new(),
        },
        _ => return Vec::new(),
    };
    vec![fold(folded, found.children.iter().copied().map(Term::from))]
}

/// `x · 1`, `x + 0`, `x − 0`, a clamp without bounds, and no-op shapes are `x`, also among constants.
fn drop_identities(egraph: &Graph, id: Id, found: &Node) -> Vec<Term> {
    if matches!(found.op, Op::Fold(_)) && data(egraph, id).value.is_some() {
        // Known constants are found equal by value.
        return Vec::new();
    }
    let first = found.children.first().copied();
    let same_shape = |x: Id| data(egraph, x).shape == data(egraph, id).shape;
    let dropped = match (&found.op, first) {
        (Op::Binary(op) | Op::Fold(Fold::Binary(op)), Some(x)) => {
            let neutral = match op {
                Binary::Mul => 1.0,
                Binary::Add | Binary::Sub => 0.0,
                Binary::Max | Binary::Min | Binary::Pow => return Vec::new(),
            };
            let y = found.children[1];
            if splat(egraph, y) == Some(neutral) && same_shape(x) {
                Some(x)
            } else if op.is_commutative() && splat(egraph, x) == Some(neutral) && same_shape(y) {
                Some(y)
            } else {
                None
            }
        }
        (Op::Clamp(min, max), Some(x)) => {
            (f32::from_bits(*min) == f32::NEG_INFINITY && f32::from_bits(*max) == f32::INFINITY).then_some(x)
        }
        (Op::Reshape(_), Some(x)) => same_shape(x).then_some(x),
        (Op::Fold(Fold::Reshape(_) | Fold::Vector(_)), Some(x)) => same_shape(x).then_some(x),
        (Op::Transpose(perms) | Op::Fold(Fold::Transpose(perms)), Some(x)) => {
            perms.iter().enumerate().all(|(i, axis)| i == *axis).then_some(x)
        }
        (Op::Pad(pad, _), Some(x)) => pad.iter().all(|sides| *sides == [0, 0]).then_some(x),
        (Op::Fold(Fold::ScaleOutputs(_) | Fold::ScaleInputs(_)), Some(x)) => {
            (splat(egraph, found.children[1]) == Some(1.0)).then_some(x)
        }
        _ => None,
    };
    dropped.filter(|x| egraph.find(*x) != egraph.find(id)).map(Term::from).into_iter().collect()
}

/// A clamp of a clamp is a clamp; a maximum or minimum with one value is a clamp.
fn fuse_clamps(egraph: &Graph, _: Id, found: &Node) -> Vec<Term> {
    let bits = |x: f64| (x as f32).to_bits();
    match &found.op {
        Op::Clamp(min, max) => egraph[found.children[0]]
            .nodes
            .iter()
            .filter_map(|inner| match inner.op {
                Op::Clamp(low, high) => {
                    let bound = |x: u32| super::language::clamp(f64::from(f32::from_bits(x)), *min, *max);
                    let op = Op::Clamp(bits(bound(low)), bits(bound(high)));
                    Some(node(op, [inner.children[0].into()]))
                }
                _ => None,
            })
            .collect(),
        Op::Binary(op @ (Binary::Max | Binary::Min)) => {
            let (x, bound) = (found.children[0], found.children[1]);
            let broadcasts = data(egraph, bound).elements() > data(egraph, x).elements();
            match splat(egraph, bound) {
                Some(bound) if !broadcasts && !is_constant(egraph, x) && !bound.is_nan() => {
                    let (infinity, bound) = (f32::INFINITY, bits(bound));
                    let op = match op {
                        Binary::Max => Op::Clamp(bound, infinity.to_bits()),
                        _ => Op::Clamp((-infinity).to_bits(), bound),
                    };
                    vec![node(op, [x.into()])]
                }
                _ => Vec::new(),
            }
        }
        _ => Vec::new(),
    }
}

/// Per-channel `conv(x, w, b) · s` is `conv(x, w · s, b · s)`, and `matmul(x, w) · s` is `matmul(x, w · s)`.
fn scale_into_producer(egraph: &Graph, _: Id, found: &Node) -> Vec<Term> {
    let Op::Binary(Binary::Mul) = found.op else {
        return Vec::new();
    };
    let (x, s) = (found.children[0], found.children[1]);
    if !is_private(egraph, x) {
        return Vec::new();
    }
    let mut terms = Vec::new();
    for inner in &egraph[x].nodes {
        let (Op::Convolution(site, _) | Op::MatMul(site)) = inner.op else {
            continue;
        };
        let outputs = egraph.analysis.sites[site].outputs;
        let weight = inner.children[1];
        if !is_constant(egraph, weight) || !is_per_channel(egraph, s, outputs) {
            continue;
        }
        let vector = || fold(Fold::Vector(outputs), [s.into()]);
        let mut children = vec![inner.children[0].into(), fold(Fold::ScaleOutputs(site), [weight.into(), vector()])];
        if let Some(bias) = inner.children.get(2) {
            if !is_constant(egraph, *bias) {
                continue;
            }
            let bias = fold(Fold::Vector(outputs), [(*bias).into()]);
            children.push(fold(Fold::Binary(Binary::Mul), [bias, vector()]));
        }
        terms.push(Term::Node(inner.op.clone(), children));
    }
    terms
}

/// Per-channel `conv(x, w, b) + t` is `conv(x, w, b + t)`.
fn shift_into_producer(egraph: &Graph, _: Id, found: &Node) -> Vec<Term> {
    let Op::Binary(Binary::Add) = found.op else {
        return Vec::new();
    };
    let (x, t) = (found.children[0], found.children[1]);
    if !is_private(egraph, x) {
        return Vec::new();
    }
    let mut terms = Vec::new();
    for inner in &egraph[x].nodes {
        let Op::Convolution(site, _) = inner.op else {
            continue;
        };
        let outputs = egraph.analysis.sites[site].outputs;
        let bias = inner.children[2];
        if !is_constant(egraph, bias) || !is_per_channel(egraph, t, outputs) {
            continue;
        }
        let vector = |id: Id| fold(Fold::Vector(outputs), [id.into()]);
        let bias = fold(Fold::Binary(Binary::Add), [vector(bias), vector(t)]);
        let children = vec![inner.children[0].into(), inner.children[1].into(), bias];
        terms.push(Term::Node(inner.op.clone(), children));
    }
    terms
}

/// The operand of a convolution or matrix product as `(input, constant)` of an elementwise operation per channel.
fn affine_inputs(egraph: &Graph, found: &Node, op: Binary) -> Vec<(usize, Id, Id)> {
    let (Op::Convolution(site, _) | Op::MatMul(site)) = found.op else {
        return Vec::new();
    };
    let input = found.children[0];
    let inputs = egraph.analysis.sites[site].inputs;
    if !is_constant(egraph, found.children[1]) || is_constant(egraph, input) {
        return Vec::new();
    }
    binaries(egraph, input, op)
        .filter(|(x, constant)| {
            !has_private_site(egraph, *x, 8)
                && is_per_channel(egraph, *constant, inputs)
                && data(egraph, *x).shape == data(egraph, input).shape
                && egraph.find(*x) != egraph.find(input)
        })
        .map(|(x, constant)| (site, x, constant))
        .collect()
}

/// Whether a value comes from a convolution or matrix product through scales and shifts that it can take up: they
/// belong to the layer before them, not to the one after.
fn has_private_site(egraph: &Graph, id: Id, depth: usize) -> bool {
    depth > 0
        && is_private(egraph, id)
        && egraph[id].nodes.iter().any(|inner| match inner.op {
            Op::Convolution(..) | Op::MatMul(_) => is_constant(egraph, inner.children[1]),
            Op::Binary(Binary::Mul | Binary::Add) => {
                is_constant(egraph, inner.children[1])
                    && !is_constant(egraph, inner.children[0])
                    && has_private_site(egraph, inner.children[0], depth - 1)
            }
            Op::Transpose(_) | Op::Reshape(_) => has_private_site(egraph, inner.children[0], depth - 1),
            _ => false,
        })
}

/// Per-channel `conv(x · s, w, b)` is `conv(x, w · s, b)`: zero padding stays zero.
fn scale_into_consumer(egraph: &Graph, _: Id, found: &Node) -> Vec<Term> {
    affine_inputs(egraph, found, Binary::Mul)
        .into_iter()
        .map(|(site, x, s)| {
            let vector = fold(Fold::Vector(egraph.analysis.sites[site].inputs), [s.into()]);
            let weight = fold(Fold::ScaleInputs(site), [found.children[1].into(), vector]);
            let mut children = vec![x.into(), weight];
            children.extend(found.children.get(2).map(|bias| Term::from(*bias)));
            Term::Node(found.op.clone(), children)
        })
        .collect()
}

/// Per-channel `conv(x + t, w, b)` without padding is `conv(x, w, b + Σ w · t)`.
fn shift_into_consumer(egraph: &Graph, _: Id, found: &Node) -> Vec<Term> {
    let padded = matches!(found.op, Op::Convolution(_, pad) if pad != [0; 4]);
    if padded {
        return Vec::new();
    }
    affine_inputs(egraph, found, Binary::Add)
        .into_iter()
        .filter_map(|(site, x, t)| {
            let facts = &egraph.analysis.sites[site];
            let weight = found.children[1];
            let vector = fold(Fold::Vector(facts.inputs), [t.into()]);
            let sum = fold(Fold::Contract(site), [weight.into(), vector]);
            match found.children.get(2) {
                Some(bias) => {
                    if !is_constant(egraph, *bias) {
                        return None;
                    }
                    let bias = fold(Fold::Vector(facts.outputs), [(*bias).into()]);
                    let bias = fold(Fold::Binary(Binary::Add), [bias, sum]);
                    Some(node(found.op.clone(), [x.into(), weight.into(), bias]))
                }
                None => {
                    // A matrix product has no bias of its own.
                    let mut shape = vec![1; facts.shape.len()];
                    *shape.last_mut()? = facts.outputs;
                    let product = node(found.op.clone(), [x.into(), weight.into()]);
                    Some(binary(Binary::Add, product, fold(Fold::Reshape(shape), [sum])))
                }
            }
        })
        .collect()
}

/// A border of zeros around the image is the convolution's padding.
fn pad_into_convolution(egraph: &Graph, _: Id, found: &Node) -> Vec<Term> {
    let Op::Convolution(site, pad) = found.op else {
        return Vec::new();
    };
    egraph[found.children[0]]
        .nodes
        .iter()
        .filter_map(|inner| match &inner.op {
            Op::Pad(border, value) if f32::from_bits(*value) == 0.0 => {
                let [[0, 0], [top, bottom], [left, right], [0, 0]] = border[..] else {
                    return None;
                };
                let sum = [pad[0] + top, pad[1] + bottom, pad[2] + left, pad[3] + right];
                let children = [inner.children[0], found.children[1], found.children[2]];
                Some(node(Op::Convolution(site, sum), children.map(Term::from)))
            }
            _ => None,
        })
        .collect()
}

/// Chains with constants merge: `(x · a) · b`, `(x + a) + b`, and `(x + a) · b` as `x · b + a · b`.
fn merge_scales_and_shifts(egraph: &Graph, _: Id, found: &Node) -> Vec<Term> {
    let Op::Binary(outer @ (Binary::Mul | Binary::Add)) = found.op else {
        return Vec::new();
    };
    let (x, b) = (found.children[0], found.children[1]);
    if !is_constant(egraph, b) || is_constant(egraph, x) || !is_private(egraph, x) {
        return Vec::new();
    }
    let result = data(egraph, x);
    let inner = |op| {
        binaries(egraph, x, op).filter(|(y, a)| {
            is_constant(egraph, *a)
                && !is_constant(egraph, *y)
                && egraph.find(*y) != egraph.find(x)
                && data(egraph, *y).shape == result.shape
        })
    };
    let merged = |op, a: Id| fold(Fold::Binary(op), [a.into(), b.into()]);
    let mut terms: Vec<Term> = inner(outer).map(|(y, a)| binary(outer, y, merged(outer, a))).collect();
    if outer == Binary::Mul {
        terms.extend(
            inner(Binary::Add).map(|(y, a)| binary(Binary::Add, binary(Binary::Mul, y, b), merged(Binary::Mul, a))),
        );
    }
    terms
}

/// `x − c`, `c − x` and `−x` as scale and shift, dearer by themselves, so that they can go on into a convolution.
fn affine_form(egraph: &Graph, _: Id, found: &Node) -> Vec<Term> {
    let minus_one = |like: Id| {
        let ones = vec![1; data(egraph, like).shape.len()];
        node(Op::Splat(ones, (-1.0f64).to_bits()), [])
    };
    match &found.op {
        Op::Binary(Binary::Sub) => {
            let (a, b) = (found.children[0], found.children[1]);
            match (is_constant(egraph, a), is_constant(egraph, b)) {
                (false, true) => {
                    vec![binary(Binary::Add, a, fold(Fold::Unary(Unary::Negate), [b.into()]))]
                }
                (true, false) if data(egraph, a).elements() <= data(egraph, b).elements() => {
                    vec![binary(Binary::Add, binary(Binary::Mul, b, minus_one(b)), a)]
                }
                _ => Vec::new(),
            }
        }
        Op::Unary(Unary::Negate) if !is_constant(egraph, found.children[0]) => {
            let x = found.children[0];
            vec![binary(Binary::Mul, x, minus_one(x))]
        }
        _ => Vec::new(),
    }
}

/// A reshape of a reshape is a reshape.
fn merge_reshapes(egraph: &Graph, id: Id, found: &Node) -> Vec<Term> {
    if !matches!(found.op, Op::Reshape(_)) {
        return Vec::new();
    }
    egraph[found.children[0]]
        .nodes
        .iter()
        .filter(|inner| matches!(inner.op, Op::Reshape(_)))
        .map(|inner| node(Op::Reshape(data(egraph, id).shape.clone()), [inner.children[0].into()]))
        .collect()
}

/// A transpose of a transpose is a transpose; one that moves only axes of size 1 is a reshape.
fn merge_transposes(egraph: &Graph, id: Id, found: &Node) -> Vec<Term> {
    let Op::Transpose(perms) = &found.op else {
        return Vec::new();
    };
    let x = found.children[0];
    let mut terms: Vec<Term> = egraph[x]
        .nodes
        .iter()
        .filter_map(|inner| match &inner.op {
            Op::Transpose(first) => {
                let composed = perms.iter().map(|axis| first[*axis]).collect();
                Some(node(Op::Transpose(composed), [inner.children[0].into()]))
            }
            _ => None,
        })
        .collect();
    let shape = &data(egraph, x).shape;
    let moving: Vec<usize> = perms.iter().copied().filter(|axis| shape[*axis] != Some(1)).collect();
    if moving.is_sorted() {
        terms.push(node(Op::Reshape(data(egraph, id).shape.clone()), [x.into()]));
    }
    terms
}

fn inverse(perms: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; perms.len()];
    for (i, axis) in perms.iter().enumerate() {
        inverse[*axis] = i;
    }
    inverse
}

/// Transposes move over elementwise operations, up and down.
fn move_transposes(egraph: &Graph, _: Id, found: &Node) -> Vec<Term> {
    let transposes = |id: Id| {
        egraph[id].nodes.iter().filter_map(|inner| match &inner.op {
            Op::Transpose(perms) => Some((perms.clone(), inner.children[0])),
            _ => None,
        })
    };
    let mut terms = Vec::new();
    match &found.op {
        Op::Unary(_) | Op::Clamp(..) => {
            for (perms, x) in transposes(found.children[0]) {
                let moved = node(found.op.clone(), [x.into()]);
                terms.push(node(Op::Transpose(perms), [moved]));
            }
        }
        Op::Binary(op) => {
            let (a, b) = (found.children[0], found.children[1]);
            for (perms, x) in transposes(a) {
                if is_constant(egraph, b) {
                    if !is_private(egraph, a) || is_constant(egraph, a) {
                        continue;
                    }
                    let back = fold(Fold::Transpose(inverse(&perms)), [b.into()]);
                    let moved = binary(*op, x, back);
                    terms.push(node(Op::Transpose(perms), [moved]));
                } else {
                    for (other, y) in transposes(b) {
                        if other == perms {
                            let moved = binary(*op, x, y);
                            terms.push(node(Op::Transpose(perms.clone()), [moved]));
                        }
                    }
                }
            }
        }
        Op::Transpose(perms) => {
            for inner in &egraph[found.children[0]].nodes {
                match &inner.op {
                    Op::Unary(_) | Op::Clamp(..) => {
                        let moved = node(Op::Transpose(perms.clone()), [inner.children[0].into()]);
                        terms.push(node(inner.op.clone(), [moved]));
                    }
                    Op::Binary(op) => {
                        // Constants whose values are not at hand would grow by a transpose at each turn.
                        let unknown = |id: &Id| is_constant(egraph, *id) && data(egraph, *id).value.is_none();
                        if inner.children.iter().any(unknown) {
                            continue;
                        }
                        let moved = |id: Id| {
                            if is_constant(egraph, id) {
                                fold(Fold::Transpose(perms.clone()), [id.into()])
                            } else {
                                node(Op::Transpose(perms.clone()), [id.into()])
                            }
                        };
                        terms.push(binary(*op, moved(inner.children[0]), moved(inner.children[1])));
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    terms
}

/// Reshapes move over elementwise operations: up and down where there is one operand (or the other is a single
/// value), down where the other is a constant per channel and the channels keep their axis.
fn move_reshapes(egraph: &Graph, id: Id, found: &Node) -> Vec<Term> {
    let reshapes = |id: Id| {
        egraph[id].nodes.iter().filter_map(|inner| match &inner.op {
            Op::Reshape(_) => Some(inner.children[0]),
            _ => None,
        })
    };
    let shape = |id: Id| -> Shape { data(egraph, id).shape.clone() };
    match &found.op {
        Op::Unary(_) | Op::Clamp(..) => reshapes(found.children[0])
            .map(|x| {
                let moved = node(found.op.clone(), [x.into()]);
                node(Op::Reshape(shape(id)), [moved])
            })
            .collect(),
        Op::Reshape(_) => egraph[found.children[0]]
            .nodes
            .iter()
            .filter_map(|inner| {
                let x = *inner.children.first()?;
                let moved = node(Op::Reshape(shape(id)), [x.into()]);
                match inner.op {
                    Op::Unary(_) | Op::Clamp(..) => Some(node(inner.op.clone(), [moved])),
                    Op::Binary(op) => {
                        let value = splat(egraph, inner.children[1])?;
                        let same = data(egraph, x).shape == data(egraph, found.children[0]).shape;
                        let ones = vec![1; shape(id).len()];
                        let value = node(Op::Splat(ones, value.to_bits()), []);
                        (same && !is_constant(egraph, x)).then(|| binary(op, moved, value))
                    }
                    _ => None,
                }
            })
            .collect(),
        Op::Binary(op) => {
            let (a, b) = (found.children[0], found.children[1]);
            let Some(channels) = shape(id).last().copied().flatten() else {
                return Vec::new();
            };
            if is_constant(egraph, a) || !is_private(egraph, a) || !is_per_channel(egraph, b, channels) {
                return Vec::new();
            }
            reshapes(a)
                .filter(|x| data(egraph, *x).shape.last() == Some(&Some(channels)))
                .map(|x| {
                    let mut flat = vec![1; data(egraph, x).shape.len()];
                    if let Some(last) = flat.last_mut() {
                        *last = channels;
                    }
                    let vector = fold(Fold::Vector(channels), [b.into()]);
                    let moved = binary(*op, x, fold(Fold::Reshape(flat), [vector]));
                    node(Op::Reshape(shape(id)), [moved])
                })
                .collect()
        }
        _ => Vec::new(),
    }
}
