//! `mxc finetune`: trains a package's denoisers.

use super::{
    Failure, Global,
    args::FinetuneArgs,
    interrupt::{self, Interrupted},
};
use mxc::{Error, Finetuned, Package, Progress, Ranks, compiler::files::Inputs, runtime::ranks};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Shared among ranks, of which the first reads and writes the checkpoint, writes the package and says what there is to say.
pub fn run(args: FinetuneArgs, global: &Global, ranks: &dyn Ranks) -> Result<(), Failure> {
    let first = ranks.rank() == 0;
    let global = if first { global } else { &Global { ui: global.ui.silent(), ..*global } };
    let output = args.output.clone().unwrap_or_else(|| args.package.with_extension("tuned.mxa"));
    let checkpoint = checkpoint_path(&output);
    let mut progress = global.ui.progress("finetune");
    let told = |told| {
        if let Progress::Training { now, samples } = told {
            progress.set_total(samples * u64::from(now.epochs));
            progress.update(
                now.step * samples * u64::from(now.epochs) / now.steps.max(1),
                &format!(" epoch {}/{} loss {:.4}", now.epoch + 1, now.epochs, now.loss),
            );
        }
    };
    let monitor = global.ui.monitor(told).with_cancel(interrupt::cancel());
    let open = || {
        let inputs = Inputs::default()
            .file("the package", Some(&args.package))
            .data(Some(&args.data))
            .file("the list of classes", args.reading.classes.as_deref());
        inputs.check(if args.output.is_some() { "-o" } else { "the default name" }, &output)?;
        inputs.check("the checkpoint of -o", &checkpoint)?;
        let package = Package::open(&args.package)?;
        Ok::<_, Failure>(package.session(&args.finetune.session(&global.common), &monitor)?)
    };
    let session = ranks::agree(ranks, open(), |_| BTreeMap::new())?;
    interrupt::graceful(first);
    let options = args.finetune.options(Some(checkpoint.clone()), &global.common);
    let result = session.finetune_on(&args.reading.data(&args.data), &options, &monitor, ranks);
    drop(monitor);
    drop(progress);
    let resumed_from = match &result {
        Ok(tuned) => tuned.report.as_ref().and_then(|report| report.resumed_from),
        Err(Error::Stopped { resumed_from, .. }) => *resumed_from,
        Err(_) => None,
    };
    if let Some(step) = resumed_from {
        global.ui.note(format!("resumed from step {step} of {}", checkpoint.display()));
    }
    let tuned = match result {
        Ok(tuned) => tuned,
        Err(Error::Stopped { step, .. }) => {
            let state = checkpoint.display();
            let message =
                format!("stopped at step {step}; go on with the same command and --resume (state in {state})");
            return Err(Interrupted::new(message).into());
        }
        Err(Error::Cancelled) => return Err(Interrupted::new("stopped before the first step".to_owned()).into()),
        Err(error) => return Err(error.into()),
    };
    if !first {
        return Ok(());
    }
    tuned.package.write(&output)?;
    if tuned.report.is_some() {
        // The package stands; the state that led to it is of no more use.
        let _ = fs::remove_file(&checkpoint);
    }
    finish(&tuned, &output, global)
}

fn finish(tuned: &Finetuned, output: &Path, global: &Global) -> Result<(), Failure> {
    let training = tuned.package.manifest().training.clone();
    if global.ui.json {
        return super::print_json(&tuned.to_json());
    }
    if let Some(training) = training {
        if let Some(judged) = training.judged.first() {
            super::print(&format!("start: judged {judged:.4}\n"))?;
        }
        for (epoch, loss) in training.losses.iter().enumerate() {
            let judged = training.judged.get(epoch + 1).map(|judged| format!(", judged {judged:.4}"));
            super::print(&format!("epoch {}: loss {loss:.4}{}\n", epoch + 1, judged.unwrap_or_default()))?;
        }
        super::print(&training.kept().map(told).unwrap_or_default())?;
    }
    super::print(&format!("{}\n", output.display()))
}

/// Which weights were kept.
fn told(epoch: usize) -> String {
    match epoch {
        0 => "kept: the start; no epoch was better\n".to_owned(),
        epoch => format!("kept: epoch {epoch}\n"),
    }
}

fn checkpoint_path(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".ckpt");
    PathBuf::from(name)
}
