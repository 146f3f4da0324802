//! Activation functions and arithmetic with broadcasting.

use super::call::{Call, Entry, LowerCall, Lowering, Operator, Results, one};
use crate::import::{
    emit::{Activation, BinaryFunction, NHWC, UnaryFunction, logical},
    error::{Problem, invalid, unsupported},
    fold::{self, Fold},
    proto::MICROSOFT,
    tensor::{Dim, Element, Sym, Tensor, show},
};
use mxc_dialects::tosa::{Binary, CustomUnary, Unary};
use std::{f64::consts, sync::Arc};

/// An elementwise operator of one operand.
const fn unary(name: &'static str, lower: LowerCall) -> Operator {
    Operator::new(name, lower).elementwise()
}

/// The operators of this file.
pub(super) const OPERATORS: &[Operator] = &[
    unary("Abs", |lowering, call| lowering.plain(call, Unary::Abs))
        .on_integers()
        .folding(Fold::new(|folding| folding.each(fold::size)).not_on_floats()),
    unary("Acos", |lowering, call| lowering.plain(call, CustomUnary::Acos)),
    unary("Acosh", |lowering, call| lowering.plain(call, CustomUnary::Acosh)),
    Operator::new("Add", |lowering, call| lowering.chain(call, Binary::Add))
        .elementwise()
        .on_integers()
        .folding(Fold::new(|folding| folding.pair(fold::ADD)).not_on_floats()),
    unary("Asin", |lowering, call| lowering.plain(call, CustomUnary::Asin)),
    unary("Asinh", |lowering, call| lowering.plain(call, CustomUnary::Asinh)),
    unary("Atan", |lowering, call| lowering.plain(call, CustomUnary::Atan)),
    unary("Atanh", |lowering, call| lowering.plain(call, CustomUnary::Atanh)),
    unary("Ceil", |lowering, call| lowering.plain(call, Unary::Ceil)),
    unary("Celu", |lowering, call| lowering.celu(call)),
    unary("Clip", |lowering, call| lowering.clip(call)).on_integers(),
    unary("Cos", |lowering, call| lowering.plain(call, Unary::Cos)),
    unary("Cosh", |lowering, call| lowering.plain(call, CustomUnary::Cosh)),
    Operator::new("Div", |lowering, call| lowering.quotient(call))
        .elementwise()
        .on_integers()
        .folding(Fold::new(|folding| folding.pair(fold::DIVIDE)).not_on_floats()),
    unary("Elu", |lowering, call| {
        let alpha = call.node.float("alpha", 1.0)?;
        lowering.of_activation(call, |lowering, x| lowering.elu(x, alpha, 1.0, 1.0))
    }),
    unary("Erf", |lowering, call| lowering.plain(call, Unary::Erf)),
    unary("Exp", |lowering, call| lowering.plain(call, Unary::Exp)),
    unary("Floor", |lowering, call| lowering.plain(call, Unary::Floor)),
    unary("Gelu", |lowering, call| lowering.gelu(call)).of(&["", MICROSOFT]),
    unary("HardSigmoid", |lowering, call| {
        let (alpha, beta) = (call.node.float("alpha", 0.2)?, call.node.float("beta", 0.5)?);
        lowering.of_activation(call, |lowering, x| lowering.hard_sigmoid(x, alpha, beta))
    }),
    unary("HardSwish", |lowering, call| lowering.of_activation(call, |lowering, x| lowering.hard_swish(x))),
    unary("LeakyRelu", |lowering, call| {
        let alpha = call.node.float("alpha", 0.01)?;
        lowering.of_activation(call, |lowering, x| lowering.leaky_relu(x, alpha))
    }),
    unary("Log", |lowering, call| lowering.plain(call, Unary::Log)),
    Operator::new("Max", |lowering, call| lowering.chain(call, Binary::Maximum))
        .elementwise()
        .on_integers()
        .moving()
        .folding(Fold::new(|folding| folding.chain(fold::MAXIMUM)).not_on_floats()),
    Operator::new("Mean", |lowering, call| lowering.mean(call)).elementwise(),
    Operator::new("Min", |lowering, call| lowering.chain(call, Binary::Minimum))
        .elementwise()
        .on_integers()
        .moving()
        .folding(Fold::new(|folding| folding.chain(fold::MINIMUM)).not_on_floats()),
    unary("Mish", |lowering, call| lowering.of_activation(call, |lowering, x| lowering.mish(x))),
    Operator::new("Mul", |lowering, call| lowering.chain(call, Binary::Mul))
        .elementwise()
        .on_integers()
        .folding(Fold::new(|folding| folding.pair(fold::MULTIPLY)).not_on_floats()),
    unary("Neg", |lowering, call| lowering.of_activation(call, |lowering, x| lowering.emit.negate(x)))
        .on_integers()
        .folding(Fold::new(|folding| folding.each(fold::negative)).not_on_floats()),
    Operator::new("PRelu", |lowering, call| lowering.p_relu(call)).elementwise(),
    Operator::new("Pow", |lowering, call| lowering.pow(call))
        .elementwise()
        .on_integers()
        .folding(Fold::new(|folding| folding.pair(fold::POWER)).not_on_floats()),
    unary("Reciprocal", |lowering, call| lowering.plain(call, Unary::Reciprocal)),
    unary("Relu", |lowering, call| lowering.of_activation(call, |lowering, x| lowering.relu(x))).on_integers().moving(),
    unary("Round", |lowering, call| lowering.plain(call, CustomUnary::Round)),
    unary("Selu", |lowering, call| {
        let (alpha, gamma) = (call.node.float("alpha", 1.673_263_2)?, call.node.float("gamma", 1.050_701)?);
        lowering.of_activation(call, |lowering, x| lowering.elu(x, alpha, gamma, 1.0))
    }),
    unary("Shrink", |lowering, call| lowering.shrink(call)),
    unary("Sigmoid", |lowering, call| lowering.plain(call, Unary::Sigmoid)),
    unary("Sign", |lowering, call| lowering.sign_of(call)).on_integers(),
    // Not ONNX's; some exporters write it.
    unary("Silu", |lowering, call| {
        let alpha = call.node.float("alpha", 1.0)?;
        lowering.of_activation(call, |lowering, x| lowering.swish(x, alpha))
    }),
    unary("Sin", |lowering, call| lowering.plain(call, Unary::Sin)),
    unary("Sinh", |lowering, call| lowering.plain(call, CustomUnary::Sinh)),
    unary("Softplus", |lowering, call| lowering.of_activation(call, |lowering, x| lowering.softplus(x))),
    unary("Softsign", |lowering, call| lowering.of_activation(call, |lowering, x| lowering.softsign(x))),
    unary("Sqrt", |lowering, call| lowering.of_activation(call, |lowering, x| lowering.emit.square_root(x))),
    Operator::new("Sub", |lowering, call| lowering.difference(call))
        .elementwise()
        .on_integers()
        .folding(Fold::new(|folding| folding.pair(fold::SUBTRACT)).not_on_floats()),
    Operator::new("Sum", |lowering, call| lowering.chain(call, Binary::Add))
        .elementwise()
        .on_integers()
        .folding(Fold::new(|folding| folding.chain(fold::ADD)).not_on_floats()),
    unary("Swish", |lowering, call| {
        let alpha = call.node.float("alpha", 1.0)?;
        lowering.of_activation(call, |lowering, x| lowering.swish(x, alpha))
    }),
    unary("Tan", |lowering, call| lowering.plain(call, CustomUnary::Tan)),
    unary("Tanh", |lowering, call| lowering.plain(call, Unary::Tanh)),
    unary("ThresholdedRelu", |lowering, call| lowering.thresholded_relu(call)),
];

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// A function of the first input.
    fn of_activation(
        &mut self,
        call: &Call<'_, 'c, 'a>,
        function: impl FnOnce(&mut Self, &Activation<'c, 'a>) -> Result<Activation<'c, 'a>, Problem>,
    ) -> Results<'c, 'a> {
        one(function(self, call.activation(0)?)?)
    }

    /// A function that is one operation.
    pub(super) fn plain(&mut self, call: &Call<'_, 'c, 'a>, function: impl Into<UnaryFunction>) -> Results<'c, 'a> {
        one(self.emit.unary(function, call.activation(0)?)?)
    }

    /// Sign.
    fn sign_of(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let x = call.activation(0)?;
        one(if x.element() == Element::F32 { self.emit.unary(CustomUnary::Sign, x)? } else { self.sign(x)? })
    }

    /// ThresholdedRelu: `x` where x > α, else 0.
    fn thresholded_relu(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let x = call.activation(0)?;
        let above = self.above(x, call.node.float("alpha", 1.0)?)?;
        let zero = self.single(x, 0.0)?;
        one(self.selected(&above, x, &zero)?)
    }

    /// Shrink: x + bias where x < −λ, x − bias where x > λ, else 0.
    fn shrink(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let x = call.activation(0)?;
        let (bias, lambda) = (call.node.float("bias", 0.0)?, call.node.float("lambd", 0.5)?);
        let negated = self.emit.negate(x)?;
        let (above, below, zero) = (self.above(x, lambda)?, self.above(&negated, lambda)?, self.single(x, 0.0)?);
        let emit = &mut self.emit;
        let (less, more) = (emit.with_scalar(Binary::Sub, x, bias)?, emit.with_scalar(Binary::Add, x, bias)?);
        let inner = self.selected(&below, &more, &zero)?;
        one(self.selected(&above, &less, &inner)?)
    }

    /// Relu.
    fn relu(&mut self, x: &Activation<'c, 'a>) -> Result<Activation<'c, 'a>, Problem> {
        if x.element() == Element::F32 {
            return self.emit.clamp(x, 0.0, f32::INFINITY);
        }
        let zero = Tensor::ints(vec![], [Sym::from(0)]);
        self.with_constant(Binary::Maximum, x, "", &zero, false)
    }

    /// Clip.
    fn clip(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let (node, x) = (call.node, call.activation(0)?);
        let computed = (1..3).any(|index| matches!(call.optional(index), Some(Entry::Activation(_))));
        if x.element() != Element::F32 || computed {
            let mut result = x.clone();
            for (index, operation) in [(1, Binary::Maximum), (2, Binary::Minimum)] {
                if let Some(bound) = call.optional(index) {
                    let operand = (bound, node.input(index));
                    result = self.join(operation, (&Entry::Activation(result), ""), operand)?;
                }
            }
            return one(result);
        }
        let bound = |index: usize, name: &str, default: f32| match call.optional_constant(index)? {
            Some(bound) => match bound.scalar() {
                Some(bound) => Ok(bound),
                None => invalid(format!("'{}' must be a scalar", node.input(index))),
            },
            None => node.float(name, default),
        };
        // ONNX's defaults: an infinity is clipped where the bound on its side is left out.
        let (low, high) = (bound(1, "min", f32::MIN)?, bound(2, "max", f32::MAX)?);
        if low.is_nan() || high.is_nan() {
            return invalid("its bounds are not numbers");
        }
        // Where the bounds cross, the upper one holds.
        one(self.emit.clamp(x, low.min(high), high)?)
    }

    /// `x·hard_sigmoid(x)`.
    fn hard_swish(&mut self, x: &Activation<'c, 'a>) -> Result<Activation<'c, 'a>, Problem> {
        let gate = self.hard_sigmoid(x, 1.0 / 6.0, 0.5)?;
        self.emit.binary(Binary::Mul, x, &gate)
    }

    /// `x·sigmoid(α·x)`.
    fn swish(&mut self, x: &Activation<'c, 'a>, alpha: f32) -> Result<Activation<'c, 'a>, Problem> {
        let emit = &mut self.emit;
        let scaled = if alpha == 1.0 { x.clone() } else { emit.with_scalar(Binary::Mul, x, alpha)? };
        let gate = emit.unary(Unary::Sigmoid, &scaled)?;
        emit.binary(Binary::Mul, x, &gate)
    }

    /// Gelu: `x/2·(1 + erf(x/√2))`, or its approximation by tanh.
    fn gelu(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let x = call.activation(0)?;
        let emit = &mut self.emit;
        let inner = match call.node.string("approximate", "none")? {
            "none" => {
                let scaled = emit.with_scalar(Binary::Mul, x, consts::FRAC_1_SQRT_2 as f32)?;
                emit.unary(Unary::Erf, &scaled)?
            }
            // tanh(√(2/π)·(x + 0.044715·x³))
            "tanh" => {
                let square = emit.binary(Binary::Mul, x, x)?;
                let scaled = emit.with_scalar(Binary::Mul, &square, 0.044_715)?;
                let factor = emit.with_scalar(Binary::Add, &scaled, 1.0)?;
                let inner = emit.binary(Binary::Mul, x, &factor)?;
                let scaled = emit.with_scalar(Binary::Mul, &inner, (2.0 / consts::PI).sqrt() as f32)?;
                emit.unary(Unary::Tanh, &scaled)?
            }
            other => return invalid(format!("attribute 'approximate' is '{other}'")),
        };
        let gate = emit.with_scalar(Binary::Add, &inner, 1.0)?;
        let half = emit.with_scalar(Binary::Mul, x, 0.5)?;
        one(emit.binary(Binary::Mul, &half, &gate)?)
    }

    /// Celu: an ELU whose exponential is of x/α.
    fn celu(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let alpha = call.node.float("alpha", 1.0)?;
        if alpha == 0.0 {
            return invalid("attribute 'alpha' is 0");
        }
        one(self.elu(call.activation(0)?, alpha, 1.0, 1.0 / alpha)?)
    }

    /// `x·tanh(softplus(x))`.
    fn mish(&mut self, x: &Activation<'c, 'a>) -> Result<Activation<'c, 'a>, Problem> {
        let soft = self.softplus(x)?;
        let gate = self.emit.unary(Unary::Tanh, &soft)?;
        self.emit.binary(Binary::Mul, x, &gate)
    }

    /// Whether `x` is above a bound.
    fn above(&mut self, x: &Activation<'c, 'a>, bound: f32) -> Result<Activation<'c, 'a>, Problem> {
        self.emit.with_scalar(Binary::Greater, x, bound)
    }

    /// A number as a value of the rank of `x`, to be broadcast against it.
    pub(super) fn single(&mut self, x: &Activation<'c, 'a>, number: f32) -> Result<Activation<'c, 'a>, Problem> {
        let shape = vec![Dim::Fixed(1); x.rank()];
        Ok(Activation { value: self.emit.scalar(x.rank(), number)?, shape, order: x.order.clone() })
    }

    /// `x / (1 + |x|)`.
    pub(super) fn softsign(&mut self, x: &Activation<'c, 'a>) -> Result<Activation<'c, 'a>, Problem> {
        let size = self.emit.unary(Unary::Abs, x)?;
        let more = self.emit.with_scalar(Binary::Add, &size, 1.0)?;
        let inverse = self.emit.unary(Unary::Reciprocal, &more)?;
        self.emit.binary(Binary::Mul, x, &inverse)
    }

    pub(super) fn leaky_relu(&mut self, x: &Activation<'c, 'a>, slope: f32) -> Result<Activation<'c, 'a>, Problem> {
        let emit = &mut self.emit;
        // Not for a slope of 0, which makes an infinity undefined.
        if slope > 0.0 && slope <= 1.0 {
            let scaled = emit.with_scalar(Binary::Mul, x, slope)?;
            return emit.binary(Binary::Maximum, x, &scaled);
        }
        let positive = emit.clamp(x, 0.0, f32::INFINITY)?;
        let negative = emit.clamp(x, f32::NEG_INFINITY, 0.0)?;
        let scaled = emit.with_scalar(Binary::Mul, &negative, slope)?;
        emit.binary(Binary::Add, &positive, &scaled)
    }

    /// `clamp(α·x + β, 0, 1)`.
    pub(super) fn hard_sigmoid(
        &mut self,
        x: &Activation<'c, 'a>,
        alpha: f32,
        beta: f32,
    ) -> Result<Activation<'c, 'a>, Problem> {
        // Saturating first keeps the scale apart from a layer before it: folded into that, it would change the layer's
        // output, which is a value of the ONNX graph.
        let first = alpha > 0.0;
        let x = if first { self.emit.clamp(x, -beta / alpha, (1.0 - beta) / alpha)? } else { x.clone() };
        let scaled = self.emit.with_scalar(Binary::Mul, &x, alpha)?;
        let shifted = self.emit.with_scalar(Binary::Add, &scaled, beta)?;
        if first { Ok(shifted) } else { self.emit.clamp(&shifted, 0.0, 1.0) }
    }

    /// `γ·(max(x, 0) + α·(exp(rate·min(x, 0)) − 1))`.
    pub(super) fn elu(
        &mut self,
        x: &Activation<'c, 'a>,
        alpha: f32,
        gamma: f32,
        rate: f32,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let emit = &mut self.emit;
        let positive = emit.clamp(x, 0.0, f32::INFINITY)?;
        let mut negative = emit.clamp(x, f32::NEG_INFINITY, 0.0)?;
        if rate != 1.0 {
            negative = emit.with_scalar(Binary::Mul, &negative, rate)?;
        }
        let exp = emit.unary(Unary::Exp, &negative)?;
        let less = emit.with_scalar(Binary::Add, &exp, -1.0)?;
        let scaled = emit.with_scalar(Binary::Mul, &less, alpha)?;
        let sum = emit.binary(Binary::Add, &positive, &scaled)?;
        if gamma == 1.0 { Ok(sum) } else { emit.with_scalar(Binary::Mul, &sum, gamma) }
    }

    /// `ln(1 + eˣ)` as `max(x, 0) + ln(1 + e^−|x|)`, which does not overflow.
    pub(super) fn softplus(&mut self, x: &Activation<'c, 'a>) -> Result<Activation<'c, 'a>, Problem> {
        let emit = &mut self.emit;
        let positive = emit.clamp(x, 0.0, f32::INFINITY)?;
        let size = emit.unary(Unary::Abs, x)?;
        let negated = emit.negate(&size)?;
        let exp = emit.unary(Unary::Exp, &negated)?;
        let more = emit.with_scalar(Binary::Add, &exp, 1.0)?;
        let log = emit.unary(Unary::Log, &more)?;
        emit.binary(Binary::Add, &positive, &log)
    }

    /// A commutative function of any number of operands.
    fn chain(&mut self, call: &Call<'_, 'c, 'a>, function: Binary) -> Results<'c, 'a> {
        if call.has_integers() {
            return self.chain_of_integers(call, function);
        }
        one(self.chain_of_floats(call, function)?)
    }

    fn chain_of_floats(&mut self, call: &Call<'_, 'c, 'a>, function: Binary) -> Result<Activation<'c, 'a>, Problem> {
        let mut result = call.entry(0)?.clone();
        for index in 1..call.inputs.len() {
            let name = call.node.input(if matches!(result, Entry::Constant(_)) { index - 1 } else { index });
            result = self.combine(function, &result, call.entry(index)?, name)?;
        }
        match result {
            Entry::Activation(result) => Ok(result),
            Entry::Constant(_) | Entry::Unknown => unsupported("its inputs are constants"),
        }
    }

    /// Mean of any number of operands.
    fn mean(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let sum = self.chain_of_floats(call, Binary::Add)?;
        one(self.emit.with_scalar(Binary::Mul, &sum, 1.0 / call.inputs.len() as f32)?)
    }

    /// Sub.
    fn difference(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        if call.has_integers() {
            return self.chain_of_integers(call, Binary::Sub);
        }
        self.join_inputs(call, Binary::Sub)
    }

    /// Div.
    fn quotient(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        if call.has_integers() {
            return self.chain_of_integers(call, Binary::IntDiv);
        }
        let node = call.node;
        one(self.divided((call.entry(0)?, node.input(0)), (call.entry(1)?, node.input(1)))?)
    }

    /// Pow, small whole exponents as products.
    fn pow(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        if call.has_integers() {
            return self.power(call);
        }
        if let (Entry::Activation(a), Entry::Constant(b)) = (call.entry(0)?, call.entry(1)?)
            && let Some(exponent) = b.scalar()
            && b.shape.len() <= a.rank()
        {
            if exponent == 1.0 {
                return one(a.clone());
            }
            if exponent == 2.0 {
                return one(self.emit.binary(Binary::Mul, a, a)?);
            }
            if exponent == 3.0 {
                let square = self.emit.binary(Binary::Mul, a, a)?;
                return one(self.emit.binary(Binary::Mul, &square, a)?);
            }
        }
        self.join_inputs(call, Binary::Pow)
    }

    /// PRelu: `max(x, 0) + slope·min(x, 0)`.
    fn p_relu(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let x = call.activation(0)?;
        let slope = call.entry(1)?;
        let finite = |slope: &Tensor| slope.to_floats().is_some_and(|all| all.iter().all(|x| x.is_finite()));
        if !matches!(slope, Entry::Constant(slope) if finite(slope)) {
            // A slope that may be infinite must not meet what it does not apply to.
            let slope = self.value(call, 1, None)?;
            let scaled = self.pair(Binary::Mul, x, &slope)?;
            let zero = Tensor::floats(vec![], [0.0]);
            let negative = self.with_constant(Binary::Greater, x, "", &zero, true)?;
            return one(self.selected(&negative, &scaled, x)?);
        }
        let positive = self.emit.clamp(x, 0.0, f32::INFINITY)?;
        let negative = self.emit.clamp(x, f32::NEG_INFINITY, 0.0)?;
        let scaled = self.join(Binary::Mul, (&Entry::Activation(negative), ""), (slope, call.node.input(1)))?;
        one(self.pair(Binary::Add, &positive, &scaled)?)
    }

    /// One step of a commutative operator; `name` is the constant's, if one operand is a constant.
    fn combine(
        &mut self,
        function: Binary,
        a: &Entry<'c, 'a>,
        b: &Entry<'c, 'a>,
        name: &str,
    ) -> Result<Entry<'c, 'a>, Problem> {
        let result = match (a, b) {
            (Entry::Activation(a), Entry::Activation(b)) => self.pair(function, a, b)?,
            (Entry::Activation(activation), Entry::Constant(constant))
            | (Entry::Constant(constant), Entry::Activation(activation)) => match (function, constant.scalar()) {
                (Binary::Maximum, Some(low)) if constant.shape.len() <= activation.rank() && !low.is_nan() => {
                    self.emit.clamp(activation, low, f32::INFINITY)?
                }
                (Binary::Minimum, Some(high)) if constant.shape.len() <= activation.rank() && !high.is_nan() => {
                    self.emit.clamp(activation, f32::NEG_INFINITY, high)?
                }
                _ => self.with_constant(function, activation, name, constant, false)?,
            },
            _ => return unsupported("more than one of its inputs is a constant"),
        };
        Ok(Entry::Activation(result))
    }

    /// An elementwise operation on two activations that broadcast against each other.
    pub(super) fn pair(
        &mut self,
        operation: impl Into<BinaryFunction>,
        a: &Activation<'c, 'a>,
        b: &Activation<'c, 'a>,
    ) -> Result<Activation<'c, 'a>, Problem> {
        if a.element() != b.element() {
            return invalid(format!("its operands are of {} and {}", a.element(), b.element()));
        }
        let rank = a.rank().max(b.rank());
        let (mut a, mut b) = (self.with_rank(a, rank)?, self.with_rank(b, rank)?);
        if a.order != b.order {
            let order = if a.order == NHWC || b.order == NHWC { NHWC.to_vec() } else { logical(rank) };
            a = self.emit.in_order(&a, &order)?;
            b = self.emit.in_order(&b, &order)?;
        }
        let shape = broadcast(&a.shape, &b.shape)?;
        let mut result = Activation { value: a.value, shape, order: a.order };
        result.value = self.emit.binary_raw(operation, a.value, b.value, &result.physical())?;
        Ok(result)
    }

    /// An activation with axes of size 1 put in front.
    pub(super) fn with_rank(
        &mut self,
        activation: &Activation<'c, 'a>,
        rank: usize,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let Some(lead) = rank.checked_sub(activation.rank()).filter(|&lead| lead > 0) else {
            return Ok(activation.clone());
        };
        let shape: Vec<_> = std::iter::repeat_n(Dim::Fixed(1), lead).chain(activation.shape.iter().copied()).collect();
        self.emit.reshape(activation, &shape)
    }

    /// An elementwise operation on an activation and a constant named `name`, which is the first operand if `swapped`.
    pub(super) fn with_constant(
        &mut self,
        operation: impl Into<BinaryFunction>,
        activation: &Activation<'c, 'a>,
        name: &str,
        constant: &Tensor,
        swapped: bool,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let element = activation.element();
        let (values, integers) = if element == Element::F32 {
            (constant.to_floats(), Some(Vec::new()))
        } else {
            (Some(Arc::from([])), constant.integers())
        };
        let (Some(values), Some(integers)) = (values, integers) else {
            return unsupported(format!("'{name}' depends on the batch size, or is not of {element}"));
        };
        if constant.len() == 0 {
            return unsupported(format!("'{name}' is empty"));
        }
        let rank = activation.rank().max(constant.shape.len());
        let activation = self.with_rank(activation, rank)?;
        let mut sizes = vec![1; rank - constant.shape.len()];
        sizes.extend(&constant.shape);
        let dims: Vec<_> = sizes.iter().map(|&size| Dim::Fixed(size)).collect();
        let shape = broadcast(&activation.shape, &dims)?;
        let operand = if element == Element::F32 {
            let constant = Tensor::floats(sizes, values).transposed(&activation.order);
            self.emit.constant_or_weight(name, &constant)?
        } else {
            let integers: Vec<_> = integers.into_iter().map(Sym::from).collect();
            let constant = Tensor::ints(sizes, integers).transposed(&activation.order);
            let values = constant.known_ints().unwrap_or_default();
            self.emit.integer_constant(&constant.shape, &values, element)?
        };
        let mut result = Activation { value: activation.value, shape, order: activation.order };
        let (a, b) = if swapped { (operand, activation.value) } else { (activation.value, operand) };
        result.value = self.emit.binary_raw(operation, a, b, &result.physical())?;
        Ok(result)
    }
}

/// The shape that two shapes of equal rank broadcast to.
pub(super) fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, Problem> {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| match (a, b) {
            _ if a == b => Some(a),
            (Dim::Fixed(1), other) | (other, Dim::Fixed(1)) => Some(other),
            _ => None,
        })
        .collect::<Option<_>>()
        .map_or_else(|| invalid(format!("its operands of shapes {} and {} do not broadcast", show(a), show(b))), Ok)
}
