//! Interpolation at computed points.

use super::{
    operator::{Operand, Operator, Planned, Type, exactly, floats, show},
    plain::{Interpreted, Types, interpret},
    reference::{Exact, Tensor},
};
use crate::{
    error::ExecError,
    exec::kernel::Id,
    kernels::sample::{self, Shapes},
    plan::steps::Steps,
};

pub use sample::{Interpolation, Padding, Sampling};

/// data `[N, C, D…]`, points `[N, P…, d]` in ±1, the last spatial axis first → `[N, C, P…]`: the data interpolated at the
/// points, as ONNX's GridSample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridSample(
    /// Between and beyond the samples.
    pub Sampling,
);

impl Operator for GridSample {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x, points] = exactly(operands)?;
        floats(operands)?;
        let (&[batch, channels, ref spatial @ ..], [own, between @ .., axes]) = (x.shape, points.shape) else {
            return Err("its operands must be [N, C, …] and points [N, …]".to_owned());
        };
        // The batch wins over a constant's 1.
        let same = batch == *own || batch == Some(1) || *own == Some(1);
        let fits = same
            && !spatial.is_empty()
            && points.shape.len() == x.shape.len()
            && *axes == Some(spatial.len())
            && !spatial.contains(&Some(0));
        if !fits {
            return Err(format!("points {} do not fit {}", show(points.shape), show(x.shape)));
        }
        let batch = if own.is_none() { None } else { batch };
        Ok(x.reshaped([&[batch, channels], between].concat()))
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        Ok(interpret(self, node, steps))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        let (x, points) = (operands[0], operands[1]);
        let spatial = &x.shape[2..];
        Ok(Tensor::from_fn(shape, |i| {
            let weights: Vec<Vec<f64>> = (0..spatial.len())
                .map(|axis| {
                    let index = [&i[..1], &i[2..], &[spatial.len() - 1 - axis]].concat();
                    weights(self.0, spatial[axis], points.at(&index))
                })
                .collect();
            let weighed = Tensor::from_fn(spatial, |at| {
                let weight: f64 = at.iter().zip(&weights).map(|(&at, weights)| weights[at]).product();
                weight * x.at(&[&i[..2], at].concat())
            });
            weighed.values.iter().sum()
        }))
    }
}

impl Interpreted for GridSample {
    const NAME: &str = "GridSample";

    fn run(&self, types: &Types, operands: &[&[f32]], out: &mut [f32]) {
        let shapes = Shapes { data: types.shape_of(0), points: types.shape_of(1) };
        sample::forward(shapes, self.0, operands[0], operands[1], out);
    }

    fn gradient_reads(&self) -> Option<&'static [usize]> {
        Some(&[0, 1])
    }

    fn gradient(&self, types: &Types, position: usize, operands: &[&[f32]], g: &[f32], out: &mut [f32]) {
        let shapes = Shapes { data: types.shape_of(0), points: types.shape_of(1) };
        match position {
            0 => sample::backward_data(shapes, self.0, operands[1], g, out),
            _ => sample::backward_points(shapes, self.0, operands[0], operands[1], g, out),
        }
    }
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
        Interpolation::Nearest => f64::from(u8::from(distance == 0.0)),
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
