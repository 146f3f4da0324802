//! What a pass is: its trait, its options, what it may read and leave behind besides the IR, and how it fails.

use super::reports::Reports;
use melior::Context;
use mxc_dialects::{
    diagnostic::{Diagnostic, location_text},
    erase::ModuleMut,
};
use mxc_runtime::{cost::CostModel, hardware::Hardware, store::WeightStore};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A transformation of a module, run by name (`mxc opt --pass-pipeline=NAME{key=value …}`).
///
/// A pass lives in a file of its own and is listed in [`crate::passes::REGISTRY`]. It never panics on any input: what
/// it cannot handle it returns as a [`PassError`] that names the operation.
pub trait Pass: Sized {
    /// The kebab-case name.
    const NAME: &'static str;
    /// One line for `--show-passes`.
    const DESCRIPTION: &'static str;
    /// The options it takes: key (with a colon it stands for a [`family`], as `layer:GLOB` does) and one-line description.
    const OPTIONS: &'static [(&'static str, &'static str)] = &[];

    /// Reads the options; every option left in `options` afterwards is refused as unknown.
    fn from_options(options: &mut Options) -> Result<Self, OptionError>;

    /// Transforms the module, which lives in `context`. Operations are erased in [`ModuleMut::erasing`].
    fn run<'c>(
        &mut self,
        context: &'c Context,
        module: &mut ModuleMut<'c, '_>,
        cx: &mut PassContext,
    ) -> Result<(), PassError>;
}

/// What the keys of an option's family begin with: `layer:` of `layer:GLOB`, which admits `layer:fc*` and any other glob. `None` for
/// the key of a single option.
pub fn family(key: &str) -> Option<&str> {
    key.find(':').map(|colon| &key[..=colon])
}

/// A [`Pass`] of any type.
pub trait DynPass {
    /// See [`Pass::run`].
    fn run_dyn<'c>(
        &mut self,
        context: &'c Context,
        module: &mut ModuleMut<'c, '_>,
        cx: &mut PassContext,
    ) -> Result<(), PassError>;
}

impl<P: Pass> DynPass for P {
    fn run_dyn<'c>(
        &mut self,
        context: &'c Context,
        module: &mut ModuleMut<'c, '_>,
        cx: &mut PassContext,
    ) -> Result<(), PassError> {
        self.run(context, module, cx)
    }
}

/// Why a pass failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}{}{}", location.as_ref().map_or(String::new(), |at| format!(" (at {at})")), listed(found),
        hint.as_ref().map_or(String::new(), |hint| format!("\n  help: {hint}")))]
pub struct PassError {
    /// What went wrong, naming the operation or symbol.
    pub message: String,
    /// The operation's location, if it is about one.
    pub location: Option<String>,
    /// All that is wrong, where that is more than the message says.
    pub found: Vec<Diagnostic>,
    /// How to mend it.
    pub hint: Option<String>,
}

/// Diagnostics, one to a line, below what introduces them.
pub(super) fn listed(found: &[Diagnostic]) -> String {
    found.iter().map(|diagnostic| format!("\n  {diagnostic}")).collect()
}

impl PassError {
    /// An error without location or hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), location: None, found: Vec::new(), hint: None }
    }

    /// The module breaks rules.
    pub fn invalid(found: Vec<Diagnostic>) -> Self {
        Self { found, ..Self::new("the module is not valid:") }
    }

    /// Adds the location of the operation it is about.
    pub fn at(mut self, location: melior::ir::Location<'_>) -> Self {
        self.location = location_text(location);
        self
    }

    /// Adds how to mend it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The bytes of a weight are needed and not there.
    pub fn missing_weight(symbol: &str) -> Self {
        Self::new(format!("the values of @{symbol} are needed, but they are not in the IR"))
            .hint("give the file that holds them: --weights FILE.safetensors or PKG.mxa")
    }
}

impl From<Diagnostic> for PassError {
    fn from(Diagnostic { location, message }: Diagnostic) -> Self {
        Self { location, ..Self::new(message) }
    }
}

/// Why a pass's options are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OptionError(pub String);

/// A pass's options, `{key=value key=value …}`. Values with spaces are quoted (`'…'` or `"…"`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    entries: Vec<(String, String)>,
}

impl Options {
    /// Options from keys and values, in order.
    pub fn new(entries: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { entries: entries.into_iter().collect() }
    }

    /// Adds an option.
    pub fn push(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.entries.push((key.into(), value.into()));
    }

    /// All options in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Whether no option is left.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes an option; the last one wins where it is given twice.
    pub fn take(&mut self, key: &str) -> Option<String> {
        let value = self.entries.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value.clone());
        self.entries.retain(|(k, _)| k != key);
        value
    }

    /// Takes all options whose key starts with `prefix`, in order, as (rest of the key, value).
    pub fn take_prefixed(&mut self, prefix: &str) -> Vec<(String, String)> {
        let mut taken = Vec::new();
        self.entries.retain(|(key, value)| {
            let Some(rest) = key.strip_prefix(prefix) else {
                return true;
            };
            taken.push((rest.to_owned(), value.clone()));
            false
        });
        taken
    }

    /// Takes a comma-separated list; empty when the option is absent.
    pub fn take_list(&mut self, key: &str) -> Vec<String> {
        self.take(key)
            .map(|value| value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
            .unwrap_or_default()
    }

    /// Takes and parses an option.
    pub fn take_parsed<T: std::str::FromStr>(&mut self, key: &str, expected: &str) -> Result<Option<T>, OptionError> {
        self.take(key)
            .map(|value| value.parse().map_err(|_| OptionError(format!("option {key}={value}: {expected} expected"))))
            .transpose()
    }
}

/// What a pass that needs data asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleRequest {
    /// The pass's `data=` option; `None` asks for what the caller has (or for nothing).
    pub data: Option<PathBuf>,
    /// The number of samples wanted; `None` leaves it to the caller.
    pub count: Option<usize>,
    /// Whether images moved about serve where there are too few: what is fitted takes more of them than what measures the noise, which
    /// must be images as they are.
    pub moved: bool,
    /// The seed that keys their drawing.
    pub seed: u64,
    /// The shape of one sample per program input, in the source model's layout.
    pub shapes: Vec<Vec<usize>>,
    /// The number of the network's classes: values of its logits.
    pub classes: usize,
    /// The network's only input holds integers: an image's bytes.
    pub bytes: bool,
}

/// Labelled samples.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Per program input, the samples' values one after another in the input's layout.
    pub inputs: Vec<Vec<f32>>,
    /// The class per sample; without, the clean model's own predictions serve.
    pub labels: Option<Vec<u32>>,
    /// The data-set index per sample.
    pub indices: Vec<u64>,
}

/// Gives the calibration samples; `Ok(None)` when there are no data, so that synthetic ones are used.
pub type SampleSource = Box<dyn Fn(&SampleRequest) -> Result<Option<Samples>, String>>;

/// Reads a weight file (`weights=` options): safetensors or a package.
pub type WeightLoader = Box<dyn Fn(&Path) -> Result<WeightStore, String>>;

/// What passes read and leave behind besides the IR.
#[derive(Default)]
pub struct PassContext {
    /// The backbone's weights: the values of the `ml_program` globals.
    pub weights: WeightStore,
    /// The denoisers' initial weights, made by `insert-denoisers`.
    pub denoisers: WeightStore,
    /// Reads a weight file named by a pass's option.
    pub weight_loader: Option<WeightLoader>,
    /// The weight files that passes have read: no pass writes over one.
    pub weight_files: Vec<PathBuf>,
    /// Gives calibration samples.
    pub samples: Option<SampleSource>,
    /// The hardware profile of passes that lower to the digital tile or count energy, unless their option names a file; the
    /// paper's if `None`.
    pub hardware: Option<Hardware>,
    /// What passes that count energy count by; the profile's own figures if `None`.
    pub costs: Option<Arc<dyn CostModel>>,
    /// The default seed of passes with a `seed=` option.
    pub seed: u64,
    /// Worker threads of passes that execute the network; 0 is one per core.
    pub threads: usize,
    /// The run's [`stop`](super::RunOptions::stop): raised when the caller wants the pipeline to end.
    pub stop: Option<Arc<AtomicBool>>,
    /// What the passes report.
    pub reports: Reports,
    /// What the user should know, in order of occurrence.
    pub warnings: Vec<String>,
}

impl PassContext {
    /// A context with weights.
    pub fn with_weights(weights: WeightStore) -> Self {
        Self { weights, ..Self::default() }
    }

    /// Adds the weights of a file that the option `option` names; those of the same names that are there already stay.
    ///
    /// # Errors
    ///
    /// The loader's, or that the caller reads no weight files.
    pub fn load_weights(&mut self, option: &str, path: &Path) -> Result<(), PassError> {
        let loader = self
            .weight_loader
            .as_ref()
            .ok_or_else(|| PassError::new(format!("{option}= is given, but the caller reads no weight files")))?;
        self.weights = loader(path).map_err(PassError::new)?.union(&self.weights);
        self.weight_files.push(path.to_owned());
        Ok(())
    }

    /// Whether the caller wants the pipeline to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Acquire))
    }
}
