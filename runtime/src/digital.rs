//! The digital tile.

pub mod fixed;
pub mod gaussian;
pub mod lfsr;
