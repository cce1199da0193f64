"""Which frames a run's samples may begin at: the idle and motion filter."""

import hashlib
import logging
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hlrp.config import FilterSection, IdleFilter, MotionFilter
from hlrp.data.dataset_info import DatasetInfo
from hlrp.data.episodes import Episodes, read_episodes, window_offset
from hlrp.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_log = logging.getLogger("hlrp.data")
_POLICY_SECONDS = 0.5


class Signal(NamedTuple):
    """One measure of motion, and when it counts as low.

    Args:
        scores: `[frames]` by global frame index.
        below: A run is quiet if every signal falls below this, at the same frame, somewhere in it.
        above: A run ends where a signal reaches this.
    """

    scores: "NDArray[np.float32]"
    below: float
    above: float


@dataclass(frozen=True, eq=False)
class Selection:
    """The frames of some episodes at which samples may begin.

    Args:
        info: The dataset.
        keep: bool `[frames]` by global frame index; False outside the episodes.
        frames: Frames of the episodes.
        dropped: Frames that each part of the filter leaves out, by its name; both may leave out the same.
    """

    info: DatasetInfo
    keep: "NDArray[np.bool_]"
    frames: int
    dropped: dict[str, int]

    @property
    def kept(self) -> int:
        """Frames that are left."""
        return int(self.keep.sum())

    @property
    def mark(self) -> str:
        """Identity of what is left, such as `812 of 1000 frames (3f2a90c1b2d4)`."""
        import numpy as np

        digest = hashlib.sha256(np.packbits(self.keep).tobytes()).hexdigest()[:12]
        return f"{self.kept} of {self.frames} frames ({digest})"

    def describe(self) -> str:
        """What is left out, in a line."""
        parts = ", ".join(f"{name} {count / self.frames:.1%}" for name, count in self.dropped.items())
        share = 1 - self.kept / self.frames
        return (
            f"filter    {self.info.repo_id}: {share:.1%} of {self.frames:,} training frames begin no sample ({parts}); "
            f"{self.kept:,} are left"
        )


@dataclass(frozen=True)
class View:
    """Whose pictures are looked at, and how.

    Args:
        cameras: Image features; the picture moves if it does in one of them. Empty: there is no picture.
        size: Height and width of the pictures, or one number for a square; none: as recorded.
        offset_seconds: Time between the frames of a window; none: the samples are a policy's.
        cache_root: Where frame stores live; none: in the platform's cache folder.
        prepare: Called before motion is measured that is not known yet: decodes the frames where they will be kept.
    """

    cameras: Sequence[str]
    size: int | tuple[int, int] | None = None
    offset_seconds: float | None = None
    cache_root: Path | None = None
    prepare: Callable[[], object] | None = None


def select_frames(
    section: FilterSection,
    info: DatasetInfo,
    episodes: Sequence[int],
    view: View,
    *,
    announce: Callable[[str], None] = _log.warning,
    progress: Callable[[int, int], None] | None = None,
) -> Selection:
    """The frames of some episodes at which samples may begin.

    Args:
        section: What is left out.
        info: The dataset.
        episodes: Episodes that are trained on; thresholds of the robot's motion are relative to its range in them.
        view: The pictures that are looked at.
        announce: Given a sentence before frames are read to measure their motion.
        progress: Called meanwhile as (frames done, frames to do).

    Raises:
        UserError: Nothing is left, or there is nothing to measure motion by.
        BadVideoError: An episode cannot be decoded.
    """
    import numpy as np

    table, chosen = read_episodes(info), sorted(episodes)
    keep = np.zeros(info.frames, bool)
    rows = table.frame_indices(chosen)
    keep[rows] = True
    dropped = {}
    for name, part in (("motion", section.motion), ("idle", section.idle)):
        if part is None:
            continue
        signals = _signals(part, table, chosen, view, announce, progress)
        quiet = quiet_frames(signals, table, chosen, part.min_seconds)
        keep &= ~quiet
        dropped[name] = int(quiet.sum())
    selection = Selection(info, keep, len(rows), dropped)
    if not selection.kept:
        said = ", ".join(f"{name} {count / max(1, len(rows)):.0%}" for name, count in dropped.items())
        raise UserError(
            f"the filter leaves none of the {len(rows)} training frames of {info.repo_id} ({said})",
            where=f"data.filter.{max(dropped, key=lambda name: dropped[name])}",
            fix=f"lower its thresholds; `hlrp data report {shlex.quote(str(info.root))}` shows how much moves",
        )
    return selection


def quiet_frames(
    signals: Sequence[Signal], table: Episodes, episodes: Sequence[int], min_seconds: float
) -> "NDArray[np.bool_]":
    """Frames of runs in which nothing moves, by two thresholds: noise around one of them cuts no run into pieces.

    A run is as long as every signal stays under its `above`. It counts if at one frame at least all signals are under
    their `below`, and if it is long enough.

    Args:
        signals: Measures of motion; a score that is NaN says nothing.
        table: Episode table.
        episodes: Episodes to look at; no run crosses the end of one.
        min_seconds: Length of the shortest run that counts.

    Returns:
        bool `[frames]` by global frame index.
    """
    import numpy as np

    quiet, least = np.zeros(table.info.frames, bool), round(min_seconds * table.info.fps)
    for episode in episodes:
        span = slice(int(table.start[episode]), int(table.end[episode]))
        scores = [(np.nan_to_num(signal.scores[span], nan=0.0), signal.below, signal.above) for signal in signals]
        low = np.all([part < above for part, _, above in scores], axis=0)
        lowest = np.all([part < below for part, below, _ in scores], axis=0)
        for first, end in runs_of(low):
            if end - first >= least and lowest[first:end].any():
                quiet[span.start + first : span.start + end] = True
    return quiet


def runs_of(mask: "NDArray[np.bool_]") -> list[tuple[int, int]]:
    """Runs of True: the first position of each, and the one after its last."""
    import numpy as np

    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


def kept_ranges(
    table: Episodes, episodes: Sequence[int], keep: "NDArray[np.bool_]", *, drop_first: int = 0, drop_last: int = 0
) -> tuple[list[int], list[int]]:
    """The kept frames as ranges of consecutive ones, for samplers that take ranges.

    Args:
        table: Episode table.
        episodes: Episodes to look at.
        keep: bool `[frames]`.
        drop_first: Frames that are left out at the begin of every episode.
        drop_last: The same at its end.

    Returns:
        First frame of each range, and frame after its last one.
    """
    begins: list[int] = []
    ends: list[int] = []
    for episode in sorted(episodes):
        first, end = int(table.start[episode]) + drop_first, int(table.end[episode]) - drop_last
        if end > first:
            runs = runs_of(keep[first:end])
            begins += [first + begin for begin, _ in runs]
            ends += [first + stop for _, stop in runs]
    return begins, ends


def select_for_policy(
    section: FilterSection,
    info: DatasetInfo,
    episodes: Sequence[int],
    cameras: Sequence[str] | None,
    *,
    root: Path | None = None,
    prepare: Callable[[], object] | None = None,
    announce: Callable[[str], None] = _log.warning,
    progress: Callable[[int, int], None] | None = None,
) -> list[Selection]:
    """What the filter leaves of a policy's training samples, the same in both trainers; empty without a filter.

    Pictures are those of the policy's colour cameras, as recorded.

    Args:
        section: What is left out.
        info: The dataset.
        episodes: Episodes that are trained on.
        cameras: Image features that the policy sees; none: all.
        root: Where frame stores live; none: in the platform's cache folder.
        prepare: See `View`.
        announce: Given a sentence before frames are read to measure their motion.
        progress: Called meanwhile as (frames done, frames to do).

    Raises:
        UserError: Nothing is left, or there is nothing to measure motion by.
    """
    if not section.given:
        return []
    seen = [c for c in cameras or info.cameras if not is_depth(info.features[c])]
    view = View(seen, cache_root=root, prepare=prepare)
    return [select_frames(section, info, episodes, view, announce=announce, progress=progress)]


def refuse_idle_of_unknown_actions(section: FilterSection) -> None:
    """Refuse to tell what is idle: actions and states of some episodes are to stay unknown.

    Raises:
        UserError: It is asked for.
    """
    if section.idle is not None:
        raise UserError(
            "what is idle is told by actions and states, of which those of unlabelled episodes are to stay unknown",
            where="data.filter.idle, labelled_episodes",
            fix="use data.filter.motion, which looks at pictures alone",
        )


def is_depth(feature: dict[str, Any]) -> bool:
    """Whether an image feature holds depth, not colour."""
    details = feature.get("info") or {}
    return bool(details.get("is_depth_map") or details.get("video.is_depth_map"))


def _signals(
    part: MotionFilter | IdleFilter,
    table: Episodes,
    episodes: Sequence[int],
    view: View,
    announce: Callable[[str], None],
    progress: Callable[[int, int], None] | None,
) -> list[Signal]:
    info = table.info
    if isinstance(part, MotionFilter):
        if not view.cameras:
            raise UserError(
                f"{info.repo_id} has no colour camera in whose picture something could move",
                where="data.filter.motion",
                fix="leave it out; data.filter.idle looks at actions and states too",
            )
        seconds = view.offset_seconds or part.seconds or _POLICY_SECONDS
        scores = picture_motion(table, episodes, view, seconds, announce=announce, progress=progress)
        return [Signal(scores, *part.picture)]
    signals = []
    if view.cameras:
        scores = picture_motion(table, episodes, view, part.seconds, announce=announce, progress=progress)
        signals.append(Signal(scores, *part.picture))
    from hlrp.data.robot_motion import robot_motion

    moved = robot_motion(info, table, episodes, window_offset(part.seconds, info.fps))
    if moved is not None:
        signals.append(Signal(moved, *part.robot))
    if not signals:
        raise UserError(
            f"{info.repo_id} has no camera, action or observation.state that could say what is idle",
            where="data.filter.idle",
            fix="leave it out",
        )
    return signals


def picture_motion(
    table: Episodes,
    episodes: Sequence[int],
    view: View,
    seconds: float,
    *,
    announce: Callable[[str], None] = _log.warning,
    progress: Callable[[int, int], None] | None = None,
) -> "NDArray[np.float32]":
    """The largest motion over the cameras of a view, in grey levels, float32 `[frames]`; see `MotionScores.read`."""
    import numpy as np

    from hlrp.data.motion import MotionScores

    offset = window_offset(seconds, table.info.fps)
    motions = [MotionScores(table, camera, view.size, offset, root=view.cache_root) for camera in view.cameras]
    if view.prepare and any(motion.missing(episodes) for motion in motions):
        view.prepare()
    found = [motion.read(episodes, announce=announce, progress=progress)[0] for motion in motions]
    largest: NDArray[np.float32] = np.fmax.reduce(found)
    return largest
