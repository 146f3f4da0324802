//! The passes as a plugin of Debian's `mlir-opt`, which is a program of its own with MLIR in shared libraries.

use crate::{
    common::{model, mxc, root, succeed},
    passes::{self, Case, Seen},
};
use mxc_compiler::{
    pass::{OptionError, Options, Pass, PassContext, PassError, PassInfo, family, pipeline::Step, run},
    passes::REGISTRY,
};
use mxc_dialects::{erase::ModuleMut, ir};
use mxc_runtime::store::WeightStore;
use ndarray::{ArrayD, IxDyn};
use ndarray_npy::NpzWriter;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};
use tempfile::TempDir;

/// Runs a target of the Makefile whose result lies in the shared build's folder under this name. The machine is set up: tests run.
fn make(target: &[&str], file: &str) -> PathBuf {
    let mut command = Command::new("make");
    command.args(["--silent", "--directory"]).arg(root()).args(["-o", "setup"]).args(target);
    // Of a `make test` that this may run under, and of the cargo that runs this.
    for name in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MLIR_SYS_LINK_SHARED"] {
        command.env_remove(name);
    }
    succeed(&mut command);
    shared().join(file)
}

/// Where what shares MLIR is built.
fn shared() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |path| root().join(path));
    target.join("shared/release")
}

/// The plugin, built if it is not up to date.
pub fn plugin() -> &'static Path {
    static PLUGIN: OnceLock<PathBuf> = OnceLock::new();
    PLUGIN.get_or_init(|| make(&["plugin"], "libmxc_passes.so"))
}

/// The stock tool with the plugin, in a folder that has the dialects' file.
struct Host {
    folder: TempDir,
}

impl Host {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("mxc.irdl.mlir"), mxc_dialects::irdl_source()).unwrap();
        Self { folder }
    }

    /// Runs passes, given as text, on a module; paths are relative to the folder of the tests, as for `mxc opt`.
    fn run(&self, passes: &str, module: &[u8]) -> Output {
        let input = self.folder.path().join("input.mlir");
        fs::write(&input, module).unwrap();
        let mut command = self.command(passes);
        command.arg(format!("--irdl-file={}", self.folder.path().join("mxc.irdl.mlir").display())).arg(&input);
        command.output().unwrap()
    }

    fn command(&self, passes: &str) -> Command {
        let mut command = Command::new("mlir-opt-22");
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .arg(format!("--load-pass-plugin={}", plugin().display()))
            .arg(format!("--pass-pipeline=builtin.module({passes})"));
        command
    }
}

/// A step as MLIR takes it: a family of options is one list.
fn mlir_text(step: &Step) -> String {
    let mut single = Options::default();
    let mut lists: Vec<(String, Vec<String>)> = Vec::new();
    for (key, value) in step.options.iter() {
        match family(key) {
            None => single.push(key, value),
            Some(prefix) => {
                let (list, member) = (prefix.trim_end_matches(':'), &key[prefix.len()..]);
                let element = format!("{member}='{value}'");
                match lists.iter_mut().find(|(name, _)| name == list) {
                    Some((_, elements)) => elements.push(element),
                    None => lists.push((list.to_owned(), vec![element])),
                }
            }
        }
    }
    for (list, elements) in lists {
        single.push(list, format!("{{{}}}", elements.join(",")));
    }
    // MLIR takes braces for quotes.
    Step { options: single, ..step.clone() }.to_string().replace("\"{", "{").replace("}\"", "}")
}

/// The case's pipeline for the stock tool, with files for what is made up.
fn pipeline(case: &Case<'_>, folder: &Path, samples: Option<&Path>) -> String {
    let mut steps = case.pipeline.steps.clone();
    for step in &mut steps {
        let takes_data =
            REGISTRY.find(&step.name).is_some_and(|info| info.options.iter().any(|(key, _)| *key == "data"));
        if let Some(samples) = samples.filter(|_| takes_data) {
            step.options.push("data", samples.display().to_string());
        }
    }
    let mut texts: Vec<String> = steps.iter().map(mlir_text).collect();
    if case.made_up == Some("weights") {
        let path = folder.join("weights.safetensors");
        fs::write(&path, passes::generated(&case.part).to_safetensors()).unwrap();
        texts.insert(0, format!("load-weights{{from={}}}", path.display()));
    }
    texts.push(format!("save-weights{{to={}}}", folder.join("saved.safetensors").display()));
    texts.join(",")
}

/// A module's text as mxc prints it: the tool's own choices of how to print do not matter.
fn printed(text: &str) -> String {
    let context = mxc_dialects::new_context();
    let module = ir::parse(&context, text.as_bytes(), "printed").unwrap_or_else(|error| panic!("{error}\n{text}"));
    run::print_module(&module, false)
}

fn values(store: &WeightStore) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    store.iter().map(|(name, weight)| (name.to_owned(), weight.shape().to_vec(), weight.values().to_vec())).collect()
}

/// What `mxc opt` makes of every input, the IR, weights and warnings, is what the stock tool makes of it with the plugin.
#[test]
fn the_stock_tool_runs_every_pass() {
    let host = Host::new();
    let folder = host.folder.path();
    for (name, path) in passes::inputs("ir") {
        let text = fs::read_to_string(&path).unwrap();
        for case in passes::cases(&text) {
            let expected = case.transformed().unwrap_or_else(|error| panic!("{name}: {error}"));
            let samples = expected.samples.as_ref().map(|(request, samples)| {
                let path = folder.join("samples.npz");
                let shape = [&[samples.indices.len()], &request.shapes[0][..]].concat();
                let x = ArrayD::from_shape_vec(IxDyn(&shape), samples.inputs[0].clone()).unwrap();
                let mut npz = NpzWriter::new(File::create(&path).unwrap());
                npz.add_array("x", &x).unwrap();
                npz.finish().unwrap();
                path
            });
            let passes = pipeline(&case, folder, samples.as_deref());
            let output = host.run(&passes, &case.part);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}: {passes}\n{said}");
            let ir = String::from_utf8(output.stdout).unwrap();
            assert_eq!(passes::rounded(&printed(&ir)), passes::rounded(&printed(&expected.ir)), "{name}: {passes}");
            let saved = WeightStore::open_safetensors(&folder.join("saved.safetensors")).unwrap();
            assert_eq!(values(&saved), values(&expected.weights.union(&expected.denoisers)), "{name}: {passes}");
            let warnings: Vec<&str> = said.lines().filter_map(|line| Some(line.split_once("warning: ")?.1)).collect();
            assert_eq!(warnings, expected.warnings, "{name}: {passes}");
        }
    }
}

/// The errors that the tool said, each with its help.
fn seen(said: &str) -> Vec<Seen> {
    let header = regex::Regex::new(r"^(.*?): (error|warning|note): (.*)$").unwrap();
    let place = regex::Regex::new(r":(\d+):\d+").unwrap();
    let mut seen: Vec<Seen> = Vec::new();
    // Below each, unless there is none, the line of the source and a mark under it.
    let lines: Vec<&str> = said.lines().collect();
    let is_excerpt = |index: usize| {
        let is_mark = |line: &&str| line.contains('^') && line.chars().all(|c| c == ' ' || c == '^');
        lines.get(index).is_some_and(is_mark) || lines.get(index + 1).is_some_and(is_mark)
    };
    for (index, line) in lines.iter().enumerate() {
        match (header.captures(line), seen.last_mut()) {
            (Some(found), last) if &found[2] == "note" => {
                if let Some(last) = last {
                    last.text.push_str(&format!(" {}", &found[3]));
                }
            }
            (Some(found), _) => {
                let line = place.captures(&found[1]).map(|found| found[1].parse().unwrap());
                seen.push(Seen { line, text: found[3].to_owned() });
            }
            (None, Some(last)) if !is_excerpt(index) => last.text.push_str(&format!(" {}", line.trim())),
            (None, _) => {}
        }
    }
    for Seen { text, .. } in &mut seen {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    seen
}

/// What passes and the verifier refuse is a diagnostic at its operation, by the comments that `mxc opt` is tested with.
#[test]
fn errors_are_diagnostics_of_the_stock_tool() {
    let host = Host::new();
    for (name, path) in passes::inputs("ir/errors") {
        let text = fs::read_to_string(&path).unwrap();
        for case in passes::cases(&text) {
            let steps: Vec<String> = case.pipeline.steps.iter().map(mlir_text).collect();
            // As `mxc opt` does before the first pass, and after each.
            let passes = format!("verify,{}", steps.join(",verify,"));
            let part = String::from_utf8_lossy(&case.part);
            // The tool would look for the comments itself.
            let output = host.run(&passes, part.replace("expected-error", "expected").as_bytes());
            let said = String::from_utf8_lossy(&output.stderr);
            let about = part.trim_start().lines().find(|line| !line.starts_with("// RUN")).unwrap_or_default();
            assert_eq!(output.status.code(), Some(1), "{name}: {about}\n{said}");
            let mut seen = seen(&said);
            for expected in passes::expected(&part) {
                // What is about no operation is about the module.
                let meets = |seen: &Seen| {
                    (expected.line.is_none() || seen.line == expected.line) && seen.text.contains(&expected.text)
                };
                let index = seen.iter().position(meets);
                let index = index.unwrap_or_else(|| panic!("{name}: {about}: no {expected:?} among {seen:#?}\n{said}"));
                seen.remove(index);
            }
            assert!(seen.is_empty(), "{name}: {about}: not expected: {seen:#?}");
        }
    }
}

const NETWORK: &[u8] =
    b"func.func @main(%x: tensor<?x4xf32> loc(unknown)) -> tensor<?x4xf32> { return %x : tensor<?x4xf32> }\n";

#[test]
fn options_are_those_of_mxc_opt() {
    let host = Host::new();
    let refused = |passes: &str, expected: &str| {
        let output = host.run(passes, NETWORK);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{passes}: {said}");
    };
    refused("verify{x=1}", "no such option x");
    refused("rank-sensitivity{samples=0}", "option samples=0: at least 1 expected");
    refused("annotate-noise{layer=fc}", "{GLOB=VALUE,…} expected");
    refused("annotate-noise{layer=fc*='gaussian(sigma=x)'}", "layer:fc*");
    refused("compile{budget=4%}", "give the options to its passes");
    refused("func.func(verify)", "unable to schedule");
    refused("load-weights{from=none.safetensors}", "none.safetensors");
    // What was read is not written over, else it would be lost to what still maps it.
    let weights = host.folder.path().join("weights.safetensors");
    fs::write(&weights, WeightStore::new().to_safetensors()).unwrap();
    let weights = weights.display();
    refused(&format!("load-weights{{from={weights}}},save-weights{{to={weights}}}"), "never replaces an input");
    // The tool prints what it has read.
    let dumped =
        host.command("compile,annotate-noise{layer={a*='gaussian(sigma=1%, lifetime=chip)',b=ideal} scale=signal}");
    let dumped = { dumped }.arg("--dump-pass-pipeline").arg("/dev/null").output().unwrap();
    let said = String::from_utf8_lossy(&dumped.stderr);
    for part in ["canonicalize-graph{", "insert-denoisers{", "scale=signal", "lifetime=chip"] {
        assert!(said.contains(part), "{said}");
    }
    // It prints those that are not given, too, which its reproducers hold.
    let replayed =
        host.run("canonicalize-graph{iterations= nodes=},rank-sensitivity{samples= seed= data= weights=}", NETWORK);
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    // Without the dialects' file.
    let input = host.folder.path().join("network.mlir");
    fs::write(&input, NETWORK).unwrap();
    let output = host.command("verify").arg(&input).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("are not loaded") && said.contains("mxc opt --show-irdl"), "{said}");
}

/// A host of another LLVM gets one sentence and no passes.
#[test]
fn another_llvm_is_refused_in_a_sentence() {
    assert_eq!(mxc_passes::refusal(Some((22, 1)), (22, 1)), None);
    for host in [Some((22, 0)), Some((21, 1)), Some((23, 1)), None] {
        let sentence = mxc_passes::refusal(host, (22, 1)).unwrap();
        assert!(sentence.contains("built for LLVM 22.1") && !sentence.contains('\n'), "{sentence}");
    }
    let folder = TempDir::new().unwrap();
    let (source, host) = (folder.path().join("host.c"), folder.path().join("host"));
    // What PassPlugin::load does, in a program whose LLVM is what it says.
    let text = r#"
        #include <dlfcn.h>
        #include <stdio.h>
        void LLVMGetVersion(unsigned *major, unsigned *minor, unsigned *patch) { *major = VERSION; *minor = 1; *patch = 0; }
        typedef struct { unsigned api; const char *name, *version; void (*enroll)(void); } Info;
        int main(int count, char **arguments) {
          void *plugin = dlopen(arguments[1], RTLD_LAZY | RTLD_GLOBAL);
          if (!plugin) { puts(dlerror()); return 2; }
          Info info = ((Info (*)(void))dlsym(plugin, "mlirGetPassPluginInfo"))();
          printf("%u %s %s\n", info.api, info.name, info.enroll ? "passes" : "nothing");
        }"#;
    fs::write(&source, text).unwrap();
    for (version, gives, says) in [("22", "1 mxc passes\n", ""), ("23", "1 mxc nothing\n", "has LLVM 23.1")] {
        let mut compiler = Command::new("clang-22");
        compiler.arg(format!("-DVERSION={version}")).args(["-rdynamic", "-o"]).arg(&host).arg(&source);
        succeed(&mut compiler);
        let output = Command::new(&host).arg(plugin()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), gives, "{said}");
        assert_eq!(said.lines().count(), usize::from(!says.is_empty()), "{said}");
        assert!(said.contains(says), "{said}");
    }
}

struct Panics;

impl Pass for Panics {
    const NAME: &'static str = "panics";
    const DESCRIPTION: &'static str = "panics";

    fn from_options(_: &mut Options) -> Result<Self, OptionError> {
        Ok(Self)
    }

    fn run<'c>(
        &mut self,
        _: &'c melior::Context,
        _: &mut ModuleMut<'c, '_>,
        _: &mut PassContext,
    ) -> Result<(), PassError> {
        panic!("a test's")
    }
}

/// The plugin's passes run in this.
#[test]
fn a_panic_is_an_error() {
    let context = mxc_dialects::new_context();
    let module = ir::parse(&context, NETWORK, "network").unwrap();
    let mut pass = PassInfo::of::<Panics>("").build(&Options::default()).unwrap();
    let result = run::run_guarded(pass.as_mut(), &context, module.as_operation(), &mut PassContext::default());
    assert!(result.unwrap_err().message.contains("panicked"));
}

#[test]
fn the_plugin_is_small_and_exports_one_symbol() {
    let size = fs::metadata(plugin()).unwrap().len();
    assert!(size <= 7_000_000, "{size}");
    let symbols = succeed(Command::new("nm").args(["--dynamic", "--defined-only"]).arg(plugin()));
    let names: Vec<&str> = symbols.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(names, ["mlirGetPassPluginInfo"]);
    // MLIR linked in would register its command line a second time.
    let needed = succeed(Command::new("readelf").arg("--dynamic").arg(plugin()));
    for library in ["[libMLIR.so.22.1]", "[libLLVM.so.22.1]"] {
        assert!(needed.contains(library), "{needed}");
    }
}

/// `make build SHARED=1`: the program with MLIR as a shared library compiles to the same bytes.
#[test]
fn the_program_of_shared_libraries_gives_the_same_bytes() {
    let built = shared().join("mxc");
    if !built.exists() {
        eprintln!("skipped: make build SHARED=1 builds {}", built.display());
        return;
    }
    let program = make(&["build", "SHARED=1"], "mxc");
    let folder = TempDir::new().unwrap();
    let compile = |command: &mut Command, output: &str| {
        command.args(["compile", "--quiet", "--samples", "4", "-o", output]).arg(model("resnet20"));
        succeed(command);
        fs::read(folder.path().join(output)).unwrap()
    };
    let expected = compile(&mut mxc(folder.path()), "static.mxa");
    let found = compile(Command::new(program).current_dir(folder.path()).env_clear(), "shared.mxa");
    assert!(expected == found, "the packages differ");
}
