"""What an export says of itself: `manifest.json` beside its graphs. Needs the standard library alone."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from hlrp.errors import UserError, suggest

MANIFEST = "manifest.json"
KIND = "export"
SCHEMA_VERSION = 1
FORMATS = ("onnx", "openvino", "torch")
WHOLE, ENCODE, STEP = "whole", "encode", "step"
PROGRAMS = ({WHOLE}, {ENCODE, STEP})
"""An export is one graph, or one that encodes an observation and one that takes a denoising step."""


@dataclass(frozen=True)
class Input:
    """Something that a policy reads.

    Args:
        shape: (C, H, W) of a picture, uint8; else that of the numbers, float32.
        picture: Whether it is one.
    """

    shape: tuple[int, ...]
    picture: bool


@dataclass(frozen=True)
class Noise:
    """What a policy starts from: standard normal, float32 ``[draws, *shape]``.

    Args:
        shape: Of one draw, as [horizon, numbers].
        draws: 1, and one more for every denoising step that draws anew.
    """

    shape: tuple[int, ...]
    draws: int


@dataclass(frozen=True)
class Instructions:
    """Instructions as the token ids that the policy reads.

    Args:
        known: Instruction to ids.
        length: Ids that the graph takes; shorter ones are padded behind, out of the policy's sight.
        used: False: the policy reads none, the one that is known stands for all.
    """

    known: dict[str, list[int]]
    length: int
    used: bool


@dataclass(frozen=True)
class Manifest:
    """All that the runtime has to know, and where the export is from.

    Args:
        format: One of `FORMATS`.
        policy: LeRobot's type of the policy.
        graphs: Role (see `PROGRAMS`) to file.
        steps: Denoising steps; 0 for one graph.
        files: File to SHA-256, for all but this one.
        inputs: What the policy reads, by its own names.
        rename_map: A robot's name to the policy's.
        history: Observations it is shown at once, the newest last.
        chunk: Actions that the graphs give.
        n_action_steps: How many of them are executed before the next are asked for.
        ensemble: Exponent of temporal ensembling, as in ACT; None: actions come from a queue.
        action: Numbers of an action, in the units of the robot.
        numbers: Of the numbers that it reads, and of `action`: `names`, `low`, `high`; None where they are not known.
        noise: What it starts from; None: it draws nothing.
        instructions: None: the policy reads no language.
        quantize: `int8`, `bf16`, or None for float32.
        fps: Frames per second of the data.
        source: Of the checkpoint: `step`, `weights_sha256`, `dataset_fingerprint`.
        environment: The simulator of the data, as `type`, `task` and fields; empty if there is none.
        recorded_seeds: Of its tasks, the reset seeds that training data was recorded from.
        check: Errors to the policy in torch, and how they were measured.
        latency: Milliseconds in torch and here, and on which machine.
        opset: Of ONNX; None for `torch`.
        versions: Of the packages that made it.
    """

    format: str
    policy: str
    graphs: dict[str, str]
    steps: int
    inputs: dict[str, Input]
    rename_map: dict[str, str]
    history: int
    chunk: int
    n_action_steps: int
    ensemble: float | None
    action: int
    numbers: dict[str, dict[str, Any]]
    noise: Noise | None
    instructions: Instructions | None
    quantize: str | None = None
    fps: float | None = None
    source: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    recorded_seeds: dict[str, list[int]] = field(default_factory=dict)
    check: dict[str, Any] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)
    opset: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def variant(self) -> str:
        """What was made of the checkpoint, as `onnx` or `onnx, int8`: it does not act to the bit as that does."""
        return self.format if self.quantize is None else f"{self.format}, {self.quantize}"

    def to_json(self) -> dict[str, Any]:
        """What is written to the file."""
        return {"kind": KIND, "schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of an export.

        Raises:
            UserError: There is none, it is of a newer version, or damaged.
        """
        raw = _read(folder / MANIFEST)
        if raw.get("kind") != KIND:
            raise UserError("this is no export of a policy", where=str(folder), fix="make one with `hlrp export`")
        return cls._checked(raw, folder / MANIFEST)

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """The manifest of an export; None: the folder does not say that it is one.

        Raises:
            UserError: It is of a newer version, or damaged.
        """
        try:
            raw = _read(folder / MANIFEST)
        except UserError:
            return None
        return cls._checked(raw, folder / MANIFEST) if raw.get("kind") == KIND else None

    @classmethod
    def _checked(cls, raw: dict[str, Any], path: Path) -> Self:
        del raw["kind"]
        version = raw.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise UserError(
                f"the export is of version {version}, known is {SCHEMA_VERSION}",
                where=str(path),
                fix="export the policy again with this version of hlrp, or update hlrp",
            )
        try:
            return cls._parsed(raw)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise UserError(f"the manifest is damaged: {error}", where=str(path), fix="export again") from error

    @classmethod
    def _parsed(cls, raw: dict[str, Any]) -> Self:
        noise, instructions = raw["noise"], raw["instructions"]
        values = raw | {
            "inputs": {name: Input(tuple(i["shape"]), bool(i["picture"])) for name, i in raw["inputs"].items()},
            "noise": None if noise is None else Noise(tuple(noise["shape"]), int(noise["draws"])),
            "instructions": None if instructions is None else Instructions(**instructions),
        }
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        found = cls(**values)
        if found.format not in FORMATS or set(found.graphs) not in PROGRAMS:
            raise ValueError(f"format {found.format!r} with graphs {sorted(found.graphs)}")
        if any(Path(name).name != name for name in found.files) or not set(found.graphs.values()) <= set(found.files):
            raise ValueError("its files are not those of the folder")
        return found

    @property
    def reads_language(self) -> bool:
        """Whether instructions make a difference."""
        return self.instructions is not None and self.instructions.used

    @property
    def only_task(self) -> str | None:
        """The instruction that is meant where none is given; None: it knows several, or reads none."""
        known = self.check_task(None) or ()
        return known[0] if len(known) == 1 else None

    def check_task(self, task: str | None) -> list[str] | None:
        """The instructions that are known; None: any may be given.

        Args:
            task: One to ask for; None: none yet.

        Raises:
            UserError: It is not known.
        """
        if self.instructions is None or not self.instructions.used:
            return None
        known = self.instructions.known
        if task is not None and task not in known:
            raise UserError(
                f"the export does not know the instruction {task[:80]!r}",
                where="task",
                fix=f"{suggest(task, known)}; or export again with --task",
            )
        return list(known)

    def problem(self, folder: Path) -> str | None:
        """What is wrong with the files of an export, each compared with its SHA-256; None: nothing."""
        for name, digest in self.files.items():
            try:
                with (folder / name).open("rb") as file:
                    same = hashlib.file_digest(file, "sha256").hexdigest() == digest
            except OSError as error:
                return f"{name}: {error.strerror}"
            if not same:
                return f"{name} has changed since the export"
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf8"))
        if not isinstance(value, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"the manifest cannot be read: {error}", where=str(path), fix="give the folder that `hlrp export` wrote"
        ) from error
    return value
