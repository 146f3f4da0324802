//! The `mxc` program.

fn main() -> std::process::ExitCode {
    mxc_compiler::cli::main()
}
