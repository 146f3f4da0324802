//! Activation functions and arithmetic with broadcasting.

use super::{Call, Entry, Lowering, Results, one};
use crate::import::{
    emit::{Activation, BinaryFunction, NHWC, logical},
    error::{Problem, invalid, unsupported},
    tensor::{Dim, Element, Sym, Tensor, show},
};
use mxc_dialects::tosa::{Binary, CustomUnary, Unary};
use std::{f64::consts, sync::Arc};

/// The operators with one operand.
pub(super) const UNARY: [&str; 40] = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Cos",
    "Cosh",
    "Round",
    "Shrink",
    "Sign",
    "Sin",
    "Sinh",
    "Softsign",
    "Tan",
    "ThresholdedRelu",
    "Ceil",
    "Clip",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Reciprocal",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Sqrt",
    "Swish",
    "Tanh",
    "Celu",
    "Silu",
];

/// Whether an operator makes every element of its result of those of its operands in the same place.
pub(super) fn is_elementwise(op: &str) -> bool {
    UNARY.contains(&op)
        || matches!(op, "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" | "Sum" | "Mean" | "PRelu" | "Mod")
}

impl<'c, 'a> Lowering<'c, 'a, '_> {
    pub(super) fn unary(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        let x = &call.activation(0)?.clone();
        let alpha = |default: f32| node.float("alpha", default);
        let emit = &mut self.emit;
        one(match node.op.as_str() {
            "Abs" => emit.unary(Unary::Abs, x)?,
            "Ceil" => emit.unary(Unary::Ceil, x)?,
            "Erf" => emit.unary(Unary::Erf, x)?,
            "Exp" => emit.unary(Unary::Exp, x)?,
            "Floor" => emit.unary(Unary::Floor, x)?,
            "Log" => emit.unary(Unary::Log, x)?,
            "Reciprocal" => emit.unary(Unary::Reciprocal, x)?,
            "Sigmoid" => emit.unary(Unary::Sigmoid, x)?,
            "Tanh" => emit.unary(Unary::Tanh, x)?,
            "Cos" => emit.unary(Unary::Cos, x)?,
            "Sin" => emit.unary(Unary::Sin, x)?,
            "Round" | "Tan" | "Asin" | "Acos" | "Atan" | "Sinh" | "Cosh" | "Asinh" | "Acosh" | "Atanh" => {
                match CustomUnary::of(&node.op.to_lowercase()) {
                    Some(f) => emit.unary(f, x)?,
                    None => return Err(Problem::Unsupported(None)),
                }
            }
            "Sign" if x.element() == Element::F32 => emit.unary(CustomUnary::Sign, x)?,
            "Sign" => self.sign(x)?,
            "Softsign" => self.softsign(x)?,
            // x where x > α, else 0.
            "ThresholdedRelu" => {
                let above = self.above(x, alpha(1.0)?)?;
                let zero = self.single(x, 0.0)?;
                self.selected(&above, x, &zero)?
            }
            // x + bias where x < −λ, x − bias where x > λ, else 0.
            "Shrink" => {
                let (bias, lambda) = (node.float("bias", 0.0)?, node.float("lambd", 0.5)?);
                let negated = emit.negate(x)?;
                let (above, below, zero) =
                    (self.above(x, lambda)?, self.above(&negated, lambda)?, self.single(x, 0.0)?);
                let emit = &mut self.emit;
                let (less, more) = (emit.with_scalar(Binary::Sub, x, bias)?, emit.with_scalar(Binary::Add, x, bias)?);
                let inner = self.selected(&below, &more, &zero)?;
                self.selected(&above, &less, &inner)?
            }
            "Neg" => emit.negate(x)?,
            "Relu" if x.element() != Element::F32 => {
                let zero = Tensor::ints(vec![], [Sym::from(0)]);
                self.with_constant(Binary::Maximum, x, "", &zero, false)?
            }
            "Relu" => emit.clamp(x, 0.0, f32::INFINITY)?,
            "Sqrt" => emit.square_root(x)?,
            "Clip"
                if x.element() != Element::F32
                    || (1..3).any(|index| matches!(call.optional(index), Some(Entry::Activation(_)))) =>
            {
                let mut result = x.clone();
                for (index, operation) in [(1, Binary::Maximum), (2, Binary::Minimum)] {
                    if let Some(bound) = call.optional(index) {
                        let operand = (bound, node.input(index));
                        result = self.join(operation, (&Entry::Activation(result), ""), operand)?;
                    }
                }
                result
            }
            "Clip" => {
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
                emit.clamp(x, low.min(high), high)?
            }
            "LeakyRelu" => self.leaky_relu(x, alpha(0.01)?)?,
            "HardSigmoid" => self.hard_sigmoid(x, alpha(0.2)?, node.float("beta", 0.5)?)?,
            "HardSwish" => {
                let gate = self.hard_sigmoid(x, 1.0 / 6.0, 0.5)?;
                self.emit.binary(Binary::Mul, x, &gate)?
            }
            // Silu is not ONNX's; some exporters write it.
            "Swish" | "Silu" => {
                let alpha = alpha(1.0)?;
                let scaled = if alpha == 1.0 { x.clone() } else { emit.with_scalar(Binary::Mul, x, alpha)? };
                let gate = emit.unary(Unary::Sigmoid, &scaled)?;
                emit.binary(Binary::Mul, x, &gate)?
            }
            "Gelu" => {
                let inner = match node.string("approximate", "none")? {
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
                emit.binary(Binary::Mul, &half, &gate)?
            }
            "Elu" => self.elu(x, alpha(1.0)?, 1.0, 1.0)?,
            "Celu" => {
                let alpha = alpha(1.0)?;
                if alpha == 0.0 {
                    return invalid("attribute 'alpha' is 0");
                }
                self.elu(x, alpha, 1.0, 1.0 / alpha)?
            }
            "Selu" => self.elu(x, alpha(1.673_263_2)?, node.float("gamma", 1.050_701)?, 1.0)?,
            "Softplus" => self.softplus(x)?,
            "Mish" => {
                let soft = self.softplus(x)?;
                let gate = self.emit.unary(Unary::Tanh, &soft)?;
                self.emit.binary(Binary::Mul, x, &gate)?
            }
            _ => {
                return Err(Problem::Unsupported(Some("it depends on the model's inputs".to_owned())));
            }
        })
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

    /// Arithmetic with two or more operands of which at least one is an activation.
    pub(super) fn arithmetic(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let node = call.node;
        match node.op.as_str() {
            "Add" | "Sum" | "Mean" | "Mul" | "Max" | "Min" => {
                let function = match node.op.as_str() {
                    "Mul" => Binary::Mul,
                    "Max" => Binary::Maximum,
                    "Min" => Binary::Minimum,
                    _ => Binary::Add,
                };
                let mut result = call.entry(0)?.clone();
                for index in 1..call.inputs.len() {
                    let name = node.input(if matches!(result, Entry::Constant(_)) { index - 1 } else { index });
                    result = self.combine(function, &result, call.entry(index)?, name)?;
                }
                let Entry::Activation(mut result) = result else {
                    return unsupported("its inputs are constants");
                };
                if node.op == "Mean" {
                    result = self.emit.with_scalar(Binary::Mul, &result, 1.0 / call.inputs.len() as f32)?;
                }
                one(result)
            }
            "Sub" => one(match (call.entry(0)?, call.entry(1)?) {
                (Entry::Activation(a), Entry::Activation(b)) => self.pair(Binary::Sub, a, b)?,
                (Entry::Activation(a), Entry::Constant(b)) => {
                    self.with_constant(Binary::Sub, a, node.input(1), b, false)?
                }
                (Entry::Constant(a), Entry::Activation(b)) => {
                    self.with_constant(Binary::Sub, b, node.input(0), a, true)?
                }
                _ => return unsupported("its inputs are constants"),
            }),
            "Div" => one(self.divided((call.entry(0)?, node.input(0)), (call.entry(1)?, node.input(1)))?),
            "Pow" => one(match (call.entry(0)?, call.entry(1)?) {
                (Entry::Activation(a), Entry::Constant(b)) => match b.scalar() {
                    Some(exponent) if exponent == 1.0 && b.shape.len() <= a.rank() => a.clone(),
                    Some(exponent) if exponent == 2.0 && b.shape.len() <= a.rank() => {
                        self.emit.binary(Binary::Mul, a, a)?
                    }
                    Some(exponent) if exponent == 3.0 && b.shape.len() <= a.rank() => {
                        let square = self.emit.binary(Binary::Mul, a, a)?;
                        self.emit.binary(Binary::Mul, &square, a)?
                    }
                    _ => self.with_constant(Binary::Pow, a, node.input(1), b, false)?,
                },
                (Entry::Activation(a), Entry::Activation(b)) => self.pair(Binary::Pow, a, b)?,
                (Entry::Constant(a), Entry::Activation(b)) => {
                    self.with_constant(Binary::Pow, b, node.input(0), a, true)?
                }
                _ => return unsupported("its inputs are constants"),
            }),
            // max(x, 0) + slope·min(x, 0)
            _ => {
                let x = call.activation(0)?.clone();
                let slope = call.entry(1)?.clone();
                let finite = |slope: &Tensor| slope.to_floats().is_some_and(|all| all.iter().all(|x| x.is_finite()));
                if !matches!(&slope, Entry::Constant(slope) if finite(slope)) {
                    // A slope that may be infinite must not meet what it does not apply to.
                    let slope = self.value(call, 1, None)?;
                    let scaled = self.pair(Binary::Mul, &x, &slope)?;
                    let negative = {
                        let zero = Tensor::floats(vec![], [0.0]);
                        self.with_constant(Binary::Greater, &x, "", &zero, true)?
                    };
                    return one(self.selected(&negative, &scaled, &x)?);
                }
                let positive = self.emit.clamp(&x, 0.0, f32::INFINITY)?;
                let negative = self.emit.clamp(&x, f32::NEG_INFINITY, 0.0)?;
                let scaled = self.join(Binary::Mul, (&Entry::Activation(negative), ""), (&slope, node.input(1)))?;
                one(self.pair(Binary::Add, &positive, &scaled)?)
            }
        }
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
