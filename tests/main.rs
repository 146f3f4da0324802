//! The tests that need more than one crate.

#![allow(missing_docs, clippy::unwrap_used)]

mod cli;
mod common;
mod export;
mod import;
mod onnx_model;
mod reference;
