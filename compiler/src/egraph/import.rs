//! Reads the dataflow of `@main` into an e-graph.

use super::{
    analysis::Graph,
    facts::{Facts, Known, KnownConstant, Site, SiteKind, Tensor},
    grouped::Grouped,
    language::{Binary, Node, Op, Shape, unary},
    shape_values,
};
use crate::pass::{PassError, constants};
use egg::Id;
use melior::ir::{
    Attribute, BlockLike, BlockRef, Module, OperationRef, ShapedTypeLike, Type, TypeLike, Value, ValueLike,
    attribute::AttributeLike, operation::OperationLike, r#type::RankedTensorType,
};
use mxc_dialects::{
    analog, ffi, ir,
    origin::{self, Origin},
};
use mxc_runtime::store::WeightStore;
use std::collections::{BTreeMap, BTreeSet};

/// A constant with more elements is not looked through for being a single repeated value.
const MAX_SPLAT_ELEMENTS: usize = 1 << 16;

/// `@main` as an e-graph, and what it takes to write it back.
pub struct Network<'c, 'a> {
    /// The e-graph.
    pub egraph: Graph,
    /// The e-classes of the results.
    pub roots: Vec<Id>,
    /// The body of `@main`.
    pub block: BlockRef<'c, 'a>,
    /// Its `func.return`.
    pub terminator: OperationRef<'c, 'a>,
    /// Its operations before rewriting, which [`super::analysis::Data::source`] numbers.
    pub operations: Vec<OperationRef<'c, 'a>>,
    /// The values of [`Op::Constant`].
    pub constants: Vec<Value<'c, 'a>>,
    /// The operations of sites, in the order of [`Facts::sites`].
    pub sites: Vec<OperationRef<'c, 'a>>,
    /// Which values of the source model e-classes are; the ids may have been merged since.
    pub origins: Vec<(Id, Origin)>,
    /// The operations of [`Op::Opaque`], with the operands that are e-classes (`None`: a `tosa.const_shape`).
    pub opaque: Vec<(OperationRef<'c, 'a>, Vec<bool>)>,
}

/// Reads `@main`.
pub fn read<'c, 'a>(module: &'a Module<'c>, store: &WeightStore) -> Result<Network<'c, 'a>, PassError> {
    let block = ir::main_function(module)
        .and_then(ir::entry_block)
        .ok_or_else(|| PassError::new("the module has no function @main with a body"))?;
    let mut operations = ir::block_ops(block);
    let terminator = operations
        .pop()
        .filter(|last| ir::op_name(last) == "func.return")
        .ok_or_else(|| PassError::new("@main does not end in func.return"))?;
    let mut origins = Vec::new();
    let mut reader = Reader {
        store,
        egraph: Graph::new(Facts::default()),
        values: BTreeMap::new(),
        constants: Vec::new(),
        constant_keys: BTreeMap::new(),
        sites: Vec::new(),
        opaque: Vec::new(),
        opaque_keys: BTreeMap::new(),
    };
    for index in 0..block.argument_count() {
        let argument: Value = constants::built("@main", block.argument(index))?.into();
        let number = reader.egraph.analysis.arguments.len();
        reader.egraph.analysis.arguments.push(known(argument));
        let id = reader.egraph.add(Node::new(Op::Argument(number), []));
        reader.values.insert(key(argument), id);
    }
    for (index, operation) in operations.iter().enumerate() {
        if let Some(id) = reader.operation(*operation)? {
            let source = &mut reader.egraph[id].data.source;
            *source = Some(source.map_or(index, |first| first.min(index)));
        }
        let id = operation.result(0).ok().and_then(|result| reader.values.get(&key(result.into())).copied());
        origins.extend(id.into_iter().flat_map(|id| origin::of(operation).into_iter().map(move |origin| (id, origin))));
    }
    let roots: Vec<Id> =
        terminator.operands().map(|value| reader.value(value, &terminator)).collect::<Result<_, _>>()?;
    reader.egraph.rebuild();
    count_uses(&mut reader.egraph, &roots);
    Ok(Network {
        egraph: reader.egraph,
        roots,
        block,
        terminator,
        operations,
        constants: reader.constants,
        sites: reader.sites,
        origins,
        opaque: reader.opaque,
    })
}

/// Notes how many operations and results use each value; equal operations count once.
pub(super) fn count_uses(egraph: &mut Graph, roots: &[Id]) {
    let mut uses: BTreeMap<Id, usize> = BTreeMap::new();
    for class in egraph.classes() {
        for node in &class.nodes {
            let children: BTreeSet<Id> = node.children.iter().map(|id| egraph.find(*id)).collect();
            for child in children {
                *uses.entry(child).or_default() += 1;
            }
        }
    }
    for root in roots {
        *uses.entry(egraph.find(*root)).or_default() += 1;
    }
    for (id, count) in uses {
        egraph[id].data.uses = count;
    }
}

fn key(value: Value<'_, '_>) -> usize {
    value.to_raw().ptr as usize
}

fn is_f32(r#type: Type<'_>) -> bool {
    RankedTensorType::try_from(r#type).is_ok_and(|tensor| tensor.element().is_f32())
}

fn known(value: Value<'_, '_>) -> Known {
    Known { shape: ir::value_shape(value).unwrap_or_default(), float: is_f32(value.r#type()) }
}

struct Reader<'c, 'a, 's> {
    store: &'s WeightStore,
    egraph: Graph,
    values: BTreeMap<usize, Id>,
    constants: Vec<Value<'c, 'a>>,
    /// By global name, or by the identity of a `tosa.const`'s attribute.
    constant_keys: BTreeMap<(String, usize), Id>,
    sites: Vec<OperationRef<'c, 'a>>,
    opaque: Vec<(OperationRef<'c, 'a>, Vec<bool>)>,
    opaque_keys: BTreeMap<String, usize>,
}

impl<'c, 'a> Reader<'c, 'a, '_> {
    fn value(&self, value: Value<'c, 'a>, user: &OperationRef<'c, 'a>) -> Result<Id, PassError> {
        self.values.get(&key(value)).copied().ok_or_else(|| {
            let name = ir::op_name(user);
            PassError::new(format!("{name} uses a value from outside @main")).at(user.location())
        })
    }

    fn data(&self, id: Id) -> &super::analysis::Data {
        &self.egraph[id].data
    }

    /// Reads one operation; the e-class of its result, unless it only passes one on.
    fn operation(&mut self, operation: OperationRef<'c, 'a>) -> Result<Option<Id>, PassError> {
        let name = ir::op_name(&operation);
        if operation.result_count() != 1 || operation.region_count() != 0 {
            return Err(PassError::new(format!(
                "cannot rewrite around {name}: operations with one result and no region are expected in @main"
            ))
            .at(operation.location()));
        }
        if name == "tosa.const_shape" {
            return Ok(None);
        }
        let result: Value = constants::built(&name, operation.result(0))?.into();
        if constants::source(result).is_some() {
            let id = self.constant(operation, result)?;
            self.values.insert(key(result), id);
            return Ok(None);
        }
        let mut operands = Vec::new();
        let mut is_value = Vec::new();
        for operand in operation.operands() {
            let shape = ir::defining_op(operand).is_some_and(|op| ir::op_name(&op) == "tosa.const_shape");
            is_value.push(!shape);
            if !shape {
                operands.push(self.value(operand, &operation)?);
            }
        }
        let same_type = |id: Id| {
            let data = self.data(id);
            data.float == is_f32(result.r#type()) && Some(&data.shape) == ir::value_shape(result).as_ref()
        };
        let passes_on = match name.as_str() {
            // The e-graph only tells floats from other types.
            "tosa.cast" => operation.operand(0).is_ok_and(|operand| operand.r#type() == result.r#type()),
            "tosa.identity" | "tosa.slice" | "tosa.concat" => operands.len() == 1,
            name => name.starts_with("tosa.reduce_"),
        };
        if passes_on && same_type(operands[0]) {
            self.values.insert(key(result), operands[0]);
            return Ok(None);
        }
        let node = match self.interpret(&name, operation, result, &operands) {
            Some(node) => node,
            None => {
                let op = Op::Opaque(self.opaque(operation, result, is_value));
                Node::new(op, operands)
            }
        };
        let id = self.egraph.add(node);
        self.values.insert(key(result), id);
        Ok(Some(id))
    }

    fn constant(&mut self, operation: OperationRef<'c, 'a>, result: Value<'c, 'a>) -> Result<Id, PassError> {
        let attribute = operation.attribute("values").ok();
        let identity =
            |attribute: Option<Attribute<'c>>| attribute.map_or(0, |attribute| attribute.to_raw().ptr as usize);
        let global = ir::loaded_global(result);
        let entry = (global.clone().unwrap_or_default(), identity(attribute));
        if let Some(id) = self.constant_keys.get(&entry) {
            return Ok(*id);
        }
        let shape: Vec<usize> =
            ir::value_shape(result).and_then(|shape| shape.into_iter().collect()).ok_or_else(|| {
                PassError::new(format!("a constant has the type {}", result.r#type())).at(operation.location())
            })?;
        let float = is_f32(result.r#type());
        let elements = shape.iter().product::<usize>();
        let values: Option<Vec<f64>> = match (&global, attribute) {
            _ if !float || elements > MAX_SPLAT_ELEMENTS => None,
            (Some(name), _) => self
                .store
                .get(name)
                .filter(|weight| weight.shape() == shape)
                .map(|weight| weight.values().iter().map(|x| f64::from(*x)).collect()),
            (None, Some(attribute)) => {
                ffi::dense_f32(attribute).map(|values| values.into_iter().map(f64::from).collect())
            }
            (None, None) => None,
        };
        let tensor = values.map(|values| Tensor { shape: shape.clone(), values });
        let said = || attribute.filter(|_| global.is_none()).and_then(ffi::dense_f32_splat).map(f64::from);
        let splat = tensor.as_ref().and_then(Tensor::repeated).or_else(said);
        let number = self.constants.len();
        self.constants.push(result);
        let facts = &mut self.egraph.analysis;
        let value = tensor.and_then(|tensor| facts.intern(tensor));
        facts.constants.push(KnownConstant { shape, float, splat, value });
        let id = self.egraph.add(Node::new(Op::Constant(number), []));
        self.constant_keys.insert(entry, id);
        Ok(id)
    }

    /// The node of an operation that rules know, if it has the form they know.
    fn interpret(
        &mut self,
        name: &str,
        operation: OperationRef<'c, 'a>,
        result: Value<'c, 'a>,
        operands: &[Id],
    ) -> Option<Node> {
        let data: Vec<_> = operands.iter().map(|id| self.data(*id).clone()).collect();
        let shape: Shape = ir::value_shape(result)?;
        if !is_f32(result.r#type()) {
            return None;
        }
        // Shifts are integers; every other operand of what rules know is f32.
        let floats = if name == "tosa.mul" { 2 } else { data.len() };
        if !data.iter().take(floats).all(|data| data.float) {
            return None;
        }
        let zero = |from: usize| data.iter().skip(from).all(|data| data.splat == Some(0.0));
        let propagates_nan =
            || operation.attribute("nan_mode").map_or(true, |mode| mode.to_string().contains("PROPAGATE"));
        let operand = |index: usize| {
            let operation = ir::defining_op(operation.operand(index).ok()?)?;
            shape_values(&operation)
        };
        let sizes = |values: Vec<i64>| -> Option<Vec<usize>> {
            values.into_iter().map(|value| usize::try_from(value).ok()).collect()
        };
        if let Some(binary) = Binary::of(name) {
            let [a, b] = *operands.get(..2)? else { return None };
            let equal_rank = data[0].shape.len() == data[1].shape.len();
            let nan = !matches!(binary, Binary::Max | Binary::Min) || propagates_nan();
            // `tosa.mul` carries a shift that is 0 for floats.
            if !equal_rank || !nan {
                return None;
            }
            let swapped = binary.is_commutative() && data[0].constant && !data[1].constant;
            let children = if swapped { [b, a] } else { [a, b] };
            return Some(Node::new(Op::Binary(binary), children));
        }
        if let Some(name) = unary(name) {
            // `tosa.negate` carries two zero points.
            return zero(1).then(|| Node::new(Op::Unary(name), [operands[0]]));
        }
        match name {
            "tosa.conv2d" | "tosa.depthwise_conv2d" if zero(3) => {
                let kind = match name {
                    "tosa.conv2d" => SiteKind::Conv2d,
                    _ => SiteKind::Depthwise,
                };
                let window = analog::window(&operation)?;
                let site = self.site(operation, kind, 1, &data[0].shape, shape)?;
                Some(Node::new(Op::Convolution(site, window.pad), &operands[..3]))
            }
            "tosa.custom" if operands.len() == 3 => {
                let grouped = Grouped::of(&operation)?;
                let site = self.site(operation, SiteKind::Grouped, grouped.groups, &data[0].shape, shape)?;
                Some(Node::new(Op::Convolution(site, grouped.window.pad), operands))
            }
            "tosa.matmul" if zero(2) => {
                let site = self.site(operation, SiteKind::MatMul, 1, &data[0].shape, shape)?;
                Some(Node::new(Op::MatMul(site), &operands[..2]))
            }
            "tosa.clamp" if propagates_nan() => {
                let bound = |name| ir::f64_attr(&operation, name).map(|x| (x as f32).to_bits());
                Some(Node::new(Op::Clamp(bound("min_val")?, bound("max_val")?), operands))
            }
            "tosa.transpose" => {
                let perms = sizes(ir::i64s_attr(&operation, "perms")?)?;
                let valid = perms.len() == data[0].shape.len() && (0..perms.len()).all(|axis| perms.contains(&axis));
                valid.then(|| Node::new(Op::Transpose(perms), operands))
            }
            "tosa.reshape" => {
                // Two dynamic sizes cannot be written back as a shape operand.
                let writable = shape.iter().filter(|size| size.is_none()).count() <= 1;
                writable.then(|| Node::new(Op::Reshape(shape), operands))
            }
            "tosa.pad" => {
                let border: Vec<[usize; 2]> =
                    sizes(operand(1)?)?.chunks_exact(2).map(|sides| [sides[0], sides[1]]).collect();
                let value = data.get(1)?.splat?;
                let valid = border.len() == data[0].shape.len();
                let op = Op::Pad(border, (value as f32).to_bits());
                valid.then(|| Node::new(op, &operands[..1]))
            }
            _ => None,
        }
    }

    fn site(
        &mut self,
        operation: OperationRef<'c, 'a>,
        kind: SiteKind,
        groups: usize,
        input: &Shape,
        shape: Shape,
    ) -> Option<usize> {
        let inputs = input.last().copied().flatten()?;
        let outputs = shape.last().copied().flatten()?;
        let number = self.sites.len();
        let layer = ir::location_name(operation.location())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| format!("layer{number}"));
        self.sites.push(operation);
        self.egraph.analysis.sites.push(Site { kind, layer, groups, inputs, outputs, shape });
        Some(number)
    }

    fn opaque(&mut self, operation: OperationRef<'c, 'a>, result: Value<'c, 'a>, is_value: Vec<bool>) -> usize {
        let mut text = format!("{} : {}", ir::op_name(&operation), result.r#type());
        for (name, attribute) in operation.attributes() {
            let name = ffi::identifier_text(name).unwrap_or_default();
            // Equal operations are one, whatever the source calls their results.
            if name == origin::ATTRIBUTE {
                continue;
            }
            text.push_str(&format!(" {name}={attribute}"));
        }
        for operand in operation.operands() {
            let shape = ir::defining_op(operand).and_then(|op| shape_values(&op));
            text.push_str(&format!(" {shape:?}"));
        }
        if let Some(number) = self.opaque_keys.get(&text) {
            return *number;
        }
        let number = self.opaque.len();
        self.opaque.push((operation, is_value));
        self.egraph.analysis.opaque.push(known(result));
        self.opaque_keys.insert(text, number);
        number
    }
}
