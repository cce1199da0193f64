"""The environment that a policy is evaluated in: what is left open of it, and which of its seeds were recorded.

Reads small files only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hlrp.sim.catalog import envs_catalog, expand_tasks, require_installed
from hlrp.sim.dataset import read_metadata

# Fields that LeRobot's environment classes derive themselves: taking them from an old file would freeze them.
_DERIVED = ("type", "task", "features", "features_map", "max_parallel_tasks")


@dataclass
class EnvironmentPlan:
    """An environment with nothing left open.

    Args:
        env_type: LeRobot environment type.
        env_fields: Fields for its configuration class.
        tasks: Tasks; empty means the environment's own default.
        recorded_seeds: Reset seeds that training data was recorded from, per task.
    """

    env_type: str
    env_fields: dict[str, Any]
    tasks: list[str]
    recorded_seeds: dict[str, set[int]] = field(default_factory=dict)


def settle_environment(
    env_type: str,
    fields: Mapping[str, Any],
    tasks: list[str],
    sources: Sequence[Mapping[str, Any]],
    image_size: int | None,
) -> EnvironmentPlan:
    """Fill in what is left open of an environment.

    Args:
        env_type: LeRobot environment type.
        fields: Those that were given.
        tasks: Those that were given; empty: those of the first source that names some.
        sources: Descriptions `{type, task, **fields}`, the one that wins first; others of another type say nothing.
        image_size: Side of the square pictures that the policy gets, for a simulator that draws at a chosen size.

    Raises:
        UserError: The simulator does not know the task, or is not installed.
    """
    same = [s for s in sources if s.get("type") == env_type]
    settled: dict[str, Any] = {}
    for found in reversed(same):
        settled.update({k: v for k, v in found.items() if k not in _DERIVED})
    entry = envs_catalog().get(env_type)
    if entry and entry.is_light and image_size:
        settled.setdefault("image_size", image_size)
    tasks = tasks or next((split_tasks(s["task"]) for s in same if s.get("task")), [])
    return EnvironmentPlan(env_type, {**settled, **fields}, _known_tasks(env_type, tasks))


def _known_tasks(env_type: str, tasks: list[str]) -> list[str]:
    """Single task names; checked here for the simulators whose tasks are known without importing them."""
    if env_type not in envs_catalog():
        return list(dict.fromkeys(tasks))
    require_installed(env_type)
    return expand_tasks(env_type, tasks or [envs_catalog()[env_type].default_task], where="--task")


def split_tasks(task: str | list[str]) -> list[str]:
    """Names from a comma list, or a list."""
    names = task.split(",") if isinstance(task, str) else task
    return [n.strip() for n in names if n.strip()]


def side_of_pictures(sizes: set[tuple[int, int]]) -> int | None:
    """Side of square pictures, if all have the one size."""
    return next((h for h, w in sizes if h == w), None) if len(sizes) == 1 else None


def recorded_environment(root: Path) -> dict[str, Any]:
    """Environment `{type, task, **fields}` that a dataset was recorded in, or {} when it does not say."""
    raw = read_metadata(root)
    if raw is None:
        return {}
    entry = envs_catalog().get(raw["env_type"])
    fields = entry.recording.env_fields if entry else None
    if fields is None:
        fields = {k: raw[k] for k in ("image_size", "camera_name", "camera_shake") if k in raw}
    return {"type": raw["env_type"], "task": ",".join(raw["tasks"]), **fields}


def recorded_episodes(root: Path) -> list[dict[str, Any]]:
    """Rows `{episode_index, task, seed}` of a dataset that `hlrp collect` recorded; empty for any other."""
    rows = (read_metadata(root) or {}).get("episodes", [])
    return [{"episode_index": r["episode_index"], "task": r["task"], "seed": int(r["reset_seed"])} for r in rows]


def seeds_of(roots: Sequence[Path]) -> dict[str, set[int]]:
    """By task the reset seeds that datasets were recorded from."""
    seeds: dict[str, set[int]] = {}
    for row in (row for root in roots for row in recorded_episodes(root)):
        seeds.setdefault(row["task"], set()).add(row["seed"])
    return seeds


def warnings_of_seeds(plan: EnvironmentPlan, seed: int, episodes: int) -> list[str]:
    """For each task of which episodes begin as recorded ones did, what to do about it.

    Args:
        plan: What is evaluated in.
        seed: Of the first episode; the others count up from it.
        episodes: Of each task.
    """
    entry = envs_catalog().get(plan.env_type)
    count = None if entry is None else entry.first_states
    said = []
    for task in plan.tasks:
        recorded = plan.recorded_seeds.get(task, set())
        states = {s % count for s in recorded} if count else recorded
        seeds = range(seed, seed + episodes)
        seen = [s for s in seeds if (s % count if count else s) in states]
        if not seen:
            continue
        shown = ", ".join(map(str, seen[:5])) + (", ..." if len(seen) > 5 else "")
        shown += f": there are {count} first states, and seed S + {count} begins as seed S" if count else ""
        what = f"{task}: {len(seen)} of {episodes} evaluation seeds were recorded for training ({shown})"
        said.append(f"{what}; {_unseen(states, episodes, count)}")
    return said


def _unseen(states: set[int], episodes: int, count: int | None) -> str:
    """What to do to begin where no recorded episode did."""
    if count is None:
        return f"hlrp eval --seed {max(states) + 1} or more measures unseen scenes"
    for first in range(count):
        if not states & {(first + n) % count for n in range(episodes)}:
            return f"hlrp eval --seed {first} measures unseen scenes"
    return f"of the {count}, {count - len(states)} are unseen"
