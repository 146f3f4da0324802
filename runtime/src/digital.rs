//! The digital tile: 16-bit fixed-point arithmetic, the noise generators, the integer interpreter of scheduled dtile
//! programs, and their cycles and energy.
//!
//! [`units`] makes of a module's dtile programs what the executor runs in place of the float denoisers, [`report`] what they
//! cost. Nothing between the quantisation of a layer's output and the dequantisation of the denoised one is floating point.

pub mod cycles;
pub mod fixed;
pub mod gaussian;
pub mod interpret;
pub mod lfsr;
pub mod memory;
pub mod program;

use crate::{
    exec::{DenoiserUnit, Key},
    hardware::Hardware,
};
use cycles::Activity;
use interpret::Draw;
use melior::ir::Module;
use program::TileProgram;
use std::{collections::BTreeMap, sync::Arc};

/// Why a dtile program cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum DigitalError {
    /// The program breaks a rule of the dialect or is not scheduled.
    #[error("dtile program @{program} {message}")]
    Program {
        /// The function.
        program: String,
        /// What is wrong.
        message: String,
    },
}

/// A denoiser on the digital tile.
#[derive(Clone, Debug)]
pub struct FixedUnit {
    program: Arc<TileProgram>,
    layer_hash: u64,
}

impl FixedUnit {
    /// A unit for a program.
    pub fn new(program: Arc<TileProgram>) -> Self {
        let layer_hash = xxhash_rust::xxh3::xxh3_64(program.layer.as_bytes());
        Self { program, layer_hash }
    }

    /// The program.
    pub fn program(&self) -> &TileProgram {
        &self.program
    }
}

impl DenoiserUnit for FixedUnit {
    /// The tile's registers run on from sample to sample; here they are seeded anew by the key, so that a sample's result does
    /// not depend on the samples, batches and threads before it.
    fn run(&self, x: &mut [f32], shape: [usize; 3], sample: u64, key: Option<Key>) {
        let program = &*self.program;
        debug_assert_eq!(shape.iter().product::<usize>(), program.shape.iter().product::<usize>());
        let draw = key.map_or(Draw::Nothing, |key| {
            let words =
                [key.seed, key.purpose as u64, u64::from(key.pass), u64::from(key.chip), self.layer_hash, sample];
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            Draw::Keyed(xxhash_rust::xxh3::xxh3_64(&bytes))
        });
        let words: Vec<i16> = x.iter().map(|value| fixed::quantise(*value, program.input_fraction)).collect();
        for (value, word) in x.iter_mut().zip(program.run(&words, draw)) {
            *value = fixed::dequantise(word, program.output_fraction);
        }
    }
}

/// The denoisers of a module's scheduled dtile programs by layer name, for `Executor::set_denoiser_units`.
pub fn units(module: &Module<'_>) -> Result<BTreeMap<String, Arc<dyn DenoiserUnit>>, DigitalError> {
    Ok(TileProgram::read_all(module)?
        .into_iter()
        .map(|program| {
            let layer = program.layer.clone();
            let unit: Arc<dyn DenoiserUnit> = Arc::new(FixedUnit::new(Arc::new(program)));
            (layer, unit)
        })
        .collect())
}

/// What one denoiser costs per sample.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct DenoiserCost {
    /// The layer.
    pub layer: String,
    /// Cycles.
    pub cycles: u64,
    /// Microseconds at the profile's clock.
    pub microseconds: f64,
    /// Nanojoules (dynamic; leakage is not modelled).
    pub nanojoules: f64,
    /// Cycles by unit.
    pub unit_cycles: BTreeMap<String, u64>,
    /// Operations and words moved.
    pub activity: Activity,
    /// Bytes of weights.
    pub weight_bytes: usize,
    /// Bytes of activation memory used.
    pub activation_bytes: usize,
    /// The number of phases.
    pub phases: usize,
}

/// What the denoisers cost per sample.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Report {
    /// The profile's name.
    pub hardware: String,
    /// Every denoiser in program order.
    pub denoisers: Vec<DenoiserCost>,
}

impl Report {
    /// Cycles per sample.
    pub fn cycles(&self) -> u64 {
        self.denoisers.iter().map(|denoiser| denoiser.cycles).sum()
    }

    /// Nanojoules per sample.
    pub fn nanojoules(&self) -> f64 {
        self.denoisers.iter().map(|denoiser| denoiser.nanojoules).sum()
    }

    /// Milliwatts while the tile runs: energy over time.
    pub fn milliwatts(&self) -> f64 {
        let microseconds: f64 = self.denoisers.iter().map(|denoiser| denoiser.microseconds).sum();
        if microseconds == 0.0 { 0.0 } else { self.nanojoules() / microseconds }
    }
}

impl TileProgram {
    /// What a sample costs. The cycles are those of the cycle model; a schedule made for another profile differs.
    pub fn cost(&self, hardware: &Hardware) -> DenoiserCost {
        let mut unit_cycles: BTreeMap<String, u64> = BTreeMap::new();
        let mut activity = Activity::default();
        let start = hardware.control.phase_cycles;
        let mut phases = 0;
        if self.weight_load_words > 0 {
            phases += 1;
            *unit_cycles.entry("transfer".to_owned()).or_default() +=
                start + cycles::lane_cycles(self.weight_load_words, hardware.memory.interface_words);
            activity.interface_words += self.weight_load_words as u64;
            activity.weight_words += self.weight_load_words as u64;
        }
        for scheduled in &self.steps {
            phases += 1;
            *unit_cycles.entry(scheduled.step.unit().to_owned()).or_default() +=
                start + scheduled.step.cycles(hardware);
            activity += scheduled.step.activity(hardware);
        }
        let total = unit_cycles.values().sum();
        DenoiserCost {
            layer: self.layer.clone(),
            cycles: total,
            microseconds: total as f64 / hardware.clock_mhz,
            nanojoules: activity.picojoules(hardware) / 1e3,
            unit_cycles,
            activity,
            weight_bytes: 2 * self.weights.len(),
            activation_bytes: 2 * self.activation_words,
            phases,
        }
    }
}

/// What a module's scheduled denoisers cost per sample on a profile.
pub fn report(module: &Module<'_>, hardware: &Hardware) -> Result<Report, DigitalError> {
    Ok(Report {
        hardware: hardware.name.clone(),
        denoisers: TileProgram::read_all(module)?.iter().map(|program| program.cost(hardware)).collect(),
    })
}
