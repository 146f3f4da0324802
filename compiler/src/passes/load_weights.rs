//! `load-weights`: gives the passes behind it the values of the module's globals; changes nothing.
//!
//! ```mlir
//! // load-weights{from=model.mxa}
//! ml_program.global private @conv1.weight(#ml_program.extern) : tensor<4x3x3x3xf32>  // @conv1.weight has values from here on
//! ```
//!
//! `mxc opt --weights=FILE` does so before the first pass. Where another program drives the passes, such as `mlir-opt`, this is how
//! they get weights.

use crate::pass::{OptionError, Options, Pass, PassContext, PassError};
use melior::Context;
use mxc_dialects::erase::ModuleMut;
use std::path::PathBuf;

/// See the module.
pub struct LoadWeights {
    /// `None` reads nothing.
    from: Option<PathBuf>,
}

impl Pass for LoadWeights {
    const NAME: &'static str = "load-weights";
    const DESCRIPTION: &'static str = "reads the values of the module's globals for the passes behind it";
    const OPTIONS: &'static [(&'static str, &'static str)] =
        &[("from", "the file that holds them, .safetensors or a package .mxa; without one, nothing is read")];

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        Ok(Self { from: options.take("from").map(PathBuf::from) })
    }

    fn run<'c>(&mut self, _: &'c Context, _: &mut ModuleMut<'c, '_>, cx: &mut PassContext) -> Result<(), PassError> {
        self.from.as_ref().map_or(Ok(()), |path| cx.load_weights("from", path))
    }
}
