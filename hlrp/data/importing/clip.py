"""What one video file or folder of pictures holds, looked at without writing anything; and what is wrong with it."""

import zlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hlrp.data.images import BadVideoError
from hlrp.data.importing.sources import Source, numbered, picture_files
from hlrp.data.importing.timeline import BadClipError, Timeline, read_timeline
from hlrp.data.video import DECODING_FAULTS, VideoReader
from hlrp.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_POINTER = b"version https://git-lfs"
_HEAD = 512
_JITTER = 1e-6
"""Changes from row to row that may be lost: what comes to rest is never quite still in float64."""


@dataclass(frozen=True)
class Clip:
    """What is known of a source before anything is written.

    Args:
        name: As in `Source`.
        frames: Number of frames.
        rate: Frames per second as a fraction's text; empty: pictures, or a single frame, which say nothing.
        constant: Whether frames come evenly.
        length_s: From the first frame to the end of the last one; 0 without a rate.
        size: Height and width as shown.
        ends: Checksums of the first and the last frame as RGB.
        columns: Columns of the table beside it.
        cuts: Moments between two frames of which the second begins a new scene: in seconds, without a rate in frames.
        keyframes: Seconds at which a copied part can begin.
    """

    name: str
    frames: int
    rate: str
    constant: bool
    length_s: float
    size: tuple[int, int]
    ends: tuple[int, int]
    columns: tuple[str, ...]
    cuts: tuple[float, ...] = ()
    keyframes: tuple[float, ...] = ()


class Fault(NamedTuple):
    """A source that no episode can be made of."""

    name: str
    path: str
    reason: str
    fix: str


class Look(NamedTuple):
    """A wish to look at a source.

    Args:
        source: The source.
        scenes: Find where scenes begin, which decodes every frame.
        keyframes: Find where a copied part can begin.
    """

    source: Source
    scenes: bool = False
    keyframes: bool = False

    @property
    def key(self) -> str:
        """Text that stays the same while the source does."""
        paths = [self.source.path, *([table] if (table := self.source.table) else [])]
        if self.source.is_pictures:
            paths += sorted(picture_files(self.source.path))
        stats = [(p.name, (s := p.stat()).st_size, s.st_mtime_ns) for p in paths]
        kind = [self.source.name, self.scenes, self.keyframes]
        return f"{kind}{stats}" if len(stats) < 4 else f"{kind}{zlib.crc32(repr(stats).encode())}"


def look_at(wish: Look) -> tuple[str, Clip | Fault]:
    """Look at a source; with the key of the wish."""
    source, key = wish.source, ""
    try:
        key = wish.key
        columns = table_columns(source.table)
        clip = _look_at_pictures(wish, columns) if source.is_pictures else _look_at_video(wish, columns)
        if source.table is not None and (rows := len(read_table(source.table))) != clip.frames:
            raise BadClipError(f"{source.table.name} has {rows} rows for {clip.frames} frames", "write a row a frame")
        return key, clip
    except BadClipError as error:
        return key, Fault(source.name, str(source.path), error.reason, error.fix)


def clip_from_json(said: dict[str, Any]) -> Clip:
    """What `asdict` and JSON made of a clip, as a clip."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
    return Clip(**values)


def read_ends(path: Path, timeline: Timeline, first: int = 0, last: int = -1) -> "NDArray[np.uint8]":
    """The first and the last frame of a video, or of a part of it, uint8 `[2, H, W, 3]`.

    Raises:
        BadClipError: One of them cannot be decoded.
    """
    import numpy as np

    times = timeline.pts[[first, last]].astype(np.float64) * float(timeline.tick)
    try:
        reader = VideoReader(path, 0, threads=1, stream=timeline.stream)
        try:
            frames = [reader.read(times[i : i + 1], 0)[0] for i in (0, 1)]
        finally:
            reader.close()
    except BadVideoError as error:
        raise BadClipError(f"its first and last frame cannot be decoded: {error.reason}") from error
    return np.stack(frames)


def _look_at_video(wish: Look, columns: tuple[str, ...]) -> Clip:
    import av

    path = wish.source.path
    _refuse_head(path)
    try:
        timeline = read_timeline(path)
        # Without times the last frame can only be found by decoding all; that is left to the encoding.
        ends = (0, 0) if timeline.by_order else tuple(zlib.crc32(f.tobytes()) for f in read_ends(path, timeline))
        scenes: tuple[int, ...] = ()
        if wish.scenes:
            from hlrp.data.importing.scenes import scene_starts, video_frames

            scenes = scene_starts(video_frames(path))
    except (*DECODING_FAULTS, av.FFmpegError) as error:
        raise BadClipError(_opening_fault(path, error)) from error
    rate, constant = timeline.rate()
    seconds = timeline.seconds
    length = 0.0
    if rate is not None:
        length = len(timeline) / float(rate) if constant else float(seconds[-1]) + 1 / float(rate)
    keys = seconds[timeline.keyframes].tolist() if wish.keyframes and not timeline.encode else []
    return Clip(
        wish.source.name,
        len(timeline),
        str(rate) if rate is not None else "",
        constant,
        length,
        timeline.size,
        (ends[0], ends[1]),
        columns,
        tuple(float(seconds[frame - 1] + seconds[frame]) / 2 for frame in scenes if frame < len(seconds)),
        tuple(keys),
    )


def _refuse_head(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise BadClipError(f"it cannot be read: {error.strerror}", "correct its rights") from error
    if not head:
        raise BadClipError("the file is empty")
    if head.startswith(_POINTER):
        raise BadClipError("it is a pointer of Git LFS, not the video", f"git lfs pull --include={path.name}")
    if all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
        raise BadClipError("it holds text, no video")


def _opening_fault(path: Path, error: Exception) -> str:
    said = getattr(error, "strerror", None) or str(error)
    with path.open("rb") as file:
        head = file.read(12)
    # Such a file keeps its table of frames at its end.
    cut = " (it may be cut off: its table of frames is not there)" if head[4:8] == b"ftyp" else ""
    return f"it cannot be read as video: {said}{cut}"


def _look_at_pictures(wish: Look, columns: tuple[str, ...]) -> Clip:
    import av
    import numpy as np
    from PIL import Image

    source = wish.source
    try:
        files = numbered(picture_files(source.path))
    except ValueError as error:
        raise BadClipError(str(error), "rename the pictures") from error
    sizes: dict[tuple[int, int], Path] = {}
    for _, path in files:
        try:
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):
                    raise BadClipError(f"{path.name} has more than 8 bits a colour", "convert it to 8 bits")
                sizes.setdefault(_shown_size(image), path)
        except (*DECODING_FAULTS, Image.DecompressionBombError) as error:
            raise BadClipError(f"the picture {path.name} cannot be read: {error}") from error
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        what = f"{first.name} is {one[0]}x{one[1]}, {second.name} is {other[0]}x{other[1]} (height x width)"
        raise BadClipError(f"its pictures have different sizes: {what}", "make them alike")
    ends = [zlib.crc32(read_picture(path).tobytes()) for path in (files[0][1], files[-1][1])]
    cuts: tuple[float, ...] = ()
    if wish.scenes:
        from hlrp.data.importing.scenes import scene_starts

        shown = (np.ascontiguousarray(read_picture(path)) for _, path in files)
        starts = scene_starts(av.VideoFrame.from_ndarray(image, format="rgb24") for image in shown)
        cuts = tuple(start - 0.5 for start in starts)
    return Clip(source.name, len(files), "", True, 0.0, next(iter(sizes)), (ends[0], ends[1]), columns, cuts)


def _shown_size(image: Any) -> tuple[int, int]:
    from PIL import ExifTags

    lying = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (image.width, image.height) if lying else (image.height, image.width)


def read_picture(path: Path) -> "NDArray[np.uint8]":
    """A picture as it is shown, uint8 `[H, W, 3]`.

    Raises:
        BadClipError: It cannot be decoded.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (*DECODING_FAULTS, Image.DecompressionBombError) as error:
        raise BadClipError(f"the picture {path.name} cannot be read: {error}") from error


def clip_rate(clip: Clip) -> Fraction | None:
    """Frames per second of a clip; None: it has none of its own."""
    return Fraction(clip.rate) if clip.rate else None


def read_table(path: Path) -> "NDArray[np.float32]":
    """The numbers of a table of states, float32 `[rows, columns]`.

    Raises:
        BadClipError: It cannot be read, holds something else than finite numbers, or numbers of too many digits.
    """
    import numpy as np
    import pyarrow as pa

    table = _arrow_table(path)
    columns = []
    for name in table.column_names:
        kind = table.schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise BadClipError(f"column {name!r} of {path.name} holds {kind}, no numbers", "leave the column out")
        values = table.column(name).to_numpy()
        columns.append(values.astype(np.float32))
        if not np.isfinite(columns[-1]).all():
            row = int(np.flatnonzero(~np.isfinite(columns[-1]))[0])
            raise BadClipError(f"column {name!r} of {path.name} has no finite number in row {row}", "fill the cell")
        changes = np.abs(np.diff(values.astype(np.float64))) > _JITTER
        lost = changes & (np.diff(columns[-1]) == 0)
        if lost.any() and 2 * lost.sum() >= changes.sum():
            row = int(np.flatnonzero(lost)[0])
            raise BadClipError(
                f"column {name!r} of {path.name} has more digits than float32, as which states are kept: {values[row]} "
                f"and {values[row + 1]} in rows {row} and {row + 1} would be one number",
                "subtract its first number from all, or leave the column out",
            )
    return np.stack(columns, axis=1)


def table_columns(path: Path | None) -> tuple[str, ...]:
    """Names of the columns of a table of states; none: there is none."""
    return tuple(_arrow_table(path).column_names) if path is not None else ()


def _arrow_table(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".csv":
            table = pyarrow.csv.read_csv(path)
        else:
            with pq.ParquetFile(path) as file:
                table = file.read()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadClipError(f"the table {path.name} cannot be read: {error}", "restore or remove it") from error
    if not table.column_names or len({*table.column_names}) < len(table.column_names):
        raise BadClipError(f"the table {path.name} has no columns, or two of one name", "correct its first line")
    return table


def refuse(fault: Fault, others: int) -> UserError:
    """The refusal of all for one file that is wrong."""
    more = f"; {others} more are wrong" if others else ""
    return UserError(
        f"{fault.name}: {fault.reason}{more}", where=fault.path, fix=f"{fault.fix}; --skip-bad leaves it out"
    )
