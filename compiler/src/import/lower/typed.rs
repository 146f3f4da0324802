//! Operators on integers and booleans, and those that make or read them: comparisons, conditions, casts.

use super::{
    call::{Call, Entry, Lowering, Operator, Results, one},
    elementwise::broadcast,
};
use crate::import::{
    attributes::axis,
    emit::{Activation, BinaryFunction, check_picked, logical},
    error::{Problem, invalid, unsupported},
    fold::{self, Fold, Pairing},
    tensor::{Dim, Element, Sym, Tensor},
};
use mxc_dialects::tosa::{Binary, CustomBinary, Unary};

/// The operators of this file.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("And", |lowering, call| lowering.join_inputs(call, Binary::LogicalAnd))
        .on_integers()
        .folding(Fold::new(|folding| folding.pair(Pairing::Logic(|a, b| a && b)))),
    Operator::new("ArgMax", |lowering, call| lowering.argmax(call, false)).on_integers(),
    Operator::new("ArgMin", |lowering, call| lowering.argmax(call, true)).on_integers(),
    Operator::new("Cast", |lowering, call| lowering.cast(call))
        .on_integers()
        .folding(Fold::new(|folding| folding.cast()).of_elements()),
    Operator::new("CastLike", |lowering, call| lowering.cast_like(call))
        .on_integers()
        .folding(Fold::new(|folding| folding.cast_like()).of_elements()),
    Operator::new("Equal", |lowering, call| lowering.join_inputs(call, Binary::Equal))
        .on_integers()
        .folding(Fold::new(|folding| folding.pair(Pairing::Equality)).not_on_floats()),
    Operator::new("Greater", |lowering, call| lowering.join_inputs(call, Binary::Greater))
        .on_integers()
        .folding(Fold::new(|folding| folding.pair(fold::GREATER)).not_on_floats()),
    Operator::new("GreaterOrEqual", |lowering, call| lowering.join_inputs(call, Binary::GreaterEqual))
        .on_integers()
        .folding(Fold::new(|folding| folding.pair(fold::GREATER_OR_EQUAL)).not_on_floats()),
    Operator::new("IsInf", |lowering, call| lowering.is_inf(call)),
    Operator::new("IsNaN", |lowering, call| lowering.is_nan(call)),
    Operator::new("Less", |lowering, call| lowering.join_swapped(call, Binary::Greater))
        .on_integers()
        .folding(Fold::new(|folding| folding.pair(fold::LESS)).not_on_floats()),
    Operator::new("LessOrEqual", |lowering, call| lowering.join_swapped(call, Binary::GreaterEqual))
        .on_integers()
        .folding(Fold::new(|folding| folding.pair(fold::LESS_OR_EQUAL)).not_on_floats()),
    Operator::new("Mod", |lowering, call| lowering.modulo(call))
        .on_integers()
        .elementwise()
        .folding(Fold::new(|folding| folding.modulo()).not_on_floats()),
    Operator::new("Not", |lowering, call| lowering.plain(call, Unary::LogicalNot))
        .on_integers()
        .folding(Fold::new(|folding| folding.not())),
    Operator::new("Or", |lowering, call| lowering.join_inputs(call, Binary::LogicalOr))
        .on_integers()
        .folding(Fold::new(|folding| folding.pair(Pairing::Logic(|a, b| a || b)))),
    Operator::new("Where", |lowering, call| lowering.r#where(call))
        .on_integers()
        .folding(Fold::new(|folding| folding.select()).of_elements()),
    Operator::new("Xor", |lowering, call| lowering.join_inputs(call, Binary::LogicalXor))
        .on_integers()
        .folding(Fold::new(|folding| folding.pair(Pairing::Logic(|a, b| a != b)))),
];

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
    pub(super) fn join_inputs(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        operation: impl Into<BinaryFunction>,
    ) -> Results<'c, 'a> {
        let (a, b) = (call.entry(0)?, call.entry(1)?);
        one(self.join(operation, (a, call.node.input(0)), (b, call.node.input(1)))?)
    }

    /// Two inputs of a call, joined the other way round.
    fn join_swapped(&mut self, call: &Call<'_, 'c, 'a>, operation: Binary) -> Results<'c, 'a> {
        let (b, a) = (call.entry(1)?, call.entry(0)?);
        one(self.join(operation, (b, call.node.input(1)), (a, call.node.input(0)))?)
    }

    /// IsNaN: what does not equal itself.
    fn is_nan(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let x = call.activation(0)?.clone();
        let own = self.pair(Binary::Equal, &x, &x)?;
        one(self.emit.unary(Unary::LogicalNot, &own)?)
    }

    /// IsInf.
    fn is_inf(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let x = call.activation(0)?.clone();
        let [positive, negative] = ["detect_positive", "detect_negative"].map(|name| call.node.int(name, 1));
        let against = match (positive? != 0, negative? != 0) {
            (true, true) => self.emit.unary(Unary::Abs, &x)?,
            (true, false) => x,
            (false, true) => self.emit.negate(&x)?,
            (false, false) => return unsupported("it detects nothing"),
        };
        one(self.emit.with_scalar(Binary::Equal, &against, f32::INFINITY)?)
    }

    /// A function of integers over any number of operands.
    pub(super) fn chain_of_integers(&mut self, call: &Call<'_, 'c, 'a>, function: Binary) -> Results<'c, 'a> {
        let node = call.node;
        let mut result = call.entry(0)?.clone();
        for index in 1..call.inputs.len() {
            let joined = self.join(function, (&result, node.input(0)), (call.entry(index)?, node.input(index)))?;
            result = Entry::Activation(joined);
        }
        Ok(vec![result])
    }

    /// Pow where an operand is of integers: the result has the base's type.
    pub(super) fn power(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
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
    fn modulo(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        self.join_inputs(call, if call.node.int("fmod", 0)? != 0 { CustomBinary::Rem } else { CustomBinary::Mod })
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

    /// Cast.
    fn cast(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let code = call.node.int("to", 1)?;
        let Some(to) = i32::try_from(code).ok().and_then(Element::of) else {
            return unsupported(format!("a cast to data type {code}"));
        };
        match call.entry(0)? {
            Entry::Activation(input) if matches!(code, 2..=5 | 12) => {
                let input = input.clone();
                one(self.narrowed(&input, to, code)?)
            }
            _ => self.cast_to(call, to),
        }
    }

    /// CastLike.
    fn cast_like(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let to = match call.entry(1)? {
            Entry::Activation(like) => like.element(),
            Entry::Constant(like) => like.data.element(),
            Entry::Unknown => return unsupported("its input is not known"),
        };
        self.cast_to(call, to)
    }

    /// The first input as another type of elements.
    fn cast_to(&mut self, call: &Call<'_, 'c, 'a>, to: Element) -> Results<'c, 'a> {
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
            Entry::Activation(_) | Entry::Unknown => {
                let input = call.activation(0)?.clone();
                one(self.truncated(&input, to)?)
            }
        }
    }

    /// Where.
    fn r#where(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
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
        let shape = broadcast(&operands[0].shape, &operands[1].shape)?;
        let shape = broadcast(&shape, &operands[2].shape)?;
        self.emit.select([&operands[0], &operands[1], &operands[2]], shape)
    }

    /// ArgMax, or ArgMin of the `least`.
    fn argmax(&mut self, call: &Call<'_, 'c, 'a>, least: bool) -> Results<'c, 'a> {
        let node = call.node;
        let mut input = call.activation(0)?.clone();
        let axis = axis(node.int("axis", 0)?, input.rank())?;
        let Some(size) = input.shape[axis].fixed() else {
            return unsupported("it works over the batch");
        };
        if input.element() == Element::Bool {
            return invalid("its input is boolean");
        }
        if least {
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
