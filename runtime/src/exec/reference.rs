//! The program's meaning, written plainly in f64: what the executor is tested against, and what finite differences are
//! taken of.

#![allow(clippy::unwrap_used)]

use super::{Key, Mode};
use crate::{
    kernels::noise::{Fill, Law},
    program::{
        Binary, DType, Interpolation, LayerId, Op, Padding, Program, Reduce, Sampling, Scattering, Unary, ValueId,
    },
    rng::{Kind, Stream, StreamKey, layer_hash},
};
use mxc_dialects::{
    denoise::{
        SLOPE,
        expression::{Expression, Primitive},
    },
    noise::{Lifetime, Reference, Scale, Site},
};
use std::collections::BTreeMap;

/// A dense tensor.
#[derive(Clone, Debug, Default)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Tensor {
    fn from_fn(shape: &[usize], f: impl Fn(&[usize]) -> f64) -> Self {
        let mut index = vec![0; shape.len()];
        let values = (0..shape.iter().product())
            .map(|at| {
                let mut rest = at;
                for axis in (0..shape.len()).rev() {
                    index[axis] = rest % shape[axis];
                    rest /= shape[axis];
                }
                f(&index)
            })
            .collect();
        Self { shape: shape.to_vec(), values }
    }

    /// The value at an index; size-1 axes broadcast.
    fn at(&self, index: &[usize]) -> f64 {
        let offset =
            self.shape.iter().zip(index).fold(0, |at, (&size, &index)| at * size + if size == 1 { 0 } else { index });
        self.values[offset]
    }
}

/// An index as a place on an axis.
fn place(index: f64, size: usize) -> usize {
    (if index < 0.0 { index + size as f64 } else { index }) as usize
}

/// What every sample of an axis weighs at a coordinate: by distance, whatever the padding makes of places outside.
fn weights(sampling: Sampling, size: usize, coordinate: f64) -> Vec<f64> {
    let last = size as f64 - 1.0;
    let (low, high) = if sampling.align_corners { (0.0, last) } else { (-0.5, last + 0.5) };
    let folded = |at: f64| {
        let turn = (at - low).rem_euclid(2.0 * (high - low));
        low + turn.min(2.0 * (high - low) - turn)
    };
    let mut position = (coordinate + 1.0) / 2.0 * (high - low) + low;
    if sampling.interpolation == Interpolation::Nearest {
        position = position.round_ties_even();
    }
    if position < low || position > high {
        match sampling.padding {
            Padding::Border if sampling.interpolation != Interpolation::Cubic => position = position.clamp(0.0, last),
            Padding::Reflection => position = folded(position),
            Padding::Zeros | Padding::Border => {}
        }
    }
    let weight = |distance: f64| match sampling.interpolation {
        Interpolation::Nearest => f64::from(distance == 0.0),
        Interpolation::Linear => (1.0 - distance).max(0.0),
        Interpolation::Cubic if distance <= 1.0 => 1.25 * distance.powi(3) - 2.25 * distance.powi(2) + 1.0,
        Interpolation::Cubic if distance < 2.0 => {
            -0.75 * (distance.powi(3) - 5.0 * distance.powi(2) + 8.0 * distance - 4.0)
        }
        Interpolation::Cubic => 0.0,
    };
    let mut weights = vec![0.0; size];
    for step in -3..=3 {
        let at = position.floor() + f64::from(step);
        let inside = match sampling.padding {
            Padding::Zeros => at,
            Padding::Border => at.clamp(0.0, last),
            Padding::Reflection => folded(at),
        };
        if (0.0..=last).contains(&inside) {
            weights[inside as usize] += weight((position - at).abs());
        }
    }
    weights
}

/// A run of one sample.
pub struct Run<'a> {
    pub program: &'a Program,
    pub mode: Mode,
    pub key: Key,
    pub sample: u64,
    /// Weights that differ from the program's.
    pub weights: BTreeMap<ValueId, Vec<f64>>,
    /// Something added to one element of a layer's output before its noise.
    pub nudge: Option<(LayerId, usize, f64)>,
}

impl Run<'_> {
    fn draws(&self, fill: Fill, layer: LayerId, kind: Kind, component: u32, chip: bool, len: usize) -> Vec<f64> {
        let mut out = vec![0.0; len];
        let stream = StreamKey {
            seed: self.key.seed,
            purpose: self.key.purpose as u8,
            kind,
            component,
            chip: self.key.chip,
            pass: if chip { 0 } else { self.key.pass },
            layer: layer_hash(&self.program.layers[layer].name),
            sample: if chip { u64::MAX } else { self.sample },
        }
        .stream();
        fill(&stream, 0, &mut out);
        out.into_iter().map(f64::from).collect()
    }

    /// Every value of the program.
    pub fn values(&self, inputs: &[&[f32]]) -> Vec<Tensor> {
        let program = self.program;
        let mut values = vec![Tensor::default(); program.values.len()];
        for (id, value) in program.values.iter().enumerate() {
            if let Some(weight) = &value.constant {
                values[id].shape = value.shape.iter().map(|size| size.unwrap_or(1)).collect();
                values[id].values = match self.weights.get(&id) {
                    Some(values) => values.clone(),
                    None if value.dtype != DType::F32 => {
                        value.dtype.decode(weight.values()).into_iter().map(|x| x as f64).collect()
                    }
                    None => weight.values().iter().map(|&x| f64::from(x)).collect(),
                };
            }
        }
        for (&id, input) in program.inputs.iter().zip(inputs) {
            values[id].shape = program.values[id].shape.iter().map(|size| size.unwrap_or(1)).collect();
            values[id].values = input.iter().map(|&x| f64::from(x)).collect();
        }
        for node in &program.nodes {
            let operands: Vec<&Tensor> = node.inputs.iter().map(|&id| &values[id]).collect();
            let mut shape: Vec<usize> =
                program.values[node.output].shape.iter().map(|size| size.unwrap_or(1)).collect();
            // A reshape may fold another axis into the batch.
            if program.values[node.output].shape.first() == Some(&None) {
                shape[0] = match node.op {
                    Op::Reshape => operands[0].values.len() / shape.iter().product::<usize>(),
                    _ => operands[0].shape[0].max(operands.last().map_or(1, |x| match node.op {
                        Op::Binary(_) => x.shape[0],
                        _ => 1,
                    })),
                };
            }
            values[node.output] = self.node(&node.op, &operands, shape);
        }
        values
    }

    fn tile_input(&self, layer: Option<LayerId>, x: &Tensor) -> Tensor {
        let mut x = x.clone();
        let Some(layer) = layer.filter(|_| self.mode.noise) else { return x };
        self.add_noise(layer, Site::Input, &mut x);
        let info = &self.program.layers[layer];
        if info.noise.scale == Scale::Range && !info.noise.spec.is_ideal() {
            let limit = f64::from(info.calibration.unwrap().input_absmax as f32);
            x.values.iter_mut().for_each(|x| *x = x.clamp(-limit, limit));
        }
        x
    }

    fn add_noise(&self, layer: LayerId, site: Site, y: &mut Tensor) {
        let info = &self.program.layers[layer];
        let (n, values) = (y.values.len() as f64, &y.values);
        let mean = values.iter().sum::<f64>() / n;
        let square = values.iter().map(|y| y * y).sum::<f64>() / n;
        let s = match (info.noise.scale, site, info.noise.reference, info.calibration) {
            (Scale::Signal, _, Reference::Rms, _) => square.sqrt(),
            (Scale::Signal, _, Reference::Absmax, _) => values.iter().fold(0.0, |max, y| y.abs().max(max)),
            (Scale::Signal, _, Reference::MeanAbs, _) => values.iter().map(|y| y.abs()).sum::<f64>() / n,
            (Scale::Signal, _, Reference::Std, _) => (square - mean * mean).sqrt(),
            (_, Site::Input, _, Some(calibration)) => calibration.input_absmax,
            (_, _, Reference::Rms, Some(calibration)) => calibration.rms,
            (_, _, Reference::Absmax, Some(calibration)) => calibration.absmax,
            (_, _, Reference::MeanAbs, Some(calibration)) => calibration.mean_abs,
            (_, _, Reference::Std, Some(calibration)) => calibration.std,
            _ => panic!("no scale"),
        };
        for (index, component) in info.noise.spec.components.iter().enumerate() {
            if component.site != site {
                continue;
            }
            let law = Law::of(&component.model);
            let chip = component.lifetime == Lifetime::Chip;
            let draws = self.draws(law.fill, layer, Kind::Noise, index as u32, chip, y.values.len());
            for (y, draw) in y.values.iter_mut().zip(draws) {
                *y += s * (law.mean + law.spread * draw);
            }
        }
    }

    fn finish_layer(&self, layer: Option<LayerId>, mut y: Tensor) -> Tensor {
        let Some(layer) = layer else { return y };
        if let Some((_, at, by)) = self.nudge.filter(|nudge| nudge.0 == layer) {
            y.values[at] += by;
        }
        if !self.mode.noise {
            return y;
        }
        self.add_noise(layer, Site::Output, &mut y);
        let info = &self.program.layers[layer];
        if info.noise.scale == Scale::Range && !info.noise.spec.is_ideal() {
            let limit = f64::from(info.calibration.unwrap().absmax as f32);
            y.values.iter_mut().for_each(|y| *y = y.clamp(-limit, limit));
        }
        y
    }

    /// A denoiser, term by term.
    fn denoise(&self, layer: usize, expression: &Expression, operands: &[&Tensor], shape: Vec<usize>) -> Tensor {
        let channels = *shape.last().unwrap();
        // Images, rows, columns; what has none is one column of pixels.
        let image = match shape.as_slice() {
            &[n, h, w, _] => [n, h, w],
            _ => [1, operands[0].values.len() / channels, 1],
        };
        let weight = |parameter: usize| operands[1 + parameter];
        let bias = |bias: Option<usize>, channel: usize| bias.map_or(0.0, |bias| weight(bias).values[channel]);
        let mut values: Vec<Tensor> = Vec::new();
        for (index, term) in expression.terms().iter().enumerate() {
            let full = [image.as_slice(), &[expression.width(index).of(channels)]].concat();
            let both = |[a, b]: [usize; 2], f: fn(f64, f64) -> f64| {
                let pairs = values[a].values.iter().zip(&values[b].values);
                Tensor { shape: full.clone(), values: pairs.map(|(a, b)| f(*a, *b)).collect() }
            };
            let value = match &term.primitive {
                Primitive::Input => Tensor { shape: full.clone(), values: operands[0].values.clone() },
                Primitive::Pointwise { x, weight: w, bias: b } => {
                    let (x, w) = (&values[*x], weight(*w));
                    let inputs = x.shape[3];
                    Tensor::from_fn(&full, |i| {
                        let products = (0..inputs).map(|k| x.at(&[i[0], i[1], i[2], k]) * w.values[i[3] * inputs + k]);
                        bias(*b, i[3]) + products.sum::<f64>()
                    })
                }
                Primitive::Depthwise { x, weight: w, bias: b } => {
                    let (x, w) = (&values[*x], weight(*w));
                    let kernel = w.shape[0];
                    let half = kernel / 2;
                    Tensor::from_fn(&full, |i| {
                        let mut sum = bias(*b, i[3]);
                        for (kh, kw) in (0..kernel).flat_map(|kh| (0..kernel).map(move |kw| (kh, kw))) {
                            let (row, column) = (i[1] + kh, i[2] + kw);
                            if row >= half && column >= half && row - half < full[1] && column - half < full[2] {
                                sum += x.at(&[i[0], row - half, column - half, i[3]])
                                    * w.values[(kh * kernel + kw) * full[3] + i[3]];
                            }
                        }
                        sum
                    })
                }
                Primitive::LeakyRelu { x } => {
                    let rectified = |&x: &f64| if x >= 0.0 { x } else { SLOPE * x };
                    Tensor { shape: full.clone(), values: values[*x].values.iter().map(rectified).collect() }
                }
                Primitive::ScaleShift { x, scale, shift } => Tensor::from_fn(&full, |i| {
                    values[*x].at(i) * weight(*scale).values[i[3]] + weight(*shift).values[i[3]]
                }),
                Primitive::Draw { .. } => {
                    let count = full.iter().product();
                    let number = expression.terms()[..index]
                        .iter()
                        .filter(|term| matches!(term.primitive, Primitive::Draw { .. }))
                        .count() as u32;
                    let values = match self.mode.sampling {
                        true => self.draws(Stream::fill_normals, layer, Kind::Epsilon, number, false, count),
                        false => vec![0.0; count],
                    };
                    Tensor { shape: full.clone(), values }
                }
                Primitive::Multiply(pair) => both(*pair, |a, b| a * b),
                Primitive::Add(pair) => both(*pair, |a, b| a + b),
                Primitive::Subtract(pair) => both(*pair, |a, b| a - b),
            };
            values.push(value);
        }
        Tensor { shape, values: values.pop().unwrap().values }
    }

    fn node(&self, op: &Op, operands: &[&Tensor], shape: Vec<usize>) -> Tensor {
        let x = operands[0];
        match op {
            Op::Conv2d { stride, pad, dilation, groups, layer } => {
                let (w, b) = (operands[1], operands[2]);
                let x = self.tile_input(*layer, x);
                let (per_in, per_out) = (w.shape[3], w.shape[0] / groups);
                let y = Tensor::from_fn(&shape, |i| {
                    let mut sum = b.at(&[i[3]]);
                    for kh in 0..w.shape[1] {
                        for kw in 0..w.shape[2] {
                            let row = (i[1] * stride[0] + kh * dilation[0]) as isize - pad[0] as isize;
                            let column = (i[2] * stride[1] + kw * dilation[1]) as isize - pad[2] as isize;
                            if row < 0 || column < 0 {
                                continue;
                            }
                            let (row, column) = (row as usize, column as usize);
                            if row >= x.shape[1] || column >= x.shape[2] {
                                continue;
                            }
                            for c in 0..per_in {
                                let channel = i[3] / per_out * per_in + c;
                                sum += x.at(&[i[0], row, column, channel]) * w.at(&[i[3], kh, kw, c]);
                            }
                        }
                    }
                    sum
                });
                self.finish_layer(*layer, y)
            }
            Op::FullyConnected { layer } => {
                let (w, b) = (operands[1], operands[2]);
                let x = self.tile_input(*layer, x);
                let y = Tensor::from_fn(&shape, |i| {
                    let (&o, lead) = i.split_last().unwrap();
                    let mut index = lead.to_vec();
                    index.push(0);
                    b.at(&[o])
                        + (0..w.shape[1])
                            .map(|k| {
                                index[lead.len()] = k;
                                x.at(&index) * w.at(&[o, k])
                            })
                            .sum::<f64>()
                });
                self.finish_layer(*layer, y)
            }
            Op::MatMul => Tensor::from_fn(&shape, |i| {
                (0..x.shape[2]).map(|k| x.at(&[i[0], i[1], k]) * operands[1].at(&[i[0], k, i[2]])).sum()
            }),
            op if op.cleans().is_some() && !self.mode.denoise => x.clone(),
            Op::DenoiseTile { .. } => unreachable!("the reference computes in floating point"),
            Op::Denoise { layer, kind } => self.denoise(*layer, kind.expression(), operands, shape),
            Op::Unary(op) => Tensor {
                shape,
                values: x
                    .values
                    .iter()
                    .map(|&x| match op {
                        Unary::Clamp { min, max } => x.clamp(f64::from(*min), f64::from(*max)),
                        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
                        Unary::Tanh => x.tanh(),
                        Unary::Erf => statrs::function::erf::erf(x),
                        Unary::Exp => x.exp(),
                        Unary::Log => x.ln(),
                        Unary::Reciprocal => 1.0 / x,
                        Unary::Rsqrt => 1.0 / x.sqrt(),
                        Unary::Sqrt => x.sqrt(),
                        Unary::Sign => x.signum(),
                        Unary::Abs => x.abs(),
                        Unary::Negate => -x,
                        Unary::Floor => x.floor(),
                        Unary::Ceil => x.ceil(),
                        Unary::Round => x.round_ties_even(),
                        Unary::Quantize { scale, zero, low, high } => {
                            let whole = (x / f64::from(*scale)).round_ties_even() + f64::from(*zero);
                            whole.clamp(f64::from(*low), f64::from(*high))
                        }
                        Unary::Sin => x.sin(),
                        Unary::Cos => x.cos(),
                        Unary::Tan => x.tan(),
                        Unary::Asin => x.asin(),
                        Unary::Acos => x.acos(),
                        Unary::Atan => x.atan(),
                        Unary::Sinh => x.sinh(),
                        Unary::Cosh => x.cosh(),
                        Unary::Asinh => x.asinh(),
                        Unary::Acosh => x.acosh(),
                        Unary::Atanh => x.atanh(),
                        Unary::Not => f64::from(x == 0.0),
                        Unary::Identity => x,
                    })
                    .collect(),
            },
            Op::Binary(op) => Tensor::from_fn(&shape, |i| {
                let (a, b) = (x.at(i), operands[1].at(i));
                match op {
                    Binary::Add => a + b,
                    Binary::Sub => a - b,
                    Binary::Mul => a * b,
                    Binary::Div => a / b,
                    Binary::Mod => a - b * (a / b).floor(),
                    Binary::Rem => a % b,
                    Binary::Max => a.max(b),
                    Binary::Min => a.min(b),
                    Binary::Pow => a.powf(b),
                    Binary::Greater => f64::from(a > b),
                    _ => panic!("{op:?} is tested elsewhere"),
                }
            }),
            Op::AvgPool { kernel, stride, pad } | Op::MaxPool { kernel, stride, pad } => Tensor::from_fn(&shape, |i| {
                let (mut sum, mut max, mut count) = (0.0, f64::NEG_INFINITY, 0.0);
                for kh in 0..kernel[0] {
                    for kw in 0..kernel[1] {
                        let (row, column) = (i[1] * stride[0] + kh, i[2] * stride[1] + kw);
                        if row < pad[0] || column < pad[2] {
                            continue;
                        }
                        let (row, column) = (row - pad[0], column - pad[2]);
                        if row < x.shape[1] && column < x.shape[2] {
                            let value = x.at(&[i[0], row, column, i[3]]);
                            sum += value;
                            max = f64::max(max, value);
                            count += 1.0;
                        }
                    }
                }
                if matches!(op, Op::AvgPool { .. }) { sum / count } else { max }
            }),
            Op::Reduce { kind, axis } => Tensor::from_fn(&shape, |i| {
                let mut index = i.to_vec();
                let all = (0..x.shape[*axis]).map(|at| {
                    index[*axis] = at;
                    x.at(&index)
                });
                match kind {
                    Reduce::Sum => all.sum(),
                    Reduce::Product => all.product(),
                    Reduce::Max => all.fold(f64::NEG_INFINITY, f64::max),
                    Reduce::Min => all.fold(f64::INFINITY, f64::min),
                }
            }),
            Op::Reshape => Tensor { shape, values: x.values.clone() },
            Op::Transpose { perms } => Tensor::from_fn(&shape, |i| {
                let mut index = vec![0; i.len()];
                for (at, &axis) in perms.iter().enumerate() {
                    index[axis] = i[at];
                }
                x.at(&index)
            }),
            Op::Concat { axis } => Tensor::from_fn(&shape, |i| {
                let mut index = i.to_vec();
                for operand in operands {
                    if index[*axis] < operand.shape[*axis] {
                        return operand.at(&index);
                    }
                    index[*axis] -= operand.shape[*axis];
                }
                f64::NAN
            }),
            Op::Tile { .. } => {
                Tensor::from_fn(&shape, |i| x.at(&i.iter().zip(&x.shape).map(|(i, size)| i % size).collect::<Vec<_>>()))
            }
            Op::Take { axis } => Tensor::from_fn(&shape, |i| {
                let mut index = i.to_vec();
                index[*axis] = operands[1].values[i[*axis]] as usize;
                x.at(&index)
            }),
            Op::Select => Tensor::from_fn(&shape, |i| operands[if x.at(i) != 0.0 { 1 } else { 2 }].at(i)),
            Op::Pick { axis } => Tensor::from_fn(&shape, |i| {
                let mut index = i.to_vec();
                index[*axis] = place(operands[1].at(i), x.shape[*axis]);
                x.at(&index)
            }),
            Op::Scatter { axis, reduction } => {
                let (indices, updates) = (operands[1], operands[2]);
                Tensor::from_fn(&shape, |i| {
                    let mut value = x.at(i);
                    // Every update that goes here, in order.
                    Tensor::from_fn(&updates.shape, |j| {
                        let here = (0..j.len()).all(|each| {
                            i[each] == if each == *axis { place(indices.at(j), shape[*axis]) } else { j[each] }
                        });
                        f64::from(here)
                    })
                    .values
                    .iter()
                    .zip(&updates.values)
                    .filter(|(here, _)| **here == 1.0)
                    .for_each(|(_, &update)| {
                        value = match reduction {
                            Scattering::Replace => update,
                            Scattering::Add => value + update,
                            Scattering::Mul => value * update,
                            Scattering::Max => value.max(update),
                            Scattering::Min => value.min(update),
                        };
                    });
                    value
                })
            }
            Op::TopK { axis, largest, .. } => Tensor::from_fn(&shape, |i| {
                let mut index = i.to_vec();
                let mut along = |at: usize| {
                    index[*axis] = at;
                    x.at(&index) * if *largest { -1.0 } else { 1.0 }
                };
                let own: Vec<f64> = (0..x.shape[*axis]).map(&mut along).collect();
                // The one that as many come before as this rank says.
                let before = |k: usize| (0..own.len()).filter(|&j| (own[j], j) < (own[k], k)).count();
                (0..own.len()).find(|&k| before(k) == i[*axis]).map_or(f64::NAN, |k| k as f64)
            }),
            Op::CumSum { axis, exclusive, reverse } => Tensor::from_fn(&shape, |i| {
                let mut index = i.to_vec();
                (0..shape[*axis])
                    .filter(|&at| if *reverse { at > i[*axis] } else { at < i[*axis] } || at == i[*axis] && !exclusive)
                    .map(|at| {
                        index[*axis] = at;
                        x.at(&index)
                    })
                    .sum()
            }),
            Op::GridSample(sampling) => Tensor::from_fn(&shape, |i| {
                let spatial = &x.shape[2..];
                let mut index = vec![i[0], 0];
                index.extend(&i[2..]);
                index.remove(1);
                index.push(0);
                let weights: Vec<Vec<f64>> = (0..spatial.len())
                    .map(|axis| {
                        *index.last_mut().unwrap() = spatial.len() - 1 - axis;
                        weights(*sampling, spatial[axis], operands[1].at(&index))
                    })
                    .collect();
                Tensor::from_fn(spatial, |at| {
                    let weight: f64 = at.iter().zip(&weights).map(|(&at, weights)| weights[at]).product();
                    weight * x.at(&[&i[..2], at].concat())
                })
                .values
                .iter()
                .sum()
            }),
            Op::Cast | Op::ArgMax { .. } => panic!("{op:?} is tested elsewhere"),
            Op::Slice { start } => {
                Tensor::from_fn(&shape, |i| x.at(&i.iter().zip(start).map(|(i, start)| i + start).collect::<Vec<_>>()))
            }
            Op::Pad { pad, value } => Tensor::from_fn(&shape, |i| {
                let inside = i.iter().zip(pad).zip(&x.shape).all(|((i, pad), size)| *i >= pad[0] && i - pad[0] < *size);
                if inside {
                    x.at(&i.iter().zip(pad).map(|(i, pad)| i - pad[0]).collect::<Vec<_>>())
                } else {
                    f64::from(*value)
                }
            }),
        }
    }

    /// Cross-entropy.
    pub fn loss(&self, inputs: &[&[f32]], label: usize) -> f64 {
        let values = self.values(inputs);
        let logits = &values[self.program.logits].values;
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln() + max - logits[label]
    }
}
