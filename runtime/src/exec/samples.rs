//! Samples in memory.

use super::Batch;
use std::ops::Range;

/// Samples in memory, cut into batches.
#[derive(Clone, Debug)]
pub struct Samples<'a> {
    /// By batch, one slice per program input.
    inputs: Vec<Vec<&'a [f32]>>,
    ids: &'a [u64],
}

impl<'a> Samples<'a> {
    /// A multiple of the executor's shards.
    pub(crate) const BATCH: usize = 32;

    /// Some of the samples of a batch, by their places.
    pub fn new(batch: Batch<'a>, places: Range<usize>) -> Self {
        let count = batch.samples.len().max(1);
        let starts = places.clone().step_by(Self::BATCH);
        let cut = |start: usize| {
            let end = (start + Self::BATCH).min(places.end);
            let slice = |values: &&'a [f32]| &values[values.len() / count * start..values.len() / count * end];
            batch.inputs.iter().map(slice).collect()
        };
        Self { inputs: starts.map(cut).collect(), ids: &batch.samples[places.clone()] }
    }

    /// The batches.
    pub fn batches(&self) -> impl Iterator<Item = Batch<'_>> {
        self.inputs.iter().zip(self.ids.chunks(Self::BATCH)).map(|(inputs, samples)| Batch { inputs, samples })
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
