//! Options by name.

use crate::{
    error::{guard, mxc_error},
    failure::Failure,
    object::{Out, Tag, destroy, get_mut, handle, optional, text},
};
use ::mxc_options::named;
use clap::Args;
use std::ffi::c_char;

/// Options by name.
pub struct mxc_options {
    _tag: Tag,
}

handle!(mxc_options = Options, "options");

/// Pairs of names and values, in the order in which they were set.
#[derive(Default)]
pub struct Options(Vec<(String, String)>);

/// What a call takes of the options that it was given; none are given by null.
pub fn read<T: Args>(options: *const mxc_options) -> Result<T, Failure> {
    let given = optional::<Options>(options)?.map_or(&[][..], |options| &options.0);
    named::parse(given).map_err(Failure::option)
}

/// Makes an empty set of options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_options_create(out: *mut *mut mxc_options) -> *mut mxc_error {
    guard(|| {
        Out::<Options>::new(out)?.put(Options::default());
        Ok(())
    })
}

/// Sets an option: the name is the command line's without `--`, such as `budget`, and so is the value, such as `4%`. An option that is on or
/// off takes `true` or `false`. Setting one again replaces it, but for those that the command line takes several times. The call that the options are for
/// checks them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_options_set(
    options: *mut mxc_options,
    name: *const c_char,
    value: *const c_char,
) -> *mut mxc_error {
    guard(|| {
        let options = get_mut::<Options>(options)?;
        let pair = (text(name, "name of the option")?.to_owned(), text(value, "value of the option")?.to_owned());
        options.0.push(pair);
        Ok(())
    })
}

/// Frees options. Null is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_options_destroy(options: *mut mxc_options) {
    destroy::<Options>(options);
}
