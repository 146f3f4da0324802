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
use std::{
    ops::Range,
    time::{Duration, Instant},
};

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

/// Where a rank's steps have spent their time: what the costs of sharing are reckoned from (docs/mpi.md).
#[derive(Default)]
pub(super) struct Spent {
    steps: u32,
    /// What all ranks have sent.
    bytes: usize,
    computing: Duration,
    /// Until all ranks' messages are there; the least is where nobody had to be waited for.
    gathering: Duration,
    least_gathering: Option<Duration>,
    adding: Duration,
}

impl Spent {
    /// Counts a step that had begun, computed its part, got `said` and added it up at these times.
    pub fn count(&mut self, [begun, computed, gathered, added]: [Instant; 4], said: &[Vec<u8>]) {
        let gathering = gathered - computed;
        self.steps += 1;
        self.bytes += said.iter().map(Vec::len).sum::<usize>();
        self.computing += computed - begun;
        self.gathering += gathering;
        self.least_gathering = Some(self.least_gathering.map_or(gathering, |least| least.min(gathering)));
        self.adding += added - gathered;
    }

    /// Logs the mean step.
    pub fn tell(&self, ranks: &dyn Ranks) {
        let steps = self.steps.max(1);
        tracing::debug!(
            rank = ranks.rank(),
            steps,
            bytes = self.bytes / steps as usize,
            computing_us = (self.computing / steps).as_micros(),
            gathering_us = (self.gathering / steps).as_micros(),
            least_gathering_us = self.least_gathering.unwrap_or_default().as_micros(),
            adding_us = (self.adding / steps).as_micros(),
            "the mean step"
        );
    }
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
