//! `map-to-analog`: matrix-vector multiplications with stationary weights become analog layers.
//!
//! ```mlir
//! %1 = tosa.conv2d %0, %w, %b, %z, %z {pad = …, stride = …, dilation = …} : (…) -> … loc("conv1")
//! // becomes
//! %1 = "analog.conv2d"(%0, %w, %b) {layer = "conv1", noise = {…}, groups = 1 : i64, pad = …, …} : (…) -> …
//! ```
//!
//! A slice that the importer put before a strided convolution (TOSA wants the stride to divide) folds back in, a matrix
//! product takes up its reshapes and its bias. Products of two activations stay digital. After this pass no pass moves,
//! merges or refolds an analog layer.

use crate::{
    egraph::grouped,
    pass::{
        OptionError, Options, Pass, PassContext, PassError,
        constants::{
            Source, add_constant, built, fresh, insert_before, remove_dead, settle_names, source, users, weight,
        },
        globs,
    },
};
use globset::GlobMatcher;
use melior::{
    Context,
    ir::{
        BlockRef, Module, OperationRef, Type, Value, ValueLike,
        operation::{OperationLike, OperationMutLike},
    },
};
use mxc_dialects::{
    analog::{self, AnalogOp, Kind, Window},
    erase::{Eraser, ModuleMut},
    ffi, ir,
    noise::LayerNoise,
    origin::{self, Origin, Step},
};
use mxc_runtime::store::Weight;
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
pub struct MapToAnalog {
    keep_digital: Vec<GlobMatcher>,
}

impl Pass for MapToAnalog {
    const NAME: &'static str = "map-to-analog";
    const DESCRIPTION: &'static str = "puts convolutions and matrix products with stationary weights on analog tiles";
    const OPTIONS: &'static [(&'static str, &'static str)] =
        &[("keep-digital", "globs of layers that stay digital, comma-separated")];

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        Ok(Self { keep_digital: globs::matchers(&options.take_list("keep-digital"))? })
    }

    fn run<'c>(
        &mut self,
        context: &'c Context,
        module: &mut ModuleMut<'c, '_>,
        cx: &mut PassContext,
    ) -> Result<(), PassError> {
        let renames = module.erasing(|module, eraser| self.map(context, module, eraser, cx))?;
        module.erasing(remove_dead);
        settle_names(context, module, cx, &renames);
        Ok(())
    }
}

impl MapToAnalog {
    /// Puts analog layers in; returns the names that new globals are to get.
    fn map<'c, 'a>(
        &self,
        context: &'c Context,
        module: &'a Module<'c>,
        eraser: &mut Eraser<'c, 'a>,
        cx: &mut PassContext,
    ) -> Result<Vec<(String, String)>, PassError> {
        let block = ir::main_function(module)
            .and_then(ir::entry_block)
            .ok_or_else(|| PassError::new("the module has no function @main with a body"))?;
        let mut names: BTreeSet<String> = AnalogOp::all(module).into_iter().map(AnalogOp::layer).collect();
        let mut unmatched = vec![true; self.keep_digital.len()];
        let mut mapper =
            Mapper { context, module, block, cx, eraser, renames: Vec::new(), rearranged: BTreeMap::new() };
        for (index, operation) in ir::block_ops(block).into_iter().enumerate() {
            let Some(candidate) = Candidate::of(operation) else {
                continue;
            };
            let name = ir::location_name(operation.location()).filter(|name| !name.is_empty()).unwrap_or_else(|| {
                let op_name = ir::op_name(&operation);
                format!("{}_{index}", op_name.trim_start_matches("tosa."))
            });
            let layer = fresh(&name, |name| names.contains(name));
            let mut kept = false;
            for (glob, unmatched) in self.keep_digital.iter().zip(&mut unmatched) {
                if glob.is_match(&layer) {
                    kept = true;
                    *unmatched = false;
                }
            }
            if kept {
                continue;
            }
            names.insert(layer.clone());
            match candidate {
                Candidate::Convolution { kind, window, groups } => {
                    mapper.convolution(operation, kind, window, groups, &layer)?;
                }
                Candidate::MatMul => mapper.matmul(operation, &layer)?,
            }
        }
        // Of interest are the layers' outputs only.
        for operation in ir::block_ops(block) {
            if !ir::op_name(&operation).starts_with("analog.") {
                origin::set(context, operation, &[]);
            }
        }
        let renames = mapper.renames;
        for (glob, _) in self.keep_digital.iter().zip(unmatched).filter(|(_, unmatched)| *unmatched) {
            let message = format!("keep-digital '{}': no layer matches", glob.glob());
            cx.warnings.push(message);
        }
        Ok(renames)
    }
}

/// What an operation may be mapped to.
enum Candidate {
    Convolution { kind: Kind, window: Window, groups: usize },
    MatMul,
}

impl Candidate {
    fn of(operation: OperationRef<'_, '_>) -> Option<Self> {
        let constant = |index| operation.operand(index).ok().and_then(source).is_some();
        let convolution =
            |kind, window, groups| (constant(1) && constant(2)).then_some(Self::Convolution { kind, window, groups });
        match ir::op_name(&operation).as_str() {
            "tosa.conv2d" => convolution(Kind::Conv2d, analog::window(&operation)?, 1),
            "tosa.depthwise_conv2d" => convolution(Kind::DepthwiseConv2d, analog::window(&operation)?, 1),
            "tosa.custom" => {
                let grouped = grouped::Grouped::of(&operation)?;
                convolution(Kind::Conv2d, grouped.window, grouped.groups)
            }
            "tosa.matmul" => {
                let stationary = ir::value_shape(operation.operand(1).ok()?)?.first() == Some(&Some(1));
                (constant(1) && !constant(0) && stationary).then_some(Self::MatMul)
            }
            _ => None,
        }
    }
}

struct Mapper<'c, 'a, 'p> {
    context: &'c Context,
    module: &'a Module<'c>,
    block: BlockRef<'c, 'a>,
    cx: &'p mut PassContext,
    eraser: &'p mut Eraser<'c, 'a>,
    renames: Vec<(String, String)>,
    /// The globals that matrix products' weights and biases became, by the ones they were and their new shape.
    rearranged: BTreeMap<(String, Vec<usize>), String>,
}

impl<'c, 'a> Mapper<'c, 'a, '_> {
    fn convolution(
        &mut self,
        operation: OperationRef<'c, 'a>,
        kind: Kind,
        window: Window,
        groups: usize,
        layer: &str,
    ) -> Result<(), PassError> {
        let operand = |index| built("an analog layer", operation.operand(index));
        let output = built("an analog layer", operation.result(0))?;
        let weight = operand(1)?;
        let input = unsliced(operand(0)?, weight, kind, &window, output.r#type());
        let channels = ir::tensor_shape(output.r#type()).and_then(|shape| shape.last().copied().flatten());
        let bias = self.bias(operand(2)?, channels, operation, layer)?;
        let analog = built(
            "an analog layer",
            analog::build(
                self.context,
                operation.location(),
                kind,
                [input, weight, bias],
                output.r#type(),
                layer,
                Some(window),
                groups,
                &LayerNoise::default(),
            ),
        )?;
        let analog = insert_before(self.block, operation, analog)?;
        self.record(analog, &origin::of(&operation));
        ffi::replace_all_uses(output.into(), analog);
        self.eraser.erase(operation);
        Ok(())
    }

    /// Records which values of the source model a layer's output is.
    fn record(&self, output: Value<'c, 'a>, origins: &[Origin]) {
        if let Some(operation) = ir::defining_op(output) {
            origin::set(self.context, operation, origins);
        }
    }

    /// The bias with one element per output channel: TOSA lets a single one stand for all.
    fn bias(
        &mut self,
        bias: Value<'c, 'a>,
        channels: Option<usize>,
        before: OperationRef<'c, 'a>,
        layer: &str,
    ) -> Result<Value<'c, 'a>, PassError> {
        let shape = ir::value_shape(bias).unwrap_or_default();
        match channels {
            Some(channels) if shape == [Some(1)] && channels != 1 => {
                let repeated = repeated(&weight(MapToAnalog::NAME, bias, &self.cx.weights)?, channels)?;
                self.constant(bias, &format!("{layer}.bias"), repeated, before)
            }
            _ => Ok(bias),
        }
    }

    /// A new constant, inline if `like` is.
    fn constant(
        &mut self,
        like: Value<'c, 'a>,
        name: &str,
        weight: Weight,
        before: OperationRef<'c, 'a>,
    ) -> Result<Value<'c, 'a>, PassError> {
        add_constant(
            self.context,
            self.module,
            self.block,
            before,
            &mut self.cx.weights,
            source(like) == Some(Source::Inline),
            name,
            weight,
            &mut self.renames,
        )
    }

    /// A constant in another arrangement of that shape. A global that several layers read becomes one global: what a tile holds
    /// once counts once.
    fn rearranged(
        &mut self,
        of: Value<'c, 'a>,
        name: &str,
        shape: Vec<usize>,
        weight: impl FnOnce(&Self) -> Result<Weight, PassError>,
        before: OperationRef<'c, 'a>,
    ) -> Result<Value<'c, 'a>, PassError> {
        let key = match source(of) {
            Some(Source::Global(global)) => Some((global, shape)),
            _ => None,
        };
        if let Some((key, made)) = key.as_ref().and_then(|key| Some((key, self.rearranged.get(key)?))) {
            let r#type = ir::f32_tensor(self.context, &key.1);
            let load = built("a load", ir::load_global(self.context, made, r#type))?;
            return insert_before(self.block, before, load);
        }
        let weight = weight(self)?;
        let value = self.constant(of, name, weight, before)?;
        if let (Some(key), Some(made)) = (key, ir::loaded_global(value)) {
            self.rearranged.insert(key, made);
        }
        Ok(value)
    }

    /// `[reshape] → matmul → [reshape] → [add bias]` becomes one layer; the reshapes go where they undo each other.
    fn matmul(&mut self, matmul: OperationRef<'c, 'a>, layer: &str) -> Result<(), PassError> {
        let operand = |index| built("an analog layer", matmul.operand(index));
        let product: Value<'c, 'a> = built("an analog layer", matmul.result(0))?.into();
        let lhs = operand(0)?;
        let rhs = operand(1)?;
        let rhs_shape: Vec<usize> =
            ir::value_shape(rhs).and_then(|shape| shape.into_iter().collect()).unwrap_or_default();
        let [_, inputs, outputs] = rhs_shape[..] else {
            return Err(PassError::new("a matmul's weight is not static and of rank 3").at(matmul.location()));
        };

        // What follows.
        let reshape = self.only_user(product, "tosa.reshape").filter(|reshape| {
            result(*reshape).and_then(ir::value_shape).and_then(|shape| shape.last().copied()) == Some(Some(outputs))
        });
        let last = reshape.and_then(result).unwrap_or(product);
        let add = self.only_user(last, "tosa.add").and_then(|add| Some((add, self.added_bias(add, last, outputs)?)));

        // What precedes.
        let end_type: Type<'c> = last.r#type();
        let direct = reshape.and_then(|_| {
            let before = ir::defining_op(lhs).filter(|op| ir::op_name(op) == "tosa.reshape")?;
            let input = before.operand(0).ok()?;
            let mut expected = ir::value_shape(input)?;
            (expected.pop()? == Some(inputs)).then_some(())?;
            expected.push(Some(outputs));
            (ir::tensor_shape(end_type)? == expected).then_some(input)
        });

        let anchor = add.map_or(reshape.filter(|_| direct.is_some()).unwrap_or(matmul), |(add, _)| add);
        let transposed = |mapper: &Self| {
            weight(Self::PASS, rhs, &mapper.cx.weights)?
                .reshaped(vec![inputs, outputs])
                .and_then(|weight| weight.transposed(&[1, 0]))
                .ok_or_else(|| PassError::new("a matmul's weight has a wrong size").at(matmul.location()))
        };
        let kernel = self.rearranged(rhs, &format!("{layer}.weight"), vec![outputs, inputs], transposed, anchor)?;
        let mut shift = None;
        let bias = match add {
            Some((_, bias)) => {
                let added = repeated(&weight(Self::PASS, bias, &self.cx.weights)?, outputs)?;
                shift = Some(Step::Shift(added.values().to_vec()));
                let vector = |mapper: &Self| repeated(&weight(Self::PASS, bias, &mapper.cx.weights)?, outputs);
                self.rearranged(bias, &format!("{layer}.bias"), vec![outputs], vector, anchor)?
            }
            None => {
                let zero = built("a constant", ir::tosa_const(self.context, &[outputs], &[0.0]))?;
                insert_before(self.block, anchor, zero)?
            }
        };
        let (input, output) = match direct {
            Some(input) => (input, end_type),
            None => (lhs, product.r#type()),
        };
        let analog = built(
            "an analog layer",
            analog::build(
                self.context,
                matmul.location(),
                Kind::FullyConnected,
                [input, kernel, bias],
                output,
                layer,
                None,
                1,
                &LayerNoise::default(),
            ),
        )?;
        let mut replacement = insert_before(self.block, anchor, analog)?;
        let reshaped = |r#type: Type<'c>| ir::tensor_shape(r#type).map(Step::Reshape);
        // What the layer's output is in the source: the sum's value, else the reshaped product's, else what follows from the
        // product's.
        let origins = match (add, direct) {
            (Some((add, _)), _) => {
                (origin::of(&add), reshaped(output).filter(|_| direct.is_none() && reshape.is_some()))
            }
            (None, Some(_)) => (reshape.map(|reshape| origin::of(&reshape)).unwrap_or_default(), None),
            (None, None) => (origin::of(&matmul), None),
        };
        let origins: Vec<_> = match origins {
            (found, _) if found.is_empty() => {
                let steps: Vec<_> = reshaped(output).into_iter().filter(|_| direct.is_some()).chain(shift).collect();
                origin::of(&matmul).into_iter().map(|origin| origin.then(steps.clone())).collect()
            }
            (found, step) => found.into_iter().map(|origin| origin.then(step.clone())).collect(),
        };
        self.record(replacement, &origins);
        if let (None, Some(reshape), Some((add, _))) = (direct, reshape, add) {
            // The reshape stays, now after the layer that has taken up the bias.
            let mut moved = ffi::as_mut(reshape);
            moved.set_operand(0, replacement);
            moved.move_before(add);
            replacement = result(reshape).unwrap_or(replacement);
        }
        let replaced = match (add, direct) {
            (Some((add, _)), _) => result(add),
            (None, Some(_)) => reshape.and_then(result),
            (None, None) => Some(product),
        };
        if let Some(replaced) = replaced {
            ffi::replace_all_uses(replaced, replacement);
        }
        Ok(())
    }

    const PASS: &'static str = MapToAnalog::NAME;

    /// The operation of this name that is the value's only user, with the value as an operand once.
    fn only_user(&self, value: Value<'c, 'a>, name: &str) -> Option<OperationRef<'c, 'a>> {
        if ffi::use_count(value) != 1 {
            return None;
        }
        users(self.block, value).into_iter().find(|user| ir::op_name(user) == name)
    }

    /// The constant that `add` adds to `value`, if it is one per output or a single one.
    fn added_bias(&self, add: OperationRef<'c, 'a>, value: Value<'c, 'a>, outputs: usize) -> Option<Value<'c, 'a>> {
        let other = add.operands().find(|operand| *operand != value)?;
        source(other)?;
        let shape: Vec<usize> = ir::value_shape(other)?.into_iter().collect::<Option<_>>()?;
        let (last, leading) = shape.split_last()?;
        // The sum must not broadcast the product.
        let same = result(add)?.r#type() == value.r#type();
        (same && leading.iter().all(|size| *size == 1) && (*last == outputs || *last == 1)).then_some(other)
    }
}

fn result<'c, 'a>(operation: OperationRef<'c, 'a>) -> Option<Value<'c, 'a>> {
    operation.result(0).ok().map(Value::from)
}

/// The value before a slice that cuts only rows and columns which floor semantics ignores anyway; else the value
/// itself.
fn unsliced<'c: 'a, 'a>(
    input: Value<'c, 'a>,
    weight: Value<'c, 'a>,
    kind: Kind,
    window: &Window,
    output: Type<'c>,
) -> Value<'c, 'a> {
    let folded = || {
        let slice = ir::defining_op(input).filter(|op| ir::op_name(op) == "tosa.slice")?;
        let whole = slice.operand(0).ok()?;
        let starts = ir::defining_op(slice.operand(1).ok()?)?;
        let zero = crate::egraph::shape_values(&starts)?.iter().all(|start| *start == 0);
        let (from, to) = (ir::value_shape(whole)?, ir::value_shape(input)?);
        let (kernel, out) = (ir::value_shape(weight)?, ir::tensor_shape(output)?);
        let kernel = match kind {
            Kind::DepthwiseConv2d => [kernel.first(), kernel.get(1)],
            _ => [kernel.get(1), kernel.get(2)],
        };
        let same_size = (0..2).all(|axis| {
            let size = from.get(axis + 1).copied().flatten();
            let kernel = kernel[axis].copied().flatten();
            match (size, kernel) {
                (Some(size), Some(kernel)) => {
                    window.output_size(axis, size, kernel) == out.get(axis + 1).copied().flatten()
                }
                _ => false,
            }
        });
        let same_rest = from.first() == to.first() && from.last() == to.last();
        (zero && same_size && same_rest).then_some(whole)
    };
    folded().unwrap_or(input)
}

/// A bias of one value per channel: one value stands for all.
fn repeated(bias: &Weight, channels: usize) -> Result<Weight, PassError> {
    let weight = match bias.values() {
        [value] => Weight::new(vec![channels], vec![*value; channels]),
        _ => bias.reshaped(vec![channels]),
    };
    weight.ok_or_else(|| PassError::new(format!("a bias of {:?} does not fit {channels} channels", bias.shape())))
}
