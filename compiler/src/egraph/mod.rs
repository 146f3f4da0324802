//! The e-graph over TOSA that `canonicalize-graph` rewrites.

pub mod mapping;
