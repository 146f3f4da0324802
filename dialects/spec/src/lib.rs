//! What is said of a network besides its graph, without MLIR: the noise of analog layers, what calibration measures of them, what
//! denoisers compute, and the shapes of matrix-vector multiplications. The dialects, the passes and the runtime share it.

pub mod calibration;
mod declaration;
pub mod denoise;
pub mod execution;
pub mod law;
pub mod noise;
pub mod register;
pub mod shape;
pub mod share;
pub mod tile;
