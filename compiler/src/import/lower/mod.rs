//! From the decoded graph to TOSA: walks the nodes in execution order, folds those whose inputs are all constant and
//! lowers the others, one file per family of operators. The families' tables are joined in [`operators`].

mod attention;
mod call;
mod control;
mod conv;
mod elementwise;
mod execute;
mod index;
mod linear;
mod normalization;
mod operators;
mod quantized;
mod recurrent;
mod reduce;
mod resize;
mod shape;
mod transposed;
mod typed;
mod volume;

pub(super) use call::{Entry, Lowering, Scope};

use super::{
    decode::{Attribute, Function, Graph, Node},
    error::{ImportError, Problem, UnsupportedNode, invalid},
    fold,
    proto::inlined_prefix,
    tensor::{Data, Element},
};
use call::{Call, Lower, Nested, Results};
use melior::ir::Location;
use std::collections::BTreeMap;

/// How deeply calls of functions and nested graphs may nest.
const MAX_DEPTH: usize = 24;

/// The most nodes that a model may have once its functions are inlined.
const MAX_NODES: usize = 1 << 20;

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// Lowers the model's graph on the given inputs and returns its outputs in order.
    pub fn run(&mut self, inputs: Scope<'c, 'a>) -> Result<Vec<Entry<'c, 'a>>, ImportError> {
        let model = self.model;
        let mut scope = inputs;
        let graph = &model.graph;
        self.graph(graph, &mut scope, &model.opsets, "", 0)
    }

    pub(super) fn graph(
        &mut self,
        graph: &Graph,
        scope: &mut Scope<'c, 'a>,
        opsets: &BTreeMap<String, i64>,
        prefix: &str,
        depth: usize,
    ) -> Result<Vec<Entry<'c, 'a>>, ImportError> {
        for (name, tensor) in &graph.initializers {
            scope.insert(name.clone(), Entry::Constant(tensor.clone()));
        }
        self.nodes(&graph.nodes, scope, opsets, prefix, depth)?;
        Ok(graph.outputs.iter().map(|output| scope.get(output).cloned().unwrap_or(Entry::Unknown)).collect())
    }

    fn nodes(
        &mut self,
        nodes: &[Node],
        scope: &mut Scope<'c, 'a>,
        opsets: &BTreeMap<String, i64>,
        prefix: &str,
        depth: usize,
    ) -> Result<(), ImportError> {
        for node in nodes {
            let name = format!("{prefix}{}", node.name);
            let opset = opsets.get(&node.domain).copied().unwrap_or(1);
            let op = match node.domain.as_str() {
                "" => node.op.clone(),
                domain => format!("{domain}.{}", node.op),
            };
            let results = match self.node(node, &name, scope, opsets, depth) {
                Ok(results) => results,
                Err(Problem::Unsupported(reason)) => {
                    self.unsupported.push(UnsupportedNode { node: name, op, opset, reason });
                    vec![Entry::Unknown; node.outputs.len()]
                }
                Err(Problem::Invalid(reason)) => {
                    return Err(ImportError::Node { node: name, op, reason });
                }
                Err(Problem::TooLarge(bytes)) => {
                    return Err(ImportError::Constants { node: name, op, bytes, limit: self.max_constant_bytes });
                }
                Err(Problem::Import(error)) => return Err(*error),
            };
            for (index, output) in node.outputs.iter().enumerate().filter(|(_, output)| !output.is_empty()) {
                if let (Some(Entry::Activation(activation)), 0) = (results.get(index), self.loops) {
                    self.named.push((format!("{prefix}{output}"), activation.clone()));
                }
                scope.insert(output.clone(), results.get(index).cloned().unwrap_or(Entry::Unknown));
            }
        }
        Ok(())
    }

    pub(super) fn node(
        &mut self,
        node: &Node,
        name: &str,
        scope: &mut Scope<'c, 'a>,
        opsets: &BTreeMap<String, i64>,
        depth: usize,
    ) -> Results<'c, 'a> {
        self.steps += 1;
        if self.steps > MAX_NODES {
            return invalid(format!("the model has more than {MAX_NODES} nodes once its functions are inlined"));
        }
        let inputs: Vec<_> = node.inputs.iter().map(|input| scope.get(input).cloned()).collect();
        let unknown = inputs.iter().flatten().any(|entry| matches!(entry, Entry::Unknown));
        let outputs = node.outputs.len();
        if let Some(function) = self.model.functions.get(&(node.domain.clone(), node.op.clone())) {
            return self.inlined(function, node, name, &inputs, depth);
        }
        let Some(operator) = operators::find(&node.domain, &node.op) else {
            return Err(Problem::Unsupported(None));
        };
        if let Lower::Graphs(lower) = operator.lower {
            if depth >= MAX_DEPTH {
                return invalid("graphs are nested too deeply");
            }
            return lower(self, &mut Nested { node, name, scope, opsets, depth });
        }
        let opset = opsets.get("").copied().unwrap_or(1);
        if unknown {
            return Ok(vec![Entry::Unknown; outputs]);
        }
        let constants: Option<Vec<_>> = inputs
            .iter()
            .map(|input| match input {
                None => Some(None),
                Some(Entry::Constant(tensor)) => Some(Some(tensor.clone())),
                Some(_) => None,
            })
            .collect();
        if let Some(constants) = constants.filter(|inputs| !shape::is_batched(operator, inputs)) {
            let made = self.constants((operator, node), name, &constants, opset)?;
            return Ok(made.into_iter().map(Entry::Constant).collect());
        }
        self.call(Call { operator, node, name, inputs, opset })
    }

    /// A call of one of the model's functions.
    fn inlined(
        &mut self,
        function: &Function,
        node: &Node,
        name: &str,
        inputs: &[Option<Entry<'c, 'a>>],
        depth: usize,
    ) -> Results<'c, 'a> {
        if depth >= MAX_DEPTH {
            return invalid("functions are nested too deeply, or call themselves");
        }
        let mut inner: Scope<'c, 'a> = BTreeMap::new();
        for (parameter, input) in function.inputs.iter().zip(inputs) {
            if let Some(entry) = input {
                inner.insert(parameter.clone(), entry.clone());
            }
        }
        let nodes: Vec<_> =
            function.nodes.iter().map(|each| bind(each, &node.attributes, &function.defaults)).collect();
        self.nodes(&nodes, &mut inner, &function.opsets, &inlined_prefix(name, None), depth + 1)?;
        Ok(function.outputs.iter().map(|output| inner.get(output).cloned().unwrap_or(Entry::Unknown)).collect())
    }

    /// A node of which an input depends on the model's.
    fn call(&mut self, mut call: Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        self.emit.location = Location::name(self.emit.context, call.name, Location::unknown(self.emit.context));
        for (index, entry) in call.inputs.iter_mut().enumerate() {
            if let Some(Entry::Constant(tensor)) = entry
                && matches!(tensor.data, Data::Fill(_))
                && call.operator.weight != Some(index)
            {
                *tensor = fold::written_out(tensor, self.room())?;
                self.grow(tensor.bytes())?;
            }
        }
        let whole: Option<Vec<_>> = call
            .inputs
            .iter()
            .map(|input| match input {
                Some(Entry::Activation(activation)) => Some(Some(Entry::Activation(self.emit.whole(activation)?))),
                other => Some(other.clone()),
            })
            .collect();
        let any = call.inputs.iter().flatten().any(|entry| matches!(entry, Entry::Activation(_)));
        let Some(inputs) = whole.filter(|_| any && call.operator.moves) else {
            return self.lower(&call);
        };
        let results = self.lower(&Call { inputs, ..call })?;
        results
            .into_iter()
            .map(|result| match result {
                Entry::Activation(floats) if floats.element() == Element::F32 => {
                    Ok(Entry::Activation(self.emit.quantised(&floats)?))
                }
                other => Ok(other),
            })
            .collect()
    }
}

/// A function's node with references to the call's attributes replaced by their values.
fn bind(node: &Node, call: &BTreeMap<String, Attribute>, defaults: &BTreeMap<String, Attribute>) -> Node {
    let mut bound = node.clone();
    bound.attributes.retain(|_, attribute| match attribute {
        Attribute::Reference(name) => match call.get(name).or_else(|| defaults.get(name)) {
            Some(value) => {
                *attribute = value.clone();
                true
            }
            // An attribute that the call leaves out is left out here.
            None => false,
        },
        _ => true,
    });
    bound
}
