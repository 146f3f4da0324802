//! mxc as a library, through the crate `mxc` alone: the same bytes as the program's, cancelling, typed errors.

use crate::common::{fail, model, mxc as program, small_fashion, succeed};
use mxc::{
    Array, CalibrateOptions, Cancel, CompileOptions, Context, Data, Error, EvalOptions, ExportOptions, FinetuneOptions,
    ImportError, ImportOptions, LayerNoise, Level, Model, Monitor, NoiseSpec, Package, PreprocessOptions, Progress,
    SessionOptions, Values,
};
use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Duration,
};

/// The options of `mxc compile --samples 64 --sigma 20% --mean 0.2860 --std 0.3530 --denoiser mean+affine`.
fn options() -> CompileOptions {
    CompileOptions {
        samples: Some(64),
        noise: LayerNoise { spec: NoiseSpec::gaussian(0.2), ..LayerNoise::default() },
        denoiser: "mean+affine".to_owned(),
        preprocessing: PreprocessOptions { mean: vec![0.286], std: vec![0.353], ..PreprocessOptions::default() },
        ..CompileOptions::default()
    }
}

fn compiled(data: Option<&Data>, monitor: &Monitor<'_>) -> Result<Package, Error> {
    let context = Context::new();
    let imported = Model::from_file(&context, &model("resnet20"), &ImportOptions::default())?;
    imported.compile(&options(), data, monitor)?.package()
}

#[test]
fn the_library_gives_the_programs_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let data = small_fashion(folder, 600, 200).display().to_string();
    let flags = "--samples 64 --sigma 20% --mean 0.2860 --std 0.3530 --denoiser mean+affine -o model.mxa --data";
    succeed(program(folder).arg("compile").arg(model("resnet20")).args(flags.split(' ')).arg(&data));
    let data = Data::new(&data);
    let monitor = Monitor::default();
    let package = compiled(Some(&data), &monitor).unwrap();
    assert!(package.to_bytes().unwrap() == fs::read(folder.join("model.mxa")).unwrap(), "compile");

    // Training: from the file and from memory.
    succeed(
        program(folder).args(["finetune", "model.mxa", "--epochs", "1", "--limit", "256", "--data"]).arg(&data.path),
    );
    let session = package.session(&SessionOptions::default(), &monitor).unwrap();
    let training = FinetuneOptions { epochs: Some(1), limit: Some(256), ..FinetuneOptions::default() };
    let tuned = session.finetune(&data, &training, &monitor).unwrap().package;
    assert!(tuned.to_bytes().unwrap() == fs::read(folder.join("model.tuned.mxa")).unwrap(), "finetune");

    succeed(program(folder).args(["calibrate", "model.mxa", "--samples", "32", "--data"]).arg(&data.path));
    let calibration = CalibrateOptions { samples: 32, ..CalibrateOptions::default() };
    let calibrated = session.calibrate(&data, &calibration, &monitor).unwrap().package;
    assert!(calibrated.to_bytes().unwrap() == fs::read(folder.join("model.calibrated.mxa")).unwrap(), "calibrate");

    let session = tuned.session(&SessionOptions::default(), &monitor).unwrap();
    let evaluation = EvalOptions { runs: 2, ..EvalOptions::default() };
    let report = session.evaluate(&data, &evaluation, &monitor).unwrap();
    let evaluate = ["eval", "model.tuned.mxa", "--json", "--seeds", "2", "--data"];
    let printed = succeed(program(folder).args(evaluate).arg(&data.path));
    assert_eq!(serde_json::to_string(&report).unwrap(), printed.trim_end());

    let exported = tuned.export(&ExportOptions::default()).unwrap();
    succeed(program(folder).args(["export", "model.tuned.mxa", "-o", "tuned.onnx"]));
    assert!(exported.onnx == fs::read(folder.join("tuned.onnx")).unwrap(), "export");

    let pixels = (0..2 * 28 * 28).map(|index| (index % 7) as f32 / 7.0).collect();
    let image = Array::new(vec![2, 1, 28, 28], Values::F32(pixels)).unwrap();
    let arrays = [("x".to_owned(), image)];
    fs::write(folder.join("in.npz"), mxc::npz_bytes(&arrays).unwrap()).unwrap();
    succeed(program(folder).args(["run", "model.tuned.mxa", "--input", "in.npz", "-o", "out.npz"]));
    let outputs = session.run(&arrays.into(), 0).unwrap();
    assert_eq!(outputs.samples, 2);
    assert!(mxc::npz_bytes(&outputs.arrays).unwrap() == fs::read(folder.join("out.npz")).unwrap(), "run");

    let cost = tuned.report(None, &monitor).unwrap();
    let printed = succeed(program(folder).args(["report", "model.tuned.mxa", "--json"]));
    assert_eq!(serde_json::to_string(&cost).unwrap(), printed.trim_end());
}

#[test]
fn calibration_and_training_are_cancelled() {
    let stop_after = |step: &'static str| {
        Monitor::new(move |progress| match progress {
            Progress::Step { name, time } if name == step && time >= Duration::ZERO => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    };
    // By the callback: after the pass before calibration, and after calibration.
    for step in ["annotate-noise", "rank-sensitivity"] {
        assert!(matches!(compiled(None, &stop_after(step)), Err(Error::Cancelled)), "{step}");
    }
    // From elsewhere.
    let cancel = Cancel::default();
    cancel.cancel();
    assert!(matches!(compiled(None, &Monitor::default().with_cancel(cancel)), Err(Error::Cancelled)));

    let folder = tempfile::tempdir().unwrap();
    let data = Data::new(small_fashion(folder.path(), 600, 200));
    let package = compiled(Some(&data), &Monitor::default()).unwrap();
    let session = package.session(&SessionOptions::default(), &Monitor::default()).unwrap();
    let monitor = Monitor::new(|progress| match progress {
        Progress::Training { now, .. } if now.step == 2 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    let checkpoint = folder.path().join("state");
    let training = FinetuneOptions { checkpoint: Some(checkpoint.clone()), ..FinetuneOptions::default() };
    let stopped = session.finetune(&data, &training, &monitor).unwrap_err();
    assert!(
        matches!(&stopped, Error::Stopped { step: 2, checkpoint: Some(path), .. } if *path == checkpoint),
        "{stopped}"
    );
    assert!(checkpoint.exists());

    let monitor = Monitor::new(|progress| match progress {
        Progress::Evaluating(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    let evaluated = session.evaluate(&data, &EvalOptions::default(), &monitor);
    assert!(matches!(evaluated, Err(Error::Cancelled)));
}

#[test]
fn errors_are_typed_and_hold_the_node_or_file() {
    let context = Context::new();
    let missing = Model::from_file(&context, Path::new("none.onnx"), &ImportOptions::default()).unwrap_err();
    assert!(matches!(&missing, Error::Import(ImportError::Read { path, .. }) if path == Path::new("none.onnx")));
    let cut = Model::from_bytes(&context, b"\x08", "cut.onnx", &ImportOptions::default()).unwrap_err();
    assert!(matches!(&cut, Error::Import(ImportError::NotOnnx { file, .. }) if file == "cut.onnx"), "{cut}");
    assert!(cut.hint().is_some());
    let package = Package::open(&model("resnet20")).unwrap_err();
    assert!(matches!(&package, Error::Package(_)) && package.to_string().contains("resnet20.onnx"), "{package}");

    let imported = Model::from_file(&context, &model("resnet20"), &ImportOptions::default()).unwrap();
    let analog = CompileOptions { level: Level::Analog, ..CompileOptions::default() };
    let analog = imported.compile(&analog, None, &Monitor::default()).unwrap();
    assert!(matches!(analog.package(), Err(Error::Options(_))));

    // A message is the program's.
    let folder = tempfile::tempdir().unwrap();
    let printed = fail(program(folder.path()).args(["inspect", "none.mxa"]), 1);
    let error = Package::open(&PathBuf::from("none.mxa")).unwrap_err();
    assert_eq!(printed.trim_end(), format!("error: {error}"));
}

#[test]
fn passes_run_on_the_callers_module() {
    let context = mxc::dialects::new_context();
    let text = "func.func @main(%x: tensor<?x4xf32>) -> tensor<?x4xf32> { return %x : tensor<?x4xf32> }";
    let mut module = melior::ir::Module::parse(&context, text).unwrap();
    let mut steps = Vec::new();
    let monitor = Monitor::new(|progress| {
        if let Progress::Step { name, .. } = progress {
            steps.push(name);
        }
        ControlFlow::Continue(())
    });
    mxc::passes::run(&context, &mut module, "canonicalize-graph,verify", &Default::default(), &monitor).unwrap();
    drop(monitor);
    assert_eq!(steps, ["canonicalize-graph", "verify"]);
    let unknown = mxc::passes::run(&context, &mut module, "nothing", &Default::default(), &Monitor::default());
    assert!(matches!(unknown, Err(Error::Pipeline(_))));
}
