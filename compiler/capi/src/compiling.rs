//! Compiled networks, and what the compiler makes of packages.

use crate::{
    bytes::{Bytes, mxc_bytes, mxc_format},
    context::Within,
    costs::{self, mxc_costs},
    data::{mxc_data, reading},
    error::{guard, mxc_error},
    monitor::{mxc_monitor, watched},
    object::{Out, Tag, destroy, get, get_mut, handle, optional_text},
    options::{mxc_options, read},
    package::mxc_package,
};
use ::mxc_options::{Calibrate, Common, Export, Finetune, Profile, Reading};
use clap::Args;
use mxc::{Compiled, Data, Package};
use std::{ffi::c_char, path::PathBuf};

/// A compiled network with its context.
pub type OwnedCompiled = Within<Compiled<'static>>;

/// A network compiled to a level.
pub struct mxc_compiled {
    _tag: Tag,
}

handle!(mxc_compiled = OwnedCompiled, "compiled network");

/// What was decided, as JSON: what `mxc compile --json` prints.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_compiled_report(
    compiled: *const mxc_compiled,
    out: *mut *mut mxc_bytes,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Bytes>::new(out)?;
        out.put(Bytes::json(&get::<OwnedCompiled>(compiled)?.with(Compiled::to_json))?);
        Ok(())
    })
}

/// Its module, in an mxc_format. Weights are globals without their values, or, with `inline_weights`, which changes the module for good, part of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_compiled_ir(
    compiled: *mut mxc_compiled,
    format: u32,
    inline_weights: bool,
    out: *mut *mut mxc_bytes,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Bytes>::new(out)?;
        let (compiled, format) = (get_mut::<OwnedCompiled>(compiled)?, mxc_format::of(format)?);
        out.put(Bytes::new(compiled.with_mut(|compiled| {
            if inline_weights {
                compiled.inline_weights()?;
            }
            Ok::<_, mxc::Error>(match format {
                mxc_format::MXC_FORMAT_TEXT => compiled.ir().into_bytes(),
                mxc_format::MXC_FORMAT_BYTECODE => compiled.bytecode(),
            })
        })?));
        Ok(())
    })
}

/// The values of its module's globals, the bytes of a safetensors file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_compiled_weights(
    compiled: *const mxc_compiled,
    out: *mut *mut mxc_bytes,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Bytes>::new(out)?;
        out.put(Bytes::new(get::<OwnedCompiled>(compiled)?.with(Compiled::weights).to_safetensors()));
        Ok(())
    })
}

/// Packs it: what is run, trained and evaluated from here on. It must have been compiled without `emit`, or to the level `denoise`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_compiled_package(
    compiled: *const mxc_compiled,
    out: *mut *mut mxc_package,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Package>::new(out)?;
        out.put(get::<OwnedCompiled>(compiled)?.with(Compiled::package)?);
        Ok(())
    })
}

/// Frees a compiled network; packages of it live on. Null is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_compiled_destroy(compiled: *mut mxc_compiled) {
    destroy::<OwnedCompiled>(compiled);
}

/// The text of its module, at the denoise level.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_package_ir(package: *const mxc_package, out: *mut *mut mxc_bytes) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Bytes>::new(out)?;
        out.put(Bytes::new(get::<Package>(package)?.ir()?.into_bytes()));
        Ok(())
    })
}

/// What calibrating takes.
#[derive(Args)]
pub struct CalibrateCall {
    #[command(flatten)]
    calibrate: Calibrate,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    common: Common,
}

/// Fits the package's denoisers in closed form and equalizes its converters' ranges; labels are not looked at. Gives a new package, and, where
/// `report` is not null, what `mxc calibrate --json` prints. Options: those of `mxc calibrate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_package_calibrate(
    package: *const mxc_package,
    data: *const mxc_data,
    options: *const mxc_options,
    monitor: *const mxc_monitor,
    out: *mut *mut mxc_package,
    report: *mut *mut mxc_bytes,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Package>::new(out)?;
        let report = Out::<Bytes>::optional(report)?;
        let (package, data) = (get::<Package>(package)?, get::<Data>(data)?);
        let call: CalibrateCall = read(options)?;
        let data = reading(data, &call.reading);
        let calibrated = watched(monitor, |monitor| {
            let session = package.session(&call.calibrate.session(&call.common), monitor)?;
            Ok(session.calibrate(&data, &call.calibrate.options(&call.common), monitor)?)
        })?;
        if let Some(report) = report {
            report.put(Bytes::json(&calibrated.to_json())?);
        }
        out.put(calibrated.package);
        Ok(())
    })
}

/// What fine-tuning takes.
#[derive(Args)]
pub struct FinetuneCall {
    #[command(flatten)]
    finetune: Finetune,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    common: Common,
}

/// Trains the package's denoisers under simulated noise; the backbone stays as it is. Gives a new package, and, where `report` is not null, what
/// `mxc finetune --json` prints. `checkpoint` is the file that the state is written to, after every epoch and when the call is cancelled, or null; the caller
/// removes it once the package is saved. Options: those of `mxc finetune`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_package_finetune(
    package: *const mxc_package,
    data: *const mxc_data,
    checkpoint: *const c_char,
    options: *const mxc_options,
    monitor: *const mxc_monitor,
    out: *mut *mut mxc_package,
    report: *mut *mut mxc_bytes,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Package>::new(out)?;
        let report = Out::<Bytes>::optional(report)?;
        let (package, data) = (get::<Package>(package)?, get::<Data>(data)?);
        let checkpoint = optional_text(checkpoint, "path of the checkpoint")?.map(PathBuf::from);
        let call: FinetuneCall = read(options)?;
        let data = reading(data, &call.reading);
        let options = call.finetune.options(checkpoint, &call.common);
        let tuned = watched(monitor, |monitor| {
            let session = package.session(&call.finetune.session(&call.common), monitor)?;
            Ok(session.finetune(&data, &options, monitor)?)
        })?;
        if let Some(report) = report {
            report.put(Bytes::json(&tuned.to_json())?);
        }
        out.put(tuned.package);
        Ok(())
    })
}

/// Splices the denoisers into the source ONNX model, runs the result, compares it with the package, and gives its bytes; its external data
/// files are the source's. Options: those of `mxc export`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_package_export(
    package: *const mxc_package,
    options: *const mxc_options,
    out: *mut *mut mxc_bytes,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Bytes>::new(out)?;
        let package = get::<Package>(package)?;
        let call: Export = read(options)?;
        out.put(Bytes::new(package.export(&call.options())?.onnx));
        Ok(())
    })
}

/// Cycles and energy of the denoisers on the digital tile, energy and time of the layers on analog tiles, as JSON: what `mxc report --json` prints. `costs`
/// is what they are counted by; null is the profile's own figures.
/// Options: those of `mxc report`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_package_report(
    package: *const mxc_package,
    costs: *const mxc_costs,
    options: *const mxc_options,
    monitor: *const mxc_monitor,
    out: *mut *mut mxc_bytes,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Bytes>::new(out)?;
        let package = get::<Package>(package)?;
        let call: Profile = read(options)?;
        let profile = call.load()?.map_or_else(|| package.hardware(), Ok)?;
        let costs = costs::model(costs, &profile)?;
        let cost = watched(monitor, |monitor| Ok(package.report_by(Some(&profile), costs.as_deref(), monitor)?))?;
        out.put(Bytes::json(&cost)?);
        Ok(())
    })
}
