"""Evaluations as a run page shows them: rates, outcomes seed by seed, videos in the page, pairs with another run."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hlrp.errors import UserError
from hlrp.evaluation.compare import compare, saved_results
from hlrp.evaluation.request import Episode, EvalResult, TaskResult
from hlrp.runs.code_effect import describe_code_effect

VIDEO_LIMIT = 24_000_000
"""Bytes of video files that one page takes in at most."""

_FILMED = re.compile(r"episode_(\d+)_(failure|success)")


@dataclass(frozen=True)
class Video:
    """A filmed episode; `uri` is None where the page has no room for it, or the file is gone."""

    task: str
    label: str
    success: bool | None
    path: Path
    uri: str | None


@dataclass
class VideoRoom:
    """How many bytes of video a page still has room for."""

    left: int = VIDEO_LIMIT

    def take(self, path: Path) -> str | None:
        """A video as a text that stands in the page itself; None: it is gone, or too large."""
        try:
            if path.stat().st_size > self.left:
                return None
            content = path.read_bytes()
        except OSError:
            return None
        self.left -= len(content)
        return "data:video/mp4;base64," + base64.b64encode(content).decode("ascii")


@dataclass(frozen=True)
class Evaluation:
    """One `results.json`.

    Args:
        name: Of its folder.
        result: What it says.
        videos: First failures first.
    """

    name: str
    result: EvalResult
    videos: list[Video] = field(default_factory=list)

    @property
    def tasks(self) -> list[TaskResult]:
        """The tasks of which there are episodes."""
        return [task for task in self.result.tasks if task.episodes]

    @property
    def code_effect(self) -> str | None:
        """How far the policy acts on its codes, in one line."""
        found = self.result.code_effect
        return None if found is None else describe_code_effect(found)

    @property
    def where(self) -> str:
        """Environment, checkpoint and seeds in one line."""
        said = self.result.provenance
        env, policy = _mapping(said.get("env")), _mapping(said.get("policy"))
        step = policy.get("step")
        parts = [
            str(env.get("type") or _mapping(said.get("robot")).get("type") or ""),
            f"step {step}" if step is not None else "",
            f"seeds from {said['seed']}" if said.get("seed") is not None else "",
            str(said.get("created") or ""),
        ]
        return " · ".join(part for part in parts if part)


def read_evaluations(paths: Sequence[Path], room: VideoRoom) -> tuple[list[Evaluation], list[str]]:
    """Evaluations, and what is wrong with those that cannot be read.

    Args:
        paths: Their `results.json`; the first ones have their videos taken in first.
        room: For the videos.
    """
    found, problems = [], []
    for path in paths:
        try:
            result = saved_results(path, None)
        except UserError as problem:
            problems.append(f"{problem.what} ({problem.where})")
            continue
        found.append(Evaluation(path.parent.name, result, _videos(result, room)))
    return found, problems


def _videos(result: EvalResult, room: VideoRoom) -> list[Video]:
    named = []
    for task in result.tasks:
        for name in task.videos:
            filmed = _FILMED.search(Path(name).name)
            number = int(filmed[1]) if filmed else 0
            success = None if filmed is None else filmed[2] == "success"
            named.append(((success is not False, number), task, success, number, result.folder / name))
    videos = []
    for _, task, success, number, path in sorted(named, key=lambda video: video[0]):
        seed = next((e.seed for e in task.episodes if e.index == number), None)
        outcome = {True: "success", False: "failure", None: path.stem}[success]
        label = outcome if seed is None else f"{outcome}, seed {seed}"
        videos.append(Video(task.task, label, success, path, room.take(path)))
    return videos


@dataclass(frozen=True)
class Pairs:
    """One task, on the same seeds for two sides.

    Args:
        task: Its name.
        mine: Episodes of this run, by seed.
        theirs: Those of the other, in the same order.
        summary: Of `hlrp.evaluation.compare`.
    """

    task: str
    mine: list[Episode]
    theirs: list[Episode]
    summary: dict[str, Any]


@dataclass(frozen=True)
class Versus:
    """The evaluations of two runs, paired.

    Args:
        other: Name of the other run.
        ours: Name of this run's evaluation.
        theirs: Name of the other's.
        pairs: Task by task.
        overall: Over all tasks; None: they could not be compared.
        reason: Why not.
    """

    other: str
    ours: str = ""
    theirs: str = ""
    pairs: list[Pairs] = field(default_factory=list)
    overall: dict[str, Any] | None = None
    reason: str = ""


def against(ours: Sequence[Evaluation], theirs: Sequence[Evaluation], other: str) -> Versus:
    """Compare the newest evaluations, of those of both sides, that are of the same episodes.

    Args:
        ours: Evaluations of this run, newest first.
        theirs: Those of the other, newest first.
        other: Its name.
    """
    reason = f"{other if ours else 'this run'} was not evaluated"
    for mine in ours:
        for their in theirs:
            try:
                found = compare(mine.result, their.result.to_json(), their.result.folder)
            except (UserError, ValueError) as problem:
                reason = problem.what if isinstance(problem, UserError) else str(problem)
                continue
            pairs = [
                Pairs(task, _of_task(mine.result, task), _of_task(their.result, task), summary)
                for task, summary in found["tasks"].items()
            ]
            return Versus(other, mine.name, their.name, pairs, found)
    return Versus(other, reason=reason)


def _of_task(result: EvalResult, task: str) -> list[Episode]:
    return sorted((e for e in result.episodes if e.task == task), key=lambda e: e.seed)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
