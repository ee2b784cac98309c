#!/usr/bin/env bash
# Runs the fuzz targets one after the other, or one of them, for so many seconds each; prints what was reached.
#
#   .ci/fuzz-run.sh [SECONDS] [importer|text|plan]
#
#   PARTITA_FUZZ=DIR     where corpora, findings and logs are kept (default: tests/fuzz)
#   PARTITA_SHARED=DIR   where the conformance suite lies (default: ../shared); its small models are seeds
#
# Needs cargo-fuzz (`cargo install cargo-fuzz`), but no nightly toolchain: the code is safe Rust, so what sanitizers find
# is not looked for. A finding is a file in DIR/artifacts/TARGET; `cargo fuzz tmin` makes it small, and then it goes to
# tests/fuzz/regressions/TARGET.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly RUN_SECONDS="${1:-1800}"
readonly SHARED="${PARTITA_SHARED:-$PWD/../shared}"
readonly ROOT="${PARTITA_FUZZ:-$PWD/tests/fuzz}"
readonly MAX_INPUT_BYTES=8192
targets=(importer text plan)
if (($# > 1)); then targets=("${@:2}"); fi

# Models of the suite where it is there; the program makes others itself.
seeds() {
    local scratch
    scratch="$(mktemp -d)"
    if [[ -f "$SHARED/conformance/suite.tar.xz" ]]; then
        tar -xJf "$SHARED/conformance/suite.tar.xz" -C "$scratch" --wildcards '*/model.onnx'
    fi
    cargo run -q --manifest-path tests/fuzz/Cargo.toml --no-default-features --example seeds -- "$ROOT/corpus" "$scratch"
    rm -rf "$scratch"
}

fuzz() {
    mkdir -p "$ROOT/corpus/$1" "$ROOT/artifacts/$1"
    cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none "$1" "$ROOT/corpus/$1" -- \
        -fork=1 -ignore_crashes=1 -ignore_ooms=1 -ignore_timeouts=1 -rss_limit_mb=2048 -timeout=10 \
        -max_len="$MAX_INPUT_BYTES" -max_total_time="$RUN_SECONDS" \
        -dict="tests/fuzz/dictionaries/$1.dict" -artifact_prefix="$ROOT/artifacts/$1/" >"$ROOT/$1.log" 2>&1 || true
    printf '%s: %s\n' "$1" "$(grep '^#' "$ROOT/$1.log" | tail -n 1)"
}

seeds
for target in "${targets[@]}"; do fuzz "$target"; done
findings="$(find "$ROOT/artifacts" -type f | wc -l)"
printf '%s findings\n' "$findings"
((findings == 0))
