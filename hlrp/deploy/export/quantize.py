"""Smaller numbers for an export's weights: 8-bit integers, or bfloat16."""

from pathlib import Path
from typing import Any

import numpy as np

from hlrp.deploy.export.writing import save_onnx

_SMALLEST = 1024
"""Weights with fewer numbers stay as they are: they save nothing, and biases and norms need their precision."""


def quantize_onnx(path: Path, quantize: str, kind: str) -> None:
    """Replace an ONNX file by one with smaller weights.

    `int8`: products of matrices in 8-bit integers, activations quantized as they come. `bf16` for onnxruntime: weights
    alone, brought back to float32 when the graph is loaded; OpenVINO computes in bfloat16 from the weights as they are,
    which the runtime asks it to.

    Args:
        path: The file.
        quantize: `int8` or `bf16`.
        kind: Format that the file is for, `onnx` or `openvino`.
    """
    if (quantize, kind) == ("bf16", "openvino"):
        return
    import onnx

    if quantize == "int8":
        model = _dynamic(path, path.with_name(f"quantized_{path.name}"))
    else:
        model = onnx.load(path)
        _weights_in_bfloat16(model.graph)
    save_onnx(model, path)


def _dynamic(path: Path, scratch: Path) -> Any:
    # Not 8-bit weights alone, which OpenVINO would take too: some constant products then change from call to call.
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Weights in 7 of 8 bits: a processor without VNNI adds pairs of products in 16 bits, where full ones saturate.
    kinds = {"op_types_to_quantize": ["MatMul"], "per_channel": True, "weight_type": QuantType.QInt8}
    quantize_dynamic(path, scratch, reduce_range=True, extra_options={"MatMulConstBOnly": True}, **kinds)
    try:
        return onnx.load(scratch)
    finally:
        scratch.unlink()


def _weights_in_bfloat16(graph: Any) -> None:
    import ml_dtypes
    from onnx import TensorProto, helper, numpy_helper

    nodes = []
    for weight in list(graph.initializer):
        if weight.data_type != TensorProto.FLOAT or int(np.prod(weight.dims)) < _SMALLEST:
            continue
        values = numpy_helper.to_array(weight).astype(ml_dtypes.bfloat16)
        small = numpy_helper.from_array(values, f"{weight.name}.bf16")
        nodes.append(helper.make_node("Cast", [small.name], [weight.name], to=TensorProto.FLOAT))
        graph.initializer.remove(weight)
        graph.initializer.append(small)
    ordered = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(ordered)
