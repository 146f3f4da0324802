//! What the commands print: results on stdout, everything else on stderr.

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use mxc::Monitor;
use std::{
    io::{IsTerminal, Write},
    ops::ControlFlow,
    time::{Duration, Instant},
};

/// Writes a line to stderr, if anybody is there to read it: a closed terminal must not end a command that is saving its state.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", line.trim_end_matches('\n'));
}

/// Where messages go, as `--quiet` and `--json` say.
#[derive(Clone, Copy, Debug)]
pub struct Ui {
    quiet: bool,
    /// Whether results are one JSON object.
    pub json: bool,
}

impl Ui {
    /// A user interface for the common options.
    pub fn new(quiet: bool, json: bool) -> Self {
        Self { quiet, json }
    }

    /// The same, but silent: of several processes that do one thing one is enough.
    pub fn silent(self) -> Self {
        Self { quiet: true, ..self }
    }

    /// Says something worth knowing, on stderr.
    pub fn note(&self, message: impl AsRef<str>) {
        if !self.quiet {
            say(&format!("note: {}", message.as_ref()));
        }
    }

    /// Warns, on stderr.
    pub fn warn(&self, message: impl AsRef<str>) {
        if !self.quiet {
            say(&format!("warning: {}", message.as_ref()));
        }
    }

    /// Shows a call's notes and warnings; `show` shows the rest of what it tells.
    pub fn monitor<'a>(&self, mut show: impl FnMut(mxc::Progress) + 'a) -> Monitor<'a> {
        let ui = *self;
        Monitor::new(move |progress| {
            match progress {
                mxc::Progress::Note(text) => ui.note(text),
                mxc::Progress::Warning(text) => ui.warn(text),
                other => show(other),
            }
            ControlFlow::Continue(())
        })
    }

    /// A progress display; shown only once a second has passed.
    pub fn progress(&self, what: &str) -> Progress {
        let mode = if self.quiet {
            Output::None
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(0);
            let style =
                ProgressStyle::with_template("{msg} [{bar:30}] {human_pos}/{human_len} images, {per_sec}, {eta} left")
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("=> ")
                    .with_key("per_sec", |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
                        let _ = write!(out, "{:.0} images/s", state.per_sec());
                    });
            bar.set_style(style);
            Output::Bar(bar)
        } else {
            Output::Lines { next: Duration::from_secs(1) }
        };
        Progress { what: what.to_owned(), total: 0, started: Instant::now(), mode }
    }
}

enum Output {
    None,
    Bar(ProgressBar),
    /// Plain lines, at 1 s and then every 10 s.
    Lines {
        next: Duration,
    },
}

/// A progress display.
pub struct Progress {
    what: String,
    total: u64,
    started: Instant,
    mode: Output,
}

impl Progress {
    /// Says how many images there are, which is known only later.
    pub fn set_total(&mut self, total: u64) {
        self.total = total;
        if let Output::Bar(bar) = &self.mode {
            bar.set_length(total);
        }
    }

    /// Shows that `done` images are finished; `detail` (a loss, a run) follows the description.
    pub fn update(&mut self, done: u64, detail: &str) {
        let elapsed = self.started.elapsed();
        match &mut self.mode {
            Output::None => {}
            Output::Bar(bar) => {
                if elapsed > Duration::from_secs(1) {
                    bar.set_message(format!("{}{detail}", self.what));
                    bar.set_position(done);
                }
            }
            Output::Lines { next } => {
                if elapsed >= *next && done > 0 {
                    let rate = done as f64 / elapsed.as_secs_f64();
                    let left = Duration::from_secs_f64(self.total.saturating_sub(done) as f64 / rate);
                    say(&format!(
                        "{}{detail}: {done}/{} images, {rate:.0} images/s, {} left",
                        self.what,
                        self.total,
                        HumanDuration(left)
                    ));
                    *next = elapsed + Duration::from_secs(10);
                }
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Output::Bar(bar) = &self.mode {
            bar.finish_and_clear();
        }
    }
}

/// A plain table for stdout: no borders but a rule under the head, so that it pastes into a terminal or a document.
pub fn table(head: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(head.iter().copied());
    table
}
