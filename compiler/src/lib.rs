//! Import, passes, export and the `mxc` command line.

pub mod egraph;
pub mod opt;
pub mod passes;
