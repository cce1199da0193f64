"""What an evaluation is asked and what it found: plain data, importable without torch or LeRobot."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from hlrp.evaluation.statistics import wilson_interval

SCHEMA_VERSION = 1
RESULTS = "results.json"
DIAGNOSIS = "diagnosis.json"


@dataclass
class EvalRequest:
    """One evaluation.

    Args:
        policy_path: Run, checkpoint or `pretrained_model` folder; None replays recordings only.
        env_type: LeRobot environment type; None takes the one of the training data.
        tasks: Tasks of that environment; empty takes those of the training data.
        episodes: Episodes per task, >= 1.
        seed: Episode i of every task is reset with ``seed + i``.
        batch_size: Environments stepped together, >= 1; None chooses. Does not change the episodes' first states.
        device: Torch device; None takes the checkpoint's if it is here, else the best one.
        videos: Videos kept per task of the first failures, and as many of the first successes.
        output: Folder for `results.json` and videos; None chooses a fresh one in the run.
        env_fields: Fields of the environment's configuration class.
        replay: Root of a recorded dataset whose actions are played first.
        rename_map: Observation key of the environment -> key of the policy; empty keeps the checkpoint's own.
        action_space: The one to act in, of a policy that knows several; None: its own choice.
        async_envs: Step the environments of a batch in processes of their own.
    """

    policy_path: Path | None
    env_type: str | None = None
    tasks: list[str] = field(default_factory=list)
    episodes: int = 20
    seed: int = 1000
    batch_size: int | None = None
    device: str | None = None
    videos: int = 4
    output: Path | None = None
    env_fields: dict[str, Any] = field(default_factory=dict)
    replay: Path | None = None
    rename_map: dict[str, str] = field(default_factory=dict)
    action_space: str | None = None
    async_envs: bool = False


@dataclass(frozen=True)
class Episode:
    """One episode: its reset seed, whether it succeeded, its undiscounted return and its length in steps."""

    task: str
    index: int
    seed: int
    success: bool
    total_reward: float
    length: int

    def to_json(self) -> dict[str, Any]:
        """The row of `results.json`."""
        row = asdict(self)
        row["return"] = row.pop("total_reward")
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Episode":
        """The episode of such a row."""
        names = ("task", "index", "seed", "success", "length")
        return cls(**{name: row[name] for name in names}, total_reward=row["return"])


def summarise(episodes: list[Episode], seconds: float) -> dict[str, Any]:
    """Success rate with its Wilson 95 % interval, mean return and mean length (steps) of some episodes (>= 1)."""
    successes = sum(e.success for e in episodes)
    low, high = wilson_interval(successes, len(episodes))
    return {
        "episodes": len(episodes),
        "successes": successes,
        "success_rate": successes / len(episodes),
        "success_interval": [low, high],
        "mean_return": fmean(e.total_reward for e in episodes),
        "mean_length": fmean(e.length for e in episodes),
        "seconds": round(seconds, 3),
    }


@dataclass
class TaskResult:
    """Outcomes of one task, the videos written (relative to the result's folder), and the time it took."""

    task: str
    episodes: list[Episode]
    videos: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Numbers of this task."""
        return {**summarise(self.episodes, self.seconds), "videos": self.videos}


@dataclass
class EvalResult:
    """What an evaluation found.

    Args:
        folder: Where `results.json` and the videos lie.
        provenance: Policy, environment, seed and versions that the numbers hold for.
        tasks: One result per task; empty when only recordings were replayed.
        replay: Successes of replayed recordings per task, or None.
        warnings: What a reader of the numbers has to know.
        comparison: Paired difference to another evaluation, or None.
        code_effect: How far the policy acts on its codes, as its run measured it last, at `step`; None: not measured.
    """

    folder: Path
    provenance: dict[str, Any]
    tasks: list[TaskResult] = field(default_factory=list)
    replay: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)
    comparison: dict[str, Any] | None = None
    code_effect: dict[str, Any] | None = None

    @property
    def episodes(self) -> list[Episode]:
        """Episodes of all tasks, task by task."""
        return [e for t in self.tasks for e in t.episodes]

    def overall(self) -> dict[str, Any] | None:
        """Numbers over all episodes of all tasks, or None without any."""
        return summarise(self.episodes, sum(t.seconds for t in self.tasks)) if self.tasks else None

    def to_json(self) -> dict[str, Any]:
        """The content of `results.json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            **self.provenance,
            "warnings": self.warnings,
            "overall": self.overall(),
            "tasks": {t.task: t.summary() for t in self.tasks},
            "episodes": [e.to_json() for e in self.episodes],
            "replay": self.replay,
            "comparison": self.comparison,
            "code_effect": self.code_effect,
        }

    @classmethod
    def from_json(cls, folder: Path, raw: dict[str, Any]) -> "EvalResult":
        """What the `results.json` of a folder says.

        Raises:
            KeyError: A field of an episode or of a task is missing.
        """
        episodes = [Episode.from_json(row) for row in raw["episodes"]]
        tasks = [
            TaskResult(name, [e for e in episodes if e.task == name], row["videos"], row["seconds"])
            for name, row in raw["tasks"].items()
        ]
        own = {"schema_version", "warnings", "overall", "tasks", "episodes", "replay", "comparison", "code_effect"}
        provenance = {name: value for name, value in raw.items() if name not in own}
        optional = {name: raw.get(name) for name in ("replay", "comparison", "code_effect")}
        return cls(folder, provenance, tasks, warnings=list(raw["warnings"]), **optional)


class Listener:
    """Told how an evaluation goes on; this one shows nothing."""

    def note(self, text: str) -> None:
        """Something a reader should know now."""

    def started(self, task: str, episodes: int) -> None:
        """A task begins."""

    def stepped(self, task: str) -> None:
        """A batch of environments made one step."""

    def finished(self, task: str, done: int, successes: int) -> None:
        """So many episodes of the task are over, so many of them successes."""
