//! `mxc compile`: from a model to a package, or to the MLIR of a level.

use super::{
    Failure, Global,
    args::{CompileArgs, Level},
    data::{SkipBad, sample_source},
    session, ui,
};
use crate::{
    driver::{self, CompileOptions, Compiled, Record},
    files::Inputs,
    import::{self, SourceInfo, SourceInput},
    passes::{
        RunOptions, SampleRequest, Samples,
        run::{Times, print_module},
    },
};
use mxc_runtime::{
    hardware::Hardware,
    package::{self, Preprocessing, write_atomically},
};
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

pub fn run(args: CompileArgs, global: &Global) -> Result<(), Failure> {
    let output = output(&args)?;
    let noise = session::noise_option(args.sigma.or(Some(0.06)), args.noise.as_ref()).unwrap_or_default();
    let hardware = hardware_profile(args.hardware.as_deref())?;

    let context = mxc_dialects::new_context();
    let (times, start) = (Times::default(), Instant::now());
    let imported = driver::import(&context, &args.model, &args.import.options())?;
    times.add("import", start.elapsed());
    if args.emit.is_none() {
        check_samples(&args.model, &imported.source)?;
    }
    let preprocessing = preprocessing(&args, &imported.source)?;
    let options = CompileOptions {
        budget: args.budget,
        noise,
        noise_scale: args.noise_scale.clone(),
        noise_reference: args.noise_reference.clone(),
        placement: args.placement.clone(),
        denoiser: args.denoiser.clone(),
        keep_digital: args.keep_digital.clone(),
        seed: global.seed,
        threads: global.threads,
        samples: args.samples.unwrap_or(if args.data.is_some() { 512 } else { 64 }),
    };
    let level = match args.emit {
        Some(Level::Graph) => driver::Level::Graph,
        Some(Level::Analog) => driver::Level::Analog,
        Some(Level::Denoise | Level::Dtile) | None => driver::Level::Denoise,
    };
    let skip = SkipBad::new(args.skip_bad, global);
    let samples = match &args.data {
        Some(path) => Some(sample_source(path, args.holdout, &preprocessing, global.threads, skip.clone())?),
        None => None,
    };
    let run = RunOptions { timing: Some(&times), ..RunOptions::default() };
    let mut compiled = driver::compile(&context, imported, &options, level, samples, &run)?;
    for warning in &compiled.warnings {
        global.ui.warn(warning);
    }
    if let Some(level) = args.emit {
        if args.timing {
            ui::say(&times.table());
        }
        return emit(&context, &mut compiled, level, &args, &hardware);
    }
    let record = Record {
        hardware,
        preprocessing,
        model: args.model.clone(),
        holdout: args.holdout,
        options: recorded_options(&args, &options),
    };
    let start = Instant::now();
    let package = driver::package(&compiled, &options, record);
    let placement = package.manifest.placement.clone().unwrap_or_default();
    if !placement.layers.iter().any(|layer| layer.chosen) {
        global.ui.warn(format!(
            "no denoiser fits the budget of {}% ({} parameters)",
            session::percent(options.budget),
            (placement.backbone_parameters as f64 * options.budget) as u64
        ));
    }
    package.write(&output)?;
    times.add("package", start.elapsed());
    if args.timing {
        ui::say(&times.table());
    }
    if global.ui.json {
        return super::print_json(&report(&placement, skip.skipped()));
    }
    super::print(&format!("{}\n\n", layer_table(&placement)))?;
    super::print(&format!(
        "{}: {} denoiser parameters on {} layers, {:.2} % of the backbone's {}; noise {}, scale {}, reference {}\n",
        output.display(),
        placement.denoiser_parameters,
        placement.layers.iter().filter(|layer| layer.chosen).count(),
        overhead(&placement),
        placement.backbone_parameters,
        options.noise,
        options.noise_scale,
        options.noise_reference,
    ))
}

fn emit<'c>(
    context: &'c melior::Context,
    compiled: &mut Compiled<'c>,
    level: Level,
    args: &CompileArgs,
    hardware: &str,
) -> Result<(), Failure> {
    if level == Level::Dtile {
        let weights = compiled.all_weights();
        session::lower_denoisers(context, &mut compiled.module, weights, &Hardware::parse(hardware, "the profile")?)?;
    }
    if args.inline_weights {
        let weights = compiled.all_weights();
        import::inline_weights(context, &mut compiled.module, &weights)?;
    }
    let text = print_module(&compiled.module, false);
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
    if args.output.is_some() || args.emit.is_none() {
        Inputs::default()
            .model(&args.model)
            .data(args.data.as_deref())
            .file("the hardware profile", args.hardware.as_deref())
            .check(if args.output.is_some() { "-o" } else { "the default name" }, &output)?;
    }
    Ok(output)
}

/// The default name of a package: the model's, in the current folder.
fn default_output(model: &Path) -> PathBuf {
    PathBuf::from(model.file_stem().unwrap_or(model.as_os_str())).with_extension("mxa")
}

/// A hardware profile's text: the file's, checked, or the built-in one.
pub fn hardware_profile(path: Option<&Path>) -> Result<String, Failure> {
    let profile = match path {
        Some(path) => Hardware::load(path)?,
        None => Hardware::paper(),
    };
    Ok(profile.to_toml())
}

/// A package is calibrated, trained and evaluated on samples of floats, one at a time.
fn check_samples(model: &Path, source: &SourceInfo) -> Result<(), Failure> {
    if let Some(input) = source.inputs.iter().find(|input| !input.is_float) {
        return Err(format!(
            "{}: input '{}' holds integers; compile a network whose inputs are floats (mxc run executes any)",
            model.display(),
            input.name
        )
        .into());
    }
    let several = |input: &&SourceInput| input.shape.first() != Some(&Some(1));
    if let Some(input) = source.inputs.iter().find(several).filter(|_| source.whole) {
        return Err(format!(
            "{}: it computes across the first axis of its input '{}', so that its samples cannot be told apart; export it with \
             a dynamic batch or a batch of 1",
            model.display(),
            input.name
        )
        .into());
    }
    Ok(())
}

/// How image bytes become the model's input: its only input must be an image.
fn preprocessing(args: &CompileArgs, source: &SourceInfo) -> Result<Preprocessing, Failure> {
    let mut result = Preprocessing {
        mean: args.preprocess.mean.clone(),
        std: args.preprocess.std.clone(),
        resize: args.preprocess.resize,
        crop: args.preprocess.crop,
        interpolation: match args.preprocess.resize {
            Some(_) => args.preprocess.interpolation.clone().unwrap_or("bilinear".to_owned()),
            None => String::new(),
        },
        ..Preprocessing::default()
    };
    if let [SourceInput { shape, channel_axis, .. }] = source.inputs.as_slice()
        && let [_, Some(a), Some(b), Some(c)] = shape.as_slice()
    {
        let last = *channel_axis == Some(3);
        let (height, width, channels) = if last { (a, b, c) } else { (b, c, a) };
        result.layout = if last { "NHWC" } else { "NCHW" }.to_owned();
        result.height = *height as u32;
        result.width = *width as u32;
        result.channels = *channels as u32;
    } else if args.data.is_some() {
        return Err("--data needs a model with one image input [N, C, H, W] or [N, H, W, C]".into());
    }
    for (option, values) in [("--mean", &result.mean), ("--std", &result.std)] {
        let fits = values.is_empty() || values.len() == 1 || values.len() == result.channels as usize;
        if !fits {
            return Err(format!("{option}: {} values for {} channels", values.len(), result.channels).into());
        }
    }
    if result.std.iter().any(|&std| std <= 0.0) {
        return Err("--std: values must be positive".into());
    }
    Ok(result)
}

/// Samples for a pass that `mxc opt` runs with `data=PATH`; pixels are scaled to 0..1.
pub fn requested_samples(request: &SampleRequest, global: &Global) -> Result<Option<Samples>, String> {
    let Some(path) = &request.data else {
        return Ok(None);
    };
    let [shape] = request.shapes.as_slice() else {
        return Err("data= needs a network with one input".into());
    };
    let [a, b, c] = shape[..] else {
        return Err("data= needs an image input".into());
    };
    // Few channels tell the layout; a network read from MLIR records none.
    let (layout, height, width, channels) = if a <= 4 { ("NCHW", b, c, a) } else { ("NHWC", a, b, c) };
    let preprocessing = Preprocessing {
        layout: layout.to_owned(),
        height: height as u32,
        width: width as u32,
        channels: channels as u32,
        ..Preprocessing::default()
    };
    let source = sample_source(path, 0, &preprocessing, global.threads, SkipBad::new(false, global))
        .map_err(|error| error.to_string())?;
    source(request)
}

/// The options that shaped a package: what `inspect` shows.
fn recorded_options(args: &CompileArgs, options: &CompileOptions) -> Vec<String> {
    let mut recorded = vec![
        format!("budget={}%", session::percent(options.budget)),
        format!("noise={}", options.noise),
        format!("noise-scale={}", options.noise_scale),
        format!("noise-reference={}", options.noise_reference),
        format!("placement={}", options.placement),
        format!("denoiser={}", options.denoiser),
        format!("samples={}", options.samples),
        format!("seed={}", options.seed),
        format!("holdout={}", args.holdout),
    ];
    if !options.keep_digital.is_empty() {
        recorded.push(format!("keep-digital={}", options.keep_digital.join(",")));
    }
    recorded
}

/// The denoisers' share of the backbone's parameters, in percent.
fn overhead(placement: &package::Placement) -> f64 {
    100.0 * placement.denoiser_parameters as f64 / placement.backbone_parameters.max(1) as f64
}

/// The object of `compile --json`.
fn report(placement: &package::Placement, skipped: Option<usize>) -> serde_json::Value {
    let layers: Vec<_> = placement
        .layers
        .iter()
        .map(|layer| {
            serde_json::json!({
                "name": layer.name,
                "channels": layer.channels,
                "reference": layer.reference,
                "gradient_norm": layer.gradient_norm,
                "rank": layer.rank,
                "denoisers": layer.denoisers,
                "denoiser_parameters": layer.denoiser_parameters,
                "chosen": layer.chosen,
                "reason": layer.reason,
            })
        })
        .collect();
    let mut report = serde_json::json!({
        "parameters": {
            "backbone": placement.backbone_parameters,
            "denoisers": placement.denoiser_parameters,
            "overhead_percent": overhead(placement),
        },
        "layers": layers,
    });
    if let Some(skipped) = skipped {
        report["skipped"] = skipped.into();
    }
    report
}

/// The table that `compile` and `inspect` print: every analog layer by rank.
pub fn layer_table(placement: &package::Placement) -> comfy_table::Table {
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
