//! `equalize-ranges`: chooses how much of its converters' range each output channel of an analog layer uses.
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
//! Scales are chosen by the distillation loss under the noise (`runtime/src/equalize.rs`), so that the pass follows
//! `annotate-noise` and `rank-sensitivity`; layers whose noise follows no converter's range (another scale than `range`) get none.

use crate::{
    measuring::{self, Measuring},
    pass::{OptionError, Options, Pass, PassContext, PassError, Ranges},
};
use melior::{
    Context,
    ir::operation::{OperationLike, OperationMutLike},
};
use mxc_dialects::{
    analog::{self, AnalogOp},
    erase::ModuleMut,
    ffi,
    ir::{self, DictionaryValue},
    noise::Scale,
};
use mxc_runtime::{equalize::equalize, search::Found};

/// See the module.
pub struct EqualizeRanges(Measuring);

impl Pass for EqualizeRanges {
    const NAME: &'static str = "equalize-ranges";
    const DESCRIPTION: &'static str = "scales every layer's output channels towards its converters' full scale";
    const OPTIONS: &'static [(&'static str, &'static str)] = measuring::FEW_OPTIONS;

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        Measuring::few(options).map(Self)
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
        let Found { choice: columns, before, after } = ready.choose(cx, equalize)?;
        let names: Vec<String> = ready.executor.program().layers().iter().map(|layer| layer.name.clone()).collect();
        let mut channels = 0;
        for op in layers {
            let layer = op.layer();
            let found = names.iter().zip(&columns).find(|(name, _)| **name == layer);
            let mut operation = ffi::as_mut(op.operation());
            let Some(columns) = found.and_then(|(_, columns)| columns.as_ref()) else {
                // Of an earlier run.
                for name in [analog::COLUMN_SHIFT, analog::COLUMN_CALIBRATION] {
                    if op.operation().attribute(name).is_ok() {
                        let _ = operation.remove_attribute(name);
                    }
                }
                continue;
            };
            let shift: Vec<i64> = columns.shift.iter().map(|&k| i64::from(k)).collect();
            channels += shift.len() as u64;
            operation.set_attribute(analog::COLUMN_SHIFT, ir::i64s(context, &shift));
            operation.set_attribute(analog::COLUMN_CALIBRATION, columns.calibration.to_attribute(context));
        }
        cx.reports.ranges = Some(Ranges { channels, before, after });
        Ok(())
    }
}
