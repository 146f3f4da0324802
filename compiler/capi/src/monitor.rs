//! Progress, diagnostics and cancelling.

use crate::{
    error::{guard, mxc_error},
    failure::{Failure, c_text},
    object::{Out, Tag, destroy, get, handle, optional},
};
use mxc::{Cancel, Monitor, Progress};
use std::{
    ffi::{c_char, c_void},
    fmt::{self, Write},
    ops::ControlFlow,
    ptr,
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// What watches calls and stops them.
pub struct mxc_monitor {
    _tag: Tag,
}

handle!(mxc_monitor = Watcher, "monitor");

/// What a call is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum mxc_stage {
    /// A pass has ended.
    MXC_STAGE_PASS = 1,
    /// A batch of an evaluation has been run.
    MXC_STAGE_EVALUATE = 2,
    /// A step of training has been made.
    MXC_STAGE_FINETUNE = 3,
    /// A layer's noise has been measured.
    MXC_STAGE_MEASURE = 4,
}

/// How far a call is. Fields may be added behind the last.
#[repr(C)]
pub struct mxc_progress {
    /// What it is at.
    pub stage: mxc_stage,
    /// The name of the pass, or what is evaluated, such as `noisy`; else empty.
    pub name: *const c_char,
    /// How much is done of `total`: samples of an evaluation, steps of training, layers measured; 0 of passes.
    pub done: u64,
    /// How much there is to do, or 0 where that is not known.
    pub total: u64,
    /// How long the pass took, in seconds; else 0.
    pub seconds: f64,
    /// The epoch of training, from 1; else 0.
    pub epoch: u32,
    /// How many epochs there are; else 0.
    pub epochs: u32,
    /// The mean loss of the epoch so far; else 0.
    pub loss: f64,
    /// The share of the epoch's samples so far that were classified as taught, in percent; else 0.
    pub accuracy: f64,
}

/// How grave a diagnostic is. What makes a call fail is its error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum mxc_severity {
    /// Something worth knowing: what was assumed, or changed.
    MXC_SEVERITY_NOTE = 1,
    /// Something that is probably not meant.
    MXC_SEVERITY_WARNING = 2,
}

/// Is told how far a call is, on the thread that made it. Returns whether to go on: false cancels the call.
pub type mxc_progress_callback = Option<unsafe extern "C" fn(user: *mut c_void, progress: *const mxc_progress) -> bool>;

/// Is told a diagnostic, on the thread that made the call. The text lives until it returns.
pub type mxc_diagnostic_callback =
    Option<unsafe extern "C" fn(user: *mut c_void, severity: mxc_severity, message: *const c_char)>;

/// A caller's callbacks.
#[derive(Clone, Copy)]
struct Callbacks {
    user: *mut c_void,
    progress: mxc_progress_callback,
    diagnostic: mxc_diagnostic_callback,
}

// SAFETY: the callbacks are called on the thread alone that makes the call; it is the caller's word that they may be called there.
unsafe impl Send for Callbacks {}
// SAFETY: as above.
unsafe impl Sync for Callbacks {}

impl Callbacks {
    fn say(&self, severity: mxc_severity, message: &str) {
        if let Some(diagnostic) = self.diagnostic {
            // SAFETY: by the entries' contract it may be called with its own data.
            unsafe { diagnostic(self.user, severity, c_text(message).as_ptr()) }
        }
    }

    fn tell(&self, progress: Progress) -> ControlFlow<()> {
        let mut name = String::new();
        let mut told = mxc_progress {
            stage: mxc_stage::MXC_STAGE_PASS,
            name: ptr::null(),
            done: 0,
            total: 0,
            seconds: 0.0,
            epoch: 0,
            epochs: 0,
            loss: 0.0,
            accuracy: 0.0,
        };
        match progress {
            Progress::Note(text) => {
                self.say(mxc_severity::MXC_SEVERITY_NOTE, &text);
                return ControlFlow::Continue(());
            }
            Progress::Warning(text) => {
                self.say(mxc_severity::MXC_SEVERITY_WARNING, &text);
                return ControlFlow::Continue(());
            }
            Progress::Step { name: pass, time } => {
                name = pass;
                told.seconds = time.as_secs_f64();
            }
            Progress::Evaluating(now) => {
                told.stage = mxc_stage::MXC_STAGE_EVALUATE;
                name = now.stage.to_string();
                (told.done, told.total) = (now.done, now.total);
            }
            Progress::Training { now, .. } => {
                told.stage = mxc_stage::MXC_STAGE_FINETUNE;
                (told.done, told.total) = (now.step, now.steps);
                (told.epoch, told.epochs) = (now.epoch + 1, now.epochs);
                (told.loss, told.accuracy) = (now.loss, now.accuracy);
            }
            Progress::Measuring { done, layers, .. } => {
                told.stage = mxc_stage::MXC_STAGE_MEASURE;
                (told.done, told.total) = (done as u64, layers as u64);
            }
            // What this version of the header has no name for.
            _ => return ControlFlow::Continue(()),
        }
        let name = c_text(&name);
        told.name = name.as_ptr();
        // SAFETY: by the entries' contract it may be called with its own data.
        match self.progress.is_none_or(|progress| unsafe { progress(self.user, &told) }) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }
}

/// What watches calls and stops them.
pub struct Watcher {
    callbacks: Callbacks,
    cancel: Cancel,
}

/// Does work that the monitor of a handle watches; null watches nothing. What importing tells goes to the diagnostics, too.
pub fn watched<R>(
    handle: *const mxc_monitor,
    work: impl FnOnce(&Monitor<'_>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let Some(Watcher { callbacks, cancel }) = optional::<Watcher>(handle)? else {
        return work(&Monitor::default());
    };
    if cancel.is_cancelled() {
        return Err(mxc::Error::Cancelled.into());
    }
    let monitor = Monitor::new(|progress| callbacks.tell(progress)).with_cancel(cancel.clone());
    tracing::subscriber::with_default(Told(*callbacks), || work(&monitor))
}

/// Passes warnings, and what is decided, on to the diagnostics.
struct Told(Callbacks);

impl Subscriber for Told {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message::default();
        event.record(&mut message);
        let severity = match *event.metadata().level() {
            Level::ERROR | Level::WARN => mxc_severity::MXC_SEVERITY_WARNING,
            _ => mxc_severity::MXC_SEVERITY_NOTE,
        };
        self.0.say(severity, &message.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The text of an event.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

/// Makes a monitor. Either callback may be null; `user` is handed to both. It can be used for calls one after another and, by
/// mxc_monitor_cancel, from other threads meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_monitor_create(
    progress: mxc_progress_callback,
    diagnostic: mxc_diagnostic_callback,
    user: *mut c_void,
    out: *mut *mut mxc_monitor,
) -> *mut mxc_error {
    guard(|| {
        let callbacks = Callbacks { user, progress, diagnostic };
        Out::<Watcher>::new(out)?.put(Watcher { callbacks, cancel: Cancel::default() });
        Ok(())
    })
}

/// Has the call that the monitor watches end soon, and every later one at once, with MXC_ERROR_CANCELLED or, while training,
/// MXC_ERROR_STOPPED. May be called from any thread and from a signal's handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_monitor_cancel(monitor: *const mxc_monitor) -> *mut mxc_error {
    guard(|| {
        get::<Watcher>(monitor)?.cancel.cancel();
        Ok(())
    })
}

/// Frees a monitor that watches no call. Null is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_monitor_destroy(monitor: *mut mxc_monitor) {
    destroy::<Watcher>(monitor);
}
