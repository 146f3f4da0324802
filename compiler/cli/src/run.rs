//! `mxc run`: raw inference on arrays.

use super::{Failure, Global, args::RunArgs};
use mxc::{
    Arrays, Error, Model, Package, Session, compiler::files::Inputs, npz_bytes, read_npz,
    runtime::files::write_atomically,
};

pub fn run(args: RunArgs, global: &Global) -> Result<(), Failure> {
    let inputs = Inputs::default().model(&args.model).file("the input arrays", Some(&args.input));
    inputs.check("-o", &args.output)?;
    let arrays = read_npz(&args.input)?;
    let session = session(&args, &arrays, global)?;
    let outputs = session.run(&arrays, global.common.seed).map_err(|error| match error {
        Error::Arrays(reason) => Error::Arrays(format!("{}: {reason}", args.input.display())),
        other => other,
    })?;
    write_atomically(&args.output, &npz_bytes(&outputs.arrays)?)
        .map_err(|error| format!("{}: {error}", args.output.display()))?;
    let samples = outputs.samples;
    if global.ui.json {
        let shapes = outputs.arrays.into_iter().map(|(name, array)| (name, serde_json::json!(array.shape())));
        let shapes: serde_json::Map<_, _> = shapes.collect();
        return super::print_json(&serde_json::json!({ "samples": samples, "outputs": shapes }));
    }
    global.ui.note(format!("{samples} samples; outputs in {}", args.output.display()));
    Ok(())
}

/// The model, ready to run. Sizes that an ONNX model leaves open are those of the arrays.
fn session(args: &RunArgs, arrays: &Arrays, global: &Global) -> Result<Session, Error> {
    let session = args.execute.session(None, &global.common);
    let monitor = global.ui.monitor(|_| {});
    if args.model.extension().is_some_and(|extension| extension == "mxa") {
        return Package::open(&args.model)?.session(&session, &monitor);
    }
    let context = mxc::Context::new();
    let mut options = args.import.options();
    options.array_shapes = arrays.iter().map(|(name, array)| (name.clone(), array.shape().to_vec())).collect();
    Model::from_file(&context, &args.model, &options)?.session(&session)
}
