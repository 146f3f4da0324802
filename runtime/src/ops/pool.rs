//! Pooling over rows and columns.

use super::{
    operator::{Operand, Operator, Planned, Type, exactly, floats, show},
    reference::{Exact, Tensor},
};
use crate::{
    error::ExecError,
    exec::{
        buffers::Buffer,
        kernel::{Backward, Forward, Id, Kernel, Reads},
    },
    kernels::{
        layout::images,
        pool::{self, Window},
    },
    plan::steps::Steps,
};

/// What becomes of the elements in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean; padding does not count.
    Average,
    /// The greatest.
    Maximum,
}

/// A window over rows and columns of NHWC; floor semantics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// What is computed.
    pub kind: Pooling,
    /// Vertical, horizontal.
    pub kernel: [usize; 2],
    /// Vertical, horizontal.
    pub stride: [usize; 2],
    /// Top, bottom, left, right.
    pub pad: [usize; 4],
}

impl Operator for Pool {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x] = exactly(operands)?;
        floats(operands)?;
        let Self { kernel, stride, pad, .. } = *self;
        let &[batch, Some(rows), Some(columns), Some(channels)] = x.shape else {
            return Err("its input must be a rank-4 NHWC tensor".to_owned());
        };
        let size = |axis: usize, input: usize| {
            let padded = input.checked_add(pad[2 * axis])?.checked_add(pad[2 * axis + 1])?;
            // A window of padding only would have nothing to average.
            let covered = pad[2 * axis].max(pad[2 * axis + 1]) < kernel[axis];
            let steps = padded.checked_sub(kernel[axis])?.checked_div(stride[axis])?;
            covered.then_some(steps + 1)
        };
        match (size(0, rows), size(1, columns)) {
            (Some(rows), Some(columns)) => Ok(x.reshaped(vec![batch, Some(rows), Some(columns), Some(channels)])),
            _ => Err(format!("its window {kernel:?} does not fit the padded input {}", show(x.shape))),
        }
    }

    fn keeps_scale(&self, _: &[bool]) -> bool {
        true
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        let (x, y) = (node.operands[0].shape, node.shape);
        let window = Window {
            input: [x[1], x[2]],
            output: [y[1], y[2]],
            channels: y[3],
            kernel: self.kernel,
            stride: self.stride,
            pad: [self.pad[0], self.pad[2]],
        };
        Ok(match self.kind {
            Pooling::Average => steps.push(Average(window), vec![node.x()], node.words()),
            Pooling::Maximum => steps.push(Maximum(window), vec![node.x()], node.words()),
        })
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        let x = operands[0];
        let Self { kernel, stride, pad, .. } = *self;
        Ok(Tensor::from_fn(shape, |i| {
            let (mut sum, mut max, mut count) = (0.0, f64::NEG_INFINITY, 0.0);
            for (kh, kw) in (0..kernel[0]).flat_map(|kh| (0..kernel[1]).map(move |kw| (kh, kw))) {
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
            match self.kind {
                Pooling::Average => sum / count,
                Pooling::Maximum => max,
            }
        }))
    }
}

#[derive(Clone, Copy, Debug)]
struct Average(Window);

impl Kernel for Average {
    fn in_place(&self) -> bool {
        false
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(Reads::NOTHING)
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        let window = &self.0;
        images(run.operand(0), run.out, window.input, window.output, window.channels)
            .for_each(|(x, out)| pool::average(window, x, out));
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: Buffer) -> Result<(), ExecError> {
        let window = &self.0;
        let mut out = run.take(0);
        images(&g, &mut out, window.output, window.input, window.channels)
            .for_each(|(g, out)| pool::average_backward(window, g, out));
        run.put(0, out);
        run.pool().give(g);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
struct Maximum(Window);

impl Kernel for Maximum {
    fn in_place(&self) -> bool {
        false
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(Reads::BOTH)
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        let window = &self.0;
        images(run.operand(0), run.out, window.input, window.output, window.channels)
            .for_each(|(x, out)| pool::maximum(window, x, out));
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: Buffer) -> Result<(), ExecError> {
        let window = &self.0;
        let (x, y) = (run.operand(0), run.result());
        let mut out = run.take(0);
        let one = window.output[0] * window.output[1] * window.channels;
        let whole = window.input[0] * window.input[1] * window.channels;
        let mut taken = run.pool().take(one);
        images(&g, &mut out, window.output, window.input, window.channels).enumerate().for_each(|(image, (g, out))| {
            let (x, y) = (&x[image * whole..][..whole], &y[image * one..][..one]);
            pool::maximum_backward(window, x, y, g, out, &mut taken);
        });
        run.pool().give(taken);
        run.put(0, out);
        run.pool().give(g);
        Ok(())
    }
}
