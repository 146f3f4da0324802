//! Elementwise kernels: activations, broadcasts, and what their gradients need.

use multiversion::multiversion;
use mxc_spec::noise::Reference;

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

/// `y *= c`.
pub fn scale(y: &mut [f32], c: f32) {
    for y in y {
        *y *= c;
    }
}

/// `y *= x`.
pub fn multiply_assign(y: &mut [f32], x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y *= x;
    }
}

/// `y += c` where `|x| < limit`.
pub fn add_inside(y: &mut [f32], x: &[f32], limit: f32, c: f32) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += if x.abs() < limit { c } else { 0.0 };
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

/// Per row: `y = y + shift`.
pub fn shift_rows(y: &mut [f32], shift: &[f32]) {
    for row in y.chunks_exact_mut(shift.len().max(1)) {
        for (y, &shift) in row.iter_mut().zip(shift) {
            *y += shift;
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
pub(crate) fn chain(g: f32, derivative: f32) -> f32 {
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
pub fn quantize(y: &mut [f32], [scale, zero, low, high]: [f32; 4]) {
    for y in y {
        *y = ((*y / scale).round_ties_even() + zero).max(low).min(high);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
