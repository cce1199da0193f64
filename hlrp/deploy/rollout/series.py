"""A series of trials on a robot: which comes next, what came out, kept after every trial; `hlrp eval`'s results."""

import platform
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hlrp.deploy.rollout.operator import Outcome
from hlrp.errors import UserError
from hlrp.evaluation.compare import compare, read_results
from hlrp.evaluation.request import RESULTS, Episode, EvalResult, TaskResult
from hlrp.evaluation.run import save
from hlrp.runs.directory import now, package_versions

COMPARED = "compared"
"""The subfolder with the results of the other policy, as `hlrp eval --compare` has it."""
_NAMED = 3
"""Most settings that are named where series differ."""


@dataclass(frozen=True)
class Trial:
    """A trial to come.

    Args:
        scene: Its number, from 0; in a comparison both policies meet each scene.
        side: Which of the policies acts: 0, or 1 for the one compared with.
    """

    scene: int
    side: int


@dataclass(frozen=True)
class Terms:
    """What all trials of a series have in common; trials under other terms are not of the same series.

    Args:
        robot: LeRobot's type of the robot.
        robot_id: Its `--robot.id`.
        fps: Steps per second.
        seconds: Longest time of a trial.
        task: The instruction, or what the trials are called.
        inference: `sync` or `rtc`.
        policies: For each policy its `results.json` entry: `path`, `type`, `weights_sha256` and more.
        settings: Of the robot and of the inference, by their flags, where they decide a trial; and `rename_map.KEY` for
            each pair of a renaming that is not the checkpoint's own.
    """

    robot: str
    robot_id: str | None
    fps: float
    seconds: float
    task: str
    inference: str
    policies: tuple[dict[str, Any], ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def environment(self) -> dict[str, Any]:
        """The `env` of `results.json`: two series are compared where it is the same."""
        config = {"id": self.robot_id, "fps": self.fps, "seconds": self.seconds}
        return {"type": self.robot, "tasks": [self.task], "fields": {}, "source": "--robot.type", "config": config}

    def differing(self, provenance: dict[str, Any], side: int) -> list[str]:
        """How saved results differ from these terms, in words."""
        # A path may be written in several ways, and a checkpoint may have been moved; its weights are what it is.
        name = "weights_sha256" if self.policies[side].get("weights_sha256") else "path"
        env = provenance.get("env") or {}
        policy = provenance.get("policy") or {}
        mine = {**self.environment(), "policy": self.policies[side].get(name), "inference": self.inference}
        theirs = {**env, "policy": policy.get(name), "inference": provenance.get("inference")}
        for other in ("export", "action_space"):
            mine[other], theirs[other] = self.policies[side].get(other), policy.get(other)
        names = ("policy", "export", "action_space", "type", "tasks", "config", "inference")
        differ = [f"{n}: {theirs.get(n)!r} there, {mine[n]!r} here" for n in names if theirs.get(n) != mine[n]]
        return differ + ([] if differ else self._other_settings((provenance.get("series") or {}).get("settings")))

    def _other_settings(self, theirs: dict[str, Any] | None) -> list[str]:
        # An older version kept none: nobody knows what they were.
        if theirs is None:
            return []
        names = [n for n in sorted(theirs.keys() | self.settings.keys()) if theirs.get(n) != self.settings.get(n)]
        more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
        return [f"{n}: {theirs.get(n)!r} there, {self.settings.get(n)!r} here" for n in names[:_NAMED]] + more


def order(seed: int, compared: bool) -> Iterator[Trial]:
    """All trials, scene by scene without end: of two policies in an order that nobody foresees.

    Of every two scenes one is met first by each policy, so that what changes with time (light, worn parts, a person
    who learns to place things) favours neither.
    """
    choose, scene = random.Random(seed), 0
    while True:
        firsts = [0, 1] if compared else [0, 0]
        choose.shuffle(firsts)
        for first in firsts:
            yield from (Trial(scene, side) for side in ((first, 1 - first) if compared else (0,)))
            scene += 1


class Series:
    """Trials in a folder that is this process's own; each is on disk before the next begins.

    Args:
        folder: Where `results.json` is, and that of the other policy in `compared`.
        terms: What holds for all trials.
        episodes: Trials of each policy.
        seed: Of the order; None: one that nobody knows. A series that goes on keeps its own.

    Raises:
        UserError: The folder holds another series, or other results.
    """

    def __init__(self, folder: Path, terms: Terms, episodes: int, *, seed: int | None) -> None:
        self._terms, self._episodes = terms, episodes
        self.results = [self._open(folder if side == 0 else folder / COMPARED, side) for side in range(self._sides)]
        saved = self.results[0].provenance["series"].get("seed")
        if seed is not None and saved not in (None, seed):
            raise UserError(
                f"this series has its trials in the order of seed {saved}", where=f"--seed {seed}", fix="leave it out"
            )
        chosen = saved if saved is not None else random.SystemRandom().randrange(2**32) if seed is None else seed
        self._seed = chosen
        for result in self.results:
            result.provenance["episodes_per_task"] = episodes
            result.provenance["series"] |= {"episodes": episodes, "seed": chosen}

    @property
    def _sides(self) -> int:
        return len(self._terms.policies)

    def _open(self, folder: Path, side: int) -> EvalResult:
        found = read_results(folder) if (folder / RESULTS).is_file() else None
        if found is None:
            return EvalResult(folder, self._provenance(side))
        try:
            result = EvalResult.from_json(folder, found)
            if not isinstance(result.provenance["series"], dict):
                raise KeyError("series")
        except KeyError as error:
            raise UserError(
                f"there are results in the folder already, and they are of no series of trials ({error} is missing)",
                where=str(folder / RESULTS),
                fix="choose another --output",
            ) from error
        if side == 0 and bool(result.provenance["series"]["compared"]) != (self._sides == 2):
            differ = ["against: the series there is " + ("a comparison" if self._sides == 1 else "of one policy")]
        else:
            differ = self._terms.differing(result.provenance, side)
        if differ:
            raise UserError(
                f"the trials in this folder are of another series ({'; '.join(differ)})",
                where=str(folder / RESULTS),
                fix="go on with what it was begun with, or choose another --output",
            )
        result.comparison = None
        return result

    def _provenance(self, side: int) -> dict[str, Any]:
        return {
            "created": now(),
            "policy": self._terms.policies[side],
            "env": self._terms.environment(),
            "inference": self._terms.inference,
            "seed": 0,
            "episodes_per_task": self._episodes,
            "batch_size": 1,
            "series": {"compared": self._sides == 2, "discarded": 0, "settings": self._terms.settings},
            "versions": {"python": platform.python_version(), **package_versions()},
        }

    @property
    def done(self) -> int:
        """Trials that count, of all policies."""
        return sum(len(result.episodes) for result in self.results)

    @property
    def total(self) -> int:
        """Trials that the series is to have, of all policies."""
        return max(self._episodes, *(len(r.episodes) for r in self.results)) * self._sides

    def next(self) -> Trial | None:
        """The trial that comes next; None: there are enough."""
        done = [{episode.index for episode in result.episodes} for result in self.results]
        for trial in order(self._seed, self._sides == 2):
            if trial.scene >= self._episodes:
                return None
            if trial.scene not in done[trial.side]:
                return trial
        return None

    def record(self, trial: Trial, outcome: Outcome, steps: int, seconds: float) -> None:
        """Keep what came of a trial; one that is discarded is only counted, and comes again.

        Args:
            trial: From `next`.
            outcome: What the operator says.
            steps: Actions that the robot was sent.
            seconds: How long it ran.
        """
        result = self.results[trial.side]
        if outcome is Outcome.DISCARD:
            result.provenance["series"]["discarded"] += 1
        else:
            success = outcome is Outcome.SUCCESS
            if not result.tasks:
                result.tasks.append(TaskResult(self._terms.task, []))
            # Seeds are what two sides of a comparison are paired by: here, the scene.
            episode = Episode(self._terms.task, trial.scene, trial.scene, success, float(success), steps)
            result.tasks[0].episodes.append(episode)
            result.tasks[0].episodes.sort(key=lambda e: e.index)
            result.tasks[0].seconds += seconds
        # Before the first trial there is nothing to keep. The order has to be known from then on, whoever acted.
        for other in self.results:
            if other is not result and not (other.folder / RESULTS).is_file():
                save(other)
        save(result)

    def warn(self, texts: list[str]) -> None:
        """Have the results say what a reader of them has to know."""
        for result in self.results:
            result.warnings += [text for text in texts if text not in result.warnings]

    def finish(self) -> EvalResult:
        """The results of the first policy, with the comparison where there is another."""
        result = self.results[0]
        if self._sides == 2 and self.next() is None:
            other = self.results[1]
            result.comparison = compare(result, other.to_json(), other.folder)
            save(result)
        return result


def unfinished_series(parent: Path, terms: Terms, episodes: int) -> Path | None:
    """The newest folder below ``parent`` whose series is under these terms and lacks trials, of ``episodes`` too."""
    for path in sorted(parent.glob(f"*/{RESULTS}"), reverse=True):
        raw = read_results(path) or {}
        series = raw.get("series") or {}
        wanted = min(series.get("episodes", 0), episodes)
        lacking = len(raw["episodes"]) < wanted
        if series.get("compared"):
            other = path.parent / COMPARED / RESULTS
            there = read_results(other) if other.is_file() else None
            lacking |= len((there or {}).get("episodes", [])) < wanted
            if there and len(terms.policies) == 2 and terms.differing(there, 1):
                continue
        if lacking and bool(series.get("compared")) == (len(terms.policies) == 2) and not terms.differing(raw, 0):
            return path.parent
    return None
