//! TODO

pub mod import;
