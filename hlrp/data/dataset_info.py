"""A LeRobotDataset v3.0 read by its metadata alone: checks and fingerprints without importing LeRobot or torch."""

import json
import logging
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlrp.data.identity import fingerprint, first_fingerprint, is_of_older_rules
from hlrp.data.streaming import Stream
from hlrp.data.video_backends import VideoBackend, require_backend
from hlrp.errors import UserError, suggest
from hlrp.runs.kinds import refuse_other

_LOG = logging.getLogger("hlrp.data")
INFO = Path("meta/info.json")
SUPPORTED_FORMAT = "v3.0"
_CONVERTED_FORMAT = "v2.1"
TOLERANCE_S = 1e-4
"""How far a frame's time in the video may lie from its time in the table: LeRobot's own default."""


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
        tolerance_s: How far a frame's time in its video may lie from its time in the table, for every reader of frames.
        video_backend: What decodes its videos, for every reader of frames.
        stream: Whence its files come as they are read; None: all are here.
    """

    root: Path
    repo_id: str
    features: dict[str, dict[str, Any]]
    fps: float
    episodes: int
    frames: int
    tolerance_s: float = TOLERANCE_S
    video_backend: VideoBackend = "pyav"
    stream: Stream | None = None

    @property
    def cameras(self) -> list[str]:
        """Names of the image and video features."""
        return [k for k, f in self.features.items() if f["dtype"] in ("video", "image")]

    @property
    def tables(self) -> list[Path]:
        """The files of rows, in the order in which LeRobot reads them: `data/*/*.parquet`, links followed."""
        return sorted(p for p in (self.root / "data").glob("*/*.parquet") if not p.name.startswith("."))

    def fingerprint(self) -> str:
        """Identity of all that decides a frame, a row or a label; see `hlrp.data.identity.fingerprint`."""
        if self.stream is not None and self.stream.url is not None:
            return self.stream.fingerprint(self._folders)
        return fingerprint(self.root, self._folders)

    @property
    def _folders(self) -> tuple[str, ...]:
        """Where what counts for its identity lies, beside `meta/`."""
        pictures = any(f["dtype"] == "image" for f in self.features.values())
        return ("data", "videos", "images") if pictures else ("data", "videos")

    def here(self, path: Path) -> Path:
        """A file of the dataset, fetched now if it is streamed and not here.

        Raises:
            UserError: It cannot be fetched.
        """
        return path if self.stream is None else self.stream.fetch(path)

    def known_as(self, mark: str) -> bool:
        """Whether ``mark`` is the fingerprint of this dataset, by today's rules or those of an older version.

        A part of a dataset on the Hub goes by that of the whole, too: its frames are among those of the whole.

        An older version's looks less closely (`hlrp.data.identity.first_fingerprint`), which is said in a warning.
        """
        if not is_of_older_rules(mark):
            return mark == self.fingerprint() or mark == self._fingerprint_of_whole()
        same = mark == first_fingerprint(self.root)
        if same:
            _LOG.warning(
                "an older hlrp worked on %s and looked at sizes of files only: if the dataset was edited since, "
                "label or train anew",
                self.root,
            )
        return same

    def _fingerprint_of_whole(self) -> str | None:
        """Of the dataset that this is a part of; None: of none, or it cannot be read, which is said in a warning."""
        whole = Stream.whole_of(self.root)
        try:
            return None if whole is None else whole.fingerprint(self._folders)
        except UserError as error:
            _LOG.warning("%s is a part of a dataset that cannot be asked for its fingerprint: %s", self.root, error)
            return None


def find_dataset(repo_id: str | None, root: Path | None) -> Path | None:
    """The local folder of a dataset: ``root``, else LeRobot's home and its Hub cache; None if it is in neither."""
    if root is not None:
        return root
    if repo_id is None:
        return None
    home = lerobot_home()
    if (home / repo_id / INFO).is_file():
        return home / repo_id
    snapshots = home / "hub" / f"datasets--{repo_id.replace('/', '--')}" / "snapshots"
    cached = sorted(snapshots.glob(f"*/{INFO}"), key=lambda p: p.stat().st_mtime)
    return cached[-1].parents[1] if cached else None


def lerobot_home() -> Path:
    """LeRobot's own folder: datasets by name, and below `hub` what it fetched."""
    cache = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    return Path(os.environ.get("HF_LEROBOT_HOME") or Path(cache) / "lerobot").expanduser()


def read_dataset(
    repo_id: str | None,
    root: Path | None,
    *,
    where: str = "data.root / --dataset-root",
    tolerance_s: float = TOLERANCE_S,
    video_backend: VideoBackend | None = None,
    streamed_gb: float | None = None,
) -> DatasetInfo:
    """Read and check a dataset's metadata.

    Args:
        repo_id: Hub name of a dataset that is on this machine.
        root: Its folder.
        where: Named in errors.
        tolerance_s: Handed to the readers of frames, see `DatasetInfo`.
        video_backend: The same; none: PyAV.
        streamed_gb: Read files as they are needed, and keep so much of what has to be fetched; none: all are here.

    Raises:
        UserError: The folder is missing, is no LeRobotDataset, is of another format, or has no frames;
            ``tolerance_s`` is half a frame or more; or ``video_backend`` cannot be loaded here.
    """
    folder = find_dataset(repo_id, root)
    if folder is None:
        raise UserError(
            f"dataset {repo_id!r} is not on this machine, and nothing is downloaded unless asked",
            where="data.repo_id / --dataset",
            fix="give its folder with --dataset-root (in Python dataset_root=), or add --allow-download",
        )
    info = _find_info(folder, where)
    try:
        raw = json.loads(info.read_text(encoding="utf8"))
        version, features = raw["codebase_version"], raw["features"]
        _check_metadata(raw)
        result = DatasetInfo(
            folder,
            repo_id or folder.name,
            features,
            raw["fps"],
            raw["total_episodes"],
            raw["total_frames"],
            tolerance_s,
            video_backend or "pyav",
            None if streamed_gb is None else Stream.of(folder, streamed_gb),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{info} cannot be read: {error}", where=str(info), fix="restore the file or record again"
        ) from error
    if version != SUPPORTED_FORMAT:
        raise UserError(
            f"the dataset has format {version}, LeRobot reads {SUPPORTED_FORMAT}",
            where=str(info),
            fix=conversion(version, result.repo_id, folder),
        )
    if result.fps > 0 and tolerance_s >= 0.5 / result.fps:
        raise UserError(
            f"with a tolerance of {tolerance_s:g} s a frame could be taken for its neighbour {1 / result.fps:g} s away",
            where="data.tolerance_s / --tolerance-s",
            fix=f"use less than {0.5 / result.fps:g}",
        )
    if result.frames == 0:
        raise UserError("the dataset has no frames", where=str(info), fix="record again")
    require_backend(result.video_backend)
    return result


def conversion(version: Any, repo_id: str, root: Path | None) -> str:
    """What to do with a dataset of another format.

    Args:
        version: Its format, as `meta/info.json` has it.
        repo_id: Its name.
        root: Its folder; None: it is on the Hub alone.
    """
    if version != _CONVERTED_FORMAT:
        return f"LeRobot converts {_CONVERTED_FORMAT} alone: bring it to that with the LeRobot that recorded it"
    words = ["python", "-m", "lerobot.scripts.convert_dataset_v21_to_v30", f"--repo-id={repo_id}"]
    # It would upload the result unless told not to.
    words += [] if root is None else [f"--root={root.absolute()}"]
    kept = "" if root is None else f" (what it was stays in {root.name}_old)"
    return f"convert it: {shlex.join([*words, '--push-to-hub=false'])}{kept}"


def _find_info(folder: Path, where: str) -> Path:
    info = folder / INFO
    if not folder.is_dir():
        near = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        here = "" if folder.is_absolute() else f" in {Path.cwd()}"
        fix = suggest(folder.name, near) if near else "give the folder that holds meta/, data/ and videos/"
        raise UserError(f"there is no dataset folder {folder}{here}", where=where, fix=fix)
    if not info.is_file():
        refuse_other(folder, "a dataset", where)
        raise UserError(
            f"{folder} is not a LeRobotDataset: it has no {INFO}",
            where=where,
            fix="give the folder that holds meta/, data/ and videos/",
        )
    return info


def _check_metadata(raw: dict[str, Any]) -> None:
    """Refuse values that no dataset can have.

    Raises:
        ValueError: Naming the key.
    """

    def number(value: Any, *, whole: bool) -> bool:
        kinds = int if whole else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)

    if not number(raw["fps"], whole=False) or raw["fps"] <= 0:
        raise ValueError(f"'fps' is {raw['fps']!r}, not a number above 0")
    for key in ("total_episodes", "total_frames"):
        if not number(raw[key], whole=True) or raw[key] < 0:
            raise ValueError(f"{key!r} is {raw[key]!r}, not a whole number")
    for name, feature in raw["features"].items():
        if not isinstance(feature, dict) or not isinstance(feature.get("dtype"), str):
            raise ValueError(f"feature {name!r} has no 'dtype'")
        shape = feature.get("shape")
        if not isinstance(shape, list) or not all(number(n, whole=True) and n > 0 for n in shape):
            raise ValueError(f"feature {name!r} has 'shape': {shape!r}, not a list of whole numbers above 0")


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


def named_episodes(named: list[int] | str | None, info: DatasetInfo) -> list[int] | None:
    """Episodes as a source of a mixture names them: `all` and `none` as lists; the rest as it is."""
    return list(range(info.episodes)) if named == "all" else [] if isinstance(named, str) else named


def check_resumed(saved: Mapping[str, Any], now: Mapping[str, Any], infos: Sequence[DatasetInfo]) -> None:
    """Check that the data of a resumed run are those of its checkpoint.

    Args:
        saved: State of the data module in the checkpoint; what it does not hold is not compared.
        now: Its state now: the fingerprints of ``infos`` in `fingerprints`, and what decides the order of samples.
        infos: The datasets.

    Raises:
        UserError: Naming both sides of what differs.
    """
    for key in now.keys() & saved.keys():
        same = saved[key] == now[key]
        if key == "fingerprints" and not same and len(saved[key]) == len(infos):
            same = all(info.known_as(mark) for info, mark in zip(infos, saved[key], strict=True))
        if not same:
            raise UserError(
                f"this run was trained on other data: {key} was {saved[key]} and is now {now[key]}",
                where="--resume",
                fix="resume with the data, seed, batch size and processes of the run, or start a new one",
            )


def feature_names(feature: dict[str, Any], count: int) -> list[str] | None:
    """The names of a feature's ``count`` numbers, None where it has not as many; LeRobot writes lists or maps."""
    names = feature.get("names")
    if isinstance(names, dict):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    return [str(name) for name in names] if isinstance(names, list) and len(names) == count else None
