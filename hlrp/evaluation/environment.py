"""Building the environment of an evaluation as `lerobot-eval` does, and what it gives a policy to see."""

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any

from hlrp.errors import UserError, causes, suggest
from hlrp.sim.catalog import envs_catalog

_DERIVED_FIELDS = ("features", "features_map")


@contextlib.contextmanager
def without_prints() -> Iterator[None]:
    """Keep LeRobot's own `print` calls off standard output, which belongs to `--json`; errors still raise."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def environment_config(env_type: str, task: str | None, fields: dict[str, Any]) -> Any:
    """LeRobot's configuration object of an environment. Plugins have to be registered before.

    Raises:
        UserError: Unknown type, field or task, or a value that the class refuses.
    """
    import draccus
    from lerobot.envs.configs import EnvConfig

    known = EnvConfig.get_known_choices()
    if env_type not in known:
        raise UserError(f"unknown environment type {env_type!r}", where="--env", fix=suggest(env_type, known))
    cls = known[env_type]
    names = {f.name for f in dataclasses.fields(cls)} - set(_DERIVED_FIELDS)
    for name in fields:
        if name not in names:
            raise UserError(
                f"environment {env_type!r} has no field {name!r}", where=f"env.{name}", fix=suggest(name, names)
            )
    values = {**fields, **({} if task is None else {"task": task})}
    try:
        return draccus.decode(cls, values)
    except UserError:
        raise
    except Exception as error:
        # draccus wraps what __post_init__ raises.
        for cause in causes(error):
            if isinstance(cause, UserError):
                raise cause from error
        raise UserError(
            f"environment {env_type!r} refuses its settings: {error}", where=f"env = {values}", fix="change that field"
        ) from error


def build_environments(env_cfg: Any, n_envs: int, use_async: bool) -> list[tuple[str, Any]]:
    """Vector environments of a configuration as `(label, environment)`; a group of tasks gives several.

    Raises:
        UserError: The simulator is not installed, or it does not know the task.
    """
    import gymnasium as gym
    from lerobot.envs import make_env
    from lerobot.envs.utils import FreezeAfterEpisodeEnd

    try:
        with without_prints():
            suites = make_env(env_cfg, n_envs=n_envs, use_async_envs=use_async)
    except (ModuleNotFoundError, gym.error.Error) as error:
        entry = envs_catalog().get(env_cfg.type)
        fix = f"pip install -e '.[{entry.extra}]'" if entry else "install the packages of this environment"
        raise UserError(f"environment {env_cfg.type!r} cannot be made: {error}", where="--env", fix=fix) from error
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(
            f"environment {env_cfg.type!r} refuses task {env_cfg.task!r}: {error}",
            where="--task",
            fix="name another task",
        ) from error
    found, groups = [], [suite for suite, group in suites.items() for _ in group]
    for suite, group in suites.items():
        for task_id, vec in group.items():
            if isinstance(vec, gym.vector.SyncVectorEnv):
                # LeRobot freezes finished copies only in its asynchronous environments. Here it also keeps the final
                # frame, which Gymnasium's autoreset would replace, and saves stepping copies nobody waits for.
                vec.envs = [e if isinstance(e, FreezeAfterEpisodeEnd) else FreezeAfterEpisodeEnd(e) for e in vec.envs]
            found.append((task_label(env_cfg.task, groups, suite, task_id), vec))
    return found


def task_label(task: str | None, groups: Sequence[str], group: str, number: int) -> str:
    """The name of one of an environment's tasks in results and rows.

    Args:
        task: What the environment's configuration says: a task, or several with commas between them.
        groups: The group of each of its tasks, as LeRobot's `make_env` gives them.
        group: Of the one to be named.
        number: Of the one to be named, in its group.
    """
    if task and len(groups) == 1:
        return task
    return group if groups.count(group) == 1 and group in (task or "").split(",") else f"{group}_{number}"


def observe(vec: Any, observation: Any, env_preprocessor: Any) -> dict[str, Any]:
    """What a policy's preprocessor is given of an observation, as in LeRobot's rollout.

    Args:
        vec: The vector environment.
        observation: What its `reset` or `step` returned.
        env_preprocessor: Of LeRobot's `make_env_pre_post_processors`.

    Returns:
        LeRobot's names to tensors `[N, ...]`, pictures `[N, C, H, W]` in [0, 1]; and `task`.
    """
    from lerobot.envs import preprocess_observation

    found = preprocess_observation(observation)
    found["task"] = [""] * vec.num_envs
    for name in ("task_description", "task"):
        with contextlib.suppress(AttributeError, NotImplementedError):
            found["task"] = list(vec.call(name))
            break
    return env_preprocessor(found)


def observed_shapes(vec: Any, env_preprocessor: Any) -> dict[str, tuple[int, ...]]:
    """What the environment really gives a policy, by LeRobot's names; images as (C, H, W)."""
    import numpy as np
    from gymnasium.vector.utils import create_empty_array
    from lerobot.envs import preprocess_observation

    space = getattr(vec, "single_observation_space", None) or vec.observation_space
    observation = preprocess_observation(create_empty_array(space, n=1, fn=np.zeros))
    observation = env_preprocessor({**observation, "task": [""]})
    return {
        k: tuple(v.shape[1:]) for k, v in observation.items() if k.startswith("observation") and hasattr(v, "shape")
    }
