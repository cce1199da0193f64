"""Where every episode of a dataset lies: row ranges, video files and positions in them; and how episodes are split."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.camera_names import full_name, suggest_camera
from hlrp.data.compact import FewValues, FrameRanges, release_memory
from hlrp.data.dataset_info import INFO, DatasetInfo, check_episodes
from hlrp.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EPISODES = Path("meta/episodes")
_SAID_APART, _MOST_APART = 0.1, 0.5
_log = logging.getLogger("hlrp.data")


@dataclass(frozen=True, eq=False)
class Episodes:
    """The episode table of a dataset, one entry per episode, by episode number.

    Args:
        info: The dataset.
        start: Global index of the first frame, int64 `[E]`.
        end: Global index after the last frame, int64 `[E]`.
        task: First task sentence of each episode.
        video: Camera to its files and the second at which each episode begins in them.
        tables: The file that holds each episode's rows; empty where the dataset does not say.
    """

    info: DatasetInfo
    start: "NDArray[np.int64]"
    end: "NDArray[np.int64]"
    task: Sequence[str]
    video: "dict[str, tuple[Sequence[Path], NDArray[np.float64]]]"
    tables: Sequence[Path]

    def __len__(self) -> int:
        return len(self.start)

    @cached_property
    def lengths(self) -> "NDArray[np.int64]":
        """Frames of each episode, int64 `[E]`."""
        return self.end - self.start

    @property
    def present(self) -> list[int]:
        """Episodes whose rows are on this machine: all, but where only a part of the dataset was fetched."""
        there = {path: path.is_file() for path in dict.fromkeys(self.tables)}
        return [e for e in range(len(self)) if not self.tables or there[self.tables[e]]]

    def episode_of(self, index: "NDArray[np.int64]") -> "NDArray[np.int64]":
        """Episode number of each global frame index."""
        import numpy as np

        return np.searchsorted(self.end, index, side="right").astype(np.int64)

    def frame_indices(self, episodes: list[int] | None = None) -> "NDArray[np.int64]":
        """Global indices of all frames of the chosen episodes (all by default), ascending."""
        import numpy as np

        if episodes is None:
            return np.arange(self.start[0], self.end[-1], dtype=np.int64)
        return np.asarray(self.frame_ranges(episodes), np.int64)

    def frame_ranges(
        self, episodes: "Sequence[int] | NDArray[np.int64] | None" = None, *, drop_last: int = 0
    ) -> FrameRanges:
        """The frames of the chosen episodes (all by default), but for the last ``drop_last`` of each."""
        import numpy as np

        chosen = slice(None) if episodes is None else np.sort(np.asarray(episodes, np.int64))
        return FrameRanges(self.start[chosen], self.end[chosen] - drop_last)


Stamp = tuple[str, int, int, int, int]


def _stamps(root: Path) -> tuple[Stamp, ...]:
    """The files of the episode table, as LeRobot finds them, each with what changes when it is written."""
    stamps = []
    for path in sorted((root / EPISODES).glob("*/*.parquet")):
        if not path.name.startswith("."):
            stat = path.stat()
            stamps.append((str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return tuple(stamps)


@lru_cache(maxsize=32)
def _read(stamps: tuple[Stamp, ...]) -> "tuple[dict[str, NDArray[Any]], FewValues[str] | None]":
    """The numbers of the table by column, and the first task of every row; None: it has no column of tasks."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for path, *_ in stamps:
        # Not `read_table`: that imports pandas, a second of every start.
        with pq.ParquetFile(path) as file:
            tables.append(file.read(columns=[c for c in file.schema_arrow.names if not c.startswith("stats/")]))
        del file  # it holds the table of contents, which is most of what is to be given back
    release_memory()
    whole = pa.concat_tables(tables, promote_options="default")
    columns: dict[str, NDArray[Any]] = {}
    for name in whole.column_names:
        column = whole.column(name).combine_chunks()
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            # Arrow's own conversion would import pandas. Where cells are empty it has to be asked for.
            columns[name] = np.from_dlpack(column) if not column.null_count else np.asarray(column.to_pylist())
    return columns, _first_tasks(whole.column("tasks").combine_chunks()) if "tasks" in whole.column_names else None


def _first_tasks(column: Any) -> FewValues[str]:
    """The first sentence of each cell of an Arrow column of lists; of an empty one the empty sentence."""
    import numpy as np
    import pyarrow as pa

    if not pa.types.is_list(column.type) or column.null_count:
        firsts = pa.array([(cell or [""])[0] for cell in column.to_pylist()], pa.string())
    else:
        offsets: NDArray[Any] = np.asarray(np.from_dlpack(column.offsets))
        given = offsets[1:] > offsets[:-1]
        firsts = column.values.take(pa.array(offsets[:-1].tolist(), mask=~given)).fill_null("")
    encoded = firsts.dictionary_encode()
    return FewValues(encoded.dictionary.to_pylist(), np.from_dlpack(encoded.indices))


def read_episodes(info: DatasetInfo) -> Episodes:
    """Read the episode table of a dataset.

    Raises:
        UserError: It is missing, unreadable, or does not agree with `meta/info.json`.
    """
    import numpy as np

    where = info.root / EPISODES
    try:
        columns, first_tasks = _read(_stamps(info.root))
        order = np.argsort(columns["episode_index"])
        start = np.asarray(columns["dataset_from_index"], np.int64)[order]
        end = np.asarray(columns["dataset_to_index"], np.int64)[order]
        numbers = columns["episode_index"][order]
        same = FewValues([""], np.zeros(len(order), np.int64)) if first_tasks is None else first_tasks
        tasks = FewValues(same.values, same.numbers[order])
        tables = _tables(info, columns, order)
        video = {c: _video(info, columns, order, c) for c in info.cameras if info.features[c]["dtype"] == "video"}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"the episode table cannot be read: {error!r}", where=str(where), fix="restore the dataset or record again"
        ) from error
    complete = len(start) == info.episodes and bool((numbers == np.arange(info.episodes)).all())
    joined = complete and start[0] == 0 and end[-1] == info.frames and bool((start[1:] == end[:-1]).all())
    if not joined:
        raise UserError(
            f"the episode table ({len(start)} episodes, {int((end - start).sum())} frames) does not agree with "
            f"{INFO} ({info.episodes} episodes, {info.frames} frames)",
            where=str(where),
            fix="the dataset is incomplete: copy or record it again",
        )
    return Episodes(info, start, end, tasks, video, tables)


def _pattern(info: DatasetInfo, key: str) -> str:
    import json

    return str(json.loads((info.root / INFO).read_text(encoding="utf8"))[key])


def _tables(info: DatasetInfo, columns: "dict[str, NDArray[Any]]", order: "NDArray[np.int64]") -> Sequence[Path]:
    if "data/chunk_index" not in columns or "data/file_index" not in columns:
        return []
    return _files(info, "data_path", columns["data/chunk_index"][order], columns["data/file_index"][order])


def _video(
    info: DatasetInfo, columns: "dict[str, NDArray[Any]]", order: "NDArray[np.int64]", camera: str
) -> "tuple[Sequence[Path], NDArray[np.float64]]":
    import numpy as np

    chunk, file = (columns[f"videos/{camera}/{name}_index"][order] for name in ("chunk", "file"))
    begins = np.asarray(columns[f"videos/{camera}/from_timestamp"], np.float64)[order]
    return _files(info, "video_path", chunk, file, video_key=camera), begins


def _files(info: DatasetInfo, key: str, chunk: "NDArray[Any]", file: "NDArray[Any]", **named: str) -> FewValues[Path]:
    """The file of each episode by its numbers, which `meta/info.json` has a pattern for."""
    import numpy as np

    pattern = _pattern(info, key)
    pairs, numbers = np.unique(np.stack([chunk, file], axis=1).astype(np.int64), axis=0, return_inverse=True)
    paths = [info.root / pattern.format(chunk_index=c, file_index=f, **named) for c, f in pairs.tolist()]
    return FewValues(paths, numbers.reshape(-1))


def check_camera(info: DatasetInfo, camera: str | None) -> str:
    """The camera to read, by its full name: the one asked for, of whose name the end is enough, or the only one.

    Raises:
        UserError: No such camera, several to choose from, or a depth map.
    """
    where = f"camera, dataset {info.root}"
    if not info.cameras:
        raise UserError(f"the dataset {info.repo_id} has no camera", where=where, fix="use a dataset with video")
    if camera is None:
        if len(info.cameras) > 1:
            raise UserError(
                f"the dataset has {len(info.cameras)} cameras", where=where, fix=f"choose: {', '.join(info.cameras)}"
            )
        camera = info.cameras[0]
    [camera] = check_camera_names([camera], info.cameras, where)
    details = info.features[camera].get("info") or {}
    if details.get("is_depth_map") or details.get("video.is_depth_map"):
        raise UserError(f"{camera!r} holds depth, not colour", where=where, fix="choose a colour camera")
    return camera


def check_camera_names(asked: list[str], known: list[str], where: str) -> list[str]:
    """The full names of the cameras that are asked for; see `full_name`.

    Raises:
        UserError: Naming the first that a dataset does not have.
    """
    found = []
    for camera in asked:
        name = full_name(camera, known)
        if name is None:
            raise UserError(f"the dataset has no camera {camera!r}", where=where, fix=suggest_camera(camera, known))
        found.append(name)
    return found


def window_offset(offset_seconds: float, fps: float) -> int:
    """Frames between neighbouring frames of a window: at least 1."""
    return max(1, round(offset_seconds * fps))


def code_offset(info: DatasetInfo, offset_seconds: float) -> int:
    """As `window_offset`, for windows of which codes are made: what a code means depends on the time that they span.

    Where that is off by more than a tenth it is warned of, once.

    Raises:
        UserError: It is off by more than half.
    """
    frames = window_offset(offset_seconds, info.fps)
    rates = ", ".join(f"{n / offset_seconds:.3g}" for n in (1, 2, 3))
    offsets = ", ".join(f"{n / info.fps:.3g}" for n in (1, 2, 3))
    refuse_other_span(
        frames / info.fps,
        offset_seconds,
        f"at {info.fps:g} frames per second, the frames of a window of {info.repo_id} are {frames / info.fps:.3g} s "
        f"apart, and {offset_seconds:g} s are asked for",
        where=f"data.offset_seconds, dataset {info.root}",
        fix=f"use a dataset of {rates}, ... frames per second, or train a quantizer for {offsets}, ... s",
    )
    return frames


def refuse_other_span(span: float, other: float, what: str, *, where: str, fix: str) -> None:
    """Compare two times that codes span, in seconds: of more than a tenth between them ``what`` is warned of, once.

    Raises:
        UserError: It is more than half.
    """
    apart = max(span, other) / min(span, other) - 1
    if apart > _MOST_APART:
        raise UserError(what, where=where, fix=fix)
    if apart > _SAID_APART:
        _say_once(f"{what} ({where}): {fix}")


@cache
def _say_once(text: str) -> None:
    _log.warning(text)


def split_episodes(
    info: DatasetInfo, fraction: float, seed: int | None = None, *, episodes: list[int] | None = None
) -> tuple[list[int], list[int]]:
    """Split episodes into training and held-out ones.

    Args:
        info: The dataset.
        fraction: Share of the episodes of every task to hold out, `[0, 1)`; rounded up per task.
        seed: None: the last episodes of every task are held out, which is LeRobot's own `eval_split`, so that both
            trainers hold out the same; a number: a random choice that depends on it alone.
        episodes: Episodes to choose from; none: all.

    Returns:
        (training episodes, held-out episodes), both ascending and disjoint.

    Raises:
        UserError: Unknown episodes, or nothing would be left to train on.
    """
    import numpy as np

    check_episodes(info, episodes)
    chosen = sorted(episodes) if episodes is not None else list(range(info.episodes))
    if fraction <= 0:
        return chosen, []
    tasks = read_episodes(info).task
    by_task: dict[str, list[int]] = {}
    for episode in chosen:
        by_task.setdefault(tasks[episode], []).append(episode)
    train: list[int] = []
    held_out: list[int] = []
    for number, group in enumerate(by_task.values()):
        order = group if seed is None else np.random.default_rng([seed, number]).permutation(group).tolist()
        keep = len(group) - math.ceil(len(group) * fraction)
        train += order[:keep]
        held_out += order[keep:]
    if not train:
        raise UserError(
            f"holding out {fraction:.0%} leaves none of {len(chosen)} episodes to train on",
            where="trainer.eval_split",
            fix="hold out less, or use more episodes",
        )
    return sorted(train), sorted(held_out)
