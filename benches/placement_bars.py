#!/usr/bin/env python3
"""Places the public instances with `partita place` and scores them with the evaluators beside the instances.

usage: placement_bars.py PLACEMENT_FOLDER [PARTITA]
PLACEMENT_FOLDER  holds msr_nips20, helix_asplos25, piper_nips21 and tools
PARTITA           the program (default target/release/partita)
Prints one row per instance: value, own bound, gap, CPU seconds. Needs Python 3 only. Set PARTITA_HIGHS to a path that
does not exist to leave HiGHS out.
"""
import os
import re
import resource
import subprocess
import sys
import tempfile

GIB = 1 << 30


def run(program, *arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([program, "place", *arguments], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = re.search(r"value ([\d.e+-]+), bound ([\d.e+-]+) \((.*?)\), gap ([\d.]+) %", done.stdout)
    if not found:
        return f"{done.stdout} {done.stderr}".strip()[:100]
    value, bound, kind, gap = found.groups()
    return f"{value} | {bound} ({kind}) | {gap} % | {seconds:.1f}"


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    folder = sys.argv[1]
    program = sys.argv[2] if len(sys.argv) == 3 else "target/release/partita"
    out = tempfile.mkdtemp(prefix="placement")
    print("| instance | value | bound | gap | CPU s |\n|---|---|---|---|---|")
    for objective in ("throughput", "latency"):
        where = os.path.join(folder, "msr_nips20", objective)
        for name in sorted(os.listdir(where)):
            target = os.path.join(out, name if objective == "throughput" else f"latency_{name}")
            row = run(program, os.path.join(where, name), "--format", "msr", "--objective", objective, "-o", target)
            print(f"| msr {objective} {name[:-5]} | {row} |", flush=True)
    for name in ("quality", "no_prune_24", "raw_24"):
        model = os.path.join(folder, "helix_asplos25", name, "ilp_model.lp")
        row = run(program, model, "--format", "helix", "-o", os.path.join(out, f"helix_{name}.json"))
        print(f"| helix {name} | {row} |", flush=True)
    model = os.path.join(folder, "piper_nips21", "bert32a100.json")
    for devices in (8, 32, 64, 128, 512):
        for variant in ("", "no-tp", "no-dp", "no-recompute", "equi-split"):
            options = ["--variant", variant] if variant else []
            options += ["--devices", str(devices), "--memory", str(8 * GIB), "--bandwidth", str(25 * GIB)]
            row = run(program, model, "--format", "piper", *options, "-o", os.path.join(out, "piper.json"))
            print(f"| piper bert32, {devices} devices {variant} | {row} |", flush=True)
    subprocess.run([sys.executable, os.path.join(folder, "tools", "check.py"), out, "0.001"], check=False)


if __name__ == "__main__":
    main()
