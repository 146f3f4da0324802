//! Errors as objects, and the guard around every entry.

use crate::{
    failure::{Failure, mxc_error_kind},
    object::{Tag, destroy, give, handle, optional},
};
use std::{
    ffi::{CString, c_char},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
};

/// Why a call failed.
pub struct mxc_error {
    _tag: Tag,
}

handle!(mxc_error = Failure, "error");

/// Does an entry's work: null, or the error of it. A panic goes no further.
pub fn guard(work: impl FnOnce() -> Result<(), Failure>) -> *mut mxc_error {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => ptr::null_mut(),
        Ok(Err(failure)) => give(failure),
        Err(payload) => {
            let failure = Failure::panic(&*payload);
            // What was thrown may itself throw when it is dropped.
            std::mem::forget(payload);
            give(failure)
        }
    }
}

/// Its kind; `MXC_ERROR_ARGUMENT` where this is no error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_error_get_kind(error: *const mxc_error) -> mxc_error_kind {
    let found = optional::<Failure>(error).ok().flatten();
    found.map_or(mxc_error_kind::MXC_ERROR_ARGUMENT, |failure| failure.kind)
}

/// The message: what is wrong with which file, node, layer or option. It lives as long as the error; null where this is no error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_error_message(error: *const mxc_error) -> *const c_char {
    optional::<Failure>(error).ok().flatten().map_or(ptr::null(), |failure| failure.message.as_ptr())
}

/// How to mend it, or null where the message says all. It lives as long as the error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_error_hint(error: *const mxc_error) -> *const c_char {
    optional_part(error, |failure| failure.hint.as_ref())
}

/// The location of the operation that it is about, which names the source's node, or null. It lives as long as the error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_error_location(error: *const mxc_error) -> *const c_char {
    optional_part(error, |failure| failure.location.as_ref())
}

fn optional_part(error: *const mxc_error, part: impl Fn(&Failure) -> Option<&CString>) -> *const c_char {
    let found = optional::<Failure>(error).ok().flatten();
    found.and_then(part).map_or(ptr::null(), |text| text.as_ptr())
}

/// Frees an error. Null is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_error_destroy(error: *mut mxc_error) {
    destroy::<Failure>(error);
}
