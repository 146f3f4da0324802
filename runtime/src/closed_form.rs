//! Denoisers in closed form: fitted to the clean network's own outputs on a few samples without labels, in seconds and without
//! gradients.
//!
//! Layer by layer in the order of execution, each sees what the fitted ones before it leave. An affine X̂ = a·X + b takes, per channel,
//! the scale and shift that give its noisy input the mean and the standard deviation of γ times the clean output: unlike least
//! squares, which shrinks every channel, that does not compound over many layers. A gain γ above 1 lifts the signal above the noise
//! of the next layer where its converter has the range; it is chosen, as whether the fit is taken at all, by the distillation loss of
//! samples that were not fitted.

use crate::{
    error::ExecError,
    exec::{
        Batch, Executor, Key, Mode, Purpose,
        layerwise::{Denoiser, Fit},
        samples::{Samples, halves},
    },
    measure::{Part, agreement::Teacher, channels::ChannelSums},
    program::{Layer, LayerId, Program, ValueId},
};
use mxc_spec::{denoise::expression::Primitive, noise::Scale};

/// What was fitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// The gain γ; `None` where no fit was better than the denoisers as they were, which are then left alone.
    pub gain: Option<f64>,
    /// The distillation loss of the judging samples before.
    pub before: f64,
    /// And after, with the denoisers that were fitted on the other samples.
    pub after: f64,
}

/// The gains that are tried where the range limits them.
const GAINS: [f64; 4] = [1.0, 1.25, 1.5, 2.0];

/// Fits a calibrated program's affines on samples without labels: on half of them with every gain, judged on the other half, then
/// with the best gain on all. Denoisers of other kinds stay as they are. Of more samples than fit 2 GiB of values the first are taken.
///
/// # Errors
///
/// When the program cannot be run.
pub fn fit(
    executor: &mut Executor,
    batch: Batch<'_>,
    seed: u64,
    stopped: &dyn Fn() -> bool,
) -> Result<Fitted, ExecError> {
    let count = batch.samples.len().min(fitting(executor.program()));
    let [fitted, judging] = halves(count);
    let key = |pass: u32| Key { seed, purpose: Purpose::Calibrate, pass, chip: 0 };
    let teacher = Teacher::new(executor, Samples::new(batch, judging), key(0))?;
    let judge = |executor: &Executor| teacher.loss(executor, Mode::DENOISED, key(0));
    let before = judge(executor)?;
    let start = weights(executor);
    let layers = executor.program().layers().to_vec();
    let (mut gain, mut after) = (None, before);
    let [half, all] = [fitted, 0..count].map(|places| Samples::whole(batch, places));
    for &tried in gains(&layers) {
        if stopped() {
            return Err(ExecError::Input("stopped".to_owned()));
        }
        run(executor, &half, key(1), &layers, tried)?;
        let loss = judge(executor)?;
        if loss < after {
            (gain, after) = (Some(tried), loss);
        }
    }
    match gain {
        Some(gain) => run(executor, &all, key(2), &layers, gain)?,
        None => start.iter().try_for_each(|(value, values)| executor.set_weight(*value, values))?,
    }
    Ok(Fitted { gain, before, after })
}

/// How many samples' values fit the memory at a time: those that a layer reads, computes and adds to, clean and noisy.
fn fitting(program: &Program) -> usize {
    const BYTES: usize = 2 << 30;
    let values = program.values().iter().filter(|value| value.constant.is_none());
    let largest = values.map(|value| value.words() * size_of::<f32>()).max().unwrap_or(0);
    (BYTES / (2 * 3 * largest).max(1)).max(2)
}

/// Where nothing limits the amplitude a gain would always pay, which no converter allows; where the noise follows the signal it
/// never does.
fn gains(layers: &[Layer]) -> &'static [f64] {
    match layers.iter().all(|layer| layer.noise.scale == Scale::Range) {
        true => &GAINS,
        false => &GAINS[..1],
    }
}

/// The denoisers' weights.
fn weights(executor: &Executor) -> Vec<(ValueId, Vec<f32>)> {
    let values = executor.program().values().iter().enumerate();
    values.filter(|(_, value)| value.trainable).map(|(id, _)| (id, executor.weight(id).to_vec())).collect()
}

/// Fits on samples that are one batch.
fn run(executor: &mut Executor, whole: &Samples<'_>, key: Key, layers: &[Layer], gain: f64) -> Result<(), ExecError> {
    let fit = Moments { channels: layers.iter().map(|layer| layer.channels).collect(), gain };
    whole.batches().try_for_each(|batch| executor.fit_denoisers(batch, key, &fit))
}

/// Fits affines by their moments.
struct Moments {
    /// By layer.
    channels: Vec<usize>,
    gain: f64,
}

impl Moments {
    /// The last layer's outputs are the logits, whose scale the loss looks at.
    fn gain(&self, layer: LayerId) -> f64 {
        if layer + 1 == self.channels.len() { 1.0 } else { self.gain }
    }
}

impl Fit for Moments {
    type Sums = [ChannelSums; 2];

    fn wants(&self, denoiser: &Denoiser) -> bool {
        let terms = denoiser.kind.expression().terms();
        matches!(terms, [x, affine] if matches!(x.primitive, Primitive::Input)
            && matches!(affine.primitive, Primitive::ScaleShift { scale: Some(0), shift: 1, .. }))
    }

    fn sums(&self, denoiser: &Denoiser, clean: &[f32], noisy: &[f32]) -> [ChannelSums; 2] {
        [clean, noisy].map(|values| ChannelSums::of(values, self.channels[denoiser.layer]))
    }

    fn solve(&self, denoiser: &Denoiser, sums: Vec<[ChannelSums; 2]>) -> Vec<Vec<f32>> {
        let mut totals = [ChannelSums::default(), ChannelSums::default()];
        sums.iter().for_each(|parts| totals.iter_mut().zip(parts).for_each(|(total, part)| total.add(part)));
        let gain = self.gain(denoiser.layer);
        let affine = |([clean_mean, clean], [noisy_mean, noisy]): ([f64; 2], [f64; 2])| {
            // A channel that is constant under noise has no scale to fit.
            let scale = if noisy > 0.0 { gain * (clean / noisy).sqrt() } else { gain };
            [scale, gain * clean_mean - scale * noisy_mean]
        };
        let [clean, noisy] = &totals;
        let (scale, shift) =
            clean.moments().zip(noisy.moments()).map(affine).map(|[a, b]| (a as f32, b as f32)).unzip();
        vec![scale, shift]
    }
}
