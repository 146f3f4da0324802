//! `mxc opt`: runs passes by name over MLIR text, as `mlir-opt` does.

use crate::{
    files::{Inputs, ReplacesInput},
    pass::{
        self, PassContext, Pipeline, PipelineError, RunError, RunOptions, SampleSource, WeightLoader,
        run::{Times, print_module, run_pipeline},
    },
    passes::REGISTRY,
};
use mxc_dialects::{ffi, ir};
use mxc_runtime::{package::Package, store::WeightStore};
use std::{
    cell::RefCell,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// The line that separates modules under `--split-input-file`.
const SPLIT_MARK: &str = "// -----";
/// What a reproducer's first line starts with; the pipeline follows.
const REPRODUCER_MARK: &str = "// mxc opt --pass-pipeline=";

/// The streams that `-` and messages stand for; without one, nothing is read and what is written is lost.
#[derive(Default)]
pub struct Streams {
    /// Where the input `-` comes from.
    pub input: Option<Box<dyn Read>>,
    /// Where a result without a file goes. That nobody reads it any more is no error.
    pub output: Option<Box<dyn Write>>,
    /// Where the IR of [`OptOptions::print_ir_after_all`] and the times of [`OptOptions::timing`] go.
    pub messages: Option<Box<dyn Write>>,
}

/// What `mxc opt` is asked to do.
#[derive(Default)]
pub struct OptOptions {
    /// What `-` stands for.
    pub streams: Streams,
    /// The input; `-` is the streams'.
    pub input: PathBuf,
    /// The output; `None` and `-` are the streams'.
    pub output: Option<PathBuf>,
    /// The pipeline; `None` runs nothing (parse, verify, print).
    pub pipeline: Option<String>,
    /// The file that holds the values of the module's globals.
    pub weights: Option<PathBuf>,
    /// Where weights that passes changed or added go (safetensors); `None` drops them.
    pub output_weights: Option<PathBuf>,
    /// Print the IR after every pass.
    pub print_ir_after_all: bool,
    /// Run mxc's verifier before the first and after every pass.
    pub verify_each: bool,
    /// Print the time of every pass.
    pub timing: bool,
    /// Take the parts between lines `// -----` as modules of their own.
    pub split_input_file: bool,
    /// Run the pipeline in the input's first line instead.
    pub run_reproducer: bool,
    /// Where a failing pipeline leaves its reproducer; `None` for none.
    pub reproducer: Option<PathBuf>,
    /// Print locations.
    pub print_debuginfo: bool,
    /// The default seed of passes.
    pub seed: u64,
    /// Worker threads of passes that execute the network; 0 is one per core.
    pub threads: usize,
    /// Reads weight files; `None` is [`load_weights`].
    pub weight_loader: Option<WeightLoader>,
    /// Gives calibration samples.
    pub samples: Option<SampleSource>,
}

/// Why `mxc opt` failed. The exit code is 2 for a mistake in how it was called, 1 for anything else.
#[derive(Debug, thiserror::Error)]
pub enum OptError {
    /// The pipeline is malformed.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// Options that contradict each other or the input.
    #[error("{0}")]
    Usage(String),
    /// An output is an input.
    #[error(transparent)]
    Output(#[from] ReplacesInput),
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: String,
        /// The system's message.
        error: io::Error,
    },
    /// A weight file cannot be read.
    #[error("{0}")]
    Weights(String),
    /// The input is no valid MLIR.
    #[error("{0}")]
    Parse(String),
    /// A pass failed; a reproducer may have been left.
    #[error("{error}{}", reproducer.as_ref().map_or(String::new(), |path| format!(
        "\n  reproducer: {path}; replay it with mxc opt --run-reproducer {path}")))]
    Run {
        /// What failed.
        error: RunError,
        /// The reproducer's path.
        reproducer: Option<String>,
    },
}

impl OptError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Pipeline(_) | Self::Usage(_) => 2,
            _ => 1,
        }
    }
}

/// Reads the weights of a safetensors file or of a package (backbone and denoisers), by the file's name.
pub fn load_weights(path: &Path) -> Result<WeightStore, String> {
    let describe = |error: &dyn std::fmt::Display| {
        let text = error.to_string();
        let name = path.display().to_string();
        if text.contains(&name) { text } else { format!("{name}: {text}") }
    };
    if path.extension().is_some_and(|extension| extension == "mxa") {
        return Package::open(path).map(|package| package.weights()).map_err(|error| describe(&error));
    }
    WeightStore::open_safetensors(path).map_err(|error| describe(&error))
}

/// Runs `mxc opt`; warnings of passes are returned, in order.
pub fn run(mut options: OptOptions) -> Result<Vec<String>, OptError> {
    let source = read(&options.input, &mut options.streams)?;
    let text_pipeline = match (options.run_reproducer, &options.pipeline) {
        (true, Some(_)) => {
            return Err(OptError::Usage(
                "--run-reproducer takes the pipeline from the file: leave out --pass-pipeline".to_owned(),
            ));
        }
        (true, None) => Some(reproduced_pipeline(&source, &options.input)?),
        (false, pipeline) => pipeline.clone(),
    };
    let pipeline = match text_pipeline.as_deref() {
        Some(text) if !text.trim().is_empty() => Pipeline::parse(&REGISTRY, text)?,
        _ => Pipeline::new(&REGISTRY),
    };
    check_outputs(&options, &pipeline)?;
    let weights = match (&options.weights, &options.weight_loader) {
        (Some(path), Some(loader)) => loader(path).map_err(OptError::Weights)?,
        (Some(path), None) => load_weights(path).map_err(OptError::Weights)?,
        (None, _) => WeightStore::new(),
    };
    let name = if is_stdio(&options.input) { "<stdin>".to_owned() } else { options.input.display().to_string() };
    let parts = if options.split_input_file { split(&String::from_utf8_lossy(&source)) } else { vec![source] };
    let mut printed = Vec::new();
    let mut cx = PassContext {
        weight_loader: options.weight_loader.take().or_else(|| Some(Box::new(load_weights))),
        samples: options.samples.take(),
        seed: options.seed,
        threads: options.threads,
        ..PassContext::default()
    };
    let mut kept = WeightStore::new();
    let messages = RefCell::new(options.streams.messages.take());
    for part in &parts {
        cx.weights = weights.clone();
        cx.denoisers = WeightStore::new();
        cx.reports = pass::Reports::default();
        printed.push(run_part(part, &name, &pipeline, &mut cx, &options, &messages)?);
        kept = kept.union(&cx.weights).union(&cx.denoisers);
    }
    let text = printed.join(&format!("\n{SPLIT_MARK}\n\n"));
    write(options.output.as_deref(), text.as_bytes(), &mut options.streams)?;
    if let Some(path) = &options.output_weights {
        write(Some(path), &kept.to_safetensors(), &mut options.streams)?;
    }
    Ok(cx.warnings)
}

/// Checks that no output is an input: the module, the weights, what passes' options name.
fn check_outputs(options: &OptOptions, pipeline: &Pipeline) -> Result<(), ReplacesInput> {
    let input = Some(options.input.as_path()).filter(|input| !is_stdio(input));
    let mut inputs = Inputs::default().file("the module", input).file("the weights", options.weights.as_deref());
    for (key, value) in pipeline.steps.iter().flat_map(|step| step.options.iter()) {
        inputs = match key {
            "data" => inputs.data(Some(Path::new(value))),
            "weights" | "from" => inputs.file("the weights", Some(Path::new(value))),
            "hardware" => inputs.file("the hardware profile", Some(Path::new(value))),
            _ => inputs,
        };
    }
    if let Some(output) = options.output.as_deref().filter(|output| !is_stdio(output)) {
        inputs.check("-o", output)?;
    }
    if let Some(output) = &options.output_weights {
        inputs.check("--output-weights", output)?;
    }
    let written = pipeline.steps.iter().flat_map(|step| step.options.iter()).filter(|(key, _)| *key == "to");
    for (_, output) in written {
        inputs.check("save-weights{to=}", Path::new(output))?;
    }
    match &options.reproducer {
        Some(output) if !options.run_reproducer => inputs.check("--reproducer", output),
        _ => Ok(()),
    }
}

/// Runs a pipeline over one module given as text and returns its text; `name` is what diagnostics call it.
pub fn transform(
    source: &[u8],
    name: &str,
    pipeline: &Pipeline,
    cx: &mut PassContext,
    options: &RunOptions<'_>,
) -> Result<String, OptError> {
    let context = mxc_dialects::new_context();
    let mut module = ir::parse(&context, source, name).map_err(OptError::Parse)?;
    run_pipeline(&context, &mut module, pipeline, cx, options)
        .map_err(|error| OptError::Run { error, reproducer: None })?;
    Ok(print_module(&module, false))
}

fn run_part(
    source: &[u8],
    name: &str,
    pipeline: &Pipeline,
    cx: &mut PassContext,
    options: &OptOptions,
    messages: &RefCell<Option<Box<dyn Write>>>,
) -> Result<String, OptError> {
    let say = |text: &str| {
        if let Some(messages) = messages.borrow_mut().as_mut() {
            let _ = messages.write_all(text.as_bytes());
        }
    };
    let context = mxc_dialects::new_context();
    let mut module = ir::parse(&context, source, name).map_err(OptError::Parse)?;
    // Passes change the module before they fail: the reproducer holds what they began with.
    let before = options.reproducer.as_ref().and_then(|_| ffi::clone_module(&module));
    let times = Times::default();
    let run_options = RunOptions {
        verify_each: options.verify_each || cfg!(debug_assertions),
        print_ir_after_all: options.print_ir_after_all,
        timing: Some(&times),
        print: &say,
        ..RunOptions::default()
    };
    let result = run_pipeline(&context, &mut module, pipeline, cx, &run_options);
    if options.timing {
        say(&times.table());
    }
    if let Err(error) = result {
        let reproducer = match (&options.reproducer, before) {
            (Some(path), Some(before)) if !options.run_reproducer => {
                let text = format!("{REPRODUCER_MARK}'{pipeline}'\n{}", print_module(&before, true));
                fs::write(path, text).ok().map(|()| path.display().to_string())
            }
            _ => None,
        };
        return Err(OptError::Run { error, reproducer });
    }
    Ok(print_module(&module, options.print_debuginfo))
}

/// The pipeline in a reproducer's first line.
fn reproduced_pipeline(source: &[u8], path: &Path) -> Result<String, OptError> {
    let text = String::from_utf8_lossy(source);
    text.lines()
        .next()
        .and_then(|line| line.strip_prefix(REPRODUCER_MARK))
        .map(|quoted| {
            let quoted = quoted.trim();
            let plain = quoted.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
            plain.unwrap_or(quoted).to_owned()
        })
        .ok_or_else(|| {
            OptError::Usage(format!("{}: no reproducer: its first line must be {REPRODUCER_MARK}'…'", path.display()))
        })
}

/// The parts of a text between lines that hold only `// -----`; each keeps its line numbers by leading empty lines.
pub fn split(text: &str) -> Vec<Vec<u8>> {
    let mut parts = vec![String::new()];
    for (number, line) in text.lines().enumerate() {
        if line.trim_end() == SPLIT_MARK {
            parts.push("\n".repeat(number + 1));
        } else if let Some(part) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    parts.into_iter().map(String::into_bytes).collect()
}

fn is_stdio(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn read(path: &Path, streams: &mut Streams) -> Result<Vec<u8>, OptError> {
    let result = if is_stdio(path) {
        let mut source = Vec::new();
        streams.input.as_mut().map_or(Ok(0), |input| input.read_to_end(&mut source)).map(|_| source)
    } else {
        fs::read(path)
    };
    result.map_err(|error| OptError::File { path: path.display().to_string(), error })
}

fn write(path: Option<&Path>, bytes: &[u8], streams: &mut Streams) -> Result<(), OptError> {
    match path {
        Some(path) if !is_stdio(path) => {
            fs::write(path, bytes).map_err(|error| OptError::File { path: path.display().to_string(), error })
        }
        _ => match streams.output.as_mut().map_or(Ok(()), |output| output.write_all(bytes)) {
            // `mxc opt … | head` is no error.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|error| OptError::File { path: "<stdout>".to_owned(), error }),
        },
    }
}
