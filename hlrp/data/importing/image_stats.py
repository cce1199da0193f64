"""Statistics of an episode's pictures, from a few of its frames."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hlrp.data.importing.timeline import video_stream
from hlrp.data.video import to_rgb

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SAMPLES = 8
_SMALL, _LARGE = 150, 300
_QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)


def image_stats(path: Path) -> dict[str, list[float]]:
    """Statistics of some frames at which decoding can begin, spread over the file: cheap, however long it is.

    Large frames are thinned out as LeRobot does. Exact, from how often each of 256 values occurs.

    Args:
        path: A video that is not turned.

    Returns:
        `min`, `max`, `mean`, `std`, `q01` ... `q99` in [0, 1], one number a channel, and `count` of frames.
    """
    import numpy as np

    occurs = np.zeros((3, 256), np.int64)
    count = 0
    for image in _samples(path):
        longer = max(image.shape[:2])
        thin = longer // _SMALL if longer >= _LARGE else 1
        count += 1
        for channel in range(3):
            occurs[channel] += np.bincount(image[::thin, ::thin, channel].reshape(-1), minlength=256)
    values = np.arange(256) / 255
    total = occurs.sum(axis=1, keepdims=True)
    mean = occurs @ values / total[:, 0]
    spread = np.sqrt(np.maximum(0, occurs @ values**2 / total[:, 0] - mean**2))
    there = [values[row > 0] for row in occurs]
    stats = {
        "min": [float(v[0]) for v in there],
        "max": [float(v[-1]) for v in there],
        "mean": mean.tolist(),
        "std": spread.tolist(),
        "count": [float(count)],
    }
    below = occurs.cumsum(axis=1) / total
    for q in _QUANTILES:
        stats[f"q{round(q * 100):02d}"] = [float(values[np.searchsorted(row, q)]) for row in below]
    return stats


def _samples(path: Path) -> "Iterator[NDArray[np.uint8]]":
    import av
    import numpy as np

    with av.open(str(path)) as container:
        stream = video_stream(container)
        seen = set()
        for place in np.linspace(0, int(stream.duration or 0), _SAMPLES, endpoint=False).round().astype(int).tolist():
            container.seek(place, backward=True, any_frame=False, stream=stream)
            frame = next((f for f in container.decode(stream) if not f.is_corrupt), None)
            if frame is not None and frame.pts not in seen:
                seen.add(frame.pts)
                yield to_rgb(frame)
