//! `fit-denoisers`: gives denoisers their weights in closed form, from samples without labels.
//!
//! ```mlir
//! %1 = "analog.conv2d"(…) {layer = "conv1", …}
//! %2 = "denoise.affine"(%1, %scale, %shift) {layer = "conv1"}
//! // stays as it is: @"denoise.conv1.scale" and @"denoise.conv1.shift" get other values
//! ```
//!
//! How they are fitted is in `runtime/src/closed_form/mod.rs`: layer by layer through the noisy network, affines to the clean network's
//! moments, blocks to its values.

use crate::{
    measuring::{Few, Measuring},
    pass::{OptionError, Options, Pass, PassContext, PassError},
};
use melior::Context;
use mxc_dialects::{denoise::Denoiser, erase::ModuleMut};
use mxc_runtime::closed_form;

/// See the module.
pub struct FitDenoisers(Measuring);

impl Pass for FitDenoisers {
    const NAME: &'static str = "fit-denoisers";
    const DESCRIPTION: &'static str = "fits denoisers to the clean network's outputs in closed form";
    const OPTIONS: &'static [(&'static str, &'static str)] = Few::Fitting.options();

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        Measuring::few(Few::Fitting, options).map(Self)
    }

    fn run<'c>(
        &mut self,
        _: &'c Context,
        module: &mut ModuleMut<'c, '_>,
        cx: &mut PassContext,
    ) -> Result<(), PassError> {
        if Denoiser::all(module).is_empty() {
            return Ok(());
        }
        let mut ready = self.0.ready(module, cx)?;
        if !ready.has_data(Self::NAME, cx) {
            return Ok(());
        }
        cx.reports.fitted = Some(ready.choose(cx, closed_form::fit)?);
        let weights = ready.executor.trained().map_err(|error| PassError::new(error.to_string()))?;
        cx.denoisers = cx.denoisers.union(&weights);
        Ok(())
    }
}
