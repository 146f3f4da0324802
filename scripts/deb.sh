#!/usr/bin/env bash
# Packs a built mxc as mxc_VERSION-1_ARCH.deb into FOLDER, byte-equal whenever it is done from the same program and commit. Further
# arguments go to dpkg-deb. Prints the package's path. It can be installed where Debian's or Ubuntu's C and C++ libraries are not older
# than the machine's that mxc was built on.
#
#     scripts/deb.sh target/release/mxc target
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: scripts/deb.sh PROGRAM FOLDER [DPKG-DEB OPTION]…" >&2
  exit 2
fi
program=$1 folder=$2
shift 2
checkout=$(cd "$(dirname "$0")/.." && pwd)
for tool in dpkg-deb dpkg-shlibdeps; do
  command -v "$tool" >/dev/null || { echo "deb: no $tool: apt-get install dpkg-dev" >&2; exit 1; }
done

# No file is newer than the commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$checkout" log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
stage=$work/debian/mxc usr=$work/debian/mxc/usr docs=$work/debian/mxc/usr/share/doc/mxc
version=$("$program" --version | cut -d' ' -f2)-1
maintainer="${DEBFULLNAME:-mxc maintainers} <${DEBEMAIL:-maintainers@users.noreply.github.com}>"
architecture=$(dpkg --print-architecture)

"$checkout/scripts/install.sh" "$program" "$usr"
mapfile -t libraries < <(find "$usr" -name '*.so*' -type f | sort)
strip --strip-unneeded --remove-section=.comment --remove-section=.note "$usr/bin/mxc" "${libraries[@]}"
# Debian's places and forms.
mv "$usr/share/zsh/site-functions" "$usr/share/zsh/vendor-completions"
rm "$docs/LICENSE" # base-files has it
cp "$checkout/CHANGELOG.md" "$docs/changelog"
cat >"$docs/changelog.Debian" <<CHANGES
mxc ($version) unstable; urgency=medium

  * See changelog.gz.

 -- $maintainer  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
CHANGES
gzip -9 -n "$docs"/changelog* "$docs/THIRD-PARTY-LICENSES" "$usr"/share/man/man1/*

mkdir "$stage/DEBIAN"
cat >"$work/debian/control" <<CONTROL
Source: mxc

Package: mxc
Architecture: $architecture
CONTROL
# That no package has the oneDNN which is installed beside the program is as it should be.
depends=$(cd "$work" && dpkg-shlibdeps -O --ignore-missing-info --warnings=1 -e"$usr/bin/mxc" "${libraries[@]/#/-e}" |
  sed -n 's/^shlibs:Depends=//p')
cat >"$stage/DEBIAN/control" <<CONTROL
Package: mxc
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(du -k -s --apparent-size "$usr" | cut -f1)
Depends: $depends
Section: science
Priority: optional
Description: compiler and simulator for noisy analog accelerators
 mxc takes a trained neural network in ONNX or TOSA, marks the matrix-vector
 products that run on analog tiles, inserts denoising blocks where their noise
 hurts most, trains only those and evaluates the network under noise.
CONTROL
(cd "$stage" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
# --root-owner-group and SOURCE_DATE_EPOCH settle owners and times in the archive.
mkdir -p "$folder"
dpkg-deb --root-owner-group "$@" --build "$stage" "$folder/mxc_${version}_$architecture.deb" >&2
echo "$folder/mxc_${version}_$architecture.deb"
