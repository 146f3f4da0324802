//! Compiled packages (`*.mxa`): a ZIP of stored entries, each aligned to 64 bytes so that weights are memory-mapped.
//!
//! | entry | content |
//! |---|---|
//! | `manifest.pb` | a [`Manifest`]; schema in `runtime/proto/manifest.proto` |
//! | `module.mlir` | the module at the denoise level, MLIR text with locations |
//! | `program.pb` | the same as an executable program, a [`proto::Program`]; schema in `runtime/proto/program.proto` |
//! | `backbone.safetensors` | the frozen weights |
//! | `denoisers.safetensors` | the trainable weights |
//!
//! The module is the source of truth, which passes change and lower; who only executes the network reads the program and needs no
//! MLIR. So both are given together ([`Package::new`], [`Package::set_module`]).
//!
//! The same package gives the same bytes: entries in this order, dates fixed, tensors in the order of their names.

mod manifest;

pub use manifest::*;

use crate::{
    files::atomically,
    program::{Execution, Program, ProgramError, proto},
    store::{self, Bytes, StoreError, WeightStore},
    task::Task,
};
use prost::Message;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Cursor, Seek, Write},
    path::Path,
};
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter, write::SimpleFileOptions};

/// The version of the package format that this program reads and writes.
pub const FORMAT_VERSION: u32 = 4;
/// The feature of packages whose model takes bytes, [`Preprocessing::bytes`].
pub const BYTE_INPUT: &str = "byte-input";
/// The feature of packages whose converters see scaled channels, [`Columns`](crate::program::Columns).
pub const COLUMN_SHIFT: &str = "column-shift";
/// The feature of packages whose tiles clip their inputs elsewhere than at the calibrated largest value,
/// [`Layer::input_range`](crate::program::Layer::input_range).
pub const INPUT_RANGE: &str = "input-range";
/// The feature of packages whose tiles are read more than once, [`Execution::Analog`].
pub const READS: &str = "reads";
/// The feature of packages of which layers are computed digitally, [`Execution::Digital`].
pub const DIGITAL: &str = "digital-layer";
/// The required features that this program knows; a package that needs another is refused.
pub const KNOWN_FEATURES: [&str; 5] = [BYTE_INPUT, COLUMN_SHIFT, INPUT_RANGE, READS, DIGITAL];

const MANIFEST: &str = "manifest.pb";
const MODULE: &str = "module.mlir";
const PROGRAM: &str = "program.pb";
const BACKBONE: &str = "backbone.safetensors";
const DENOISERS: &str = "denoisers.safetensors";
const ENTRIES: [&str; 5] = [MANIFEST, MODULE, PROGRAM, BACKBONE, DENOISERS];

/// Why a package cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The package.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not a package, or a damaged one.
    #[error("{path}: not a valid mxc package: {reason}")]
    Corrupt {
        /// The package.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The package is of another version of mxc.
    #[error("{path}: {reason}")]
    Unsupported {
        /// The package.
        path: String,
        /// What this program does not know, and the mend.
        reason: String,
    },
    /// An entry's weights cannot be read.
    #[error("{path}: {source}")]
    Weights {
        /// The package.
        path: String,
        /// What is wrong.
        source: StoreError,
    },
}

/// A compiled package in memory; its weights may be mapped from the file it came from.
#[derive(Clone, Debug, Default)]
pub struct Package {
    /// What it is and how it was made.
    pub manifest: Manifest,
    module: Vec<u8>,
    program: Vec<u8>,
    /// The frozen weights.
    pub backbone: WeightStore,
    /// The denoisers' weights.
    pub denoisers: WeightStore,
}

impl Package {
    /// A package of a module at the denoise level, MLIR text, and of the program that the module reads as with these weights.
    /// Errors say what of the program no package can hold.
    pub fn new(
        manifest: Manifest,
        module: Vec<u8>,
        program: &Program,
        backbone: WeightStore,
        denoisers: WeightStore,
    ) -> Result<Self, ProgramError> {
        let mut package = Self { manifest, backbone, denoisers, ..Self::default() };
        package.set_module(module, program)?;
        Ok(package)
    }

    /// Replaces the module and, with it, the program that it reads as with the package's weights. Errors are those of
    /// [`Package::new`].
    pub fn set_module(&mut self, module: Vec<u8>, program: &Program) -> Result<(), ProgramError> {
        self.program = proto::Program::new(program, &self.weights())?.encode_to_vec();
        self.module = module;
        let features = &mut self.manifest.required_features;
        let layers = program.layers();
        for (name, needed) in [
            (COLUMN_SHIFT, layers.iter().any(|layer| layer.columns.is_some())),
            (INPUT_RANGE, layers.iter().any(|layer| layer.input_range.is_some())),
            (READS, layers.iter().any(|layer| layer.execution.reads() > 1)),
            (DIGITAL, layers.iter().any(|layer| layer.execution == Execution::Digital)),
        ] {
            features.retain(|feature| feature != name);
            if needed {
                features.push(name.to_owned());
            }
        }
        Ok(())
    }

    /// The module's MLIR text. Not bytecode, whose reader a hostile file can make end the process.
    pub fn module(&self) -> &[u8] {
        &self.module
    }

    /// The program, bound to the package's weights; `path` is what errors call the package. What is wrong with it is
    /// [`PackageError::Corrupt`].
    pub fn program(&self, path: &Path) -> Result<Program, PackageError> {
        let corrupt = |reason: String| PackageError::Corrupt {
            path: path.display().to_string(),
            reason: format!("{PROGRAM}: {reason}"),
        };
        let message = proto::Program::decode(&*self.program).map_err(|error| corrupt(error.to_string()))?;
        message.read(&self.weights()).map_err(|error| corrupt(error.to_string()))
    }

    /// Opens a package: checks its structure and checksums and maps its weights. The file must not be changed in place
    /// while the package lives (mxc replaces files by renaming).
    ///
    /// Neither module nor program is read here.
    pub fn open(path: &Path) -> Result<Self, PackageError> {
        let display = path.display().to_string();
        let io = |source| PackageError::Io { path: display.clone(), source };
        let corrupt = |reason: String| PackageError::Corrupt { path: display.clone(), reason };
        let file = File::open(path).map_err(io)?;
        if !file.metadata().map_err(io)?.is_file() {
            return Err(corrupt("it is not a regular file".into()));
        }
        Self::read(&Bytes::new(store::ffi::map(&file).map_err(io)?), &display)
    }

    /// Reads a package from memory, which its weights refer to; `name` is what errors call it. As of [`Package::open`].
    pub fn read(map: &Bytes, name: &str) -> Result<Self, PackageError> {
        let display = name.to_owned();
        let corrupt = |reason: String| PackageError::Corrupt { path: display.clone(), reason };
        let unsupported = |reason: String| PackageError::Unsupported { path: display.clone(), reason };
        let ranges = entries(map).map_err(corrupt)?;
        let range = |name: &str| ranges.get(name).copied().ok_or_else(|| corrupt(format!("entry `{name}` is missing")));
        let bytes = |(offset, len): (usize, usize)| map.get(offset..offset + len).unwrap_or_default();

        let manifest =
            Manifest::decode(bytes(range(MANIFEST)?)).map_err(|error| corrupt(format!("{MANIFEST}: {error}")))?;
        if manifest.format_version != FORMAT_VERSION {
            return Err(unsupported(format!(
                "package format version {} where this mxc reads {FORMAT_VERSION}; compile the model again",
                manifest.format_version
            )));
        }
        if let Some(unknown) = ranges.keys().find(|name| !ENTRIES.contains(&name.as_str())) {
            return Err(unsupported(format!("unknown entry `{unknown}`; the package may come from a newer mxc")));
        }
        if let Some(feature) =
            manifest.required_features.iter().find(|feature| !KNOWN_FEATURES.contains(&feature.as_str()))
        {
            return Err(unsupported(format!(
                "it requires the feature `{feature}`, which this mxc lacks; use a newer one"
            )));
        }
        manifest.task.parse::<Task>().map_err(|error| unsupported(error.to_string()))?;
        let module = bytes(range(MODULE)?).to_vec();
        if std::str::from_utf8(&module).is_err() {
            return Err(corrupt(format!("{MODULE} is not text")));
        }
        let weights = |name: &str| {
            let (offset, len) = range(name)?;
            WeightStore::from_mapped(map, offset, len, name)
                .map_err(|source| PackageError::Weights { path: display.clone(), source })
        };
        let program = bytes(range(PROGRAM)?).to_vec();
        let package = Self { backbone: weights(BACKBONE)?, denoisers: weights(DENOISERS)?, manifest, module, program };
        if let Some((name, _)) = package.denoisers.iter().find(|(name, _)| package.backbone.get(name).is_some()) {
            return Err(corrupt(format!("weight `{name}` is in the backbone and the denoisers")));
        }
        Ok(package)
    }

    /// Every weight, backbone and denoisers, by name; values are shared.
    pub fn weights(&self) -> WeightStore {
        self.backbone.union(&self.denoisers)
    }

    /// The package's bytes.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        self.write_to(Cursor::new(Vec::new())).map(Cursor::into_inner)
    }

    /// Writes the package entry by entry: its weights may be most of what the memory holds.
    fn write_to<W: Write + Seek>(&self, out: W) -> io::Result<W> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::DEFAULT)
            .unix_permissions(0o644)
            .system(zip::System::Unix)
            .with_alignment(store::ALIGNMENT as u16);
        let mut zip = ZipWriter::new(out).set_auto_large_file();
        zip.start_file(MANIFEST, options)?;
        zip.write_all(&self.manifest.encode_to_vec())?;
        zip.start_file(MODULE, options)?;
        zip.write_all(&self.module)?;
        zip.start_file(PROGRAM, options)?;
        zip.write_all(&self.program)?;
        zip.start_file(BACKBONE, options)?;
        self.backbone.write_safetensors(&mut zip)?;
        zip.start_file(DENOISERS, options)?;
        self.denoisers.write_safetensors(&mut zip)?;
        Ok(zip.finish()?)
    }

    /// Writes the package, so that a crash leaves the old file or the new one.
    pub fn write(&self, path: &Path) -> Result<(), PackageError> {
        atomically(path, |file| self.write_to(BufWriter::new(file))?.flush())
            .map_err(|source| PackageError::Io { path: path.display().to_string(), source })
    }
}

/// The data ranges (offset, length) of a ZIP's entries, all of them stored, their checksums verified.
fn entries(map: &Bytes) -> Result<BTreeMap<String, (usize, usize)>, String> {
    let mut archive = ZipArchive::new(Cursor::new(&map[..])).map_err(|error| error.to_string())?;
    let mut ranges = BTreeMap::new();
    if archive.has_duplicate_names() {
        return Err("an entry appears twice".into());
    }
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).map_err(|error| error.to_string())?;
        let name = file.name().map_err(|error| error.to_string())?.into_owned();
        if file.compression() != CompressionMethod::Stored || file.encrypted() {
            return Err(format!("entry `{name}` is compressed or encrypted"));
        }
        let range = file
            .data_start()
            .and_then(|start| Some((usize::try_from(start).ok()?, usize::try_from(file.size()).ok()?)))
            .filter(|&(start, len)| start.checked_add(len).is_some_and(|end| map.get(start..end).is_some()))
            .ok_or_else(|| format!("entry `{name}` reaches past the end of the file"))?;
        // Reading to the end verifies the checksum, of the range if the two lengths agree.
        let read = io::copy(&mut file, &mut io::sink()).map_err(|error| format!("entry `{name}`: {error}"))?;
        if file.compressed_size() != file.size() || read != file.size() {
            return Err(format!("entry `{name}`: its lengths disagree"));
        }
        if ranges.insert(name.clone(), range).is_some() {
            return Err(format!("entry `{name}` appears twice"));
        }
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests;
