//! The uniform-to-normal converter: Box-Muller in integer arithmetic.
//!
//! Two LFSR words s1, s2 of W bits stand for U = s / 2^W in (0, 1). The result is Z = √(−2 ln U1) · cos(2π U2) as a 16-bit
//! word with [`fraction`] bits, |Z| ≤ √(2 W ln 2) ([`cap`]). The parts, none of which uses floating point:
//!
//! - −ln U1 = (W − e) ln 2 − ln m with s1 = m · 2^e, 1 ≤ m < 2: 256 table segments and a cubic in each, 56 fraction bits
//!   (above U1 = 1 − 2^-8 the series of −ln(1 − t));
//! - the square root exactly rounded down to 28 fraction bits;
//! - cos and sin of a quarter turn: 256 segments, Taylor terms to the third, 30 fraction bits;
//! - one product, rounded half to even.
//!
//! The error before the last rounding is below 2^-26, so that the result is the word nearest to the real value except within
//! 2^-13 of a tie: at most 0.5002 ulp, which the tests check against f64.

use std::sync::LazyLock;

/// Fraction bits of the table arithmetic.
const TABLE: u32 = 60;
const ONE: i128 = 1 << TABLE;
/// π/2 · 2^60 and ln 2 · 2^60, rounded.
const HALF_PI: i128 = 1_811_004_864_519_280_711;
const LN_2: i128 = 799_144_290_325_165_979;

struct Tables {
    /// ln(1 + i/256) with 60 fraction bits.
    ln: [i64; 257],
    /// 2^40 / (1 + i/256).
    reciprocal: [u64; 257],
    /// cos(i/256 · π/2) with 30 fraction bits; the sine is the mirror image.
    cosine: [i64; 257],
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| Tables {
    ln: std::array::from_fn(|i| ln_ratio(256 + i as i128, 256) as i64),
    reciprocal: std::array::from_fn(|i| (1u64 << 48) / (256 + i as u64)),
    cosine: std::array::from_fn(|i| round_shift(cosine(HALF_PI * i as i128 / 256), TABLE - 30) as i64),
});

/// ln(a / b) = 2 artanh((a − b) / (a + b)) with 60 fraction bits, as a series.
fn ln_ratio(a: i128, b: i128) -> i128 {
    let t = (a - b) * ONE / (a + b);
    let square = (t * t) >> TABLE;
    let (mut power, mut sum, mut n) = (t, 0, 1);
    while power != 0 {
        sum += power / n;
        power = (power * square) >> TABLE;
        n += 2;
    }
    2 * sum
}

/// cos(x) with 60 fraction bits, as a series.
fn cosine(x: i128) -> i128 {
    let square = (x * x) >> TABLE;
    let (mut term, mut sum, mut n) = (ONE, 0, 0);
    while term != 0 {
        sum += term;
        term = -((term * square) >> TABLE) / ((n + 1) * (n + 2));
        n += 2;
    }
    sum
}

fn round_shift(value: i128, shift: u32) -> i128 {
    (value + (1 << (shift - 1))) >> shift
}

/// The largest |Z| that LFSRs of `width` bits reach: √(2 · width · ln 2).
pub fn cap(width: u32) -> f64 {
    (2.0 * f64::from(width) * std::f64::consts::LN_2).sqrt()
}

/// The fraction bits of Z: 12 while the cap is below 8, else 11.
pub fn fraction(width: u32) -> i32 {
    if cap(width) < 8.0 { 12 } else { 11 }
}

/// −2 ln(s / 2^width) with 56 fraction bits. `s` is not zero and below 2^width.
fn minus_two_ln(s: u64, width: u32) -> u64 {
    let tables = &*TABLES;
    // t = 1 − U with 64 fraction bits; near U = 1 the series −ln(1 − t) keeps the small difference exact.
    let t = ((1u128 << width) - u128::from(s)) << (64 - width);
    if t < 1 << 56 {
        let square = (t * t) >> 64;
        let cube = (square * t) >> 64;
        let ln = t + square / 2 + cube / 3 + ((cube * t) >> 66);
        return (ln >> 7) as u64;
    }
    let exponent = 63 - s.leading_zeros();
    // m − 1 with 63 fraction bits: 8 choose the segment, the rest is r with 63.
    let mantissa = (s << (63 - exponent)) & (u64::MAX >> 1);
    let segment = (mantissa >> 55) as usize;
    let rest = mantissa & ((1 << 55) - 1);
    // d = r / (1 + segment/256) < 2^-8 with 60 fraction bits; ln(1 + d) = d − d²/2 + d³/3 − …
    let d = ((u128::from(rest) * u128::from(tables.reciprocal[segment])) >> 43) as u64;
    let square = ((u128::from(d) * u128::from(d)) >> 60) as u64;
    let cube = ((u128::from(square) * u128::from(d)) >> 60) as u64;
    let ln_mantissa = tables.ln[segment] as u64 + d - square / 2 + cube / 3;
    // Up to 64 ln 2 = 44.4: 60 fraction bits fit 128, the doubled result fits 64 with 56.
    let ln = u128::from(width - exponent) * LN_2 as u128 - u128::from(ln_mantissa);
    (ln >> 3) as u64
}

/// cos(2π · phase / 2^32) with 30 fraction bits.
fn cosine_of_turn(phase: u32) -> i64 {
    let tables = &*TABLES;
    let quadrant = phase >> 30;
    let mut position = phase & ((1 << 30) - 1);
    // cos(π/2 + x) = −cos(π/2 − x): the odd quadrants run backwards.
    if quadrant & 1 == 1 {
        position = (1 << 30) - position;
    }
    let segment = (position >> 22) as usize;
    // δ in [0, π/512) with 40 fraction bits.
    let delta = ((i128::from(position & ((1 << 22) - 1)) * HALF_PI) >> (TABLE - 10)) as i64;
    let (cos, sin) = (tables.cosine[segment], tables.cosine[256 - segment]);
    let square = ((i128::from(delta) * i128::from(delta)) >> 40) as i64;
    let cube = (square * delta) >> 40;
    // cos(a + δ) = cos a (1 − δ²/2) − sin a (δ − δ³/6)
    let change = cos * (square / 2) + sin * (delta - cube / 6);
    let value = cos - ((change + (1 << 39)) >> 40);
    if quadrant == 1 || quadrant == 2 { -value } else { value }
}

/// Z of two LFSR words of `width` bits, as a word with [`fraction`] bits. Words of zero, which no LFSR yields, count as one.
pub fn box_muller(first: u64, second: u64, width: u32) -> i16 {
    // 28 fraction bits.
    let radius = minus_two_ln(first.max(1), width).isqrt();
    let phase = if width >= 32 { second >> (width - 32) } else { second << (32 - width) } as u32;
    // Below 9.5 · 2^58.
    let product = radius as i64 * cosine_of_turn(phase);
    super::fixed::requantise(product, 58 - fraction(width))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::digital::lfsr::{Leap, mask};
    use std::f64::consts::{LN_2 as LN2, TAU};

    fn reference(first: u64, second: u64, width: u32) -> f64 {
        let scale = 2f64.powi(width as i32);
        let ln = (first as f64 / scale).ln();
        // The turn's fraction, not the whole second/scale·2π, keeps the argument exact.
        (-2.0 * ln).sqrt() * (TAU * (second as f64 / scale)).cos()
    }

    #[test]
    fn constants_are_right() {
        assert!((HALF_PI as f64 / ONE as f64 - TAU / 4.0).abs() < 1e-16);
        assert!((LN_2 as f64 / ONE as f64 - LN2).abs() < 1e-16);
        assert!((ln_ratio(2, 1) - LN_2).abs() < 64, "{}", ln_ratio(2, 1) - LN_2);
        assert!(cosine(HALF_PI).abs() < 64);
        assert!(minus_two_ln(1 << 63, 64).abs_diff((LN_2 as u64) >> 3) <= 1);
    }

    #[test]
    fn radius_is_exact_for_every_16_bit_word() {
        let worst = (1..1u64 << 16)
            .map(|s| {
                let radius = minus_two_ln(s, 16).isqrt() as f64 / 2f64.powi(28);
                (radius - (-2.0 * (s as f64 / 65536.0).ln()).sqrt()).abs()
            })
            .fold(0.0, f64::max);
        assert!(worst < 2f64.powi(-26), "{worst:e}");
    }

    #[test]
    fn cosine_is_exact_for_every_16_bit_phase() {
        let worst = (0..1u32 << 16)
            .map(|phase| {
                let cosine = cosine_of_turn(phase << 16) as f64 / 2f64.powi(30);
                (cosine - (TAU * f64::from(phase) / 65536.0).cos()).abs()
            })
            .fold(0.0, f64::max);
        assert!(worst < 2f64.powi(-29), "{worst:e}");
    }

    #[test]
    fn words_are_within_half_an_ulp_of_the_real_value() {
        for width in [16, 24, 32, 48, 63, 64] {
            let taps: &[u32] = crate::digital::lfsr::KNOWN_TAPS.iter().find(|taps| taps[0] == width).unwrap();
            let leap = Leap::new(width, taps, width);
            let (mut a, mut b) = (1, 0x5a5a_1234_dead_beef & mask(width));
            let ulp = 2f64.powi(-fraction(width));
            let mut worst = 0f64;
            let corners = [1, 2, mask(width), mask(width) - 1, mask(width) / 2 + 1];
            let mut check = |a: u64, b: u64| {
                let error = f64::from(box_muller(a, b, width)) - reference(a, b, width) / ulp;
                worst = worst.max(error.abs());
            };
            for a in corners {
                for b in corners {
                    check(a, b);
                }
            }
            for _ in 0..200_000 {
                (a, b) = (leap.step(a), leap.step(b));
                check(a, b);
            }
            assert!(worst < 0.5002, "width {width}: {worst} ulp");
        }
    }

    #[test]
    fn caps_are_the_published_ones() {
        for (width, expected) in [(16, 4.71), (24, 5.77), (32, 6.66), (48, 8.16)] {
            assert!((cap(width) - expected).abs() < 0.005);
            let largest = f64::from(box_muller(1, 1, width)) * 2f64.powi(-fraction(width));
            assert!((largest - cap(width)).abs() < 0.001, "{largest}");
        }
    }
}
