//! What the tests share: the program under test, the example models, small data sets.

use flate2::read::GzDecoder;
use std::{
    env,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The folder of Debian's package `dataset-fashion-mnist`.
pub const FASHION: &str = "/usr/share/datasets/fashion-mnist";

/// The example networks.
pub const MODELS: [&str; 4] = ["resnet20", "mobilenetv2", "densenet", "efficientnet"];

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository exists")
}

/// Where cargo leaves what it builds as it has built these tests: `target/debug`.
pub fn profile() -> PathBuf {
    let tests = env::current_exe().expect("the tests run");
    tests.ancestors().nth(2).expect("the tests lie in a folder of their profile's").to_owned()
}

/// A file that a command of make leaves; none where that has not been run and need not have been.
pub fn built(path: PathBuf, target: &str) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    assert!(env::var_os("MXC_REQUIRE_BUILT").is_none(), "make {target} builds {}", path.display());
    eprintln!("skipped: make {target} builds {}", path.display());
    None
}

/// An example model by name, such as `resnet20`.
pub fn model(name: &str) -> PathBuf {
    root().join(format!("examples/models/{name}.onnx"))
}

/// The mxc program, to be run in `folder` without any of the caller's environment but checks of memory.
pub fn mxc(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mxc-under-test"));
    command.current_dir(folder).env_clear();
    let checks = ["MALLOC_PERTURB_", "ASAN_OPTIONS"];
    command.envs(checks.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

/// As [`mxc`], deaf to no signal: what the tests run under (nohup, a job in the background) may have it ignore some.
pub fn mxc_with_signals(folder: &Path) -> Command {
    let plain = mxc(folder);
    let mut command = Command::new("/usr/bin/env");
    command.arg("--default-signal=HUP,INT,TERM").arg(plain.get_program()).current_dir(folder).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Runs a command that must succeed; returns its stdout.
pub fn succeed(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?} failed with {:?}\n{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("stdout is UTF-8")
}

/// Runs a command that must fail with `code`; returns its stderr.
pub fn fail(command: &mut Command, code: i32) -> String {
    let output = run(command);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{command:?}\n{stderr}");
    stderr
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// A JSON object from a command's stdout.
pub fn json(command: &mut Command) -> serde_json::Value {
    let text = succeed(command);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The first `train` and `test` images of Fashion-MNIST as a folder of plain IDX files in `folder`.
pub fn small_fashion(folder: &Path, train: usize, test: usize) -> PathBuf {
    let target = folder.join("fashion");
    fs::create_dir_all(&target).expect("the folder is writable");
    for (split, count) in [("train", train), ("t10k", test)] {
        for (kind, header, item) in [("images-idx3-ubyte", 16, 28 * 28), ("labels-idx1-ubyte", 8, 1)] {
            let source = Path::new(FASHION).join(format!("{split}-{kind}.gz"));
            let file = File::open(&source)
                .unwrap_or_else(|error| panic!("{}: {error}; run scripts/setup.sh", source.display()));
            let mut bytes = vec![0; header + count * item];
            GzDecoder::new(file).read_exact(&mut bytes).expect("the data set is whole");
            bytes[4..8].copy_from_slice(&(count as u32).to_be_bytes());
            fs::write(target.join(format!("{split}-{kind}")), bytes).expect("the folder is writable");
        }
    }
    target
}

/// The command lines in a page's code blocks that begin with one of `starts`.
pub fn commands(page: &str, starts: &[&str]) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in page.lines() {
        // Also where a file of another format holds it.
        let line = line.trim_start();
        if line.starts_with("```") {
            inside = !inside;
        } else if inside && starts.iter().any(|start| line.starts_with(start)) {
            found.push(line.split("  #").next().unwrap_or(line).trim_end().to_owned());
        }
    }
    found
}

/// The Python that has onnxruntime: `make test` sets it up in `tests/.venv`. `None`, with a note, where it is missing and
/// `MXC_REQUIRE_ONNXRUNTIME` (which `make test` sets) does not forbid that.
pub fn onnxruntime() -> Option<PathBuf> {
    let python = ["tests/.venv/bin/python", "examples/.venv/bin/python"]
        .map(|path| root().join(path))
        .into_iter()
        .find(|path| path.exists());
    if python.is_none() {
        assert!(std::env::var_os("MXC_REQUIRE_ONNXRUNTIME").is_none(), "tests/.venv is missing: run make test");
        eprintln!("skipped: no tests/.venv with onnxruntime; make test sets it up");
    }
    python
}
