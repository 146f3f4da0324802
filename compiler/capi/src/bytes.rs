//! Bytes and text that the library gives out.

use crate::{
    failure::Failure,
    object::{Tag, destroy, handle, optional},
};
use serde::Serialize;
use std::ptr;

/// Bytes, or text.
pub struct mxc_bytes {
    _tag: Tag,
}

handle!(mxc_bytes = Bytes, "bytes");

/// Bytes with a zero byte behind them, so that text is C's.
pub struct Bytes(Vec<u8>);

impl Bytes {
    /// These bytes.
    pub fn new(mut bytes: Vec<u8>) -> Self {
        bytes.push(0);
        Self(bytes)
    }

    /// A value as one JSON object.
    pub fn json(value: &impl Serialize) -> Result<Self, Failure> {
        let text = serde_json::to_vec(value).map_err(|error| Failure::argument(error.to_string()))?;
        Ok(Self::new(text))
    }
}

/// What module is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
#[cfg_attr(not(feature = "compiler"), allow(dead_code, reason = "the header is the same without the compiler"))]
pub enum mxc_format {
    /// MLIR text.
    MXC_FORMAT_TEXT = 1,
    /// MLIR bytecode.
    MXC_FORMAT_BYTECODE = 2,
}

#[cfg(feature = "compiler")]
impl mxc_format {
    /// The format of a number, which a caller may have made of anything.
    pub fn of(number: u32) -> Result<Self, Failure> {
        let found = [Self::MXC_FORMAT_TEXT, Self::MXC_FORMAT_BYTECODE].into_iter().find(|own| *own as u32 == number);
        found.ok_or_else(|| Failure::argument(format!("{number} is no mxc_format")))
    }
}

/// Where they lie; behind the last is a zero byte, so that text can be used as such. They live as long as the handle. Null where this is no
/// handle of bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_bytes_data(bytes: *const mxc_bytes) -> *const u8 {
    optional::<Bytes>(bytes).ok().flatten().map_or(ptr::null(), |bytes| bytes.0.as_ptr())
}

/// How many they are, without the zero byte behind them; 0 where this is no handle of bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_bytes_size(bytes: *const mxc_bytes) -> usize {
    optional::<Bytes>(bytes).ok().flatten().map_or(0, |bytes| bytes.0.len() - 1)
}

/// Frees bytes. Null is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_bytes_destroy(bytes: *mut mxc_bytes) {
    destroy::<Bytes>(bytes);
}
