//! `rank-sensitivity`: measures every analog layer on the clean model and ranks it by its loss gradient.
//!
//! ```mlir
//! %1 = "analog.conv2d"(…) {layer = "conv1", …}
//! // becomes
//! %1 = "analog.conv2d"(…) {layer = "conv1", calibration = {absmax = …, input_absmax = …, mean_abs = …, rms = …,
//!   samples = 512 : i64, std = …}, gradient_norm = 0.25 : f64, rank = 0 : i64, …}
//! ```
//!
//! `gradient_norm` is the mean over the samples of ‖∂L/∂y‖₂ per sample, `rank` 0 for the largest. Without data the
//! inputs are standard normal; without labels the clean model's own predictions serve.

use crate::{
    measuring::{self, Measuring, Ready, unless_stopped},
    pass::{CalibrationRun, OptionError, Options, Pass, PassContext, PassError},
};
use melior::{
    Context,
    ir::operation::{OperationLike, OperationMutLike},
};
use mxc_dialects::{
    analog::{self, AnalogOp, Calibration},
    erase::ModuleMut,
    ffi,
    ir::{self, DictionaryValue},
};
use mxc_runtime::{
    error::ExecError,
    exec::{Batch, Executor, Key, Mode, samples},
    kernels::pool::argmax,
};

/// Below this accuracy on calibration data the preprocessing is more likely wrong than the model bad.
const SUSPICIOUS_PERCENT: f64 = 40.0;

/// See the module.
pub struct RankSensitivity(Measuring);

impl Pass for RankSensitivity {
    const NAME: &'static str = "rank-sensitivity";
    const DESCRIPTION: &'static str =
        "calibrates every analog layer and ranks it by its loss gradient on the clean model";
    const OPTIONS: &'static [(&'static str, &'static str)] = &[
        ("samples", "samples to run (default 512, without data 64)"),
        measuring::OPTIONS[0],
        measuring::OPTIONS[1],
        measuring::OPTIONS[2],
    ];

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        Measuring::from_options(options).map(Self)
    }

    fn run<'c>(
        &mut self,
        context: &'c Context,
        module: &mut ModuleMut<'c, '_>,
        cx: &mut PassContext,
    ) -> Result<(), PassError> {
        let layers = AnalogOp::all(module);
        if layers.is_empty() {
            cx.warnings.push("rank-sensitivity: there is no analog layer to rank".to_owned());
            return Ok(());
        }
        let Ready { executor, samples, synthetic, seed } = self.0.ready(module, cx)?;
        let inputs: Vec<&[f32]> = samples.inputs.iter().map(Vec::as_slice).collect();
        let batch = Batch { inputs: &inputs, samples: &samples.indices };
        let cut = samples::Samples::new(batch, 0..samples.indices.len());
        let names: Vec<String> = executor.program().layers().iter().map(|layer| layer.name.clone()).collect();
        let count = samples.indices.len();
        cx.reports.calibration = Some(CalibrationRun { synthetic, samples: count, seed });
        let predicted = predictions(&executor, &cut, seed, cx)?;
        if synthetic {
            cx.warnings.push(format!(
                "no data: calibrated and ranked on {count} synthetic inputs, labelled by the clean model itself"
            ));
        }
        if !synthetic && samples.labels.is_none() {
            cx.warnings.push("the data has no labels: ranked by the clean model's own predictions".to_owned());
        }
        if let Some(labels) = &samples.labels {
            let right = predicted.iter().zip(labels).filter(|(a, b)| a == b).count();
            let percent = 100.0 * right as f64 / count as f64;
            if percent < SUSPICIOUS_PERCENT {
                cx.warnings.push(format!(
                    "the clean model classifies only {percent:.0} % of the calibration samples right: \
                     check --mean, --std and the order of the classes"
                ));
            }
        }

        let labels = samples.labels.as_ref().unwrap_or(&predicted);
        let measured = measure(&executor, &cut, labels, cx)?;
        let measured: Vec<(&String, Measured)> = names.iter().zip(measured).collect();
        annotate(context, &layers, &measured)
    }
}

/// What the samples show of a layer.
#[derive(Clone, Copy)]
struct Measured {
    norm: f64,
    calibration: Calibration,
}

/// Runs the samples through the network, once for the layers' gradients and once for their outputs; by layer.
fn measure(
    executor: &Executor,
    samples: &samples::Samples<'_>,
    labels: &[u32],
    cx: &PassContext,
) -> Result<Vec<Measured>, PassError> {
    let failed = |error: ExecError| PassError::new(error.to_string());
    // The executor asks for one batch after another: none are left once the caller wants it to stop.
    let all = || samples.batches().take_while(|_| !cx.is_stopped());
    let sums = executor.sensitivity(&mut all(), labels);
    unless_stopped(cx)?;
    let calibrations = executor.calibrate(&mut all());
    unless_stopped(cx)?;
    let (sums, calibrations) = (sums.map_err(failed)?, calibrations.map_err(failed)?);
    let count = samples.len() as f64;
    let measured = sums.into_iter().zip(calibrations);
    Ok(measured.map(|(sum, calibration)| Measured { norm: sum / count, calibration }).collect())
}

/// Leaves on every layer what was measured, by its name, and its rank.
fn annotate<'c>(
    context: &'c Context,
    layers: &[AnalogOp<'c, '_>],
    measured: &[(&String, Measured)],
) -> Result<(), PassError> {
    let mut order: Vec<usize> = (0..measured.len()).collect();
    // Equal norms keep the order of execution.
    order.sort_by(|a, b| measured[*b].1.norm.total_cmp(&measured[*a].1.norm).then(a.cmp(b)));
    for op in layers {
        let layer = op.layer();
        let index = measured.iter().position(|(name, _)| **name == layer);
        let rank = index.and_then(|index| order.iter().position(|ranked| *ranked == index));
        let (Some(index), Some(rank)) = (index, rank) else {
            return Err(PassError::new(format!("layer \"{layer}\" was not executed")).at(op.operation().location()));
        };
        let Measured { norm, calibration } = measured[index].1;
        if !(norm.is_finite() && calibration.absmax.is_finite() && calibration.rms.is_finite()) {
            return Err(PassError::new(format!(
                "layer \"{layer}\" is not finite on the clean model (rms or gradient)"
            ))
            .at(op.operation().location())
            .hint("check the model's weights and the preprocessing of its inputs"));
        }
        let mut operation = ffi::as_mut(op.operation());
        operation.set_attribute(analog::CALIBRATION, calibration.to_attribute(context));
        operation.set_attribute(analog::GRADIENT_NORM, ir::float(context, norm));
        operation.set_attribute(analog::RANK, ir::integer(context, rank as i64));
    }
    Ok(())
}

/// The clean model's class per sample.
fn predictions(
    executor: &Executor,
    samples: &samples::Samples<'_>,
    seed: u64,
    cx: &PassContext,
) -> Result<Vec<u32>, PassError> {
    let key = Key::calibration(seed, 0);
    let mut labels = Vec::with_capacity(samples.len());
    for batch in samples.batches() {
        unless_stopped(cx)?;
        let logits = executor.logits(batch, Mode::CLEAN, key).map_err(|error| PassError::new(error.to_string()))?;
        let classes = (logits.len() / batch.samples.len().max(1)).max(1);
        labels.extend(logits.chunks_exact(classes).map(argmax));
    }
    Ok(labels)
}
