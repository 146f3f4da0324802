//! How a step is shared among ranks: whose samples are whose, and what ranks send each other.
//!
//! A rank works on shards that follow each other in the batch, so that all ranks' shards, in the order of ranks, are in the order in which
//! one process adds them.

use crate::{
    error::ExecError,
    exec::{Gradients, SHARD},
    program::ValueId,
    ranks::{self, Ranks, RanksError},
};
use std::ops::Range;

/// The samples of a batch of so many that a rank computes: whole shards, but for the batch's last.
pub(super) fn places(ranks: &dyn Ranks, rank: usize, samples: usize) -> Range<usize> {
    let shards = ranks::part(ranks, rank, samples.div_ceil(SHARD));
    (shards.start * SHARD).min(samples)..(shards.end * SHARD).min(samples)
}

/// Shards as bytes: of each its loss, its hits, its gradients of the parameters in their order; little-endian.
pub(super) fn encode(shards: &[Gradients], parameters: &[(ValueId, String)]) -> Result<Vec<u8>, ExecError> {
    let mut bytes = Vec::new();
    for shard in shards {
        bytes.extend(shard.loss.to_le_bytes());
        bytes.extend((shard.correct as u64).to_le_bytes());
        for (id, name) in parameters {
            let gradient = shard
                .weights
                .get(id)
                .ok_or_else(|| ExecError::Program(format!("the executor gave no gradient for `{name}`")))?;
            bytes.extend(gradient.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
    Ok(bytes)
}

/// The shards of a batch of so many samples from what all ranks have sent, in the batch's order; `lens` are the parameters' lengths.
pub(super) fn decode(
    said: &[Vec<u8>],
    samples: usize,
    parameters: &[(ValueId, String)],
    lens: &[usize],
    ranks: &dyn Ranks,
) -> Result<Vec<Gradients>, RanksError> {
    let mut shards = Vec::new();
    for (rank, said) in said.iter().enumerate() {
        let own = places(ranks, rank, samples).len().div_ceil(SHARD);
        let bytes = 16 + 4 * lens.iter().sum::<usize>();
        if said.len() != own * bytes {
            return Err(RanksError::Garbled { rank });
        }
        for shard in said.chunks_exact(bytes) {
            let (head, mut rest) = shard.split_at(16);
            let mut weights = Gradients { loss: 0.0, correct: 0, weights: Default::default() };
            if let ([loss, correct], []) = head.as_chunks::<8>() {
                weights.loss = f64::from_le_bytes(*loss);
                weights.correct = u64::from_le_bytes(*correct) as usize;
            }
            for (&(id, _), len) in parameters.iter().zip(lens) {
                let (gradient, others) = rest.split_at(4 * len);
                let values = gradient.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value));
                weights.weights.insert(id, values.collect());
                rest = others;
            }
            shards.push(weights);
        }
    }
    Ok(shards)
}

/// Pairs of losses as bytes, little-endian.
pub(super) fn encode_losses(losses: &[[f64; 2]]) -> Vec<u8> {
    losses.as_flattened().iter().flat_map(|loss| loss.to_le_bytes()).collect()
}

/// So many pairs from what all ranks have sent.
pub(super) fn decode_losses(said: &[Vec<u8>], count: usize, ranks: &dyn Ranks) -> Result<Vec<[f64; 2]>, RanksError> {
    let mut losses = Vec::with_capacity(count);
    for (rank, said) in said.iter().enumerate() {
        if said.len() != 16 * ranks::part(ranks, rank, count).len() {
            return Err(RanksError::Garbled { rank });
        }
        let (values, _) = said.as_chunks::<8>();
        losses.extend(values.as_chunks::<2>().0.iter().map(|pair| pair.map(f64::from_le_bytes)));
    }
    Ok(losses)
}
