//! NumPy archives with samples `x` and labels `y`, which may be missing.

use super::{DataError, Pixels, Samples, memory};
use ndarray::{ArrayD, Ix1};
use ndarray_npy::{NpzReader, ReadNpyError, ReadNpzError, ReadableElement};
use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};
use zip::ZipArchive;

type Reader = NpzReader<BufReader<File>>;

/// The bytes that an array's header may have; it is text that the NumPy reader takes apart recursively.
const MAX_HEADER: usize = 1024;

/// Checks that the arrays of an `.npz` file claim no more elements than they have bytes. To be called before the file is read
/// as arrays: the reader reserves what a header claims.
pub fn check_npz(path: &Path) -> Result<(), DataError> {
    let format = |reason: String| DataError::format(path, reason);
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    let no_archive = |error: zip::result::ZipError| format(format!("not a NumPy archive: {error}"));
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(no_archive)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(no_archive)?;
        let name = entry.name().map_err(|error| format(format!("not a NumPy archive: {error}")))?.into_owned();
        check_array(&mut entry).map_err(|reason| format(format!("`{name}`: {reason}")))?;
    }
    Ok(())
}

fn check_array(entry: &mut impl Read) -> Result<(), String> {
    let mut fill = |bytes: &mut [u8]| entry.read_exact(bytes).map_err(|error| error.to_string());
    let mut start = [0; 8];
    fill(&mut start)?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err("it is not a NumPy array".into());
    }
    // The header's length has two bytes in version 1 of the format, then four.
    let mut length = [0; 4];
    fill(&mut length[..if start[6] == 1 { 2 } else { 4 }])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER {
        return Err(format!("its header of {length} bytes is longer than {MAX_HEADER}"));
    }
    let mut header = vec![0; length];
    fill(&mut header)?;
    let bytes = io::copy(entry, &mut io::sink()).map_err(|error| error.to_string())?;
    let header = String::from_utf8_lossy(&header);
    let shape = match header.split("shape").collect::<Vec<_>>().as_slice() {
        [_, after] => after.split_once('(').and_then(|(_, after)| after.split_once(')')).map(|(sizes, _)| sizes),
        _ => None,
    };
    let mut sizes = shape.ok_or("its header names no shape")?.split(',').map(str::trim).filter(|size| !size.is_empty());
    let elements = sizes.try_fold(1u64, |product, size| product.checked_mul(size.parse().ok()?));
    match elements {
        Some(elements) if elements <= bytes => Ok(()),
        _ => Err("it is truncated: its header claims more than there is".into()),
    }
}

/// Reads an archive's training or test arrays.
pub(super) fn read(path: &Path, training: bool) -> Result<Samples, DataError> {
    check_npz(path)?;
    let format = |reason: String| DataError::format(path, reason);
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    let mut reader =
        NpzReader::new(BufReader::new(file)).map_err(|error| format(format!("not a NumPy archive: {error}")))?;
    let names = reader.names().map_err(|error| format(format!("not a NumPy archive: {error}")))?;
    let split = if training { "train" } else { "test" };
    let pair = [(format!("x_{split}"), format!("y_{split}")), ("x".to_owned(), "y".to_owned())]
        .into_iter()
        .find(|(x, _)| names.contains(x));
    let (x, y) = pair.ok_or_else(|| {
        format(format!("it holds the arrays {names:?} but no x (or x_{split}); labels are y (or y_{split})"))
    })?;
    let labels = if names.contains(&y) { Some(labels(&mut reader, &y).map_err(format)?) } else { None };
    let pixels = if let Some(bytes) = array::<u8>(&mut reader, &x).map_err(format)? {
        let sizes = bytes.shape().to_vec();
        memory::bytes(&sizes, values(bytes)).map_err(|reason| format(format!("`{x}` has {reason}")))?
    } else {
        let floats = match array::<f32>(&mut reader, &x).map_err(format)? {
            Some(floats) => floats,
            None => match array::<f64>(&mut reader, &x).map_err(format)? {
                Some(doubles) => doubles.mapv(|value| value as f32),
                None => {
                    return Err(format(format!(
                        "`{x}` must hold uint8 pixels, or float32 values as the model takes them"
                    )));
                }
            },
        };
        let shape = floats.shape().get(1..).unwrap_or_default().to_vec();
        Pixels::Floats(values(floats), shape)
    };
    let samples = Samples { pixels, labels };
    match &samples.labels {
        Some(labels) if labels.len() != samples.len() => {
            Err(format(format!("`{x}` holds {} samples but `{y}` {} labels", samples.len(), labels.len())))
        }
        _ => Ok(samples),
    }
}

/// An array's values in row-major order.
fn values<T: Clone>(array: ArrayD<T>) -> Vec<T> {
    array.as_standard_layout().iter().cloned().collect()
}

/// An array, or `None` when its elements are of another type.
fn array<T: ReadableElement>(reader: &mut Reader, name: &str) -> Result<Option<ArrayD<T>>, String> {
    match reader.by_name::<ndarray::OwnedRepr<T>, ndarray::IxDyn>(name) {
        Ok(array) => Ok(Some(array)),
        Err(ReadNpzError::Npy(ReadNpyError::WrongDescriptor(_))) => Ok(None),
        Err(error) => Err(format!("`{name}`: {error}")),
    }
}

/// A vector of labels of any integer type.
fn labels(reader: &mut Reader, name: &str) -> Result<Vec<u32>, String> {
    fn read<T: ReadableElement + Copy + TryInto<u32>>(
        reader: &mut Reader,
        name: &str,
    ) -> Result<Option<Vec<u32>>, String> {
        let Some(array) = array::<T>(reader, name)? else {
            return Ok(None);
        };
        // Keras keeps labels as [N, 1].
        let array = match *array.shape() {
            [count, 1] => array.into_shape_with_order(count).map_err(|error| error.to_string())?.into_dyn(),
            _ => array,
        };
        array
            .into_dimensionality::<Ix1>()
            .map_err(|_| format!("`{name}` must have one axis"))?
            .iter()
            .map(|&label| label.try_into().map_err(|_| format!("`{name}` holds a label that is negative or too large")))
            .collect::<Result<_, _>>()
            .map(Some)
    }
    macro_rules! first_of {
        ($($kind:ty),*) => {
            $(if let Some(labels) = read::<$kind>(reader, name)? {
                return Ok(labels);
            })*
        };
    }
    first_of!(i64, u8, i32, u32, u64, i16, u16, i8);
    Err(format!("`{name}` must hold integers"))
}
