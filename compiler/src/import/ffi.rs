//! What melior lacks for import. The only `unsafe` code of this folder.

use melior::ir::operation::{OperationLike, OperationRefMut};

/// Removes an operation from its block and destroys it (melior's `remove_from_parent` leaks it, uses and all). The caller has
/// made sure that nothing uses its results and keeps no reference to it.
pub(super) fn erase(operation: OperationRefMut<'_, '_>) {
    // SAFETY: the reference is alive by its lifetime and consumed here; MLIR unlinks the operation before destroying it.
    unsafe { mlir_sys::mlirOperationDestroy(operation.to_raw()) }
}
