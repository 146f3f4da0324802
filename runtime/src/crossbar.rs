//! What the analog part of a network costs: products of tiles with their conversions, energy and time per sample.
//!
//! A layer is a matrix of R rows (inputs of an output: channels × taps) and O columns (outputs) for each of its groups, stored on tiles
//! of the profile's geometry, which belong to it alone. A weight takes two columns, whose currents are subtracted before the
//! converter, or (`offset`) one, and every tile then has a reference column more, which is converted, too. Groups that fit a tile
//! together share it along its diagonal, with rows and columns of their own: so a depthwise convolution takes a column of a few
//! rows for a channel. A larger group is cut into tiles, and partial sums of its rows' tiles are added digitally. A product is computed for
//! every output pixel (or token): all tiles of the layer at once, each converts its own inputs and outputs, and products and reads follow one
//! another; layers run one after another. The bias is added digitally and not counted, nor are weights cut into slices of bits.

use crate::{
    hardware::{AnalogTile, Hardware, WeightMapping},
    program::{Node, Op, Program},
};

/// What a layer costs per sample.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct LayerCost {
    /// The layer.
    pub layer: String,
    /// Products: output pixels or tokens.
    pub mvms: u64,
    /// The tiles that each takes.
    pub tiles: u64,
    /// How often each is computed, of which the mean is taken.
    pub reads: u32,
    /// Nanojoules of all reads.
    pub nanojoules: f64,
    /// Microseconds of all reads.
    pub microseconds: f64,
    /// What of the nanojoules is for reads beyond the first, the digital additions that average them among it.
    pub reads_nanojoules: f64,
}

/// What the analog part costs per sample.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Report {
    /// Every layer in execution order.
    pub layers: Vec<LayerCost>,
    /// Nanojoules of all layers.
    pub nanojoules: f64,
    /// Microseconds of all layers.
    pub microseconds: f64,
    /// By how much reads beyond the first raise the energy, in percent.
    pub reads_energy_percent: f64,
    /// By how much they raise the time, in percent.
    pub reads_time_percent: f64,
}

/// What a layer's reads take of a sample, in picojoules.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ReadEnergy {
    /// The first.
    pub first: f64,
    /// Every other: the same, and its addition to the others.
    pub other: f64,
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

    fn energy(&self, hardware: &Hardware) -> ReadEnergy {
        let Mapped { tiles, input_conversions, output_conversions, additions } = self.map(&hardware.analog);
        let energy = &hardware.energy;
        let of = |count: u64, picojoules: f64| (self.mvms * count) as f64 * picojoules;
        let first = of(tiles, energy.crossbar_mvm.picojoules)
            + of(input_conversions, energy.dac_conversion.picojoules)
            + of(output_conversions, energy.adc_conversion.picojoules)
            + of(additions, energy.add.picojoules);
        // The mean is a factor of the conversion's scale.
        ReadEnergy { first, other: first + of(self.groups * self.outputs, energy.add.picojoules) }
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

/// By layer, what its reads take of a sample.
pub(crate) fn read_energies(program: &Program, hardware: &Hardware) -> Vec<ReadEnergy> {
    matrices(program).iter().map(|matrix| matrix.energy(hardware)).collect()
}

/// What the analog part of a program costs on a profile.
pub fn report(program: &Program, hardware: &Hardware) -> Report {
    let cost = |(layer, matrix): (&crate::program::Layer, Matrix)| {
        let ReadEnergy { first, other } = matrix.energy(hardware);
        let extra = f64::from(layer.reads - 1) * other;
        LayerCost {
            layer: layer.name.clone(),
            mvms: matrix.mvms,
            tiles: matrix.map(&hardware.analog).tiles,
            reads: layer.reads,
            nanojoules: (first + extra) / 1e3,
            microseconds: (matrix.mvms * u64::from(layer.reads)) as f64 * hardware.analog.mvm_nanoseconds / 1e3,
            reads_nanojoules: extra / 1e3,
        }
    };
    let layers: Vec<LayerCost> = program.layers().iter().zip(matrices(program)).map(cost).collect();
    let sum = |of: fn(&LayerCost) -> f64| layers.iter().map(of).sum::<f64>();
    let (nanojoules, microseconds) = (sum(|layer| layer.nanojoules), sum(|layer| layer.microseconds));
    let percent = |added: f64, all: f64| if all > added { 100.0 * added / (all - added) } else { 0.0 };
    let reads = sum(|layer| layer.reads_nanojoules);
    let waited = sum(|layer| layer.microseconds * f64::from(layer.reads - 1) / f64::from(layer.reads));
    Report {
        nanojoules,
        microseconds,
        reads_energy_percent: percent(reads, nanojoules),
        reads_time_percent: percent(waited, microseconds),
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
            Matrix { groups, rows, outputs, mvms: 1 }.map(&tile);
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
        let matrix = Matrix { groups: 1, rows: 9, outputs: 16, mvms: 100 };
        let ReadEnergy { first, other } = matrix.energy(&hardware);
        assert!((first - 100.0 * (30.0 + 9.0 * 0.39 + 16.0 * 1.5625)).abs() < 1e-9);
        assert!((other - first - 100.0 * 16.0 * 0.05).abs() < 1e-9);
    }
}
