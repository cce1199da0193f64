"""A dataset measured: every frame decoded once, tables read once."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlrp.config import IdleFilter
from hlrp.data.checks import dataset_problems
from hlrp.data.columns import read_columns
from hlrp.data.dataset_info import DatasetInfo
from hlrp.data.decode import frame_size
from hlrp.data.episodes import Episodes, read_episodes, window_offset
from hlrp.data.filtering import Signal, is_depth, quiet_frames
from hlrp.data.images import BadVideoError
from hlrp.data.motion import MotionScores
from hlrp.data.problems import Problem
from hlrp.data.report.doubts import Doubt, Evidence, find_doubts, outliers
from hlrp.data.report.thumbnails import choose_episodes, thumbnails
from hlrp.data.robot_motion import ACTION, numbers_of, rate_dimensions, robot_motion
from hlrp.errors import UserError

_PERCENTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class Idle:
    """How much of a dataset is idle by the filter's usual thresholds.

    Args:
        share: Of the frames, in [0, 1].
        frames: How many.
        at_begin: Share of the frames that is idle before an episode's first motion.
        at_end: The same after its last motion.
        thresholds: The section `data.filter.idle` by which it was decided.
    """

    share: float
    frames: int
    at_begin: float
    at_end: float
    thresholds: dict[str, float]


@dataclass(frozen=True)
class Camera:
    """One camera; motion is that over the filter's `seconds`, by percentile, in grey levels.

    Args:
        name: Feature.
        height: Of its frames.
        width: Of its frames.
        codec: And the pixel format; of several in the files, each with how many have it; or how pictures are kept.
        fps: Of the first video file; None: it does not say.
        files: How many.
        megabytes: Of all files.
        motion: Percentile to grey levels; empty for depth.
    """

    name: str
    height: int
    width: int
    codec: str
    fps: float | None
    files: int
    megabytes: float
    motion: dict[str, float]


@dataclass(frozen=True)
class Task:
    """One instruction, and how often it is carried out."""

    text: str
    episodes: int
    frames: int


@dataclass(frozen=True)
class Dimension:
    """One number of an action or state over all frames in which it is finite.

    Args:
        column: Feature.
        name: The dataset's own, or its position.
        min: Smallest.
        max: Largest.
        mean: Mean.
        std: Standard deviation, as of a population.
        constant: Whether it never changes.
        kind: `position`, or `speed` for actions that follow the state's change (see `rate_dimensions`).
        outliers: Numbers far outside the range of the others.
        not_finite: Numbers that are NaN or infinite.
    """

    column: str
    name: str
    min: float
    max: float
    mean: float
    std: float
    constant: bool
    kind: str
    outliers: int
    not_finite: int


@dataclass(frozen=True)
class EpisodeRow:
    """One episode: frames, seconds, share that is idle (None: nothing says), first instruction."""

    episode: int
    frames: int
    seconds: float
    idle: float | None
    task: str


@dataclass(frozen=True, eq=False)
class SourceReport:
    """All that is told of one dataset."""

    root: str
    repo_id: str
    fingerprint: str
    fps: float
    episodes: int
    frames: int
    lengths: dict[str, float]
    """Seconds of the shortest, median, mean and longest episode."""
    idle: Idle | None
    cameras: list[Camera]
    tasks: list[Task]
    dimensions: list[Dimension]
    problems: list[Problem]
    doubts: list[Doubt]
    rows: list[EpisodeRow]
    thumbnails: dict[int, dict[str, list[NDArray[np.uint8]]]] = field(default_factory=dict, repr=False)
    """Episode to camera to its first, middle and last frame, uint8 `[H, W, 3]`."""

    def to_json(self) -> dict[str, Any]:
        """All but the pictures, as plain JSON values."""
        shown = {k: v for k, v in self.__dict__.items() if k not in ("thumbnails", "problems", "doubts")}
        plain = {k: _plain(v) for k, v in shown.items()}
        return plain | {
            "problems": [p._asdict() for p in self.problems],
            "doubts": [d._asdict() for d in self.doubts],
        }


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [asdict(item) for item in value]
    return asdict(value) if isinstance(value, Idle) else value


def measure(
    info: DatasetInfo,
    *,
    thresholds: IdleFilter | None = None,
    pictures: int = 24,
    cache_root: Path | None = None,
    announce: Callable[[str], None],
    progress: Callable[[int, int], None] | None = None,
) -> SourceReport:
    """Measure a dataset; what is decoded once is remembered for the filter of a policy's training, and the other way.

    Args:
        info: The dataset.
        thresholds: What counts as idle; none: the filter's usual ones.
        pictures: Episodes to show, doubtful ones first.
        cache_root: Where frame stores live; none: in the platform's cache folder.
        announce: Given a sentence before frames are decoded.
        progress: Called meanwhile as (frames done, frames to do).

    Raises:
        UserError: The tables cannot be read, or none is here.
    """
    section = thresholds or IdleFilter()
    evidence = _gather(info, section, cache_root, announce, progress)
    table, episodes, quiet, scores = evidence.table, evidence.episodes, evidence.quiet, evidence.scores
    doubts = find_doubts(evidence)
    lengths = table.lengths[episodes] / info.fps
    rows = [
        EpisodeRow(e, int(table.lengths[e]), float(table.lengths[e] / info.fps), _share(quiet, table, e), table.task[e])
        for e in episodes
    ]
    return SourceReport(
        root=str(info.root.absolute()),
        repo_id=info.repo_id,
        fingerprint=info.fingerprint(),
        fps=float(info.fps),
        episodes=len(episodes),
        frames=int(table.lengths[episodes].sum()),
        lengths={
            "min": float(lengths.min()),
            "median": float(np.median(lengths)),
            "mean": float(lengths.mean()),
            "max": float(lengths.max()),
        },
        idle=_idle(section, table, episodes, quiet),
        cameras=[_camera(table, camera, scores.get(camera)) for camera in info.cameras],
        tasks=_tasks(table, episodes),
        dimensions=list(_dimensions(info, table.frame_indices([*episodes]), evidence.values, evidence.rates)),
        problems=[*dataset_problems(info, episodes, needs_statistics=ACTION in info.features)],
        doubts=doubts,
        rows=rows,
        thumbnails=thumbnails(table, [*scores], choose_episodes(episodes, doubts, pictures)),
    )


def _gather(
    info: DatasetInfo,
    section: IdleFilter,
    cache_root: Path | None,
    announce: Callable[[str], None],
    progress: Callable[[int, int], None] | None,
) -> Evidence:
    """Read and decode what the report is made of."""
    table = read_episodes(info)
    episodes = table.present
    if not episodes:
        raise UserError(
            "no table of the dataset is here",
            where=str(info.root / "data"),
            fix="copy it here; `hlrp data check DIR` names what is missing",
        )
    bad: dict[int, BadVideoError] = {}

    def on_bad(error: BadVideoError) -> None:
        bad[error.episode] = error

    offset = window_offset(section.seconds, info.fps)
    scores = {
        camera: MotionScores(table, camera, None, offset, root=cache_root).read(
            episodes, announce=announce, progress=progress, on_bad=on_bad
        )
        for camera in info.cameras
        if not is_depth(info.features[camera])
    }
    motion = np.fmax.reduce([s[0] for s in scores.values()]) if scores else None
    values = numbers_of(info, episodes)
    robot = robot_motion(info, table, episodes, offset)
    quiet = _quiet(section, table, episodes, motion, robot)
    rates = rate_dimensions(values.get(ACTION), values.get("observation.state"), table)
    stamps = read_columns(info, ["timestamp"], episodes)["timestamp"]
    return Evidence(table, episodes, values, rates, stamps, scores, robot, quiet, bad)


def _quiet(
    section: IdleFilter,
    table: Episodes,
    episodes: Sequence[int],
    motion: NDArray[np.float32] | None,
    robot: NDArray[np.float32] | None,
) -> NDArray[np.bool_] | None:
    """Which frames the filter would leave out; None: nothing says."""
    signals = [Signal(motion, *section.picture)] if motion is not None else []
    signals += [Signal(robot, *section.robot)] if robot is not None else []
    return quiet_frames(signals, table, episodes, section.min_seconds) if signals else None


def _share(quiet: NDArray[np.bool_] | None, table: Episodes, episode: int) -> float | None:
    return None if quiet is None else float(quiet[table.start[episode] : table.end[episode]].mean())


def _idle(
    section: IdleFilter, table: Episodes, episodes: Sequence[int], quiet: NDArray[np.bool_] | None
) -> Idle | None:
    if quiet is None:
        return None
    frames, begins, ends = int(table.lengths[episodes].sum()), 0, 0
    for e in episodes:
        moving = np.flatnonzero(~quiet[table.start[e] : table.end[e]])
        begins += int(moving[0]) if len(moving) else int(table.lengths[e])
        ends += int(table.lengths[e] - 1 - moving[-1]) if len(moving) else 0
    above = {"picture_above": section.picture[1], "robot_above": section.robot[1]}
    used = {name: float(value) for name, value in (section.model_dump() | above).items()}
    return Idle(float(quiet.sum() / frames), int(quiet.sum()), begins / frames, ends / frames, used)


def _camera(table: Episodes, camera: str, scores: NDArray[np.float32] | None) -> Camera:
    height, width = frame_size(table.info, camera)
    paths = sorted(set(table.video[camera][0])) if camera in table.video else []
    streams = [_stream(path) for path in paths]
    fps = streams[0][1] if streams else None
    motion: dict[str, float] = {}
    if scores is not None and np.isfinite(scores[0]).any():
        found = np.nanpercentile(scores[0], _PERCENTILES)
        motion = {f"p{p}": float(v) for p, v in zip(_PERCENTILES, found, strict=True)}
    size = sum(path.stat().st_size for path in paths if path.is_file()) / 1e6
    return Camera(camera, height, width, _codecs([codec for codec, _ in streams]), fps, len(paths), size, motion)


def _codecs(of_files: Sequence[str]) -> str:
    """The codec of all files; of several, the most frequent first, each with its number of files."""
    counted = Counter(of_files).most_common()
    if len(counted) > 1:
        return ", ".join(f"{codec} {count}" for codec, count in counted)
    return counted[0][0] if counted else "in the tables"


def _stream(path: Path) -> tuple[str, float | None]:
    """Codec and pixel format of a video, and its rate."""
    import av

    with suppress(av.FFmpegError, OSError, IndexError), av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate) if stream.average_rate else None
        return f"{stream.codec_context.codec.canonical_name} {stream.codec_context.pix_fmt}", rate
    return "?", None


def _tasks(table: Episodes, episodes: Sequence[int]) -> list[Task]:
    count = Counter(table.task[e] for e in episodes)
    frames: Counter[str] = Counter()
    for e in episodes:
        frames[table.task[e]] += int(table.lengths[e])
    return [Task(text, number, frames[text]) for text, number in count.most_common()]


def _dimensions(
    info: DatasetInfo, rows: NDArray[np.int64], values: Mapping[str, NDArray[np.float32]], rates: NDArray[np.bool_]
) -> Iterator[Dimension]:
    for column, numbers in values.items():
        names = info.features[column].get("names")
        listed = names if isinstance(names, list) and len(names) == numbers.shape[1] else range(numbers.shape[1])
        for d, name in enumerate(listed):
            x = numbers[rows, d].astype(np.float64)
            finite = x[np.isfinite(x)]
            kind = "speed" if column == ACTION and rates[d] else "position"
            told = (finite.min(), finite.max(), finite.mean(), finite.std()) if len(finite) else (np.nan,) * 4
            low, high, mean, std = (float(v) for v in told)
            far = int(outliers(x).sum())
            missing = len(x) - len(finite)
            yield Dimension(column, str(name), low, high, mean, std, bool(low == high), kind, far, missing)
