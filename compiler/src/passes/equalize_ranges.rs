//! `equalize-ranges`: chooses how much of its converters' range each output channel of an analog layer uses, and where the converters of
//! its input clip.
//!
//! ```mlir
//! %1 = "analog.conv2d"(…) {layer = "conv1", calibration = {rms = 2.0, absmax = 9.5, …}, …}
//! // becomes
//! %1 = "analog.conv2d"(…) {layer = "conv1", calibration = {rms = 2.0, absmax = 9.5, …},
//!   column_shift = array<i64: 0, 3, 1>, column_calibration = {rms = 4.1, absmax = 14.0, …}, …}
//! ```
//!
//! Channel c reaches the converter scaled by 2^`column_shift[c]`, which a shift undoes behind it: the layer computes the same and the
//! channel has less of the converter's noise. `column_calibration` is of the scaled output. The weights stay as they are.
//! Where the layer has noise at its input, `input_range` may become the full scale there: below the largest value, so that both the noise
//! and what is clipped are small.
//! Both are chosen by the distillation loss under the noise (`runtime/src/equalize.rs`), so that the pass follows
//! `annotate-noise` and `rank-sensitivity`; layers whose noise follows no converter's range (another scale than `range`) get none.

use crate::{
    measuring::{self, Few, Measuring},
    pass::{OptionError, Options, Pass, PassContext, PassError, Ranges},
};
use melior::Context;
use mxc_dialects::{analog::AnalogOp, erase::ModuleMut, noise::Scale};
use mxc_runtime::{equalize::equalize, search::Found};

/// See the module.
pub struct EqualizeRanges(Measuring);

impl Pass for EqualizeRanges {
    const NAME: &'static str = "equalize-ranges";
    const DESCRIPTION: &'static str = "scales every layer's output channels towards its converters' full scale";
    const OPTIONS: &'static [(&'static str, &'static str)] = Few::Fitting.options();

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        Measuring::few(Few::Fitting, options).map(Self)
    }

    fn run<'c>(
        &mut self,
        context: &'c Context,
        module: &mut ModuleMut<'c, '_>,
        cx: &mut PassContext,
    ) -> Result<(), PassError> {
        let layers = AnalogOp::all(module);
        let ranged = |op: &AnalogOp<'_, '_>| op.noise().is_ok_and(|noise| noise.scale == Scale::Range);
        if !layers.iter().any(ranged) {
            return Ok(());
        }
        measuring::check_calibrated(layers.iter().filter(|op| ranged(op)), Self::NAME)?;
        let mut ready = self.0.ready(module, cx)?;
        if !ready.has_data(Self::NAME, cx) {
            return Ok(());
        }
        let Found { choice, before, after } = ready.choose(cx, equalize)?;
        let by_name = ready.by_layer(choice);
        let mut report = Ranges { channels: 0, inputs: 0, before, after };
        for op in layers {
            // An earlier run's are overwritten.
            let ranges = by_name.get(&op.layer()).cloned().unwrap_or_default();
            report.channels += ranges.columns.as_ref().map_or(0, |columns| columns.shift.len() as u64);
            report.inputs += u64::from(ranges.input.is_some());
            op.set_ranges(context, ranges.columns.as_ref(), ranges.input);
        }
        cx.reports.ranges = Some(report);
        Ok(())
    }
}
