#!/usr/bin/env bash
# Builds the Python wheel into a folder: the C library with oneDNN and libgomp inside, and the licences of all of it. Needs a Python that has what
# tests/requirements.txt lists.
#
#     scripts/wheel.sh tests/.venv/bin/python target/wheels [PROFILE]
set -euo pipefail
if [ $# -lt 2 ] || [ $# -gt 3 ]; then
  echo "usage: scripts/wheel.sh PYTHON FOLDER [PROFILE]" >&2
  exit 2
fi
profile=${3:-release}
checkout=$(cd "$(dirname "$0")/.." && pwd)
python=$(realpath -s "$1")
mkdir -p "$2"
folder=$(realpath "$2")
export PATH="$(dirname "$python"):$PATH"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$checkout"
# maturin changes the library in place where cargo has put it: an earlier build's is linked anew.
target=${CARGO_TARGET_DIR:-target}
rm -rf "$target/maturin" "$target"/*/deps/libmxc_c.so
maturin build --quiet --profile "$profile" --locked --strip --interpreter "$python" -o "$work/built"
cd "$work"
"$python" -m wheel unpack -d unpacked built/*.whl >/dev/null
licences=$(echo unpacked/*/*.dist-info)/licenses
onednn=$(find unpacked -name 'libdnnl*' | head -n 1)
LD_LIBRARY_PATH=$(dirname "${onednn:-.}") "$checkout/scripts/sbom.py" mxc-capi bill ${onednn:+"$onednn"}
cp bill/THIRD-PARTY-LICENSES "$licences"
# GCC's runtime, under the GPL with the exception for libraries.
cp /usr/share/doc/libgomp1/copyright "$licences/libgomp-copyright"
rm -f unpacked/*/*.dist-info/sboms/*
cp bill/mxc.cdx.json "$(echo unpacked/*/*.dist-info)/sboms/"
mkdir packed
"$python" -m wheel pack -d packed unpacked/* >/dev/null
rm -f "$folder"/mxc-*.whl
mv packed/*.whl "$folder"
ls "$folder"/mxc-*.whl
