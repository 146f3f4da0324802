//! `mxc export`: the denoisers in the user's own ONNX file.

use super::{Failure, Global, args::ExportArgs};
use mxc::Package;

pub fn run(args: ExportArgs, global: &Global) -> Result<(), Failure> {
    let package = Package::open(&args.package)?;
    let exported = package.export_to(&args.output, &args.export.options())?;
    if global.ui.json {
        return super::print_json(&serde_json::json!({
            "layers": exported.layers,
            "sampling": args.export.sampling,
            "difference": exported.verified.difference,
        }));
    }
    super::print(&format!(
        "{}: denoisers on {} layers of {}; it computes what the package does (largest difference {:.0e} on {} random inputs)\n",
        args.output.display(),
        exported.layers.len(),
        exported.source.display(),
        exported.verified.difference,
        exported.verified.samples
    ))
}
