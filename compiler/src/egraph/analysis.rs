//! What is known of an e-class.

use super::{
    facts::{Facts, MAX_KNOWN_ELEMENTS, Tensor},
    fold,
    language::{Binary, Fold, Node, Op, Shape, clamp, function},
};
use egg::{Analysis, DidMerge, EGraph, Id};

/// The e-graph of a network.
pub type Graph = EGraph<Node, Facts>;

/// What is known of an e-class.
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// The shape.
    pub shape: Shape,
    /// Whether the elements are f32.
    pub float: bool,
    /// Whether it depends on no argument.
    pub constant: bool,
    /// Its only value, if it is a constant that repeats one.
    pub splat: Option<f64>,
    /// The number of its values, if it is a small constant and they are known.
    pub value: Option<usize>,
    /// How many operations of the source program (and results of `@main`) use it; 0 for values that rewriting made up.
    pub uses: usize,
    /// Whether it is another layout of a value with several uses: so has it, although rewriting made it up.
    pub shared: bool,
    /// The source operation with its location: the first whose result it is.
    pub source: Option<usize>,
}

impl Data {
    fn value(shape: Shape) -> Self {
        Self { shape, float: true, constant: false, splat: None, value: None, uses: 0, shared: false, source: None }
    }

    fn constant(shape: Shape, splat: Option<f64>) -> Self {
        Self {
            constant: true,
            // A NaN is equal to nothing, not even itself, and would keep the analysis from settling.
            splat: splat.filter(|value| !value.is_nan()),
            ..Self::value(shape)
        }
    }

    /// The static shape.
    pub fn static_shape(&self) -> Option<Vec<usize>> {
        self.shape.iter().copied().collect()
    }

    /// The number of elements per sample.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|size| size.unwrap_or(1) as u64).fold(1, u64::saturating_mul)
    }
}

/// The shape of a broadcast of two shapes of equal rank.
fn broadcast(a: &Shape, b: &Shape) -> Shape {
    a.iter().zip(b).map(|(a, b)| if *a == Some(1) { *b } else { *a }).collect()
}

/// What follows from a node's operands, without computing constants.
fn describe(egraph: &Graph, node: &Node) -> Data {
    let child = |index: usize| &egraph[node.children[index]].data;
    match &node.op {
        Op::Argument(index) => {
            let known = &egraph.analysis.arguments[*index];
            Data { float: known.float, ..Data::value(known.shape.clone()) }
        }
        Op::Constant(index) => {
            let known = &egraph.analysis.constants[*index];
            let shape = known.shape.iter().map(|size| Some(*size)).collect();
            Data { float: known.float, value: known.value, ..Data::constant(shape, known.splat) }
        }
        Op::Value(number) => {
            let tensor = &egraph.analysis.values[*number];
            let shape = tensor.shape.iter().map(|size| Some(*size)).collect();
            Data { value: Some(*number), ..Data::constant(shape, tensor.repeated()) }
        }
        Op::Splat(shape, bits) => {
            let shape = shape.iter().map(|size| Some(*size)).collect();
            Data::constant(shape, Some(f64::from_bits(*bits)))
        }
        Op::Convolution(site, _) | Op::MatMul(site) => Data::value(egraph.analysis.sites[*site].shape.clone()),
        Op::Binary(_) => Data::value(broadcast(&child(0).shape, &child(1).shape)),
        Op::Unary(_) | Op::Clamp(..) => Data::value(child(0).shape.clone()),
        Op::Transpose(perms) => {
            let shape = &child(0).shape;
            Data::value(perms.iter().map(|axis| shape[*axis]).collect())
        }
        Op::Reshape(shape) => Data::value(shape.clone()),
        Op::Pad(pad, _) => {
            let shape = child(0).shape.iter().zip(pad);
            Data::value(shape.map(|(size, [before, after])| size.map(|size| size + before + after)).collect())
        }
        Op::Opaque(index) => {
            let known = &egraph.analysis.opaque[*index];
            Data { float: known.float, ..Data::value(known.shape.clone()) }
        }
        Op::Fold(fold) => {
            let first = child(0);
            match fold {
                Fold::Binary(op) => {
                    let second = child(1);
                    let splat = first.splat.zip(second.splat).map(|(a, b)| op.apply(a, b));
                    Data::constant(broadcast(&first.shape, &second.shape), splat)
                }
                Fold::Unary(unary) => {
                    let splat = first.splat.zip(function(*unary)).map(|(x, f)| f(x));
                    Data::constant(first.shape.clone(), splat)
                }
                Fold::Clamp(min, max) => {
                    let splat = first.splat.map(|x| clamp(x, *min, *max));
                    Data::constant(first.shape.clone(), splat)
                }
                Fold::Transpose(perms) => {
                    Data::constant(perms.iter().map(|axis| first.shape[*axis]).collect(), first.splat)
                }
                Fold::Reshape(shape) => Data::constant(shape.iter().map(|size| Some(*size)).collect(), first.splat),
                Fold::Vector(channels) => Data::constant(vec![Some(*channels)], first.splat),
                Fold::ScaleOutputs(_) | Fold::ScaleInputs(_) => {
                    // The weight itself is a leaf; its only value, scaled alike, need not be known.
                    Data::constant(first.shape.clone(), None)
                }
                Fold::Contract(site) => {
                    let outputs = egraph.analysis.sites[*site].outputs;
                    Data::constant(vec![Some(outputs)], None)
                }
            }
        }
    }
}

/// The number of a folded constant's values; `None` for one that is too large or cannot be computed.
fn folded(facts: &mut Facts, fold: &Fold, operands: &[usize]) -> Option<usize> {
    let operands: Vec<&Tensor> = operands.iter().map(|number| &facts.values[*number]).collect();
    let tensor = fold::apply(fold, &operands, facts).ok()?;
    facts.intern(tensor)
}

impl Analysis<Node> for Facts {
    type Data = Data;

    fn make(egraph: &mut Graph, node: &Node, _: Id) -> Data {
        let mut data = describe(egraph, node);
        if let Op::Transpose(_) | Op::Reshape(_) = node.op {
            let of = &egraph[node.children[0]].data;
            data.shared = of.shared || of.uses > 1;
        }
        if data.value.is_none() && data.float && data.constant {
            data.value = match (&node.op, data.splat, data.static_shape()) {
                (Op::Fold(fold), _, _) => node
                    .children
                    .iter()
                    .map(|child| egraph[*child].data.value)
                    .collect::<Option<Vec<usize>>>()
                    .and_then(|operands| folded(&mut egraph.analysis, fold, &operands)),
                (Op::Splat(..), Some(splat), Some(shape)) if data.elements() <= MAX_KNOWN_ELEMENTS as u64 => {
                    egraph.analysis.intern(Tensor::splat(shape, splat))
                }
                _ => None,
            };
            if let Some(number) = data.value {
                data.splat = egraph.analysis.values[number].repeated();
            }
        }
        data
    }

    fn merge(&mut self, a: &mut Data, b: Data) -> DidMerge {
        let merged = Data {
            shape: a.shape.clone(),
            float: a.float,
            constant: a.constant || b.constant,
            splat: a.splat.or(b.splat),
            value: a.value.or(b.value),
            uses: a.uses + b.uses,
            shared: a.shared || b.shared,
            source: match (a.source, b.source) {
                (Some(x), Some(y)) => Some(x.min(y)),
                (x, y) => x.or(y),
            },
        };
        let changed = DidMerge(merged != *a, merged != b);
        *a = merged;
        changed
    }

    fn modify(egraph: &mut Graph, id: Id) {
        // Equal constants are one e-class, however they came about: without this, foldings that cancel (−1 · −1 · …, a
        // transpose there and back) would grow forever. A constant of the source program stays its own: two layers
        // whose biases happen to be equal keep two biases.
        let class = &egraph[id];
        let data = &class.data;
        if !data.float || class.nodes.iter().any(|node| matches!(node.op, Op::Constant(_))) {
            return;
        }
        let known = match (data.value, data.splat, data.static_shape()) {
            (Some(number), _, _) => Op::Value(number),
            (None, Some(splat), Some(shape)) => Op::Splat(shape, splat.to_bits()),
            _ => return,
        };
        let known = egraph.add(Node::new(known, []));
        egraph.union(id, known);
    }
}

/// The nodes of an e-class that apply a binary operation, as operand pairs.
pub fn binaries<'g>(egraph: &'g Graph, id: Id, op: Binary) -> impl Iterator<Item = (Id, Id)> + 'g {
    egraph[id].nodes.iter().filter_map(move |node| match node.op {
        Op::Binary(found) if found == op => Some((node.children[0], node.children[1])),
        _ => None,
    })
}
