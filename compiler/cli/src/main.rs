//! The `mxc` program.

fn main() -> std::process::ExitCode {
    mxc_cli::main()
}
