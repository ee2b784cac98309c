"""Our engines: a program that reads a list of cases and writes results as files."""

import subprocess
from pathlib import Path

import onnx
from onnx import numpy_helper

# For all cases of a run together.
BATCH_SECONDS = 900


def call(command):
    subprocess.run([str(word) for word in command], check=True, timeout=BATCH_SECONDS, stdout=subprocess.DEVNULL)


def batch(command, cases, out):
    """Results by case name: (status, outputs or the letter)."""
    folders = {case.name: out / case.name.replace("/", "_") for case in cases}
    lines = []
    for case in cases:
        folders[case.name].mkdir(parents=True, exist_ok=True)
        lines.append(f"{case.model}\t{case.folder / 'inputs'}\t{folders[case.name]}\n")
    listing = out / "cases.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    rest = lines
    while rest:
        # A case that ends the process does not take those behind it along.
        listing.write_text("".join(rest))
        done = subprocess.run(
            [str(word) for word in [*command, listing]], timeout=BATCH_SECONDS, capture_output=True, check=False
        )
        missing = [n for n, line in enumerate(rest) if not (Path(line.rstrip().split("\t")[2]) / "status.txt").exists()]
        if not missing:
            break
        Path(rest[missing[0]].rstrip().split("\t")[2], "status.txt").write_text(f"crash\nexit code {done.returncode}\n")
        rest = rest[missing[0] + 1 :]
    return {name: read(folder) for name, folder in folders.items()}


def read(folder):
    status, _, letter = (folder / "status.txt").read_text().partition("\n")
    if status != "ok":
        return status, letter.strip().replace("\n", " ")
    outputs = []
    while (path := folder / f"output_{len(outputs)}.pb").exists():
        tensor = onnx.TensorProto()
        tensor.ParseFromString(path.read_bytes())
        outputs.append(numpy_helper.to_array(tensor))
    return status, outputs
