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
use egg::Id;
use std::collections::BTreeMap;

/// The chosen program.
#[derive(Clone, Debug)]
pub struct Program {
    /// The node of every e-class that it may compute.
    choice: BTreeMap<Id, Node>,
    /// The e-classes that it computes, operands first, in the order of operands.
    pub order: Vec<Id>,
    /// Its cost.
    pub cost: u64,
}

impl Program {
    /// The node chosen for an e-class.
    pub fn node(&self, egraph: &Graph, id: Id) -> Option<&Node> {
        self.choice.get(&egraph.find(id))
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

/// The e-classes that can be computed, numbered, so that following a choice costs no searching.
struct Table {
    /// Their ids, ascending.
    ids: Vec<Id>,
    /// Their nodes, sorted, without those of an operand that cannot be computed.
    nodes: Vec<Vec<Entry>>,
    /// The numbers of the program's results.
    roots: Vec<usize>,
}

/// A node with the numbers of its operands.
struct Entry {
    node: Node,
    children: Vec<usize>,
    cost: u64,
}

/// The number of a node per e-class, where one is chosen.
type Choice = Vec<Option<usize>>;

impl Table {
    fn new(egraph: &Graph, roots: &[Id]) -> Option<Self> {
        let mut ids: Vec<Id> = egraph.classes().map(|class| class.id).collect();
        ids.sort_unstable();
        let number = |id: Id| ids.binary_search(&egraph.find(id)).ok();
        let entry = |id: Id, node: &Node| {
            let children = node.children.iter().map(|child| number(*child)).collect::<Option<_>>()?;
            Some(Entry { node: node.clone(), children, cost: node_cost(egraph, id, node) })
        };
        let nodes = ids
            .iter()
            .map(|id| {
                let mut nodes = egraph[*id].nodes.clone();
                nodes.sort();
                nodes.iter().filter_map(|node| entry(*id, node)).collect()
            })
            .collect();
        let roots = roots.iter().map(|root| number(*root)).collect::<Option<_>>()?;
        Some(Self { ids, nodes, roots })
    }

    fn entry(&self, class: usize, choice: &Choice) -> Option<&Entry> {
        self.nodes[class].get(choice[class]?)
    }

    /// The e-classes under the roots, operands first; `None` when the choices form a cycle or one is missing.
    fn order(&self, choice: &Choice) -> Option<Vec<usize>> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.ids.len()];
        let mut ordered = Vec::new();
        // (e-class, number of operands visited)
        let mut stack = Vec::new();
        for &root in &self.roots {
            if marks[root] == Mark::New {
                marks[root] = Mark::Open;
                stack.push((root, 0));
            }
            while let Some((class, visited)) = stack.pop() {
                match self.entry(class, choice)?.children.get(visited) {
                    Some(&child) => {
                        stack.push((class, visited + 1));
                        match marks[child] {
                            Mark::Done => {}
                            Mark::Open => return None,
                            Mark::New => {
                                marks[child] = Mark::Open;
                                stack.push((child, 0));
                            }
                        }
                    }
                    None => {
                        marks[class] = Mark::Done;
                        ordered.push(class);
                    }
                }
            }
        }
        Some(ordered)
    }

    fn total(&self, choice: &Choice) -> Option<u64> {
        let costs = self.order(choice)?.into_iter().filter_map(|class| self.entry(class, choice));
        Some(costs.fold(0u64, |sum, entry| sum.saturating_add(entry.cost)))
    }

    /// For every e-class the node whose cone is cheapest, each e-class in the cone counted once.
    fn shared_choice(&self) -> Choice {
        let classes = self.ids.len();
        let mut cones: Vec<Option<(u64, Vec<u64>)>> = vec![None; classes];
        let mut own = vec![0u64; classes];
        let mut choice = vec![None; classes];
        let mut cone = vec![0u64; classes.div_ceil(64)];
        // Every round can only lower costs; the bound guards against rounds that undo each other through shared parts.
        for _ in 0..classes.min(1000) + 1 {
            let mut changed = false;
            for class in 0..classes {
                for (number, entry) in self.nodes[class].iter().enumerate() {
                    cone.fill(0);
                    let ready = entry.children.iter().all(|child| match &cones[*child] {
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
                    let mut cost = entry.cost;
                    for (word, bits) in cone.iter().enumerate() {
                        let mut bits = *bits;
                        while bits != 0 {
                            cost = cost.saturating_add(own[word * 64 + bits.trailing_zeros() as usize]);
                            bits &= bits - 1;
                        }
                    }
                    cone[class / 64] |= 1 << (class % 64);
                    if cones[class].as_ref().is_none_or(|(best, _)| cost < *best) {
                        cones[class] = Some((cost, cone.clone()));
                        own[class] = entry.cost;
                        choice[class] = Some(number);
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
    fn tree_choice(&self) -> Choice {
        let mut best: Vec<Option<u128>> = vec![None; self.ids.len()];
        let mut choice = vec![None; self.ids.len()];
        loop {
            let mut changed = false;
            for (class, nodes) in self.nodes.iter().enumerate() {
                for (number, entry) in nodes.iter().enumerate() {
                    // At least 1, so that a node never ties with its own operand.
                    let own = Some(u128::from(entry.cost).max(1));
                    let cost = entry
                        .children
                        .iter()
                        .fold(own, |sum, child| sum.zip(best[*child]).map(|(sum, child)| sum.saturating_add(child)));
                    if let Some(cost) = cost.filter(|cost| best[class].is_none_or(|old| *cost < old)) {
                        best[class] = Some(cost);
                        choice[class] = Some(number);
                        changed = true;
                    }
                }
            }
            if !changed {
                return choice;
            }
        }
    }
}

/// The cheapest program found that computes `roots`; `None` when the e-graph holds none.
pub fn extract(egraph: &Graph, roots: &[Id]) -> Option<Program> {
    let table = Table::new(egraph, roots)?;
    let mut choice = table.shared_choice();
    if table.total(&choice).is_none() {
        choice = table.tree_choice();
    }
    let mut cost = table.total(&choice)?;
    loop {
        let before = cost;
        for class in table.order(&choice)? {
            for number in 0..table.nodes[class].len() {
                if choice[class] == Some(number) {
                    continue;
                }
                let kept = choice[class].replace(number);
                match table.total(&choice) {
                    Some(new) if new < cost => cost = new,
                    _ => choice[class] = kept,
                }
            }
        }
        if cost == before {
            break;
        }
    }
    let chosen = |class: usize| Some((table.ids[class], table.entry(class, &choice)?.node.clone()));
    let order = table.order(&choice)?.into_iter().map(|class| table.ids[class]).collect();
    Some(Program { choice: (0..table.ids.len()).filter_map(chosen).collect(), order, cost })
}
