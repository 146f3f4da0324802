//! `quiet-layers`: takes the noise from every analog layer but those that match a glob, to see what these cause alone.
//!
//! ```mlir
//! // quiet-layers{keep=conv1}
//! %2 = "analog.conv2d"(…) {layer = "conv2", noise = {spec = "gaussian(sigma=6%)", …}, …}
//! // becomes
//! %2 = "analog.conv2d"(…) {layer = "conv2", noise = {spec = "gaussian(sigma=0%)", …}, …}
//! ```

use melior::{
    Context,
    ir::operation::{OperationLike, OperationMutLike},
};
use mxc_compiler::pass::{OptionError, Options, Pass, PassContext, PassError};
use mxc_dialects::{
    analog::{AnalogOp, NOISE},
    erase::ModuleMut,
    ffi,
    ir::DictionaryValue,
    noise::NoiseSpec,
};

/// See the module.
pub struct QuietLayers {
    keep: String,
}

impl Pass for QuietLayers {
    const NAME: &'static str = "quiet-layers";
    const DESCRIPTION: &'static str = "takes the noise from all layers but one";
    const OPTIONS: &'static [(&'static str, &'static str)] = &[("keep", "the layer that stays noisy")];

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        let keep = options.take("keep").ok_or_else(|| OptionError("option keep= is missing".into()))?;
        Ok(Self { keep })
    }

    fn run<'c>(
        &mut self,
        context: &'c Context,
        module: &mut ModuleMut<'c, '_>,
        _cx: &mut PassContext,
    ) -> Result<(), PassError> {
        let layers = AnalogOp::all(module);
        if !layers.iter().any(|layer| layer.layer() == self.keep) {
            let names: Vec<_> = layers.iter().map(|layer| layer.layer()).collect();
            return Err(PassError::new(format!("no analog layer '{}'", self.keep))
                .hint(format!("the layers are {}", names.join(", "))));
        }
        for layer in layers.into_iter().filter(|layer| layer.layer() != self.keep) {
            let operation = layer.operation();
            let mut noise = layer.noise().map_err(|error| PassError::new(error).at(operation.location()))?;
            noise.spec = NoiseSpec::gaussian(0.0);
            ffi::as_mut(operation).set_attribute(NOISE, noise.to_attribute(context));
        }
        Ok(())
    }
}
