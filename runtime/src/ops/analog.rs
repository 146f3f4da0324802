//! Analog layers: what noise adds around the product that a tile computes, and where it saturates.
//!
//! A layer may be read k times, [`Layer::execution`]: what is drawn for every sample is then drawn for every read, what a chip keeps
//! and means are the same in all, every read saturates by itself, and the mean goes on. Each read is really drawn, whatever its
//! law. Of noise at the input the reads are averaged in front of the product, which is linear: that is the mean of its results
//! but for saturation at the output, which then acts on reads of the output's own noise alone.

use super::{
    operator::Planned,
    reference::{Exact, Tensor},
};
use crate::{
    error::ExecError,
    exec::{
        buffers::Buffer,
        constants::Constants,
        kernel::{Backward, Forward, Id, Kernel, Reads},
        sample::Seen,
        worker::{Extra, Tools},
    },
    kernels::{
        elementwise,
        noise::{self, Draws, Law},
    },
    plan::steps::Steps,
    program::value::{Layer, LayerId},
    rng::{Kind, layer_hash},
};
use mxc_spec::{
    calibration::Columns,
    noise::{Component, Lifetime, Reference, Scale, Site},
};

/// What a tile computes of its input: a product with constant weights, and a bias.
pub(crate) trait Product: std::fmt::Debug + Send + Sync + 'static {
    /// The product of `x`.
    fn forward(&self, run: &mut Forward<'_>, x: &[f32]) -> Result<(), ExecError>;

    /// The gradient of `x` from the result's.
    fn backward(&self, run: &mut Backward<'_>, g: &[f32], out: &mut [f32]) -> Result<(), ExecError>;

    /// See [`Kernel::prepare`].
    fn prepare(&self, constants: &Constants) -> Result<(), ExecError>;
}

/// Emits a product, of an analog layer between the noise of its input and of its output.
pub(crate) fn layer(
    product: impl Product,
    layer: Option<LayerId>,
    node: &Planned<'_>,
    steps: &mut Steps<'_>,
) -> Result<Id, ExecError> {
    let x = node.x();
    let noisy = noisy(layer, steps)?;
    let denoise = steps.key.denoise;
    let limits = noisy.and_then(|(_, layer)| layer.limits(denoise));
    let acts_at = |site: Site| noisy.filter(|(_, layer)| layer.noise.spec.acts_at(site));
    let before = acts_at(Site::Input);
    // A tile saturates at its output whether or not a component acts there.
    let after = acts_at(Site::Output).or(noisy.filter(|_| limits.is_some()));
    let x = match before {
        Some((id, layer)) => steps.push(Noise::new(id, layer, Site::Input, denoise), vec![x], steps.values[x].len),
        None => x,
    };
    let kernel = Tile { product, limit: limits.map(|limits| limits[0]) };
    let y = steps.push(kernel, vec![x], node.words());
    if let Some(step) = steps.steps.last_mut() {
        step.layer = layer;
    }
    Ok(match after {
        Some((id, layer)) => steps.push(Noise::new(id, layer, Site::Output, denoise), vec![y], node.words()),
        None => y,
    })
}

/// A layer that is noisy in this plan.
fn noisy<'a>(layer: Option<LayerId>, steps: &Steps<'a>) -> Result<Option<(LayerId, &'a Layer)>, ExecError> {
    let Some(id) = layer.filter(|_| steps.key.noise) else {
        return Ok(None);
    };
    let layer = &steps.layers[id];
    let noise = &layer.noise;
    if !layer.is_noisy(steps.key.denoise) {
        return Ok(None);
    }
    if noise.scale != Scale::Signal && layer.calibration.is_none() {
        return Err(ExecError::Program(format!(
            "layer `{}` has no calibration, which the noise scale `{}` needs; calibrate the model first",
            layer.name, noise.scale
        )));
    }
    for component in &noise.spec.components {
        match component.site {
            Site::Input | Site::Output => {}
            site @ (Site::Weight | Site::PartialSum) => {
                return Err(ExecError::Program(format!(
                    "layer `{}`: `{component}` acts on the {site}, where no kernel draws yet; only the input and the \
                     output have noise",
                    layer.name
                )));
            }
        }
    }
    Ok(Some((id, layer)))
}

/// A product; the tile clamps its input to ±`limit`, if it saturates.
#[derive(Debug)]
struct Tile<P> {
    product: P,
    limit: Option<f32>,
}

impl<P> Tile<P> {
    /// Compares the input with the clean network's where that is wanted, and gives the gradient of the distance in it.
    fn compare(&self, run: &mut Forward<'_>, x: &[f32]) -> Option<Buffer> {
        let layer = run.step.layer.filter(|_| run.sample.tape)?;
        if !run.values.plan[run.step.inputs[0]].gradient {
            return None;
        }
        let Tools { features, pool, .. } = &mut *run.tools;
        let features = features.as_mut()?;
        let mut gradient = pool.take(x.len());
        if features.compare(layer, x, &mut gradient) {
            return Some(gradient);
        }
        pool.give(gradient);
        None
    }
}

impl<P: Product> Kernel for Tile<P> {
    fn in_place(&self) -> bool {
        false
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(if self.limit.is_some() { Reads::OPERAND } else { Reads::NOTHING })
    }

    fn prepare(&self, constants: &Constants) -> Result<(), ExecError> {
        self.product.prepare(constants)
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        let x = run.operand(0);
        let clamped = self.limit.filter(|&limit| elementwise::absmax(x) > limit);
        match clamped {
            None => self.product.forward(run, x)?,
            Some(limit) => {
                let mut tile = run.pool().take(x.len());
                elementwise::clamp_into(x, -limit, limit, &mut tile);
                let result = self.product.forward(run, &tile);
                run.pool().give(tile);
                result?;
            }
        }
        if let (Some(observer), Some(layer)) = (&mut run.observer, run.step.layer) {
            observer(layer, Seen::Product { input: x, output: run.out });
        }
        let pull = self.compare(run, x);
        run.extra = Extra::Tile { clamped: clamped.is_some(), pull };
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: Buffer) -> Result<(), ExecError> {
        if run.wanted(0) {
            let len = run.len(0);
            let mut out = run.pool().take(len);
            self.product.backward(run, &g, &mut out)?;
            if let (Some(limit), Extra::Tile { clamped: true, .. }) = (self.limit, run.extra) {
                elementwise::mask_beyond(&mut out, run.operand(0), limit);
            }
            if let Extra::Tile { pull: Some(pull), .. } = run.extra {
                elementwise::add_assign(&mut out, pull);
            }
            run.add(0, out);
        }
        run.pool().give(g);
        Ok(())
    }
}

/// Whether some of a layer's noise at a site is another in every read of the same sample, so that averaging reads cuts it.
pub(crate) fn is_redrawn(layer: &Layer, site: Site) -> bool {
    let redrawn = |component: &Component| {
        component.site == site && component.lifetime == Lifetime::Sample && Law::of(&component.model).spread > 0.0
    };
    layer.noise.spec.components.iter().any(redrawn)
}

/// What a layer's components at a site add, in place; at the output the tile saturates, too.
#[derive(Clone, Debug)]
struct Noise {
    layer: LayerId,
    /// The layer's part of the streams' names.
    hash: u64,
    site: Site,
    /// With the component's place in the specification.
    components: Vec<(usize, Lifetime, Law)>,
    /// What the calibrated magnitude is; `None` where it is the signal's own, of this statistic.
    magnitude: Option<f64>,
    reference: Reference,
    limit: Option<f32>,
    /// How many reads are averaged: 1 where nothing is drawn for each.
    times: u32,
    /// By channel, the powers of two in front of the converter and behind it.
    columns: Option<[Vec<f32>; 2]>,
}

impl Noise {
    fn new(id: LayerId, layer: &Layer, site: Site, denoise: bool) -> Self {
        let components = layer.noise.spec.components.iter().enumerate();
        let times = match is_redrawn(layer, site) {
            true => layer.execution(denoise).reads(),
            false => 1,
        };
        Self {
            layer: id,
            hash: layer_hash(&layer.name),
            site,
            components: components
                .filter(|(_, component)| component.site == site)
                .map(|(index, component)| (index, component.lifetime, Law::of(&component.model)))
                .collect(),
            magnitude: match layer.noise.scale {
                Scale::Signal => None,
                Scale::Range | Scale::Constant => Some(layer.magnitude(site, denoise).unwrap_or(0.0)),
            },
            reference: layer.noise.reference,
            // At the input the tile itself saturates, unless reads do one by one.
            limit: match site {
                Site::Input => layer.limits(denoise).filter(|_| times > 1).map(|limits| limits[0]),
                Site::Weight | Site::PartialSum => None,
                Site::Output => layer.limits(denoise).map(|limits| limits[1]),
            },
            times,
            columns: layer.columns(denoise).filter(|_| site == Site::Output).map(Columns::scales),
        }
    }

    /// Values as the converter sees them, of those outside.
    fn scaled(&self, values: &mut [f32]) {
        if let Some([scale, _]) = &self.columns {
            elementwise::scale_rows(values, scale);
        }
    }

    /// Values outside, of those that the converter sees.
    fn unscaled(&self, values: &mut [f32]) {
        if let Some([_, inverse]) = &self.columns {
            elementwise::scale_rows(values, inverse);
        }
    }
}

impl Kernel for Noise {
    fn in_place(&self) -> bool {
        true
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        // How far reads were clamped is no matter of their mean.
        Ok(match (self.magnitude, self.limit.filter(|_| self.times == 1)) {
            (None, _) => Reads::BOTH,
            (Some(_), Some(_)) => Reads::RESULT,
            (Some(_), None) => Reads::NOTHING,
        })
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        self.scaled(run.out);
        let magnitude = self.magnitude.unwrap_or_else(|| elementwise::magnitude(run.out, self.reference));
        let stream = |index: usize, lifetime: Lifetime| run.sample.stream(self.hash, Kind::Noise, index, lifetime);
        let Tools { chip, .. } = run.tools;
        let mut offset = 0.0;
        for &(index, lifetime, law) in &self.components {
            offset += magnitude * law.mean * run.sample.level.abs();
            if lifetime == Lifetime::Chip && law.spread > 0.0 {
                let stream = stream(index, Lifetime::Chip);
                let entry = chip.entry((self.layer, index)).or_insert_with(|| (stream, Vec::new()));
                if entry.0 != stream || entry.1.len() != run.out.len() {
                    entry.0 = stream;
                    entry.1.resize(run.out.len(), 0.0);
                    // What failed is no draw to keep.
                    law.fill.fill(&stream, 0, &mut entry.1).inspect_err(|_| entry.1.clear())?;
                }
            }
        }
        let random = self.components.iter().filter(|(_, _, law)| law.spread > 0.0);
        let parts: Vec<(Draws<'_>, f32)> = random
            .map(|&(index, lifetime, law)| {
                let draws = match lifetime {
                    Lifetime::Sample => Draws::Stream(stream(index, Lifetime::Sample), law.fill),
                    Lifetime::Chip => {
                        Draws::Values(chip.get(&(self.layer, index)).map_or(&[], |entry| entry.1.as_slice()))
                    }
                };
                (draws, (magnitude * law.spread * run.sample.level) as f32)
            })
            .collect();
        let mut inside = None;
        if self.times == 1 {
            noise::add_noise(run.out, offset as f32, &parts, self.limit)?;
        } else {
            if run.sample.tape && self.limit.is_some() {
                inside = Some(run.tools.pool.take_zeroed(run.out.len()));
            }
            noise::average_reads(run.out, offset as f32, &parts, self.limit, self.times, inside.as_deref_mut())?;
        }
        self.unscaled(run.out);
        if self.magnitude.is_none() {
            run.extra = Extra::Magnitude(magnitude);
        }
        if let Some(inside) = inside {
            run.extra = Extra::Buffers(vec![inside]);
        }
        if let (Some(observer), Site::Output) = (&mut run.observer, self.site) {
            observer(self.layer, Seen::Noisy { output: run.out });
        }
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, mut g: Buffer) -> Result<(), ExecError> {
        // All in the converter's units: those outside are powers of two away, so that scaling them back is exact.
        let seen = |run: &mut Backward<'_>, values: &[f32]| {
            let mut values = run.pool().take_copy(values);
            self.scaled(&mut values);
            values
        };
        if let Extra::Buffers(inside) = run.extra {
            // The mean of reads that saturated one by one, in either unit.
            inside.iter().for_each(|inside| elementwise::multiply_assign(&mut g, inside));
            run.add(0, g);
            return Ok(());
        }
        let (mut x, mut y) = (None, None);
        if self.columns.is_some() {
            let values = run.values;
            if self.magnitude.is_none() {
                x = Some(seen(run, values.get(run.step.inputs[0])));
            }
            y = Some(seen(run, values.get(run.step.output)));
            self.unscaled(&mut g);
        }
        {
            let x = x.as_deref().unwrap_or_else(|| run.operand(0));
            let y = y.as_deref().unwrap_or_else(|| run.result());
            if let Some(limit) = self.limit {
                elementwise::mask_clamped(&mut g, y, -limit, limit);
            }
            if let Extra::Magnitude(s) = run.extra
                && *s > 0.0
            {
                // ∂y*/∂s = (y* − y)/s.
                let along: f64 =
                    g.iter().zip(y).zip(x).map(|((&g, &noisy), &clean)| f64::from(g) * f64::from(noisy - clean)).sum();
                elementwise::magnitude_backward(x, self.reference, *s, along / s, &mut g);
            }
        }
        self.scaled(&mut g);
        [x, y].into_iter().flatten().for_each(|buffer| run.pool().give(buffer));
        run.add(0, g);
        Ok(())
    }
}

/// A layer in f64: its input as the tile sees it, the product, its noise.
pub(crate) fn exact(
    run: &Exact<'_>,
    layer: Option<LayerId>,
    x: &Tensor,
    product: impl FnOnce(&Tensor) -> Tensor,
) -> Result<Tensor, String> {
    let Some(layer) = layer else {
        return Ok(product(x));
    };
    let info = &run.layers[layer];
    let noisy = run.sample.mode.noise && info.is_noisy(run.sample.mode.denoise);
    let limits = info.limits(run.sample.mode.denoise).filter(|_| noisy);
    let mut input = x.clone();
    if noisy {
        read(run, layer, Site::Input, &mut input, limits.map(|limits| limits[0]))?;
    }
    let mut y = product(&input);
    run.observe(layer, [x, &y], |[input, output]| Seen::Product { input, output });
    if let Some((_, at, by)) = run.nudge.filter(|nudge| nudge.0 == layer) {
        y.values[at] += by;
    }
    if noisy {
        let columns = info.columns(run.sample.mode.denoise).map(Columns::scales);
        let scale = |y: &mut Tensor, which: usize| {
            if let Some(columns) = &columns {
                let scales = columns[which].iter().cycle();
                y.values.iter_mut().zip(scales).for_each(|(y, &scale)| *y *= f64::from(scale));
            }
        };
        scale(&mut y, 0);
        read(run, layer, Site::Output, &mut y, limits.map(|limits| limits[1]))?;
        scale(&mut y, 1);
        run.observe(layer, [&y, &y], |[_, output]| Seen::Noisy { output });
    }
    Ok(y)
}

/// The mean of a layer's reads of values, with the noise of a site and its saturation.
fn read(run: &Exact<'_>, layer: LayerId, site: Site, y: &mut Tensor, limit: Option<f32>) -> Result<(), String> {
    let info = &run.layers[layer];
    let (n, values) = (y.values.len() as f64, &y.values);
    let mean = values.iter().sum::<f64>() / n;
    let square = values.iter().map(|y| y * y).sum::<f64>() / n;
    let s = match (info.noise.scale, info.noise.reference) {
        (Scale::Signal, Reference::Rms) => Some(square.sqrt()),
        (Scale::Signal, Reference::Absmax) => Some(values.iter().fold(0.0, |max: f64, y| y.abs().max(max))),
        (Scale::Signal, Reference::MeanAbs) => Some(values.iter().map(|y| y.abs()).sum::<f64>() / n),
        (Scale::Signal, Reference::Std) => Some((square - mean * mean).sqrt()),
        (Scale::Range | Scale::Constant, _) => info.magnitude(site, run.sample.mode.denoise),
    };
    let reads = info.execution(run.sample.mode.denoise).reads();
    let mut sum: Option<Vec<f64>> = None;
    for number in 0..reads {
        let mut one = y.values.clone();
        for (index, component) in info.noise.spec.components.iter().enumerate() {
            if component.site != site {
                continue;
            }
            let s = s.ok_or_else(|| format!("layer `{}` is not calibrated", info.name))?;
            let law = Law::of(&component.model);
            let drawn = match component.lifetime {
                Lifetime::Sample => number,
                Lifetime::Chip => 0,
            };
            let draws = run.draws(law.fill, layer, Kind::Noise, index, (component.lifetime, drawn), one.len())?;
            for (y, draw) in one.iter_mut().zip(draws) {
                *y += s * (law.mean * run.sample.level.abs() + law.spread * draw * run.sample.level);
            }
        }
        if let Some(limit) = limit.map(f64::from) {
            one.iter_mut().for_each(|value| *value = value.clamp(-limit, limit));
        }
        match &mut sum {
            None => sum = Some(one),
            Some(sum) => sum.iter_mut().zip(one).for_each(|(sum, one)| *sum += one),
        }
    }
    y.values = sum.into_iter().flatten().map(|sum| sum / f64::from(reads)).collect();
    Ok(())
}
