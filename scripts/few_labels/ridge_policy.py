"""The cheap tier: policies that are ridge regressions from a picture's components to a chunk of actions, rolled out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from few_labels.design import EVALUATION_SEEDS, EVALUATION_STEPS, IMAGE_SIZE, TASKS, Cell, Places
from few_labels.labels import Labels, all_vectors, latents_of, pseudo_labels
from few_labels.trust import OtherRows, Situation
from few_labels.videos import Basis, Floats, Ints, Videos, thumbnails
from hlrp.latents.action_estimators import fit_ridge, make_folds, predict
from hlrp.latents.actions import ActionDecoder, fit_actions
from hlrp.latents.step_features import Inputs, Transitions
from hlrp.latents.table import LatentTable
from hlrp.sim.metaworld_gym import LightMetaworldEnv

CHUNK = 8


class Policy(Protocol):
    """What can be rolled out."""

    def chunk(self, seen: Floats, task: str) -> Floats:
        """Components ``[1, C]`` and the task's sentence to actions ``[CHUNK, A]``."""
        ...


class _ByTask:
    """A ridge regression a task from components of the frame; its strength is chosen by leaving episodes out."""

    def __init__(self, videos: Videos, targets: Floats, rows: Ints) -> None:
        """Fit ``targets [n, T]`` of the frames ``rows [n]``."""
        self._weights = {}
        tasks = np.asarray(videos.task)[videos.episode[rows]]
        for task in videos.tasks:
            mine = tasks == task
            folds = make_folds(videos.episode[rows[mine]], videos.task)
            each = [np.asarray([column]) for column in range(targets.shape[1])]
            fit = fit_ridge(videos.frames[rows[mine]], targets[mine].astype(np.float64), folds, each)
            self._weights[task] = fit.weights

    def __call__(self, seen: Floats, task: str) -> NDArray[np.float64]:
        return predict("ridge", self._weights[task], seen)


@dataclass(frozen=True)
class DirectPolicy:
    """Frame to actions."""

    regression: _ByTask

    @classmethod
    def fit(cls, videos: Videos, actions: Floats, episodes: Sequence[int]) -> "DirectPolicy":
        """Fit on actions ``[N, A]``, true or decoded, of some episodes; after an episode's end its last one holds."""
        rows = videos.rows(list(episodes))
        targets = np.stack([actions[videos.later(rows, step)] for step in range(CHUNK)], axis=1)
        return cls(_ByTask(videos, targets.reshape(len(rows), -1), rows))

    def chunk(self, seen: Floats, task: str) -> Floats:
        """See `Policy`."""
        return self.regression(seen, task).reshape(CHUNK, -1).astype(np.float32)


@dataclass(frozen=True)
class LatentPolicy:
    """Frame to latent, learned from all videos; latent to actions, learned from the labelled episodes."""

    regression: _ByTask
    decoder: ActionDecoder

    @classmethod
    def fit(cls, videos: Videos, table: LatentTable, labelled: Sequence[int]) -> "LatentPolicy":
        """Fit both."""
        vectors, valid = all_vectors(table)
        rows = np.flatnonzero(valid)
        decoder = fit_actions(table, videos.info, labelled, horizon=CHUNK, inputs="vectors")
        return cls(_ByTask(videos, vectors[rows], rows), decoder)

    def chunk(self, seen: Floats, task: str) -> Floats:
        """See `Policy`."""
        vector = self.regression(seen, task).astype(np.float32)[:, None]
        return self.decoder.decode(Transitions(vector, np.ones((1, 1), bool)))[0][0]


def make_policy(cell: Cell, videos: Videos, places: Places, labelled: list[int]) -> tuple[Policy, Labels | None]:
    """The policy of a cell, and the labels it was fitted on if they were made up."""
    every = list(range(len(videos.start)))
    inputs: Inputs = "both"
    rows = np.arange(videos.info.frames)
    if cell.tier == "trust":
        inputs, rows = Situation.of(cell.seed).inputs, Situation.of(cell.seed).seen(videos, labelled)
        videos = replace(videos, frames=videos.frames[rows])
    if cell.arm == "all":
        return DirectPolicy.fit(videos, videos.actions(every), every), None
    if cell.arm == "actions":
        return DirectPolicy.fit(videos, videos.actions(labelled), labelled), None
    kind, _, source = cell.arm.partition("_")
    table = latents_of(source or "laq", videos, places, cell)
    if kind == "latent":
        return LatentPolicy.fit(videos, table, labelled), None
    labels = pseudo_labels(OtherRows(table, rows) if cell.tier == "trust" else table, videos, labelled, inputs)
    return DirectPolicy.fit(videos, labels.actions, every), labels


def roll_out(
    policy: Policy, basis: Basis, tasks: Sequence[str] = TASKS, camera_shake: float = 0.0
) -> dict[tuple[str, int], bool]:
    """Whether each evaluation episode succeeds, by task and seed; a frame is drawn where a chunk begins."""
    outcomes = {}
    for task in tasks:
        env = LightMetaworldEnv(task, image_size=IMAGE_SIZE, episode_length=EVALUATION_STEPS, camera_shake=camera_shake)
        for seed in EVALUATION_SEEDS:
            outcomes[task, seed] = _succeeds(policy, basis, env, seed)
        env.close()
    return outcomes


def _succeeds(policy: Policy, basis: Basis, env: LightMetaworldEnv, seed: int) -> bool:
    observation, _ = env.reset(seed=seed)
    while True:
        seen = basis.project(thumbnails(observation["pixels"][env.camera_name].transpose(2, 0, 1)[None]))
        for step, action in enumerate(np.clip(policy.chunk(seen, env.task_description), -1, 1)):
            env.draw_frames(step == CHUNK - 1)
            observation, _, terminated, truncated, info = env.step(action)
            if terminated or truncated:
                return bool(info["is_success"])
