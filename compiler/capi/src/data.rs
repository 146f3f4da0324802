//! Samples to calibrate, train and evaluate on.

use crate::{
    arrays::{mxc_dtype, sizes},
    error::{guard, mxc_error},
    failure::Failure,
    object::{Out, Tag, destroy, elements, handle, text},
};
use ::mxc_options::Reading;
use mxc::{Data, Memory};
use std::ffi::{c_char, c_void};

/// Samples to calibrate, train and evaluate on.
pub struct mxc_data {
    _tag: Tag,
}

handle!(mxc_data = Data, "data");

/// The data as a call's options say that it is read.
pub fn reading(data: &Data, options: &Reading) -> Data {
    Data { classes: options.classes.clone(), skip_bad: options.skip_bad, ..data.clone() }
}

/// Names a data set: a folder of MNIST (IDX) or CIFAR files, an `.npz`, or class folders of images. It is read by the calls that use it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_data_from_path(path: *const c_char, out: *mut *mut mxc_data) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Data>::new(out)?;
        out.put(Data::new(text(path, "path of the data")?));
        Ok(())
    })
}

/// Copies samples: `values` is an array of `shape`, whose first size is the number of samples, in row-major order. `dtype` is an mxc_dtype: of MXC_DTYPE_U8 they are
/// images, [N, H, W], [N, H, W, C] or [N, C, H, W] with 1 or 3 channels, which are sized and normalized as compiled; of MXC_DTYPE_F32 they are
/// values as the model takes them. `labels` are so many classes as there are samples, or null. They serve as every split.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_data_from_arrays(
    dtype: u32,
    shape: *const usize,
    rank: usize,
    values: *const c_void,
    labels: *const u32,
    out: *mut *mut mxc_data,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Data>::new(out)?;
        let (shape, count) = sizes(shape, rank)?;
        let labels = match labels.is_null() {
            true => None,
            false => Some(elements(labels, shape.first().copied().unwrap_or(0), "labels")?.to_vec()),
        };
        let memory = match mxc_dtype::of(dtype)? {
            mxc_dtype::MXC_DTYPE_U8 => {
                Memory::bytes(shape, elements(values.cast::<u8>(), count, "values")?.to_vec(), labels)
            }
            mxc_dtype::MXC_DTYPE_F32 => {
                Memory::floats(shape, elements(values.cast::<f32>(), count, "values")?.to_vec(), labels)
            }
            mxc_dtype::MXC_DTYPE_I64 | mxc_dtype::MXC_DTYPE_I32 | mxc_dtype::MXC_DTYPE_BOOL => {
                return Err(Failure::argument("samples are of MXC_DTYPE_U8 or MXC_DTYPE_F32"));
            }
        };
        out.put(Data::in_memory(memory.map_err(Failure::argument)?));
        Ok(())
    })
}

/// Frees data. Null is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_data_destroy(data: *mut mxc_data) {
    destroy::<Data>(data);
}
