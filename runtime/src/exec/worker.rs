//! What one thread needs to run plans: buffers, bound primitives, and draws that outlast a sample.

use super::{
    buffers::{Buffer, Pool},
    features::Features,
};
use crate::{
    error::ExecError,
    onednn::{BoundConvolution, Convolution, Engine, Stream},
    program::value::LayerId,
    rng,
};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

/// What a step's backward pass needs besides values.
#[derive(Debug, Default)]
pub(crate) enum Extra {
    #[default]
    Nothing,
    /// Of a tile.
    Tile {
        /// Whether its input was clamped somewhere.
        clamped: bool,
        /// The gradient that the input has by itself, besides that through the tile.
        pull: Option<Buffer>,
    },
    /// The magnitude of a noise scaled by the signal.
    Magnitude(f64),
    /// What a kernel computed on its way.
    Buffers(Vec<Buffer>),
}

impl Extra {
    /// Gives its buffers back.
    pub fn release(self, pool: &mut Pool) {
        match self {
            Self::Nothing | Self::Magnitude(_) => {}
            Self::Tile { pull, .. } => pull.into_iter().for_each(|buffer| pool.give(buffer)),
            Self::Buffers(buffers) => buffers.into_iter().for_each(|buffer| pool.give(buffer)),
        }
    }
}

/// One thread's state.
pub(crate) struct Worker {
    /// The sample's values, by plan value.
    pub values: Vec<Option<Buffer>>,
    /// The sample's [`Extra`]s, by step.
    pub extras: Vec<Extra>,
    pub tools: Tools,
}

/// What kernels work with.
pub(crate) struct Tools {
    stream: Stream,
    pub pool: Pool,
    /// Chip-lifetime draws, by layer and component.
    pub chip: BTreeMap<(LayerId, usize), (rng::Stream, Vec<f32>)>,
    /// Bound primitives by the convolution's address-independent number.
    bound: BTreeMap<usize, BoundConvolution>,
    /// What the sample's layers are compared with, if they are.
    pub features: Option<Features>,
}

impl Tools {
    /// Runs a convolution; `number` names it.
    pub fn convolve(
        &mut self,
        engine: &Engine,
        (number, convolution): (usize, &Arc<Convolution>),
        read: &[f32],
        write: &mut [f32],
    ) -> Result<(), ExecError> {
        let bound = match self.bound.entry(number) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(convolution.bind(engine)?),
        };
        let mut scratch = self.pool.take(bound.scratch_len());
        let result = bound.run(&mut self.stream, read, write, &mut scratch);
        self.pool.give(scratch);
        Ok(result?)
    }
}

impl Worker {
    pub fn new(engine: &Engine) -> Result<Self, ExecError> {
        let tools = Tools {
            stream: Stream::new(engine)?,
            pool: Pool::default(),
            chip: BTreeMap::new(),
            bound: BTreeMap::new(),
            features: None,
        };
        Ok(Self { values: Vec::new(), extras: Vec::new(), tools })
    }

    /// Gives every buffer of the last sample back.
    pub fn reset(&mut self, values: usize, steps: usize) {
        let pool = &mut self.tools.pool;
        self.values.iter_mut().filter_map(Option::take).for_each(|buffer| pool.give(buffer));
        self.extras.iter_mut().for_each(|extra| std::mem::take(extra).release(pool));
        self.values.resize_with(values, || None);
        self.extras.resize_with(steps, Extra::default);
    }
}
