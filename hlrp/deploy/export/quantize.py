"""Smaller numbers for an export's weights: 8-bit integers, or bfloat16."""

from pathlib import Path
from typing import Any

import numpy as np

_PRODUCTS = ("MatMul", "Gemm")
_SMALLEST = 1024
"""Weights with fewer numbers stay as they are: they save nothing, and biases and norms need their precision."""


def quantize_onnx(path: Path, quantize: str, kind: str) -> None:
    """Replace an ONNX file by one with smaller weights.

    `int8` for onnxruntime: products of matrices in 8-bit integers, activations quantized as they come; for OpenVINO,
    weights alone. `bf16` for onnxruntime: weights alone, brought back to float32 when the graph is loaded; OpenVINO
    computes in bfloat16 from the weights as they are, which the runtime asks it to.

    Args:
        path: The file.
        quantize: `int8` or `bf16`.
        kind: Format that the file is for, `onnx` or `openvino`.
    """
    if quantize == "int8" and kind == "onnx":
        _dynamic(path)
    elif (quantize, kind) != ("bf16", "openvino"):
        _weights_only(path, quantize)


def _dynamic(path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantized = path.with_name(f"{path.name}.int8")
    quantize_dynamic(
        path,
        quantized,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )
    quantized.replace(path)


def _weights_only(path: Path, quantize: str) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    # The axis of what comes out, which has a scale of its own for each.
    axes = {node.input[1]: int(_transposed(node)) ^ 1 for node in graph.node if node.op_type in _PRODUCTS}
    nodes = []
    for weight in list(graph.initializer):
        if weight.data_type != TensorProto.FLOAT or int(np.prod(weight.dims)) < _SMALLEST:
            continue
        name = weight.name
        if quantize == "bf16":
            small = numpy_helper.from_array(numpy_helper.to_array(weight).astype(_bfloat16()), f"{name}.bf16")
            nodes.append(helper.make_node("Cast", [small.name], [name], to=TensorProto.FLOAT))
            added = [small]
        elif name in axes and len(weight.dims) == 2:
            values, axis = numpy_helper.to_array(weight), axes[name]
            scale = (np.abs(values).max(1 - axis) / 127).clip(np.finfo(np.float32).tiny).astype(np.float32)
            whole = np.clip(np.round(values / np.expand_dims(scale, 1 - axis)), -127, 127).astype(np.int8)
            added = [numpy_helper.from_array(whole, f"{name}.int8"), numpy_helper.from_array(scale, f"{name}.scale")]
            nodes.append(helper.make_node("DequantizeLinear", [t.name for t in added], [name], axis=axis))
        else:
            continue
        graph.initializer.remove(weight)
        graph.initializer.extend(added)
    ordered = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(ordered)
    onnx.save(model, path)


def _transposed(node: Any) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def _bfloat16() -> "np.dtype[np.generic]":
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)
