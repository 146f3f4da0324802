//! Operators on integers and booleans, and those that make or read them: comparisons, conditions, casts.

use super::{Call, Entry, Lowering, Results, one};
use crate::import::{
    attributes::axis,
    emit::{Activation, BinaryFunction, check_picked, logical},
    error::{Problem, invalid, unsupported},
    fold,
    tensor::{Dim, Element, Sym, Tensor},
};
use mxc_dialects::tosa::{Binary, CustomBinary, Unary};

/// The operators that take integers or booleans that depend on the model's inputs.
const INTEGERS: [&str; 61] = [
    "Abs",
    "Add",
    "And",
    "ArgMax",
    "ArgMin",
    "Attention",
    "Cast",
    "CastLike",
    "Clip",
    "Concat",
    "CumSum",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "Equal",
    "Expand",
    "EyeLike",
    "Flatten",
    "GRU",
    "Gather",
    "GatherElements",
    "GatherND",
    "Greater",
    "GreaterOrEqual",
    "Identity",
    "LSTM",
    "Less",
    "LessOrEqual",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "NonZero",
    "Not",
    "OneHot",
    "Or",
    "Pad",
    "Pow",
    "RNN",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "Reshape",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "Shape",
    "Sign",
    "Size",
    "SpaceToDepth",
    "Split",
    "Sub",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Where",
    "Xor",
];
/// Those that are one of the above in other words.
const ALIASES: [&str; 6] = ["Relu", "Slice", "Squeeze", "Sum", "Unsqueeze", "QuantizeLinear"];

/// Refuses integers where only floats are known.
pub(super) fn check(call: &Call<'_, '_, '_>) -> Result<(), Problem> {
    let op = call.node.op.as_str();
    if INTEGERS.contains(&op) || ALIASES.contains(&op) {
        return Ok(());
    }
    for (index, input) in call.inputs.iter().flatten().enumerate() {
        if let Entry::Activation(activation) = input
            && activation.element() != Element::F32
        {
            return unsupported(format!("its input '{}' is of {}", call.node.input(index), activation.element()));
        }
    }
    Ok(())
}

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// An input as a value of the graph; a constant becomes one of `like`'s type of elements.
    pub(super) fn value(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        index: usize,
        like: Option<Element>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        match call.entry(index)? {
            Entry::Activation(activation) => Ok(activation.clone()),
            Entry::Constant(tensor) => self.materialized(call.node.input(index), tensor, like),
            Entry::Unknown => unsupported("its input is not known"),
        }
    }

    /// An elementwise operation on two inputs of which at least one depends on the model's inputs.
    pub(super) fn join(
        &mut self,
        operation: impl Into<BinaryFunction>,
        (a, a_name): (&Entry<'c, 'a>, &str),
        (b, b_name): (&Entry<'c, 'a>, &str),
    ) -> Result<Activation<'c, 'a>, Problem> {
        match (a, b) {
            (Entry::Activation(a), Entry::Activation(b)) => self.pair(operation, a, b),
            (Entry::Activation(a), Entry::Constant(b)) => self.with_constant(operation, a, b_name, b, false),
            (Entry::Constant(a), Entry::Activation(b)) => self.with_constant(operation, b, a_name, a, true),
            _ => unsupported("its inputs are constants"),
        }
    }

    /// Two inputs of a call, joined.
    fn joined(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        operation: impl Into<BinaryFunction>,
        swap: bool,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let operand = |index: usize| Ok::<_, Problem>((call.entry(index)?, call.node.input(index)));
        let (a, b) = if swap { (operand(1)?, operand(0)?) } else { (operand(0)?, operand(1)?) };
        self.join(operation, a, b)
    }

    /// Comparisons and logic.
    pub(super) fn condition(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        one(match call.node.op.as_str() {
            "Equal" => self.joined(call, Binary::Equal, false)?,
            "Greater" => self.joined(call, Binary::Greater, false)?,
            "GreaterOrEqual" => self.joined(call, Binary::GreaterEqual, false)?,
            "Less" => self.joined(call, Binary::Greater, true)?,
            "LessOrEqual" => self.joined(call, Binary::GreaterEqual, true)?,
            "And" => self.joined(call, Binary::LogicalAnd, false)?,
            "Or" => self.joined(call, Binary::LogicalOr, false)?,
            "Xor" => self.joined(call, Binary::LogicalXor, false)?,
            "Not" => {
                let x = call.activation(0)?.clone();
                self.emit.unary(Unary::LogicalNot, &x)?
            }
            "IsNaN" => {
                let x = call.activation(0)?.clone();
                let own = self.pair(Binary::Equal, &x, &x)?;
                self.emit.unary(Unary::LogicalNot, &own)?
            }
            // IsInf
            _ => {
                let x = call.activation(0)?.clone();
                let both = ["detect_positive", "detect_negative"].map(|name| call.node.int(name, 1));
                let [positive, negative] = both;
                let against = match (positive? != 0, negative? != 0) {
                    (true, true) => self.emit.unary(Unary::Abs, &x)?,
                    (true, false) => x,
                    (false, true) => self.emit.negate(&x)?,
                    (false, false) => return unsupported("it detects nothing"),
                };
                self.emit.with_scalar(Binary::Equal, &against, f32::INFINITY)?
            }
        })
    }

    /// Arithmetic of integers.
    pub(super) fn integers(&mut self, call: &Call<'_, 'c, 'a>, element: Element) -> Results<'c, 'a> {
        let node = call.node;
        let operation = match node.op.as_str() {
            "Add" | "Sum" => Binary::Add,
            "Sub" => Binary::Sub,
            "Mul" => Binary::Mul,
            "Div" => Binary::IntDiv,
            "Max" => Binary::Maximum,
            "Min" => Binary::Minimum,
            "Pow" => return self.power(call),
            _ => return unsupported(format!("its inputs are of {element}")),
        };
        let mut result = call.entry(0)?.clone();
        for index in 1..call.inputs.len() {
            let joined = self.join(operation, (&result, node.input(0)), (call.entry(index)?, node.input(index)))?;
            result = Entry::Activation(joined);
        }
        Ok(vec![result])
    }

    /// Pow where an operand is of integers: the result has the base's type.
    fn power(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let base = self.value(call, 0, None)?;
        let exponent = self.value(call, 1, Some(base.element()))?;
        if base.element() == exponent.element() {
            return one(self.pair(Binary::Pow, &base, &exponent)?);
        }
        let floats = [self.emit.cast(&base, Element::F32)?, self.emit.cast(&exponent, Element::F32)?];
        let result = self.pair(Binary::Pow, &floats[0], &floats[1])?;
        one(self.truncated(&result, base.element())?)
    }

    /// Mod, of integers or with `fmod`.
    pub(super) fn modulo(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let operation = if call.node.int("fmod", 0)? != 0 { CustomBinary::Rem } else { CustomBinary::Mod };
        one(self.joined(call, operation, false)?)
    }

    /// Converts as ONNX does: floats to integers are rounded to zero.
    pub(super) fn truncated(&mut self, input: &Activation<'c, 'a>, to: Element) -> Result<Activation<'c, 'a>, Problem> {
        if input.element() != Element::F32 || !matches!(to, Element::I32 | Element::I64) {
            return self.emit.cast(input, to);
        }
        if to == Element::I32 && self.emit.is_rounded(input) {
            return self.emit.quantised(input);
        }
        let positive = self.emit.clamp(input, 0.0, f32::INFINITY)?;
        let negative = self.emit.clamp(input, f32::NEG_INFINITY, 0.0)?;
        let (low, high) = (self.emit.unary(Unary::Floor, &positive)?, self.emit.unary(Unary::Ceil, &negative)?);
        let whole = self.emit.binary(Binary::Add, &low, &high)?;
        self.emit.cast(&whole, to)
    }

    /// Converts to integers of fewer bits than those of `to`, which hold them: other integers wrap, floats beyond the range are
    /// undefined in ONNX.
    fn narrowed(&mut self, input: &Activation<'c, 'a>, to: Element, code: i64) -> Result<Activation<'c, 'a>, Problem> {
        if matches!(input.element(), Element::F32 | Element::Bool) {
            return self.truncated(input, to);
        }
        let constant = |value: i64| Tensor::ints(vec![], [Sym::from(value)]);
        let levels = match code {
            2 | 3 => 1 << 8,
            4 | 5 => 1 << 16,
            _ => 1i64 << 32,
        };
        let half = if matches!(code, 3 | 5) { levels / 2 } else { 0 };
        let wide = self.emit.cast(input, Element::I64)?;
        let above = self.with_constant(Binary::Add, &wide, "", &constant(half), false)?;
        let wrapped = self.with_constant(CustomBinary::Mod, &above, "", &constant(levels), false)?;
        let wrapped = self.with_constant(Binary::Sub, &wrapped, "", &constant(half), false)?;
        self.emit.cast(&wrapped, to)
    }

    /// Cast and CastLike.
    pub(super) fn cast(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let to = if node.op == "Cast" {
            let code = node.int("to", 1)?;
            match (i32::try_from(code).ok().and_then(Element::of), call.entry(0)?) {
                (Some(to), Entry::Activation(input)) if matches!(code, 2..=5 | 12) => {
                    let input = input.clone();
                    return one(self.narrowed(&input, to, code)?);
                }
                (Some(to), _) => to,
                (None, _) => return unsupported(format!("a cast to data type {code}")),
            }
        } else {
            match call.entry(1)? {
                Entry::Activation(like) => like.element(),
                Entry::Constant(like) => like.data.element(),
                Entry::Unknown => return unsupported("its input is not known"),
            }
        };
        match call.entry(0)? {
            Entry::Constant(tensor) => {
                let code = match to {
                    Element::F32 => 1,
                    Element::I32 => 6,
                    Element::I64 => 7,
                    Element::Bool => 9,
                };
                Ok(vec![Entry::Constant(std::rc::Rc::new(fold::cast(tensor, code)?))])
            }
            _ => {
                let input = call.activation(0)?.clone();
                one(self.truncated(&input, to)?)
            }
        }
    }

    /// Where.
    pub(super) fn r#where(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let element = call.inputs[1..].iter().flatten().find_map(|entry| match entry {
            Entry::Activation(activation) => Some(activation.element()),
            _ => None,
        });
        let condition = self.value(call, 0, Some(Element::Bool))?;
        let (a, b) = (self.value(call, 1, element)?, self.value(call, 2, element)?);
        one(self.selected(&condition, &a, &b)?)
    }

    /// `a` where the condition holds, else `b`, all broadcast against each other.
    pub(super) fn selected(
        &mut self,
        condition: &Activation<'c, 'a>,
        a: &Activation<'c, 'a>,
        b: &Activation<'c, 'a>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let rank = condition.rank().max(a.rank()).max(b.rank());
        let order = [a, b, condition].iter().find(|each| each.rank() == rank).map(|each| each.order.clone());
        let order = order.unwrap_or_else(|| logical(rank));
        let mut operands = Vec::with_capacity(3);
        for operand in [condition, a, b] {
            let wide = self.with_rank(operand, rank)?;
            operands.push(self.emit.in_order(&wide, &order)?);
        }
        let shape = super::elementwise::broadcast(&operands[0].shape, &operands[1].shape)?;
        let shape = super::elementwise::broadcast(&shape, &operands[2].shape)?;
        self.emit.select([&operands[0], &operands[1], &operands[2]], shape)
    }

    /// ArgMax and ArgMin.
    pub(super) fn argmax(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let mut input = call.activation(0)?.clone();
        let axis = axis(node.int("axis", 0)?, input.rank())?;
        let Some(size) = input.shape[axis].fixed() else {
            return unsupported("it works over the batch");
        };
        if input.element() == Element::Bool {
            return invalid("its input is boolean");
        }
        if node.op == "ArgMin" {
            input = self.emit.negate(&input)?;
        }
        // The last of equal elements is the first one from behind.
        let last = node.int("select_last_index", 0)? != 0;
        if last {
            check_picked(size)?;
            input = self.emit.take(&input, axis, &(0..size).rev().collect::<Vec<_>>())?;
        }
        let mut result = self.emit.argmax(&input, axis)?;
        if last {
            let end = Tensor::ints(vec![], [Sym::from(size as i64 - 1)]);
            result = self.with_constant(Binary::Sub, &result, "", &end, true)?;
        }
        if node.int("keepdims", 1)? != 0 {
            let mut shape = input.shape.clone();
            shape[axis] = Dim::Fixed(1);
            result = self.emit.reshape(&result, &shape)?;
        }
        one(result)
    }

    /// −1, 0 or 1.
    pub(super) fn sign(&mut self, x: &Activation<'c, 'a>) -> Result<Activation<'c, 'a>, Problem> {
        let zero = Tensor::ints(vec![], [Sym::from(0)]);
        let mut parts = Vec::with_capacity(2);
        for swapped in [false, true] {
            let part = self.with_constant(Binary::Greater, x, "", &zero, swapped)?;
            parts.push(self.emit.cast(&part, x.element())?);
        }
        self.emit.binary(Binary::Sub, &parts[0], &parts[1])
    }

    /// `a / b` of floats.
    pub(super) fn divided(
        &mut self,
        (a, a_name): (&Entry<'c, 'a>, &str),
        (b, b_name): (&Entry<'c, 'a>, &str),
    ) -> Result<Activation<'c, 'a>, Problem> {
        match (a, b) {
            (Entry::Activation(_), Entry::Constant(divisor)) => {
                let Some(values) = divisor.to_floats() else {
                    return invalid(format!("'{b_name}' must hold floats"));
                };
                let inverse: Vec<f32> = values.iter().map(|&value| (1.0 / f64::from(value)) as f32).collect();
                if inverse.iter().any(|inverse| !inverse.is_normal()) {
                    // The divisor or its inverse lost digits, or there is none.
                    return self.join(CustomBinary::Div, (a, a_name), (b, b_name));
                }
                let inverse = Entry::Constant(std::rc::Rc::new(Tensor::floats(divisor.shape.clone(), inverse)));
                self.join(Binary::Mul, (a, a_name), (&inverse, &format!("{b_name}.reciprocal")))
            }
            (_, Entry::Activation(divisor)) => {
                let inverse = self.emit.unary(Unary::Reciprocal, divisor)?;
                match a {
                    Entry::Constant(one) if one.scalar() == Some(1.0) && one.shape.len() <= divisor.rank() => {
                        Ok(inverse)
                    }
                    _ => self.join(Binary::Mul, (a, a_name), (&Entry::Activation(inverse), b_name)),
                }
            }
            _ => unsupported("its inputs are constants"),
        }
    }
}
