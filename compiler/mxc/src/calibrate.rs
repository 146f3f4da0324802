//! Closed form: a package's denoisers fitted to its clean network, in seconds and without labels.

use crate::{Arithmetic, Data, Error, Monitor, Package, Session};
use mxc_compiler::{
    pass::{Options, PassContext, Pipeline, Ranges, run_pipeline},
    passes::REGISTRY,
};
use mxc_runtime::{closed_form::Fitted, store::WeightStore};
use std::path::PathBuf;

/// How to calibrate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalibrateOptions {
    /// Samples, half of them to judge by; `None` is 256, and fewer, down to 128, where an input has more than 16,384 values. Of fewer than
    /// half as many images all come again, shifted and mirrored.
    pub samples: Option<usize>,
    /// Whether the converters' ranges are equalized anew.
    pub equalize: bool,
    /// The last so many training samples are kept out; `None` is as compiled.
    pub holdout: Option<usize>,
    /// Keys the drawing of samples and the noise.
    pub seed: u64,
}

impl Default for CalibrateOptions {
    fn default() -> Self {
        Self { samples: None, equalize: true, holdout: None, seed: 0 }
    }
}

/// A calibrated package.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// The package with its denoisers fitted; the backbone is the same to the bit.
    pub package: Package,
    /// How the converters' ranges were changed; `None` where they were left alone.
    pub ranges: Option<Ranges>,
    /// How the denoisers were fitted; `None` where there are none.
    pub fitted: Option<Fitted>,
    /// How many images were left out; `None` unless [`Data::skip_bad`].
    pub skipped: Option<usize>,
}

impl Session {
    /// Equalizes the converters' ranges of the session's package and fits its denoisers in closed form, by the clean network's own
    /// outputs on `data`, under the noise that it was compiled for. Labels are not looked at. The session stays as it is.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), mxc::Error> {
    /// let monitor = mxc::Monitor::default();
    /// let package = mxc::Package::open("model.mxa".as_ref())?;
    /// let session = package.session(&Default::default(), &monitor)?;
    /// let data = mxc::Data::new("/usr/share/datasets/fashion-mnist");
    /// let calibrated = session.calibrate(&data, &mxc::CalibrateOptions { samples: Some(64), ..Default::default() }, &monitor)?;
    /// calibrated.package.write("model.calibrated.mxa".as_ref())?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Data`], [`Error::Pass`], [`Error::Options`] for a session of a model, of other noise than the package's or in fixed
    /// point, or [`Error::Cancelled`].
    pub fn calibrate(
        &self,
        data: &Data,
        options: &CalibrateOptions,
        monitor: &Monitor<'_>,
    ) -> Result<Calibrated, Error> {
        let mut package = match (&self.package, self.options.arithmetic, &self.options.noise) {
            (Some(package), Arithmetic::Float, None) => package.clone(),
            (Some(_), Arithmetic::Fixed, _) => {
                return Err(Error::Options("calibration computes in floating point, not in integers".to_owned()));
            }
            (Some(_), _, Some(_)) => {
                return Err(Error::Options(
                    "a package is calibrated for its own noise; compile it for another".to_owned(),
                ));
            }
            (None, ..) => {
                return Err(Error::Options("a model has no denoisers to calibrate: compile it first".to_owned()));
            }
        };
        monitor.check()?;
        let parent = package.sha256()?;
        let holdout = options.holdout.unwrap_or_else(|| package.holdout());
        if package.is_synthetic() {
            self.recalibrate(&mut package, data, options.seed, holdout, monitor)?;
        }
        let context = mxc_dialects::new_context();
        let mut module = package.module(&context)?;
        let mut samples = Options::default();
        options.samples.iter().for_each(|count| samples.push("samples", count.to_string()));
        let mut pipeline = Pipeline::new(&REGISTRY);
        if options.equalize {
            pipeline = pipeline.then("equalize-ranges", samples.clone());
        }
        let pipeline = pipeline.then("fit-denoisers", samples);
        let drawn = (data, holdout, options.seed);
        let weights = package.inner.weights();
        let (cx, skipped) = self.measure((&context, &mut module), &pipeline, weights, drawn, monitor)?;
        cx.warnings.iter().for_each(|warning| monitor.warn(warning));
        let (ranges, fitted) = (cx.reports.ranges, cx.reports.fitted);
        package.inner.denoisers = package.inner.denoisers.union(&cx.denoisers);
        if let Some(provenance) = &mut package.inner.manifest.provenance {
            provenance.parent_sha256 = Some(parent);
        }
        package.inner.manifest.closed_form = fitted.as_ref().map(|fitted| (fitted, options.seed).into());
        package.set_module(&module)?;
        let package = Package::of(package.inner, PathBuf::from("the calibrated package"), None);
        Ok(Calibrated { package, ranges, fitted, skipped })
    }

    /// Runs passes that measure a package's module on samples of `data` without the last `holdout`, drawn by a seed; what was left out of
    /// them is told, and how many. What the passes warn of is left to the caller.
    pub(crate) fn measure<'c>(
        &self,
        (context, module): (&'c melior::Context, &mut melior::ir::Module<'c>),
        pipeline: &Pipeline,
        weights: WeightStore,
        (data, holdout, seed): (&Data, usize, u64),
        monitor: &Monitor<'_>,
    ) -> Result<(PassContext, Option<usize>), Error> {
        let (source, left_out) = data.calibration(holdout, &self.preprocessing(), self.threads())?;
        let samples = Some(source);
        let mut cx = PassContext { weights, samples, seed, threads: self.threads(), ..PassContext::default() };
        let result = monitor.watching(|run| run_pipeline(context, module, pipeline, &mut cx, &run));
        let left_out = left_out.borrow();
        left_out.tell(monitor);
        monitor.result(result)?;
        Ok((cx, left_out.count()))
    }
}
