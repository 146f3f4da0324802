//! The forward pass of one sample.

use super::{
    Executor,
    denoise::{filter, pointwise},
    sample::{Observer, Sample, Seen},
    worker::{Buffer, Extra, Worker},
};
use crate::{
    error::ExecError,
    kernels::{
        depthwise, elementwise,
        gemm::{self, Start, View, gemm},
        generic,
        layout::{self, images},
        noise::{self, Draws, Law},
        pool,
    },
    plan::{Id, Kernel, Place, Plan, Product},
    program::LayerId,
    rng::{Kind, StreamKey, layer_hash},
};
use mxc_dialects::{
    denoise::SLOPE,
    noise::{Lifetime, Scale, Site},
};

/// A value of a plan.
pub(super) fn value<'a>(
    executor: &'a Executor,
    plan: &Plan,
    values: &'a [Option<Buffer>],
    inputs: &[&'a [f32]],
    id: Id,
) -> &'a [f32] {
    match plan.values[id].place {
        Place::Input(input) => inputs[input],
        Place::Constant(constant) => executor.constant(constant),
        Place::Buffer => values[id].as_deref().unwrap_or(&[]),
    }
}

impl Executor {
    /// The draws' stream of a noise component or a denoiser.
    pub(super) fn stream(
        &self,
        layer: LayerId,
        kind: Kind,
        component: usize,
        lifetime: Lifetime,
        sample: &Sample,
    ) -> crate::rng::Stream {
        let key = sample.key;
        let fixed = lifetime == Lifetime::Chip;
        StreamKey {
            seed: key.seed,
            purpose: key.purpose as u8,
            kind,
            component: component as u32,
            chip: key.chip,
            // A chip's draws outlast passes and samples; u64::MAX is no data-set index.
            pass: if fixed { 0 } else { key.pass },
            layer: layer_hash(&self.network.program.layers[layer].name),
            sample: if fixed { u64::MAX } else { sample.index },
        }
        .stream()
    }

    /// Runs a plan for one sample; the worker keeps the values that outlive their last use.
    pub(super) fn run_forward<'a>(
        &'a self,
        plan: &Plan,
        worker: &mut Worker,
        inputs: &[&'a [f32]],
        sample: &Sample,
        mut observer: Option<&mut Observer<'_>>,
    ) -> Result<(), ExecError> {
        worker.reset(plan.values.len(), plan.steps.len());
        for (index, step) in plan.steps.iter().enumerate() {
            let len = plan.values[step.output].len;
            let first = step.inputs[0];
            let mut out =
                if step.takes_buffer { worker.values[first].take().unwrap_or_default() } else { worker.pool.take(len) };
            // Kernels that work in place find their operand in `out`.
            if step.kernel.in_place() && !step.takes_buffer {
                out.copy_from_slice(value(self, plan, &worker.values, inputs, first));
            }
            let operand = |position: usize| value(self, plan, &worker.values, inputs, step.inputs[position]);
            let mut extra = Extra::Nothing;
            match &step.kernel {
                Kernel::Product { product, limit } => {
                    // The values move out of the worker while it runs the primitive.
                    let values = std::mem::take(&mut worker.values);
                    let x = value(self, plan, &values, inputs, first);
                    let clamped = limit.filter(|&limit| elementwise::absmax(x) > limit);
                    let result = match clamped {
                        None => self.product(product, worker, x, &mut out),
                        Some(limit) => {
                            let mut tile = worker.pool.take(x.len());
                            elementwise::clamp_into(x, -limit, limit, &mut tile);
                            let result = self.product(product, worker, &tile, &mut out);
                            worker.pool.give(tile);
                            result
                        }
                    };
                    if let (Some(observer), Some(layer)) = (&mut observer, step.layer) {
                        observer(layer, Seen::Product { input: x, output: &out });
                    }
                    worker.values = values;
                    result?;
                    extra = Extra::Clamped(clamped.is_some());
                }
                Kernel::Noise { layer, site } => {
                    if let Some(magnitude) = self.add_noise(*layer, *site, worker, &mut out, sample) {
                        extra = Extra::Magnitude(magnitude);
                    }
                    if let (Some(observer), Site::Output) = (&mut observer, site) {
                        observer(*layer, Seen::Noisy { output: &out });
                    }
                }
                Kernel::Block(block) => extra = self.block(block, worker, &mut out, sample, &mut observer),
                Kernel::Affine { scale, shift } => {
                    elementwise::affine(&mut out, self.constant(*scale), self.constant(*shift));
                }
                Kernel::LeakyRelu => elementwise::leaky_relu(&mut out, SLOPE as f32),
                Kernel::Tile(program) => {
                    program.denoise(&mut out, sample.index, sample.mode.sampling.then_some(sample.key));
                }
                Kernel::Unary(op) => elementwise::unary(*op, &mut out),
                Kernel::Silu => elementwise::silu(&mut out),
                Kernel::Pointwise { rows, inputs, outputs, weight, bias } => {
                    let bias = bias.map(|bias| self.constant(bias));
                    let weight = self.constant(*weight);
                    pointwise([*rows, *inputs, *outputs], operand(0), weight, bias, &mut worker.pool, &mut out);
                }
                Kernel::Filter { shape, weight, bias } => {
                    let bias = bias.map(|bias| self.constant(bias));
                    filter(shape, operand(0), self.constant(*weight), bias, &mut worker.pool, &mut out);
                }
                Kernel::Draw { layer, number } if sample.mode.sampling => {
                    if let Some(observer) = &mut observer {
                        observer(*layer, Seen::Sigma { input: operand(0), sigma: operand(1) });
                    }
                    self.stream(*layer, Kind::Epsilon, *number, Lifetime::Sample, sample).fill_normals(0, &mut out);
                }
                Kernel::Draw { .. } => out.fill(0.0),
                Kernel::MatMul { batch, m, n, k } => {
                    let (x, y) = (operand(0), operand(1));
                    for image in 0..*batch {
                        gemm(
                            [*m, *n, *k],
                            View::rows(&x[image * m * k..][..m * k], *k),
                            &y[image * k * n..][..k * n],
                            &mut out[image * m * n..][..m * n],
                            Start::Zero,
                        );
                    }
                }
                Kernel::Binary { op, shape } => elementwise::binary(*op, shape, operand(0), operand(1), &mut out),
                Kernel::AddClamp { min, max } => {
                    elementwise::add_clamp(operand(0), operand(1), *min, *max, &mut out);
                }
                Kernel::Average(window) => images(operand(0), &mut out, window.input, window.output, window.channels)
                    .for_each(|(x, out)| pool::average(window, x, out)),
                Kernel::Maximum(window) => images(operand(0), &mut out, window.input, window.output, window.channels)
                    .for_each(|(x, out)| pool::maximum(window, x, out)),
                Kernel::Reduce { kind, shape } => pool::reduce(*kind, *shape, operand(0), &mut out),
                Kernel::Gather(gather) => gather.copy(operand(0), &mut out),
                Kernel::Take { shape, indices } => layout::take(*shape, indices, operand(0), &mut out),
                Kernel::Generic(generic) => {
                    let operands: Vec<&[f32]> = (0..step.inputs.len()).map(operand).collect();
                    generic::run(generic, &operands, &mut out);
                }
                Kernel::Pad { place, value } => {
                    out.fill(*value);
                    place.scatter(operand(0), &mut out);
                }
                Kernel::Concat { widths } => {
                    let total = widths.iter().sum();
                    let mut at = 0;
                    for (position, &width) in widths.iter().enumerate() {
                        layout::copy_columns(operand(position), width, at, total, &mut out);
                        at += width;
                    }
                }
            }
            worker.values[step.output] = Some(out);
            if sample.tape {
                worker.extras[index] = extra;
            } else if let Extra::Block { h, g, epsilon } = extra {
                worker.pool.give(h);
                worker.pool.give(g);
                epsilon.into_iter().for_each(|buffer| worker.pool.give(buffer));
            }
            for &id in &step.frees {
                if let Some(buffer) = worker.values[id].take() {
                    worker.pool.give(buffer);
                }
            }
        }
        Ok(())
    }

    /// An analog layer's product: bias included, before its noise.
    fn product(&self, product: &Product, worker: &mut Worker, x: &[f32], out: &mut [f32]) -> Result<(), ExecError> {
        match product {
            Product::Convolution { node } => {
                let (number, convolution) = self.convolution(*node, crate::onednn::Direction::Forward)?;
                worker.convolve(&self.engine, number, convolution, x, out)?;
            }
            Product::Depthwise { shape, filter, bias } => {
                let mut work = worker.pool.take(shape.work_len());
                images(x, out, shape.input, shape.output, shape.channels)
                    .for_each(|(x, out)| depthwise::forward(shape, x, filter, Some(bias), &mut work, out));
                worker.pool.give(work);
            }
            Product::FullyConnected { rows, inputs, outputs, weights, transposed, bias } => match transposed {
                Some(transposed) => {
                    gemm([*rows, *outputs, *inputs], View::rows(x, *inputs), transposed, out, Start::Row(bias));
                }
                None => gemm::matrix_vector(self.constant(*weights), x, bias, out),
            },
        }
        Ok(())
    }

    /// Adds what a layer's components at a site draw, in place (and saturates); returns the magnitude where it is the signal's
    /// own.
    fn add_noise(
        &self,
        layer: LayerId,
        site: Site,
        worker: &mut Worker,
        y: &mut [f32],
        sample: &Sample,
    ) -> Option<f64> {
        let info = &self.network.program.layers[layer];
        let magnitude = match info.noise.scale {
            Scale::Signal => elementwise::magnitude(y, info.noise.reference),
            Scale::Range | Scale::Constant => info.magnitude(site).unwrap_or(0.0),
        };
        let components: Vec<(usize, Lifetime, Law)> = info
            .noise
            .spec
            .components
            .iter()
            .enumerate()
            .filter(|(_, component)| component.site == site)
            .map(|(index, component)| (index, component.lifetime, Law::of(&component.model)))
            .collect();
        let mut offset = 0.0;
        for &(index, lifetime, law) in &components {
            offset += magnitude * law.mean;
            if lifetime == Lifetime::Chip && law.spread > 0.0 {
                let stream = self.stream(layer, Kind::Noise, index, Lifetime::Chip, sample);
                let entry = worker.chip.entry((layer, index)).or_insert_with(|| (stream, Vec::new()));
                if entry.0 != stream || entry.1.len() != y.len() {
                    entry.0 = stream;
                    entry.1.resize(y.len(), 0.0);
                    (law.fill)(&stream, 0, &mut entry.1);
                }
            }
        }
        let parts: Vec<(Draws<'_>, f32)> = components
            .iter()
            .filter(|(_, _, law)| law.spread > 0.0)
            .map(|&(index, lifetime, law)| {
                let draws = match lifetime {
                    Lifetime::Sample => {
                        Draws::Stream(self.stream(layer, Kind::Noise, index, Lifetime::Sample, sample), law.fill)
                    }
                    Lifetime::Chip => {
                        Draws::Values(worker.chip.get(&(layer, index)).map_or(&[], |entry| entry.1.as_slice()))
                    }
                };
                (draws, (magnitude * law.spread) as f32)
            })
            .collect();
        let limit = info.limits().filter(|_| site == Site::Output).map(|limits| limits[1]);
        noise::add_noise(y, offset as f32, &parts, limit);
        (info.noise.scale == Scale::Signal).then_some(magnitude)
    }
}
