//! Two ways to run an imported network, and the reference cases that `data/generate.py` wrote: upstream's lowering to LLVM
//! with `mlir-runner`, and mxc's own executor.

use melior::ir::Module;
use mxc_compiler::load;
use mxc_runtime::{
    exec::{Batch, Executor, Key, Mode, Purpose},
    store::WeightStore,
};
use ndarray_npy::NpzReader;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// An array: its shape and its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// A model with inputs and the outputs that onnxruntime computes for them, in the order of the model's signature.
pub struct Case {
    pub name: String,
    pub model: Vec<u8>,
    pub inputs: BTreeMap<String, Array>,
    pub outputs: BTreeMap<String, Array>,
}

/// The cases of `data/ops.npz`.
pub fn cases() -> Vec<Case> {
    cases_of("ops.npz")
}

/// The cases of a file in `data/`.
pub fn cases_of(file: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(file);
    let mut archive = NpzReader::new(File::open(path).unwrap()).unwrap();
    let mut cases: BTreeMap<String, Case> = BTreeMap::new();
    for key in archive.names().unwrap() {
        let parts: Vec<_> = key.trim_end_matches(".npy").split('/').map(str::to_owned).collect();
        let case = cases.entry(parts[0].clone()).or_insert_with(|| Case {
            name: parts[0].clone(),
            model: Vec::new(),
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
        });
        if parts[1] == "model" {
            let bytes: ndarray::Array1<u8> = archive.by_name(&key).unwrap();
            case.model = bytes.to_vec();
            continue;
        }
        let array: ndarray::ArrayD<f32> = archive.by_name(&key).unwrap();
        let array = Array { shape: array.shape().to_vec(), values: array.iter().copied().collect() };
        let list = if parts[1] == "in" { &mut case.inputs } else { &mut case.outputs };
        list.insert(parts[2].clone(), array);
    }
    cases.into_values().collect()
}

/// The largest difference of two arrays relative to the reference's largest value; infinite where shapes differ.
pub fn difference(found: &Array, reference: &Array) -> f32 {
    if found.shape != reference.shape || found.values.iter().any(|value| value.is_nan()) {
        return f32::INFINITY;
    }
    let size = reference.values.iter().fold(1e-6f32, |size, value| size.max(value.abs()));
    let largest = found
        .values
        .iter()
        .zip(&reference.values)
        .fold(0f32, |largest, (found, reference)| largest.max((found - reference).abs()));
    largest / size
}

/// Runs a module with mxc's executor, without noise; one flat vector per output.
pub fn execute(module: &Module<'_>, weights: &WeightStore, inputs: &[&Array]) -> Result<Vec<Vec<f32>>, String> {
    let program = load::program(module, weights).map_err(|error| error.to_string())?;
    let executor = Executor::new(program, 1).map_err(|error| error.to_string())?;
    let slices: Vec<&[f32]> = inputs.iter().map(|array| array.values.as_slice()).collect();
    let samples: Vec<u64> = (0..inputs[0].shape[0] as u64).collect();
    let key = Key { seed: 0, purpose: Purpose::Eval, pass: 0, chip: 0 };
    executor.forward(Batch { inputs: &slices, samples: &samples }, Mode::CLEAN, key).map_err(|error| error.to_string())
}

/// From TOSA with constants in place, batch dynamic, to LLVM.
const PIPELINE: &str = "builtin.module(\
    func.func(tosa-to-linalg-named,canonicalize,tosa-to-linalg,tosa-to-arith{include-apply-rescale=true},tosa-to-tensor),\
    canonicalize,one-shot-bufferize{bufferize-function-boundaries},func.func(convert-linalg-to-loops),\
    expand-strided-metadata,lower-affine,convert-scf-to-cf,convert-math-to-llvm,convert-math-to-libm,\
    finalize-memref-to-llvm,convert-arith-to-llvm,convert-func-to-llvm,convert-cf-to-llvm,reconcile-unrealized-casts)";

/// The folder of LLVM's tools and libraries.
fn llvm() -> PathBuf {
    std::env::var_os("MLIR_SYS_220_PREFIX").map_or_else(|| PathBuf::from("/usr/lib/llvm-22"), PathBuf::from)
}

/// Modules to be lowered by upstream and run together: each one's `@main`, renamed.
#[derive(Default)]
pub struct Upstream {
    functions: String,
    calls: String,
    outputs: usize,
}

impl Upstream {
    /// Adds a call of a module (weights inlined) on inputs. `name` must be an identifier and not repeat.
    pub fn add(&mut self, name: &str, module: &Module<'_>, inputs: &[&Array]) {
        let text = module.as_operation().to_string();
        let body = text.trim().strip_prefix("module {").and_then(|text| text.strip_suffix('}')).unwrap();
        self.functions.push_str(&body.replace("@main(", &format!("@{name}(")));
        let signature = text.lines().find(|line| line.contains("func.func @main")).unwrap();
        let (arguments, results) = signature.split_once("->").unwrap();
        let types = |text: &str| -> Vec<String> {
            text.split("tensor<").skip(1).map(|rest| format!("tensor<{}>", rest.split('>').next().unwrap())).collect()
        };
        let (arguments, results) = (types(arguments), types(results));
        for (index, (array, r#type)) in inputs.iter().zip(&arguments).enumerate() {
            let own = array.shape.iter().map(|size| format!("{size}x")).collect::<String>();
            let bytes: String =
                array.values.iter().flat_map(|value| value.to_le_bytes()).map(|byte| format!("{byte:02X}")).collect();
            let (constant, own) = (format!("%{name}_c{index}"), format!("tensor<{own}f32>"));
            let _ = writeln!(self.calls, "{constant} = arith.constant dense<\"0x{bytes}\"> : {own}");
            let _ = writeln!(self.calls, "%{name}_{index} = tensor.cast {constant} : {own} to {type}");
        }
        let values: Vec<_> = (0..inputs.len()).map(|index| format!("%{name}_{index}")).collect();
        let _ = writeln!(
            self.calls,
            "%{name}_r:{} = func.call @{name}({}) : ({}) -> ({})",
            results.len(),
            values.join(", "),
            arguments.join(", "),
            results.join(", ")
        );
        for (index, r#type) in results.iter().enumerate() {
            let _ = writeln!(
                self.calls,
                "%{name}_u{index} = tensor.cast %{name}_r#{index} : {type} to tensor<*xf32>\n\
                 func.call @printMemrefF32(%{name}_u{index}) : (tensor<*xf32>) -> ()"
            );
            self.outputs += 1;
        }
    }

    /// Lowers and runs; every output in the order of the calls.
    pub fn run(self) -> Vec<Array> {
        let module = format!(
            "{}\nfunc.func private @printMemrefF32(tensor<*xf32>)\nfunc.func @run() {{\n{}return\n}}\n",
            self.functions, self.calls
        );
        let lowered = pipe(llvm().join("bin/mlir-opt"), &[&format!("--pass-pipeline={PIPELINE}")], &module);
        let library = |name: &str| llvm().join("lib").join(name).display().to_string();
        let libraries =
            format!("--shared-libs={},{}", library("libmlir_runner_utils.so"), library("libmlir_c_runner_utils.so"));
        let arguments = ["-e", "run", "--entry-point-result=void", libraries.as_str()];
        let printed = pipe(llvm().join("bin/mlir-runner"), &arguments, &lowered);
        let arrays: Vec<_> = printed.split("Unranked Memref").skip(1).map(parse).collect();
        assert_eq!(arrays.len(), self.outputs, "{printed}");
        arrays
    }
}

/// Parses what `printMemrefF32` prints.
fn parse(text: &str) -> Array {
    let (header, data) = text.split_once("data =").unwrap();
    let sizes = header.split("sizes = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap();
    let numbers = |text: &str| -> Vec<f32> {
        text.split(|character: char| "[], \n".contains(character))
            .filter(|word| !word.is_empty())
            .map(|word| word.parse().unwrap())
            .collect()
    };
    Array { shape: numbers(sizes).into_iter().map(|size| size as usize).collect(), values: numbers(data) }
}

/// Runs a program on `input` and returns what it writes.
fn pipe(program: PathBuf, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; run scripts/setup.sh", program.display()));
    let mut stdin = child.stdin.take().unwrap();
    let text = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    // A program that fails early may not read everything; its own message says why.
    let _ = writer.join();
    assert!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
