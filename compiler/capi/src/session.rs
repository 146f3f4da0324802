//! Sessions: networks that are ready to run.

use crate::{
    arrays::{Named, mxc_arrays},
    error::{guard, mxc_error},
    object::{Out, Tag, destroy, get, handle},
};
use mxc::Session;

/// A network that is ready to run.
pub struct mxc_session {
    _tag: Tag,
}

handle!(mxc_session = Session, "session");

/// Runs the network on arrays by the names of its inputs (or its only one), without noise, denoisers on, and gives its outputs. `seed` keys
/// what the network itself draws. Several threads may run a session at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_session_run(
    session: *const mxc_session,
    inputs: *const mxc_arrays,
    seed: u64,
    out: *mut *mut mxc_arrays,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Named>::new(out)?;
        let outputs = get::<Session>(session)?.run(&get::<Named>(inputs)?.arrays(), seed)?;
        out.put(Named::new(outputs.arrays));
        Ok(())
    })
}

/// Frees a session that runs nothing. Null is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_session_destroy(session: *mut mxc_session) {
    destroy::<Session>(session);
}
