//! Runs a tile program on integers, in memories laid out as the program's schedule says.
//!
//! Sums are exact in i64, every result is rounded half to even and saturated to i16. An address that the schedule gets
//! wrong gives a wrong result here, as it would on the tile.

use super::{
    fixed,
    gaussian,
    lfsr,
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
        Self {
            generator,
            states,
            silent: draw == Draw::Nothing,
        }
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
    a.iter()
        .zip(b)
        .map(|(a, b)| i64::from(i32::from(*a) * i32::from(*b)))
        .sum()
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

fn depthwise(
    memory: &mut [i16],
    weights: &[i16],
    input: Buffer,
    kernel: [usize; 2],
    pad: [usize; 2],
    head: &Head,
) {
    let channels = input.channels;
    let output = head.output;
    let mut sums = vec![0i64; channels];
    for row in 0..output.rows {
        for column in 0..output.columns {
            for (channel, sum) in sums.iter_mut().enumerate() {
                *sum = i64::from(weights[head.bias + channel]) << head.bias_shift;
            }
            for tap_row in 0..kernel[0] {
                let Some(y) = (row + tap_row).checked_sub(pad[0]).filter(|y| *y < input.rows)
                else {
                    continue;
                };
                for tap_column in 0..kernel[1] {
                    let Some(x) = (column + tap_column)
                        .checked_sub(pad[1])
                        .filter(|x| *x < input.columns)
                    else {
                        continue;
                    };
                    let pixel =
                        &memory[input.word + (y * input.columns + x) * channels..][..channels];
                    let taps = &weights
                        [head.weight + (tap_row * kernel[1] + tap_column) * channels..][..channels];
                    for ((sum, x), w) in sums.iter_mut().zip(pixel).zip(taps) {
                        *sum += i64::from(i32::from(*x) * i32::from(*w));
                    }
                }
            }
            let target =
                &mut memory[output.word + (row * output.columns + column) * channels..][..channels];
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
        assert_eq!(
            input.len(),
            self.shape.iter().product::<usize>(),
            "one sample of layer {}",
            self.layer
        );
        let row = columns * channels;
        // Zeros: what the memory held before must not matter.
        let mut memory = vec![0i16; self.activation_words];
        let mut output = vec![0i16; input.len()];
        let mut lanes = self
            .generator
            .as_ref()
            .map(|generator| Lanes::new(generator, draw));
        for scheduled in &self.steps {
            match &scheduled.step {
                Step::Load { first_row, into } => memory[into.word..][..into.len()]
                    .copy_from_slice(&input[first_row * row..][..into.len()]),
                Step::Store {
                    from,
                    strip_row,
                    first_row,
                    rows,
                } => output[first_row * row..][..rows * row]
                    .copy_from_slice(&memory[from.word + strip_row * row..][..rows * row]),
                Step::Conv {
                    input, kind, heads, ..
                } => {
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
                Step::Affine {
                    buffer,
                    first_row,
                    rows,
                    scale,
                    shift,
                    shift_shift,
                    output_shift,
                } => {
                    let scales = &self.weights[*scale..][..channels];
                    let shifts = &self.weights[*shift..][..channels];
                    for pixel in memory[buffer.word + first_row * row..][..rows * row]
                        .chunks_exact_mut(channels)
                    {
                        for ((word, scale), shift) in pixel.iter_mut().zip(scales).zip(shifts) {
                            let sum = i64::from(*word) * i64::from(*scale)
                                + (i64::from(*shift) << shift_shift);
                            *word = fixed::requantise(sum, *output_shift);
                        }
                    }
                }
                Step::Cancel {
                    buffer,
                    first_row,
                    first_channel,
                    mean,
                    sigma,
                    shifts,
                    output_shift,
                } => {
                    let normal = match (&mut lanes, sigma) {
                        (Some(lanes), Some(_)) => lanes.draw(mean.len()),
                        _ => Vec::new(),
                    };
                    for element in 0..mean.len() {
                        let pixel = first_row * columns + element / mean.channels;
                        let place = buffer.word
                            + pixel * channels
                            + first_channel
                            + element % mean.channels;
                        let mut sum = (i64::from(memory[place]) << shifts[0])
                            - (i64::from(memory[mean.word + element]) << shifts[1]);
                        if let Some(sigma) = sigma {
                            let product = i64::from(memory[sigma.word + element])
                                * i64::from(normal.get(element).copied().unwrap_or_default());
                            sum -= product << shifts[2];
                        }
                        memory[place] = fixed::requantise(sum, *output_shift);
                    }
                }
            }
        }
        output
    }
}
