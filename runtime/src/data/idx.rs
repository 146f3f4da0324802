//! IDX files (MNIST's format), plain or gzip-compressed.

use super::{DataError, Layout, Pixels, Samples};
use flate2::read::MultiGzDecoder;
use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

/// Whether a file's name may be an IDX file's.
pub(super) fn is_file_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_suffix(".gz").unwrap_or(name).ends_with("-ubyte")
}

/// Reads a folder's training or test files; `None` when it holds no IDX files.
pub(super) fn read(folder: &Path, training: bool) -> Result<Option<Samples>, DataError> {
    let prefixes: &[&str] = if training { &["train"] } else { &["t10k", "test"] };
    let find = |what: &str, dimensions: u8| {
        prefixes.iter().find_map(|prefix| {
            ["-", "."].iter().find_map(|dot| {
                ["", ".gz"].iter().find_map(|extension| {
                    let name = format!("{prefix}-{what}{dot}idx{dimensions}-ubyte{extension}");
                    Some(folder.join(name)).filter(|path| path.is_file())
                })
            })
        })
    };
    let images = find("images", 3).or_else(|| find("images", 4));
    let labels = find("labels", 1);
    let missing = |what: &str, other: &Path| {
        Err(DataError::format(folder, format!("it holds {} but not the {what} that belong to it", other.display())))
    };
    let (image_path, label_path) = match (images, labels) {
        (None, None) => return other_split(folder, training),
        (Some(images), None) => return missing("labels", &images),
        (None, Some(labels)) => return missing("images", &labels),
        (Some(images), Some(labels)) => (images, labels),
    };
    let (sizes, pixels) = read_file(&image_path)?;
    let (count, shape) = match *sizes.as_slice() {
        [count, height, width] => (count, [height, width, 1]),
        [count, height, width, channels] => (count, [height, width, channels]),
        _ => {
            return Err(DataError::format(&image_path, format!("it holds {} dimensions, not images", sizes.len())));
        }
    };
    let (label_sizes, labels) = read_file(&label_path)?;
    if label_sizes != [count] {
        return Err(DataError::format(
            &label_path,
            format!("it holds {label_sizes:?} labels but {} holds {count} images", image_path.display()),
        ));
    }
    Ok(Some(Samples {
        pixels: Pixels::Bytes(pixels, Layout { shape, channels_last: true }),
        labels: Some(labels.into_iter().map(u32::from).collect()),
    }))
}

/// No files of the wanted split: an error if the other one is there.
fn other_split(folder: &Path, training: bool) -> Result<Option<Samples>, DataError> {
    let (have, want) = if training { ("t10k", "train") } else { ("train", "t10k") };
    let there =
        ["", ".gz"].iter().any(|extension| folder.join(format!("{have}-images-idx3-ubyte{extension}")).is_file());
    if there {
        return Err(DataError::format(
            folder,
            format!("it holds {have}-images-idx3-ubyte but no {want}-images-idx3-ubyte[.gz]"),
        ));
    }
    Ok(None)
}

/// An IDX file's dimensions and bytes.
fn read_file(path: &Path) -> Result<(Vec<usize>, Vec<u8>), DataError> {
    let io = |error| DataError::io(path, error);
    let file = BufReader::new(File::open(path).map_err(io)?);
    let mut reader: Box<dyn Read> = if path.extension().is_some_and(|extension| extension == "gz") {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let truncated = || DataError::format(path, "it is truncated");
    let mut fill = |buffer: &mut [u8]| {
        reader.read_exact(buffer).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => truncated(),
            _ => DataError::io(path, error),
        })
    };
    let mut magic = [0; 4];
    fill(&mut magic)?;
    let [0, 0, kind, dimensions] = magic else {
        return Err(DataError::format(
            path,
            format!("it starts with {magic:02x?}, not with an IDX file's magic number"),
        ));
    };
    if kind != 8 {
        return Err(DataError::format(
            path,
            format!("its elements are of IDX type {kind:#04x}; only unsigned bytes (0x08) are supported"),
        ));
    }
    let mut sizes = Vec::new();
    for _ in 0..dimensions {
        let mut size = [0; 4];
        fill(&mut size)?;
        sizes.push(u32::from_be_bytes(size) as usize);
    }
    let total = sizes
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
        .ok_or_else(|| DataError::format(path, format!("its dimensions {sizes:?} overflow")))?;
    // Read what is there, at most one byte too much: a header's claim alone reserves no memory.
    let mut bytes = Vec::new();
    reader.take((total as u64).saturating_add(1)).read_to_end(&mut bytes).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => truncated(),
        _ => io(error),
    })?;
    match bytes.len() {
        len if len == total => Ok((sizes, bytes)),
        len if len < total => Err(DataError::format(
            path,
            format!("it is truncated: {len} bytes of data where its header {sizes:?} says {total}"),
        )),
        _ => Err(DataError::format(path, format!("it has more data than its header {sizes:?} says"))),
    }
}
