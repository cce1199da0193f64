"""What an import is asked for, how far it is, and what came of it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from hlrp.errors import UserError
from hlrp.outputs import check_new_output

MIN_SIDE, MAX_SIDE = 16, 8192
MAX_FPS = 1000
_CAMERA = re.compile(r"[A-Za-z0-9_-]+")
# What Python makes of bytes that are not UTF-8, as a file's name may hold them; no table keeps it.
_NO_TEXT = re.compile("[\ud800-\udfff]")


def is_text(name: str) -> bool:
    """Whether a name or sentence is UTF-8, as which it is written."""
    return _NO_TEXT.search(name) is None


@dataclass(frozen=True)
class ImportRequest:
    """What to import.

    Args:
        source: Folder, file, pattern, or list of files; see `hlrp.data.importing.sources.find_sources`.
        output: Folder of the dataset; must not exist, its parent must.
        captions: Table of task sentences and cuts.
        task: Task sentence of files without a caption; none: the file's own name.
        camera: The pictures are `observation.images.<camera>`.
        fps: Frames per second of the dataset; none: the rate that most files have.
        size: Height and width of the dataset; none: that of the files, made even.
        scene_cuts: Whether a new episode begins where the scene changes at once.
        max_seconds: Longer episodes are split; none: they are not.
        skip_bad: Leave out what no episode can be made of, in place of refusing all.
        workers: Processes; none: one per core. The result does not depend on it.
    """

    source: str
    output: Path
    captions: Path | None = None
    task: str | None = None
    camera: str = "video"
    fps: float | None = None
    size: tuple[int, int] | None = None
    scene_cuts: bool = False
    max_seconds: float | None = None
    skip_bad: bool = False
    workers: int | None = None

    @property
    def work(self) -> Path:
        """The folder of what is done already, beside the output."""
        return self.output.with_name(self.output.name + ".partial")

    @property
    def feature(self) -> str:
        """Name of the video feature."""
        return f"observation.images.{self.camera}"

    def check(self) -> None:
        """Refuse what cannot be met, as far as it can be known without looking at any file.

        Raises:
            UserError: Naming the flag.
        """
        if not _CAMERA.fullmatch(self.camera):
            raise UserError(
                f"{self.camera!r} is no name of a camera", where="--camera", fix="use letters, digits, - and _: top"
            )
        if self.task is not None and not self.task.strip():
            raise UserError("the task sentence is empty", where="--task", fix="say what is done, or leave it out")
        if self.task is not None and not is_text(self.task):
            raise UserError("the task sentence is not UTF-8", where="--task", fix="write it in a terminal of UTF-8")
        limits = (
            ("--fps", self.fps, 0.1, MAX_FPS),
            ("--max-seconds", self.max_seconds, 0.1, 1e6),
            ("--workers", self.workers, 1, 1024),
            *(("--size", side, MIN_SIDE, MAX_SIDE) for side in self.size or ()),
        )
        for flag, value, low, high in limits:
            # Written so that a NaN is refused too.
            if value is not None and not low <= value <= high:
                raise UserError(f"{flag} {value:g} is out of range", where=flag, fix=f"choose {low} to {high:g}")
        if self.size is not None and any(side % 2 for side in self.size):
            what = f"--size {self.size[0]}x{self.size[1]} is odd, which video encoders refuse"
            raise UserError(what, where="--size", fix="use even numbers")
        self._check_output()

    def _check_output(self) -> None:
        source = Path(self.source)
        check_new_output(self.output)
        if not is_text(self.output.name):
            raise UserError(
                "the dataset's name would not be UTF-8",
                where=f"--output {self.output}",
                fix="choose another name",
            )
        if source.is_dir() and self.output.resolve().is_relative_to(source.resolve()):
            raise UserError(
                "the output lies inside the source", where=f"--output {self.output}", fix="choose a folder beside it"
            )

    def settings(self, fps: Fraction, size: tuple[int, int]) -> dict[str, Any]:
        """All that decides the dataset beside the files, for JSON."""
        return {
            "source": self.source,
            "captions": str(self.captions) if self.captions else None,
            "task": self.task,
            "camera": self.camera,
            "fps": str(fps),
            "size": list(size),
            "scene_cuts": self.scene_cuts,
            "max_seconds": self.max_seconds,
        }


@dataclass(frozen=True)
class ImportProgress:
    """How far an import is.

    Args:
        phase: `look`, `write` or `assemble`.
        done: Files (`look`) or episodes that are finished, those of an earlier, killed command included.
        total: Of how many.
        detail: What more there is to say.
    """

    phase: str
    done: int
    total: int
    detail: str = ""


@dataclass(frozen=True)
class ImportResult:
    """What was imported.

    Args:
        output: The dataset's folder.
        episodes: Number of episodes.
        frames: Number of frames.
        fps: Frames per second.
        size: Height and width.
        copied: Episodes whose stream is that of the file.
        encoded: Episodes that were encoded again, by the reason.
        left_out: Name and reason of every file, or part of one, that no episode could be made of, and of what was taken
            for none.
        seconds: Duration of the import.
        named_by_file: Episodes whose sentence is their file's name, for want of another.
    """

    output: Path
    episodes: int
    frames: int
    fps: float
    size: tuple[int, int]
    copied: int
    encoded: dict[str, int]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    named_by_file: int = 0


Report = Callable[[ImportProgress], None]
