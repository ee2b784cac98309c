"""Times Partita beside other engines on folders of real models, in one interleaved run.

    python benches/peers.py --models-dir DIR [--partita target/release/partita] [--threads 1,2]

Question: how fast is an inference, by what factor faster or slower than the best other engine, and is it right?

DIR/<model>/ holds `model.onnx`, `inputs/<name>.npy` and `outputs/<name>.npy` (the reference). Every measurement
is a process of its own with warm-up. Engines take turns within a round and swap their order from round to round,
so that a slow spell of the machine does not fall on one of them; the figure is the median of the rounds' medians.
Ratios hold within one invocation only, on a machine that does nothing else. `error` is the largest difference from
the reference relative to its largest value.

Other engines are ONNX Runtime and OpenVINO (held to f32) by their Python packages; one that is missing is left out
with a sentence. `--precision bf16` lets Partita and OpenVINO round products to bfloat16 (ONNX Runtime has no such mode).
Ends with 1 when Partita fails on a model or is off by more than `--max-error`.

`--summary FILE` also writes the table of the README: one row per model, with machine, date and command above it.
`benches/peers.sh` does everything from a fresh checkout on.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import math
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WARMUP_SECONDS = 0.3
LEAST_RUNS = 50
LEAST_SECONDS = 1.0
MOST_SECONDS = 15.0
PROCESS_SECONDS = 900
OURS = "partita"


def onnxruntime_engine(model, threads, precision):
    """A function from named inputs to outputs by name."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs)))


def openvino_engine(model, threads, precision):
    """A function from named inputs to outputs by name, in the precision of the comparison."""
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(str(model), "CPU", settings)
    request = compiled.create_infer_request()
    names = [output.get_any_name() for output in compiled.outputs]

    def run(inputs):
        request.infer(inputs, share_inputs=True)
        return {name: request.get_output_tensor(n).data for n, name in enumerate(names)}

    return run


PEERS = {"onnxruntime": onnxruntime_engine, "openvino": openvino_engine}


def timed(run, inputs):
    """Milliseconds of every counted run."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < WARMUP_SECONDS:
        run(inputs)
    times, begin = [], time.perf_counter()
    while True:
        before = time.perf_counter()
        run(inputs)
        after = time.perf_counter()
        times.append((after - before) * 1e3)
        spent = after - begin
        if (len(times) >= LEAST_RUNS and spent >= LEAST_SECONDS) or spent >= MOST_SECONDS:
            return times


def file_name(name):
    """The name under which `partita bench` writes an output."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)


def worker(engine, folder, threads, out, precision):
    """Measures one peer in this process and prints what `partita bench --json` prints."""
    inputs = {path.stem: np.load(path) for path in sorted((folder / "inputs").glob("*.npy"))}
    begin = time.perf_counter()
    run = PEERS[engine](folder / "model.onnx", threads, precision)
    load_ms = (time.perf_counter() - begin) * 1e3
    times = timed(run, inputs)
    for name, value in run(inputs).items():
        np.save(out / f"{file_name(name)}.npy", value)
    print(json.dumps({"median_ms": statistics.median(times), "min_ms": min(times), "load_ms": load_ms}))


def command(engine, folder, threads, out, args):
    """The process that measures one engine."""
    if engine != OURS:
        return [sys.executable, __file__, "--worker", engine, str(folder), str(threads), str(out), args.precision]
    line = [str(args.partita), "bench", str(folder / "model.onnx"), "--inputs-dir", str(folder / "inputs")]
    line += ["--output-dir", str(out), "--threads", str(threads), "--precision", args.precision]
    return line + ["--runs", str(args.runs), "--json"] if args.runs else line + ["--json"]


def error(folder, out):
    """Largest difference from the reference, relative to its largest value; None without a reference."""
    worst = None
    for path in sorted((folder / "outputs").glob("*.npy")):
        made = out / f"{file_name(path.stem)}.npy"
        want = np.load(path).astype(np.float64)
        if not made.exists():
            return float("inf")
        have = np.load(made).astype(np.float64)
        if have.shape != want.shape or not np.isfinite(have).all():
            return float("inf")
        scale = max(np.abs(want).max(initial=0.0), 1e-12)
        worst = max(worst or 0.0, float(np.abs(have - want).max(initial=0.0) / scale))
    return worst


def measure(engine, folder, threads, args):
    """One process of one engine: its figures, or a sentence under `failed`."""
    with tempfile.TemporaryDirectory() as out:
        line = command(engine, folder, threads, Path(out), args)
        try:
            done = subprocess.run(line, capture_output=True, text=True, timeout=PROCESS_SECONDS)
        except subprocess.TimeoutExpired:
            return {"failed": f"no answer in {PROCESS_SECONDS} s"}
        if done.returncode != 0:
            return {"failed": " ".join(done.stderr.split())[-300:] or f"status {done.returncode}"}
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        figures["error"] = error(folder, Path(out))
        return figures


def race(folder, threads, engines, args):
    """Rows of one model and thread count: the rounds of every engine, taken in turns."""
    rounds = {engine: [] for engine in engines}
    for n in range(args.rounds):
        for engine in engines if n % 2 == 0 else reversed(engines):
            rounds[engine].append(measure(engine, folder, threads, args))
    return [summary(folder.name, threads, engine, results) for engine, results in rounds.items()]


def summary(model, threads, engine, results):
    """One row out of the rounds of an engine."""
    row = {"model": model, "threads": threads, "engine": engine}
    failed = [r["failed"] for r in results if "failed" in r]
    if failed:
        return row | {"failed": failed[0]}
    errors = [r["error"] for r in results if r["error"] is not None]
    return row | {
        "median_ms": statistics.median(r["median_ms"] for r in results),
        "min_ms": min(r["min_ms"] for r in results),
        "load_ms": statistics.median(r["load_ms"] for r in results),
        "error": max(errors) if errors else None,
    }


def table(rows):
    """The rows of one model and thread count as lines of markdown; the ratio is to the best other engine."""
    best = min((r["median_ms"] for r in rows if r["engine"] != OURS and "failed" not in r), default=None)
    lines = []
    for row in rows:
        start = f"| {row['model']} | {row['threads']} | {row['engine']} |"
        if "failed" in row:
            lines.append(f"{start} failed: {row['failed'].replace('|', '/')} | | | | |")
            continue
        ratio = "" if best is None else f"{row['median_ms'] / best:.2f}"
        deviation = "" if row["error"] is None else f"{row['error']:.1e}"
        times = f"{row['median_ms']:.3f} | {row['min_ms']:.3f} | {ratio}"
        lines.append(f"{start} {times} | {row['load_ms']:.0f} | {deviation} |")
    return "\n".join(lines)


def summary_table(rows):
    """One row per model: our times, and their ratios to the best other engine; geometric means at the end."""
    threads = sorted({row["threads"] for row in rows})
    titles = "".join(f" {n} thread{'s' * (n > 1)}: ms | to the best other |" for n in threads)
    lines = [f"| model |{titles} error |", "|---|" + "---|---|" * len(threads) + "---|"]
    ratios = {n: [] for n in threads}
    for model in dict.fromkeys(row["model"] for row in rows):
        cells, errors = "", []
        for n in threads:
            group = {r["engine"]: r for r in rows if (r["model"], r["threads"]) == (model, n) and "failed" not in r}
            ours, others = group.pop(OURS, None), [r["median_ms"] for r in group.values()]
            if ours is None or not others:
                cells += " - | - |"
                continue
            ratios[n].append(ours["median_ms"] / min(others))
            errors.append(ours["error"] or 0.0)
            cells += f" {ours['median_ms']:.2f} | {ratios[n][-1]:.2f} |"
        lines.append(f"| {model} |{cells} {max(errors, default=0.0):.1e} |")
    means = {n: math.exp(statistics.fmean(map(math.log, found))) for n, found in ratios.items() if found}
    cells = "".join(f" | {means[n]:.2f} |" if n in means else " | |" for n in threads)
    return "\n".join([*lines, f"| geometric mean |{cells} |"])


def processor():
    """What the system calls the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = [line.split(":", 1)[1] for line in lines if line.startswith("model name")]
    return found[0].strip() if found else platform.processor() or platform.machine()


def heading(engines):
    """Machine, date, versions and command of a table."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in engines if name != OURS)
    day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return f"{processor()}, {day}, against {versions}: `python {shlex.join(sys.argv)}`"


def wrong(row, max_error):
    """Whether this row fails the run."""
    return row["engine"] == OURS and ("failed" in row or (row["error"] or 0.0) > max_error)


def chosen_peers(names):
    """The peers whose packages are here."""
    here = []
    for name in filter(None, names.split(",")):
        if name not in PEERS:
            sys.exit(f"there is no peer {name}; known are {', '.join(PEERS)}")
        if importlib.util.find_spec(name):
            here.append(name)
        else:
            print(f"left out: the Python package {name} is not installed", file=sys.stderr)
    return here


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models-dir", type=Path, required=True, help="holds <model>/model.onnx, inputs/, outputs/")
    parser.add_argument("--models", help="comma-separated; default: all found")
    parser.add_argument("--partita", type=Path, default=Path("target/release/partita"))
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated; '' for none")
    parser.add_argument("--threads", default="1,2", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=0, help="timed runs of Partita; default: as the others")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--summary", type=Path, help="also write one row per model here")
    parser.add_argument("--max-error", type=float, default=1e-4)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    return parser.parse_args()


def main():
    """Runs the race and prints the table as it grows."""
    args = arguments()
    found = sorted(path.parent for path in args.models_dir.glob("*/model.onnx"))
    if args.models:
        found = [folder for folder in found if folder.name in args.models.split(",")]
    if not found:
        sys.exit(f"no model was found in {args.models_dir}")
    args.partita = args.partita.resolve()
    engines = [OURS, *chosen_peers(args.peers)]
    print("| model | threads | engine | median ms | min ms | ratio to best other | load ms | error |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    rows = []
    for folder in found:
        for threads in map(int, args.threads.split(",")):
            group = race(folder, threads, engines, args)
            print(table(group), flush=True)
            rows += group
    if args.summary:
        args.summary.write_text(f"{heading(engines)}\n\n{summary_table(rows)}\n")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(1 if any(wrong(row, args.max_error) for row in rows) else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]), sys.argv[6])
    else:
        main()
