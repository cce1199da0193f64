"""Pictures of episodes for the report's page."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from hlrp.data.decode import resize_frames
from hlrp.data.episodes import Episodes
from hlrp.data.images import BadVideoError
from hlrp.data.readers import DirectReader
from hlrp.data.report.doubts import Doubt
from hlrp.errors import UserError

_LONGER_SIDE = 160


def choose_episodes(episodes: Sequence[int], doubts: Sequence[Doubt], count: int) -> list[int]:
    """Doubtful episodes first, then others evenly, at most ``count``."""
    first = list(dict.fromkeys(d.episode for d in doubts))[:count]
    others = [e for e in episodes if e not in set(first)]
    left = min(count - len(first), len(others))
    return [*first, *(others[i * len(others) // left] for i in range(left))]


def thumbnails(
    table: Episodes, cameras: Sequence[str], episodes: Sequence[int]
) -> dict[int, dict[str, list[NDArray[np.uint8]]]]:
    """First, middle and last frame; an episode that cannot be decoded has none."""
    readers = {camera: DirectReader(table, camera) for camera in cameras}
    shown: dict[int, dict[str, list[NDArray[np.uint8]]]] = {}
    for e in episodes:
        first, last = int(table.start[e]), int(table.end[e]) - 1
        shown[e] = {}
        for camera, reader in readers.items():
            height, width = reader.size
            scale = min(1.0, _LONGER_SIDE / max(height, width))
            small = max(1, round(height * scale)), max(1, round(width * scale))
            with suppress(BadVideoError, UserError):
                frames = reader.read(np.array([first, (first + last) // 2, last]))
                shown[e][camera] = [f.transpose(1, 2, 0).copy() for f in resize_frames(frames, small)]
    return shown
