//! `mxc opt`: passes by name.

use super::{Failure, Global, args::OptArgs};
use mxc::{
    compiler::{opt, passes::REGISTRY},
    runtime::files::identity,
};
use std::{
    io::{stderr, stdin, stdout},
    path::PathBuf,
};

/// Where a failing pipeline leaves its reproducer.
const REPRODUCER: &str = "mxc-reproducer.mlir";

pub fn run(args: OptArgs, global: &Global) -> Result<(), Failure> {
    if args.show_passes {
        return super::print(&REGISTRY.help());
    }
    if args.show_irdl {
        return super::print(&mxc::dialects::irdl_source());
    }
    // The reproducer's default name may be the module's, whose pipeline is being looked into.
    let default = || Some(PathBuf::from(REPRODUCER)).filter(|path| identity(path) != identity(&args.file));
    let reproducer = args.reproducer.or_else(default);
    let streams = opt::Streams {
        input: Some(Box::new(stdin())),
        output: Some(Box::new(stdout())),
        messages: Some(Box::new(stderr())),
    };
    let options = opt::OptOptions {
        streams,
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
        seed: global.common.seed,
        threads: global.common.threads(),
        samples: Some(mxc::passes::samples(global.common.threads())),
        ..opt::OptOptions::default()
    };
    for warning in opt::run(options)? {
        global.ui.warn(warning);
    }
    Ok(())
}
