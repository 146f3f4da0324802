#!/usr/bin/env bash
# Asks the `llvm-config` of the LLVM that mxc is built with:
#
#     scripts/llvm-config.sh --libdir
set -euo pipefail
config=$(dirname "$0")/../.cargo/config.toml
exec "${MLIR_SYS_220_PREFIX:-$(sed -n 's/^MLIR_SYS_220_PREFIX.*"\(.*\)".*/\1/p' "$config")}/bin/llvm-config" "$@"
