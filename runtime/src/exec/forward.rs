//! The forward pass of one sample.

use super::{
    ExecError, Executor, Key, Mode,
    worker::{Buffer, Extra, Worker},
};
use crate::{
    kernels::{
        depthwise, elementwise,
        gemm::{self, Start, View, gemm},
        generic, layout,
        noise::{self, Draws, Law},
        pool,
    },
    plan::{Block, Id, Kernel, Place, Plan},
    program::{LayerId, ValueId},
    rng::{Kind, StreamKey, layer_hash},
};
use mxc_dialects::noise::{Lifetime, Scale, Site};

/// What a run of one sample depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub mode: Mode,
    pub key: Key,
    /// Its data-set index.
    pub index: u64,
    /// Whether a backward pass follows.
    pub tape: bool,
}

/// Which two tensors an observer sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The tile's input and its output.
    Product,
    /// A layer's output after its noise and saturation, twice; a layer without noise has none.
    Noisy,
    /// A denoising block's input and its σ̂, where it draws ε.
    Sigma,
}

/// What measurements see of a layer.
pub(super) type Observer<'a> = dyn FnMut(Seen, LayerId, &[f32], &[f32]) + 'a;

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
    fn stream(
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
            let in_place = matches!(
                step.kernel,
                Kernel::Noise { .. }
                    | Kernel::Block(_)
                    | Kernel::Affine { .. }
                    | Kernel::Tile(_)
                    | Kernel::Unary(_)
                    | Kernel::Silu
            );
            if in_place && !step.takes_buffer {
                out.copy_from_slice(value(self, plan, &worker.values, inputs, first));
            }
            let mut extra = Extra::Nothing;
            match &step.kernel {
                Kernel::Convolution { limit, .. }
                | Kernel::Depthwise { limit, .. }
                | Kernel::FullyConnected { limit, .. } => {
                    // The values move out of the worker while it runs the primitive.
                    let values = std::mem::take(&mut worker.values);
                    let x = value(self, plan, &values, inputs, first);
                    let clamped = limit.filter(|&limit| elementwise::absmax(x) > limit);
                    let result = match clamped {
                        None => self.product(&step.kernel, worker, x, &mut out),
                        Some(limit) => {
                            let mut tile = worker.pool.take(x.len());
                            elementwise::clamp_into(x, -limit, limit, &mut tile);
                            let result = self.product(&step.kernel, worker, &tile, &mut out);
                            worker.pool.give(tile);
                            result
                        }
                    };
                    if let (Some(observer), Some(layer)) = (&mut observer, step.layer) {
                        observer(Seen::Product, layer, x, &out);
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
                        observer(Seen::Noisy, *layer, &out, &out);
                    }
                }
                Kernel::Block(block) => extra = self.block(block, worker, &mut out, sample, &mut observer),
                Kernel::Affine { scale, shift } => {
                    elementwise::affine(&mut out, self.constant(*scale), self.constant(*shift));
                }
                Kernel::Tile(program) => {
                    program.denoise(&mut out, sample.index, sample.mode.sampling.then_some(sample.key));
                }
                Kernel::Unary(op) => elementwise::unary(*op, &mut out),
                Kernel::Silu => elementwise::silu(&mut out),
                kernel => {
                    let operand = |position: usize| value(self, plan, &worker.values, inputs, step.inputs[position]);
                    let x = operand(0);
                    match kernel {
                        Kernel::MatMul { batch, m, n, k } => {
                            let y = operand(1);
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
                        Kernel::Binary { op, shape } => elementwise::binary(*op, shape, x, operand(1), &mut out),
                        Kernel::AddClamp { min, max } => elementwise::add_clamp(x, operand(1), *min, *max, &mut out),
                        Kernel::Average(window) => images(x, &mut out, window.input, window.output, window.channels)
                            .for_each(|(x, out)| pool::average(window, x, out)),
                        Kernel::Maximum(window) => images(x, &mut out, window.input, window.output, window.channels)
                            .for_each(|(x, out)| pool::maximum(window, x, out)),
                        Kernel::Reduce { kind, shape } => pool::reduce(*kind, *shape, x, &mut out),
                        Kernel::Gather(gather) => gather.copy(x, &mut out),
                        Kernel::Take { shape, indices } => layout::take(*shape, indices, x, &mut out),
                        Kernel::Generic(generic) => {
                            let operands: Vec<&[f32]> = (0..step.inputs.len()).map(operand).collect();
                            generic::run(generic, &operands, &mut out);
                        }
                        Kernel::Pad { place, value } => {
                            out.fill(*value);
                            place.scatter(x, &mut out);
                        }
                        Kernel::Concat { widths } => {
                            let total = widths.iter().sum();
                            let mut at = 0;
                            for (position, &width) in widths.iter().enumerate() {
                                layout::copy_columns(operand(position), width, at, total, &mut out);
                                at += width;
                            }
                        }
                        _ => {}
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
    fn product(&self, kernel: &Kernel, worker: &mut Worker, x: &[f32], out: &mut [f32]) -> Result<(), ExecError> {
        match kernel {
            Kernel::Convolution { node, .. } => {
                let (number, convolution) = self.convolution(*node, crate::onednn::Direction::Forward)?;
                worker.convolve(&self.engine, number, convolution, x, out)?;
            }
            Kernel::Depthwise { shape, filter, bias, .. } => {
                let mut work = worker.pool.take(shape.work_len());
                images(x, out, shape.input, shape.output, shape.channels)
                    .for_each(|(x, out)| depthwise::forward(shape, x, filter, bias, &mut work, out));
                worker.pool.give(work);
            }
            Kernel::FullyConnected { rows, inputs, outputs, weights, transposed, bias, .. } => match transposed {
                Some(transposed) => {
                    gemm([*rows, *outputs, *inputs], View::rows(x, *inputs), transposed, out, Start::Row(bias));
                }
                None => gemm::matrix_vector(self.constant(*weights), x, bias, out),
            },
            _ => {}
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

    /// The paper's block in place: `x − (ε ⊙ σ̂ + μ̂)`.
    fn block(
        &self,
        block: &Block,
        worker: &mut Worker,
        x: &mut [f32],
        sample: &Sample,
        observer: &mut Option<&mut Observer<'_>>,
    ) -> Extra {
        let Block { rows, channels, bottleneck, .. } = *block;
        let pool = &mut worker.pool;
        let mut filter = pool.take(channels * bottleneck);
        let mut h = pool.take(rows * bottleneck);
        gemm::transpose(self.constant(block.reduce[0]), channels, &mut filter);
        gemm(
            [rows, bottleneck, channels],
            View::rows(x, channels),
            &filter,
            &mut h,
            Start::Row(self.constant(block.reduce[1])),
        );
        elementwise::leaky_relu(&mut h, block.slope);

        let mut g = pool.take(rows * bottleneck);
        let shape = &block.depthwise;
        let mut padded = pool.take(shape.work_len());
        let (weights, bias) = (self.constant(block.spatial[0]), self.constant(block.spatial[1]));
        images(&h, &mut g, shape.input, shape.output, bottleneck)
            .take(block.images)
            .for_each(|(h, g)| depthwise::forward(shape, h, weights, bias, &mut padded, g));
        pool.give(padded);
        elementwise::leaky_relu(&mut g, block.slope);

        let mut head = |pair: [ValueId; 2], pool: &mut super::worker::Pool| {
            let mut out = pool.take(rows * channels);
            gemm::transpose(self.constant(pair[0]), bottleneck, &mut filter);
            gemm(
                [rows, channels, bottleneck],
                View::rows(&g, bottleneck),
                &filter,
                &mut out,
                Start::Row(self.constant(pair[1])),
            );
            out
        };
        let mu = head(block.mean, pool);
        let mut epsilon = None;
        match block.sigma.filter(|_| sample.mode.sampling) {
            Some(pair) => {
                let sigma = head(pair, pool);
                if let Some(observer) = observer {
                    observer(Seen::Sigma, block.layer, x, &sigma);
                }
                let mut draws = pool.take(rows * channels);
                self.stream(block.layer, Kind::Epsilon, 0, Lifetime::Sample, sample).fill_normals(0, &mut draws);
                elementwise::subtract_noise(x, &mu, &sigma, &draws);
                pool.give(sigma);
                epsilon = Some(draws);
            }
            None => elementwise::subtract(x, &mu),
        }
        pool.give(mu);
        pool.give(filter);
        Extra::Block { h, g, epsilon }
    }
}

/// The images of a sample (one, unless a reshape folded an axis into the batch).
pub(super) fn images<'a>(
    x: &'a [f32],
    out: &'a mut [f32],
    input: [usize; 2],
    output: [usize; 2],
    channels: usize,
) -> impl Iterator<Item = (&'a [f32], &'a mut [f32])> {
    let (from, to) = (input[0] * input[1] * channels, output[0] * output[1] * channels);
    x.chunks_exact(from.max(1)).zip(out.chunks_exact_mut(to.max(1)))
}
