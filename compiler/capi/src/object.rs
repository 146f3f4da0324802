//! Handles: what C holds of the library's objects, and how pointers of C are read.

use crate::failure::Failure;
use std::{
    ffi::{CStr, c_char},
    marker::PhantomData,
    ptr, slice,
};

/// What stands at the start of every object. A destroyed one has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Tag(u64);

impl Tag {
    const DESTROYED: Self = Self(0);

    /// Of the kind of this name: FNV-1a, by which no two of the names are alike, nor hardly anything else that a pointer may lead to.
    pub const fn of(name: &str) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325;
        let (bytes, mut index) = (name.as_bytes(), 0);
        while index < bytes.len() {
            hash = (hash ^ bytes[index] as u64).wrapping_mul(0x100_0000_01b3);
            index += 1;
        }
        Self(hash)
    }
}

/// Objects that C holds handles of.
pub trait Object: Sized {
    /// The type of its handle.
    type Handle;
    /// Tells the kind; no two have the same.
    const TAG: Tag;
    /// What messages call it.
    const NAME: &str;
}

/// Says what object a handle is of, and what messages call it. The handle's type, of which C has pointers only, is written out beside it for
/// cbindgen, which does not look into macros.
macro_rules! handle {
    ($handle:ident = $object:ty, $name:literal) => {
        impl $crate::object::Object for $object {
            type Handle = $handle;
            const TAG: Tag = Tag::of(stringify!($handle));
            const NAME: &str = $name;
        }
    };
}
pub(crate) use handle;

/// An object as it lies in memory.
#[repr(C)]
struct Tagged<T> {
    tag: Tag,
    value: T,
}

/// The object of a handle; `None` of null.
pub(crate) fn optional<'a, T: Object>(handle: *const T::Handle) -> Result<Option<&'a T>, Failure> {
    let pointer = handle.cast::<Tagged<T>>();
    if pointer.is_null() {
        return Ok(None);
    }
    if !pointer.is_aligned() {
        return Err(Failure::argument(format!("the {} is no handle of this library", T::NAME)));
    }
    // SAFETY: by the entries' contract an object lies there, and every object starts with its tag.
    let tag = unsafe { ptr::read(handle.cast::<Tag>()) };
    if tag != T::TAG {
        let what = if tag == Tag::DESTROYED { "was destroyed" } else { "is a handle of another kind" };
        return Err(Failure::argument(format!("the {} {what}", T::NAME)));
    }
    // SAFETY: the tag says that it is an object of this type; it lives until the caller destroys it.
    Ok(Some(unsafe { &(*pointer).value }))
}

/// The object of a handle, which must not be null.
pub(crate) fn get<'a, T: Object>(handle: *const T::Handle) -> Result<&'a T, Failure> {
    optional::<T>(handle)?.ok_or_else(|| Failure::argument(format!("the {} is null", T::NAME)))
}

/// The object of a handle, to change it: nobody else may use it meanwhile.
pub(crate) fn get_mut<'a, T: Object>(handle: *mut T::Handle) -> Result<&'a mut T, Failure> {
    get::<T>(handle)?;
    // SAFETY: `get` has checked it, and the caller uses it on one thread at a time.
    Ok(unsafe { &mut (*handle.cast::<Tagged<T>>()).value })
}

/// Hands an object over to C.
pub(crate) fn give<T: Object>(value: T) -> *mut T::Handle {
    Box::into_raw(Box::new(Tagged { tag: T::TAG, value })).cast()
}

/// Destroys an object. Null, and what is no object of this kind, is left alone.
pub(crate) fn destroy<T: Object>(handle: *mut T::Handle) {
    if !matches!(optional::<T>(handle), Ok(Some(_))) {
        return;
    }
    // SAFETY: `give` has made it of a box, and it was not destroyed before, as its tag says.
    let mut object = unsafe { Box::from_raw(handle.cast::<Tagged<T>>()) };
    // A volatile write, which is not left out for that the memory is freed: a handle used too late is then mostly told.
    // SAFETY: the tag is the box's own.
    unsafe { ptr::write_volatile(&mut object.tag, Tag::DESTROYED) };
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(object)));
}

/// Where a result goes. It holds null until there is one.
pub(crate) struct Out<'a, T: Object> {
    place: *mut *mut T::Handle,
    life: PhantomData<&'a mut T>,
}

impl<T: Object> Out<'_, T> {
    /// The place that a caller gives.
    pub fn new(place: *mut *mut T::Handle) -> Result<Self, Failure> {
        if place.is_null() {
            return Err(Failure::argument(format!("there is no place for the {}: the pointer to it is null", T::NAME)));
        }
        // SAFETY: by the entries' contract it may be written.
        unsafe { *place = ptr::null_mut() };
        Ok(Self { place, life: PhantomData })
    }

    /// The place that a caller gives if it wants the result; `None` of null.
    #[cfg(feature = "compiler")]
    pub fn optional(place: *mut *mut T::Handle) -> Result<Option<Self>, Failure> {
        if place.is_null() { Ok(None) } else { Self::new(place).map(Some) }
    }

    /// Puts the result there.
    pub fn put(self, value: T) {
        // SAFETY: as in `new`.
        unsafe { *self.place = give(value) };
    }
}

/// The text that a caller gives; `None` of null.
pub(crate) fn optional_text<'a>(text: *const c_char, what: &str) -> Result<Option<&'a str>, Failure> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: by the entries' contract it ends with a zero byte.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|_| Failure::argument(format!("the {what} is not UTF-8")))
}

/// The text that a caller gives.
pub(crate) fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str, Failure> {
    optional_text(text, what)?.ok_or_else(|| Failure::argument(format!("the {what} is null")))
}

/// So many elements of a caller's. Null is allowed where there are none.
pub(crate) fn elements<'a, T>(data: *const T, count: usize, what: &str) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    let bytes = count.checked_mul(size_of::<T>()).filter(|&bytes| isize::try_from(bytes).is_ok());
    if data.is_null() || !data.is_aligned() || bytes.is_none() {
        return Err(Failure::argument(format!("the {what} is null, not aligned or larger than memory")));
    }
    // SAFETY: by the entries' contract so many elements lie there; the pointer is aligned and not null.
    Ok(unsafe { slice::from_raw_parts(data, count) })
}

/// Writes a value where a caller wants it.
pub(crate) fn put<T>(place: *mut T, value: T, what: &str) -> Result<(), Failure> {
    if place.is_null() {
        return Err(Failure::argument(format!("there is no place for the {what}: the pointer to it is null")));
    }
    // SAFETY: by the entries' contract it may be written.
    unsafe { *place = value };
    Ok(())
}
