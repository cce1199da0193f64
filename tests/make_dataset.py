"""A small LeRobotDataset v3.0 with real encoded video, made by LeRobot's own writer."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

FPS = 10


def make_dataset(
    root: Path,
    *,
    episodes: int = 2,
    length: int = 24,
    size: int = 64,
    action_dim: int = 3,
    state_dim: int = 2,
    camera: str | None = "observation.image",
    cameras: Sequence[str] | None = None,
    action: bool = True,
    tasks: Sequence[str] = ("move the square",),
) -> Path:
    """Record a square that moves as its actions say; ``camera=None`` and ``action=False`` leave features out.

    All ``cameras``, if they are given in place of one, see the same. Episodes take the ``tasks`` in turn.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    state = {"dtype": "float32", "shape": (state_dim,), "names": None}
    features: dict[str, dict[str, object]] = {"observation.state": state}
    names = list(cameras) if cameras is not None else [camera] if camera else []
    for camera in names:
        features[camera] = {"dtype": "video", "shape": (size, size, 3), "names": ["height", "width", "channel"]}
    if action:
        features["action"] = {"dtype": "float32", "shape": (action_dim,), "names": None}
    dataset = LeRobotDataset.create(repo_id=root.name, fps=FPS, root=root, features=features, use_videos=bool(names))
    rng = np.random.default_rng(0)
    for episode in range(episodes):
        position = rng.uniform(10, size - 10, 2)
        for _ in range(length):
            move = rng.uniform(-2, 2, action_dim).astype(np.float32)
            frame: dict[str, object] = {
                "observation.state": np.resize(position, state_dim).astype(np.float32),
                "task": tasks[episode % len(tasks)],
            }
            if names:
                image = np.full((size, size, 3), 40, np.uint8)
                x, y = position.astype(int)
                image[y - 4 : y + 4, x - 4 : x + 4] = (220, 60, 60)
                frame |= dict.fromkeys(names, image)
            if action:
                frame["action"] = move
            dataset.add_frame(frame)
            position = np.clip(position + move[:2], 6, size - 6)
        dataset.save_episode()
    dataset.finalize()
    # SVT-AV1, run as root, makes the calling thread a realtime one; so would all be that is started from here.
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return root
