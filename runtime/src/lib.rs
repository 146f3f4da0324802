//! The runtime of mxc: everything that executes.
//!
//! A module at any level is read once into a [`program::Program`] ([`load`]), which the [`exec`] executor turns into a
//! plan and runs for many batches.

// Tests share helpers with examples, which name the crate from outside.
#[cfg(test)]
extern crate self as mxc_runtime;

pub mod closed_form;
pub mod cost;
pub mod crossbar;
pub mod data;
pub mod digital;
pub mod equalize;
pub mod error;
pub mod evaluate;
pub mod exec;
pub mod execution;
pub mod files;
pub mod finetune;
pub mod hardware;
pub mod kernels;
pub mod knapsack;
pub mod law;
pub mod measure;
pub mod onednn;
mod ops;
pub mod package;
pub mod panics;
mod plan;
pub mod program;
pub mod ranks;
pub mod rng;
pub mod search;
pub mod store;
mod sync;
pub mod task;
