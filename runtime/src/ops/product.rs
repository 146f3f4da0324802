//! Products of matrices: with a constant weight (fully connected layers) and of two activations.

use super::{
    analog::{self, Product},
    operator::{Operand, Operator, Planned, Type, exactly, floats, show, wrong_types},
    plain::{Elements, Interpreted, Types, interpret},
    reference::{Exact, Tensor},
};
use crate::{
    error::ExecError,
    exec::{
        buffers::Buffer,
        constants::Constants,
        kernel::{Backward, Forward, Id, Kernel, Reads},
    },
    kernels::gemm::{self, Start, View, gemm, transpose},
    plan::steps::Steps,
    program::value::{LayerId, ValueId},
};
use mxc_spec::shape;

/// input `[..., I]`, weight `[O, I]`, bias `[O]` → `[..., O]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullyConnected {
    /// The analog layer, if it runs on analog tiles.
    pub layer: Option<LayerId>,
}

impl Operator for FullyConnected {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x, weight, bias] = exactly(operands)?;
        floats(operands)?;
        if !(weight.constant && bias.constant) {
            return Err("its weight and bias must be constants".to_owned());
        }
        let static_weight: Option<Vec<usize>> = weight.shape.iter().copied().collect();
        let static_weight = static_weight.ok_or_else(|| format!("its weight is {}", show(weight.shape)))?;
        let result = shape::fully_connected(x.shape, &static_weight)?;
        shape::bias(bias.shape, static_weight[0])?;
        Ok(x.reshaped(result))
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        let [_, weight, bias] = [0, 1, 2].map(|position| node.operands[position]);
        let (outputs, inputs) = (weight.shape[0], weight.shape[1]);
        let rows = node.words() / outputs.max(1);
        let rows = Rows { rows, inputs, outputs, weight: weight.value, bias: bias.value };
        analog::layer(rows, self.layer, node, steps)
    }

    fn exact(&self, run: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        let (w, b) = (operands[1], operands[2]);
        analog::exact(run, self.layer, operands[0], |x| {
            Tensor::from_fn(shape, |i| {
                let mut index = i.to_vec();
                let last = i.len() - 1;
                let products = (0..w.shape[1]).map(|k| {
                    index[last] = k;
                    x.at(&index) * w.at(&[i[last], k])
                });
                b.at(&[i[last]]) + products.sum::<f64>()
            })
        })
    }
}

/// x is `[rows, inputs]`, the weight `[outputs, inputs]`.
#[derive(Clone, Debug)]
struct Rows {
    rows: usize,
    inputs: usize,
    outputs: usize,
    weight: ValueId,
    bias: ValueId,
}

impl Product for Rows {
    fn forward(&self, run: &mut Forward<'_>, x: &[f32]) -> Result<(), ExecError> {
        let Self { rows, inputs, outputs, weight, bias } = *self;
        let bias = run.constant(bias);
        if rows > 1 {
            let transposed = run.constants().transposed(weight, inputs);
            gemm([rows, outputs, inputs], View::rows(x, inputs), transposed, run.out, Start::Row(bias));
        } else {
            gemm::matrix_vector(run.constant(weight), x, bias, run.out);
        }
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: &[f32], out: &mut [f32]) -> Result<(), ExecError> {
        let Self { rows, inputs, outputs, weight, .. } = *self;
        gemm([rows, inputs, outputs], View::rows(g, outputs), run.constant(weight), out, Start::Zero);
        Ok(())
    }

    fn prepare(&self, constants: &Constants) -> Result<(), ExecError> {
        if self.rows > 1 {
            constants.transposed(self.weight, self.inputs);
        }
        Ok(())
    }
}

/// `[…, H, C] × […, C, W] → […, H, W]`, of rank 3 or more and equal leading axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatMul;

impl Operator for MatMul {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x, y] = exactly(operands)?;
        if x.dtype != y.dtype {
            return wrong_types(operands);
        }
        match (x.shape, y.shape) {
            ([images @ .., rows, inner], [others @ .., other, columns])
                if !images.is_empty() && images == others && inner == other && inner.is_some() =>
            {
                Ok(x.reshaped([images, &[*rows, *columns]].concat()))
            }
            _ => Err(format!("shapes {} and {} do not multiply", show(x.shape), show(y.shape))),
        }
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        if !node.is_float() {
            return Ok(interpret(self, node, steps));
        }
        let [x, y] = [node.operands[0], node.operands[1]];
        let rank = x.shape.len();
        let kernel = Matrices {
            batch: x.shape[..rank - 2].iter().product(),
            m: x.shape[rank - 2],
            k: x.shape[rank - 1],
            n: y.shape[rank - 1],
        };
        Ok(steps.push(kernel, vec![x.id, y.id], node.words()))
    }

    fn exact(&self, _: &Exact<'_>, operands: &[&Tensor], shape: &[usize]) -> Result<Tensor, String> {
        let (x, y) = (operands[0], operands[1]);
        let rank = shape.len();
        Ok(Tensor::from_fn(shape, |i| {
            let (mut left, mut right) = (i.to_vec(), i.to_vec());
            let products = (0..x.shape[rank - 1]).map(|k| {
                left[rank - 1] = k;
                right[rank - 2] = k;
                x.at(&left) * y.at(&right)
            });
            products.sum()
        }))
    }
}

/// The kernel of f32.
#[derive(Clone, Copy, Debug)]
struct Matrices {
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
}

impl Kernel for Matrices {
    fn in_place(&self) -> bool {
        false
    }

    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Ok(Reads::OPERANDS)
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        let Self { batch, m, n, k } = *self;
        let (x, y) = (run.operand(0), run.operand(1));
        for image in 0..batch {
            gemm(
                [m, n, k],
                View::rows(&x[image * m * k..][..m * k], k),
                &y[image * k * n..][..k * n],
                &mut run.out[image * m * n..][..m * n],
                Start::Zero,
            );
        }
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: Buffer) -> Result<(), ExecError> {
        let Self { batch, m, n, k } = *self;
        let (x, y) = (run.operand(0), run.operand(1));
        if run.wanted(0) {
            let mut out = run.take(0);
            let mut right = run.pool().take(k * n);
            for image in 0..batch {
                transpose(&y[image * k * n..][..k * n], n, &mut right);
                let g = View::rows(&g[image * m * n..][..m * n], n);
                gemm([m, k, n], g, &right, &mut out[image * m * k..][..m * k], Start::Result);
            }
            run.pool().give(right);
            run.put(0, out);
        }
        if run.wanted(1) {
            let mut out = run.take(1);
            for image in 0..batch {
                let left = View::transposed(&x[image * m * k..][..m * k], k);
                let g = &g[image * m * n..][..m * n];
                gemm([k, n, m], left, g, &mut out[image * k * n..][..k * n], Start::Result);
            }
            run.put(1, out);
        }
        run.pool().give(g);
        Ok(())
    }
}

/// Of integers.
impl Interpreted for MatMul {
    const NAME: &str = "MatMul";

    fn run(&self, types: &Types, operands: &[&[f32]], out: &mut [f32]) {
        let (&[.., rows, inner], &[.., columns]) = (types.shape_of(0), types.shape_of(1)) else { return };
        let (a, b) = (types.ints(0, operands), types.ints(1, operands));
        let products = (0..types.shape.iter().product()).map(|at: usize| {
            let (image, row, column) = (at / columns / rows, at / columns % rows, at % columns);
            (0..inner).fold(0i64, |sum, k| {
                let product =
                    a[(image * rows + row) * inner + k].wrapping_mul(b[(image * inner + k) * columns + column]);
                sum.wrapping_add(product)
            })
        });
        types.write(Elements::Int(products.collect()), out);
    }
}
