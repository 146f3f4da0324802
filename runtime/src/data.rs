//! Labelled images for calibration, fine-tuning and evaluation, in the model's input layout.
//!
//! [`Dataset::open`] recognises what a path holds:
//!
//! | kind | path | train / test |
//! |---|---|---|
//! | IDX | a folder with `train-images-idx3-ubyte`, …, plain or `.gz` | `train-…` / `t10k-…` or `test-…` |
//! | CIFAR | the folder of the binary version | `data_batch_*.bin`, `train.bin` / `test_batch.bin`, `test.bin` |
//! | NumPy | an `.npz` file with `x`, `y` | the same for both; `x_train`, `y_train` / `x_test`, `y_test` if there |
//!
//! Bytes become `(byte / 255 − mean) / std` per channel. Floats in an `.npz` are taken to be the model's input already,
//! in its layout.

mod cifar;
mod idx;
mod npz;
mod resize;

use crate::package::Preprocessing;
use rand::{Rng, SeedableRng, rngs::Xoshiro256PlusPlus};
use rand_distr::{Distribution, StandardNormal};
use std::{
    io,
    path::{Path, PathBuf},
};
use xxhash_rust::xxh3::xxh3_128;

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

    /// A sample's index in the whole data set: what its random draws are keyed by.
    fn id(&self, index: usize) -> u64 {
        index as u64
    }

    /// Replaces `out` by the samples at `indices` one after another, in the model's layout.
    ///
    /// # Panics
    ///
    /// When an index is not less than [`Source::len`].
    fn load(&self, indices: &[usize], out: &mut Vec<f32>);

    /// The classes of the samples at `indices`; `None` when they have none.
    ///
    /// # Panics
    ///
    /// When an index is not less than [`Source::len`].
    fn labels(&self, indices: &[usize]) -> Option<Vec<u32>>;

    /// A text that tells this data from other data.
    fn fingerprint(&self) -> String;
}

/// Images as a file holds them.
#[derive(Debug)]
struct Images {
    pixels: Pixels,
    labels: Vec<u32>,
    /// Height, width, channels; unused for floats.
    shape: [usize; 3],
    /// Whether a pixel's channels are adjacent (HWC) or planes (CHW).
    channels_last: bool,
}

#[derive(Debug)]
enum Pixels {
    Bytes(Vec<u8>),
    /// Preprocessed values and the shape of one sample.
    Floats(Vec<f32>, Vec<usize>),
}

/// A labelled data set, or a split of it, in memory.
#[derive(Debug)]
pub struct Dataset {
    images: Images,
    /// The range of samples in `images` that this split shows.
    first: usize,
    len: usize,
    preprocess: Preprocess,
    fingerprint: String,
}

/// Checked preprocessing.
#[derive(Debug)]
struct Preprocess {
    /// Byte value → model value, per model channel.
    tables: Vec<[f32; 256]>,
    resize: Option<usize>,
    crop: Option<usize>,
    channels_last: bool,
    /// The model's input: height, width, channels.
    shape: [usize; 3],
}

impl Preprocess {
    fn new(options: &Preprocessing) -> Result<Self, DataError> {
        let mismatch = |reason: String| DataError::Mismatch(reason);
        let channels = options.channels as usize;
        let shape = [options.height as usize, options.width as usize, channels];
        if shape.contains(&0) {
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
        let tables = mean
            .iter()
            .zip(&std)
            .map(|(mean, std)| std::array::from_fn(|byte| (byte as f32 / 255.0 - mean) / std))
            .collect();
        Ok(Self {
            tables,
            resize: options.resize.map(|side| side as usize),
            crop: options.crop.map(|side| side as usize),
            channels_last,
            shape,
        })
    }

    /// Appends one image, `pixels` laid out as `images` says, to `out`.
    fn append(&self, images: &Images, pixels: &[u8], out: &mut Vec<f32>) {
        let [height, width, channels] = images.shape;
        let sized;
        let (pixels, channels_last) = match (self.resize, self.crop) {
            (None, None) => (pixels, images.channels_last),
            (resize, crop) => {
                let interleaved = resize::interleaved(pixels, images.shape, images.channels_last);
                sized = resize::resize_and_crop(interleaved, images.shape, resize, crop).0;
                (sized.as_slice(), true)
            }
        };
        let [rows, columns, _] =
            if self.resize.is_none() && self.crop.is_none() { [height, width, channels] } else { self.shape };
        let area = rows * columns;
        let outputs = self.shape[2];
        // Grey is replicated over the model's channels.
        let at = |pixel: usize, channel: usize| {
            let channel = if channels == 1 { 0 } else { channel };
            if channels_last { pixels[pixel * channels + channel] } else { pixels[channel * area + pixel] }
        };
        if self.channels_last {
            for pixel in 0..area {
                out.extend((0..outputs).map(|c| self.tables[c][usize::from(at(pixel, c))]));
            }
        } else {
            for (c, table) in self.tables.iter().enumerate() {
                out.extend((0..area).map(|pixel| table[usize::from(at(pixel, c))]));
            }
        }
    }
}

impl Dataset {
    /// Opens a split of the data at `path`. The last `holdout` training samples belong to [`Split::Holdout`], not to
    /// [`Split::Train`].
    pub fn open(path: &Path, split: Split, holdout: usize, preprocessing: &Preprocessing) -> Result<Self, DataError> {
        let preprocess = Preprocess::new(preprocessing)?;
        let training = split != Split::Test;
        let metadata = std::fs::metadata(path).map_err(|error| DataError::io(path, error))?;
        let images = if metadata.is_file() {
            if path.extension().is_some_and(|extension| extension == "npz") {
                npz::read(path, training)?
            } else {
                return Err(DataError::format(
                    path,
                    "unknown kind of data; give an .npz file, or a folder of IDX files or of CIFAR's binary version",
                ));
            }
        } else if let Some(images) = idx::read(path, training)? {
            images
        } else if let Some(images) = cifar::read(path, training)? {
            images
        } else {
            return Err(DataError::format(
                path,
                "unknown kind of data: neither IDX files (train-images-idx3-ubyte[.gz], …) nor CIFAR's binary version \
                 (data_batch_1.bin, … or train.bin) are in the folder; folders of image files are not supported yet",
            ));
        };
        Self::new(path, images, split, holdout, preprocess)
    }

    fn new(
        path: &Path,
        images: Images,
        split: Split,
        holdout: usize,
        preprocess: Preprocess,
    ) -> Result<Self, DataError> {
        let total = images.labels.len();
        if total == 0 {
            return Err(DataError::format(path, "it holds no samples"));
        }
        match &images.pixels {
            Pixels::Floats(_, shape) => {
                let [height, width, channels] = preprocess.shape;
                let expected =
                    if preprocess.channels_last { [height, width, channels] } else { [channels, height, width] };
                if *shape != expected {
                    return Err(DataError::format(
                        path,
                        format!("its samples have shape {shape:?} where the model takes {expected:?}"),
                    ));
                }
            }
            Pixels::Bytes(_) => {
                let [height, width, channels] = images.shape;
                let [.., wanted] = preprocess.shape;
                if channels != wanted && channels != 1 {
                    return Err(DataError::format(
                        path,
                        format!("its images have {channels} channels where the model takes {wanted}"),
                    ));
                }
                let sized = resize::size([height, width], preprocess.resize, preprocess.crop);
                if sized != preprocess.shape[..2] {
                    return Err(DataError::format(
                        path,
                        format!(
                            "its images are {}×{} where the model takes {}×{}; compile with --resize or --crop, or with \
                             another --input-shape",
                            sized[0], sized[1], preprocess.shape[0], preprocess.shape[1]
                        ),
                    ));
                }
            }
        }
        let (first, len) = match split {
            Split::Test => (0, total),
            Split::Train | Split::Holdout if holdout >= total => {
                return Err(DataError::Mismatch(format!(
                    "--holdout {holdout} leaves nothing of {}'s {total} training samples",
                    path.display()
                )));
            }
            Split::Train => (0, total - holdout),
            Split::Holdout if holdout == 0 => {
                return Err(DataError::Mismatch(
                    "the split holdout is empty; say how many samples with --holdout N".into(),
                ));
            }
            Split::Holdout => (total - holdout, holdout),
        };
        let pixels = match &images.pixels {
            Pixels::Bytes(bytes) => xxh3_128(bytes),
            Pixels::Floats(values, _) => xxh3_128(bytemuck::cast_slice(values)),
        };
        let labels = xxh3_128(bytemuck::cast_slice(&images.labels));
        Ok(Self {
            fingerprint: format!("{:032x}/{first}+{len}", pixels ^ labels.rotate_left(1)),
            images,
            first,
            len,
            preprocess,
        })
    }

    /// One more than the largest label.
    pub fn classes(&self) -> usize {
        self.images.labels.iter().max().map_or(0, |&label| label as usize + 1)
    }
}

impl Source for Dataset {
    fn len(&self) -> usize {
        self.len
    }

    fn sample_len(&self) -> usize {
        self.preprocess.shape.iter().product()
    }

    fn id(&self, index: usize) -> u64 {
        (self.first + index) as u64
    }

    fn load(&self, indices: &[usize], out: &mut Vec<f32>) {
        out.clear();
        out.reserve(indices.len() * self.sample_len());
        for &index in indices {
            assert!(index < self.len, "sample {index} of {}", self.len);
            let index = self.first + index;
            match &self.images.pixels {
                Pixels::Bytes(bytes) => {
                    let size: usize = self.images.shape.iter().product();
                    let image = &bytes[index * size..(index + 1) * size];
                    self.preprocess.append(&self.images, image, out);
                }
                Pixels::Floats(values, _) => {
                    let size = self.sample_len();
                    out.extend_from_slice(&values[index * size..(index + 1) * size]);
                }
            }
        }
    }

    fn labels(&self, indices: &[usize]) -> Option<Vec<u32>> {
        Some(
            indices
                .iter()
                .map(|&index| {
                    assert!(index < self.len, "sample {index} of {}", self.len);
                    self.images.labels[self.first + index]
                })
                .collect(),
        )
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
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

    fn load(&self, indices: &[usize], out: &mut Vec<f32>) {
        out.clear();
        for &index in indices {
            assert!(index < self.len, "sample {index} of {}", self.len);
            let generator = generator(self.seed, "synthetic", index as u64);
            let values = <StandardNormal as Distribution<f32>>::sample_iter(StandardNormal, generator);
            out.extend(values.take(self.sample_len));
        }
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

/// The numbers `0..len` in an order keyed by the arguments (Fisher-Yates).
pub fn permutation(len: usize, seed: u64, purpose: &str, counter: u64) -> Vec<usize> {
    let mut generator = generator(seed, purpose, counter);
    let mut order: Vec<usize> = (0..len).collect();
    for last in (1..len).rev() {
        // Multiply-shift; its bias is below len / 2⁶⁴.
        let pick = ((u128::from(generator.next_u64()) * (last as u128 + 1)) >> 64) as usize;
        order.swap(last, pick);
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
