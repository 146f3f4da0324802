//! NumPy archives with samples `x` and labels `y`, which may be missing.

use super::{DataError, Layout, Pixels, Samples};
use ndarray::{ArrayD, Ix1};
use ndarray_npy::{NpzReader, ReadNpyError, ReadNpzError, ReadableElement};
use std::{fs::File, io::BufReader, path::Path};

type Reader = NpzReader<BufReader<File>>;

/// Reads an archive's training or test arrays.
pub(super) fn read(path: &Path, training: bool) -> Result<Samples, DataError> {
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
        let (shape, channels_last) = match *sizes.as_slice() {
            [_, height, width] => ([height, width, 1], true),
            // Channels are the axis of 1 or 3, last if both could be.
            [_, height, width, channels @ (1 | 3)] => ([height, width, channels], true),
            [_, channels @ (1 | 3), height, width] => ([height, width, channels], false),
            _ => {
                return Err(format(format!(
                    "`{x}` has shape {sizes:?}; images are [N, H, W], [N, H, W, C] or [N, C, H, W] with 1 or 3 channels"
                )));
            }
        };
        Pixels::Bytes(values(bytes), Layout { shape, channels_last })
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
