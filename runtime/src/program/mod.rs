//! The program: what the executor runs. A plain, MLIR-free form of `@main`, read once from a module of any level
//! (module `load`), in execution order, with constants bound to weights. It is made by a [`Builder`], which checks every
//! operand and infers every shape, so that no program is inconsistent.
//!
//! Values are f32 unless their [`DType`] says otherwise; the words of a denoiser at the dtile level stay inside its node. Spatial
//! tensors are NHWC, as in the IR; the batch is axis 0 of every non-constant value that depends on an input, and is written as
//! `None` in shapes. A program that works on its inputs as a whole has no such axis: what the executor takes for a sample is then
//! everything.

mod cleaned;
pub mod proto;
pub mod value;

pub use crate::ops::operator::Type;
pub use crate::ops::{
    Op,
    binary::Binary,
    choose::{Cast, Select},
    convolution::Conv2d,
    denoise::Denoise,
    indexed::{Pick, Scatter, Scattering, Take, TopK},
    layout::{Broadcast, Concat, Pad, Reshape, Slice, Tile, Transpose},
    pool::{Pool, Pooling},
    product::{FullyConnected, MatMul},
    reduce::{ArgMax, CumSum, Reduce, Reduction},
    sample::{GridSample, Interpolation, Padding, Sampling},
    tile::DenoiseTile,
    unary::Unary,
};
use crate::{ops::operator::Operand, store::Weight, task::Task};
pub use mxc_spec::shape::Window;
use mxc_spec::{calibration::MAX_COLUMN_SHIFT, execution::MAX_READS};
use std::collections::BTreeMap;
pub use value::{Calibration, Columns, DType, Execution, Layer, LayerId, Value, ValueId};

/// The axes that a value may have. Every value holds its shape, so that a long one would be many.
const MAX_RANK: usize = 64;
/// The words that a sample of a value may have: more than any memory holds, but sums of them are numbers.
const MAX_WORDS: usize = 1 << 48;

/// Why a program cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct ProgramError {
    /// The operator or value.
    pub what: String,
    /// What is wrong with it.
    pub reason: String,
}

fn wrong<T>(what: impl Into<String>, reason: impl Into<String>) -> Result<T, ProgramError> {
    Err(ProgramError { what: what.into(), reason: reason.into() })
}

/// One operation with one result.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// Its operands.
    pub inputs: Vec<ValueId>,
    /// Its result.
    pub output: ValueId,
}

/// A network, ready to be planned. Programs are equal if everything is, their weights bit for bit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    values: Vec<Value>,
    nodes: Vec<Node>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    logits: ValueId,
    layers: Vec<Layer>,
    task: Task,
}

impl Program {
    /// Every value; nodes refer to them by index.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The operations in execution order: a node's inputs are defined before it.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The inputs, in the source model's layout, with its names in [`Value::name`].
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The outputs.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// The value that the loss is taken of: the output that the module names, else the first, before a final Softmax if it ends
    /// in one.
    pub fn logits(&self) -> ValueId {
        self.logits
    }

    /// What the network is for.
    pub fn task(&self) -> Task {
        self.task
    }

    /// The analog layers in execution order.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The analog layers, to give them other noise or another calibration.
    pub fn layers_mut(&mut self) -> &mut [Layer] {
        &mut self.layers
    }

    /// Whether any layer is cleaned.
    pub fn has_denoisers(&self) -> bool {
        self.nodes.iter().any(|node| node.op.cleans().is_some())
    }

    /// Whether any denoiser draws: has a σ̂ path.
    pub fn has_sigma(&self) -> bool {
        self.nodes.iter().any(|node| match &node.op {
            Op::Denoise(denoise) => denoise.kind.expression().drawn().next().is_some(),
            _ => false,
        })
    }

    /// The parameters of all denoisers: trainable weights, and weights of the digital tile's programs.
    pub fn denoiser_parameters(&self) -> u64 {
        let trainable = self.values.iter().filter(|value| value.trainable).filter_map(|value| value.constant.as_ref());
        let tile = self
            .nodes
            .iter()
            .map(|node| if let Op::DenoiseTile(tile) = &node.op { tile.program.parameters } else { 0 });
        trainable.map(|weight| weight.len()).chain(tile).sum::<usize>() as u64
    }

    /// The node that computes a value.
    fn defining(&self, id: ValueId) -> Option<&Node> {
        // Results are numbered in the nodes' order.
        self.nodes.binary_search_by_key(&id, |node| node.output).ok().map(|index| &self.nodes[index])
    }

    /// The value that another is, but for reshapes and identities, which do not change the values.
    fn source(&self, mut id: ValueId) -> ValueId {
        let moves = |node: &&Node| matches!(node.op, Op::Reshape(_) | Op::Unary(Unary::Identity));
        while let Some(node) = self.defining(id).filter(moves) {
            id = node.inputs[0];
        }
        id
    }

    /// The node that computes a value, but for these.
    fn computes(&self, id: ValueId) -> Option<&Node> {
        self.defining(self.source(id))
    }

    /// `value` before a final Softmax, which TOSA spells `exp(x − reduce_max(x)) · reciprocal(reduce_sum(exp(…)))`, the maximum
    /// being optional.
    fn before_softmax(&self, value: ValueId) -> Option<ValueId> {
        let product = self.computes(value).filter(|node| node.op == Op::Binary(Binary::Mul))?;
        let [a, b] = [self.computes(product.inputs[0])?, self.computes(product.inputs[1])?];
        let is = |node: &Node, function: Unary| node.op == Op::Unary(function);
        let (exponential, inverse) = [(a, b), (b, a)]
            .into_iter()
            .find(|(exponential, inverse)| is(exponential, Unary::Exp) && is(inverse, Unary::Reciprocal))?;
        let reduction = |id: ValueId, wanted: Reduction| {
            self.computes(id).filter(|node| match &node.op {
                Op::Reduce(Reduce { kind, axis }) => {
                    *kind == wanted && axis + 1 == self.values[node.inputs[0]].shape.len()
                }
                _ => false,
            })
        };
        let sum = reduction(inverse.inputs[0], Reduction::Sum)?;
        if self.source(sum.inputs[0]) != exponential.output {
            return None;
        }
        let input = exponential.inputs[0];
        let shifted = self.computes(input).filter(|node| node.op == Op::Binary(Binary::Sub)).filter(|node| {
            let max = reduction(node.inputs[1], Reduction::Max);
            max.is_some_and(|max| self.source(max.inputs[0]) == self.source(node.inputs[0]))
        });
        Some(shifted.map_or(input, |node| node.inputs[0]))
    }
}

/// What an operator is told of a value that has a shape.
fn operand<'a>(value: &Value, shape: &'a [Option<usize>]) -> Operand<'a> {
    Operand { dtype: value.dtype, shape, constant: value.constant.is_some() }
}

/// A program under construction. A value's id is good for the builder that gave it.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    program: Program,
    /// The layers by name.
    layers: BTreeMap<String, LayerId>,
}

impl Builder {
    /// An empty program.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what the network is for.
    pub fn task(&mut self, task: Task) {
        self.program.task = task;
    }

    /// A value made so far. Every id that the builder has given is one.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.program.values[id]
    }

    /// A layer made so far, by name.
    pub fn layer_named(&self, name: &str) -> Option<LayerId> {
        self.layers.get(name).copied()
    }

    /// The program's value of this id.
    fn known(&self, what: &str, id: ValueId) -> Result<&Value, ProgramError> {
        match self.program.values.get(id) {
            Some(value) => Ok(value),
            None => wrong(what, format!("there is no value {id}")),
        }
    }

    /// Adds a value. What follows computes with its size, which must be a number.
    fn push(&mut self, what: &str, value: Value) -> Result<ValueId, ProgramError> {
        if value.shape.len() > MAX_RANK {
            return wrong(what, format!("it has {} axes, more than {MAX_RANK}", value.shape.len()));
        }
        let words = value.sample.iter().try_fold(value.dtype.words(), |words, &size| words.checked_mul(size));
        if words.is_none_or(|words| words > MAX_WORDS) {
            return wrong(what, format!("a sample of shape {:?} is too large", value.sample));
        }
        self.program.values.push(value);
        Ok(self.program.values.len() - 1)
    }

    /// Declares an input of a shape; only axis 0 may be `None`, the batch.
    pub fn input(&mut self, name: &str, dtype: DType, shape: Vec<Option<usize>>) -> Result<ValueId, ProgramError> {
        if shape.iter().skip(1).any(Option::is_none) {
            return wrong(format!("input `{name}`"), "only axis 0 may be the batch");
        }
        let sample = shape.iter().map(|size| size.unwrap_or(1)).collect();
        let value = Value { name: name.to_owned(), shape, sample, dtype, ..Value::default() };
        let id = self.push(&format!("input `{name}`"), value)?;
        self.program.inputs.push(id);
        Ok(id)
    }

    /// Adds a constant of f32, of the weight's shape; a trainable one may be a denoiser's weight only.
    pub fn constant(&mut self, name: &str, weight: Weight, trainable: bool) -> Result<ValueId, ProgramError> {
        let shape = weight.shape().to_vec();
        self.add_constant(name, DType::F32, shape, weight, trainable)
    }

    /// Adds a constant of integers or booleans of a shape; `f32` gives the numbers as floats.
    pub fn integers(
        &mut self,
        name: &str,
        dtype: DType,
        shape: Vec<usize>,
        values: &[i64],
    ) -> Result<ValueId, ProgramError> {
        let words = dtype.encode(values);
        match Weight::new(vec![words.len()], words) {
            Some(weight) => self.add_constant(name, dtype, shape, weight, false),
            None => wrong(format!("constant `{name}`"), "its values do not fit its shape"),
        }
    }

    fn add_constant(
        &mut self,
        name: &str,
        dtype: DType,
        shape: Vec<usize>,
        weight: Weight,
        trainable: bool,
    ) -> Result<ValueId, ProgramError> {
        let value = Value {
            name: name.to_owned(),
            shape: shape.iter().copied().map(Some).collect(),
            sample: shape,
            dtype,
            constant: Some(weight),
            trainable,
        };
        let what = format!("constant `{name}`");
        let found = value.constant.as_ref().map_or(0, Weight::len);
        let id = self.push(&what, value)?;
        let words = self.program.values[id].words();
        if found != words {
            self.program.values.pop();
            return wrong(what, format!("it has {found} words, not {words}"));
        }
        Ok(id)
    }

    /// Declares an analog layer; its name is its own.
    pub fn layer(&mut self, layer: Layer) -> Result<LayerId, ProgramError> {
        if self.layer_named(&layer.name).is_some() {
            return wrong(format!("layer `{}`", layer.name), "it appears twice");
        }
        let shifts = layer.columns.as_ref().map_or(&[][..], |columns| &columns.shift);
        if layer.columns.is_some() && shifts.len() != layer.channels {
            let (name, count, channels) = (&layer.name, shifts.len(), layer.channels);
            return wrong(format!("layer `{name}`"), format!("it has {count} column shifts for {channels} channels"));
        }
        if let Some(shift) = shifts.iter().find(|shift| !(0..=MAX_COLUMN_SHIFT).contains(*shift)) {
            let name = &layer.name;
            return wrong(
                format!("layer `{name}`"),
                format!("the column shift {shift} is not 0 to {MAX_COLUMN_SHIFT}"),
            );
        }
        if let Some(range) = layer.input_range.filter(|range| !(range.is_finite() && *range > 0.0)) {
            return wrong(format!("layer `{}`", layer.name), format!("its input range {range} is not above 0"));
        }
        if let Layer { name, execution: Execution::Analog { reads }, .. } = &layer
            && !(1..=MAX_READS).contains(reads)
        {
            return wrong(format!("layer `{name}`"), format!("it is read {reads} times, not 1 to {MAX_READS}"));
        }
        let id = self.program.layers.len();
        self.layers.insert(layer.name.clone(), id);
        self.program.layers.push(layer);
        Ok(id)
    }

    /// The type that an operation's result would have.
    pub fn infer(&self, op: &Op, inputs: &[ValueId]) -> Result<Type, ProgramError> {
        let operand = |&id| self.known(op.name(), id).map(|value| operand(value, &value.shape));
        let operands = inputs.iter().map(operand).collect::<Result<Vec<_>, _>>()?;
        op.operator().infer(&operands).or_else(|reason| wrong(op.name(), reason))
    }

    /// Adds an operation and its result.
    pub fn node(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId, ProgramError> {
        let op = op.into();
        let Type { dtype, shape } = self.infer(&op, inputs)?;
        if op.analog_layer().or(op.cleans()).is_some_and(|layer| layer >= self.program.layers.len()) {
            return wrong(op.name(), "its layer does not exist");
        }
        let from = usize::from(matches!(op, Op::Denoise(_)));
        let trained = |id: &&ValueId| self.program.values[**id].trainable;
        let (own, weights) = inputs.split_at(from.min(inputs.len()));
        if let Some(&id) = own.iter().find(trained).or(weights.iter().find(trained).filter(|_| from == 0)) {
            let name = &self.program.values[id].name;
            let reason = format!("`{name}` is trainable, but only the weights of denoisers can be trained");
            return wrong(op.name(), reason);
        }
        let sample = self.sample(&op, inputs)?;
        let output = self.push(op.name(), Value { shape, sample, dtype, ..Value::default() })?;
        self.program.nodes.push(Node { op, inputs: inputs.to_vec(), output });
        Ok(output)
    }

    /// The result's shape for one sample: by the same rule from what the operands have for one.
    fn sample(&self, op: &Op, inputs: &[ValueId]) -> Result<Vec<usize>, ProgramError> {
        let values: Vec<&Value> = inputs.iter().map(|&id| &self.program.values[id]).collect();
        let shapes: Vec<Vec<Option<usize>>> =
            values.iter().map(|value| value.sample.iter().copied().map(Some).collect()).collect();
        let operands: Vec<Operand<'_>> =
            values.iter().zip(&shapes).map(|(value, shape)| operand(value, shape)).collect();
        let result = op.operator().infer_sample(&operands).or_else(|reason| wrong(op.name(), reason))?;
        match result.shape.into_iter().collect() {
            Some(sample) => Ok(sample),
            None => wrong(op.name(), "its result has no fixed size for one sample"),
        }
    }

    /// Declares a value an output of a name; one that has a name already is so through an identity.
    pub fn output(&mut self, id: ValueId, name: &str) -> Result<(), ProgramError> {
        let id = match self.known("an output", id)?.name.is_empty() {
            true => id,
            false => self.node(Unary::Identity, &[id])?,
        };
        name.clone_into(&mut self.program.values[id].name);
        self.program.outputs.push(id);
        Ok(())
    }

    /// The program; its loss is taken of output `chosen`, before a final Softmax if it ends in one.
    pub fn finish(mut self, chosen: usize) -> Result<Program, ProgramError> {
        let Some(&output) = self.program.outputs.get(chosen) else {
            return wrong("the program", format!("it has no output {chosen}"));
        };
        self.program.logits = self.program.before_softmax(output).unwrap_or(output);
        Ok(self.program)
    }
}
