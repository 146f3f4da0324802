//! Images, mostly labelled, for calibration, fine-tuning and evaluation, in the model's input layout.
//!
//! [`Dataset::open`] recognises what a path holds:
//!
//! | kind | path | train / test |
//! |---|---|---|
//! | IDX | a folder with `train-images-idx3-ubyte`, …, plain or `.gz` | `train-…` / `t10k-…` or `test-…` |
//! | CIFAR | the folder of the binary version | `data_batch_*.bin`, `train.bin` / `test_batch.bin`, `test.bin` |
//! | NumPy | an `.npz` file with `x` and, for labels, `y` | the same for both; `x_train`, `y_train` / `x_test`, `y_test` if there |
//! | ImageFolder | a folder of class folders of images, or of images without labels | the same for both; `train/` / `test/` or `val/` if there |
//!
//! Images are resized and cropped as the package says, then bytes become `(byte / 255 − mean) / std` per channel. Floats in an
//! `.npz` are taken to be the model's input already, in its layout and of any rank. Image files are decoded when they are loaded, on threads
//! of their own and ahead of use where [`Source::announce`] tells the order; the other kinds are held in memory.

mod cifar;
mod folder;
mod idx;
mod memory;
mod moved;
mod npz;
mod picture;
mod resize;

use crate::{files::identity, package::Preprocessing, sync::lock};
use folder::ImageFolder;
pub use folder::read_classes;
pub use memory::Memory;
pub use moved::Moved;
pub use npz::check_npz;
use rand::{Rng, SeedableRng, rngs::Xoshiro256PlusPlus};
use rand_distr::{Distribution, StandardNormal};
use resize::{Interpolation, Sizing};
use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, sync_channel},
    },
    thread,
};
use walkdir::{DirEntryExt, WalkDir};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// The file of the data at `path` that has this [`identity`], if one has. In a folder files that [`Dataset::open`] would not read
/// are none of its data.
pub fn file_with_identity(path: &Path, wanted: (u64, u64)) -> Option<PathBuf> {
    if !path.is_dir() {
        return (identity(path) == Some(wanted)).then(|| path.to_owned());
    }
    let files = WalkDir::new(path).follow_links(true).into_iter().filter_map(Result::ok);
    files
        // The folder tells the inode, without a look at every file.
        .filter(|entry| entry.ino() == wanted.1)
        .filter(|entry| [idx::is_file_name, cifar::is_file_name, folder::is_image].iter().any(|is| is(entry.path())))
        .map(walkdir::DirEntry::into_path)
        .find(|file| identity(file) == Some(wanted))
}

/// Which samples of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The training samples without the held-out ones.
    Train,
    /// The test samples.
    Test,
    /// The last training samples, kept for choices (`--holdout`).
    Holdout,
}

impl std::str::FromStr for Split {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "train" => Ok(Self::Train),
            "test" => Ok(Self::Test),
            "holdout" => Ok(Self::Holdout),
            _ => Err(format!("`{text}` is no split; use train, test or holdout")),
        }
    }
}

/// Why data cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and the mend.
        reason: String,
    },
    /// An image cannot be decoded.
    #[error("{}: cannot be decoded: {reason}; repair or remove it, or leave such images out with --skip-bad", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The data does not fit the model or the options.
    #[error("{0}")]
    Mismatch(String),
}

impl DataError {
    fn format(path: &Path, reason: impl Into<String>) -> Self {
        Self::Format { path: path.to_owned(), reason: reason.into() }
    }

    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// Samples by index.
pub trait Source: Sync {
    /// The number of samples.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of values of one sample.
    fn sample_len(&self) -> usize;

    /// How a sample's values are laid out where it is an image; `None` of numbers.
    fn image(&self) -> Option<Layout>;

    /// A sample's index in the whole data set: what its random draws are keyed by.
    fn id(&self, index: usize) -> u64 {
        index as u64
    }

    /// Replaces `out` by the samples at `indices` one after another, in the model's layout. `out` is of no use after an
    /// error.
    ///
    /// # Panics
    ///
    /// When an index is not less than [`Source::len`].
    fn load(&self, indices: &[usize], out: &mut Vec<f32>) -> Result<(), DataError>;

    /// Tells which batches will be loaded next, in this order, so that they can be prepared ahead. Loading anything else
    /// instead is allowed.
    fn announce(&self, _batches: Vec<Vec<usize>>) {}

    /// The classes of the samples at `indices`; `None` when they have none.
    ///
    /// # Panics
    ///
    /// When an index is not less than [`Source::len`].
    fn labels(&self, indices: &[usize]) -> Option<Vec<u32>>;

    /// Checks that its classes are numbered as the network's outputs are, of which there are so many.
    ///
    /// # Errors
    ///
    /// Where the numbers come from the order of class folders, and there are not as many of these.
    fn check_classes(&self, _outputs: usize) -> Result<(), DataError> {
        Ok(())
    }

    /// A text that tells this data from other data.
    fn fingerprint(&self) -> String;
}

/// How an image's bytes or values are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Height, width, channels.
    pub shape: [usize; 3],
    /// Whether a pixel's channels are adjacent (HWC) or planes (CHW).
    pub channels_last: bool,
}

impl Layout {
    /// The bytes or values of one image.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Samples as the files of a kind hold them.
#[derive(Debug)]
struct Samples {
    pixels: Pixels,
    labels: Option<Vec<u32>>,
}

impl Samples {
    /// The number of samples.
    fn len(&self) -> usize {
        match &self.pixels {
            Pixels::Bytes(bytes, layout) => bytes.len().checked_div(layout.len()),
            Pixels::Floats(values, shape) => values.len().checked_div(shape.iter().product()),
            Pixels::Files(folder) => Some(folder.len()),
        }
        .unwrap_or(0)
    }
}

#[derive(Debug)]
enum Pixels {
    /// Images one after another.
    Bytes(Vec<u8>, Layout),
    /// Preprocessed values and the shape of one sample.
    Floats(Vec<f32>, Vec<usize>),
    /// Decoded when they are loaded.
    Files(ImageFolder),
}

/// A data set, or a split of it.
#[derive(Debug)]
pub struct Dataset {
    loader: Arc<Loader>,
    /// The samples of this split, in order: where they are in the whole data set.
    selected: Vec<usize>,
    classes: usize,
    /// What numbers the class folders, and where; `None` where the data holds the numbers.
    numbering: Option<(Numbering, PathBuf)>,
    content: u128,
    /// The announced batches that are being prepared.
    ahead: Mutex<Option<Ahead>>,
}

/// What numbers class folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbering {
    /// Their own order.
    Own,
    /// The order of the training split's.
    Training,
    /// A file that lists them (`--classes`).
    List,
}

/// What loading needs; shared with the thread that works ahead.
#[derive(Debug)]
struct Loader {
    samples: Arc<Samples>,
    input: Input,
    threads: usize,
}

/// Batches prepared by a thread: one is being made while one is in use.
#[derive(Debug)]
struct Ahead {
    announced: VecDeque<Vec<usize>>,
    prepared: Receiver<Result<Vec<f32>, DataError>>,
}

/// The model's input.
#[derive(Debug)]
enum Input {
    /// An image.
    Image(Preprocess),
    /// Numbers of this shape.
    Values(Vec<usize>),
}

impl Input {
    fn new(options: &Preprocessing) -> Result<Self, DataError> {
        if !options.layout.is_empty() {
            return Preprocess::new(options).map(Self::Image);
        }
        let mismatch = || DataError::Mismatch("data sets feed models with one input, whose shape is known".to_owned());
        let shape: Option<Vec<usize>> = options.shape.iter().map(|&size| usize::try_from(size).ok()).collect();
        let shape = shape.filter(|shape| !shape.is_empty()).ok_or_else(mismatch)?;
        let len = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        len.filter(|&len| len > 0).ok_or_else(mismatch)?;
        Ok(Self::Values(shape))
    }

    /// The shape of one sample.
    fn shape(&self) -> Vec<usize> {
        match self {
            Self::Values(shape) => shape.clone(),
            Self::Image(Preprocess { layout: Layout { shape, channels_last: true }, .. }) => shape.to_vec(),
            Self::Image(Preprocess { layout: Layout { shape: [height, width, channels], .. }, .. }) => {
                vec![*channels, *height, *width]
            }
        }
    }

    /// The number of values of one sample.
    fn len(&self) -> usize {
        match self {
            Self::Values(shape) => shape.iter().product(),
            Self::Image(image) => image.layout.len(),
        }
    }

    /// Why samples do not fit the model, if so.
    fn misfit(&self, pixels: &Pixels) -> Option<String> {
        match (pixels, self) {
            (Pixels::Floats(_, shape), input) if *shape != input.shape() => {
                Some(format!("its samples have shape {shape:?} where the model takes {:?}", input.shape()))
            }
            (Pixels::Floats(values, _), Self::Image(Preprocess { bytes: true, .. })) => {
                let other = values.iter().find(|&&value| !((0.0..=255.0).contains(&value) && value.fract() == 0.0));
                other.map(|value| format!("it holds {value} where the model takes bytes, 0 to 255"))
            }
            (Pixels::Floats(..), _) => None,
            (Pixels::Bytes(_, layout), Self::Image(image)) => image.misfit(layout),
            // Every file has its own size.
            (Pixels::Files(_), Self::Image(image)) => (![1, 3].contains(&image.layout.shape[2]))
                .then(|| format!("images are grey or RGB where the model takes {} channels", image.layout.shape[2])),
            (Pixels::Bytes(..) | Pixels::Files(_), Self::Values(shape)) => Some(format!(
                "it holds images where the model takes numbers of shape {shape:?}; give an .npz of floats"
            )),
        }
    }
}

/// Checked preprocessing.
#[derive(Debug)]
struct Preprocess {
    /// Byte value → model value, per model channel.
    tables: Vec<[f32; 256]>,
    /// The model takes bytes, which the executor keeps as words of i32.
    bytes: bool,
    sizing: Sizing,
    /// The model's input.
    layout: Layout,
}

/// A byte as an element of an integer input.
fn byte_word(byte: u8) -> f32 {
    f32::from_bits(u32::from(byte))
}

impl Preprocess {
    fn new(options: &Preprocessing) -> Result<Self, DataError> {
        let mismatch = |reason: String| DataError::Mismatch(reason);
        let channels = options.channels as usize;
        let shape = [options.height as usize, options.width as usize, channels];
        let values = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        if values.is_none_or(|values| values == 0) {
            return Err(mismatch(format!("the model's input {shape:?} (height, width, channels) is no image")));
        }
        let channels_last = match options.layout.as_str() {
            "NHWC" => true,
            "NCHW" => false,
            other => {
                return Err(mismatch(format!("layout `{other}` is neither NCHW nor NHWC")));
            }
        };
        let per_channel = |name: &str, values: &[f32], default: f32| match values {
            [] => Ok(vec![default; channels]),
            [one] => Ok(vec![*one; channels]),
            values if values.len() == channels => Ok(values.to_vec()),
            values => Err(mismatch(format!("--{name} holds {} values for {channels} channels", values.len()))),
        };
        let mean = per_channel("mean", &options.mean, 0.0)?;
        let std = per_channel("std", &options.std, 1.0)?;
        if let Some(bad) = std.iter().find(|&&std| !(std > 0.0 && std.is_finite())) {
            return Err(mismatch(format!("--std {bad} is not positive")));
        }
        if options.bytes && !(options.mean.is_empty() && options.std.is_empty()) {
            return Err(mismatch(
                "--mean and --std are not for a model that takes bytes: it normalises them itself".into(),
            ));
        }
        let value = |byte: usize, mean: f32, std: f32| match options.bytes {
            true => byte_word(byte as u8),
            false => (byte as f32 / 255.0 - mean) / std,
        };
        let tables =
            mean.iter().zip(&std).map(|(&mean, &std)| std::array::from_fn(|byte| value(byte, mean, std))).collect();
        let side = |name: &str, side: Option<u32>| match side {
            Some(0) => Err(mismatch(format!("--{name} 0 leaves no image"))),
            side => Ok(side.map(|side| side as usize)),
        };
        let interpolation = match options.interpolation.as_str() {
            "" | "bilinear" => Interpolation::Bilinear,
            "bicubic" => Interpolation::Bicubic,
            other => return Err(mismatch(format!("interpolation `{other}` is neither bilinear nor bicubic"))),
        };
        let sizing =
            Sizing { resize: side("resize", options.resize)?, crop: side("crop", options.crop)?, interpolation };
        Ok(Self { tables, bytes: options.bytes, sizing, layout: Layout { shape, channels_last } })
    }

    /// Why images of a layout do not fit the model, if so.
    fn misfit(&self, layout: &Layout) -> Option<String> {
        let [height, width, channels] = layout.shape;
        if height == 0 || width == 0 {
            return Some(format!("its images are {height}×{width}: there are no pixels"));
        }
        if channels != self.layout.shape[2] && channels != 1 {
            return Some(format!("its images have {channels} channels where the model takes {}", self.layout.shape[2]));
        }
        let sized = self.sizing.size([height, width]);
        (sized != self.layout.shape[..2]).then(|| {
            format!(
                "its images are {}×{} where the model takes {}×{}; compile with --resize or --crop, or with \
                 another --input-shape",
                sized[0], sized[1], self.layout.shape[0], self.layout.shape[1]
            )
        })
    }

    /// Writes one image, which fits the model, to `out`.
    fn write(&self, pixels: &[u8], layout: &Layout, out: &mut [f32]) {
        let channels = layout.shape[2];
        let sized;
        let (pixels, channels_last) = if self.sizing.is_identity() {
            (pixels, layout.channels_last)
        } else {
            sized = if layout.channels_last {
                self.sizing.apply(pixels, layout.shape)
            } else {
                self.sizing.apply(&resize::interleaved(pixels, channels), layout.shape)
            };
            (sized.as_slice(), true)
        };
        let area = self.layout.shape[0] * self.layout.shape[1];
        let outputs = self.layout.shape[2];
        // Grey is replicated over the model's channels.
        let at = |pixel: usize, channel: usize| {
            let channel = if channels == 1 { 0 } else { channel };
            if channels_last { pixels[pixel * channels + channel] } else { pixels[channel * area + pixel] }
        };
        for (c, table) in self.tables.iter().enumerate() {
            for pixel in 0..area {
                let slot = if self.layout.channels_last { pixel * outputs + c } else { c * area + pixel };
                out[slot] = table[usize::from(at(pixel, c))];
            }
        }
    }
}

impl Loader {
    /// Whether loading takes so long that threads pay.
    fn is_work(&self) -> bool {
        match (&self.samples.pixels, &self.input) {
            (Pixels::Bytes(..), Input::Image(image)) => !image.sizing.is_identity(),
            (Pixels::Bytes(..), Input::Values(_)) | (Pixels::Floats(..), _) => false,
            (Pixels::Files(_), _) => true,
        }
    }

    /// The bytes of the image file `index` and their layout.
    fn decode(&self, folder: &ImageFolder, index: usize) -> Result<(Vec<u8>, Layout), DataError> {
        let grey = matches!(&self.input, Input::Image(image) if image.layout.shape[2] == 1);
        let channels = if grey { 1 } else { 3 };
        let (pixels, [height, width]) = folder.decode(index, channels)?;
        Ok((pixels, Layout { shape: [height, width, channels], channels_last: true }))
    }

    /// Writes the sample `index` of the whole data set to `out`.
    fn write(&self, index: usize, out: &mut [f32]) -> Result<(), DataError> {
        match (&self.samples.pixels, &self.input) {
            (Pixels::Bytes(bytes, layout), Input::Image(image)) => {
                let size = layout.len();
                image.write(&bytes[index * size..(index + 1) * size], layout, out);
            }
            (Pixels::Floats(values, _), input) => {
                let size = out.len();
                let values = &values[index * size..(index + 1) * size];
                match input {
                    Input::Image(Preprocess { bytes: true, .. }) => {
                        out.iter_mut().zip(values).for_each(|(out, &value)| *out = byte_word(value as u8));
                    }
                    Input::Image(_) | Input::Values(_) => out.copy_from_slice(values),
                }
            }
            (Pixels::Files(folder), Input::Image(image)) => {
                let (pixels, layout) = self.decode(folder, index)?;
                if let Some(reason) = image.misfit(&layout) {
                    return Err(DataError::format(&folder.path(index), reason.replace("its images are", "it is")));
                }
                image.write(&pixels, &layout, out);
            }
            (pixels @ (Pixels::Bytes(..) | Pixels::Files(_)), Input::Values(_)) => {
                return Err(DataError::Mismatch(self.input.misfit(pixels).unwrap_or_default()));
            }
        }
        Ok(())
    }

    /// Replaces `out` by the samples at `indices` of the whole data set.
    fn load(&self, indices: &[usize], out: &mut Vec<f32>) -> Result<(), DataError> {
        let size = self.input.len();
        out.clear();
        out.resize(indices.len() * size, 0.0);
        let threads = if self.is_work() { self.threads } else { 1 };
        for_each(indices.iter().zip(out.chunks_exact_mut(size)), threads, |(&index, out)| self.write(index, out))
    }
}

/// Does `work` on the items, on `threads` threads; the error is that of the first item that fails.
fn for_each<T: Send>(
    items: impl ExactSizeIterator<Item = T> + Send,
    threads: usize,
    work: impl Fn(T) -> Result<(), DataError> + Sync,
) -> Result<(), DataError> {
    let threads = threads.min(items.len());
    if threads < 2 {
        return items.into_iter().try_for_each(work);
    }
    // Items are handed out in order, so all before a failing one have been.
    let items = Mutex::new(items.enumerate());
    let failed: Mutex<Option<(usize, DataError)>> = Mutex::new(None);
    let next = || if lock(&failed).is_none() { lock(&items).next() } else { None };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((position, item)) = next() {
                    if let Err(error) = work(item) {
                        let mut failed = lock(&failed);
                        if failed.as_ref().is_none_or(|&(first, _)| position < first) {
                            *failed = Some((position, error));
                        }
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), |(_, error)| Err(error))
}

impl Dataset {
    /// Opens a split of the data at `path`, loading on as many threads as the machine has cores. The last `holdout`
    /// training samples belong to [`Split::Holdout`], not to [`Split::Train`].
    pub fn open(path: &Path, split: Split, holdout: usize, preprocessing: &Preprocessing) -> Result<Self, DataError> {
        Self::open_numbered(path, split, holdout, preprocessing, None)
    }

    /// [`Dataset::open`] with the names of the class folders in the order of their numbers.
    pub fn open_numbered(
        path: &Path,
        split: Split,
        holdout: usize,
        preprocessing: &Preprocessing,
        classes: Option<&[String]>,
    ) -> Result<Self, DataError> {
        let input = Input::new(preprocessing)?;
        let data = Self::opened(path, split, holdout, input, classes)?;
        match classes {
            Some(_) if data.numbering.is_none() => Err(DataError::format(
                path,
                "--classes numbers class folders of images, and there are none: the labels are numbers already or missing",
            )),
            _ => Ok(data),
        }
    }

    /// A split of samples in memory; `name` is what errors call them.
    ///
    /// # Errors
    ///
    /// [`DataError::Format`] where they do not fit the model, [`DataError::Mismatch`] where the split is empty.
    pub fn of_memory(
        name: &Path,
        memory: &Memory,
        split: Split,
        holdout: usize,
        preprocessing: &Preprocessing,
    ) -> Result<Self, DataError> {
        Self::new(name, memory.0.clone(), None, split, holdout, Input::new(preprocessing)?)
    }

    fn opened(
        path: &Path,
        split: Split,
        holdout: usize,
        input: Input,
        classes: Option<&[String]>,
    ) -> Result<Self, DataError> {
        let training = split != Split::Test;
        let metadata = std::fs::metadata(path).map_err(|error| DataError::io(path, error))?;
        let samples = if metadata.is_file() {
            if path.extension().is_some_and(|extension| extension == "npz") {
                npz::read(path, training)?
            } else {
                return Err(DataError::format(
                    path,
                    "unknown kind of data; give an .npz file, or a folder of IDX files, of CIFAR's binary version or of \
                     images",
                ));
            }
        } else if let Some(samples) = idx::read(path, training)? {
            samples
        } else if let Some(samples) = cifar::read(path, training)? {
            samples
        } else if let Some(found) = folder::read(path, split, classes)? {
            let mut data = Self::new(path, found.samples, Some(found.classes), split, holdout, input)?;
            data.numbering = (found.classes > 0).then(|| (found.numbering, path.to_owned()));
            return Ok(data);
        } else {
            return Err(DataError::format(
                path,
                "unknown kind of data: neither IDX files (train-images-idx3-ubyte[.gz], …) nor CIFAR's binary version \
                 (data_batch_1.bin, … or train.bin) nor images nor class folders of images are in the folder",
            ));
        };
        Self::new(path, samples, None, split, holdout, input)
    }

    fn new(
        path: &Path,
        samples: impl Into<Arc<Samples>>,
        classes: Option<usize>,
        split: Split,
        holdout: usize,
        input: Input,
    ) -> Result<Self, DataError> {
        let samples = samples.into();
        let total = samples.len();
        if total == 0 {
            return Err(DataError::format(path, "it holds no samples"));
        }
        if let Some(reason) = input.misfit(&samples.pixels) {
            return Err(DataError::format(path, reason));
        }
        let selected = match split {
            Split::Test => 0..total,
            Split::Train | Split::Holdout if holdout >= total => {
                return Err(DataError::Mismatch(format!(
                    "--holdout {holdout} leaves nothing of {}'s {total} training samples",
                    path.display()
                )));
            }
            Split::Train => 0..total - holdout,
            Split::Holdout if holdout == 0 => {
                return Err(DataError::Mismatch(
                    "the split holdout is empty; say how many samples with --holdout N".into(),
                ));
            }
            Split::Holdout => total - holdout..total,
        };
        let pixels = match &samples.pixels {
            Pixels::Bytes(bytes, _) => xxh3_128(bytes),
            Pixels::Floats(values, _) => xxh3_128(bytemuck::cast_slice(values)),
            Pixels::Files(folder) => folder.hash,
        };
        let labels = samples.labels.as_deref().unwrap_or_default();
        let hash = xxh3_128(bytemuck::cast_slice(labels));
        let largest = || labels.iter().max().map_or(0, |&label| label as usize + 1);
        Ok(Self {
            selected: selected.collect(),
            classes: classes.unwrap_or_else(largest),
            numbering: None,
            content: pixels ^ hash.rotate_left(1),
            loader: Arc::new(Loader {
                samples,
                input,
                threads: thread::available_parallelism().map_or(1, usize::from),
            }),
            ahead: Mutex::new(None),
        })
    }

    /// The same data, loaded on `threads` threads.
    pub fn with_threads(mut self, threads: usize) -> Self {
        if let Some(loader) = Arc::get_mut(&mut self.loader) {
            loader.threads = threads;
        }
        self
    }

    /// The number of classes: one more than the largest label, or the number of class folders; 0 without labels.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The image file of a sample, if it has one of its own.
    ///
    /// # Panics
    ///
    /// When the index is not less than [`Source::len`].
    pub fn path(&self, index: usize) -> Option<PathBuf> {
        match &self.loader.samples.pixels {
            Pixels::Files(folder) => Some(folder.path(self.selected[index])),
            Pixels::Bytes(..) | Pixels::Floats(..) => None,
        }
    }

    /// Decodes the images at `indices`; returns the indices of those that can be decoded and what is wrong with the others.
    /// Of data that is in memory already nothing is wrong.
    ///
    /// # Panics
    ///
    /// When an index is not less than [`Source::len`].
    pub fn decodable(&self, indices: &[usize]) -> Result<(Vec<usize>, Vec<DataError>), DataError> {
        let Pixels::Files(folder) = &self.loader.samples.pixels else {
            return Ok((indices.to_vec(), Vec::new()));
        };
        let mut found: Vec<Option<DataError>> = indices.iter().map(|_| None).collect();
        for_each(indices.iter().zip(&mut found), self.loader.threads, |(&index, bad)| {
            match self.loader.decode(folder, self.selected[index]) {
                Ok(_) => Ok(()),
                Err(error @ DataError::Image { .. }) => {
                    *bad = Some(error);
                    Ok(())
                }
                // What the system refuses may be there the next time: no reason to leave a sample out.
                Err(error) => Err(error),
            }
        })?;
        let good = indices.iter().zip(&found).filter(|(_, bad)| bad.is_none()).map(|(&index, _)| index).collect();
        Ok((good, found.into_iter().flatten().collect()))
    }

    /// Leaves only the samples at `indices`, in that order; they keep their [`Source::id`].
    ///
    /// # Panics
    ///
    /// When an index is not less than [`Source::len`].
    pub fn select(&mut self, indices: &[usize]) {
        self.selected = self.absolute(indices);
    }

    /// Where samples are in the whole data set.
    fn absolute(&self, indices: &[usize]) -> Vec<usize> {
        indices
            .iter()
            .map(|&index| {
                assert!(index < self.selected.len(), "sample {index} of {}", self.selected.len());
                self.selected[index]
            })
            .collect()
    }
}

impl Source for Dataset {
    fn len(&self) -> usize {
        self.selected.len()
    }

    fn sample_len(&self) -> usize {
        self.loader.input.len()
    }

    fn image(&self) -> Option<Layout> {
        match &self.loader.input {
            Input::Image(image) => Some(image.layout),
            Input::Values(_) => None,
        }
    }

    fn id(&self, index: usize) -> u64 {
        self.selected[index] as u64
    }

    fn load(&self, indices: &[usize], out: &mut Vec<f32>) -> Result<(), DataError> {
        let mut ahead = lock(&self.ahead);
        if let Some(Ahead { announced, prepared }) = ahead.as_mut() {
            if announced.front().is_some_and(|batch| batch == indices)
                && let Ok(batch) = prepared.recv()
            {
                announced.pop_front();
                *out = batch?;
                return Ok(());
            }
            // Not what was announced: the thread ends when it finds nobody listening.
            *ahead = None;
        }
        drop(ahead);
        self.loader.load(&self.absolute(indices), out)
    }

    fn announce(&self, batches: Vec<Vec<usize>>) {
        if !self.loader.is_work() {
            return;
        }
        let order: Vec<_> = batches.iter().map(|batch| self.absolute(batch)).collect();
        let loader = self.loader.clone();
        let (sender, prepared) = sync_channel(0);
        let work = move || {
            for batch in order {
                let mut out = Vec::new();
                let result = loader.load(&batch, &mut out).map(|()| out);
                let failed = result.is_err();
                if sender.send(result).is_err() || failed {
                    return;
                }
            }
        };
        // Without a thread, batches are loaded when they are asked for.
        let started = thread::Builder::new().name("data".into()).spawn(work).is_ok();
        *lock(&self.ahead) = started.then(|| Ahead { announced: batches.into(), prepared });
    }

    fn labels(&self, indices: &[usize]) -> Option<Vec<u32>> {
        let labels = self.loader.samples.labels.as_ref()?;
        Some(self.absolute(indices).into_iter().map(|index| labels[index]).collect())
    }

    fn check_classes(&self, outputs: usize) -> Result<(), DataError> {
        let Some((numbering, path)) = self.numbering.as_ref().filter(|_| self.classes != outputs) else {
            return Ok(());
        };
        let found = match numbering {
            Numbering::Own => format!("it has {} class folders", self.classes),
            Numbering::Training => format!("its folder train has {} class folders", self.classes),
            Numbering::List => {
                let reason =
                    format!("--classes names {} class folders, the network has {outputs} outputs", self.classes);
                return Err(DataError::format(path, format!("{reason}; name one a line, in the order of the outputs")));
            }
        };
        Err(DataError::format(
            path,
            format!(
                "{found}, the network {outputs} outputs, so that their numbers cannot be told; name all classes in the order of \
                 the outputs, one a line, in a file given with --classes FILE, or give a folder whose train/ has them all"
            ),
        ))
    }

    fn fingerprint(&self) -> String {
        let mut selected = Xxh3::new();
        for &index in &self.selected {
            selected.update(&(index as u64).to_le_bytes());
        }
        format!("{:032x}/{:032x}", self.content, selected.digest128())
    }
}

/// Standard normal inputs without labels, for compiling without data: sample `i` is drawn by a xoshiro256++ generator
/// keyed by the seed and `i`.
#[derive(Clone, Debug)]
pub struct Synthetic {
    sample_len: usize,
    len: usize,
    seed: u64,
}

impl Synthetic {
    /// `len` samples of `shape` (without the batch).
    pub fn new(shape: &[usize], len: usize, seed: u64) -> Self {
        Self { sample_len: shape.iter().product(), len, seed }
    }
}

impl Source for Synthetic {
    fn len(&self) -> usize {
        self.len
    }

    fn sample_len(&self) -> usize {
        self.sample_len
    }

    fn image(&self) -> Option<Layout> {
        None
    }

    fn load(&self, indices: &[usize], out: &mut Vec<f32>) -> Result<(), DataError> {
        out.clear();
        for &index in indices {
            assert!(index < self.len, "sample {index} of {}", self.len);
            let generator = generator(self.seed, "synthetic", index as u64);
            let values = <StandardNormal as Distribution<f32>>::sample_iter(StandardNormal, generator);
            out.extend(values.take(self.sample_len));
        }
        Ok(())
    }

    fn labels(&self, _indices: &[usize]) -> Option<Vec<u32>> {
        None
    }

    fn fingerprint(&self) -> String {
        format!("synthetic/{}x{}/{}", self.len, self.sample_len, self.seed)
    }
}

/// A generator keyed by a seed, a purpose and a counter. Xoshiro256++ gives the same numbers everywhere.
fn generator(seed: u64, purpose: &str, counter: u64) -> Xoshiro256PlusPlus {
    let mut key = seed.to_le_bytes().to_vec();
    key.extend(counter.to_le_bytes());
    key.extend(purpose.as_bytes());
    let (low, high) = (xxh3_128(&key), xxh3_128(&[&key[..], b"/2"].concat()));
    let mut state = [0; 32];
    state[..16].copy_from_slice(&low.to_le_bytes());
    state[16..].copy_from_slice(&high.to_le_bytes());
    Xoshiro256PlusPlus::from_seed(state)
}

/// A number below `count`: by multiply-shift, whose bias is below count / 2⁶⁴.
fn below(count: usize, generator: &mut impl Rng) -> usize {
    ((u128::from(generator.next_u64()) * count as u128) >> 64) as usize
}

/// The numbers `0..len` in an order keyed by the arguments (Fisher-Yates).
pub fn permutation(len: usize, seed: u64, purpose: &str, counter: u64) -> Vec<usize> {
    let mut generator = generator(seed, purpose, counter);
    let mut order: Vec<usize> = (0..len).collect();
    for last in (1..len).rev() {
        order.swap(last, below(last + 1, &mut generator));
    }
    order
}

/// `count` numbers below `len` (all, if there are fewer) drawn without replacement, keyed by the seed, in ascending
/// order.
pub fn sample(len: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut drawn = permutation(len, seed, "calibration", 0);
    drawn.truncate(count);
    drawn.sort_unstable();
    drawn
}

#[cfg(test)]
mod tests;
