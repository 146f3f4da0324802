//! `drop-sigma`: removes the σ̂ path of blocks where it is smaller than what the digital tile can represent.
//!
//! ```mlir
//! %2 = "denoise.paper"(%1, …, %mean.bias, %sigma.weight, %sigma.bias) {layer = "conv1",
//!   measured = {input_rms = 0.5, samples = 512 : i64, sigma_rms = 2.0e-05}}
//! // becomes, if conv1's words have 12 fraction bits, so that one step is 2.4e-4
//! %2 = "denoise.mean"(%1, …, %mean.bias) {layer = "conv1"}
//! ```
//!
//! A path goes when rms(σ̂)/rms(X), which `mxc finetune` measures on the calibration samples of the noisy, denoised network and
//! leaves as `measured`, is below one fixed-point step relative to rms(X): 2^-f / rms(X), where f is the fraction bits that
//! `quantize-denoisers` gives the words of X. Then ε·σ̂ seldom changes a word. What the
//! block is without σ̂ is found by egg ([`crate::egraph::denoiser`]): its arithmetic with σ̂ = 0, which must be that of another kind.
//! A block without `measured` is left as it is.

use crate::{
    egraph::denoiser,
    pass::{
        OptionError, Options, Pass, PassContext, PassError, SigmaPath,
        constants::{self, built, insert_before},
    },
    tile::placed::input_fraction,
};
use melior::{
    Context,
    ir::{
        Module, Value, ValueLike,
        operation::{OperationBuilder, OperationLike},
    },
};
use mxc_dialects::{
    denoise::{self, KINDS, Kind, MEASURED},
    dtile,
    erase::{Eraser, ModuleMut},
    ffi, ir,
};
use mxc_runtime::digital::fixed;

/// The kind that a kind is without its σ̂ path, if there is one.
fn without_sigma(kind: &Kind) -> Result<Option<&'static Kind>, String> {
    let sigma: Vec<_> = kind.expression().drawn().collect();
    if sigma.is_empty() {
        return Ok(None);
    }
    let left = denoiser::simplify(kind.expression(), &sigma)?;
    Ok(KINDS.into_iter().find(|other| other.stage == kind.stage && *other.expression() == left))
}

/// See the module.
pub struct DropSigma {
    steps: f64,
}

impl Pass for DropSigma {
    const NAME: &'static str = "drop-sigma";
    const DESCRIPTION: &'static str = "removes σ̂ paths whose measured share is below one fixed-point step";
    const OPTIONS: &'static [(&'static str, &'static str)] =
        &[("steps", "the limit in steps of the input's words (default 1)")];

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        let steps = options.take_parsed("steps", "a number")?.unwrap_or(1.0);
        if !(f64::is_finite(steps) && steps >= 0.0) {
            return Err(OptionError(format!("option steps={steps}: a number that is not negative expected")));
        }
        Ok(Self { steps })
    }

    fn run<'c>(
        &mut self,
        _: &'c Context,
        module: &mut ModuleMut<'c, '_>,
        cx: &mut PassContext,
    ) -> Result<(), PassError> {
        cx.reports.sigma.clear();
        let unused = module.erasing(|module, eraser| self.drop(module, eraser, cx))?;
        constants::remove_left(module, &unused);
        Ok(())
    }
}

impl DropSigma {
    /// Replaces the blocks whose σ̂ path is too small; returns the globals that these paths used.
    fn drop<'c, 'a>(
        &self,
        module: &'a Module<'c>,
        eraser: &mut Eraser<'c, 'a>,
        cx: &mut PassContext,
    ) -> Result<Vec<String>, PassError> {
        let mut unused = Vec::new();
        let Some(main) = ir::main_function(module).and_then(ir::entry_block) else {
            return Ok(unused);
        };
        for block in denoise::Denoiser::all(module) {
            let operation = block.operation();
            // Quantised blocks have their σ̂ words already.
            let is_f32 = block.input().is_some_and(|input| dtile::fraction(input).is_none());
            let layer = block.layer();
            let fail = |message: String| PassError::new(format!("layer '{layer}': {message}")).at(operation.location());
            let Some(measured) = block.measured().map_err(fail)?.filter(|_| is_f32) else {
                continue;
            };
            let kind = block.kind();
            let Some(smaller) = without_sigma(kind).map_err(fail)? else {
                continue;
            };
            let limit = self.steps * fixed::exp2(-input_fraction(module, operation, &layer)?) / measured.input_rms;
            let ratio = measured.sigma_rms / measured.input_rms;
            let kept = ratio >= limit;
            cx.reports.sigma.push(SigmaPath { layer: layer.clone(), ratio, limit, kept });
            if kept {
                continue;
            }
            let (mut operands, mut left): (Vec<Value<'c, '_>>, Vec<_>) = (block.input().into_iter().collect(), vec![]);
            for (parameter, weight) in kind.expression().parameters().iter().zip(block.weights()) {
                let stays = smaller.expression().parameters().contains(parameter);
                if stays { operands.push(weight) } else { left.push(weight) }
            }
            let attributes: Vec<_> = operation
                .attributes()
                .filter(|(name, _)| ffi::identifier_text(*name).is_none_or(|name| name != MEASURED))
                .collect();
            let result = Value::from(built("a result", operation.result(0))?);
            let mean = OperationBuilder::new(&smaller.operation_name(), operation.location())
                .add_operands(&operands)
                .add_attributes(&attributes)
                .add_results(&[result.r#type()])
                .build();
            let mean = insert_before(main, operation, built("a block", mean)?)?;
            ffi::replace_all_uses(result, mean);
            unused.extend(left.into_iter().filter_map(ir::loaded_global));
            eraser.erase(operation);
        }
        Ok(unused)
    }
}
