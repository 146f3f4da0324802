//! What a call tells while it works, and how it is stopped.

use crate::Error;
#[cfg(feature = "compiler")]
use mxc_compiler::pass::RunOptions;
use mxc_runtime::{
    data::{DataError, Layout, Source},
    evaluate::EvalProgress,
    finetune,
};
use std::{
    cell::RefCell,
    fmt,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// What a call tells while it works. Variants may be added.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Progress {
    /// A pass has ended.
    Step {
        /// Its name, such as `rank-sensitivity`.
        name: String,
        /// How long it took.
        time: Duration,
    },
    /// A batch of an evaluation has been run.
    Evaluating(EvalProgress),
    /// A step of fine-tuning has been made.
    Training {
        /// The epoch, the step and the loss.
        now: finetune::Progress,
        /// The samples of an epoch.
        samples: u64,
    },
    /// A layer's noise has been measured.
    Measuring {
        /// Layers done.
        done: usize,
        /// All layers.
        layers: usize,
        /// The samples that each is measured on.
        samples: usize,
    },
    /// Something that is worth knowing: what was assumed, or changed.
    Note(String),
    /// Something that is probably not meant.
    Warning(String),
}

/// Stops a call from anywhere: another thread, a signal handler, the callback itself. Clones are the same flag.
///
/// ```
/// let cancel = mxc::Cancel::default();
/// let other = cancel.clone();
/// std::thread::spawn(move || other.cancel()).join().unwrap();
/// assert!(cancel.is_cancelled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Has the call end soon, with [`Error::Cancelled`] or [`Error::Stopped`]: after the batch, step or pass that it is at.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the call is to end.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// The flag as the other crates take it.
    #[cfg(feature = "compiler")]
    pub(crate) fn flag(&self) -> &Arc<AtomicBool> {
        &self.0
    }
}

/// Watches a call: a callback that is told of [`Progress`] and may stop it, and a [`Cancel`].
///
/// ```
/// use std::ops::ControlFlow;
/// // Nobody watches.
/// let quiet = mxc::Monitor::default();
/// // Warnings are kept, the rest is passed over.
/// let mut warnings = Vec::new();
/// let monitor = mxc::Monitor::new(|progress| {
///     if let mxc::Progress::Warning(text) = progress {
///         warnings.push(text);
///     }
///     ControlFlow::Continue(())
/// });
/// ```
#[derive(Default)]
pub struct Monitor<'a> {
    callback: Option<RefCell<Callback<'a>>>,
    cancel: Cancel,
}

type Callback<'a> = Box<dyn FnMut(Progress) -> ControlFlow<()> + 'a>;

impl<'a> Monitor<'a> {
    /// Calls `callback`, on the caller's thread; when it returns `Break`, the call ends as by [`Cancel::cancel`].
    pub fn new(callback: impl FnMut(Progress) -> ControlFlow<()> + 'a) -> Self {
        Self { callback: Some(RefCell::new(Box::new(callback))), cancel: Cancel::default() }
    }

    /// Lets `cancel` stop the call, too.
    pub fn with_cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// Calls `work` with how passes are run: the call can be cancelled, and is told of each that ends.
    #[cfg(feature = "compiler")]
    pub(crate) fn watching<R>(&self, work: impl FnOnce(RunOptions<'_>) -> R) -> R {
        work(RunOptions {
            stop: Some(self.cancel().flag().clone()),
            ended: &|name, time| self.report(Progress::Step { name: name.to_owned(), time }),
            ..RunOptions::default()
        })
    }

    /// Tells the callback. A callback that calls back into the same monitor is not told of that.
    pub(crate) fn report(&self, progress: Progress) {
        let callback = self.callback.as_ref().and_then(|callback| callback.try_borrow_mut().ok());
        if callback.is_some_and(|mut callback| callback(progress).is_break()) {
            self.cancel.cancel();
        }
    }

    #[cfg(feature = "compiler")]
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.report(Progress::Note(text.into()));
    }

    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.report(Progress::Warning(text.into()));
    }

    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// An error once the call is to end.
    #[cfg(feature = "compiler")]
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// The call's result, or that it was cancelled: an error after that is what the end of the work looks like.
    pub(crate) fn result<T, E: Into<Error>>(&self, result: Result<T, E>) -> Result<T, Error> {
        result.map_err(|error| if self.cancel.is_cancelled() { Error::Cancelled } else { error.into() })
    }
}

impl fmt::Debug for Monitor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").field("cancel", &self.cancel).finish_non_exhaustive()
    }
}

/// A data set that ends with an error once a call is cancelled: what runs over it stops at its next batch.
pub(crate) struct Stoppable<'a> {
    pub data: &'a dyn Source,
    pub cancel: &'a Cancel,
}

impl Source for Stoppable<'_> {
    fn len(&self) -> usize {
        self.data.len()
    }

    fn sample_len(&self) -> usize {
        self.data.sample_len()
    }

    fn image(&self) -> Option<Layout> {
        self.data.image()
    }

    fn id(&self, index: usize) -> u64 {
        self.data.id(index)
    }

    fn load(&self, indices: &[usize], out: &mut Vec<f32>) -> Result<(), DataError> {
        if self.cancel.is_cancelled() {
            return Err(DataError::Mismatch("cancelled".to_owned()));
        }
        self.data.load(indices, out)
    }

    fn announce(&self, batches: Vec<Vec<usize>>) {
        self.data.announce(batches);
    }

    fn labels(&self, indices: &[usize]) -> Option<Vec<u32>> {
        self.data.labels(indices)
    }

    fn check_classes(&self, outputs: usize) -> Result<(), DataError> {
        self.data.check_classes(outputs)
    }

    fn fingerprint(&self) -> String {
        self.data.fingerprint()
    }
}
