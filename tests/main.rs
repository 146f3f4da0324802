//! The tests that need more than one crate.

#![allow(missing_docs, clippy::unwrap_used)]

mod calibrate;
mod capi;
mod cli;
mod common;
mod conformance;
mod corrupt;
mod dialects;
mod docs;
mod dtile;
mod embed;
mod export;
mod guide;
mod guide_pass;
mod images;
mod import;
mod inputs;
mod install;
mod kinds;
mod layers;
mod models;
mod onnx_model;
mod packages;
mod passes;
mod peers;
mod plugin;
mod reference;
mod release;
mod shards;
mod special;
mod wheel;
