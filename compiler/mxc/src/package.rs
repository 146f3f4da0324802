//! Packages: compiled networks, in a file or in memory.

use crate::{Error, Monitor, Session, SessionOptions, passes};
use melior::ir::Module;
use mxc_compiler::{
    export::{self, LayerDenoisers, Verified},
    files::Inputs,
    pass::{Reports, SigmaPath, run::print_module},
};
use mxc_dialects::{
    ir,
    noise::{LayerNoise, NoiseError},
};
use mxc_runtime::{
    cost::{CostModel, Costs},
    crossbar, digital,
    files::{sha256, sha256_file},
    hardware::Hardware,
    package::{self, Manifest},
    program::{Execution, Program},
    store::WeightStore,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

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
    file: Option<PathBuf>,
}

/// How to export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportOptions {
    /// The source ONNX file; `None` is the path recorded in the package.
    pub source: Option<PathBuf>,
    /// Whether the σ̂ path draws its noise, with RandomNormalLike; otherwise that path is left out.
    pub sampling: bool,
}

/// An export.
#[derive(Clone, Debug, Default)]
pub struct Exported {
    /// The ONNX model's bytes; its external data files are the source's.
    pub onnx: Vec<u8>,
    /// The source ONNX file.
    pub source: PathBuf,
    /// The layers with denoisers, in execution order.
    pub layers: Vec<String>,
    /// How far the export, run before it was handed out, is from the package.
    pub verified: Verified,
}

/// What a network costs: its denoisers on the digital tile, and its layers on the analog tiles. Serialized, the former's fields and
/// `analog`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Cost {
    /// Cycles and energy, by denoiser.
    #[serde(flatten)]
    pub report: digital::Report,
    /// Energy and time, by layer.
    pub analog: crossbar::Report,
    /// Which blocks keep their σ̂ path.
    #[serde(skip)]
    pub sigma: Vec<SigmaPath>,
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

    /// The text of its module, at the denoise level.
    ///
    /// # Errors
    ///
    /// [`Error::Module`] where it is no MLIR that mxc reads.
    pub fn ir(&self) -> Result<String, Error> {
        let context = mxc_dialects::new_context();
        Ok(print_module(&self.module(&context)?, false))
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

    /// Splices the denoisers into the source ONNX model, runs the result and compares it with the package.
    ///
    /// # Errors
    ///
    /// [`Error::Export`], [`Error::Options`] where the source is missing or no ONNX, or as of [`Package::session`].
    pub fn export(&self, options: &ExportOptions) -> Result<Exported, Error> {
        let Splice { source, layers, options, program } = self.splice(options)?;
        let bytes = fs::read(&source).map_err(Error::io(&source))?;
        let folder = match source.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let name = source.display().to_string();
        let (onnx, verified) = export::onnx_verified(&bytes, &name, folder, &layers, &options, &program)?;
        Ok(Exported { onnx, layers: names(layers), source, verified })
    }

    /// [`Package::export`] to a file, atomically and never over an input, with the source's external data files beside it;
    /// [`Exported::onnx`] is empty.
    ///
    /// # Errors
    ///
    /// As of [`Package::export`], and [`Error::ReplacesInput`].
    pub fn export_to(&self, target: &Path, options: &ExportOptions) -> Result<Exported, Error> {
        let source = self.source(options);
        Inputs::default().file("the package", self.file.as_deref()).model(&source).check("-o", target)?;
        let Splice { source, layers, options, program } = self.splice(options)?;
        let verified = export::onnx_file(&source, target, &layers, &options, &program)?;
        Ok(Exported { onnx: Vec::new(), layers: names(layers), source, verified })
    }

    fn source(&self, options: &ExportOptions) -> PathBuf {
        let recorded = || self.inner.manifest.provenance.as_ref().map(|provenance| PathBuf::from(&provenance.source));
        options.source.clone().or_else(recorded).unwrap_or_default()
    }

    fn splice(&self, options: &ExportOptions) -> Result<Splice, Error> {
        let source = self.source(options);
        if !source.exists() {
            let message = format!("{}: the source model is not there; name it with --source FILE", source.display());
            return Err(Error::Options(message));
        }
        if source.extension().is_some_and(|extension| extension == "mlir" || extension == "mlirbc") {
            return Err(Error::Options(format!("{}: export needs an ONNX source, not MLIR", source.display())));
        }
        let context = mxc_dialects::new_context();
        let module = self.module(&context)?;
        let weights = self.inner.weights();
        let layers = export::denoisers(&module, &weights)?;
        let provenance = self.inner.manifest.provenance.clone().unwrap_or_default();
        let options = export::ExportOptions { sampling: options.sampling, sha256: Some(provenance.source_sha256) };
        let program = mxc_compiler::load::program(&module, &weights)?;
        Ok(Splice { source, layers, options, program })
    }

    /// Cycles and energy of the denoisers, energy and time of the analog layers, on a hardware profile; `None` is the package's.
    ///
    /// # Errors
    ///
    /// [`Error::Hardware`], [`Error::Package`], [`Error::Pass`], [`Error::Digital`], [`Error::Cost`] or [`Error::Cancelled`].
    pub fn report(&self, hardware: Option<&Hardware>, monitor: &Monitor<'_>) -> Result<Cost, Error> {
        self.report_by(hardware, None, monitor)
    }

    /// The same by a cost model; `None` is the profile's own figures. Where the layers' tiles and the denoisers' schedules are concerned, the
    /// profile counts in either case.
    ///
    /// # Errors
    ///
    /// As of [`Package::report`].
    pub fn report_by(
        &self,
        hardware: Option<&Hardware>,
        costs: Option<&dyn CostModel>,
        monitor: &Monitor<'_>,
    ) -> Result<Cost, Error> {
        let own;
        let hardware = match hardware {
            Some(hardware) => hardware,
            None => {
                own = self.hardware()?;
                &own
            }
        };
        let context = mxc_dialects::new_context();
        let (module, reports) = self.lowered(&context, hardware, monitor)?;
        let costs = Costs::new(hardware, costs);
        let report = mxc_compiler::load::tile::report(&module, costs)?;
        Ok(Cost { report, analog: crossbar::report(&self.program()?, costs)?, sigma: reports.sigma })
    }

    /// Its hardware profile.
    ///
    /// # Errors
    ///
    /// [`Error::Hardware`].
    pub fn hardware(&self) -> Result<Hardware, Error> {
        Ok(Hardware::parse(&self.inner.manifest.hardware, "the package's hardware profile")?)
    }

    /// Its program, the denoisers in floating point.
    pub(crate) fn program(&self) -> Result<Program, Error> {
        Ok(self.inner.program(&self.name)?)
    }

    /// Replaces its module, and the program with it.
    pub(crate) fn set_module(&mut self, module: &Module<'_>) -> Result<(), Error> {
        let program = mxc_compiler::load::program(module, &self.inner.weights())?;
        Ok(self.inner.set_module(print_module(module, true).into_bytes(), &program)?)
    }

    pub(crate) fn module<'c>(&self, context: &'c melior::Context) -> Result<Module<'c>, Error> {
        let file = self.name.display().to_string();
        ir::parse(context, self.inner.module(), &file).map_err(|message| Error::Module { file, message })
    }

    /// Its module with the denoisers lowered for a profile.
    pub(crate) fn lowered<'c>(
        &self,
        context: &'c melior::Context,
        hardware: &Hardware,
        monitor: &Monitor<'_>,
    ) -> Result<(Module<'c>, Reports), Error> {
        let mut module = self.module(context)?;
        let reports = passes::lower_denoisers(context, &mut module, self.inner.weights(), hardware, monitor)?;
        Ok((module, reports))
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

/// All that an export needs.
struct Splice {
    source: PathBuf,
    layers: Vec<LayerDenoisers>,
    options: export::ExportOptions,
    program: Program,
}

fn names(layers: Vec<LayerDenoisers>) -> Vec<String> {
    layers.into_iter().map(|layer| layer.layer).collect()
}
