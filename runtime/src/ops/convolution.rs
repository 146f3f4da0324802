//! Convolutions over rows and columns, dense, grouped and depthwise.

use super::{
    analog::{self, Product},
    operator::{Operand, Operator, Planned, Type, exactly, floats, show},
    plain::{Interpreted, Types, interpret},
    reference::{Exact, Tensor},
};
use crate::{
    error::ExecError,
    exec::{
        constants::Constants,
        kernel::{Backward, Forward, Id},
        worker::Tools,
    },
    kernels::{
        depthwise::{self, Depthwise, MAX_TAPS},
        layout::{images, walk},
    },
    onednn::{Direction, Geometry},
    plan::steps::Steps,
    program::value::{LayerId, ValueId},
};
use mxc_spec::shape::{self, Window};

/// input NHWC, weight OHWI (I = C / groups), bias O → NHWC; floor semantics. A depthwise convolution has
/// groups = C, its weight laid out `[C·M, KH, KW, 1]`. Only a digital one may have a weight that is no constant.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2d {
    /// Stride, padding and dilation.
    pub window: Window,
    /// The number of groups.
    pub groups: usize,
    /// The analog layer, if it runs on analog tiles.
    pub layer: Option<LayerId>,
}

impl Operator for Conv2d {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x, weight, bias] = exactly(operands)?;
        floats(operands)?;
        if self.layer.is_some() && !(weight.constant && bias.constant) {
            return Err("its weight and bias must be constants".to_owned());
        }
        let static_weight: Option<Vec<usize>> = weight.shape.iter().copied().collect();
        let static_weight = static_weight.ok_or_else(|| format!("its weight is {}", show(weight.shape)))?;
        let result = shape::convolution(x.shape, &static_weight, &self.window, self.groups)?;
        shape::bias(bias.shape, static_weight[0])?;
        Ok(x.reshaped(result))
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        let [x, w, b] = [0, 1, 2].map(|position| node.operands[position]);
        if w.constant.is_none() || b.constant.is_none() {
            return Ok(interpret(self, node, steps));
        }
        let (weight, bias) = (w.value, b.value);
        let (x, w, y) = (x.shape, w.shape, node.shape);
        let Window { stride, pad, dilation } = self.window;
        let taps = w[1] * w[2];
        if self.groups > 1 && self.groups == x[3] && self.groups == y[3] && taps <= MAX_TAPS {
            let shape = Depthwise {
                input: [x[1], x[2]],
                output: [y[1], y[2]],
                channels: self.groups,
                kernel: [w[1], w[2]],
                stride,
                pad: [pad[0], pad[2]],
                dilation,
            };
            return analog::layer(PerChannel { shape, taps, weight, bias }, self.layer, node, steps);
        }
        let geometry = Geometry {
            batch: x[0],
            input: [x[1], x[2], x[3]],
            output: [y[1], y[2], y[3]],
            kernel: [w[1], w[2]],
            stride,
            pad,
            dilation,
            groups: self.groups,
        };
        analog::layer(Dense { number: node.number, geometry, weight, bias }, self.layer, node, steps)
    }

    fn exact(&self, run: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        let (w, b) = (operands[1], operands[2]);
        let (per_in, per_out) = (w.shape[3], w.shape[0] / self.groups);
        let Window { stride, pad, dilation } = self.window;
        analog::exact(run, self.layer, operands[0], |x| {
            Tensor::from_fn(shape, |i| {
                let mut sum = b.at(&[i[3]]);
                for (kh, kw) in (0..w.shape[1]).flat_map(|kh| (0..w.shape[2]).map(move |kw| (kh, kw))) {
                    let row = (i[1] * stride[0] + kh * dilation[0]).checked_sub(pad[0]);
                    let column = (i[2] * stride[1] + kw * dilation[1]).checked_sub(pad[2]);
                    let (Some(row), Some(column)) = (row, column) else { continue };
                    if row >= x.shape[1] || column >= x.shape[2] {
                        continue;
                    }
                    for c in 0..per_in {
                        let channel = i[3] / per_out * per_in + c;
                        sum += x.at(&[i[0], row, column, channel]) * w.at(&[i[3], kh, kw, c]);
                    }
                }
                sum
            })
        })
    }
}

/// oneDNN's convolution.
#[derive(Clone, Debug)]
struct Dense {
    /// The node's, which names the primitives.
    number: usize,
    geometry: Geometry,
    weight: ValueId,
    bias: ValueId,
}

impl Dense {
    fn run(
        &self,
        direction: Direction,
        constants: &Constants,
        tools: &mut Tools,
        read: &[f32],
        write: &mut [f32],
    ) -> Result<(), ExecError> {
        let operands = [self.weight, self.bias];
        let convolution = constants.convolution(self.number, direction, &self.geometry, operands)?;
        tools.convolve(&constants.engine, convolution, read, write)
    }
}

impl Product for Dense {
    fn forward(&self, run: &mut Forward<'_>, x: &[f32]) -> Result<(), ExecError> {
        self.run(Direction::Forward, run.values.constants, run.tools, x, run.out)
    }

    fn backward(&self, run: &mut Backward<'_>, g: &[f32], out: &mut [f32]) -> Result<(), ExecError> {
        self.run(Direction::BackwardData, run.values.constants, run.tools, g, out)
    }

    fn prepare(&self, constants: &Constants) -> Result<(), ExecError> {
        constants.convolution(self.number, Direction::Forward, &self.geometry, [self.weight, self.bias])?;
        Ok(())
    }
}

/// Our own depthwise convolution.
#[derive(Clone, Debug)]
struct PerChannel {
    shape: Depthwise,
    taps: usize,
    /// `[C, KH, KW]`; the kernel reads it as `[KH, KW, C]`.
    weight: ValueId,
    bias: ValueId,
}

impl Product for PerChannel {
    fn forward(&self, run: &mut Forward<'_>, x: &[f32]) -> Result<(), ExecError> {
        let shape = &self.shape;
        let (filter, bias) = (run.constants().transposed(self.weight, self.taps), run.constant(self.bias));
        let mut work = run.pool().take(shape.work_len());
        images(x, run.out, shape.input, shape.output, shape.channels)
            .for_each(|(x, out)| depthwise::forward(shape, x, filter, Some(bias), &mut work, out));
        run.pool().give(work);
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: &[f32], out: &mut [f32]) -> Result<(), ExecError> {
        let shape = &self.shape;
        let filter = run.values.constants.transposed(self.weight, self.taps);
        let mut work = run.pool().take(shape.work_len());
        images(g, out, shape.output, shape.input, shape.channels)
            .for_each(|(g, out)| depthwise::backward_data(shape, g, filter, &mut work, out));
        run.pool().give(work);
        Ok(())
    }

    fn prepare(&self, constants: &Constants) -> Result<(), ExecError> {
        constants.transposed(self.weight, self.taps);
        Ok(())
    }
}

/// With weights that are computed.
impl Interpreted for Conv2d {
    const NAME: &str = "Conv2d";

    fn run(&self, types: &Types, operands: &[&[f32]], out: &mut [f32]) {
        let (&[_, rows, columns, channels], &[outputs, kh, kw, depth]) = (types.shape_of(0), types.shape_of(1)) else {
            return;
        };
        let [x, w, bias] = operands else { return };
        let Window { stride, pad, dilation } = self.window;
        let per_group = (outputs / self.groups).max(1);
        let inside = |at: usize, step: usize, axis: usize, size: usize| {
            (at * stride[axis] + step * dilation[axis]).checked_sub(pad[2 * axis]).filter(|&at| at < size)
        };
        let values = walk(&types.shape, |at| {
            let &[image, i, j, o] = at else { return 0.0 };
            let mut sum = f64::from(bias[o]);
            for (y, x_step) in (0..kh).flat_map(|y| (0..kw).map(move |x| (y, x))) {
                if let (Some(row), Some(column)) = (inside(i, y, 0, rows), inside(j, x_step, 1, columns)) {
                    let from = ((image * rows + row) * columns + column) * channels + o / per_group * depth;
                    let with = ((o * kh + y) * kw + x_step) * depth;
                    sum += x[from..from + depth]
                        .iter()
                        .zip(&w[with..with + depth])
                        .map(|(&x, &w)| f64::from(x) * f64::from(w))
                        .sum::<f64>();
                }
            }
            sum as f32
        });
        out.copy_from_slice(&values);
    }
}
