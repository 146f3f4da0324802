//! The C library of mxc: what the crate `mxc` does, for callers of any language. Its header is `include/mxc.h`.
//!
//! The contract of every entry, on which the blocks of `unsafe` code here rely:
//!
//! - a handle is null or one that the library gave out and that was not destroyed since; a handle of another kind is told by its tag;
//! - text is null or ends with a zero byte; where a length goes with a pointer, so many elements lie there;
//! - where a result goes is null or may be written;
//! - a callback may be called with its own data, on the thread that made the call, until the call or, where it says so, the handle ends.
//!
//! Nothing unwinds out of an entry: a panic becomes an error of the kind `MXC_ERROR_INTERNAL`.
#![allow(non_camel_case_types, reason = "these are the names of C types")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the contract is the same of every entry: the crate's documentation says it"
)]

pub mod arrays;
pub mod bytes;
#[cfg(feature = "compiler")]
pub mod compiling;
#[cfg(feature = "compiler")]
pub mod context;
#[cfg(feature = "compiler")]
pub mod costs;
pub mod data;
pub mod error;
pub mod failure;
#[cfg(feature = "compiler")]
pub mod model;
pub mod monitor;
pub mod noise;
pub mod object;
pub mod options;
pub mod package;
#[cfg(feature = "compiler")]
pub mod passes;
pub mod session;
pub mod weights;

use std::ffi::{CStr, c_char};

/// The version of this library: major × 65536 + minor. Within a major version functions, error kinds, and fields at the end of structures that
/// callbacks are given may be added; nothing is removed and nothing changes its meaning.
pub const MXC_VERSION: u32 = 1;

/// [`MXC_VERSION`] of the library that is loaded, to compare with that of the header.
#[unsafe(no_mangle)]
pub extern "C" fn mxc_version() -> u32 {
    MXC_VERSION
}

/// The release of mxc, such as `0.1.0`. The text is static.
#[unsafe(no_mangle)]
pub extern "C" fn mxc_release() -> *const c_char {
    const RELEASE: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(text) => text,
        Err(_) => c"",
    };
    RELEASE.as_ptr()
}
