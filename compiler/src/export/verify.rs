//! The check of an export before it is written: its graph, read by mxc's own importer, computes what the package does.

use super::ExportError;
use crate::import::{self, ImportOptions};
use crate::load;
use mxc_runtime::{
    exec::{Batch, Executor, Key, Mode, Purpose},
    program::{DType, Op, Program, Unary},
};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use rand_distr::{Distribution, StandardNormal};
use std::path::Path;

/// How many random samples are compared.
const SAMPLES: usize = 3;
/// The largest difference in an output, of its largest element: f32 sums in another order differ by less.
const TOLERANCE: f64 = 1e-4;

/// What an export was found to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verified {
    /// How many random samples were compared.
    pub samples: usize,
    /// The largest difference in any output, of that output's largest element.
    pub difference: f64,
    /// Whether the network rounds, so that tiny differences may become whole steps of a quantiser.
    pub rounds: bool,
}

/// Compares an exported model with a package's program on random inputs. External data is looked up in `folder`.
pub(super) fn verify(exported: &[u8], folder: &Path, program: &Program) -> Result<Verified, ExportError> {
    let differs = |reason: String| ExportError::Differs { reason };
    let shapes = program.inputs().iter().map(|&input| {
        let value = &program.values()[input];
        (value.name.clone(), value.shape.iter().map(|size| size.unwrap_or(1)).collect())
    });
    let options = ImportOptions {
        input_shapes: shapes.collect(),
        max_constant_bytes: Some(import::MAX_CONSTANT_BYTES),
        ..ImportOptions::default()
    };
    let context = mxc_dialects::new_context();
    let imported = import::onnx_bytes(&context, exported, "the exported model", folder, &options)?;
    let own = load::program(&imported.module, &imported.weights).map_err(|error| differs(error.to_string()))?;
    let rounds = program
        .nodes()
        .iter()
        .any(|node| matches!(node.op, Op::Unary(Unary::Round | Unary::Quantize { .. }) | Op::Cast(_)));
    let whole = program.inputs().iter().all(|&input| !program.values()[input].shape.contains(&None));
    let samples = if whole { 1 } else { SAMPLES };
    let inputs = random(program, samples);
    let slices: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let indices: Vec<u64> = (0..samples as u64).collect();
    let run = |program: Program| {
        let key = Key { seed: 0, purpose: Purpose::Eval, pass: 0, chip: 0 };
        let executor = Executor::new(program, 1)?;
        executor.forward(Batch { inputs: &slices, samples: &indices }, Mode::CLEAN_DENOISED, key)
    };
    let outputs =
        program.outputs().iter().map(|&output| (program.values()[output].name.clone(), program.values()[output].dtype));
    let outputs: Vec<_> = outputs.collect();
    let package = run(program.clone()).map_err(|error| differs(error.to_string()))?;
    let found = run(own).map_err(|error| differs(error.to_string()))?;
    if package.len() != found.len() {
        return Err(differs(format!("it has {} outputs, the package {}", found.len(), package.len())));
    }
    let mut largest: f64 = 0.0;
    for ((name, dtype), (a, b)) in outputs.into_iter().zip(package.iter().zip(&found)) {
        if a.len() != b.len() {
            return Err(differs(format!("output '{name}' has {} elements, in the package {}", b.len(), a.len())));
        }
        let difference = match dtype {
            DType::F32 => difference(a, b),
            // Classes and masks flip where two logits are as good as equal.
            _ => 0.0,
        };
        if difference > TOLERANCE && !(rounds && difference.is_finite() && typical(a, b) <= TOLERANCE) {
            return Err(differs(format!("output '{name}' differs by {difference:.1e} of its largest element")));
        }
        largest = largest.max(difference);
    }
    Ok(Verified { samples, difference: largest, rounds })
}

/// Standard normal floats, small integers.
fn random(program: &Program, samples: usize) -> Vec<Vec<f32>> {
    let mut draws = Xoshiro256PlusPlus::seed_from_u64(0);
    program
        .inputs()
        .iter()
        .map(|&input| {
            let value = &program.values()[input];
            let count = samples * value.shape.iter().map(|size| size.unwrap_or(1)).product::<usize>();
            match value.dtype {
                DType::F32 => (0..count).map(|_| StandardNormal.sample(&mut draws)).collect(),
                dtype => dtype.encode(&(0..count).map(|_| draws.random_range(0..4)).collect::<Vec<i64>>()),
            }
        })
        .collect()
}

/// The largest difference of two arrays, of the largest element; NaN and infinities must be in the same places.
fn difference(a: &[f32], b: &[f32]) -> f64 {
    let largest =
        a.iter().filter(|value| value.is_finite()).fold(0.0f64, |most, value| most.max(f64::from(value.abs())));
    let apart = a.iter().zip(b).map(|(&a, &b)| match a == b || a.is_nan() && b.is_nan() {
        true => 0.0,
        false if a.is_finite() && b.is_finite() => f64::from((a - b).abs()),
        false => f64::INFINITY,
    });
    apart.fold(0.0, f64::max) / largest.max(f64::MIN_POSITIVE)
}

/// The median difference of two arrays, of the largest element: what quantisers' flips leave alone.
fn typical(a: &[f32], b: &[f32]) -> f64 {
    let largest = a.iter().fold(0.0f64, |most, value| most.max(f64::from(value.abs())));
    let mut apart: Vec<f64> = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).collect();
    let middle = apart.len() / 2;
    if apart.is_empty() {
        return 0.0;
    }
    let (_, median, _) = apart.select_nth_unstable_by(middle, f64::total_cmp);
    *median / largest.max(f64::MIN_POSITIVE)
}
