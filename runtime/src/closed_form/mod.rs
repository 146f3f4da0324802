//! Denoisers in closed form: fitted to the clean network's own outputs on a few samples without labels, in seconds and without
//! gradients.
//!
//! Layer by layer in the order of execution, each sees what the fitted ones before it leave. An affine X̂ = a·X + b takes, per channel,
//! the scale and shift that give its noisy input the mean and the standard deviation of γ times the clean output: unlike least
//! squares, which shrinks every channel, that does not compound over many layers. A gain γ above 1 lifts the signal above the noise
//! of the next layer where its converter has the range. A bias gives the mean alone. A filter of every channel and a way through fewer
//! channels, which are added to the noisy input, take the weights that bring it closest to the clean output, in the mean square
//! (`filter.rs`, `wiener.rs`), as far as the weights of one half of the samples do on the other half.
//!
//! Noise that a ReLU has passed has a mean, which denoisers take away again, and which is missing where there is no noise: what is
//! fitted under the noise alone bends the network without noise. Where every sample runs under less of it, too, it is bent less.
//!
//! These levels of noise, the gain, whether blocks are fitted, and whether a fit is taken at all are chosen by samples that were not
//! fitted: by their distillation loss under noise, and half of that without it.

mod filter;
pub(crate) mod form;
mod gain;
mod linear;
mod wiener;
pub mod worth;

use crate::{
    error::ExecError,
    exec::{
        Batch, Executor, Key,
        layerwise::{Denoiser, Fit},
        samples::{Samples, first_of_halves, halves},
    },
    measure::{Part, channels::ChannelSums, curvature::Slopes},
    program::{LayerId, Op, Program, ValueId},
    search::Judge,
};
use form::{Bottleneck, Form};
use mxc_spec::{denoise::expression::Site, noise::Scale};
use nalgebra::{DMatrix, DVector};
use std::collections::BTreeSet;

/// What was fitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// How many samples it was fitted on: half of them, judged by the others, then all.
    pub samples: usize,
    /// The gain γ; `None` where no fit was better than the denoisers as they were, which are then left alone.
    pub gain: Option<f64>,
    /// The levels of noise that it was fitted under, every sample under both, as shares of the noise as it is: all of it, and as much
    /// or less.
    pub levels: [f64; 2],
    /// The judging samples' distillation loss under noise, and half of that without it added, before.
    pub before: f64,
    /// And after, with the denoisers that were fitted on the other samples.
    pub after: f64,
}

/// The most channels of a layer whose bottleneck is fitted: the moments of all pairs of channels take memory and time.
const WIDEST: usize = 1024;

/// The levels of noise that are tried.
const LEVELS: [[f64; 2]; 3] = [[1.0, 1.0], [1.0, 0.5], [1.0, 0.0]];

/// The gains that are tried where the range limits them.
const GAINS: [f64; 4] = [1.25, 1.5, 2.0, 3.0];

/// Fits a calibrated program's denoisers on samples without labels: on half of them under all levels of noise and with
/// all gains, judged on the other half, then as was best on all. Denoisers of other forms, and bottlenecks of more than 1,024 channels,
/// stay as they are. Of more samples than [`Executor::fitting`] allows the first of either half are taken.
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
    let most = executor.fitting(batch.samples.len(), LEVELS[0].len())?;
    let cut = (batch.samples.len() > most).then(|| first_of_halves(batch, most));
    let inputs: Vec<&[f32]> = cut.iter().flat_map(|(inputs, _)| inputs.iter().map(Vec::as_slice)).collect();
    let batch = cut.as_ref().map_or(batch, |(_, samples)| Batch { inputs: &inputs, samples });
    let count = batch.samples.len();
    let [fitted, judging] = halves(count);
    let key = |pass: u32| Key::calibration(seed, pass);
    let forms = Forms::of(executor.program());
    let curvature = match forms.bottlenecks {
        true => executor.curvature(&mut Samples::new(batch, fitted.clone()).batches(), key(3))?,
        false => Vec::new(),
    };
    let judge = Judge::new(executor, Samples::new(batch, judging), seed, stopped)?;
    let before = judge.both(executor, f64::INFINITY)?;
    let start = weights(executor);
    let layers = executor.program().layers().len();
    let [half, all] = [fitted, 0..count].map(|places| Samples::whole(batch, places));
    let run = |executor: &mut Executor, samples: &Samples<'_>, key: Key, choice: Option<&Choice>| {
        start.iter().try_for_each(|(value, values)| executor.set_weight(*value, values))?;
        let Some(choice) = choice else {
            return Ok(());
        };
        let fit = Estimator { choice, curvature: &curvature, scaled: &forms.scaled };
        samples.batches().try_for_each(|batch| executor.fit_denoisers(batch, key, &fit, stopped))
    };
    let (mut best, mut after) = (None, before);
    // What already loses under noise need not be run without it: `limit` is what the caller compares with.
    let mut attempt = |executor: &mut Executor, choice: Choice, limit: f64, best: &mut Option<Choice>| {
        judge.unless_stopped()?;
        run(executor, &half, key(1), Some(&choice))?;
        let loss = judge.both(executor, limit.max(after))?;
        if loss < after {
            (*best, after) = (Some(choice), loss);
        }
        Ok::<f64, ExecError>(loss)
    };
    let plain = Choice::plain(layers);
    // The levels that are best without a gain serve with it, and come back.
    let mut search = |executor: &mut Executor, plain: Choice, levels: &[[f64; 2]], best: &mut Option<Choice>| {
        let (mut plain, mut alone) = (plain, f64::INFINITY);
        for &levels in levels {
            let choice = Choice { levels, ..plain.clone() };
            let loss = attempt(executor, choice.clone(), alone, best)?;
            if loss < alone {
                (plain, alone) = (choice, loss);
            }
        }
        let scales = plain.rescaled || !forms.scaled.is_empty();
        for reach in if scales { reaches(executor.program(), plain.rescaled) } else { Vec::new() } {
            let mut last = alone;
            for gain in GAINS {
                let gains = reach.iter().map(|&gains| if gains { gain } else { 1.0 }).collect();
                let loss = attempt(executor, Choice { gains, ..plain.clone() }, last, best)?;
                // It falls as far as the range lets it, and then rises.
                if loss >= last {
                    break;
                }
                last = loss;
            }
        }
        Ok::<[f64; 2], ExecError>(plain.levels)
    };
    let mut levels = LEVELS.to_vec();
    if forms.filters {
        let choice = Choice { blocks: true, rescaled: true, ..plain.clone() };
        levels = vec![search(executor, choice, &levels, &mut best)?];
    }
    if forms.affines {
        search(executor, plain.clone(), &levels, &mut best)?;
    }
    if forms.blocks {
        // Only what is rescaled takes a gain.
        let choice = best.clone().filter(|choice| !choice.rescaled).unwrap_or(plain);
        attempt(executor, Choice { blocks: true, ..choice }, 0.0, &mut best)?;
    }
    run(executor, &all, key(2), best.as_ref())?;
    let levels = best.as_ref().map_or([1.0; 2], |choice| choice.levels);
    Ok(Fitted { samples: count, gain: best.map(|choice| choice.gain()), levels, before, after })
}

/// What is fitted, and how.
#[derive(Clone, Debug)]
struct Choice {
    /// Of noise: every sample runs under both.
    levels: [f64; 2],
    /// By layer, the gain of its output.
    gains: Vec<f64>,
    blocks: bool,
    /// Whether filters with no affine behind them give their outputs the clean deviation, as affines do.
    rescaled: bool,
}

impl Choice {
    /// Affines alone, under the noise as it is.
    fn plain(layers: usize) -> Self {
        Self { levels: [1.0; 2], gains: vec![1.0; layers], blocks: false, rescaled: false }
    }

    /// The gain where there is one.
    fn gain(&self) -> f64 {
        self.gains.iter().copied().fold(1.0, f64::max)
    }
}

/// Sets of layers that a gain is tried on, by layer: those where all that is computed of their outputs grows too, and all, where the
/// next denoisers may mend what a gain bends; the last layer's outputs are the logits, whose scale the loss looks at. Where nothing
/// limits the amplitude a gain would always pay, which no converter allows; where the noise follows the signal it never does.
///
/// A gain for every layer by itself, found by the same loss one after the other, fits the few samples that judge: on the
/// ResNet-20-style network it took a fifth off their loss, and nothing off that of others.
fn reaches(program: &Program, filters: bool) -> Vec<Vec<bool>> {
    let layers = program.layers();
    if layers.iter().any(|layer| layer.noise.scale != Scale::Range) {
        return Vec::new();
    }
    let mut reaches =
        vec![gain::free(program, filters), (1..=layers.len()).map(|number| number < layers.len()).collect()];
    reaches.dedup();
    reaches.retain(|reach| reach.contains(&true));
    reaches
}

/// Which forms a program's denoisers have.
#[derive(Clone, Debug, Default)]
struct Forms {
    affines: bool,
    /// The layers of affines that scale.
    scaled: BTreeSet<LayerId>,
    blocks: bool,
    /// Filters with no affine behind them.
    filters: bool,
    bottlenecks: bool,
}

impl Forms {
    fn of(program: &Program) -> Self {
        let mut forms = Self::default();
        let mut filtered = BTreeSet::new();
        for node in program.nodes() {
            let Op::Denoise(denoise) = &node.op else {
                continue;
            };
            match form::of(denoise.kind.expression()) {
                Some(Form::Affine { scale, .. }) => {
                    forms.affines = true;
                    forms.scaled.extend(scale.map(|_| denoise.layer));
                }
                Some(Form::Filter { .. }) => {
                    forms.blocks = true;
                    filtered.insert(denoise.layer);
                }
                Some(Form::Bottleneck(_)) => (forms.blocks, forms.bottlenecks) = (true, true),
                None => {}
            }
        }
        forms.filters = !filtered.is_subset(&forms.scaled);
        forms
    }
}

/// The denoisers' weights.
fn weights(executor: &Executor) -> Vec<(ValueId, Vec<f32>)> {
    let values = executor.program().values().iter().enumerate();
    values.filter(|(_, value)| value.trainable).map(|(id, _)| (id, executor.weight(id).to_vec())).collect()
}

/// How much of a correction to take that gains so much (the sum of its products with what is lacking) at such a power of its own: the
/// share that leaves the least error, from nothing to all of it.
fn shrink(gained: f64, power: f64) -> f64 {
    if power > 0.0 { (gained / power).clamp(0.0, 1.0) } else { 0.0 }
}

/// Fits denoisers by their forms.
struct Estimator<'a> {
    choice: &'a Choice,
    /// By layer, for bottlenecks.
    curvature: &'a [Slopes],
    /// The layers of affines that scale.
    scaled: &'a BTreeSet<LayerId>,
}

/// What the forms need; of both halves of the samples where they judge each other.
enum Sums {
    Moments([ChannelSums; 2]),
    Filter([filter::Sums; 2]),
    Wiener([wiener::Sums; 2]),
}

impl Sums {
    fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Moments(sums), Self::Moments(others)) => {
                sums.iter_mut().zip(others).for_each(|(sums, other)| sums.add(other));
            }
            (Self::Filter(sums), Self::Filter(others)) => {
                sums.iter_mut().zip(others).for_each(|(sums, other)| sums.merge(other));
            }
            (Self::Wiener(sums), Self::Wiener(others)) => {
                sums.iter_mut().zip(others).for_each(|(sums, other)| sums.merge(other));
            }
            // A denoiser's parts are all of its form.
            (Self::Moments(_) | Self::Filter(_) | Self::Wiener(_), _) => {}
        }
    }
}

impl Estimator<'_> {
    /// The form of a denoiser, if it is one of those that are fitted.
    fn form(&self, denoiser: &Denoiser) -> Option<Form> {
        form::of(denoiser.kind.expression()).filter(|form| match form {
            Form::Affine { .. } => true,
            Form::Filter { .. } => self.choice.blocks,
            Form::Bottleneck(_) => self.choice.blocks && denoiser.site.channels <= WIDEST,
        })
    }
}

impl Fit for Estimator<'_> {
    type Sums = Sums;

    fn levels(&self) -> &[f64] {
        &self.choice.levels
    }

    fn start(&self, denoiser: &Denoiser) -> Option<Sums> {
        let Site { channels, .. } = denoiser.site;
        let taps = denoiser.site.taps().pow(2);
        Some(match self.form(denoiser)? {
            Form::Affine { .. } => Sums::Moments(Default::default()),
            Form::Filter { .. } => Sums::Filter([(); 2].map(|()| filter::Sums::new(taps, channels))),
            Form::Bottleneck(_) => Sums::Wiener([(); 2].map(|()| wiener::Sums::new(channels))),
        })
    }

    fn add(&self, denoiser: &Denoiser, sums: &mut Sums, place: usize, clean: &[f32], noisy: &[f32]) {
        let half = place % 2;
        let lacks = || -> Vec<f32> { clean.iter().zip(noisy).map(|(clean, noisy)| clean - noisy).collect() };
        match sums {
            Sums::Moments(sums) => {
                let of = |values| ChannelSums::of(values, denoiser.site.channels);
                sums.iter_mut().zip([clean, noisy]).for_each(|(sums, values)| sums.add(&of(values)));
            }
            Sums::Filter(sums) => {
                sums[half].add(filter::image(denoiser, denoiser.site), noisy, &lacks());
            }
            Sums::Wiener(sums) => sums[half].add(noisy, &lacks()),
        }
    }

    fn solve(&self, denoiser: &Denoiser, parts: Vec<Sums>) -> Vec<(usize, Vec<f32>)> {
        let mut parts = parts.into_iter();
        let (Some(form), Some(mut total)) = (self.form(denoiser), parts.next()) else {
            return Vec::new();
        };
        parts.for_each(|part| total.merge(&part));
        match (form, total) {
            (Form::Affine { scale: Some(scale), shift }, Sums::Moments([clean, noisy])) => {
                let [a, b] = moments(&clean, &noisy, self.choice.gains[denoiser.layer]);
                vec![(scale, a), (shift, b)]
            }
            (Form::Affine { scale: None, shift }, Sums::Moments([clean, noisy])) => {
                let means = clean.moments().zip(noisy.moments());
                vec![(shift, means.map(|([clean, _], [noisy, _])| (clean - noisy) as f32).collect())]
            }
            (Form::Filter { weight, bias, subtracted }, Sums::Filter(halves)) => {
                let filters = filter::solve(&halves);
                let filters = match self.choice.rescaled && !self.scaled.contains(&denoiser.layer) {
                    true => filters.rescaled(&halves, self.choice.gains[denoiser.layer]),
                    false => filters,
                };
                let sign = if subtracted { -1.0 } else { 1.0 };
                let signed = |values: Vec<f64>| values.into_iter().map(|value| (sign * value) as f32).collect();
                let constants = bias.map(|bias| (bias, signed(filters.constants)));
                [(weight, signed(filters.taps))].into_iter().chain(constants).collect()
            }
            (Form::Bottleneck(form), Sums::Wiener(halves)) => match self.curvature.get(denoiser.layer) {
                Some(slopes) => bottleneck(&form, denoiser, &halves, slopes),
                None => Vec::new(),
            },
            // The sums are those that its form starts with.
            (Form::Affine { .. } | Form::Filter { .. } | Form::Bottleneck(_), _) => Vec::new(),
        }
    }
}

/// The scales and shifts that give noisy channels the means and deviations of `gain` times the clean ones.
fn moments(clean: &ChannelSums, noisy: &ChannelSums, gain: f64) -> [Vec<f32>; 2] {
    let affine = |([clean_mean, clean], [noisy_mean, noisy]): ([f64; 2], [f64; 2])| {
        // A channel that is constant under noise has no scale to fit.
        let scale = if noisy > 0.0 { gain * (clean / noisy).sqrt() } else { gain };
        (scale as f32, (gain * clean_mean - scale * noisy_mean) as f32)
    };
    let (scales, shifts) = clean.moments().zip(noisy.moments()).map(affine).unzip();
    [scales, shifts]
}

/// How many standard deviations below their mean the narrow channels are lifted above 0, so that LeakyReLUs let them pass.
const LIFT: f64 = 6.0;

/// A bottleneck's weights.
fn bottleneck(
    form: &Bottleneck,
    denoiser: &Denoiser,
    halves: &[wiener::Sums; 2],
    slopes: &Slopes,
) -> Vec<(usize, Vec<f32>)> {
    let parameters = denoiser.kind.expression().parameters();
    let len = |parameter: usize| parameters[parameter].layout.shape(denoiser.site).iter().product::<usize>();
    let Some(weight) = form.down[0] else {
        return Vec::new();
    };
    let rank = len(weight) / denoiser.site.channels.max(1);
    let Some(correction) = wiener::solve(halves, rank, form.up[1].is_some(), slopes) else {
        return Vec::new();
    };
    let sign = if form.subtracted { -1.0 } else { 1.0 };
    let lift = |[mean, deviation]: &[f64; 2]| if form.rectified { LIFT * deviation - mean } else { 0.0 };
    let lifts = DVector::from_iterator(rank, correction.narrow.iter().map(lift));
    let constant = &correction.constant - &correction.up * &lifts;
    // Rows of the transpose are columns, which lie one after the other.
    let rows = |matrix: &DMatrix<f64>| matrix.transpose().iter().map(|&value| value as f32).collect::<Vec<_>>();
    let vector = |vector: &DVector<f64>| vector.iter().map(|&value| value as f32).collect::<Vec<_>>();
    let mut weights = vec![
        (form.down[0], rows(&correction.down)),
        (form.down[1], vector(&lifts)),
        (form.up[0], rows(&(correction.up * sign))),
        (form.up[1], vector(&(constant * sign))),
    ];
    for &[filter, bias] in &form.filters {
        if let Some(filter) = filter {
            let mut taps = vec![0.0; len(filter)];
            let center = (taps.len() / rank.max(1)) / 2 * rank;
            taps[center..center + rank].fill(1.0);
            weights.push((Some(filter), taps));
        }
        weights.extend(bias.map(|bias| (Some(bias), vec![0.0; len(bias)])));
    }
    weights.extend(form.silent.iter().map(|&parameter| (Some(parameter), vec![0.0; len(parameter)])));
    weights.into_iter().filter_map(|(parameter, values)| Some((parameter?, values))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{Purpose, testing::Net};
    use mxc_spec::{
        denoise::{KINDS, Kind, Stage},
        noise::LayerNoise,
    };
    use std::{collections::BTreeMap, sync::Mutex};

    /// A residual network with one kind of denoiser, or with affines behind it, as they start: of heads that are zero.
    fn network(kind: &'static Kind, affines: bool) -> Program {
        let mut net = Net::new();
        // So much that there is something to take away.
        net.noise = LayerNoise { spec: "50%".parse().unwrap(), ..LayerNoise::default() };
        let x = net.input(&[8, 8, 3]);
        let layer = |net: &mut Net, x: ValueId| {
            let x = net.conv(x, 8, 3, 1, 1);
            let x = net.denoiser(kind, x, true, 0.0);
            if affines { net.affine(x) } else { x }
        };
        let x = layer(&mut net, x);
        let mut x = net.relu(x);
        for _ in 0..3 {
            let y = layer(&mut net, x);
            let sum = net.binary(crate::program::Binary::Add, x, y);
            x = net.relu(sum);
        }
        net.classify(x, 5)
    }

    /// The slopes of 8 channels whose errors all weigh the same.
    fn flat() -> Slopes {
        Slopes { squares: vec![1.0; 8], means: vec![0.0; 8], pixels: 1, samples: 1 }
    }

    /// Images of one color, brighter or darker from pixel to pixel: signals in few directions, which noise leaves.
    fn samples(count: usize) -> (Vec<f32>, Vec<u64>) {
        let mut numbers = Net::new();
        let color = numbers.randoms(3, 1.0);
        let brightness = numbers.randoms(count * 8 * 8, 2.0);
        let pixels = brightness.iter().flat_map(|&by| color.iter().map(move |&value| by * value));
        (pixels.collect(), (0..count as u64).collect())
    }

    /// The errors of what affines read: of what the blocks before them leave.
    #[derive(Default)]
    struct Errors(Mutex<Vec<f64>>);

    impl Fit for Errors {
        type Sums = f64;

        fn start(&self, denoiser: &Denoiser) -> Option<f64> {
            matches!(form::of(denoiser.kind.expression()), Some(Form::Affine { .. })).then_some(0.0)
        }

        fn add(&self, _: &Denoiser, sum: &mut f64, _: usize, clean: &[f32], noisy: &[f32]) {
            *sum += clean.iter().zip(noisy).map(|(clean, noisy)| f64::from(clean - noisy).powi(2)).sum::<f64>();
        }

        fn solve(&self, _: &Denoiser, parts: Vec<f64>) -> Vec<(usize, Vec<f32>)> {
            self.0.lock().unwrap().push(parts.iter().sum());
            Vec::new()
        }
    }

    /// Every block brings what it reads closer to the clean values, on images that it was not fitted on.
    #[test]
    fn every_block_is_fitted() {
        let (images, ids) = samples(96);
        let (fitted, others) = images.split_at(64 * 8 * 8 * 3);
        let [fitted, others] = [(fitted, &ids[..64]), (others, &ids[64..])];
        let key = Key { seed: 9, purpose: Purpose::Eval, pass: 0, chip: 0 };
        for kind in KINDS.into_iter().filter(|kind| kind.stage == Stage::Block) {
            let mut executor = Executor::new(network(kind, true), 2).unwrap();
            let errors = |executor: &mut Executor| {
                let errors = Errors::default();
                let batch = Batch { inputs: &[others.0], samples: others.1 };
                executor.fit_denoisers(batch, key, &errors, &|| false).unwrap();
                errors.0.into_inner().unwrap()
            };
            let before = errors(&mut executor);
            let batch = Batch { inputs: &[fitted.0], samples: fitted.1 };
            let curvature = vec![flat(); executor.program().layers().len()];
            let choice = Choice { blocks: true, ..Choice::plain(curvature.len()) };
            let start = weights(&executor);
            executor
                .fit_denoisers(
                    batch,
                    key,
                    &Estimator { choice: &choice, curvature: &curvature, scaled: &BTreeSet::new() },
                    &|| false,
                )
                .unwrap();
            // The blocks alone: affines as they were.
            let program = executor.program().clone();
            for (value, values) in start.iter().filter(|(value, _)| affine(&program, *value)) {
                executor.set_weight(*value, values).unwrap();
            }
            let after = errors(&mut executor);
            assert!(before.iter().zip(&after).all(|(before, after)| after < before), "{kind:?}: {before:?} {after:?}");
        }
    }

    /// Whether a weight is an affine's.
    fn affine(program: &Program, weight: ValueId) -> bool {
        program.nodes().iter().any(|node| {
            let Op::Denoise(denoise) = &node.op else {
                return false;
            };
            let is_affine = matches!(form::of(denoise.kind.expression()), Some(Form::Affine { .. }));
            is_affine && node.inputs[1..].contains(&weight)
        })
    }

    /// Affines help images that they were not fitted on, and come out the same on any number of threads.
    #[test]
    fn affines_are_fitted() {
        let (images, ids) = samples(64);
        let kind = Kind::named("mean").unwrap();
        let fitted = |threads: usize| {
            let mut executor = Executor::new(network(kind, true), threads).unwrap();
            // Its ranges are made up, and no affine brings back what they cut off.
            executor.change_layers(|layers| layers.iter_mut().for_each(|layer| layer.noise.scale = Scale::Constant));
            let fitted = fit(&mut executor, Batch { inputs: &[&images], samples: &ids }, 1, &|| false).unwrap();
            (fitted, weights(&executor))
        };
        let found = fitted(1);
        // Before there is no loss without noise, which counts half.
        assert!(found.0.gain.is_some() && found.0.after < 0.7 * found.0.before, "{:?}", found.0);
        assert!(found == fitted(3));
    }

    /// How far every sample was from the clean network behind the first layer, run by run.
    struct Runs<'a> {
        fit: Estimator<'a>,
        seen: Mutex<BTreeMap<usize, Vec<f64>>>,
    }

    impl Fit for Runs<'_> {
        type Sums = ();

        fn levels(&self) -> &[f64] {
            self.fit.levels()
        }

        fn start(&self, denoiser: &Denoiser) -> Option<()> {
            (denoiser.layer == 0).then_some(())
        }

        fn add(&self, _: &Denoiser, (): &mut (), place: usize, clean: &[f32], noisy: &[f32]) {
            let distance = clean.iter().zip(noisy).map(|(clean, noisy)| f64::from(clean - noisy).powi(2)).sum();
            self.seen.lock().unwrap().entry(place).or_default().push(distance);
        }

        fn solve(&self, _: &Denoiser, _: Vec<()>) -> Vec<(usize, Vec<f32>)> {
            Vec::new()
        }
    }

    /// Every sample runs under both levels of noise, and under two draws of it where they are the same.
    #[test]
    fn samples_see_both_levels() {
        let (images, ids) = samples(10);
        let mut executor = Executor::new(network(Kind::named("mean").unwrap(), false), 3).unwrap();
        // Without saturation, which there is without noise, too.
        executor.change_layers(|layers| layers.iter_mut().for_each(|layer| layer.noise.scale = Scale::Constant));
        let runs = |executor: &mut Executor, levels: [f64; 2]| -> Vec<Vec<f64>> {
            let choice = Choice { levels, ..Choice::plain(executor.program().layers().len()) };
            let fit = Estimator { choice: &choice, curvature: &[], scaled: &BTreeSet::new() };
            let runs = Runs { fit, seen: Mutex::default() };
            let batch = Batch { inputs: &[&images], samples: &ids };
            executor.fit_denoisers(batch, Key::calibration(1, 0), &runs, &|| false).unwrap();
            runs.seen.into_inner().unwrap().into_values().collect()
        };
        let [same, quiet] = [[1.0, 1.0], [1.0, 0.0]].map(|levels| runs(&mut executor, levels));
        assert_eq!([same.len(), quiet.len()], [10, 10]);
        assert!(same.iter().all(|run| run.len() == 2 && run[0] > 0.0 && run[1] > 0.0 && run[0] != run[1]), "{same:?}");
        assert!(quiet.iter().zip(&same).all(|(quiet, same)| *quiet == [same[0], 0.0]), "{quiet:?}");
    }

    /// What signals pass is the straight line: LeakyReLUs lift nothing off, and the paper's random part stays silent.
    #[test]
    fn a_bottleneck_is_linear() {
        let paper = Kind::named("paper").unwrap();
        let (images, ids) = samples(32);
        let mut executor = Executor::new(network(paper, false), 1).unwrap();
        let layers = executor.program().layers().len();
        let choice = Choice { blocks: true, ..Choice::plain(layers) };
        let curvature = vec![flat(); layers];
        let key = Key::calibration(1, 0);
        let batch = Batch { inputs: &[&images], samples: &ids };
        executor
            .fit_denoisers(
                batch,
                key,
                &Estimator { choice: &choice, curvature: &curvature, scaled: &BTreeSet::new() },
                &|| false,
            )
            .unwrap();
        let program = executor.program();
        let Some(Form::Bottleneck(form)) = form::of(paper.expression()) else {
            panic!("the paper's block is one");
        };
        for node in program.nodes().iter().filter(|node| matches!(node.op, Op::Denoise(_))) {
            let weight = |parameter: usize| executor.weight(node.inputs[1 + parameter]);
            assert!(form.silent.iter().all(|&silent| weight(silent).iter().all(|&value| value == 0.0)));
            let taps = weight(form.filters[0][0].unwrap());
            assert_eq!(taps.iter().sum::<f32>() as usize, taps.len() / 9, "the center of every filter");
            assert!(weight(form.down[1].unwrap()).iter().all(|&lift| lift > 0.0));
        }
    }
}
