//! Which values of the source model the values of the chosen program are. Rewriting keeps values equal, so a value is every
//! source value in its e-class; where it is none, e-classes that differ from it by layout, or by a scale and shift per
//! channel, may be one:
//!
//! ```text
//! conv(x, w·s, b + t)  =  conv(x, w, b)·s + t        the source has conv(x, w, b) as "c": c·s + t
//! ```

use super::{
    analysis::Graph,
    language::{Binary, Node, Op},
};
use egg::Id;
use mxc_dialects::origin::{Origin, Step};
use std::collections::{BTreeMap, BTreeSet};

/// How many steps from a source value are looked at.
const DEPTH: usize = 4;

/// The source values of e-classes.
pub struct Origins<'g> {
    egraph: &'g Graph,
    /// By e-class.
    known: BTreeMap<Id, Vec<Origin>>,
    /// The reshapes and transposes of an e-class: the e-classes that they make.
    moved: BTreeMap<Id, Vec<(Id, &'g Node)>>,
}

impl<'g> Origins<'g> {
    /// Gathers them; `recorded` may hold ids that were merged.
    pub fn new(egraph: &'g Graph, recorded: &[(Id, Origin)]) -> Self {
        let mut known: BTreeMap<Id, Vec<Origin>> = BTreeMap::new();
        for (id, origin) in recorded {
            let all = known.entry(egraph.find(*id)).or_default();
            if !all.contains(origin) {
                all.push(origin.clone());
            }
        }
        let mut moved: BTreeMap<Id, Vec<(Id, &Node)>> = BTreeMap::new();
        for class in egraph.classes() {
            for node in &class.nodes {
                if let Op::Reshape(_) | Op::Transpose(_) = node.op {
                    moved.entry(egraph.find(node.children[0])).or_default().push((egraph.find(class.id), node));
                }
            }
        }
        Self { egraph, known, moved }
    }

    /// The source values that an e-class is.
    pub fn of(&self, id: Id) -> Vec<Origin> {
        self.known.get(&self.egraph.find(id)).cloned().unwrap_or_default()
    }

    /// The source values that an e-class is or follows from by layout, or, where there are none and `evaluate` gives the values
    /// of constants, by a scale and shift per channel, too. Each leads back from the e-class's value to the source's.
    pub fn derived(&self, id: Id, evaluate: Option<&dyn Fn(Id) -> Option<Vec<f64>>>) -> Vec<Origin> {
        let direct = self.of(id);
        if !direct.is_empty() {
            return direct;
        }
        let moved = self.search(id, &|_| None);
        match evaluate {
            Some(evaluate) if moved.is_empty() => self.search(id, evaluate),
            _ => moved,
        }
    }

    /// Breadth first, so that the fewest steps are found.
    fn search(&self, id: Id, evaluate: &dyn Fn(Id) -> Option<Vec<f64>>) -> Vec<Origin> {
        let start = self.egraph.find(id);
        let mut seen = BTreeSet::from([start]);
        let mut front: Vec<(Id, Vec<Step>)> = vec![(start, Vec::new())];
        for _ in 0..DEPTH {
            let mut next = Vec::new();
            for (class, steps) in &front {
                for (other, step) in self.neighbours(*class, evaluate) {
                    if seen.insert(other) {
                        next.push((other, [vec![step], steps.clone()].concat()));
                    }
                }
            }
            let found: Vec<Origin> = next
                .iter()
                .flat_map(|(class, steps)| self.of(*class).into_iter().map(|origin| origin.then(steps.clone())))
                .filter(Origin::is_invertible)
                .collect();
            if !found.is_empty() {
                return found;
            }
            front = next;
        }
        Vec::new()
    }

    /// The e-classes that one step leads from to this one.
    fn neighbours(&self, class: Id, evaluate: &dyn Fn(Id) -> Option<Vec<f64>>) -> Vec<(Id, Step)> {
        let data = &self.egraph[class].data;
        let mut found = Vec::new();
        for (other, node) in self.moved.get(&class).into_iter().flatten() {
            let forth = match &node.op {
                Op::Transpose(perms) => Step::Transpose(perms.clone()),
                _ => Step::Reshape(self.egraph[*other].data.shape.clone()),
            };
            found.extend(forth.inverse(&data.shape).map(|back| (*other, back)));
        }
        for node in &self.egraph[class].nodes {
            match &node.op {
                Op::Transpose(perms) => {
                    found.push((self.egraph.find(node.children[0]), Step::Transpose(perms.clone())))
                }
                Op::Reshape(_) => found.push((self.egraph.find(node.children[0]), Step::Reshape(data.shape.clone()))),
                Op::Binary(op @ (Binary::Mul | Binary::Add)) => {
                    let (x, constant) = (self.egraph.find(node.children[0]), self.egraph.find(node.children[1]));
                    let (of, by) = (&self.egraph[x].data, &self.egraph[constant].data);
                    let lead = by.shape.split_last().is_some_and(|(_, lead)| lead.iter().all(|size| *size == Some(1)));
                    if of.constant || !by.constant || !by.float || !lead || of.shape != data.shape {
                        continue;
                    }
                    if let Some(values) = evaluate(constant) {
                        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
                        found.push((x, if *op == Binary::Mul { Step::Scale(values) } else { Step::Shift(values) }));
                    }
                }
                _ => {}
            }
        }
        found
    }
}
