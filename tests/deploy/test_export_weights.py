"""Smaller weights of a graph, and how far an export may be from its policy."""

from pathlib import Path

import numpy as np
import pytest

from hlrp.deploy.export.check import Errors, refuse_errors
from hlrp.deploy.export.quantize import quantize_onnx
from hlrp.errors import WorkError
from hlrp.runtime.engines import choose_engine, open_graph


@pytest.mark.parametrize(("quantize", "kind"), [("int8", "onnx"), ("int8", "openvino"), ("bf16", "onnx")])
@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
def test_smaller_weights_give_nearly_the_same_product(operator: str, quantize: str, kind: str, tmp_path: Path) -> None:
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    # Columns of very different sizes: each has a scale of its own.
    weight = rng.standard_normal((64, 48)).astype(np.float32) * np.logspace(-2, 1, 48, dtype=np.float32)
    given = rng.standard_normal((1, 64)).astype(np.float32)
    stored, flags = (weight.T.copy(), {"transB": 1}) if operator == "Gemm" else (weight, {})
    ends = [helper.make_tensor_value_info(name, 1, [1, size]) for name, size in (("x", 64), ("y", 48))]
    nodes = [helper.make_node(operator, ["x", "w"], ["y"], **flags)]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], [numpy_helper.from_array(stored, "w")])
    path = tmp_path / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    full = path.stat().st_size
    quantize_onnx(path, quantize, kind)
    assert path.stat().st_size < 0.6 * full and list(tmp_path.iterdir()) == [path]
    for engine in choose_engine(kind, None), "openvino":
        product = open_graph(path, engine)({"x": given})["y"]
        off = np.abs(product - given @ weight) / np.linalg.norm(given) / np.linalg.norm(weight, axis=0)
        assert off.max() < 0.01


def test_the_tolerance_is_that_of_normalised_units() -> None:
    refuse_errors(Errors(largest=1e-4, in_units=5.0))
    for largest in (1.1e-4, float("nan")):
        with pytest.raises(WorkError, match="not the policy"):
            refuse_errors(Errors(largest, in_units=0.0))
