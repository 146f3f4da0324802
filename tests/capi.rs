//! The C library: its header, its symbols, what it refuses, and a C program that uses it.

use crate::common::{built, json, model, mxc as program, onnxruntime, profile, root, small_fashion, succeed};
use mxc_c::{
    arrays::*, bytes::*, compiling::*, costs::*, data::*, error::*, failure::*, model::*, monitor::*, noise::*,
    options::*, package::*, passes::*, session::*, weights::*,
};
use std::{
    collections::BTreeSet,
    env,
    ffi::{CStr, CString, c_char, c_void},
    fs,
    path::{Path, PathBuf},
    process::Command,
    ptr::{null, null_mut},
    sync::atomic::{AtomicUsize, Ordering},
};

/// The example in Rust.
#[path = "../examples/embed/rust/embed.rs"]
#[allow(dead_code)]
mod rust;

/// The library that was built with these tests.
fn library() -> PathBuf {
    profile().join("deps/libmxc_c.so")
}

/// The header is what cbindgen makes of the sources.
#[test]
fn the_header_is_that_of_the_sources() {
    let sources = root().join("compiler/capi");
    let config = cbindgen::Config {
        include_guard: Some("MXC_H".to_owned()),
        after_includes: Some(
            "\n#include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n\n\
             #ifndef MXC_RUNTIME_ONLY\n#define MXC_COMPILER\n#endif"
                .to_owned(),
        ),
        cpp_compat: true,
        ..cbindgen::Config::from_file(sources.join("cbindgen.toml")).unwrap()
    };
    let mut made = Vec::new();
    cbindgen::Builder::new().with_crate(&sources).with_config(config).generate().unwrap().write(&mut made);
    let path = sources.join("include/mxc.h");
    if env::var_os("MXC_UPDATE_DOCS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == String::from_utf8(made).unwrap(), "MXC_UPDATE_DOCS=1 cargo test the_header writes it anew");
}

/// The symbols that `compiler/capi/symbols.txt` lists: within a major version none may go.
fn listed() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("compiler/capi/symbols.txt")).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

/// Nothing of LLVM, MLIR, oneDNN or Rust is seen from outside, and everything that the header declares is there.
#[test]
fn the_symbols_are_those_listed() {
    let shown = succeed(Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(library()));
    let exported: BTreeSet<String> =
        shown.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert_eq!(exported, listed());
    let header = fs::read_to_string(root().join("compiler/capi/include/mxc.h")).unwrap();
    let declared = regex::Regex::new(r"\b(mxc_\w+)\(").unwrap();
    let declared: BTreeSet<String> = declared.captures_iter(&header).map(|found| found[1].to_owned()).collect();
    assert!(exported.is_subset(&declared), "{:?}", exported.difference(&declared));
}

/// The library that only runs packages has the other part of the header, nothing of LLVM, and gives the program's report.
#[test]
fn the_execute_only_library_needs_no_compiler() {
    let Some(built) = built(root().join("target/shared/release/libmxc_c.so"), "library RUNTIME=1") else {
        return;
    };
    let shown = succeed(Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(&built));
    let exported: BTreeSet<String> =
        shown.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    let header = fs::read_to_string(root().join("compiler/capi/include/mxc.h")).unwrap();
    let compiler = regex::Regex::new(r"(?s)#if defined\(MXC_COMPILER\)\n.*?#endif").unwrap();
    let declared = regex::Regex::new(r"\b(mxc_\w+)\(").unwrap();
    let rest = compiler.replace_all(&header, "");
    let declared: BTreeSet<String> = declared.captures_iter(&rest).map(|found| found[1].to_owned()).collect();
    assert_eq!(exported, &declared & &listed());

    let folder = tempfile::tempdir().unwrap();
    let (folder, prefix) = (folder.path(), folder.path().join("prefix"));
    succeed(Command::new(root().join("scripts/install-library.sh")).arg(&built).arg(&prefix));
    let installed = fs::read(prefix.join("lib/libmxc_runtime.so.0")).unwrap();
    assert!(installed.len() < 8 << 20, "{} bytes", installed.len());
    assert!(!installed.windows(4).any(|bytes| bytes == b"LLVM"));
    succeed(&mut cc(folder, &prefix, "mxc_runtime", "evaluate"));
    let data = small_fashion(folder, 600, 200);
    let flags = "--sigma 20% --mean 0.2860 --std 0.3530 --samples 64 --quiet -o model.mxa --data";
    succeed(program(folder).arg("compile").arg(model("resnet20")).args(flags.split(' ')).arg(&data));
    let mut evaluate = Command::new(folder.join("evaluate"));
    evaluate.current_dir(folder).env_clear().env("LD_LIBRARY_PATH", prefix.join("lib"));
    let printed = json(evaluate.arg("model.mxa").arg(&data));
    let flags = "eval model.mxa --seeds 2 --json --data";
    assert_eq!(printed, json(program(folder).args(flags.split(' ')).arg(&data)));
}

/// A program that is linked with the static library gives the program's bytes; but for the functions of the header the library has no name that
/// could meet another's.
#[test]
fn the_static_library_shows_nothing_else() {
    let Some(archive) = built(profile().join("libmxc_c.a"), "archive PROFILE=dev") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (folder, prefix) = (folder.path(), folder.path().join("prefix"));
    succeed(Command::new(root().join("scripts/install-library.sh")).arg(library()).arg(&prefix).arg(archive));
    let names = ["-g", "--defined-only", "--format=posix"];
    let shown = succeed(Command::new("nm").args(names).arg(prefix.join("lib/libmxc.a")));
    let exported: BTreeSet<String> =
        shown.lines().filter_map(|line| line.split_once(" T ")).map(|(name, _)| name.to_owned()).collect();
    assert_eq!(exported, listed());
    succeed(&mut cc(folder, &prefix, "mxc-static", "embed"));
    let embed = folder.join("embed");
    assert!(!succeed(Command::new("ldd").arg(&embed)).contains("libmxc"));
    let data = small_fashion(folder, 600, 200);
    succeed(Command::new(embed).current_dir(folder).env_clear().arg(model("resnet20")).arg(&data).arg("c.mxa"));
    let flags = "--budget 4% --sigma 20% --mean 0.2860 --std 0.3530 --samples 64 -o model.mxa --data";
    succeed(program(folder).arg("compile").arg(model("resnet20")).args(flags.split(' ')).arg(&data));
    assert!(fs::read(folder.join("c.mxa")).unwrap() == fs::read(folder.join("model.mxa")).unwrap());
}

/// An error's kind and message; it is destroyed.
fn told(error: *mut mxc_error) -> Option<(mxc_error_kind, String)> {
    if error.is_null() {
        return None;
    }
    // SAFETY: the error is one that the library gave out.
    unsafe {
        let message = CStr::from_ptr(mxc_error_message(error)).to_str().unwrap().to_owned();
        let kind = mxc_error_get_kind(error);
        mxc_error_destroy(error);
        Some((kind, message))
    }
}

#[track_caller]
fn ok(error: *mut mxc_error) {
    assert_eq!(told(error), None);
}

#[track_caller]
fn refused(error: *mut mxc_error, kind: mxc_error_kind, part: &str) {
    let (found, message) = told(error).unwrap();
    assert!(found == kind && message.contains(part), "{found:?}: {message}");
}

/// What a call puts where it is told to.
#[track_caller]
fn made<T>(call: impl FnOnce(*mut *mut T) -> *mut mxc_error) -> *mut T {
    let mut out = null_mut();
    ok(call(&mut out));
    assert!(!out.is_null());
    out
}

/// Every entry, by name: with null for everything, and with a handle of another kind for its first one.
#[test]
fn every_entry_refuses_null_and_other_handles() {
    let mut called = BTreeSet::new();
    // A handle of options serves as the other kind; of options it is a handle of bytes.
    // SAFETY: null, handles that the library gave out and places that may be written are what the entries take.
    unsafe {
        let other = made(|out| mxc_options_create(out));
        let bytes = made(|out| mxc_passes_list(out));
        /// A call that gives an error for null and for a handle of another kind.
        macro_rules! entries {
            ($($name:ident($first:expr $(, $rest:expr)*);)+) => {
                $(
                    called.insert(stringify!($name).to_owned());
                    let (kind, message) = told($name(null_mut() $(, $rest)*)).expect(stringify!($name));
                    assert_eq!(kind, mxc_error_kind::MXC_ERROR_ARGUMENT, "{}: {message}", stringify!($name));
                    assert!(message.contains("null"), "{}: {message}", stringify!($name));
                    let (kind, message) = told($name($first $(, $rest)*)).expect(stringify!($name));
                    assert_eq!(kind, mxc_error_kind::MXC_ERROR_ARGUMENT, "{}: {message}", stringify!($name));
                    assert!(message.contains("handle of another kind"), "{}: {message}", stringify!($name));
                )+
            };
        }
        let mut out = [null_mut::<c_void>(); 2];
        let [to, also] = &mut out;
        let (to, also) = (std::ptr::from_mut(to), std::ptr::from_mut(also));
        let text = c"text".as_ptr();
        entries! {
            mxc_options_set(bytes.cast(), text, text);
            mxc_monitor_cancel(other.cast());
            mxc_arrays_add(other.cast(), text, 1, null(), 0, null());
            mxc_arrays_get(other.cast(), 0, to.cast());
            mxc_weights_add(other.cast(), text, null(), 0, null(), None, null_mut());
            mxc_weights_add_file(other.cast(), text, null(), 0, None, null_mut());
            mxc_package_write(other.cast(), text);
            mxc_package_bytes(other.cast(), to.cast());
            mxc_package_manifest(other.cast(), to.cast());
            mxc_package_session(other.cast(), null(), null(), to.cast());
            mxc_package_evaluate(other.cast(), null(), null(), null(), to.cast());
            mxc_package_ir(other.cast(), to.cast());
            mxc_package_calibrate(other.cast(), null(), null(), null(), to.cast(), also.cast());
            mxc_package_finetune(other.cast(), null(), null(), null(), null(), to.cast(), also.cast());
            mxc_package_export(other.cast(), null(), to.cast());
            mxc_package_report(other.cast(), null(), null(), null(), to.cast());
            mxc_session_run(other.cast(), null(), 0, to.cast());
            mxc_model_describe(other.cast(), to.cast());
            mxc_model_ir(other.cast(), 1, to.cast());
            mxc_model_weights(other.cast(), to.cast());
            mxc_model_compile(other.cast(), null(), null(), null(), null(), to.cast());
            mxc_model_session(other.cast(), null(), to.cast());
            mxc_compiled_report(other.cast(), to.cast());
            mxc_compiled_ir(other.cast(), 1, false, to.cast());
            mxc_compiled_weights(other.cast(), to.cast());
            mxc_compiled_package(other.cast(), to.cast());
        }
        /// A call without a handle in front, which gives an error for null.
        macro_rules! others {
            ($($name:ident($($argument:expr),*);)+) => {
                $(
                    called.insert(stringify!($name).to_owned());
                    refused($name($($argument),*), mxc_error_kind::MXC_ERROR_ARGUMENT, "null");
                )+
            };
        }
        others! {
            mxc_options_create(null_mut());
            mxc_monitor_create(None, None, null_mut(), null_mut());
            mxc_arrays_create(null_mut());
            mxc_weights_create(null_mut());
            mxc_passes_list(null_mut());
            mxc_data_from_path(null(), to.cast());
            mxc_data_from_arrays(1, null(), 1, null(), null(), to.cast());
            mxc_package_open(null(), to.cast());
            mxc_package_from_bytes(null(), 8, text, to.cast());
            mxc_merge(null(), 1, to.cast());
            mxc_model_from_file(null(), null(), null(), to.cast());
            mxc_model_from_onnx(null(), 8, text, null(), null(), null(), to.cast());
            mxc_model_from_mlir(null(), 8, text, null(), to.cast());
            mxc_passes_run(null(), 8, text, text, null(), null(), null(), null(), 1, to.cast(), also.cast());
            mxc_noise_register(null(), 0.0, 1.0, 1, None, null_mut());
            mxc_costs_create(null(), None, None, null_mut(), to.cast());
        }
        /// A call that gives no error: nothing happens.
        macro_rules! quiet {
            ($($name:ident($($argument:expr),*);)+) => {
                $(
                    called.insert(stringify!($name).to_owned());
                    let _ = $name($($argument),*);
                )+
            };
        }
        assert_eq!(mxc_arrays_count(other.cast()), 0);
        assert!(mxc_bytes_data(other.cast()).is_null() && mxc_error_message(other.cast()).is_null());
        quiet! {
            mxc_arrays_count(null()); mxc_arrays_find(null(), null()); mxc_bytes_data(null()); mxc_bytes_size(other.cast());
            mxc_error_get_kind(null()); mxc_error_message(null()); mxc_error_hint(null()); mxc_error_location(null());
            mxc_error_destroy(null_mut()); mxc_bytes_destroy(other.cast()); mxc_options_destroy(bytes.cast());
            mxc_monitor_destroy(other.cast()); mxc_data_destroy(other.cast()); mxc_arrays_destroy(other.cast());
            mxc_weights_destroy(other.cast()); mxc_package_destroy(other.cast()); mxc_session_destroy(other.cast());
            mxc_model_destroy(other.cast()); mxc_compiled_destroy(null_mut());
            mxc_costs_destroy(other.cast());
        }
        // They were left alone.
        ok(mxc_options_set(other, c"seed".as_ptr(), c"1".as_ptr()));
        assert!(mxc_bytes_size(bytes) > 2);
        mxc_options_destroy(other);
        mxc_bytes_destroy(bytes);
    }
    assert!(mxc_c::mxc_version() == mxc_c::MXC_VERSION && !mxc_c::mxc_release().is_null());
    called.extend(["mxc_version", "mxc_release"].map(str::to_owned));
    assert_eq!(called, listed());
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// Options of these names and values.
fn options(pairs: &[(&str, &str)]) -> *mut mxc_options {
    // SAFETY: handles of the library, and text that ends with zero.
    unsafe {
        let options = made(|out| mxc_options_create(out));
        for (name, value) in pairs {
            ok(mxc_options_set(options, c(name).as_ptr(), c(value).as_ptr()));
        }
        options
    }
}

/// Text or bytes that the library gave, which are freed.
fn taken(bytes: *mut mxc_bytes) -> Vec<u8> {
    // SAFETY: the handle is the library's, and so many bytes lie there.
    unsafe {
        let copy = std::slice::from_raw_parts(mxc_bytes_data(bytes), mxc_bytes_size(bytes)).to_vec();
        mxc_bytes_destroy(bytes);
        copy
    }
}

fn from_onnx(
    onnx: &[u8],
    name: &str,
    weights: *const mxc_weights,
    options: *const mxc_options,
) -> Result<*mut mxc_model, (mxc_error_kind, String)> {
    let mut out = null_mut();
    // SAFETY: as many bytes lie there as is said; the handles are null or the library's.
    let error =
        unsafe { mxc_model_from_onnx(onnx.as_ptr(), onnx.len(), c(name).as_ptr(), weights, options, null(), &mut out) };
    match told(error) {
        None => Ok(out),
        Some(error) => Err(error),
    }
}

/// A small network: x·w, then Relu.
fn small() -> crate::onnx_model::Model {
    crate::onnx_model::Model::new()
        .input("x", &[0, 4])
        .weight("w", &[4, 3])
        .node("mul", "MatMul", "x w", "h", &[])
        .node("relu", "Relu", "h", "y", &[])
        .output("y")
}

#[test]
fn wrong_text_options_and_numbers_are_refused() {
    use mxc_error_kind::*;
    let not_utf8 = c"\xff\xfe";
    let mut to: *mut c_void = null_mut();
    let to = std::ptr::from_mut(&mut to);
    // SAFETY: handles of the library or null, text that ends with zero, places that may be written.
    unsafe {
        let given = options(&[]);
        refused(mxc_options_set(given, not_utf8.as_ptr(), c"1".as_ptr()), MXC_ERROR_ARGUMENT, "is not UTF-8");
        refused(mxc_data_from_path(not_utf8.as_ptr(), to.cast()), MXC_ERROR_ARGUMENT, "is not UTF-8");
        refused(mxc_package_open(not_utf8.as_ptr(), to.cast()), MXC_ERROR_ARGUMENT, "is not UTF-8");
        refused(mxc_model_from_file(not_utf8.as_ptr(), null(), null(), to.cast()), MXC_ERROR_ARGUMENT, "is not UTF-8");
        refused(mxc_merge([not_utf8.as_ptr()].as_ptr(), 1, to.cast()), MXC_ERROR_ARGUMENT, "part 1 is not UTF-8");
        refused(mxc_package_open(c"none.mxa".as_ptr(), to.cast()), MXC_ERROR_PACKAGE, "none.mxa");
        refused(mxc_package_from_bytes(b"PK".as_ptr(), 2, c"here".as_ptr(), to.cast()), MXC_ERROR_PACKAGE, "here: ");
        refused(mxc_merge(null(), 0, to.cast()), MXC_ERROR_PART, "");
        let arrays = made(|out| mxc_arrays_create(out));
        let add = |number, shape: &[usize]| {
            mxc_arrays_add(arrays, c"x".as_ptr(), number, shape.as_ptr(), shape.len(), [0f32; 8].as_ptr().cast())
        };
        refused(add(99, &[2]), MXC_ERROR_ARGUMENT, "99 is no mxc_dtype");
        refused(add(1, &[usize::MAX, 2]), MXC_ERROR_ARGUMENT, "larger than memory");
        ok(add(1, &[2, 4]));
        refused(mxc_arrays_get(arrays, 1, null_mut()), MXC_ERROR_ARGUMENT, "there is no array 1: there are 1");

        let model = from_onnx(&small().bytes(), "small.onnx", null(), null()).unwrap();
        refused(mxc_model_ir(model, 7, to.cast()), MXC_ERROR_ARGUMENT, "7 is no mxc_format");
        let compile = |pairs: &[(&str, &str)]| {
            let given = options(pairs);
            let error = mxc_model_compile(model, null(), null(), given, null(), to.cast());
            mxc_options_destroy(given);
            error
        };
        refused(compile(&[("budgt", "4%")]), MXC_ERROR_OPTION, "unexpected argument '--budgt' found");
        refused(compile(&[("budget", "much")]), MXC_ERROR_OPTION, "invalid value 'much' for '--budget <P%>'");
        refused(
            compile(&[("skip-bad", "maybe")]),
            MXC_ERROR_OPTION,
            "option 'skip-bad' takes true or false, not 'maybe'",
        );
        refused(compile(&[("logits", "z")]), MXC_ERROR_OPTION, "--logits z: the model has no such output");
        // The last of several counts, and either spelling.
        let given =
            options(&[("emit", "graph"), ("emit", "analog"), ("keep_digital", "nothing"), ("keep-digital", "mul")]);
        let compiled = made(|out| mxc_model_compile(model, null(), null(), given, null(), out));
        let ir = String::from_utf8(taken(made(|out| mxc_compiled_ir(compiled, 1, false, out)))).unwrap();
        assert!(ir.contains("tosa.matmul") && !ir.contains("analog."), "{ir}");
        refused(mxc_compiled_package(compiled, to.cast()), MXC_ERROR_OPTION, "a package is of the level denoise");
        // A handle that was destroyed.
        mxc_model_destroy(model);
        mxc_compiled_destroy(compiled);
        mxc_arrays_destroy(arrays);
        mxc_options_destroy(given);
    }
    // More memory for constants than is allowed.
    let tiled = crate::onnx_model::Model::new()
        .input("x", &[0, 3])
        .tensor(crate::onnx_model::integers("repeats", &[2], &[1000, 1000]))
        .weight("w", &[3, 3])
        .node("tile", "Tile", "w repeats", "c", &[])
        .node("sum", "Add", "x c", "y", &[])
        .output("y");
    let limit = options(&[("max-constant-bytes", "1MB")]);
    let (kind, message) = from_onnx(&tiled.bytes(), "tiled.onnx", null(), limit).unwrap_err();
    assert!(kind == MXC_ERROR_IMPORT && message.contains("more than 1000000"), "{message}");
    let (kind, _) = from_onnx(b"none", "none.onnx", null(), null()).unwrap_err();
    assert_eq!(kind, MXC_ERROR_IMPORT);
    // SAFETY: the handle is the library's.
    unsafe { mxc_options_destroy(limit) };
}

unsafe extern "C" fn released(user: *mut c_void) {
    // SAFETY: the tests give a counter.
    unsafe { &*user.cast::<AtomicUsize>() }.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn weights_stay_where_they_are_until_they_are_released() {
    let count = AtomicUsize::new(0);
    let user = std::ptr::from_ref(&count).cast_mut().cast::<c_void>();
    let values: Vec<f32> = (0..12).map(|value| value as f32).collect();
    let image = [1.0f32, 2.0, 3.0, 4.0];
    let run = |model: *mut mxc_model| -> Vec<f32> {
        // SAFETY: handles of the library; the array has the sizes said.
        unsafe {
            let session = made(|out| mxc_model_session(model, null(), out));
            mxc_model_destroy(model);
            let inputs = made(|out| mxc_arrays_create(out));
            ok(mxc_arrays_add(inputs, c"x".as_ptr(), 1, [1, 4].as_ptr(), 2, image.as_ptr().cast()));
            let outputs = made(|out| mxc_session_run(session, inputs, 0, out));
            assert_eq!((mxc_arrays_count(outputs), mxc_arrays_find(outputs, c"y".as_ptr())), (1, 0));
            let mut array = std::mem::MaybeUninit::<mxc_array>::uninit();
            ok(mxc_arrays_get(outputs, 0, array.as_mut_ptr()));
            let array = array.assume_init();
            assert_eq!(std::slice::from_raw_parts(array.shape, array.rank), [1, 3]);
            let result = std::slice::from_raw_parts(array.values.cast::<f32>(), 3).to_vec();
            mxc_arrays_destroy(inputs);
            mxc_arrays_destroy(outputs);
            mxc_session_destroy(session);
            result
        }
    };
    let expected: Vec<f32> =
        (0..3).map(|column| (0..4).map(|row| image[row] * values[3 * row + column]).sum()).collect();

    // An ONNX model whose weight is in an external data file.
    let mut onnx = small();
    let tensor = &mut onnx.0.graph.as_mut().unwrap().initializer[0];
    tensor.float_data.clear();
    tensor.raw_data.clear();
    tensor.data_location = onnx_protobuf::tensor_proto::DataLocation::EXTERNAL.into();
    tensor.external_data = vec![onnx_protobuf::StringStringEntryProto {
        key: "location".to_owned(),
        value: "w.bin".to_owned(),
        ..Default::default()
    }];
    // SAFETY: handles of the library; the memory stays as it is until it is released.
    unsafe {
        let weights = made(|out| mxc_weights_create(out));
        let file = values.as_ptr().cast();
        ok(mxc_weights_add_file(weights, c"w.bin".as_ptr(), file, 48, Some(released), user));
        let model = from_onnx(&onnx.bytes(), "external.onnx", weights, null()).unwrap();
        mxc_weights_destroy(weights);
        assert_eq!(count.load(Ordering::SeqCst), 1, "the import has copied it");
        assert_eq!(run(model), expected);
    }

    // MLIR text whose global's values are the caller's.
    let text = r#"
        ml_program.global private @w(#ml_program.extern : tensor<1x4x3xf32>) : tensor<1x4x3xf32>
        func.func @main(%x: tensor<?x4xf32> {mxc.name = "x"}) -> (tensor<?x3xf32> {mxc.name = "y"}) {
          %w = ml_program.global_load_const @w : tensor<1x4x3xf32>
          %s1 = tosa.const_shape {values = dense<[1, -1, 4]> : tensor<3xindex>} : () -> !tosa.shape<3>
          %a = tosa.reshape %x, %s1 : (tensor<?x4xf32>, !tosa.shape<3>) -> tensor<1x?x4xf32>
          %z = "tosa.const"() <{values = dense<0.0> : tensor<1xf32>}> : () -> tensor<1xf32>
          %m = tosa.matmul %a, %w, %z, %z : (tensor<1x?x4xf32>, tensor<1x4x3xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<1x?x3xf32>
          %s2 = tosa.const_shape {values = dense<[-1, 3]> : tensor<2xindex>} : () -> !tosa.shape<2>
          %y = tosa.reshape %m, %s2 : (tensor<1x?x3xf32>, !tosa.shape<2>) -> tensor<?x3xf32>
          return %y : tensor<?x3xf32>
        }"#;
    // SAFETY: as above.
    unsafe {
        let weights = made(|out| mxc_weights_create(out));
        ok(mxc_weights_add(weights, c"w".as_ptr(), [1, 4, 3].as_ptr(), 3, values.as_ptr(), Some(released), user));
        let name = c"text.mlir".as_ptr();
        let model = made(|out| mxc_model_from_mlir(text.as_ptr().cast(), text.len(), name, weights, out));
        let mut changed = null_mut();
        let pipeline = c"canonicalize-graph,map-to-analog".as_ptr();
        let source = text.as_ptr().cast();
        let module = made(|out| {
            mxc_passes_run(source, text.len(), name, pipeline, weights, null(), null(), null(), 1, out, &mut changed)
        });
        let module = String::from_utf8(taken(module)).unwrap();
        assert!(module.contains("analog.fully_connected"), "{module}");
        assert!(taken(changed).len() > 48);
        let bytecode = made(|out| {
            mxc_passes_run(source, text.len(), name, pipeline, weights, null(), null(), null(), 2, out, null_mut())
        });
        assert!(taken(bytecode).starts_with(b"ML\xefR"));
        refused(
            mxc_passes_run(
                source,
                text.len(),
                name,
                c"fuse-all".as_ptr(),
                null(),
                null(),
                null(),
                null(),
                1,
                &mut changed,
                null_mut(),
            ),
            mxc_error_kind::MXC_ERROR_PASS,
            "fuse-all",
        );
        mxc_weights_destroy(weights);
        assert_eq!(count.load(Ordering::SeqCst), 1, "the model needs it");
        assert_eq!(run(model), expected);
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }
}

unsafe extern "C" fn stops(user: *mut c_void, progress: *const mxc_progress) -> bool {
    // SAFETY: the test gives a counter, the library what it tells.
    let (count, told) = unsafe { (&*user.cast::<AtomicUsize>(), &*progress) };
    // SAFETY: the name ends with zero.
    assert!(!unsafe { CStr::from_ptr(told.name) }.is_empty());
    count.fetch_add(1, Ordering::SeqCst) < 2
}

unsafe extern "C" fn notes(user: *mut c_void, _: mxc_severity, message: *const c_char) {
    // SAFETY: the test gives a list, the library text that ends with zero.
    unsafe { (*user.cast::<Vec<String>>()).push(CStr::from_ptr(message).to_str().unwrap().to_owned()) }
}

#[test]
fn calls_are_watched_and_cancelled() {
    let onnx = fs::read(model("resnet20")).unwrap();
    let model = from_onnx(&onnx, "resnet20.onnx", null(), null()).unwrap();
    let count = AtomicUsize::new(0);
    let user = std::ptr::from_ref(&count).cast_mut().cast::<c_void>();
    let given = options(&[("samples", "2")]);
    let mut to = null_mut();
    // SAFETY: handles of the library, callbacks with their own data.
    unsafe {
        let monitor = made(|out| mxc_monitor_create(Some(stops), None, user, out));
        let compile = |monitor, to| mxc_model_compile(model, null(), null(), given, monitor, to);
        refused(compile(monitor, &mut to), mxc_error_kind::MXC_ERROR_CANCELLED, "cancelled");
        assert!(to.is_null() && count.load(Ordering::SeqCst) == 3);
        refused(compile(monitor, &mut to), mxc_error_kind::MXC_ERROR_CANCELLED, "cancelled");
        assert_eq!(count.load(Ordering::SeqCst), 3);
        mxc_monitor_destroy(monitor);

        let mut said: Vec<String> = Vec::new();
        let user = std::ptr::from_mut(&mut said).cast();
        let monitor = made(|out| mxc_monitor_create(None, Some(notes), user, out));
        let compiled = made(|out| compile(monitor, out));
        assert!(said.iter().any(|note| note.starts_with("no data")), "{said:?}");
        let report: serde_json::Value =
            serde_json::from_slice(&taken(made(|out| mxc_compiled_report(compiled, out)))).unwrap();
        assert!(report["parameters"]["denoisers"].as_u64() > Some(0));
        ok(mxc_monitor_cancel(monitor));
        refused(compile(monitor, &mut to), mxc_error_kind::MXC_ERROR_CANCELLED, "cancelled");
        mxc_monitor_destroy(monitor);
        mxc_compiled_destroy(compiled);
        mxc_model_destroy(model);
        mxc_options_destroy(given);
    }
}

/// The C compiler, of an example against a library that is installed in `prefix`.
fn cc(folder: &Path, prefix: &Path, library: &str, example: &str) -> Command {
    let mut flags = Command::new("pkg-config");
    let flags = flags.args(["--cflags", "--libs", library]).env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
    let flags = succeed(flags);
    let mut command = Command::new("cc");
    command.current_dir(folder).args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1"]);
    command.arg(root().join(format!("examples/embed/c/{example}.c"))).args(["-o", example]);
    command.args(flags.split_whitespace());
    command
}

/// The example in C, built against the installed library, gives the program's bytes; of the checkout it needs nothing, and LLVM may be loaded beside it.
#[test]
fn the_examples_give_the_programs_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, prefix) = (folder.path(), folder.path().join("prefix"));
    succeed(Command::new(root().join("scripts/install-library.sh")).arg(library()).arg(&prefix));
    succeed(&mut cc(folder, &prefix, "mxc", "embed"));
    let data = small_fashion(folder, 600, 200);
    let mut embed = Command::new(folder.join("embed"));
    embed.current_dir(folder).env_clear().env("LD_LIBRARY_PATH", prefix.join("lib"));
    let printed = json(embed.arg(model("resnet20")).arg(&data).arg("c.mxa"));

    let flags = "--budget 4% --sigma 20% --mean 0.2860 --std 0.3530 --samples 64 -o model.mxa --data";
    succeed(program(folder).arg("compile").arg(model("resnet20")).args(flags.split(' ')).arg(&data));
    assert!(fs::read(folder.join("c.mxa")).unwrap() == fs::read(folder.join("model.mxa")).unwrap());
    let flags = "model.mxa --epochs 1 --limit 256 -o tuned.mxa --data";
    succeed(program(folder).arg("finetune").args(flags.split(' ')).arg(&data));
    let flags = "eval tuned.mxa --seeds 2 --limit 200 --json --data";
    assert_eq!(printed, json(program(folder).args(flags.split(' ')).arg(&data)));

    // CMake finds the library, too.
    if let Some(python) = onnxruntime() {
        let cmake = || Command::new(python.with_file_name("cmake"));
        let prefix = format!("-DCMAKE_PREFIX_PATH={}", prefix.display());
        succeed(
            cmake().arg("-S").arg(root().join("examples/embed/c")).args(["-B", "cmake", &prefix]).current_dir(folder),
        );
        succeed(cmake().args(["--build", "cmake"]).current_dir(folder));
        assert!(folder.join("cmake/embed").exists());
    }

    // So does the example in Rust.
    let denoised = rust::run(&model("resnet20"), &data, &folder.join("rust.mxa")).unwrap();
    assert_eq!(printed["denoised"]["top1"], denoised);
    assert!(fs::read(folder.join("rust.mxa")).unwrap() == fs::read(folder.join("model.mxa")).unwrap());

    // Debian's own LLVM and MLIR, in the same process and before it.
    let beside = "import ctypes, sys\n\
        llvm = [ctypes.CDLL(name, ctypes.RTLD_GLOBAL) for name in ('libLLVM.so.22.1', 'libMLIR.so.22.1')]\n\
        mxc = ctypes.CDLL(sys.argv[1])\n\
        model, compiled, data = (ctypes.c_void_p() for _ in range(3))\n\
        options = ctypes.c_void_p()\n\
        mxc.mxc_options_create(ctypes.byref(options))\n\
        mxc.mxc_options_set(options, b'emit', b'analog')\n\
        assert not mxc.mxc_model_from_file(sys.argv[2].encode(), None, None, ctypes.byref(model))\n\
        assert not mxc.mxc_model_compile(model, None, None, options, None, ctypes.byref(compiled))\n\
        mxc.mxc_compiled_destroy(compiled); mxc.mxc_model_destroy(model)\n\
        print('both')";
    let mut python = Command::new("python3");
    python.args(["-c", beside]).arg(prefix.join("lib/libmxc.so.0")).arg(model("resnet20"));
    python.env("LD_LIBRARY_PATH", "/usr/lib/llvm-22/lib");
    assert_eq!(succeed(&mut python), "both\n");
}

/// Telegraph noise, as `uniform` of the same words where `user` is null.
unsafe extern "C" fn telegraph(_: *mut c_void, words: *const u32, draws: *mut f32, count: usize) {
    for index in 0..count {
        // SAFETY: so many words lie there, and so many draws may be written.
        unsafe { *draws.add(index) = if *words.add(index) < 1 << 30 { 1.0 } else { 0.0 } }
    }
}

unsafe extern "C" fn twice(user: *mut c_void, layer: *const mxc_analog_layer, cost: *mut mxc_analog_cost) {
    // SAFETY: the test gives a counter, the library the layer and its cost.
    let (count, layer, cost) = unsafe { (&*user.cast::<AtomicUsize>(), &*layer, &mut *cost) };
    assert!(layer.tiles > 0 && layer.mvms > 0);
    count.fetch_add(1, Ordering::SeqCst);
    cost.picojoules *= 2.0;
}

unsafe extern "C" fn endless(_: *mut c_void, work: *const mxc_digital_work, cost: *mut mxc_digital_cost) {
    // SAFETY: the library gives the work and its cost.
    let (work, cost) = unsafe { (&*work, &mut *cost) };
    assert!(work.words > 0 || work.pixels > 0);
    cost.picojoules = f64::INFINITY;
}

#[test]
fn noise_and_costs_of_the_callers() {
    use mxc_error_kind::*;
    let onnx = fs::read(model("resnet20")).unwrap();
    let model = from_onnx(&onnx, "resnet20.onnx", null(), null()).unwrap();
    let mut to = null_mut();
    let count = AtomicUsize::new(0);
    let user = std::ptr::from_ref(&count).cast_mut().cast::<c_void>();
    // SAFETY: handles of the library, callbacks with their own data.
    unsafe {
        let name = c"capi_telegraph".as_ptr();
        let given = options(&[("samples", "2"), ("noise", "capi_telegraph(scale=6%)")]);
        let refusal = mxc_model_compile(model, null(), null(), given, null(), &mut to);
        refused(refusal, MXC_ERROR_OPTION, "capi_telegraph");
        refused(
            mxc_noise_register(name, 0.0, 1.0, 1, Some(telegraph), null_mut()),
            MXC_ERROR_OPTION,
            "says a mean of 0",
        );
        ok(mxc_noise_register(name, 0.25, 0.1875, 1, Some(telegraph), null_mut()));
        refused(
            mxc_noise_register(name, 0.25, 0.1875, 1, Some(telegraph), null_mut()),
            MXC_ERROR_OPTION,
            "capi_telegraph",
        );
        refused(mxc_noise_register(name, 0.0, 1.0, 1, None, null_mut()), MXC_ERROR_ARGUMENT, "null");
        let compiled = made(|out| mxc_model_compile(model, null(), null(), given, null(), out));
        let package = made(|out| mxc_compiled_package(compiled, out));
        assert!(
            String::from_utf8(taken(made(|out| mxc_package_ir(package, out))))
                .unwrap()
                .contains("capi_telegraph(scale=6%)")
        );

        let report = |costs| -> serde_json::Value {
            let bytes = taken(made(|out| mxc_package_report(package, costs, null(), null(), out)));
            serde_json::from_slice(&bytes).unwrap()
        };
        let own = report(null());
        let costs = made(|out| mxc_costs_create(c"twice".as_ptr(), Some(twice), None, user, out));
        let doubled = report(costs);
        let energy = |report: &serde_json::Value| report["analog"]["nanojoules"].as_f64().unwrap();
        assert!((energy(&doubled) / energy(&own) - 2.0).abs() < 1e-9);
        assert_eq!(count.load(Ordering::SeqCst), own["analog"]["layers"].as_array().unwrap().len());
        assert!(own["denoisers"] == doubled["denoisers"]);
        mxc_costs_destroy(costs);
        let costs = made(|out| mxc_costs_create(c"endless".as_ptr(), None, Some(endless), null_mut(), out));
        let mut to = null_mut();
        let refusal = mxc_package_report(package, costs, null(), null(), &mut to);
        refused(refusal, MXC_ERROR_HARDWARE, "the cost model `endless` says inf pJ");
        mxc_costs_destroy(costs);
        mxc_package_destroy(package);
        mxc_compiled_destroy(compiled);
        mxc_model_destroy(model);
        mxc_options_destroy(given);
    }
}
