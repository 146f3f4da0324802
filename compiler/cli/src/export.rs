//! `mxc export`: the denoisers in the user's own ONNX file.

use super::{Failure, Global, args::ExportArgs};
use mxc_compiler::{
    export::{self, ExportOptions},
    files::Inputs,
};
use mxc_dialects::ir;
use mxc_runtime::package::Package;
use std::path::PathBuf;

pub fn run(args: ExportArgs, global: &Global) -> Result<(), Failure> {
    let package = Package::open(&args.package)?;
    let provenance = package.manifest.provenance.clone().unwrap_or_default();
    let source = args.source.clone().unwrap_or_else(|| PathBuf::from(&provenance.source));
    let inputs = Inputs::default().file("the package", Some(&args.package)).model(&source);
    inputs.check("-o", &args.output)?;
    if !source.exists() {
        return Err(format!("{}: the source model is not there; name it with --source FILE", source.display()).into());
    }
    if source.extension().is_some_and(|extension| extension == "mlir" || extension == "mlirbc") {
        return Err(format!("{}: export needs an ONNX source, not MLIR", source.display()).into());
    }
    let context = mxc_dialects::new_context();
    let module = ir::parse(&context, &package.module, &args.package.display().to_string())?;
    let layers = export::denoisers(&module, &package.weights())?;
    let options = ExportOptions { sampling: args.sampling, sha256: Some(provenance.source_sha256) };
    let program = mxc_runtime::load::program(&module, &package.weights())?;
    let verified = export::onnx_file(&source, &args.output, &layers, &options, &program)?;
    if global.ui.json {
        let names: Vec<_> = layers.iter().map(|layer| layer.layer.as_str()).collect();
        return super::print_json(&serde_json::json!({
            "layers": names,
            "sampling": args.sampling,
            "difference": verified.difference,
        }));
    }
    super::print(&format!(
        "{}: denoisers on {} layers of {}; it computes what the package does (largest difference {:.0e} on {} random inputs)\n",
        args.output.display(),
        layers.len(),
        source.display(),
        verified.difference,
        verified.samples
    ))
}
