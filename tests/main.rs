//! The tests that need more than one crate.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod cli;
mod docs;
mod guide;
mod guide_pass;
