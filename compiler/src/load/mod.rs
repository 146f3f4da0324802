//! From a module to a [`Program`]: reads `@main` of any level (graph, analog, denoise, dtile) and binds its weights.
//!
//! At the dtile level a layer's denoisers are a `dtile.launch` of a function between `quant` casts; these become one
//! [`DenoiseTile`](mxc_runtime::program::DenoiseTile), which computes in integers. What is quantised but runs on no tile is refused rather than imitated in
//! floating point.
//!
//! Where the batch goes: in a program it is axis 0 of every value that depends on an input. TOSA's rank-3 matmul makes
//! modules move it (`[N, C]` → `[1, N, C]`, or `[N, T, C]` → `[1, N·T, C]` with tokens); such values keep the program
//! shapes `[N, C]` and `[N, T, C]`, and the reshapes around the matmul vanish. A static batch size is read as the
//! batch, too, unless `@main` carries the attribute `mxc.whole`: then the module computes across axis 0, has no batch, and a
//! program value has the shape of its IR value.

mod elementwise;
mod indexed;
mod layers;
mod layout;
mod product;
pub mod schedule;
pub mod tile;
mod view;

use melior::ir::{
    Attribute, BlockLike, Module, OperationRef, ShapedTypeLike, Type, TypeLike, Value as IrValue, ValueLike,
    attribute::{ArrayAttribute, DictionaryAttribute},
    operation::OperationLike,
    r#type::{IntegerType, RankedTensorType},
};
use mxc_dialects::{ffi, ir, shape::show, tosa};
use mxc_runtime::{
    digital::{DigitalError, program::TileProgram},
    program::{Builder, DType, Op, Program, Type as ValueType, ValueId},
    store::{Weight, WeightStore},
    task::UnknownTask,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use view::View;

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
    let (returned, operations): (Vec<_>, Vec<_>) =
        operations.into_iter().partition(|operation| ir::op_name(operation) == RETURN);
    let returned = *returned.last().ok_or(LoadError::NoMain)?;
    let unknown: Vec<String> = operations
        .iter()
        .map(|operation| (ir::op_name(operation), operation))
        .filter(|(_, operation)| !is_known(operation))
        .map(|(name, operation)| format!("{name} at {}", operation.location()))
        .collect();
    if !unknown.is_empty() {
        return Err(LoadError::UnknownOps(unknown));
    }
    let tiles = match operations.iter().any(|operation| ir::op_name(operation) == layers::LAUNCH) {
        true => tile::programs(module)?,
        false => Vec::new(),
    };
    let mut loader = Loader {
        weights,
        tiles: tiles.into_iter().map(|tile| (tile.symbol.clone(), Arc::new(tile))).collect(),
        globals: globals(module),
        program: Builder::new(),
        batch: None,
        whole: main.attribute(ir::WHOLE_ATTRIBUTE).is_ok(),
        values: HashMap::new(),
        loaded: BTreeMap::new(),
        trained: BTreeMap::new(),
    };
    if let Some(task) = ir::string_attr(&main, ir::TASK_ATTRIBUTE) {
        let unknown = |error: UnknownTask| LoadError::Signature(format!("{}: {error}", ir::TASK_ATTRIBUTE));
        loader.program.task(task.parse().map_err(unknown)?);
    }
    let inputs = names(&main, "arg_attrs", block.argument_count(), "input");
    for (index, name) in inputs.into_iter().enumerate() {
        let argument = block.argument(index).map_err(|error| LoadError::Signature(error.to_string()))?;
        loader.input(index, name, argument.into())?;
    }
    for operation in &operations {
        loader.operation(operation)?;
    }
    let outputs = names(&main, "res_attrs", returned.operand_count(), "output");
    if outputs.is_empty() {
        return Err(LoadError::Signature("@main returns nothing; a network needs an output".into()));
    }
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
    loader.program.finish(chosen).map_err(|error| LoadError::Signature(error.to_string()))
}

/// The operation that ends `@main`.
const RETURN: &str = "func.return";

/// Reads one operation.
type Build<'c, 'l> = fn(&mut Loader<'c, 'l>, &OperationRef<'c, '_>) -> Result<(), LoadError>;

/// Whether an operation can be read.
fn is_known(operation: &OperationRef<'_, '_>) -> bool {
    // What is malformed is TOSA's all the same: it is refused where it is read.
    !matches!(tosa::Op::parse(*operation), Ok(None)) || layers::operation(&ir::op_name(operation)).is_some()
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
    program: Builder,
    /// The static batch size of the inputs, or `None` when it is dynamic.
    batch: Option<usize>,
    /// Whether the module has no batch.
    whole: bool,
    /// The IR values read so far, by identity.
    values: HashMap<usize, Bound>,
    /// The program values of globals that are used as they are, so that each becomes one value.
    loaded: BTreeMap<(String, Vec<usize>), ValueId>,
    /// Those of denoisers' weights, by name.
    trained: BTreeMap<String, ValueId>,
}

impl<'c> Loader<'c, '_> {
    /// Declares an input.
    fn input(&mut self, index: usize, name: String, value: IrValue<'c, '_>) -> Result<(), LoadError> {
        let error = |reason: &str| LoadError::Signature(format!("input `{name}` of type {}: {reason}", value.r#type()));
        let dtype = dtype(value).ok_or_else(|| error("inputs must be ranked tensors of f32, i32, i64 or i1"))?;
        let mut shape = ir::value_shape(value).ok_or_else(|| error("inputs must be ranked tensors"))?;
        let view = if self.whole { View::WHOLE } else { View::PLAIN };
        if self.whole {
            if shape.iter().any(|&size| size.is_none_or(|size| size == 0)) {
                return Err(error("without a batch its shape must be static, and not empty"));
            }
        } else {
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
        }
        let id = self.program.input(&name, dtype, shape).map_err(|reason| error(&reason.reason))?;
        self.bind(value, Bound::Activation(id, view));
        Ok(())
    }

    /// Declares an output.
    fn output(&mut self, returned: &OperationRef<'c, '_>, index: usize, name: String) -> Result<(), LoadError> {
        let id = match self.operand(returned, index)?.clone() {
            Bound::Activation(id, View::PLAIN | View::WHOLE) => id,
            Bound::Constant(name, weight) if self.whole => self.constant_value(returned, name, weight)?,
            Bound::Integers(values, shape) if self.whole => {
                let value = returned.operand(index).map_err(|error| LoadError::Signature(error.to_string()))?;
                self.integer_value(returned, &values, shape, dtype(value).unwrap_or(DType::I64))?
            }
            _ => {
                self.activation(returned, index)?;
                return Err(LoadError::Signature(format!("output `{name}`: its batch must be axis 0")));
            }
        };
        self.program.output(id, &name).map_err(|error| LoadError::Signature(format!("output `{name}`: {error}")))
    }

    /// Reads one operation.
    fn operation(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        match tosa::Op::parse(*op).map_err(|reason| fail(op, reason))? {
            Some(view) => self.tosa(op, view),
            None => match layers::operation(&ir::op_name(op)) {
                Some(build) => build(self, op),
                None => Err(fail(op, "it cannot be executed".into())),
            },
        }
    }

    /// Reads an operation of TOSA.
    fn tosa(&mut self, op: &OperationRef<'c, '_>, view: tosa::Op<'c, '_>) -> Result<(), LoadError> {
        match view {
            tosa::Op::Unary(view) => self.unary(op, view.function),
            tosa::Op::Binary(view) => self.binary(op, view.function),
            tosa::Op::Clamp(view) => self.clamp(op, view.min_val, view.max_val),
            tosa::Op::Cast(_) => self.cast(op),
            tosa::Op::Select(_) => self.select(op),
            tosa::Op::Reduce(view) => self.reduce(op, view.reduction, view.axis),
            tosa::Op::ArgMax(view) => self.argmax(op, view.axis),
            tosa::Op::Conv2d(view) => self.conv2d(op, view),
            tosa::Op::DepthwiseConv2d(view) => self.depthwise_conv2d(op, view),
            tosa::Op::MatMul(_) => self.matmul(op),
            tosa::Op::AvgPool2d(view) => self.avg_pool2d(op, view),
            tosa::Op::MaxPool2d(view) => self.max_pool2d(op, view),
            tosa::Op::Constant(view) => self.inline_constant(op, view.values),
            tosa::Op::Identity(_) => self.alias(op),
            tosa::Op::Reshape(_) => self.reshape(op),
            tosa::Op::Transpose(view) => self.transpose(op, &view.perms),
            tosa::Op::Concat(view) => self.concat(op, view.axis),
            tosa::Op::Slice(_) => self.slice(op),
            tosa::Op::Pad(_) => self.pad(op),
            tosa::Op::Tile(_) => self.tile(op),
            tosa::Op::Custom(view) => self.custom(op, view.custom),
        }
    }

    /// Reads an operation that TOSA lacks.
    fn custom(&mut self, op: &OperationRef<'c, '_>, custom: tosa::Custom) -> Result<(), LoadError> {
        match custom {
            tosa::Custom::Unary(function) => self.custom_unary(op, function),
            tosa::Custom::Binary(function) => self.custom_binary(op, function),
            tosa::Custom::Quantize { scale, zero, low, high } => self.quantize(op, [scale, zero, low, high]),
            tosa::Custom::Conv2d { stride, pad, dilation, groups } => self.grouped(op, stride, pad, dilation, groups),
            tosa::Custom::Broadcast => self.broadcast(op),
            tosa::Custom::Take { axis } => self.take(op, axis),
            tosa::Custom::Pick { axis } => self.pick(op, axis),
            tosa::Custom::Scatter { axis, reduction } => self.scatter(op, axis, reduction),
            tosa::Custom::TopK { axis, count, largest } => self.top_k(op, axis, count, largest),
            tosa::Custom::CumSum { axis, exclusive, reverse } => self.cum_sum(op, axis, exclusive, reverse),
            tosa::Custom::GridSample { mode, padding, align_corners } => {
                self.grid_sample(op, mode, padding, align_corners)
            }
        }
    }

    /// The program value of a constant of integers.
    fn integer_value(
        &mut self,
        op: &OperationRef<'c, '_>,
        values: &[i64],
        shape: Vec<usize>,
        dtype: DType,
    ) -> Result<ValueId, LoadError> {
        self.program.integers("", dtype, shape, values).map_err(|error| fail(op, error.reason))
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
    fn constant_value(
        &mut self,
        op: &OperationRef<'c, '_>,
        name: String,
        weight: Weight,
    ) -> Result<ValueId, LoadError> {
        let key = (name.clone(), weight.shape().to_vec());
        if let Some(&id) = self.loaded.get(&key).filter(|_| !name.is_empty()) {
            return Ok(id);
        }
        if self.trained.contains_key(&name) {
            return Err(fail(op, format!("`{name}` is a denoiser's weight; only denoisers may read it")));
        }
        let id = self.repacked_value(op, &name, weight)?;
        self.loaded.insert(key, id);
        Ok(id)
    }

    /// The program value of a denoiser's weight.
    fn trainable_value(
        &mut self,
        op: &OperationRef<'c, '_>,
        name: String,
        weight: Weight,
    ) -> Result<ValueId, LoadError> {
        if self.loaded.range((name.clone(), Vec::new())..).next().is_some_and(|((other, _), _)| *other == name) {
            return Err(fail(op, format!("`{name}` is not this denoiser's alone; only denoisers may read it")));
        }
        if let Some(&id) = self.trained.get(&name) {
            return Ok(id);
        }
        let id = self.program.constant(&name, weight, true).map_err(|error| fail(op, error.reason))?;
        self.trained.insert(name, id);
        Ok(id)
    }

    /// The program value of a constant whose values were rearranged: not shared with other uses of the global.
    fn repacked_value(&mut self, op: &OperationRef<'c, '_>, name: &str, weight: Weight) -> Result<ValueId, LoadError> {
        self.program.constant(name, weight, false).map_err(|error| fail(op, error.reason))
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

    /// Adds a node whose result has the view `view`, checks that the operation's result has the type that the operands give,
    /// and binds it.
    fn emit(
        &mut self,
        op: &OperationRef<'c, '_>,
        node: impl Into<Op>,
        inputs: &[ValueId],
        view: View,
    ) -> Result<ValueId, LoadError> {
        let node = node.into();
        let declared = self.shape(op, view)?;
        let ValueType { dtype: given, shape } =
            self.program.infer(&node, inputs).map_err(|error| fail(op, error.reason))?;
        let value = result(op)?;
        if shape != declared || dtype(value) != Some(given) {
            let (found, wanted) = (show(&declared), show(&shape));
            return Err(fail(
                op,
                format!("its result is {found} of {}, but its operands give {wanted}", value.r#type()),
            ));
        }
        let id = self.program.node(node, inputs).map_err(|error| fail(op, error.reason))?;
        self.bind(value, Bound::Activation(id, view));
        Ok(id)
    }

    /// The program axis of an operation's axis.
    fn axis(&self, op: &OperationRef<'c, '_>, view: View, axis: i64) -> Result<usize, LoadError> {
        let axis = usize::try_from(axis).map_err(|_| fail(op, "its axis must be a non-negative integer".into()))?;
        view.axis(axis).ok_or_else(|| fail(op, format!("axis {axis} is the batch or out of range")))
    }

    /// Checks that the operands at `indices` (zero points, shifts), where present, are zero.
    fn zero(&self, op: &OperationRef<'c, '_>, indices: &[usize]) -> Result<(), LoadError> {
        for &index in indices.iter().filter(|&&index| index < op.operand_count()) {
            let zero = match self.operand(op, index)? {
                Bound::Constant(_, weight) => weight.values().iter().all(|&value| value == 0.0),
                Bound::Integers(values, _) => values.iter().all(|&value| value == 0),
                Bound::Activation(..) | Bound::Words(..) => false,
            };
            if !zero {
                return Err(fail(op, format!("operand {index} must be the constant zero")));
            }
        }
        Ok(())
    }

    /// Reads a constant.
    fn inline_constant(&mut self, op: &OperationRef<'c, '_>, values: Attribute<'c>) -> Result<(), LoadError> {
        let value = result(op)?;
        let bound = if let Some(integers) = ir::dense_integers(values) {
            let shape = static_shape(value).unwrap_or_else(|| vec![integers.len()]);
            Bound::Integers(integers, shape)
        } else {
            let shape =
                static_shape(value).ok_or_else(|| fail(op, format!("its type {} is not static", value.r#type())))?;
            let weight = inline_weight(shape, values);
            Bound::Constant(
                String::new(),
                weight.ok_or_else(|| {
                    fail(
                        op,
                        "only dense f32 and integer values can be read; keep large ones in ml_program globals".into(),
                    )
                })?,
            )
        };
        self.bind(value, bound);
        Ok(())
    }

    /// Binds the result to what the first operand is.
    fn alias(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let bound = self.operand(op, 0)?.clone();
        self.bind(result(op)?, bound);
        Ok(())
    }

    /// The operands at `indices` of an elementwise operation, constants broadcast to the others' axes.
    fn operands(&mut self, op: &OperationRef<'c, '_>, indices: &[usize]) -> Result<(Vec<ValueId>, View), LoadError> {
        let mut view = None;
        for &index in indices {
            if let Bound::Activation(_, own) = self.operand(op, index)? {
                if view.is_some_and(|view| view != *own) {
                    return Err(fail(op, "its operands have their batch at different axes".into()));
                }
                view = Some(*own);
            }
        }
        let view = view
            .ok_or_else(|| fail(op, "all operands are constants; fold constants first (canonicalize-graph)".into()))?;
        let inputs = indices
            .iter()
            .map(|&index| match self.operand(op, index)?.clone() {
                Bound::Activation(id, _) => Ok(id),
                Bound::Constant(name, weight) => {
                    let shape = constant_shape(op, weight.shape(), view)?;
                    let weight =
                        weight.reshaped(shape).ok_or_else(|| fail(op, "a constant operand has a wrong size".into()))?;
                    self.constant_value(op, name, weight)
                }
                Bound::Integers(values, shape) => {
                    let shape = constant_shape(op, &shape, view)?;
                    let r#type = op.operand(index).ok().and_then(dtype);
                    let r#type = r#type.ok_or_else(|| fail(op, format!("operand {index} has a wrong type")))?;
                    self.integer_value(op, &values, shape, r#type)
                }
                Bound::Words(..) => self.activation(op, index).map(|(id, _)| id),
            })
            .collect::<Result<_, _>>()?;
        Ok((inputs, view))
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

/// The program shape of a constant operand of an operation whose other operand has the view `view`: of size 1 at the batch.
fn constant_shape(op: &OperationRef<'_, '_>, shape: &[usize], view: View) -> Result<Vec<usize>, LoadError> {
    if view.whole {
        return Ok(shape.to_vec());
    }
    if shape.len() <= view.lead || shape[..=view.lead].iter().any(|&size| size != 1) {
        return Err(fail(op, format!("a constant operand of shape {shape:?} must have size 1 up to the batch axis")));
    }
    let mut program = vec![1; view.head()];
    program.extend(&shape[view.lead + 1..]);
    Ok(program)
}

#[cfg(test)]
mod tests;
