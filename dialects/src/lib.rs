//! The `analog`, `denoise` and `dtile` MLIR dialects of mxc.
//!
//! The dialects are IRDL (`dialects/irdl`, and [`denoise::irdl`] made from the kinds of denoisers), loaded into a context by [`new_context`]; a stock
//! `mlir-opt --irdl-file=…` given [`irdl_source`] reads the same IR. The modules [`analog`], [`denoise`] and [`dtile`]
//! hold typed views of their operations, [`tosa`] those of TOSA's and of what TOSA lacks, [`noise`] what a noise
//! specification says, [`ir`] what all of them and the passes need of MLIR, [`erase`] the way to erase
//! operations, [`verify`] the checks that IRDL cannot state, [`diagnostic`] what they find, and [`ffi`] the few calls that melior lacks.

pub mod analog;
pub mod denoise;
pub mod diagnostic;
pub mod dtile;
pub mod erase;
pub mod ffi;
pub mod ir;
mod operations;
pub mod origin;
pub mod tosa;
pub mod verify;

pub use mxc_spec::{noise, shape, share};

use melior::{
    Context,
    dialect::{DialectHandle, DialectRegistry},
    ir::Module,
};

const ANALOG: &str = include_str!("../irdl/analog.mlir");
const DTILE: &str = include_str!("../irdl/dtile.mlir");

/// The three IRDL definitions concatenated into one, as `mlir-opt --irdl-file` takes it (it honours only its last occurrence).
pub fn irdl_source() -> String {
    [ANALOG, &denoise::irdl(), DTILE].concat()
}

/// A single-threaded context that knows every dialect mxc reads or writes: `builtin`, `func`, `tosa`, `ml_program`,
/// `quant`, `tensor`, `arith` and the three dialects of this crate. Unknown dialects are refused.
///
/// # Panics
///
/// When the IRDL built into this crate does not load, which the crate's tests exclude.
pub fn new_context() -> Context {
    let registry = DialectRegistry::new();
    for handle in dialects().into_iter().chain([ffi::irdl_handle()]) {
        handle.insert_dialect(&registry);
    }
    let context = Context::new_with_registry(&registry, false);
    context.load_all_available_dialects();
    let loaded =
        Module::parse(&context, &irdl_source()).is_some_and(|module| melior::utility::load_irdl_dialects(&module));
    assert!(loaded, "the IRDL of mxc-dialects is valid");
    context
}

/// MLIR's dialects of which mxc reads and writes operations; those of this crate come from [`irdl_source`].
pub fn dialects() -> [DialectHandle; 6] {
    [
        DialectHandle::func(),
        DialectHandle::tensor(),
        DialectHandle::arith(),
        DialectHandle::quant(),
        ffi::tosa_handle(),
        ffi::ml_program_handle(),
    ]
}

/// Whether a context that somebody else made knows the three dialects of this crate.
pub fn is_loaded(context: &Context) -> bool {
    ["analog.conv2d", "denoise.affine", "dtile.launch"].iter().all(|name| context.is_registered_operation(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_knows_the_dialects() {
        let context = new_context();
        for name in [
            "analog.conv2d",
            "analog.depthwise_conv2d",
            "analog.fully_connected",
            "denoise.paper",
            "tosa.conv2d",
            "ml_program.global",
        ] {
            assert!(context.is_registered_operation(name), "{name}");
        }
        assert!(is_loaded(&context));
        assert!(!is_loaded(&Context::new()));
    }
}
