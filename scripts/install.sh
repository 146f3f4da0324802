#!/usr/bin/env bash
# Installs a built mxc: the program, its manual pages, completions of bash, zsh and fish, what it contains under which licences, and
# oneDNN beside it unless it is the system's. What it needs else of a system is the C and C++ libraries and libgomp.
#
#     scripts/install.sh target/release/mxc /usr/local
set -euo pipefail
if [ $# -ne 2 ]; then
  echo "usage: scripts/install.sh PROGRAM PREFIX" >&2
  exit 2
fi
program=$1 prefix=$2
checkout=$(cd "$(dirname "$0")/.." && pwd)

install -D -m 755 "$program" "$prefix/bin/mxc"
library=$("$checkout/scripts/bundle-onednn.sh" "$program" "$prefix/bin/mxc" "$prefix")
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
