//! A package's module and its program are the same network; a damaged program is an error.

use crate::common::{MODELS, model, mxc, root, small_fashion, succeed};
use mxc_compiler::{
    driver::{self, CompileOptions, Init, Level, Record},
    import::ImportOptions,
    load,
    pass::RunOptions,
    placement::Strategy,
};
use mxc_dialects::{
    ir, new_context,
    noise::{LayerNoise, NoiseSpec},
};
use mxc_runtime::{
    error::ExecError,
    exec::{Batch, Executor, Key, Mode, Purpose},
    hardware::Hardware,
    package::Package,
    program::Program,
    task::Task,
};
use std::{
    fs,
    io::{Cursor, Read, Write},
    path::Path,
    process::Command,
};
use tempfile::TempDir;

const KEY: Key = Key { seed: 3, purpose: Purpose::Eval, pass: 0, chip: 0 };

/// The bits of the logits of two samples, denoised under noise.
fn logits(program: Program) -> Result<Vec<u32>, ExecError> {
    let inputs: Vec<Vec<f32>> = program
        .inputs()
        .iter()
        .map(|&id| (0..2 * program.values()[id].words()).map(|i| (i as f32 * 0.37).sin()).collect())
        .collect();
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let executor = Executor::new(program, 1)?;
    let result = executor.logits(Batch { inputs: &inputs, samples: &[0, 1] }, Mode::DENOISED, KEY)?;
    Ok(result.iter().map(|logit| logit.to_bits()).collect())
}

/// The example of the runtime evaluates a package as the program does, without MLIR or LLVM in it, so that it is a fraction of the
/// program's size.
#[test]
fn a_package_runs_without_mlir() {
    let program = Path::new(env!("CARGO_BIN_EXE_mxc-under-test"));
    let example = program.with_file_name("examples").join("evaluate_package");
    assert!(example.is_file(), "{} is built with the whole workspace: cargo test --workspace", example.display());
    let folder = TempDir::new().unwrap();
    let data = small_fashion(folder.path(), 200, 100);
    let flags = "--samples 64 --sigma 20% --mean 0.2860 --std 0.3530 --denoiser mean+affine -o model.mxa --data";
    succeed(mxc(folder.path()).arg("compile").arg(model("resnet20")).args(flags.split(' ')).arg(&data));
    let printed =
        succeed(mxc(folder.path()).args(["eval", "model.mxa", "--json", "--seeds", "2", "--data"]).arg(&data));
    let plain = succeed(Command::new(&example).arg(folder.path().join("model.mxa")).arg(&data).arg("2"));
    assert_eq!(plain, printed);
    // LLVM and MLIR are linked statically into what uses them.
    let holds = |path: &Path, text: &str| {
        let bytes = fs::read(path).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    assert!(holds(program, "mlir::") || holds(program, "_ZN4mlir"), "what the test looks for is in the program");
    assert!(!holds(&example, "mlir::") && !holds(&example, "_ZN4mlir"));
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    assert!(3 * size(&example) < size(program), "{} and {} bytes", size(&example), size(program));
}

#[test]
fn module_and_program_agree() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.mxa");
    for (name, kinds) in MODELS.into_iter().zip([
        ["paper+affine", "mean"],
        ["mean+affine", "lowrank"],
        ["affine", "depthwise"],
        ["depthwise+affine", "paper"],
    ]) {
        for denoiser in kinds {
            let context = new_context();
            let options = CompileOptions {
                budget: 0.04,
                noise: LayerNoise { spec: NoiseSpec::gaussian(0.2), ..LayerNoise::default() },
                placement: Strategy::Fill,
                denoiser: denoiser.to_owned(),
                equalize: false,
                energy_budget: 0.0,
                init: Init::Identity,
                keep_digital: Vec::new(),
                hardware: Hardware::paper(),
                costs: None,
                seed: 0,
                threads: 1,
                samples: 4,
                task: Task::default(),
            };
            let imported = driver::import(&context, &model(name), &ImportOptions::default()).unwrap();
            let compiled =
                driver::compile(&context, imported, &options, Level::Denoise, None, &RunOptions::default()).unwrap();
            driver::package(&compiled, &options, Record::default()).unwrap().write(&path).unwrap();
            let package = Package::open(&path).unwrap();
            let module = ir::parse(&context, package.module(), "module.mlir").unwrap();
            let loaded = load::program(&module, &package.weights()).unwrap();
            let read = package.program(&path).unwrap();
            assert!(loaded == read, "{name} with {denoiser}");
            assert!(read.has_denoisers() && read.layers().iter().all(|layer| layer.calibration.is_some()));
            assert_eq!(logits(loaded).unwrap(), logits(read).unwrap(), "{name} with {denoiser}");
            // Written anew it is the same: no weight became part of the program.
            let bytes = fs::read(&path).unwrap();
            let mut again = package.clone();
            again.set_module(package.module().to_vec(), &package.program(&path).unwrap()).unwrap();
            assert!(again.to_bytes().unwrap() == bytes, "{name} with {denoiser}");
            assert!(entry(&bytes, PROGRAM).len() < 100_000, "{name} with {denoiser}");
        }
    }
}

const PROGRAM: &str = "program.pb";

fn entry(package: &[u8], name: &str) -> Vec<u8> {
    let mut archive = zip::ZipArchive::new(Cursor::new(package)).unwrap();
    let mut bytes = Vec::new();
    archive.by_name(name).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Writes a package with another program, its checksum right.
fn replaced(package: &[u8], program: &[u8], path: &Path) {
    let mut archive = zip::ZipArchive::new(Cursor::new(package)).unwrap();
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).unwrap();
        let name = entry.name().unwrap().into_owned();
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored)
            .with_alignment(64);
        out.start_file(&*name, options).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        out.write_all(if name == PROGRAM { program } else { &bytes }).unwrap();
    }
    fs::write(path, out.finish().unwrap().into_inner()).unwrap();
}

/// Every byte of a small package's program changed, and its end cut off anywhere: an error, there or when it runs, or a result.
#[test]
fn damaged_programs_are_refused_or_run() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.mxa");
    let package = fs::read(root().join("tests/corpus/package/paper.mxa")).unwrap();
    let program = entry(&package, PROGRAM);
    let (mut refused, mut ran) = (0, 0);
    let mut check = |program: &[u8]| {
        replaced(&package, program, &path);
        let opened = Package::open(&path).unwrap();
        let Ok(program) = opened.program(&path) else {
            refused += 1;
            return;
        };
        // What is large but consistent may run where there is the memory.
        if program.values().iter().map(|value| value.words()).sum::<usize>() < 1 << 20 && program.outputs().len() < 100
        {
            ran += usize::from(logits(program).is_ok());
        }
    };
    for index in 0..program.len() {
        check(&program[..index]);
        for value in [program[index] ^ 1 << (index % 8), program[index].wrapping_add(1), 0, 255] {
            let mut damaged = program.clone();
            damaged[index] = value;
            check(&damaged);
        }
    }
    assert!(refused > 1000 && ran > 100, "{refused} refused, {ran} ran");
}

#[test]
fn packages_without_a_program_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.mxa");
    let package = fs::read(root().join("tests/corpus/package/paper.mxa")).unwrap();
    for (program, reason) in [(&b""[..], "the task"), (b"\xff", "program.pb: failed to decode")] {
        replaced(&package, program, &path);
        let error = Package::open(&path).unwrap().program(&path).unwrap_err().to_string();
        assert!(error.contains("model.mxa: not a valid mxc package") && error.contains(reason), "{error}");
    }
}
