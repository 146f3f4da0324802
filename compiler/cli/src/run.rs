//! `mxc run`: raw inference on arrays.

use super::{
    Failure, Global,
    args::{Arithmetic, RunArgs},
    session,
};
use mxc_compiler::{driver, files::Inputs};
use mxc_runtime::{
    data::check_npz,
    exec::{Batch, Key, Mode, Purpose},
    files::write_atomically,
    package::Package,
    program::{DType, Program},
};
use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{NpzReader, NpzWriter};
use std::{collections::BTreeMap, fs::File, io::Cursor, path::Path};

pub fn run(args: RunArgs, global: &Global) -> Result<(), Failure> {
    let inputs = Inputs::default().model(&args.model).file("the input arrays", Some(&args.input));
    inputs.check("-o", &args.output)?;
    let arrays = read(&args.input)?;
    let program = load(&args, &arrays, global)?;
    let (inputs, samples) = bind(&program, &arrays, &args.input)?;
    let indices: Vec<u64> = (0..samples as u64).collect();
    let slices: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let outputs: Vec<_> = outputs(&program, samples);
    let executor = session::executor(program, args.backend, global)?;
    let key = Key { seed: global.seed, purpose: Purpose::Eval, pass: 0, chip: 0 };
    let results = executor.forward(Batch { inputs: &slices, samples: &indices }, Mode::CLEAN_DENOISED, key)?;

    let mut bytes = Cursor::new(Vec::new());
    let mut writer = NpzWriter::new(&mut bytes);
    let mut report = serde_json::Map::new();
    for ((name, shape, dtype), values) in outputs.into_iter().zip(results) {
        report.insert(name.clone(), serde_json::json!(shape));
        let shape = IxDyn(&shape);
        let integers = || dtype.decode(&values);
        match dtype {
            DType::F32 => writer.add_array(name, &ArrayD::from_shape_vec(shape, values)?)?,
            DType::I64 => writer.add_array(name, &ArrayD::from_shape_vec(shape, integers())?)?,
            DType::I32 => {
                let values = integers().into_iter().map(|value| value as i32).collect();
                writer.add_array(name, &ArrayD::<i32>::from_shape_vec(shape, values)?)?;
            }
            DType::Bool => {
                let values = integers().into_iter().map(|value| value != 0).collect();
                writer.add_array(name, &ArrayD::<bool>::from_shape_vec(shape, values)?)?;
            }
        }
    }
    writer.finish()?;
    write_atomically(&args.output, bytes.get_ref()).map_err(|error| format!("{}: {error}", args.output.display()))?;
    if global.ui.json {
        return super::print_json(&serde_json::json!({ "samples": samples, "outputs": report }));
    }
    global.ui.note(format!("{samples} samples; outputs in {}", args.output.display()));
    Ok(())
}

/// The model's program. Sizes that an ONNX model leaves open are those of the arrays.
fn load(args: &RunArgs, arrays: &BTreeMap<String, Numbers>, global: &Global) -> Result<Program, Failure> {
    if args.model.extension().is_some_and(|extension| extension == "mxa") {
        return session::packaged_in(args.digital, &Package::open(&args.model)?, &args.model, global);
    }
    if args.digital == Arithmetic::Fixed {
        return Err("--digital fixed needs a package (.mxa): its denoisers are lowered to the digital tile".into());
    }
    let context = mxc_dialects::new_context();
    let mut options = args.import.options();
    options.array_shapes = arrays.iter().map(|(name, array)| (name.clone(), array.shape().to_vec())).collect();
    let mut imported = driver::import(&context, &args.model, &options)?;
    if imported.source.opset.is_none() {
        driver::fold_constants(&context, &mut imported)?;
    }
    Ok(mxc_runtime::load::program(&imported.module, &imported.weights)?)
}

/// An array of the input file.
enum Numbers {
    Floats(ArrayD<f32>),
    Integers(ArrayD<i64>),
}

impl Numbers {
    fn shape(&self) -> &[usize] {
        match self {
            Self::Floats(array) => array.shape(),
            Self::Integers(array) => array.shape(),
        }
    }

    /// As the executor wants an input of a type; `None` for floats where integers are wanted.
    fn encode(&self, dtype: DType) -> Option<Vec<f32>> {
        match self {
            Self::Floats(array) => (dtype == DType::F32).then(|| array.iter().copied().collect()),
            Self::Integers(array) => Some(dtype.encode(&array.iter().copied().collect::<Vec<_>>())),
        }
    }
}

/// An array of integers or booleans.
fn integers(reader: &mut NpzReader<File>, name: &str) -> Option<ArrayD<i64>> {
    if let Ok(array) = reader.by_name(name) {
        return Some(array);
    }
    macro_rules! first_of {
        ($($kind:ty),*) => {
            $({
                let array: Result<ArrayD<$kind>, _> = reader.by_name(name);
                if let Ok(array) = array {
                    return Some(array.mapv(i64::from));
                }
            })*
        };
    }
    first_of!(i32, bool, u8, i8, u16, i16, u32);
    None
}

fn read(path: &Path) -> Result<BTreeMap<String, Numbers>, Failure> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    check_npz(path)?;
    let file = File::open(path).map_err(|error| named(&error))?;
    let mut reader = NpzReader::new(file).map_err(|error| named(&error))?;
    let mut arrays = BTreeMap::new();
    for name in reader.names().map_err(|error| named(&error))? {
        let floats: Result<ArrayD<f32>, _> = reader.by_name(&name);
        let array = match floats {
            Ok(array) => Numbers::Floats(array),
            Err(error) => match integers(&mut reader, &name) {
                Some(array) => Numbers::Integers(array),
                None => {
                    let wanted = "f32, integers of up to 64 bits or bool expected";
                    return Err(format!("{}: array '{name}' ({wanted}): {error}", path.display()).into());
                }
            },
        };
        arrays.insert(name.trim_end_matches(".npy").to_owned(), array);
    }
    Ok(arrays)
}

/// The arrays in the order of the program's inputs, and the number of samples.
fn bind(program: &Program, arrays: &BTreeMap<String, Numbers>, path: &Path) -> Result<(Vec<Vec<f32>>, usize), Failure> {
    let mut samples = None;
    let mut inputs = Vec::new();
    for &id in program.inputs() {
        let value = &program.values()[id];
        let array = match (arrays.get(&value.name), arrays.len(), program.inputs().len()) {
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
        let fits = array.shape().len() == value.shape.len()
            && value.shape.iter().zip(array.shape()).all(|(want, have)| want.is_none_or(|want| want == *have));
        // A program without a batch runs on everything at once.
        let whole = !value.shape.contains(&None);
        let count = if whole { 1 } else { array.shape().first().copied().unwrap_or(0) };
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
        inputs.push(array.encode(value.dtype).ok_or_else(|| {
            format!("{}: input '{}' holds floats, but the model wants integers", path.display(), value.name)
        })?);
    }
    Ok((inputs, samples.unwrap_or(1)))
}

/// The outputs' names, shapes and types.
fn outputs(program: &Program, samples: usize) -> Vec<(String, Vec<usize>, DType)> {
    program
        .outputs()
        .iter()
        .enumerate()
        .map(|(index, &id)| {
            let value = &program.values()[id];
            let name = if value.name.is_empty() { format!("output{index}") } else { value.name.clone() };
            (name, value.shape.iter().map(|size| size.unwrap_or(samples)).collect(), value.dtype)
        })
        .collect()
}

fn shape_text(shape: &[Option<usize>]) -> String {
    let sizes: Vec<_> = shape.iter().map(|size| size.map_or("N".to_owned(), |size| size.to_string())).collect();
    format!("[{}]", sizes.join(", "))
}
