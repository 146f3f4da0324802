//! Lets the binaries find oneDNN in any environment.

fn main() {
    if let Ok(lib) = std::env::var("DEP_DNNL_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
