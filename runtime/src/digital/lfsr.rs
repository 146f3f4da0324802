//! Linear feedback shift registers, bit-exact, and the test that their taps give the maximal period.
//!
//! Fibonacci form: a shift moves every bit one stage up and feeds the exclusive or of the tapped stages into stage 1.
//! Stage 1, the newest bit, is the word's most significant one, stage n its least. Read the other way round, the top bits
//! of a word would be parities of the word before's, of its top ones where the taps are high, and the magnitudes of
//! successive normal values would correlate (measured: by 4.8 % for the taps 64, 63, 61, 60, by 1.6 % for 24, 23, 22, 17).
//!
//! A register with `shifts_per_draw` = k advances by k shifts per word (the leap-forward form, a fixed matrix over GF(2),
//! which hardware builds as one layer of exclusive ors).

/// Maximal taps for common widths.
pub const KNOWN_TAPS: [&[u32]; 7] =
    [&[16, 15, 13, 4], &[24, 23, 22, 17], &[31, 28], &[32, 22, 2, 1], &[48, 47, 21, 20], &[63, 62], &[64, 63, 61, 60]];

/// `width` ones.
pub fn mask(width: u32) -> u64 {
    u64::MAX >> (64 - width.clamp(1, 64))
}

/// The tapped stages as a bit mask.
pub fn tap_mask(taps: &[u32], width: u32) -> u64 {
    taps.iter().filter(|&&tap| (1..=width).contains(&tap)).fold(0, |mask, tap| mask | 1 << (width - tap))
}

/// The register after one shift.
pub fn shift(state: u64, taps: u64, width: u32) -> u64 {
    let feedback = u64::from((state & taps).count_ones() & 1);
    state >> 1 | feedback << (width - 1)
}

/// The k-shift step of a register as eight tables, one per byte of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leap {
    tables: Vec<[u64; 256]>,
}

impl Leap {
    /// The step of `shifts` shifts.
    pub fn new(width: u32, taps: &[u32], shifts: u32) -> Self {
        let mask = tap_mask(taps, width);
        // The step is linear: the image of a state is the exclusive or of its bits' images.
        let images: Vec<u64> =
            (0..width).map(|bit| (0..shifts).fold(1u64 << bit, |state, _| shift(state, mask, width))).collect();
        let tables = images
            .chunks(8)
            .map(|images| {
                std::array::from_fn(|byte| {
                    images
                        .iter()
                        .enumerate()
                        .filter(|(bit, _)| byte >> bit & 1 == 1)
                        .fold(0, |sum, (_, image)| sum ^ image)
                })
            })
            .collect();
        Self { tables }
    }

    /// The next word's state.
    pub fn step(&self, state: u64) -> u64 {
        self.tables.iter().enumerate().fold(0, |sum, (byte, table)| sum ^ table[(state >> (8 * byte) & 255) as usize])
    }
}

/// Whether a register with these taps runs through all 2^width − 1 non-zero states: its feedback polynomial is primitive.
///
/// Checked exactly: the order of x modulo the polynomial is 2^width − 1 iff x^(2^width−1) = 1 and x^((2^width−1)/q) ≠ 1 for
/// every prime q that divides 2^width − 1. False for widths outside 2 to 64 and taps that are no stages.
pub fn is_maximal(width: u32, taps: &[u32]) -> bool {
    if !(2..=64).contains(&width) || taps.first() != Some(&width) || taps.iter().any(|tap| !(1..=width).contains(tap)) {
        return false;
    }
    // x^width = Σ x^(width − tap): the recurrence's characteristic polynomial, without its leading term.
    let low = taps.iter().fold(0u64, |low, tap| low ^ 1 << (width - tap));
    let order = mask(width);
    power_of_x(order, low, width) == 1
        && prime_factors(order).into_iter().all(|prime| power_of_x(order / prime, low, width) != 1)
}

/// The product of two polynomials over GF(2) modulo x^width + low.
fn multiply(mut a: u64, mut b: u64, low: u64, width: u32) -> u64 {
    let mut product = 0;
    while b != 0 {
        if b & 1 == 1 {
            product ^= a;
        }
        let carry = a >> (width - 1) & 1;
        a = a << 1 & mask(width);
        if carry == 1 {
            a ^= low;
        }
        b >>= 1;
    }
    product
}

fn power_of_x(mut exponent: u64, low: u64, width: u32) -> u64 {
    let (mut result, mut base) = (1, 2);
    while exponent != 0 {
        if exponent & 1 == 1 {
            result = multiply(result, base, low, width);
        }
        base = multiply(base, base, low, width);
        exponent >>= 1;
    }
    result
}

/// The distinct prime factors (trial division by small primes, then Pollard's rho with Miller-Rabin).
fn prime_factors(mut number: u64) -> Vec<u64> {
    let mut factors = Vec::new();
    for prime in 2..1000 {
        if number.is_multiple_of(prime) {
            factors.push(prime);
            while number.is_multiple_of(prime) {
                number /= prime;
            }
        }
    }
    let mut open = vec![number];
    while let Some(number) = open.pop() {
        if number == 1 {
            continue;
        }
        if is_prime(number) {
            factors.push(number);
        } else {
            let divisor = divisor(number);
            open.extend([divisor, number / divisor]);
        }
    }
    factors.sort_unstable();
    factors.dedup();
    factors
}

fn multiply_modulo(a: u64, b: u64, modulus: u64) -> u64 {
    (u128::from(a) * u128::from(b) % u128::from(modulus)) as u64
}

fn power_modulo(mut base: u64, mut exponent: u64, modulus: u64) -> u64 {
    let mut result = 1;
    while exponent != 0 {
        if exponent & 1 == 1 {
            result = multiply_modulo(result, base, modulus);
        }
        base = multiply_modulo(base, base, modulus);
        exponent >>= 1;
    }
    result
}

/// Miller-Rabin with the first twelve primes, exact below 3.3e24. `number` is odd and above 1000 here, or 1.
fn is_prime(number: u64) -> bool {
    if number < 2 || number.is_multiple_of(2) {
        return number == 2;
    }
    let twos = (number - 1).trailing_zeros();
    let odd = (number - 1) >> twos;
    [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37].into_iter().filter(|base| base % number != 0).all(|base| {
        let mut power = power_modulo(base, odd, number);
        if power == 1 || power == number - 1 {
            return true;
        }
        (1..twos).any(|_| {
            power = multiply_modulo(power, power, number);
            power == number - 1
        })
    })
}

/// A proper divisor of an odd composite number.
fn divisor(number: u64) -> u64 {
    for offset in 1u64.. {
        let next =
            |x: u64| ((u128::from(multiply_modulo(x, x, number)) + u128::from(offset)) % u128::from(number)) as u64;
        let (mut slow, mut fast, mut divisor) = (2, 2, 1);
        while divisor == 1 {
            slow = next(slow);
            fast = next(next(fast));
            divisor = gcd(slow.abs_diff(fast), number);
        }
        if divisor != number {
            return divisor;
        }
    }
    number
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The period of a register, by running it.
    fn period(width: u32, taps: &[u32]) -> u64 {
        let taps = tap_mask(taps, width);
        let mut state = shift(1, taps, width);
        let mut count = 1;
        while state != 1 {
            state = shift(state, taps, width);
            count += 1;
        }
        count
    }

    #[test]
    fn sixteen_bit_register_has_the_full_period() {
        assert_eq!(period(16, &[16, 15, 13, 4]), 65_535);
    }

    #[test]
    fn maximality_agrees_with_running_all_small_registers() {
        // Every tap set of the widths 3 to 9.
        for width in 3..=9u32 {
            for low in 0..1u32 << (width - 1) {
                let taps: Vec<u32> =
                    (1..=width).rev().filter(|&tap| tap == width || low >> (tap - 1) & 1 == 1).collect();
                assert_eq!(is_maximal(width, &taps), period(width, &taps) == mask(width), "{taps:?}");
            }
        }
    }

    #[test]
    fn known_taps_are_maximal() {
        for taps in KNOWN_TAPS {
            assert!(is_maximal(taps[0], taps), "{taps:?}");
        }
        assert!(!is_maximal(32, &[32, 22, 2]));
        assert!(!is_maximal(64, &[64, 63]));
    }

    #[test]
    fn factors_of_mersenne_numbers() {
        assert_eq!(prime_factors(mask(32)), [3, 5, 17, 257, 65_537]);
        assert_eq!(prime_factors(mask(64)), [3, 5, 17, 257, 641, 65_537, 6_700_417]);
        assert_eq!(prime_factors(mask(59)), [179_951, 3_203_431_780_337]);
        assert_eq!(prime_factors(mask(61)), [mask(61)]);
    }

    #[test]
    fn first_states_by_hand() {
        // Stage 4 of 0001 feeds a one back into stage 1; it moves up to stage 3, which feeds back again.
        let taps = tap_mask(&[4, 3], 4);
        let states: Vec<u64> = (0..5)
            .scan(1, |state, _| {
                *state = shift(*state, taps, 4);
                Some(*state)
            })
            .collect();
        assert_eq!(states, [0b1000, 0b0100, 0b0010, 0b1001, 0b1100]);
    }

    #[test]
    fn leap_is_repeated_shifting() {
        for taps in KNOWN_TAPS {
            let width = taps[0];
            let leap = Leap::new(width, taps, width);
            let mut state = 0x1234_5678_9abc_def1 & mask(width);
            for _ in 0..100 {
                let shifted = (0..width).fold(state, |state, _| shift(state, tap_mask(taps, width), width));
                state = leap.step(state);
                assert_eq!(state, shifted);
            }
        }
    }
}
