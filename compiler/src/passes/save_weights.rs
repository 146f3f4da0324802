//! `save-weights`: writes the values of the module's globals as the passes before it left them; changes nothing.
//!
//! ```mlir
//! // load-weights{from=old.safetensors},canonicalize-graph,save-weights{to=new.safetensors}
//! ml_program.global private @conv1.weight(#ml_program.extern) : tensor<4x3x3x3xf32>  // new.safetensors has the folded @conv1.weight
//! ```
//!
//! `mxc opt --output-weights=FILE` does so after the last pass.

use crate::pass::{OptionError, Options, Pass, PassContext, PassError};
use melior::Context;
use mxc_dialects::erase::ModuleMut;
use mxc_runtime::files::{identity, write_atomically};
use std::{fs, path::PathBuf};

/// See the module.
pub struct SaveWeights {
    /// `None` writes nothing.
    to: Option<PathBuf>,
}

impl Pass for SaveWeights {
    const NAME: &'static str = "save-weights";
    const DESCRIPTION: &'static str = "writes the values of the module's globals as the passes before it left them";
    const OPTIONS: &'static [(&'static str, &'static str)] =
        &[("to", "the safetensors file, backbone and denoisers; without one, nothing is written")];

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        Ok(Self { to: options.take("to").map(PathBuf::from) })
    }

    fn run<'c>(&mut self, _: &'c Context, _: &mut ModuleMut<'c, '_>, cx: &mut PassContext) -> Result<(), PassError> {
        let Some(path) = &self.to else {
            return Ok(());
        };
        let is_input = |input: &PathBuf| identity(input).is_some_and(|input| identity(path) == Some(input));
        if cx.weight_files.iter().any(is_input) {
            let message = format!("{}: the weights were read from it, and mxc never replaces an input", path.display());
            return Err(PassError::new(message).hint("give to= another name"));
        }
        let bytes = cx.weights.union(&cx.denoisers).to_safetensors();
        // A device or a pipe is not replaced by a file.
        let is_special = fs::metadata(path).is_ok_and(|there| !there.is_file());
        let written = if is_special { fs::write(path, bytes) } else { write_atomically(path, &bytes) };
        written.map_err(|error| PassError::new(format!("{}: {error}", path.display())))
    }
}
