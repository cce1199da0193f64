"""Vector environments whose finished copies keep showing their end, and that any reset with seeds starts anew."""

import multiprocessing
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
from lerobot.envs.utils import NEW_ROLLOUT_OPTION, FreezeAfterEpisodeEnd

from hlrp.compat import lazy_async_envs


class HoldFinalState(FreezeAfterEpisodeEnd):
    """LeRobot's freeze at an episode's end, thawed by any reset that names a seed.

    Gymnasium resets a finished copy by itself, without a seed, and would hide its last frame while the rollout waits
    for the others. LeRobot's own wrapper stays frozen even when a caller asks for a seed.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a new episode if ``seed`` or LeRobot's new-rollout option is given, else repeat the final state."""
        return super().reset(seed=seed, options=_thawing(seed, options))


class _LazyAsyncEnvs(lazy_async_envs()):  # type: ignore[misc]
    """LeRobot's lazily started worker processes, thawed by any reset that names seeds."""

    preload: str = __name__

    def _ensure(self) -> None:
        # The fork server imports LeRobot once for all copies; without this each of them does, ten seconds each.
        multiprocessing.set_forkserver_preload([self.preload])
        super()._ensure()

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return super().reset(seed=seed, options=_thawing(seed, options))


def _thawing(seed: Any, options: dict[str, Any] | None) -> dict[str, Any] | None:
    return options if seed is None else {**(options or {}), NEW_ROLLOUT_OPTION: True}


def _held(make: Callable[[], gym.Env]) -> gym.Env:
    return HoldFinalState(make())


def copies(env: Callable[..., gym.Env], task: str, n_envs: int, switches: dict[str, Any], *, use_async: bool) -> Any:
    """A vector environment of one task.

    Args:
        env: Class of the environment.
        task: Its task.
        n_envs: Number of copies, at least 1.
        switches: Arguments of the environment besides the task.
        use_async: With more than one copy, each lives in its own process.
    """
    if n_envs < 1:
        raise ValueError(f"n_envs must be at least 1, got {n_envs}")
    make = partial(env, task, **switches)
    if use_async and n_envs > 1:
        found = _LazyAsyncEnvs([make] * n_envs)
        found.preload = env.__module__
        return found
    return gym.vector.SyncVectorEnv([partial(_held, make)] * n_envs)
