//! Packages: compiled networks, in a file or in memory.

use crate::{Error, Monitor, Session, SessionOptions};
use mxc_runtime::{
    files::{sha256, sha256_file},
    hardware::Hardware,
    package::{self, Manifest},
    program::{Execution, Program},
    store::{Bytes, WeightStore},
};
use mxc_spec::noise::{LayerNoise, NoiseError};
use std::path::{Path, PathBuf};

/// A compiled network with its denoisers.
///
/// ```
/// # fn main() -> Result<(), mxc::Error> {
/// let context = mxc::Context::new();
/// let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/models/resnet20.onnx");
/// let model = mxc::Model::from_file(&context, file.as_ref(), &Default::default())?;
/// let monitor = mxc::Monitor::default();
/// let options = mxc::CompileOptions { samples: Some(4), ..Default::default() };
/// let package = model.compile(&options, None, &monitor)?.package()?;
/// let placement = package.manifest().placement.as_ref().unwrap();
/// assert!(placement.denoiser_parameters > 0);
///
/// // What the network costs on the analog tiles and its denoisers on the digital one, and the source model with them.
/// let cost = package.report(None, &monitor)?;
/// assert!(cost.report.cycles() > 0 && cost.analog.nanojoules > 0.0);
/// let exported = package.export(&Default::default())?;
/// assert!(exported.verified.difference < 1e-4);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Package {
    pub(crate) inner: package::Package,
    /// What errors call it.
    pub(crate) name: PathBuf,
    /// The file that it was read from.
    pub(crate) file: Option<PathBuf>,
}

impl Package {
    pub(crate) fn of(inner: package::Package, name: PathBuf, file: Option<PathBuf>) -> Self {
        Self { inner, name, file }
    }

    /// Opens a package: checks its structure and checksums and maps its weights. The file must not be changed in place while the
    /// package lives; [`Package::write`] replaces files by renaming.
    ///
    /// # Errors
    ///
    /// [`Error::Package`], which names the file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self::of(package::Package::open(path)?, path.to_owned(), Some(path.to_owned())))
    }

    /// Reads a package from memory, which its weights refer to; `name` is what errors call it.
    ///
    /// # Errors
    ///
    /// [`Error::Package`], which names it.
    pub fn from_bytes(bytes: &Bytes, name: &str) -> Result<Self, Error> {
        Ok(Self::of(package::Package::read(bytes, name)?, PathBuf::from(name), None))
    }

    /// Writes it, so that a crash leaves the old file or the new one.
    ///
    /// # Errors
    ///
    /// [`Error::Package`], which names the file.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        Ok(self.inner.write(path)?)
    }

    /// The bytes of its file: the same package gives the same bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where it is larger than what a ZIP or the memory holds.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        self.inner.to_bytes().map_err(Error::io(&self.name))
    }

    /// What it is and how it was made.
    pub fn manifest(&self) -> &Manifest {
        &self.inner.manifest
    }

    /// The frozen weights.
    pub fn backbone(&self) -> &WeightStore {
        &self.inner.backbone
    }

    /// The denoisers' weights.
    pub fn denoisers(&self) -> &WeightStore {
        &self.inner.denoisers
    }

    /// How many output channels are scaled in front of their converter: a number of four bits each.
    ///
    /// # Errors
    ///
    /// [`Error::Package`] where its program cannot be read.
    pub fn column_shifts(&self) -> Result<u64, Error> {
        let program = self.program()?;
        let columns = program.layers().iter().filter_map(|layer| layer.columns.as_ref());
        Ok(columns.map(|columns| columns.shift.len() as u64).sum())
    }

    /// The layers that are computed otherwise than by one read, with how, in the order of execution.
    ///
    /// # Errors
    ///
    /// [`Error::Package`] where its program cannot be read.
    pub fn executions(&self) -> Result<Vec<(String, Execution)>, Error> {
        let program = self.program()?;
        let others = program.layers().iter().filter(|layer| layer.execution != Execution::default());
        Ok(others.map(|layer| (layer.name.clone(), layer.execution)).collect())
    }

    /// The noise that it was compiled for, if it says.
    ///
    /// # Errors
    ///
    /// [`Error::Options`] where the manifest's noise is of another version of mxc, or of a law that this program has not registered.
    pub fn noise(&self) -> Result<Option<LayerNoise>, Error> {
        let parsed = self.inner.manifest.noise.as_ref().map(LayerNoise::try_from).transpose();
        parsed.map_err(|error| {
            let mend = match error {
                // A law that the program does not have.
                NoiseError::Unknown { .. } => "",
                NoiseError::Syntax { .. } | NoiseError::Unsupported(_) | NoiseError::Choice { .. } => {
                    "; compile the model again"
                }
            };
            Error::Options(format!("the package's manifest: {error}{mend}"))
        })
    }

    /// The SHA-256 of its file, in hexadecimal digits: what its descendants record.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn sha256(&self) -> Result<String, Error> {
        match &self.file {
            Some(path) => sha256_file(path).map_err(Error::io(path)),
            None => Ok(sha256(&self.to_bytes()?)),
        }
    }

    /// Makes it ready to run.
    ///
    /// # Errors
    ///
    /// [`Error::Module`], [`Error::Load`], or, in fixed point, [`Error::Pass`].
    pub fn session(&self, options: &SessionOptions, monitor: &Monitor<'_>) -> Result<Session, Error> {
        Session::of_package(self.clone(), options, monitor)
    }

    /// Its hardware profile.
    ///
    /// # Errors
    ///
    /// [`Error::Hardware`].
    pub fn hardware(&self) -> Result<Hardware, Error> {
        Ok(Hardware::parse(&self.inner.manifest.hardware, "the package's hardware profile")?)
    }

    /// Its program, the denoisers in the integers of the digital tile, to which the compiler lowers them.
    #[cfg(not(feature = "compiler"))]
    pub(crate) fn fixed(&self, _: &Monitor<'_>) -> Result<Program, Error> {
        let message = "--digital fixed needs the compiler, which this library is built without";
        Err(Error::Options(message.to_owned()))
    }

    /// Its program, the denoisers in floating point.
    pub(crate) fn program(&self) -> Result<Program, Error> {
        Ok(self.inner.program(&self.name)?)
    }

    /// Whether it was calibrated on synthetic inputs.
    pub(crate) fn is_synthetic(&self) -> bool {
        self.inner.manifest.calibration.as_ref().is_some_and(|source| source.kind == "synthetic")
    }

    /// The number of training samples that it was compiled to hold out.
    pub fn holdout(&self) -> usize {
        // More than memory can address is more than any data set has, and refused as such.
        usize::try_from(self.inner.manifest.holdout).unwrap_or(usize::MAX)
    }
}
