//! The schedule of a mapping: the phases that a layer's denoisers run in, with their buffers and cycles. What a mapping costs,
//! the memory it needs and the program emitted for it are read from this.

use super::{
    plan::{Mapping, Round, Step, Strip, Task},
    stages::{StageId, Unit},
};
use mxc_runtime::{
    digital::{
        cycles::{self, ConvMapping, Order},
        schedule::{self, BufferId, Work},
    },
    hardware::Hardware,
};
use std::{collections::BTreeMap, ops::Range};

/// What runs in a phase: a stage, or the two convolutions of a pair, on a strip and some channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The stages.
    pub stages: Vec<StageId>,
    /// The strip.
    pub strip: Strip,
    /// The first channel of the result.
    pub first_channel: usize,
    /// The number of channels.
    pub channels: usize,
    /// The buffers that are there from here on.
    pub allocates: Range<BufferId>,
}

/// A buffer's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Rows, columns, channels.
    pub shape: [usize; 3],
    /// The words of an element: more than one for sums that are spilled.
    pub element_words: usize,
}

impl Form {
    fn bytes(&self) -> usize {
        2 * self.element_words * self.shape.iter().product::<usize>()
    }
}

/// The schedule of a mapping.
pub type Schedule = schedule::Schedule<Part, Form>;
/// A phase of it.
pub type Phase = schedule::Phase<Part>;

/// A convolution that no mapping says anything of runs on one core.
const ONE_CORE: ConvMapping = ConvMapping { pixel_groups: 1, filter_groups: 1, order: Order::Accumulate };

impl Task {
    /// The schedule of a mapping.
    pub fn schedule(&self, hardware: &Hardware, mapping: &Mapping) -> Schedule {
        let rounds = self.rounds(mapping);
        let mut schedule = Schedule::default();
        for strip in self.strips(mapping.strip_rows) {
            self.run_strip(hardware, &mut schedule, &strip, &rounds, Round::tiles);
        }
        schedule
    }

    /// The activation memory that a mapping needs, in bytes: that of the strip that needs most.
    pub fn activation_bytes(&self, hardware: &Hardware, mapping: &Mapping) -> usize {
        let rounds = self.rounds(mapping);
        let most = self.stages.all().iter().map(|stage| stage.halo).max().unwrap_or_default();
        // Strips of equal rows with equal surroundings need the same.
        let mut known: BTreeMap<[usize; 3], usize> = BTreeMap::new();
        let bytes = self.strips(mapping.strip_rows).into_iter().map(|strip| {
            let below = self.rows - strip.first - strip.rows;
            let entry = known.entry([strip.rows, strip.first.min(most), below.min(most)]);
            *entry.or_insert_with(|| {
                let mut schedule = Schedule::default();
                self.run_strip(hardware, &mut schedule, &strip, &rounds, two_tiles);
                schedule.place().1
            })
        });
        bytes.max().unwrap_or_default()
    }

    /// The cycles of a round on a strip: those of its phases in the schedule.
    pub fn round_cycles(&self, hardware: &Hardware, strip: &Strip, round: &Round) -> u64 {
        let cycles = |step: &Step| -> u64 {
            let tiles = round.tiles(self.channels(step)).into_iter();
            tiles.map(|(_, channels)| self.work(strip, step, channels).cycles(hardware)).sum()
        };
        round.steps.iter().map(cycles).sum()
    }

    /// The words of the sums that a round spills, each step's in a buffer of its own.
    pub fn round_spilled_words(&self, hardware: &Hardware, strip: &Strip, round: &Round) -> usize {
        let channels = |step: &Step| round.channel_tile.unwrap_or(self.channels(step));
        let spilled = |step: &Step| self.partials(hardware, strip, step, channels(step));
        round.steps.iter().filter_map(spilled).map(|form| form.bytes() / 2).sum()
    }

    /// What a step has its unit do on a strip, for so many channels of the result.
    fn work(&self, strip: &Strip, step: &Step, channels: usize) -> Work {
        let all = self.stages.all();
        let [stage, ..] = step.stages[..] else {
            return Work::Transfer { words: 0 };
        };
        let words = |rows: Range<usize>| rows.len() * self.columns * channels;
        let rows = self.covered(strip, all[stage].halo);
        match all[stage].unit {
            Unit::Load | Unit::Store { .. } => Work::Transfer { words: words(rows) },
            Unit::Conv { .. } => Work::Convolution {
                shape: self.conv_shape(strip, &step.stages, channels),
                mapping: step.cores.unwrap_or(ONE_CORE),
            },
            // The unit takes a whole buffer.
            Unit::Relu { .. } => Work::LeakyRelu { elements: words(self.held(strip, stage)) },
            Unit::Affine { .. } => Work::Affine { elements: words(rows) },
            Unit::Cancel { mean, drawn, .. } => {
                Work::NoiseCancellation { elements: words(rows), mean: mean.is_some(), sigma: drawn.is_some() }
            }
        }
    }

    /// The buffer for the sums that a step spills, if it does.
    fn partials(&self, hardware: &Hardware, strip: &Strip, step: &Step, channels: usize) -> Option<Form> {
        let stage = *step.stages.first()?;
        step.cores.filter(|cores| cores.order == Order::Spill).map(|_| Form {
            shape: [self.held(strip, stage).len(), self.columns, step.stages.len() * channels],
            element_words: cycles::partial_words(hardware),
        })
    }

    /// Appends the phases of a strip, with `tiles` of a round's channels.
    fn run_strip(
        &self,
        hardware: &Hardware,
        schedule: &mut Schedule,
        strip: &Strip,
        rounds: &[Round],
        tiles: fn(&Round, usize) -> Vec<(usize, usize)>,
    ) {
        let all = self.stages.all();
        // Where the results of stages with a buffer of their own are.
        let mut results: BTreeMap<StageId, BufferId> = BTreeMap::new();
        for round in rounds {
            let channels = round.steps.first().map_or(0, |step| self.channels(step));
            // The buffers serve every tile of channels; a smaller last tile has its own.
            let mut current = None;
            let mut partials = Vec::new();
            for (first_channel, channels) in tiles(round, channels) {
                let mut allocates = schedule.buffers.len()..schedule.buffers.len();
                if current.replace(channels) != Some(channels) {
                    partials = self.allocate(hardware, schedule, strip, round, channels, &mut results);
                    allocates.end = schedule.buffers.len();
                }
                for (step, partials) in round.steps.iter().zip(&partials) {
                    let held = |stage: StageId| results.get(&all[stage].buffer).copied();
                    // A pair reads one input.
                    let operands = step.stages.first().map(|stage| all[*stage].unit.operands()).unwrap_or_default();
                    let reads = operands.into_iter().filter_map(held).collect();
                    // A store writes to the accelerator.
                    let stored = |stage: &&StageId| !matches!(all[**stage].unit, Unit::Store { .. });
                    let results = step.stages.iter().filter(stored);
                    let mut writes: Vec<BufferId> = results.filter_map(|stage| held(*stage)).collect();
                    writes.extend(partials);
                    let part = Part {
                        stages: step.stages.clone(),
                        strip: *strip,
                        first_channel,
                        channels,
                        allocates: std::mem::replace(&mut allocates, schedule.buffers.len()..schedule.buffers.len()),
                    };
                    schedule.push(hardware, part, self.work(strip, step, channels), [reads, writes]);
                }
            }
        }
    }

    /// Adds the buffers of a round for tiles of so many channels: those of the stages, then each step's for the sums it spills,
    /// which are returned.
    fn allocate(
        &self,
        hardware: &Hardware,
        schedule: &mut Schedule,
        strip: &Strip,
        round: &Round,
        channels: usize,
        results: &mut BTreeMap<StageId, BufferId>,
    ) -> Vec<Option<BufferId>> {
        for &stage in round.steps.iter().flat_map(|step| &step.stages) {
            if self.stages.all()[stage].buffer == stage {
                let shape = [self.held(strip, stage).len(), self.columns, channels];
                let form = Form { shape, element_words: 1 };
                results.insert(stage, schedule.buffer(form.bytes(), form));
            }
        }
        let forms = round.steps.iter().map(|step| self.partials(hardware, strip, step, channels));
        forms.map(|form| form.map(|form| schedule.buffer(form.bytes(), form))).collect()
    }
}

/// Two tiles of channels, which need as much memory as any number: buffers live from one to the next. A smaller last tile needs no
/// more than the others.
fn two_tiles(round: &Round, channels: usize) -> Vec<(usize, usize)> {
    match round.channel_tile {
        Some(tile) => vec![(0, tile), (tile, tile)],
        None => vec![(0, channels)],
    }
}

#[cfg(test)]
mod tests {
    use super::super::{mapping, testing};
    use super::*;
    use mxc_dialects::dtile;

    fn hardware(activation_bytes: usize, accumulators: usize) -> Hardware {
        let mut hardware = Hardware::paper();
        hardware.memory.activation_bytes = activation_bytes;
        hardware.conv.accumulators_per_column = accumulators;
        hardware.memory.port_words = 256;
        hardware
    }

    #[test]
    fn phases_say_unit_buffers_and_cycles() {
        let (hardware, task) = (Hardware::paper(), testing::kinds(&["affine"], [4, 2, 8]));
        let schedule = task.schedule(&hardware, &Mapping { strip_rows: 3, ..Mapping::default() });
        // Strips of three rows and one, each loaded, scaled and stored, each in a buffer of its own.
        let bytes: Vec<usize> = schedule.buffers.iter().map(|buffer| buffer.bytes).collect();
        assert_eq!(bytes, [2 * 3 * 2 * 8, 2 * 2 * 8]);
        let phases: Vec<_> = schedule
            .phases
            .iter()
            .map(|phase| (phase.work.unit(), phase.reads.clone(), phase.writes.clone()))
            .collect();
        let strip = |buffer| {
            [
                (dtile::Unit::Transfer, vec![], vec![buffer]),
                (dtile::Unit::Affine, vec![buffer], vec![buffer]),
                (dtile::Unit::Transfer, vec![buffer], vec![]),
            ]
        };
        assert_eq!(phases, [strip(0), strip(1)].concat());
        let lanes = |elements: usize, lanes: usize| (elements.div_ceil(lanes)) as u64 + hardware.control.phase_cycles;
        let interface = hardware.memory.interface_words;
        let cycles: Vec<u64> = schedule.phases.iter().map(|phase| phase.cycles).collect();
        let expected = [48, 16]
            .map(|words| [lanes(words, interface), lanes(words, hardware.affine.lanes), lanes(words, interface)]);
        assert_eq!(cycles, expected.concat());
        assert_eq!(schedule.cycles(), cycles.iter().sum::<u64>());
        // The strips take turns in the memory.
        assert_eq!(schedule.place(), (vec![0, 0], 96));
    }

    #[test]
    fn tiles_of_channels_share_buffers_and_a_smaller_last_has_its_own() {
        let (hardware, task) = (hardware(1 << 20, 1), testing::kinds(&["paper"], [2, 2, 8]));
        let stages = &task.stages;
        let cancel = (0..stages.all().len()).find(|stage| !stages.heads(*stage).is_empty()).unwrap();
        let heads = stages.heads(cancel);
        let spill = ConvMapping { order: Order::Spill, ..ONE_CORE };
        let mapping = Mapping {
            strip_rows: 2,
            cores: heads.iter().map(|head| (*head, spill)).collect(),
            pairs: [cancel].into(),
            channel_tiles: [(cancel, 3)].into(),
        };
        let schedule = task.schedule(&hardware, &mapping);
        let tiles: Vec<_> =
            schedule.phases.iter().filter(|phase| phase.runs.stages == heads).map(|phase| &phase.runs).collect();
        let channels: Vec<_> = tiles.iter().map(|part| (part.first_channel, part.channels)).collect();
        assert_eq!(channels, [(0, 3), (3, 3), (6, 2)]);
        // X, h and g come before: μ̂, σ̂ and both heads' sums, once for two tiles.
        let allocated: Vec<_> = tiles.iter().map(|part| part.allocates.clone()).collect();
        assert_eq!(allocated, [3..6, 6..6, 6..9]);
        assert_eq!(schedule.buffers[5].is.shape, [2, 2, 6]);
        assert_eq!(schedule.buffers[5].is.element_words, cycles::partial_words(&hardware));
    }

    /// The choice of a mapping counts cycles round by round, and memory strip by strip.
    #[test]
    fn what_was_chosen_is_what_is_scheduled() {
        let expressions = [testing::low_rank(), testing::random(), testing::mixed(), testing::depthwise()];
        let mut tasks: Vec<Task> = expressions.iter().map(|e| testing::task(&[e], [9, 5, 10])).collect();
        tasks.push(testing::kinds(&["paper", "affine"], [9, 5, 10]));
        for task in &tasks {
            for (bytes, accumulators) in [(1 << 20, 64), (3000, 64), (2000, 2), (1500, 1)] {
                let hardware = hardware(bytes, accumulators);
                let Ok(chosen) = mapping::choose(&hardware, task) else {
                    continue;
                };
                let schedule = task.schedule(&hardware, &chosen.mapping);
                assert_eq!(schedule.cycles(), chosen.cycles);
                assert!(schedule.place().1 <= chosen.activation_bytes, "{chosen:?}");
                assert!(chosen.activation_bytes <= bytes);
            }
        }
    }
}
