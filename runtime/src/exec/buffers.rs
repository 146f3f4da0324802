//! Buffers of values, and the pool that they come from and go back to.

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
};

/// A buffer of f32, aligned to a cache line.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
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
pub(crate) struct Pool {
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

    /// Lets go of all.
    pub fn clear(&mut self) {
        self.free.clear();
    }

    pub fn give(&mut self, buffer: Buffer) {
        self.free.entry(buffer.len).or_default().push(buffer);
    }
}
