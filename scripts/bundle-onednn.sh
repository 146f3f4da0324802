#!/usr/bin/env bash
# Copies the oneDNN that a built program or library of mxc is linked with to PREFIX/lib/mxc, where the installed one looks for it, and says which file
# that was; a system's own stays where it is. The installed one looks for it no longer where it was built.
#
#     scripts/bundle-onednn.sh target/release/mxc /usr/local/bin/mxc /usr/local
set -euo pipefail
if [ $# -ne 3 ]; then
  echo "usage: scripts/bundle-onednn.sh BUILT INSTALLED PREFIX" >&2
  exit 2
fi
library=$(ldd "$1" | awk '$1 ~ /^libdnnl\.so/ { print $3 }')
case $library in
  "" | /lib/* | /usr/lib/*) exit 0 ;;
esac
# The run path is `$ORIGIN…:FOLDER:…`, in place and of the same length.
FOLDER=$(dirname "$library") perl -0777 -pi -e \
  's{(\$ORIGIN[^:\0]*):\Q$ENV{FOLDER}\E((?::[^\0]*)?)(?=\0)}{$1 . $2 . "\0" x (1 + length $ENV{FOLDER})}ge' "$2"
install -D -m 644 "$library" "$3/lib/mxc/$(basename "$library")"
echo "$library"
