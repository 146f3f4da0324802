//! `mxc opt`: passes by name.

use super::{Failure, Global, args::OptArgs};
use mxc_compiler::{opt, passes};
use mxc_runtime::files::identity;
use std::path::PathBuf;

/// Where a failing pipeline leaves its reproducer.
const REPRODUCER: &str = "mxc-reproducer.mlir";

pub fn run(args: OptArgs, global: &Global) -> Result<(), Failure> {
    if args.show_passes {
        return super::print(&passes::REGISTRY.help());
    }
    if args.show_irdl {
        return super::print(&mxc_dialects::irdl_source());
    }
    // The reproducer's default name may be the module's, whose pipeline is being looked into.
    let default = || Some(PathBuf::from(REPRODUCER)).filter(|path| identity(path) != identity(&args.file));
    let reproducer = args.reproducer.or_else(default);
    let options = opt::OptOptions {
        input: args.file,
        output: args.output,
        pipeline: Some(args.pass_pipeline).filter(|pipeline| !pipeline.is_empty()),
        weights: args.weights,
        output_weights: args.output_weights,
        print_ir_after_all: args.print_ir_after_all,
        verify_each: args.verify_each || cfg!(debug_assertions),
        timing: args.timing,
        split_input_file: args.split_input_file,
        run_reproducer: args.run_reproducer,
        reproducer,
        print_debuginfo: args.print_debuginfo,
        seed: global.seed,
        threads: global.threads,
        samples: Some(Box::new({
            let global = *global;
            move |request| super::compile::requested_samples(request, &global)
        })),
        ..opt::OptOptions::default()
    };
    for warning in opt::run(options)? {
        global.ui.warn(warning);
    }
    Ok(())
}
