//! `spend-energy`: chooses how often the tile computes each product of an analog layer, of which the mean is taken, and which layers are
//! computed digitally.
//!
//! ```mlir
//! %1 = "analog.conv2d"(…) {layer = "conv1", calibration = {…}, …}
//! %2 = "analog.fully_connected"(…) {layer = "fc", calibration = {…}, …}
//! // becomes
//! %1 = "analog.conv2d"(…) {layer = "conv1", calibration = {…}, reads = 3 : i64, …}
//! %2 = "analog.fully_connected"(…) {layer = "fc", calibration = {…}, digital, …}
//! ```
//!
//! k reads divide the variance of the noise that is drawn for each by k and cost k times the layer's energy and time on the analog
//! tiles; a digital layer has no noise and costs what its products take of the digital tile, all by the hardware profile or the caller's
//! cost model. Together they may raise the energy of all analog layers by the share `energy-budget`. What is chosen is judged by the
//! distillation loss under the noise (`runtime/src/execution.rs`), so that the pass follows `annotate-noise`, `rank-sensitivity` and, where
//! ranges are equalized, `equalize-ranges`.

use crate::{
    measuring::{self, Few, Measuring},
    pass::{OptionError, Options, Pass, PassContext, PassError, SpentEnergy},
    tile::placed::{HARDWARE_OPTION, hardware},
};
use melior::Context;
use mxc_dialects::{analog::AnalogOp, erase::ModuleMut, share};
use mxc_runtime::{
    cost::Costs,
    execution::{Chosen, choose, helps},
    program::Execution,
    search::Found,
};
use std::path::PathBuf;

/// See the module.
pub struct SpendEnergy {
    measuring: Measuring,
    budget: f64,
    hardware: Option<PathBuf>,
}

impl Pass for SpendEnergy {
    const NAME: &'static str = "spend-energy";
    const DESCRIPTION: &'static str =
        "reads layers more than once or computes them digitally where that helps most, within a budget of energy";
    const OPTIONS: &'static [(&'static str, &'static str)] = &[
        ("energy-budget", "energy allowed for it, as a share of the analog layers' with one read each (default 5%)"),
        Few::Choosing.options()[0],
        measuring::OPTIONS[0],
        measuring::OPTIONS[1],
        measuring::OPTIONS[2],
        HARDWARE_OPTION,
    ];

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        let wrong = |reason: String| OptionError(format!("option energy-budget: {reason}"));
        let budget = options.take("energy-budget").unwrap_or_else(|| "5%".to_owned());
        Ok(Self {
            budget: share::parse_positive(&budget).map_err(wrong)?,
            hardware: options.take("hardware").map(PathBuf::from),
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
        let hardware = hardware(self.hardware.as_ref(), cx)?;
        let mut ready = self.measuring.ready(module, cx)?;
        if !ready.executor.program().layers().iter().any(helps) {
            cx.warnings.push("spend-energy: no layer has noise".to_owned());
            return Ok(());
        }
        if !ready.has_data(Self::NAME, cx) {
            return Ok(());
        }
        let Chosen { executions, energy } = ready.choose(cx, |executor, batch, seed, stopped| {
            let costs = Costs::new(&hardware, cx.costs.as_deref());
            choose(executor, batch, (costs, self.budget), seed, stopped)
        })?;
        let Found { choice, before, after } = executions;
        let by_name = ready.by_layer(choice);
        let mut spent = SpentEnergy { read: 0, most: 1, digital: 0, share: energy, before, after };
        for op in layers {
            let execution = by_name.get(&op.layer()).copied().unwrap_or_default();
            // An earlier run's is overwritten.
            op.set_execution(context, execution);
            match execution {
                Execution::Analog { reads } => {
                    spent.read += u64::from(reads > 1);
                    spent.most = spent.most.max(reads);
                }
                Execution::Digital => spent.digital += 1,
            }
        }
        cx.reports.energy = Some(spent);
        Ok(())
    }
}
