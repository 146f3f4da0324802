#!/bin/sh
# rustdoc with unstable options, for tests/release.rs: the variable is set for it alone, since build scripts that see it run again.
RUSTC_BOOTSTRAP=1 exec rustdoc "$@"
