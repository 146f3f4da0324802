//! The plain f64 run of a program: its tensors, and what it depends on.

use crate::{
    exec::sample::{Observer, Sample, Seen},
    kernels::noise::{Fill, first_block},
    program::value::{Layer, LayerId},
    rng::{Kind, layer_hash},
};
use mxc_spec::noise::Lifetime;
use std::cell::RefCell;

/// A dense tensor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Tensor {
    /// The tensor whose element at each index is `f`.
    pub fn from_fn(shape: &[usize], mut f: impl FnMut(&[usize]) -> f64) -> Self {
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
    pub fn at(&self, index: &[usize]) -> f64 {
        let offset =
            self.shape.iter().zip(index).fold(0, |at, (&size, &index)| at * size + if size == 1 { 0 } else { index });
        self.values[offset]
    }

    /// Every element through a function.
    pub fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self { shape: self.shape.clone(), values: self.values.iter().map(|&x| f(x)).collect() }
    }
}

/// A plain run of one sample.
pub(crate) struct Exact<'a> {
    pub layers: &'a [Layer],
    pub sample: Sample,
    /// Something added to one element of a layer's output before its noise: for finite differences.
    pub nudge: Option<(LayerId, usize, f64)>,
    /// What is told of the layers.
    pub observer: RefCell<Option<&'a mut Observer<'a>>>,
}

impl Exact<'_> {
    /// Draws of a law for a layer, as the kernels make them, of a lifetime and in the so-manyth read.
    pub fn draws(
        &self,
        fill: Fill,
        layer: LayerId,
        kind: Kind,
        component: usize,
        (lifetime, read): (Lifetime, u32),
        len: usize,
    ) -> Result<Vec<f64>, String> {
        let mut out = vec![0.0; len];
        let stream = self.sample.stream(layer_hash(&self.layers[layer].name), kind, component, lifetime);
        fill.fill(&stream, first_block(read), &mut out).map_err(|failure| failure.to_string())?;
        Ok(out.into_iter().map(f64::from).collect())
    }

    /// Tells the observer, if there is one, of two tensors in f32.
    pub fn observe(
        &self,
        layer: LayerId,
        tensors: [&Tensor; 2],
        seen: impl for<'s> FnOnce([&'s [f32]; 2]) -> Seen<'s>,
    ) {
        if let Some(observer) = self.observer.borrow_mut().as_mut() {
            let [a, b] = tensors.map(|tensor| tensor.values.iter().map(|&x| x as f32).collect::<Vec<_>>());
            observer(layer, seen([&a, &b]));
        }
    }
}
