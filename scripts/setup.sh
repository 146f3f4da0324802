#!/usr/bin/env bash
# Sets up what a fresh Debian 12/13 machine lacks to build and test mxc: a C++ compiler, LLVM/MLIR 22, clang, lld, Fashion-MNIST, oneDNN 3.
# With --mpi also Open MPI. Runs as root or as a user with sudo; installs nothing that is already there. Each thing that cannot be had is one line.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
packages=(g++ pkg-config dpkg-dev procps llvm-22-dev libmlir-22-dev mlir-22-tools libclang-22-dev clang-22 libpolly-22-dev lld-22 libzstd-dev zlib1g-dev
  libxml2-dev libffi-dev libedit-dev libncurses-dev libgomp1 unzip dataset-fashion-mnist ca-certificates curl python3 python3-venv)

case ${1:-} in
  --mpi) packages+=(libopenmpi-dev openmpi-bin) ;;
  '') ;;
  *) echo "usage: scripts/setup.sh [--mpi]" >&2; exit 2 ;;
esac

fail() { echo "setup: $*" >&2; exit 1; }

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || fail "install by hand (no apt-get here): ${missing[*]}"
  sudo=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || fail "not root and no sudo: as root run: apt-get install ${missing[*]}"
    sudo=(sudo)
  fi
  echo "setup: installing ${missing[*]}"
  "${sudo[@]}" apt-get update -qq || fail "apt-get update failed; needed: ${missing[*]}"
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
    >/dev/null || fail "apt-get could not install: ${missing[*]}"
fi

command -v cargo >/dev/null || fail "no cargo on PATH: install Rust with rustup (https://rustup.rs)"

# oneDNN: DNNL_ROOT, else a system libdnnl 3, else the pinned PyPI wheels, unpacked into third_party/onednn.
onednn="$root/third_party/onednn"
system_onednn() {
  local header
  for header in /usr/include/oneapi/dnnl/dnnl_version.h /usr/include/*/oneapi/dnnl/dnnl_version.h; do
    if [ -f "$header" ] && grep -qE 'DNNL_VERSION_MAJOR +3' "$header"; then return 0; fi
  done
  return 1
}
if [ -z "${DNNL_ROOT:-}" ] && ! system_onednn && [ ! -f "$onednn/lib/libdnnl.so.3" ]; then
  echo "setup: fetching oneDNN 3.2 (PyPI wheels) into third_party/onednn"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  cat >"$work/requirements.txt" <<'REQ'
onednn-cpu-gomp==2023.2.0 --hash=sha256:2f22a54d6a890ed14bfa185d42a4be65d8b5b1df85dc1f0f3a9abe31620416fb
onednn-devel-cpu-gomp==2023.2.0 --hash=sha256:9763c69e8c907e119056bd52ad918ca84ac9ba939d130a99dfa95ccca3e5e284
REQ
  python3 -m venv "$work/venv" >/dev/null || fail "python3 -m venv failed (package python3-venv)"
  "$work/venv/bin/pip" download -q --disable-pip-version-check --no-deps --require-hashes -d "$work" -r "$work/requirements.txt" ||
    fail "could not fetch oneDNN 2023.2.0 from PyPI; set DNNL_ROOT to an installed oneDNN 3"
  for wheel in "$work"/*.whl; do unzip -q -o "$wheel" -d "$work/unpacked"; done
  rm -rf "$onednn.new" && mkdir -p "$onednn.new/lib" "$onednn.new/share"
  cp -r "$work"/unpacked/onednn_devel_cpu_gomp-*.data/data/include "$onednn.new/"
  cp "$work"/unpacked/onednn_cpu_gomp-*.data/data/lib/libdnnl.so.3 "$onednn.new/lib/"
  ln -s libdnnl.so.3 "$onednn.new/lib/libdnnl.so"
  cp -r "$work"/unpacked/onednn_cpu_gomp-*.data/data/share/doc "$onednn.new/share/"
  rm -rf "$onednn" && mkdir -p "$root/third_party" && mv "$onednn.new" "$onednn"
fi
