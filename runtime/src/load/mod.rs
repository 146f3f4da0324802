//! From a module to a [`Program`]: reads `@main` of any level (graph, analog, denoise, dtile) and binds its weights.
//!
//! At the dtile level a layer's denoisers are a `dtile.launch` of a function between `quant` casts; these become one
//! [`Op::DenoiseTile`], which computes in integers. What is quantised but runs on no tile is refused rather than imitated in
//! floating point.
//!
//! Where the batch goes: in a program it is axis 0 of every value that depends on an input. TOSA's rank-3 matmul makes
//! modules move it (`[N, C]` → `[1, N, C]`, or `[N, T, C]` → `[1, N·T, C]` with tokens); such values keep the program
//! shapes `[N, C]` and `[N, T, C]`, and the reshapes around the matmul vanish. A static batch size is read as the
//! batch, too, unless `@main` carries the attribute `mxc.whole`: then the module computes across axis 0, has no batch, and a
//! program value has the shape of its IR value.

mod ops;

use crate::{
    digital::{DigitalError, program::TileProgram},
    program::{Binary, DType, Node, Op, Program, Reduce, Unary, Value, ValueId},
    store::{Weight, WeightStore},
};
use melior::ir::{
    Attribute, BlockLike, Module, OperationRef, ShapedTypeLike, Type, TypeLike, Value as IrValue, ValueLike,
    attribute::{ArrayAttribute, DictionaryAttribute},
    operation::OperationLike,
    r#type::{IntegerType, RankedTensorType},
};
use mxc_dialects::{ffi, ir};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Why a module cannot become a program.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no function `@main` with a body.
    #[error("the module has no function @main with a body")]
    NoMain,
    /// `@main` holds operations that the executor does not know; all of them are listed.
    #[error("operations that cannot be executed:\n  {}", .0.join("\n  "))]
    UnknownOps(Vec<String>),
    /// An operation is used in a way the executor does not support, or is inconsistent.
    #[error("{op} at {location}: {reason}")]
    Op {
        /// The operation's name.
        op: String,
        /// Its location in the source.
        location: String,
        /// What is wrong, and the mend.
        reason: String,
    },
    /// A program of the digital tile is broken or not scheduled.
    #[error(transparent)]
    Tile(#[from] DigitalError),
    /// An input or output of `@main` is unsuitable.
    #[error("{0}")]
    Signature(String),
    /// A weight that the module names is not in the weight store.
    #[error("weight `{0}` is not in the weight store; pass the file that holds it")]
    MissingWeight(String),
    /// A weight's shape is not what the module declares.
    #[error("weight `{name}` has shape {found:?} in the weight store but {declared:?} in the module")]
    WeightShape {
        /// The weight.
        name: String,
        /// Its shape in the store.
        found: Vec<usize>,
        /// Its shape in the module.
        declared: Vec<usize>,
    },
}

/// The values of a `tosa.const` of f32; one that says a single value for all of them stays a fill. `None` for other elements
/// or another number of them.
pub fn inline_weight(shape: Vec<usize>, values: Attribute<'_>) -> Option<Weight> {
    match ffi::dense_f32_splat(values) {
        Some(value) => Weight::fill(shape, value),
        None => Weight::new(shape, ffi::dense_f32(values)?),
    }
}

/// Reads a module of any level into a program.
///
/// `weights` holds the values of the `ml_program` globals that the module declares external. Errors name the operation
/// and its location.
pub fn program(module: &Module<'_>, weights: &WeightStore) -> Result<Program, LoadError> {
    let main = ir::main_function(module).ok_or(LoadError::NoMain)?;
    let block = ir::entry_block(main).ok_or(LoadError::NoMain)?;
    let operations = ir::block_ops(block);
    let unknown: Vec<String> = operations
        .iter()
        .map(|operation| (ir::op_name(operation), operation))
        .filter(|(name, _)| !ops::is_known(name))
        .map(|(name, operation)| format!("{name} at {}", operation.location()))
        .collect();
    if !unknown.is_empty() {
        return Err(LoadError::UnknownOps(unknown));
    }

    let tiles = match operations.iter().any(|operation| ir::op_name(operation) == ops::LAUNCH) {
        true => TileProgram::read_all(module)?,
        false => Vec::new(),
    };
    let mut loader = Loader {
        weights,
        tiles: tiles.into_iter().map(|tile| (tile.symbol.clone(), Arc::new(tile))).collect(),
        globals: globals(module),
        program: Program::default(),
        batch: None,
        whole: main.attribute(ir::WHOLE_ATTRIBUTE).is_ok(),
        values: HashMap::new(),
        loaded: BTreeMap::new(),
    };
    let inputs = names(&main, "arg_attrs", block.argument_count(), "input");
    for (index, name) in inputs.into_iter().enumerate() {
        let argument = block.argument(index).map_err(|error| LoadError::Signature(error.to_string()))?;
        loader.input(index, name, argument.into())?;
    }
    let mut returned = None;
    for operation in &operations {
        if ir::op_name(operation) == "func.return" {
            returned = Some(*operation);
        } else {
            loader.operation(operation)?;
        }
    }
    let returned = returned.ok_or(LoadError::NoMain)?;
    let outputs = names(&main, "res_attrs", returned.operand_count(), "output");
    let chosen = match ir::string_attr(&main, ir::LOGITS_ATTRIBUTE) {
        Some(chosen) => outputs.iter().position(|name| *name == chosen).ok_or_else(|| {
            let reason = format!("no output `{chosen}`, which `{}` names", ir::LOGITS_ATTRIBUTE);
            LoadError::Signature(format!("{reason}; the outputs are {}", outputs.join(", ")))
        })?,
        None => 0,
    };
    for (index, name) in outputs.into_iter().enumerate() {
        loader.output(&returned, index, name)?;
    }
    let mut program = loader.program;
    let output = *program
        .outputs
        .get(chosen)
        .ok_or_else(|| LoadError::Signature("@main returns nothing; a network needs an output".into()))?;
    program.logits = logits(&program, output);
    Ok(program)
}

/// The names of `@main`'s arguments or results; those without the attribute are numbered.
fn names(main: &OperationRef<'_, '_>, attribute: &str, count: usize, fallback: &str) -> Vec<String> {
    let array = main.attribute(attribute).ok().and_then(|attribute| ArrayAttribute::try_from(attribute).ok());
    (0..count)
        .map(|index| {
            array
                .and_then(|array| array.element(index).ok())
                .and_then(|element| DictionaryAttribute::try_from(element).ok())
                .and_then(|dictionary| entry(&dictionary, ir::NAME_ATTRIBUTE))
                .and_then(ir::as_string)
                .unwrap_or_else(|| format!("{fallback}{index}"))
        })
        .collect()
}

/// A dictionary's entry.
fn entry<'c>(dictionary: &DictionaryAttribute<'c>, name: &str) -> Option<melior::ir::Attribute<'c>> {
    dictionary.element_by_name(name)
}

/// The `ml_program.global` operations by symbol.
fn globals<'c, 'a>(module: &'a Module<'c>) -> BTreeMap<String, OperationRef<'c, 'a>> {
    ir::module_ops(module)
        .into_iter()
        .filter(|operation| ir::op_name(operation) == "ml_program.global")
        .filter_map(|operation| Some((ir::string_attr(&operation, "sym_name")?, operation)))
        .collect()
}

/// How an IR value's axes map to the program value's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct View {
    /// How many leading axes of size 1 stand before the batch axis in the IR.
    lead: usize,
    /// The IR's batch axis is N·tokens long; the program has an axis of this size after the batch if it is not 1.
    tokens: usize,
    /// There is no batch: the axes are the program's.
    whole: bool,
}

impl View {
    /// The batch is axis 0 and the axes are the program's.
    const PLAIN: Self = Self { lead: 0, tokens: 1, whole: false };
    /// There is no batch.
    const WHOLE: Self = Self { lead: 0, tokens: 1, whole: true };

    /// How many program axes come before those that follow the IR's batch axis.
    fn head(self) -> usize {
        match (self.whole, self.tokens) {
            (true, _) => 0,
            (false, 1) => 1,
            _ => 2,
        }
    }

    /// The program axis of an IR axis after the batch axis.
    fn axis(self, axis: usize) -> Option<usize> {
        if self.whole {
            return Some(axis);
        }
        (axis > self.lead).then(|| axis - self.lead - 1 + self.head())
    }

    /// The rank of the IR value whose program value has the rank `program`.
    fn rank(self, program: usize) -> usize {
        if self.whole { program } else { program - self.head() + self.lead + 1 }
    }
}

/// What an IR value is.
#[derive(Clone, Debug)]
enum Bound {
    /// A value that depends on an input.
    Activation(ValueId, View),
    /// The 16-bit words of a value that depends on an input: what quantising it with so many fraction bits gives. Whether the
    /// value comes from the tile, so that dequantising the words gives it back.
    Words(ValueId, View, i32, bool),
    /// A constant tensor, not yet a program value; the name is the global's or empty.
    Constant(String, Weight),
    /// A constant of integers and its shape: an operand of integer operations, a shape or a shift.
    Integers(Vec<i64>, Vec<usize>),
}

/// The state of reading one module.
struct Loader<'c, 'a> {
    weights: &'a WeightStore,
    /// The programs of the digital tile by symbol.
    tiles: BTreeMap<String, Arc<TileProgram>>,
    globals: BTreeMap<String, OperationRef<'c, 'a>>,
    program: Program,
    /// The static batch size of the inputs, or `None` when it is dynamic.
    batch: Option<usize>,
    /// Whether the module has no batch.
    whole: bool,
    /// The IR values read so far, by identity.
    values: HashMap<usize, Bound>,
    /// The program values of globals that are used as they are, so that each becomes one value.
    loaded: BTreeMap<(String, Vec<usize>), ValueId>,
}

impl<'c, 'a> Loader<'c, 'a> {
    /// Declares an input.
    fn input(&mut self, index: usize, name: String, value: IrValue<'c, '_>) -> Result<(), LoadError> {
        let error = |reason: &str| LoadError::Signature(format!("input `{name}` of type {}: {reason}", value.r#type()));
        let dtype = dtype(value).ok_or_else(|| error("inputs must be ranked tensors of f32, i32, i64 or i1"))?;
        let mut shape = ir::value_shape(value).ok_or_else(|| error("inputs must be ranked tensors"))?;
        if self.whole {
            if shape.iter().any(|&size| size.is_none_or(|size| size == 0)) {
                return Err(error("without a batch its shape must be static, and not empty"));
            }
            let id = self.value(name, shape, dtype, None);
            self.program.inputs.push(id);
            self.bind(value, Bound::Activation(id, View::WHOLE));
            return Ok(());
        }
        let batch = *shape.first().ok_or_else(|| error("it has no axes; axis 0 must be the batch"))?;
        if index == 0 {
            self.batch = batch;
        } else if self.batch != batch {
            return Err(error("its batch (axis 0) differs from the first input's"));
        }
        if batch == Some(0) || shape[1..].contains(&Some(0)) {
            return Err(error("it is empty"));
        }
        if shape[1..].contains(&None) {
            return Err(error("only axis 0, the batch, may be dynamic; give the others with --input-shape"));
        }
        shape[0] = None;
        let id = self.value(name, shape, dtype, None);
        self.program.inputs.push(id);
        self.bind(value, Bound::Activation(id, View::PLAIN));
        Ok(())
    }

    /// Declares an output: names its value, through an identity where the value has another name already.
    fn output(&mut self, returned: &OperationRef<'c, '_>, index: usize, name: String) -> Result<(), LoadError> {
        let id = match self.operand(returned, index)?.clone() {
            Bound::Activation(id, View::PLAIN | View::WHOLE) => id,
            Bound::Constant(name, weight) if self.whole => self.constant_value(name, weight),
            Bound::Integers(values, shape) if self.whole => {
                let value = returned.operand(index).map_err(|error| LoadError::Signature(error.to_string()))?;
                self.integer_value(&values, shape, dtype(value).unwrap_or(DType::I64))
            }
            _ => {
                self.activation(returned, index)?;
                return Err(LoadError::Signature(format!("output `{name}`: its batch must be axis 0")));
            }
        };
        let id = if self.program.values[id].name.is_empty() {
            id
        } else {
            let Value { shape, dtype, .. } = self.program.values[id].clone();
            self.node(Op::Unary(Unary::Identity), vec![id], shape, dtype)
        };
        self.program.values[id].name = name;
        self.program.outputs.push(id);
        Ok(())
    }

    /// Adds a program value.
    fn value(&mut self, name: String, shape: Vec<Option<usize>>, dtype: DType, constant: Option<Weight>) -> ValueId {
        self.program.values.push(Value { name, shape, dtype, constant, trainable: false });
        self.program.values.len() - 1
    }

    /// The program value of a constant of integers.
    fn integer_value(&mut self, values: &[i64], shape: Vec<usize>, dtype: DType) -> ValueId {
        let words = dtype.encode(values);
        let constant = Weight::new(vec![words.len()], words);
        self.value(String::new(), shape.into_iter().map(Some).collect(), dtype, constant)
    }

    /// Adds a node and its result.
    fn node(&mut self, op: Op, inputs: Vec<ValueId>, shape: Vec<Option<usize>>, dtype: DType) -> ValueId {
        let output = self.value(String::new(), shape, dtype, None);
        self.program.nodes.push(Node { op, inputs, output });
        output
    }

    /// Remembers what an IR value is.
    fn bind(&mut self, value: IrValue<'c, '_>, bound: Bound) {
        self.values.insert(identity(value), bound);
    }

    /// What an operand is.
    fn operand(&self, operation: &OperationRef<'c, '_>, index: usize) -> Result<&Bound, LoadError> {
        operation
            .operand(index)
            .ok()
            .and_then(|value| self.values.get(&identity(value)))
            .ok_or_else(|| fail(operation, format!("operand {index} is missing or undefined")))
    }

    /// An operand that depends on an input.
    fn activation(&self, operation: &OperationRef<'c, '_>, index: usize) -> Result<(ValueId, View), LoadError> {
        match self.operand(operation, index)? {
            Bound::Activation(id, view) => Ok((*id, *view)),
            Bound::Words(..) => Err(fail(
                operation,
                format!(
                    "operand {index} is quantised; only the digital tile computes on words (lower-to-dtile, schedule-dtile)"
                ),
            )),
            _ => Err(fail(
                operation,
                format!("operand {index} is a constant; fold constants first (canonicalize-graph)"),
            )),
        }
    }

    /// An operand that depends on an input and has its batch at axis 0.
    fn plain(&self, operation: &OperationRef<'c, '_>, index: usize) -> Result<ValueId, LoadError> {
        match self.activation(operation, index)? {
            (id, View::PLAIN | View::WHOLE) => Ok(id),
            _ => Err(fail(operation, format!("operand {index} must have the batch at axis 0"))),
        }
    }

    /// A constant tensor operand with its name.
    fn constant(&self, operation: &OperationRef<'c, '_>, index: usize) -> Result<(String, Weight), LoadError> {
        match self.operand(operation, index)? {
            Bound::Constant(name, weight) => Ok((name.clone(), weight.clone())),
            _ => Err(fail(operation, format!("operand {index} must be a constant f32 tensor"))),
        }
    }

    /// A constant operand of integers.
    fn integers(&self, operation: &OperationRef<'c, '_>, index: usize) -> Result<Vec<i64>, LoadError> {
        match self.operand(operation, index)? {
            Bound::Integers(values, _) => Ok(values.clone()),
            _ => Err(fail(operation, format!("operand {index} must be a constant of integers"))),
        }
    }

    /// The program value of a constant; a named one is shared by all its uses of one shape.
    fn constant_value(&mut self, name: String, weight: Weight) -> ValueId {
        let shape = weight.shape().to_vec();
        let key = (name.clone(), shape.clone());
        if let Some(&id) = self.loaded.get(&key).filter(|_| !name.is_empty()) {
            return id;
        }
        let dimensions = shape.into_iter().map(Some).collect();
        let id = self.value(name, dimensions, DType::F32, Some(weight));
        self.loaded.insert(key, id);
        id
    }

    /// The program value of a constant whose values were rearranged: not shared with other uses of the global.
    fn repacked_value(&mut self, name: String, weight: Weight) -> ValueId {
        let shape = weight.shape().iter().copied().map(Some).collect();
        self.value(name, shape, DType::F32, Some(weight))
    }

    /// The weight a `global_load_const` loads.
    fn global(&self, operation: &OperationRef<'c, '_>) -> Result<(String, Weight), LoadError> {
        let name = ir::symbol_attr(operation, "global").ok_or_else(|| fail(operation, "it names no global".into()))?;
        let result = result(operation)?;
        let declared = static_shape(result)
            .filter(|_| is_f32(result))
            .ok_or_else(|| fail(operation, format!("`{name}` must be a static f32 tensor")))?;
        let inline = self
            .globals
            .get(&name)
            .ok_or_else(|| fail(operation, format!("the module declares no global `{name}`")))?
            .attribute("value")
            .ok()
            .and_then(ffi::dense_f32);
        let weight = match inline {
            Some(values) => Weight::new(declared.clone(), values)
                .ok_or_else(|| fail(operation, format!("`{name}`: its value does not fit its type")))?,
            None => self.weights.get(&name).cloned().ok_or_else(|| LoadError::MissingWeight(name.clone()))?,
        };
        if weight.shape() != declared {
            return Err(LoadError::WeightShape { name, found: weight.shape().to_vec(), declared });
        }
        Ok((name, weight))
    }

    /// The program shape of a result whose batch axis stands where `view` says.
    fn shape(&self, operation: &OperationRef<'c, '_>, view: View) -> Result<Vec<Option<usize>>, LoadError> {
        let result = result(operation)?;
        let error = |reason: &str| fail(operation, format!("its result {} {reason}", result.r#type()));
        let shape = ir::value_shape(result)
            .filter(|_| dtype(result).is_some())
            .ok_or_else(|| error("must be a ranked tensor of f32, i32, i64 or i1"))?;
        if view.whole {
            return match shape.iter().any(|&size| size.is_none_or(|size| size == 0)) {
                true => Err(error("must be static, and not empty")),
                false => Ok(shape),
            };
        }
        let batch_fits = shape
            .get(view.lead)
            .is_some_and(|&size| size == self.batch.and_then(|batch| batch.checked_mul(view.tokens)));
        if !batch_fits || shape[..view.lead].iter().any(|&size| size != Some(1)) {
            return Err(error("has its batch axis elsewhere than its operand"));
        }
        let mut program = vec![None];
        if view.tokens != 1 {
            program.push(Some(view.tokens));
        }
        for &size in &shape[view.lead + 1..] {
            match size {
                Some(0) => return Err(error("is empty")),
                Some(_) => program.push(size),
                None => return Err(error("has a dynamic axis besides the batch")),
            }
        }
        Ok(program)
    }

    /// Adds a node whose result has the view `view`, and binds the operation's result to it.
    fn emit(
        &mut self,
        operation: &OperationRef<'c, '_>,
        op: Op,
        inputs: Vec<ValueId>,
        view: View,
    ) -> Result<ValueId, LoadError> {
        let shape = self.shape(operation, view)?;
        let value = result(operation)?;
        let id = self.node(op, inputs, shape, dtype(value).unwrap_or_default());
        self.bind(value, Bound::Activation(id, view));
        Ok(id)
    }

    /// As [`Loader::emit`], after checking that the result's shape is `expected` (program axes).
    fn emit_checked(
        &mut self,
        operation: &OperationRef<'c, '_>,
        op: Op,
        inputs: Vec<ValueId>,
        view: View,
        expected: &[Option<usize>],
    ) -> Result<ValueId, LoadError> {
        let shape = self.shape(operation, view)?;
        if shape != expected {
            return Err(fail(operation, format!("its result is {shape:?} but its operands give {expected:?}")));
        }
        self.emit(operation, op, inputs, view)
    }
}

/// The identity of an IR value.
fn identity(value: IrValue<'_, '_>) -> usize {
    value.to_raw().ptr as usize
}

/// An operation's only result.
fn result<'c, 'a>(operation: &OperationRef<'c, 'a>) -> Result<IrValue<'c, 'a>, LoadError> {
    operation.result(0).map(Into::into).map_err(|_| fail(operation, "it has no result".into()))
}

/// The type of a ranked tensor's elements.
fn element<'c>(value: IrValue<'c, '_>) -> Option<Type<'c>> {
    RankedTensorType::try_from(value.r#type()).ok().map(|tensor| tensor.element())
}

/// Whether a value is a tensor of f32.
fn is_f32(value: IrValue<'_, '_>) -> bool {
    dtype(value) == Some(DType::F32)
}

/// Whether a value is a tensor of 16-bit words.
fn is_i16(value: IrValue<'_, '_>) -> bool {
    element(value).and_then(|element| IntegerType::try_from(element).ok()).is_some_and(|integer| integer.width() == 16)
}

/// The type of a tensor's elements, where values may have it.
fn dtype(value: IrValue<'_, '_>) -> Option<DType> {
    let element = element(value)?;
    if element.is_f32() {
        return Some(DType::F32);
    }
    match IntegerType::try_from(element).ok()?.width() {
        1 => Some(DType::Bool),
        32 => Some(DType::I32),
        64 => Some(DType::I64),
        _ => None,
    }
}

/// The shape of a static tensor.
fn static_shape(value: IrValue<'_, '_>) -> Option<Vec<usize>> {
    ir::value_shape(value)?.into_iter().collect()
}

/// An error about an operation.
fn fail(operation: &OperationRef<'_, '_>, reason: String) -> LoadError {
    LoadError::Op { op: ir::op_name(operation), location: operation.location().to_string(), reason }
}

/// The value that the loss is taken of: `output` before a final Softmax, which TOSA spells
/// `exp(x − reduce_max(x)) · reciprocal(reduce_sum(exp(…)))`, the maximum being optional.
fn logits(program: &Program, output: ValueId) -> ValueId {
    softmax_input(program, output).unwrap_or(output)
}

fn softmax_input(program: &Program, output: ValueId) -> Option<ValueId> {
    let defining = |id: ValueId| program.nodes.iter().find(|node| node.output == id);
    // Reshapes and identities do not change the values.
    let through = |mut id: ValueId| {
        while let Some(node) = defining(id).filter(|node| matches!(node.op, Op::Reshape | Op::Unary(Unary::Identity))) {
            id = node.inputs[0];
        }
        id
    };
    let product = defining(through(output)).filter(|node| node.op == Op::Binary(Binary::Mul))?;
    let operands = [through(product.inputs[0]), through(product.inputs[1])];
    let (exponential, inverse) = [(operands[0], operands[1]), (operands[1], operands[0])]
        .into_iter()
        .find(|(exponential, _)| defining(*exponential).is_some_and(|node| node.op == Op::Unary(Unary::Exp)))?;
    let inverse = defining(inverse).filter(|node| node.op == Op::Unary(Unary::Reciprocal))?;
    let last_axis = |id: ValueId| program.values[id].shape.len().checked_sub(1);
    let reduction = |id: ValueId, kind: Reduce| {
        defining(through(id)).filter(|node| {
            matches!(node.op, Op::Reduce { kind: k, axis }
                if k == kind && Some(axis) == last_axis(node.inputs[0]))
        })
    };
    let sum = reduction(inverse.inputs[0], Reduce::Sum)?;
    if through(sum.inputs[0]) != exponential {
        return None;
    }
    let input = defining(exponential)?.inputs[0];
    let shifted = defining(through(input)).filter(|node| node.op == Op::Binary(Binary::Sub)).filter(|node| {
        reduction(node.inputs[1], Reduce::Max).is_some_and(|max| through(max.inputs[0]) == through(node.inputs[0]))
    });
    Some(shifted.map_or(input, |node| node.inputs[0]))
}

#[cfg(test)]
mod tests;
