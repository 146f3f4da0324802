#!/usr/bin/env bash
# Makes the C library to link statically of what `cargo rustc -p mxc-capi --release --crate-type staticlib` builds. That holds all of MLIR, and its names would
# meet those of whoever links it. Here it becomes one object of what the functions of mxc.h reach, LLVM included, in which no other name is seen: it
# may be linked beside another LLVM, or another library written in Rust.
#
#     scripts/static-library.sh target/release/libmxc_c.a libmxc.a
set -euo pipefail
if [ $# -ne 2 ]; then
  echo "usage: scripts/static-library.sh BUILT OUTPUT" >&2
  exit 2
fi
built=$1 output=$2
scripts=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Those of the list that this build has: without the compiler it has fewer.
nm --defined-only --format=posix "$built" 2>/dev/null | awk '$2 == "T" { print $1 }' | sort >"$work/built"
grep -v '^#' "$scripts/../compiler/capi/symbols.txt" | sort | comm -12 - "$work/built" >"$work/symbols"
[ -s "$work/symbols" ] || { echo "static-library: $built has no function of mxc.h" >&2; exit 1; }
sed 's/^/--undefined=/' "$work/symbols" >"$work/roots"
# Every function lies in a section of its own: what is not reached goes, then they are joined, as their headers alone are tens of megabytes. Bitcode
# is what Rust's own library carries for link-time optimization.
cat >"$work/joined.ld" <<'LD'
SECTIONS
{
  .text 0 : { *(.text .text.*) }
  .rodata 0 : { *(.rodata .rodata.*) }
  .data.rel.ro 0 : { *(.data.rel.ro .data.rel.ro.*) }
  .data 0 : { *(.data .data.*) }
  .bss 0 : { *(.bss .bss.*) *(COMMON) }
  .tdata 0 : { *(.tdata .tdata.*) }
  .tbss 0 : { *(.tbss .tbss.*) }
  .gcc_except_table 0 : { *(.gcc_except_table .gcc_except_table.*) }
  .eh_frame 0 : { KEEP(*(.eh_frame)) }
  /DISCARD/ : { *(.llvmbc .llvmcmd .llvm_addrsig .comment .debug_*) }
}
LD
# Groups are resolved here: one of the same name elsewhere would throw out ours, to which nothing else refers any more.
# shellcheck disable=SC2046 # one word a file
ld.bfd -r --gc-sections --force-group-allocation -T "$work/joined.ld" "@$work/roots" \
  --start-group "$built" $("$scripts/llvm-config.sh" --link-static --libfiles) --end-group -o "$work/mxc.o"
objcopy --keep-global-symbols="$work/symbols" --strip-unneeded "$work/mxc.o"
rm -f "$output"
ar rcsD "$output" "$work/mxc.o"
