"""Datasets by their name on the Hub: only the files that a run reads are fetched, and only where it may."""

import glob
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from hlrp.data.dataset_info import (
    SUPPORTED_FORMAT,
    DatasetInfo,
    check_episodes,
    conversion,
    find_dataset,
    lerobot_home,
    read_dataset,
)
from hlrp.data.episodes import check_camera_names, read_episodes
from hlrp.data.linked_copy import alone, place
from hlrp.data.streaming import PART_MARK, Stream
from hlrp.errors import UserError
from hlrp.files import new_folder

_WHERE = "data.repo_id / --dataset"
_NETWORK = "check the network and HF_HUB_OFFLINE, or give a folder with --dataset-root"
_META = "meta/*"
_META_FILES = ("meta/episodes", "meta/tasks.parquet", "meta/stats.json")


def needed_files(
    info: DatasetInfo, episodes: Sequence[int] | None = None, cameras: Sequence[str] | None = None
) -> list[str]:
    """Tables and videos that some episodes lie in, as names below the dataset's folder; `meta/` comes beside them.

    Args:
        info: The dataset; its `meta/` alone is read.
        episodes: Episodes to read; none: all.
        cameras: Cameras to read; none: all.

    Raises:
        UserError: No such episode or camera, or the episode table cannot be read.
    """
    check_episodes(info, list(episodes) if episodes is not None else None)
    if cameras is not None:
        cameras = check_camera_names(list(cameras), info.cameras, f"data.cameras, dataset {info.repo_id}")
    table = read_episodes(info)
    chosen = range(info.episodes) if episodes is None else episodes
    videos = [paths for camera, (paths, _) in table.video.items() if cameras is None or camera in cameras]
    found = {paths[episode] for paths in [table.tables, *videos] for episode in chosen}
    return sorted(path.relative_to(info.root).as_posix() for path in found)


def fetch_dataset(
    repo_id: str,
    *,
    episodes: Sequence[int] | None = None,
    cameras: Sequence[str] | None = None,
    announce: Callable[[str], None],
    fetch: bool = True,
    streamed: bool = False,
) -> Path:
    """The folder of a dataset on the Hub with what a run reads of it, fetched if need be into LeRobot's cache.

    A part (of its episodes, of its cameras) gets a folder of its own, with links to the videos, unless all of the
    dataset is here already: its fingerprint is the same whatever else of the dataset is fetched later. It is known by
    that of the whole, too.

    Args:
        repo_id: Its name.
        episodes: Episodes to read; none: all.
        cameras: Cameras to read; none: all.
        announce: Told what is fetched.
        fetch: False: for a dry run, only say which folder it is, of what was fetched before.
        streamed: Fetch `meta/` alone, into a folder whose other files come when they are read.

    Raises:
        UserError: No such dataset, format, episode or camera; the Hub cannot be reached, or not be asked.
    """
    found = find_dataset(repo_id, None)
    if found is not None and found == lerobot_home() / repo_id:
        return found  # put there by hand, recorded or converted: whole, and not the Hub's to change
    begun = found is not None and all((found / name).exists() for name in _META_FILES)
    if not begun and not fetch:
        raise unfetched(repo_id)
    root = found if found is not None and begun else _fetch(repo_id, SUPPORTED_FORMAT, [_META])
    if streamed:
        return _stream(repo_id, root, make=fetch)
    info = read_dataset(repo_id, root)
    files = needed_files(info, episodes, cameras)
    if missing := [name for name in files if not (root / name).is_file()]:
        if not fetch:
            raise unfetched(repo_id)
        announce(f"fetching {len(missing)} of the files of {repo_id} into {root}")
        # The folder's name is the commit: all files are of one state of the dataset.
        _fetch(repo_id, root.name, [glob.escape(name) for name in missing])
        if absent := next((name for name in missing if not (root / name).is_file()), None):
            # Without a network the client gives what is here, and says nothing.
            raise UserError(f"{repo_id} cannot be fetched: {absent} did not come", where=_WHERE, fix=_NETWORK)
    if episodes is None and cameras is None:
        return root
    part, whole = _part(root, files, make=False), all((root / name).is_file() for name in needed_files(info))
    if whole and not part.is_dir():
        return root
    if fetch:
        _part(root, files, make=True)
        if Stream.whole_of(part) is None:
            said = info.fingerprint() if whole else None
            Stream(part, _place(repo_id, root), mark=PART_MARK).write_mark(said)
    return part


def _stream(repo_id: str, root: Path, *, make: bool) -> Path:
    """A folder that has `meta/` of one state of a dataset, and says where its other files are."""
    folder = _part(root, [], make=make)
    if not make and not folder.is_dir():
        raise unfetched(repo_id)
    if make:
        Stream(folder, _place(repo_id, root)).write_mark()
    return folder


def _place(repo_id: str, root: Path) -> str:
    """Where fsspec finds all of a dataset, in the state that a snapshot is of."""
    return f"hf://datasets/{repo_id}@{root.name}"


def unfetched(repo_id: str) -> UserError:
    """The refusal of a dry run of data that the run would fetch."""
    return UserError(
        f"dataset {repo_id!r} is not on this machine, and a dry run fetches nothing",
        where="--dry-run, --dataset",
        fix="leave --dry-run out, or give a folder with --dataset-root",
    )


def _fetch(repo_id: str, revision: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cache = lerobot_home() / "hub"
    try:
        return Path(
            snapshot_download(
                repo_id, repo_type="dataset", revision=revision, cache_dir=cache, allow_patterns=list(patterns)
            )
        )
    except RevisionNotFoundError as error:
        raise UserError(
            f"{repo_id} has no state of format {revision} on the Hub: it was not converted yet",
            where=_WHERE,
            fix=conversion("v2.1", repo_id, None),
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"there is no dataset {repo_id!r} on the Hub, or it is private",
            where=_WHERE,
            fix="check the name, log in with `hf auth login`, or give a folder with --dataset-root",
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{repo_id} cannot be fetched: {' '.join(str(error).split())}",
            where=_WHERE,
            fix=_NETWORK,
        ) from error


def _part(root: Path, files: Sequence[str], *, make: bool) -> Path:
    """A folder of `meta/` and these files, the videos as links, beside the cache's own."""
    key = hashlib.sha256(json.dumps([root.name, *files]).encode()).hexdigest()[:12]
    part = root.parents[1] / "hlrp-parts" / f"{root.name[:12]}-{key}"
    if not make:
        return part
    meta = [path.relative_to(root).as_posix() for path in (root / "meta").rglob("*") if path.is_file()]
    with alone(part):
        if part.is_dir():
            return part
        with new_folder(part) as temporary:
            for name in [*meta, *files]:
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                # As elsewhere: who edits a dataset rewrites its tables in place.
                place(root / name, temporary / name, link=name.startswith("videos/"))
    return part
