//! Runs a tile program on integers, in memories laid out as the program's schedule says.
//!
//! Sums are exact in i64, every result is rounded half to even and saturated to i16. An address that the schedule gets
//! wrong gives a wrong result here, as it would on the tile.

use super::{
    fixed, gaussian, lfsr,
    program::{Buffer, Generator, Head, Kind, Step, TileProgram},
};

/// Which noise a run draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// ε = 0.
    Nothing,
    /// From the profile's seeds, as after a reset.
    Reset,
    /// From seeds mixed with a key, for runs that must not depend on what ran before them.
    Keyed(u64),
}

/// SplitMix64's finaliser.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The lanes' registers while a program runs.
struct Lanes<'a> {
    generator: &'a Generator,
    states: Vec<[u64; 2]>,
    silent: bool,
}

impl<'a> Lanes<'a> {
    fn new(generator: &'a Generator, draw: Draw) -> Self {
        let mask = lfsr::mask(generator.width);
        let states = generator
            .seeds
            .iter()
            .map(|seeds| {
                seeds.map(|seed| match draw {
                    Draw::Keyed(key) => {
                        // Zero is no state; the first non-zero word of a chain is.
                        let mut word = mix(key ^ mix(seed));
                        while word & mask == 0 {
                            word = mix(word);
                        }
                        word & mask
                    }
                    Draw::Nothing | Draw::Reset => seed,
                })
            })
            .collect();
        Self { generator, states, silent: draw == Draw::Nothing }
    }

    /// `count` normal values: element i is lane i mod L's; all lanes step together.
    fn draw(&mut self, count: usize) -> Vec<i16> {
        if self.silent {
            return vec![0; count];
        }
        let (leap, width) = (&self.generator.leap, self.generator.width);
        let lanes = self.states.len();
        let mut values = vec![0; count.next_multiple_of(lanes)];
        for row in values.chunks_exact_mut(lanes) {
            for (value, state) in row.iter_mut().zip(&mut self.states) {
                *state = state.map(|state| leap.step(state));
                *value = gaussian::box_muller(state[0], state[1], width);
            }
        }
        values.truncate(count);
        values
    }
}

/// Σ a·b, exact.
#[multiversion::multiversion(targets("x86_64+avx2"))]
fn dot(a: &[i16], b: &[i16]) -> i64 {
    a.iter().zip(b).map(|(a, b)| i64::from(i32::from(*a) * i32::from(*b))).sum()
}

fn pointwise(memory: &mut [i16], weights: &[i16], input: Buffer, first: usize, head: &Head) {
    let channels = input.channels;
    let filters = head.output.channels;
    let mut sums = vec![0i16; filters];
    for pixel in 0..input.rows * input.columns {
        let x = &memory[input.word + pixel * channels..][..channels];
        for (filter, sum) in sums.iter_mut().enumerate() {
            let w = &weights[head.weight + (first + filter) * channels..][..channels];
            let bias = i64::from(weights[head.bias + first + filter]) << head.bias_shift;
            *sum = fixed::requantise(dot(x, w) + bias, head.output_shift);
        }
        memory[head.output.word + pixel * filters..][..filters].copy_from_slice(&sums);
    }
}

fn depthwise(memory: &mut [i16], weights: &[i16], input: Buffer, kernel: [usize; 2], pad: [usize; 2], head: &Head) {
    let channels = input.channels;
    let output = head.output;
    let mut sums = vec![0i64; channels];
    for row in 0..output.rows {
        for column in 0..output.columns {
            for (channel, sum) in sums.iter_mut().enumerate() {
                *sum = i64::from(weights[head.bias + channel]) << head.bias_shift;
            }
            for tap_row in 0..kernel[0] {
                let Some(y) = (row + tap_row).checked_sub(pad[0]).filter(|y| *y < input.rows) else {
                    continue;
                };
                for tap_column in 0..kernel[1] {
                    let Some(x) = (column + tap_column).checked_sub(pad[1]).filter(|x| *x < input.columns) else {
                        continue;
                    };
                    let pixel = &memory[input.word + (y * input.columns + x) * channels..][..channels];
                    let taps = &weights[head.weight + (tap_row * kernel[1] + tap_column) * channels..][..channels];
                    for ((sum, x), w) in sums.iter_mut().zip(pixel).zip(taps) {
                        *sum += i64::from(i32::from(*x) * i32::from(*w));
                    }
                }
            }
            let target = &mut memory[output.word + (row * output.columns + column) * channels..][..channels];
            for (target, sum) in target.iter_mut().zip(&sums) {
                *target = fixed::requantise(*sum, head.output_shift);
            }
        }
    }
}

impl TileProgram {
    /// Runs one sample: `input` and the result are rows × columns × channels words.
    ///
    /// # Panics
    ///
    /// When `input` has another length.
    pub fn run(&self, input: &[i16], draw: Draw) -> Vec<i16> {
        let [_, columns, channels] = self.shape;
        assert_eq!(input.len(), self.shape.iter().product::<usize>(), "one sample of layer {}", self.layer);
        let row = columns * channels;
        // Zeros: what the memory held before must not matter.
        let mut memory = vec![0i16; self.activation_words];
        let mut output = vec![0i16; input.len()];
        let mut lanes = self.generator.as_ref().map(|generator| Lanes::new(generator, draw));
        for scheduled in &self.steps {
            match &scheduled.step {
                Step::Load { first_row, into } => {
                    memory[into.word..][..into.len()].copy_from_slice(&input[first_row * row..][..into.len()])
                }
                Step::Store { from, strip_row, first_row, rows } => output[first_row * row..][..rows * row]
                    .copy_from_slice(&memory[from.word + strip_row * row..][..rows * row]),
                Step::Conv { input, kind, heads, .. } => {
                    for head in heads {
                        match *kind {
                            Kind::Pointwise { first } => {
                                pointwise(&mut memory, &self.weights, *input, first, head);
                            }
                            Kind::Depthwise { kernel, pad } => {
                                depthwise(&mut memory, &self.weights, *input, kernel, pad, head);
                            }
                        }
                    }
                }
                Step::LeakyRelu { buffer, shift } => {
                    for word in &mut memory[buffer.word..][..buffer.len()] {
                        *word = fixed::leaky_relu(*word, *shift);
                    }
                }
                Step::Affine { buffer, first_row, rows, scale, shift, shift_shift, output_shift } => {
                    let channels = buffer.channels;
                    let row = buffer.columns * channels;
                    let scales = &self.weights[*scale..][..channels];
                    let shifts = &self.weights[*shift..][..channels];
                    for pixel in memory[buffer.word + first_row * row..][..rows * row].chunks_exact_mut(channels) {
                        for ((word, scale), shift) in pixel.iter_mut().zip(scales).zip(shifts) {
                            let sum = i64::from(*word) * i64::from(*scale) + (i64::from(*shift) << shift_shift);
                            *word = fixed::requantise(sum, *output_shift);
                        }
                    }
                }
                Step::Cancel { x, first_channel, channels: width, mean, sigma, adds, shifts, output_shift } => {
                    let count = x.rows * x.columns * width;
                    let normal = match (&mut lanes, sigma) {
                        (Some(lanes), Some(_)) => lanes.draw(count),
                        _ => Vec::new(),
                    };
                    for element in 0..count {
                        let place = x.word + element / width * x.channels + first_channel + element % width;
                        let mut noise = 0;
                        if let Some(mean) = mean {
                            noise += i64::from(memory[mean.word + element]) << shifts[1];
                        }
                        if let Some(sigma) = sigma {
                            let product = i64::from(memory[sigma.word + element])
                                * i64::from(normal.get(element).copied().unwrap_or_default());
                            noise += product << shifts[2];
                        }
                        let x = i64::from(memory[place]) << shifts[0];
                        memory[place] = fixed::requantise(if *adds { x + noise } else { x - noise }, *output_shift);
                    }
                }
            }
        }
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digital::lfsr::{KNOWN_TAPS, Leap};

    fn lanes(generator: &Generator, key: u64) -> Lanes<'_> {
        Lanes::new(generator, Draw::Keyed(key))
    }

    fn generator(taps: &[u32], lanes: u64) -> Generator {
        let width = taps[0];
        Generator {
            width,
            leap: Leap::new(width, taps, width),
            seeds: (1..=lanes).map(|lane| [2 * lane - 1, 2 * lane]).collect(),
            fraction: gaussian::fraction(width),
        }
    }

    /// P(Z < x) of a standard normal.
    fn normal_cdf(x: f64) -> f64 {
        use statrs::distribution::{ContinuousCDF, Normal};
        Normal::standard().cdf(x)
    }

    #[test]
    fn lanes_take_turns_and_step_together() {
        let generator = generator(KNOWN_TAPS[3], 4);
        let mut all = Lanes::new(&generator, Draw::Reset);
        // Six elements are two draws; the two idle lanes step as well.
        let values = [all.draw(6), all.draw(4)].concat();
        for lane in 0..4 {
            let mut state = generator.seeds[lane];
            for draw in 0..3 {
                state = state.map(|state| generator.leap.step(state));
                let index = [lane, 4 + lane, 6 + lane][draw];
                if draw == 1 && lane > 1 {
                    continue;
                }
                let expected = gaussian::box_muller(state[0], state[1], generator.width);
                assert_eq!(values[index], expected);
            }
        }
        assert_eq!(Lanes::new(&generator, Draw::Nothing).draw(3), [0, 0, 0]);
    }

    /// A million values of four lanes for each width. The thresholds are five standard errors (false once in 1.7 million
    /// per comparison) and, for chi squared, the 1 − 10⁻⁶ quantile; the seeds are fixed, so that the test passes always or
    /// never.
    #[test]
    fn values_are_standard_normal() {
        use statrs::distribution::{ChiSquared, ContinuousCDF};
        let count = 1_000_000usize;
        for taps in [KNOWN_TAPS[1], KNOWN_TAPS[3], KNOWN_TAPS[4], KNOWN_TAPS[6]] {
            let generator = generator(taps, 4);
            let step = fixed::exp2(-generator.fraction);
            let values: Vec<f64> =
                lanes(&generator, 11).draw(count).into_iter().map(|word| f64::from(word) * step).collect();
            let n = count as f64;
            let moment = |power: i32| values.iter().map(|z| z.powi(power)).sum::<f64>() / n;
            // Var(Z^k) = E(Z^2k) − E(Z^k)²: 1, 2, 15, 96.
            for (power, expected, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0f64)] {
                let error = (moment(power) - expected).abs();
                let limit = 5.0 * (variance / n).sqrt();
                assert!(error < limit, "{taps:?}: moment {power} is off by {error}, limit {limit}");
            }
            // No correlation with the next values of the same lane or with the other lanes.
            for lag in [1, 2, 3, 4, 8, 64] {
                let correlation = values[lag..].iter().zip(&values).map(|(a, b)| a * b).sum::<f64>() / n;
                assert!(correlation.abs() < 5.0 / n.sqrt(), "{taps:?}: lag {lag}: {correlation}");
                // Box-Muller's radius is shared by neither: squares are uncorrelated too.
                let squares =
                    values[lag..].iter().zip(&values).map(|(a, b)| (a * a - 1.0) * (b * b - 1.0)).sum::<f64>() / n;
                let limit = 10.0 / n.sqrt();
                assert!(squares.abs() < limit, "{taps:?}: squares, lag {lag}: {squares}");
            }
            // Chi squared over 100 cells of equal probability; a word stands for the interval half a step around it.
            let edges: Vec<f64> = {
                use statrs::distribution::Normal;
                let normal = Normal::standard();
                (1..100)
                    .map(|cell| {
                        // At cell borders between words, so that no word is split.
                        let edge = normal.inverse_cdf(f64::from(cell) / 100.0);
                        ((edge / step).floor() + 0.5) * step
                    })
                    .collect()
            };
            let mut counts = vec![0u32; 100];
            for z in &values {
                counts[edges.partition_point(|edge| edge < z)] += 1;
            }
            let mut chi = 0.0;
            for (cell, observed) in counts.iter().enumerate() {
                let low = cell.checked_sub(1).map_or(0.0, |edge| normal_cdf(edges[edge]));
                let high = edges.get(cell).map_or(1.0, |edge| normal_cdf(*edge));
                let expected = n * (high - low);
                chi += (f64::from(*observed) - expected).powi(2) / expected;
            }
            let limit = ChiSquared::new(99.0).map_or(f64::NAN, |chi| chi.inverse_cdf(1.0 - 1e-6));
            assert!(chi < limit, "{taps:?}: chi squared {chi}, limit {limit}");
            // Tails: the numbers beyond 2, 3 and 4 are binomial; nothing lies beyond the cap.
            for z in [2.0, 3.0, 4.0] {
                let edge = z - 0.5 * step;
                let p = 2.0 * normal_cdf(-edge);
                let observed = values.iter().filter(|value| value.abs() > edge).count() as f64;
                let limit = 5.0 * (n * p * (1.0 - p)).sqrt();
                assert!((observed - n * p).abs() < limit, "{taps:?}: {observed} beyond {z}, not {}", n * p);
            }
            let largest = values.iter().fold(0.0, |most: f64, z| most.max(z.abs()));
            assert!(largest <= gaussian::cap(generator.width) + step);
        }
    }

    #[test]
    fn registers_that_shift_once_per_word_are_correlated() {
        // Why profiles ask for leap-forward: with one shift per word, U1 halves or doubles from value to value.
        let generator = Generator { leap: Leap::new(32, KNOWN_TAPS[3], 1), ..generator(KNOWN_TAPS[3], 1) };
        let step = fixed::exp2(-generator.fraction);
        let values: Vec<f64> = lanes(&generator, 11)
            .draw(100_000)
            .into_iter()
            .map(|word| (f64::from(word) * step).powi(2) - 1.0)
            .collect();
        let n = values.len() as f64;
        let squares = values[1..].iter().zip(&values).map(|(a, b)| a * b).sum::<f64>() / n;
        assert!(squares.abs() > 20.0 * 2.0 / n.sqrt(), "{squares}");
    }

    #[test]
    fn dot_is_exact_at_the_extremes() {
        let extreme = vec![i16::MIN; 4096];
        assert_eq!(dot(&extreme, &extreme), 4096 << 30);
        assert_eq!(dot(&[3, -2, i16::MAX], &[1, i16::MIN, -1]), 3 + 65_536 - 32_767);
    }
}
