//! How a layer's denoisers run on the tile under a given mapping: strips of rows, the steps on each, their buffers and cycles.
//! The choice of a mapping, the emitted program and its cost all follow from this.

use super::stages::{StageId, Stages, Unit};
use mxc_runtime::{
    digital::{
        cycles::{self, ConvMapping, ConvShape},
        memory::{self, Lifetime},
    },
    hardware::Hardware,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// A layer's denoisers on an output of known size: what is to be mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Rows of the layer's output.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// What is done.
    pub stages: Stages,
}

/// A mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// The rows of the output per strip (the last may have fewer).
    pub strip_rows: usize,
    /// How every convolution runs on the cores; the two of a pair alike.
    pub cores: BTreeMap<StageId, ConvMapping>,
    /// The cancellations whose two heads run as one convolution, their operand loaded once.
    pub pairs: BTreeSet<StageId>,
    /// The channels that a cancellation's heads compute before it, for those that do not compute all.
    pub channel_tiles: BTreeMap<StageId, usize>,
}

/// A strip of rows of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strip {
    /// The first row.
    pub first: usize,
    /// The number of rows.
    pub rows: usize,
}

/// What runs in one phase: a stage, or the two convolutions of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The stages.
    pub stages: Vec<StageId>,
    /// How a convolution runs on the cores.
    pub cores: Option<ConvMapping>,
}

/// Steps that run one after the other, again for every tile of channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// The steps.
    pub steps: Vec<Step>,
    /// The channels of a tile, where one does not have all.
    pub channel_tile: Option<usize>,
}

impl Round {
    /// The tiles of results of so many channels: the first channel and the number of channels.
    pub fn tiles(&self, channels: usize) -> Vec<(usize, usize)> {
        let tile = self.channel_tile.unwrap_or(channels).max(1);
        (0..channels).step_by(tile).map(|first| (first, tile.min(channels - first))).collect()
    }
}

/// The sizes of the parts of a whole that are worth considering: the smallest for each number of parts, the whole first.
pub fn parts(whole: usize) -> Vec<usize> {
    let mut sizes: Vec<usize> = (1..=whole).map(|count| whole.div_ceil(count)).collect();
    sizes.dedup();
    sizes
}

impl Task {
    /// The strips, `strip_rows` rows each.
    pub fn strips(&self, strip_rows: usize) -> Vec<Strip> {
        (0..self.rows)
            .step_by(strip_rows.max(1))
            .map(|first| Strip { first, rows: strip_rows.min(self.rows - first) })
            .collect()
    }

    /// A strip's rows with as many more above and below as `halo` says and the image has.
    pub fn covered(&self, strip: &Strip, halo: usize) -> Range<usize> {
        strip.first.saturating_sub(halo)..(strip.first + strip.rows + halo).min(self.rows)
    }

    /// The rows of the output that a stage's buffer holds.
    pub fn held(&self, strip: &Strip, stage: StageId) -> Range<usize> {
        let stages = self.stages.all();
        self.covered(strip, stages[stages[stage].buffer].halo)
    }

    /// The size of a convolution on a strip, for so many channels of the result; of both together if there are two.
    pub fn conv_shape(&self, strip: &Strip, stages: &[StageId], channels: usize) -> ConvShape {
        let all = self.stages.all();
        let mut shape = ConvShape { pixels: 0, reduction: 0, filters: 0, groups: 1 };
        for stage in stages {
            if let Unit::Conv { x, taps, .. } = all[*stage].unit {
                shape.pixels = self.held(strip, *stage).len() * self.columns;
                match taps {
                    None => (shape.reduction, shape.filters) = (all[x].channels, shape.filters + channels),
                    Some(taps) => (shape.reduction, shape.filters, shape.groups) = (taps * taps, 1, channels),
                }
            }
        }
        shape
    }

    /// The words of the sums that a step spills.
    fn spilled_words(&self, hardware: &Hardware, strip: &Strip, step: &Step, channels: usize) -> usize {
        let shape = self.conv_shape(strip, &step.stages, channels);
        step.cores.map_or(0, |cores| cycles::spilled_words(hardware, &shape, &cores))
    }

    /// The rounds of a mapping on a strip.
    pub fn rounds(&self, mapping: &Mapping) -> Vec<Round> {
        let step = |stages: Vec<StageId>| {
            let cores = stages.first().and_then(|stage| mapping.cores.get(stage)).copied();
            Step { stages, cores }
        };
        let all = 0..self.stages.all().len();
        let heads: BTreeSet<StageId> = all.clone().flat_map(|stage| self.stages.heads(stage)).collect();
        all.filter(|stage| !heads.contains(stage))
            .map(|stage| {
                let heads = self.stages.heads(stage);
                let mut steps: Vec<Step> = match mapping.pairs.contains(&stage) {
                    true => vec![step(heads)],
                    false => heads.into_iter().map(|head| step(vec![head])).collect(),
                };
                steps.push(step(vec![stage]));
                Round { steps, channel_tile: mapping.channel_tiles.get(&stage).copied() }
            })
            .collect()
    }

    /// The cycles of a step for so many channels of its result.
    fn step_cycles(&self, hardware: &Hardware, strip: &Strip, step: &Step, channels: usize) -> u64 {
        let all = self.stages.all();
        let words = |rows: Range<usize>| rows.len() * self.columns * channels;
        let unit_cycles = |stage: &StageId| {
            let rows = self.covered(strip, all[*stage].halo);
            match all[*stage].unit {
                Unit::Load | Unit::Store { .. } => cycles::lane_cycles(words(rows), hardware.memory.interface_words),
                Unit::Conv { .. } => 0,
                // The unit takes a whole buffer.
                Unit::Relu { .. } => cycles::lane_cycles(words(self.held(strip, *stage)), hardware.relu.lanes),
                Unit::Affine { .. } => cycles::lane_cycles(words(rows), hardware.affine.lanes),
                Unit::Cancel { drawn, .. } => cycles::cancel_cycles(hardware, words(rows), drawn.is_some()),
            }
        };
        let conv = |cores| cycles::conv_cycles(hardware, &self.conv_shape(strip, &step.stages, channels), &cores);
        hardware.control.phase_cycles + step.cores.map_or_else(|| step.stages.iter().map(unit_cycles).sum(), conv)
    }

    /// The cycles of a round, all its tiles.
    pub fn round_cycles(&self, hardware: &Hardware, strip: &Strip, round: &Round) -> u64 {
        let cycles = |step: &Step| -> u64 {
            let tiles = round.tiles(self.channels(step)).into_iter();
            tiles.map(|(_, channels)| self.step_cycles(hardware, strip, step, channels)).sum()
        };
        round.steps.iter().map(cycles).sum()
    }

    /// The words of the sums that a round spills, each step's in a buffer of its own.
    pub fn round_spilled_words(&self, hardware: &Hardware, strip: &Strip, round: &Round) -> usize {
        let spilled = |step: &Step| {
            let channels = round.channel_tile.unwrap_or(self.channels(step));
            self.spilled_words(hardware, strip, step, channels)
        };
        round.steps.iter().map(spilled).sum()
    }

    /// The channels of a step's results.
    pub fn channels(&self, step: &Step) -> usize {
        step.stages.first().map_or(0, |stage| self.stages.all()[*stage].channels)
    }

    /// The cycles of a mapping.
    pub fn cycles(&self, hardware: &Hardware, mapping: &Mapping) -> u64 {
        let rounds = self.rounds(mapping);
        self.strips(mapping.strip_rows)
            .iter()
            .flat_map(|strip| rounds.iter().map(|round| self.round_cycles(hardware, strip, round)))
            .sum()
    }

    /// The buffers of a strip with their lifetimes, in the order of the emitted program. Those that a round of several tiles
    /// touches are in use in the whole round.
    fn buffers(&self, hardware: &Hardware, rounds: &[Round], strip: &Strip) -> Vec<Lifetime> {
        let all = self.stages.all();
        let mut buffers: BTreeMap<StageId, Lifetime> = BTreeMap::new();
        let mut spilled = Vec::new();
        let mut next = 0;
        for round in rounds {
            let (begin, end) = (next, next + round.steps.len() - 1);
            for step in &round.steps {
                let (first, last) = match round.channel_tile {
                    Some(_) => (begin, end),
                    None => (next, next),
                };
                for stage in &step.stages {
                    let channels = round.channel_tile.unwrap_or(all[*stage].channels);
                    let touched = all[*stage].unit.operands().into_iter().map(|operand| all[operand].buffer);
                    for buffer in touched.chain([all[*stage].buffer]) {
                        let bytes = 2 * self.held(strip, buffer).len() * self.columns * channels;
                        let entry = buffers.entry(buffer).or_insert(Lifetime { bytes, first, last });
                        entry.last = entry.last.max(last);
                    }
                }
                if let Some(stage) = step.stages.first() {
                    let channels = round.channel_tile.unwrap_or(all[*stage].channels);
                    let bytes = 2 * self.spilled_words(hardware, strip, step, channels);
                    spilled.push(Lifetime { bytes, first, last });
                }
                next += 1;
            }
        }
        buffers.into_values().chain(spilled).filter(|buffer| buffer.bytes > 0).collect()
    }

    /// The activation memory that a mapping needs, in bytes.
    pub fn activation_bytes(&self, hardware: &Hardware, mapping: &Mapping) -> usize {
        let rounds = self.rounds(mapping);
        let most = self.stages.all().iter().map(|stage| stage.halo).max().unwrap_or_default();
        let mut known: BTreeMap<[usize; 3], usize> = BTreeMap::new();
        self.strips(mapping.strip_rows)
            .iter()
            .map(|strip| {
                let below = self.rows - strip.first - strip.rows;
                *known
                    .entry([strip.rows, strip.first.min(most), below.min(most)])
                    .or_insert_with(|| memory::allocate(&self.buffers(hardware, &rounds, strip)).1)
            })
            .max()
            .unwrap_or_default()
    }
}
