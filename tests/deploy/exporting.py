"""Exports of tiny policies, and the runtime in a process that has nothing but NumPy and onnxruntime."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tiny_policies import DIFFUSION, VLM_FIELDS, save_tiny, save_tiny_act, save_tiny_vlm

from hlrp.deploy.export.request import ExportRequest
from hlrp.deploy.export.run import export_policy
from hlrp.runtime import Manifest

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
