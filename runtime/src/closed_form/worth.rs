//! What denoisers are worth before any is placed: how much of the loss their fit takes away.
//!
//! The loss that errors of a layer's output cause is, to second order, ½·Σ G·E[d²] over channels, with the loss's curvature G and what
//! the noisy output lacks, d. A denoiser d̂ takes ½·Σ G·(E[d²] − E[(d − d̂)²]) of it away. Where the network averages an image's elements, the mean
//! of their errors counts more than the rest: a filter that smooths takes away noise that would have been averaged out anyway. d̂ is fitted in closed form on one half of the samples and
//! its errors are taken on the other, and the other way round, so that what only fits its own samples is worth nothing. What a
//! layer reads is what affines behind all layers before it leave, which is closer to what it will read in the end than the
//! noise of a network with no denoiser at all.

use super::{
    filter,
    form::{self, Form},
    linear::{Linear, Moments},
    moments, shrink,
    wiener::{self, Corrections},
};
use crate::{
    error::ExecError,
    exec::{
        Batch, Executor, Key,
        layerwise::{Denoiser, Fit},
        samples::Samples,
    },
    measure::{Part, channels::ChannelSums, curvature::Slopes},
    sync::lock,
};
use mxc_spec::denoise::{Kind, expression::Site};
use nalgebra::DVector;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// A choice of denoisers for a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Worth {
    /// At most one kind of each stage, in the order in which they act.
    pub kinds: Vec<&'static Kind>,
    /// What of the loss they take away, in nats per sample.
    pub loss: f64,
}

/// What choices of denoisers are worth behind every layer of a calibrated program that has none, by layer. A choice is a block, an affine
/// or a bias, or a block with one of these behind it. Left out are kinds that have no closed form, choices of more than `most`
/// parameters, and bottlenecks on more than 1,024 channels.
///
/// # Errors
///
/// When the program cannot be run or has no gradients, or the caller wants no more.
pub fn measure(
    executor: &Executor,
    batch: Batch<'_>,
    choices: &[Vec<&'static Kind>],
    most: u64,
    seed: u64,
    stopped: &dyn Fn() -> bool,
) -> Result<Vec<Vec<Worth>>, ExecError> {
    let program = executor.program();
    let affine = Kind::named("affine").ok_or_else(|| ExecError::Program("there is no kind affine".to_owned()))?;
    let trial = program.cleaned(affine).map_err(|error| ExecError::Program(error.to_string()))?;
    let mut trial = Executor::new(trial, executor.threads())?;
    let count = trial.fitting(batch.samples.len(), 1)?;
    let samples = Samples::new(batch, 0..count);
    let curvature = executor.curvature(&mut samples.batches(), Key::calibration(seed, 3))?;
    let survey =
        Survey { choices, most, curvature: &curvature, worths: Mutex::new(vec![Vec::new(); program.layers().len()]) };
    for whole in Samples::whole(batch, 0..count).batches() {
        trial.fit_denoisers(whole, Key::calibration(seed, 2), &survey, stopped)?;
    }
    Ok(survey.worths.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Measures every layer where the trial's affines are fitted.
struct Survey<'a> {
    choices: &'a [Vec<&'static Kind>],
    most: u64,
    /// By layer.
    curvature: &'a [Slopes],
    worths: Mutex<Vec<Vec<Worth>>>,
}

/// What a layer's worths need, of both halves of the samples.
struct Sums {
    /// Clean and noisy, for the trial's affine.
    moments: [ChannelSums; 2],
    /// Of every channel by itself, for affines and biases.
    pixels: [filter::Sums; 2],
    filters: Option<[filter::Sums; 2]>,
    /// Of all pairs of channels.
    pairs: Option<[wiener::Sums; 2]>,
}

impl Sums {
    fn merge(&mut self, other: &Self) {
        self.moments.iter_mut().zip(&other.moments).for_each(|(sums, other)| sums.add(other));
        self.pixels.iter_mut().zip(&other.pixels).for_each(|(sums, other)| sums.merge(other));
        let filters = self.filters.iter_mut().flatten().zip(other.filters.iter().flatten());
        filters.for_each(|(sums, other)| sums.merge(other));
        let pairs = self.pairs.iter_mut().flatten().zip(other.pairs.iter().flatten());
        pairs.for_each(|(sums, other)| sums.merge(other));
    }
}

impl Survey<'_> {
    /// The choices that are measured at a denoiser's place, with their forms.
    fn candidates(&self, denoiser: &Denoiser) -> impl Iterator<Item = (&Vec<&'static Kind>, Vec<Form>)> {
        let site = denoiser.site;
        self.choices.iter().filter_map(move |kinds| {
            let parameters = kinds.iter().map(|kind| kind.expression().parameter_count(site)).sum::<u64>();
            let forms: Option<Vec<Form>> = kinds.iter().map(|kind| form::of(kind.expression())).collect();
            let forms = forms.filter(|forms| {
                let wide = |form: &Form| matches!(form, Form::Bottleneck(_)) && site.channels > super::WIDEST;
                parameters <= self.most && !forms.iter().any(wide)
            })?;
            Some((kinds, forms))
        })
    }

    /// What every candidate takes of the loss, fitted on one half of the samples and judged on the other.
    fn judge(&self, denoiser: &Denoiser, sums: &Sums, fitted: usize) -> Vec<f64> {
        let slopes = &self.curvature[denoiser.layer];
        let coherence = slopes.coherence();
        // Moments are means that count an image's mean so much more.
        let share = (1.0 + coherence) / (1.0 + coherence / slopes.pixels.max(1) as f64);
        let weights: Vec<f64> = slopes.weights().iter().map(|weight| weight * share).collect();
        let (judging, site) = (1 - fitted, denoiser.site);
        let channels = |products: Vec<[f64; 2]>| -> f64 {
            products.into_iter().zip(&weights).map(|(products, weight)| weight * taken(products)).sum()
        };
        let vector = DVector::from_column_slice(&weights);
        let moments = sums
            .pairs
            .as_ref()
            .map(|pairs| [Moments::of(&pairs[fitted], 0.0), Moments::of(&pairs[judging], coherence)]);
        // By whether they have a constant.
        let mut corrections: BTreeMap<bool, Option<Corrections>> = BTreeMap::new();
        let worth =
            |(kinds, forms): (&Vec<&'static Kind>, Vec<Form>)| match (&forms[..], &sums.filters, &sums.pairs, &moments)
            {
                ([Form::Affine { scale, .. }], ..) => channels(match scale {
                    Some(_) => filter::products(&sums.pixels[fitted], &sums.pixels[judging], coherence),
                    None => filter::mean_products(&sums.pixels[fitted], &sums.pixels[judging]),
                }),
                // An affine behind a filter finds nothing that the filter's middle tap and constant have left.
                ([Form::Filter { .. }, ..], Some(sums), ..) => {
                    channels(filter::products(&sums[fitted], &sums[judging], coherence))
                }
                ([Form::Bottleneck(form), behind @ ..], _, Some(pairs), Some([own, other])) => {
                    let constant = form.up[1].is_some();
                    let found = corrections
                        .entry(constant)
                        .or_insert_with(|| Corrections::new(&pairs[fitted], constant, &wiener::roots(slopes)));
                    let parameters = kinds[0].expression().parameters();
                    let (Some(found), Some(weight)) = (found, form.down[0]) else {
                        return 0.0;
                    };
                    let block = Linear::low_rank(found.cut(parameters[weight].layout.shape(site)[0]), own, constant);
                    let correction = match behind {
                        [Form::Affine { scale, .. }] => block.then_affine(own, scale.is_some()),
                        _ => block,
                    };
                    taken(correction.products(other, &vector))
                }
                // Sums are there for all candidates, and affines stand alone or last.
                ([Form::Filter { .. } | Form::Bottleneck(_), ..] | [Form::Affine { .. }, _, ..] | [], ..) => 0.0,
            };
        self.candidates(denoiser).map(worth).collect()
    }
}

/// What the best share of a correction takes off an error, of the correction's product with what is lacking and its square.
fn taken([cross, square]: [f64; 2]) -> f64 {
    let share = shrink(cross, square);
    2.0 * share * cross - share * share * square
}

impl Fit for Survey<'_> {
    type Sums = Sums;

    fn start(&self, denoiser: &Denoiser) -> Option<Sums> {
        let site = denoiser.site;
        let forms: Vec<Form> = self.candidates(denoiser).flat_map(|(_, forms)| forms).collect();
        let filters = forms.iter().any(|form| matches!(form, Form::Filter { .. }));
        let pairs = forms.iter().any(|form| matches!(form, Form::Bottleneck(_)));
        let channels = site.channels;
        Some(Sums {
            moments: Default::default(),
            pixels: [(); 2].map(|()| filter::Sums::new(1, channels)),
            filters: filters.then(|| [(); 2].map(|()| filter::Sums::new(site.taps().pow(2), channels))),
            pairs: pairs.then(|| [(); 2].map(|()| wiener::Sums::new(channels))),
        })
    }

    fn add(&self, denoiser: &Denoiser, sums: &mut Sums, place: usize, clean: &[f32], noisy: &[f32]) {
        let half = place % 2;
        let lacks: Vec<f32> = clean.iter().zip(noisy).map(|(clean, noisy)| clean - noisy).collect();
        let of = |values| ChannelSums::of(values, denoiser.site.channels);
        sums.moments.iter_mut().zip([clean, noisy]).for_each(|(sums, values)| sums.add(&of(values)));
        let flat = Site { spatial: false, ..denoiser.site };
        sums.pixels[half].add(filter::image(denoiser, flat), noisy, &lacks);
        if let Some(filters) = &mut sums.filters {
            filters[half].add(filter::image(denoiser, denoiser.site), noisy, &lacks);
        }
        if let Some(pairs) = &mut sums.pairs {
            pairs[half].add(noisy, &lacks);
        }
    }

    fn solve(&self, denoiser: &Denoiser, parts: Vec<Sums>) -> Vec<(usize, Vec<f32>)> {
        let mut parts = parts.into_iter();
        let Some(mut total) = parts.next() else {
            return Vec::new();
        };
        parts.for_each(|part| total.merge(&part));
        let losses = [0, 1].map(|fitted| self.judge(denoiser, &total, fitted));
        let mean = losses[0].iter().zip(&losses[1]).map(|(a, b)| 0.5 * (a + b));
        let worths = self.candidates(denoiser).zip(mean).map(|((kinds, _), loss)| Worth { kinds: kinds.clone(), loss });
        lock(&self.worths)[denoiser.layer] = worths.collect();
        let [clean, noisy] = &total.moments;
        let [scales, shifts] = moments(clean, noisy, 1.0);
        vec![(0, scales), (1, shifts)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        closed_form::{Choice, Estimator},
        exec::testing::Net,
        program::{Program, ValueId},
        search::Judge,
    };
    use mxc_spec::noise::{LayerNoise, Scale};
    use std::collections::BTreeSet;

    const IMAGE: usize = 6 * 6 * 3;

    /// Two convolutions and a classifier, of which the first has noise.
    fn network(sigma: &str) -> Program {
        let mut net = Net::new();
        let x = net.input(&[6, 6, 3]);
        // Without a range nothing is clipped, so that noise is all that is lacking.
        net.noise = LayerNoise { spec: sigma.parse().unwrap(), scale: Scale::Constant, ..LayerNoise::default() };
        let x = net.conv(x, 8, 3, 1, 1);
        let x = net.relu(x);
        net.noise.spec = "ideal".parse().unwrap();
        let x = net.conv(x, 8, 3, 1, 1);
        let x = net.relu(x);
        net.classify(x, 5)
    }

    /// Images of one brightness each.
    fn images(count: usize) -> (Vec<f32>, Vec<u64>) {
        let mut numbers = Net::new();
        let brightness = numbers.randoms(count, 2.0);
        let grain = numbers.randoms(count * IMAGE, 0.2);
        let values = grain.iter().enumerate().map(|(at, grain)| brightness[at / IMAGE] + grain).collect();
        (values, (0..count as u64).collect())
    }

    fn kinds(choice: &str) -> Vec<&'static Kind> {
        choice.split('+').map(|name| Kind::named(name).unwrap()).collect()
    }

    fn worths(program: &Program, choices: &[&str], most: u64, threads: usize) -> Vec<Vec<Worth>> {
        let (images, ids) = images(128);
        let executor = Executor::new(program.clone(), threads).unwrap();
        let choices: Vec<_> = choices.iter().map(|choice| kinds(choice)).collect();
        measure(&executor, Batch { inputs: &[&images], samples: &ids }, &choices, most, 1, &|| false).unwrap()
    }

    /// A layer's filters take off the loss what they are worth, but for what is not of second order and the draws: to a quarter.
    #[test]
    fn a_fit_takes_off_what_it_is_worth() {
        let program = network("12%");
        let worth = worths(&program, &["depthwise"], u64::MAX, 2)[0][0].loss;
        let trial = program.cleaned(Kind::named("depthwise").unwrap()).unwrap();
        let mut executor = Executor::new(trial.clone(), 2).unwrap();
        let (images, ids) = images(512);
        let batch = Batch { inputs: &[&images], samples: &ids };
        let judge = Judge::new(&executor, Samples::new(batch, 256..512), 7, &|| false).unwrap();
        let before = judge.loss(&executor).unwrap();
        let layers = trial.layers().len();
        let choice = Choice { blocks: true, ..Choice::plain(layers) };
        let half = Samples::new(batch, 0..256);
        let curvature = executor.curvature(&mut half.batches(), Key::calibration(7, 3)).unwrap();
        let fit = Estimator { choice: &choice, curvature: &curvature, scaled: &BTreeSet::new() };
        for half in Samples::whole(batch, 0..256).batches() {
            executor.fit_denoisers(half, Key::calibration(7, 1), &fit, &|| false).unwrap();
        }
        // The first layer's alone.
        let others: Vec<ValueId> = (0..trial.values().len())
            .filter(|&id| trial.values()[id].trainable && !trial.values()[id].name.contains("layer0"))
            .collect();
        for id in others {
            let zeros = vec![0.0; executor.weight(id).len()];
            executor.set_weight(id, &zeros).unwrap();
        }
        let taken = before - judge.loss(&executor).unwrap();
        assert!(taken > 0.2 * before, "the filters help: {taken} of {before}");
        assert!((worth - taken).abs() < 0.25 * taken, "{worth} is not {taken}");
    }

    /// What can do more is worth more, on any number of threads; nothing is worth anything where there is no noise.
    #[test]
    fn choices_are_ordered() {
        let choices = ["bias", "affine", "depthwise", "mean", "mean+affine"];
        let noisy = network("40%");
        let found = worths(&noisy, &choices, u64::MAX, 1);
        assert_eq!(found, worths(&noisy, &choices, u64::MAX, 3));
        let [bias, affine, depthwise, mean, both] = [0, 1, 2, 3, 4].map(|at| found[0][at].loss);
        assert!(bias < affine && affine < depthwise && mean <= both && affine < both, "{:?}", found[0]);
        let quiet = worths(&network("ideal"), &choices, u64::MAX, 2);
        assert!(quiet.iter().flatten().all(|worth| worth.loss < 1e-9), "{quiet:?}");
    }

    /// One sample is all there is to measure on.
    #[test]
    fn one_sample_will_do() {
        let (images, ids) = images(1);
        let executor = Executor::new(network("40%"), 2).unwrap();
        let batch = Batch { inputs: &[&images], samples: &ids };
        let found = measure(&executor, batch, &[kinds("affine")], u64::MAX, 1, &|| false).unwrap();
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
    }

    #[test]
    fn what_costs_too_much_is_left_out() {
        let names = |most: u64| -> Vec<usize> {
            let found = worths(&network("40%"), &["affine", "depthwise"], most, 2);
            found.iter().map(Vec::len).collect()
        };
        assert_eq!(names(16), [1, 1, 2], "8 channels take 16 parameters or 80, 5 take 10");
        assert_eq!(names(9), [0, 0, 0]);
    }
}
