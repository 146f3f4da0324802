//! Data sets: what networks are calibrated, trained and evaluated on.

use crate::{Error, Monitor};
use mxc_compiler::pass::{SampleRequest, SampleSource, Samples};
use mxc_runtime::{
    data::{self, DataError, Dataset, Source, Split},
    package::Preprocessing,
};
use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    rc::Rc,
};

/// How many samples calibration takes of data unless the caller says.
pub(crate) const CALIBRATION_SAMPLES: usize = 512;
/// How many synthetic inputs it takes without data.
pub(crate) const SYNTHETIC_SAMPLES: usize = 64;

/// Where a data set is and how it is read: a folder of MNIST (IDX) or CIFAR files, an `.npz`, or class folders of images.
///
/// ```
/// let data = mxc::Data::new("/usr/share/datasets/fashion-mnist");
/// assert!(!data.skip_bad);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// The file or folder.
    pub path: PathBuf,
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
        Self { path: path.into(), classes: None, skip_bad: false }
    }

    /// Opens a split.
    fn open(
        &self,
        split: Split,
        holdout: usize,
        preprocessing: &Preprocessing,
        threads: usize,
    ) -> Result<Dataset, DataError> {
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
        let Good { indices, skipped, warning } = Good::of(&opened, used)?;
        opened.select(&indices);
        warning.into_iter().for_each(|warning| monitor.warn(warning));
        Ok((opened, Some(skipped)))
    }

    /// Calibration samples drawn from the training split, and what was left out of them.
    pub(crate) fn calibration(
        &self,
        holdout: usize,
        preprocessing: &Preprocessing,
        threads: usize,
    ) -> Result<(SampleSource, Rc<RefCell<LeftOut>>), Error> {
        let dataset = self.open(Split::Train, holdout, preprocessing, threads)?;
        let left_out = Rc::new(RefCell::new(LeftOut { count: self.skip_bad.then_some(0), warnings: Vec::new() }));
        let (skip_bad, told) = (self.skip_bad, left_out.clone());
        let source: SampleSource = Box::new(move |request| {
            let text = |error: DataError| error.to_string();
            dataset.check_classes(request.classes).map_err(text)?;
            let mut drawn = data::sample(dataset.len(), request.count.unwrap_or(CALIBRATION_SAMPLES), request.seed);
            if skip_bad {
                let good = Good::of(&dataset, drawn).map_err(|error| error.to_string())?;
                let mut told = told.borrow_mut();
                told.count = Some(told.count.unwrap_or(0) + good.skipped);
                told.warnings.extend(good.warning);
                drawn = good.indices;
            }
            let mut inputs = Vec::new();
            dataset.load(&drawn, &mut inputs).map_err(text)?;
            Ok(Some(Samples {
                inputs: vec![inputs],
                labels: dataset.labels(&drawn),
                indices: drawn.iter().map(|&index| dataset.id(index)).collect(),
            }))
        });
        Ok((source, left_out))
    }
}

/// What calibration has left out.
pub(crate) struct LeftOut {
    /// How many images; `None` when none may be.
    pub count: Option<usize>,
    pub warnings: Vec<String>,
}

/// Those samples that can be decoded.
struct Good {
    indices: Vec<usize>,
    skipped: usize,
    warning: Option<String>,
}

impl Good {
    fn of(data: &Dataset, indices: Vec<usize>) -> Result<Self, Error> {
        let (good, bad) = data.decodable(&indices)?;
        let warning = match bad.first() {
            None => None,
            Some(first) if good.is_empty() => {
                let message = format!("none of the {} images can be used: {first}", indices.len());
                return Err(DataError::Mismatch(message).into());
            }
            Some(first) => Some(format!("left out {} of {} images; the first: {first}", bad.len(), indices.len())),
        };
        Ok(Self { indices: good, skipped: bad.len(), warning })
    }
}

/// Samples for a pass that a pipeline runs with `data=PATH`; pixels are scaled to 0..1.
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
