"""The cheap tier's policy: a ridge regression a task from a picture's components to a chunk of actions; rolled out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from few_labels.regression import Ridge, fit_ridge
from few_labels.videos import Basis, Floats, Ints, Videos, thumbnails

from hlrp.sim.metaworld_gym import LightMetaworldEnv

CHUNK = 8


def chunks(videos: Videos, actions: Floats, rows: Ints) -> Floats:
    """The actions from each frame on, ``[n, CHUNK * A]``; past the end of an episode its last is repeated."""
    return np.stack([actions[videos.later(rows, step)] for step in range(CHUNK)], 1).reshape(len(rows), -1)


@dataclass(frozen=True)
class RidgePolicy:
    """Acts on what it sees: the frame's components, and which task it is.

    Args:
        basis: Of the frames.
        by_task: A regression for each task sentence.
    """

    basis: Basis
    by_task: dict[str, Ridge]

    @classmethod
    def fit(cls, videos: Videos, actions: Floats, episodes: Sequence[int]) -> "RidgePolicy":
        """Fit on the actions, true or made up, of some episodes."""
        by_task = {}
        for task in videos.tasks:
            rows = videos.rows([e for e in episodes if videos.task[e] == task])
            by_task[task] = fit_ridge(videos.frames[rows], chunks(videos, actions, rows), videos.episode[rows])
        return cls(videos.basis, by_task)

    def __call__(self, frame: np.ndarray, task: str) -> Floats:
        """A frame ``[S, S, 3]`` uint8 to actions ``[CHUNK, A]`` in [-1, 1]."""
        seen = self.basis.project(thumbnails(frame.transpose(2, 0, 1)[None]))
        return np.clip(self.by_task[task].predict(seen).reshape(CHUNK, -1), -1, 1).astype(np.float32)


def roll_out(policy: RidgePolicy, env_task: str, seeds: Sequence[int], steps: int, size: int) -> list[bool]:
    """Whether each of the episodes that begin with ``seeds`` succeeds within ``steps`` steps."""
    env = LightMetaworldEnv(env_task, image_size=size, episode_length=steps)
    outcomes = []
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        ended = success = False
        while not ended:
            chunk = policy(observation["pixels"], env.task_description)
            for i, action in enumerate(chunk):
                env.draw_frames(i == CHUNK - 1)
                observation, _, terminated, truncated, info = env.step(action)
                success = bool(info["is_success"])
                ended = terminated or truncated
                if ended:
                    break
        outcomes.append(success)
    env.close()
    return outcomes
