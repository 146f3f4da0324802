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
//!
//! What all that costs is a [cost model](crate::cost)'s to say.

use crate::{
    cost::{AnalogCost, AnalogLayer, CostError, Costs, DigitalPart, Together},
    digital::{
        cycles::{self, ConvShape},
        schedule::Work,
    },
    hardware::{AnalogTile, WeightMapping},
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

    /// How a layer of this matrix lies on tiles, and what a product of it takes.
    fn map<'a>(&self, name: &'a str, tile: &AnalogTile) -> AnalogLayer<'a> {
        let Self { groups, rows, outputs, mvms, .. } = *self;
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
        AnalogLayer {
            name,
            groups,
            rows,
            outputs,
            mvms,
            tiles,
            input_conversions: groups * rows * along,
            output_conversions: groups * outputs * across + references,
            additions: groups * outputs * (across - 1),
        }
    }

    /// What the digital tile does to compute a layer of this matrix: of all mappings that which takes least energy.
    fn digital(&self, name: &str, costs: Costs<'_>) -> Result<Vec<Work>, CostError> {
        let [pixels, reduction, filters, groups] =
            [self.mvms, self.rows, self.outputs, self.groups].map(|count| count as usize);
        let shape = ConvShape { pixels, reduction, filters, groups };
        let convolutions = cycles::conv_mappings(costs.hardware, &shape).into_iter().map(|mapping| {
            let work = Work::Convolution { shape, mapping };
            Ok((work, costs.digital(DigitalPart::Layer(name), &work)?))
        });
        let convolutions: Vec<_> = convolutions.collect::<Result<_, CostError>>()?;
        let convolution = convolutions
            .into_iter()
            .min_by(|(_, a), (_, b)| a.picojoules.total_cmp(&b.picojoules).then(a.cycles.cmp(&b.cycles)));
        let [weights, outputs] = [reduction, pixels].map(|count| count * filters * groups);
        let moved = [
            Work::LoadWeights { words: weights },
            Work::Transfer { words: self.input },
            Work::Transfer { words: outputs },
        ];
        Ok(moved.into_iter().chain(convolution.map(|(work, _)| work)).collect())
    }

    /// What a layer of this matrix costs on its tiles, and on the digital one.
    fn costs(&self, name: &str, costs: Costs<'_>) -> Result<LayerCosts, CostError> {
        let mapped = self.map(name, &costs.hardware.analog);
        let digital = costs.together(DigitalPart::Layer(name), &self.digital(name, costs)?)?;
        Ok(LayerCosts { tiles: mapped.tiles, analog: costs.analog(&mapped)?, digital })
    }

    /// What a layer of this matrix costs as it is computed.
    fn cost(&self, layer: &Layer, costs: Costs<'_>) -> Result<LayerCost, CostError> {
        let all = self.costs(&layer.name, costs)?;
        let energy = all.energy();
        let read = all.analog.nanoseconds / 1e3;
        let (tiles, microseconds) = match layer.execution {
            Execution::Analog { reads } => (all.tiles, f64::from(reads) * read),
            Execution::Digital => (0, all.digital.all_cycles() as f64 / costs.hardware.clock_mhz),
        };
        let added = energy.added(layer.execution);
        Ok(LayerCost {
            layer: layer.name.clone(),
            mvms: self.mvms,
            tiles,
            reads: layer.execution.reads(),
            nanojoules: (energy.first + added) / 1e3,
            microseconds,
            added_nanojoules: added / 1e3,
            added_microseconds: microseconds - read,
        })
    }
}

/// What a layer costs per sample, however it is computed.
#[derive(Clone, Debug, PartialEq)]
struct LayerCosts {
    tiles: u64,
    analog: AnalogCost,
    digital: Together,
}

impl LayerCosts {
    fn energy(&self) -> LayerEnergy {
        let AnalogCost { picojoules, further_picojoules, .. } = self.analog;
        LayerEnergy { first: picojoules, other: further_picojoules, digital: self.digital.picojoules }
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
///
/// # Errors
///
/// When the cost model gives what is no cost.
pub(crate) fn energies(program: &Program, costs: Costs<'_>) -> Result<Vec<LayerEnergy>, CostError> {
    let layers = program.layers().iter().zip(matrices(program));
    layers.map(|(layer, matrix)| Ok(matrix.costs(&layer.name, costs)?.energy())).collect()
}

/// What the analog layers of a program cost on a profile.
///
/// # Errors
///
/// When the cost model gives what is no cost.
pub fn report(program: &Program, costs: Costs<'_>) -> Result<Report, CostError> {
    let layers = program.layers().iter().zip(matrices(program));
    let layers: Vec<LayerCost> = layers.map(|(layer, matrix)| matrix.cost(layer, costs)).collect::<Result<_, _>>()?;
    let sum = |of: fn(&LayerCost) -> f64| layers.iter().map(of).sum::<f64>();
    let percent = |added: f64, all: f64| if all > added { 100.0 * added / (all - added) } else { 0.0 };
    let (nanojoules, microseconds) = (sum(|layer| layer.nanojoules), sum(|layer| layer.microseconds));
    Ok(Report {
        nanojoules,
        microseconds,
        added_energy_percent: percent(sum(|layer| layer.added_nanojoules), nanojoules),
        added_time_percent: percent(sum(|layer| layer.added_microseconds), microseconds),
        layers,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{digital::cycles::Activity, hardware::Hardware};

    fn mapped(groups: u64, rows: u64, outputs: u64, mapping: WeightMapping) -> [u64; 4] {
        let tile = AnalogTile { weight_mapping: mapping, ..Hardware::paper().analog };
        let AnalogLayer { tiles, input_conversions, output_conversions, additions, .. } =
            Matrix { groups, rows, outputs, mvms: 1, input: 1 }.map("", &tile);
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
        let energy = matrix.costs("", (&hardware).into()).unwrap().energy();
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
        let works = matrix.digital("", (&hardware).into()).unwrap();
        let activity = works.iter().fold(Activity::default(), |sum, work| sum + work.activity(&hardware));
        let cycles: u64 = works.iter().map(|work| work.cycles(&hardware)).sum();
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
        let energy = matrix.costs("", (&hardware).into()).unwrap().energy();
        assert!((energy.added(Execution::Digital) - (digital - energy.first)).abs() < 1e-6);
    }
}
