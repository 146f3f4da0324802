#!/usr/bin/env bash
# Installs a built mxc: the program, its manual pages, completions of bash, zsh and fish, what it contains under which licences, and
# oneDNN beside it unless it is the system's. What it needs else of a system is the C and C++ libraries and libgomp. With a PLUGIN (make plugin),
# that and the dialects' file for mlir-opt, too.
#
#     scripts/install.sh target/release/mxc /usr/local [PLUGIN]
set -euo pipefail
if [ $# -lt 2 ] || [ $# -gt 3 ]; then
  echo "usage: scripts/install.sh PROGRAM PREFIX [PLUGIN]" >&2
  exit 2
fi
program=$1 prefix=$2 plugin=${3:-}
checkout=$(cd "$(dirname "$0")/.." && pwd)

install -D -m 755 "$program" "$prefix/bin/mxc"
library=$("$checkout/scripts/bundle-onednn.sh" "$program" "$prefix/bin/mxc" "$prefix")
if [ -n "$plugin" ]; then
  install -D -m 644 "$plugin" "$prefix/lib/mxc/libmxc_passes.so"
  "$checkout/scripts/bundle-onednn.sh" "$plugin" "$prefix/lib/mxc/libmxc_passes.so" "$prefix" >/dev/null
  "$program" opt --show-irdl >"$prefix/lib/mxc/mxc.irdl.mlir"
fi
"$program" man "$prefix/share/man/man1"
put() { # SHELL FILE
  install -d "$(dirname "$prefix/share/$2")"
  "$program" completions "$1" >"$prefix/share/$2"
}
put bash bash-completion/completions/mxc
put zsh zsh/site-functions/_mxc
put fish fish/vendor_completions.d/mxc.fish
install -D -m 644 "$checkout/LICENSE" "$prefix/share/doc/mxc/LICENSE"
"$checkout/scripts/sbom.py" mxc-cli "$prefix/share/doc/mxc" ${library:+"$library"}
