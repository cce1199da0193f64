"""The environment of a diagnosis, task by task: what it shows at recorded seeds, and what recorded actions do in it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlrp.camera_names import cameras_among
from hlrp.evaluation.environment import build_environments, observe, observed_shapes
from hlrp.evaluation.replay import Played, play
from hlrp.sim.catalog import envs_catalog


@dataclass(frozen=True, eq=False)
class Simulator:
    """One environment of one task.

    Args:
        task: Its task.
        vec: The vector environment of one copy.
        processors: LeRobot's pre- and postprocessor of the environment.
        rename: Its names of features to the policy's.
        rate: Steps per second.
    """

    task: str
    vec: Any
    processors: tuple[Any, Any]
    rename: Mapping[str, str]
    rate: float

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What it gives a policy, by its own names."""
        return observed_shapes(self.vec, self.processors[0])

    @property
    def actions(self) -> int | None:
        """Numbers of an action; None: its actions are no vector."""
        shape = getattr(self.vec.single_action_space, "shape", None)
        return int(shape[0]) if shape else None

    def first(self, seed: int) -> dict[str, NDArray[Any]]:
        """The first observation of a seed by the policy's names: numbers [D] float32, pictures [3, H, W] uint8."""
        from lerobot.envs.utils import NEW_ROLLOUT_OPTION

        observation, _ = self.vec.reset(seed=[seed], options={NEW_ROLLOUT_OPTION: True})
        found = observe(self.vec, observation, self.processors[0])
        tensors = {self.rename.get(k, k): v[0] for k, v in found.items() if hasattr(v, "shape") and k.startswith("obs")}
        pictures = set(cameras_among(tensors))
        return {k: (v * 255).round().byte().numpy() if k in pictures else v.float().numpy() for k, v in tensors.items()}

    def play(self, seed: int, actions: NDArray[np.float32]) -> Played:
        """Play actions [T, A] from the first state of a reset seed."""
        return play(self.vec, self.processors, seed, actions)


@contextmanager
def simulators(env_cfg: Any, policy_config: Any, rename: Mapping[str, str], fields: Mapping[str, Any]) -> Iterator[Any]:
    """The environments of a configuration, closed in the end.

    Args:
        env_cfg: LeRobot's configuration of the environment.
        policy_config: That of the policy.
        rename: The environment's names of features to the policy's.
        fields: Of the environment that were asked for.
    """
    from lerobot.envs import close_envs, make_env_pre_post_processors

    processors = make_env_pre_post_processors(env_cfg, policy_config)
    environments = build_environments(env_cfg, 1, use_async=False)
    try:
        yield [Simulator(task, vec, processors, rename, _rate(env_cfg, vec, fields)) for task, vec in environments]
    finally:
        close_envs([vec for _, vec in environments])


def _rate(env_cfg: Any, vec: Any, fields: Mapping[str, Any]) -> float:
    """Steps per second: as asked for, as known of the simulator, or as the environment says."""
    entry = envs_catalog().get(env_cfg.type)
    if "fps" in fields:
        return float(env_cfg.fps)
    if entry is not None:
        return float(entry.recording.fps)
    return float((vec.metadata or {}).get("render_fps") or env_cfg.fps)
