//! mxc as a library: compiles trained networks for noisy analog accelerators and simulates them.

pub use mxc_compiler as compiler;
pub use mxc_dialects as dialects;
pub use mxc_runtime as runtime;
