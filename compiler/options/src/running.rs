//! Options of what runs a package: also of a library without the compiler.

use crate::noise_help;
use clap::{
    Args,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use mxc::{Arithmetic, Backend, ChipOptions, Data, EvalOptions, NoiseSpec, SessionOptions, Split, spec::share};
use std::path::{Path, PathBuf};

/// Options of every command.
#[derive(Clone, Copy, Debug, Args)]
pub struct Common {
    /// Worker threads; the results do not depend on it [default: the machine's cores]
    #[arg(long, global = true, value_name = "N", help_heading = "Common options")]
    threads: Option<usize>,
    /// Seed of every random draw
    #[arg(long, global = true, value_name = "N", default_value_t = 0, help_heading = "Common options")]
    pub seed: u64,
}

impl Common {
    /// Worker threads; 0 is one per core.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or(0)
    }
}

/// How a data set is read.
#[derive(Clone, Debug, Default, Args)]
pub struct Reading {
    /// The names of the class folders in the order of the network's outputs, one a line
    #[arg(long, value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// Leave out images that cannot be decoded, and count them, instead of failing
    #[arg(long)]
    pub skip_bad: bool,
}

impl Reading {
    /// The data at `path`.
    pub fn data(&self, path: &Path) -> Data {
        Data { classes: self.classes.clone(), skip_bad: self.skip_bad, ..Data::new(path) }
    }
}

/// Another noise than a package's.
#[derive(Clone, Debug, Default, Args)]
pub struct Noise {
    /// Another sigma than the package's: the standard deviation of Gaussian noise
    #[arg(long, value_name = "S%", value_parser = share::parse_positive, conflicts_with = "noise")]
    sigma: Option<f64>,
    #[arg(long, value_name = "SPEC", help = noise_help("Another noise than the package's"))]
    noise: Option<NoiseSpec>,
}

impl Noise {
    /// The noise, if one is given.
    pub fn spec(&self) -> Option<NoiseSpec> {
        self.noise.clone().or_else(|| self.sigma.map(NoiseSpec::gaussian))
    }
}

/// How a network is executed.
#[derive(Clone, Debug, Default, Args)]
pub struct Execute {
    /// The denoisers' arithmetic: float, or fixed (the digital tile's integers)
    #[arg(long, value_name = "NAME", default_value_t, value_parser = arithmetics())]
    pub digital: Arithmetic,
    /// What computes: onednn, or reference (plain f64 arithmetic, slowly, to check results)
    #[arg(long, value_name = "NAME", default_value_t)]
    pub backend: Backend,
}

/// One of the arithmetics.
fn arithmetics() -> impl TypedValueParser<Value = Arithmetic> {
    let values = Arithmetic::NAMES.map(|(_, name, meaning)| PossibleValue::new(name).help(meaning));
    PossibleValuesParser::new(values).try_map(|word| word.parse::<Arithmetic>())
}

impl Execute {
    /// A session's options, of the package's noise unless another is given.
    pub fn session(&self, noise: Option<NoiseSpec>, common: &Common) -> SessionOptions {
        SessionOptions { threads: common.threads(), backend: self.backend, noise, arithmetic: self.digital }
    }
}

/// How to evaluate.
#[derive(Clone, Debug, Args)]
pub struct Evaluate {
    /// Noise draws (runs) over the data
    #[arg(long, value_name = "N", default_value_t = 5)]
    seeds: u32,
    /// Also simulate N chips (noise components with lifetime=chip are drawn once a chip) and give the yield
    #[arg(long, value_name = "N", requires = "floor")]
    chips: Option<u32>,
    /// The accuracy in percent that a good chip reaches
    #[arg(long, value_name = "A", requires = "chips")]
    floor: Option<f64>,
    #[command(flatten)]
    noise: Noise,
    /// The split: test, train or holdout
    #[arg(long, value_name = "NAME", default_value = "test", value_parser = splits())]
    split: Split,
    /// Use only the first N samples
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// The last N training samples are the holdout [default: as compiled]
    #[arg(long, value_name = "N")]
    holdout: Option<usize>,
    /// Samples a batch; the results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 256)]
    batch: usize,
    /// How the network is executed.
    #[command(flatten)]
    pub execute: Execute,
}

/// One of the splits.
fn splits() -> impl TypedValueParser<Value = Split> {
    PossibleValuesParser::new(["test", "train", "holdout"]).try_map(|word| word.parse::<Split>())
}

impl Evaluate {
    /// The options of the evaluation.
    pub fn options(&self, common: &Common) -> EvalOptions {
        EvalOptions {
            runs: self.seeds,
            split: self.split,
            limit: self.limit,
            holdout: self.holdout,
            batch: self.batch,
            chips: self.chips.zip(self.floor).map(|(count, floor)| ChipOptions { count, floor }),
            seed: common.seed,
        }
    }

    /// Those of the session that is evaluated.
    pub fn session(&self, common: &Common) -> SessionOptions {
        self.execute.session(self.noise.spec(), common)
    }
}
