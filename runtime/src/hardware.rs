//! Hardware profiles: the accelerator's geometry, clock, memories, random generators and energies, as a TOML file.
//!
//! The profile of the paper is built in ([`Hardware::paper`]); `examples/hardware/paper.toml` documents every key.

use crate::digital::lfsr;
use serde::{Deserialize, Serialize};
use std::path::Path;

const PAPER: &str = include_str!("../../examples/hardware/paper.toml");

/// Why a hardware profile is refused.
#[derive(Debug, thiserror::Error)]
pub enum HardwareError {
    /// The file cannot be read.
    #[error("hardware profile {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// Not TOML, an unknown or missing key, or a value of the wrong type.
    #[error("hardware profile {origin}: {message}")]
    Syntax {
        /// The file or other origin.
        origin: String,
        /// The parser's message, with the line.
        message: String,
    },
    /// A value out of its range.
    #[error("hardware profile {origin}: `{key}` {problem}")]
    Value {
        /// The file or other origin.
        origin: String,
        /// The key's path.
        key: &'static str,
        /// What is wrong and what is allowed.
        problem: String,
    },
}

/// An accelerator: an analog part and the digital tile that runs the denoisers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// The profile's name, for reports.
    pub name: String,
    /// The digital clock in MHz.
    pub clock_mhz: f64,
    /// The convolution cores.
    pub conv: ConvCores,
    /// The LeakyReLU unit.
    pub relu: Lanes,
    /// The per-channel affine unit.
    pub affine: Lanes,
    /// The noise cancellation unit.
    pub noise: NoiseLanes,
    /// The word format of weights and activations.
    pub word: Word,
    /// The tile's on-chip memories.
    pub memory: Memory,
    /// The control unit.
    pub control: Control,
    /// The analog tiles.
    pub analog: AnalogTile,
    /// Energy per operation.
    pub energy: Energies,
}

/// Parallel input-stationary systolic cores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvCores {
    /// The number of cores.
    pub cores: usize,
    /// Rows of one array: reduction elements (input channels × taps) held at a time.
    pub rows: usize,
    /// Columns of one array: output pixels held at a time.
    pub columns: usize,
    /// Partial sums that a column can hold, one per filter.
    pub accumulators_per_column: usize,
    /// The width of a partial sum.
    pub accumulator_bits: u32,
}

/// A unit that handles one element per lane and cycle.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lanes {
    /// Elements per cycle.
    pub lanes: usize,
}

/// The noise cancellation unit: every lane has two LFSRs and one Box-Muller converter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoiseLanes {
    /// The number of lanes, one element per cycle each.
    pub lanes: usize,
    /// The cycles from the first LFSR word to the first cancelled element.
    pub latency: u64,
    /// The LFSRs' width in bits, 8 to 64.
    pub lfsr_width: u32,
    /// The stages whose exclusive or is fed back, the last (= width) first.
    pub lfsr_taps: Vec<u32>,
    /// Register shifts between two words.
    pub shifts_per_draw: u32,
    /// Seeds, two per lane (U1, U2), distinct and not zero.
    pub seeds: Vec<u64>,
}

/// The fixed-point words.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Word {
    /// Bits of a weight or activation; 16.
    pub bits: u32,
}

/// The tile's memories, separate for weights and activations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// The weight memory's size.
    pub weight_bytes: usize,
    /// The activation memory's size.
    pub activation_bytes: usize,
    /// Words per cycle between the cores and the activation memory, for spilled partial sums.
    pub port_words: usize,
    /// Words per cycle between the accelerator's buffers and the tile's memories.
    pub interface_words: usize,
}

/// The control unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// The cycles it takes to start a phase.
    pub phase_cycles: u64,
}

/// How a weight is stored in analog cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightMapping {
    /// The difference of two cells.
    Differential,
    /// One cell with a shared reference column.
    Offset,
}

/// The geometry of an analog tile.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnalogTile {
    /// Word lines: inputs per tile.
    pub tile_rows: usize,
    /// Bit lines: outputs per tile.
    pub tile_columns: usize,
    /// How a weight maps to cells.
    pub weight_mapping: WeightMapping,
    /// Whether every column has a conversion scale of its own.
    pub column_scale: bool,
    /// Nanoseconds of one read: a matrix-vector product of a tile with its conversions. Profiles of before it was a key have
    /// PUMA's, and one that has PUMA's is written without it.
    #[serde(default = "AnalogTile::puma", skip_serializing_if = "AnalogTile::is_puma")]
    pub mvm_nanoseconds: f64,
}

impl AnalogTile {
    /// Ankit et al., ASPLOS 2019.
    fn puma() -> f64 {
        100.0
    }

    #[allow(clippy::trivially_copy_pass_by_ref)] // Serde's signature.
    fn is_puma(nanoseconds: &f64) -> bool {
        nanoseconds.to_bits() == Self::puma().to_bits()
    }
}

/// The energy of one operation and where the figure comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// Picojoules per operation.
    pub picojoules: f64,
    /// The publication, and how the figure was scaled.
    pub source: String,
}

/// Energy per operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Energies {
    /// A 16-bit multiply with the addition to a partial sum.
    pub multiply_accumulate: Figure,
    /// A 16-bit addition, comparison or shift.
    pub add: Figure,
    /// One normal value: two LFSR words and the Box-Muller transform.
    pub gaussian: Figure,
    /// One word read from the weight memory.
    pub weight_word: Figure,
    /// One word read from or written to the activation memory.
    pub activation_word: Figure,
    /// One word moved between the accelerator's buffers and the tile.
    pub interface_word: Figure,
    /// One matrix-vector product of a whole analog tile.
    pub crossbar_mvm: Figure,
    /// One input conversion.
    pub dac_conversion: Figure,
    /// One output conversion.
    pub adc_conversion: Figure,
}

impl Hardware {
    /// The built-in profile of the paper.
    ///
    /// # Panics
    ///
    /// When the profile built into this crate is not valid, which the crate's tests exclude.
    pub fn paper() -> Self {
        match Self::parse(PAPER, "paper.toml (built in)") {
            Ok(hardware) => hardware,
            Err(error) => panic!("{error}"),
        }
    }

    /// Reads a profile file.
    pub fn load(path: &Path) -> Result<Self, HardwareError> {
        let origin = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|source| HardwareError::Read { path: origin.clone(), source })?;
        Self::parse(&text, &origin)
    }

    /// Reads a profile from TOML text; `origin` is named in errors. Unknown keys and impossible values are refused.
    pub fn parse(text: &str, origin: &str) -> Result<Self, HardwareError> {
        let hardware: Self = toml::from_str(text).map_err(|error| HardwareError::Syntax {
            origin: origin.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        hardware.check().map_err(|(key, problem)| HardwareError::Value { origin: origin.to_owned(), key, problem })?;
        Ok(hardware)
    }

    /// The profile as TOML text, which [`Hardware::parse`] reads back.
    pub fn to_toml(&self) -> String {
        // Plain structs of numbers, strings and arrays always serialise.
        toml::to_string(self).unwrap_or_default()
    }

    /// What is allowed but doubtful, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let noise = &self.noise;
        let mut warnings = Vec::new();
        if !lfsr::is_maximal(noise.lfsr_width, &noise.lfsr_taps) {
            warnings.push(format!(
                "hardware profile {}: an LFSR of width {} with taps {:?} does not run through all 2^{} - 1 states; \
                 maximal taps: {}",
                self.name,
                noise.lfsr_width,
                noise.lfsr_taps,
                noise.lfsr_width,
                lfsr::KNOWN_TAPS.iter().map(|taps| format!("{taps:?}")).collect::<Vec<_>>().join(" ")
            ));
        }
        if noise.shifts_per_draw < noise.lfsr_width {
            warnings.push(format!(
                "hardware profile {}: with {} shifts per draw, successive {}-bit words share bits, so that the normal values \
                 are correlated",
                self.name, noise.shifts_per_draw, noise.lfsr_width
            ));
        }
        warnings
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let positive = |key: &'static str, value: usize, most: usize| {
            if (1..=most).contains(&value) {
                Ok(())
            } else {
                Err((key, format!("is {value}, allowed are 1 to {most}")))
            }
        };
        if !(self.clock_mhz.is_finite() && self.clock_mhz > 0.0) {
            return Err(("clock_mhz", format!("is {}, must be positive", self.clock_mhz)));
        }
        positive("conv.cores", self.conv.cores, 1 << 16)?;
        positive("conv.rows", self.conv.rows, 1 << 16)?;
        positive("conv.columns", self.conv.columns, 1 << 16)?;
        positive("conv.accumulators_per_column", self.conv.accumulators_per_column, 1 << 30)?;
        if !(32..=63).contains(&self.conv.accumulator_bits) {
            return Err(("conv.accumulator_bits", format!("is {}, allowed are 32 to 63", self.conv.accumulator_bits)));
        }
        positive("relu.lanes", self.relu.lanes, 1 << 16)?;
        positive("affine.lanes", self.affine.lanes, 1 << 16)?;
        positive("noise.lanes", self.noise.lanes, 1 << 16)?;
        if self.word.bits != 16 {
            return Err(("word.bits", format!("is {}, only 16-bit words are implemented", self.word.bits)));
        }
        positive("memory.weight_bytes", self.memory.weight_bytes, 1 << 40)?;
        positive("memory.activation_bytes", self.memory.activation_bytes, 1 << 40)?;
        positive("memory.port_words", self.memory.port_words, 1 << 16)?;
        positive("memory.interface_words", self.memory.interface_words, 1 << 16)?;
        positive("analog.tile_rows", self.analog.tile_rows, 1 << 20)?;
        positive("analog.tile_columns", self.analog.tile_columns, 1 << 20)?;
        let read = self.analog.mvm_nanoseconds;
        if !(read.is_finite() && read > 0.0) {
            return Err(("analog.mvm_nanoseconds", format!("is {read}, must be positive")));
        }
        self.noise.check()?;
        for (key, figure) in self.energy.figures() {
            if !(figure.picojoules.is_finite() && figure.picojoules >= 0.0) {
                return Err((key, format!("is {} pJ, must not be negative", figure.picojoules)));
            }
            if figure.source.trim().is_empty() {
                return Err((key, "has an empty `source`: say where the figure comes from".to_owned()));
            }
        }
        Ok(())
    }
}

impl NoiseLanes {
    fn check(&self) -> Result<(), (&'static str, String)> {
        let width = self.lfsr_width;
        if !(8..=64).contains(&width) {
            return Err(("noise.lfsr_width", format!("is {width}, allowed are 8 to 64")));
        }
        let descending = self.lfsr_taps.windows(2).all(|pair| pair[0] > pair[1]);
        if self.lfsr_taps.first() != Some(&width) || !descending || self.lfsr_taps.last() == Some(&0) {
            return Err((
                "noise.lfsr_taps",
                format!(
                    "is {:?}: stages in descending order from {width} down to at least 1 are wanted",
                    self.lfsr_taps
                ),
            ));
        }
        if !(1..=4096).contains(&self.shifts_per_draw) {
            return Err(("noise.shifts_per_draw", format!("is {}, allowed are 1 to 4096", self.shifts_per_draw)));
        }
        if self.seeds.len() != 2 * self.lanes {
            return Err(("noise.seeds", format!("has {} seeds, {} lanes need two each", self.seeds.len(), self.lanes)));
        }
        let mask = lfsr::mask(width);
        let mut sorted = self.seeds.clone();
        sorted.sort_unstable();
        if sorted.iter().any(|&seed| seed == 0 || seed > mask) || sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(("noise.seeds", format!("must be distinct, not zero and below 2^{width}")));
        }
        Ok(())
    }
}

impl Energies {
    /// Every figure with its key in the profile.
    pub fn figures(&self) -> [(&'static str, &Figure); 9] {
        [
            ("energy.multiply_accumulate", &self.multiply_accumulate),
            ("energy.add", &self.add),
            ("energy.gaussian", &self.gaussian),
            ("energy.weight_word", &self.weight_word),
            ("energy.activation_word", &self.activation_word),
            ("energy.interface_word", &self.interface_word),
            ("energy.crossbar_mvm", &self.crossbar_mvm),
            ("energy.dac_conversion", &self.dac_conversion),
            ("energy.adc_conversion", &self.adc_conversion),
        ]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refused(from: &str, to: &str) -> String {
        assert!(PAPER.contains(from));
        Hardware::parse(&PAPER.replacen(from, to, 1), "test.toml").unwrap_err().to_string()
    }

    #[test]
    fn paper_profile_is_valid_and_round_trips() {
        let paper = Hardware::paper();
        assert_eq!((paper.conv.cores, paper.noise.lanes, paper.clock_mhz), (10, 4, 500.0));
        assert!(paper.warnings().is_empty());
        assert_eq!(Hardware::parse(&paper.to_toml(), "round trip").unwrap(), paper);
        let faster = PAPER.replace("mvm_nanoseconds = 100", "mvm_nanoseconds = 40.5");
        let faster = Hardware::parse(&faster, "test").unwrap();
        assert_eq!(faster.analog.mvm_nanoseconds, 40.5);
        assert_eq!(Hardware::parse(&faster.to_toml(), "round trip").unwrap(), faster);
        // Stored profiles of before the key.
        assert!(!paper.to_toml().contains("mvm_nanoseconds"));
    }

    #[test]
    fn unknown_keys_and_bad_values_are_named() {
        assert!(refused("cores = 10", "coers = 10").contains("coers"));
        assert_eq!(
            refused("cores = 10", "cores = 0"),
            "hardware profile test.toml: `conv.cores` is 0, allowed are 1 to 65536"
        );
        assert!(refused("[32, 22, 2, 1]", "[22, 32]").contains("noise.lfsr_taps"));
        assert!(refused("0x9e3779b9", "0x1d872b41").contains("distinct"));
        assert!(refused("mvm_nanoseconds = 100", "mvm_nanoseconds = 0").contains("must be positive"));
        assert!(refused("bits = 16", "bits = 8").contains("only 16-bit words"));
        assert!(refused("lanes = 4\nlatency", "lanes = 3\nlatency").contains("need two each"));
    }

    #[test]
    fn doubtful_generators_are_warned_of() {
        let text =
            PAPER.replace("[32, 22, 2, 1]", "[32, 22, 2]").replace("shifts_per_draw = 32", "shifts_per_draw = 1");
        let warnings = Hardware::parse(&text, "test").unwrap().warnings();
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].contains("does not run through all"));
        assert!(warnings[1].contains("correlated"));
    }
}
