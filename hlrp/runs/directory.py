"""The run directory `outputs/<job>/<time>/`: configuration, manifest, metrics, log, `checkpoints/` and `eval/`."""

import datetime as dt
import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from hlrp.errors import UserError
from hlrp.files import write_json, write_text
from hlrp.runs.checkpoints import Checkpoint, list_checkpoints

SCHEMA_VERSION = 1
MANIFEST = "run.json"
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
    try:
        head = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
        dirty = subprocess.run(
            ["git", "-C", str(folder), "status", "--porcelain", "-uno"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def new_run_path(output_dir: Path | None, job_name: str) -> Path:
    """Choose the folder of a fresh run: ``output_dir`` as it is, or `outputs/<job>/<time>` with a free name.

    Raises:
        UserError: ``output_dir`` exists, or its parent cannot be written.
    """
    if output_dir is not None:
        path = output_dir.absolute()
        if path.exists():
            raise UserError(
                "the output folder exists already",
                where=f"output_dir = {path}",
                fix="choose another --output-dir, or go on with --resume",
            )
    else:
        base = (Path("outputs") / job_name / dt.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")).absolute()
        path, number = base, 2
        while path.exists():
            path, number = base.with_name(f"{base.name}-{number}"), number + 1
    check_writable(path)
    return path


def check_writable(path: Path) -> None:
    """Refuse a path below which nothing can be written, before any work is done.

    Raises:
        UserError: No right to write in the nearest existing parent, or its disk is full.
    """
    parent = path
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(f"{parent} is a file, not a folder", where=str(path), fix="choose another output folder")
    probe = parent / f".hlrp-probe-{os.getpid()}"
    try:
        with probe.open("wb") as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"cannot write there: {error.strerror}",
            where=str(path),
            fix="choose another output folder, or free space and rights",
        ) from error
    finally:
        probe.unlink(missing_ok=True)


class RunDirectory:
    """Reads and writes one run's folder. Every file but the log and the metrics is replaced in one step."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def create(cls, path: Path, *, config_yaml: str, **fields: Any) -> "RunDirectory":
        """Make the folder with its configuration and a manifest whose status is `running`."""
        path.mkdir(parents=True, exist_ok=False)
        write_text(path / CONFIG, config_yaml)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "status": "running",
            "started": now(),
            **fields,
            "versions": package_versions(),
            "checkpoints": [],
        }
        run = cls(path, manifest)
        run.save()
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Open an existing run.

        Raises:
            UserError: The folder is missing or its `run.json` is missing or unreadable.
        """
        if not path.is_dir():
            known = [str(r.path) for r in list_runs(Path("outputs"))][-3:]
            raise UserError(
                "there is no such run folder",
                where=str(path),
                fix="`hlrp runs list` shows the runs" + (f"; newest: {', '.join(known)}" if known else ""),
            )
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf8"))
        except FileNotFoundError as error:
            raise UserError(
                f"this folder is not a run: it has no {MANIFEST}",
                where=str(path),
                fix="give the folder that `hlrp train` named at its start",
            ) from error
        except (ValueError, OSError) as error:
            raise UserError(
                f"{MANIFEST} cannot be read: {error}", where=str(path / MANIFEST), fix="restore the file"
            ) from error
        if manifest.get("schema_version", 0) > SCHEMA_VERSION:
            raise UserError("this run was written by a newer hlrp", where=str(path / MANIFEST), fix="upgrade hlrp")
        return cls(path.absolute(), manifest)

    def save(self) -> None:
        """Write the manifest."""
        write_json(self.path / MANIFEST, self.manifest)

    def update(self, **fields: Any) -> None:
        """Change fields of the manifest and write it."""
        self.manifest.update(fields)
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

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Rows of `metrics.jsonl`; a last line cut by a kill is left out."""
        try:
            text = (self.path / METRICS).read_text(encoding="utf8")
        except FileNotFoundError:
            return
        for line in text.splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def rewind_metrics(self, step: int) -> None:
        """Drop rows after ``step``: a resumed run repeats them."""
        rows: Iterable[dict[str, Any]] = [r for r in self.metrics() if r.get("step", 0) <= step]
        write_text(self.path / METRICS, "".join(json.dumps(r) + "\n" for r in rows))


def list_runs(root: Path) -> list[RunDirectory]:
    """Every run below ``root``, oldest first; folders whose manifest cannot be read are left out."""
    runs = []
    for manifest in root.rglob(MANIFEST) if root.is_dir() else ():
        try:
            runs.append(RunDirectory.open(manifest.parent))
        except UserError:
            continue
    return sorted(runs, key=lambda r: r.manifest.get("started", ""))
