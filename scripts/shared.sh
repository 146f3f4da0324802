#!/usr/bin/env bash
# `cargo rustc --release` with MLIR and LLVM as the system's shared libraries instead of linked in, in a target folder of its own, since
# mlir-sys builds for one or the other:
#
#     scripts/shared.sh -p mxc-cli --bin mxc --
#     scripts/shared.sh -p mxc-plugin --crate-type cdylib -- -C strip=symbols
#
# The result finds the libraries in LLVM's folder. Debian has no shared library of MLIR's C API, which mlir-sys asks for as MLIR-C; its
# archives are small and call libMLIR.so, so a linker script of that name stands for them.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}/shared
libraries=$("$root/scripts/llvm-config.sh" --libdir)
[ -e "$libraries/libMLIR.so" ] || { echo "shared: no $libraries/libMLIR.so (package libmlir-22-dev)" >&2; exit 1; }

# RegisterEverything would want all of MLIR, ExecutionEngine the JIT.
mkdir -p "$target/lib"
for archive in "$libraries"/libMLIRCAPI*.a; do
  case $archive in
    *RegisterEverything.a | *ExecutionEngine.a) ;;
    *) echo "INPUT($archive)" ;;
  esac
done >"$target/lib/libMLIR-C.so"

cd "$root"
MLIR_SYS_LINK_SHARED=1 LIBRARY_PATH=$target/lib${LIBRARY_PATH:+:$LIBRARY_PATH} CARGO_TARGET_DIR=$target \
  exec cargo rustc --release --locked "$@" -C link-arg=-Wl,-rpath,"$libraries"
