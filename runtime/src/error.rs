//! Why a program cannot be planned or run.

use crate::{cost::CostError, law::LawFailure, onednn};

/// Why a program cannot be planned or run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The program is inconsistent or uses something unsupported.
    #[error("{0}")]
    Program(String),
    /// The batch does not fit the program's inputs.
    #[error("{0}")]
    Input(String),
    /// The caller wanted no more.
    #[error("stopped")]
    Stopped,
    /// A registered law of noise failed.
    #[error(transparent)]
    Law(#[from] LawFailure),
    /// A cost model gave what is no cost.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// oneDNN failed.
    #[error("oneDNN: {0}")]
    Engine(String),
}

impl From<onednn::Error> for ExecError {
    fn from(error: onednn::Error) -> Self {
        Self::Engine(error.to_string())
    }
}
