//! The plain run of a program, node by node in f64: what the kernels are tested against.

use super::sample::{Key, Mode};
use crate::{
    error::ExecError,
    ops::reference::{Exact, Tensor},
    program::{DType, LayerId, Program, ValueId},
};
use std::collections::BTreeMap;

/// A run of one sample.
pub(crate) struct Run<'a> {
    pub program: &'a Program,
    pub mode: Mode,
    pub key: Key,
    /// The sample's data-set index.
    pub sample: u64,
    /// Weights that differ from the program's.
    pub weights: BTreeMap<ValueId, Vec<f64>>,
    /// Something added to one element of a layer's output before its noise.
    pub nudge: Option<(LayerId, usize, f64)>,
}

impl Run<'_> {
    /// Every value of the program; `inputs` holds words.
    pub fn values(&self, inputs: &[&[f32]]) -> Result<Vec<Tensor>, ExecError> {
        let program = self.program;
        let decode = |dtype: DType, words: &[f32]| -> Vec<f64> {
            match dtype {
                DType::F32 => words.iter().map(|&x| f64::from(x)).collect(),
                DType::I32 | DType::I64 | DType::Bool => dtype.decode(words).into_iter().map(|x| x as f64).collect(),
            }
        };
        let mut values = vec![Tensor::default(); program.values().len()];
        for (id, value) in program.values().iter().enumerate() {
            if let Some(weight) = &value.constant {
                let of_weight = || decode(value.dtype, weight.values());
                let own = self.weights.get(&id).cloned().unwrap_or_else(of_weight);
                values[id] = Tensor { shape: value.sample.clone(), values: own };
            }
        }
        for (&id, input) in program.inputs().iter().zip(inputs) {
            let value = &program.values()[id];
            values[id] = Tensor { shape: value.sample.clone(), values: decode(value.dtype, input) };
        }
        let run =
            Exact { layers: program.layers(), mode: self.mode, key: self.key, sample: self.sample, nudge: self.nudge };
        for node in program.nodes() {
            let operands: Vec<&Tensor> = node.inputs.iter().map(|&id| &values[id]).collect();
            let shape = &program.values()[node.output].sample;
            let result = node.op.operator().exact(&run, &operands, shape);
            values[node.output] =
                result.map_err(|reason| ExecError::Program(format!("{}: {reason}", node.op.name())))?;
        }
        Ok(values)
    }
}
