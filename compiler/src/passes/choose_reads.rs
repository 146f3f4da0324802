//! `choose-reads`: chooses how often the tile computes each product of an analog layer, of which the mean is taken.
//!
//! ```mlir
//! %1 = "analog.conv2d"(…) {layer = "conv1", calibration = {…}, …}
//! // becomes
//! %1 = "analog.conv2d"(…) {layer = "conv1", calibration = {…}, reads = 3 : i64, …}
//! ```
//!
//! k reads divide the variance of the noise that is drawn for each by k and cost k times the layer's energy and time on the analog
//! tiles; they may raise the energy of the whole analog part by the share `energy-budget`. Reads are chosen by the
//! distillation loss under the noise (`runtime/src/reads.rs`), so that the pass follows `annotate-noise`, `rank-sensitivity` and, where ranges
//! are equalized, `equalize-ranges`; layers whose noise is the same in every read get none.

use crate::{
    measuring::{self, Measuring},
    pass::{OptionError, Options, Pass, PassContext, PassError, RepeatedReads},
    tile::placed::{HARDWARE_OPTION, hardware},
};
use melior::{
    Context,
    ir::operation::{OperationLike, OperationMutLike},
};
use mxc_dialects::{
    analog::{self, AnalogOp},
    erase::ModuleMut,
    ffi, ir, share,
};
use mxc_runtime::{
    reads::{Chosen, choose, helps},
    search::Found,
};
use std::{collections::BTreeMap, path::PathBuf};

/// See the module.
pub struct ChooseReads {
    measuring: Measuring,
    budget: f64,
    hardware: Option<PathBuf>,
}

impl Pass for ChooseReads {
    const NAME: &'static str = "choose-reads";
    const DESCRIPTION: &'static str = "reads layers more than once where that helps most, within a budget of energy";
    const OPTIONS: &'static [(&'static str, &'static str)] = &[
        ("energy-budget", "energy allowed for more reads, as a share of the analog part's with one (default 5%)"),
        measuring::FEW_OPTIONS[0],
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
            measuring: Measuring::few(options)?,
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
            cx.warnings.push("choose-reads: no layer has noise that another read would draw anew".to_owned());
            return Ok(());
        }
        if !ready.has_data(Self::NAME, cx) {
            return Ok(());
        }
        let Chosen { reads, energy } = ready.choose(cx, |executor, batch, seed, stopped| {
            choose(executor, batch, (&hardware, self.budget), seed, stopped)
        })?;
        let Found { choice: reads, before, after } = reads;
        let names = ready.executor.program().layers().iter().map(|layer| layer.name.clone());
        let by_name: BTreeMap<String, u32> = names.zip(reads).collect();
        let (mut several, mut most) = (0, 1);
        for op in layers {
            let mut operation = ffi::as_mut(op.operation());
            let reads = by_name.get(&op.layer()).copied().unwrap_or(1);
            most = most.max(reads);
            if reads > 1 {
                several += 1;
                operation.set_attribute(analog::READS, ir::integer(context, i64::from(reads)));
            } else if op.operation().has_attribute(analog::READS) {
                // Of an earlier run.
                let _ = operation.remove_attribute(analog::READS);
            }
        }
        cx.reports.reads = Some(RepeatedReads { layers: several, most, energy, before, after });
        Ok(())
    }
}
