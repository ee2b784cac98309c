#!/usr/bin/env bash
# Checks that the fuzz targets compile, without the fuzzer's instrumentation: that needs no more than cargo and a C++
# compiler. The inputs that once failed run with the tests (`tests/regressions.rs`).
#
#   .ci/fuzz-build.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The versions of the workspace, as far as they go.
cp Cargo.lock tests/fuzz/Cargo.lock
RUSTFLAGS="${RUSTFLAGS:-} --cfg fuzzing" cargo check --manifest-path tests/fuzz/Cargo.toml --all-targets
