//! Arrays: what networks are run on, and NumPy's files of them.

use crate::Error;
use mxc_runtime::{
    data::check_npz,
    program::{DType, Program},
};
use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{NpzReader, NpzWriter};
use std::{collections::BTreeMap, fs::File, io::Cursor, path::Path};

/// The elements of an array, in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Floating-point numbers.
    F32(Vec<f32>),
    /// Integers of 64 bits.
    I64(Vec<i64>),
    /// Integers of 32 bits.
    I32(Vec<i32>),
    /// Truth values.
    Bool(Vec<bool>),
}

impl Values {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::Bool(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An array with its shape.
///
/// ```
/// let array = mxc::Array::new(vec![2, 3], mxc::Values::F32(vec![0.0; 6])).unwrap();
/// assert_eq!(array.shape(), [2, 3]);
/// assert!(mxc::Array::new(vec![2, 3], mxc::Values::F32(vec![0.0; 5])).is_err());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    shape: Vec<usize>,
    values: Values,
}

impl Array {
    /// An array of a shape.
    ///
    /// # Errors
    ///
    /// [`Error::Arrays`] where the shape holds another number of elements.
    pub fn new(shape: Vec<usize>, values: Values) -> Result<Self, Error> {
        let size = shape.iter().try_fold(1usize, |size, &next| size.checked_mul(next));
        if size == Some(values.len()) {
            return Ok(Self { shape, values });
        }
        Err(Error::Arrays(format!("{} values for the shape {shape:?}", values.len())))
    }

    /// Its sizes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its elements.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// As the executor wants an input of a type; `None` for floats where integers are wanted.
    fn encode(&self, dtype: DType) -> Option<Vec<f32>> {
        match &self.values {
            Values::F32(values) => (dtype == DType::F32).then(|| values.clone()),
            Values::I64(values) => Some(dtype.encode(values)),
            Values::I32(values) => Some(dtype.encode(&values.iter().copied().map(i64::from).collect::<Vec<_>>())),
            Values::Bool(values) => Some(dtype.encode(&values.iter().copied().map(i64::from).collect::<Vec<_>>())),
        }
    }
}

/// Arrays by name.
pub type Arrays = BTreeMap<String, Array>;

/// The arrays in the order of the program's inputs, and the number of samples.
pub(crate) fn bind(program: &Program, arrays: &Arrays) -> Result<(Vec<Vec<f32>>, usize), Error> {
    let mut samples = None;
    let mut inputs = Vec::new();
    for &id in program.inputs() {
        let value = &program.values()[id];
        let only = || arrays.values().next().filter(|_| arrays.len() == 1 && program.inputs().len() == 1);
        let array = arrays.get(&value.name).or_else(only).ok_or_else(|| {
            let names: Vec<_> = arrays.keys().map(String::as_str).collect();
            Error::Arrays(format!("no array '{}' for the model's input; it holds {}", value.name, names.join(", ")))
        })?;
        let fits = array.shape().len() == value.shape.len()
            && value.shape.iter().zip(array.shape()).all(|(want, have)| want.is_none_or(|want| want == *have));
        // A program without a batch runs on everything at once.
        let whole = !value.shape.contains(&None);
        let count = if whole { 1 } else { array.shape().first().copied().unwrap_or(0) };
        if !fits || samples.is_some_and(|samples| samples != count) {
            return Err(Error::Arrays(format!(
                "input '{}' has shape {:?}, but the model wants {}",
                value.name,
                array.shape(),
                shape_text(&value.shape)
            )));
        }
        samples = Some(count);
        inputs.push(array.encode(value.dtype).ok_or_else(|| {
            Error::Arrays(format!("input '{}' holds floats, but the model wants integers", value.name))
        })?);
    }
    Ok((inputs, samples.unwrap_or(1)))
}

/// The program's outputs, by their names or, without one, `output0`, `output1`, …
pub(crate) fn outputs(
    program: &Program,
    samples: usize,
    results: Vec<Vec<f32>>,
) -> Result<Vec<(String, Array)>, Error> {
    let named = program.outputs().iter().zip(results).enumerate();
    named
        .map(|(index, (&id, values))| {
            let value = &program.values()[id];
            let name = if value.name.is_empty() { format!("output{index}") } else { value.name.clone() };
            let shape = value.shape.iter().map(|size| size.unwrap_or(samples)).collect();
            let integers = || value.dtype.decode(&values);
            let values = match value.dtype {
                DType::I64 => Values::I64(integers()),
                DType::I32 => Values::I32(integers().into_iter().map(|value| value as i32).collect()),
                DType::Bool => Values::Bool(integers().into_iter().map(|value| value != 0).collect()),
                DType::F32 => Values::F32(values),
            };
            Ok((name, Array::new(shape, values)?))
        })
        .collect()
}

fn shape_text(shape: &[Option<usize>]) -> String {
    let sizes: Vec<_> = shape.iter().map(|size| size.map_or("N".to_owned(), |size| size.to_string())).collect();
    format!("[{}]", sizes.join(", "))
}

/// Reads the arrays of a NumPy archive (`.npz`): f32, integers of up to 64 bits (which become i64) and bool.
///
/// # Errors
///
/// [`Error::Data`] where it is no such archive, [`Error::Arrays`] where an array is of another type; both name the file.
pub fn read_npz(path: &Path) -> Result<Arrays, Error> {
    let named = |error: &dyn std::fmt::Display| Error::Arrays(format!("{}: {error}", path.display()));
    check_npz(path)?;
    let file = File::open(path).map_err(Error::io(path))?;
    let mut reader = NpzReader::new(file).map_err(|error| named(&error))?;
    let mut arrays = Arrays::new();
    for name in reader.names().map_err(|error| named(&error))? {
        let floats: Result<ArrayD<f32>, _> = reader.by_name(&name);
        let (shape, values) = match floats {
            Ok(array) => (array.shape().to_vec(), Values::F32(array.iter().copied().collect())),
            Err(error) => match integers(&mut reader, &name) {
                Some(array) => (array.shape().to_vec(), Values::I64(array.iter().copied().collect())),
                None => {
                    let wanted = "f32, integers of up to 64 bits or bool expected";
                    return Err(named(&format!("array '{name}' ({wanted}): {error}")));
                }
            },
        };
        arrays.insert(name.trim_end_matches(".npy").to_owned(), Array::new(shape, values)?);
    }
    Ok(arrays)
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

/// The bytes of a NumPy archive (`.npz`) of arrays, in their order.
///
/// ```
/// let array = mxc::Array::new(vec![2], mxc::Values::F32(vec![1.0, 2.0])).unwrap();
/// let bytes = mxc::npz_bytes(&[("x".to_owned(), array)]).unwrap();
/// assert_eq!(&bytes[..2], b"PK");
/// ```
///
/// # Errors
///
/// [`Error::Arrays`] where two have the same name.
pub fn npz_bytes(arrays: &[(String, Array)]) -> Result<Vec<u8>, Error> {
    fn add<T: ndarray_npy::WritableElement + Clone>(
        writer: &mut NpzWriter<&mut Cursor<Vec<u8>>>,
        name: &str,
        shape: &[usize],
        values: &[T],
    ) -> Result<(), Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Arrays(format!("array '{name}': {error}"));
        let array = ArrayD::from_shape_vec(IxDyn(shape), values.to_vec()).map_err(|error| failed(&error))?;
        writer.add_array(name, &array).map_err(|error| failed(&error))
    }
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = NpzWriter::new(&mut bytes);
    for (name, Array { shape, values }) in arrays {
        match values {
            Values::F32(values) => add(&mut writer, name, shape, values)?,
            Values::I64(values) => add(&mut writer, name, shape, values)?,
            Values::I32(values) => add(&mut writer, name, shape, values)?,
            Values::Bool(values) => add(&mut writer, name, shape, values)?,
        }
    }
    writer.finish().map_err(|error| Error::Arrays(error.to_string()))?;
    Ok(bytes.into_inner())
}
