//! The cycle and activity model of the digital tile: the formulas behind every [`super::schedule::Schedule`].
//!
//! **Systolic convolution.** An R×C array holds R reduction elements (input channels × taps) of C output pixels stationary
//! while the filters stream past: one fold of T filters takes 2R + C + T − 2 cycles (SCALE-Sim v2's input-stationary
//! formula, which our cores are assumed to follow). A convolution of P pixels, K reduction elements and F filters has
//! ⌈P/C⌉·⌈K/R⌉ folds; the pixel folds are shared out over `pixel_groups` groups of cores and the filters over
//! `filter_groups` in each. A column has D accumulators, one per filter:
//!
//! - order `accumulate`: at most D filters at a time, the reduction innermost; the input is loaded again for every D filters;
//! - order `spill`: all filters per fold, the partial sums of all folds but the last written to and read from the activation
//!   memory through its port, where they need a buffer.
//!
//! A depthwise convolution is one such convolution per channel with one filter. **Elementwise units** take one element per
//! lane and cycle, the noise unit a latency before; **transfers** one word per interface lane. Every phase adds the control
//! unit's start. Phases never overlap. [`super::schedule::Work`] says which formula is whose.

use crate::hardware::Hardware;
use std::ops::{Add, AddAssign};

/// Where partial sums go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// Kept in the columns' accumulators.
    Accumulate,
    /// Spilled to the activation memory.
    Spill,
}

impl Order {
    /// The name in the IR.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accumulate => "accumulate",
            Self::Spill => "spill",
        }
    }

    /// The order of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Accumulate, Self::Spill].into_iter().find(|order| order.name() == name)
    }
}

/// A convolution's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Output pixels.
    pub pixels: usize,
    /// Elements of one sum: input channels of a group × taps.
    pub reduction: usize,
    /// Filters of a group.
    pub filters: usize,
    /// Groups: the channels of a depthwise convolution, else 1.
    pub groups: usize,
}

/// How a convolution runs on the cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConvMapping {
    /// Groups of cores among which the pixel folds (of all groups) are shared out.
    pub pixel_groups: usize,
    /// Cores of a group, among which the filters are shared out.
    pub filter_groups: usize,
    /// Where partial sums go.
    pub order: Order,
}

/// Operations and words moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Activity {
    /// Multiply-accumulates.
    pub multiply_accumulates: u64,
    /// Additions, comparisons and shifts.
    pub adds: u64,
    /// Normal values.
    pub gaussians: u64,
    /// Words read from the weight memory.
    pub weight_words: u64,
    /// Words read from and written to the activation memory.
    pub activation_words: u64,
    /// Words moved between the accelerator's buffers and the tile.
    pub interface_words: u64,
}

impl Add for Activity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            multiply_accumulates: self.multiply_accumulates + other.multiply_accumulates,
            adds: self.adds + other.adds,
            gaussians: self.gaussians + other.gaussians,
            weight_words: self.weight_words + other.weight_words,
            activation_words: self.activation_words + other.activation_words,
            interface_words: self.interface_words + other.interface_words,
        }
    }
}

impl AddAssign for Activity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Activity {
    /// The energy in picojoules.
    pub fn picojoules(&self, hardware: &Hardware) -> f64 {
        let energy = &hardware.energy;
        [
            (self.multiply_accumulates, &energy.multiply_accumulate),
            (self.adds, &energy.add),
            (self.gaussians, &energy.gaussian),
            (self.weight_words, &energy.weight_word),
            (self.activation_words, &energy.activation_word),
            (self.interface_words, &energy.interface_word),
        ]
        .iter()
        .map(|(count, figure)| *count as f64 * figure.picojoules)
        .sum()
    }
}

/// The words of one partial sum in the activation memory.
pub fn partial_words(hardware: &Hardware) -> usize {
    hardware.conv.accumulator_bits.div_ceil(16) as usize
}

/// Every sensible mapping of a convolution: core groups that no other choice with the same fold counts makes superfluous,
/// and spilling only where the filters of a core exceed its accumulators. Never empty; in a fixed order.
pub fn conv_mappings(hardware: &Hardware, shape: &ConvShape) -> Vec<ConvMapping> {
    let cores = hardware.conv.cores;
    let mut mappings = Vec::new();
    for filter_groups in 1..=cores.min(shape.filters).max(1) {
        let pixel_groups = cores / filter_groups;
        let per_core = shape.filters.div_ceil(filter_groups);
        mappings.push(ConvMapping { pixel_groups, filter_groups, order: Order::Accumulate });
        if per_core > hardware.conv.accumulators_per_column && shape.reduction > hardware.conv.rows {
            mappings.push(ConvMapping { pixel_groups, filter_groups, order: Order::Spill });
        }
    }
    mappings
}

/// The partial sums a mapping keeps in the activation memory, in words.
pub fn spilled_words(hardware: &Hardware, shape: &ConvShape, mapping: &ConvMapping) -> usize {
    match mapping.order {
        Order::Accumulate => 0,
        Order::Spill => shape.pixels * shape.filters * shape.groups * partial_words(hardware),
    }
}

/// The cycles of a convolution, without the phase's start.
pub fn conv_cycles(hardware: &Hardware, shape: &ConvShape, mapping: &ConvMapping) -> u64 {
    let conv = &hardware.conv;
    let fold = |filters: usize| (2 * conv.rows + conv.columns + filters) as u64 - 2;
    let pixel_folds = (shape.pixels.div_ceil(conv.columns) * shape.groups).div_ceil(mapping.pixel_groups) as u64;
    let reduction_folds = shape.reduction.div_ceil(conv.rows) as u64;
    let filters = shape.filters.div_ceil(mapping.filter_groups);
    match mapping.order {
        Order::Accumulate => {
            let depth = conv.accumulators_per_column;
            let rest = match filters % depth {
                0 => 0,
                rest => fold(rest),
            };
            pixel_folds * reduction_folds * ((filters / depth) as u64 * fold(depth) + rest)
        }
        Order::Spill => {
            pixel_folds * reduction_folds * fold(filters)
                + (2 * (reduction_folds - 1) * spilled_words(hardware, shape, mapping) as u64)
                    .div_ceil(hardware.memory.port_words as u64)
        }
    }
}

/// What a convolution computes and moves. The stationary input is read once per core group that filters are shared among
/// and per load; a weight passes every pixel fold.
pub(super) fn conv_activity(hardware: &Hardware, shape: &ConvShape, mapping: &ConvMapping) -> Activity {
    let conv = &hardware.conv;
    let [pixels, reduction, filters, groups] =
        [shape.pixels, shape.reduction, shape.filters, shape.groups].map(|n| n as u64);
    let per_core = shape.filters.div_ceil(mapping.filter_groups);
    let loads = match mapping.order {
        Order::Accumulate => per_core.div_ceil(conv.accumulators_per_column),
        Order::Spill => 1,
    } * mapping.filter_groups;
    let reduction_folds = shape.reduction.div_ceil(conv.rows) as u64;
    let spilled = 2 * (reduction_folds - 1) * spilled_words(hardware, shape, mapping) as u64;
    Activity {
        multiply_accumulates: pixels * reduction * filters * groups,
        // One rounding and saturation per output.
        adds: pixels * filters * groups,
        weight_words: (pixels.div_ceil(conv.columns as u64) * reduction + 1) * filters * groups,
        activation_words: loads as u64 * pixels * reduction * groups + pixels * filters * groups + spilled,
        ..Activity::default()
    }
}

/// The cycles of a unit with `lanes` elements per cycle.
pub(super) fn lane_cycles(elements: usize, lanes: usize) -> u64 {
    elements.div_ceil(lanes) as u64
}

/// The cycles of cancelling `elements`, without the phase's start; without a σ̂ head nothing waits for the generator.
pub(super) fn cancel_cycles(hardware: &Hardware, elements: usize, sigma: bool) -> u64 {
    let latency = if sigma { hardware.noise.latency } else { 0 };
    latency + lane_cycles(elements, hardware.noise.lanes)
}

/// What cancelling `elements` computes and moves.
pub(super) fn cancel_activity(elements: usize, mean: bool, sigma: bool) -> Activity {
    let n = elements as u64;
    let [mean, sigma] = [mean, sigma].map(u64::from);
    Activity {
        multiply_accumulates: n * sigma,
        adds: 2 * n,
        gaussians: n * sigma,
        // x, μ̂ and σ̂ read, as far as they are there, x̂ written.
        activation_words: n * (2 + mean + sigma),
        ..Activity::default()
    }
}

/// What LeakyReLU on `elements` computes and moves.
pub(super) fn relu_activity(elements: usize) -> Activity {
    Activity { adds: elements as u64, activation_words: 2 * elements as u64, ..Activity::default() }
}

/// What an affine on `elements` computes and moves.
pub(super) fn affine_activity(elements: usize) -> Activity {
    let n = elements as u64;
    Activity { multiply_accumulates: n, adds: n, weight_words: 2 * n, activation_words: 2 * n, ..Activity::default() }
}

/// What bringing `words` into the weight memory costs.
pub(super) fn weight_load_activity(words: usize) -> Activity {
    Activity { weight_words: words as u64, interface_words: words as u64, ..Activity::default() }
}

/// What moving `words` into or out of the activation memory costs.
pub(super) fn transfer_activity(words: usize) -> Activity {
    Activity { activation_words: words as u64, interface_words: words as u64, ..Activity::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ConvShape = ConvShape { pixels: 64, reduction: 16, filters: 4, groups: 1 };

    fn mapping(pixel_groups: usize, filter_groups: usize, order: Order) -> ConvMapping {
        ConvMapping { pixel_groups, filter_groups, order }
    }

    #[test]
    fn fold_counts_by_hand() {
        let hardware = Hardware::paper();
        // ⌈64/3⌉ = 22 pixel folds, ⌈16/3⌉ = 6 reduction folds, 2·3 + 3 + T − 2 cycles each.
        let one = mapping(1, 1, Order::Accumulate);
        assert_eq!(conv_cycles(&hardware, &SHAPE, &one), 22 * 6 * 11);
        let ten = mapping(10, 1, Order::Accumulate);
        assert_eq!(conv_cycles(&hardware, &SHAPE, &ten), 3 * 6 * 11);
        let split = mapping(5, 2, Order::Accumulate);
        assert_eq!(conv_cycles(&hardware, &SHAPE, &split), 5 * 6 * 9);
    }

    #[test]
    fn accumulators_limit_the_filters_of_a_pass() {
        let mut hardware = Hardware::paper();
        hardware.conv.accumulators_per_column = 3;
        // Four filters: a pass of three and one of one.
        let kept = mapping(1, 1, Order::Accumulate);
        assert_eq!(conv_cycles(&hardware, &SHAPE, &kept), 22 * 6 * (10 + 8));
        // Spilled: one pass; 5 times 64·4 sums of 3 words written and read, 16 words a cycle.
        let spilled = mapping(1, 1, Order::Spill);
        assert_eq!(spilled_words(&hardware, &SHAPE, &spilled), 768);
        assert_eq!(conv_cycles(&hardware, &SHAPE, &spilled), 22 * 6 * 11 + 2 * 5 * 768 / 16);
        assert!(conv_mappings(&hardware, &SHAPE).contains(&mapping(10, 1, Order::Spill)));
    }

    #[test]
    fn depthwise_is_a_convolution_per_channel() {
        let hardware = Hardware::paper();
        let shape = ConvShape { pixels: 64, reduction: 9, filters: 1, groups: 4 };
        let ten = mapping(10, 1, Order::Accumulate);
        assert_eq!(conv_cycles(&hardware, &shape, &ten), 9 * 3 * 8);
        assert_eq!(conv_activity(&hardware, &shape, &ten).multiply_accumulates, 64 * 9 * 4);
    }
}
