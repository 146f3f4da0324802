//! `mxc opt`: runs passes by name, as `mlir-opt` does.
