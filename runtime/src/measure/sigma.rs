//! What the σ̂ path of every block that draws adds, on the noisy, denoised network.

use super::{Part, Probe};
use crate::{
    error::ExecError,
    exec::{
        run::SampleRun,
        sample::{Key, Mode, Seen},
    },
    kernels::elementwise,
    plan::steps::Goal,
};
use mxc_spec::denoise;

/// Sums over a block's elements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SigmaSums {
    elements: f64,
    /// ΣX².
    input: f64,
    /// Σσ̂².
    sigma: f64,
}

impl SigmaSums {
    /// Over so many samples; `None` of a layer without such a block.
    pub fn measured(&self, samples: u64) -> Option<denoise::Measured> {
        (self.elements > 0.0).then(|| denoise::Measured {
            samples,
            input_rms: (self.input / self.elements).sqrt(),
            sigma_rms: (self.sigma / self.elements).sqrt(),
        })
    }
}

impl Part for SigmaSums {
    const GROUP: u64 = 1;

    fn add(&mut self, other: &Self) {
        self.elements += other.elements;
        self.input += other.input;
        self.sigma += other.sigma;
    }
}

/// The measurement.
pub(crate) struct Sigma {
    pub key: Key,
}

impl Probe for Sigma {
    type Part = SigmaSums;

    fn runs(&self) -> Vec<(Mode, Goal)> {
        vec![(Mode::DENOISED, Goal::Outputs)]
    }

    fn sample(&self, run: &mut SampleRun<'_>, _: u64) -> Result<Vec<SigmaSums>, ExecError> {
        let mut sums = vec![SigmaSums::default(); run.layers];
        run.forward(
            0,
            Some(self.key),
            Some(&mut |layer, seen| match seen {
                Seen::Sigma { input, sigma } => {
                    let [x, drawn] = [input, sigma].map(|values| elementwise::sums(values)[1]);
                    sums[layer] = SigmaSums { elements: input.len() as f64, input: x, sigma: drawn };
                }
                Seen::Product { .. } | Seen::Noisy { .. } => {}
            }),
        )?;
        Ok(sums)
    }
}
