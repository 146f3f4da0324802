//! Passes by name, on a caller's own module.

use crate::{
    bytes::{Bytes, mxc_bytes, mxc_format},
    costs::{self, mxc_costs},
    error::{guard, mxc_error},
    failure::Failure,
    monitor::{mxc_monitor, watched},
    object::{Out, elements, optional, text},
    options::{mxc_options, read},
    weights::{Weights, mxc_weights},
};
use ::mxc_options::{Common, Profile};
use clap::Args;
use mxc::{Context, Error, Hardware, dialects::ir, passes::PassOptions};
use std::ffi::c_char;

/// What running passes takes.
#[derive(Args)]
pub struct PassesCall {
    #[command(flatten)]
    profile: Profile,
    /// Verify after each pass
    #[arg(long)]
    verify_each: bool,
    #[command(flatten)]
    common: Common,
}

/// Runs a pipeline, such as `canonicalize-graph,map-to-analog`, on the text of a module, and gives the module that it makes, in an mxc_format. The globals' values
/// are those of `weights`, which may be null; where `changed` is not null it gets all of them as the passes left them, the bytes of a safetensors
/// file. `costs` is as of mxc_model_compile. Options: `hardware`, `verify-each`, `seed`, `threads`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_passes_run(
    data: *const c_char,
    size: usize,
    name: *const c_char,
    pipeline: *const c_char,
    weights: *const mxc_weights,
    costs: *const mxc_costs,
    options: *const mxc_options,
    monitor: *const mxc_monitor,
    format: u32,
    out: *mut *mut mxc_bytes,
    changed: *mut *mut mxc_bytes,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Bytes>::new(out)?;
        let changed = Out::<Bytes>::optional(changed)?;
        let source = elements(data.cast::<u8>(), size, "text of the module")?;
        let (name, pipeline) = (text(name, "name of the module")?, text(pipeline, "pipeline")?);
        let call: PassesCall = read(options)?;
        let hardware = call.profile.load()?;
        let costs = costs::model(costs, hardware.as_ref().unwrap_or(&Hardware::paper()))?;
        let options = PassOptions {
            weights: optional::<Weights>(weights)?.map(|weights| weights.store.clone()).unwrap_or_default(),
            hardware,
            costs,
            verify_each: call.verify_each,
            seed: call.common.seed,
            threads: call.common.threads(),
        };
        let (module, weights) = watched(monitor, |monitor| {
            let context = Context::new();
            let mut module = ir::parse(&context, source, name)
                .map_err(|message| Failure::from(Error::Module { file: name.to_owned(), message }))?;
            let results = mxc::passes::run(&context, &mut module, pipeline, &options, monitor)?;
            let module = match mxc_format::of(format)? {
                mxc_format::MXC_FORMAT_TEXT => mxc::passes::print(&module).into_bytes(),
                mxc_format::MXC_FORMAT_BYTECODE => mxc::passes::bytecode(&module),
            };
            Ok((module, results.weights.union(&results.denoisers)))
        })?;
        if let Some(changed) = changed {
            changed.put(Bytes::new(weights.to_safetensors()));
        }
        out.put(Bytes::new(module));
        Ok(())
    })
}

/// Every pass and named pipeline, as JSON: `[{"name", "description", "options": {key: meaning}, "pipeline"}]`, `pipeline` being null of a pass.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_passes_list(out: *mut *mut mxc_bytes) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Bytes>::new(out)?;
        let passes = mxc::passes::list().map(|pass| {
            let options: serde_json::Map<_, _> =
                pass.options.iter().map(|(key, meaning)| ((*key).to_owned(), (*meaning).into())).collect();
            serde_json::json!({
                "name": pass.name,
                "description": pass.description,
                "options": options,
                "pipeline": pass.pipeline,
            })
        });
        out.put(Bytes::json(&passes.collect::<Vec<_>>())?);
        Ok(())
    })
}
