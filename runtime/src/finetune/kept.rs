//! The best weights of a run: training may leave what the closed form has found and never come back.

use super::{FinetuneError, Trainee, shared};
use crate::{
    data::Source,
    error::ExecError,
    exec::Batch,
    program::ValueId,
    ranks::{self, Ranks},
    search,
};

/// Samples that judge: this rank's part of them.
pub(super) struct Jury {
    /// How many there are on all ranks.
    count: usize,
    inputs: Vec<f32>,
    ids: Vec<u64>,
    /// The clean network's logits of them.
    clean: Vec<f32>,
    seed: u64,
}

/// What they found.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    /// Their loss at the start and after every epoch.
    pub losses: Vec<f64>,
    /// The weights of the least of them, in the order of the parameters.
    pub best: Vec<Vec<f32>>,
}

impl Jury {
    /// The first `count` samples. `None` if there are none.
    pub fn load<T: Trainee>(
        trainee: &T,
        data: &dyn Source,
        count: usize,
        seed: u64,
        ranks: &dyn Ranks,
    ) -> Result<Option<Self>, FinetuneError> {
        if count == 0 {
            return Ok(None);
        }
        let indices: Vec<usize> = ranks::part(ranks, ranks.rank(), count).collect();
        let mut inputs = Vec::new();
        if !indices.is_empty() {
            data.load(&indices, &mut inputs)?;
        }
        let ids: Vec<u64> = indices.iter().map(|&index| data.id(index)).collect();
        let clean = trainee.clean_logits(Batch { inputs: &[&inputs], samples: &ids })?;
        Ok(Some(Self { count, inputs, ids, clean, seed }))
    }
}

impl Kept {
    /// Judges the weights as they are now.
    pub fn judge<T: Trainee>(
        &mut self,
        trainee: &T,
        parameters: &[(ValueId, String)],
        jury: &Jury,
        ranks: &dyn Ranks,
    ) -> Result<(), FinetuneError> {
        let own = trainee.judged(Batch { inputs: &[&jury.inputs], samples: &jury.ids }, &jury.clean, jury.seed);
        let said = own.map(|losses| shared::encode_losses(&losses)).map_err(FinetuneError::from);
        let losses = shared::decode_losses(&ranks::gather_all(ranks, said)?, jury.count, ranks)?;
        let loss = search::both(&losses);
        // Of equals the latest, which has seen most.
        if self.losses.iter().all(|&before| loss <= before) {
            self.best = parameters.iter().map(|&(id, _)| trainee.weight(id).to_vec()).collect();
        }
        self.losses.push(loss);
        Ok(())
    }

    /// Whether the first epoch has left what the start had found: a smaller learning rate should try again.
    pub fn is_astray(&self) -> bool {
        const WORSE: f64 = 1.5;
        matches!(self.losses[..], [start, first] if first > WORSE * start)
    }

    /// Goes back to the best weights.
    pub fn restore<T: Trainee>(&self, trainee: &mut T, parameters: &[(ValueId, String)]) -> Result<(), ExecError> {
        parameters.iter().zip(&self.best).try_for_each(|(&(id, _), weights)| trainee.set_weight(id, weights))
    }
}
