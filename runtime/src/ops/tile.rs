//! Denoisers on the digital tile.

use super::{
    operator::{Operand, Operator, Planned, Type, exactly, floats, show},
    reference::{Exact, Tensor},
};
use crate::{
    digital::program::TileProgram,
    error::ExecError,
    exec::{
        buffers::Buffer,
        kernel::{Backward, Forward, Id, Kernel, Reads},
    },
    plan::steps::{Goal, Steps},
    program::value::LayerId,
};
use std::sync::Arc;

/// A layer's denoisers in integers, as a program of the digital tile: quantises, runs the program, dequantises.
#[derive(Clone, Debug, PartialEq)]
pub struct DenoiseTile {
    /// The layer it cleans.
    pub layer: LayerId,
    /// What the tile runs on every sample.
    pub program: Arc<TileProgram>,
}

impl Operator for DenoiseTile {
    fn infer(&self, operands: &[Operand<'_>]) -> Result<Type, String> {
        let [x] = exactly(operands)?;
        floats(operands)?;
        let words: usize = self.program.shape.iter().product();
        let elements: usize = x.shape.iter().copied().flatten().product();
        let channels = x.shape.last().copied().flatten();
        if words == 0 || !elements.is_multiple_of(words) || channels != self.program.shape.last().copied() {
            return Err(format!("@{} cleans {:?}, not {}", self.program.symbol, self.program.shape, show(x.shape)));
        }
        Ok(x.same())
    }

    fn plan(&self, node: &Planned<'_>, steps: &mut Steps<'_>) -> Result<Id, ExecError> {
        if steps.key.goal == Goal::Train {
            return Err(ExecError::Program(format!(
                "the denoiser of layer `{}` runs on the digital tile, in integers, which have no gradient; \
                 train the network at its denoise level and lower it afterwards",
                steps.layers.get(self.layer).map_or("?", |layer| layer.name.as_str())
            )));
        }
        if !steps.key.denoise {
            return Ok(node.x());
        }
        Ok(steps.push(Launch(Arc::clone(&self.program)), vec![node.x()], node.words()))
    }

    fn exact(&self, run: &Exact<'_>, operands: &[&Tensor], _: &[usize]) -> Result<Tensor, String> {
        let x = operands[0];
        if !run.sample.mode.denoise {
            return Ok(x.clone());
        }
        // The tile computes in integers; what it takes and gives is f32.
        let mut words: Vec<f32> = x.values.iter().map(|&x| x as f32).collect();
        self.program.denoise(&mut words, run.sample.index, run.sample.mode.sampling.then_some(run.sample.key));
        Ok(Tensor { shape: x.shape.clone(), values: words.into_iter().map(f64::from).collect() })
    }
}

/// In place.
#[derive(Clone, Debug)]
struct Launch(Arc<TileProgram>);

impl Kernel for Launch {
    fn in_place(&self) -> bool {
        true
    }

    /// Integers have no gradient: no plan with gradients holds one.
    fn reads(&self, _: bool) -> Result<Reads, &'static str> {
        Err("DenoiseTile")
    }

    fn forward(&self, run: &mut Forward<'_>) -> Result<(), ExecError> {
        self.0.denoise(run.out, run.sample.index, run.sample.mode.sampling.then_some(run.sample.key));
        Ok(())
    }

    fn backward(&self, run: &mut Backward<'_>, g: Buffer) -> Result<(), ExecError> {
        run.pool().give(g);
        Ok(())
    }
}
