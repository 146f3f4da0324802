//! `mxc compile`: from a model to a package, or to the MLIR of a level.

use super::{Failure, Global, args::CompileArgs, calibrate, ui};
use compiler::{files::Inputs, pass::run::Times};
use mxc::{Compiled, Model, Progress, SpentEnergy, compiler, runtime};
use runtime::{evaluate::Parameters, files::write_atomically, package::Placement};
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

pub fn run(args: CompileArgs, global: &Global) -> Result<(), Failure> {
    let output = output(&args)?;
    let options = args.compile.options(&global.common)?;
    let data = args.data.as_ref().map(|path| args.reading.data(path));
    let context = mxc::Context::new();
    let (times, start) = (Times::default(), Instant::now());
    let model = Model::from_file(&context, &args.model, &args.import.options())?;
    times.add("import", start.elapsed());
    let monitor = global.ui.monitor(|progress| {
        if let Progress::Step { name, time } = progress {
            times.add(&name, time);
        }
    });
    let mut compiled = model.compile(&options, data.as_ref(), &monitor)?;
    drop(monitor);
    if args.compile.emit.is_some() {
        if args.timing {
            ui::say(&times.table());
        }
        return emit(&mut compiled, &args);
    }
    let start = Instant::now();
    let package = compiled.package()?;
    package.write(&output)?;
    times.add("package", start.elapsed());
    if args.timing {
        ui::say(&times.table());
    }
    let placement = package.manifest().placement.clone().unwrap_or_default();
    if global.ui.json {
        return super::print_json(&compiled.to_json());
    }
    super::print(&format!("{}\n\n", layer_table(&placement)))?;
    super::print(&calibrate::told(compiled.ranges(), compiled.fitted()))?;
    super::print(&compiled.energy().map(told).unwrap_or_default())?;
    super::print(&format!(
        "{}: recipe {}; {} denoiser parameters on {} layers, {:.2} % of the backbone's {}{}; noise {}, scale {}, reference {}\n",
        output.display(),
        args.compile.recipe,
        placement.denoiser_parameters,
        placement.layers.iter().filter(|layer| layer.chosen).count(),
        overhead(&placement),
        placement.backbone_parameters,
        match shifts(&compiled) {
            0 => String::new(),
            _ => format!(" ({:.2} % with the shifts)", overhead(&placement) + shift_overhead(&placement, &compiled)),
        },
        options.noise.spec,
        options.noise.scale,
        options.noise.reference,
    ))
}

fn emit(compiled: &mut Compiled<'_>, args: &CompileArgs) -> Result<(), Failure> {
    if args.inline_weights {
        compiled.inline_weights()?;
    }
    let text = compiled.ir();
    match &args.output {
        Some(path) => {
            write_atomically(path, text.as_bytes()).map_err(|error| format!("{}: {error}", path.display()).into())
        }
        None => super::print(&text),
    }
}

/// Where the package, or with `--emit` the text, goes: by default the model's name in the current folder. It is no input.
fn output(args: &CompileArgs) -> Result<PathBuf, Failure> {
    let output = args.output.clone().unwrap_or_else(|| default_output(&args.model));
    if args.output.is_some() || args.compile.emit.is_none() {
        Inputs::default()
            .model(&args.model)
            .data(args.data.as_deref())
            .file("the hardware profile", args.compile.hardware.as_deref())
            .file("the list of classes", args.reading.classes.as_deref())
            .check(if args.output.is_some() { "-o" } else { "the default name" }, &output)?;
    }
    Ok(output)
}

/// The default name of a package: the model's, in the current folder.
fn default_output(model: &Path) -> PathBuf {
    PathBuf::from(model.file_stem().unwrap_or(model.as_os_str())).with_extension("mxa")
}

/// The denoisers' share of the backbone's parameters, in percent.
fn overhead(placement: &Placement) -> f64 {
    Parameters::from(placement).overhead_percent
}

/// What energy was spent on, in words.
fn told(spent: SpentEnergy) -> String {
    let SpentEnergy { read, most, digital, share, before, after } = spent;
    let chosen = match (read, digital) {
        (0, 0) => "nothing was better than one read of each layer".to_owned(),
        _ => format!(
            "{read} layers are read up to {most} times, {digital} computed digitally: {:+.2} % of the analog layers' energy",
            100.0 * share
        ),
    };
    format!("energy: {chosen}; distillation loss {before:.4} → {after:.4}\n")
}

/// The channels that have a column shift.
fn shifts(compiled: &Compiled<'_>) -> u64 {
    compiled.ranges().map_or(0, |ranges| ranges.channels)
}

/// Column shifts counted as parameters, in percent of the backbone's.
fn shift_overhead(placement: &Placement, compiled: &Compiled<'_>) -> f64 {
    Parameters::new(placement.backbone_parameters, shifts(compiled)).overhead_percent
}

/// The table that `compile` and `inspect` print: every analog layer by rank.
pub fn layer_table(placement: &Placement) -> comfy_table::Table {
    let mut table = ui::table(&[
        "rank",
        "layer",
        "channels",
        "gradient norm",
        "denoiser parameters",
        "cumulative %",
        "chosen",
        "why",
    ]);
    let mut cumulative = 0;
    for layer in &placement.layers {
        cumulative += layer.denoiser_parameters;
        table.add_row([
            layer.rank.map_or("-".to_owned(), |rank| rank.to_string()),
            layer.name.clone(),
            layer.channels.to_string(),
            layer.gradient_norm.map_or("-".to_owned(), |norm| format!("{norm:.4e}")),
            layer.denoiser_parameters.to_string(),
            format!("{:.2}", 100.0 * cumulative as f64 / placement.backbone_parameters.max(1) as f64),
            if layer.chosen { layer.denoisers.join("+") } else { "no".to_owned() },
            layer.reason.clone(),
        ]);
    }
    table
}
