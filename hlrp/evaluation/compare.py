"""Comparing two evaluations of the same episodes: paired difference in success with its interval."""

import dataclasses
import json
import shlex
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hlrp.errors import Interrupted, UserError
from hlrp.evaluation.plan import EvalPlan, make_plan, read_json
from hlrp.evaluation.request import RESULTS, SCHEMA_VERSION, EvalRequest, EvalResult, Listener
from hlrp.evaluation.run import environment_fields, evaluate, save
from hlrp.evaluation.statistics import paired_difference

Trial = tuple[str, int]
# Tasks are compared with the seeds. How large pictures are is the policies' own affair, and these say how it is run.
_NOT_OF_THE_EPISODE = frozenset(
    {"task", "image_size", "observation_height", "observation_width", "visualization_height", "visualization_width"}
    | {"render_mode", "max_parallel_tasks", "disable_env_checker"}
)


def evaluate_against(request: EvalRequest, other: Path, *, listener: Listener | None = None) -> EvalResult:
    """Evaluate a policy and compare it, episode by episode, with another one or with earlier results.

    Args:
        request: The evaluation; its environment, tasks and seeds hold for both sides.
        other: A `results.json` (or the folder of one), else a run or checkpoint, which is evaluated on the same
            episodes into the subfolder `compared`.
        listener: Told about progress.

    Raises:
        UserError: The episodes differ, naming both sides; before any is run where that can be known.
        Interrupted: The second side was, naming where the results of the first one are.
    """
    plan = make_plan(request)
    if plan.pretrained is None:
        raise UserError("--compare needs a policy to compare", where="--compare", fix="give a run or a checkpoint")
    earlier = read_results(other)
    if earlier is not None:
        theirs = earlier.get("env") or {}
        _check_same_environment({"type": plan.env_type}, theirs, other)
        if plan.tasks:
            seeds = range(request.seed, request.seed + request.episodes)
            _check_same_trials({(t, s) for t in plan.tasks for s in seeds}, _outcomes(earlier), other)
        _check_same_environment(_environment(plan), theirs, other)
        result = evaluate(request, plan=plan, listener=listener)
    else:
        second = dataclasses.replace(
            request,
            policy_path=other,
            env_type=plan.env_type,
            tasks=plan.tasks,
            output=plan.folder / "compared",
            replay=None,
        )
        second_plan = make_plan(second)
        _check_same_environment(_environment(plan), _environment(second_plan), other)
        result = evaluate(request, plan=plan, listener=listener)
        second_plan = dataclasses.replace(second_plan, folder=result.folder / "compared")
        file = result.folder / RESULTS
        again = shlex.join(["hlrp", "eval", str(other), "--compare", str(file)])
        kept = f"the results of the first side are in {file}; to compare the other one with them, same flags: {again}"
        try:
            earlier = evaluate(second, plan=second_plan, listener=listener).to_json()
        except KeyboardInterrupt as error:
            raise Interrupted(f"interrupted: {kept}", signal.SIGINT, saved=True) from error
        except Exception:
            (listener or Listener()).note(f"warning: {kept}")
            raise
    result.comparison = compare(result, earlier, other)
    save(result)
    return result


def read_results(path: Path) -> dict[str, Any] | None:
    """Results of an earlier evaluation, or None when ``path`` is not the place of any.

    Raises:
        UserError: The file cannot be read as results of `hlrp eval`.
    """
    file = path / RESULTS if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        return None
    if not file.exists():
        raise UserError(
            "there is nothing to compare with", where=f"--compare {path}", fix="give a run or a results.json"
        )
    raw = read_json(file)
    if "episodes" not in raw or "schema_version" not in raw:
        raise UserError("this file does not hold results of `hlrp eval`", where=str(file), fix="give a results.json")
    if raw["schema_version"] > SCHEMA_VERSION:
        raise UserError("these results were written by a newer hlrp", where=str(file), fix="upgrade hlrp")
    return raw


def saved_results(path: Path, other: Path | None) -> EvalResult:
    """Earlier results, compared with others where there are some; nothing is run and nothing is written.

    Args:
        path: A `results.json`, or the folder of one.
        other: The same of what they are compared with.

    Raises:
        UserError: One of them cannot be read, or they are not of the same episodes.
    """
    raw = read_results(path)
    try:
        result = EvalResult.from_json(path if path.is_dir() else path.parent, raw or {})
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"these results cannot be read: {error}", where=str(path), fix="restore the file") from error
    if other is not None:
        theirs = read_results(other)
        if theirs is None:
            raise UserError(
                "results can only be compared with results", where=f"--compare {other}", fix="give a results.json"
            )
        result.comparison = compare(result, theirs, other)
    return result


def newest_in_common(sides: Sequence[Sequence[EvalResult]]) -> list[EvalResult | None]:
    """Of each side the newest evaluation of those episodes, in that environment, of which every evaluated side has one.

    Args:
        sides: The evaluations of each, newest first; one that has none is not evaluated, and keeps no other from it.

    Returns:
        One for each side; None: it is not evaluated, or the sides have no episodes in common.
    """
    conditions = [[_conditions(result) for result in side] for side in sides]
    first, *others = [each for each in conditions if each] or [[]]
    chosen = next((each for each in first if all(each in other for other in others)), None)
    return [
        next((result for result, each in zip(side, known, strict=True) if each == chosen), None)
        for side, known in zip(sides, conditions, strict=True)
    ]


def _conditions(result: EvalResult) -> str:
    """All but the policy that decides how the episodes go: environment or robot, tasks and seeds."""
    env, series = (result.provenance.get(name) or {} for name in ("env", "series"))
    fields = {k: v for k, v in (env.get("config") or {}).items() if k not in _NOT_OF_THE_EPISODE}
    robot = {k: v for k, v in (series.get("settings") or {}).items() if k.startswith("robot.")}
    trials = sorted((episode.task, episode.seed) for episode in result.episodes)
    return json.dumps([env.get("type"), fields, robot, trials], sort_keys=True)


def _outcomes(results: dict[str, Any]) -> dict[Trial, bool]:
    return {(e["task"], int(e["seed"])): bool(e["success"]) for e in results["episodes"]}


def _environment(plan: EvalPlan) -> dict[str, Any]:
    """A plan's environment as `results.json` describes it."""
    return {"type": plan.env_type, "config": environment_fields(plan)}


def _check_same_environment(mine: dict[str, Any], theirs: dict[str, Any], path: Path) -> None:
    """Refuse sides whose episodes could differ in more than the policy.

    Args:
        mine: `type` and `config`, all fields of the environment's class, of this side.
        theirs: The same of the other; results of older releases lack `config`.
        path: The other side.

    Raises:
        UserError: Naming the fields with both values.
    """
    differ = [("type", mine.get("type"), theirs.get("type"))] if mine.get("type") != theirs.get("type") else []
    if not differ and mine.get("config") and theirs.get("config"):
        here, there = mine["config"], theirs["config"]
        names = sorted((here.keys() | there.keys()) - _NOT_OF_THE_EPISODE)
        differ = [(name, here.get(name), there.get(name)) for name in names if here.get(name) != there.get(name)]
    if differ:
        listed = "; ".join(f"env.{name}: {a!r} here, {b!r} there" for name, a, b in differ)
        raise UserError(
            f"the two sides were not evaluated in the same environment ({listed})",
            where=f"--compare {path}",
            fix="evaluate both in one environment: give the same --env and env.FIELD=VALUE",
        )


def _inference_that_differs(mine: dict[str, Any], theirs: dict[str, Any], path: Path) -> dict[str, list[Any]]:
    """Of two series of trials on a robot, which settings of the inference differ, with both values; {} of others.

    Args:
        mine: What `results.json` says of this side.
        theirs: The same of the other; results of older releases lack `settings`.
        path: The other side.

    Raises:
        UserError: The robot was set up in another way; naming the settings with both values.
    """
    if not (mine.get("series") and theirs.get("series")):
        return {}
    here, there = (side["series"].get("settings") for side in (mine, theirs))
    differ = {}
    if here is not None and there is not None:
        names = sorted(here.keys() | there.keys())
        differ = {name: [here.get(name), there.get(name)] for name in names if here.get(name) != there.get(name)}
    robot = [f"{name}: {a!r} here, {b!r} there" for name, (a, b) in differ.items() if name.startswith("robot.")]
    if robot:
        raise UserError(
            f"the two series were run under other settings of the robot ({'; '.join(robot)})",
            where=f"--compare {path}",
            fix="compare series that were run with the same --robot.* flags",
        )
    kinds = [mine.get("inference"), theirs.get("inference")]
    if kinds[0] != kinds[1]:
        return {"inference": kinds}
    return {name: values for name, values in differ.items() if name.startswith("inference.")}


def _span(trials: Iterable[Trial]) -> str:
    seeds: dict[str, list[int]] = {}
    for task, seed in sorted(trials):
        seeds.setdefault(task, []).append(seed)
    return "; ".join(f"{t}: {len(s)} seeds {s[0]} to {s[-1]}" for t, s in seeds.items()) or "none"


def _check_same_trials(mine: set[Trial], theirs: dict[Trial, bool], path: Path) -> None:
    if mine != set(theirs):
        raise UserError(
            f"the two sides were not evaluated on the same episodes (here {_span(mine)} | there {_span(theirs)})",
            where=f"--compare {path}",
            fix="give the same --task, --seed and --episodes",
        )


def compare(result: EvalResult, other: dict[str, Any], path: Path) -> dict[str, Any]:
    """Paired difference 'this minus other', over all episodes and per task.

    Raises:
        UserError: The episodes, or what decides how they go, are not the same.
    """
    _check_same_environment(result.provenance.get("env") or {}, other.get("env") or {}, path)
    inference = _inference_that_differs(result.provenance, other, path)
    mine = _outcomes(result.to_json())
    theirs = _outcomes(other)
    _check_same_trials(set(mine), theirs, path)

    def difference(trials: list[Trial]) -> dict[str, Any]:
        paired = paired_difference([mine[t] for t in trials], [theirs[t] for t in trials])
        return {
            "pairs": paired.n,
            "only_this": paired.only_first,
            "only_other": paired.only_second,
            "difference": paired.difference,
            "interval": [paired.low, paired.high],
            "verdict": paired.verdict,
        }

    trials = sorted(mine)
    tasks = sorted({t for t, _ in trials})
    return {
        "other": str(path),
        "other_policy": other.get("policy"),
        "method": "Tango score interval, 95 %",
        **({"inference": inference} if inference else {}),
        **difference(trials),
        "tasks": {task: difference([t for t in trials if t[0] == task]) for task in tasks},
    }
