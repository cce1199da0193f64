"""Exports of policies that make pictures smaller, with noise in them: every engine has to see what the policy sees."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exporting import UNIT, export
from onnx import helper
from serving import observations
from tiny_policies import DIFFUSION, VLM_FIELDS, save_tiny

from hlrp.errors import UserError
from hlrp.runtime import load
from hlrp.runtime.engines import open_graph

TOLERANCE = 1e-4


def test_a_policy_with_an_image_size_is_exported_to_openvino(tmp_path: Path) -> None:
    """Which compares them: what it would not see as the policy does, it would not write."""
    import lerobot_policy_felix_bundle  # noqa: F401 - registers ours

    torch.set_num_threads(1)
    fields = {**VLM_FIELDS["hlrp_vla_direct"], "image_size": (64, 48)}
    policy = save_tiny("hlrp_vla_direct", tmp_path / "pretrained_model", fields=fields)
    said = export(policy, tmp_path / "export", "openvino").check
    assert said["source"] == "made up" and said["max_error"] <= said["tolerance"] < 0.05


@pytest.mark.slow
def test_openvino_sees_smaller_pictures_as_the_policy_does(tmp_path: Path) -> None:
    """LeRobot's diffusion with `resize_shape`: height and width become smaller by different parts."""
    torch.set_num_threads(1)
    fields = {**DIFFUSION, "resize_shape": (48, 40)}
    policy = save_tiny("diffusion", tmp_path / "pretrained_model", fields=fields)
    assert export(policy, tmp_path / "onnx").check["max_error"] <= TOLERANCE
    shown = observations(1)[0]
    noise = np.random.default_rng(0).standard_normal((2, 8, 2), np.float32)
    chunks = [
        load(tmp_path / "onnx", engine=e, threads=1).predict_chunk(shown, noise=noise)
        for e in ("onnxruntime", "openvino")
    ]
    assert np.abs(chunks[0] - chunks[1]).max() <= TOLERANCE * UNIT
    plain = load(tmp_path / "onnx", threads=1).predict_chunk(
        shown | {"observation.image": np.full((96, 96, 3), 128, np.uint8)}, noise=noise
    )
    assert np.abs(chunks[0] - plain).max() > 10 * TOLERANCE * UNIT, "the picture makes a difference"


@pytest.mark.parametrize("size", [48, 96])
def test_openvino_refuses_a_graph_that_it_computes_without_antialiasing(size: int, tmp_path: Path) -> None:
    """Of exports before: a picture of 64 made smaller. To a larger one, antialiasing is nothing, and it is right."""
    ends = [helper.make_tensor_value_info(n, 1, [1, 3, s, s]) for n, s in (("picture", 64), ("resized", size))]
    sizes = helper.make_tensor("sizes", onnx.TensorProto.INT64, [4], [1, 3, size, size])
    node = helper.make_node("Resize", ["picture", "", "", "sizes"], ["resized"], mode="linear", antialias=1)
    graph = helper.make_graph([node], "policy", ends[:1], ends[1:], [sizes])
    path = tmp_path / "whole.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    if size < 64:
        with pytest.raises(UserError, match=r"openvino computes wrongly.*\n.*whole\.onnx\n.*engine='onnxruntime'"):
            open_graph(path, "openvino")
        return
    picture = {"picture": np.random.default_rng(0).random((1, 3, 64, 64), np.float32)}
    found = [open_graph(path, engine)(picture)["resized"] for engine in ("onnxruntime", "openvino")]
    assert np.abs(found[0] - found[1]).max() < 1e-5
