"""Runs of `LightningTrainer` on the toy module, and what they left."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from hlrp.config import load_config
from hlrp.runs import RunDirectory

sys.path.insert(0, str(Path(__file__).parent))
import lightning_toy as toy

from trainers.lightning.trainer import LightningTrainer

EXACT = {"steps": 40, "log_freq": 1, "save_freq": 20, "device": "cpu", "eval_split": 0.1, "eval_steps": 10}


def fit(out: Path, net: toy.Net | None = None, data: Any = None, **settings: Any) -> toy.Net:
    net = net or toy.Net()
    LightningTrainer(**settings).fit(net, data or toy.Data(), output_dir=out)
    return net


def resume(out: Path, steps: int | None = None, data: Any = None) -> toy.Net:
    net = toy.Net()
    run: Any = load_config(out / "config.yaml").config
    LightningTrainer().resume(RunDirectory.open(out), run, steps=steps, module=net, datamodule=data or toy.Data())
    return net


def rows(out: Path) -> list[dict[str, float]]:
    """Rows without what depends on the clock."""
    timed = {"update_s", "data_s", "data_wait", "samples_per_s", "rss_mb", "time"}
    return [{k: v for k, v in row.items() if k not in timed} for row in RunDirectory.open(out).metrics()]


def state(out: Path, step: int) -> tuple[dict[str, torch.Tensor], str]:
    folder = out / "checkpoints" / f"{step:06d}" / "training_state"
    return load_file(folder / "lightning.safetensors"), (folder / "lightning.json").read_text()


def assert_same(a: Path, b: Path, step: int) -> None:
    """Weights, moments, random states, counters: the whole training state."""
    tensors_a, json_a = state(a, step)
    tensors_b, json_b = state(b, step)
    assert tensors_a.keys() == tensors_b.keys()
    assert [k for k, t in tensors_a.items() if not torch.equal(t, tensors_b[k])] == []
    assert json.loads(json_a)["checkpoint"]["loops"] == json.loads(json_b)["checkpoint"]["loops"]


def program(out: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(Path(toy.__file__)), json.dumps({"output_dir": str(out), **settings})]
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=400, check=False, env=os.environ | {"PYTHONPATH": root}
    )
