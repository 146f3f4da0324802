//! Weights of a caller, which stay where they are.

use crate::{
    arrays::sizes,
    error::{guard, mxc_error},
    failure::Failure,
    object::{Out, Tag, destroy, elements, get_mut, handle, text},
};
use mxc::{Bytes, Weight, WeightStore};
use std::{
    collections::BTreeMap,
    ffi::{c_char, c_void},
};

/// Weights of a caller.
pub struct mxc_weights {
    _tag: Tag,
}

handle!(mxc_weights = Weights, "weights");

/// Is told that memory which a caller has lent is used no more. On any thread, once.
pub type mxc_release_callback = Option<unsafe extern "C" fn(user: *mut c_void)>;

/// Weights by the name of their global, and external data files of an ONNX model by location.
#[derive(Default)]
pub struct Weights {
    /// The values of a module's globals.
    pub store: WeightStore,
    /// External data files.
    pub files: BTreeMap<String, Bytes>,
}

/// Memory that a caller has lent.
struct Lent {
    data: &'static [u8],
    release: mxc_release_callback,
    user: *mut c_void,
}

// SAFETY: the memory is only read until it is given back, and the contract of the callback is that any thread may call it.
unsafe impl Send for Lent {}
// SAFETY: as above.
unsafe impl Sync for Lent {}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.data
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: by the entries' contract it may be called with its own data; this is the only time.
            unsafe { release(self.user) }
        }
    }
}

/// Takes the loan: from here on the memory is given back by the callback, also where something fails.
fn lend(
    data: *const c_void,
    bytes: usize,
    (release, user): (mxc_release_callback, *mut c_void),
) -> Result<Bytes, Failure> {
    Ok(Bytes::new(Lent { data: elements(data.cast(), bytes, "weights' memory")?, release, user }))
}

/// Makes an empty set of weights.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_weights_create(out: *mut *mut mxc_weights) -> *mut mxc_error {
    guard(|| {
        Out::<Weights>::new(out)?.put(Weights::default());
        Ok(())
    })
}

/// Adds the values of a global of an MLIR module: as many floats as `shape` holds. They are not copied: the memory must stay as it is until
/// `release` is called with `user`, when the last object that needs it is gone. Where the call fails, `release` is not called.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_weights_add(
    weights: *mut mxc_weights,
    name: *const c_char,
    shape: *const usize,
    rank: usize,
    values: *const f32,
    release: mxc_release_callback,
    user: *mut c_void,
) -> *mut mxc_error {
    guard(|| {
        let weights = get_mut::<Weights>(weights)?;
        let name = text(name, "name of the weight")?;
        let (shape, count) = sizes(shape, rank)?;
        elements(values, count, "values of the weight")?;
        let bytes = lend(values.cast(), count * size_of::<f32>(), (release, user))?;
        if let Some(weight) = Weight::mapped(shape.to_vec(), bytes, 0) {
            weights.store.insert(name, weight);
        }
        Ok(())
    })
}

/// Adds an external data file of an ONNX model, by the location that the model's tensors name. It is not copied, as by mxc_weights_add, and not
/// needed any more once the model is imported and the weights are destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_weights_add_file(
    weights: *mut mxc_weights,
    location: *const c_char,
    data: *const c_void,
    size: usize,
    release: mxc_release_callback,
    user: *mut c_void,
) -> *mut mxc_error {
    guard(|| {
        let weights = get_mut::<Weights>(weights)?;
        let location = text(location, "location of the file")?.to_owned();
        weights.files.insert(location, lend(data, size, (release, user))?);
        Ok(())
    })
}

/// Frees the set; memory that models or packages still need is given back when they are gone. Null is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_weights_destroy(weights: *mut mxc_weights) {
    destroy::<Weights>(weights);
}
