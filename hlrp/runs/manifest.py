"""`run.json`: what a run says of itself. Written with the fields below alone; of a file, all that it holds is kept."""

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hlrp.errors import UserError

SCHEMA_VERSION = 1
MANIFEST = "run.json"


class DamagedError(UserError):
    """A `run.json` that does not say what one says.

    Args:
        problem: What is wrong with it.
        path: The file.
    """

    def __init__(self, problem: str, path: Path) -> None:
        self.problem = problem
        super().__init__(
            f"{MANIFEST} cannot be read: {problem}", where=str(path), fix="restore the file, or take the folder away"
        )


class DatasetRecord(BaseModel):
    """The data that a run was trained on; trainers of other packages may say more of them.

    Args:
        repo_id: Its name.
        root: Its folder, whole.
        fingerprint: Of its content; of several datasets, theirs joined by `+`.
        episodes: How many.
        frames: How many.
        fps: Frames per second.
        filter: What its filter leaves of the frames that are trained on; of several datasets joined by `+`. None: all.
        sources: The datasets of a mixture, which has none of the above but the fingerprint.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    repo_id: str | None = None
    root: str | None = None
    fingerprint: str | None = None
    episodes: int | None = None
    frames: int | None = None
    fps: float | None = None
    filter: str | None = None
    sources: list["DatasetRecord"] = []


class ResumeRecord(BaseModel):
    """Where a run was taken up again.

    Args:
        step: Of the checkpoint it went on from.
        skipped: What was said of newer checkpoints, damaged rows, and the data.
    """

    model_config = ConfigDict(frozen=True)

    step: int
    skipped: list[str] = []


class JobRecord(BaseModel):
    """The Slurm job that a run was last trained in.

    Args:
        id: `123`, or `123_4` of an array.
        log: File of its output.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    log: str | None = None


class RunManifest(BaseModel):
    """The fields of a `run.json`; every one may be missing.

    Args:
        schema_version: Of the file.
        status: `running`, `finished`, `failed` or `interrupted`.
        reason: Why it failed or was interrupted.
        started: Local time as ISO 8601.
        ended: The same.
        trainer: Name that the trainer is registered under.
        policy: What was trained: a policy's name, `laq`, `foundation`, or a class.
        dataset: What it was trained on.
        seed: Of all random numbers.
        steps: Optimizer steps at which it ends.
        processes: That trained it together.
        job: That trained it last; none: no job of Slurm.
        git_commit: Of this project's checkout.
        command: Arguments of the process that trained it.
        versions: Of the packages that its numbers depend on.
        checkpoints: Names of the complete ones, once it has ended.
        warnings: What the user should know of its numbers.
        final_metrics: The last row; null stands for a number that was not finite.
        resumed: Every time it was taken up again.
        undescribed: Of a run that was put together in Python, `module` or `datamodule` with what `config.yaml` leaves
            out of it; it is given again when the run goes on.
        shuffling: Rules by which the order of its samples is made (`hlrp.data.shuffling`); of hlrp 0.1: `drawn`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    status: str | None = None
    reason: str | None = None
    started: str = ""
    ended: str | None = None
    trainer: str | None = None
    policy: str | None = None
    dataset: DatasetRecord = DatasetRecord()
    seed: int | None = None
    steps: int | None = None
    processes: int | None = None
    job: JobRecord | None = None
    git_commit: str | None = None
    command: list[str] = []
    versions: dict[str, str] = Field(default_factory=dict)
    checkpoints: list[str] = []
    warnings: list[str] = []
    final_metrics: dict[str, Any] = Field(default_factory=dict)
    resumed: list[ResumeRecord] = []
    undescribed: dict[str, str] = Field(default_factory=dict)
    shuffling: Literal["drawn", "computed"] = "drawn"

    @classmethod
    def read(cls, path: Path) -> "RunManifest":
        """Content of a `run.json`; fields that it has beside those of this release stay in it.

        Raises:
            FileNotFoundError: There is none.
            DamagedError: It is damaged, or something else.
            UserError: It is of a newer release.
        """
        content: Any = None
        try:
            content = json.loads(path.read_text(encoding="utf8"))
            problem = None if isinstance(content, dict) else "it is not an object"
        except FileNotFoundError:
            raise
        except OSError as error:
            problem = error.strerror or str(error)
        except (ValueError, RecursionError) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem is None:
            version = content.get("schema_version")
            if isinstance(version, int) and version > SCHEMA_VERSION:
                raise UserError("this run was written by a newer hlrp", where=str(path), fix="upgrade hlrp")
            # A field that is null says as little as one that is missing.
            said = {key: value for key, value in content.items() if value is not None or key not in cls.model_fields}
            try:
                return _FoundManifest.model_validate(said, strict=True)
            except ValidationError as error:
                field = str(error.errors()[0]["loc"][0])
                problem = f"{field!r} is {json.dumps(content[field])[:60]}"
        raise DamagedError(problem, path)

    @property
    def tells_data(self) -> bool:
        """Whether it says what the run was trained on."""
        return "dataset" in self.model_fields_set

    def updated(self, **fields: Any) -> Self:
        """A copy with other values of some fields.

        Raises:
            pydantic.ValidationError: There is no such field, or its value is of another kind.
        """
        given = RunManifest(**fields)
        return self.model_copy(update={name: getattr(given, name) for name in fields})

    def to_json(self) -> dict[str, Any]:
        """The fields that are known, as plain values."""
        return self.model_dump(exclude_unset=True)


class _FoundManifest(RunManifest):
    """One that may hold fields of a later release with the same schema, or of somebody else."""

    model_config = ConfigDict(frozen=True, extra="allow")
