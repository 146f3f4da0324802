//! Processes that share one computation: what they send each other, and how all of them come to the same end.
//!
//! All that is sent goes through one operation, [`Ranks::all_gather`]: every rank gives a message and gets those of all ranks in the
//! order of ranks. What is a sum in one process every rank adds up by itself, in that process's order, so that no sum depends on the
//! number of ranks. How messages travel is the implementation's business: the crate `mxc-mpi` has one over MPI.

#[cfg(test)]
pub(crate) mod testing;

use std::{collections::BTreeMap, fmt::Display, ops::Range};

/// The processes (ranks) that share a computation. All of them call the same operations in the same order, from one thread.
pub trait Ranks {
    /// The number of this one, from 0.
    fn rank(&self) -> usize;

    /// How many there are, at least 1.
    fn count(&self) -> usize;

    /// Gives every rank the messages of all, in the order of ranks. While this one waits for others it calls `waiting` now and then.
    ///
    /// # Errors
    ///
    /// [`RanksError::Lost`] where the messages cannot be had; after that nothing more can be gathered.
    fn all_gather(&self, message: &[u8], waiting: &mut dyn FnMut()) -> Result<Vec<Vec<u8>>, RanksError>;
}

/// One process with nobody to share with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn count(&self) -> usize {
        1
    }

    fn all_gather(&self, message: &[u8], _: &mut dyn FnMut()) -> Result<Vec<Vec<u8>>, RanksError> {
        Ok(vec![message.to_vec()])
    }
}

/// Why ranks cannot go on together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RanksError {
    /// Another rank has failed.
    #[error("rank {rank}: {message}")]
    Failed {
        /// The first that has.
        rank: usize,
        /// Its error.
        message: String,
    },
    /// A rank was started with something else than rank 0.
    #[error("rank {rank} was started with another {what} than rank 0: {there}, not {here}")]
    Differs {
        /// The first such rank.
        rank: usize,
        /// What differs.
        what: String,
        /// What it is there.
        there: String,
        /// What it is on rank 0.
        here: String,
    },
    /// A message is not what was to be sent.
    #[error("rank {rank} has sent what rank 0 does not understand; start the same mxc on all of them")]
    Garbled {
        /// Who has sent it.
        rank: usize,
    },
    /// Messages cannot be exchanged.
    #[error("the other ranks cannot be reached: {0}")]
    Lost(String),
}

/// The part of so many things in a row that a rank works on: all ranks' parts follow each other in the order of ranks and are equal up to one.
pub(crate) fn part(ranks: &dyn Ranks, rank: usize, things: usize) -> Range<usize> {
    let start = |rank: usize| (rank as u128 * things as u128 / ranks.count().max(1) as u128) as usize;
    start(rank)..start(rank + 1)
}

const GO: u8 = 0;
const STOP: u8 = 1;
const FAILED: u8 = 2;

/// Gives every rank what all have to say, or to all of them the same other end: `None` where one of them says `None` (it was asked to
/// stop), and an error where one has one. That is its own on the first rank that has one and [`RanksError::Failed`] on others.
pub(crate) fn gather<E: Display + From<RanksError>>(
    ranks: &dyn Ranks,
    own: Result<Option<Vec<u8>>, E>,
    waiting: &mut dyn FnMut(),
) -> Result<Option<Vec<Vec<u8>>>, E> {
    let message = match &own {
        Ok(Some(said)) => [&[GO], said.as_slice()].concat(),
        Ok(None) => vec![STOP],
        Err(error) => [&[FAILED], error.to_string().as_bytes()].concat(),
    };
    let messages = ranks.all_gather(&message, waiting)?;
    let kinds: Vec<Option<u8>> = messages.iter().map(|message| message.first().copied()).collect();
    if let Some(rank) = kinds.iter().position(|&kind| kind == Some(FAILED)) {
        return match own {
            Err(error) if rank == ranks.rank() => Err(error),
            _ => {
                Err(RanksError::Failed { rank, message: String::from_utf8_lossy(&messages[rank][1..]).into_owned() }
                    .into())
            }
        };
    }
    if let Some(rank) = kinds.iter().position(|kind| !matches!(kind, Some(GO | STOP))) {
        return Err(RanksError::Garbled { rank }.into());
    }
    if kinds.contains(&Some(STOP)) {
        return Ok(None);
    }
    let bare = |mut message: Vec<u8>| {
        message.remove(0);
        message
    };
    Ok(Some(messages.into_iter().map(bare).collect()))
}

/// [`gather`] where nothing asks to stop.
pub(crate) fn gather_all<E: Display + From<RanksError>>(
    ranks: &dyn Ranks,
    own: Result<Vec<u8>, E>,
) -> Result<Vec<Vec<u8>>, E> {
    Ok(gather(ranks, own.map(Some), &mut || {})?.unwrap_or_default())
}

/// Has all ranks go on only if every one can, and all were given the same: what is named in `same`. Else all get an error: its own the
/// first rank that has one, others [`RanksError::Failed`]; [`RanksError::Differs`] all of them.
///
/// # Errors
///
/// Those, and what [`Ranks::all_gather`] gives.
pub fn agree<T, E: Display + From<RanksError>>(
    ranks: &dyn Ranks,
    own: Result<T, E>,
    same: impl FnOnce(&T) -> BTreeMap<String, String>,
) -> Result<T, E> {
    let (own, said) = match own {
        Ok(own) => {
            let said = serde_json::to_vec(&same(&own)).map_err(|error| RanksError::Lost(error.to_string()).into());
            (Some(own), said)
        }
        Err(error) => (None, Err(error)),
    };
    let said = gather_all(ranks, said)?;
    let mut first: Option<BTreeMap<String, String>> = None;
    for (rank, said) in said.iter().enumerate() {
        let said: BTreeMap<String, String> = serde_json::from_slice(said).map_err(|_| RanksError::Garbled { rank })?;
        let Some(first) = &first else {
            first = Some(said);
            continue;
        };
        let value = |of: &BTreeMap<String, String>, what: &str| of.get(what).map_or("none", String::as_str).to_owned();
        if let Some(what) = first.keys().chain(said.keys()).find(|&what| first.get(what) != said.get(what)) {
            let (there, here) = (value(&said, what), value(first, what));
            return Err(RanksError::Differs { rank, what: what.clone(), there, here }.into());
        }
    }
    // Who had none has said so, and all of them have failed.
    own.ok_or_else(|| RanksError::Garbled { rank: ranks.rank() }.into())
}

#[cfg(test)]
mod tests;
