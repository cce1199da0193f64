"""Where a video changes from one scene to another at once, from thumbnails of all frames."""

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.data.importing.timeline import video_stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

THRESHOLD = 0.15
"""Mean absolute difference of neighbouring thumbnails, RGB in [0, 1], from which on a cut is possible."""
STANDS_OUT = 3.0
"""How many times the mean difference of the frames around it a cut's must be: a pan changes many in a row."""
_AROUND = 8
_SIDE = 32


def scene_starts(frames: Iterable[Any]) -> tuple[int, ...]:
    """Which of ``frames``, as PyAV has them, begin a new scene: ascending, without the first one."""
    import numpy as np

    changes = np.fromiter(_changes(frames), np.float64)
    found = []
    for i in np.flatnonzero(changes >= THRESHOLD).tolist():
        around = np.concatenate([changes[max(0, i - _AROUND) : i], changes[i + 1 : i + 1 + _AROUND]])
        if not len(around) or changes[i] >= STANDS_OUT * around.mean():
            found.append(i + 1)
    return tuple(found)


def video_frames(path: Path) -> Iterator[Any]:
    """All frames of a video that can be decoded."""
    import av

    with av.open(str(path.absolute())) as container:
        yield from (frame for frame in container.decode(video_stream(container)) if not frame.is_corrupt)


def _changes(frames: Iterable[Any]) -> Iterator[float]:
    """How much each frame differs from the one before it; one fewer than there are frames."""
    before: deque[NDArray[np.float32]] = deque(maxlen=1)
    for frame in frames:
        # Averaged over areas, so that noise and small things that move do not count.
        small = frame.reformat(width=_SIDE, height=_SIDE, format="rgb24", interpolation="AREA").to_ndarray()
        thumbnail = small.astype("float32") / 255
        if before:
            yield float(abs(thumbnail - before[0]).mean())
        before.append(thumbnail)
