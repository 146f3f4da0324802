//! A safe wrapper of the few oneDNN primitives that the engine uses.
//!
//! Convolutions run on one sample at a time over plain NHWC activations: measured as fast as a batch of 16 and as the
//! blocked layouts (except depthwise ones, which have kernels of their own), it keeps a sample's activations in cache
//! and makes its result independent of the batch that it came in.

mod ffi;

pub use ffi::{BoundConvolution, Convolution, Direction, Engine, Error, Geometry, OneThread, Stream, instruction_sets};
