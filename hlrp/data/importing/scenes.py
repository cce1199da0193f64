"""Where a video changes from one scene to another at once, from thumbnails of all its frames."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hlrp.data.importing.timeline import BadClipError, video_stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

THRESHOLD = 0.15
"""Mean absolute difference of neighbouring thumbnails, RGB in [0, 1], from which on a cut is possible."""
STANDS_OUT = 3.0
"""How many times the mean difference of the frames around it a cut's must be: a pan changes many in a row."""
_AROUND = 8
_SIDE = 32


def scene_starts(path: Path) -> tuple[int, ...]:
    """Frames that begin a new scene, ascending, without the first of the file."""
    import numpy as np

    changes = np.fromiter(_changes(path), np.float64)
    found = []
    for i in np.flatnonzero(changes >= THRESHOLD).tolist():
        around = np.concatenate([changes[max(0, i - _AROUND) : i], changes[i + 1 : i + 1 + _AROUND]])
        if not len(around) or changes[i] >= STANDS_OUT * around.mean():
            found.append(i + 1)
    return tuple(found)


def _changes(path: Path) -> Iterator[float]:
    """How much each frame differs from the one before it; one fewer than there are frames."""
    import av

    before: deque[NDArray[np.float32]] = deque(maxlen=1)
    with av.open(str(path.absolute())) as container:
        for frame in container.decode(video_stream(container)):
            if frame.is_corrupt:
                continue
            # Averaged over areas, so that noise and small things that move do not count.
            small = frame.reformat(width=_SIDE, height=_SIDE, format="rgb24", interpolation="AREA").to_ndarray()
            thumbnail = small.astype("float32") / 255
            if before:
                yield float(abs(thumbnail - before[0]).mean())
            before.append(thumbnail)
    if not before:
        raise BadClipError("it holds no frame that can be decoded")
