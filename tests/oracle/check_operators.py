"""Compares every operator on random uses with an engine that is not ours.

    python tests/oracle/check_operators.py --samples DIR --interp target/debug/examples/interp_suite \\
        [--partita target/debug/partita] [--older] [--only softmax,resize] [--report FILE]

DIR is what the example `sample_models` wrote; `--make target/debug/examples/sample_models --count 5 [--seed N]` has it
written first. Cases over sequences, optionals, maps and bodies come from `value_models.py`. Each model is evaluated by
ONNX's reference implementation, or by ONNX Runtime where that has no answer, and compared with what our interpreter gives
(`--interp`) and with what a compiled plan gives on the CPU (`--partita`). With `--older` each model is also tried under
older opsets in which it is valid.

When the first oracle disagrees with us, the other one is asked. Where that agrees with us the case counts as disputed,
which is no failure. What differs and is understood stands in `understood.txt` with a sentence. Ends with 1 when another
case differs from both oracles, or crashes.

Needs numpy, onnx and onnxruntime.
"""

import argparse
import json
import sys
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path

import engines
import oracles
import value_models
from compare import difference

HERE = Path(__file__).parent


class Case:
    """One model with its inputs and what becomes of it."""

    def __init__(self, operator, folder, model=None):
        self.operator = operator
        self.folder = folder
        self.model = model or folder / "model.onnx"
        self.wanted = None
        self.oracle = None

    @property
    def name(self):
        stem = "" if self.model.stem == "model" else f"@{self.model.stem}"
        return f"{self.operator}/{self.folder.name}{stem}"


def read_cases(root, only):
    """Cases of the example, and operators without one, with the reason."""
    cases, skipped = [], defaultdict(list)
    for line in (root / "skipped.tsv").read_text().splitlines():
        operator, _, reason = line.split("\t")
        skipped[operator].append(f"not written: {reason}")
    for path in sorted(root.glob("*/*/model.onnx")):
        cases.append(Case(path.parent.parent.name, path.parent))
    keep = (lambda name: name in only) if only else (lambda name: True)
    return [c for c in cases if keep(c.operator)], {o: r for o, r in skipped.items() if keep(o)}


def with_older(cases):
    """The cases, and each of them in one older form of its operator that takes it."""
    out = list(cases)
    for n, case in enumerate(cases):
        older = oracles.older_opsets(case.model)
        if older:
            opset = older[n % len(older)]
            path = case.folder / f"opset{opset}.onnx"
            if oracles.write_with_opset(case.model, opset, path):
                out.append(Case(case.operator, case.folder, path))
    return out


def judge(case, results, random):
    """What the engines' results are worth: (verdict, details)."""
    for engine, (status, outputs) in results.items():
        if status == "unsupported":
            return "refused", f"{engine}: {outputs}"
        if status != "ok":
            return "differs", f"{engine}: {status}: {outputs}"
    firsts = {engine: difference(case.wanted, outputs, random) for engine, (_, outputs) in results.items()}
    if not any(firsts.values()):
        return "agrees", ""
    text = "; ".join(f"{engine} against {case.oracle}: {d}" for engine, d in firsts.items() if d)
    other = oracles.second_opinion(case.model, case.folder / "inputs", case.oracle)
    if other is not None and not any(difference(other, outputs, random) for _, outputs in results.values()):
        return "disputed", text
    said = "there is no second oracle" if other is None else "so does the second oracle"
    return "differs", f"{text}; {said}"


def tally(cases, results, random):
    """Verdicts by operator, and the sentences about what is not fine."""
    table, notes = defaultdict(lambda: defaultdict(int)), []
    for case in cases:
        if case.wanted is None:
            verdict, detail = "no oracle", case.oracle
        else:
            verdict, detail = judge(case, {e: r[case.name] for e, r in results.items()}, case.operator in random)
        table[case.operator][verdict] += 1
        if verdict != "agrees":
            notes.append((verdict, case.name, detail))
    return table, notes


def understood():
    """Verdicts and operators that are no news."""
    lines = (HERE / "understood.txt").read_text().splitlines()
    return {tuple(line.split(":", 1)[0].split()) for line in lines if line and not line.startswith("#")}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, help="folder of models; a temporary one when left out")
    parser.add_argument("--make", type=Path, help="the example sample_models, to write the models first")
    parser.add_argument("--count", type=int, default=5, help="uses of every operator (with --make)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--interp", type=Path, required=True)
    parser.add_argument("--partita", type=Path)
    parser.add_argument("--older", action="store_true")
    parser.add_argument("--only", default="", help="names of operators, separated by commas")
    parser.add_argument("--report", type=Path, help="write counts and notes as JSON")
    parser.add_argument("--verbose", action="store_true", help="print why cases are refused or have no oracle")
    return parser.parse_args()


def run(args, root):
    """All cases through oracles and engines."""
    if args.make:
        engines.call([args.make, root, args.count, args.seed])
    only = set(filter(None, args.only.split(",")))
    cases, skipped = read_cases(root, only)
    made = value_models.write(root / "values", args.count, args.seed)
    cases += [Case(operator, folder) for operator, folder in made if not only or operator in only]
    for operator in {operator for operator, _ in made}:
        skipped.pop(operator, None)
    if args.older:
        cases = with_older(cases)
    for case in cases:
        case.wanted, case.oracle = oracles.evaluate(case.model, case.folder / "inputs")
    judged = [c for c in cases if c.wanted is not None]
    results = {"interpreter": engines.batch([args.interp], judged, root / "interp")}
    if args.partita:
        results["plan"] = engines.batch([args.partita, "conformance", "--cases"], judged, root / "plan")
    random = set((root / "random.txt").read_text().split())
    return *tally(cases, results, random), skipped


def summary(table, notes, skipped, verbose):
    """Prints the outcome; whether all is fine."""
    known = understood()
    bad = [n for n in notes if n[0] == "differs" and (n[0], n[1].split("/")[0]) not in known]
    shown = notes if verbose else bad
    for verdict, name, detail in shown:
        print(f"{verdict:9} {name}: {detail[:600]}")
    total = defaultdict(int)
    for counts in table.values():
        for verdict, count in counts.items():
            total[verdict] += count
    compared = [o for o, counts in table.items() if counts["agrees"] + counts["disputed"] + counts["differs"]]
    print(f"{len(compared)} operators compared; cases: " + ", ".join(f"{n} {v}" for v, n in sorted(total.items())))
    silent = sorted(set(table) - set(compared)) + sorted(set(skipped) - set(table))
    if silent:
        print(f"without comparison ({len(silent)}): " + ", ".join(silent))
    return not bad


def main():
    args = arguments()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        table, notes, skipped = run(args, args.samples or Path(scratch))
    if args.report:
        report = {"operators": table, "notes": notes, "skipped": skipped}
        args.report.write_text(json.dumps(report, indent=1, sort_keys=True))
    sys.exit(0 if summary(table, notes, skipped, args.verbose) else 1)


if __name__ == "__main__":
    main()
