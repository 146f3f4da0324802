//! What the control unit steps through: phases, each one unit's work on some buffers, one after the other.
//!
//! A schedule is made phase by phase ([`Schedule::push`]), which numbers them and takes their times from the cycle model; what
//! it costs, and where its buffers lie, is read from it. The compiler makes one of a mapping, and one of a program's
//! instructions, whoever wrote them.

use super::{
    cycles::{self, Activity, ConvMapping, ConvShape},
    memory::{self, Lifetime},
};
use crate::hardware::Hardware;
use mxc_spec::tile::Unit;

/// What a unit does in one phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Brings words into the weight memory.
    LoadWeights {
        /// The number of words.
        words: usize,
    },
    /// Moves words into or out of the activation memory.
    Transfer {
        /// The number of words.
        words: usize,
    },
    /// A convolution, or two of one input.
    Convolution {
        /// The size of all heads together.
        shape: ConvShape,
        /// How it runs on the cores.
        mapping: ConvMapping,
    },
    /// LeakyReLU.
    LeakyRelu {
        /// The number of words.
        elements: usize,
    },
    /// A scale and a shift per channel.
    Affine {
        /// The number of words.
        elements: usize,
    },
    /// Cancels noise.
    NoiseCancellation {
        /// The number of words of what is cancelled.
        elements: usize,
        /// Whether there is a μ̂.
        mean: bool,
        /// Whether there is a σ̂, for which normal values are drawn.
        sigma: bool,
    },
}

impl Work {
    /// The unit that does it.
    pub fn unit(&self) -> Unit {
        match self {
            Self::LoadWeights { .. } | Self::Transfer { .. } => Unit::Transfer,
            Self::Convolution { .. } => Unit::Convolution,
            Self::LeakyRelu { .. } => Unit::LeakyRelu,
            Self::Affine { .. } => Unit::Affine,
            Self::NoiseCancellation { .. } => Unit::NoiseCancellation,
        }
    }

    /// The cycles of its phase, with the phase's start; at least one.
    pub fn cycles(&self, hardware: &Hardware) -> u64 {
        let cycles = match *self {
            Self::LoadWeights { words } | Self::Transfer { words } => {
                cycles::lane_cycles(words, hardware.memory.interface_words)
            }
            Self::Convolution { shape, mapping } => cycles::conv_cycles(hardware, &shape, &mapping),
            Self::LeakyRelu { elements } => cycles::lane_cycles(elements, hardware.relu.lanes),
            Self::Affine { elements } => cycles::lane_cycles(elements, hardware.affine.lanes),
            Self::NoiseCancellation { elements, sigma, .. } => cycles::cancel_cycles(hardware, elements, sigma),
        };
        hardware.control.phase_cycles.saturating_add(cycles).max(1)
    }

    /// What it computes and moves.
    pub fn activity(&self, hardware: &Hardware) -> Activity {
        match *self {
            Self::LoadWeights { words } => cycles::weight_load_activity(words),
            Self::Transfer { words } => cycles::transfer_activity(words),
            Self::Convolution { shape, mapping } => cycles::conv_activity(hardware, &shape, &mapping),
            Self::LeakyRelu { elements } => cycles::relu_activity(elements),
            Self::Affine { elements } => cycles::affine_activity(elements),
            Self::NoiseCancellation { elements, mean, sigma } => cycles::cancel_activity(elements, mean, sigma),
        }
    }
}

/// A buffer's number in its schedule.
pub type BufferId = usize;

/// A buffer of the activation memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer<B> {
    /// The size.
    pub bytes: usize,
    /// What it is to the maker of the schedule.
    pub is: B,
}

/// A phase: one unit at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase<P> {
    /// What runs, to the maker of the schedule.
    pub runs: P,
    /// What the unit does.
    pub work: Work,
    /// The buffers it reads.
    pub reads: Vec<BufferId>,
    /// The buffers it writes.
    pub writes: Vec<BufferId>,
    /// The first cycle.
    pub start: u64,
    /// The duration.
    pub cycles: u64,
}

/// Phases in order, and the buffers they work on. A phase's number is its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule<P, B> {
    /// The buffers.
    pub buffers: Vec<Buffer<B>>,
    /// The phases.
    pub phases: Vec<Phase<P>>,
}

/// One without phases.
impl<P, B> Default for Schedule<P, B> {
    fn default() -> Self {
        Self { buffers: Vec::new(), phases: Vec::new() }
    }
}

impl<P, B> Schedule<P, B> {
    /// Another buffer.
    pub fn buffer(&mut self, bytes: usize, is: B) -> BufferId {
        self.buffers.push(Buffer { bytes, is });
        self.buffers.len() - 1
    }

    /// Another phase, behind the others.
    pub fn push(
        &mut self,
        hardware: &Hardware,
        runs: P,
        work: Work,
        [reads, writes]: [Vec<BufferId>; 2],
    ) -> &mut Phase<P> {
        let (start, cycles) = (self.cycles(), work.cycles(hardware));
        self.phases.push(Phase { runs, work, reads, writes, start, cycles });
        let last = self.phases.len() - 1;
        &mut self.phases[last]
    }

    /// The cycles of all phases.
    pub fn cycles(&self) -> u64 {
        self.phases.last().map_or(0, |phase| phase.start.saturating_add(phase.cycles))
    }

    /// What all phases compute and move.
    pub fn activity(&self, hardware: &Hardware) -> Activity {
        self.phases.iter().fold(Activity::default(), |sum, phase| sum + phase.work.activity(hardware))
    }

    /// The first and the last phase that touches each buffer; `None` for one that none does.
    pub fn lifetimes(&self) -> Vec<Option<Lifetime>> {
        let mut lifetimes: Vec<Option<Lifetime>> = vec![None; self.buffers.len()];
        for (number, phase) in self.phases.iter().enumerate() {
            for &buffer in phase.reads.iter().chain(&phase.writes) {
                let Buffer { bytes, .. } = self.buffers[buffer];
                lifetimes[buffer].get_or_insert(Lifetime { bytes, first: number, last: number }).last = number;
            }
        }
        lifetimes
    }

    /// A byte address for every buffer, and the bytes of activation memory they need.
    pub fn place(&self) -> (Vec<usize>, usize) {
        let lifetimes = self.lifetimes();
        let used: Vec<Lifetime> = lifetimes.iter().copied().flatten().collect();
        let (placed, mut end) = memory::allocate(&used);
        let mut placed = placed.into_iter();
        let mut addresses = Vec::new();
        for (lifetime, buffer) in lifetimes.iter().zip(&self.buffers) {
            // What no phase touches may lie anywhere.
            addresses.push(lifetime.and_then(|_| placed.next()).unwrap_or_default());
            end = end.max(if lifetime.is_none() { buffer.bytes } else { 0 });
        }
        (addresses, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_each_other_and_say_how_long_their_buffers_live() {
        let hardware = Hardware::paper();
        let mut schedule: Schedule<&str, ()> = Schedule::default();
        let [x, h, spare] = [8, 6, 20].map(|bytes| schedule.buffer(bytes, ()));
        let words = 2 * hardware.memory.interface_words;
        schedule.push(&hardware, "weights", Work::LoadWeights { words }, [vec![], vec![]]);
        schedule.push(&hardware, "load", Work::Transfer { words }, [vec![], vec![x]]);
        schedule.push(&hardware, "copy", Work::LeakyRelu { elements: 0 }, [vec![x], vec![h]]);
        schedule.push(&hardware, "store", Work::Transfer { words }, [vec![h], vec![]]);
        let start = hardware.control.phase_cycles;
        let times: Vec<_> = schedule.phases.iter().map(|phase| (phase.start, phase.cycles)).collect();
        let transfer = start + 2;
        assert_eq!(
            times,
            [(0, transfer), (transfer, transfer), (2 * transfer, start), (2 * transfer + start, transfer)]
        );
        assert_eq!(schedule.cycles(), 3 * transfer + start);
        let lifetime = |bytes, first, last| Some(Lifetime { bytes, first, last });
        assert_eq!(schedule.lifetimes(), [lifetime(8, 1, 2), lifetime(6, 2, 3), None]);
        // The spare one lies over the others.
        assert_eq!(schedule.place(), (vec![0, 8, 0], 20));
        assert_eq!(schedule.buffers[spare].bytes, 20);
    }

    #[test]
    fn no_phase_is_for_nothing() {
        let mut hardware = Hardware::paper();
        hardware.control.phase_cycles = 0;
        assert_eq!(Work::Affine { elements: 0 }.cycles(&hardware), 1);
    }
}
