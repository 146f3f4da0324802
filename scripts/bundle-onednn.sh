#!/usr/bin/env bash
# Copies the oneDNN that a program or library of mxc is linked with to PREFIX/lib/mxc, where an installed one looks for it, with its licences;
# a system's own stays where it is.
#
#     scripts/bundle-onednn.sh target/release/mxc /usr/local
set -euo pipefail
if [ $# -ne 2 ]; then
  echo "usage: scripts/bundle-onednn.sh FILE PREFIX" >&2
  exit 2
fi
checkout=$(cd "$(dirname "$0")/.." && pwd)
library=$(ldd "$1" | awk '$1 ~ /^libdnnl\.so/ { print $3 }')
case $library in
  "" | /lib/* | /usr/lib/*) exit 0 ;;
esac
install -D -m 644 "$library" "$2/lib/mxc/$(basename "$library")"
for file in LICENSE THIRD-PARTY-PROGRAMS; do
  notice=$checkout/third_party/onednn/share/doc/onednn/$file
  if [ -f "$notice" ]; then install -D -m 644 "$notice" "$2/share/doc/mxc/oneDNN-$file"; fi
done
