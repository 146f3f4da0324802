//! Why a program cannot be planned or run.

use crate::onednn;

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
    /// oneDNN failed.
    #[error("oneDNN: {0}")]
    Engine(String),
}

impl From<onednn::Error> for ExecError {
    fn from(error: onednn::Error) -> Self {
        Self::Engine(error.to_string())
    }
}
