//! Samples in memory.

use super::Batch;
use std::ops::Range;

/// The places of the half of `count` samples that choices are made of, and of the half that judges them: with one sample it
/// judges itself.
pub fn halves(count: usize) -> [Range<usize>; 2] {
    let middle = count.div_ceil(2);
    [0..middle, middle.min(count.saturating_sub(1))..count]
}

/// At most so many samples of a batch, at least two: the first of either of its [`halves`], so that none changes sides. Values by program
/// input, and the samples' numbers.
pub fn first_of_halves(batch: Batch<'_>, most: usize) -> (Vec<Vec<f32>>, Vec<u64>) {
    let count = batch.samples.len();
    let first = |half: Range<usize>| half.start..half.end.min(half.start + (most / 2).max(1));
    let places = halves(count).map(first);
    let of = |values: &&[f32]| {
        let size = values.len() / count.max(1);
        places.iter().flat_map(|places| &values[size * places.start..size * places.end]).copied().collect()
    };
    let numbers = places.iter().flat_map(|places| &batch.samples[places.clone()]).copied().collect();
    (batch.inputs.iter().map(of).collect(), numbers)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_halves_stays_there() {
        let numbers: Vec<u64> = (100..107).collect();
        let inputs = [1, 3].map(|size| (0..7 * size).map(|at| (at / size) as f32).collect::<Vec<f32>>());
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let batch = Batch { inputs: &inputs, samples: &numbers };
        for (most, kept) in [(0, vec![0, 4]), (3, vec![0, 4]), (5, vec![0, 1, 4, 5]), (6, vec![0, 1, 2, 4, 5, 6])] {
            let (values, left) = first_of_halves(batch, most);
            assert_eq!(left, kept.iter().map(|&place| 100 + place).collect::<Vec<u64>>(), "of {most}");
            for (values, size) in values.iter().zip([1, 3]) {
                let expected = kept.iter().flat_map(|&place| std::iter::repeat_n(place as f32, size));
                assert_eq!(*values, expected.collect::<Vec<f32>>());
            }
            let [first, second] = halves(left.len());
            assert!(left[first].iter().all(|&number| number < 104) && left[second].iter().all(|&number| number >= 104));
        }
    }
}
