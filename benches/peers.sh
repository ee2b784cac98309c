#!/usr/bin/env bash
# The comparison with other engines from a fresh checkout: builds, installs the engines' packages into .venv, makes the
# models, runs, and leaves the README's table in target/peers.md.
#
#   benches/peers.sh [DIR] [OPTIONS]      DIR holds <model>/model.onnx, inputs/, outputs/; OPTIONS go to peers.py
#
# Without DIR the models are made by models/make_models.py of PARTITA_SHARED (default: ../shared) into target/models.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
shared="${PARTITA_SHARED:-../shared}"

models=target/models
if [[ $# -gt 0 && $1 != -* ]]; then
    models="$1"
    shift
fi
[[ -x .venv/bin/python ]] || python3 -m venv .venv
.venv/bin/pip install --quiet -r .ci/requirements.txt openvino
cargo build --release
if [[ ! -d $models ]]; then
    [[ -f $shared/models/make_models.py ]] || { echo "name a folder of models: benches/peers.sh DIR" >&2; exit 2; }
    .venv/bin/python "$shared/models/make_models.py" --out "$models"
fi
exec .venv/bin/python benches/peers.py --models-dir "$models" --summary target/peers.md "$@"
