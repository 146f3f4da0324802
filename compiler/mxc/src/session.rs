//! Sessions: networks that are ready to run.

use crate::{Arrays, Data, Error, Monitor, Package, Progress, arrays, arrays::Array, progress::Stoppable};
use mxc_runtime::{
    data::{Dataset, Source, Split},
    evaluate::{self, ChipOptions, EffectiveNoise, EvalReport, Part, Shard},
    exec::{Backend, Batch, Executor, Key, Mode, Purpose},
    package::Preprocessing,
    program::Program,
};
use mxc_spec::noise::NoiseSpec;
use std::{fmt, str::FromStr, sync::OnceLock};

/// How denoisers compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// In floating point.
    #[default]
    Float,
    /// In the digital tile's integers.
    Fixed,
}

impl Arithmetic {
    /// Every arithmetic with its name and what it means in a few words.
    pub const NAMES: [(Self, &'static str, &'static str); 2] =
        [(Self::Float, "float", "In floating point"), (Self::Fixed, "fixed", "In the digital tile's integers")];
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Self::NAMES.iter().filter(|(own, ..)| own == self).try_for_each(|(_, name, _)| f.write_str(name))
    }
}

impl FromStr for Arithmetic {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::NAMES.iter().find(|(_, name, _)| *name == text).map(|(own, ..)| *own);
        found.ok_or_else(|| Error::Options(format!("`{text}` is no arithmetic; there are float and fixed")))
    }
}

/// How a network is run.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// Worker threads, on which results do not depend; 0 is one per core.
    pub threads: usize,
    /// What computes.
    pub backend: Backend,
    /// Replaces every layer's noise.
    pub noise: Option<NoiseSpec>,
    /// How a package's denoisers compute.
    pub arithmetic: Arithmetic,
}

/// How to evaluate.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalOptions {
    /// Noise draws over the data; their spread gives the interval.
    pub runs: u32,
    /// The split.
    pub split: Split,
    /// Only the first so many samples.
    pub limit: Option<usize>,
    /// The last so many training samples are the holdout; `None` is as compiled.
    pub holdout: Option<usize>,
    /// Samples a batch, on which results do not depend.
    pub batch: usize,
    /// Also a population of chips, for the yield.
    pub chips: Option<ChipOptions>,
    /// The seed of the noise.
    pub seed: u64,
}

impl Default for EvalOptions {
    fn default() -> Self {
        Self { runs: 5, split: Split::Test, limit: None, holdout: None, batch: 256, chips: None, seed: 0 }
    }
}

/// What a network gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs {
    /// The number of samples it was run on.
    pub samples: usize,
    /// Its outputs by name, in its order.
    pub arrays: Vec<(String, Array)>,
}

/// A network that is ready to run: a package's, with its denoisers, or a model's own.
///
/// ```
/// # fn main() -> Result<(), mxc::Error> {
/// let context = mxc::Context::new();
/// let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/models/resnet20.onnx");
/// let model = mxc::Model::from_file(&context, file.as_ref(), &Default::default())?;
/// let input = model.inputs()[0].name.clone();
/// let session = model.session(&Default::default())?;
/// let image = mxc::Array::new(vec![1, 1, 28, 28], mxc::Values::F32(vec![0.5; 28 * 28]))?;
/// let outputs = session.run(&[(input, image)].into(), 0)?;
/// assert_eq!(outputs.arrays[0].1.shape(), [1, 10]);
/// # Ok(()) }
/// ```
pub struct Session {
    pub(crate) package: Option<Package>,
    pub(crate) options: SessionOptions,
    program: Program,
    /// Planned when it is first needed: fine-tuning has its own.
    executor: OnceLock<Executor>,
}

impl Session {
    #[cfg(feature = "compiler")]
    pub(crate) fn of_program(program: Program, options: &SessionOptions) -> Result<Self, Error> {
        if options.arithmetic == Arithmetic::Fixed {
            let message = "--digital fixed needs a package (.mxa): its denoisers are lowered to the digital tile";
            return Err(Error::Options(message.to_owned()));
        }
        Ok(Self::new(None, program, options))
    }

    pub(crate) fn of_package(package: Package, options: &SessionOptions, monitor: &Monitor<'_>) -> Result<Self, Error> {
        let program = match options.arithmetic {
            Arithmetic::Float => package.program()?,
            Arithmetic::Fixed => package.fixed(monitor)?,
        };
        Ok(Self::new(Some(package), program, options))
    }

    fn new(package: Option<Package>, mut program: Program, options: &SessionOptions) -> Self {
        override_noise(&mut program, options.noise.as_ref());
        Self { package, options: options.clone(), program, executor: OnceLock::new() }
    }

    /// The network as the executor sees it: its values, layers and their noise.
    pub fn program(&self) -> &Program {
        &self.program
    }

    fn executor(&self) -> Result<&Executor, Error> {
        if let Some(executor) = self.executor.get() {
            return Ok(executor);
        }
        let executor = Executor::on(self.options.backend, self.program.clone(), self.threads())?;
        Ok(self.executor.get_or_init(|| executor))
    }

    pub(crate) fn threads(&self) -> usize {
        crate::threads(self.options.threads)
    }

    /// Runs it on arrays, by the names of its inputs (or its only one), without noise, denoisers on, sampling off. Gives its
    /// outputs with their names. `seed` keys what the network itself draws.
    ///
    /// # Errors
    ///
    /// [`Error::Arrays`] where the arrays do not fit its inputs, [`Error::Exec`].
    pub fn run(&self, inputs: &Arrays, seed: u64) -> Result<Outputs, Error> {
        let (inputs, samples) = arrays::bind(&self.program, inputs)?;
        let indices: Vec<u64> = (0..samples as u64).collect();
        let slices: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let key = Key { seed, purpose: Purpose::Eval, pass: 0, chip: 0 };
        let batch = Batch { inputs: &slices, samples: &indices };
        let results = self.executor()?.forward(batch, Mode::CLEAN_DENOISED, key)?;
        Ok(Outputs { samples, arrays: arrays::outputs(&self.program, samples, results)? })
    }

    /// Measures clean, noisy and denoised accuracy on labelled data.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), mxc::Error> {
    /// let monitor = mxc::Monitor::default();
    /// let package = mxc::Package::open("model.mxa".as_ref())?;
    /// let session = package.session(&Default::default(), &monitor)?;
    /// let data = mxc::Data::new("/usr/share/datasets/fashion-mnist");
    /// let report = session.evaluate(&data, &mxc::EvalOptions { limit: Some(500), ..Default::default() }, &monitor)?;
    /// assert!(report.denoised.top1 > report.noisy.top1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Data`], [`Error::Eval`], [`Error::Options`], or [`Error::Cancelled`].
    pub fn evaluate(&self, data: &Data, options: &EvalOptions, monitor: &Monitor<'_>) -> Result<EvalReport, Error> {
        let (opened, skipped, options) = self.evaluation(data, options, monitor)?;
        let opened = Stoppable { data: &opened, cancel: monitor.cancel() };
        let told = &mut |now| monitor.report(Progress::Evaluating(now));
        let mut report = monitor.result(evaluate::evaluate(self.executor()?, &opened, &options, told))?;
        report.skipped = skipped;
        Ok(report)
    }

    /// Evaluates one shard of the same. All shards, from the same package, data, options and instruction set, wherever they ran, give the report
    /// of one evaluation to the bit: [`merge`](crate::merge).
    ///
    /// # Errors
    ///
    /// As [`Session::evaluate`], and [`Error::Options`] where the session is of no package.
    pub fn evaluate_shard(
        &self,
        data: &Data,
        options: &EvalOptions,
        shard: Shard,
        monitor: &Monitor<'_>,
    ) -> Result<Part, Error> {
        let Some(package) = &self.package else {
            return Err(Error::Options("only a package is evaluated in shards, which are known by it".to_owned()));
        };
        let (opened, skipped, options) = self.evaluation(data, options, monitor)?;
        let identity = [
            ("the package", package.sha256()?),
            ("the data", opened.fingerprint()),
            ("--seed", options.seed.to_string()),
            ("--digital", self.options.arithmetic.to_string()),
            ("--backend", self.options.backend.to_string()),
            ("the instruction set", mxc_runtime::onednn::instruction_sets()),
            ("the version of mxc", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        let identity = identity.map(|(name, value)| (name.to_owned(), value)).into();
        let opened = Stoppable { data: &opened, cancel: monitor.cancel() };
        let told = &mut |now| monitor.report(Progress::Evaluating(now));
        let executor = self.executor()?;
        monitor.result(evaluate::evaluate_shard(executor, &opened, &options, shard, (identity, skipped), told))
    }

    /// What an evaluation runs on, what was left out of it, and how.
    fn evaluation(
        &self,
        data: &Data,
        options: &EvalOptions,
        monitor: &Monitor<'_>,
    ) -> Result<(Dataset, Option<usize>, evaluate::EvalOptions), Error> {
        let package = self.package.as_ref();
        let holdout = options.holdout.unwrap_or_else(|| package.map_or(0, Package::holdout));
        if options.split == Split::Holdout && holdout == 0 {
            let message = "--split holdout: the package was compiled without --holdout; give --holdout N";
            return Err(Error::Options(message.to_owned()));
        }
        let preprocessing = self.preprocessing();
        let (opened, skipped) =
            data.open_limited(options.split, holdout, &preprocessing, self.threads(), options.limit, monitor)?;
        if package.is_some_and(Package::is_synthetic) {
            monitor.warn(
                "the package is calibrated on synthetic inputs, so its noise magnitudes are not those of your data; \
                 mxc finetune --data recalibrates",
            );
        }
        let placement = package.and_then(|package| package.inner.manifest.placement.as_ref());
        let options = evaluate::EvalOptions {
            runs: options.runs,
            seed: options.seed,
            limit: options.limit,
            batch: options.batch,
            parameters: placement.map(Into::into),
            chips: options.chips,
        };
        Ok((opened, skipped, options))
    }

    /// Measures every layer's noise as it acts on `samples` training samples, those that calibration would draw with `seed`. It can
    /// be cancelled before it starts only.
    ///
    /// # Errors
    ///
    /// [`Error::Data`], [`Error::Eval`], or [`Error::Cancelled`].
    pub fn effective_noise(
        &self,
        data: &Data,
        samples: usize,
        seed: u64,
        monitor: &Monitor<'_>,
    ) -> Result<EffectiveNoise, Error> {
        let holdout = self.package.as_ref().map_or(0, Package::holdout);
        let (opened, _) =
            data.open_limited(Split::Train, holdout, &self.preprocessing(), self.threads(), None, monitor)?;
        let (samples, layers) = (samples.min(opened.len()), self.program.layers().len());
        let told = &mut |done| monitor.report(Progress::Measuring { done, layers, samples });
        let opened = Stoppable { data: &opened, cancel: monitor.cancel() };
        monitor.result(evaluate::effective_noise(&self.program, self.threads(), &opened, samples, seed, told))
    }

    pub(crate) fn preprocessing(&self) -> Preprocessing {
        let recorded = self.package.as_ref().and_then(|package| package.inner.manifest.preprocessing.clone());
        recorded.unwrap_or_default()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Replaces every layer's noise by `spec`, if one is given.
pub(crate) fn override_noise(program: &mut Program, spec: Option<&NoiseSpec>) {
    if let Some(spec) = spec {
        for layer in program.layers_mut() {
            layer.noise.spec.clone_from(spec);
        }
    }
}
