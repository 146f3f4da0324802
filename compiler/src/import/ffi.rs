//! What melior lacks for import. The only `unsafe` code of this folder.

use melior::ir::OperationRef;

/// Removes an operation from its block and destroys it (melior's `remove_from_parent` leaks it, uses and all). The caller has
/// made sure that nothing uses its results and keeps no reference to it.
pub(super) fn erase(operation: OperationRef<'_, '_>) {
    // SAFETY: the operation is alive by its lifetime; MLIR unlinks it from its block before destroying it.
    unsafe { mlir_sys::mlirOperationDestroy(operation.to_raw()) }
}
