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
    return {case.name: read(folders[case.name], case.model) for case in cases}


# Messages of files by what the model declares an output to be, and how they become Python values.
FORMS = {
    "tensor_type": (onnx.TensorProto, numpy_helper.to_array),
    "sequence_type": (onnx.SequenceProto, numpy_helper.to_list),
    "map_type": (onnx.MapProto, numpy_helper.to_dict),
    "optional_type": (onnx.OptionalProto, numpy_helper.to_optional),
}


def read(folder, model):
    """Status, and outputs or the letter. An output that was not written is None."""
    status, _, letter = (folder / "status.txt").read_text().partition("\n")
    if status != "ok":
        return status, letter.strip().replace("\n", " ")
    paths = [(folder / f"output_{n}.pb", port) for n, port in enumerate(onnx.load(model).graph.output)]
    return status, [value(path, port) if path.exists() else None for path, port in paths]


def value(path, port):
    """What the file holds of an input or output."""
    proto, convert = FORMS[port.type.WhichOneof("value") or "tensor_type"]
    message = proto()
    message.ParseFromString(path.read_bytes())
    return convert(message)
