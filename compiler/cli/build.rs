//! Lets the binaries find oneDNN in any environment.

fn main() {
    // Where scripts/install.sh puts it beside an installed one, first.
    println!("cargo:rustc-link-arg-bins=-Wl,-rpath,$ORIGIN/../lib/mxc");
    if let Ok(lib) = std::env::var("DEP_DNNL_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
