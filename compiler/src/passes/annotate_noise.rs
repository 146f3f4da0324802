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
    analog::{AnalogOp, NOISE, Noise},
    erase::ModuleMut,
    ffi,
};
use mxc_runtime::noise::NoiseSpec;

/// See the module.
pub struct AnnotateNoise {
    noise: Noise,
    layers: Vec<(GlobMatcher, String)>,
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
        let default = Noise::default();
        let spec = options.take("spec").unwrap_or(default.spec);
        let noise = Noise {
            spec: checked("spec", &spec)?,
            scale: one_of(options, "scale", &Noise::SCALES)?.unwrap_or(default.scale),
            reference: one_of(options, "reference", &Noise::REFERENCES)?.unwrap_or(default.reference),
        };
        let mut layers = Vec::new();
        for (glob, spec) in options.take_prefixed("layer:") {
            let spec = checked(&format!("layer:{glob}"), &spec)?;
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

fn one_of(options: &mut Options, key: &str, allowed: &[&str]) -> Result<Option<String>, OptionError> {
    match options.take(key) {
        Some(value) if !allowed.contains(&value.as_str()) => {
            Err(OptionError(format!("option {key}={value}: one of {} expected", allowed.join(", "))))
        }
        value => Ok(value),
    }
}

/// The specification in its usual spelling; refuses what the runtime cannot simulate.
fn checked(key: &str, spec: &str) -> Result<String, OptionError> {
    spec.parse::<NoiseSpec>()
        .map(|spec| spec.to_string())
        .map_err(|error| OptionError(format!("option {key}=: {error}")))
}
