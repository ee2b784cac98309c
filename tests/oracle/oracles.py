"""Engines that are not ours: ONNX's reference implementation and ONNX Runtime."""

import functools
from pathlib import Path

import engines
import isolated
import numpy as np
import onnx
import onnxruntime as ort
from onnx import defs
from onnx.reference import ReferenceEvaluator

# The oldest form of an operator that is tried.
OLDEST_OPSET = 7
# The newest opset of ONNX Runtime that is not experimental.
RUNTIME_OPSET = 23
# The newest version of the file format it reads without complaint.
RUNTIME_IR_VERSION = 10


def evaluate(path, inputs):
    """Outputs and the oracle's name; or None and why there are none."""
    reasons = []
    for name, run in (("reference", reference), ("runtime", runtime)):
        try:
            return isolated.call(run, path, inputs), name
        except (RuntimeError, isolated.Lost) as error:
            reasons.append(f"{name}: {str(error)[:160]}")
    return None, "; ".join(reasons).replace("\n", " ")


def second_opinion(path, inputs, first):
    """Outputs of the oracle that was not asked first, or None."""
    try:
        return isolated.call(runtime if first == "reference" else reference, path, inputs)
    except (RuntimeError, isolated.Lost):
        return None


def read_inputs(model, folder):
    """Values by name of input."""
    return {port.name: engines.value(folder / f"input_{n}.pb", port) for n, port in enumerate(model.graph.input)}


def reference(path, inputs):
    model = onnx.load(path)
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, read_inputs(model, inputs))


def runtime(path, inputs):
    model = onnx.load(path)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(settled(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, read_inputs(model, inputs))


def settled(model):
    """The model in an opset ONNX Runtime takes, where its operators are the same in that."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = min(copy.ir_version, RUNTIME_IR_VERSION)
    for opset in copy.opset_import:
        if opset.domain == "" and opset.version > RUNTIME_OPSET and all(
            since(node.op_type, opset.version) == since(node.op_type, RUNTIME_OPSET)
            for node in copy.graph.node
            if node.domain == ""
        ):
            opset.version = RUNTIME_OPSET
    return copy


@functools.cache
def since(op_type, opset):
    """The opset that brought the form of the operator which `opset` has; None when there is none."""
    try:
        return defs.get_schema(op_type, opset, "").since_version
    except defs.SchemaError:
        return None


@functools.cache
def history():
    """Opsets of every standard operator's forms."""
    forms = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "":
            forms.setdefault(schema.name, set()).add(schema.since_version)
    return forms


def older_opsets(path):
    """Opsets of older forms of the model's operator that might take the node as it is."""
    model = onnx.load(path)
    if len(model.graph.node) != 1 or model.graph.node[0].domain:
        return []
    node = model.graph.node[0]
    opset = next(o.version for o in model.opset_import if o.domain == "")
    own = since(node.op_type, opset)
    forms = sorted(v for v in history().get(node.op_type, ()) if OLDEST_OPSET <= v and (own is None or v != own))
    return [v for v in forms if v <= opset and fits(node, defs.get_schema(node.op_type, v, ""))]


def fits(node, schema):
    known = all(a.name in schema.attributes for a in node.attribute)
    return known and not schema.deprecated and schema.min_input <= len(node.input) <= schema.max_input


def write_with_opset(source, opset, path):
    """Writes the model as one of another opset; whether ONNX's checker takes it."""
    model = onnx.load(source)
    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = opset
    try:
        isolated.call(onnx.checker.check_model, model.SerializeToString(), True)
    except (RuntimeError, isolated.Lost):
        return False
    Path(path).write_bytes(model.SerializeToString())
    return True
