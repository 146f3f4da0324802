//! SIGINT (Ctrl-C), SIGTERM (batch systems, containers) and SIGHUP (a closed terminal) end every command with the exit code
//! 128 + signal; one that has state to save saves it first.

use super::{Failure, ui};
use mxc::Cancel;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level::exit,
};
use std::{
    fs,
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicI32, Ordering, fence},
    },
    thread,
};

/// Whether the command stops by itself when asked to.
static GRACEFUL: AtomicBool = AtomicBool::new(false);
/// Whether the first signal is told of.
static TELLS: AtomicBool = AtomicBool::new(true);
/// Raised by the first signal to a graceful command.
static STOP: LazyLock<Cancel> = LazyLock::new(Cancel::default);
/// That signal.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// A command that a signal has stopped.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Interrupted {
    signal: i32,
    message: String,
}

impl Interrupted {
    /// A command stopped by the signal that raised [`cancel`].
    pub fn new(message: String) -> Self {
        // Pairs with the store to the flag, which the command has read.
        fence(Ordering::Acquire);
        Self { signal: SIGNAL.load(Ordering::Relaxed), message }
    }

    /// 128 + signal; that of SIGTERM where the signal was another rank's.
    pub fn exit_code(&self) -> u8 {
        let signal = if self.signal == 0 { SIGTERM } else { self.signal };
        (128 + signal) as u8
    }
}

/// Handles the signals from now on, on a thread of their own.
pub fn watch() -> Result<(), Failure> {
    let mut signals = vec![SIGINT, SIGTERM];
    // nohup has it ignored, and means it. (Shells have SIGINT ignored by what runs in the background; who sends it means it.)
    if !is_ignored(SIGHUP) {
        signals.push(SIGHUP);
    }
    let mut signals = Signals::new(signals)?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if !GRACEFUL.load(Ordering::Relaxed) || STOP.is_cancelled() {
                // Not through destructors: another thread is at work.
                exit(128 + signal);
            }
            SIGNAL.store(signal, Ordering::Relaxed);
            STOP.cancel();
            if TELLS.load(Ordering::Relaxed) {
                ui::say("stopping after this step; a second signal (Ctrl-C) stops at once");
            }
        }
    })?;
    Ok(())
}

/// What the first signal to a graceful command raises.
pub fn cancel() -> Cancel {
    STOP.clone()
}

/// From now on the command stops by itself at the first signal, of which it tells or not; the second ends the program at once.
pub fn graceful(tells: bool) {
    TELLS.store(tells, Ordering::Relaxed);
    GRACEFUL.store(true, Ordering::Relaxed);
}

/// Whether the process was started with a signal ignored.
fn is_ignored(signal: i32) -> bool {
    let mask = fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    });
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
