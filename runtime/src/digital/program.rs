//! A scheduled dtile program without MLIR: what the interpreter runs.

use super::lfsr::Leap;
use mxc_spec::tile::Unit;

/// A buffer in the activation memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// The first word.
    pub word: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Channels.
    pub channels: usize,
}

impl Buffer {
    /// The number of words.
    pub fn len(&self) -> usize {
        self.rows * self.columns * self.channels
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One set of filters with its bias, and the shifts that align its fractions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The first word of the weights in the weight memory.
    pub weight: usize,
    /// The first word of the bias.
    pub bias: usize,
    /// The left shift from the bias's to the sum's fraction.
    pub bias_shift: i32,
    /// The right shift from the sum's to the output's fraction.
    pub output_shift: i32,
    /// Where the result goes.
    pub output: Buffer,
}

/// A convolution's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 1×1: weights `[filters, 1, 1, channels]`, from filter `first`.
    Pointwise {
        /// The first filter.
        first: usize,
    },
    /// One kernel per channel: weights `[height, width, channels, 1]`.
    Depthwise {
        /// Height, width.
        kernel: [usize; 2],
        /// Rows above, columns to the left.
        pad: [usize; 2],
    },
}

/// The uniform-to-normal converters' generators, the same in a whole program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generator {
    /// Bits of a register.
    pub width: u32,
    /// The step between two words.
    pub leap: Leap,
    /// Seeds of U1 and U2 per lane.
    pub seeds: Vec<[u64; 2]>,
    /// Fraction bits of the normal values.
    pub fraction: i32,
}

/// One operation of the tile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Rows from `first_row` of the input into a buffer.
    Load {
        /// The first row.
        first_row: usize,
        /// The buffer.
        into: Buffer,
    },
    /// Rows of a buffer to the output.
    Store {
        /// The buffer.
        from: Buffer,
        /// Its first row.
        strip_row: usize,
        /// The output's first row.
        first_row: usize,
        /// The number of rows.
        rows: usize,
    },
    /// A convolution with one or two heads.
    Conv {
        /// The input.
        input: Buffer,
        /// Pointwise or depthwise.
        kind: Kind,
        /// The filters.
        heads: Vec<Head>,
    },
    /// LeakyReLU in place.
    LeakyRelu {
        /// The buffer.
        buffer: Buffer,
        /// The slope's exponent.
        shift: u32,
    },
    /// x·scale + shift in place.
    Affine {
        /// The buffer.
        buffer: Buffer,
        /// The first row.
        first_row: usize,
        /// The number of rows.
        rows: usize,
        /// The first word of the scales in the weight memory.
        scale: usize,
        /// The first word of the shifts.
        shift: usize,
        /// The left shift from the shift's to the product's fraction.
        shift_shift: i32,
        /// The right shift from the product's to the output's fraction.
        output_shift: i32,
    },
    /// Noise cancellation in place.
    Cancel {
        /// The rows of x.
        x: Buffer,
        /// The first channel of x.
        first_channel: usize,
        /// The number of channels.
        channels: usize,
        /// μ̂, unless the denoiser has none; of all these rows and channels.
        mean: Option<Buffer>,
        /// σ̂, likewise.
        sigma: Option<Buffer>,
        /// Whether μ̂ and ε·σ̂ are added.
        adds: bool,
        /// Left shifts of x, μ̂ and the product to the common fraction.
        shifts: [i32; 3],
        /// The right shift from the common to the output's fraction.
        output_shift: i32,
    },
}

/// A step with its place in the schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// What it does.
    pub step: Step,
    /// The phase it runs in.
    pub phase: usize,
}

/// A phase of the control unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// The enabled unit.
    pub unit: Unit,
    /// The first cycle.
    pub start: u64,
    /// The duration.
    pub cycles: u64,
}

/// A denoiser as the digital tile runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TileProgram {
    /// The function's name.
    pub symbol: String,
    /// The layer that it cleans.
    pub layer: String,
    /// Rows, columns, channels of a sample.
    pub shape: [usize; 3],
    /// Fraction bits of the input words.
    pub input_fraction: i32,
    /// Fraction bits of the output words.
    pub output_fraction: i32,
    /// The program's part of the weight memory.
    pub weights: Vec<i16>,
    /// The number of weights and biases; zero words that stand for a bias which is not there do not count.
    pub parameters: usize,
    /// Words brought into the weight memory before every sample; 0 when the weights stay there.
    pub weight_load_words: usize,
    /// The words of activation memory it uses.
    pub activation_words: usize,
    /// The generators, if it draws noise.
    pub generator: Option<Generator>,
    /// The operations in order.
    pub steps: Vec<Scheduled>,
    /// The phases in order.
    pub phases: Vec<Phase>,
    /// The total cycles per sample.
    pub cycles: u64,
}
