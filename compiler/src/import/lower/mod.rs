//! From the decoded graph to TOSA: walks the nodes in execution order, folds those whose inputs are all constant and
//! lowers the others, one file per family of operators.

mod attention;
mod conv;
mod elementwise;
mod execute;
mod index;
mod linear;
mod normalization;
mod quantized;
mod recurrent;
mod reduce;
mod resize;
mod shape;
mod transposed;
mod typed;
mod volume;

use super::{
    decode::{Attribute, Graph, Model, Node},
    emit::{Activation, Emitter},
    error::{ImportError, Problem, UnsupportedNode, invalid, unsupported},
    fold,
    proto::inlined_prefix,
    tensor::{Data, Dim, Element, Sym, Tensor},
};
use melior::ir::Location;
use std::{collections::BTreeMap, rc::Rc, sync::Arc};

/// How deeply calls of functions and nested graphs may nest.
const MAX_DEPTH: usize = 24;

/// The most iterations of a loop.
pub(super) const MAX_TRIPS: i64 = 4096;

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Entry<'c, 'a> {
    /// Known at import time.
    Constant(Rc<Tensor>),
    /// Depends on an input.
    Activation(Activation<'c, 'a>),
    /// The result of a node that could not be lowered; what depends on it is not looked at.
    Unknown,
}

/// The values in scope.
pub(super) type Scope<'c, 'a> = BTreeMap<String, Entry<'c, 'a>>;

/// The state of lowering a model.
pub(super) struct Lowering<'c, 'a, 'm> {
    pub emit: Emitter<'c, 'a>,
    model: &'m Model,
    /// The batch size that the file fixes, if it does; its shape constants hold it in place of the batch.
    pub fixed_batch: Option<i64>,
    /// The nodes that could not be lowered.
    pub unsupported: Vec<UnsupportedNode>,
    /// The nodes lowered so far, those of calls included: a bound on calls that multiply.
    steps: usize,
    /// The bytes of constants that folding made out of fewer: a bound on models that ask for endless ones.
    grown: u64,
    /// The most that may grow to.
    max_constant_bytes: u64,
    /// The model's values among those of the graph, with the names that they have once functions and branches are inlined
    /// ([`proto::inline`]). Those inside loops have none.
    ///
    /// [`proto::inline`]: crate::import::proto::inline
    pub named: Vec<(String, Activation<'c, 'a>)>,
    /// How many loops are being unrolled.
    loops: usize,
}

/// The most nodes that a model may have once its functions are inlined.
const MAX_NODES: usize = 1 << 20;

/// One node with its inputs resolved.
pub(super) struct Call<'n, 'c, 'a> {
    pub node: &'n Node,
    /// The node's unique name, calls included.
    pub name: &'n str,
    pub inputs: Vec<Option<Entry<'c, 'a>>>,
    /// The version of ONNX's own operators.
    pub opset: i64,
}

/// A node's results.
pub(super) type Results<'c, 'a> = Result<Vec<Entry<'c, 'a>>, Problem>;

impl<'c, 'a> Call<'_, 'c, 'a> {
    /// A required input.
    pub fn entry(&self, index: usize) -> Result<&Entry<'c, 'a>, Problem> {
        match self.optional(index) {
            Some(entry) => Ok(entry),
            None => invalid(format!("its input {index} is missing")),
        }
    }

    /// An input that may be left out.
    pub fn optional(&self, index: usize) -> Option<&Entry<'c, 'a>> {
        self.inputs.get(index).and_then(Option::as_ref)
    }

    /// A required input that must depend on the model's inputs.
    pub fn activation(&self, index: usize) -> Result<&Activation<'c, 'a>, Problem> {
        match self.entry(index)? {
            Entry::Activation(activation) => Ok(activation),
            _ => unsupported(format!("its input '{}' is a constant", self.node.input(index))),
        }
    }

    /// A required input that must be a constant.
    pub fn constant(&self, index: usize) -> Result<&Rc<Tensor>, Problem> {
        match self.entry(index)? {
            Entry::Constant(tensor) => Ok(tensor),
            _ => unsupported(format!("its input '{}' is not a constant", self.node.input(index))),
        }
    }

    /// An input that may be left out, else must be a constant.
    pub fn optional_constant(&self, index: usize) -> Result<Option<&Rc<Tensor>>, Problem> {
        self.optional(index).map(|_| self.constant(index)).transpose()
    }

    /// A required constant of floats, which may be a fill.
    pub fn weight(&self, index: usize) -> Result<&Tensor, Problem> {
        let tensor = self.constant(index)?;
        match tensor.data.element() {
            Element::F32 => Ok(tensor),
            _ => invalid(format!("'{}' must hold floats", self.node.input(index))),
        }
    }

    /// A required constant's values as f32.
    pub fn floats(&self, index: usize) -> Result<Arc<[f32]>, Problem> {
        fold::floats(self.node.input(index), self.constant(index)?)
    }

    /// A list of integers given as an input (newer opsets) or as an attribute (older ones).
    pub fn list(&self, name: &str, index: usize) -> Result<Option<Vec<i64>>, Problem> {
        fold::list(self.node, name, self.optional_constant(index)?)
    }
}

impl<'c, 'a, 'm> Lowering<'c, 'a, 'm> {
    pub fn new(emit: Emitter<'c, 'a>, model: &'m Model, fixed_batch: Option<i64>, max_constant_bytes: u64) -> Self {
        Self {
            emit,
            model,
            fixed_batch,
            unsupported: Vec::new(),
            steps: 0,
            grown: 0,
            max_constant_bytes,
            named: Vec::new(),
            loops: 0,
        }
    }

    /// The bytes that constants may still grow by.
    pub fn room(&self) -> u64 {
        self.max_constant_bytes - self.grown
    }

    /// Counts a constant of so many more bytes than what it was made of.
    fn grow(&mut self, bytes: u64) -> Result<(), Problem> {
        if bytes > self.room() {
            return Err(Problem::TooLarge(self.grown.saturating_add(bytes)));
        }
        self.grown += bytes;
        Ok(())
    }

    /// Lowers the model's graph on the given inputs and returns its outputs in order.
    pub fn run(&mut self, inputs: Scope<'c, 'a>) -> Result<Vec<Entry<'c, 'a>>, ImportError> {
        let model = self.model;
        let mut scope = inputs;
        let graph = &model.graph;
        self.graph(graph, &mut scope, &model.opsets, "", 0)
    }

    fn graph(
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

    fn node(
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
        let mut inputs: Vec<_> = node.inputs.iter().map(|input| scope.get(input).cloned()).collect();
        let unknown = inputs.iter().flatten().any(|entry| matches!(entry, Entry::Unknown));
        let outputs = node.outputs.len();
        if let Some(function) = self.model.functions.get(&(node.domain.clone(), node.op.clone())) {
            if depth >= MAX_DEPTH {
                return invalid("functions are nested too deeply, or call themselves");
            }
            let mut inner: Scope<'c, 'a> = BTreeMap::new();
            for (parameter, input) in function.inputs.iter().zip(&inputs) {
                if let Some(entry) = input {
                    inner.insert(parameter.clone(), entry.clone());
                }
            }
            let nodes: Vec<_> =
                function.nodes.iter().map(|each| bind(each, &node.attributes, &function.defaults)).collect();
            self.nodes(&nodes, &mut inner, &function.opsets, &inlined_prefix(name, None), depth + 1)?;
            return Ok(function
                .outputs
                .iter()
                .map(|output| inner.get(output).cloned().unwrap_or(Entry::Unknown))
                .collect());
        }
        let is_known_domain = node.domain.is_empty()
            || node.domain == "com.microsoft" && node.op == "Gelu"
            || quantized::is_known(&node.domain, &node.op);
        if !is_known_domain {
            return Err(Problem::Unsupported(None));
        }
        let opset = opsets.get("").copied().unwrap_or(1);
        if let "If" | "Loop" = node.op.as_str() {
            if depth >= MAX_DEPTH {
                return invalid("graphs are nested too deeply");
            }
            return match node.op.as_str() {
                "If" => self.r#if(node, name, scope, opsets, depth),
                _ => self.r#loop(node, name, scope, opsets, depth),
            };
        }
        if !is_known(&node.op) {
            return Err(Problem::Unsupported(None));
        }
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
        if let Some(constants) = constants.filter(|inputs| !shape::is_batched(node, inputs)) {
            let made = self.constants(node, name, &constants, opset)?;
            return Ok(made.into_iter().map(Entry::Constant).collect());
        }
        self.emit.location = Location::name(self.emit.context, name, Location::unknown(self.emit.context));
        // The weights of an analog layer stay fills; whatever else is one is small in any real model.
        for (index, entry) in inputs.iter_mut().enumerate() {
            if let Some(Entry::Constant(tensor)) = entry
                && matches!(tensor.data, Data::Fill(_))
                && !(index == 1 && matches!(node.op.as_str(), "Conv" | "Gemm" | "MatMul"))
            {
                *tensor = fold::written_out(tensor, self.room())?;
                self.grow(tensor.bytes())?;
            }
        }
        let whole: Option<Vec<_>> = inputs
            .iter()
            .map(|input| match input {
                Some(Entry::Activation(activation)) => Some(Some(Entry::Activation(self.emit.whole(activation)?))),
                other => Some(other.clone()),
            })
            .collect();
        let any = inputs.iter().flatten().any(|entry| matches!(entry, Entry::Activation(_)));
        if let Some(inputs) = whole.filter(|_| any && quantized::moves(&node.op)) {
            let results = self.lower(&Call { node, name, inputs, opset })?;
            return results
                .into_iter()
                .map(|result| match result {
                    Entry::Activation(floats) if floats.element() == Element::F32 => {
                        Ok(Entry::Activation(self.emit.quantised(&floats)?))
                    }
                    other => Ok(other),
                })
                .collect();
        }
        self.lower(&Call { node, name, inputs, opset })
    }

    /// An If whose condition is known: the branch taken, in place.
    fn r#if(
        &mut self,
        node: &Node,
        name: &str,
        scope: &mut Scope<'c, 'a>,
        opsets: &BTreeMap<String, i64>,
        depth: usize,
    ) -> Results<'c, 'a> {
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
        Ok(self.graph(&graph, &mut inner, opsets, &inlined_prefix(name, Some(branch)), depth + 1)?)
    }

    /// A Loop of a known number of iterations, unrolled.
    fn r#loop(
        &mut self,
        node: &Node,
        name: &str,
        scope: &mut Scope<'c, 'a>,
        opsets: &BTreeMap<String, i64>,
        depth: usize,
    ) -> Results<'c, 'a> {
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
            let outputs = self.graph(&body, &mut inner, opsets, &format!("{name}/{trip}/"), depth + 1);
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
            let joined = self.stacked(name, all, opsets, depth)?;
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

    fn lower(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let op = call.node.op.as_str();
        typed::check(call)?;
        let integers = call.inputs.iter().flatten().find_map(|entry| match entry {
            Entry::Activation(activation) => Some(activation.element()).filter(|element| *element != Element::F32),
            _ => None,
        });
        match op {
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" | "Sum" if integers.is_some() => {
                self.integers(call, integers.unwrap_or(Element::I64))
            }
            "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "And" | "Or" | "Xor" | "Not"
            | "IsNaN" | "IsInf" => self.condition(call),
            "Mod" => self.modulo(call),
            "Where" => self.r#where(call),
            "Cast" | "CastLike" => self.cast(call),
            "ArgMax" | "ArgMin" => self.argmax(call),
            "DequantizeLinear" => self.dequantize(call),
            "QuantizeLinear" => self.quantize(call),
            "DynamicQuantizeLinear" => self.dynamic_quantize(call),
            "Quant" => self.quant(call),
            "BipolarQuant" => self.bipolar_quant(call),
            "Resize" | "Upsample" => self.resize(call),
            "DepthToSpace" | "SpaceToDepth" => self.depth_space(call),
            "Einsum" => self.einsum(call),
            "TopK" => self.top_k(call),
            "GatherElements" => self.gather_elements(call),
            "GatherND" => self.gather_nd(call),
            "ScatterElements" | "Scatter" => self.scatter_elements(call),
            "ScatterND" => self.scatter_nd(call),
            "OneHot" => self.one_hot(call),
            "EyeLike" => self.eye_like(call),
            "CumSum" => self.cum_sum(call),
            "Trilu" => self.trilu(call),
            "NonZero" => self.non_zero(call),
            "GridSample" => self.grid_sample(call),
            "Attention" => self.attention(call),
            "LSTM" | "GRU" | "RNN" => self.recurrent(call),
            "LpPool" => self.lp_pool(call),
            "GlobalLpPool" => self.global_lp_pool(call),
            "RMSNormalization" => self.rms_normalization(call),
            "GroupNormalization" | "InstanceNormalization" => self.group_normalization(call),
            "MeanVarianceNormalization" => self.mean_variance(call),
            "LpNormalization" => self.lp_normalization(call),
            "LRN" => self.local_response(call),
            "Conv" => self.conv(call),
            "ConvTranspose" => self.conv_transpose(call),
            "BatchNormalization" => self.batch_normalization(call),
            "MaxPool" => self.max_pool(call),
            "AveragePool" => self.average_pool(call),
            "GlobalAveragePool" => self.global_pool(call, "ReduceMean"),
            "GlobalMaxPool" => self.global_pool(call, "ReduceMax"),
            "Gemm" => self.gemm(call),
            "MatMul" => self.matmul(call),
            op if op.starts_with("Reduce") => self.reduce(call),
            "Softmax" | "LogSoftmax" => self.softmax(call),
            "LayerNormalization" => self.layer_normalization(call),
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" | "Sum" | "Mean" | "PRelu" => self.arithmetic(call),
            "Shape" | "Size" | "Flatten" | "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Concat" | "Split"
            | "Slice" | "Pad" | "Expand" | "Gather" | "Identity" | "Dropout" | "Tile" | "ConstantOfShape" => {
                self.reshaping(call)
            }
            _ => self.unary(call),
        }
    }
}

/// Whether some lowering or folding knows an operator of ONNX's own domain.
fn is_known(op: &str) -> bool {
    fold::is_foldable(op)
        || matches!(
            op,
            "ArgMax"
                | "ArgMin"
                | "Attention"
                | "BipolarQuant"
                | "Conv"
                | "ConvTranspose"
                | "CumSum"
                | "EyeLike"
                | "GatherElements"
                | "GatherND"
                | "GridSample"
                | "NonZero"
                | "OneHot"
                | "Scatter"
                | "ScatterElements"
                | "ScatterND"
                | "TopK"
                | "Trilu"
                | "DepthToSpace"
                | "DequantizeLinear"
                | "DynamicQuantizeLinear"
                | "Einsum"
                | "GRU"
                | "GlobalLpPool"
                | "GroupNormalization"
                | "InstanceNormalization"
                | "IsInf"
                | "IsNaN"
                | "LRN"
                | "LSTM"
                | "LpNormalization"
                | "LpPool"
                | "MeanVarianceNormalization"
                | "Quant"
                | "QuantizeLinear"
                | "RNN"
                | "RMSNormalization"
                | "ReduceL1"
                | "ReduceL2"
                | "ReduceLogSum"
                | "ReduceLogSumExp"
                | "ReduceSumSquare"
                | "Resize"
                | "SpaceToDepth"
                | "Upsample"
                | "Xor"
                | "BatchNormalization"
                | "MaxPool"
                | "AveragePool"
                | "GlobalAveragePool"
                | "GlobalMaxPool"
                | "Gemm"
                | "MatMul"
                | "ReduceMean"
                | "Softmax"
                | "LogSoftmax"
                | "LayerNormalization"
                | "Sum"
                | "Mean"
                | "PRelu"
                | "Pad"
        )
        || elementwise::UNARY.contains(&op)
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

/// One activation as a node's results.
pub(super) fn one<'c, 'a>(activation: Activation<'c, 'a>) -> Results<'c, 'a> {
    Ok(vec![Entry::Activation(activation)])
}

/// Dimensions as integers of shape arithmetic.
pub(super) fn syms(shape: &[Dim]) -> Vec<Sym> {
    shape.iter().copied().map(Sym::from).collect()
}
