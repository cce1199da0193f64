"""Exports of tiny policies, and the runtime in a process that has nothing but NumPy and onnxruntime."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
)
from onnx import helper, numpy_helper
from tiny_policies import DIFFUSION, VLM_FIELDS, save_tiny, save_tiny_act, save_tiny_vlm

from hlrp.deploy.export.request import ExportRequest
from hlrp.deploy.export.run import export_policy
from hlrp.deploy.served import load_served
from hlrp.files import sha256_of
from hlrp.runtime import Manifest
from hlrp.runtime.manifest import Input, Instructions
from hlrp.runtime.policy import ACTIONS

TASKS = ("push the T", "pull")
UNIT = 128.0
"""What 1 in normalised units is in those of PushT, by the statistics that tiny policies are saved with."""


def save(name: str, folder: Path) -> Path:
    if name in VLM_FIELDS:
        return save_tiny_vlm(name, folder)
    return save_tiny_act(folder) if name == "act" else save_tiny(name, folder, fields=DIFFUSION)


def export(checkpoint: Path, output: Path, kind: str = "onnx", **options: Any) -> Manifest:
    request = ExportRequest(checkpoint, kind, output, tasks=TASKS, repeats=3, **options)
    return export_policy(request, lambda _: None)


def small_export(checkpoint: Path, folder: Path, tasks: Sequence[str] = (), kind: str = "onnx") -> Path:
    """All that an export is, with a graph of one product: quick, where it does not matter what a policy computes.

    Args:
        checkpoint: Whose inputs, names and rate it has.
        folder: Where to.
        tasks: Instructions that it knows; none: it reads no language.
        kind: `onnx` or `openvino`.

    Returns:
        The folder; its chunk is the state times `weights(S, n * A)`.
    """
    served = load_served(checkpoint, device="cpu")
    config, said = served.loaded.config, served.metadata
    features = config.input_features.items()
    inputs = {name: Input(tuple(f.shape), f.type.value == "VISUAL") for name, f in features}
    chunk, size = config.n_action_steps, said["action"]["shape"][0]
    (count,) = inputs["observation.state"].shape
    ends = [helper.make_tensor_value_info(n, 1, s) for n, s in (("observation.state", [1, count]), (ACTIONS, None))]
    known = {"weights": weights(count, chunk * size), "shape": np.array([chunk, size])}
    nodes = [helper.make_node("MatMul", ["observation.state", "weights"], ["flat"])]
    nodes.append(helper.make_node("Reshape", ["flat", "shape"], [ACTIONS]))
    tensors = [numpy_helper.from_array(array, name) for name, array in known.items()]
    graph = helper.make_graph(nodes, "policy", ends[:1], ends[1:], tensors)
    folder.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "whole.onnx")
    if kind == "openvino":
        openvino.save_model(openvino.convert_model(folder / "whole.onnx"), folder / "whole.xml", compress_to_fp16=False)
        (folder / "whole.onnx").unlink()
    shutil.copy(next(checkpoint.rglob("config.json")), folder)
    before = [RenameObservationsProcessorStep(rename_map={}), AddBatchDimensionProcessorStep()]
    for name, steps in (("preprocessor", before), ("postprocessor", [DeviceProcessorStep(device="cpu")])):
        PolicyProcessorPipeline(steps, name=f"policy_{name}").save_pretrained(folder)
    numbers = {
        n: {key: s[key] for key in ("names", "low", "high")} for n, s in said["observation"].items() if "low" in s
    }
    numbers["action"] = {key: said["action"][key] for key in ("names", "low", "high")}
    manifest = Manifest(
        format=kind,
        policy=config.type,
        graphs={"whole": "whole.onnx" if kind == "onnx" else "whole.xml"},
        steps=0,
        inputs=inputs,
        rename_map={},
        history=1,
        chunk=chunk,
        n_action_steps=chunk,
        ensemble=None,
        action=size,
        numbers=numbers,
        noise=None,
        instructions=Instructions({task: [1] for task in tasks}, 1, used=True) if tasks else None,
        fps=said["fps"],
        source=said["run"],
        check={"max_error": 1e-6},
        files={path.name: sha256_of(path) for path in folder.iterdir()},
    )
    (folder / "manifest.json").write_text(json.dumps(manifest.to_json()))
    return folder


def weights(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.3, 0.3, (rows, columns)).astype(np.float32)


_ALONE = """
import sys

class Only:
    def find_spec(self, name, path=None, target=None):
        # What onnxruntime itself imports stays.
        top = name.partition(".")[0]
        allowed = {"hlrp", "numpy", "onnxruntime", "flatbuffers", "google", "packaging", "coloredlogs", "humanfriendly"}
        if top in allowed or top in sys.stdlib_module_names or name.startswith("_"):
            return None
        raise ModuleNotFoundError(f"{name} is kept out by the test", name=name)

sys.meta_path.insert(0, Only())
import json
import numpy as np
from hlrp.runtime import load

folder, given, task = sys.argv[1:]
given = np.load(given)
policy = load(folder, seed=0)
noise = given["noise"] if "noise" in given else None
actions = []
for picture, state in zip(given["pictures"], given["states"]):
    observation = {"observation.image": picture, "observation.state": state, "task": task}
    actions.append(policy.select_action(observation, noise=noise).tolist())
heavy = [name for name in ("torch", "lerobot", "transformers", "pydantic", "hlrp.evaluation") if name in sys.modules]
print(json.dumps({"actions": actions, "heavy": heavy, "engine": policy.engine}))
"""


def run_alone(
    folder: Path, shown: list[dict[str, Any]], scratch: Path, *, noise: np.ndarray | None = None, task: str = ""
) -> dict[str, Any]:
    """What the runtime says to observations in a process where all but its own packages cannot be imported."""
    arrays = {
        "pictures": np.stack([o["observation.image"] for o in shown]),
        "states": np.stack([o["observation.state"] for o in shown]),
    }
    np.savez(scratch / "given.npz", **arrays, **({} if noise is None else {"noise": noise}))
    argv = [sys.executable, "-c", _ALONE, str(folder), str(scratch / "given.npz"), task]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
