//! Compiles the shim, and lets the plugin find oneDNN: beside itself where it is installed, else where it was built with.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/shim.cpp");
    println!("cargo:rerun-if-env-changed=MLIR_SYS_220_PREFIX");
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN");
    if let Ok(lib) = env::var("DEP_DNNL_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    // The LLVM that mlir-sys takes.
    let prefix = env::var_os("MLIR_SYS_220_PREFIX").map(|prefix| PathBuf::from(prefix).join("bin")).unwrap_or_default();
    let config = prefix.join("llvm-config");
    let output = Command::new(&config).arg("--includedir").output();
    let headers = output.unwrap_or_else(|error| panic!("{}: {error}", config.display())).stdout;
    let headers = String::from_utf8(headers).expect("llvm-config prints text");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("src/shim.cpp")
        // Not the headers' warnings.
        .flag("-isystem")
        .flag(headers.trim())
        // As Debian builds LLVM; a class would differ else.
        .flag("-fno-rtti")
        .flag("-fno-exceptions")
        .define("NDEBUG", None)
        .opt_level(2)
        .compile("mxc_plugin_shim");
}
