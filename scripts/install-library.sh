#!/usr/bin/env bash
# Installs a built C library of mxc, libmxc_c.so, under the name that it gives itself: libmxc, or libmxc_runtime where it is built without the compiler. With it
# its header, what pkg-config and CMake look for, licences, and oneDNN beside it unless it is the system's.
#
#     scripts/install-library.sh target/release/libmxc_c.so /usr/local
set -euo pipefail
if [ $# -ne 2 ]; then
  echo "usage: scripts/install-library.sh LIBRARY PREFIX" >&2
  exit 2
fi
library=$1 prefix=$2
checkout=$(cd "$(dirname "$0")/.." && pwd)
sources=$checkout/compiler/capi
soname=$(readelf -d "$library" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
name=${soname#lib} name=${name%%.so*}
version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' "$checkout/Cargo.toml")

install -D -m 644 "$library" "$prefix/lib/$soname"
strip --strip-unneeded "$prefix/lib/$soname"
ln -sf "$soname" "$prefix/lib/lib$name.so"
install -D -m 644 "$sources/include/mxc.h" "$prefix/include/mxc.h"
case $name in
  mxc_runtime) define=MXC_RUNTIME_ONLY flags=" --no-default-features" ;;
  *) define= flags= ;;
esac
fill() { # TEMPLATE TARGET
  install -d "$(dirname "$prefix/$2")"
  sed -e "s/@NAME@/$name/g; s/@SONAME@/$soname/g; s/@VERSION@/$version/g; s/@DEFINE@/$define/g; s/@CFLAGS@/${define:+-D$define}/g" \
    "$sources/$1" >"$prefix/$2"
}
fill mxc.pc.in "lib/pkgconfig/$name.pc"
fill mxcConfig.cmake.in "lib/cmake/$name/${name}Config.cmake"
fill mxcConfigVersion.cmake.in "lib/cmake/$name/${name}ConfigVersion.cmake"
install -D -m 644 "$checkout/LICENSE" "$prefix/share/doc/lib$name/LICENSE"
onednn=$("$checkout/scripts/bundle-onednn.sh" "$library" "$prefix/lib/$soname" "$prefix")
"$checkout/scripts/sbom.py" "mxc-capi$flags" "$prefix/share/doc/lib$name" ${onednn:+"$onednn"}
