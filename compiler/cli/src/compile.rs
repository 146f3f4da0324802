//! `mxc compile`: from a model to a package, or to the MLIR of a level.

use super::{
    Failure, Global,
    args::CompileArgs,
    data::{Location, SkipBad, sample_source},
    session, ui,
};
use melior::ir::{
    BlockLike, ShapedTypeLike, TypeLike, ValueLike,
    operation::{OperationLike, OperationMutLike},
    r#type::RankedTensorType,
};
use mxc_compiler::{
    driver::{self, CompileOptions, Compiled, Level, Record},
    files::Inputs,
    import::{self, Imported, SourceInfo, SourceInput},
    pass::{
        RunOptions, SampleRequest, Samples,
        run::{Times, print_module},
    },
};
use mxc_dialects::{ffi, ir, noise::LayerNoise, share};
use mxc_runtime::{
    files::write_atomically,
    hardware::Hardware,
    package::{self, Preprocessing},
    task::Task,
};
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

pub fn run(args: CompileArgs, global: &Global) -> Result<(), Failure> {
    let output = output(&args)?;
    let spec = session::noise_option(args.sigma, args.noise.as_ref()).unwrap_or(LayerNoise::default().spec);
    let hardware = hardware_profile(args.hardware.as_deref())?;

    let context = mxc_dialects::new_context();
    let (times, start) = (Times::default(), Instant::now());
    let imported = driver::import(&context, &args.model, &args.import.options())?;
    times.add("import", start.elapsed());
    choose_logits(&context, &imported, args.logits.as_deref(), global)?;
    if args.emit.is_none() {
        check_samples(&args.model, &imported.source)?;
    }
    let preprocessing = preprocessing(&args, &imported.source)?;
    let options = CompileOptions {
        budget: args.budget,
        noise: LayerNoise { spec, scale: args.noise_scale, reference: args.noise_reference },
        placement: args.placement.clone(),
        denoiser: args.denoiser.clone(),
        keep_digital: args.keep_digital.clone(),
        seed: global.seed,
        threads: global.threads,
        samples: args.samples.unwrap_or(if args.data.is_some() { 512 } else { 64 }),
        task: Task::default(),
    };
    let level = args.emit.unwrap_or(Level::Denoise);
    let skip = SkipBad::new(args.skip_bad, global);
    let samples = match &args.data {
        Some(path) => {
            let location = Location { path, classes: args.classes.as_deref() };
            Some(sample_source(location, args.holdout, &preprocessing, global.threads, skip.clone())?)
        }
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
        return emit(&context, &mut compiled, level, &args, &hardware, global);
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
        options.noise.spec,
        options.noise.scale,
        options.noise.reference,
    ))
}

fn emit<'c>(
    context: &'c melior::Context,
    compiled: &mut Compiled<'c>,
    level: Level,
    args: &CompileArgs,
    hardware: &str,
    global: &Global,
) -> Result<(), Failure> {
    if level == Level::Dtile {
        let weights = compiled.all_weights();
        let hardware = Hardware::parse(hardware, "the profile")?;
        session::lower_denoisers(context, &mut compiled.module, weights, &hardware, global)?;
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
            .file("the list of classes", args.classes.as_deref())
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

/// Says in the module which output holds the logits: the one named, else the first of floats. Where there is a choice, it is
/// told.
fn choose_logits(
    context: &melior::Context,
    imported: &Imported<'_>,
    wanted: Option<&str>,
    global: &Global,
) -> Result<(), Failure> {
    let names = &imported.source.outputs;
    let listed = || names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    let Some(main) = ir::main_function(&imported.module) else {
        return Ok(());
    };
    let returned = ir::entry_block(main).and_then(|block| block.terminator());
    let is_float = |index: usize| {
        let value = returned.and_then(|returned| returned.operand(index).ok());
        value.and_then(|value| RankedTensorType::try_from(value.r#type()).ok()).is_some_and(|t| t.element().is_f32())
    };
    let chosen = match wanted {
        Some(name) => {
            let index = names.iter().position(|output| output == name);
            let index = index.ok_or_else(|| {
                format!("--logits {name}: the model has no such output; its outputs are {}", listed())
            })?;
            if !is_float(index) {
                return Err(format!("--logits {name}: this output holds integers; logits are floats").into());
            }
            index
        }
        None => (0..names.len()).find(|&index| is_float(index)).unwrap_or(0),
    };
    if wanted.is_none() && names.len() > 1 {
        let taken = &names[chosen];
        global
            .ui
            .note(format!("'{taken}' is taken for the logits among the outputs {}; --logits NAME chooses", listed()));
    }
    if chosen > 0 {
        ffi::as_mut(main).set_attribute(ir::LOGITS_ATTRIBUTE, ir::string(context, &names[chosen]));
    }
    Ok(())
}

/// A package is calibrated, trained and evaluated on samples of floats, or on images as bytes, one at a time.
fn check_samples(model: &Path, source: &SourceInfo) -> Result<(), Failure> {
    let fits = |input: &SourceInput| input.is_float || (input.is_bytes && source.inputs.len() == 1 && is_image(input));
    if let Some(input) = source.inputs.iter().find(|input| !fits(input)) {
        return Err(format!(
            "{}: input '{}' holds integers; compile a network whose inputs are floats, or whose only one is an image of bytes \
             (mxc run executes any)",
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

/// Whether an input may be a batch of images.
fn is_image(input: &SourceInput) -> bool {
    matches!(input.shape.as_slice(), [_, Some(_), Some(_), Some(_)])
}

/// How samples become the model's only input: image bytes if it is an image, else numbers of its shape.
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
    match source.inputs.as_slice() {
        [input] => match input.shape.as_slice() {
            [_, Some(a), Some(b), Some(c)] => {
                // Where no convolution reads the input itself, few channels tell.
                let last = input.channel_axis.map_or(*a > 4 && *c <= 4, |axis| axis == 3);
                let (height, width, channels) = if last { (a, b, c) } else { (b, c, a) };
                result.layout = if last { "NHWC" } else { "NCHW" }.to_owned();
                result.height = *height as u32;
                result.width = *width as u32;
                result.channels = *channels as u32;
                result.bytes = input.is_bytes;
            }
            shape => result.shape = shape.iter().skip(1).map(|size| size.unwrap_or(0) as u64).collect(),
        },
        _ if args.data.is_some() => return Err("--data needs a model with one input".into()),
        _ => {}
    }
    if result.bytes && !(result.mean.is_empty() && result.std.is_empty()) {
        return Err("--mean, --std: the model takes bytes, 0 to 255, and normalises them itself; leave them out".into());
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
    let preprocessing = match shape[..] {
        [a, b, c] => {
            // Few channels tell the layout; a network read from MLIR records none.
            let (layout, height, width, channels) = if a <= 4 { ("NCHW", b, c, a) } else { ("NHWC", a, b, c) };
            Preprocessing {
                layout: layout.to_owned(),
                height: height as u32,
                width: width as u32,
                channels: channels as u32,
                bytes: request.bytes,
                ..Preprocessing::default()
            }
        }
        _ => Preprocessing { shape: shape.iter().map(|&size| size as u64).collect(), ..Preprocessing::default() },
    };
    let source =
        sample_source(Location { path, classes: None }, 0, &preprocessing, global.threads, SkipBad::new(false, global))
            .map_err(|error| error.to_string())?;
    source(request)
}

/// The options that shaped a package: what `inspect` shows.
fn recorded_options(args: &CompileArgs, options: &CompileOptions) -> Vec<String> {
    let mut recorded = vec![
        format!("budget={}", share::show(options.budget)),
        format!("noise={}", options.noise.spec),
        format!("noise-scale={}", options.noise.scale),
        format!("noise-reference={}", options.noise.reference),
        format!("placement={}", options.placement),
        format!("denoiser={}", options.denoiser),
        format!("samples={}", options.samples),
        format!("seed={}", options.seed),
        format!("holdout={}", args.holdout),
    ];
    recorded.extend(args.logits.as_ref().map(|name| format!("logits={name}")));
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
