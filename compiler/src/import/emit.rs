//! Writes TOSA operations: one method per operation form, layouts of activations, constants and weights.

use super::{
    error::{Problem, invalid, unsupported},
    proto::unique,
    tensor::{Data, Dim, Element, Tensor, element_count, show},
};
use melior::{
    Context,
    ir::{
        Attribute, Block, BlockLike, Identifier, Location, Region, RegionLike, ShapedTypeLike, Type, Value, ValueLike,
        attribute::{ArrayAttribute, DenseElementsAttribute, StringAttribute, TypeAttribute},
        operation::OperationBuilder,
        r#type::{FunctionType, IntegerType, RankedTensorType},
    },
};
use mxc_dialects::{
    ir, origin,
    tosa::{
        self, Binary, BinaryOp, Constant, ConstantOp, Custom, CustomBinary, CustomOp, CustomUnary, NanMode, ReduceOp,
        Reduction, Scattering, Unary, UnaryOp,
    },
};
use mxc_runtime::store::{Weight, WeightStore};
use std::{collections::BTreeMap, sync::Arc};

/// The most elements per sample that an activation may have.
const MAX_ELEMENTS: usize = 1 << 32;
/// A constant with up to this many elements is written into the IR; a larger one goes to the weight store.
const MAX_INLINE: usize = 4;

/// The axis order of channels-last tensors: physical axis `i` is logical (ONNX) axis `NHWC[i]`.
pub(super) const NHWC: [usize; 4] = [0, 2, 3, 1];

/// A value that depends on an input. Its elements may be stored in another axis order than ONNX's.
#[derive(Clone, Debug)]
pub(super) struct Activation<'c, 'a> {
    /// The MLIR value, of the physical shape.
    pub value: Value<'c, 'a>,
    /// The logical (ONNX) shape.
    pub shape: Vec<Dim>,
    /// Physical axis `i` is logical axis `order[i]`.
    pub order: Vec<usize>,
}

impl Activation<'_, '_> {
    /// The shape as stored.
    pub fn physical(&self) -> Vec<Dim> {
        self.order.iter().map(|&axis| self.shape[axis]).collect()
    }

    /// The physical position of a logical axis.
    pub fn position(&self, axis: usize) -> usize {
        self.order.iter().position(|&logical| logical == axis).unwrap_or(axis)
    }

    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The type of its elements.
    pub fn element(&self) -> Element {
        let element = RankedTensorType::try_from(self.value.r#type()).map(|tensor| tensor.element());
        match element.ok().and_then(|element| IntegerType::try_from(element).ok()).map(|integer| integer.width()) {
            Some(1) => Element::Bool,
            Some(64) => Element::I64,
            Some(_) => Element::I32,
            None => Element::F32,
        }
    }

    /// Whether an axis depends on the batch.
    pub fn has_batch(&self) -> bool {
        self.shape.iter().any(|dim| dim.fixed().is_none())
    }
}

/// An elementwise function of one operand: TOSA's, or one that it lacks.
#[derive(Clone, Copy, Debug)]
pub(super) enum UnaryFunction {
    Tosa(Unary),
    Custom(CustomUnary),
}

impl From<Unary> for UnaryFunction {
    fn from(function: Unary) -> Self {
        Self::Tosa(function)
    }
}

impl From<CustomUnary> for UnaryFunction {
    fn from(function: CustomUnary) -> Self {
        Self::Custom(function)
    }
}

/// An elementwise function of two operands: TOSA's, or one that it lacks.
#[derive(Clone, Copy, Debug)]
pub(super) enum BinaryFunction {
    Tosa(Binary),
    Custom(CustomBinary),
}

impl From<Binary> for BinaryFunction {
    fn from(function: Binary) -> Self {
        Self::Tosa(function)
    }
}

impl From<CustomBinary> for BinaryFunction {
    fn from(function: CustomBinary) -> Self {
        Self::Custom(function)
    }
}

/// A value's identity.
fn key(value: Value<'_, '_>) -> usize {
    value.to_raw().ptr as usize
}

/// The MLIR type of elements.
pub(super) fn element_type(context: &Context, element: Element) -> Type<'_> {
    match element {
        Element::F32 => Type::float32(context),
        Element::I32 => IntegerType::new(context, 32).into(),
        Element::I64 => IntegerType::new(context, 64).into(),
        Element::Bool => IntegerType::new(context, 1).into(),
    }
}

/// ONNX's own axis order.
pub(super) fn logical(rank: usize) -> Vec<usize> {
    (0..rank).collect()
}

/// Appends operations to the body of `@main` and globals to the module, weights to the store.
pub(super) struct Emitter<'c, 'a> {
    pub context: &'c Context,
    block: &'a Block<'c>,
    globals: Vec<melior::ir::Operation<'c>>,
    pub weights: WeightStore,
    /// The location of the node being lowered.
    pub location: Location<'c>,
    /// Conversions to other layouts made so far, by value and how its stored axes move.
    converted: BTreeMap<(usize, Vec<usize>), Value<'c, 'a>>,
    /// Loads of globals and inline constants made so far.
    loads: BTreeMap<String, Value<'c, 'a>>,
    constants: BTreeMap<(Vec<usize>, Vec<u32>), Value<'c, 'a>>,
    /// The shift operand of `tosa.mul`, once there is one.
    shift: Option<Value<'c, 'a>>,
    /// The floats that hold the same whole numbers as values of integers, by the integers' value.
    whole: BTreeMap<usize, Value<'c, 'a>>,
    /// The axis of the channels in each function argument, as far as known: the first layout-sensitive use tells.
    pub channel_axes: BTreeMap<usize, usize>,
    arguments: Vec<Value<'c, 'a>>,
}

impl<'c, 'a> Emitter<'c, 'a> {
    pub fn new(context: &'c Context, block: &'a Block<'c>) -> Self {
        let arguments =
            (0..block.argument_count()).filter_map(|index| block.argument(index).ok().map(Into::into)).collect();
        Self {
            context,
            block,
            globals: Vec::new(),
            weights: WeightStore::new(),
            location: Location::unknown(context),
            converted: BTreeMap::new(),
            loads: BTreeMap::new(),
            constants: BTreeMap::new(),
            shift: None,
            whole: BTreeMap::new(),
            channel_axes: BTreeMap::new(),
            arguments,
        }
    }

    /// The globals and weights, to be put into the module and the store.
    pub fn finish(self) -> (Vec<melior::ir::Operation<'c>>, WeightStore) {
        (self.globals, self.weights)
    }

    /// The function's arguments.
    pub fn arguments(&self) -> &[Value<'c, 'a>] {
        &self.arguments
    }

    /// The type f32, in which TOSA's sums are taken.
    pub fn f32(&self) -> Type<'c> {
        Type::float32(self.context)
    }

    fn fixed_tensor(&self, element: Type<'c>, shape: &[usize]) -> Type<'c> {
        let shape: Vec<_> = shape.iter().map(|&size| Some(size)).collect();
        ir::tensor_type(element, &shape)
    }

    /// Appends a constant: several nodes may share it, so it has no node's location.
    fn constant_op(
        &mut self,
        constant: Constant,
        values: DenseElementsAttribute<'c>,
        result: Type<'c>,
    ) -> Result<Value<'c, 'a>, Problem> {
        let built =
            ConstantOp { constant, values: values.into(), result }.build(self.context, Location::unknown(self.context));
        self.appended(constant.name(), built)
    }

    /// Appends an operation of the node being lowered.
    pub fn append(&mut self, operation: impl Into<tosa::Op<'c, 'a>>) -> Result<Value<'c, 'a>, Problem> {
        let operation = operation.into();
        self.appended(operation.mnemonic(), operation.build(self.context, self.location))
    }

    /// The only result of an operation that is appended.
    fn appended(
        &mut self,
        name: &str,
        operation: Result<melior::ir::Operation<'c>, melior::Error>,
    ) -> Result<Value<'c, 'a>, Problem> {
        match operation.and_then(|operation| self.block.append_operation(operation).result(0)) {
            Ok(result) => Ok(result.into()),
            Err(error) => invalid(format!("{name} cannot be built: {error}")),
        }
    }

    /// The type of a tensor of the physical shape `shape`; refuses shapes beyond reason.
    fn tensor_of(&self, element: Type<'c>, shape: &[Dim]) -> Result<Type<'c>, Problem> {
        check_size(shape)?;
        let shape: Vec<_> = shape.iter().map(|dim| dim.fixed()).collect();
        Ok(ir::tensor_type(element, &shape))
    }

    /// [`Self::tensor_of`] with the type of elements of a value.
    pub fn like(&self, value: Value<'c, 'a>, shape: &[Dim]) -> Result<Type<'c>, Problem> {
        let tensor = RankedTensorType::try_from(value.r#type());
        self.tensor_of(tensor.map_or_else(|_| self.f32(), |tensor| tensor.element()), shape)
    }

    /// [`Self::tensor_of`] with one of our types of elements.
    fn tensor_as(&self, element: Element, shape: &[Dim]) -> Result<Type<'c>, Problem> {
        self.tensor_of(element_type(self.context, element), shape)
    }

    /// An operator that TOSA lacks; its result has the first operand's type of elements.
    pub fn custom(
        &mut self,
        custom: Custom,
        inputs: &[Value<'c, 'a>],
        shape: &[Dim],
    ) -> Result<Value<'c, 'a>, Problem> {
        let result = match inputs.first() {
            Some(&first) => self.like(first, shape)?,
            None => self.tensor_as(Element::F32, shape)?,
        };
        self.append(CustomOp { custom, inputs: inputs.to_vec(), result })
    }

    /// Appends `func.return`.
    pub fn r#return(&mut self, values: &[Value<'c, 'a>]) -> Result<(), Problem> {
        let operation =
            OperationBuilder::new("func.return", Location::unknown(self.context)).add_operands(values).build();
        match operation {
            Ok(operation) => {
                self.block.append_operation(operation);
                Ok(())
            }
            Err(error) => invalid(format!("func.return cannot be built: {error}")),
        }
    }

    // Constants and weights.

    /// An inline constant.
    pub fn constant(&mut self, shape: &[usize], values: &[f32]) -> Result<Value<'c, 'a>, Problem> {
        let key = (shape.to_vec(), values.iter().map(|value| value.to_bits()).collect());
        if let Some(&value) = self.constants.get(&key) {
            return Ok(value);
        }
        let tensor = self.fixed_tensor(self.f32(), shape);
        let attribute = DenseElementsAttribute::f32_values(tensor, values);
        let value = self.constant_op(Constant::Tensor, attribute, tensor)?;
        self.constants.insert(key, value);
        Ok(value)
    }

    /// An inline constant of integers or booleans.
    pub fn integer_constant(
        &mut self,
        shape: &[usize],
        values: &[i64],
        element: Element,
    ) -> Result<Value<'c, 'a>, Problem> {
        let r#type = element_type(self.context, element);
        let tensor = self.fixed_tensor(r#type, shape);
        match element {
            Element::I64 => {
                let values = DenseElementsAttribute::i64_values(tensor, values);
                self.constant_op(Constant::Tensor, values, tensor)
            }
            Element::I32 => {
                let values: Vec<_> = values.iter().map(|&value| value as i32).collect();
                let values = DenseElementsAttribute::i32_values(tensor, &values);
                self.constant_op(Constant::Tensor, values, tensor)
            }
            // Bytes of booleans are packed in the attribute; integers are not.
            Element::Bool => {
                let bytes: Vec<_> = values.iter().map(|&value| i8::from(value != 0)).collect();
                let wide = self.fixed_tensor(IntegerType::new(self.context, 8).into(), shape);
                let bytes = DenseElementsAttribute::i8_values(wide, &bytes);
                let wide = self.constant_op(Constant::Tensor, bytes, wide)?;
                self.append(tosa::Cast { input: wide, result: tensor })
            }
            Element::F32 => {
                let values: Vec<_> = values.iter().map(|&value| value as f32).collect();
                self.constant(shape, &values)
            }
        }
    }

    /// The zero point that many TOSA operations want.
    pub fn zero(&mut self) -> Result<Value<'c, 'a>, Problem> {
        self.constant(&[1], &[0.0])
    }

    /// A scalar constant of a rank, to be broadcast.
    pub fn scalar(&mut self, rank: usize, value: f32) -> Result<Value<'c, 'a>, Problem> {
        self.constant(&vec![1; rank], &[value])
    }

    /// A weight: a global named after the initializer, its values in the weight store. The same name with another shape or
    /// other values (one initializer in two roles) gets a number.
    pub fn weight(
        &mut self,
        name: &str,
        shape: &[usize],
        values: impl Into<Arc<[f32]>>,
    ) -> Result<Value<'c, 'a>, Problem> {
        let Some(weight) = Weight::new(shape.to_vec(), values) else {
            return invalid(format!("the values of weight '{name}' do not fit its shape {shape:?}"));
        };
        let same = |stored: &Weight| {
            stored.shape() == weight.shape()
                && bytemuck::cast_slice::<f32, u32>(stored.values())
                    == bytemuck::cast_slice::<f32, u32>(weight.values())
        };
        let name = unique(name, |name| name == ir::MAIN || self.weights.get(name).is_some_and(|stored| !same(stored)));
        if let Some(&value) = self.loads.get(&name) {
            return Ok(value);
        }
        let tensor = self.fixed_tensor(self.f32(), shape);
        let global = ir::extern_global(self.context, &name, tensor);
        self.globals.push(global.map_err(|_| Problem::Invalid(format!("the global '{name}' cannot be built")))?);
        self.weights.insert(name.clone(), weight);
        let load = ir::load_global(self.context, &name, tensor);
        let value = self.appended("ml_program.global_load_const", load)?;
        self.loads.insert(name, value);
        Ok(value)
    }

    /// A constant of floats: inline where it is a fill, else a weight named `name`.
    pub fn tensor(&mut self, name: &str, tensor: &Tensor) -> Result<Value<'c, 'a>, Problem> {
        match tensor.data {
            Data::Fill(value) => {
                check_size(&tensor.shape.iter().map(|&size| Dim::Fixed(size)).collect::<Vec<_>>())?;
                let r#type = self.fixed_tensor(self.f32(), &tensor.shape);
                let splat = DenseElementsAttribute::f32_values(r#type, &[value]);
                self.constant_op(Constant::Tensor, splat, r#type)
            }
            _ => self.weight(name, &tensor.shape, tensor.to_floats().unwrap_or_default()),
        }
    }

    /// A constant of floats, inline also where it is small.
    pub fn constant_or_weight(&mut self, name: &str, tensor: &Tensor) -> Result<Value<'c, 'a>, Problem> {
        match &tensor.data {
            Data::Float(values) if values.len() <= MAX_INLINE => self.constant(&tensor.shape, values),
            _ => self.tensor(name, tensor),
        }
    }

    /// A shape operand. At most one dimension may depend on the batch; it is written −1.
    pub fn shape_operand(&mut self, shape: &[Dim]) -> Result<Value<'c, 'a>, Problem> {
        if shape.iter().filter(|dim| dim.fixed().is_none()).count() > 1 {
            return unsupported(format!("the shape {} depends on the batch in two axes", show(shape)));
        }
        let sizes: Vec<_> = shape.iter().map(|dim| dim.fixed().map_or(-1, |size| size as i64)).collect();
        self.index_operand(&sizes)
    }

    /// A `!tosa.shape` operand of plain numbers.
    pub fn index_operand(&mut self, values: &[i64]) -> Result<Value<'c, 'a>, Problem> {
        let index = Type::index(self.context);
        let tensor = self.fixed_tensor(index, &[values.len()]);
        let attribute = DenseElementsAttribute::i64_values(tensor, values);
        let Some(shape) = Type::parse(self.context, &format!("!tosa.shape<{}>", values.len())) else {
            return invalid("the TOSA dialect is not loaded");
        };
        self.constant_op(Constant::Shape, attribute, shape)
    }

    // Layouts.

    /// Reshapes a value stored in the shape `from` to the shape `to` with the same elements in the same order.
    pub fn reshape_raw(&mut self, value: Value<'c, 'a>, from: &[Dim], to: &[Dim]) -> Result<Value<'c, 'a>, Problem> {
        if from == to {
            return Ok(value);
        }
        if element_count(from) != element_count(to) {
            return invalid(format!("cannot reshape {} to {}", show(from), show(to)));
        }
        let shape = self.shape_operand(to)?;
        let result = self.like(value, to)?;
        self.append(tosa::Reshape { input: value, shape, result })
    }

    /// The activation stored in another axis order: a reshape where only axes of size 1 move, else a transpose.
    pub fn in_order(
        &mut self,
        activation: &Activation<'c, 'a>,
        order: &[usize],
    ) -> Result<Activation<'c, 'a>, Problem> {
        if activation.order == order {
            return Ok(activation.clone());
        }
        let mut converted =
            Activation { value: activation.value, shape: activation.shape.clone(), order: order.to_vec() };
        // One value may stand for several activations, each with its own names for the axes.
        let perms: Vec<usize> = order.iter().map(|&axis| activation.position(axis)).collect();
        let key = (key(activation.value), perms.clone());
        if let Some(&value) = self.converted.get(&key) {
            converted.value = value;
            return Ok(converted);
        }
        let physical = converted.physical();
        let moving = |order: &[usize]| -> Vec<usize> {
            order.iter().copied().filter(|&axis| !activation.shape[axis].is_one()).collect()
        };
        converted.value = if moving(&activation.order) == moving(order) {
            self.reshape_raw(activation.value, &activation.physical(), &physical)?
        } else {
            let perms: Vec<_> = perms.iter().map(|&axis| axis as i32).collect();
            let result = self.like(activation.value, &physical)?;
            self.append(tosa::Transpose { input: activation.value, perms, result })?
        };
        self.converted.insert(key, converted.value);
        Ok(converted)
    }

    /// The activation in ONNX's own axis order.
    pub fn logical(&mut self, activation: &Activation<'c, 'a>) -> Result<Activation<'c, 'a>, Problem> {
        self.in_order(activation, &logical(activation.rank()))
    }

    /// The rank-4 activation channels last.
    pub fn nhwc(&mut self, activation: &Activation<'c, 'a>) -> Result<Activation<'c, 'a>, Problem> {
        if activation.rank() != 4 {
            return unsupported(format!(
                "only two spatial axes are supported, its input has the shape {}",
                show(&activation.shape)
            ));
        }
        if let Some(argument) = self.arguments.iter().position(|&argument| argument == activation.value) {
            self.channel_axes.entry(argument).or_insert(activation.position(1));
        }
        self.in_order(activation, &NHWC)
    }

    /// An activation of rank 4 or more channels last.
    pub fn channels_last(&mut self, activation: &Activation<'c, 'a>) -> Result<Activation<'c, 'a>, Problem> {
        if activation.rank() == 4 {
            return self.nhwc(activation);
        }
        let order: Vec<_> = [0].into_iter().chain(2..activation.rank()).chain([1]).collect();
        self.in_order(activation, &order)
    }

    /// The activation with its elements, in logical order, under another shape of as many elements.
    pub fn reshape(&mut self, activation: &Activation<'c, 'a>, shape: &[Dim]) -> Result<Activation<'c, 'a>, Problem> {
        if activation.shape == shape {
            return Ok(activation.clone());
        }
        if element_count(&activation.shape) != element_count(shape) {
            return invalid(format!("cannot reshape {} to {}", show(&activation.shape), show(shape)));
        }
        // Axes of size 1 move freely.
        let moving: Vec<_> =
            activation.order.iter().copied().filter(|&axis| !activation.shape[axis].is_one()).collect();
        if !moving.is_sorted()
            && activation.shape.iter().position(|dim| dim.fixed().is_none()).is_some_and(|axis| axis > 0)
            && let Some(order) = regrouped(activation, shape)
        {
            // The batch is stored in front though it is another axis, and stays there.
            let mut result = Activation { value: activation.value, shape: shape.to_vec(), order };
            result.value = self.reshape_raw(activation.value, &activation.physical(), &result.physical())?;
            return Ok(result);
        }
        let source = if moving.is_sorted() { activation.clone() } else { self.logical(activation)? };
        let value = self.reshape_raw(source.value, &source.physical(), shape)?;
        Ok(Activation { value, shape: shape.to_vec(), order: logical(shape.len()) })
    }

    // Elementwise operations, on values of one physical shape.

    /// An elementwise operation with one operand.
    pub fn unary(
        &mut self,
        function: impl Into<UnaryFunction>,
        input: &Activation<'c, 'a>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let value = match function.into() {
            UnaryFunction::Tosa(function) => {
                let result = self.like(input.value, &input.physical())?;
                self.append(UnaryOp { function, input: input.value, zero_points: Vec::new(), result })?
            }
            UnaryFunction::Custom(function) => {
                self.custom(Custom::Unary(function), &[input.value], &input.physical())?
            }
        };
        Ok(Activation { value, ..input.clone() })
    }

    /// `tosa.cast`: from floats to the nearest integer, ties to even.
    pub fn cast(&mut self, input: &Activation<'c, 'a>, to: Element) -> Result<Activation<'c, 'a>, Problem> {
        if input.element() == to {
            return Ok(input.clone());
        }
        if let (Element::F32, Some(floats)) = (to, self.whole(input)) {
            return Ok(floats);
        }
        let result = self.tensor_as(to, &input.physical())?;
        let value = self.append(tosa::Cast { input: input.value, result })?;
        Ok(Activation { value, ..input.clone() })
    }

    /// Floats that hold whole numbers within 32 bits as integers. Casting these back gives the floats.
    pub fn quantised(&mut self, floats: &Activation<'c, 'a>) -> Result<Activation<'c, 'a>, Problem> {
        let integers = self.cast(floats, Element::I32)?;
        self.whole.insert(key(integers.value), floats.value);
        Ok(integers)
    }

    /// The floats that [`Self::quantised`] made these integers of.
    pub fn whole(&self, integers: &Activation<'c, 'a>) -> Option<Activation<'c, 'a>> {
        self.whole.get(&key(integers.value)).map(|&value| Activation { value, ..integers.clone() })
    }

    /// Whether a value is what rounding makes.
    pub fn is_rounded(&self, input: &Activation<'c, 'a>) -> bool {
        let operation = ir::defining_op(input.value).and_then(|operation| CustomOp::parse(operation).ok().flatten());
        operation.is_some_and(|operation| {
            matches!(operation.custom, Custom::Unary(CustomUnary::Round) | Custom::Quantize { .. })
        })
    }

    /// `clamp(round(x / scale) + zero, low, high)` in floats.
    pub fn quantise(
        &mut self,
        input: &Activation<'c, 'a>,
        [scale, zero, low, high]: [f32; 4],
    ) -> Result<Activation<'c, 'a>, Problem> {
        let value = self.custom(Custom::Quantize { scale, zero, low, high }, &[input.value], &input.physical())?;
        Ok(Activation { value, ..input.clone() })
    }

    /// `a` where the condition holds, else `b`: of one order, broadcasting to the logical shape `shape`.
    pub fn select(
        &mut self,
        [condition, a, b]: [&Activation<'c, 'a>; 3],
        shape: Vec<Dim>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let mut result = Activation { value: a.value, shape, order: a.order.clone() };
        let r#type = self.tensor_as(a.element(), &result.physical())?;
        let (condition, on_true, on_false) = (condition.value, a.value, b.value);
        result.value = self.append(tosa::Select { condition, on_true, on_false, result: r#type })?;
        Ok(result)
    }

    /// The first index of the greatest element along an axis, which the result lacks.
    pub fn argmax(&mut self, input: &Activation<'c, 'a>, axis: usize) -> Result<Activation<'c, 'a>, Problem> {
        let renumbered = |each: usize| if each > axis { each - 1 } else { each };
        let mut result = input.clone();
        result.shape.remove(axis);
        result.order = input.order.iter().filter(|&&each| each != axis).map(|&each| renumbered(each)).collect();
        let r#type = self.tensor_as(Element::I64, &result.physical())?;
        let axis = input.position(axis) as i32;
        result.value =
            self.append(tosa::ArgMax { input: input.value, axis, nan_mode: NanMode::Propagate, result: r#type })?;
        Ok(result)
    }

    /// The indices of the first `count` elements along a logical axis, sorted from the greatest down or the least up.
    pub fn top_k(
        &mut self,
        input: &Activation<'c, 'a>,
        axis: usize,
        count: usize,
        largest: bool,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let mut ranks = input.clone();
        ranks.shape[axis] = Dim::Fixed(count);
        let result = self.tensor_as(Element::I64, &ranks.physical())?;
        let custom = Custom::TopK { axis: input.position(axis), count, largest };
        ranks.value = self.append(CustomOp { custom, inputs: vec![input.value], result })?;
        Ok(ranks)
    }

    /// The elements of `data` at indices along a logical axis; the other axes broadcast.
    pub fn pick(
        &mut self,
        data: &Activation<'c, 'a>,
        indices: &Activation<'c, 'a>,
        axis: usize,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let indices = self.in_order(indices, &data.order)?;
        let mut picked = data.clone();
        for (each, (own, other)) in picked.shape.iter_mut().zip(&indices.shape).enumerate() {
            if each == axis || own.is_one() {
                *own = *other;
            }
        }
        let custom = Custom::Pick { axis: data.position(axis) };
        picked.value = self.custom(custom, &[data.value, indices.value], &picked.physical())?;
        Ok(picked)
    }

    /// data, indices and updates in ONNX's own order: the data with the updates put in at the indices along an axis.
    pub fn scatter(
        &mut self,
        [data, indices, updates]: [&Activation<'c, 'a>; 3],
        axis: usize,
        reduction: Scattering,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let operands = [data.value, indices.value, updates.value];
        let value = self.custom(Custom::Scatter { axis, reduction }, &operands, &data.physical())?;
        Ok(Activation { value, ..data.clone() })
    }

    /// `√x`, which TOSA spells with reciprocals.
    pub fn square_root(&mut self, input: &Activation<'c, 'a>) -> Result<Activation<'c, 'a>, Problem> {
        let inverse = self.unary(Unary::Rsqrt, input)?;
        self.unary(Unary::Reciprocal, &inverse)
    }

    /// The slices at `indices` along a logical axis.
    pub fn take(
        &mut self,
        input: &Activation<'c, 'a>,
        axis: usize,
        indices: &[usize],
    ) -> Result<Activation<'c, 'a>, Problem> {
        let mut taken = input.clone();
        taken.shape[axis] = Dim::Fixed(indices.len());
        if let Some(&first) = indices.first()
            && indices.iter().enumerate().all(|(step, &index)| index == first + step)
        {
            let mut start = vec![0; input.rank()];
            start[axis] = first;
            return self.slice(input, &start, &taken.shape);
        }
        if indices.is_empty() {
            return unsupported("it would make an empty tensor");
        }
        let numbers: Vec<_> = indices.iter().map(|&index| index as i64).collect();
        let numbers = self.integer_constant(&[indices.len()], &numbers, Element::I64)?;
        let custom = Custom::Take { axis: taken.position(axis) };
        taken.value = self.custom(custom, &[taken.value, numbers], &taken.physical())?;
        Ok(taken)
    }

    /// `min(max(x, low), high)`.
    pub fn clamp(&mut self, input: &Activation<'c, 'a>, low: f32, high: f32) -> Result<Activation<'c, 'a>, Problem> {
        let result = self.like(input.value, &input.physical())?;
        let (min_val, max_val, nan_mode) = (low, high, NanMode::Propagate);
        let value = self.append(tosa::Clamp { input: input.value, min_val, max_val, nan_mode, result })?;
        Ok(Activation { value, ..input.clone() })
    }

    /// An elementwise operation on two values of equal rank whose result has the physical shape `shape`.
    pub fn binary_raw(
        &mut self,
        function: impl Into<BinaryFunction>,
        a: Value<'c, 'a>,
        b: Value<'c, 'a>,
        shape: &[Dim],
    ) -> Result<Value<'c, 'a>, Problem> {
        let function = match function.into() {
            BinaryFunction::Tosa(function) => function,
            BinaryFunction::Custom(function) => return self.custom(Custom::Binary(function), &[a, b], shape),
        };
        let shift = if function == Binary::Mul { Some(self.shift()?) } else { None };
        let result =
            if function.is_comparison() { self.tensor_as(Element::Bool, shape)? } else { self.like(a, shape)? };
        self.append(BinaryOp { function, inputs: [a, b], shift, nan_mode: NanMode::Propagate, result })
    }

    /// An elementwise operation on two activations of one shape and order.
    pub fn binary(
        &mut self,
        function: impl Into<BinaryFunction>,
        a: &Activation<'c, 'a>,
        b: &Activation<'c, 'a>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let value = self.binary_raw(function, a.value, b.value, &a.physical())?;
        Ok(Activation { value, ..a.clone() })
    }

    /// An elementwise operation on an activation and a scalar.
    pub fn with_scalar(
        &mut self,
        function: impl Into<BinaryFunction>,
        input: &Activation<'c, 'a>,
        scalar: f32,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let scalar = self.scalar(input.rank(), scalar)?;
        let value = self.binary_raw(function, input.value, scalar, &input.physical())?;
        Ok(Activation { value, ..input.clone() })
    }

    /// `−x`.
    pub fn negate(&mut self, input: &Activation<'c, 'a>) -> Result<Activation<'c, 'a>, Problem> {
        let zero = match input.element() {
            Element::F32 => self.zero()?,
            element => self.integer_constant(&[1], &[0], element)?,
        };
        let result = self.like(input.value, &input.physical())?;
        let function = Unary::Negate;
        let value = self.append(UnaryOp { function, input: input.value, zero_points: vec![zero, zero], result })?;
        Ok(Activation { value, ..input.clone() })
    }

    /// The shift operand of `tosa.mul`, 0 for floats.
    fn shift(&mut self) -> Result<Value<'c, 'a>, Problem> {
        if let Some(value) = self.shift {
            return Ok(value);
        }
        let tensor = self.fixed_tensor(IntegerType::new(self.context, 8).into(), &[1]);
        let attribute = DenseElementsAttribute::i8_values(tensor, &[0]);
        let value = self.constant_op(Constant::Tensor, attribute, tensor)?;
        self.shift = Some(value);
        Ok(value)
    }

    // Other operations with a fixed form.

    /// Reduces a physical axis to size 1.
    pub fn reduce(
        &mut self,
        reduction: Reduction,
        input: &Activation<'c, 'a>,
        axis: usize,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let mut reduced = input.clone();
        reduced.shape[axis] = Dim::Fixed(1);
        let result = self.like(input.value, &reduced.physical())?;
        let (axis, nan_mode) = (input.position(axis) as i32, NanMode::Propagate);
        reduced.value = self.append(ReduceOp { reduction, input: input.value, axis, nan_mode, result })?;
        Ok(reduced)
    }

    /// The sub-tensor that starts at `start` and has the shape `shape`, both in logical axes.
    pub fn slice(
        &mut self,
        input: &Activation<'c, 'a>,
        start: &[usize],
        shape: &[Dim],
    ) -> Result<Activation<'c, 'a>, Problem> {
        if input.shape == shape {
            return Ok(input.clone());
        }
        if shape.contains(&Dim::Fixed(0)) {
            return unsupported("it would make an empty tensor");
        }
        let sliced = Activation { value: input.value, shape: shape.to_vec(), order: input.order.clone() };
        let starts: Vec<_> = input.order.iter().map(|&axis| start[axis] as i64).collect();
        let start = self.index_operand(&starts)?;
        let physical = sliced.physical();
        let size = self.shape_operand(&physical)?;
        let result = self.like(input.value, &physical)?;
        let value = self.append(tosa::Slice { input: input.value, start, size, result })?;
        Ok(Activation { value, ..sliced })
    }

    /// Activations of one order joined along a logical axis.
    pub fn concat(&mut self, parts: &[Activation<'c, 'a>], axis: usize) -> Result<Activation<'c, 'a>, Problem> {
        let Some((first, rest)) = parts.split_first() else {
            return unsupported("it would make an empty tensor");
        };
        let mut joined = first.clone();
        if rest.is_empty() {
            return Ok(joined);
        }
        let sizes = parts.iter().filter_map(|part| part.shape[axis].fixed());
        joined.shape[axis] = Dim::Fixed(sizes.fold(0, |total: usize, size| total.saturating_add(size)));
        let result = self.like(first.value, &joined.physical())?;
        let (inputs, axis) = (parts.iter().map(|part| part.value).collect(), joined.position(axis) as i32);
        joined.value = self.append(tosa::Concat { inputs, axis, result })?;
        Ok(joined)
    }

    /// The activation repeated along its logical axes.
    pub fn tile(
        &mut self,
        input: &Activation<'c, 'a>,
        repeats: &[usize],
        shape: Vec<Dim>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        if repeats.iter().all(|&times| times == 1) {
            return Ok(input.clone());
        }
        let mut tiled = Activation { value: input.value, shape, order: input.order.clone() };
        let times: Vec<_> = input.order.iter().map(|&axis| repeats[axis] as i64).collect();
        let times = self.index_operand(&times)?;
        let result = self.like(input.value, &tiled.physical())?;
        tiled.value = self.append(tosa::Tile { input: input.value, multiples: times, result })?;
        Ok(tiled)
    }

    /// Adds a border of `value`: `pad` is before and after, per logical axis.
    pub fn pad(
        &mut self,
        input: &Activation<'c, 'a>,
        pad: &[[usize; 2]],
        value: f32,
    ) -> Result<Activation<'c, 'a>, Problem> {
        if pad.iter().all(|&[before, after]| before == 0 && after == 0) {
            return Ok(input.clone());
        }
        let mut padded = input.clone();
        for (dim, [before, after]) in padded.shape.iter_mut().zip(pad) {
            *dim = match *dim {
                Dim::Fixed(size) => match size.checked_add(*before).and_then(|size| size.checked_add(*after)) {
                    Some(size) => Dim::Fixed(size),
                    None => return invalid("its padding is too large"),
                },
                Dim::Batch(_) if before + after == 0 => *dim,
                Dim::Batch(_) => return unsupported("it pads the batch axis"),
            };
        }
        let amounts: Vec<_> = input.order.iter().flat_map(|&axis| pad[axis]).map(|amount| amount as i64).collect();
        let amounts = self.index_operand(&amounts)?;
        let value = match input.element() {
            Element::F32 => self.constant(&[1], &[value])?,
            element => self.integer_constant(&[1], &[value as i64], element)?,
        };
        let result = self.like(input.value, &padded.physical())?;
        padded.value = self.append(tosa::Pad { input: input.value, padding: amounts, pad_const: value, result })?;
        Ok(padded)
    }
}

/// `@main` with its signature's names.
pub(super) fn main_function<'c>(
    context: &'c Context,
    body: Block<'c>,
    (arguments, argument_names): (&[Type<'c>], &[String]),
    (results, result_names): (&[Type<'c>], &[String]),
    whole: bool,
) -> Result<melior::ir::Operation<'c>, String> {
    let names = |names: &[String]| -> Attribute<'c> {
        let entries: Vec<_> = names
            .iter()
            .map(|name| ir::dictionary(context, &[(ir::NAME_ATTRIBUTE, ir::string(context, name))]))
            .collect();
        ArrayAttribute::new(context, &entries).into()
    };
    let region = Region::new();
    region.append_block(body);
    let signature = FunctionType::new(context, arguments, results);
    let mark = |name: &str| (Identifier::new(context, name), Attribute::unit(context));
    let marks = [mark(ir::WHOLE_ATTRIBUTE)];
    OperationBuilder::new("func.func", Location::unknown(context))
        .add_attributes(if whole { &marks } else { &[] })
        .add_attributes(&[
            mark(origin::ATTRIBUTE),
            (Identifier::new(context, "sym_name"), StringAttribute::new(context, ir::MAIN).into()),
            (Identifier::new(context, "function_type"), TypeAttribute::new(signature.into()).into()),
            (Identifier::new(context, "arg_attrs"), names(argument_names)),
            (Identifier::new(context, "res_attrs"), names(result_names)),
        ])
        .add_regions([region])
        .build()
        .map_err(|error| error.to_string())
}

/// The axis order of the same elements in the same places under another shape, where that only splits or joins axes that are
/// stored side by side.
fn regrouped(activation: &Activation<'_, '_>, shape: &[Dim]) -> Option<Vec<usize>> {
    let from = &activation.shape;
    // Runs of axes of both shapes with as many elements; those of size 1 are a run by themselves.
    let mut runs = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < from.len() || j < shape.len() {
        let (first, second) = (i, j);
        match (from.get(i), shape.get(j)) {
            (Some(Dim::Fixed(1)), _) => i += 1,
            (_, Some(Dim::Fixed(1))) => j += 1,
            (Some(Dim::Batch(a)), Some(Dim::Batch(b))) if a == b => (i, j) = (i + 1, j + 1),
            (Some(&Dim::Fixed(a)), Some(&Dim::Fixed(b))) => {
                let (mut left, mut right) = (a, b);
                (i, j) = (i + 1, j + 1);
                while left != right {
                    let (size, of, at) =
                        if left < right { (&mut left, from.as_slice(), &mut i) } else { (&mut right, shape, &mut j) };
                    *size = size.checked_mul(of.get(*at)?.fixed()?)?;
                    *at += 1;
                }
            }
            _ => return None,
        }
        runs.push((first..i, second..j));
    }
    let mut stored = activation.order.iter().copied().filter(|&axis| !from[axis].is_one());
    let mut order = Vec::with_capacity(shape.len());
    while let Some(axis) = stored.next() {
        let (own, made) = runs.iter().find(|(own, _)| own.contains(&axis))?;
        // A run is stored whole and in order.
        let mut wanted = own.clone().filter(|&axis| !from[axis].is_one());
        if wanted.next() != Some(axis) || wanted.any(|axis| stored.next() != Some(axis)) {
            return None;
        }
        order.extend(made.clone());
    }
    order.extend((0..shape.len()).filter(|axis| shape[*axis].is_one() && !order.contains(axis)).collect::<Vec<_>>());
    (order.len() == shape.len()).then_some(order)
}

/// Refuses to pick more elements of an axis one by one, or in more steps, than any network does.
pub(super) fn check_picked(count: usize) -> Result<(), Problem> {
    const MOST: usize = 1 << 20;
    if count > MOST {
        return unsupported(format!("it would pick {count} elements one by one; at most {MOST} are"));
    }
    Ok(())
}

/// Refuses shapes beyond reason, which would overflow later.
fn check_size(shape: &[Dim]) -> Result<(), Problem> {
    match element_count(shape) {
        Some((count, _)) if count <= MAX_ELEMENTS => Ok(()),
        _ => invalid(format!("its result of shape {} is too large", show(shape))),
    }
}
