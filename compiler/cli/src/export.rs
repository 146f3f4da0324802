//! `mxc export`: the denoisers in the user's own ONNX file.

use super::{Failure, Global, args::ExportArgs};
use mxc::{ExportOptions, Package};

pub fn run(args: ExportArgs, global: &Global) -> Result<(), Failure> {
    let package = Package::open(&args.package)?;
    let options = ExportOptions { source: args.source, sampling: args.sampling };
    let exported = package.export_to(&args.output, &options)?;
    if global.ui.json {
        return super::print_json(&serde_json::json!({
            "layers": exported.layers,
            "sampling": args.sampling,
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
