"""Windows of T frames for the latent action quantizer, from one dataset or a mixture."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hlrp.data.columns import read_column
from hlrp.data.compact import FrameRanges, zeros
from hlrp.data.dataset_info import DatasetInfo, check_episodes
from hlrp.data.decode import frame_size, target_size
from hlrp.data.episodes import Episodes, check_camera, code_offset, read_episodes, window_offset
from hlrp.data.filtering import kept_ranges
from hlrp.data.mixture import Batch, Mixture
from hlrp.data.readers import FrameReader, FramesWanted, open_readers
from hlrp.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Batch", "FrameWindows", "WindowSource"]

_ROWS = 65_536
_FILES_TOGETHER, _EPISODES_TOGETHER = 16, 64
_log = logging.getLogger("hlrp.data")


@dataclass(frozen=True)
class WindowSource:
    """One dataset of a mixture.

    Args:
        info: The dataset.
        episodes: Episodes whose frames begin windows; none: all.
        cameras: Features to read, in this order; none: the only one there is.
        weight: How often it is sampled, relative to the other sources, > 0.
        labelled_episodes: Episodes whose actions may be used; none: all that have actions.
        keep: bool `[frames]`: frames at which windows may begin; none: all of the episodes.
    """

    info: DatasetInfo
    episodes: list[int] | None = None
    cameras: list[str] | None = None
    weight: float = 1.0
    labelled_episodes: list[int] | None = None
    keep: "NDArray[np.bool_] | None" = field(default=None, compare=False)


class SourceWindows:
    """One source of a mixture: the frames that its samples begin at, and the windows of T frames from there on.

    Args:
        spec: The source.
        num_frames: T.
        offset_seconds: Time between neighbouring frames.

    Raises:
        UserError: It lacks one of its episodes, or its episode table cannot be read.
    """

    def __init__(self, spec: WindowSource, num_frames: int, offset_seconds: float) -> None:
        import numpy as np

        check_episodes(spec.info, spec.episodes)
        self.spec = spec
        self.table: Episodes = read_episodes(spec.info)
        self.offset = window_offset(offset_seconds, spec.info.fps)
        self.starts = self._begins(drop_last=0)
        self._steps = np.arange(num_frames, dtype=np.int64) * self.offset

    def keep_valid(self) -> None:
        """Drop the frames after which not even one pair fits into the episode.

        Raises:
            UserError: That leaves none.
        """
        kept = self._begins(drop_last=self.offset)
        if len(self.starts) and not len(kept):
            raise _no_pair_fits(self.table, self.spec.episodes, self.offset)
        self.starts = kept

    def _begins(self, *, drop_last: int) -> FrameRanges:
        episodes, keep = self.spec.episodes, self.spec.keep
        if keep is None:
            return self.table.frame_ranges(episodes, drop_last=drop_last)
        kept = kept_ranges(
            self.table, range(len(self.table)) if episodes is None else episodes, keep, drop_last=drop_last
        )
        return FrameRanges(*kept)

    def window(
        self, starts: "NDArray[np.int64]", episode: "NDArray[np.int64]"
    ) -> "tuple[NDArray[np.int64], NDArray[np.bool_]]":
        """The frames of the windows that begin at ``starts``; one past the episode's end is the episode's last.

        Args:
            starts: Global frame indices, `[n]`.
            episode: The episode of each, `[n]`.

        Returns:
            Global frame indices `[n, T]`, and bool `[n, T-1]`: pair j (frames j and j+1) lies inside the episode.
        """
        import numpy as np

        last = self.table.end[episode][:, None] - 1
        wanted = starts[:, None] + self._steps
        return np.minimum(wanted, last), wanted[:, 1:] <= last


def read_window(reader: FrameReader, indices: "NDArray[np.int64]") -> "NDArray[np.uint8]":
    """The frames of windows `[n, T]`: uint8 `[n, T, 3, H, W]`."""
    return reader.read(indices.reshape(-1)).reshape(*indices.shape, 3, *reader.size)


class _FramesAndActions(SourceWindows):
    """What `FrameWindows` keeps of one source."""

    def __init__(self, spec: WindowSource, num_frames: int, offset_seconds: float, with_actions: bool) -> None:
        import numpy as np

        super().__init__(spec, num_frames, offset_seconds)
        code_offset(spec.info, offset_seconds)
        check_episodes(spec.info, spec.labelled_episodes)
        asked: Sequence[str | None] = spec.cameras or [None]
        self.cameras = [check_camera(spec.info, c) for c in asked]
        self.readers: list[FrameReader] = []
        self.action_total: NDArray[np.float64] | None = None
        self.action_bad: NDArray[np.float64] | None = None
        self.action_width: int | None = None
        self.labelled = np.zeros(len(self.table), bool)
        if with_actions and "action" in spec.info.features:
            actions = read_column(spec.info, "action", spec.episodes)
            # One that is no number would spoil every sum that comes after it: they are counted beside.
            if not all(np.isfinite(actions[first : first + _ROWS]).all() for first in range(0, len(actions), _ROWS)):
                self.action_bad = _running_sums(actions, self.table, bad=True)
            self.action_total = _running_sums(actions, self.table)
            self.labelled[spec.labelled_episodes if spec.labelled_episodes is not None else slice(None)] = True

    @property
    def action_dim(self) -> int:
        return 0 if self.action_total is None else self.action_total.shape[1]

    def read(self, starts: "NDArray[np.int64]") -> "dict[str, NDArray[Any]]":
        import numpy as np

        episode = self.table.episode_of(starts)
        indices, valid = self.window(starts, episode)
        views = [read_window(reader, indices) for reader in self.readers]
        result = {
            "frames": views[0] if len(views) == 1 else np.stack(views, axis=2),
            "valid": valid,
            "index": starts,
            "episode_index": episode,
        }
        if self.action_width is not None:
            result |= self._actions(indices, valid, episode, self.action_width)
        return result

    def _actions(
        self, indices: "NDArray[np.int64]", valid: "NDArray[np.bool_]", episode: "NDArray[np.int64]", width: int
    ) -> "dict[str, NDArray[Any]]":
        import numpy as np

        has_action = self.labelled[episode] & (self.action_total is not None)
        sums = np.zeros((*valid.shape, width), np.float32)
        if self.action_total is not None:
            between = self.action_total[indices[:, 1:]] - self.action_total[indices[:, :-1]]
            if self.action_bad is not None:
                between[self.action_bad[indices[:, 1:]] > self.action_bad[indices[:, :-1]]] = np.nan
            sums[..., : self.action_dim] = np.where((valid & has_action[:, None])[..., None], between, 0)
        return {"action_sum": sums, "has_action": has_action}

    def action_sums(self) -> "NDArray[np.float32]":
        """Of the valid pairs of labelled episodes, all finite, `[N, A]`; no frame is read."""
        import numpy as np

        parts: list[NDArray[np.float32]] = [np.zeros((0, self.action_width or 0), np.float32)]
        for starts in self.starts.blocks(_ROWS):
            episode = self.table.episode_of(starts)
            indices, valid = self.window(starts, episode)
            found = self._actions(indices, valid, episode, self.action_width or 0)
            sums: NDArray[np.float32] = found["action_sum"][valid & found["has_action"][:, None]]
            parts.append(sums[np.isfinite(sums).all(1)])
        return np.concatenate(parts)


def _no_pair_fits(table: Episodes, episodes: list[int] | None, offset: int) -> UserError:
    """What to say when two frames ``offset`` apart fit into none of the episodes."""
    lengths = table.lengths if episodes is None else table.lengths[episodes]
    fps = table.info.fps
    longest, shortest = int(lengths.max()), int(lengths.min())
    spread = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
    return UserError(
        f"no episode of {table.info.repo_id} is longer than {offset / fps:g} s, the time between two frames: the "
        f"{len(lengths)} episodes have {spread} frames, those of a window lie {offset} apart at {fps:g} fps",
        where="data.offset_seconds",
        fix=f"use an offset of at most {(longest - 1) / fps:g} s, or longer episodes",
    )


def _running_sums(rows: "NDArray[Any]", table: Episodes, *, bad: bool = False) -> "NDArray[np.float64]":
    """Sum over the rows of its episode before each frame, or how many are no number, float64 `[frames, A]`.

    Each episode begins at zero, so that a huge number costs its own episode's digits alone.
    """
    import numpy as np

    sums = zeros(rows.shape, np.float64)
    for first, end in zip(table.start.tolist(), table.end.tolist(), strict=True):
        part = rows[first : end - 1]
        finite = np.isfinite(part)
        np.cumsum(~finite if bad else np.where(finite, part, 0), axis=0, dtype=np.float64, out=sums[first + 1 : end])
    return sums


class FrameWindows(Mixture):
    """Windows of ``num_frames`` frames, `offset_seconds` apart, that begin at every frame of the chosen episodes.

    A sample is a dictionary:

    - ``frames``: uint8 `[T, C, H, W]`, or `[T, V, C, H, W]` when more than one camera is asked for. A frame past the
      end of the episode is the episode's last one.
    - ``valid``: bool `[T-1]`; pair j (frames j and j+1) lies inside the episode. Never train on the others.
    - ``index``, ``episode_index``, ``source``: int64 scalars. `index` is LeRobot's global frame index in the source, so
      (`source`, `index`) names a sample for good, however the data are split or read.
    - with ``with_actions``: ``action_sum``: float32 `[T-1, A]`, the sum of the recorded actions from frame j up to, not
      including, frame j+1, zero-padded to the widest source, zero where invalid or unlabelled, NaN where one of them is
      no finite number; ``has_action``: bool.

    Indexing by a list (`__getitems__`) gives a whole batch, with a leading `B`, in one copy: use
    `collate_fn=FrameWindows.collate` in a `DataLoader`.

    Args:
        sources: Datasets; all must have as many cameras.
        num_frames: T, >= 2.
        offset_seconds: Time between neighbouring frames, > 0; in frames it is `max(1, round(offset_seconds * fps))`.
        size: Height and width, or one number for a square; none: as recorded.
        cache: off: decode at every access; ram, disk: from a `FrameStore`, made now if need be.
        with_actions: Whether to give `action_sum` and `has_action`.
        drop_invalid: Leave out windows without one valid pair.
        cache_root: Where the frame stores live; none: in the platform's cache folder.
        cache_limit_gb: Most decoded frames in the cache, in GB; see `open_readers`.
        announce: Given a sentence before frames are decoded into the cache, saying how much that is.
        progress: Called meanwhile as (frames done, frames to do).

    Raises:
        UserError: Unknown camera or episodes, sources that do not fit together, or a cache beyond its limit.
    """

    def __init__(
        self,
        sources: Sequence[WindowSource],
        *,
        num_frames: int = 2,
        offset_seconds: float,
        size: int | tuple[int, int] | None = None,
        cache: Literal["off", "ram", "disk"] = "off",
        with_actions: bool = False,
        drop_invalid: bool = False,
        cache_root: Path | None = None,
        cache_limit_gb: float = 50.0,
        announce: Callable[[str], None] = _log.warning,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if num_frames < 2:
            raise UserError(f"a window needs 2 frames or more, not {num_frames}", where="data.num_frames")
        if offset_seconds <= 0:
            raise UserError(f"the offset must be positive, not {offset_seconds}", where="data.offset_seconds")
        if not sources:
            raise UserError("there is no dataset to read windows from", where="data.sources")
        self.sources = tuple(sources)
        self.num_frames, self.offset_seconds = num_frames, offset_seconds
        super().__init__(
            [_FramesAndActions(s, num_frames, offset_seconds, with_actions) for s in sources],
            [s.weight for s in sources],
        )
        self.size = self._common_size(size)
        if drop_invalid:
            for part in self._parts:
                part.keep_valid()
        self._action_dim = max(p.action_dim for p in self._parts) if with_actions else None
        for part in self._parts:
            part.action_width = self._action_dim
        wanted = [FramesWanted(p.table, c, self.size, p.spec.episodes) for p in self._parts for c in p.cameras]
        readers = iter(
            open_readers(
                wanted, cache=cache, root=cache_root, limit_gb=cache_limit_gb, announce=announce, progress=progress
            )
        )
        for part in self._parts:
            part.readers = [next(readers) for _ in part.cameras]

    def action_sums(self) -> "NDArray[np.float32]":
        """Summed actions of every valid pair of labelled episodes whose actions are finite, `[N, A]`."""
        import numpy as np

        return np.concatenate([part.action_sums() for part in self._parts])

    def file_ends(self) -> "NDArray[np.int64]":
        """The position after the last sample of each video file of the first source, int64 `[files]`, ascending."""
        import numpy as np

        part = self._parts[0]
        numbers = [paths.numbers for paths in (part.table.video[camera][0] for camera in part.cameras)]
        others = np.any([n[1:] != n[:-1] for n in numbers], axis=0)
        ends = part.starts.before(np.append(part.table.end[:-1][others], part.table.end[-1]))
        return np.unique(ends[ends > 0])

    def files_together(self, limit_gb: float | None) -> int:
        """How many of the files of `file_ends` to draw from at a time: 16, or as many as hold 64 episodes.

        Args:
            limit_gb: Room for their decoded frames, in GB, which more than 16 must not exceed; none: without end.
        """
        import numpy as np

        part, files = self._parts[0], len(self.file_ends())
        read = np.flatnonzero(np.diff(part.starts.before(part.table.end), prepend=0))  # episodes that windows begin in
        wanted = math.ceil(_EPISODES_TOGETHER * files / len(read))
        if limit_gb is not None:
            decoded = int(part.table.lengths[read].sum()) * len(part.cameras) * math.prod(self.size) * 3
            wanted = min(wanted, int(limit_gb * 1e9 * files / decoded))
        return max(_FILES_TOGETHER, wanted)

    def _common_size(self, size: int | tuple[int, int] | None) -> tuple[int, int]:
        sizes = {
            (p.spec.info.repo_id, camera): target_size(size, frame_size(p.spec.info, camera))
            for p in self._parts
            for camera in p.cameras
        }
        if len(set(sizes.values())) > 1:
            listed = "; ".join(f"{repo} {camera}: {h}x{w}" for (repo, camera), (h, w) in sizes.items())
            raise UserError(f"cameras differ in size ({listed})", where="image size", fix="ask for one size")
        counts = {p.spec.info.repo_id: len(p.cameras) for p in self._parts}
        if len(set(counts.values())) > 1:
            raise UserError(f"sources differ in the number of cameras: {counts}", fix="choose as many of each")
        return next(iter(sizes.values()))

    @property
    def action_dim(self) -> int:
        """A of `action_sum`: the width of the widest action, 0 without actions."""
        return self._action_dim or 0
