#!/usr/bin/env bash
# Installs a built C library of mxc, libmxc_c.so, under the name that it gives itself: libmxc, or libmxc_runtime where it is built without the compiler. With it
# its header, what pkg-config and CMake look for, licences, and oneDNN beside it unless it is the system's. With an ARCHIVE, libmxc_c.a, also the
# library to link statically.
#
#     scripts/install-library.sh target/release/libmxc_c.so /usr/local [ARCHIVE]
set -euo pipefail
if [ $# -lt 2 ] || [ $# -gt 3 ]; then
  echo "usage: scripts/install-library.sh LIBRARY PREFIX [ARCHIVE]" >&2
  exit 2
fi
library=$1 prefix=$2 archive=${3:-}
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
# What it is linked with, by file, as not each of them has a name for the linker.
libraries=$(readelf -d "$library" | sed -n '/libc\.so\|ld-linux/d; s/.*(NEEDED).*\[\(.*\)\]/-l:\1/p' | tr '\n' ' ')
fill() { # TEMPLATE TARGET
  install -d "$(dirname "$prefix/$2")"
  sed -e "s/@NAME@/$name/g; s/@SONAME@/$soname/g; s/@VERSION@/$version/g; s/@DEFINE@/$define/g; s/@CFLAGS@/${define:+-D$define}/g" \
    -e "s/@LIBRARIES@/$libraries/g" "$sources/$1" >"$prefix/$2"
}
fill mxc.pc.in "lib/pkgconfig/$name.pc"
fill mxcConfig.cmake.in "lib/cmake/$name/${name}Config.cmake"
fill mxcConfigVersion.cmake.in "lib/cmake/$name/${name}ConfigVersion.cmake"
if [ -n "$archive" ]; then
  "$checkout/scripts/static-library.sh" "$archive" "$prefix/lib/lib$name.a"
  fill mxc-static.pc.in "lib/pkgconfig/$name-static.pc"
fi
install -D -m 644 "$checkout/LICENSE" "$prefix/share/doc/lib$name/LICENSE"
onednn=$("$checkout/scripts/bundle-onednn.sh" "$library" "$prefix/lib/$soname" "$prefix")
"$checkout/scripts/sbom.py" "mxc-capi$flags" "$prefix/share/doc/lib$name" ${onednn:+"$onednn"}
