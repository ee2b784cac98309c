"""Compares models with what the exporter makes of them, in another engine.

    python tests/oracle/check_export.py --reexport target/debug/examples/reexport MODEL...
    python tests/oracle/check_export.py --optimize target/debug/partita MODEL...

Each MODEL is an .onnx file. It is read and written again by the example
`reexport`, or by `partita optimize` with everything the optimizer does, checked by `onnx.checker` with shape inference, and run by ONNX
Runtime beside the original on the same inputs: `inputs/<name>.npy` beside the
model where they exist, else random ones. Symbolic dimensions get the sizes of
`--dim NAME=N`, else 2, 3, 4, ... in order of appearance. `--external` has the weights written
to a file of their own. Ends with 1 when a model fails.

Needs numpy, onnx and onnxruntime.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

MAX_RELATIVE_ERROR = 1e-4
NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def session(path):
    """The model in ONNX Runtime, without optimisations that would hide what the file says."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds_for(engine, folder, dims, generator):
    """A value for every input."""
    feeds = {}
    for value in engine.get_inputs():
        stored = folder / "inputs" / f"{value.name}.npy"
        if stored.exists():
            feeds[value.name] = np.load(stored)
            continue
        shape = [d if isinstance(d, int) else dims.setdefault(d, 2 + len(dims)) for d in value.shape]
        dtype = NUMPY_TYPES[value.type]
        if np.issubdtype(dtype, np.floating):
            feeds[value.name] = generator.standard_normal(shape).astype(dtype)
        else:
            feeds[value.name] = generator.integers(0, 2, shape).astype(dtype)
    return feeds


def relative_error(have, want):
    """The largest difference relative to the largest value."""
    if have.shape != want.shape or have.dtype != want.dtype:
        return np.inf
    if want.size == 0:
        return 0.0
    have, want = have.astype(np.float64), want.astype(np.float64)
    same = np.array_equal(np.isfinite(have), np.isfinite(want))
    finite = np.isfinite(want)
    if not same:
        return np.inf
    scale = max(np.abs(want[finite]).max(initial=0.0), 1e-12)
    return float(np.abs(have[finite] - want[finite]).max(initial=0.0) / scale)


def check(model, args, folder):
    """The largest error of any output, after both checks."""
    copy = folder / "copy.onnx"
    if args.optimize:
        command = [args.optimize, "optimize", str(model), "--output", str(copy)]
    else:
        command = [args.reexport, str(model), str(copy)] + ["--external"] * args.external
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    onnx.checker.check_model(str(copy), full_check=True)
    before, after = session(model), session(copy)
    sizes = dict(d.split("=") for d in args.dim)
    dims = {name: int(size) for name, size in sizes.items()}
    feeds = feeds_for(before, model.parent, dims, np.random.default_rng(0))
    taken = {value.name for value in after.get_inputs()}
    want = before.run(None, feeds)
    have = after.run(None, {name: value for name, value in feeds.items() if name in taken})
    names = [v.name for v in before.get_outputs()]
    if names != [v.name for v in after.get_outputs()]:
        raise RuntimeError(f"outputs are called {names} before and differently after")
    nodes = len(onnx.load(str(copy), load_external_data=False).graph.node)
    return max(relative_error(h, w) for h, w in zip(have, want)), nodes


def main():
    """Checks every model given; prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reexport", default="target/debug/examples/reexport")
    parser.add_argument("--optimize", metavar="PARTITA", help="the program whose `optimize` is used instead")
    parser.add_argument("--dim", action="append", default=[], help="NAME=N")
    parser.add_argument("--external", action="store_true")
    parser.add_argument("models", nargs="+", type=Path)
    args = parser.parse_args()
    failed = 0
    for model in args.models:
        with tempfile.TemporaryDirectory() as folder:
            try:
                error, nodes = check(model, args, Path(folder))
                good = error <= MAX_RELATIVE_ERROR
                print(f"{'ok  ' if good else 'FAIL'} {model}: {nodes} nodes, relative error {error:.1e}", flush=True)
            except Exception as problem:  # every failure is a line, then the next model
                good = False
                print(f"FAIL {model}: {' '.join(str(problem).split())[:600]}", flush=True)
        failed += not good
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
