//! Resize and Upsample: along each axis, every element of the result is a weighted sum of a few elements of the input, at
//! positions and with weights that are known at import time.

use super::call::{Call, Lowering, Operator, Results, one};
use crate::import::{
    attributes::axes,
    emit::{Activation, check_picked},
    error::{Problem, invalid, unsupported},
    tensor::{Dim, Tensor},
};
use mxc_dialects::tosa::Binary;

/// The operators of this file.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("DepthToSpace", |lowering, call| lowering.depth_to_space(call)).on_integers().moving(),
    // Upsample and Resize before opset 11 have the scales as input 1.
    Operator::new("Resize", |lowering, call| lowering.resize(call, call.opset < 11)),
    Operator::new("SpaceToDepth", |lowering, call| lowering.space_to_depth(call)).on_integers().moving(),
    Operator::new("Upsample", |lowering, call| lowering.resize(call, true)),
];

/// How an axis is resized.
struct Axis {
    size: usize,
    output: usize,
    /// output / input, as the model gives it or as the sizes have it.
    scale: f64,
    /// The part of the input that `tf_crop_and_resize` takes.
    roi: [f64; 2],
}

/// For one element of the result: the input's elements and their weights; `None` outside the input.
type Taps = Option<Vec<(usize, f64)>>;

impl<'c, 'a> Lowering<'c, 'a, '_> {
    /// Resize and Upsample; an `old` one has the scales as input 1.
    fn resize(&mut self, call: &Call<'_, 'c, 'a>, old: bool) -> Results<'c, 'a> {
        let node = call.node;
        let input = call.activation(0)?.clone();
        let rank = input.rank();
        let (roi_at, scales_at, sizes_at) = if old { (9, 1, 9) } else { (1, 2, 3) };
        let floats = |index: usize| -> Result<Vec<f32>, Problem> {
            match call.optional_constant(index)? {
                Some(tensor) if tensor.len() > 0 => Ok(call.floats(index)?.to_vec()),
                _ => Ok(Vec::new()),
            }
        };
        let mut scales = floats(scales_at)?;
        if let Some(crate::import::decode::Attribute::Floats(values)) = node.attributes.get("scales") {
            scales.clone_from(values);
        }
        let sizes = match call.optional_constant(sizes_at)? {
            Some(sizes) if sizes.len() > 0 => crate::import::attributes::integers(node.input(sizes_at), sizes)?,
            _ => Vec::new(),
        };
        let which = match node.ints("axes")? {
            Some(given) => axes(&given, rank)?,
            None => (0..rank).collect(),
        };
        let roi = floats(roi_at)?;
        let mode = node.string("mode", "nearest")?;
        let transform = node.string("coordinate_transformation_mode", if old { "asymmetric" } else { "half_pixel" })?;
        let crops = transform == "tf_crop_and_resize";
        if scales.len().max(sizes.len()) != which.len() || crops && roi.len() != 2 * which.len() {
            return invalid("its scales, sizes or region do not have one value per axis");
        }
        let policy = node.string("keep_aspect_ratio_policy", "stretch")?;
        let fixed = |axis: usize| input.shape[axis].fixed();
        let kept: Option<f64> = match policy {
            "stretch" => None,
            _ if sizes.is_empty() => None,
            policy => {
                let all = which.iter().zip(&sizes).filter_map(|(&axis, &size)| Some(size as f64 / fixed(axis)? as f64));
                let larger = policy == "not_smaller";
                all.reduce(|a, b| if larger { a.max(b) } else { a.min(b) })
            }
        };
        let mut result = input.clone();
        for (index, &axis) in which.iter().enumerate() {
            let Some(size) = fixed(axis) else {
                let whole = scales.get(index).is_none_or(|&scale| scale == 1.0)
                    && sizes.get(index).is_none_or(|&size| Some(size) == self.fixed_batch);
                if whole {
                    continue;
                }
                return unsupported("it resizes the batch");
            };
            let (output, scale) = match (scales.get(index), sizes.get(index), kept) {
                (Some(&scale), ..) => ((size as f64 * f64::from(scale)).floor(), f64::from(scale)),
                (_, Some(_), Some(kept)) => ((size as f64 * kept).round(), kept),
                (_, Some(&output), None) => (output as f64, output as f64 / size as f64),
                _ => return invalid("it has neither scales nor sizes"),
            };
            if !(1.0..=f64::from(i32::MAX)).contains(&output) || scale.is_nan() || scale <= 0.0 {
                return unsupported(format!("a result of {output} elements"));
            }
            let roi = match (crops, roi.get(index), roi.get(which.len() + index)) {
                (true, Some(&start), Some(&end)) => [f64::from(start), f64::from(end)],
                _ => [0.0, 1.0],
            };
            let along = Axis { size, output: output as usize, scale, roi };
            let unchanged = along.output == size && scale == 1.0 && roi == [0.0, 1.0];
            if unchanged {
                continue;
            }
            let taps = along.taps(call, mode, transform)?;
            result = self.weighted(&result, axis, &taps, node.float("extrapolation_value", 0.0)?)?;
        }
        one(result)
    }

    /// The sum of an axis's elements with weights, and `outside` where there are none.
    fn weighted(
        &mut self,
        input: &Activation<'c, 'a>,
        axis: usize,
        taps: &[Taps],
        outside: f32,
    ) -> Result<Activation<'c, 'a>, Problem> {
        let most = taps.iter().flatten().map(Vec::len).max().unwrap_or(0).max(1);
        let mut shape = vec![1; input.rank()];
        shape[axis] = taps.len();
        let mut sum: Option<Activation<'c, 'a>> = None;
        for index in 0..most {
            let tap = |taps: &Taps| taps.as_ref().and_then(|taps| taps.get(index).copied()).unwrap_or((0, 0.0));
            let indices: Vec<_> = taps.iter().map(|taps| tap(taps).0).collect();
            let weights: Vec<f32> = taps.iter().map(|taps| tap(taps).1 as f32).collect();
            let mut part = self.emit.take(input, axis, &indices)?;
            if weights.iter().any(|&weight| weight != 1.0) {
                let weights = Tensor::floats(shape.clone(), weights);
                part = self.with_constant(Binary::Mul, &part, "resize.weights", &weights, false)?;
            }
            sum = Some(match sum {
                Some(sum) => self.emit.binary(Binary::Add, &sum, &part)?,
                None => part,
            });
        }
        let Some(mut sum) = sum else { return invalid("it makes an empty tensor") };
        if outside != 0.0 && taps.iter().any(Option::is_none) {
            let values: Vec<f32> = taps.iter().map(|taps| if taps.is_none() { outside } else { 0.0 }).collect();
            let values = Tensor::floats(shape, values);
            sum = self.with_constant(Binary::Add, &sum, "resize.outside", &values, false)?;
        }
        Ok(sum)
    }

    /// The input of DepthToSpace or SpaceToDepth and the size of the blocks: of four axes, all but the batch fixed.
    fn blocks(&self, call: &Call<'_, 'c, 'a>) -> Result<(Activation<'c, 'a>, Dim, [usize; 4]), Problem> {
        let input = call.activation(0)?.clone();
        let block = usize::try_from(call.node.int("blocksize", 0)?).unwrap_or(0);
        let &[batch, Dim::Fixed(channels), Dim::Fixed(height), Dim::Fixed(width)] = input.shape.as_slice() else {
            return invalid("its input does not have four axes");
        };
        Ok((input, batch, [block, channels, height, width]))
    }

    /// DepthToSpace.
    fn depth_to_space(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let (input, batch, [block, channels, height, width]) = self.blocks(call)?;
        if block.checked_mul(block).is_none_or(|square| square == 0 || channels % square != 0) {
            return invalid(format!("blocks of {block} do not fit its input"));
        }
        let f = Dim::Fixed;
        let rest = channels / block / block;
        let (shape, perms) = match call.node.string("mode", "DCR")? {
            "DCR" => ([batch, f(block), f(block), f(rest), f(height), f(width)], [0, 3, 4, 1, 5, 2]),
            "CRD" => ([batch, f(rest), f(block), f(block), f(height), f(width)], [0, 1, 4, 2, 5, 3]),
            other => return invalid(format!("attribute 'mode' is '{other}'")),
        };
        let split = self.emit.reshape(&input, &shape)?;
        let moved = self.permuted(&split, &perms);
        one(self.emit.reshape(&moved, &[batch, f(rest), f(height * block), f(width * block)])?)
    }

    /// SpaceToDepth.
    fn space_to_depth(&mut self, call: &Call<'_, 'c, 'a>) -> Results<'c, 'a> {
        let (input, batch, [block, channels, height, width]) = self.blocks(call)?;
        let square = block.checked_mul(block).filter(|square| *square > 0);
        if square.is_none_or(|_| height % block != 0 || width % block != 0) {
            return invalid(format!("blocks of {block} do not fit its input"));
        }
        let f = Dim::Fixed;
        let (h, w) = (height / block, width / block);
        let split = self.emit.reshape(&input, &[batch, f(channels), f(h), f(block), f(w), f(block)])?;
        let perms = match call.node.string("mode", "DCR")? {
            "DCR" => [0, 3, 5, 1, 2, 4],
            "CRD" => [0, 1, 3, 5, 2, 4],
            other => return invalid(format!("attribute 'mode' is '{other}'")),
        };
        let moved = self.permuted(&split, &perms);
        one(self.emit.reshape(&moved, &[batch, f(channels * block * block), f(h), f(w)])?)
    }
}

impl Axis {
    /// Where in the input the element `at` of the result is.
    fn position(&self, at: usize, transform: &str) -> Result<f64, Problem> {
        let (at, size, scale) = (at as f64, self.size as f64, self.scale);
        // Before it is rounded down.
        let output = scale * size;
        Ok(match transform {
            "half_pixel" => (at + 0.5) / scale - 0.5,
            "pytorch_half_pixel" if output > 1.0 => (at + 0.5) / scale - 0.5,
            "pytorch_half_pixel" => 0.0,
            // The result is cut or padded in the middle where the scale does not give whole elements.
            "half_pixel_symmetric" => {
                let adjustment = self.output as f64 / output;
                let offset = size / 2.0 * (1.0 - adjustment);
                offset + (at + 0.5) / scale - 0.5
            }
            "align_corners" if output > 1.0 => at * (size - 1.0) / (output - 1.0),
            "align_corners" => 0.0,
            "asymmetric" => at / scale,
            "tf_crop_and_resize" => {
                let [start, end] = self.roi;
                if output > 1.0 {
                    start * (size - 1.0) + at * (end - start) * (size - 1.0) / (output - 1.0)
                } else {
                    0.5 * (start + end) * (size - 1.0)
                }
            }
            other => return invalid(format!("attribute 'coordinate_transformation_mode' is '{other}'")),
        })
    }

    fn taps(&self, call: &Call<'_, '_, '_>, mode: &str, transform: &str) -> Result<Vec<Taps>, Problem> {
        let node = call.node;
        let nearest = node.string("nearest_mode", if call.opset < 11 { "floor" } else { "round_prefer_floor" })?;
        let a = f64::from(node.float("cubic_coeff_a", -0.75)?);
        let excludes = node.int("exclude_outside", 0)? != 0;
        // The filter widens where the result is smaller.
        let squeeze = if node.int("antialias", 0)? != 0 { self.scale.min(1.0) } else { 1.0 };
        let last = self.size as i64 - 1;
        // Every element of the result may read this many of the input.
        let most = (4.0 / squeeze + 4.0).min(1e9) as usize;
        check_picked(self.output.saturating_mul(most.min(self.size.saturating_add(8))))?;
        (0..self.output)
            .map(|at| {
                let x = self.position(at, transform)?;
                if transform == "tf_crop_and_resize" && !(0.0..=last as f64).contains(&x) {
                    return Ok(None);
                }
                let filter: &dyn Fn(f64) -> f64 = match mode {
                    "nearest" => {
                        let picked = match nearest {
                            "round_prefer_floor" => (x - 0.5).ceil(),
                            "round_prefer_ceil" => (x + 0.5).floor(),
                            "floor" => x.floor(),
                            "ceil" => x.ceil(),
                            other => return invalid(format!("attribute 'nearest_mode' is '{other}'")),
                        };
                        return Ok(Some(vec![((picked as i64).clamp(0, last) as usize, 1.0)]));
                    }
                    "linear" | "bilinear" => &|d: f64| (1.0 - d.abs()).max(0.0),
                    "cubic" => &|d: f64| {
                        let d = d.abs();
                        if d <= 1.0 {
                            ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
                        } else if d < 2.0 {
                            ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
                        } else {
                            0.0
                        }
                    },
                    other => return unsupported(format!("mode '{other}'")),
                };
                let reach = if mode == "cubic" { 2.0 } else { 1.0 } / squeeze;
                let (from, to) = ((x - reach).floor() as i64, (x + reach).ceil() as i64);
                let mut weights: Vec<(usize, f64)> = Vec::new();
                for at in from..=to {
                    let weight = filter((at as f64 - x) * squeeze);
                    let inside = (0..=last).contains(&at);
                    if weight == 0.0 || excludes && !inside {
                        continue;
                    }
                    let clamped = at.clamp(0, last) as usize;
                    match weights.iter_mut().find(|(index, _)| *index == clamped) {
                        Some((_, sum)) => *sum += weight,
                        None => weights.push((clamped, weight)),
                    }
                }
                let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
                if excludes || squeeze < 1.0 {
                    weights.iter_mut().for_each(|(_, weight)| *weight /= total);
                }
                Ok(Some(weights))
            })
            .collect()
    }
}
