//! Models: imported networks.

use crate::{
    bytes::{Bytes, mxc_bytes, mxc_format},
    compiling::{OwnedCompiled, mxc_compiled},
    context::Within,
    costs::{self, mxc_costs},
    data::{mxc_data, reading},
    error::{guard, mxc_error},
    failure::Failure,
    monitor::{mxc_monitor, watched},
    object::{Out, Tag, destroy, elements, get, handle, optional, text},
    options::{mxc_options, read},
    session::mxc_session,
    weights::{Weights, mxc_weights},
};
use ::mxc_options::{Common, Compile, Execute, Import, Reading};
use clap::Args;
use mxc::{Context, Data, Model, Session};
use std::{ffi::c_char, path::Path};

type OwnedModel = Within<Model<'static>>;

/// An imported network.
pub struct mxc_model {
    _tag: Tag,
}

handle!(mxc_model = OwnedModel, "model");

/// Imports a file: `.mlir` is a module in TOSA, everything else ONNX, whose external data files are looked up beside it. Options: `input-shape`,
/// `max-constant-bytes`. The monitor's diagnostics tell what was assumed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_model_from_file(
    path: *const c_char,
    options: *const mxc_options,
    monitor: *const mxc_monitor,
    out: *mut *mut mxc_model,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<OwnedModel>::new(out)?;
        let path = Path::new(text(path, "path of the model")?);
        let call: Import = read(options)?;
        let import = |context: &'static Context| Model::from_file(context, path, &call.options());
        out.put(watched(monitor, |_| Ok(OwnedModel::new(import)?))?);
        Ok(())
    })
}

/// Imports the bytes of an ONNX file. `name` is what errors and packages call it; external data files are those of `weights`, which may be
/// null, else looked up beside the file of that name. Options as of mxc_model_from_file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_model_from_onnx(
    data: *const u8,
    size: usize,
    name: *const c_char,
    weights: *const mxc_weights,
    options: *const mxc_options,
    monitor: *const mxc_monitor,
    out: *mut *mut mxc_model,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<OwnedModel>::new(out)?;
        let onnx = elements(data, size, "bytes of the model")?;
        let name = text(name, "name of the model")?;
        let call: Import = read(options)?;
        let mut options = call.options();
        if let Some(weights) = optional::<Weights>(weights)? {
            options.external_data = weights.files.clone();
        }
        let import = |context: &'static Context| Model::from_bytes(context, onnx, name, &options);
        out.put(watched(monitor, |_| Ok(OwnedModel::new(import)?))?);
        Ok(())
    })
}

/// Imports the text of an MLIR module in TOSA. Its globals have the values of `weights`, which may be null, unless it holds them itself; `name`
/// is what errors and packages call it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_model_from_mlir(
    data: *const c_char,
    size: usize,
    name: *const c_char,
    weights: *const mxc_weights,
    out: *mut *mut mxc_model,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<OwnedModel>::new(out)?;
        let source = elements(data.cast::<u8>(), size, "text of the module")?;
        let name = text(name, "name of the module")?;
        let none;
        let store = match optional::<Weights>(weights)? {
            Some(weights) => &weights.store,
            None => {
                none = mxc::WeightStore::new();
                &none
            }
        };
        out.put(OwnedModel::new(|context| Model::from_mlir(context, source, name, store))?);
        Ok(())
    })
}

/// Its inputs, outputs and nodes, as JSON: `{"inputs": [{"name", "shape", "is_float"}], "outputs": [name], "nodes": [{"operation", "name"}]}`. The
/// batch in a shape is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_model_describe(model: *const mxc_model, out: *mut *mut mxc_bytes) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Bytes>::new(out)?;
        let model = get::<OwnedModel>(model)?;
        out.put(model.with(described)?);
        Ok(())
    })
}

fn described(model: &Model<'_>) -> Result<Bytes, Failure> {
    let inputs = model
        .inputs()
        .iter()
        .map(|input| serde_json::json!({ "name": input.name, "shape": input.shape, "is_float": input.is_float }));
    let nodes = model.nodes().into_iter();
    let nodes = nodes.map(|node| serde_json::json!({ "operation": node.operation, "name": node.name }));
    Bytes::json(&serde_json::json!({
        "inputs": inputs.collect::<Vec<_>>(),
        "outputs": model.outputs(),
        "nodes": nodes.collect::<Vec<_>>(),
    }))
}

/// Its module at the graph level, in an mxc_format; weights are globals without their values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_model_ir(
    model: *const mxc_model,
    format: u32,
    out: *mut *mut mxc_bytes,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Bytes>::new(out)?;
        let (model, format) = (get::<OwnedModel>(model)?, mxc_format::of(format)?);
        out.put(Bytes::new(model.with(|model| match format {
            mxc_format::MXC_FORMAT_TEXT => model.ir().into_bytes(),
            mxc_format::MXC_FORMAT_BYTECODE => model.bytecode(),
        })));
        Ok(())
    })
}

/// The values of its module's globals, the bytes of a safetensors file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_model_weights(model: *const mxc_model, out: *mut *mut mxc_bytes) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Bytes>::new(out)?;
        out.put(Bytes::new(get::<OwnedModel>(model)?.with(|model| model.weights().to_safetensors())));
        Ok(())
    })
}

/// What compiling takes.
#[derive(Args)]
pub struct CompileCall {
    #[command(flatten)]
    compile: Compile,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    common: Common,
}

/// Compiles a model, which stays as it is: to the level of the option `emit`, by default to what a package is made of. `data` calibrates; null is
/// synthetic inputs. `costs` is what an energy budget is counted by; null is the profile's own figures. Options: those of `mxc compile`, but for those of import.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_model_compile(
    model: *const mxc_model,
    data: *const mxc_data,
    costs: *const mxc_costs,
    options: *const mxc_options,
    monitor: *const mxc_monitor,
    out: *mut *mut mxc_compiled,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<OwnedCompiled>::new(out)?;
        let (model, data) = (get::<OwnedModel>(model)?, optional::<Data>(data)?);
        let call: CompileCall = read(options)?;
        let data = data.map(|data| reading(data, &call.reading));
        let mut options = call.compile.options(&call.common)?;
        options.costs = costs::model(costs, &options.hardware)?;
        out.put(watched(monitor, |monitor| {
            Ok(model.make(|model| model.duplicate().compile(&options, data.as_ref(), monitor))?)
        })?);
        Ok(())
    })
}

/// What making a session takes.
#[derive(Args)]
pub struct SessionCall {
    #[command(flatten)]
    execute: Execute,
    #[command(flatten)]
    common: Common,
}

/// Makes the model itself ready to run, without noise or denoisers. Options: `backend`, `threads`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_model_session(
    model: *const mxc_model,
    options: *const mxc_options,
    out: *mut *mut mxc_session,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Session>::new(out)?;
        let model = get::<OwnedModel>(model)?;
        let call: SessionCall = read(options)?;
        let options = call.execute.session(None, &call.common);
        out.put(model.with(|model| model.duplicate().session(&options))?);
        Ok(())
    })
}

/// Frees a model; what was made of it lives on. Null is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_model_destroy(model: *mut mxc_model) {
    destroy::<OwnedModel>(model);
}
