//! Packages: compiled networks.

use crate::{
    bytes::{Bytes, mxc_bytes},
    data::{mxc_data, reading},
    error::{guard, mxc_error},
    monitor::{mxc_monitor, watched},
    object::{Out, Tag, destroy, elements, get, handle, text},
    options::{mxc_options, read},
    session::mxc_session,
};
use ::mxc_options::{Common, Evaluate, Execute, Noise, Reading};
use clap::Args;
use mxc::{Data, Package, Part, Session, Shard};
use std::{ffi::c_char, path::Path};

/// A compiled network.
pub struct mxc_package {
    _tag: Tag,
}

handle!(mxc_package = Package, "package");

/// Opens a package's file (`.mxa`): its structure and checksums are checked and its weights mapped. The file must not be changed in place while
/// the package lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_package_open(path: *const c_char, out: *mut *mut mxc_package) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Package>::new(out)?;
        out.put(Package::open(Path::new(text(path, "path of the package")?))?);
        Ok(())
    })
}

/// Reads a package from a copy of these bytes. `name` is what errors call it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_package_from_bytes(
    data: *const u8,
    size: usize,
    name: *const c_char,
    out: *mut *mut mxc_package,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Package>::new(out)?;
        let bytes = mxc::Bytes::new(elements(data, size, "bytes of the package")?.to_vec());
        out.put(Package::from_bytes(&bytes, text(name, "name of the package")?)?);
        Ok(())
    })
}

/// Writes the package to a file, so that a crash leaves the old one or the new one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_package_write(package: *const mxc_package, path: *const c_char) -> *mut mxc_error {
    guard(|| Ok(get::<Package>(package)?.write(Path::new(text(path, "path of the package")?))?))
}

/// The bytes of its file: the same package gives the same bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_package_bytes(package: *const mxc_package, out: *mut *mut mxc_bytes) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Bytes>::new(out)?;
        out.put(Bytes::new(get::<Package>(package)?.to_bytes()?));
        Ok(())
    })
}

/// What it is and how it was made, as JSON: what `mxc inspect --json` prints.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_package_manifest(package: *const mxc_package, out: *mut *mut mxc_bytes) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Bytes>::new(out)?;
        out.put(Bytes::json(get::<Package>(package)?.manifest())?);
        Ok(())
    })
}

/// What making a session takes.
#[derive(Args)]
pub struct SessionCall {
    #[command(flatten)]
    noise: Noise,
    #[command(flatten)]
    execute: Execute,
    #[command(flatten)]
    common: Common,
}

/// Makes a package ready to run. Options: `sigma`, `noise`, `digital`, `backend`, `threads`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_package_session(
    package: *const mxc_package,
    options: *const mxc_options,
    monitor: *const mxc_monitor,
    out: *mut *mut mxc_session,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Session>::new(out)?;
        let package = get::<Package>(package)?;
        let call: SessionCall = read(options)?;
        let options = call.execute.session(call.noise.spec(), &call.common);
        out.put(watched(monitor, |monitor| Ok(package.session(&options, monitor)?))?);
        Ok(())
    })
}

/// What evaluating takes.
#[derive(Args)]
pub struct EvaluateCall {
    #[command(flatten)]
    evaluate: Evaluate,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    common: Common,
    /// Run only part I of N of the evaluation, from 1/N to N/N; mxc_merge puts parts together
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
}

/// Measures clean, noisy and denoised accuracy, as JSON: what `mxc eval --json` prints. Options: those of `mxc eval`, by `shard` the part of a
/// shard is given.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_package_evaluate(
    package: *const mxc_package,
    data: *const mxc_data,
    options: *const mxc_options,
    monitor: *const mxc_monitor,
    out: *mut *mut mxc_bytes,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Bytes>::new(out)?;
        let (package, data) = (get::<Package>(package)?, get::<Data>(data)?);
        let call: EvaluateCall = read(options)?;
        let data = reading(data, &call.reading);
        let (session, options) = (call.evaluate.session(&call.common), call.evaluate.options(&call.common));
        out.put(watched(monitor, |monitor| {
            let session = package.session(&session, monitor)?;
            match call.shard {
                Some(shard) => {
                    Ok(Bytes::new(session.evaluate_shard(&data, &options, shard, monitor)?.to_json().into()))
                }
                None => Bytes::json(&session.evaluate(&data, &options, monitor)?),
            }
        })?);
        Ok(())
    })
}

/// Puts the parts of an evaluation together, the JSON of every shard, and gives its report, as JSON. `parts` are `count` texts; errors call them by
/// their number, from 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_merge(
    parts: *const *const c_char,
    count: usize,
    out: *mut *mut mxc_bytes,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Bytes>::new(out)?;
        let parts = elements(parts, count, "parts")?;
        let mut read = Vec::new();
        for (number, &part) in (1..).zip(parts) {
            let name = format!("part {number}");
            let part = Part::from_json(text(part, &name)?, &name).map_err(mxc::Error::from)?;
            read.push((name, part));
        }
        out.put(Bytes::json(&mxc::merge(&read).map_err(mxc::Error::from)?)?);
        Ok(())
    })
}

/// Frees a package; sessions of it live on. Null is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_package_destroy(package: *mut mxc_package) {
    destroy::<Package>(package);
}
