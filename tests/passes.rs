//! Every pass on small inputs, whose first line is the pipeline. What `ir/*.mlir` becomes lies in `snapshots/`; in
//! `ir/errors/*.mlir` the expected errors stand beside the lines that cause them:
//!
//! ```mlir
//! // expected-error@below {{layer "fc" has no rank help: run rank-sensitivity}}
//! %1 = "analog.fully_connected"(…)
//! ```
//!
//! `@above`, `@+2` and `@-2` name other lines, nothing the comment's own, `@unknown` that the error has none. The text is a part
//! of the message with its hints, with single spaces for line breaks.

use mxc_compiler::{
    opt::{self, OptError, OptOptions},
    pass::{PassContext, Pipeline, RunError, RunOptions, SampleRequest, Samples},
    passes::REGISTRY,
};
use mxc_runtime::{
    exec::{Batch, Executor, Key, Mode, Purpose},
    store::{Weight, WeightStore},
};
use std::{cell::RefCell, fs, path::PathBuf, rc::Rc};

/// The input files of passes that succeed, and of errors.
pub fn inputs(folder: &str) -> Vec<(String, PathBuf)> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<_> = fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "mlir"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// The first line's flags: the pipeline, and what is made up: `weights` or `data`.
fn flags(text: &str) -> (String, Option<&str>) {
    let line = text.lines().next().unwrap();
    let flags = line.strip_prefix("// RUN: mxc opt --pass-pipeline=").expect("a RUN line");
    match flags.split_once(" --").and_then(|(pipeline, flag)| Some((pipeline, flag.strip_suffix("=generated")?))) {
        Some((pipeline, what)) => (pipeline.to_owned(), Some(what)),
        None => (flags.to_owned(), None),
    }
}

/// Samples for a network, of numbers without order from −1 to 1.
fn generated_samples(request: &SampleRequest) -> Samples {
    let count = request.count.unwrap_or(32);
    let number = |index: usize| ((index * 7919 + 13) % 2003) as f32 / 1001.0 - 1.0;
    let inputs = request.shapes.iter().map(|shape| (0..shape.iter().product::<usize>() * count).map(number).collect());
    Samples { inputs: inputs.collect(), labels: None, indices: (0..count as u64).collect() }
}

/// Weights for every external global, 0, 0.5, 1, 1.5, ….
pub fn generated(source: &[u8]) -> WeightStore {
    let context = mxc_dialects::new_context();
    let module = mxc_dialects::ir::parse(&context, source, "weights").unwrap();
    let mut store = WeightStore::new();
    for (name, global) in mxc_dialects::ir::globals(&module) {
        let r#type = mxc_dialects::ir::type_attr(&global, "type").unwrap();
        let shape = mxc_dialects::ir::tensor_shape(r#type).unwrap();
        let shape: Vec<usize> = shape.into_iter().map(Option::unwrap).collect();
        let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32 / 2.0).collect();
        store.insert(name, Weight::new(shape, values).unwrap());
    }
    store
}

/// What a pipeline makes of a module.
pub struct Transformed {
    pub ir: String,
    pub warnings: Vec<String>,
    pub weights: WeightStore,
    pub denoisers: WeightStore,
    /// The samples that passes were given, each time the same ones.
    pub samples: Option<(SampleRequest, Samples)>,
}

impl Transformed {
    /// As snapshots hold it: the IR, warnings, and what is in the weight stores.
    pub fn text(&self) -> String {
        let mut text = self.ir.clone();
        for warning in &self.warnings {
            text.push_str(&format!("// warning: {warning}\n"));
        }
        for (name, weight) in self.weights.iter() {
            text.push_str(&format!("// weight @{name} = {:?}\n", weight.values()));
        }
        for (name, weight) in self.denoisers.iter() {
            text.push_str(&format!("// denoiser @{name} {:?}", weight.shape()));
            if self.samples.is_some() {
                text.push_str(&format!(" {:.2?}", weight.values()));
            }
            text.push('\n');
        }
        text
    }
}

/// A case of a file: a module, the pipeline of the file's first line, and what is made up for it: `weights` or `data`.
pub struct Case<'a> {
    /// The module, as deep in its text as it is in the file.
    pub part: Vec<u8>,
    pub pipeline: Pipeline,
    pub made_up: Option<&'a str>,
}

/// The cases of a file.
pub fn cases(text: &str) -> Vec<Case<'_>> {
    let (pipeline, made_up) = flags(text);
    let pipeline = Pipeline::parse(&REGISTRY, &pipeline).unwrap_or_else(|error| panic!("{error}"));
    opt::split(text).into_iter().map(|part| Case { part, pipeline: pipeline.clone(), made_up }).collect()
}

impl Case<'_> {
    /// The case through its pipeline.
    pub fn transformed(&self) -> Result<Transformed, OptError> {
        let given = Rc::new(RefCell::new(None));
        let mut cx =
            PassContext { threads: 1, weight_loader: Some(Box::new(opt::load_weights)), ..PassContext::default() };
        match self.made_up {
            None => {}
            Some("weights") => cx.weights = generated(&self.part),
            Some("data") => {
                let given = given.clone();
                cx.samples = Some(Box::new(move |request| {
                    let samples = generated_samples(request);
                    *given.borrow_mut() = Some((request.clone(), samples.clone()));
                    Ok(Some(samples))
                }));
            }
            Some(other) => panic!("--{other}=generated"),
        }
        // Else the pass `verify` would never see invalid IR.
        let verify_each = self.pipeline.steps.first().is_none_or(|step| step.name != "verify");
        let options = RunOptions { verify_each, ..RunOptions::default() };
        let ir = opt::transform(&self.part, "input.mlir", &self.pipeline, &mut cx, &options)?;
        let samples = given.take();
        Ok(Transformed { ir, warnings: cx.warnings, weights: cx.weights, denoisers: cx.denoisers, samples })
    }
}

/// Every part of a file through its pipeline.
pub fn transformed(text: &str) -> Vec<Result<Transformed, OptError>> {
    cases(text).iter().map(Case::transformed).collect()
}

/// Measured values depend on the instruction set in their last digits.
pub fn rounded(text: &str) -> String {
    let number = regex::Regex::new(r"\d\.\d{6,}(E[+-]\d+|e[+-]\d+)? : f64").unwrap();
    number
        .replace_all(text, |found: &regex::Captures<'_>| {
            let value: f64 = found[0].trim_end_matches(" : f64").parse().unwrap();
            format!("{value:.3e} : f64")
        })
        .into_owned()
}

#[test]
fn every_input_has_its_snapshot() {
    for (name, path) in inputs("ir") {
        let text = fs::read_to_string(&path).unwrap();
        let part = |part: Result<Transformed, _>| part.unwrap_or_else(|error| panic!("{name}: {error}")).text();
        let parts = transformed(&text).into_iter().map(part);
        let output = parts.collect::<Vec<_>>().join("// -----\n");
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, rounded(&output));
        });
    }
}

/// An error as a test sees it: its line in the file, if it has one, and its text.
#[derive(Debug)]
pub struct Seen {
    pub line: Option<usize>,
    pub text: String,
}

/// The errors that a failure consists of.
fn seen(error: &OptError) -> Vec<Seen> {
    let place = regex::Regex::new(r#"":(\d+):\d+"#).unwrap();
    let seen = |location: &Option<String>, text: String| {
        let found = place.captures(location.as_ref().unwrap_or(&text)).map(|found| found[1].parse().unwrap());
        Seen { line: found, text: text.split_whitespace().collect::<Vec<_>>().join(" ") }
    };
    let found = match error {
        OptError::Run { error: RunError::Pass { error, .. }, .. } if error.found.is_empty() => {
            let help = error.hint.iter().map(|hint| format!("\nhelp: {hint}"));
            return vec![seen(&error.location, error.message.clone() + &help.collect::<String>())];
        }
        OptError::Run { error: RunError::Pass { error, .. }, .. } => &error.found,
        OptError::Run { error: RunError::Input(found) | RunError::Verify { found, .. }, .. } => found,
        other => return vec![seen(&None, other.to_string())],
    };
    found.iter().map(|diagnostic| seen(&diagnostic.location, diagnostic.message.clone())).collect()
}

/// The errors that a part's comments announce: the line, none for `@unknown`, and some of the text.
pub fn expected(part: &str) -> Vec<Seen> {
    let comment = regex::Regex::new(r"expected-error(?:@(above|below|unknown|[+-]\d+))? \{\{(.*?)\}\}").unwrap();
    let mut found = Vec::new();
    for (line, text) in (1usize..).zip(part.lines()) {
        let comments: Vec<_> = comment.captures_iter(text).collect();
        assert_eq!(comments.len(), text.matches("expected-error").count(), "line {line} is no expected-error: {text}");
        for comment in comments {
            let line = match comment.get(1).map(|place| place.as_str()) {
                None => Some(line),
                Some("unknown") => None,
                Some("above") => Some(line - 1),
                Some("below") => Some(line + 1),
                Some(offset) => line.checked_add_signed(offset.parse().unwrap()),
            };
            found.push(Seen { line, text: comment[2].to_owned() });
        }
    }
    found
}

#[test]
fn errors_are_where_they_are_expected() {
    for (name, path) in inputs("ir/errors") {
        let text = fs::read_to_string(&path).unwrap();
        for (part, result) in opt::split(&text).iter().zip(transformed(&text)) {
            let part = String::from_utf8_lossy(part);
            let about = part.trim_start().lines().find(|line| !line.starts_with("// RUN")).unwrap_or_default();
            let mut seen = result.err().as_ref().map(seen).unwrap_or_default();
            let expected = expected(&part);
            assert!(!expected.is_empty(), "{name}: {about}: nothing is expected");
            for expected in expected {
                let meets = |seen: &Seen| seen.line == expected.line && seen.text.contains(&expected.text);
                let index = seen.iter().position(meets);
                let index = index.unwrap_or_else(|| panic!("{name}: {about}: no {expected:?} among {seen:#?}"));
                seen.remove(index);
            }
            assert!(seen.is_empty(), "{name}: {about}: not expected: {seen:#?}");
        }
    }
}

/// A new pass cannot be forgotten.
#[test]
fn every_pass_has_an_input() {
    let pipelines: Vec<Pipeline> = inputs("ir")
        .into_iter()
        .map(|(_, path)| Pipeline::parse(&REGISTRY, &flags(&fs::read_to_string(path).unwrap()).0).unwrap())
        .collect();
    for pass in REGISTRY.passes {
        let run = pipelines.iter().any(|pipeline| pipeline.steps.iter().any(|step| step.name == pass.name));
        assert!(run, "no input in tests/ir runs {}", pass.name);
    }
}

#[test]
fn malformed_pipelines_are_refused() {
    let pipelines = [
        "canonicalise-graph",
        "no-such-pass-at-all",
        "",
        "map-to-analog,",
        "map-to-analog{keep-digital}",
        "map-to-analog{keep-digital=a",
        "map-to-analog{keep=a}",
        "map-to-analog{keep-digital=[}",
        "annotate-noise{scale=loud}",
        "annotate-noise{spec='}",
        "annotate-noise{spec=gaussian(sigma=x)}",
        "annotate-noise{spec=adc(bits=8)}",
        "insert-denoisers{budget=4}",
        "insert-denoisers{kind=median}",
        "insert-denoisers{placement=greedy at=x}",
        "rank-sensitivity{samples=0}",
        "verify{x=1}",
        "compile{budget=4%}",
        "func.func(map-to-analog)",
        "scf.for(cse)",
        "builtin.module(cse",
        "builtin.module(cse)) ",
        "cse{x=1}",
    ];
    let messages: Vec<String> = pipelines
        .iter()
        .map(|pipeline| match Pipeline::parse(&REGISTRY, pipeline) {
            Ok(_) => format!("{pipeline}: accepted"),
            Err(error) => error.to_string(),
        })
        .collect();
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("errors-pipelines", messages.join("\n"));
    });
}

#[test]
fn pipelines_round_trip() {
    let text = "builtin.module(canonicalize-graph,annotate-noise{spec='gaussian(sigma=4%) + gaussian(sigma=1%)' layer:fc*=gaussian(sigma=2%,lifetime=chip)},func.func(cse))";
    let pipeline = Pipeline::parse(&REGISTRY, text).unwrap();
    assert_eq!(pipeline.to_string(), text);
    assert_eq!(Pipeline::parse(&REGISTRY, &pipeline.to_string()).unwrap().steps, pipeline.steps);
    let alias = Pipeline::parse(&REGISTRY, "compile").unwrap();
    assert_eq!(alias.steps.len(), 7);
}

#[test]
fn every_alias_and_pass_is_described() {
    for pass in REGISTRY.passes {
        assert!(!pass.description.is_empty());
        assert!(Pipeline::parse(&REGISTRY, pass.name).is_ok(), "{}", pass.name);
    }
    for alias in REGISTRY.aliases {
        assert!(Pipeline::parse(&REGISTRY, alias.name).is_ok(), "{}", alias.name);
    }
    assert!(REGISTRY.help().contains("canonicalize-graph"));
}

#[test]
fn passes_are_deterministic() {
    for (name, path) in inputs("ir") {
        let text = fs::read_to_string(&path).unwrap();
        let run = || transformed(&text).into_iter().map(|part| part.unwrap().text()).collect::<Vec<_>>();
        assert_eq!(run(), run(), "{name}");
    }
}

/// The outputs of a graph for three samples of fixed inputs.
fn outputs(text: &str, weights: &WeightStore) -> Vec<Vec<f32>> {
    let context = mxc_dialects::new_context();
    let module = mxc_dialects::ir::parse(&context, text.as_bytes(), "graph.mlir").unwrap();
    let program = mxc_compiler::load::program(&module, weights).unwrap();
    let inputs: Vec<Vec<f32>> = program
        .inputs()
        .iter()
        .map(|input| {
            let elements: usize = program.values()[*input].shape.iter().skip(1).map(|size| size.unwrap()).product();
            (0..3 * elements).map(|i| ((i * 37 + 11) % 23) as f32 / 7.0 - 1.5).collect()
        })
        .collect();
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let executor = Executor::new(program, 1).unwrap();
    let batch = Batch { inputs: &inputs, samples: &[0, 1, 2] };
    let key = Key { seed: 0, purpose: Purpose::Eval, pass: 0, chip: 0 };
    executor.forward(batch, Mode::CLEAN, key).unwrap()
}

#[test]
fn rewritten_graphs_compute_the_same() {
    for file in ["canonicalize-graph", "canonicalize-graph-weights", "map-to-analog"] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("ir/{file}.mlir"));
        let text = fs::read_to_string(path).unwrap();
        for part in opt::split(&text) {
            // A product of two activations with the batch in both is beyond the executor.
            let before = String::from_utf8(part.clone()).unwrap();
            if before.contains("attention") {
                continue;
            }
            let pipeline = Pipeline::parse(&REGISTRY, "canonicalize-graph,map-to-analog").unwrap();
            let weights = generated(&part);
            let mut cx = PassContext::with_weights(weights.clone());
            let after = opt::transform(&part, "input.mlir", &pipeline, &mut cx, &RunOptions::default()).unwrap();
            let (expected, found) = (outputs(&before, &weights), outputs(&after, &cx.weights));
            assert_eq!(expected.len(), found.len());
            for (expected, found) in expected.iter().flatten().zip(found.iter().flatten()) {
                let tolerance = 1e-5 * expected.abs().max(1.0);
                assert!((expected - found).abs() <= tolerance, "{expected} is now {found}: {file}\n{after}");
            }
        }
    }
}

#[test]
fn canonical_graphs_stay_as_they_are() {
    for file in ["canonicalize-graph", "canonicalize-graph-weights"] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("ir/{file}.mlir"));
        let text = fs::read_to_string(path).unwrap();
        for part in opt::split(&text) {
            let pipeline = Pipeline::parse(&REGISTRY, "canonicalize-graph").unwrap();
            let mut cx = PassContext::with_weights(generated(&part));
            let run = |source: &[u8], cx: &mut PassContext| {
                opt::transform(source, "input.mlir", &pipeline, cx, &RunOptions::default()).unwrap()
            };
            // Names of values and of layers without a location come from the text.
            let once = run(&part, &mut cx);
            let before: Vec<String> = cx.weights.iter().map(|(name, w)| format!("{name} {:?}", w.values())).collect();
            let twice = run(once.as_bytes(), &mut cx);
            assert_eq!(once.matches("tosa.").count(), twice.matches("tosa.").count(), "{once}\n{twice}");
            assert_eq!(before.len(), cx.weights.len());
        }
    }
}

#[test]
fn a_failing_pipeline_leaves_a_reproducer_that_replays() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input.mlir");
    let reproducer = folder.path().join("reproducer.mlir");
    let text = fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("ir/errors/insert-denoisers.mlir"));
    let first = opt::split(&text.unwrap()).remove(0);
    fs::write(&input, first).unwrap();
    let error = opt::run(OptOptions {
        input,
        pipeline: Some("verify,insert-denoisers{kind=mean}".to_owned()),
        reproducer: Some(reproducer.clone()),
        ..OptOptions::default()
    })
    .unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("has no rank"), "{error}");
    let left = fs::read_to_string(&reproducer).unwrap();
    let line = "// mxc opt --pass-pipeline='builtin.module(verify,insert-denoisers{kind=mean})'";
    assert_eq!(left.lines().next(), Some(line));
    let replayed = opt::run(OptOptions { input: reproducer, run_reproducer: true, ..OptOptions::default() });
    let replayed = replayed.unwrap_err();
    assert!(matches!(replayed, OptError::Run { .. }));
    assert!(replayed.to_string().starts_with("insert-denoisers: layer \"fc\" has no rank"), "{replayed}");
}

#[test]
fn opt_reads_and_writes_files() {
    let folder = tempfile::tempdir().unwrap();
    let input = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("ir/map-to-analog.mlir");
    let output = folder.path().join("out.mlir");
    let warnings = opt::run(OptOptions {
        input: input.clone(),
        output: Some(output.clone()),
        pipeline: Some("map-to-analog{keep-digital=keep*}".to_owned()),
        split_input_file: true,
        verify_each: true,
        ..OptOptions::default()
    });
    // The second module has no layer of that name.
    assert_eq!(warnings.unwrap().len(), 1);
    let text = fs::read_to_string(&output).unwrap();
    assert_eq!(opt::split(&text).len(), 2);
    assert!(text.contains("analog.depthwise_conv2d"));

    let missing = opt::run(OptOptions { input: folder.path().join("none.mlir"), ..OptOptions::default() });
    assert!(matches!(missing, Err(OptError::File { .. })));
    let usage =
        opt::run(OptOptions { input: input.clone(), pipeline: Some("nothing".to_owned()), ..OptOptions::default() });
    assert_eq!(usage.unwrap_err().exit_code(), 2);
    let no_reproducer = opt::run(OptOptions { input, run_reproducer: true, ..OptOptions::default() });
    assert_eq!(no_reproducer.unwrap_err().exit_code(), 2);
}
