//! The passes of `mxc opt` as a plugin for a stock `mlir-opt`: each under its own name, with its own options.
//!
//! ```text
//! mlir-opt-22 --irdl-file=mxc.irdl.mlir --load-pass-plugin=libmxc_passes.so --pass-pipeline='builtin.module(…)' model.mlir
//! ```
//!
//! Names, options and named pipelines come from [`REGISTRY`], the one that `mxc opt` has. The host drives the passes, so what they
//! share besides the IR (weights, foremost) is kept by its pass manager, from a pipeline's first pass to its last: the shim's `State`.
//! An option that stands for a family, `layer:GLOB=SPEC`, is here a list, `layer={GLOB=SPEC,…}`, since MLIR wants every option declared.
//!
//! Nothing unwinds into the host, and a host of another LLVM is told so instead of being given passes ([`refusal`]). All of this
//! crate's `unsafe` code is here; the other side of the boundary is `shim.cpp`.

use melior::{
    Context, ContextRef,
    ir::{
        Attribute, Location,
        attribute::AttributeLike,
        operation::{OperationLike, OperationRef},
    },
};
use mxc::passes::PassOptions;
use mxc_compiler::{
    pass::{Options, PassContext, PassError, PassInfo, family, run::run_guarded},
    passes::REGISTRY,
};
use std::{
    ffi::{CStr, c_char, c_uint, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    slice,
};

/// `MxcText` of the shim: UTF-8 that somebody else owns.
#[repr(C)]
#[derive(Clone, Copy)]
struct Text {
    data: *const c_char,
    size: usize,
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self { data: text.as_ptr().cast(), size: text.len() }
    }
}

impl Text {
    /// A copy. What is not UTF-8 is replaced.
    ///
    /// # Safety
    ///
    /// The text is alive.
    unsafe fn to_string(self) -> String {
        if self.size == 0 {
            return String::new();
        }
        // SAFETY: by the caller's promise.
        String::from_utf8_lossy(unsafe { slice::from_raw_parts(self.data.cast(), self.size) }).into_owned()
    }
}

/// `MxcOption` of the shim.
#[repr(C)]
struct OptionText {
    key: Text,
    text: Text,
    is_list: bool,
}

/// `MxcPass` of the shim.
#[repr(C)]
struct PassText {
    name: Text,
    description: Text,
    options: *const OptionText,
    option_count: usize,
    entry: *const c_void,
}

/// `MxcCalls` of the shim.
#[repr(C)]
struct Calls {
    register_dialects: extern "C" fn(mlir_sys::MlirDialectRegistry),
    check: extern "C" fn(
        entry: *const c_void,
        *const OptionText,
        usize,
        told: extern "C" fn(*mut c_void, Text),
        teller: *mut c_void,
    ),
    new_state: extern "C" fn() -> *mut c_void,
    drop_state: extern "C" fn(*mut c_void),
    run: extern "C" fn(
        entry: *const c_void,
        *const OptionText,
        usize,
        state: *mut c_void,
        mlir_sys::MlirOperation,
    ) -> bool,
}

static CALLS: Calls = Calls { register_dialects, check, new_state, drop_state, run };

unsafe extern "C" {
    /// Major and minor version of the LLVM whose headers the shim is compiled with.
    static mxc_plugin_llvm: [c_uint; 2];
    fn mxc_plugin_begin(calls: *const Calls);
    fn mxc_plugin_register_pass(pass: *const PassText);
    fn mxc_plugin_register_pipeline(name: Text, description: Text, passes: Text);
    fn mxc_plugin_emit(at: mlir_sys::MlirLocation, is_error: bool, message: Text, help: Text);
    /// Of the C library.
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
}

/// `mlir::PassPluginLibraryInfo`.
#[repr(C)]
pub struct PluginInfo {
    api_version: u32,
    name: *const c_char,
    version: *const c_char,
    register: Option<extern "C" fn()>,
}

/// The version of MLIR's plugin interface that [`PluginInfo`] is of.
const API_VERSION: u32 = 1;

/// What the host calls after it has loaded the plugin. To one of another LLVM it gives no passes, after a sentence to stderr: the
/// interface has no place for a reason.
#[unsafe(no_mangle)]
pub extern "C" fn mlirGetPassPluginInfo() -> PluginInfo {
    // SAFETY: a constant of the shim.
    let built_for = unsafe { mxc_plugin_llvm };
    let refusal = refusal(host_version(), (built_for[0], built_for[1]));
    if let Some(sentence) = &refusal {
        eprintln!("{sentence}");
    }
    PluginInfo {
        api_version: API_VERSION,
        name: c"mxc".as_ptr(),
        version: VERSION.as_ptr(),
        register: refusal.is_none().then_some(register),
    }
}

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => c"",
};

/// Why a host cannot have the passes, in one sentence, or `None` if it can: its LLVM, major and minor version, must be the one that the
/// plugin was built for, since MLIR's C++ classes change from one to the next. `None` for a host whose version is not known.
pub fn refusal(host: Option<(u32, u32)>, built_for: (u32, u32)) -> Option<String> {
    let is = match host {
        Some(host) if host == built_for => return None,
        Some((major, minor)) => format!("has LLVM {major}.{minor}"),
        None => "does not say which LLVM it has".to_owned(),
    };
    let (major, minor) = built_for;
    Some(format!(
        "mxc: this plugin is built for LLVM {major}.{minor}, but the program that loads it {is}: use that LLVM's mlir-opt, or build mxc with the other LLVM"
    ))
}

/// The version of the LLVM that the host runs: the first in the order in which the dynamic loader resolves names, where the program
/// and what it was linked with come before the plugin's own libraries.
fn host_version() -> Option<(u32, u32)> {
    type GetVersion = extern "C" fn(*mut c_uint, *mut c_uint, *mut c_uint);
    // SAFETY: a null handle is `RTLD_DEFAULT`; a function of this name is LLVM's, whose signature has been this one since LLVM 16.
    let get: Option<GetVersion> =
        unsafe { std::mem::transmute(dlsym(std::ptr::null_mut(), c"LLVMGetVersion".as_ptr())) };
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    get?(&mut major, &mut minor, &mut patch);
    Some((major, minor))
}

/// Registers every pass and named pipeline. MLIR's own passes the host has.
extern "C" fn register() {
    let _ = catch_unwind(|| {
        // SAFETY: the shim's functions take what is declared above, all of which lives as long as the process.
        unsafe {
            mxc_plugin_begin(&CALLS);
            for entry in REGISTRY.passes {
                let options: Vec<OptionText> = entry
                    .options
                    .iter()
                    .map(|(key, text)| OptionText {
                        key: Text::from(family(key).map_or(*key, |prefix| prefix.trim_end_matches(':'))),
                        text: Text::from(*text),
                        is_list: family(key).is_some(),
                    })
                    .collect();
                let options = options.leak();
                mxc_plugin_register_pass(Box::leak(Box::new(PassText {
                    name: Text::from(entry.name),
                    description: Text::from(entry.description),
                    options: options.as_ptr(),
                    option_count: options.len(),
                    entry: std::ptr::from_ref(entry).cast(),
                })));
            }
            for alias in REGISTRY.aliases {
                mxc_plugin_register_pipeline(alias.name.into(), alias.description.into(), alias.pipeline.into());
            }
        }
    });
}

/// MLIR's dialects of which the passes make operations.
extern "C" fn register_dialects(registry: mlir_sys::MlirDialectRegistry) {
    let _ = catch_unwind(|| {
        for handle in mxc_dialects::dialects() {
            // SAFETY: the registry is alive, the handle static.
            unsafe { mlir_sys::mlirDialectHandleInsertDialect(handle.to_raw(), registry) };
        }
    });
}

extern "C" fn new_state() -> *mut c_void {
    catch_unwind(|| Box::into_raw(Box::new(mxc::passes::context_of(&PassOptions::default()))).cast())
        .unwrap_or(std::ptr::null_mut())
}

extern "C" fn drop_state(state: *mut c_void) {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        if !state.is_null() {
            // SAFETY: made by `new_state`; the shim drops it once.
            drop(unsafe { Box::from_raw(state.cast::<PassContext>()) });
        }
    }));
}

/// The options as the pass takes them: a list's element `fc*=SPEC` of `layer` is the option `layer:fc*=SPEC`.
fn options(entry: &PassInfo, given: &[(String, String, bool)]) -> Result<Options, String> {
    let mut options = Options::default();
    for (key, value, is_list) in given {
        if !is_list {
            options.push(key, value);
            continue;
        }
        let prefix =
            entry.options.iter().filter_map(|(key, _)| family(key)).find(|prefix| prefix.trim_end_matches(':') == key);
        let (Some(prefix), Some((member, value))) = (prefix, value.split_once('=')) else {
            return Err(format!("option {key}={value}: {key}={{GLOB=VALUE,…}} expected"));
        };
        // MLIR takes the quotes from around a list's element, not from inside.
        let plain = ['\'', '"'].iter().find_map(|&quote| value.strip_prefix(quote)?.strip_suffix(quote));
        options.push(format!("{prefix}{}", member.trim()), plain.unwrap_or(value));
    }
    Ok(options)
}

/// Copies options of the shim's.
///
/// # Safety
///
/// They are alive, `count` of them.
unsafe fn given(options: *const OptionText, count: usize) -> Vec<(String, String, bool)> {
    if count == 0 {
        return Vec::new();
    }
    // SAFETY: by the caller's promise.
    unsafe {
        let options = slice::from_raw_parts(options, count);
        options.iter().map(|option| (option.key.to_string(), option.text.to_string(), option.is_list)).collect()
    }
}

/// Tells what is wrong with a pass's options, if something is.
extern "C" fn check(
    entry: *const c_void,
    given_options: *const OptionText,
    count: usize,
    told: extern "C" fn(*mut c_void, Text),
    teller: *mut c_void,
) {
    let checked = catch_unwind(|| {
        // SAFETY: an entry of the registry, and the shim's options.
        let (entry, given) = unsafe { (&*entry.cast::<PassInfo>(), given(given_options, count)) };
        options(entry, &given).and_then(|options| entry.build(&options).map_err(|error| error.to_string())).err()
    });
    let wrong = checked.unwrap_or_else(|_| Some("mxc panicked: please report this".to_owned()));
    if let Some(wrong) = wrong {
        told(teller, Text::from(wrong.as_str()));
    }
}

/// Runs a pass on a module; whether it succeeded.
extern "C" fn run(
    entry: *const c_void,
    given_options: *const OptionText,
    count: usize,
    state: *mut c_void,
    module: mlir_sys::MlirOperation,
) -> bool {
    catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: an entry of the registry, the shim's options, the state of this module, which no other thread has, and the module
        // that the pass manager lends, whose context outlives this call. `reference` outlives `context`, which points to it.
        let (entry, given, state) =
            unsafe { (&*entry.cast::<PassInfo>(), given(given_options, count), state.cast::<PassContext>().as_mut()) };
        let reference = unsafe { ContextRef::from_raw(mlir_sys::mlirOperationGetContext(module)) };
        let context: &Context = unsafe { reference.to_ref() };
        let operation = unsafe { OperationRef::from_raw(module) };
        let at = operation.location();
        let result = run_pass(entry, &given, context, operation, state);
        let succeeded = result.is_ok();
        let (warnings, error) = match result {
            Ok(warnings) => (warnings, None),
            Err((warnings, error)) => (warnings, Some(error)),
        };
        for warning in warnings {
            emit(at, false, &warning, "");
        }
        if let Some(error) = error {
            report(context, at, entry.name, &error);
        }
        succeeded
    }))
    .unwrap_or(false)
}

/// Runs a pass and gives its warnings, also beside its error.
fn run_pass<'c>(
    entry: &PassInfo,
    given: &[(String, String, bool)],
    context: &'c Context,
    module: OperationRef<'c, '_>,
    state: Option<&mut PassContext>,
) -> Result<Vec<String>, (Vec<String>, PassError)> {
    let failed = |error: PassError| (Vec::new(), error);
    if !mxc_dialects::is_loaded(context) {
        let error = PassError::new("the dialects analog, denoise and dtile are not loaded");
        return Err(failed(error.hint("give mlir-opt --irdl-file=FILE, which mxc opt --show-irdl prints")));
    }
    let options = options(entry, given).map_err(|error| failed(PassError::new(error)))?;
    let mut pass = entry.build(&options).map_err(|error| failed(PassError::new(error.to_string())))?;
    let state = state.ok_or_else(|| failed(PassError::new("mxc panicked: please report this")))?;
    let result = run_guarded(pass.as_mut(), context, module, state);
    let warnings = std::mem::take(&mut state.warnings);
    match result {
        Ok(()) => Ok(warnings),
        Err(error) => Err((warnings, error)),
    }
}

/// Emits what went wrong, each part at its operation, else at the module.
fn report(context: &Context, module: Location<'_>, pass: &str, error: &PassError) {
    let place = |location: &Option<String>| {
        let text = location.as_ref().map(|text| format!("loc({text})"));
        let attribute = text.and_then(|text| Attribute::parse(context, &text));
        // SAFETY: MLIR's own text of a location parses to one.
        attribute.map_or(module, |attribute| unsafe {
            Location::from_raw(mlir_sys::mlirLocationFromAttribute(attribute.to_raw()))
        })
    };
    let help = error.hint.as_deref().unwrap_or_default();
    if error.found.is_empty() {
        return emit(place(&error.location), true, &format!("{pass}: {}", error.message), help);
    }
    for (index, diagnostic) in error.found.iter().enumerate() {
        let help = if index == 0 { help } else { "" };
        emit(place(&diagnostic.location), true, &format!("{pass}: {}", diagnostic.message), help);
    }
}

fn emit(at: Location<'_>, is_error: bool, message: &str, help: &str) {
    // SAFETY: the location is alive by its lifetime, the texts outlive the call.
    unsafe { mxc_plugin_emit(at.to_raw(), is_error, message.into(), help.into()) }
}
