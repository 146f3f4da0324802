//! Samples in memory.

use super::Batch;
use std::ops::Range;

/// The places of the half of `count` samples that choices are made of, and of the half that judges them: with one sample it
/// judges itself.
pub fn halves(count: usize) -> [Range<usize>; 2] {
    let middle = count.div_ceil(2);
    [0..middle, middle.min(count.saturating_sub(1))..count]
}

/// Samples in memory, cut into batches.
#[derive(Clone, Debug)]
pub struct Samples<'a> {
    /// By batch, one slice per program input.
    inputs: Vec<Vec<&'a [f32]>>,
    ids: &'a [u64],
    /// The most samples of a batch.
    size: usize,
}

impl<'a> Samples<'a> {
    /// A multiple of the executor's shards.
    const BATCH: usize = 32;

    /// Some of the samples of a batch, by their places.
    pub fn new(batch: Batch<'a>, places: Range<usize>) -> Self {
        Self::cut(batch, places, Self::BATCH)
    }

    /// The same as one batch.
    pub fn whole(batch: Batch<'a>, places: Range<usize>) -> Self {
        let size = places.len().max(1);
        Self::cut(batch, places, size)
    }

    fn cut(batch: Batch<'a>, places: Range<usize>, size: usize) -> Self {
        let count = batch.samples.len().max(1);
        let slices = |start: usize| {
            let end = (start + size).min(places.end);
            let slice = |values: &&'a [f32]| &values[values.len() / count * start..values.len() / count * end];
            batch.inputs.iter().map(slice).collect()
        };
        let inputs = places.clone().step_by(size).map(slices).collect();
        Self { inputs, ids: &batch.samples[places.clone()], size }
    }

    /// The batches.
    pub fn batches(&self) -> impl Iterator<Item = Batch<'_>> {
        self.inputs.iter().zip(self.ids.chunks(self.size)).map(|(inputs, samples)| Batch { inputs, samples })
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}
