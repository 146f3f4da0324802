//! Data sets: what networks are calibrated, trained and evaluated on.

use crate::{Error, Monitor};
#[cfg(feature = "compiler")]
use mxc_compiler::pass::{SampleRequest, SampleSource, Samples};
use mxc_runtime::{
    data::{self, DataError, Dataset, Memory, Moved, Source, Split},
    package::Preprocessing,
};
#[cfg(feature = "compiler")]
use std::{cell::RefCell, path::Path, rc::Rc};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// How many samples calibration takes of data unless the caller says.
#[cfg(feature = "compiler")]
pub(crate) const CALIBRATION_SAMPLES: usize = 512;
/// How many synthetic inputs it takes without data.
#[cfg(feature = "compiler")]
pub(crate) const SYNTHETIC_SAMPLES: usize = 64;

/// Where a data set is and how it is read: a folder of MNIST (IDX) or CIFAR files, an `.npz`, or class folders of images.
///
/// ```
/// let data = mxc::Data::new("/usr/share/datasets/fashion-mnist");
/// assert!(!data.skip_bad);
/// ```
#[derive(Clone, Debug)]
pub struct Data {
    /// The file or folder; of samples in memory, what errors call them.
    pub path: PathBuf,
    /// Samples in memory, which then are those of every split but the holdout.
    pub memory: Option<Memory>,
    /// A file with the names of the class folders in the order of the network's outputs, one a line.
    pub classes: Option<PathBuf>,
    /// Whether images that cannot be decoded are left out, and counted, instead of ending the call. The samples that a call is about
    /// to use are decoded once before it starts: what follows sees a data set without the bad ones, so that batches, epochs and
    /// counts are those of the good ones.
    pub skip_bad: bool,
}

impl Data {
    /// The data at `path`, all of which is good.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), memory: None, classes: None, skip_bad: false }
    }

    /// Samples in memory.
    ///
    /// ```
    /// let samples = mxc::Memory::floats(&[2, 1, 28, 28], vec![0.0; 2 * 28 * 28], Some(vec![3, 7])).unwrap();
    /// assert_eq!(mxc::Data::in_memory(samples).path.to_str(), Some("the samples in memory"));
    /// ```
    pub fn in_memory(samples: Memory) -> Self {
        Self { memory: Some(samples), ..Self::new("the samples in memory") }
    }

    /// Opens a split.
    fn open(
        &self,
        split: Split,
        holdout: usize,
        preprocessing: &Preprocessing,
        threads: usize,
    ) -> Result<Dataset, DataError> {
        if let Some(memory) = &self.memory {
            return Ok(Dataset::of_memory(&self.path, memory, split, holdout, preprocessing)?.with_threads(threads));
        }
        let classes = self.classes.as_deref().map(data::read_classes).transpose()?;
        let opened = Dataset::open_numbered(&self.path, split, holdout, preprocessing, classes.as_deref())?;
        Ok(opened.with_threads(threads))
    }

    /// Opens a split for its first `limit` samples, and says how many were left out.
    pub(crate) fn open_limited(
        &self,
        split: Split,
        holdout: usize,
        preprocessing: &Preprocessing,
        threads: usize,
        limit: Option<usize>,
        monitor: &Monitor<'_>,
    ) -> Result<(Dataset, Option<usize>), Error> {
        let mut opened = self.open(split, holdout, preprocessing, threads)?;
        if !self.skip_bad {
            return Ok((opened, None));
        }
        let used = (0..opened.len()).take(limit.unwrap_or(usize::MAX)).collect();
        let mut left_out = LeftOut::new(true);
        opened.select(&left_out.sift(&opened, used)?);
        left_out.tell(monitor);
        Ok((opened, left_out.count()))
    }

    /// Calibration samples drawn from the training split, and what was left out of them.
    #[cfg(feature = "compiler")]
    pub(crate) fn calibration(
        &self,
        holdout: usize,
        preprocessing: &Preprocessing,
        threads: usize,
    ) -> Result<(SampleSource, Rc<RefCell<LeftOut>>), Error> {
        let dataset = self.open(Split::Train, holdout, preprocessing, threads)?;
        let left_out = Rc::new(RefCell::new(LeftOut::new(self.skip_bad)));
        let told = left_out.clone();
        let source: SampleSource = Box::new(move |request| {
            let text = |error: DataError| error.to_string();
            dataset.check_classes(request.classes).map_err(text)?;
            let drawn = data::sample(dataset.len(), request.count.unwrap_or(CALIBRATION_SAMPLES), request.seed);
            let drawn = told.borrow_mut().sift(&dataset, drawn).map_err(text)?;
            let samples = Moved::filled(&dataset, &drawn, request.count.filter(|_| request.moved).unwrap_or(0));
            let all: Vec<usize> = (0..samples.len()).collect();
            let mut inputs = Vec::new();
            samples.load(&all, &mut inputs).map_err(text)?;
            Ok(Some(Samples {
                inputs: vec![inputs],
                labels: samples.labels(&all),
                indices: all.iter().map(|&index| samples.id(index)).collect(),
            }))
        });
        Ok((source, left_out))
    }
}

/// The images that cannot be decoded, each once, however often it is drawn.
pub(crate) struct LeftOut {
    /// Whether any may be left out.
    skips: bool,
    seen: BTreeSet<usize>,
    /// With what is wrong.
    bad: BTreeMap<usize, String>,
}

impl LeftOut {
    fn new(skips: bool) -> Self {
        Self { skips, seen: BTreeSet::new(), bad: BTreeMap::new() }
    }

    /// How many; `None` when none may be.
    pub fn count(&self) -> Option<usize> {
        self.skips.then_some(self.bad.len())
    }

    /// Warns of them, if there are any.
    pub fn tell(&self, monitor: &Monitor<'_>) {
        if let Some(first) = self.bad.values().next() {
            monitor.warn(format!("left out {} of {} images; the first: {first}", self.bad.len(), self.seen.len()));
        }
    }

    /// Those of the samples that can be used.
    fn sift(&mut self, data: &Dataset, indices: Vec<usize>) -> Result<Vec<usize>, DataError> {
        if !self.skips {
            return Ok(indices);
        }
        let fresh: Vec<usize> = indices.iter().copied().filter(|index| self.seen.insert(*index)).collect();
        let (good, errors) = data.decodable(&fresh)?;
        let good: BTreeSet<usize> = good.into_iter().collect();
        let bad = fresh.iter().filter(|index| !good.contains(index));
        self.bad.extend(bad.copied().zip(errors.iter().map(ToString::to_string)));
        let usable: Vec<usize> = indices.iter().copied().filter(|index| !self.bad.contains_key(index)).collect();
        match self.bad.values().next() {
            Some(first) if usable.is_empty() => {
                Err(DataError::Mismatch(format!("none of the {} images can be used: {first}", indices.len())))
            }
            _ => Ok(usable),
        }
    }
}

/// Samples for a pass that a pipeline runs with `data=PATH`; pixels are scaled to 0..1.
#[cfg(feature = "compiler")]
pub(crate) fn requested(request: &SampleRequest, threads: usize) -> Result<Option<Samples>, String> {
    let Some(path) = &request.data else {
        return Ok(None);
    };
    let [shape] = request.shapes.as_slice() else {
        return Err("data= needs a network with one input".into());
    };
    let preprocessing = match shape[..] {
        [a, b, c] => {
            // Few channels tell the layout; a network read from MLIR records none.
            let (layout, height, width, channels) = if a <= 4 { ("NCHW", b, c, a) } else { ("NHWC", a, b, c) };
            Preprocessing {
                layout: layout.to_owned(),
                height: height as u32,
                width: width as u32,
                channels: channels as u32,
                bytes: request.bytes,
                ..Preprocessing::default()
            }
        }
        _ => Preprocessing { shape: shape.iter().map(|&size| size as u64).collect(), ..Preprocessing::default() },
    };
    let (source, _) = Data::new(path.as_path() as &Path)
        .calibration(0, &preprocessing, threads)
        .map_err(|error| error.to_string())?;
    source(request)
}
