"""Makes quantised models from folders of float ones, with ONNX Runtime's own quantizers.

    python benches/quantize.py --models-dir DIR --out DIR [--static NAMES] [--nbits NAMES]

DIR/<model>/ holds `model.onnx` and `inputs/<name>.npy`. Models whose inputs are all 4-D images, or that are named by
`--static`, become `<model>_qdq` (activations u8) and `<model>_qdq_s8`: static quantization, weights s8 per channel,
QuantizeLinear and DequantizeLinear around every operator, ranges from the model's inputs and random ones.
Models named by `--nbits` become `<model>_q4` and `<model>_q8`: products with weights of 4 and 8 bits in blocks of 32,
f32 accumulation. Next to each model lie its inputs, and as outputs what ONNX Runtime computes with all of its own
rewrites switched off: the definition, operator by operator, in f32.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

RANDOM_SAMPLES = 7
STATIC = "resnet50,mobilenet_v2,minilm"
NBITS = "gpt2_decode_past128"


def load_inputs(folder):
    return {path.stem: np.load(path) for path in sorted((folder / "inputs").glob("*.npy"))}


class Samples(CalibrationDataReader):
    """The model's inputs, then random ones of the same kind: floats as they are distributed, integers permuted."""

    def __init__(self, inputs):
        random = np.random.default_rng(1)
        samples = [inputs] + [{n: self.like(a, random) for n, a in inputs.items()} for _ in range(RANDOM_SAMPLES)]
        self.left = iter(samples)

    @staticmethod
    def like(array, random):
        if np.issubdtype(array.dtype, np.floating):
            return random.normal(array.mean(), array.std() + 1e-6, array.shape).astype(array.dtype)
        return random.permutation(array.ravel()).reshape(array.shape)

    def get_next(self):
        return next(self.left, None)


def session(path, level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL, **settings):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    for name, value in settings.items():
        setattr(options, name, value)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def finish(source, target):
    """Copies the inputs and computes the outputs."""
    shutil.rmtree(target / "inputs", ignore_errors=True)
    shutil.copytree(source / "inputs", target / "inputs")
    (target / "outputs").mkdir(exist_ok=True)
    runner = session(target / "model.onnx")
    names = [output.name for output in runner.get_outputs()]
    for name, array in zip(names, runner.run(names, load_inputs(source))):
        np.save(target / "outputs" / f"{name}.npy", array)
    print(target)


def static(source, out, activations, suffix):
    target = out / (source.name + suffix)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        # Symbolic shape inference does not know every exporter's shape arithmetic; without it types still suffice.
        quant_pre_process(str(source / "model.onnx"), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target / "model.onnx"),
            Samples(load_inputs(source)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=activations,
            weight_type=QuantType.QInt8,
        )
    finish(source, target)


def split_gemms(model):
    """Gemm without transposes becomes MatMul and Add, which the quantizer of products knows."""
    nodes, constants = [], {c.name: c for c in model.graph.initializer}
    for node in model.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        plain = node.op_type == "Gemm" and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
        if not plain or attributes.get("transA", 0) or node.input[1] not in constants:
            nodes.append(node)
            continue
        weight = node.input[1]
        if attributes.get("transB", 0):
            turned = np.ascontiguousarray(numpy_helper.to_array(constants[weight]).T)
            weight += "_turned"
            model.graph.initializer.append(numpy_helper.from_array(turned, weight))
        product = node.output[0] + "_product" if len(node.input) > 2 else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], name=node.name + "_product"))
        if len(node.input) > 2:
            nodes.append(helper.make_node("Add", [product, node.input[2]], list(node.output), name=node.name))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def nbits(source, out, bits):
    target = out / f"{source.name}_q{bits}"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folded = Path(scratch) / "folded.onnx"
        level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        session(source / "model.onnx", level, optimized_model_filepath=str(folded))
        model = onnx.load(folded)
    split_gemms(model)
    config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=False, accuracy_level=1, bits=bits)
    quantizer = MatMulNBitsQuantizer(model, algo_config=config)
    quantizer.process()
    onnx.save(quantizer.model.model, target / "model.onnx")
    finish(source, target)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--static", default=STATIC, help=f"comma-separated; default {STATIC}")
    parser.add_argument("--nbits", default=NBITS, help=f"comma-separated; default {NBITS}")
    args = parser.parse_args()
    for name in filter(None, args.nbits.split(",")):
        for bits in (4, 8):
            nbits(args.models_dir / name, args.out, bits)
    for name in filter(None, args.static.split(",")):
        static(args.models_dir / name, args.out, QuantType.QUInt8, "_qdq")
        static(args.models_dir / name, args.out, QuantType.QInt8, "_qdq_s8")


if __name__ == "__main__":
    main()
