"""The run directory `outputs/<job>/<time>/`: configuration, manifest, metrics, log, `checkpoints/` and `eval/`."""

import datetime as dt
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from hlrp.errors import UserError
from hlrp.files import json_text, write_json, write_text
from hlrp.locks import FolderLock, LockedError, is_unwritten
from hlrp.runs.checkpoints import Checkpoint, list_checkpoints
from hlrp.runs.manifest import MANIFEST, SCHEMA_VERSION, RunManifest
from hlrp.runs.results import oldest_first
from hlrp.slurm import own_job

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
LOG = "log.txt"
_PACKAGES = (
    "lerobot_policy_felix_bundle",
    "lerobot",
    "lightning",
    "torch",
    "torchvision",
    "transformers",
    "numpy",
    "mujoco",
    "metaworld",
    "gym-aloha",
    "hf-libero",
    "robosuite",
)


def now() -> str:
    """Local time with its offset, to the second, as ISO 8601."""
    return dt.datetime.now().astimezone().isoformat(timespec="seconds")


def package_versions() -> dict[str, str]:
    """Versions of the packages that a run's numbers depend on."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_commit(folder: Path) -> str | None:
    """Commit of the checkout that ``folder`` lies in ('+changes' when it has any), or None outside of one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def new_run_path(output_dir: Path | None, job_name: str) -> Path:
    """Where a fresh run would go: ``output_dir`` as it is, or `outputs/<job>/<time>` with a free name.

    Nothing is made and nothing is kept for this process: `claim_run_path` does that.

    Raises:
        UserError: ``output_dir`` exists, or its parent cannot be written.
    """
    if output_dir is not None:
        path = output_dir.absolute()
        if os.path.lexists(path) and not _is_claim(path):
            raise _exists(path)
        check_writable(path)
        return path
    return free_path(Path("outputs") / job_name)


def free_path(parent: Path) -> Path:
    """A folder of ``parent`` named after the time, which is not there; nothing is made.

    Raises:
        UserError: ``parent`` cannot be written.
    """
    path = next(path for path in _numbered(parent.absolute() / name_of_now()) if not os.path.lexists(path))
    check_writable(path)
    return path


@contextmanager
def claim_run_path(output_dir: Path | None, job_name: str) -> Iterator[FolderLock]:
    """Inside, the folder of a fresh run is there, locked, and no other process's; see `new_run_path`.

    If nothing was put into it, nothing of it is left.

    Raises:
        UserError: ``output_dir`` exists, another process makes it at this moment, or its parent cannot be written.
    """
    if output_dir is None:
        with claim_folder(Path("outputs") / job_name / name_of_now()) as lock:
            yield lock
        return
    path = output_dir.absolute()
    if not os.path.lexists(path):
        check_writable(path)
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(FolderLock(path, fresh=True))
        except FileExistsError:
            raise _exists(path) from None
        yield lock


@contextmanager
def claim_folder(base: Path) -> Iterator[FolderLock]:
    """Inside, a new folder is there and locked: ``base``, or the first of `<base>-2`, ... that nobody else has.

    Raises:
        UserError: Its parent cannot be written.
    """
    check_writable(base.parent)
    with ExitStack() as stack:
        for path in _numbered(base.absolute()):
            try:
                lock = stack.enter_context(FolderLock(path, fresh=True))
                break
            except (FileExistsError, LockedError):
                continue
        yield lock


def name_of_now() -> str:
    """What a folder of results is called: the local time, and Slurm's number of the job."""
    job = own_job()
    return dt.datetime.now().strftime("%Y-%m-%d_%H-%M-%S") + (f"_job{job}" if job else "")


def _numbered(base: Path) -> Iterator[Path]:
    yield base
    yield from (base.with_name(f"{base.name}-{number}") for number in itertools.count(2))


def _is_claim(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and is_unwritten(path)


def _exists(path: Path) -> UserError:
    link = " (a link to something that is not there)" if not path.exists() else ""
    return UserError(
        f"the output folder exists already{link}",
        where=f"output_dir = {path}",
        fix="choose another --output-dir, or go on with --resume",
    )


def check_writable(path: Path) -> None:
    """Refuse a folder in which nothing can be written, before any work is done.

    Raises:
        UserError: It is a file or a link to nothing, or lies below one; no right to write in the nearest existing
            parent, or its disk is full.
    """
    parent = path.absolute()
    if "\0" in str(path):
        raise UserError("a name cannot hold a NUL character", where=repr(str(path)), fix="choose another output folder")
    try:
        while not parent.exists():
            if parent.is_symlink():
                raise UserError(
                    f"{parent} is a link to something that is not there", where=str(path), fix="choose another folder"
                )
            parent = parent.parent
        if not parent.is_dir():
            raise UserError(f"{parent} is a file, not a folder", where=str(path), fix="choose another output folder")
        with tempfile.TemporaryFile(dir=parent) as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise UserError(
            f"cannot write there: {error.strerror}",
            where=str(path),
            fix="choose another output folder, or free space and rights",
        ) from error


class RunDirectory:
    """Reads and writes one run's folder. Every file but the log and the metrics is replaced in one step.

    Args:
        path: The folder.
        manifest: What the run says of itself.
        damage: What is wrong with its `run.json`, which the manifest is not of then.
    """

    def __init__(self, path: Path, manifest: RunManifest, damage: str | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self.damage = damage

    @classmethod
    def create(cls, path: Path, *, config_yaml: str, **fields: Any) -> "RunDirectory":
        """Make the folder, unless it is claimed, with its configuration and a manifest whose status is `running`.

        Args:
            path: The folder.
            config_yaml: The resolved configuration.
            **fields: Of the manifest.

        Raises:
            UserError: There is something in it.
        """
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not _is_claim(path):
                raise _exists(path) from None
        write_text(path / CONFIG, config_yaml)
        own = {"schema_version": SCHEMA_VERSION, "versions": package_versions(), "checkpoints": []}
        run = cls(path, RunManifest(**{"status": "running", "started": now(), **fields, **own}))
        run.save()
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Open an existing run.

        Raises:
            UserError: The folder is missing or its `run.json` is missing or unreadable.
        """
        if not path.is_dir():
            from hlrp.runs.listing import list_runs  # which imports this module

            known = [str(r.path) for r in list_runs(Path("outputs"))][-3:]
            raise UserError(
                "there is no such run folder",
                where=str(path),
                fix="`hlrp runs list` shows the runs" + (f"; newest: {', '.join(known)}" if known else ""),
            )
        try:
            manifest = RunManifest.read(path / MANIFEST)
        except FileNotFoundError as error:
            raise UserError(
                f"this folder is not a run: it has no {MANIFEST}",
                where=str(path),
                fix="give the folder that `hlrp train` named at its start",
            ) from error
        return cls(path.absolute(), manifest)

    @contextmanager
    def sole_writer(self) -> Iterator[FolderLock]:
        """Inside, no other process writes this run, and the manifest is as the last one left it.

        Raises:
            UserError: Another process writes it; it is named.
        """
        with FolderLock(self.path) as lock:
            if self.damage is None:
                self.manifest = RunDirectory.open(self.path).manifest
            yield lock

    def save(self) -> None:
        """Write the manifest; a damaged one is kept beside it."""
        if self.damage is not None and (self.path / MANIFEST).is_file():
            shutil.copyfile(self.path / MANIFEST, self.path / f"{MANIFEST}.damaged")
        self.damage = None
        write_json(self.path / MANIFEST, self.manifest.to_json())

    def update(self, **fields: Any) -> None:
        """Change fields of the manifest and write it."""
        self.manifest = self.manifest.updated(**fields)
        self.save()

    def finish(self, status: str, **fields: Any) -> None:
        """Close the run as `finished`, `failed` or `interrupted`, naming its checkpoints."""
        kept = [c.path.name for c in self.checkpoints() if c.complete]
        self.update(status=status, ended=now(), checkpoints=kept, **fields)

    def checkpoints(self) -> list[Checkpoint]:
        """Every checkpoint of the run, oldest first."""
        return list_checkpoints(self.path / "checkpoints")

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that training can resume from."""
        return next((c for c in reversed(self.checkpoints()) if c.complete), None)

    def evaluations(self) -> list[Path]:
        """The `results.json` of every evaluation and series of trials in the run, see `oldest_first`."""
        return oldest_first(p for kind in ("eval", "rollout") for p in self.path.glob(f"{kind}/*/results.json"))

    def diagnoses(self) -> list[Path]:
        """The `diagnosis.json` of every diagnosis in the run, see `oldest_first`."""
        return oldest_first(self.path.glob("eval/*/diagnosis.json"))

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Rows of `metrics.jsonl`; lines that are none are left out."""
        return (row for _, row in self._lines() if row is not None)

    def damaged_lines(self) -> list[int]:
        """Numbers, from 1, of the lines of `metrics.jsonl` that hold no row."""
        return [number for number, row in self._lines() if row is None]

    def _lines(self) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """Every line's number, from 1, and its row; None: it holds no row with a step."""
        path = self.path / METRICS
        try:
            text = path.read_text(encoding="utf8", errors="replace")
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(
                f"{METRICS} cannot be read: {error.strerror}", where=str(path), fix="take it away, or restore it"
            ) from error
        for number, line in enumerate(text.split("\n"), 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if line.strip():
                yield number, row if isinstance(row, dict) and isinstance(row.get("step", 0), int) else None

    def rewind_metrics(self, step: int) -> list[str]:
        """Drop rows after ``step``, which a resumed run repeats, and lines that are no rows.

        Returns:
            A sentence for the user if lines were lost by more than the kill that cuts the last one.
        """
        lines = list(self._lines())
        rows = [row for _, row in lines if row is not None and row.get("step", 0) <= step]
        broken = [number for number, row in lines[:-1] if row is None]
        write_text(self.path / METRICS, "".join(json_text(row) + "\n" for row in rows))
        if not broken:
            return []
        numbers = ", ".join(map(str, broken[:5])) + (", ..." if len(broken) > 5 else "")
        return [f"{METRICS}: {len(broken)} damaged lines are dropped (lines {numbers})"]
