//! The binary versions of CIFAR-10 and CIFAR-100: records of label bytes and 3×32×32 pixel bytes.

use super::{DataError, Layout, Pixels, Samples};
use std::path::Path;

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;

/// Whether a file's name is one of CIFAR's.
pub(super) fn is_file_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "bin")
}

/// Reads a folder's training or test records; `None` when it holds no CIFAR files.
pub(super) fn read(folder: &Path, training: bool) -> Result<Option<Samples>, DataError> {
    let exists = |name: &str| folder.join(name).is_file();
    // CIFAR-10 has one label byte; CIFAR-100 a coarse and a fine one, of which the fine counts.
    let (names, label_bytes): (Vec<String>, usize) = if exists("data_batch_1.bin") || exists("test_batch.bin") {
        let names = if training {
            (1..=5).map(|batch| format!("data_batch_{batch}.bin")).collect()
        } else {
            vec!["test_batch.bin".to_owned()]
        };
        (names, 1)
    } else if exists("train.bin") || exists("test.bin") {
        let name = if training { "train.bin" } else { "test.bin" };
        (vec![name.to_owned()], 2)
    } else {
        return Ok(None);
    };
    let mut pixels = Vec::new();
    let mut labels = Vec::new();
    for name in names {
        let path = folder.join(name);
        let bytes = std::fs::read(&path).map_err(|error| DataError::io(&path, error))?;
        let record = label_bytes + PIXELS;
        if bytes.is_empty() || bytes.len() % record != 0 {
            return Err(DataError::format(
                &path,
                format!(
                    "its {} bytes are no whole number of {record}-byte records; it is truncated or no CIFAR file",
                    bytes.len()
                ),
            ));
        }
        let classes = if label_bytes == 1 { 10 } else { 100 };
        for record in bytes.chunks_exact(record) {
            let label = record[label_bytes - 1];
            if label >= classes {
                return Err(DataError::format(&path, format!("label {label} in a file of {classes} classes")));
            }
            labels.push(u32::from(label));
            pixels.extend_from_slice(&record[label_bytes..]);
        }
    }
    let layout = Layout { shape: [SIDE, SIDE, 3], channels_last: false };
    Ok(Some(Samples { pixels: Pixels::Bytes(pixels, layout), labels: Some(labels) }))
}
