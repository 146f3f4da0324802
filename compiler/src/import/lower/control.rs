//! Control flow that is known at import time: the branch of an If that is taken, the iterations of a Loop one after the other.

use super::call::{Entry, Lowering, MAX_TRIPS, Nested, Operator, Results, Scope};
use crate::import::{
    decode::{Attribute, Node},
    error::{Problem, invalid, unsupported},
    proto::inlined_prefix,
    tensor::{Data, Sym, Tensor},
};
use std::{collections::BTreeMap, rc::Rc};

/// The operators of this file.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::with_graphs("If", |lowering, node| lowering.r#if(node)),
    Operator::with_graphs("Loop", |lowering, node| lowering.r#loop(node)),
];

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// An If whose condition is known: the branch taken, in place.
    fn r#if(&mut self, nested: &mut Nested<'_, 'c, 'a>) -> Results<'c, 'a> {
        let Nested { node, name, scope, opsets, depth } = nested;
        let condition = match scope.get(node.input(0)) {
            Some(Entry::Constant(condition)) => condition.scalar(),
            Some(Entry::Unknown) => return Ok(vec![Entry::Unknown; node.outputs.len()]),
            _ => None,
        };
        let Some(condition) = condition else {
            return unsupported(
                "its condition depends on the model's inputs, and mxc compiles one fixed graph; keep the branch that is \
                 taken (torch.jit.trace, onnxsim) or compute both and choose with Where",
            );
        };
        let branch = if condition != 0.0 { "then_branch" } else { "else_branch" };
        let Some(Attribute::Graph(graph)) = node.attributes.get(branch).cloned() else {
            return invalid(format!("attribute '{branch}' must be a graph"));
        };
        let mut inner = scope.clone();
        Ok(self.graph(&graph, &mut inner, opsets, &inlined_prefix(name, Some(branch)), *depth + 1)?)
    }

    /// A Loop of a known number of iterations, unrolled.
    fn r#loop(&mut self, nested: &mut Nested<'_, 'c, 'a>) -> Results<'c, 'a> {
        let Nested { node, name, scope, opsets, depth } = nested;
        let Some(Attribute::Graph(body)) = node.attributes.get("body").cloned() else {
            return invalid("attribute 'body' must be a graph");
        };
        // The number of iterations and the condition to start may be left out.
        let known = |index: usize, default: Sym| -> Result<Option<Sym>, Problem> {
            match scope.get(node.input(index)) {
                None if node.input(index).is_empty() => Ok(Some(default)),
                Some(Entry::Unknown) => Ok(None),
                Some(Entry::Constant(tensor)) => match &tensor.data {
                    Data::Int(values) if values.len() == 1 => Ok(Some(values[0])),
                    Data::Bool(values) if values.len() == 1 => Ok(Some(Sym::from(i64::from(values[0])))),
                    _ => invalid(format!("'{}' must be one number", node.input(index))),
                },
                _ => unsupported(
                    "its number of iterations or its condition depends on the model's inputs, and mxc compiles one fixed graph; \
                     export it with a fixed number of iterations",
                ),
            }
        };
        let (Some(trips), Some(condition)) = (known(0, Sym::from(i64::MAX))?, known(1, Sym::from(1))?) else {
            return Ok(vec![Entry::Unknown; node.outputs.len()]);
        };
        let Some(trips) = trips.known() else {
            return unsupported("its number of iterations depends on the batch size");
        };
        let mut running = condition != Sym::from(0);
        let carried = node.inputs.len().saturating_sub(2);
        if body.inputs.len() != carried + 2 || body.outputs.len() < carried + 1 {
            return invalid("its body does not take and return what it carries");
        }
        let mut state: Vec<Entry<'c, 'a>> =
            node.inputs.iter().skip(2).map(|input| scope.get(input).cloned().unwrap_or(Entry::Unknown)).collect();
        let mut scanned = vec![Vec::new(); body.outputs.len() - carried - 1];
        let mut trip = 0;
        while running && trip < trips {
            if trip >= MAX_TRIPS {
                return unsupported(format!("more than {MAX_TRIPS} iterations"));
            }
            let mut inner = scope.clone();
            let counters = [Tensor::ints(vec![], [Sym::from(trip)]), Tensor::bools(vec![], [true])];
            let counters = counters.into_iter().map(|tensor| Entry::Constant(Rc::new(tensor)));
            for (input, entry) in body.inputs.iter().zip(counters.chain(state)) {
                inner.insert(input.name.clone(), entry);
            }
            self.loops += 1;
            let outputs = self.graph(&body, &mut inner, opsets, &format!("{name}/{trip}/"), *depth + 1);
            self.loops -= 1;
            let mut outputs = outputs?.into_iter();
            running = match outputs.next() {
                Some(Entry::Constant(condition)) => condition.scalar().is_some_and(|condition| condition != 0.0),
                Some(Entry::Unknown) => return Ok(vec![Entry::Unknown; node.outputs.len()]),
                _ => {
                    return unsupported(
                        "its body decides at run time whether to go on, and mxc compiles one fixed graph; export it with a \
                         fixed number of iterations",
                    );
                }
            };
            state = outputs.by_ref().take(carried).collect();
            scanned.iter_mut().zip(outputs).for_each(|(all, entry)| all.push(entry));
            trip += 1;
        }
        for all in scanned {
            let joined = self.stacked(name, all, opsets, *depth)?;
            state.push(joined);
        }
        Ok(state)
    }

    /// Values joined along a new first axis, by the operators that do so.
    fn stacked(
        &mut self,
        name: &str,
        entries: Vec<Entry<'c, 'a>>,
        opsets: &BTreeMap<String, i64>,
        depth: usize,
    ) -> Result<Entry<'c, 'a>, Problem> {
        if entries.is_empty() {
            return unsupported("it would make an empty tensor");
        }
        let node = |op: &str, inputs: Vec<String>, attribute: (&str, Attribute)| Node {
            name: name.to_owned(),
            op: op.to_owned(),
            domain: String::new(),
            inputs,
            outputs: vec![String::new()],
            attributes: [(attribute.0.to_owned(), attribute.1)].into(),
        };
        let mut inner: Scope<'c, 'a> = BTreeMap::new();
        let mut names = Vec::with_capacity(entries.len());
        for (index, entry) in entries.into_iter().enumerate() {
            let each = index.to_string();
            inner.insert(each.clone(), entry);
            let unsqueeze = node("Unsqueeze", vec![each.clone()], ("axes", Attribute::Ints(vec![0])));
            let wide = self.node(&unsqueeze, name, &mut inner, opsets, depth)?.pop().unwrap_or(Entry::Unknown);
            inner.insert(each.clone(), wide);
            names.push(each);
        }
        let concat = node("Concat", names, ("axis", Attribute::Int(0)));
        Ok(self.node(&concat, name, &mut inner, opsets, depth)?.pop().unwrap_or(Entry::Unknown))
    }
}
