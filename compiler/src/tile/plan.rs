//! What is to be mapped to the tile, and what a mapping divides it into: strips of rows, the steps on each, tiles of channels.

use super::stages::{StageId, Stages, Unit};
use mxc_runtime::digital::cycles::{ConvMapping, ConvShape};
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
    /// How every convolution runs on the cores; the two of a pair alike. One that is left out runs on one core.
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
    /// How a convolution runs on the cores, where that has been chosen.
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

    /// The channels of a step's results.
    pub fn channels(&self, step: &Step) -> usize {
        step.stages.first().map_or(0, |stage| self.stages.all()[*stage].channels)
    }
}
