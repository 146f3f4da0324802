//! Elementwise functions of one operand, one table: what each computes, what its gradient reads and is, and what it means.

use super::{
    operator::{Operand, Operator, Planned, Type, exactly, wrong_types},
    plain::{Elements, Interpreted, Types, interpret},
    reference::{Exact, Tensor},
};
use crate::{
    error::ExecError,
    exec::{
        buffers::Buffer,
        kernel::{Backward, Forward, Id, Kernel, Reads},
    },
    kernels::elementwise::{self, chain},
    plan::steps::Steps,
    program::value::DType,
};

/// What a gradient reads: nothing, the operand, or the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Saved {
    Nothing,
    Operand,
    Result,
}

/// The functions: name: in place on f32; what the gradient reads and does to the result's gradient; its meaning in f64.
macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident: $compute:expr; $saved:ident, $slope:expr; $exact:expr;)*) => {
        /// Elementwise functions of one operand.
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[allow(missing_docs)]
        pub enum Unary {
            Clamp { min: f32, max: f32 },
            /// `clamp(round(x / scale) + zero, low, high)`: a quantiser's whole numbers, as floats. Its gradient passes straight
            /// through within the range: 1/scale.
            Quantize { scale: f32, zero: f32, low: f32, high: f32 },
            $($(#[$doc])* $name,)*
        }

        impl Unary {
            /// Applies it in place.
            pub(crate) fn apply(self, y: &mut [f32]) {
                match self {
                    Self::Clamp { min, max } => elementwise::clamp(y, min, max),
                    Self::Quantize { scale, zero, low, high } => elementwise::quantize(y, [scale, zero, low, high]),
                    $(Self::$name => $compute(y),)*
                }
            }

            /// What the gradient reads.
            fn saved(self) -> Saved {
                match self {
                    Self::Clamp { .. } => Saved::Result,
                    Self::Quantize { .. } => Saved::Operand,
                    $(Self::$name => Saved::$saved,)*
                }
            }

            /// Turns the result's gradient into the operand's, in place; `saved` is what [`Unary::saved`] names.
            fn slope(self, g: &mut [f32], saved: &[f32]) {
                match self {
                    Self::Clamp { min, max } => elementwise::mask_clamped(g, saved, min, max),
                    Self::Quantize { scale, zero, low, high } => {
                        let inside = |x: f32| (low..=high).contains(&((x / scale).round_ties_even() + zero));
                        by(|x| if inside(x) { 1.0 / scale } else { 0.0 })(g, saved);
                    }
                    $(Self::$name => $slope(g, saved),)*
                }
            }

            /// Its meaning.
            fn of(self, x: f64) -> f64 {
                match self {
                    Self::Clamp { min, max } => x.clamp(f64::from(min), f64::from(max)),
                    Self::Quantize { scale, zero, low, high } => {
                        let whole = (x / f64::from(scale)).round_ties_even() + f64::from(zero);
                        whole.clamp(f64::from(low), f64::from(high))
                    }
                    $(Self::$name => $exact(x),)*
                }
            }
        }
    };
}

functions! {
    Sigmoid: elementwise::sigmoid; Result, by(|y| y * (1.0 - y)); |x: f64| 1.0 / (1.0 + (-x).exp());
    Tanh: each(f32::tanh); Result, by(|y| 1.0 - y * y); f64::tanh;
    Erf: each(|x| statrs::function::erf::erf(f64::from(x)) as f32);
        Operand, by(|x| std::f32::consts::FRAC_2_SQRT_PI * (-x * x).exp()); statrs::function::erf::erf;
    Exp: elementwise::exponential; Result, by(|y| y); f64::exp;
    Log: each(f32::ln); Operand, by(f32::recip); f64::ln;
    Reciprocal: each(f32::recip); Result, by(|y| -y * y); f64::recip;
    Rsqrt: each(|x| x.sqrt().recip()); Result, by(|y| -0.5 * y * y * y); |x: f64| x.sqrt().recip();
    Sqrt: elementwise::square_root; Result, by(|y| 0.5 / y); f64::sqrt;
    /// −1, 0 or 1, or NaN.
    Sign: each(sign); Nothing, zero; |x: f64| if x == 0.0 { x } else { x.signum() };
    Abs: each(f32::abs); Operand, by(|x| if x == 0.0 { 0.0 } else { x.signum() }); f64::abs;
    Negate: elementwise::negate; Nothing, |g: &mut [f32], _: &[f32]| elementwise::negate(g); |x: f64| -x;
    Floor: each(f32::floor); Nothing, zero; f64::floor;
    Ceil: each(f32::ceil); Nothing, zero; f64::ceil;
    /// To the nearest, ties to even. Its gradient passes straight through.
    Round: each(f32::round_ties_even); Nothing, straight; f64::round_ties_even;
    Sin: each(f32::sin); Operand, by(f32::cos); f64::sin;
    Cos: each(f32::cos); Operand, by(|x| -x.sin()); f64::cos;
    Tan: each(f32::tan); Operand, by(|x| 1.0 / (x.cos() * x.cos())); f64::tan;
    Asin: each(f32::asin); Operand, by(|x| 1.0 / (1.0 - x * x).sqrt()); f64::asin;
    Acos: each(f32::acos); Operand, by(|x| -1.0 / (1.0 - x * x).sqrt()); f64::acos;
    Atan: each(f32::atan); Operand, by(|x| 1.0 / (1.0 + x * x)); f64::atan;
    Sinh: each(f32::sinh); Operand, by(f32::cosh); f64::sinh;
    Cosh: each(f32::cosh); Operand, by(f32::sinh); f64::cosh;
    // In f64, where 2·x does not overflow.
    Asinh: each(|x| f64::from(x).asinh() as f32); Operand, by(|x| 1.0 / (x * x + 1.0).sqrt()); f64::asinh;
    Acosh: each(|x| f64::from(x).acosh() as f32); Operand, by(|x| 1.0 / (x * x - 1.0).sqrt()); f64::acosh;
    Atanh: each(|x| f64::from(x).atanh() as f32); Operand, by(|x| 1.0 / (1.0 - x * x)); f64::atanh;
    /// Of booleans, which are interpreted.
    Not: straight_on; Nothing, zero; |x: f64| f64::from(x == 0.0);
    Identity: straight_on; Nothing, straight; |x: f64| x;
}

/// A function of every element.
fn each(f: impl Fn(f32) -> f32) -> impl Fn(&mut [f32]) {
    move |y| y.iter_mut().for_each(|y| *y = f(*y))
}

fn straight_on(_: &mut [f32]) {}

fn sign(x: f32) -> f32 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else {
        x
    }
}

/// A gradient that is scaled by a function of what is saved.
fn by(f: impl Fn(f32) -> f32) -> impl Fn(&mut [f32], &[f32]) {
    move |g, saved| g.iter_mut().zip(saved).for_each(|(g, &saved)| *g = chain(*g, f(saved)))
}

fn straight(_: &mut [f32], _: &[f32]) {}

fn zero(g: &mut [f32], _: &[f32]) {
    g.fill(0.0);
}

impl Unary {
    /// Whether it takes elements of a type. Integers have only the functions that stay among them.
    fn takes(self, dtype: DType) -> bool {
        match self {
            Self::Not => dtype == DType::Bool,
            Self::Identity | Self::Abs | Self::Negate | Self::Sign => true,
            _ => dtype == DType::F32,
        }
    }

    /// Of an integer or a boolean.
    fn of_integer(self, x: i64) -> i64 {
        match self {
            Self::Abs => x.wrapping_abs(),
            Self::Negate => x.wrapping_neg(),
            Self::Sign => x.signum(),
            Self::Not => i64::from(x == 0),
            _ => x,
        }
    }
}

impl Operator for Unary {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x] = exactly(operands)?;
        if self.takes(x.dtype) { Ok(x.same()) } else { wrong_types(operands) }
    }

    fn keeps_scale(&self, _: &[bool]) -> bool {
        match *self {
            Self::Clamp { min, max } => min == 0.0 && max >= f32::MAX,
            Self::Identity | Self::Abs | Self::Negate => true,
            _ => false,
        }
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        if *self == Self::Identity {
            return Ok(node.x());
        }
        if !node.is_float() {
            return Ok(interpret(self, node, steps));
        }
        // TOSA has no root: it is spelled with reciprocals.
        if *self == Self::Reciprocal
            && let Some(square) = operand_of(steps, node.x(), Self::Rsqrt)
        {
            return Ok(steps.push(Function(Self::Sqrt), vec![square], node.words()));
        }
        Ok(steps.push(Function(*self), vec![node.x()], node.words()))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], _: &[usize]) -> Result<Tensor, String> {
        Ok(operands[0].map(|x| self.of(x)))
    }
}

/// The operand of the elementwise function that computes a value, if it is this one.
pub(crate) fn operand_of(steps: &Steps<'_>, id: Id, function: Unary) -> Option<Id> {
    let step = steps.producer(id)?;
    let Function(op) = step.kernel()?;
    step.inputs.first().copied().filter(|_| *op == function)
}

impl Interpreted for Unary {
    const NAME: &str = "Unary";

    fn run(&self, types: &Types, operands: &[&[f32]], out: &mut [f32]) {
        let values = types.ints(0, operands).into_iter().map(|x| self.of_integer(x)).collect();
        types.write(Elements::Int(values), out);
    }
}

/// The kernel: in place on f32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function(pub Unary);

impl Kernel for Function {
    fn in_place(&self) -> bool {
        true
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(match self.0.saved() {
            Saved::Nothing => Reads::NOTHING,
            Saved::Operand => Reads::OPERAND,
            Saved::Result => Reads::RESULT,
        })
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        self.0.apply(run.out);
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, mut g: Buffer) -> Result<(), ExecError> {
        let saved = match self.0.saved() {
            Saved::Result => run.result(),
            Saved::Operand | Saved::Nothing => run.operand(0),
        };
        self.0.slope(&mut g, saved);
        run.add(0, g);
        Ok(())
    }
}

/// x·sigmoid(x), in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silu;

impl Kernel for Silu {
    fn in_place(&self) -> bool {
        true
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(Reads::OPERAND)
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        elementwise::silu(run.out);
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, mut g: Buffer) -> Result<(), ExecError> {
        elementwise::silu_backward(&mut g, run.operand(0));
        run.add(0, g);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_pass_straight_through_quantisers_within_their_range() {
        let quantiser = Unary::Quantize { scale: 0.5, zero: 2.0, low: 0.0, high: 15.0 };
        // Below, at the lower end, inside, at the upper end (a half rounds to even), above.
        let x = [-2.0, -1.25, -1.0, 0.3, 6.7, 6.75, 100.0];
        let mut y = x;
        quantiser.apply(&mut y);
        assert_eq!(y, [0.0, 0.0, 0.0, 3.0, 15.0, 15.0, 15.0]);
        let mut g = [3.0; 7];
        quantiser.slope(&mut g, &x);
        assert_eq!(g, [0.0, 6.0, 6.0, 6.0, 6.0, 0.0, 0.0]);
        let mut g = [3.0; 7];
        Unary::Round.slope(&mut g, &x);
        assert_eq!(g, [3.0; 7]);
    }

    /// No derivative that is infinite or undefined gets into a gradient, whatever the gradient before it.
    #[test]
    fn gradients_stay_finite() {
        let specials = [0.0, -0.0, 1e-42, -1e-42, 1.0, -2.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        let unary_ops = [
            Unary::Sigmoid,
            Unary::Tanh,
            Unary::Erf,
            Unary::Exp,
            Unary::Log,
            Unary::Reciprocal,
            Unary::Rsqrt,
            Unary::Sqrt,
            Unary::Abs,
            Unary::Sin,
            Unary::Tan,
            Unary::Asin,
            Unary::Acos,
            Unary::Sinh,
            Unary::Acosh,
            Unary::Atanh,
            Unary::Clamp { min: 0.0, max: f32::INFINITY },
        ];
        for op in unary_ops {
            for g in [0.0, 1.0] {
                let mut saved = specials;
                if op.saved() == Saved::Result {
                    op.apply(&mut saved);
                }
                let mut gradient = [g; 9];
                op.slope(&mut gradient, &saved);
                assert!(gradient.iter().all(|g| g.is_finite()), "{op:?} {g}: {gradient:?}");
            }
        }
    }
}
