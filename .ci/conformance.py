"""Runs the ONNX backend suites and holds the result against what is known to be wrong.

    python .ci/conformance.py --shared ../shared/conformance --scratch DIR \\
        --partita target/debug/partita --expected .ci/conformance-expected.txt

Every suite runs three ways: on the CPU, on a slow CPU beside a simulated accelerator, so that placement moves work, and
with the e-graph off. Prints the counts of each. Ends with 1 when a case crashes, runs out of time, gives a wrong answer
without standing in the file of `--expected` (one case a line, # begins a comment), or fares differently from way to
way, or when fewer cases pass than `LEAST` says. `--every N` takes every Nth case.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

# The newest form of every operator, and the older ones that exported models carry.
# What ONNX Runtime's own operators do comes last. With each the least number of cases that must pass.
SUITES = {"suite": 1500, "suite_legacy": 862, "suite_contrib": 97}
# Ways to run every case: name and options of `partita conformance`.
WAYS = (
    ("cpu", ()),
    ("placed", ("--machine", "fixtures/machines/slow-cpu-h100.toml")),
    ("plain", ("--no-egraph",)),
)
# For one case, in a debug build on a busy machine.
CASE_SECONDS = 60
FAILURES = ("crash", "timeout")


def sample(suite, every, scratch):
    """A file with the names of every Nth case, and the kinds there are."""
    names = sorted(f"{path.parent.parent.name}/{path.parent.name}" for path in suite.glob("*/*/model.onnx"))[::every]
    chosen = scratch / f"{suite.name}.cases"
    chosen.write_text("".join(f"{name}\n" for name in names))
    return chosen, sorted({name.split("/")[0] for name in names})


def score(suite, options, args):
    """The results of one suite with these options, as score.py writes them."""
    out = args.scratch / f"{suite.name}.json"
    cases, kinds = sample(suite, args.every, args.scratch)
    command = [sys.executable, str(args.shared / "score.py"), "--suite", str(suite), "--kinds", ",".join(kinds)]
    command += ["--list", str(cases), "--timeout", str(CASE_SECONDS)]
    engine = shlex.join([str(args.partita), "conformance", *options])
    command += ["--batch-cmd", f"{engine} --cases {{cases_file}}"]
    command += ["--engine", "partita", "--out", str(out), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text())["cases"]


def unpack(archive, folder):
    """Extracts an archive; Python before 3.11.4 has no filters."""
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as tar:
        tar.extractall(folder, **safely)


def expected(path):
    """Names of cases known to be wrong."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {line for line in lines if line}


def judge(name, way, results, known):
    """Prints the counts of a suite, returns the lines that are failures."""
    counts = {}
    for result in results:
        counts[result["status"]] = counts.get(result["status"], 0) + 1
    words = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    print(f"{name}, {way}: {len(results)} cases: {words}", flush=True)
    failures = []
    for result in results:
        case = f"{name}/{result['id']}"
        surprise = result["status"] == "wrong" and case not in known
        if result["status"] in FAILURES or surprise:
            failures.append(f"{result['status']} {case}: {' '.join(str(result.get('msg', '')).split())[:200]}")
    return failures


def differing(name, ways):
    """Lines for the cases that do not fare the same in all ways."""
    status = [{r["id"]: r["status"] for r in results} for _, results in ways]
    lines = []
    for case in status[0]:
        found = [s.get(case) for s in status]
        if len(set(found)) > 1:
            words = ", ".join(f"{way} {word}" for (way, _), word in zip(ways, found))
            lines.append(f"differs {name}/{case}: {words}")
    return lines


def suite_failures(name, args):
    """Runs a suite every way; the lines that are failures."""
    known = expected(args.expected)
    ways, failures = [], []
    for way, options in WAYS:
        results = score(args.scratch / name, options, args)
        failures += judge(f"{name}", way, results, known)
        ways.append((way, results))
        passed = sum(r["status"] == "pass" for r in results)
        if args.every == 1 and passed < SUITES[name]:
            failures.append(f"too few {name}, {way}: {passed} pass, {SUITES[name]} are wanted")
    return failures + differing(name, ways)


def main():
    """Scores the suites; prints counts and failures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True, help="folder with score.py and the suites")
    parser.add_argument("--scratch", type=Path, required=True, help="empty folder to unpack into")
    parser.add_argument("--partita", required=True)
    parser.add_argument("--expected", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    args.partita = Path(args.partita).resolve()
    failures = []
    for name in SUITES:
        archive = args.shared / f"{name}.tar.xz"
        if not archive.exists():
            print(f"{name}: left out, it is not there")
            continue
        unpack(archive, args.scratch)
        failures += suite_failures(name, args)
    for line in failures:
        print(f"FAIL {line}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
