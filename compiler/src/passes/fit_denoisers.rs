//! `fit-denoisers`: gives denoisers their weights in closed form, from samples without labels.
//!
//! ```mlir
//! %1 = "analog.conv2d"(…) {layer = "conv1", …}
//! %2 = "denoise.affine"(%1, %scale, %shift) {layer = "conv1"}
//! // stays as it is: @"denoise.conv1.scale" and @"denoise.conv1.shift" get other values
//! ```
//!
//! How they are fitted is in `runtime/src/closed_form.rs`: layer by layer through the noisy network, to the clean network's moments.
//! Affines are fitted; blocks keep their weights.

use crate::{
    measuring::{self, Measuring},
    pass::{OptionError, Options, Pass, PassContext, PassError},
};
use melior::Context;
use mxc_dialects::{denoise::Denoiser, erase::ModuleMut};
use mxc_runtime::{closed_form, store::Weight};

/// Enough that a network of ImageNet's size takes seconds.
const SAMPLES: usize = 128;

/// See the module.
pub struct FitDenoisers(Measuring);

impl Pass for FitDenoisers {
    const NAME: &'static str = "fit-denoisers";
    const DESCRIPTION: &'static str = "fits denoisers to the clean network's outputs in closed form";
    const OPTIONS: &'static [(&'static str, &'static str)] = &[
        ("samples", "samples to run, half of them to judge by (default 128)"),
        measuring::OPTIONS[0],
        measuring::OPTIONS[1],
        measuring::OPTIONS[2],
    ];

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        let mut measuring = Measuring::from_options(options)?;
        measuring.samples.get_or_insert(SAMPLES);
        Ok(Self(measuring))
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
        if ready.synthetic {
            cx.warnings.push("fit-denoisers: there are no data, so that nothing is chosen".to_owned());
            return Ok(());
        }
        let seed = ready.seed;
        let stopped = || cx.is_stopped();
        let fitted = ready.run(|executor, batch| closed_form::fit(executor, batch, seed, &stopped));
        measuring::unless_stopped(cx)?;
        cx.reports.fitted = Some(fitted.map_err(|error| PassError::new(error.to_string()))?);
        let executor = &ready.executor;
        let values = executor.program().values().iter().enumerate();
        for (id, value) in values.filter(|(_, value)| value.trainable) {
            let shape = value.shape.iter().map(|size| size.unwrap_or(1)).collect();
            let weight = Weight::new(shape, executor.weight(id))
                .ok_or_else(|| PassError::new(format!("{}: its values do not fit its shape", value.name)))?;
            cx.denoisers.insert(value.name.clone(), weight);
        }
        Ok(())
    }
}
