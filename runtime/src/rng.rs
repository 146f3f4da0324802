//! Counter-based random numbers: every draw is a pure function of its key, so that results do not depend on the number
//! of threads, the batch size or the order of execution.
//!
//! **Construction.** A stream is named by (seed, purpose, kind, component, chip, pass, layer, sample); XXH3-128 of
//! their fixed-width encoding gives 128 bits: 64 are the key of Philox4x32-7 (Salmon et al., SC 2011: passes
//! BigCrush) and 64 the upper half of its counter, the lower half counts blocks of elements. Two streams overlap only
//! if all 128 bits collide. Philox needs no state, so any element of any stream can be drawn by itself, and it
//! vectorises over counters.
//!
//! **Normals.** Box-Muller on pairs of 32-bit words: `u₁ = (⌊w₁/2⌋ + ½)/2³¹`, so |z| ≤ √(2·32·ln 2) = 6.66; the angle's
//! quadrant is taken from the word in integers, sine and cosine are polynomials on ±π/4 and the logarithm is Cephes'
//! `logf` polynomial. Only IEEE additions, multiplications and square roots are used, never contracted, so every
//! instruction set gives the same bits.

use multiversion::multiversion;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// What a stream's draws are used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Analog noise.
    Noise,
    /// A denoiser's ε.
    Epsilon,
    /// Anything else that an executor's caller draws (a digital tile's LFSR seeds).
    Seed,
}

/// The name of a stream of draws; see the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamKey {
    /// The user's seed.
    pub seed: u64,
    /// Calibration, training or evaluation.
    pub purpose: u8,
    /// Noise or a denoiser's ε.
    pub kind: Kind,
    /// The index of the noise component in its specification.
    pub component: u32,
    /// The simulated chip.
    pub chip: u32,
    /// The epoch or evaluation run.
    pub pass: u32,
    /// The layer's [`layer_hash`].
    pub layer: u64,
    /// The sample's data-set index.
    pub sample: u64,
}

/// The part of a stream's name that stands for a layer.
pub fn layer_hash(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

impl StreamKey {
    /// The stream.
    pub fn stream(&self) -> Stream {
        let mut bytes = [0u8; 40];
        bytes[0..8].copy_from_slice(&self.seed.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.component.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.chip.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.pass.to_le_bytes());
        bytes[20] = self.purpose;
        bytes[21] = self.kind as u8;
        bytes[24..32].copy_from_slice(&self.layer.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.sample.to_le_bytes());
        let hash = xxh3_128(&bytes);
        Stream { key: [hash as u32, (hash >> 32) as u32], counter: [(hash >> 64) as u32, (hash >> 96) as u32] }
    }
}

/// A stream of draws, indexed by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 2],
}

/// Elements are made in blocks of this many; a fill starts at a multiple of it.
pub const BLOCK: usize = 64;
const LANES: usize = 16;

impl Stream {
    /// Writes the standard normals of the elements `first_block·BLOCK ..` to `out`.
    ///
    /// Element `e` takes word `(e/16) mod 4` of the counter `16·(e/64) + e mod 16`, words 0 and 1 (2 and 3) being the
    /// cosine and the sine of one pair.
    pub fn fill_normals(&self, first_block: u64, out: &mut [f32]) {
        fill_normals(*self, first_block, out);
    }

    /// Writes the elements `first_block·BLOCK ..`, made block by block from the stream's words, to `out`; words and elements
    /// are in the same order. Inlined, so that `make` is compiled for the caller's instruction set.
    #[inline(always)]
    pub fn fill(&self, first_block: u64, out: &mut [f32], make: impl Fn(&[u32; BLOCK], &mut [f32; BLOCK])) {
        let keys = round_keys(self.key);
        let mut words = [[0u32; BLOCK]; GROUP];
        let mut block = first_block;
        for out in out.chunks_mut(GROUP * BLOCK) {
            let words = &mut words[..out.len().div_ceil(BLOCK)];
            for words in words.iter_mut() {
                fill_words(&keys, self.counter, block, words);
                block += 1;
            }
            let mut blocks = out.chunks_exact_mut(BLOCK);
            for (out, words) in (&mut blocks).zip(words.iter()) {
                if let Some(out) = out.first_chunk_mut::<BLOCK>() {
                    make(words, out);
                }
            }
            let rest = blocks.into_remainder();
            if let (Some(words), false) = (words.last(), rest.is_empty()) {
                let mut whole = [0.0; BLOCK];
                make(words, &mut whole);
                rest.copy_from_slice(&whole[..rest.len()]);
            }
        }
    }

    /// Writes the stream's 32-bit words from `first_block·BLOCK` on, of which [`Stream::fill`] makes elements, to `out`: whole blocks,
    /// a rest is left as it was.
    pub fn fill_words(&self, first_block: u64, out: &mut [u32]) {
        fill_blocks(*self, first_block, out);
    }

    /// A 64-bit word of the stream.
    pub fn word(&self, index: u64) -> u64 {
        let words = philox([index as u32, (index >> 32) as u32, self.counter[0], self.counter[1]], self.key);
        u64::from(words[0]) | u64::from(words[1]) << 32
    }
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 7;

/// Philox4x32-7 of one counter.
fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let mut state = counter.map(|word| [u64::from(word)]);
    let keys = round_keys(key);
    keys.iter().for_each(|&key| philox_round(&mut state, key));
    state.map(|[word]| word as u32)
}

#[inline(always)]
fn round_keys(key: [u32; 2]) -> [[u32; 2]; ROUNDS] {
    std::array::from_fn(|round| {
        let round = round as u32;
        [key[0].wrapping_add(WEYL[0].wrapping_mul(round)), key[1].wrapping_add(WEYL[1].wrapping_mul(round))]
    })
}

/// One round in L lanes. The words are the lower halves of 64-bit lanes, which a 32×32→64-bit vector multiply reads;
/// the upper halves are rubbish afterwards.
#[inline(always)]
fn philox_round<const L: usize>(state: &mut [[u64; L]; 4], key: [u32; 2]) {
    const LOW: u64 = 0xffff_ffff;
    let [a, b, c, d] = *state;
    let mut next = [[0; L]; 4];
    for lane in 0..L {
        let low = (a[lane] & LOW) * u64::from(MULTIPLIERS[0]);
        let high = (c[lane] & LOW) * u64::from(MULTIPLIERS[1]);
        next[0][lane] = (high >> 32) ^ b[lane] ^ u64::from(key[0]);
        next[1][lane] = high;
        next[2][lane] = (low >> 32) ^ d[lane] ^ u64::from(key[1]);
        next[3][lane] = low;
    }
    *state = next;
}

/// Blocks made at a time: words first, then elements, so that each loop keeps to its registers.
const GROUP: usize = 8;

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn fill_normals(stream: Stream, first_block: u64, out: &mut [f32]) {
    // A closure has this function's instruction set; the function by its name is called through one without.
    #[allow(clippy::redundant_closure)]
    stream.fill(first_block, out, |words, out| normals(words, out));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn fill_blocks(stream: Stream, first_block: u64, out: &mut [u32]) {
    let keys = round_keys(stream.key);
    for (words, block) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(first_block..) {
        fill_words(&keys, stream.counter, block, words);
    }
}

#[inline(always)]
fn fill_words(keys: &[[u32; 2]; ROUNDS], counter: [u32; 2], block: u64, words: &mut [u32; BLOCK]) {
    // Lanes worked on together: what the registers of AVX2 hold.
    const PART: usize = 4;
    let base = block * LANES as u64;
    for part in 0..LANES / PART {
        let mut state = [[0; PART], [base >> 32; PART], [u64::from(counter[0]); PART], [u64::from(counter[1]); PART]];
        for (lane, word) in state[0].iter_mut().enumerate() {
            // `base` is a multiple of LANES: no carry.
            *word = (base & 0xffff_ffff) + (part * PART + lane) as u64;
        }
        for &key in keys {
            philox_round(&mut state, key);
        }
        for (word, state) in state.iter().enumerate() {
            for (lane, &state) in state.iter().enumerate() {
                words[word * LANES + part * PART + lane] = state as u32;
            }
        }
    }
}

#[inline(always)]
fn normals(words: &[u32; BLOCK], out: &mut [f32; BLOCK]) {
    for pair in 0..2 {
        let at = pair * 2 * LANES;
        for lane in 0..LANES {
            let (cosine, sine) = box_muller(words[at + lane], words[at + LANES + lane]);
            out[at + lane] = cosine;
            out[at + LANES + lane] = sine;
        }
    }
}

/// Two standard normals from two random words.
#[inline(always)]
fn box_muller(radius: u32, angle: u32) -> (f32, f32) {
    const STEP: f32 = 1.0 / 2_147_483_648.0;
    let uniform = (radius >> 1) as i32 as f32 * STEP + 0.5 * STEP;
    let radius = (-2.0 * ln(uniform)).max(0.0).sqrt();
    // The angle in quarter turns, rounded to the nearest, and what remains of it in ±1/8 turn.
    let quadrant = angle.wrapping_add(1 << 29) >> 30;
    let rest = angle.wrapping_sub(quadrant << 30) as i32 as f32 * (std::f32::consts::TAU / 4_294_967_296.0);
    let square = rest * rest;
    let sine = rest + rest * square * (-1.666_665_5e-1 + square * (8.332_161e-3 + square * -1.951_529_6e-4));
    let cosine =
        1.0 - 0.5 * square + square * square * (4.166_664_6e-2 + square * (-1.388_731_6e-3 + square * 2.443_315_7e-5));
    // Odd quadrants swap the two; quadrants 1, 2 negate the cosine and 2, 3 the sine.
    let swap = 0u32.wrapping_sub(quadrant & 1);
    let (s, c) = (sine.to_bits(), cosine.to_bits());
    let x = (c & !swap | s & swap) ^ ((quadrant.wrapping_add(1) & 2) << 30);
    let y = (s & !swap | c & swap) ^ ((quadrant & 2) << 30);
    (radius * f32::from_bits(x), radius * f32::from_bits(y))
}

/// The natural logarithm of a normal positive number (Cephes `logf`).
#[inline(always)]
fn ln(x: f32) -> f32 {
    const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
    // The mantissa in [√½, √2) and its exponent.
    let bits = x.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let exponent = (bits as i32 >> 23) as f32;
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(SQRT_HALF_BITS)) - 1.0;
    let square = m * m;
    // Estrin's scheme: a short chain of dependent operations.
    let quartic = square * square;
    let low = (3.333_333e-1 + m * -2.499_999_4e-1) + square * (2.000_071_5e-1 + m * -1.666_805_7e-1);
    let high = (1.424_932_3e-1 + m * -1.242_014_1e-1) + square * (1.167_699_9e-1 + m * -1.151_461e-1);
    let p = low + quartic * (high + quartic * 7.037_683_6e-2);
    let tail = m * square * p + exponent * -2.121_944_4e-4 - 0.5 * square;
    m + tail + exponent * 0.693_359_4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> StreamKey {
        StreamKey {
            seed: 1,
            purpose: 2,
            kind: Kind::Noise,
            component: 0,
            chip: 0,
            pass: 0,
            layer: layer_hash("conv1"),
            sample: 0,
        }
    }

    fn normals(key: StreamKey, len: usize) -> Vec<f32> {
        let mut out = vec![0.0; len];
        key.stream().fill_normals(0, &mut out);
        out
    }

    /// The standard normal distribution function.
    fn cdf(x: f64) -> f64 {
        use statrs::distribution::{ContinuousCDF, Normal};
        Normal::standard().cdf(x)
    }

    #[test]
    fn philox_known_answers() {
        // Random123's kat_vectors, philox4x32 with 7 rounds.
        assert_eq!(philox([0; 4], [0; 2]), [0x5f6f_b709, 0x0d89_3f64, 0x4f12_1f81, 0x4f73_0a48]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x5207_ddc2, 0x4516_5e59, 0x4d8e_e751, 0x8c52_f662]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0x4dfc_caba, 0x190a_87f0, 0xc473_62ba, 0xb6b5_242a]
        );
    }

    #[test]
    fn box_muller_is_accurate() {
        // Against f64, at random words and at the extremes of both.
        let stream = key().stream();
        for index in 0..200_000u64 {
            let word = stream.word(index);
            let (w1, w2) = match index {
                0 => (0, 0),
                1 => (u32::MAX, u32::MAX),
                2 => (0, 1 << 29),
                3 => (1, (1 << 29) - 1),
                _ => (word as u32, (word >> 32) as u32),
            };
            let radius = (-2.0 * ((f64::from(w1 >> 1) + 0.5) / 2f64.powi(31)).ln()).sqrt();
            let angle = f64::from(w2) / 2f64.powi(32) * std::f64::consts::TAU;
            let (x, y) = box_muller(w1, w2);
            // Near u = 1 the radius is limited by u's own 24 bits: ±√(2·2⁻²⁴).
            assert!((f64::from(x) - radius * angle.cos()).abs() < 4e-4, "{w1} {w2}");
            assert!((f64::from(y) - radius * angle.sin()).abs() < 4e-4, "{w1} {w2}");
            if radius > 0.1 {
                assert!((f64::from(x) - radius * angle.cos()).abs() < 3e-6 * (1.0 + radius), "{w1} {w2}");
            }
        }
    }

    #[test]
    fn elements_are_independent_of_how_they_are_filled() {
        let whole = normals(key(), 1000);
        let mut parts = vec![0.0; 1000];
        let stream = key().stream();
        stream.fill_normals(0, &mut parts[..128]);
        stream.fill_normals(2, &mut parts[128..]);
        assert_eq!(whole, parts);
        // A golden value: a change of it changes every result that a seed gives.
        assert_eq!(whole[0].to_bits(), normals(key(), 1)[0].to_bits());
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let base = normals(key(), 64);
        for other in [
            StreamKey { seed: 2, ..key() },
            StreamKey { purpose: 1, ..key() },
            StreamKey { kind: Kind::Epsilon, ..key() },
            StreamKey { component: 1, ..key() },
            StreamKey { chip: 1, ..key() },
            StreamKey { pass: 1, ..key() },
            StreamKey { layer: layer_hash("conv2"), ..key() },
            StreamKey { sample: 1, ..key() },
        ] {
            assert_ne!(base, normals(other, 64));
        }
    }

    /// Each statistic is compared with its exact sampling distribution at ±4.5 standard errors: a false-alarm rate of
    /// 7·10⁻⁶ a comparison; the draws are fixed by the key, so the test never flickers.
    #[test]
    fn moments_tails_and_distribution() {
        const N: usize = 1 << 22;
        let n = N as f64;
        let values = normals(key(), N);
        let (mut sums, mut beyond, mut bins) = ([0f64; 4], [0f64; 2], [0f64; 64]);
        for &value in &values {
            let z = f64::from(value);
            for (power, sum) in sums.iter_mut().enumerate() {
                *sum += z.powi(power as i32 + 1);
            }
            beyond[0] += f64::from(z.abs() > 3.0);
            beyond[1] += f64::from(z.abs() > 4.0);
            // 64 bins of 1/8 from −4 to 4, the outer two open.
            bins[(((z + 4.0) * 8.0).floor().clamp(0.0, 63.0)) as usize] += 1.0;
        }
        // The variances of zᵏ are 1, 2, 15, 96.
        for (sum, (mean, variance)) in sums.iter().zip([(0.0, 1.0f64), (1.0, 2.0), (0.0, 15.0), (3.0, 96.0)]) {
            assert!((sum / n - mean).abs() < 4.5 * (variance / n).sqrt(), "{} {mean}", sum / n);
        }
        for (count, limit) in beyond.iter().zip([3.0, 4.0]) {
            let p = 2.0 * cdf(-limit);
            assert!((count - n * p).abs() < 4.5 * (n * p).sqrt(), "{count} {}", n * p);
        }
        // χ² with 63 degrees of freedom: mean 63, standard deviation √126; 4.5 of them.
        let chi: f64 = bins
            .iter()
            .enumerate()
            .map(|(bin, count)| {
                let edge = |index: usize| index as f64 / 8.0 - 4.0;
                let upper = if bin == 63 { 1.0 } else { cdf(edge(bin + 1)) };
                let lower = if bin == 0 { 0.0 } else { cdf(edge(bin)) };
                let expected = n * (upper - lower);
                (count - expected).powi(2) / expected
            })
            .sum();
        assert!((chi - 63.0).abs() < 4.5 * 126f64.sqrt(), "{chi}");
    }

    /// Products of draws that a weak mix would tie together: mean 0, variance 1; ±4.5 standard errors each.
    #[test]
    fn neighbours_are_uncorrelated() {
        const N: usize = 1 << 18;
        let base = normals(key(), N);
        let correlation = |a: &[f32], b: &[f32]| {
            let n = a.len().min(b.len()) as f64;
            a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>() / n.sqrt()
        };
        let square = |a: &[f32]| a.iter().map(|&x| (x * x - 1.0) / std::f32::consts::SQRT_2).collect::<Vec<_>>();
        for other in [
            StreamKey { sample: 1, ..key() },
            StreamKey { sample: 2, ..key() },
            StreamKey { pass: 1, ..key() },
            StreamKey { chip: 1, ..key() },
            StreamKey { component: 1, ..key() },
            StreamKey { kind: Kind::Epsilon, ..key() },
            StreamKey { layer: layer_hash("conv2"), ..key() },
        ] {
            let other = normals(other, N);
            assert!(correlation(&base, &other).abs() < 4.5);
            assert!(correlation(&square(&base), &square(&other)).abs() < 4.5);
        }
        for lag in [1, 2, 15, 16, 17, 32, 48, 64, 128] {
            assert!(correlation(&base, &base[lag..]).abs() < 4.5, "{lag}");
            assert!(correlation(&square(&base), &square(&base[lag..])).abs() < 4.5, "{lag}");
        }
        // One element over many samples.
        let over: Vec<f32> = (0..1u64 << 16).map(|sample| normals(StreamKey { sample, ..key() }, 1)[0]).collect();
        let mean: f64 = over.iter().map(|&x| f64::from(x)).sum::<f64>() / (over.len() as f64).sqrt();
        assert!(mean.abs() < 4.5 && correlation(&over, &over[1..]).abs() < 4.5);
    }
}
