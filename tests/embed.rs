//! mxc as a library, through the crate `mxc` alone: the same bytes as the program's, cancelling, typed errors, laws of noise and costs of
//! a program's own.

use crate::common::{fail, model, mxc as program, small_fashion, succeed};
use mxc::{
    AnalogCost, AnalogLayer, Array, CalibrateOptions, Cancel, CompileOptions, Context, CostModel, Data, DigitalCost,
    DigitalPart, Error, EvalOptions, Execution, ExportOptions, FinetuneOptions, Hardware, ImportError, ImportOptions,
    Init, LayerNoise, Level, Model, Monitor, NoiseError, NoiseLaw, NoiseSpec, Package, PreprocessOptions, Progress,
    RegisterError, SessionOptions, Strategy, Values, Work,
};
use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
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
    let calibration = CalibrateOptions { samples: Some(32), ..CalibrateOptions::default() };
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

/// Random telegraph noise: a trap holds a charge in a quarter of all reads, so that the mean is 1/4 and the variance 3/16.
fn telegraph() -> NoiseLaw {
    NoiseLaw::new(0.25, 0.1875, |words, draws| {
        for (draw, word) in draws.iter_mut().zip(words) {
            *draw = if *word < 1 << 30 { 1.0 } else { 0.0 };
        }
    })
}

/// What the built-in uniform noise draws.
fn flat() -> NoiseLaw {
    NoiseLaw::new(0.0, 1.0 / 12.0, |words, draws| {
        for (draw, word) in draws.iter_mut().zip(words) {
            *draw = ((word.cast_signed() >> 8) as f32 + 0.5) / 16_777_216.0;
        }
    })
}

#[test]
fn a_law_of_the_programs_own_goes_the_whole_way() {
    mxc::register_noise("flat", flat()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let data = Data::new(small_fashion(folder.path(), 400, 100));
    let monitor = Monitor::default();
    // Calibrated, equalized, read several times, cleaned where it is worth most, trained.
    let package = |spec: &str| {
        let context = Context::new();
        let imported = Model::from_file(&context, &model("resnet20"), &ImportOptions::default()).unwrap();
        let noise = LayerNoise { spec: spec.parse().unwrap(), ..LayerNoise::default() };
        let options = CompileOptions { samples: Some(48), noise, energy_budget: 0.3, ..CompileOptions::default() };
        imported.compile(&options, Some(&data), &monitor).unwrap().package().unwrap()
    };
    let own = package("flat(scale=30%)");
    let built_in = package("uniform(width=30%)");
    let renamed = |text: String| text.replace("flat(scale=", "uniform(width=");
    assert!(!own.executions().unwrap().is_empty(), "reads are spent by the law's variance");
    assert_eq!(renamed(own.ir().unwrap()), built_in.ir().unwrap());
    assert!(own.denoisers().to_safetensors() == built_in.denoisers().to_safetensors());

    let trained = |package: &Package| {
        let session = package.session(&SessionOptions::default(), &monitor).unwrap();
        let training = FinetuneOptions { epochs: Some(1), limit: Some(64), ..FinetuneOptions::default() };
        session.finetune(&data, &training, &monitor).unwrap().package
    };
    let [own, built_in] = [trained(&own), trained(&built_in)];
    assert!(own.denoisers().to_safetensors() == built_in.denoisers().to_safetensors());

    // On any number of threads and in batches of any size; of every lifetime and site, alone and with others.
    let evaluated = |package: &Package, spec: Option<&str>, threads: usize, batch: usize| {
        let noise = spec.map(|spec| spec.parse().unwrap());
        let session = SessionOptions { threads, noise, ..SessionOptions::default() };
        let session = package.session(&session, &monitor).unwrap();
        let options = EvalOptions { runs: 2, limit: Some(60), batch, ..EvalOptions::default() };
        serde_json::to_string(&session.evaluate(&data, &options, &monitor).unwrap()).unwrap()
    };
    let expected = evaluated(&built_in, None, 1, 32);
    for (threads, batch) in [(1, 7), (3, 32)] {
        assert_eq!(renamed(evaluated(&own, None, threads, batch)), expected);
    }
    let spec = "flat(scale=20%,site=input)+gaussian(sigma=5%)+flat(scale=20%,lifetime=chip)";
    let mixed = renamed(evaluated(&own, Some(spec), 2, 32));
    assert_eq!(mixed, evaluated(&built_in, Some(&renamed(spec.to_owned())), 2, 32));
    assert_ne!(mixed, expected);

    // A program without the law says which it lacks.
    own.write(&folder.path().join("own.mxa")).unwrap();
    for command in [&["eval", "own.mxa", "--data"][..], &["inspect", "own.mxa", "--data"]] {
        let printed = fail(program(folder.path()).args(command).arg(&data.path), 1);
        assert!(printed.contains("there is no component `flat`; built in are `gaussian` and `uniform`"), "{printed}");
        assert!(printed.contains("registered by this program is none"), "{printed}");
    }
}

#[test]
fn laws_are_registered_once_and_say_the_truth() {
    let unknown = "telegraph(scale=6%)".parse::<NoiseSpec>().unwrap_err();
    assert!(matches!(&unknown, NoiseError::Unknown { name, .. } if name == "telegraph"), "{unknown}");
    mxc::register_noise("telegraph", telegraph()).unwrap();
    assert!("telegraph(scale=6%)".parse::<NoiseSpec>().is_ok());
    assert_eq!(mxc::register_noise("telegraph", telegraph()), Err(RegisterError::Taken("telegraph".to_owned())));
    assert_eq!(mxc::register_noise("uniform", flat()), Err(RegisterError::Reserved("uniform".to_owned())));
    let mut law = flat();
    law.variance = 1.0;
    let wrong = mxc::register_noise("wrong", law).unwrap_err().to_string();
    assert!(wrong.starts_with("the noise law `wrong` says a variance of 1, but its draws' is 0.083"), "{wrong}");
    assert!("wrong(scale=6%)".parse::<NoiseSpec>().is_err());
}

/// The profile, of tiles that keep the converted input for further reads.
#[derive(Debug)]
struct KeptInputs(Hardware);

impl CostModel for KeptInputs {
    fn name(&self) -> &str {
        "kept-inputs"
    }

    fn analog(&self, layer: &AnalogLayer<'_>) -> AnalogCost {
        let cost = self.0.analog(layer);
        let conversions = (layer.mvms * layer.input_conversions) as f64 * self.0.energy.dac_conversion.picojoules;
        AnalogCost { further_picojoules: cost.further_picojoules - conversions, ..cost }
    }

    fn digital(&self, part: DigitalPart<'_>, work: &Work) -> DigitalCost {
        self.0.digital(part, work)
    }
}

/// The same for everything: picojoules of an analog layer's read, and of an item of the digital tile's work.
#[derive(Debug)]
struct Same(f64, f64);

impl CostModel for Same {
    fn name(&self) -> &str {
        "same"
    }

    fn analog(&self, _: &AnalogLayer<'_>) -> AnalogCost {
        AnalogCost { picojoules: self.0, further_picojoules: self.0, nanoseconds: 2000.0 }
    }

    fn digital(&self, part: DigitalPart<'_>, _: &Work) -> DigitalCost {
        let cycles = match part {
            DigitalPart::Layer(_) => 5,
            DigitalPart::Denoiser(_) => 7,
        };
        DigitalCost { cycles, picojoules: self.1 }
    }
}

#[test]
fn a_cost_model_of_the_programs_own_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let data = Data::new(small_fashion(folder.path(), 200, 50));
    let monitor = Monitor::default();
    let compiled = |costs: Option<Arc<dyn CostModel>>| {
        let context = Context::new();
        let imported = Model::from_file(&context, &model("resnet20"), &ImportOptions::default())?;
        let options = CompileOptions {
            samples: Some(32),
            noise: LayerNoise { spec: NoiseSpec::gaussian(0.2), ..LayerNoise::default() },
            placement: Strategy::Fill,
            denoiser: "affine".to_owned(),
            equalize: false,
            init: Init::Identity,
            energy_budget: 0.3,
            costs,
            ..CompileOptions::default()
        };
        imported.compile(&options, Some(&data), &monitor)?.package()
    };
    let executions = |package: &Package| package.executions().unwrap();
    let recorded = |package: &Package, option: &str| {
        let provenance = package.manifest().provenance.clone().unwrap();
        provenance.options.iter().any(|recorded| recorded == option)
    };

    // The profile is the model where none is given.
    let plain = compiled(None).unwrap();
    let same = compiled(Some(Arc::new(Hardware::paper()))).unwrap();
    assert_eq!(executions(&plain), executions(&same));
    let json = |cost: &mxc::Cost| serde_json::to_string(cost).unwrap();
    let report = plain.report(None, &monitor).unwrap();
    let paper = Hardware::paper();
    assert_eq!(json(&report), json(&plain.report_by(None, Some(&paper), &monitor).unwrap()));

    // Dear digital work for nothing: every layer is computed there.
    let digital = compiled(Some(Arc::new(Same(100.0, 0.0)))).unwrap();
    assert!(executions(&digital).iter().all(|(_, execution)| *execution == Execution::Digital));
    assert_eq!(executions(&digital).len(), report.analog.layers.len());
    assert_ne!(executions(&plain), executions(&digital));
    assert!(recorded(&digital, "costs=same") && !recorded(&plain, "costs=same"));

    // Reads that cost less are spent more of.
    let kept = KeptInputs(Hardware::paper());
    let cheaper = plain.report_by(None, Some(&kept), &monitor).unwrap();
    assert!(cheaper.analog.added_energy_percent < report.analog.added_energy_percent);
    let more = compiled(Some(Arc::new(kept))).unwrap();
    let reads = |package: &Package| executions(package).iter().map(|(_, execution)| execution.reads()).sum::<u32>();
    assert!(reads(&more) > reads(&plain), "{} and {}", reads(&more), reads(&plain));

    // Reports: of layers on tiles and off them, and of denoisers.
    let told = digital.report_by(None, Some(&Same(100.0, 50.0)), &monitor).unwrap();
    let layer = &told.analog.layers[0];
    // Three transfers and a convolution.
    assert_eq!((layer.nanojoules, layer.microseconds, layer.added_microseconds), (0.2, 0.04, 0.04 - 2.0));
    let denoiser = &told.report.denoisers[0];
    assert_eq!(denoiser.cycles, 7 * denoiser.phases as u64);
    assert_eq!(denoiser.unit_cycles.values().sum::<u64>(), denoiser.cycles);
    assert!((denoiser.nanojoules - 0.05 * denoiser.phases as f64).abs() < 1e-9);
    assert_eq!(denoiser.activity, report.report.denoisers[0].activity);

    // What is no cost is refused, by the name of its layer.
    let name = &layer.layer;
    let error = plain.report_by(None, Some(&Same(f64::NAN, 1.0)), &monitor).unwrap_err();
    let message = format!("the cost model `same` says NaN pJ for the first read of layer `{name}`; ");
    assert!(matches!(&error, Error::Cost(_)) && error.to_string().starts_with(&message), "{error}");
    let error = plain.report_by(None, Some(&Same(1.0, -1.0)), &monitor).unwrap_err().to_string();
    assert!(error.contains(" says -1 pJ for ") && error.contains(" of the denoiser of layer `"), "{error}");
    let error = compiled(Some(Arc::new(Same(-1.0, 1.0)))).unwrap_err().to_string();
    assert!(error.contains(&format!("says -1 pJ for the first read of layer `{name}`")), "{error}");
}
