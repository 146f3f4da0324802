//! Compiles a network with the crate `mxc`, trains it for an epoch under noise, and evaluates it:
//!
//! ```text
//! cargo run --release -p mxc --example embed -- MODEL.onnx DATA OUT.mxa
//! ```

use mxc::{
    Array, CompileOptions, Context, Data, EvalOptions, FinetuneOptions, LayerNoise, Model, Monitor, NoiseSpec,
    PreprocessOptions, Progress, Values,
};
use std::{error::Error, ops::ControlFlow, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, data, output] = arguments.as_slice() else {
        return Err("usage: embed MODEL.onnx DATA OUT.mxa".into());
    };
    println!("{}", run(model.as_ref(), data.as_ref(), output.as_ref())?);
    Ok(())
}

/// The accuracy with denoisers under noise, in percent.
pub fn run(model: &Path, data: &Path, output: &Path) -> Result<f64, Box<dyn Error>> {
    let monitor = Monitor::new(|progress| {
        match progress {
            Progress::Step { name, time } => eprintln!("{name}: {:.2} s", time.as_secs_f64()),
            Progress::Note(text) | Progress::Warning(text) => eprintln!("{text}"),
            _ => {}
        }
        ControlFlow::Continue(()) // Break(()) cancels
    });
    let data = Data::new(data);

    // The model, from memory.
    let context = Context::new();
    let onnx = std::fs::read(model)?;
    let imported = Model::from_bytes(&context, &onnx, &model.display().to_string(), &Default::default())?;
    let options = CompileOptions {
        budget: 0.04,
        noise: LayerNoise { spec: NoiseSpec::gaussian(0.2), ..Default::default() },
        preprocessing: PreprocessOptions { mean: vec![0.2860], std: vec![0.3530], ..Default::default() },
        samples: Some(64),
        ..Default::default()
    };
    let package = imported.compile(&options, Some(&data), &monitor)?.package()?;
    package.write(output)?;

    // An epoch on 256 samples.
    let training = FinetuneOptions { epochs: Some(1), limit: Some(256), ..Default::default() };
    let tuned = package.session(&Default::default(), &monitor)?.finetune(&data, &training, &monitor)?.package;

    let session = tuned.session(&Default::default(), &monitor)?;
    let evaluation = EvalOptions { runs: 2, limit: Some(200), ..Default::default() };
    let report = session.evaluate(&data, &evaluation, &monitor)?;

    // One image of zeros.
    let image = Array::new(vec![1, 1, 28, 28], Values::F32(vec![0.0; 28 * 28]))?;
    let outputs = session.run(&[("x".to_owned(), image)].into(), 0)?;
    let (name, logits) = &outputs.arrays[0];
    eprintln!("{name}: {} logits", logits.shape()[1]);
    Ok(report.denoised.top1)
}
