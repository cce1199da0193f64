"""A LeRobotDataset v3.0 read by its metadata alone: checks and fingerprints without importing LeRobot or torch."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlrp.errors import UserError, suggest
from hlrp.runs.kinds import refuse_other

INFO = Path("meta/info.json")
STATS = Path("meta/stats.json")
SUPPORTED_FORMAT = "v3.0"


@dataclass(frozen=True)
class DatasetInfo:
    """What `meta/info.json` says of a dataset on disk.

    Args:
        root: Folder that holds `meta/`, `data/` and `videos/`.
        repo_id: Hub name, or the folder's name for a local dataset.
        features: Feature name to its `dtype`, `shape` and `names`.
        fps: Frames per second.
        episodes: Number of episodes.
        frames: Number of frames over all episodes.
    """

    root: Path
    repo_id: str
    features: dict[str, dict[str, Any]]
    fps: float
    episodes: int
    frames: int

    @property
    def cameras(self) -> list[str]:
        """Names of the image and video features."""
        return [k for k, f in self.features.items() if f["dtype"] in ("video", "image")]

    def fingerprint(self) -> str:
        """Hash of the metadata and of every file's name and size: changes when frames or labels do.

        Contents of `meta/` are hashed whole; videos and tables by name and size, so that it takes milliseconds
        on a large dataset.
        """
        digest = hashlib.sha256()
        for folder in ("meta", "data", "videos"):
            for path in sorted((self.root / folder).rglob("*")):
                if not path.is_file():
                    continue
                digest.update(f"{path.relative_to(self.root).as_posix()}\0{path.stat().st_size}\n".encode())
                if folder == "meta" and path.name in ("info.json", "stats.json"):
                    digest.update(path.read_bytes())
        return digest.hexdigest()[:16]


def find_dataset(repo_id: str | None, root: Path | None) -> Path | None:
    """The local folder of a dataset: ``root``, else LeRobot's home and its Hub cache; None if it is in neither."""
    if root is not None:
        return root
    if repo_id is None:
        return None
    home = Path(os.environ.get("HF_LEROBOT_HOME") or Path(_hf_home()) / "lerobot").expanduser()
    if (home / repo_id / INFO).is_file():
        return home / repo_id
    snapshots = home / "hub" / f"datasets--{repo_id.replace('/', '--')}" / "snapshots"
    cached = sorted(snapshots.glob(f"*/{INFO}"), key=lambda p: p.stat().st_mtime)
    return cached[-1].parents[1] if cached else None


def _hf_home() -> str:
    return os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")


def read_dataset(repo_id: str | None, root: Path | None, *, where: str = "data.root / --dataset-root") -> DatasetInfo:
    """Read and check a dataset's metadata.

    Raises:
        UserError: The folder is missing, is no LeRobotDataset, is of another format, or has no frames.
    """
    folder = find_dataset(repo_id, root)
    if folder is None:
        raise UserError(
            f"dataset {repo_id!r} is not on this machine, and nothing is downloaded unless asked",
            where="data.repo_id / --dataset",
            fix="give its folder with --dataset-root, or add --allow-download",
        )
    if not folder.is_dir():
        near = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        raise UserError(f"there is no dataset folder {folder}", where=where, fix=suggest(folder.name, near))
    info = folder / INFO
    if not info.is_file():
        refuse_other(folder, "a dataset", where)
        raise UserError(
            f"{folder} is not a LeRobotDataset: it has no {INFO}",
            where=where,
            fix="give the folder that holds meta/, data/ and videos/",
        )
    try:
        raw = json.loads(info.read_text(encoding="utf8"))
        version, features = raw["codebase_version"], raw["features"]
        result = DatasetInfo(
            folder, repo_id or folder.name, features, raw["fps"], raw["total_episodes"], raw["total_frames"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{info} cannot be read: {error}", where=str(info), fix="restore the file or record again"
        ) from error
    if version != SUPPORTED_FORMAT:
        raise UserError(
            f"the dataset has format {version}, LeRobot reads {SUPPORTED_FORMAT}",
            where=str(info),
            fix="convert it: python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=... --root=...",
        )
    if not isinstance(result.fps, int | float) or not result.fps > 0:
        raise UserError(f"fps is {result.fps!r}", where=str(info), fix="set it to the frames per second of the videos")
    _check_statistics(folder / STATS)
    if result.frames == 0:
        raise UserError("the dataset has no frames", where=str(info), fix="record again")
    return result


def _check_statistics(path: Path) -> None:
    """Refuse statistics that are there but cannot be read."""
    try:
        whole = not path.is_file() or isinstance(json.loads(path.read_text(encoding="utf8")), dict)
    except (OSError, ValueError):
        whole = False
    if not whole:
        raise UserError(
            f"{STATS.name} cannot be read: it is cut or damaged", where=str(path), fix="restore it, or record again"
        )


def require_training_features(info: DatasetInfo) -> None:
    """Check that a policy can be trained on the dataset at all: an action, and a camera or an environment state.

    Raises:
        UserError: Naming what is missing and what is there.
    """
    have = ", ".join(sorted(info.features))
    if "action" not in info.features:
        raise UserError(
            f"the dataset has no feature 'action' (it has {have})",
            where=str(info.root / INFO),
            fix="use a dataset with actions",
        )
    if not info.cameras and "observation.environment_state" not in info.features:
        raise UserError(
            f"the dataset has no camera and no observation.environment_state (it has {have})",
            where=str(info.root / INFO),
            fix="use a dataset with at least one image or video feature",
        )


def check_episodes(info: DatasetInfo, episodes: list[int] | None) -> None:
    """Check that the chosen episodes exist.

    Raises:
        UserError: Naming the first ones that do not.
    """
    wrong = [e for e in episodes or [] if not 0 <= e < info.episodes]
    if wrong:
        raise UserError(
            f"episodes {wrong[:5]} do not exist: the dataset has {info.episodes}",
            where="data.episodes / --episodes",
            fix=f"choose from 0 to {info.episodes - 1}",
        )
