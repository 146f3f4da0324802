//! Why a call fails.

#[cfg(feature = "compiler")]
use miette::Diagnostic;
#[cfg(feature = "compiler")]
use mxc_compiler::{
    driver::CompileError,
    export::ExportError,
    files::ReplacesInput,
    import::ImportError,
    load::LoadError,
    pass::{PipelineError, RunError},
};
use mxc_runtime::{
    cost::CostError,
    data::DataError,
    digital::DigitalError,
    error::ExecError,
    evaluate::{EvalError, PartError},
    finetune::FinetuneError,
    hardware::HardwareError,
    package::PackageError,
    program::ProgramError,
    ranks::RanksError,
};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a call fails, by the stage that failed. Its text is one message that names the file, node, layer or option; what stands in
/// the variants can be matched on. Variants may be added.
///
/// ```
/// let context = mxc::Context::new();
/// let error = mxc::Model::from_file(&context, "missing.onnx".as_ref(), &Default::default()).unwrap_err();
/// assert!(matches!(&error, mxc::Error::Import(mxc::ImportError::Read { path, .. }) if path.ends_with("missing.onnx")));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model cannot be imported.
    #[cfg(feature = "compiler")]
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A pass failed.
    #[cfg(feature = "compiler")]
    #[error(transparent)]
    Pass(#[from] RunError),
    /// A pipeline's text is malformed.
    #[cfg(feature = "compiler")]
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// A compiled model cannot be executed.
    #[cfg(feature = "compiler")]
    #[error("the model cannot be executed: {0}")]
    Compile(LoadError),
    /// A module cannot be executed.
    #[cfg(feature = "compiler")]
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A program cannot be packaged.
    #[error("the model cannot be packaged: {0}")]
    Program(#[from] ProgramError),
    /// A package's module, or one given as text, is not MLIR that mxc reads.
    #[cfg(feature = "compiler")]
    #[error("{message}")]
    Module {
        /// What the text is called: its file.
        file: String,
        /// The parser's messages, which name it.
        message: String,
    },
    /// A package cannot be read or written.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// Data cannot be read, or does not fit.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Input arrays do not fit the network.
    #[error("{0}")]
    Arrays(String),
    /// The network cannot be planned or run.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// An evaluation failed.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// Parts of an evaluation cannot be merged.
    #[error(transparent)]
    Part(#[from] PartError),
    /// Fine-tuning failed.
    #[error(transparent)]
    Finetune(FinetuneError),
    /// Ranks cannot go on together, most often because one has failed.
    #[error(transparent)]
    Ranks(#[from] RanksError),
    /// The denoisers cannot be exported.
    #[cfg(feature = "compiler")]
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A hardware profile is not one.
    #[error(transparent)]
    Hardware(#[from] HardwareError),
    /// A program of the digital tile is wrong.
    #[error(transparent)]
    Digital(DigitalError),
    /// A cost model gave what is no cost.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An output would replace an input.
    #[cfg(feature = "compiler")]
    #[error(transparent)]
    ReplacesInput(#[from] ReplacesInput),
    /// Options contradict each other, the model or the package.
    #[error("{0}")]
    Options(String),
    /// Fine-tuning was cancelled; its state is kept if it has a checkpoint.
    #[error("stopped at step {step}{}", checkpoint.as_ref().map_or(String::new(), |path| format!("; its state is in {}", path.display())))]
    Stopped {
        /// Steps done, over all epochs.
        step: u64,
        /// The step that the run had been resumed from.
        resumed_from: Option<u64>,
        /// Where its state is.
        checkpoint: Option<PathBuf>,
    },
    /// The caller cancelled the call.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// How to mend it, where that is known and not in the message.
    ///
    /// ```
    /// let context = mxc::Context::new();
    /// let error = mxc::Model::from_bytes(&context, b"no model", "x.onnx", &Default::default()).unwrap_err();
    /// assert!(error.hint().unwrap().contains("export it again"));
    /// ```
    pub fn hint(&self) -> Option<String> {
        match self {
            #[cfg(feature = "compiler")]
            Self::Import(error) => error.help().map(|help| help.to_string()),
            #[cfg(feature = "compiler")]
            Self::Export(error) => error.help().map(|help| help.to_string()),
            #[cfg(feature = "compiler")]
            Self::Pass(RunError::Pass { error, .. }) => error.hint.clone(),
            _ => None,
        }
    }

    /// Where in the model it is: the location of the operation that a pass failed at, which names the source's node.
    pub fn location(&self) -> Option<&str> {
        match self {
            #[cfg(feature = "compiler")]
            Self::Pass(RunError::Pass { error, .. }) => error.location.as_deref(),
            _ => None,
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

impl From<FinetuneError> for Error {
    fn from(error: FinetuneError) -> Self {
        match error {
            FinetuneError::Ranks(error) => Self::Ranks(error),
            error => Self::Finetune(error),
        }
    }
}

impl From<DigitalError> for Error {
    fn from(error: DigitalError) -> Self {
        match error {
            DigitalError::Cost(error) => Self::Cost(error),
            error @ DigitalError::Program { .. } => Self::Digital(error),
        }
    }
}

#[cfg(feature = "compiler")]
impl From<CompileError> for Error {
    fn from(error: CompileError) -> Self {
        match error {
            CompileError::Import(error) => Self::Import(error),
            CompileError::Pass(error) => Self::Pass(error),
            CompileError::Program(error) => Self::Compile(error),
            CompileError::Package(error) => Self::Program(error),
        }
    }
}
