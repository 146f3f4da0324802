//! The compiler of mxc: import, passes, export.

pub mod driver;
pub mod egraph;
pub mod export;
pub mod files;
pub mod import;
pub mod load;
pub mod measuring;
pub mod opt;
pub mod pass;
pub mod passes;
pub mod placement;
pub mod tile;
