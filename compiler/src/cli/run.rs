//! `mxc run`: raw inference on arrays.

use super::{Failure, Global, args::RunArgs, session};
use crate::driver;
use mxc_runtime::{
    data::check_npz,
    exec::{Batch, Key, Mode, Purpose},
    package::{Package, write_atomically},
    program::Program,
};
use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{NpzReader, NpzWriter};
use std::{collections::BTreeMap, fs::File, io::Cursor, path::Path};

pub fn run(args: RunArgs, global: &Global) -> Result<(), Failure> {
    let program = load(&args)?;
    let arrays = read(&args.input)?;
    let (inputs, samples) = bind(&program, &arrays, &args.input)?;
    let indices: Vec<u64> = (0..samples as u64).collect();
    let slices: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let names: Vec<_> = outputs(&program, samples);
    let executor = session::executor(program, global)?;
    let key = Key { seed: global.seed, purpose: Purpose::Eval, pass: 0, chip: 0 };
    let results = executor.forward(Batch { inputs: &slices, samples: &indices }, Mode::CLEAN_DENOISED, key)?;

    let mut bytes = Cursor::new(Vec::new());
    let mut writer = NpzWriter::new(&mut bytes);
    let mut report = serde_json::Map::new();
    for ((name, shape), values) in names.into_iter().zip(results) {
        report.insert(name.clone(), serde_json::json!(shape));
        let array = ArrayD::from_shape_vec(IxDyn(&shape), values)?;
        writer.add_array(name, &array)?;
    }
    writer.finish()?;
    write_atomically(&args.output, bytes.get_ref()).map_err(|error| format!("{}: {error}", args.output.display()))?;
    if global.ui.json {
        return super::print_json(&serde_json::json!({ "samples": samples, "outputs": report }));
    }
    global.ui.note(format!("{samples} samples; outputs in {}", args.output.display()));
    Ok(())
}

fn load(args: &RunArgs) -> Result<Program, Failure> {
    if args.model.extension().is_some_and(|extension| extension == "mxa") {
        return session::packaged(&Package::open(&args.model)?, &args.model);
    }
    let context = mxc_dialects::new_context();
    let imported = driver::import(&context, &args.model, &super::compile::input_shapes(&args.input_shape)?)?;
    Ok(mxc_runtime::load::program(&imported.module, &imported.weights)?)
}

fn read(path: &Path) -> Result<BTreeMap<String, ArrayD<f32>>, Failure> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    check_npz(path)?;
    let file = File::open(path).map_err(|error| named(&error))?;
    let mut reader = NpzReader::new(file).map_err(|error| named(&error))?;
    let mut arrays = BTreeMap::new();
    for name in reader.names().map_err(|error| named(&error))? {
        let array: ArrayD<f32> = reader
            .by_name(&name)
            .map_err(|error| format!("{}: array '{name}' (f32 expected): {error}", path.display()))?;
        arrays.insert(name.trim_end_matches(".npy").to_owned(), array);
    }
    Ok(arrays)
}

/// The arrays in the order of the program's inputs, and the number of samples.
fn bind(
    program: &Program,
    arrays: &BTreeMap<String, ArrayD<f32>>,
    path: &Path,
) -> Result<(Vec<Vec<f32>>, usize), Failure> {
    let mut samples = None;
    let mut inputs = Vec::new();
    for &id in &program.inputs {
        let value = &program.values[id];
        let array = match (arrays.get(&value.name), arrays.len(), program.inputs.len()) {
            (Some(array), _, _) => array,
            (None, 1, 1) => arrays.values().next().ok_or("no array")?,
            _ => {
                let names: Vec<_> = arrays.keys().map(String::as_str).collect();
                return Err(format!(
                    "{}: no array '{}' for the model's input; it holds {}",
                    path.display(),
                    value.name,
                    names.join(", ")
                )
                .into());
            }
        };
        let fits = array.ndim() == value.shape.len()
            && value.shape.iter().zip(array.shape()).all(|(want, have)| want.is_none_or(|want| want == *have));
        let count = array.shape().first().copied().unwrap_or(0);
        if !fits || samples.is_some_and(|samples| samples != count) {
            return Err(format!(
                "{}: input '{}' has shape {:?}, but the model wants {}",
                path.display(),
                value.name,
                array.shape(),
                shape_text(&value.shape)
            )
            .into());
        }
        samples = Some(count);
        inputs.push(array.iter().copied().collect());
    }
    Ok((inputs, samples.unwrap_or(0)))
}

/// The outputs' names and shapes.
fn outputs(program: &Program, samples: usize) -> Vec<(String, Vec<usize>)> {
    program
        .outputs
        .iter()
        .enumerate()
        .map(|(index, &id)| {
            let value = &program.values[id];
            let name = if value.name.is_empty() { format!("output{index}") } else { value.name.clone() };
            (name, value.shape.iter().map(|size| size.unwrap_or(samples)).collect())
        })
        .collect()
}

fn shape_text(shape: &[Option<usize>]) -> String {
    let sizes: Vec<_> = shape.iter().map(|size| size.map_or("N".to_owned(), |size| size.to_string())).collect();
    format!("[{}]", sizes.join(", "))
}
