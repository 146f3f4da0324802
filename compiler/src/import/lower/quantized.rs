//! Quantised networks: `QuantizeLinear`, `DequantizeLinear`, `DynamicQuantizeLinear` of ONNX, `Quant` and `BipolarQuant` of
//! QONNX.
//!
//! Between a quantiser and its dequantiser values stay floats that hold whole numbers ([`Emitter::quantised`]), so that
//! gradients pass straight through: rounding counts as the identity, saturation passes nothing.
//!
//! [`Emitter::quantised`]: crate::import::emit::Emitter::quantised

use super::{
    call::{Call, Entry, Lowering, Operator, Results, one},
    reduce::Reducing,
};
use crate::import::{
    attributes::axis,
    emit::Activation,
    error::{Problem, invalid, unsupported},
    proto::MICROSOFT,
    tensor::{Dim, Element, Tensor},
};
use mxc_dialects::tosa::{Binary, CustomUnary, Unary};
use mxc_runtime::kernels::layout::strides;
use std::rc::Rc;

/// The domains that QONNX's operators have been written under.
const QONNX: &[&str] = &["", "qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general"];

/// The operators of this file.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("BipolarQuant", |lowering, call| lowering.bipolar_quant(call)).of(QONNX),
    Operator::new("DequantizeLinear", |lowering, call| lowering.dequantize(call)).of(&["", MICROSOFT]).on_integers(),
    Operator::new("DynamicQuantizeLinear", |lowering, call| lowering.dynamic_quantize(call)),
    Operator::new("Quant", |lowering, call| lowering.quant(call)).of(QONNX),
    Operator::new("QuantizeLinear", |lowering, call| lowering.quantize(call)).of(&["", MICROSOFT]).on_integers(),
];

/// The least and the greatest integer of one of ONNX's data types that a quantiser may make.
fn bounds(data_type: i64) -> Option<[f32; 2]> {
    Some(match data_type {
        2 => [0.0, 255.0],
        3 => [-128.0, 127.0],
        4 => [0.0, 65535.0],
        5 => [-32768.0, 32767.0],
        21 => [0.0, 15.0],
        22 => [-8.0, 7.0],
        _ => return None,
    })
}

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// DequantizeLinear-10 to -23: `(x − zero point)·scale`, by tensor, along an axis or by blocks of one.
    fn dequantize(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let x = self.value(call, 0, Some(Element::I32))?;
        let mut result = self.emit.cast(&x, Element::F32)?;
        if call.optional(2).is_some() {
            let zero = self.quantization(call, 2, &x)?;
            result = self.join(Binary::Sub, (&Entry::Activation(result), ""), (&zero, call.node.input(2)))?;
        }
        let scale = self.quantization(call, 1, &x)?;
        one(self.join(Binary::Mul, (&Entry::Activation(result), ""), (&scale, call.node.input(1)))?)
    }

    /// QuantizeLinear-10 to -23: `saturate(round(x / scale) + zero point)` in the zero point's type, or that of `output_dtype`.
    fn quantize(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let told = match call.optional(2) {
            Some(Entry::Constant(zero)) => zero.narrow,
            _ => self.model.graph.data_types.get(node.input(2)).copied(),
        };
        let code = match node.int("output_dtype", 0)? {
            0 => told.map_or(2, i64::from),
            code => code,
        };
        let Some(range) = bounds(code) else {
            return unsupported(format!("data type {code} as its result"));
        };
        let x = call.activation(0)?.clone();
        if x.element() != Element::F32 {
            return unsupported(format!("its input is of {}", x.element()));
        }
        let scale = self.quantization(call, 1, &x)?;
        let zero = match call.optional(2) {
            Some(_) => Some(self.quantization(call, 2, &x)?),
            None => None,
        };
        let whole = self.whole_numbers(&x, (&scale, node.input(1)), (zero.as_ref(), node.input(2)), range, "round")?;
        one(self.emit.quantised(&whole)?)
    }

    /// `clamp(round(x / scale) + zero point)` as floats.
    fn whole_numbers(
        &mut self,
        x: &Activation<'c, 'a>,
        (scale, scale_name): (&Entry<'c, 'a>, &str),
        (zero, zero_name): (Option<&Entry<'c, 'a>>, &str),
        [low, high]: [f32; 2],
        rounding: &str,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let number = |entry: &Entry<'c, 'a>| match entry {
            Entry::Constant(tensor) => tensor.scalar(),
            _ => None,
        };
        let offset = zero.map_or(Some(0.0), number);
        if let (Some(scale), Some(offset), "round") = (number(scale), offset, rounding)
            && scale > 0.0
            && scale.is_finite()
        {
            return self.emit.quantise(x, [scale, offset, low, high]);
        }
        // What is beyond these bounds saturates anyway. They keep the scale out of a layer before it: see `hard_sigmoid`.
        let largest = match scale {
            Entry::Constant(scale) => scale.to_floats().and_then(|scale| scale.iter().copied().reduce(f32::max)),
            _ => None,
        };
        let reach = 2.0 * (high - low + 1.0);
        let bounded = match largest.map(|scale| scale * reach).filter(|reach| *reach > 0.0 && reach.is_finite()) {
            Some(reach) => self.emit.clamp(x, -reach, reach)?,
            None => x.clone(),
        };
        let mut result = self.divided((&Entry::Activation(bounded), ""), (scale, scale_name))?;
        // ONNX rounds before it adds the zero point, QONNX after.
        result = self.rounded(&result, rounding)?;
        if let Some(zero) = zero {
            result = self.join(Binary::Add, (&Entry::Activation(result), ""), (zero, zero_name))?;
        }
        self.emit.clamp(&result, low, high)
    }

    /// Rounds as QONNX names it: `round` to the nearest, ties to even.
    fn rounded(&mut self, x: &Activation<'c, 'a>, rounding: &str) -> Result<Activation<'c, 'a>, Problem> {
        match rounding {
            "round" => self.emit.unary(CustomUnary::Round, x),
            "ceil" => self.emit.unary(Unary::Ceil, x),
            "floor" => self.emit.unary(Unary::Floor, x),
            "round_to_zero" | "down" => {
                let positive = self.emit.clamp(x, 0.0, f32::INFINITY)?;
                let negative = self.emit.clamp(x, f32::NEG_INFINITY, 0.0)?;
                let (low, high) = (self.emit.unary(Unary::Floor, &positive)?, self.emit.unary(Unary::Ceil, &negative)?);
                self.emit.binary(Binary::Add, &low, &high)
            }
            other => unsupported(format!("the rounding mode '{other}'")),
        }
    }

    /// DynamicQuantizeLinear-11: 8 bits over the range of the values and 0. The range is that of each sample, as for a batch
    /// of one.
    fn dynamic_quantize(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let x = call.activation(0)?.clone();
        if x.has_batch() && (self.fixed_batch.is_some_and(|batch| batch != 1) || x.rank() < 2) {
            return unsupported("its range is taken over the batch");
        }
        if x.has_batch() && self.fixed_batch.is_none() {
            tracing::warn!("node '{}' takes the range of each sample by itself, as for a batch of one", call.name);
        }
        let axes: Vec<_> = (0..x.rank()).filter(|&axis| x.shape[axis].fixed().is_some()).collect();
        let low = self.reduce_axes(Reducing::Min, &x, &axes)?;
        let low = self.emit.clamp(&low, f32::NEG_INFINITY, 0.0)?;
        let high = self.reduce_axes(Reducing::Max, &x, &axes)?;
        let high = self.emit.clamp(&high, 0.0, f32::INFINITY)?;
        let range = self.emit.binary(Binary::Sub, &high, &low)?;
        // Where all is 0 any scale will do.
        let scale = self.emit.with_scalar(Binary::Mul, &range, 1.0 / 255.0)?;
        let scale = self.emit.clamp(&scale, f32::MIN_POSITIVE, f32::INFINITY)?;
        let negated = self.emit.negate(&low)?;
        let offset = self.divided((&Entry::Activation(negated), ""), (&Entry::Activation(scale.clone()), ""))?;
        let offset = self.emit.clamp(&offset, 0.0, 255.0)?;
        let zero = self.emit.unary(CustomUnary::Round, &offset)?;
        let (scale_entry, zero_entry) = (Entry::Activation(scale.clone()), Entry::Activation(zero.clone()));
        let whole = self.whole_numbers(&x, (&scale_entry, ""), (Some(&zero_entry), ""), [0.0, 255.0], "round")?;
        let (y, mut zero, mut scale) = (self.emit.quantised(&whole)?, zero, scale);
        if !x.has_batch() {
            // Then these are the scalars that ONNX says.
            (scale, zero) = (self.emit.reshape(&scale, &[])?, self.emit.reshape(&zero, &[])?);
        }
        let zero = self.emit.quantised(&zero)?;
        Ok([y, scale, zero].map(Entry::Activation).to_vec())
    }

    /// QONNX's Quant: `(round(clamp(x / scale + zero point)) − zero point)·scale`, the bounds those of integers of a width.
    fn quant(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let width = call.constant(3)?.scalar().filter(|width| (1.0..=32.0).contains(width));
        let Some(width) = width else {
            return unsupported(format!("'{}' must be one width of 1 to 32 bits", node.input(3)));
        };
        let (signed, narrow) = (node.int("signed", 1)? != 0, node.int("narrow", 0)? != 0);
        let levels = width.exp2();
        let [low, high] = match signed {
            true => [-levels / 2.0 + f32::from(u8::from(narrow)), levels / 2.0 - 1.0],
            false => [0.0, levels - 1.0 - f32::from(u8::from(narrow))],
        };
        let rounding = node.string("rounding_mode", "ROUND")?.to_lowercase();
        let x = call.activation(0)?.clone();
        let (scale, zero) = (call.entry(1)?.clone(), call.entry(2)?.clone());
        let scale = (&scale, node.input(1));
        let whole = self.whole_numbers(&x, scale, (Some(&zero), node.input(2)), [low, high], &rounding)?;
        let centred = self.join(Binary::Sub, (&Entry::Activation(whole), ""), (&zero, node.input(2)))?;
        one(self.join(Binary::Mul, (&Entry::Activation(centred), ""), scale)?)
    }

    /// QONNX's BipolarQuant: `scale` where x ≥ 0, else `−scale`. Its gradient is that of `x` within ±scale.
    fn bipolar_quant(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let x = call.activation(0)?.clone();
        let scale = call.entry(1)?.clone();
        let name = call.node.input(1);
        // Rounding x/s − ½, whose gradient passes, gives 0 or −1; what is barely negative must not become 0 by the subtraction.
        let parts = self.divided((&Entry::Activation(x), ""), (&scale, name))?;
        let negated = self.emit.negate(&parts)?;
        let negative = self.emit.with_scalar(Binary::Greater, &negated, 0.0)?;
        let apart = self.emit.with_scalar(Binary::Minimum, &parts, -1e-6)?;
        let parts = self.selected(&negative, &apart, &parts)?;
        let bounded = self.emit.clamp(&parts, -0.99, 0.99)?;
        let less = self.emit.with_scalar(Binary::Sub, &bounded, 0.5)?;
        let sign = self.emit.unary(CustomUnary::Round, &less)?;
        let doubled = self.emit.with_scalar(Binary::Mul, &sign, 2.0)?;
        let ones = self.emit.with_scalar(Binary::Add, &doubled, 1.0)?;
        one(self.join(Binary::Mul, (&Entry::Activation(ones), ""), (&scale, name))?)
    }

    /// A scale or zero point as floats that broadcast against `x`.
    fn quantization(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        index: usize,
        x: &Activation<'c, 'a>,
    ) -> Result<Entry<'c, 'a>, Problem> {
        let (node, rank) = (call.node, x.rank());
        let block = usize::try_from(node.int("block_size", 0)?).unwrap_or(0);
        let at = if rank == 0 { 0 } else { node.int("axis", 1)? };
        let along = |size: usize| -> Result<Vec<usize>, Problem> {
            let mut shape = vec![1; rank];
            if size != 1 {
                shape[axis(at, rank)?] = size;
            }
            Ok(shape)
        };
        match call.entry(index)? {
            Entry::Constant(tensor) => {
                let Some(values) = tensor.to_floats() else {
                    return unsupported(format!("'{}' depends on the batch size", node.input(index)));
                };
                if block != 0 {
                    let floats = Tensor::floats(tensor.shape.clone(), values);
                    return Ok(Entry::Constant(Rc::new(by_blocks(&floats, &x.shape, axis(at, rank)?, block)?)));
                }
                let floats = Tensor::floats(along(tensor.len())?, values);
                Ok(Entry::Constant(Rc::new(floats)))
            }
            Entry::Activation(_) if block != 0 => unsupported("quantization by blocks with a computed scale"),
            Entry::Activation(activation) => {
                let floats = self.emit.cast(activation, Element::F32)?;
                // What a quantiser computed for every sample.
                if activation.has_batch() {
                    return match activation.rank() == rank {
                        true => Ok(Entry::Activation(floats)),
                        false => unsupported(format!("'{}' depends on the batch size", node.input(index))),
                    };
                }
                let size = floats.shape.iter().filter_map(|dim| dim.fixed()).product();
                let shape: Vec<_> = along(size)?.into_iter().map(Dim::Fixed).collect();
                Ok(Entry::Activation(self.emit.reshape(&floats, &shape)?))
            }
            Entry::Unknown => unsupported("its input is not known"),
        }
    }
}

/// A value per block of an axis, repeated for the block's elements; the last block may be cut short.
fn by_blocks(blocks: &Tensor, shape: &[Dim], at: usize, block: usize) -> Result<Tensor, Problem> {
    let Some(size) = shape[at].fixed().filter(|size| blocks.shape.get(at) == Some(&size.div_ceil(block))) else {
        return invalid(format!("blocks of {block} along axis {at} do not fit a scale of shape {:?}", blocks.shape));
    };
    let strides = strides(&blocks.shape);
    let mut wide = blocks.shape.clone();
    wide[at] = size;
    let positions: Vec<usize> = (0..wide.iter().product::<usize>())
        .map(|position| {
            let mut rest = position;
            let mut from = 0;
            for axis in (0..wide.len()).rev() {
                let index = rest % wide[axis];
                rest /= wide[axis];
                from += strides[axis] * if axis == at { index / block } else { index };
            }
            from
        })
        .collect();
    Ok(blocks.gather(wide, &positions))
}
