//! Why calls fail.

use mxc::{Error, runtime::panics};
use std::{any::Any, ffi::CString};

/// What kind of error it is. Kinds may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
#[cfg_attr(not(feature = "compiler"), allow(dead_code, reason = "the header is the same without the compiler"))]
pub enum mxc_error_kind {
    /// An argument is null, a handle of another kind, not UTF-8 or of the wrong size.
    MXC_ERROR_ARGUMENT = 1,
    /// An option is unknown, has a value that it does not take, or contradicts another, the model or the package.
    MXC_ERROR_OPTION = 2,
    /// A model cannot be imported.
    MXC_ERROR_IMPORT = 3,
    /// A pass failed, or a pipeline names none.
    MXC_ERROR_PASS = 4,
    /// MLIR text is none that mxc reads, or what it describes cannot be executed.
    MXC_ERROR_MODULE = 5,
    /// A package cannot be read or written.
    MXC_ERROR_PACKAGE = 6,
    /// Data or arrays cannot be read, or do not fit the network.
    MXC_ERROR_DATA = 7,
    /// The network cannot be run, evaluated or trained.
    MXC_ERROR_RUN = 8,
    /// Parts of an evaluation do not make one.
    MXC_ERROR_PART = 9,
    /// The denoisers cannot be exported.
    MXC_ERROR_EXPORT = 10,
    /// A hardware profile is none, or a cost model gave what is no cost.
    MXC_ERROR_HARDWARE = 11,
    /// A file cannot be read or written.
    MXC_ERROR_IO = 12,
    /// The call was cancelled.
    MXC_ERROR_CANCELLED = 13,
    /// Training was cancelled; its state is in the checkpoint, if there is one.
    MXC_ERROR_STOPPED = 14,
    /// A defect of mxc: please report it.
    MXC_ERROR_INTERNAL = 15,
    /// Of a kind that has no number yet.
    MXC_ERROR_OTHER = 16,
}

/// Why a call failed.
pub struct Failure {
    /// Its kind.
    pub kind: mxc_error_kind,
    /// What is wrong with which file, node, layer or option.
    pub message: CString,
    /// How to mend it, where the message does not say.
    pub hint: Option<CString>,
    /// The location of the operation that it is about.
    pub location: Option<CString>,
}

/// Text as C takes it: zero bytes, which end it there, are left out.
pub fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}

impl Failure {
    fn new(kind: mxc_error_kind, message: &str) -> Self {
        Self { kind, message: c_text(message), hint: None, location: None }
    }

    /// An argument is wrong.
    pub fn argument(message: impl AsRef<str>) -> Self {
        Self::new(mxc_error_kind::MXC_ERROR_ARGUMENT, message.as_ref())
    }

    /// An option is wrong.
    pub fn option(message: impl AsRef<str>) -> Self {
        Self::new(mxc_error_kind::MXC_ERROR_OPTION, message.as_ref())
    }

    /// A panic's message.
    pub fn panic(payload: &(dyn Any + Send)) -> Self {
        let text = panics::message(payload).unwrap_or("no message");
        Self::new(mxc_error_kind::MXC_ERROR_INTERNAL, &format!("a defect of mxc, please report it: {text}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let text = |text: Option<&str>| text.map(c_text);
        let (hint, location) = (error.hint(), error.location());
        Self {
            kind: kind(&error),
            message: c_text(&error.to_string()),
            hint: text(hint.as_deref()),
            location: text(location),
        }
    }
}

fn kind(error: &Error) -> mxc_error_kind {
    use mxc_error_kind::*;
    match error {
        #[cfg(feature = "compiler")]
        Error::Import(_) => MXC_ERROR_IMPORT,
        #[cfg(feature = "compiler")]
        Error::Pass(_) | Error::Pipeline(_) => MXC_ERROR_PASS,
        #[cfg(feature = "compiler")]
        Error::Compile(_) | Error::Load(_) | Error::Module { .. } => MXC_ERROR_MODULE,
        #[cfg(feature = "compiler")]
        Error::Export(_) => MXC_ERROR_EXPORT,
        #[cfg(feature = "compiler")]
        Error::ReplacesInput(_) => MXC_ERROR_OPTION,
        Error::Program(_) => MXC_ERROR_MODULE,
        Error::Package(_) => MXC_ERROR_PACKAGE,
        Error::Data(_) | Error::Arrays(_) => MXC_ERROR_DATA,
        Error::Exec(_) | Error::Eval(_) | Error::Finetune(_) | Error::Ranks(_) | Error::Digital(_) => MXC_ERROR_RUN,
        Error::Part(_) => MXC_ERROR_PART,
        Error::Hardware(_) | Error::Cost(_) => MXC_ERROR_HARDWARE,
        Error::Io { .. } => MXC_ERROR_IO,
        Error::Options(_) => MXC_ERROR_OPTION,
        Error::Stopped { .. } => MXC_ERROR_STOPPED,
        Error::Cancelled => MXC_ERROR_CANCELLED,
        _ => MXC_ERROR_OTHER,
    }
}
