"""Random models around operators over sequences, optionals, maps and bodies, with tensors at both ends."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 21
F, I = TensorProto.FLOAT, TensorProto.INT64


class Build:
    """A model under construction: nodes, inputs with their values, outputs."""

    def __init__(self, rng):
        self.rng = rng
        self.nodes, self.inputs, self.outputs, self.values = [], [], [], []

    def tensor(self, shape, dtype=np.float32):
        """An input of this shape."""
        if dtype == np.float32:
            value = self.rng.uniform(-3, 3, shape).astype(dtype)
        else:
            value = self.rng.integers(0, 4, shape).astype(dtype)
        return self.given(value)

    def given(self, value):
        """An input with this value."""
        name = f"x{len(self.inputs)}"
        value = np.asarray(value)
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        self.inputs.append(helper.make_tensor_value_info(name, kind, value.shape))
        self.values.append(value)
        return name

    def map(self, keys):
        """An input that maps these numbers to floats."""
        name = f"x{len(self.inputs)}"
        kind = helper.make_map_type_proto(I, helper.make_tensor_type_proto(F, []))
        self.inputs.append(helper.make_value_info(name, kind))
        self.values.append({key: np.float32(self.rng.uniform(-3, 3)) for key in keys})
        return name

    def node(self, op, inputs, domain="", n=1, **attrs):
        """A node; its result, or its results."""
        names = [f"v{len(self.nodes)}_{k}" for k in range(n)]
        self.nodes.append(helper.make_node(op, inputs, names, domain=domain, **attrs))
        return names[0] if n == 1 else names

    def result(self, name, kind=F, rank=None):
        shape = None if rank is None else [None] * rank
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def sequence(self, count=None, shape=None):
        """A sequence of tensors, mostly of different shapes."""
        count = count or int(self.rng.integers(1, 5))
        shapes = [shape or [int(d) for d in self.rng.integers(1, 4, 2)] for _ in range(count)]
        return self.node("SequenceConstruct", [self.tensor(s) for s in shapes]), count

    def position(self, count):
        return self.given(np.asarray(self.rng.integers(-count, count), dtype=np.int64))

    def model(self, opset=OPSET):
        graph = helper.make_graph(self.nodes, "values", self.inputs, self.outputs)
        imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


def sequence_construct(b):
    seq, count = b.sequence()
    b.result(b.node("SequenceAt", [seq, b.position(count)]))


def sequence_empty(b):
    seq = b.node("SequenceEmpty", [], dtype=F)
    b.result(b.node("SequenceLength", [seq]), I, 0)


def sequence_insert(b):
    seq, count = b.sequence()
    inputs = [seq, b.tensor([2, 2])]
    if b.rng.random() < 0.7:
        inputs.append(b.position(count))
    longer = b.node("SequenceInsert", inputs)
    b.result(b.node("SequenceAt", [longer, b.position(count + 1)]))
    b.result(b.node("SequenceLength", [longer]), I, 0)


def sequence_erase(b):
    seq, count = b.sequence(count=3)
    inputs = [seq] + ([b.position(count)] if b.rng.random() < 0.7 else [])
    shorter = b.node("SequenceErase", inputs)
    b.result(b.node("SequenceAt", [shorter, b.position(count - 1)]))
    b.result(b.node("SequenceLength", [shorter]), I, 0)


def concat_from_sequence(b):
    seq, _ = b.sequence(shape=[2, 3])
    axis, new = int(b.rng.integers(-2, 2)), int(b.rng.integers(0, 2))
    b.result(b.node("ConcatFromSequence", [seq], axis=axis, new_axis=new))


def split_to_sequence(b):
    x = b.tensor([4, 6])
    axis = int(b.rng.integers(0, 2))
    form = b.rng.integers(0, 3)
    if form == 0:
        seq = b.node("SplitToSequence", [x], axis=axis, keepdims=int(b.rng.integers(0, 2)))
    elif form == 1:
        seq = b.node("SplitToSequence", [x, b.given(np.int64(2))], axis=axis)
    else:
        seq = b.node("SplitToSequence", [x, b.given(np.array([1, 3 + 2 * axis], np.int64))], axis=axis)
    b.result(b.node("SequenceAt", [seq, b.given(np.int64(1))]))
    b.result(b.node("SequenceLength", [seq]), I, 0)


def optional(b):
    held = b.node("Optional", [b.tensor([2, 3])])
    b.result(b.node("OptionalHasElement", [held]), TensorProto.BOOL, 0)
    b.result(b.node("OptionalGetElement", [held]))


def optional_sequence(b):
    seq, count = b.sequence()
    held = b.node("Optional", [seq])
    b.result(b.node("SequenceAt", [b.node("OptionalGetElement", [held]), b.position(count)]))


def scalar(name, value):
    return numpy_helper.from_array(np.asarray(value), name)


def condition(b):
    x, flag = b.tensor([2, 3]), b.given(np.bool_(b.rng.integers(0, 2)))
    out = [helper.make_tensor_value_info("o", F, None)]
    then = helper.make_graph([helper.make_node("Neg", [x], ["o"])], "then", [], out)
    other = helper.make_graph([helper.make_node("ReduceSum", [x], ["o"], keepdims=0)], "else", [], out)
    b.result(b.node("If", [flag], then_branch=then, else_branch=other))


def loop(b):
    trips = b.given(np.int64(b.rng.integers(0, 5))) if b.rng.random() < 0.7 else ""
    state, step = b.tensor([3]), b.tensor([3])
    limit = int(b.rng.integers(1, 6))
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Add", ["s", step], ["s1"]),
        helper.make_node("Less", ["i", "limit"], ["go"]),
        helper.make_node("Identity", ["s1"], ["scanned"]),
    ]
    body = helper.make_graph(
        nodes,
        "body",
        [info("i", I, []), info("c", TensorProto.BOOL, []), info("s", F, [3])],
        [info("go", TensorProto.BOOL, []), info("s1", F, [3]), info("scanned", F, [3])],
        [scalar("limit", np.int64(limit))],
    )
    final, scanned = b.node("Loop", [trips, b.given(np.bool_(True)), state], n=2, body=body)
    b.result(final, F, 1)
    b.result(scanned, F, 2)


def scan(b):
    steps = int(b.rng.integers(1, 5))
    state, xs = b.tensor([2]), b.tensor([steps, 2])
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("Add", ["s", "x"], ["s1"]), helper.make_node("Mul", ["s1", "x"], ["y"])]
    body = helper.make_graph(nodes, "body", [info("s", F, [2]), info("x", F, [2])], [info("s1", F, [2]), info("y", F, [2])])
    back = [int(b.rng.integers(0, 2))]
    attrs = {"scan_input_directions": back, "scan_output_directions": [int(b.rng.integers(0, 2))]}
    final, ys = b.node("Scan", [state, xs], n=2, body=body, num_scan_inputs=1, **attrs)
    b.result(final, F, 1)
    b.result(ys, F, 2)


def sequence_map(b):
    seq, count = b.sequence()
    info = helper.make_tensor_value_info
    body = helper.make_graph([helper.make_node("Add", ["e", "t"], ["o"])], "body", [info("e", F, None), info("t", F, None)], [info("o", F, None)])
    mapped = b.node("SequenceMap", [seq, b.tensor([1])], body=body)
    b.result(b.node("SequenceAt", [mapped, b.position(count)]))


def zip_map(b):
    maps = b.node("ZipMap", [b.tensor([2, 3])], domain="ai.onnx.ml", classlabels_int64s=[7, 3, 5])
    each = helper.make_map_type_proto(I, helper.make_tensor_type_proto(F, []))
    b.outputs.append(helper.make_value_info(maps, helper.make_sequence_type_proto(each)))


def dict_vectorizer(b):
    held = b.map([7, 3, 5])
    b.result(b.node("DictVectorizer", [held], domain="ai.onnx.ml", int64_vocabulary=[5, 9, 7, 3]))


def cast_map(b):
    form = {"map_form": "SPARSE", "max_map": 6} if b.rng.random() < 0.5 else {"map_form": "DENSE"}
    b.result(b.node("CastMap", [b.map([1, 2, 4])], domain="ai.onnx.ml", cast_to="TO_FLOAT", **form))


# Our operators by what exercises them.
MAKERS = {
    "cast_map": cast_map,
    "concat_from_sequence": concat_from_sequence,
    "dict_vectorizer": dict_vectorizer,
    "if": condition,
    "loop": loop,
    "optional": optional,
    "optional_get_element": optional_sequence,
    "optional_has_element": optional,
    "scan": scan,
    "sequence_at": sequence_construct,
    "sequence_construct": sequence_construct,
    "sequence_empty": sequence_empty,
    "sequence_erase": sequence_erase,
    "sequence_insert": sequence_insert,
    "sequence_length": sequence_insert,
    "sequence_map": sequence_map,
    "split_to_sequence": split_to_sequence,
    "zip_map": zip_map,
}


def write(root, count, seed):
    """Writes `count` models of each; returns (operator, folder) of all."""
    made = []
    for number, (operator, maker) in enumerate(MAKERS.items()):
        for n in range(count):
            build = Build(np.random.default_rng([seed, number, n]))
            maker(build)
            folder = root / operator / str(n)
            (folder / "inputs").mkdir(parents=True, exist_ok=True)
            onnx.save(build.model(), folder / "model.onnx")
            for k, (info, value) in enumerate(zip(build.inputs, build.values)):
                convert = numpy_helper.from_dict if isinstance(value, dict) else numpy_helper.from_array
                message = convert(value, info.name)
                (folder / "inputs" / f"input_{k}.pb").write_bytes(message.SerializeToString())
            made.append((operator, folder))
    return made
