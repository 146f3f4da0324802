//! Arrays: what networks are run on and what they give.

use crate::{
    error::{guard, mxc_error},
    failure::{Failure, c_text},
    object::{Out, Tag, destroy, elements, get, get_mut, handle, put, text},
};
use mxc::{Array, Values};
use std::ffi::{CString, c_char, c_void};

/// Arrays by name, in order.
pub struct mxc_arrays {
    _tag: Tag,
}

handle!(mxc_arrays = Named, "arrays");

/// What the elements of an array are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum mxc_dtype {
    /// Floating-point numbers of 32 bits.
    MXC_DTYPE_F32 = 1,
    /// Integers of 64 bits.
    MXC_DTYPE_I64 = 2,
    /// Integers of 32 bits.
    MXC_DTYPE_I32 = 3,
    /// Truth values, a byte each: 0 or 1.
    MXC_DTYPE_BOOL = 4,
    /// Bytes: pixels.
    MXC_DTYPE_U8 = 5,
}

impl mxc_dtype {
    /// The type of a number, which a caller may have made of anything.
    pub fn of(number: u32) -> Result<Self, Failure> {
        const ALL: [mxc_dtype; 5] = [
            mxc_dtype::MXC_DTYPE_F32,
            mxc_dtype::MXC_DTYPE_I64,
            mxc_dtype::MXC_DTYPE_I32,
            mxc_dtype::MXC_DTYPE_BOOL,
            mxc_dtype::MXC_DTYPE_U8,
        ];
        let found = ALL.into_iter().find(|dtype| *dtype as u32 == number);
        found.ok_or_else(|| Failure::argument(format!("{number} is no mxc_dtype")))
    }
}

/// An array. What its pointers lead to lives as long as the handle that it was got from.
#[repr(C)]
pub struct mxc_array {
    /// Its name.
    pub name: *const c_char,
    /// What its elements are.
    pub dtype: mxc_dtype,
    /// Its sizes.
    pub shape: *const usize,
    /// How many sizes there are.
    pub rank: usize,
    /// Its elements in row-major order.
    pub values: *const c_void,
}

/// Arrays with their names.
#[derive(Default)]
pub struct Named(Vec<(CString, Array)>);

impl Named {
    /// What a network gave.
    pub fn new(arrays: Vec<(String, Array)>) -> Self {
        Self(arrays.into_iter().map(|(name, array)| (c_text(&name), array)).collect())
    }

    /// As a network takes them.
    pub fn arrays(&self) -> mxc::Arrays {
        self.0.iter().map(|(name, array)| (name.to_string_lossy().into_owned(), array.clone())).collect()
    }
}

/// A shape, and how many elements it holds.
pub fn sizes<'a>(shape: *const usize, rank: usize) -> Result<(&'a [usize], usize), Failure> {
    let shape = elements(shape, rank, "shape")?;
    let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
    Ok((shape, count.ok_or_else(|| Failure::argument(format!("the shape {shape:?} is larger than memory")))?))
}

/// Makes an empty list of arrays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_arrays_create(out: *mut *mut mxc_arrays) -> *mut mxc_error {
    guard(|| {
        Out::<Named>::new(out)?.put(Named::default());
        Ok(())
    })
}

/// Copies an array to the end of the list: as many `values` as `shape` holds, in row-major order, of any mxc_dtype but MXC_DTYPE_U8. Truth values are
/// true where the byte is not 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_arrays_add(
    arrays: *mut mxc_arrays,
    name: *const c_char,
    dtype: u32,
    shape: *const usize,
    rank: usize,
    values: *const c_void,
) -> *mut mxc_error {
    guard(|| {
        let arrays = get_mut::<Named>(arrays)?;
        let name = c_text(text(name, "name of the array")?);
        let (shape, count) = sizes(shape, rank)?;
        const WHAT: &str = "values of the array";
        let values = match mxc_dtype::of(dtype)? {
            mxc_dtype::MXC_DTYPE_F32 => Values::F32(elements(values.cast::<f32>(), count, WHAT)?.to_vec()),
            mxc_dtype::MXC_DTYPE_I64 => Values::I64(elements(values.cast::<i64>(), count, WHAT)?.to_vec()),
            mxc_dtype::MXC_DTYPE_I32 => Values::I32(elements(values.cast::<i32>(), count, WHAT)?.to_vec()),
            mxc_dtype::MXC_DTYPE_BOOL => {
                Values::Bool(elements(values.cast::<u8>(), count, WHAT)?.iter().map(|&byte| byte != 0).collect())
            }
            mxc_dtype::MXC_DTYPE_U8 => return Err(Failure::argument("networks take no arrays of MXC_DTYPE_U8")),
        };
        arrays.0.push((name, Array::new(shape.to_vec(), values)?));
        Ok(())
    })
}

/// How many arrays there are; 0 where this is no handle of arrays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_arrays_count(arrays: *const mxc_arrays) -> usize {
    get::<Named>(arrays).map_or(0, |arrays| arrays.0.len())
}

/// Describes the array at `index`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_arrays_get(
    arrays: *const mxc_arrays,
    index: usize,
    out: *mut mxc_array,
) -> *mut mxc_error {
    guard(|| {
        let arrays = get::<Named>(arrays)?;
        let (name, array) = arrays
            .0
            .get(index)
            .ok_or_else(|| Failure::argument(format!("there is no array {index}: there are {}", arrays.0.len())))?;
        let (dtype, values) = match array.values() {
            Values::F32(values) => (mxc_dtype::MXC_DTYPE_F32, values.as_ptr().cast()),
            Values::I64(values) => (mxc_dtype::MXC_DTYPE_I64, values.as_ptr().cast()),
            Values::I32(values) => (mxc_dtype::MXC_DTYPE_I32, values.as_ptr().cast()),
            Values::Bool(values) => (mxc_dtype::MXC_DTYPE_BOOL, values.as_ptr().cast()),
        };
        let shape = array.shape();
        let described = mxc_array { name: name.as_ptr(), dtype, shape: shape.as_ptr(), rank: shape.len(), values };
        put(out, described, "description")
    })
}

/// The index of the array of a name, or the number of arrays where there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_arrays_find(arrays: *const mxc_arrays, name: *const c_char) -> usize {
    let (Ok(arrays), Ok(name)) = (get::<Named>(arrays), text(name, "name")) else {
        return 0;
    };
    arrays.0.iter().position(|(own, _)| own.to_bytes() == name.as_bytes()).unwrap_or(arrays.0.len())
}

/// Frees arrays. Null is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_arrays_destroy(arrays: *mut mxc_arrays) {
    destroy::<Named>(arrays);
}
