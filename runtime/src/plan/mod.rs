//! Plans: a [`Program`] turned into a straight line of kernels for each kind of run ([`Plan`]), with no-ops dropped, neighbours
//! fused, dead values' buffers reused and what a gradient needs kept.
//!
//! A plan runs **one sample**: batch axes have size 1 (or k, where a reshape folded another axis into the batch). So a
//! result cannot depend on the batch that a sample comes in.

mod buffers;
mod fuse;
mod gradients;
pub(crate) mod steps;

use crate::{
    error::ExecError,
    exec::kernel::{Id, Place, Step, Value},
    ops::operator::Planned,
    program::{Program, ValueId},
};
use steps::{Argument, Goal, PlanKey, Steps};

/// A straight line of kernels for one sample.
pub(crate) struct Plan {
    pub steps: Vec<Step>,
    pub values: Vec<Value>,
    /// The program outputs' values (or only the logits').
    pub targets: Vec<Id>,
    pub logits: Id,
}

impl Plan {
    /// Plans a kind of run.
    pub fn new(program: &Program, key: PlanKey) -> Result<Self, ExecError> {
        let mut builder = Builder {
            program,
            steps: Steps { key, layers: program.layers(), values: Vec::new(), steps: Vec::new() },
            map: vec![None; program.values().len()],
        };
        for number in 0..program.nodes().len() {
            builder.node(number)?;
        }
        let logits = builder.id(program.logits());
        let targets: Vec<Id> = match key.goal {
            Goal::Outputs => program.outputs().iter().map(|&output| builder.id(output)).collect(),
            Goal::Layers => Vec::new(),
            Goal::Logits | Goal::Train | Goal::Sensitivity => vec![logits],
        };
        let mut steps = builder.steps;
        drop_dead(&mut steps, &targets);
        fuse::clamps(&mut steps, &targets);
        drop_dead(&mut steps, &targets);
        fuse::affines(&mut steps, &targets);
        drop_dead(&mut steps, &targets);
        if matches!(key.goal, Goal::Train | Goal::Sensitivity) {
            gradients::mark(&mut steps, program.values())?;
        }
        buffers::assign(&mut steps, &targets);
        Ok(Self { steps: steps.steps, values: steps.values, targets, logits })
    }

    /// The words that one sample's run without a tape holds before every step, and behind the last.
    pub fn held(&self) -> Vec<usize> {
        let mut held = vec![0];
        for step in &self.steps {
            let made = if step.takes_buffer { 0 } else { self.values[step.output].len };
            let freed = step.frees.iter().map(|&id| self.values[id].len).sum::<usize>();
            held.push(held[held.len() - 1] + made - freed);
        }
        held
    }
}

struct Builder<'a> {
    program: &'a Program,
    steps: Steps<'a>,
    /// Program value → plan value.
    map: Vec<Option<Id>>,
}

impl Builder<'_> {
    /// The plan value of a program value.
    fn id(&mut self, value: ValueId) -> Id {
        if let Some(id) = self.map[value] {
            return id;
        }
        let place = match self.program.inputs().iter().position(|&input| input == value) {
            Some(input) => Place::Input(input),
            None => Place::Constant(value),
        };
        let id = self.steps.value(place, self.program.values()[value].words());
        self.map[value] = Some(id);
        id
    }

    /// Emits a node's steps.
    fn node(&mut self, number: usize) -> Result<(), ExecError> {
        let program = self.program;
        let node = &program.nodes()[number];
        let argument = |id: ValueId, own: Id| {
            let value = &program.values()[id];
            Argument { id: own, value: id, dtype: value.dtype, shape: &value.sample, constant: value.constant.as_ref() }
        };
        let operands = node.inputs.iter().map(|&id| argument(id, self.id(id))).collect();
        let result = &program.values()[node.output];
        let planned = Planned { number, operands, dtype: result.dtype, shape: &result.sample };
        let id = node.op.operator().plan(&planned, &mut self.steps)?;
        self.map[node.output] = Some(id);
        Ok(())
    }
}

/// Drops steps whose results nobody reads.
fn drop_dead(steps: &mut Steps<'_>, targets: &[Id]) {
    let mut live = vec![false; steps.values.len()];
    targets.iter().for_each(|&id| live[id] = true);
    for step in steps.steps.iter().rev() {
        let observed = step.layer.is_some() && matches!(steps.key.goal, Goal::Layers);
        if live[step.output] || observed {
            step.inputs.iter().for_each(|&id| live[id] = true);
            live[step.output] = true;
        }
    }
    steps.steps.retain(|step| live[step.output]);
}
