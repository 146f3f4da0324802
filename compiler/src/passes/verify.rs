//! `verify`: the checks that IRDL cannot state (shape relations, names, dictionaries, globals); changes nothing.
//!
//! ```mlir
//! // error: analog.conv2d "conv1": the bias is [4] but there are 8 output channels
//! %1 = "analog.conv2d"(%x, %w, %b) {layer = "conv1", …} : (…, tensor<8x3x3x3xf32>, tensor<4xf32>) -> …
//! ```

use crate::pass::{OptionError, Options, Pass, PassContext, PassError};
use melior::Context;
use mxc_dialects::erase::ModuleMut;

/// See the module.
pub struct Verify;

impl Pass for Verify {
    const NAME: &'static str = "verify";
    const DESCRIPTION: &'static str = "checks what IRDL cannot state";

    fn from_options(_: &mut Options) -> Result<Self, OptionError> {
        Ok(Self)
    }

    fn run<'c>(
        &mut self,
        _: &'c Context,
        module: &mut ModuleMut<'c, '_>,
        _: &mut PassContext,
    ) -> Result<(), PassError> {
        mxc_dialects::verify::verify(module).map_err(PassError::invalid)
    }
}
