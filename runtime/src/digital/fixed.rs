//! 16-bit fixed-point arithmetic: a word `q` with `f` fraction bits stands for `q · 2^-f`.
//!
//! `f` may be negative or above 15. Products and sums are exact in wide integers; every reduction of precision rounds half
//! to even, and every narrowing saturates.

/// The largest fraction the compiler assigns; with it no alignment shift leaves 63 bits.
pub const MAX_FRACTION: i32 = 30;
/// The smallest fraction the compiler assigns.
pub const MIN_FRACTION: i32 = -30;

/// `value · 2^-shift` rounded half to even; a negative shift multiplies.
pub fn shift_round(value: i128, shift: i32) -> i128 {
    if shift <= 0 {
        return value << shift.unsigned_abs().min(63);
    }
    let shift = shift.min(126);
    let floor = value >> shift;
    let rest = value - (floor << shift);
    let half = 1i128 << (shift - 1);
    floor + i128::from(rest > half || (rest == half && floor & 1 == 1))
}

/// The nearest i16.
pub fn saturate(value: i128) -> i16 {
    value.clamp(i128::from(i16::MIN), i128::from(i16::MAX)) as i16
}

/// A partial sum brought from its fraction to a word's: `shift` bits fewer, half to even, saturating.
pub fn requantise(sum: i64, shift: i32) -> i16 {
    if (1..=62).contains(&shift) {
        // The common case in 64 bits: the same rounding as `shift_round`.
        let floor = sum >> shift;
        let rest = sum & ((1 << shift) - 1);
        let half = 1 << (shift - 1);
        let rounded = floor + i64::from(rest > half || (rest == half && floor & 1 == 1));
        return rounded.clamp(i64::from(i16::MIN), i64::from(i16::MAX)) as i16;
    }
    saturate(shift_round(i128::from(sum), shift))
}

/// The word nearest to a real number (half to even, saturating; NaN becomes 0).
pub fn quantise(value: f32, fraction: i32) -> i16 {
    // The product with a power of two is exact in f64.
    let scaled = (f64::from(value) * exp2(fraction)).round_ties_even();
    if scaled.is_nan() { 0 } else { scaled.clamp(f64::from(i16::MIN), f64::from(i16::MAX)) as i16 }
}

/// The real number that a word stands for.
pub fn dequantise(word: i16, fraction: i32) -> f32 {
    (f64::from(word) * exp2(-fraction)) as f32
}

/// `2^exponent`, exact.
pub fn exp2(exponent: i32) -> f64 {
    f64::from_bits((((exponent + 1023).clamp(1, 2046)) as u64) << 52)
}

/// The largest fraction (within the compiler's limits) at which `absmax` rounds to at most `limit`.
pub fn fraction_for(absmax: f64, limit: f64) -> i32 {
    (MIN_FRACTION..=MAX_FRACTION)
        .rev()
        .find(|&fraction| (absmax * exp2(fraction)).round_ties_even() <= limit)
        .unwrap_or(MIN_FRACTION)
}

/// LeakyReLU with slope `2^-shift`: negative words are shifted right with rounding half to even.
pub fn leaky_relu(word: i16, shift: u32) -> i16 {
    if word >= 0 || shift == 0 { word } else { requantise(i64::from(word), shift.min(62) as i32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_to_even() {
        let cases = [
            (5, 1, 2),
            (7, 1, 4),
            (6, 2, 2),
            (-5, 1, -2),
            (-7, 1, -4),
            (-6, 2, -2),
            (3, 0, 3),
            (3, -2, 12),
            (-1, 4, 0),
            (9, 4, 1),
        ];
        for (value, shift, expected) in cases {
            assert_eq!(shift_round(value, shift), i128::from(expected), "{value} >> {shift}");
            assert_eq!(requantise(value as i64, shift), expected as i16);
        }
    }

    #[test]
    fn requantise_is_shift_round_with_saturation() {
        let mut state = 1u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let sum = (state as i64) >> (state % 60);
            let shift = ((state >> 32) % 80) as i32 - 8;
            assert_eq!(requantise(sum, shift), saturate(shift_round(i128::from(sum), shift)));
        }
    }

    #[test]
    fn saturates_instead_of_wrapping() {
        assert_eq!(requantise(40_000, 0), i16::MAX);
        assert_eq!(requantise(-40_000, 0), i16::MIN);
        assert_eq!(requantise(i64::MAX, -8), i16::MAX);
        assert_eq!(quantise(1e30, 12), i16::MAX);
        assert_eq!(quantise(f32::NEG_INFINITY, 12), i16::MIN);
        assert_eq!(quantise(f32::NAN, 12), 0);
    }

    #[test]
    fn quantise_inverts_dequantise() {
        for fraction in [-10, 0, 7, 15, 30] {
            for word in [i16::MIN, -1, 0, 1, 12_345, i16::MAX] {
                assert_eq!(quantise(dequantise(word, fraction), fraction), word);
            }
        }
        assert_eq!(quantise(0.5, 0), 0);
        assert_eq!(quantise(1.5, 0), 2);
    }

    #[test]
    fn fractions_use_the_range() {
        assert_eq!(fraction_for(1.0, 32767.0), 14);
        assert_eq!(fraction_for(0.999, 32767.0), 15);
        assert_eq!(fraction_for(0.0, 32767.0), MAX_FRACTION);
        assert_eq!(fraction_for(100_000.0, 32767.0), -2);
    }

    #[test]
    fn leaky_relu_rounds_half_to_even() {
        assert_eq!(leaky_relu(5, 7), 5);
        assert_eq!(leaky_relu(-128, 7), -1);
        assert_eq!(leaky_relu(-64, 7), 0); // -0.5
        assert_eq!(leaky_relu(-192, 7), -2); // -1.5
        assert_eq!(leaky_relu(-65, 7), -1);
        assert_eq!(leaky_relu(i16::MIN, 7), -256);
    }
}
