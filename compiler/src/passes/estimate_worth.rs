//! `estimate-worth`: measures what denoisers would take away of the loss behind every analog layer.
//!
//! ```mlir
//! %1 = "analog.conv2d"(…) {layer = "conv1", calibration = {…}, …}
//! // becomes
//! %1 = "analog.conv2d"(…) {layer = "conv1", calibration = {…}, worth = {affine = 0.1 : f64, mean = 0.2 : f64,
//!   "mean+affine" = 0.25 : f64}, …}
//! ```
//!
//! The numbers are nats of the distillation loss, to second order (`runtime/src/closed_form/worth.rs`): the curvature of the loss times
//! the noise power that a denoiser fitted in closed form removes. `insert-denoisers{placement=worth}` reads them. Choices of
//! more parameters than `budget` are left out.

use crate::{
    measuring::{self, Few, Measuring},
    pass::{OptionError, Options, Pass, PassContext, PassError, constants::backbone_parameters},
    placement::{self, Kinds},
};
use melior::{Context, ir::operation::OperationMutLike};
use mxc_dialects::{
    analog::{self, AnalogOp},
    erase::ModuleMut,
    ffi, ir,
};
use mxc_runtime::closed_form::worth;

/// See the module.
pub struct EstimateWorth {
    measuring: Measuring,
    budget: f64,
    kinds: Kinds,
}

impl Pass for EstimateWorth {
    const NAME: &'static str = "estimate-worth";
    const DESCRIPTION: &'static str = "measures what denoisers would take away of the loss behind every analog layer";
    const OPTIONS: &'static [(&'static str, &'static str)] = &[
        ("budget", "parameters allowed, of the backbone's (default 4%): choices of more are not measured"),
        ("kind", "the kinds to measure: any (default), or as for insert-denoisers"),
        Few::Choosing.options()[0],
        measuring::OPTIONS[0],
        measuring::OPTIONS[1],
        measuring::OPTIONS[2],
    ];

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        Ok(Self {
            budget: placement::take_budget(options)?,
            kinds: placement::take_kinds(options, Kinds::ANY)?,
            measuring: Measuring::few(Few::Choosing, options)?,
        })
    }

    fn run<'c>(
        &mut self,
        context: &'c Context,
        module: &mut ModuleMut<'c, '_>,
        cx: &mut PassContext,
    ) -> Result<(), PassError> {
        let layers = AnalogOp::all(module);
        measuring::check_calibrated(layers.iter().filter(|op| op.is_noisy()), Self::NAME)?;
        let most = placement::allowance(self.budget, backbone_parameters(module));
        let mut ready = self.measuring.ready(module, cx)?;
        if !ready.has_data(Self::NAME, cx) {
            return Ok(());
        }
        let choices = self.kinds.choices();
        let worths = ready.choose(cx, |executor, batch, seed, stopped| {
            worth::measure(executor, batch, &choices, most, seed, stopped)
        })?;
        let by_name = ready.by_layer(worths);
        for op in layers {
            let worths = by_name.get(&op.layer()).map_or(&[][..], Vec::as_slice);
            let entries: Vec<(String, _)> =
                worths.iter().map(|worth| (placement::join(&worth.kinds), ir::float(context, worth.loss))).collect();
            let entries: Vec<(&str, _)> = entries.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            ffi::as_mut(op.operation()).set_attribute(analog::WORTH, ir::dictionary(context, &entries));
        }
        Ok(())
    }
}
