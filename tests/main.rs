//! The tests that need more than one crate.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod cli;
mod dtile;
