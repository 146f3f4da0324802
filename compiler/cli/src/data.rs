//! Data sets for the commands, and `--skip-bad`.

use super::{Failure, Global, ui::Ui};
use mxc_compiler::pass::{SampleSource, Samples};
use mxc_runtime::{
    data::{self, Dataset, Source, Split},
    package::{Package, Preprocessing},
};
use std::{cell::Cell, path::Path, rc::Rc};

/// Leaves out the images that cannot be decoded (`--skip-bad`), and counts them. The samples that a command is about to use
/// are decoded once before it starts: what follows sees a data set without the bad ones, so that batches, epochs and counts are
/// those of the good ones.
#[derive(Clone)]
pub struct SkipBad {
    enabled: bool,
    skipped: Rc<Cell<usize>>,
    ui: Ui,
}

impl SkipBad {
    pub fn new(enabled: bool, global: &Global) -> Self {
        Self { enabled, skipped: Rc::default(), ui: global.ui }
    }

    /// How many images were left out; `None` when none may be.
    pub fn skipped(&self) -> Option<usize> {
        self.enabled.then(|| self.skipped.get())
    }

    /// Leaves out what is bad among a data set's first `limit` samples, and all samples after those.
    pub fn apply(&self, data: &mut Dataset, limit: Option<usize>) -> Result<(), Failure> {
        if self.enabled {
            let used = (0..data.len()).take(limit.unwrap_or(usize::MAX)).collect();
            data.select(&self.good(data, used)?);
        }
        Ok(())
    }

    /// Those of the samples that can be decoded.
    fn good(&self, data: &Dataset, indices: Vec<usize>) -> Result<Vec<usize>, Failure> {
        if !self.enabled {
            return Ok(indices);
        }
        let (good, bad) = data.decodable(&indices)?;
        self.skipped.set(self.skipped.get() + bad.len());
        if let Some(first) = bad.first() {
            if good.is_empty() {
                return Err(format!("none of the {} images can be used: {first}", indices.len()).into());
            }
            self.ui.warn(format!("left out {} of {} images; the first: {first}", bad.len(), indices.len()));
        }
        Ok(good)
    }
}

/// Where data is, and what numbers its class folders (`--data`, `--classes`).
#[derive(Clone, Copy)]
pub struct Location<'p> {
    pub path: &'p Path,
    pub classes: Option<&'p Path>,
}

impl Location<'_> {
    /// Opens a split.
    fn open(self, split: Split, holdout: usize, preprocessing: &Preprocessing) -> Result<Dataset, Failure> {
        let classes = self.classes.map(data::read_classes).transpose()?;
        Ok(Dataset::open_numbered(self.path, split, holdout, preprocessing, classes.as_deref())?)
    }
}

/// A split of the data that a package is used with, prepared as its model wants it.
pub fn open(
    package: &Package,
    location: Location<'_>,
    split: Split,
    holdout: usize,
    global: &Global,
) -> Result<Dataset, Failure> {
    let preprocessing = package.manifest.preprocessing.clone().unwrap_or_default();
    Ok(location.open(split, holdout, &preprocessing)?.with_threads(global.threads))
}

/// Calibration samples drawn from a data set's training split.
pub fn sample_source(
    location: Location<'_>,
    holdout: usize,
    preprocessing: &Preprocessing,
    threads: usize,
    skip: SkipBad,
) -> Result<SampleSource, Failure> {
    let dataset = location.open(Split::Train, holdout, preprocessing)?.with_threads(threads);
    Ok(Box::new(move |request| {
        dataset.check_classes(request.classes).map_err(|error| error.to_string())?;
        let drawn = data::sample(dataset.len(), request.count.unwrap_or(512), request.seed);
        let drawn = skip.good(&dataset, drawn).map_err(|error| error.to_string())?;
        let mut inputs = Vec::new();
        dataset.load(&drawn, &mut inputs).map_err(|error| error.to_string())?;
        Ok(Some(Samples {
            inputs: vec![inputs],
            labels: dataset.labels(&drawn),
            indices: drawn.iter().map(|&index| dataset.id(index)).collect(),
        }))
    }))
}
