"""Filling in what an evaluation was not told, from the run and the data it was trained on. Reads small files only."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlrp.errors import UserError
from hlrp.evaluation.environment_plan import (
    EnvironmentPlan,
    recorded_environment,
    recorded_episodes,
    seeds_of,
    settle_environment,
    side_of_pictures,
)
from hlrp.evaluation.request import DIAGNOSIS, RESULTS, EvalRequest
from hlrp.runs import DatasetRecord, RunDirectory, resolve_pretrained
from hlrp.runs.directory import CONFIG, MANIFEST, check_writable, free_path
from hlrp.runtime.manifest import MANIFEST as EXPORT
from hlrp.runtime.manifest import Manifest
from hlrp.sim.dataset import METADATA


class NoEnvironmentError(UserError):
    """Nothing says which environment a policy belongs to."""


@dataclass(kw_only=True)
class EvalPlan(EnvironmentPlan):
    """A request with nothing left open.

    Args:
        pretrained: The `pretrained_model` folder, or None for a replay alone.
        folder: Where results go; it does not exist yet or holds no results.
        env_source: Where the environment's type was found, for messages.
    """

    pretrained: Path | None
    folder: Path
    env_source: str = ""


def check_request(request: EvalRequest) -> None:
    """Refuse numbers out of range.

    Raises:
        UserError: Naming the flag.
    """
    for flag, value, least in (
        ("--episodes", request.episodes, 1),
        ("--seed", request.seed, 0),
        ("--videos", request.videos, 0),
        ("--batch-size", request.batch_size, 1),
    ):
        if value is not None and value < least:
            raise UserError(
                f"{flag} must be at least {least}, got {value}", where=flag, fix=f"give {flag} {least} or more"
            )
    if request.policy_path is None and request.replay is None:
        raise UserError(
            "there is nothing to evaluate",
            where="RUN_OR_CHECKPOINT",
            fix="give a run, a checkpoint, or --replay DATASET",
        )


def make_plan(request: EvalRequest) -> EvalPlan:
    """Check a request and fill in what it leaves open, without importing torch or LeRobot.

    Raises:
        NoEnvironmentError: There is no way to know the environment.
        UserError: No usable checkpoint, or no place to write.
    """
    check_request(request)
    pretrained = resolve_pretrained(request.policy_path.absolute()) if request.policy_path else None
    if request.replay is not None:
        _check_replayable(request.replay)
    run = find_run(pretrained) if pretrained else None
    sources = environment_sources(request, pretrained, run)
    given = {"type": request.env_type, "task": ",".join(request.tasks) or None, **request.env_fields}
    env_type, source = next(
        ((s["type"], name) for name, s in [("--env", given), *sources] if s.get("type")), (None, "")
    )
    if env_type is None:
        raise NoEnvironmentError(
            "nothing says which environment this policy belongs to: the run and its data name none",
            where=str(request.policy_path or request.replay),
            fix="give --env, e.g. --env metaworld_light --task button-press-v3",
        )
    size = trained_image_size(pretrained) if pretrained else None
    settled = settle_environment(env_type, request.env_fields, request.tasks, [s for _, s in sources], size)
    return EvalPlan(
        env_type=env_type,
        env_fields=settled.env_fields,
        tasks=settled.tasks,
        recorded_seeds=recorded_seeds(pretrained, run),
        pretrained=pretrained,
        folder=results_folder(request, run),
        env_source=source,
    )


def _check_replayable(root: Path) -> None:
    if not (root / "meta" / "info.json").is_file():
        raise UserError(
            "there is no dataset in this folder" if root.is_dir() else "there is no such dataset",
            where=f"--replay {root}",
            fix="give the folder that `hlrp collect` wrote; it holds meta/info.json",
        )
    if not recorded_episodes(root):
        raise UserError(
            "this dataset does not say from which reset seeds it was recorded, so it cannot be replayed",
            where=str(root / METADATA),
            fix="replay a dataset recorded with `hlrp collect`",
        )


def find_run(pretrained: Path) -> RunDirectory | None:
    """The run that a `pretrained_model` folder lies in (`RUN/checkpoints/STEP/pretrained_model`), if any."""
    for parent in list(pretrained.parents)[:4]:
        if (parent / MANIFEST).is_file():
            return RunDirectory.open(parent)
    return None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or {} when there is no such file.

    Raises:
        UserError: The file cannot be read as a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        return {}
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path.name} cannot be read: {error}", where=str(path), fix="restore the file") from error
    if not isinstance(value, dict):
        raise UserError(f"{path.name} is not a JSON object", where=str(path), fix="restore the file")
    return value


def trained_image_size(pretrained: Path) -> int | None:
    """Side of the square images a policy was trained on, if all of its cameras share one."""
    features = (read_json(pretrained / "config.json").get("input_features") or {}).values()
    return side_of_pictures({tuple(f["shape"][1:]) for f in features if f.get("type") == "VISUAL"})


def run_config(run: RunDirectory | None) -> dict[str, Any]:
    """The settings of a run; {} where it has none.

    Raises:
        UserError: The file cannot be read.
    """
    if run is None or not (run.path / CONFIG).is_file():
        return {}
    import yaml

    try:
        return yaml.safe_load((run.path / CONFIG).read_text(encoding="utf8")) or {}
    except (yaml.YAMLError, OSError) as error:
        raise UserError(
            f"the run's {CONFIG} cannot be read: {error}", where=str(run.path / CONFIG), fix="restore the file"
        ) from error


def dataset_roots(pretrained: Path | None, run: RunDirectory | None) -> list[Path]:
    """Folders on this machine that hold the data a checkpoint was trained on."""
    # The manifest's folders are absolute in all runs; the configuration's were not always.
    recorded = run.manifest.dataset if run else DatasetRecord()
    named = [(d.root, d.repo_id) for d in (recorded, *recorded.sources)]
    entries: list[dict[str, Any]] = []
    if not (recorded.root or recorded.sources):
        data = run_config(run).get("data") or {}
        named, entries = [], [data, *(data.get("sources") or [])]
    if pretrained:
        entries.append(read_json(pretrained / "train_config.json").get("dataset") or {})
    named += [(entry.get("root"), entry.get("repo_id")) for entry in entries]
    home = os.environ.get("HF_LEROBOT_HOME")
    hub = Path(home) if home else Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")) / "lerobot"
    found = []
    for root, repo_id in named:
        if root:
            found.append(Path(root).expanduser())
        elif isinstance(repo_id, str):
            found.append(hub / repo_id)
    return [p for p in dict.fromkeys(found) if (p / "meta" / "info.json").is_file()]


def environment_sources(
    request: EvalRequest, pretrained: Path | None, run: RunDirectory | None
) -> list[tuple[str, dict[str, Any]]]:
    """Descriptions of an environment `{type, task, **fields}` and where they stand, the one that wins first."""
    sources: list[tuple[str, dict[str, Any]]] = []
    if run is not None:
        sources.append((str(run.path / CONFIG), run_config(run).get("env") or {}))
    roots = [request.replay] if request.replay and not pretrained else dataset_roots(pretrained, run)
    sources += [(str(root / METADATA), recorded_environment(root)) for root in roots]
    if pretrained and (exported := Manifest.find(pretrained)) is not None:
        sources.append((str(pretrained / EXPORT), exported.environment))
    if pretrained:
        path = pretrained / "train_config.json"
        sources.append((str(path), read_json(path).get("env") or {}))
    return [(name, found) for name, found in sources if found]


def described_environment(pretrained: Path, run: RunDirectory | None) -> dict[str, Any]:
    """Environment `{type, task, **fields}` that a checkpoint was trained for, or {} when nothing says so."""
    sources = [found for _, found in environment_sources(EvalRequest(pretrained), pretrained, run)]
    env_type = next((s["type"] for s in sources if s.get("type")), None)
    found: dict[str, Any] = {}
    for source in reversed(sources):
        found |= source if env_type is not None and source.get("type") == env_type else {}
    return found


def recorded_seeds(pretrained: Path | None, run: RunDirectory | None) -> dict[str, set[int]]:
    """By task the reset seeds that the data of a checkpoint was recorded from, as far as they are known here."""
    seeds: dict[str, set[int]] = {}
    if pretrained and (exported := Manifest.find(pretrained)) is not None:
        seeds = {task: set(known) for task, known in exported.recorded_seeds.items()}
    for task, known in seeds_of(dataset_roots(pretrained, run)).items():
        seeds.setdefault(task, set()).update(known)
    return seeds


def results_folder(request: EvalRequest, run: RunDirectory | None) -> Path:
    """The folder asked for, else a fresh one in the run.

    Raises:
        UserError: It holds results already, or cannot be written.
    """
    if request.output is not None:
        folder = request.output.absolute()
        found = next((name for name in (RESULTS, DIAGNOSIS) if (folder / name).exists()), None)
        if found is not None:
            raise UserError(
                f"there is a {found} in the output folder already",
                where=f"--output {request.output}",
                fix="choose another --output",
            )
        check_writable(folder)
        return folder
    return free_path(Path("outputs", "eval") if run is None else run.path / "eval")
