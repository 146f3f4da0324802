//! The digital tile: 16-bit fixed-point arithmetic, the noise generators, the integer interpreter of scheduled dtile
//! programs, and their cycles and energy.
//!
//! The executor of a module at the dtile level runs [`TileProgram::denoise`] on the noisy
//! outputs. [`cost`] says what a program costs. Nothing between the quantisation of a layer's output and the
//! dequantisation of the denoised one is floating point.

pub mod cycles;
pub mod fixed;
pub mod gaussian;
pub mod interpret;
pub mod lfsr;
pub mod memory;
pub mod program;
pub mod schedule;

use crate::{
    cost::{CostError, Costs, DigitalPart},
    exec::Key,
    rng::layer_hash,
};
use cycles::Activity;
use interpret::Draw;
use program::TileProgram;
use schedule::{Schedule, Work};
use std::collections::BTreeMap;

/// Why a dtile program cannot be run, or its cost not be said.
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
    /// A cost model gave what is no cost.
    #[error(transparent)]
    Cost(#[from] CostError),
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
    pub unit_cycles: BTreeMap<&'static str, u64>,
    /// Operations and words moved.
    pub activity: Activity,
    /// Bytes of weights.
    pub weight_bytes: usize,
    /// Bytes of activation memory used.
    pub activation_bytes: usize,
    /// The number of phases.
    pub phases: usize,
    /// Whether it draws ε for a σ̂ path.
    pub sigma: bool,
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
    /// Cleans one sample's layer output in place: quantises it, runs the program and dequantises what it returns. An output
    /// of several images (tokens that share the batch axis) is cleaned image by image.
    ///
    /// The tile's registers run on from sample to sample; here they are seeded anew by the key, so that a sample's result does
    /// not depend on the samples, batches and threads before it. Without a key ε = 0.
    pub fn denoise(&self, x: &mut [f32], sample: u64, key: Option<Key>) {
        let layer = layer_hash(&self.layer);
        let len = self.shape.iter().product::<usize>().max(1);
        for (image, x) in x.chunks_exact_mut(len).enumerate() {
            let draw = key.map_or(Draw::Nothing, |key| {
                let mut words =
                    vec![key.seed, key.purpose as u64, u64::from(key.pass), u64::from(key.chip), layer, sample];
                words.extend((image > 0).then_some(image as u64));
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                Draw::Keyed(xxhash_rust::xxh3::xxh3_64(&bytes))
            });
            let words: Vec<i16> = x.iter().map(|value| fixed::quantise(*value, self.input_fraction)).collect();
            for (value, word) in x.iter_mut().zip(self.run(&words, draw)) {
                *value = fixed::dequantise(word, self.output_fraction);
            }
        }
    }
}

/// What a program costs per sample, as its schedule, made for the same profile, says.
///
/// # Errors
///
/// When the cost model gives what is no cost.
pub fn cost<P, B>(
    program: &TileProgram,
    schedule: &Schedule<P, B>,
    costs: Costs<'_>,
) -> Result<DenoiserCost, CostError> {
    let works: Vec<Work> = schedule.phases.iter().map(|phase| phase.work).collect();
    let together = costs.together(DigitalPart::Denoiser(&program.layer), &works)?;
    let mut unit_cycles = BTreeMap::<_, u64>::new();
    for (work, cycles) in works.iter().zip(&together.cycles) {
        let sum = unit_cycles.entry(work.unit().name()).or_default();
        *sum = sum.saturating_add(*cycles);
    }
    let cycles = together.all_cycles();
    Ok(DenoiserCost {
        layer: program.layer.clone(),
        cycles,
        microseconds: cycles as f64 / costs.hardware.clock_mhz,
        nanojoules: together.picojoules / 1e3,
        unit_cycles,
        activity: schedule.activity(costs.hardware),
        weight_bytes: 2 * program.weights.len(),
        activation_bytes: 2 * program.activation_words,
        phases: schedule.phases.len(),
        sigma: program.generator.is_some(),
    })
}
