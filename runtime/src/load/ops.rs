//! Reading each operation into nodes.

use super::{Bound, LoadError, Loader, View, dtype, fail, is_i16, result};
use crate::{
    program::{
        Binary, DType, Interpolation, Layer, LayerId, Op, Padding, Reduce, Sampling, Scattering, Unary, ValueId,
    },
    store::Weight,
};
use melior::ir::{OperationRef, ValueLike, operation::OperationLike};
use mxc_dialects::{
    analog::AnalogOp,
    denoise::{Denoiser, Kind},
    dtile, ir,
};
use std::sync::Arc;

/// The elementwise operations of two operands.
fn binary(name: &str) -> Option<Binary> {
    Some(match name {
        "tosa.add" => Binary::Add,
        "tosa.sub" => Binary::Sub,
        "tosa.mul" => Binary::Mul,
        "tosa.maximum" => Binary::Max,
        "tosa.minimum" => Binary::Min,
        "tosa.pow" => Binary::Pow,
        "tosa.intdiv" => Binary::IntDiv,
        "tosa.equal" => Binary::Equal,
        "tosa.greater" => Binary::Greater,
        "tosa.greater_equal" => Binary::GreaterEqual,
        "tosa.logical_and" => Binary::And,
        "tosa.logical_or" => Binary::Or,
        "tosa.logical_xor" => Binary::Xor,
        _ => return None,
    })
}

/// The elementwise operations of one operand that have no attributes.
fn unary(name: &str) -> Option<Unary> {
    Some(match name {
        "tosa.sigmoid" => Unary::Sigmoid,
        "tosa.tanh" => Unary::Tanh,
        "tosa.erf" => Unary::Erf,
        "tosa.exp" => Unary::Exp,
        "tosa.log" => Unary::Log,
        "tosa.reciprocal" => Unary::Reciprocal,
        "tosa.rsqrt" => Unary::Rsqrt,
        "tosa.abs" => Unary::Abs,
        "tosa.negate" => Unary::Negate,
        "tosa.floor" => Unary::Floor,
        "tosa.ceil" => Unary::Ceil,
        "tosa.sin" => Unary::Sin,
        "tosa.cos" => Unary::Cos,
        "tosa.logical_not" => Unary::Not,
        _ => return None,
    })
}

/// The elementwise operators of one operand that TOSA lacks: `tosa.custom` of the domain `mxc`.
fn custom_unary(operator: &str) -> Option<Unary> {
    Some(match operator {
        "round" => Unary::Round,
        "sign" => Unary::Sign,
        "tan" => Unary::Tan,
        "asin" => Unary::Asin,
        "acos" => Unary::Acos,
        "atan" => Unary::Atan,
        "sinh" => Unary::Sinh,
        "cosh" => Unary::Cosh,
        "asinh" => Unary::Asinh,
        "acosh" => Unary::Acosh,
        "atanh" => Unary::Atanh,
        _ => return None,
    })
}

/// The reductions.
fn reduction(name: &str) -> Option<Reduce> {
    Some(match name {
        "tosa.reduce_sum" => Reduce::Sum,
        "tosa.reduce_max" => Reduce::Max,
        "tosa.reduce_min" => Reduce::Min,
        "tosa.reduce_product" => Reduce::Product,
        _ => return None,
    })
}

/// The other operations.
const OTHERS: [&str; 28] = [
    "func.return",
    "ml_program.global_load_const",
    "tosa.const",
    "tosa.const_shape",
    "tosa.conv2d",
    "tosa.depthwise_conv2d",
    "tosa.custom",
    "tosa.matmul",
    "tosa.avg_pool2d",
    "tosa.max_pool2d",
    "tosa.clamp",
    "tosa.reshape",
    "tosa.transpose",
    "tosa.concat",
    "tosa.slice",
    "tosa.pad",
    "tosa.tile",
    "tosa.select",
    "tosa.argmax",
    "tosa.identity",
    "tosa.cast",
    "analog.conv2d",
    "analog.depthwise_conv2d",
    "analog.fully_connected",
    "quant.qcast",
    "quant.scast",
    "quant.dcast",
    LAUNCH,
];

/// The operation that runs a program on the digital tile.
pub(super) const LAUNCH: &str = dtile::Launch::MNEMONIC;

/// Whether an operation can be read.
pub(super) fn is_known(name: &str) -> bool {
    OTHERS.contains(&name)
        || Kind::of_operation(name).is_some()
        || binary(name).is_some()
        || unary(name).is_some()
        || reduction(name).is_some()
}

/// A convolution's or pooling's geometry.
struct Window {
    stride: [usize; 2],
    pad: [usize; 4],
    dilation: [usize; 2],
}

impl<'c> Loader<'c, '_> {
    /// Reads one operation.
    pub(super) fn operation(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let name = ir::op_name(op);
        if let Some(kind) = binary(&name) {
            return self.binary(op, kind);
        }
        if let Some(kind) = unary(&name) {
            if kind == Unary::Negate {
                self.zero(op, &[1, 2])?;
            }
            return self.unary(op, kind);
        }
        if let Some(kind) = reduction(&name) {
            return self.reduce(op, kind);
        }
        match name.as_str() {
            // Words of quantised weights: the denoiser that reads them, if it is not lowered, is refused.
            "ml_program.global_load_const" if result(op).is_ok_and(is_i16) => Ok(()),
            "ml_program.global_load_const" => {
                let (name, weight) = self.global(op)?;
                self.bind(result(op)?, Bound::Constant(name, weight));
                Ok(())
            }
            "tosa.const" | "tosa.const_shape" => self.inline_constant(op),
            "tosa.conv2d" => {
                self.zero(op, &[3, 4])?;
                let window = window_attributes(op)?;
                self.convolution(op, window, 1, None)
            }
            "tosa.custom" => self.custom(op),
            "tosa.depthwise_conv2d" => {
                self.zero(op, &[3, 4])?;
                let window = window_attributes(op)?;
                self.depthwise(op, window, None)
            }
            "tosa.matmul" => self.matmul(op),
            "tosa.avg_pool2d" => {
                self.zero(op, &[1, 2])?;
                self.pool(op, true)
            }
            "tosa.max_pool2d" => self.pool(op, false),
            "tosa.clamp" => {
                let bound =
                    |name: &str| ir::f64_attr(op, name).ok_or_else(|| fail(op, format!("its {name} must be a float")));
                let (min, max) = (bound("min_val")? as f32, bound("max_val")? as f32);
                self.unary(op, Unary::Clamp { min, max })
            }
            "tosa.reshape" => self.reshape(op),
            "tosa.transpose" => self.transpose(op),
            "tosa.concat" => self.concat(op),
            "tosa.slice" => self.slice(op),
            "tosa.pad" => self.pad(op),
            "tosa.identity" => self.alias(op),
            "tosa.cast" => self.cast(op),
            "tosa.tile" => self.tile(op),
            "tosa.select" => self.select(op),
            "tosa.argmax" => self.argmax(op),
            "analog.conv2d" => {
                let window = window_attributes(op)?;
                let groups = ir::i64_attr(op, "groups")
                    .and_then(|groups| usize::try_from(groups).ok())
                    .ok_or_else(|| fail(op, "its groups must be a positive integer".into()))?;
                let channels = self.constant(op, 2)?.1.shape().iter().product();
                let layer = self.layer(op, channels)?;
                self.convolution(op, window, groups, Some(layer))
            }
            "analog.depthwise_conv2d" => {
                let window = window_attributes(op)?;
                let channels = self.constant(op, 2)?.1.shape().iter().product();
                let layer = self.layer(op, channels)?;
                self.depthwise(op, window, Some(layer))
            }
            "analog.fully_connected" => {
                let channels = self.constant(op, 2)?.1.shape().iter().product();
                let layer = self.layer(op, channels)?;
                let (weight_name, weight) = self.constant(op, 1)?;
                let (bias_name, bias) = self.constant(op, 2)?;
                let weight = self.constant_value(weight_name, weight);
                let bias = self.constant_value(bias_name, bias);
                self.fully_connected(op, weight, bias, Some(layer))
            }
            "quant.qcast" => self.quantise(op),
            "quant.scast" => self.reinterpret(op),
            "quant.dcast" => self.dequantise(op),
            LAUNCH => self.launch(op),
            _ => match Denoiser::new(*op) {
                Some(denoiser) => self.denoise(op, denoiser.kind()),
                None => Err(fail(op, "it cannot be executed".into())),
            },
        }
    }

    /// Binds the result to what the first operand is.
    fn alias(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let bound = self.operand(op, 0)?.clone();
        self.bind(result(op)?, bound);
        Ok(())
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

    fn inline_constant(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let values = op.attribute("values").map_err(|_| fail(op, "it has no values".into()))?;
        let value = result(op)?;
        let bound = if let Some(integers) = ir::dense_integers(values) {
            let shape = super::static_shape(value).unwrap_or_else(|| vec![integers.len()]);
            Bound::Integers(integers, shape)
        } else {
            let shape = super::static_shape(value)
                .ok_or_else(|| fail(op, format!("its type {} is not static", value.r#type())))?;
            let weight = super::inline_weight(shape, values);
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

    fn unary(&mut self, op: &OperationRef<'c, '_>, kind: Unary) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let shape = self.program.values[input].shape.clone();
        self.emit_checked(op, Op::Unary(kind), vec![input], view, &shape)?;
        Ok(())
    }

    fn binary(&mut self, op: &OperationRef<'c, '_>, kind: Binary) -> Result<(), LoadError> {
        if kind == Binary::Mul {
            self.zero(op, &[2])?;
        }
        let (inputs, view) = self.operands(op, &[0, 1])?;
        let [a, b] = [0, 1].map(|index| &self.program.values[inputs[index]].shape);
        // The batch wins over a constant's 1: it is `None` on one side at axis 0.
        let expected: Option<Vec<_>> = (a.len() == b.len())
            .then(|| {
                a.iter()
                    .zip(b)
                    .map(|(&a, &b)| match (a, b) {
                        _ if a == b => Some(a),
                        (other, Some(1)) | (Some(1), other) => Some(other),
                        _ => None,
                    })
                    .collect()
            })
            .flatten();
        let expected = expected.ok_or_else(|| fail(op, format!("shapes {a:?} and {b:?} do not broadcast")))?;
        self.emit_checked(op, Op::Binary(kind), inputs, view, &expected)?;
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
                    Ok(self.constant_value(name, weight))
                }
                Bound::Integers(values, shape) => {
                    let shape = constant_shape(op, &shape, view)?;
                    let r#type = op.operand(index).ok().and_then(dtype);
                    let r#type = r#type.ok_or_else(|| fail(op, format!("operand {index} has a wrong type")))?;
                    Ok(self.integer_value(&values, shape, r#type))
                }
                Bound::Words(..) => self.activation(op, index).map(|(id, _)| id),
            })
            .collect::<Result<_, _>>()?;
        Ok((inputs, view))
    }

    fn cast(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let value = result(op)?;
        let to = dtype(value).ok_or_else(|| fail(op, format!("its result {} cannot be a value", value.r#type())))?;
        match self.operand(op, 0)?.clone() {
            Bound::Activation(input, view) if self.program.values[input].dtype != to => {
                let shape = self.program.values[input].shape.clone();
                self.emit_checked(op, Op::Cast, vec![input], view, &shape)?;
            }
            Bound::Integers(values, shape) => {
                let bound = match to {
                    DType::Bool => {
                        Bound::Integers(values.into_iter().map(|value| i64::from(value != 0)).collect(), shape)
                    }
                    DType::F32 => {
                        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
                        let weight = Weight::new(shape, values);
                        let weight = weight.ok_or_else(|| fail(op, "its constant has a wrong size".into()))?;
                        Bound::Constant(String::new(), weight)
                    }
                    _ => Bound::Integers(values, shape),
                };
                self.bind(value, bound);
            }
            Bound::Constant(..) if to != DType::F32 => {
                return Err(fail(op, "a float constant must be folded before it is cast".into()));
            }
            _ => self.alias(op)?,
        }
        Ok(())
    }

    fn select(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let (inputs, view) = self.operands(op, &[0, 1, 2])?;
        self.emit(op, Op::Select, inputs, view)?;
        Ok(())
    }

    fn tile(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let shape = self.program.values[input].shape.clone();
        let times = self.integers(op, 1)?;
        if times.len() != view.rank(shape.len()) {
            return Err(fail(op, "its multiples have another rank than its operand".into()));
        }
        let mut repeats = vec![1; shape.len()];
        for (axis, &times) in times.iter().enumerate() {
            let times = usize::try_from(times).map_err(|_| fail(op, format!("{times} repeats of axis {axis}")))?;
            match view.axis(axis) {
                Some(axis) => repeats[axis] = times,
                None if times == 1 => {}
                None => return Err(fail(op, "it repeats the batch".into())),
            }
        }
        let expected: Vec<_> =
            shape.iter().zip(&repeats).map(|(size, &times)| size.map(|size| size.saturating_mul(times))).collect();
        self.emit_checked(op, Op::Tile { repeats }, vec![input], view, &expected)?;
        Ok(())
    }

    fn argmax(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let axis = axis_attribute(op)?;
        let mut expected = self.program.values[input].shape.clone();
        let axis = view
            .axis(axis)
            .filter(|&axis| axis < expected.len())
            .ok_or_else(|| fail(op, format!("axis {axis} is the batch or out of range")))?;
        expected.remove(axis);
        self.emit_checked(op, Op::ArgMax { axis }, vec![input], view, &expected)?;
        Ok(())
    }

    /// `take`: slices of an operand along an axis.
    fn take(&mut self, op: &OperationRef<'c, '_>, attributes: &str) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let axis = attributes.strip_prefix("axis=").and_then(|axis| axis.parse::<usize>().ok());
        let mut expected = self.program.values[input].shape.clone();
        let axis = axis
            .and_then(|axis| view.axis(axis))
            .filter(|&axis| axis < expected.len())
            .ok_or_else(|| fail(op, format!("implementation_attrs: cannot read `{attributes}`")))?;
        let (indices, count) = match self.operand(op, 1)?.clone() {
            Bound::Integers(values, shape) if shape.len() == 1 => {
                let size = expected[axis].unwrap_or(0);
                if values.iter().any(|&index| usize::try_from(index).is_ok_and(|index| index >= size) || index < 0) {
                    return Err(fail(op, format!("an index is out of range for an axis of size {size}")));
                }
                (self.integer_value(&values, shape.clone(), DType::I64), shape[0])
            }
            _ => return Err(fail(op, "its indices must be one axis of constant integers".into())),
        };
        expected[axis] = Some(count);
        self.emit_checked(op, Op::Take { axis }, vec![input, indices], view, &expected)?;
        Ok(())
    }

    /// `pick` and `scatter`: elements along an axis at computed indices, or put there.
    fn indexed(&mut self, op: &OperationRef<'c, '_>, items: &Items<'_>, scatters: bool) -> Result<(), LoadError> {
        let all: &[usize] = if scatters { &[0, 1, 2] } else { &[0, 1] };
        let (inputs, view) = self.operands(op, all)?;
        let shapes: Vec<_> = inputs.iter().map(|&id| self.program.values[id].shape.clone()).collect();
        let axis = self.axis_item(op, items, view, &shapes[0])?;
        if shapes.iter().any(|shape| shape.len() != shapes[0].len()) {
            return Err(fail(op, "its operands differ in rank".into()));
        }
        let mut expected = shapes[0].clone();
        // The batch, `None`, wins over a constant's 1.
        for (each, size) in expected.iter_mut().enumerate() {
            let along = shapes[1..].iter().map(|shape| shape[each]);
            *size = match scatters {
                false if each == axis => shapes[1][each],
                true if each == axis => *size,
                _ if shapes.iter().any(|shape| shape[each].is_none()) => None,
                false if *size == Some(1) => shapes[1][each],
                _ if along.clone().all(|other| other.is_some()) => *size,
                _ => return Err(fail(op, format!("its operands' shapes {shapes:?} do not fit"))),
            };
        }
        let node = if scatters {
            let reduction = items.one_of(
                op,
                "reduction",
                &[
                    ("none", Scattering::Replace),
                    ("add", Scattering::Add),
                    ("mul", Scattering::Mul),
                    ("max", Scattering::Max),
                    ("min", Scattering::Min),
                ],
            )?;
            Op::Scatter { axis, reduction }
        } else {
            Op::Pick { axis }
        };
        self.emit_checked(op, node, inputs, view, &expected)?;
        Ok(())
    }

    /// `topk`: the indices that sort an axis.
    fn top_k(&mut self, op: &OperationRef<'c, '_>, items: &Items<'_>) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let mut expected = self.program.values[input].shape.clone();
        let axis = self.axis_item(op, items, view, &expected)?;
        let count = items.number(op, "count")?;
        expected[axis] = Some(count);
        let node = Op::TopK { axis, count, largest: items.flag(op, "largest")? };
        self.emit_checked(op, node, vec![input], view, &expected)?;
        Ok(())
    }

    /// `cumsum`: running sums along an axis.
    fn cum_sum(&mut self, op: &OperationRef<'c, '_>, items: &Items<'_>) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let expected = self.program.values[input].shape.clone();
        let axis = self.axis_item(op, items, view, &expected)?;
        let node = Op::CumSum { axis, exclusive: items.flag(op, "exclusive")?, reverse: items.flag(op, "reverse")? };
        self.emit_checked(op, node, vec![input], view, &expected)?;
        Ok(())
    }

    /// `grid_sample`: a value interpolated at computed points.
    fn grid_sample(&mut self, op: &OperationRef<'c, '_>, items: &Items<'_>) -> Result<(), LoadError> {
        let (inputs, view) = self.operands(op, &[0, 1])?;
        let shape = |index: usize| self.program.values[inputs[index]].shape.as_slice();
        let (&[batch, channels, _, ..], [own, points @ .., _]) = (shape(0), shape(1)) else {
            return Err(fail(op, "its operands must be [N, C, …] and points [N, …]".into()));
        };
        let batch = if own.is_none() { None } else { batch };
        let expected = [&[batch, channels], points].concat();
        let sampling = Sampling {
            interpolation: items.one_of(
                op,
                "mode",
                &[
                    ("nearest", Interpolation::Nearest),
                    ("linear", Interpolation::Linear),
                    ("cubic", Interpolation::Cubic),
                ],
            )?,
            padding: items.one_of(
                op,
                "padding",
                &[("zeros", Padding::Zeros), ("border", Padding::Border), ("reflection", Padding::Reflection)],
            )?,
            align_corners: items.flag(op, "align_corners")?,
        };
        self.emit_checked(op, Op::GridSample(sampling), inputs, view, &expected)?;
        Ok(())
    }

    /// The program axis that the item `axis` names for an operand of a shape.
    fn axis_item(
        &self,
        op: &OperationRef<'c, '_>,
        items: &Items<'_>,
        view: View,
        shape: &[Option<usize>],
    ) -> Result<usize, LoadError> {
        let axis = items.number(op, "axis")?;
        view.axis(axis)
            .filter(|&axis| axis < shape.len())
            .ok_or_else(|| fail(op, format!("axis {axis} is the batch or out of range")))
    }

    /// `broadcast`: a constant, the same for every sample.
    fn broadcast(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let (name, weight) = self.constant(op, 0)?;
        let (_, view) = self.activation(op, 1)?;
        let shape = constant_shape(op, weight.shape(), view)?;
        let mut expected: Vec<_> = shape.iter().copied().map(Some).collect();
        let weight = weight.reshaped(shape).ok_or_else(|| fail(op, "its constant has a wrong size".into()))?;
        let constant = self.constant_value(name, weight);
        if let Some(first) = expected.first_mut().filter(|_| !view.whole) {
            *first = None;
        }
        self.emit_checked(op, Op::Unary(Unary::Identity), vec![constant], view, &expected)?;
        Ok(())
    }

    fn reduce(&mut self, op: &OperationRef<'c, '_>, kind: Reduce) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let axis = axis_attribute(op)?;
        let axis = view
            .axis(axis)
            .filter(|&axis| axis < self.program.values[input].shape.len())
            .ok_or_else(|| fail(op, format!("axis {axis} is the batch or out of range")))?;
        let mut expected = self.program.values[input].shape.clone();
        expected[axis] = Some(1);
        self.emit_checked(op, Op::Reduce { kind, axis }, vec![input], view, &expected)?;
        Ok(())
    }

    fn custom(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let text = |name: &str| ir::string_attr(op, name).unwrap_or_default();
        let (domain, operator) = (text("domain_name"), text("operator_name"));
        let attributes = text("implementation_attrs");
        match (domain.as_str(), operator.as_str()) {
            ("mxc", "conv2d") => {}
            ("mxc", "take") => return self.take(op, &attributes),
            ("mxc", "broadcast") => return self.broadcast(op),
            ("mxc", "pick") => return self.indexed(op, &Items(&attributes), false),
            ("mxc", "scatter") => return self.indexed(op, &Items(&attributes), true),
            ("mxc", "topk") => return self.top_k(op, &Items(&attributes)),
            ("mxc", "cumsum") => return self.cum_sum(op, &Items(&attributes)),
            ("mxc", "grid_sample") => return self.grid_sample(op, &Items(&attributes)),
            ("mxc", "mod") => return self.binary(op, Binary::Mod),
            ("mxc", "rem") => return self.binary(op, Binary::Rem),
            ("mxc", "div") => return self.binary(op, Binary::Div),
            ("mxc", "quantize") => {
                let mut values = [None; 4];
                for item in attributes.split(';') {
                    let (key, value) = item.split_once('=').unwrap_or((item, ""));
                    let at = ["scale", "zero", "low", "high"].iter().position(|name| *name == key);
                    let value = value.parse::<f32>().ok().filter(|value| value.is_finite());
                    if let (Some(at), Some(_)) = (at, value) {
                        values[at] = value;
                    }
                }
                let [Some(scale), Some(zero), Some(low), Some(high)] = values else {
                    return Err(fail(op, format!("implementation_attrs: cannot read `{attributes}`")));
                };
                if scale <= 0.0 || low > high {
                    return Err(fail(op, format!("implementation_attrs: `{attributes}` is no quantiser")));
                }
                return self.unary(op, Unary::Quantize { scale, zero, low, high });
            }
            ("mxc", operator) if custom_unary(operator).is_some() => {
                return self.unary(op, custom_unary(operator).unwrap_or(Unary::Identity));
            }
            _ => return Err(fail(op, format!("operator `{operator}` of domain `{domain}` is unknown"))),
        }
        let mut window = Window { stride: [1; 2], pad: [0; 4], dilation: [1; 2] };
        let mut groups = 1;
        for item in attributes.split(|c: char| c == ';' || c.is_whitespace()).filter(|item| !item.is_empty()) {
            let error = || fail(op, format!("implementation_attrs: cannot read `{item}`"));
            let (key, list) = item.split_once('=').ok_or_else(error)?;
            let list: Vec<usize> = list
                .trim_matches(|c| c == '[' || c == ']')
                .split(',')
                .map(|value| value.trim().parse())
                .collect::<Result<_, _>>()
                .map_err(|_| error())?;
            match (key.trim(), list.as_slice()) {
                ("stride", &[a, b]) => window.stride = [a, b],
                ("dilation", &[a, b]) => window.dilation = [a, b],
                ("pad", &[a, b, c, d]) => window.pad = [a, b, c, d],
                ("groups", &[a]) => groups = a,
                _ => return Err(error()),
            }
        }
        self.convolution(op, window, groups, None)
    }

    fn convolution(
        &mut self,
        op: &OperationRef<'c, '_>,
        window: Window,
        groups: usize,
        layer: Option<LayerId>,
    ) -> Result<(), LoadError> {
        if let Bound::Activation(weight, View::WHOLE) = *self.operand(op, 1)? {
            let &[Some(outputs), Some(height), Some(width), Some(channels)] =
                self.program.values[weight].shape.as_slice()
            else {
                return Err(fail(op, "its weight must be OHWI".into()));
            };
            return self.emit_convolution(op, weight, [outputs, height, width, channels], window, groups, layer);
        }
        let (weight_name, weight) = self.constant(op, 1)?;
        let &[outputs, height, width, channels] = weight.shape() else {
            return Err(fail(op, format!("its weight has shape {:?}, not OHWI", weight.shape())));
        };
        let weight = self.constant_value(weight_name, weight);
        self.emit_convolution(op, weight, [outputs, height, width, channels], window, groups, layer)
    }

    fn depthwise(
        &mut self,
        op: &OperationRef<'c, '_>,
        window: Window,
        layer: Option<LayerId>,
    ) -> Result<(), LoadError> {
        let (name, weight) = self.constant(op, 1)?;
        let &[height, width, channels, multiplier] = weight.shape() else {
            return Err(fail(op, format!("its weight has shape {:?}, not HWCM", weight.shape())));
        };
        let outputs = channels * multiplier;
        // HWCM → [C·M, H, W, 1]: output channel c·M + m.
        let repacked = weight
            .reshaped(vec![height * width, outputs])
            .and_then(|weight| weight.transposed(&[1, 0])?.reshaped(vec![outputs, height, width, 1]))
            .ok_or_else(|| fail(op, "its weight has a wrong size".into()))?;
        let weight = self.repacked_value(name, repacked);
        self.emit_convolution(op, weight, [outputs, height, width, 1], window, channels, layer)
    }

    fn emit_convolution(
        &mut self,
        op: &OperationRef<'c, '_>,
        weight: ValueId,
        [outputs, height, width, depth]: [usize; 4],
        window: Window,
        groups: usize,
        layer: Option<LayerId>,
    ) -> Result<(), LoadError> {
        let input = self.plain(op, 0)?;
        let bias = self.bias(op, outputs)?;
        let view = self.activation(op, 0)?.1;
        let &[batch, Some(rows), Some(columns), Some(channels)] = self.program.values[input].shape.as_slice() else {
            return Err(fail(op, "its input must be a rank-4 NHWC tensor".into()));
        };
        if groups == 0 || outputs == 0 || outputs % groups != 0 || depth.checked_mul(groups) != Some(channels) {
            return Err(fail(
                op,
                format!(
                    "{channels} input and {outputs} output channels in {groups} groups do not fit a weight of \
                     depth {depth}"
                ),
            ));
        }
        let Window { stride, pad, dilation } = window;
        let size = |axis: usize, input: usize, kernel: usize| {
            let span = kernel.checked_sub(1)?.checked_mul(dilation[axis])?;
            let padded = input.checked_add(pad[2 * axis])?.checked_add(pad[2 * axis + 1])?;
            Some(padded.checked_sub(span)?.checked_sub(1)?.checked_div(stride[axis])? + 1)
        };
        let (Some(rows), Some(columns)) = (size(0, rows, height), size(1, columns, width)) else {
            return Err(fail(op, "its window does not fit the padded input".into()));
        };
        let node = Op::Conv2d { stride, pad, dilation, groups, layer };
        let expected = [batch, Some(rows), Some(columns), Some(outputs)];
        self.emit_checked(op, node, vec![input, weight, bias], view, &expected)?;
        Ok(())
    }

    /// The bias operand of a convolution, a single value expanded to all channels.
    fn bias(&mut self, op: &OperationRef<'c, '_>, channels: usize) -> Result<ValueId, LoadError> {
        if let Bound::Activation(bias, View::WHOLE) = *self.operand(op, 2)? {
            return match self.program.values[bias].shape.as_slice() {
                [Some(size)] if *size == channels => Ok(bias),
                _ => Err(fail(op, format!("its bias must hold {channels} values"))),
            };
        }
        let (name, bias) = self.constant(op, 2)?;
        let bias = match bias.shape() {
            [size] if *size == channels => Some(bias),
            [1] => Weight::new(vec![channels], vec![bias.values()[0]; channels]),
            _ => None,
        };
        let bias = bias.ok_or_else(|| fail(op, format!("its bias must hold {channels} values")))?;
        Ok(self.constant_value(name, bias))
    }

    fn matmul(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        self.zero(op, &[2, 3])?;
        let stationary =
            matches!(self.operand(op, 1)?, Bound::Constant(_, weight) if weight.shape().first() == Some(&1));
        if !stationary || !matches!(self.operand(op, 0)?, Bound::Activation(..)) {
            let (operands, view) = self.operands(op, &[0, 1])?;
            let (a, b) = (operands[0], operands[1]);
            let shape = |id: ValueId| self.program.values[id].shape.as_slice();
            // The heads of an attention are an axis behind the batch.
            let ([images @ .., rows, inner], [others @ .., other, columns]) = (shape(a), shape(b)) else {
                return Err(fail(op, "its operands must be rank-3 tensors".into()));
            };
            if inner != other || images != others || images.is_empty() || view.lead != 0 {
                return Err(fail(op, format!("shapes {:?} and {:?} do not multiply", shape(a), shape(b))));
            }
            let expected = [images, &[*rows, *columns]].concat();
            self.emit_checked(op, Op::MatMul, vec![a, b], view, &expected)?;
            return Ok(());
        }
        let (name, weight) = self.constant(op, 1)?;
        // A constant right side of batch 1 is the weight of a fully connected layer: [1, I, O] → [O, I].
        let &[1, inputs, outputs] = weight.shape() else {
            return Err(fail(op, format!("its constant operand has shape {:?}; the batch must be 1", weight.shape())));
        };
        let weight = weight
            .reshaped(vec![inputs, outputs])
            .and_then(|weight| weight.transposed(&[1, 0]))
            .ok_or_else(|| fail(op, "its weight has a wrong size".into()))?;
        let weight = self.repacked_value(name, weight);
        let bias = Weight::new(vec![outputs], vec![0.0; outputs])
            .ok_or_else(|| fail(op, "its weight has a wrong size".into()))?;
        let bias = self.constant_value(String::new(), bias);
        self.fully_connected(op, weight, bias, None)
    }

    fn fully_connected(
        &mut self,
        op: &OperationRef<'c, '_>,
        weight: ValueId,
        bias: ValueId,
        layer: Option<LayerId>,
    ) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let shape = |id: ValueId| self.program.values[id].shape.as_slice();
        let (&[Some(outputs), Some(inputs)], &[Some(biases)]) = (shape(weight), shape(bias)) else {
            return Err(fail(op, "its weight must be [O, I] and its bias [O]".into()));
        };
        let mut expected = shape(input).to_vec();
        let last = expected.last_mut().filter(|last| **last == Some(inputs));
        match last {
            Some(last) if biases == outputs => *last = Some(outputs),
            _ => {
                return Err(fail(
                    op,
                    format!(
                        "an input {:?}, a weight [{outputs}, {inputs}] and {biases} biases do not fit",
                        shape(input)
                    ),
                ));
            }
        }
        let node = Op::FullyConnected { layer };
        self.emit_checked(op, node, vec![input, weight, bias], view, &expected)?;
        Ok(())
    }

    fn pool(&mut self, op: &OperationRef<'c, '_>, average: bool) -> Result<(), LoadError> {
        let input = self.plain(op, 0)?;
        let kernel = sizes(op, "kernel")?;
        let stride = sizes(op, "stride")?;
        let pad: [usize; 4] = sizes(op, "pad")?;
        let view = self.activation(op, 0)?.1;
        let &[batch, Some(rows), Some(columns), Some(channels)] = self.program.values[input].shape.as_slice() else {
            return Err(fail(op, "its input must be a rank-4 NHWC tensor".into()));
        };
        let size = |axis: usize, input: usize| {
            let padded = input.checked_add(pad[2 * axis])?.checked_add(pad[2 * axis + 1])?;
            // A window of padding only would have nothing to average.
            let covered = pad[2 * axis].max(pad[2 * axis + 1]) < kernel[axis];
            let steps = padded.checked_sub(kernel[axis])?.checked_div(stride[axis])?;
            covered.then_some(Some(steps + 1))
        };
        let (Some(rows), Some(columns)) = (size(0, rows), size(1, columns)) else {
            return Err(fail(op, "its window does not fit the padded input".into()));
        };
        let node = if average { Op::AvgPool { kernel, stride, pad } } else { Op::MaxPool { kernel, stride, pad } };
        let expected = [batch, rows, columns, Some(channels)];
        self.emit_checked(op, node, vec![input], view, &expected)?;
        Ok(())
    }

    fn reshape(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let value = result(op)?;
        let target = ir::value_shape(value)
            .filter(|_| dtype(value).is_some())
            .ok_or_else(|| fail(op, "its result must be a ranked tensor of f32, i32, i64 or i1".into()))?;
        let (input, _) = match self.operand(op, 0)?.clone() {
            Bound::Activation(input, view) => (input, view),
            Bound::Constant(name, weight) => {
                let reshaped = target
                    .into_iter()
                    .collect::<Option<Vec<_>>>()
                    .and_then(|shape| weight.reshaped(shape))
                    .ok_or_else(|| fail(op, "its constant operand has another size".into()))?;
                self.bind(value, Bound::Constant(name, reshaped));
                return Ok(());
            }
            Bound::Words(..) => return Err(fail(op, "words cannot be reshaped".into())),
            Bound::Integers(values, _) => {
                let shape = super::static_shape(value).filter(|shape| shape.iter().product::<usize>() == values.len());
                let shape = shape.ok_or_else(|| fail(op, "its constant operand has another size".into()))?;
                self.bind(value, Bound::Integers(values, shape));
                return Ok(());
            }
        };
        let shape = &self.program.values[input].shape;
        if self.whole {
            if product(shape) != product(&target) {
                return Err(fail(op, format!("{shape:?} and {target:?} differ in size")));
            }
            self.emit(op, Op::Reshape, vec![input], View::WHOLE)?;
            return Ok(());
        }
        let elements = product(&shape[1..]).unwrap_or(0);
        let view = batch_axis(&target, self.batch, elements).ok_or_else(|| {
            fail(op, format!("{elements} values per sample cannot become {target:?} with the batch in front"))
        })?;
        let to = self.shape(op, view)?;
        if product(&to[1..]) != Some(elements) {
            return Err(fail(op, format!("{shape:?} and {to:?} differ in size")));
        }
        if to == *shape {
            self.bind(value, Bound::Activation(input, view));
        } else {
            self.emit(op, Op::Reshape, vec![input], view)?;
        }
        Ok(())
    }

    fn transpose(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let perms = ir::i64s_attr(op, "perms").unwrap_or_default();
        let perms: Vec<usize> = perms.iter().map(|&axis| axis as usize).collect();
        let mut sorted = perms.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..perms.len()) {
            return Err(fail(op, format!("{perms:?} is no permutation")));
        }
        let (input, view) = match self.operand(op, 0)?.clone() {
            Bound::Activation(input, view) => (input, view),
            Bound::Constant(name, weight) => {
                let transposed = weight
                    .transposed(&perms)
                    .ok_or_else(|| fail(op, "its constant operand has another rank".into()))?;
                self.bind(result(op)?, Bound::Constant(name, transposed));
                return Ok(());
            }
            Bound::Integers(..) | Bound::Words(..) => return Err(fail(op, "integers cannot be transposed".into())),
        };
        let shape = self.program.values[input].shape.clone();
        if perms.len() != view.rank(shape.len()) {
            return Err(fail(op, "its permutation has another rank than its operand".into()));
        }
        if view.whole {
            let expected: Vec<_> = perms.iter().map(|&axis| shape[axis]).collect();
            self.emit_checked(op, Op::Transpose { perms }, vec![input], view, &expected)?;
            return Ok(());
        }
        // Each IR axis as program axes: none for a leading 1, one or two for the batch.
        let program: Vec<usize> = perms
            .iter()
            .flat_map(|&axis| match view.axis(axis) {
                Some(axis) => axis..axis + 1,
                None if axis == view.lead => 0..view.head(),
                None => 0..0,
            })
            .collect();
        let lead = perms
            .iter()
            .position(|&axis| axis == view.lead)
            .filter(|_| program.first() == Some(&0))
            .ok_or_else(|| fail(op, "it moves the batch from the front".into()))?;
        let moved = View { lead, ..view };
        if program.iter().copied().eq(0..shape.len()) {
            // Only axes of size 1 move.
            if self.shape(op, moved)? == shape {
                self.bind(result(op)?, Bound::Activation(input, moved));
            } else {
                self.emit(op, Op::Reshape, vec![input], moved)?;
            }
            return Ok(());
        }
        let expected: Vec<_> = program.iter().map(|&axis| shape[axis]).collect();
        self.emit_checked(op, Op::Transpose { perms: program }, vec![input], moved, &expected)?;
        Ok(())
    }

    fn concat(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let all: Vec<usize> = (0..op.operand_count()).collect();
        let (inputs, view) = self.operands(op, &all)?;
        let first = inputs[0];
        let axis = axis_attribute(op)?;
        let axis = view
            .axis(axis)
            .filter(|&axis| axis < self.program.values[first].shape.len())
            .ok_or_else(|| fail(op, format!("axis {axis} is the batch or out of range")))?;
        let mut expected = self.program.values[first].shape.clone();
        let mut total = 0usize;
        for (index, &input) in inputs.iter().enumerate() {
            let mut shape = self.program.values[input].shape.clone();
            let fits = shape.len() == expected.len();
            let size = shape.get(axis).copied().flatten().filter(|_| fits);
            let size = size.ok_or_else(|| fail(op, format!("operand {index} does not fit")))?;
            shape[axis] = expected[axis];
            if shape != expected {
                return Err(fail(op, format!("operand {index} differs off the axis")));
            }
            total = total.saturating_add(size);
        }
        expected[axis] = Some(total);
        self.emit_checked(op, Op::Concat { axis }, inputs, view, &expected)?;
        Ok(())
    }

    fn slice(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let starts = self.integers(op, 1)?;
        let shape = self.program.values[input].shape.clone();
        let to = self.shape(op, view)?;
        if to.len() != shape.len() || starts.len() != view.rank(shape.len()) {
            return Err(fail(op, "its start has another rank than its operand".into()));
        }
        let mut start = vec![0; shape.len()];
        for (axis, &first) in starts.iter().enumerate() {
            let first =
                usize::try_from(first).map_err(|_| fail(op, format!("its start on axis {axis} is not known")))?;
            match view.axis(axis) {
                Some(axis) => start[axis] = first,
                None if first == 0 => {}
                None => return Err(fail(op, "it cuts the batch".into())),
            }
        }
        let inside = shape.iter().zip(&to).zip(&start).all(|((&from, &to), &start)| match (from, to) {
            (Some(from), Some(to)) => start.checked_add(to).is_some_and(|end| end <= from),
            _ => from == to,
        });
        if !inside {
            return Err(fail(op, format!("{start:?} plus {to:?} reaches out of {shape:?}")));
        }
        self.emit(op, Op::Slice { start }, vec![input], view)?;
        Ok(())
    }

    fn pad(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let amounts = self.integers(op, 1)?;
        let value = match self.constant(op, 2)?.1.values() {
            [value] => *value,
            _ => return Err(fail(op, "its pad value must be one number".into())),
        };
        let shape = self.program.values[input].shape.clone();
        if amounts.len() != 2 * (view.rank(shape.len())) {
            return Err(fail(op, "its padding has another rank than its operand".into()));
        }
        let mut pad = vec![[0; 2]; shape.len()];
        for (axis, amounts) in amounts.chunks_exact(2).enumerate() {
            let amount = |index: usize| {
                usize::try_from(amounts[index])
                    .map_err(|_| fail(op, format!("its padding on axis {axis} is not known")))
            };
            let amounts = [amount(0)?, amount(1)?];
            match view.axis(axis) {
                Some(axis) => pad[axis] = amounts,
                None if amounts == [0, 0] => {}
                None => return Err(fail(op, "it pads the batch".into())),
            }
        }
        let expected: Vec<_> = shape
            .iter()
            .zip(&pad)
            .map(|(size, [before, after])| size.map(|size| size.saturating_add(*before).saturating_add(*after)))
            .collect();
        self.emit_checked(op, Op::Pad { pad, value }, vec![input], view, &expected)?;
        Ok(())
    }

    /// Declares the analog layer of an operation.
    fn layer(&mut self, op: &OperationRef<'c, '_>, channels: usize) -> Result<LayerId, LoadError> {
        let name = ir::string_attr(op, "layer").ok_or_else(|| fail(op, "it has no layer name".into()))?;
        if self.program.layers.iter().any(|layer| layer.name == name) {
            return Err(fail(op, format!("layer `{name}` appears twice")));
        }
        let analog = AnalogOp::new(*op).ok_or_else(|| fail(op, "it is no analog operation".into()))?;
        let wrong = |reason: String| fail(op, format!("layer `{name}`: {reason}"));
        let noise = analog.noise().map_err(wrong)?;
        let calibration = analog.calibration().map_err(wrong)?;
        self.program.layers.push(Layer { name, channels, noise, calibration });
        Ok(self.program.layers.len() - 1)
    }

    /// The layer that a denoiser cleans.
    fn cleaned_layer(&self, op: &OperationRef<'c, '_>) -> Result<(LayerId, String), LoadError> {
        let name = ir::string_attr(op, "layer").ok_or_else(|| fail(op, "it has no layer name".into()))?;
        let layer = self
            .program
            .layers
            .iter()
            .position(|layer| layer.name == name)
            .ok_or_else(|| fail(op, format!("no analog layer `{name}` comes before it")))?;
        Ok((layer, name))
    }

    fn denoise(&mut self, op: &OperationRef<'c, '_>, kind: &'static Kind) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let (layer, name) = self.cleaned_layer(op)?;
        let shape = self.program.values[input].shape.clone();
        let channels = self.channels(op, input)?;
        let parameters = kind.expression().parameters();
        let weights =
            (1..=parameters.len()).map(|index| self.constant(op, index)).collect::<Result<Vec<_>, LoadError>>()?;
        let shapes: Vec<_> = weights.iter().map(|(_, weight)| weight.shape()).collect();
        kind.expression().fit(channels, &shapes).map_err(|message| fail(op, message))?;
        let mut inputs = vec![input];
        for (parameter, (name_of_global, weight)) in parameters.iter().zip(weights) {
            // A constant without a name of its own still needs one.
            let name = if name_of_global.is_empty() { format!("{name}.{}", parameter.name) } else { name_of_global };
            let id = self.constant_value(name, weight);
            self.program.values[id].trainable = true;
            inputs.push(id);
        }
        self.emit_checked(op, Op::Denoise { layer, kind }, inputs, view, &shape)?;
        Ok(())
    }

    /// Rounds a value to words.
    fn quantise(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let (input, view) = self.activation(op, 0)?;
        let fraction = fraction(op)?;
        self.bind(result(op)?, Bound::Words(input, view, fraction, false));
        Ok(())
    }

    /// Words as quantised values or the other way round.
    fn reinterpret(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        // Of a quantised weight, which a denoiser that is not lowered reads: refused there.
        let Some(Bound::Words(input, view, words, exact)) =
            op.operand(0).ok().and_then(|value| self.values.get(&super::identity(value))).cloned()
        else {
            return Ok(());
        };
        let quantised = op.operand(0).ok().and_then(dtile::fraction).or(dtile::fraction(result(op)?));
        if quantised != Some(words) {
            return Err(fail(op, format!("its operand's words have {words} fraction bits, its types say otherwise")));
        }
        self.bind(result(op)?, Bound::Words(input, view, words, exact));
        Ok(())
    }

    /// Words that the tile computed as f32.
    fn dequantise(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let (value, view) = match self.operand(op, 0)? {
            Bound::Words(value, view, _, true) => (*value, *view),
            _ => {
                return Err(fail(
                    op,
                    "its operand is no result of a dtile.launch; rounding alone is not executed".into(),
                ));
            }
        };
        self.bind(result(op)?, Bound::Activation(value, view));
        Ok(())
    }

    /// A layer's denoisers on the digital tile.
    fn launch(&mut self, op: &OperationRef<'c, '_>) -> Result<(), LoadError> {
        let (layer, _) = self.cleaned_layer(op)?;
        let symbol = ir::symbol_attr(op, "program").unwrap_or_default();
        let program =
            self.tiles.get(&symbol).cloned().ok_or_else(|| fail(op, format!("no dtile program @{symbol}")))?;
        let (input, view, words) = match self.operand(op, 0)? {
            Bound::Words(input, view, words, _) => (*input, *view, *words),
            _ => return Err(fail(op, "its operand holds no quantised activations".into())),
        };
        if words != program.input_fraction {
            let wanted = program.input_fraction;
            return Err(fail(op, format!("@{symbol} takes words with {wanted} fraction bits, not {words}")));
        }
        let fraction = program.output_fraction;
        let shape = self.program.values[input].shape.clone();
        let tile = Op::DenoiseTile { layer, program: Arc::clone(&program) };
        let output = self.node(tile, vec![input], shape, DType::F32);
        self.bind(result(op)?, Bound::Words(output, view, fraction, true));
        Ok(())
    }

    /// The size of a value's last axis.
    fn channels(&self, op: &OperationRef<'c, '_>, input: ValueId) -> Result<usize, LoadError> {
        let shape = &self.program.values[input].shape;
        shape[1..].last().copied().flatten().ok_or_else(|| fail(op, "its input has no channel axis".into()))
    }
}

/// The text `implementation_attrs` of a `tosa.custom`: items `key=value` separated by semicolons.
struct Items<'t>(&'t str);

impl Items<'_> {
    /// An item's value as one of several words.
    fn one_of<T: Copy>(&self, op: &OperationRef<'_, '_>, key: &str, words: &[(&str, T)]) -> Result<T, LoadError> {
        let text = self.text(op, key)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        found.ok_or_else(|| fail(op, format!("implementation_attrs: {key} is `{text}`")))
    }

    /// An item's value as a number.
    fn number(&self, op: &OperationRef<'_, '_>, key: &str) -> Result<usize, LoadError> {
        let text = self.text(op, key)?;
        text.parse().map_err(|_| fail(op, format!("implementation_attrs: {key} is `{text}`, not a number")))
    }

    /// An item's value as 0 or 1.
    fn flag(&self, op: &OperationRef<'_, '_>, key: &str) -> Result<bool, LoadError> {
        self.one_of(op, key, &[("0", false), ("1", true)])
    }

    fn text(&self, op: &OperationRef<'_, '_>, key: &str) -> Result<&str, LoadError> {
        let item = self.0.split(';').filter_map(|item| item.split_once('=')).find(|(name, _)| name.trim() == key);
        item.map(|(_, value)| value.trim())
            .ok_or_else(|| fail(op, format!("implementation_attrs: `{}` has no {key}", self.0)))
    }
}

/// The fraction bits of the words that an operation returns.
fn fraction(op: &OperationRef<'_, '_>) -> Result<i32, LoadError> {
    let result = result(op)?;
    dtile::fraction(result).ok_or_else(|| {
        fail(op, format!("its result {} holds no 16-bit words with a power of two as scale", result.r#type()))
    })
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

/// The product of static sizes.
fn product(shape: &[Option<usize>]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, size| product.checked_mul((*size)?))
}

/// Where the batch is in a reshape's result of `elements` values per sample: axis 0 if the rest has that many values,
/// else the first axis after leading ones, which then counts batch · tokens.
fn batch_axis(shape: &[Option<usize>], batch: Option<usize>, elements: usize) -> Option<View> {
    if *shape.first()? == batch && product(&shape[1..]) == Some(elements) {
        return Some(View::PLAIN);
    }
    let lead = match batch {
        None => shape.iter().position(Option::is_none)?,
        Some(_) => shape.iter().position(|&size| size != Some(1))?,
    };
    let rest = product(&shape[lead + 1..]).filter(|&rest| rest > 0)?;
    let tokens = elements / rest;
    (shape[..lead].iter().all(|&size| size == Some(1))
        && tokens > 0
        && tokens * rest == elements
        && shape[lead] == batch.and_then(|batch| batch.checked_mul(tokens)))
    .then_some(View { lead, tokens, whole: false })
}

/// An `axis` attribute.
fn axis_attribute(op: &OperationRef<'_, '_>) -> Result<usize, LoadError> {
    ir::i64_attr(op, "axis")
        .and_then(|axis| usize::try_from(axis).ok())
        .ok_or_else(|| fail(op, "its axis must be a non-negative integer".into()))
}

/// An attribute of `N` sizes.
fn sizes<const N: usize>(op: &OperationRef<'_, '_>, name: &str) -> Result<[usize; N], LoadError> {
    ir::i64s_attr(op, name)
        .unwrap_or_default()
        .into_iter()
        .map(|size| usize::try_from(size).ok())
        .collect::<Option<Vec<_>>>()
        .and_then(|sizes| sizes.try_into().ok())
        .ok_or_else(|| fail(op, format!("its {name} must hold {N} non-negative integers")))
}

/// A convolution's geometry attributes.
fn window_attributes(op: &OperationRef<'_, '_>) -> Result<Window, LoadError> {
    Ok(Window { stride: sizes(op, "stride")?, pad: sizes(op, "pad")?, dilation: sizes(op, "dilation")? })
}
