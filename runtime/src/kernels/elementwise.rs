//! Elementwise kernels: activations, broadcasts, and what their gradients need.

use crate::program::{Binary, Unary};
use multiversion::multiversion;
use mxc_dialects::noise::Reference;

/// Compiles a kernel for the usual instruction sets.
macro_rules! kernels {
    ($($(#[$doc:meta])* pub fn $name:ident($($args:tt)*) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$doc])*
        #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
        pub fn $name($($args)*) $(-> $result)? $body
    )*};
}

kernels! {
/// `y += coefficient·x + offset`.
pub fn scaled_add(y: &mut [f32], x: &[f32], coefficient: f32, offset: f32) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += coefficient * x + offset;
    }
}

/// `y += c`.
pub fn add_constant(y: &mut [f32], c: f32) {
    for y in y {
        *y += c;
    }
}

/// `y += x`.
pub fn add_assign(y: &mut [f32], x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// `y = clamp(y, min, max)`.
pub fn clamp(y: &mut [f32], min: f32, max: f32) {
    for y in y {
        *y = raise(*y, min, max);
    }
}

/// `out = clamp(x, min, max)`.
pub fn clamp_into(x: &[f32], min: f32, max: f32, out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = raise(x, min, max);
    }
}

/// `out = clamp(a + b, min, max)`.
pub fn add_clamp(a: &[f32], b: &[f32], min: f32, max: f32, out: &mut [f32]) {
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = raise(a + b, min, max);
    }
}

/// Zeroes the gradient where the clamped result sits on a bound.
pub fn mask_clamped(g: &mut [f32], out: &[f32], min: f32, max: f32) {
    for (g, &out) in g.iter_mut().zip(out) {
        *g = if out > min && out < max { *g } else { 0.0 };
    }
}

/// Zeroes the gradient where `|x| > limit`.
pub fn mask_beyond(g: &mut [f32], x: &[f32], limit: f32) {
    for (g, &x) in g.iter_mut().zip(x) {
        *g = if x.abs() <= limit { *g } else { 0.0 };
    }
}

/// Per row: `y = y·scale + shift`.
pub fn affine(y: &mut [f32], scale: &[f32], shift: &[f32]) {
    for row in y.chunks_exact_mut(scale.len().max(1)) {
        for ((y, &scale), &shift) in row.iter_mut().zip(scale).zip(shift) {
            *y = *y * scale + shift;
        }
    }
}

/// Per row: `y = y·scale`.
pub fn scale_rows(y: &mut [f32], scale: &[f32]) {
    for row in y.chunks_exact_mut(scale.len().max(1)) {
        for (y, &scale) in row.iter_mut().zip(scale) {
            *y *= scale;
        }
    }
}

/// The affine map's gradients: adds to `scale_gradient` and `shift_gradient` and turns `g` into the input's gradient.
pub fn affine_backward(
    g: &mut [f32],
    x: &[f32],
    scale: &[f32],
    scale_gradient: &mut [f32],
    shift_gradient: &mut [f32],
) {
    let channels = scale.len().max(1);
    for (g, x) in g.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
        let sums = scale_gradient.iter_mut().zip(shift_gradient.iter_mut());
        for (((g, &x), &scale), (scale_gradient, shift_gradient)) in g.iter_mut().zip(x).zip(scale).zip(sums) {
            *scale_gradient += *g * x;
            *shift_gradient += *g;
            *g *= scale;
        }
    }
}

/// `y = y ≥ 0 ? y : slope·y`.
pub fn leaky_relu(y: &mut [f32], slope: f32) {
    for y in y {
        *y = if *y >= 0.0 { *y } else { slope * *y };
    }
}

/// LeakyReLU's gradient from its result, which has its input's sign.
pub fn leaky_relu_backward(g: &mut [f32], out: &[f32], slope: f32) {
    for (g, &out) in g.iter_mut().zip(out) {
        *g *= if out >= 0.0 { 1.0 } else { slope };
    }
}

/// `y −= mu + epsilon·sigma`.
pub fn subtract_noise(y: &mut [f32], mu: &[f32], sigma: &[f32], epsilon: &[f32]) {
    for (((y, &mu), &sigma), &epsilon) in y.iter_mut().zip(mu).zip(sigma).zip(epsilon) {
        *y -= mu + epsilon * sigma;
    }
}

/// `y −= x`.
pub fn subtract(y: &mut [f32], x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y -= x;
    }
}

/// `out = a·b`.
pub fn multiply(a: &[f32], b: &[f32], out: &mut [f32]) {
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = a * b;
    }
}

/// `y = −y`.
pub fn negate(y: &mut [f32]) {
    for y in y {
        *y = -*y;
    }
}

/// `y = 1/(1 + e⁻ʸ)`.
pub fn sigmoid(y: &mut [f32]) {
    for y in y {
        *y = 1.0 / (1.0 + exp_beside_one(-*y));
    }
}

/// `y = y/(1 + e⁻ʸ)`.
pub fn silu(y: &mut [f32]) {
    for y in y {
        *y /= 1.0 + exp_beside_one(-*y);
    }
}

/// SiLU's gradient from its input.
pub fn silu_backward(g: &mut [f32], x: &[f32]) {
    for (g, &x) in g.iter_mut().zip(x) {
        let s = 1.0 / (1.0 + exp_beside_one(-x));
        *g = chain(*g, s + x * s * (1.0 - s));
    }
}

/// `y = √y`.
pub fn square_root(y: &mut [f32]) {
    for y in y {
        *y = y.sqrt();
    }
}

/// `y = eʸ`.
pub fn exponential(y: &mut [f32]) {
    for y in y {
        *y = exp(*y);
    }
}

/// max |x|.
pub fn absmax(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 32];
    let chunks = x.chunks_exact(32);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x.abs() > *lane { x.abs() } else { *lane };
        }
    }
    let rest = rest.iter().fold(0f32, |max, x| max.max(x.abs()));
    lanes.iter().fold(rest, |max, &lane| max.max(lane))
}

/// Σx, Σx² and Σ|x| in f64.
pub fn sums(x: &[f32]) -> [f64; 3] {
    const LANES: usize = 8;
    let mut lanes = [[0f64; LANES]; 3];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            let x = f64::from(chunk[lane]);
            lanes[0][lane] += x;
            lanes[1][lane] += x * x;
            lanes[2][lane] += x.abs();
        }
    }
    for (lane, &x) in rest.iter().enumerate() {
        let x = f64::from(x);
        lanes[0][lane] += x;
        lanes[1][lane] += x * x;
        lanes[2][lane] += x.abs();
    }
    lanes.map(|lanes| lanes.iter().sum())
}
}

/// `max(min(x, max), min)` as two selects (a NaN stays one).
#[inline(always)]
fn raise(x: f32, min: f32, max: f32) -> f32 {
    let x = if x > max { max } else { x };
    if x < min { min } else { x }
}

/// `g·derivative`, the step of every backward pass. A derivative that is not finite counts as 0: that of √x at 0, and whatever
/// comes of an undefined branch that a selection did not take.
#[inline(always)]
pub(super) fn chain(g: f32, derivative: f32) -> f32 {
    if derivative.abs() < f32::INFINITY { g * derivative } else { 0.0 }
}

/// The greater of two numbers, or NaN if one of them is none.
#[inline(always)]
pub(super) fn greater(a: f32, b: f32) -> f32 {
    let most = if b > a { b } else { a };
    if b.is_nan() { b } else { most }
}

/// The lesser of two numbers, or NaN if one of them is none.
#[inline(always)]
pub(super) fn lesser(a: f32, b: f32) -> f32 {
    let least = if b < a { b } else { a };
    if b.is_nan() { b } else { least }
}

/// eˣ as a number near 1 and a power of two, n (Cephes `expf`, 2 ulp), for |x| up to 10⁵.
#[inline(always)]
fn exp_parts(x: f32) -> (f32, i32) {
    // Rounds to the nearest integer: 1.5·2²³ pushes the fraction out of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4f32;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + coefficient;
    }
    (p * r * r + r + 1.0, shifted.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed())
}

/// 2ⁿ for n from −126, ∞ for 128.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23).cast_unsigned())
}

/// eˣ with gradual underflow and overflow.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Below the first bound the result is less than half of the least number, above the second more than the greatest.
    const LEAST: f32 = -104.0;
    let x = raise(x, LEAST, 89.0);
    let (mantissa, n) = exp_parts(x);
    // In two factors: either end of the range, −150 and 128, is beyond one number's exponents. Zero exactly where it underflows:
    // the product would be as small, but slow on processors that trap tiny results.
    let half = n >> 1;
    let rest = if x == LEAST { 0.0 } else { power_of_two(n.wrapping_sub(half)) };
    mantissa * power_of_two(half) * rest
}

/// eˣ to be added to 1, in one factor: no less than e⁻⁸⁷, and infinite from e^88.4 on.
#[inline(always)]
fn exp_beside_one(x: f32) -> f32 {
    let (mantissa, n) = exp_parts(raise(x, -87.0, 89.0));
    mantissa * power_of_two(n)
}

/// The magnitude s of a layer's output y that its noise is a share of under the scale `signal`.
pub fn magnitude(y: &[f32], reference: Reference) -> f64 {
    let n = y.len().max(1) as f64;
    match reference {
        Reference::Absmax => f64::from(absmax(y)),
        Reference::Rms => (sums(y)[1] / n).sqrt(),
        Reference::MeanAbs => sums(y)[2] / n,
        Reference::Std => deviation(y).1,
    }
}

/// The mean and the standard deviation.
fn deviation(y: &[f32]) -> (f64, f64) {
    let n = y.len().max(1) as f64;
    let [sum, square, _] = sums(y);
    let mean = sum / n;
    (mean, (square / n - mean * mean).max(0.0).sqrt())
}

/// Adds `weight·∂s/∂y` to `g`, for the magnitude s of `y`.
pub fn magnitude_backward(y: &[f32], reference: Reference, s: f64, weight: f64, g: &mut [f32]) {
    if s <= 0.0 {
        return;
    }
    let n = y.len() as f64;
    match reference {
        Reference::Rms => scaled_add(g, y, (weight / (n * s)) as f32, 0.0),
        Reference::Std => {
            let slope = weight / (n * s);
            scaled_add(g, y, slope as f32, (-slope * deviation(y).0) as f32);
        }
        Reference::MeanAbs => {
            let slope = (weight / n) as f32;
            for (g, &y) in g.iter_mut().zip(y) {
                if y != 0.0 {
                    *g += slope * y.signum();
                }
            }
        }
        Reference::Absmax => {
            let peak = s as f32;
            if let Some((g, y)) = g.iter_mut().zip(y).find(|(_, y)| y.abs() == peak) {
                *g += weight as f32 * y.signum();
            }
        }
    }
}

/// `clamp(round(y / scale) + zero, low, high)` in place. NaN becomes `low`, as casting it to an integer would have no meaning.
#[multiversion(targets = "simd")]
fn quantize(y: &mut [f32], [scale, zero, low, high]: [f32; 4]) {
    for y in y {
        *y = ((*y / scale).round_ties_even() + zero).max(low).min(high);
    }
}

/// Applies a function in place.
pub fn unary(op: Unary, y: &mut [f32]) {
    fn map(y: &mut [f32], f: impl Fn(f32) -> f32) {
        for y in y {
            *y = f(*y);
        }
    }
    match op {
        Unary::Clamp { min, max } => clamp(y, min, max),
        Unary::Sigmoid => sigmoid(y),
        Unary::Exp => exponential(y),
        Unary::Negate => negate(y),
        Unary::Tanh => map(y, f32::tanh),
        Unary::Erf => map(y, |x| statrs::function::erf::erf(f64::from(x)) as f32),
        Unary::Log => map(y, f32::ln),
        Unary::Reciprocal => map(y, f32::recip),
        Unary::Rsqrt => map(y, |x| x.sqrt().recip()),
        Unary::Sqrt => square_root(y),
        Unary::Sign => map(y, |x| {
            if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            }
        }),
        Unary::Abs => map(y, f32::abs),
        Unary::Floor => map(y, f32::floor),
        Unary::Ceil => map(y, f32::ceil),
        Unary::Round => map(y, f32::round_ties_even),
        Unary::Quantize { scale, zero, low, high } => quantize(y, [scale, zero, low, high]),
        Unary::Sin => map(y, f32::sin),
        Unary::Cos => map(y, f32::cos),
        Unary::Tan => map(y, f32::tan),
        Unary::Asin => map(y, f32::asin),
        Unary::Acos => map(y, f32::acos),
        Unary::Atan => map(y, f32::atan),
        Unary::Sinh => map(y, f32::sinh),
        Unary::Cosh => map(y, f32::cosh),
        // In f64, where 2·x does not overflow.
        Unary::Asinh => map(y, |x| f64::from(x).asinh() as f32),
        Unary::Acosh => map(y, |x| f64::from(x).acosh() as f32),
        Unary::Atanh => map(y, |x| f64::from(x).atanh() as f32),
        // Not is not of floats: the generic kernel runs it.
        Unary::Not | Unary::Identity => {}
    }
}

/// Which of its operands a unary function's gradient reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Neither.
    Nothing,
    /// The operand.
    Input,
    /// The result.
    Output,
}

/// What [`unary_backward`] reads.
pub fn unary_reads(op: Unary) -> Reads {
    match op {
        Unary::Clamp { .. }
        | Unary::Sigmoid
        | Unary::Tanh
        | Unary::Exp
        | Unary::Reciprocal
        | Unary::Rsqrt
        | Unary::Sqrt => Reads::Output,
        Unary::Erf
        | Unary::Log
        | Unary::Abs
        | Unary::Sin
        | Unary::Cos
        | Unary::Tan
        | Unary::Asin
        | Unary::Acos
        | Unary::Atan
        | Unary::Sinh
        | Unary::Cosh
        | Unary::Asinh
        | Unary::Acosh
        | Unary::Atanh
        | Unary::Quantize { .. } => Reads::Input,
        Unary::Negate | Unary::Floor | Unary::Ceil | Unary::Round | Unary::Sign | Unary::Not | Unary::Identity => {
            Reads::Nothing
        }
    }
}

/// Turns the result's gradient into the operand's, in place; `saved` is what [`unary_reads`] names.
pub fn unary_backward(op: Unary, g: &mut [f32], saved: &[f32]) {
    fn scale(g: &mut [f32], saved: &[f32], f: impl Fn(f32) -> f32) {
        for (g, &saved) in g.iter_mut().zip(saved) {
            *g = chain(*g, f(saved));
        }
    }
    match op {
        Unary::Clamp { min, max } => mask_clamped(g, saved, min, max),
        Unary::Sigmoid => scale(g, saved, |y| y * (1.0 - y)),
        Unary::Tanh => scale(g, saved, |y| 1.0 - y * y),
        Unary::Exp => scale(g, saved, |y| y),
        Unary::Reciprocal => scale(g, saved, |y| -y * y),
        Unary::Rsqrt => scale(g, saved, |y| -0.5 * y * y * y),
        Unary::Sqrt => scale(g, saved, |y| 0.5 / y),
        Unary::Erf => scale(g, saved, |x| std::f32::consts::FRAC_2_SQRT_PI * (-x * x).exp()),
        Unary::Log => scale(g, saved, f32::recip),
        Unary::Abs => scale(g, saved, |x| if x == 0.0 { 0.0 } else { x.signum() }),
        Unary::Negate => negate(g),
        Unary::Sin => scale(g, saved, f32::cos),
        Unary::Cos => scale(g, saved, |x| -x.sin()),
        Unary::Tan => scale(g, saved, |x| 1.0 / (x.cos() * x.cos())),
        Unary::Asin => scale(g, saved, |x| 1.0 / (1.0 - x * x).sqrt()),
        Unary::Acos => scale(g, saved, |x| -1.0 / (1.0 - x * x).sqrt()),
        Unary::Atan => scale(g, saved, |x| 1.0 / (1.0 + x * x)),
        Unary::Sinh => scale(g, saved, f32::cosh),
        Unary::Cosh => scale(g, saved, f32::sinh),
        Unary::Asinh => scale(g, saved, |x| 1.0 / (x * x + 1.0).sqrt()),
        Unary::Acosh => scale(g, saved, |x| 1.0 / (x * x - 1.0).sqrt()),
        Unary::Atanh => scale(g, saved, |x| 1.0 / (1.0 - x * x)),
        Unary::Quantize { scale: step, zero, low, high } => {
            let inside = |x: f32| (low..=high).contains(&((x / step).round_ties_even() + zero));
            scale(g, saved, |x| if inside(x) { 1.0 / step } else { 0.0 });
        }
        Unary::Floor | Unary::Ceil | Unary::Sign | Unary::Not => g.fill(0.0),
        Unary::Round | Unary::Identity => {}
    }
}

/// How two operands are broadcast: axes (size, left stride, right stride), outermost first, merged where possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    axes: Vec<(usize, usize, usize)>,
}

impl Broadcast {
    /// Of two shapes of equal rank; `None` if they do not broadcast.
    pub fn new(left: &[usize], right: &[usize]) -> Option<Self> {
        if left.len() != right.len() {
            return None;
        }
        let mut axes: Vec<(usize, usize, usize)> = Vec::new();
        let (mut left_stride, mut right_stride) = (1, 1);
        for (&l, &r) in left.iter().zip(right).rev() {
            if l != r && l != 1 && r != 1 {
                return None;
            }
            let size = l.max(r);
            if size > 1 {
                let strides = (if l == 1 { 0 } else { left_stride }, if r == 1 { 0 } else { right_stride });
                match axes.last_mut() {
                    Some((inner, a, b)) if strides == (*a * *inner, *b * *inner) => *inner *= size,
                    _ => axes.push((size, strides.0, strides.1)),
                }
            }
            left_stride *= l;
            right_stride *= r;
        }
        if axes.is_empty() {
            axes.push((1, 1, 1));
        }
        axes.reverse();
        Some(Self { axes })
    }

    /// Of two operands of as many elements.
    pub fn equal(len: usize) -> Self {
        Self { axes: vec![(len, 1, 1)] }
    }

    /// The result's shape.
    pub fn shape(left: &[usize], right: &[usize]) -> Vec<usize> {
        left.iter().zip(right).map(|(&l, &r)| l.max(r)).collect()
    }

    /// The (left offset, right offset) of every run of the innermost axis, in the result's order.
    #[inline(always)]
    fn rows(&self) -> Rows<'_> {
        let outer = &self.axes[..self.axes.len() - 1];
        Rows { outer, next: 0, count: outer.iter().map(|axis| axis.0).product() }
    }

    /// The number of channels, if the right operand is one value per channel (the last axis) of the left one.
    pub fn per_channel(&self) -> Option<usize> {
        match *self.axes.as_slice() {
            [(_, stride, 0), (channels, 1, 1)] if stride == channels => Some(channels),
            _ => None,
        }
    }

    fn inner(&self) -> (usize, usize, usize) {
        self.axes.last().copied().unwrap_or((1, 1, 1))
    }

    /// Swaps the operands.
    pub fn swapped(&self) -> Self {
        Self { axes: self.axes.iter().map(|&(size, a, b)| (size, b, a)).collect() }
    }
}

/// See [`Broadcast::rows`].
struct Rows<'a> {
    outer: &'a [(usize, usize, usize)],
    next: usize,
    count: usize,
}

impl Iterator for Rows<'_> {
    type Item = (usize, usize);

    // Inlined into the kernels, which are compiled for their instruction sets.
    #[inline(always)]
    fn next(&mut self) -> Option<(usize, usize)> {
        if self.next == self.count {
            return None;
        }
        let (mut rest, mut left, mut right) = (self.next, 0, 0);
        self.next += 1;
        match *self.outer {
            [] => {}
            [(_, a, b)] => (left, right) = (rest * a, rest * b),
            _ => {
                for &(size, a, b) in self.outer.iter().rev() {
                    left += rest % size * a;
                    right += rest % size * b;
                    rest /= size;
                }
            }
        }
        Some((left, right))
    }
}

/// `out = f(a, b)` with broadcasting.
#[inline(always)]
fn zip_with(shape: &Broadcast, a: &[f32], b: &[f32], out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    let (size, left, right) = shape.inner();
    for (out, (i, j)) in out.chunks_exact_mut(size).zip(shape.rows()) {
        match (left, right) {
            (1, 1) => {
                for ((out, &a), &b) in out.iter_mut().zip(&a[i..i + size]).zip(&b[j..j + size]) {
                    *out = f(a, b);
                }
            }
            (1, 0) => {
                let b = b[j];
                for (out, &a) in out.iter_mut().zip(&a[i..i + size]) {
                    *out = f(a, b);
                }
            }
            (0, 1) => {
                let a = a[i];
                for (out, &b) in out.iter_mut().zip(&b[j..j + size]) {
                    *out = f(a, b);
                }
            }
            _ => out.fill(f(a[i], b[j])),
        }
    }
}

kernels! {
/// `out = a op b` with broadcasting.
pub fn binary(op: Binary, shape: &Broadcast, a: &[f32], b: &[f32], out: &mut [f32]) {
    match op {
        Binary::Add => zip_with(shape, a, b, out, |a, b| a + b),
        Binary::Sub => zip_with(shape, a, b, out, |a, b| a - b),
        Binary::Mul => zip_with(shape, a, b, out, |a, b| a * b),
        Binary::Div => zip_with(shape, a, b, out, |a, b| a / b),
        Binary::Max => zip_with(shape, a, b, out, greater),
        Binary::Min => zip_with(shape, a, b, out, lesser),
        Binary::Pow => zip_with(shape, a, b, out, f32::powf),
        // The generic kernel runs the others.
        _ => {}
    }
}
}

/// Adds to `out` the gradient of the **left** operand of `a op b` (for the right one call with swapped operands and
/// `Broadcast` and `left = false`). Gradients of broadcast elements are summed.
pub fn binary_backward(
    op: Binary,
    left: bool,
    shape: &Broadcast,
    g: &[f32],
    (own, other): (&[f32], &[f32]),
    out: &mut [f32],
) {
    match op {
        Binary::Add => reduce_into(shape, g, own, other, out, |g, _, _| g),
        Binary::Sub if left => reduce_into(shape, g, own, other, out, |g, _, _| g),
        Binary::Sub => reduce_into(shape, g, own, other, out, |g, _, _| -g),
        Binary::Mul => reduce_multiply(shape, g, other, out),
        // A tie goes to the left operand, as in the forward pass.
        Binary::Max => {
            reduce_into(shape, g, own, other, out, |g, x, y| if x > y || (left && x == y) { g } else { 0.0 })
        }
        Binary::Min => {
            reduce_into(shape, g, own, other, out, |g, x, y| if x < y || (left && x == y) { g } else { 0.0 })
        }
        Binary::Div if left => reduce_into(shape, g, own, other, out, |g, _, y| chain(g, 1.0 / y)),
        Binary::Div => reduce_into(shape, g, own, other, out, |g, y, x| chain(g, -(x / y) / y)),
        Binary::Pow if left => {
            reduce_into(shape, g, own, other, out, |g, x, y| if y == 0.0 { 0.0 } else { chain(g, y * x.powf(y - 1.0)) })
        }
        Binary::Pow => {
            reduce_into(shape, g, own, other, out, |g, y, x| if x > 0.0 { chain(g, x.powf(y) * x.ln()) } else { 0.0 })
        }
        // The others have none.
        _ => {}
    }
}

/// Whether the gradients read the operands' values.
pub fn binary_reads(op: Binary) -> bool {
    !matches!(op, Binary::Add | Binary::Sub)
}

kernels! {
/// `out += g·other`, summed over what was broadcast.
pub fn reduce_multiply(shape: &Broadcast, g: &[f32], other: &[f32], out: &mut [f32]) {
    let (size, left, right) = shape.inner();
    for (g, (i, j)) in g.chunks_exact(size).zip(shape.rows()) {
        match (left, right) {
            (1, 1) => {
                for ((out, &g), &other) in out[i..i + size].iter_mut().zip(g).zip(&other[j..j + size]) {
                    *out += chain(g, other);
                }
            }
            (1, 0) => {
                let other = other[j];
                for (out, &g) in out[i..i + size].iter_mut().zip(g) {
                    *out += chain(g, other);
                }
            }
            (0, 1) => out[i] += g.iter().zip(&other[j..j + size]).map(|(&g, &other)| chain(g, other)).sum::<f32>(),
            _ => out[i] += chain(g.iter().sum::<f32>(), other[j]),
        }
    }
}
}

#[inline(always)]
fn reduce_into(
    shape: &Broadcast,
    g: &[f32],
    own: &[f32],
    other: &[f32],
    out: &mut [f32],
    f: impl Fn(f32, f32, f32) -> f32,
) {
    let (size, left, right) = shape.inner();
    // Values that the function does not read may be absent.
    let at = |values: &[f32], index: usize| values.get(index).copied().unwrap_or(0.0);
    for (g, (i, j)) in g.chunks_exact(size).zip(shape.rows()) {
        match (left, right) {
            (1, 1) if other.len() >= j + size => {
                for (index, (&g, &other)) in g.iter().zip(&other[j..j + size]).enumerate() {
                    out[i + index] += f(g, at(own, i + index), other);
                }
            }
            (1, 0) => {
                let other = at(other, j);
                for (index, (out, &g)) in out[i..i + size].iter_mut().zip(g).enumerate() {
                    *out += f(g, at(own, i + index), other);
                }
            }
            (0, 1) => {
                let own = at(own, i);
                let mut sum = 0f32;
                for (index, &g) in g.iter().enumerate() {
                    sum += f(g, own, at(other, j + index));
                }
                out[i] += sum;
            }
            _ => {
                for (index, &g) in g.iter().enumerate() {
                    let (i, j) = (i + index * left, j + index * right);
                    out[i] += f(g, at(own, i), at(other, j));
                }
            }
        }
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
        unary(quantiser, &mut y);
        assert_eq!(y, [0.0, 0.0, 0.0, 3.0, 15.0, 15.0, 15.0]);
        let mut g = [3.0; 7];
        unary_backward(quantiser, &mut g, &x);
        assert_eq!(g, [0.0, 6.0, 6.0, 6.0, 6.0, 0.0, 0.0]);
        let mut g = [3.0; 7];
        unary_backward(Unary::Round, &mut g, &x);
        assert_eq!(g, [3.0; 7]);
    }

    #[test]
    fn exponential_is_accurate() {
        for step in -10_500..=9000 {
            let x = step as f32 / 100.0 + 0.003_7;
            // Half a unit of the least number, where results lose digits.
            let (found, want) = (f64::from(exp(x)), f64::from(x).exp());
            let overflows = want > f64::from(f32::MAX) && found == f64::INFINITY;
            assert!(overflows || (found - want).abs() <= 3e-7 * want + 0.51 * 2f64.powi(-149), "{x}");
            let s = 1.0 / (1.0 + (-f64::from(x)).exp());
            let mut y = [x];
            sigmoid(&mut y);
            if x > -86.0 {
                assert!((f64::from(y[0]) / s - 1.0).abs() < 1e-6, "{x}");
            }
        }
        assert_eq!(
            [0.0, f32::NEG_INFINITY, f32::INFINITY, -3e38, 3e38].map(exp),
            [1.0, 0.0, f32::INFINITY, 0.0, f32::INFINITY]
        );
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn broadcasts_merge_axes() {
        let axes = |l: &[usize], r: &[usize]| Broadcast::new(l, r).unwrap().axes;
        assert_eq!(axes(&[1, 4, 5, 3], &[1, 4, 5, 3]), [(60, 1, 1)]);
        assert_eq!(axes(&[1, 4, 5, 3], &[1, 1, 1, 3]), [(20, 3, 0), (3, 1, 1)]);
        assert_eq!(axes(&[1, 4, 5, 3], &[1, 1, 1, 1]), [(60, 1, 0)]);
        assert_eq!(axes(&[1, 1], &[1, 1]), [(1, 1, 1)]);
        assert!(Broadcast::new(&[2], &[3]).is_none());
    }

    #[test]
    fn binary_matches_the_definition() {
        let shapes: [[[usize; 4]; 2]; 6] = [
            [[1, 4, 5, 3], [1, 4, 5, 3]],
            [[1, 4, 5, 3], [1, 1, 1, 3]],
            [[1, 1, 5, 1], [1, 4, 5, 3]],
            [[1, 4, 1, 3], [1, 1, 5, 1]],
            [[1, 1, 1, 1], [2, 4, 5, 3]],
            [[2, 4, 1, 3], [2, 1, 1, 1]],
        ];
        for [l, r] in shapes {
            let values = |shape: [usize; 4], seed: usize| {
                (0..shape.iter().product()).map(|i| ((i * 7 + seed) % 13) as f32 / 4.0 + 0.2).collect::<Vec<_>>()
            };
            let (a, b) = (values(l, 1), values(r, 5));
            let shape = Broadcast::new(&l, &r).unwrap();
            let out_shape = Broadcast::shape(&l, &r);
            let mut out = vec![0.0; out_shape.iter().product()];
            binary(Binary::Sub, &shape, &a, &b, &mut out);
            let offset = |shape: [usize; 4], index: [usize; 4]| {
                (0..4).fold(0, |at, axis| at * shape[axis] + if shape[axis] == 1 { 0 } else { index[axis] })
            };
            for (at, &value) in out.iter().enumerate() {
                let mut rest = at;
                let mut index = [0; 4];
                for axis in (0..4).rev() {
                    index[axis] = rest % out_shape[axis];
                    rest /= out_shape[axis];
                }
                assert_eq!(value, a[offset(l, index)] - b[offset(r, index)]);
            }
        }
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
                if unary_reads(op) == Reads::Output {
                    unary(op, &mut saved);
                }
                let mut gradient = [g; 9];
                unary_backward(op, &mut gradient, &saved);
                assert!(gradient.iter().all(|g| g.is_finite()), "{op:?} {g}: {gradient:?}");
            }
        }
        for op in [Binary::Mul, Binary::Div, Binary::Pow, Binary::Max, Binary::Min] {
            for (&a, &b) in specials.iter().flat_map(|a| specials.iter().map(move |b| (a, b))) {
                let shape = Broadcast::new(&[1], &[1]).unwrap();
                for (left, own, other) in [(true, a, b), (false, b, a)] {
                    let mut out = [0.0];
                    binary_backward(op, left, &shape, &[1.0], (&[own], &[other]), &mut out);
                    assert!(out[0].is_finite(), "{op:?} of {a} and {b}, {left}: {}", out[0]);
                }
            }
        }
    }
}
