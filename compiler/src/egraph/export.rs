//! Writes the chosen program back into `@main` and computes the constants that it folds.

use super::{
    extract::Program,
    facts::{SiteKind, Tensor},
    fold,
    grouped::Grouped,
    import::Network,
    language::{Binary, Node, Op, Shape},
    origins::Origins,
};
use crate::pass::{
    PassContext, PassError,
    constants::{add_constant, built, insert_before, weight},
};
use egg::Id;
use melior::{
    Context,
    ir::{
        Attribute, Identifier, Location, Module, OperationRef, Type, Value, ValueLike,
        attribute::DenseElementsAttribute,
        operation::{OperationBuilder, OperationLike, OperationMutLike},
        r#type::IntegerType,
    },
};
use mxc_dialects::{
    erase::Eraser,
    ffi, ir, origin,
    tosa::{self, BinaryOp, Constant, ConstantOp, NanMode, Unary, UnaryOp},
};
use mxc_runtime::store::Weight;
use std::collections::{BTreeMap, BTreeSet};

/// A constant computed here with up to this many elements is written into the IR, as the importer does, unless it is a
/// layer's.
const MAX_INLINE: usize = 16;

/// Replaces the body of `@main` by `program`. `pass` is named in errors. Returns the renames of
/// [`crate::pass::constants::add_constant`].
pub fn write<'c, 'a>(
    pass: &'static str,
    context: &'c Context,
    module: &'a Module<'c>,
    network: &Network<'c, 'a>,
    program: &Program,
    cx: &mut PassContext,
    eraser: &mut Eraser<'c, 'a>,
) -> Result<Vec<(String, String)>, PassError> {
    let egraph = &network.egraph;
    let mut writer = Writer {
        pass,
        context,
        module,
        network,
        program,
        cx,
        values: BTreeMap::new(),
        constants: BTreeMap::new(),
        small: BTreeMap::new(),
        renames: Vec::new(),
        all_inline: network.constants.iter().all(|value| ir::loaded_global(*value).is_none()),
    };
    let origins = Origins::new(egraph, &network.origins);
    let mut seen = BTreeSet::new();
    for &id in &program.order {
        if egraph[id].data.constant {
            continue;
        }
        let node = writer.node(id)?.clone();
        if let Op::Convolution(site, _) | Op::MatMul(site) = node.op
            && !seen.insert(site)
        {
            let layer = &egraph.analysis.sites[site].layer;
            return Err(PassError::new(format!("layer \"{layer}\" would be computed twice")));
        }
        let value = writer.operation(id, &node)?;
        writer.record(&origins, id, &node, value);
        writer.values.insert(id, value);
    }
    let mut results = Vec::new();
    for root in &network.roots {
        results.push(writer.operand(*root, "result")?);
    }
    let renames = writer.renames;
    let mut terminator = ffi::as_mut(network.terminator);
    for (index, result) in results.into_iter().enumerate() {
        terminator.set_operand(index, result);
    }
    for operation in &network.operations {
        eraser.erase(*operation);
    }
    Ok(renames)
}

struct Writer<'c, 'a, 'p> {
    pass: &'static str,
    context: &'c Context,
    module: &'p Module<'c>,
    network: &'p Network<'c, 'a>,
    program: &'p Program,
    cx: &'p mut PassContext,
    values: BTreeMap<Id, Value<'c, 'a>>,
    constants: BTreeMap<Id, Value<'c, 'a>>,
    /// Zero points, shifts and shape operands, by their text.
    small: BTreeMap<String, Value<'c, 'a>>,
    renames: Vec<(String, String)>,
    /// The network has no globals: everything is written into the IR.
    all_inline: bool,
}

impl<'c, 'a> Writer<'c, 'a, '_> {
    fn node(&self, id: Id) -> Result<&Node, PassError> {
        self.program
            .node(&self.network.egraph, id)
            .ok_or_else(|| PassError::new("the e-graph holds no program for @main"))
    }

    /// Records which values of the source model an operation's result is; of what may be a layer's output also those that it
    /// follows from.
    fn record(&self, origins: &Origins<'_>, id: Id, node: &Node, value: Value<'c, 'a>) {
        let evaluate = |id: Id| self.evaluate(id).ok().map(|tensor| tensor.values);
        let found = match node.op {
            Op::Convolution(..) | Op::MatMul(_) => origins.derived(id, Some(&evaluate)),
            Op::Binary(Binary::Add) | Op::Reshape(_) => origins.derived(id, None),
            _ => origins.of(id),
        };
        if let Some(operation) = ir::defining_op(value) {
            origin::set(self.context, operation, &found);
        }
    }

    fn insert(&self, operation: melior::ir::Operation<'c>) -> Result<Value<'c, 'a>, PassError> {
        insert_before(self.network.block, self.network.terminator, operation)
    }

    /// The value of an operand; a constant is made under `name` if it has to be computed.
    fn operand(&mut self, id: Id, name: &str) -> Result<Value<'c, 'a>, PassError> {
        self.placed_operand(id, name, None)
    }

    /// As [`Self::operand`]; `inline` says whether a constant is written into the IR, by default a small one is.
    fn placed_operand(&mut self, id: Id, name: &str, inline: Option<bool>) -> Result<Value<'c, 'a>, PassError> {
        let id = self.network.egraph.find(id);
        if let Some(value) = self.values.get(&id).or_else(|| self.constants.get(&id)) {
            return Ok(*value);
        }
        let node = self.node(id)?.clone();
        let value = match &node.op {
            // A fill of the source program stays one wherever it is.
            Op::Constant(number)
                if inline.is_none_or(|inline| inline == self.is_inline(*number))
                    || self.is_inline(*number) && self.network.egraph[id].data.splat.is_some() =>
            {
                let source = self.network.constants[*number];
                let operation = ir::defining_op(source).ok_or_else(|| PassError::new("a constant has no operation"))?;
                let copy = self.copy(operation, &[], source.r#type(), &[])?;
                self.insert(copy)?
            }
            Op::Splat(shape, bits) => {
                let value = f64::from_bits(*bits) as f32;
                self.insert(built("a constant", ir::tosa_const(self.context, shape, &[value]))?)?
            }
            _ => {
                let tensor = self.evaluate(id)?;
                // A splat needs no bytes in the store.
                let inline = tensor.repeated().is_some()
                    || inline.unwrap_or(self.all_inline || tensor.values.len() <= MAX_INLINE);
                let folded = Weight::new(tensor.shape.clone(), tensor.to_f32())
                    .ok_or_else(|| PassError::new(format!("{name}: its values do not fit its shape")))?;
                add_constant(
                    self.context,
                    self.module,
                    self.network.block,
                    self.network.terminator,
                    &mut self.cx.weights,
                    inline,
                    name,
                    folded,
                    &mut self.renames,
                )?
            }
        };
        self.constants.insert(id, value);
        Ok(value)
    }

    /// Whether a constant of the source program is written in the IR.
    fn is_inline(&self, number: usize) -> bool {
        ir::loaded_global(self.network.constants[number]).is_none()
    }

    /// A constant e-class's values.
    fn evaluate(&self, id: Id) -> Result<Tensor, PassError> {
        let node = self.node(id)?;
        match &node.op {
            Op::Constant(number) => {
                let value = self.network.constants[*number];
                let weight = weight(self.pass, value, &self.cx.weights)?;
                Ok(Tensor {
                    shape: weight.shape().to_vec(),
                    values: weight.values().iter().map(|x| f64::from(*x)).collect(),
                })
            }
            Op::Value(number) => Ok(self.network.egraph.analysis.values[*number].clone()),
            Op::Splat(shape, bits) => Ok(Tensor::splat(shape.clone(), f64::from_bits(*bits))),
            Op::Fold(folding) => {
                let operands: Vec<Tensor> =
                    node.children.iter().map(|child| self.evaluate(*child)).collect::<Result<_, _>>()?;
                let operands: Vec<&Tensor> = operands.iter().collect();
                fold::apply(folding, &operands, &self.network.egraph.analysis).map_err(PassError::new)
            }
            other => Err(PassError::new(format!("{other:?} is not a constant"))),
        }
    }

    /// The operand of a site, named after its layer, in the store if the network has any weight there. A weight of
    /// the source program takes that name too if its bytes are at hand, so that one network exported with other
    /// tensor names gives one program.
    fn site_operand(&mut self, site: usize, id: Id, part: &str) -> Result<Value<'c, 'a>, PassError> {
        let layer = &self.network.egraph.analysis.sites[site].layer;
        let name = format!("{layer}.{part}");
        let data = &self.network.egraph[id].data;
        // Zeros, of either sign, stand for no bias and stay in the IR.
        let zeros = data.value.is_some_and(|number| {
            let values = &self.network.egraph.analysis.values[number].values;
            values.iter().all(|value| *value == 0.0)
        });
        let value = match data.static_shape().filter(|_| zeros) {
            Some(shape) => self.small(format!("zeros {shape:?}"), |writer| {
                built("a constant", ir::tosa_const(writer.context, &shape, &[0.0]))
            })?,
            None => {
                let inline = data.constant.then_some(self.all_inline);
                self.placed_operand(id, &name, inline)?
            }
        };
        if let Some(global) = ir::loaded_global(value)
            && global != name
            && self.cx.weights.get(&global).is_some()
            && !self.renames.iter().any(|(now, _)| *now == global)
        {
            self.renames.push((global, name));
        }
        Ok(value)
    }

    fn operation(&mut self, id: Id, node: &Node) -> Result<Value<'c, 'a>, PassError> {
        let network = self.network;
        let data = &network.egraph[id].data;
        let location =
            data.source.map_or_else(|| Location::unknown(self.context), |source| network.operations[source].location());
        let name = ir::location_name(location).unwrap_or_else(|| "folded".to_owned());
        let shape = data.shape.clone();
        let first = node.children.first().copied();
        let operand = |writer: &mut Self| {
            let id = first.ok_or_else(|| PassError::new("an operation lacks its operand"))?;
            writer.operand(id, &format!("{name}.constant"))
        };
        match &node.op {
            Op::Argument(number) => {
                use melior::ir::BlockLike;
                built("@main", network.block.argument(*number)).map(Value::from)
            }
            Op::Constant(_) | Op::Splat(..) | Op::Value(_) | Op::Fold(_) => self.operand(id, &name),
            Op::Convolution(site, pad) => {
                let original = network.sites[*site];
                let mut operands = vec![
                    operand(self)?,
                    self.site_operand(*site, node.children[1], "weight")?,
                    self.site_operand(*site, node.children[2], "bias")?,
                ];
                let kind = network.egraph.analysis.sites[*site].kind;
                let changed = if kind == SiteKind::Grouped {
                    let mut grouped =
                        Grouped::of(&original).ok_or_else(|| PassError::new("a grouped convolution is malformed"))?;
                    grouped.window.pad = *pad;
                    grouped.custom().attributes(self.context)
                } else {
                    let zero = self.zero()?;
                    operands.extend([zero, zero]);
                    let pad: Vec<i64> = pad.iter().map(|size| *size as i64).collect();
                    vec![(Identifier::new(self.context, "pad"), ir::i64s(self.context, &pad))]
                };
                let result = self.tensor(&shape);
                let operation = self.copy(original, &operands, result, &changed)?;
                self.insert(operation)
            }
            Op::MatMul(site) => {
                let zero = self.zero()?;
                let operands = [operand(self)?, self.site_operand(*site, node.children[1], "weight")?, zero, zero];
                let result = self.tensor(&shape);
                let operation = self.copy(network.sites[*site], &operands, result, &[])?;
                self.insert(operation)
            }
            Op::Binary(op) => {
                let part = match op {
                    Binary::Mul => "scale",
                    Binary::Add => "shift",
                    _ => "constant",
                };
                let &[a, b] = &*node.children else {
                    return Err(PassError::new("an operation lacks its operand"));
                };
                let constant = format!("{name}.{part}");
                let inputs = [self.operand(a, &constant)?, self.operand(b, &constant)?];
                let shift = if *op == Binary::Mul { Some(self.shift()?) } else { None };
                let (function, nan_mode) = (op.tosa(), NanMode::Propagate);
                self.build(location, BinaryOp { function, inputs, shift, nan_mode, result: self.tensor(&shape) })
            }
            Op::Unary(function) => {
                let input = operand(self)?;
                let zero_points = if *function == Unary::Negate { vec![self.zero()?; 2] } else { Vec::new() };
                let result = self.tensor(&shape);
                self.build(location, UnaryOp { function: *function, input, zero_points, result })
            }
            Op::Clamp(min, max) => {
                let input = operand(self)?;
                let [min_val, max_val] = [*min, *max].map(f32::from_bits);
                let (nan_mode, result) = (NanMode::Propagate, self.tensor(&shape));
                self.build(location, tosa::Clamp { input, min_val, max_val, nan_mode, result })
            }
            Op::Transpose(perms) => {
                let input = operand(self)?;
                let perms = perms.iter().map(|axis| *axis as i32).collect();
                self.build(location, tosa::Transpose { input, perms, result: self.tensor(&shape) })
            }
            Op::Reshape(to) => {
                let sizes: Vec<i64> = to.iter().map(|size| size.map_or(-1, |size| size as i64)).collect();
                let (input, sizes) = (operand(self)?, self.shape_operand(&sizes)?);
                self.build(location, tosa::Reshape { input, shape: sizes, result: self.tensor(&shape) })
            }
            Op::Pad(border, value) => {
                let sizes: Vec<i64> = border.iter().flatten().map(|size| *size as i64).collect();
                let (input, padding) = (operand(self)?, self.shape_operand(&sizes)?);
                let pad_const = self.scalar(f32::from_bits(*value))?;
                self.build(location, tosa::Pad { input, padding, pad_const, result: self.tensor(&shape) })
            }
            Op::Opaque(number) => {
                let (original, is_value) = &network.opaque[*number];
                let mut children = node.children.iter();
                let mut operands = Vec::new();
                for (index, is_value) in is_value.iter().enumerate() {
                    operands.push(match (is_value, children.as_slice()) {
                        (true, [child, ..]) => {
                            let child = *child;
                            children.next();
                            self.operand(child, &format!("{name}.constant"))?
                        }
                        _ => {
                            let source = built("an operation", original.operand(index))?;
                            let sizes = ir::defining_op(source)
                                .and_then(|op| super::shape_values(&op))
                                .ok_or_else(|| PassError::new("a shape operand is not constant"))?;
                            self.shape_operand(&sizes)?
                        }
                    });
                }
                let result = built("an operation", original.result(0))?.r#type();
                // The location of the value, which may be another equal operation's.
                let operation = self.copy_at(*original, location, &operands, result, &[])?;
                self.insert(operation)
            }
        }
    }

    fn build(
        &self,
        location: Location<'c>,
        operation: impl Into<tosa::Op<'c, 'a>>,
    ) -> Result<Value<'c, 'a>, PassError> {
        let operation = operation.into();
        self.insert(built(operation.mnemonic(), operation.build(self.context, location))?)
    }

    fn tensor(&self, shape: &Shape) -> Type<'c> {
        ir::tensor_type(Type::float32(self.context), shape)
    }

    /// A copy of an operation with other operands, result and attributes.
    fn copy(
        &self,
        original: OperationRef<'c, 'a>,
        operands: &[Value<'c, 'a>],
        result: Type<'c>,
        changed: &[(Identifier<'c>, Attribute<'c>)],
    ) -> Result<melior::ir::Operation<'c>, PassError> {
        self.copy_at(original, original.location(), operands, result, changed)
    }

    fn copy_at(
        &self,
        original: OperationRef<'c, 'a>,
        location: Location<'c>,
        operands: &[Value<'c, 'a>],
        result: Type<'c>,
        changed: &[(Identifier<'c>, Attribute<'c>)],
    ) -> Result<melior::ir::Operation<'c>, PassError> {
        let name = ir::op_name(&original);
        let mut attributes: Vec<_> = original
            .attributes()
            .filter(|(name, _)| {
                // Whose values it was is recorded anew.
                let stays = ffi::identifier_text(*name).as_deref() != Some(origin::ATTRIBUTE);
                stays && !changed.iter().any(|(changed, _)| changed == name)
            })
            .collect();
        attributes.extend(changed);
        let operation = OperationBuilder::new(&name, location)
            .add_operands(operands)
            .add_results(&[result])
            .add_attributes(&attributes)
            .build();
        built(&name, operation)
    }

    fn small(
        &mut self,
        key: String,
        make: impl FnOnce(&Self) -> Result<melior::ir::Operation<'c>, PassError>,
    ) -> Result<Value<'c, 'a>, PassError> {
        if let Some(value) = self.small.get(&key) {
            return Ok(*value);
        }
        let operation = make(self)?;
        let value = self.insert(operation)?;
        self.small.insert(key, value);
        Ok(value)
    }

    fn scalar(&mut self, value: f32) -> Result<Value<'c, 'a>, PassError> {
        self.small(format!("scalar {:x}", value.to_bits()), |writer| {
            built("a constant", ir::tosa_const(writer.context, &[1], &[value]))
        })
    }

    /// The zero points that TOSA wants.
    fn zero(&mut self) -> Result<Value<'c, 'a>, PassError> {
        self.scalar(0.0)
    }

    /// The shift of `tosa.mul`, 0 for floats.
    fn shift(&mut self) -> Result<Value<'c, 'a>, PassError> {
        self.small("shift".to_owned(), |writer| {
            let r#type = ir::tensor_type(IntegerType::new(writer.context, 8).into(), &[Some(1)]);
            let values = DenseElementsAttribute::i8_values(r#type, &[0]);
            let constant = ConstantOp { constant: Constant::Tensor, values: values.into(), result: r#type };
            built("a constant", constant.build(writer.context, Location::unknown(writer.context)))
        })
    }

    fn shape_operand(&mut self, sizes: &[i64]) -> Result<Value<'c, 'a>, PassError> {
        self.small(format!("shape {sizes:?}"), |writer| {
            let index = ir::tensor_type(Type::index(writer.context), &[Some(sizes.len())]);
            let values = DenseElementsAttribute::i64_values(index, sizes);
            let r#type = Type::parse(writer.context, &format!("!tosa.shape<{}>", sizes.len()))
                .ok_or_else(|| PassError::new("the TOSA dialect is not loaded"))?;
            let constant = ConstantOp { constant: Constant::Shape, values: values.into(), result: r#type };
            built("a shape", constant.build(writer.context, Location::unknown(writer.context)))
        })
    }
}
