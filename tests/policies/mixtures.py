"""Small mixtures for tests: a robot's episodes, a video without actions, and another robot's."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from make_dataset import make_dataset

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from edits import edit_column, tables

from hlrp.config import DataSection
from hlrp.data.policy_sources import PolicySources
from hlrp.data.source_sections import read_policy_sources

CAMERA, TOP = "observation.image", "observation.images.top"
SIDE = 96


def make_sources(folder: Path) -> dict[str, Path]:
    """`robot`: 4 episodes of 18 frames; `video`: 3 of 20, no action, its camera called otherwise; `other`: two cameras,
    5 actions a step, and in its second episode nothing but NaN."""
    robot = make_dataset(folder / "robot", episodes=4, length=18, size=SIDE, tasks=("push the square", "pull it"))
    video = make_dataset(
        folder / "video", episodes=3, length=20, size=SIDE, action=False, camera=TOP, tasks=("pull it",)
    )
    other = make_dataset(folder / "other", length=20, size=SIDE, action_dim=5, cameras=[CAMERA, TOP], tasks=("look",))
    (path,) = tables(other)
    for name in ("action", "observation.state"):
        edit_column(path, name, lambda values: np.where((np.arange(40) < 20)[:, None], values, np.nan))
    return {"robot": robot, "video": video, "other": other}


def sections(roots: dict[str, Path]) -> list[dict[str, Any]]:
    """A mixture of all three, of which two episodes of the robot are labelled."""
    return [
        {"root": str(roots["robot"]), "weight": 2.0, "labelled_episodes": [1, 2]},
        {"root": str(roots["video"]), "rename_map": {TOP: CAMERA}},
        {"root": str(roots["other"]), "labelled_episodes": "none"},
    ]


def joined(sources: list[dict[str, Any]], policy: str = "hlrp_vla_direct", **more: Any) -> PolicySources:
    """The mixture, as a run's checks make it."""
    options = {
        "masks": policy.startswith("hlrp_"),
        **{k: more.pop(k) for k in ("image_size", "states_shown") if k in more},
    }
    return read_policy_sources(DataSection(sources=sources, **more), policy, **options)


def lerobots_loop(run: Any, out: Path, monkeypatch: Any) -> tuple[list[float], list[float]]:
    """Train in LeRobot's own loop, in this process, with what the trainer's worker changes of its data.

    Returns:
        Loss and gradient norm of every step.
    """
    import draccus
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.scripts import lerobot_train
    from lerobot.utils.import_utils import register_third_party_plugins

    from trainers.lerobot.data_hooks import read_mixture
    from trainers.lerobot.trainer import plan
    from trainers.lerobot.worker import requested_mixture

    register_third_party_plugins()
    for name in ("make_train_eval_datasets", "EpisodeAwareSampler", "update_policy"):
        monkeypatch.setattr(lerobot_train, name, getattr(lerobot_train, name))
    command = plan(run, out).command
    for key, value in command.environment.items():
        monkeypatch.setenv(key, value)
    mixture = requested_mixture()
    assert mixture is not None
    read_mixture(lerobot_train, mixture)
    update, losses, norms = lerobot_train.update_policy, [], []

    def watched(tracker: Any, *args: Any, **kwargs: Any) -> Any:
        result = update(tracker, *args, **kwargs)
        losses.append(tracker.loss.val)
        norms.append(tracker.grad_norm.val)
        return result

    monkeypatch.setattr(lerobot_train, "update_policy", watched)
    monkeypatch.setattr("sys.argv", ["lerobot-train"])
    arguments = [*command.arguments, "--save_checkpoint=false"]
    lerobot_train.train(draccus.parse(TrainPipelineConfig, args=arguments))
    return losses, norms
