//! `annotate-noise`: says which noise every analog layer has.
//!
//! ```mlir
//! // annotate-noise{spec=gaussian(sigma=15%) layer:fc*=gaussian(sigma=1%)}
//! %1 = "analog.conv2d"(…) {layer = "conv1", noise = {…}, …}
//! // becomes
//! %1 = "analog.conv2d"(…) {layer = "conv1", noise = {spec = "gaussian(sigma=15%)", scale = "range", …}, …}
//! ```

use crate::pass::{OptionError, Options, Pass, PassContext, PassError, globs};
use globset::GlobMatcher;
use melior::{Context, ir::operation::OperationMutLike};
use mxc_dialects::{
    analog::{AnalogOp, NOISE},
    erase::ModuleMut,
    ffi,
    ir::DictionaryValue,
    noise::{LayerNoise, NoiseSpec, Reference, Scale},
};

/// See the module.
pub struct AnnotateNoise {
    noise: LayerNoise,
    layers: Vec<(GlobMatcher, NoiseSpec)>,
}

impl Pass for AnnotateNoise {
    const NAME: &'static str = "annotate-noise";
    const DESCRIPTION: &'static str = "sets the noise of every analog layer";
    const OPTIONS: &'static [(&'static str, &'static str)] = &[
        ("spec", "the noise (default gaussian(sigma=6%))"),
        ("scale", "what s is taken of: range (default), constant, signal"),
        ("reference", "the magnitude s: rms (default), absmax, mean-abs, std"),
        ("layer:GLOB", "the noise of the layers that match; the last match counts"),
    ];

    fn from_options(options: &mut Options) -> Result<Self, OptionError> {
        let default = LayerNoise::default();
        let one_of = |words: &[&str]| format!("one of {}", words.join(", "));
        let noise = LayerNoise {
            spec: options.take("spec").map_or(Ok(default.spec), |spec| parse("spec", &spec))?,
            scale: options.take_parsed("scale", &one_of(Scale::WORDS))?.unwrap_or(default.scale),
            reference: options.take_parsed("reference", &one_of(Reference::WORDS))?.unwrap_or(default.reference),
        };
        let mut layers = Vec::new();
        for (glob, spec) in options.take_prefixed("layer:") {
            let spec = parse(&format!("layer:{glob}"), &spec)?;
            layers.push((globs::matcher(&glob)?, spec));
        }
        Ok(Self { noise, layers })
    }

    fn run<'c>(
        &mut self,
        context: &'c Context,
        module: &mut ModuleMut<'c, '_>,
        cx: &mut PassContext,
    ) -> Result<(), PassError> {
        let mut matched = vec![false; self.layers.len()];
        for op in AnalogOp::all(module) {
            let layer = op.layer();
            let mut noise = self.noise.clone();
            for ((glob, spec), matched) in self.layers.iter().zip(&mut matched) {
                if glob.is_match(&layer) {
                    noise.spec = spec.clone();
                    *matched = true;
                }
            }
            ffi::as_mut(op.operation()).set_attribute(NOISE, noise.to_attribute(context));
        }
        for ((glob, _), _) in self.layers.iter().zip(matched).filter(|(_, matched)| !matched) {
            let message = format!("noise for '{}': no analog layer matches", glob.glob());
            cx.warnings.push(message);
        }
        Ok(())
    }
}

fn parse(key: &str, spec: &str) -> Result<NoiseSpec, OptionError> {
    spec.parse().map_err(|error| OptionError(format!("option {key}=: {error}")))
}
