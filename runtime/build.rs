//! Finds oneDNN ≥ 3: `DNNL_ROOT`, else the checkout's `third_party/onednn` (filled by `scripts/setup.sh`), else the
//! system's. Dependents read the folder for their rpath from `DEP_DNNL_LIB`.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=DNNL_ROOT");
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let bundled = manifest.join("../third_party/onednn");
    let root = match env::var_os("DNNL_ROOT") {
        Some(root) => Some(PathBuf::from(root)),
        None if bundled.join("lib/libdnnl.so").exists() => bundled.canonicalize().ok(),
        None => None,
    };
    if let Some(root) = root {
        let lib = root.join("lib");
        println!("cargo:rustc-link-search=native={}", lib.display());
        println!("cargo:lib={}", lib.display());
        // For this crate's own tests, examples and benchmarks.
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    }
    println!("cargo:rustc-link-lib=dylib=dnnl");
    println!("cargo:rustc-link-lib=dylib=gomp");
    println!("cargo:rerun-if-changed=build.rs");
}
