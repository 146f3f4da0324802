//! What kernels read besides activations: constants, as last trained, and what is made of frozen ones at their first use.

use crate::{
    error::ExecError,
    onednn::{Convolution, Direction, Engine, Geometry},
    program::value::{Value, ValueId},
    store::Weight,
};
use std::sync::{Arc, OnceLock};

/// The most numbers that fills may become when they are executed, 4 GiB: a short text can name any number of them.
const MAX_FILLS: usize = 1 << 30;

/// A program's constants on this machine, by value.
pub(crate) struct Constants {
    pub engine: Engine,
    constants: Vec<Constant>,
    /// The primitives of the convolutions, by the number that the plan gives them; forward and backward.
    convolutions: Vec<[OnceLock<Arc<Convolution>>; 2]>,
}

#[derive(Default)]
struct Constant {
    weight: Option<Weight>,
    /// A trainable constant's current values.
    trained: Option<Vec<f32>>,
    transposed: OnceLock<Arc<[f32]>>,
}

impl Constants {
    /// The constants among a program's values; there are at most `convolutions` convolutions.
    pub fn new(values: &[Value], convolutions: usize) -> Result<Self, ExecError> {
        let fills: usize = values.iter().filter_map(|value| value.constant.as_ref()).map(Weight::unwritten).sum();
        if fills > MAX_FILLS {
            return Err(ExecError::Program(format!(
                "its constants of one repeated value would be {fills} numbers, more than {MAX_FILLS}"
            )));
        }
        let constants = values.iter().map(|value| Constant {
            weight: value.constant.clone(),
            trained: value.constant.as_ref().filter(|_| value.trainable).map(|weight| weight.values().to_vec()),
            transposed: OnceLock::new(),
        });
        Ok(Self {
            engine: Engine::cpu()?,
            constants: constants.collect(),
            convolutions: (0..convolutions).map(|_| Default::default()).collect(),
        })
    }

    /// The values of a constant; empty for a value that is none.
    pub fn get(&self, value: ValueId) -> &[f32] {
        match self.constants.get(value) {
            Some(Constant { trained: Some(values), .. }) => values,
            Some(Constant { weight: Some(weight), .. }) => weight.values(),
            Some(Constant { weight: None, .. }) | None => &[],
        }
    }

    /// The current values of a trainable constant.
    pub fn trained(&mut self, value: ValueId) -> Option<&mut Vec<f32>> {
        self.constants.get_mut(value)?.trained.as_mut()
    }

    /// The trainable constants, in order.
    pub fn trainable(&self) -> impl Iterator<Item = (ValueId, &[f32])> {
        self.constants.iter().enumerate().filter_map(|(id, constant)| Some((id, constant.trained.as_deref()?)))
    }

    /// A frozen constant of rows of `columns` values, transposed.
    pub fn transposed(&self, value: ValueId, columns: usize) -> &[f32] {
        let Some(constant) = self.constants.get(value) else {
            return &[];
        };
        constant.transposed.get_or_init(|| {
            let values = self.get(value);
            let mut transposed = vec![0.0; values.len()];
            crate::kernels::gemm::transpose(values, columns, &mut transposed);
            transposed.into()
        })
    }

    /// A convolution's primitive, made at its first use, and a number that names it.
    pub fn convolution(
        &self,
        number: usize,
        direction: Direction,
        geometry: &Geometry,
        [weight, bias]: [ValueId; 2],
    ) -> Result<(usize, &Arc<Convolution>), ExecError> {
        let slot = direction as usize;
        let cell = self.convolutions.get(number).map(|both| &both[slot]);
        let cell = cell.ok_or_else(|| ExecError::Program(format!("there is no convolution {number}")))?;
        let name = 2 * number + slot;
        if let Some(convolution) = cell.get() {
            return Ok((name, convolution));
        }
        let made = Convolution::new(&self.engine, geometry, direction, self.get(weight), self.get(bias))?;
        Ok((name, cell.get_or_init(|| Arc::new(made))))
    }
}
