//! What one thread needs to run plans: buffers, bound primitives, and draws that outlast a sample.

use crate::{
    error::ExecError,
    onednn::{BoundConvolution, Convolution, Engine, Stream},
    program::LayerId,
    rng,
};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::{Deref, DerefMut},
    sync::Arc,
};

/// A buffer of f32, aligned to a cache line.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    values: Vec<f32>,
    start: usize,
    len: usize,
}

impl Buffer {
    fn new(len: usize) -> Self {
        const LINE: usize = 64;
        let values = vec![0.0f32; len + LINE / 4];
        // In elements; the address of a Vec's values never changes while it is neither grown nor shrunk.
        let start = values.as_ptr().align_offset(LINE).min(LINE / 4);
        Self { values, start, len }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.start..self.start + self.len]
    }
}

/// Free buffers by length; the one given back last is taken first, while it is still in cache. What a taken buffer
/// holds is undefined.
#[derive(Debug, Default)]
pub(super) struct Pool {
    free: BTreeMap<usize, Vec<Buffer>>,
}

impl Pool {
    pub fn take(&mut self, len: usize) -> Buffer {
        match self.free.get_mut(&len).and_then(Vec::pop) {
            Some(buffer) => buffer,
            None => Buffer::new(len),
        }
    }

    pub fn take_zeroed(&mut self, len: usize) -> Buffer {
        let mut buffer = self.take(len);
        buffer.fill(0.0);
        buffer
    }

    pub fn take_copy(&mut self, values: &[f32]) -> Buffer {
        let mut buffer = self.take(values.len());
        buffer.copy_from_slice(values);
        buffer
    }

    pub fn give(&mut self, buffer: Buffer) {
        self.free.entry(buffer.len).or_default().push(buffer);
    }
}

/// What a step's backward pass needs besides values.
#[derive(Debug, Default)]
pub(super) enum Extra {
    #[default]
    Nothing,
    /// Whether the tile's input was clamped somewhere.
    Clamped(bool),
    /// The magnitude of a noise scaled by the signal.
    Magnitude(f64),
    /// A denoising block's h, g and, with sampling, ε.
    Block { h: Buffer, g: Buffer, epsilon: Option<Buffer> },
}

/// One thread's state.
pub(super) struct Worker {
    pub stream: Stream,
    pub pool: Pool,
    /// The sample's values, by plan value.
    pub values: Vec<Option<Buffer>>,
    /// The sample's [`Extra`]s, by step.
    pub extras: Vec<Extra>,
    /// Chip-lifetime draws, by layer and component.
    pub chip: BTreeMap<(LayerId, usize), (rng::Stream, Vec<f32>)>,
    /// Bound primitives by the convolution's address-independent number.
    bound: BTreeMap<usize, BoundConvolution>,
}

impl Worker {
    pub fn new(engine: &Engine) -> Result<Self, ExecError> {
        Ok(Self {
            stream: Stream::new(engine)?,
            pool: Pool::default(),
            values: Vec::new(),
            extras: Vec::new(),
            chip: BTreeMap::new(),
            bound: BTreeMap::new(),
        })
    }

    /// Runs a convolution; `number` names it.
    pub fn convolve(
        &mut self,
        engine: &Engine,
        number: usize,
        convolution: &Arc<Convolution>,
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

    /// Gives every buffer of the last sample back.
    pub fn reset(&mut self, values: usize, steps: usize) {
        for buffer in self.values.iter_mut().filter_map(Option::take) {
            self.pool.give(buffer);
        }
        for extra in &mut self.extras {
            if let Extra::Block { h, g, epsilon } = std::mem::take(extra) {
                self.pool.give(h);
                self.pool.give(g);
                epsilon.into_iter().for_each(|buffer| self.pool.give(buffer));
            }
        }
        self.values.resize_with(values, || None);
        self.extras.resize_with(steps, Extra::default);
    }
}
