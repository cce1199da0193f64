"""Runs of `hlrp train --trainer lerobot` that several files of tests look at."""

import subprocess
import sys
from pathlib import Path

from command import instead

from hlrp.runs import RunDirectory

TINY_ACT = (
    "model.chunk_size=8",
    "model.n_action_steps=8",
    "model.hidden_dim=32",
    "model.n_heads=2",
    "model.dim_feedforward=32",
    "model.pretrained_backbone_weights=null",
)


def train_args(root: Path, out: Path, policy: str = "act", steps: int = 40, *more: str, workers: int = 0) -> list[str]:
    """Data workers, which import LeRobot anew, only where they are looked at."""
    base = ["train", "--trainer", "lerobot", "--policy", policy, "--dataset-root", str(root), "--device", "cpu"]
    sizes = ["--steps", str(steps), "--batch-size", "4", "--output-dir", str(out), f"data.num_workers={workers}"]
    return instead([*base, *sizes], more)


def metrics_of(run: Path) -> dict[int, dict[str, float]]:
    return {row["step"]: row for row in RunDirectory.open(run).metrics()}


STOCK = """
import sys, torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
path = sys.argv[1]
config = PreTrainedConfig.from_pretrained(path)
policy = get_policy_class(config.type).from_pretrained(path)
pre, post = make_pre_post_processors(config, pretrained_path=path)
batch = {name: torch.rand(1, *feature.shape) for name, feature in config.input_features.items()}
action = post(policy.select_action(pre(batch)))
assert action.shape == (1, *config.output_features["action"].shape) and torch.isfinite(action).all(), action
print("hlrp" in " ".join(sys.modules))
"""


def assert_loads_in_stock_lerobot(pretrained: Path) -> None:
    """Load a policy and its processors in another process, without this project's modules, and act once."""
    done = subprocess.run(
        [sys.executable, "-c", STOCK, str(pretrained)], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("False"), "stock LeRobot must need none of our modules"
