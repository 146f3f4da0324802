//! What is done with a package's module: its text, export into the source model, costs.

use crate::{Error, Monitor, Package, passes};
use melior::ir::Module;
use mxc_compiler::{
    export::{self, LayerDenoisers, Verified},
    files::Inputs,
    pass::{Reports, SigmaPath, run::print_module},
};
use mxc_dialects::ir;
use mxc_runtime::{
    cost::{CostModel, Costs},
    crossbar, digital,
    hardware::Hardware,
    program::Program,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

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
    /// The text of its module, at the denoise level.
    ///
    /// # Errors
    ///
    /// [`Error::Module`] where it is no MLIR that mxc reads.
    pub fn ir(&self) -> Result<String, Error> {
        let context = mxc_dialects::new_context();
        Ok(print_module(&self.module(&context)?, false))
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

    /// Replaces its module, and the program with it.
    pub(crate) fn set_module(&mut self, module: &Module<'_>) -> Result<(), Error> {
        let program = mxc_compiler::load::program(module, &self.inner.weights())?;
        Ok(self.inner.set_module(print_module(module, true).into_bytes(), &program)?)
    }

    pub(crate) fn module<'c>(&self, context: &'c melior::Context) -> Result<Module<'c>, Error> {
        let file = self.name.display().to_string();
        ir::parse(context, self.inner.module(), &file).map_err(|message| Error::Module { file, message })
    }

    /// Its program, the denoisers in the integers of the digital tile.
    pub(crate) fn fixed(&self, monitor: &Monitor<'_>) -> Result<Program, Error> {
        let context = mxc_dialects::new_context();
        let (module, _) = self.lowered(&context, &self.hardware()?, monitor)?;
        Ok(mxc_compiler::load::program(&module, &self.inner.weights())?)
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
