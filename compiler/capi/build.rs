//! Names the library, and lets it find oneDNN: beside it where it is installed, else where it was built.

fn main() {
    let name = match std::env::var_os("CARGO_FEATURE_COMPILER") {
        Some(_) => "libmxc.so.0",
        None => "libmxc_runtime.so.0",
    };
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,{name}");
    // C++ libraries that are linked statically keep to themselves, whatever a linker script says of them.
    println!("cargo:rustc-cdylib-link-arg=-Wl,--exclude-libs=ALL");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-rpath,$ORIGIN/mxc");
    if let Ok(lib) = std::env::var("DEP_DNNL_LIB") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-rpath,{lib}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
