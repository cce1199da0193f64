"""A small dataset in which it is known which frames are idle."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

FPS = 10
SIZE = 64
LENGTH = 60
IDLE = [[(10, 30), (45, 50)], [], [(0, 20)], [(40, 60)]]
"""Frames of each episode in which nothing changes: the picture, state and action are those of the first of them."""


def make_idle_dataset(
    root: Path, idle: Sequence[Sequence[tuple[int, int]]] = IDLE, *, action: bool = True, state: bool = True
) -> Path:
    """A bright bar that goes round, stored as exact pictures; state and action are its position and what it shall be.

    It moves by 2 of 64 columns a frame, which changes the picture between two different places by the same amount.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features: dict[str, dict[str, object]] = {
        "observation.image": {"dtype": "image", "shape": (SIZE, SIZE, 3), "names": ["height", "width", "channel"]}
    }
    if state:
        features["observation.state"] = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    if action:
        features["action"] = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    dataset = LeRobotDataset.create(repo_id=root.name, fps=FPS, root=root, features=features, use_videos=False)
    for number, runs in enumerate(idle):
        step = 0
        for frame in range(LENGTH):
            step += not any(first < frame < end for first, end in runs)
            place = 2 * step % SIZE
            image = np.zeros((SIZE, SIZE, 3), np.uint8)
            image[:, place : place + 2] = 255
            x, y = np.sin(step / 5), np.cos(step / 5)
            row: dict[str, object] = {"observation.image": image, "task": f"task {number % 2}"}
            if state:
                row["observation.state"] = np.array([x, y], np.float32)
            if action:
                row["action"] = np.array([x, y], np.float32)
            dataset.add_frame(row)
        dataset.save_episode()
    dataset.finalize()
    return root
