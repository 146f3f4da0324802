//! Picks the cheapest program that an e-graph holds.
//!
//! A value that several operations use is computed once, so the cost of a program is the sum over the *distinct*
//! e-classes that it computes. Finding the optimum is NP-hard; here every e-class first takes the node whose whole
//! cone is cheapest, shared parts counted once, then single choices are changed as long as the program gets cheaper.
//! Convolutions cannot be doubled by a bad choice: [`super::rules`] reach through private values only.

use super::{
    analysis::Graph,
    language::{Node, Op},
};
use egg::{Id, Language};
use std::collections::BTreeMap;

/// The chosen program.
#[derive(Clone, Debug)]
pub struct Program {
    /// The node of every e-class that it may compute.
    choice: BTreeMap<Id, Node>,
    /// Its cost.
    pub cost: u64,
}

impl Program {
    /// The node chosen for an e-class.
    pub fn node(&self, egraph: &Graph, id: Id) -> Option<&Node> {
        self.choice.get(&egraph.find(id))
    }

    /// The e-classes that `roots` need, operands first, in the order of operands.
    pub fn order(&self, egraph: &Graph, roots: &[Id]) -> Option<Vec<Id>> {
        order(egraph, &self.choice, roots)
    }
}

/// What running an operation costs besides its arithmetic.
const OVERHEAD: u64 = 1000;

/// The cost of a node by itself: multiply-adds or elements per sample. Constants cost next to nothing, so that of two
/// programs with the same operations the one with the fewest foldings wins.
pub fn node_cost(egraph: &Graph, id: Id, node: &Node) -> u64 {
    let elements = egraph[id].data.elements();
    let size = |child: usize| egraph[node.children[child]].data.elements();
    match &node.op {
        Op::Argument(_) | Op::Constant(_) => 0,
        Op::Splat(..) | Op::Value(_) => 1,
        Op::Fold(_) => 2,
        Op::Convolution(site, _) => {
            let facts = &egraph.analysis.sites[*site];
            // Elements of the weight per output channel: taps times input channels of the group.
            let per_output = size(1) / (facts.outputs as u64).max(1);
            OVERHEAD + elements.saturating_mul(per_output)
        }
        Op::MatMul(site) => {
            let inputs = egraph.analysis.sites[*site].inputs as u64;
            OVERHEAD + elements.saturating_mul(inputs)
        }
        Op::Reshape(_) => OVERHEAD / 10,
        Op::Transpose(_) => OVERHEAD + elements.saturating_mul(2),
        Op::Binary(_) | Op::Unary(_) | Op::Clamp(..) | Op::Pad(..) | Op::Opaque(_) => OVERHEAD + elements,
    }
}

/// The e-classes under `roots`, operands first; `None` when the choices form a cycle or one is missing.
fn order(egraph: &Graph, choice: &BTreeMap<Id, Node>, roots: &[Id]) -> Option<Vec<Id>> {
    #[derive(PartialEq)]
    enum Mark {
        Open,
        Done,
    }
    let mut marks: BTreeMap<Id, Mark> = BTreeMap::new();
    let mut ordered = Vec::new();
    for root in roots {
        // (e-class, number of operands visited)
        let mut stack = vec![(egraph.find(*root), 0)];
        while let Some((id, visited)) = stack.pop() {
            if visited == 0 {
                match marks.get(&id) {
                    Some(Mark::Done) => continue,
                    Some(Mark::Open) => return None,
                    None => {
                        marks.insert(id, Mark::Open);
                    }
                }
            }
            let node = choice.get(&id)?;
            match node.children.get(visited) {
                Some(child) => {
                    stack.push((id, visited + 1));
                    let child = egraph.find(*child);
                    match marks.get(&child) {
                        Some(Mark::Done) => {}
                        Some(Mark::Open) => return None,
                        None => stack.push((child, 0)),
                    }
                }
                None => {
                    marks.insert(id, Mark::Done);
                    ordered.push(id);
                }
            }
        }
    }
    Some(ordered)
}

fn total(egraph: &Graph, choice: &BTreeMap<Id, Node>, roots: &[Id]) -> Option<u64> {
    let ordered = order(egraph, choice, roots)?;
    Some(
        ordered
            .iter()
            .fold(0u64, |sum, id| sum.saturating_add(choice.get(id).map_or(0, |node| node_cost(egraph, *id, node)))),
    )
}

/// The cheapest program found that computes `roots`; `None` when the e-graph holds none.
pub fn extract(egraph: &Graph, roots: &[Id]) -> Option<Program> {
    let mut classes: Vec<Id> = egraph.classes().map(|class| class.id).collect();
    classes.sort_unstable();
    let nodes: BTreeMap<Id, Vec<Node>> = classes
        .iter()
        .map(|id| {
            let mut nodes = egraph[*id].nodes.clone();
            nodes.sort();
            (*id, nodes)
        })
        .collect();
    let mut choice = shared_choice(egraph, &classes, &nodes);
    if total(egraph, &choice, roots).is_none() {
        choice = tree_choice(egraph, &classes, &nodes);
    }
    let mut cost = total(egraph, &choice, roots)?;
    loop {
        let before = cost;
        for id in order(egraph, &choice, roots)? {
            for node in &nodes[&id] {
                let kept = choice.insert(id, node.clone());
                match total(egraph, &choice, roots) {
                    Some(new) if new < cost => cost = new,
                    _ => {
                        if let Some(kept) = kept {
                            choice.insert(id, kept);
                        }
                    }
                }
            }
        }
        if cost == before {
            return Some(Program { choice, cost });
        }
    }
}

/// For every e-class the node whose cone is cheapest, each e-class in the cone counted once.
fn shared_choice(egraph: &Graph, classes: &[Id], nodes: &BTreeMap<Id, Vec<Node>>) -> BTreeMap<Id, Node> {
    let index: BTreeMap<Id, usize> = classes.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    let words = classes.len().div_ceil(64);
    let mut cones: Vec<Option<(u64, Vec<u64>)>> = vec![None; classes.len()];
    let mut own = vec![0u64; classes.len()];
    let mut choice = BTreeMap::new();
    // Every round can only lower costs; the bound guards against rounds that undo each other through shared parts.
    for _ in 0..classes.len().min(1000) + 1 {
        let mut changed = false;
        for (class, id) in classes.iter().enumerate() {
            for node in &nodes[id] {
                let children: Option<Vec<usize>> =
                    node.children.iter().map(|child| index.get(&egraph.find(*child)).copied()).collect();
                let Some(children) = children else { continue };
                let mut cone = vec![0u64; words];
                let ready = children.iter().all(|child| match &cones[*child] {
                    Some((_, bits)) => {
                        cone.iter_mut().zip(bits).for_each(|(a, b)| *a |= b);
                        true
                    }
                    None => false,
                });
                let cyclic = cone[class / 64] >> (class % 64) & 1 == 1;
                if !ready || cyclic {
                    continue;
                }
                let this = node_cost(egraph, *id, node);
                let mut cost = this;
                for (word, bits) in cone.iter().enumerate() {
                    let mut bits = *bits;
                    while bits != 0 {
                        cost = cost.saturating_add(own[word * 64 + bits.trailing_zeros() as usize]);
                        bits &= bits - 1;
                    }
                }
                cone[class / 64] |= 1 << (class % 64);
                if cones[class].as_ref().is_none_or(|(best, _)| cost < *best) {
                    cones[class] = Some((cost, cone));
                    own[class] = this;
                    choice.insert(*id, node.clone());
                    changed = true;
                }
            }
        }
        if !changed {
            break;
        }
    }
    choice
}

/// For every e-class the node whose tree is cheapest, shared parts counted as often as they are used: never cyclic.
fn tree_choice(egraph: &Graph, classes: &[Id], nodes: &BTreeMap<Id, Vec<Node>>) -> BTreeMap<Id, Node> {
    let mut best: BTreeMap<Id, u128> = BTreeMap::new();
    let mut choice = BTreeMap::new();
    loop {
        let mut changed = false;
        for id in classes {
            for node in &nodes[id] {
                // At least 1, so that a node never ties with its own operand.
                let mut cost = Some(u128::from(node_cost(egraph, *id, node)).max(1));
                node.for_each(|child| {
                    cost = cost.zip(best.get(&egraph.find(child))).map(|(sum, child)| sum.saturating_add(*child));
                });
                if let Some(cost) = cost.filter(|cost| best.get(id).is_none_or(|old| cost < old)) {
                    best.insert(*id, cost);
                    choice.insert(*id, node.clone());
                    changed = true;
                }
            }
        }
        if !changed {
            return choice;
        }
    }
}
