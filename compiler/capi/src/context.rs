//! MLIR contexts, which several handles may share.

use mxc::Context;
use std::{
    mem::ManuallyDrop,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A context. MLIR lets one thread at a time use what belongs to it, whichever handles that is of.
struct Shared {
    context: Context,
    turn: Mutex<()>,
}

// SAFETY: only who holds `turn` uses the context or what belongs to it.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What belongs to a context, with the context.
pub struct Within<T> {
    value: ManuallyDrop<T>,
    shared: Arc<Shared>,
}

impl<T> Within<T> {
    /// What `make` makes in a context of its own.
    pub fn new<E>(make: impl FnOnce(&'static Context) -> Result<T, E>) -> Result<Self, E> {
        let shared = Arc::new(Shared { context: Context::new(), turn: Mutex::new(()) });
        // SAFETY: the context lies behind the `Arc`, which whatever refers to it is kept beside and dropped before.
        let context: &'static Context = unsafe { &*std::ptr::from_ref(&shared.context) };
        let value = make(context)?;
        Ok(Self { value: ManuallyDrop::new(value), shared })
    }

    /// What `use_it` makes of it; other threads wait.
    pub fn with<R>(&self, use_it: impl FnOnce(&T) -> R) -> R {
        let _turn = self.shared.turn();
        use_it(&self.value)
    }

    /// The same of what changes it.
    pub fn with_mut<R>(&mut self, use_it: impl FnOnce(&mut T) -> R) -> R {
        let _turn = self.shared.turn();
        use_it(&mut self.value)
    }

    /// What `make` makes of it in the same context.
    pub fn make<U, E>(&self, make: impl FnOnce(&T) -> Result<U, E>) -> Result<Within<U>, E> {
        let value = self.with(make)?;
        Ok(Within { value: ManuallyDrop::new(value), shared: self.shared.clone() })
    }
}

impl<T> Drop for Within<T> {
    fn drop(&mut self) {
        let _turn = self.shared.turn();
        // SAFETY: this is the only time, and nobody sees the value after it.
        unsafe { ManuallyDrop::drop(&mut self.value) }
    }
}
