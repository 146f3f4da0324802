//! What a network's analog layers cost: products of tiles with their conversions, energy and time per sample; and what they cost
//! where they are computed digitally.
//!
//! A layer is a matrix of R rows (inputs of an output: channels × taps) and O columns (outputs) for each of its groups, stored on tiles
//! of the profile's geometry, which belong to it alone. A weight takes two columns, whose currents are subtracted before the
//! converter, or (`offset`) one, and every tile then has a reference column more, which is converted, too. Groups that fit a tile
//! together share it along its diagonal, with rows and columns of their own: so a depthwise convolution takes a column of a few
//! rows for a channel. A larger group is cut into tiles, and partial sums of its rows' tiles are added digitally. A product is computed for
//! every output pixel (or token): all tiles of the layer at once, each converts its own inputs and outputs, and products and reads follow one
//! another; layers run one after another. The bias is added digitally and not counted, nor are weights cut into slices of bits.
//!
//! A layer that is computed digitally runs on the digital tile's convolution cores as a denoiser's convolution would, each sum being R words
//! of the activation memory: its weights and inputs are brought there and its outputs taken away for every sample, and of all
//! mappings it has the one that takes least energy ([`crate::digital::cycles`]).

use crate::{
    digital::{
        cycles::{self, Activity, ConvShape},
        schedule::Work,
    },
    hardware::{AnalogTile, Hardware, WeightMapping},
    program::{Execution, Layer, Node, Op, Program},
};

/// What a layer costs per sample.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct LayerCost {
    /// The layer.
    pub layer: String,
    /// Products: output pixels or tokens.
    pub mvms: u64,
    /// The tiles that each takes: none where it is computed digitally.
    pub tiles: u64,
    /// How often each is computed on them, of which the mean is taken.
    pub reads: u32,
    /// Nanojoules of all reads, or of the digital tile.
    pub nanojoules: f64,
    /// Microseconds of all reads, or of the digital tile.
    pub microseconds: f64,
    /// By how many nanojoules that is more than one read on tiles takes; less than 0 where it takes less.
    pub added_nanojoules: f64,
    /// And by how many microseconds.
    pub added_microseconds: f64,
}

/// What the analog layers cost per sample.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Report {
    /// Every layer in execution order.
    pub layers: Vec<LayerCost>,
    /// Nanojoules of all layers.
    pub nanojoules: f64,
    /// Microseconds of all layers.
    pub microseconds: f64,
    /// By how much that is more energy than one read of every layer takes, in percent.
    pub added_energy_percent: f64,
    /// And more time.
    pub added_time_percent: f64,
}

/// What a layer takes of a sample, in picojoules.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct LayerEnergy {
    /// Its first read.
    pub first: f64,
    /// Every other: the same, and its addition to the others.
    other: f64,
    /// All of it where it is computed digitally.
    digital: f64,
}

#[cfg(test)]
impl From<[f64; 3]> for LayerEnergy {
    fn from([first, other, digital]: [f64; 3]) -> Self {
        Self { first, other, digital }
    }
}

impl LayerEnergy {
    /// By how much more it takes than one read.
    pub fn added(&self, execution: Execution) -> f64 {
        match execution {
            Execution::Analog { reads } => f64::from(reads.saturating_sub(1)) * self.other,
            Execution::Digital => self.digital - self.first,
        }
    }
}

/// How a layer lies on tiles, and what a product of it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapped {
    tiles: u64,
    input_conversions: u64,
    output_conversions: u64,
    /// Of partial sums.
    additions: u64,
}

/// A layer's matrix.
#[derive(Clone, Copy, Debug, Default)]
struct Matrix {
    groups: u64,
    /// Of a group.
    rows: u64,
    /// Of a group.
    outputs: u64,
    /// Products per sample.
    mvms: u64,
    /// Words of its input per sample.
    input: usize,
}

impl Matrix {
    fn of(program: &Program, node: &Node) -> Self {
        let groups = match &node.op {
            Op::Conv2d(op) => op.groups.max(1) as u64,
            _ => 1,
        };
        // [O, …], an output's weights one after another.
        let weight = &program.values()[node.inputs[1]].sample;
        let outputs = weight.first().copied().unwrap_or(1).max(1);
        Self {
            groups,
            rows: weight.iter().skip(1).product::<usize>() as u64,
            outputs: outputs as u64 / groups,
            mvms: (program.values()[node.output].words() / outputs) as u64,
            input: program.values()[node.inputs[0]].words(),
        }
    }

    fn map(&self, tile: &AnalogTile) -> Mapped {
        let Self { groups, rows, outputs, .. } = *self;
        let (tile_rows, columns) = (tile.tile_rows as u64, tile.tile_columns as u64);
        let tile_outputs = match tile.weight_mapping {
            WeightMapping::Differential => columns / 2,
            WeightMapping::Offset => columns.saturating_sub(1),
        };
        let tile_outputs = tile_outputs.max(1);
        let together = (tile_rows / rows.max(1)).min(tile_outputs / outputs.max(1));
        let [across, along] = [rows.div_ceil(tile_rows), outputs.div_ceil(tile_outputs)].map(|tiles| tiles.max(1));
        let tiles = if together > 0 { groups.div_ceil(together) } else { groups * across * along };
        let references = match tile.weight_mapping {
            WeightMapping::Differential => 0,
            WeightMapping::Offset => tiles,
        };
        Mapped {
            tiles,
            input_conversions: groups * rows * along,
            output_conversions: groups * outputs * across + references,
            additions: groups * outputs * (across - 1),
        }
    }

    /// What the digital tile does to compute it: operations and words moved, and cycles.
    fn digital(&self, hardware: &Hardware) -> (Activity, u64) {
        let [pixels, reduction, filters, groups] =
            [self.mvms, self.rows, self.outputs, self.groups].map(|count| count as usize);
        let shape = ConvShape { pixels, reduction, filters, groups };
        let convolutions = cycles::conv_mappings(hardware, &shape)
            .into_iter()
            .map(|mapping| Work::Convolution { shape, mapping })
            .min_by(|a, b| {
                let [a, b] = [a, b].map(|work| (work.activity(hardware).picojoules(hardware), work.cycles(hardware)));
                a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
            });
        let [weights, outputs] = [reduction, pixels].map(|count| count * filters * groups);
        let moved = [
            Work::LoadWeights { words: weights },
            Work::Transfer { words: self.input },
            Work::Transfer { words: outputs },
        ];
        let works = moved.into_iter().chain(convolutions);
        works.fold((Activity::default(), 0), |(activity, cycles), work| {
            (activity + work.activity(hardware), cycles + work.cycles(hardware))
        })
    }

    fn energy(&self, hardware: &Hardware) -> LayerEnergy {
        let Mapped { tiles, input_conversions, output_conversions, additions } = self.map(&hardware.analog);
        let energy = &hardware.energy;
        let of = |count: u64, picojoules: f64| (self.mvms * count) as f64 * picojoules;
        let first = of(tiles, energy.crossbar_mvm.picojoules)
            + of(input_conversions, energy.dac_conversion.picojoules)
            + of(output_conversions, energy.adc_conversion.picojoules)
            + of(additions, energy.add.picojoules);
        // The mean is a factor of the conversion's scale.
        LayerEnergy {
            first,
            other: first + of(self.groups * self.outputs, energy.add.picojoules),
            digital: self.digital(hardware).0.picojoules(hardware),
        }
    }

    /// What a layer of this matrix costs.
    fn cost(&self, layer: &Layer, hardware: &Hardware) -> LayerCost {
        let energy = self.energy(hardware);
        let read = self.mvms as f64 * hardware.analog.mvm_nanoseconds / 1e3;
        let (tiles, microseconds) = match layer.execution {
            Execution::Analog { reads } => (self.map(&hardware.analog).tiles, f64::from(reads) * read),
            Execution::Digital => (0, self.digital(hardware).1 as f64 / hardware.clock_mhz),
        };
        let added = energy.added(layer.execution);
        LayerCost {
            layer: layer.name.clone(),
            mvms: self.mvms,
            tiles,
            reads: layer.execution.reads(),
            nanojoules: (energy.first + added) / 1e3,
            microseconds,
            added_nanojoules: added / 1e3,
            added_microseconds: microseconds - read,
        }
    }
}

/// The matrices of every layer; one that no operation runs on is empty.
fn matrices(program: &Program) -> Vec<Matrix> {
    let mut matrices = vec![Matrix::default(); program.layers().len()];
    for node in program.nodes() {
        if let Some(layer) = node.op.analog_layer() {
            matrices[layer] = Matrix::of(program, node);
        }
    }
    matrices
}

/// By layer, what it takes of a sample.
pub(crate) fn energies(program: &Program, hardware: &Hardware) -> Vec<LayerEnergy> {
    matrices(program).iter().map(|matrix| matrix.energy(hardware)).collect()
}

/// What the analog layers of a program cost on a profile.
pub fn report(program: &Program, hardware: &Hardware) -> Report {
    let layers = program.layers().iter().zip(matrices(program));
    let layers: Vec<LayerCost> = layers.map(|(layer, matrix)| matrix.cost(layer, hardware)).collect();
    let sum = |of: fn(&LayerCost) -> f64| layers.iter().map(of).sum::<f64>();
    let percent = |added: f64, all: f64| if all > added { 100.0 * added / (all - added) } else { 0.0 };
    let (nanojoules, microseconds) = (sum(|layer| layer.nanojoules), sum(|layer| layer.microseconds));
    Report {
        nanojoules,
        microseconds,
        added_energy_percent: percent(sum(|layer| layer.added_nanojoules), nanojoules),
        added_time_percent: percent(sum(|layer| layer.added_microseconds), microseconds),
        layers,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn mapped(groups: u64, rows: u64, outputs: u64, mapping: WeightMapping) -> [u64; 4] {
        let tile = AnalogTile { weight_mapping: mapping, ..Hardware::paper().analog };
        let Mapped { tiles, input_conversions, output_conversions, additions } =
            Matrix { groups, rows, outputs, mvms: 1, input: 1 }.map(&tile);
        [tiles, input_conversions, output_conversions, additions]
    }

    #[test]
    fn matrices_are_cut_into_tiles() {
        let differential = |groups, rows, outputs| mapped(groups, rows, outputs, WeightMapping::Differential);
        assert_eq!(differential(1, 9, 16), [1, 9, 16, 0]);
        assert_eq!(differential(1, 128, 64), [1, 128, 64, 0]);
        // 3·3·64 rows are 5 tiles high, 65 outputs two wide: each has its own converters.
        assert_eq!(differential(1, 576, 65), [10, 1152, 325, 260]);
        // 14 channels of 9 rows a tile.
        assert_eq!(differential(96, 9, 1), [7, 864, 96, 0]);
        // 64 outputs a tile, whatever the rows.
        assert_eq!(differential(65, 1, 1), [2, 65, 65, 0]);
        assert_eq!(differential(2, 200, 8), [4, 400, 32, 16]);
        assert_eq!(mapped(1, 9, 16, WeightMapping::Offset), [1, 9, 17, 0]);
        assert_eq!(mapped(1, 9, 128, WeightMapping::Offset), [2, 18, 130, 0]);
    }

    #[test]
    fn reads_cost_a_product_and_an_addition_each() {
        let hardware = Hardware::paper();
        let matrix = Matrix { groups: 1, rows: 9, outputs: 16, mvms: 100, input: 100 };
        let energy = matrix.energy(&hardware);
        let (one, four) = (Execution::default(), Execution::Analog { reads: 4 });
        assert!((energy.first - 100.0 * (30.0 + 9.0 * 0.39 + 16.0 * 1.5625)).abs() < 1e-9);
        assert_eq!(energy.added(one), 0.0);
        assert!((energy.added(four) - 3.0 * (energy.first + 100.0 * 16.0 * 0.05)).abs() < 1e-9);
    }

    /// By hand, from the profile: 3 folds of 3 rows, and of 100 pixels 34 of 3, which one fold of 16 filters fits.
    #[test]
    fn what_is_computed_digitally_is_moved_and_multiplied() {
        let hardware = Hardware::paper();
        let matrix = Matrix { groups: 1, rows: 9, outputs: 16, mvms: 100, input: 100 };
        let (activity, cycles) = matrix.digital(&hardware);
        let wanted = Activity {
            multiply_accumulates: 100 * 9 * 16,
            adds: 100 * 16,
            // Brought once; then a weight passes every pixel fold, a bias once.
            weight_words: 9 * 16 + (34 * 9 + 1) * 16,
            // Brought and taken away, read and written by the cores.
            activation_words: (100 + 1600) + (900 + 1600),
            interface_words: 9 * 16 + 100 + 1600,
            gaussians: 0,
        };
        assert_eq!(activity, wanted);
        // Four phases begin; 8 words a cycle move, 10 cores share the 34 folds.
        assert_eq!(cycles, 4 * 2 + 18 + 13 + 200 + 4 * 3 * (2 * 3 + 3 + 16 - 2));
        let digital = 14400.0 * 0.925 + 1600.0 * 0.05 + 5056.0 * 20.0 + 4200.0 * 10.0 + 1844.0 * 10.0;
        let energy = matrix.energy(&hardware);
        assert!((energy.added(Execution::Digital) - (digital - energy.first)).abs() < 1e-6);
    }
}
