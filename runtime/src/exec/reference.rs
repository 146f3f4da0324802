//! The reference backend: node by node, plainly, in f64, as each operator says what it means. It has no gradients; it is what the
//! fast backend is tested against, and what to run where a result of the fast one is in doubt.

use super::{
    backend::{Backend, GradientObserver, Inputs, Prepared},
    buffers::Buffer,
    constants::Constants,
    sample::{Observer, Sample, WeightGradients},
    worker::Worker,
};
use crate::{
    error::ExecError,
    ops::reference::{Exact, Tensor},
    plan::steps::{Goal, PlanKey},
    program::{DType, Program, ValueId},
};
use std::{cell::RefCell, sync::Arc};

/// A plain run of one sample.
pub(crate) struct Run<'a> {
    pub program: &'a Program,
    /// The values of constants that differ from the program's.
    pub weights: &'a dyn Fn(ValueId) -> Option<Vec<f64>>,
    pub exact: Exact<'a>,
}

impl Run<'_> {
    /// Every value of the program; `inputs` holds words.
    pub fn values(&self, inputs: &[&[f32]]) -> Result<Vec<Tensor>, ExecError> {
        let program = self.program;
        let mut values = vec![Tensor::default(); program.values().len()];
        for (id, value) in program.values().iter().enumerate() {
            if let Some(weight) = &value.constant {
                let own = (self.weights)(id).unwrap_or_else(|| decode(value.dtype, weight.values()));
                values[id] = Tensor { shape: value.sample.clone(), values: own };
            }
        }
        for (&id, input) in program.inputs().iter().zip(inputs) {
            let value = &program.values()[id];
            values[id] = Tensor { shape: value.sample.clone(), values: decode(value.dtype, input) };
        }
        for node in program.nodes() {
            let operands: Vec<&Tensor> = node.inputs.iter().map(|&id| &values[id]).collect();
            let shape = &program.values()[node.output].sample;
            let result = node.op.operator().exact(&self.exact, &operands, shape);
            values[node.output] =
                result.map_err(|reason| ExecError::Program(format!("{}: {reason}", node.op.name())))?;
        }
        Ok(values)
    }
}

/// The numbers that words hold. Integers beyond 2⁵³ are rounded.
fn decode(dtype: DType, words: &[f32]) -> Vec<f64> {
    match dtype {
        DType::F32 => words.iter().map(|&x| f64::from(x)).collect(),
        DType::I32 | DType::I64 | DType::Bool => dtype.decode(words).into_iter().map(|x| x as f64).collect(),
    }
}

/// The words of numbers.
fn encode(dtype: DType, values: &[f64]) -> Vec<f32> {
    match dtype {
        DType::F32 => values.iter().map(|&x| x as f32).collect(),
        DType::I32 | DType::I64 | DType::Bool => dtype.encode(&values.iter().map(|&x| x as i64).collect::<Vec<_>>()),
    }
}

/// The plain interpreter.
pub(crate) struct Reference;

impl Backend for Reference {
    fn prepare(&self, program: &Arc<Program>, key: PlanKey, _: &Constants) -> Result<Arc<dyn Prepared>, ExecError> {
        let outputs = match key.goal {
            Goal::Outputs => program.outputs().to_vec(),
            Goal::Logits => vec![program.logits()],
            Goal::Layers => Vec::new(),
            Goal::Train | Goal::Sensitivity => {
                return Err(ExecError::Program(
                    "the reference backend computes no gradients; choose --backend onednn".to_owned(),
                ));
            }
        };
        Ok(Arc::new(Interpreted { program: Arc::clone(program), outputs }))
    }
}

struct Interpreted {
    program: Arc<Program>,
    outputs: Vec<ValueId>,
}

impl Prepared for Interpreted {
    fn forward(
        &self,
        Inputs { constants, inputs }: Inputs<'_>,
        worker: &mut Worker,
        sample: &Sample,
        observer: Option<&mut Observer<'_>>,
    ) -> Result<(), ExecError> {
        worker.reset(self.outputs.len(), 0);
        let trained = |id: ValueId| {
            let value = self.program.values().get(id).filter(|value| value.trainable)?;
            Some(decode(value.dtype, constants.get(id)))
        };
        let observer = observer.map(|observer| observer as &mut Observer<'_>);
        let exact =
            Exact { layers: self.program.layers(), sample: *sample, nudge: None, observer: RefCell::new(observer) };
        let values = Run { program: &self.program, weights: &trained, exact }.values(inputs)?;
        for (slot, &id) in worker.values.iter_mut().zip(&self.outputs) {
            let words = encode(self.program.values()[id].dtype, &values[id].values);
            *slot = Some(worker.tools.pool.take_copy(&words));
        }
        Ok(())
    }

    fn output<'r>(&'r self, _: Inputs<'r>, worker: &'r Worker, index: usize) -> &'r [f32] {
        worker.values[index].as_deref().unwrap_or(&[])
    }

    fn backward(
        &self,
        _: Inputs<'_>,
        _: &mut Worker,
        _: Buffer,
        _: &mut WeightGradients,
        _: Option<&mut GradientObserver<'_>>,
    ) -> Result<(), ExecError> {
        Err(ExecError::Program("the reference backend computes no gradients".to_owned()))
    }
}
