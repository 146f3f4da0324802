//! The command line of mxc: one file a command.

mod args;
mod calibrate;
mod compile;
mod eval;
mod export;
mod finetune;
mod inspect;
mod interrupt;
mod merge;
mod opt;
mod report;
mod run;
mod ui;

use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use interrupt::Interrupted;
use mxc::{Ranks, compiler::opt::OptError, runtime::ranks::Alone};
use mxc_options as options;
use std::{path::Path, process::ExitCode};
use ui::Ui;

/// Why a command failed: one message for the user.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What every command gets.
#[derive(Clone, Copy)]
pub struct Global {
    /// Messages and progress.
    pub ui: Ui,
    /// Threads and the seed.
    pub common: options::Common,
}

/// Parses the command line and runs it: exit code 0, 1 for an error, 2 for wrong usage, 128 + signal when stopped by one. Of several
/// ranks the first says what is wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(cli.output.verbose);
    let global = Global { ui: Ui::new(cli.output.quiet, cli.output.json), common: cli.output.common };
    let ranks = match interrupt::watch().and_then(|()| ranks_for(&cli.command)) {
        Ok(ranks) => ranks,
        // Nobody knows of the others, and launchers end all where one fails: the first alone does, having said why.
        Err(_) if mxc_mpi::launched().is_some_and(|own| own.rank > 0) => return ExitCode::SUCCESS,
        Err(error) => return failed(&error),
    };
    let result = match cli.command {
        Command::Compile(args) => compile::run(*args, &global),
        Command::Calibrate(args) => calibrate::run(&args, &global),
        Command::Finetune(args) => finetune::run(args, &global, &*ranks),
        Command::Eval(args) => eval::run(args, &global),
        Command::Merge(args) => merge::run(&args, &global),
        Command::Run(args) => run::run(args, &global),
        Command::Inspect(args) => inspect::run(args, &global),
        Command::Opt(args) => opt::run(args, &global),
        Command::Export(args) => export::run(args, &global),
        Command::Report(args) => report::run(args, &global),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "mxc", &mut std::io::stdout());
            Ok(())
        }
        Command::Man { folder } => man(&folder),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if ranks.rank() > 0 => ExitCode::from(exit_code(&error)),
        Err(error) => failed(&error),
    }
}

/// Says why a command has failed.
fn failed(error: &Failure) -> ExitCode {
    ui::say(&format!("error: {error}"));
    ExitCode::from(exit_code(error))
}

/// The processes that share a command. Only fine-tuning is shared; an evaluation may be one of several that know nothing of each other.
fn ranks_for(command: &Command) -> Result<Box<dyn Ranks>, Failure> {
    match command {
        Command::Finetune(_) => Ok(mxc_mpi::ranks()?),
        Command::Eval(args) if args.shard.is_some() => Ok(Box::new(Alone)),
        _ if mxc_mpi::launched().is_some_and(|own| own.count > 1) => {
            let message = "an MPI launcher has started several processes, of which each would do all the work: only finetune is \
                           shared by them, and eval --shard takes a part; start this command once";
            Err(message.into())
        }
        _ => Ok(Box::new(Alone)),
    }
}

/// Writes the manual pages.
fn man(folder: &Path) -> Result<(), Failure> {
    let io = |source| mxc::Error::Io { path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    Ok(clap_mangen::generate_to(Cli::command(), folder).map_err(io)?)
}

/// 1, but 2 for a mistake in how the program was called and 128 + signal for a command that a signal has stopped.
fn exit_code(error: &Failure) -> u8 {
    if let Some(interrupted) = error.downcast_ref::<Interrupted>() {
        return interrupted.exit_code();
    }
    error.downcast_ref::<OptError>().map_or(1, OptError::exit_code)
}

fn start_logging(verbose: u8) {
    let level = ["warn", "info", "debug"][usize::from(verbose).min(2)];
    let filter = tracing_subscriber::EnvFilter::try_from_env("MXC_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
}

/// Writes to stdout; a closed pipe ends the program quietly as other tools do.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Prints a value as one JSON object.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print(&format!("{}\n", serde_json::to_string(value)?))
}
