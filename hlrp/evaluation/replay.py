"""Playing recorded actions back, to tell a broken environment from a broken policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.data import read_dataset, read_episodes
from hlrp.data.columns import read_column
from hlrp.errors import UserError
from hlrp.evaluation.environment import observe
from hlrp.evaluation.environment_plan import recorded_episodes
from hlrp.evaluation.frames import ON_DEMAND
from hlrp.evaluation.request import Listener
from hlrp.evaluation.statistics import wilson_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Recordings hold successful episodes and the actions that were executed, so a sound environment repeats them all;
# the rest is room for other processors' floating-point arithmetic.
REPRODUCED = 0.9


def recorded_rows(root: Path, tasks: Sequence[str], per_task: int) -> list[dict[str, Any]]:
    """The first ``per_task`` recorded episodes of each task as `{episode_index, task, seed}`.

    Raises:
        UserError: It has none of the tasks.
    """
    rows = recorded_episodes(root)
    chosen: list[dict[str, Any]] = []
    for task in tasks or list(dict.fromkeys(r["task"] for r in rows)):
        chosen += [r for r in rows if r["task"] == task][:per_task]
    if not chosen:
        raise UserError(
            f"the dataset holds no episode of {', '.join(tasks)}",
            where=f"--replay {root}",
            fix=f"it holds {', '.join(sorted({r['task'] for r in rows}))}",
        )
    return chosen


def recorded_columns(root: Path, episodes: set[int]) -> dict[int, dict[str, Any]]:
    """Actions [T, A] and, where recorded, states [T, D] of some episodes, as float32 arrays in frame order."""
    info = read_dataset(None, root)
    if "action" not in info.features:
        raise UserError("the dataset has no column 'action'", where=str(root), fix="replay a recorded dataset")
    names = [name for name in ("action", "observation.state") if name in info.features]
    columns = {name: read_column(info, name, sorted(episodes)) for name in names}
    table = read_episodes(info)
    return {e: {name: c[table.start[e] : table.end[e]] for name, c in columns.items()} for e in episodes}


@dataclass(frozen=True)
class Played:
    """Recorded actions as an environment answered them.

    Args:
        success: Whether it solved its task.
        states: `observation.state` before each action that was executed, float32 `[T, D]`; None: it gives none.
        length: Actions executed before the episode ended.
    """

    success: bool
    states: "NDArray[np.float32] | None"
    length: int


def play(vec: Any, processors: tuple[Any, Any], seed: int, actions: "NDArray[np.float32]") -> Played:
    """Play actions from the first state of a reset seed.

    Args:
        vec: A vector environment of one copy.
        processors: LeRobot's pre- and postprocessor of the environment.
        seed: Reset seed.
        actions: As a policy would give them, `[T, A]`.
    """
    import numpy as np
    import torch
    from lerobot.envs.utils import NEW_ROLLOUT_OPTION

    observation, _ = vec.reset(seed=[seed], options={NEW_ROLLOUT_OPTION: True})
    able = bool((vec.metadata or {}).get(ON_DEMAND))
    if able:  # nobody looks at the pictures
        vec.call("draw_frames", False)
    states, success, length = [], False, 0
    for action in torch.from_numpy(np.ascontiguousarray(actions)):
        state = observe(vec, observation, processors[0]).get("observation.state")
        if isinstance(state, torch.Tensor):
            states.append(state[0].numpy().astype(np.float32))
        executed = processors[1]({"action": action[None]})["action"].numpy()
        observation, _, terminated, truncated, info = vec.step(executed)
        length += 1
        final = info.get("final_info")
        source = final if isinstance(final, dict) else info
        success = success or bool(np.any(source.get("is_success", False)))
        if terminated[0] or truncated[0]:
            break
    if able:
        vec.call("draw_frames", True)
    return Played(success, np.stack(states) if states else None, length)


def replay_recording(root: Path, env_cfgs: list[Any], per_task: int, listener: Listener) -> dict[str, Any]:
    """Play recorded episodes from their reset seeds and report how many succeed again.

    Returns:
        `dataset`, `tasks` (successes with their interval), `episodes`, `reproduced`, and `problems` in words.

    Raises:
        UserError: The dataset cannot be replayed.
    """
    from lerobot.envs import close_envs, make_env_pre_post_processors

    from hlrp.evaluation.environment import build_environments

    tasks = [str(c.task) for c in env_cfgs if c.task]
    rows = recorded_rows(root, tasks, per_task)
    recorded = recorded_columns(root, {r["episode_index"] for r in rows})
    episodes: list[dict[str, Any]] = []
    for env_cfg in env_cfgs:
        environments = build_environments(env_cfg, 1, use_async=False)
        processors = make_env_pre_post_processors(env_cfg, None)
        try:
            for task, vec in environments:
                mine = [r for r in rows if r["task"] == task]
                listener.started(f"replay {task}", len(mine))
                for row in mine:
                    columns = recorded[row["episode_index"]]
                    played = play(vec, processors, row["seed"], columns["action"])
                    found = {"success": played.success, "length": played.length}
                    episodes.append({**row, **found, "largest_state_error": _state_error(played, columns)})
                    done = [e for e in episodes if e["task"] == task]
                    listener.finished(f"replay {task}", len(done), sum(e["success"] for e in done))
        finally:
            close_envs([e for _, e in environments])
    return _report(root, episodes)


def _state_error(played: Played, columns: dict[str, Any]) -> float | None:
    import numpy as np

    recorded = columns.get("observation.state")
    if recorded is None or played.states is None or played.states.shape[1:] != recorded.shape[1:]:
        return None
    return float(np.abs(played.states - recorded[: len(played.states)]).max())


def _report(root: Path, episodes: list[dict[str, Any]]) -> dict[str, Any]:
    tasks, problems = {}, []
    for task in dict.fromkeys(e["task"] for e in episodes):
        mine = [e for e in episodes if e["task"] == task]
        successes = sum(e["success"] for e in mine)
        tasks[task] = {
            "episodes": len(mine),
            "successes": successes,
            "success_rate": successes / len(mine),
            "success_interval": list(wilson_interval(successes, len(mine))),
        }
        if successes < REPRODUCED * len(mine):
            problems.append(
                f"{task}: the environment does not reproduce the recording ({successes} of {len(mine)} recorded "
                "episodes succeed again); compare its settings and package versions with the recording's before "
                "blaming the policy"
            )
    return {
        "dataset": str(root),
        "tasks": tasks,
        "episodes": episodes,
        "reproduced": not problems,
        "problems": problems,
    }
