//! Where egg works on the network and its denoisers: the graph rewrites of `canonicalize-graph`, and what is left of a denoiser
//! where some of its terms are zero ([`denoiser`]).
//!
//! `@main` is read into an e-graph ([`import`]), [`rules`] add equal forms until nothing new is found, [`extract`]
//! picks the cheapest program, [`export`] writes it back. The values of weights never enter: constants are leaves,
//! and what folding does to them is symbolic ([`language::Fold`]) until the program is chosen; only then [`fold`]
//! computes the tensors that are left, in f64.

pub mod analysis;
pub mod denoiser;
pub mod export;
pub mod extract;
pub mod facts;
pub mod fold;
pub mod grouped;
pub mod import;
pub mod language;
pub mod origins;
pub mod rules;

use melior::ir::{OperationRef, operation::OperationLike};
use mxc_dialects::ir;

/// The numbers of a `tosa.const_shape`.
pub fn shape_values(operation: &OperationRef<'_, '_>) -> Option<Vec<i64>> {
    (ir::op_name(operation) == "tosa.const_shape")
        .then(|| operation.attribute("values").ok())
        .flatten()
        .and_then(ir::dense_integers)
}

#[cfg(test)]
mod tests;
