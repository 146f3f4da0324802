//! The engine's own compute kernels, on one sample's plain NHWC values. Each is compiled for several instruction sets
//! and picked at run time; none starts threads.

pub mod broadcast;
pub mod depthwise;
pub mod elementwise;
pub mod gemm;
pub mod indexed;
pub mod layout;
pub mod noise;
pub mod pool;
pub mod sample;

/// `a·b + c`: fused where the instruction set has it (chosen by the multiversioned caller), else in two roundings.
#[inline(always)]
pub(crate) fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}
