//! The training state on disk (`OUT.mxa.ckpt`): a magic number, the SHA-256 of the rest, and a protobuf message.

use crate::files::write_atomically;
use prost::Message;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// Names the file's kind and the version of its format.
const MAGIC: &[u8; 8] = b"mxcckpt2";
const HASH: usize = 32;

/// Why a checkpoint cannot be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The checkpoint.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no checkpoint, or a damaged one.
    #[error("{}: not a usable checkpoint: {reason}; remove it and start without --resume", path.display())]
    Corrupt {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The checkpoint was made with other options.
    #[error(
        "{}: the checkpoint was made with another {option} ({saved}, now {given}); repeat it, or start without --resume",
        path.display()
    )]
    Mismatch {
        /// The checkpoint.
        path: PathBuf,
        /// The option.
        option: String,
        /// Its value then.
        saved: String,
        /// Its value now.
        given: String,
    },
}

/// The bytes of a checkpoint's file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    std::fs::read(path).map_err(|source| CheckpointError::Io { path: path.to_owned(), source })
}

impl CheckpointError {
    pub(super) fn corrupt(path: &Path, reason: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), reason: reason.into() }
    }
}

/// The training state.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Checkpoint {
    /// The options that must agree on resuming.
    #[prost(btree_map = "string, string", tag = "1")]
    pub(super) options: BTreeMap<String, String>,
    /// Steps done, over all epochs.
    #[prost(uint64, tag = "2")]
    pub(super) step: u64,
    /// The sum of losses of the unfinished epoch.
    #[prost(double, tag = "3")]
    pub(super) epoch_loss: f64,
    /// The samples classified right in the unfinished epoch.
    #[prost(uint64, tag = "4")]
    pub(super) epoch_correct: u64,
    /// Each finished epoch's mean loss.
    #[prost(double, repeated, tag = "5")]
    pub(super) losses: Vec<f64>,
    /// Each finished epoch's training accuracy.
    #[prost(double, repeated, tag = "6")]
    pub(super) accuracies: Vec<f64>,
    /// The trained weights with Adam's state, in the program's order.
    #[prost(message, repeated, tag = "7")]
    pub(super) tensors: Vec<Tensor>,
    /// The judging samples' losses.
    #[prost(double, repeated, tag = "8")]
    pub(super) judged: Vec<f64>,
    /// The (first) learning rate as it is now.
    #[prost(double, tag = "9")]
    pub(super) learning_rate: f64,
}

/// One trained weight with Adam's state.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Tensor {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(float, repeated, tag = "2")]
    pub(super) weight: Vec<f32>,
    #[prost(float, repeated, tag = "3")]
    pub(super) first: Vec<f32>,
    #[prost(float, repeated, tag = "4")]
    pub(super) second: Vec<f32>,
    /// As the judging samples liked it best, if there are such.
    #[prost(float, repeated, tag = "5")]
    pub(super) best: Vec<f32>,
}

impl Checkpoint {
    /// Writes the state through a temporary file, so that a crash leaves the old one or the new one.
    pub(super) fn write(&self, path: &Path) -> Result<(), CheckpointError> {
        let message = self.encode_to_vec();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(Sha256::digest(&message));
        bytes.extend(message);
        write_atomically(path, &bytes).map_err(|source| CheckpointError::Io { path: path.to_owned(), source })
    }

    /// A state from its file's bytes, which are checked to be whole.
    pub(super) fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let (Some(magic), Some(hash), Some(message)) =
            (bytes.get(..MAGIC.len()), bytes.get(MAGIC.len()..MAGIC.len() + HASH), bytes.get(MAGIC.len() + HASH..))
        else {
            return Err(CheckpointError::corrupt(path, "it is truncated"));
        };
        if magic != MAGIC {
            return Err(CheckpointError::corrupt(path, "it is of another kind or version"));
        }
        if hash != Sha256::digest(message).as_slice() {
            return Err(CheckpointError::corrupt(path, "it is damaged"));
        }
        Self::decode(message).map_err(|error| CheckpointError::corrupt(path, error.to_string()))
    }

    /// Compares the options the state was made with to those given now; the first difference is an error.
    pub(super) fn check_options(&self, path: &Path, given: &BTreeMap<String, String>) -> Result<(), CheckpointError> {
        for (option, value) in given {
            let saved = self.options.get(option).map_or("unknown", String::as_str);
            if saved != value {
                return Err(CheckpointError::Mismatch {
                    path: path.to_owned(),
                    option: option.clone(),
                    saved: saved.to_owned(),
                    given: value.clone(),
                });
            }
        }
        Ok(())
    }
}
