"""Whether the environment's pictures are those of the data: turned over, with swapped colours, of another camera."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlrp.data.decode import resize_frames
from hlrp.evaluation.diagnosis.findings import Finding, Picture, failed, passed, undecided
from hlrp.evaluation.diagnosis.names import settings_in_words
from hlrp.evaluation.diagnosis.recorded import Recorded

_VIEWS = {"": (1, 1), "upside down": (-1, 1), "mirrored left to right": (1, -1), "turned by 180 degrees": (-1, -1)}
_EXPLAINS = 0.5
"""What has to be left of a difference for a change of the picture to explain it: by chance hardly any removes half."""
_SHARE_OF_CONTRAST = 0.1

Frames = NDArray[np.uint8]  # [n, 3, H, W]


def check_pictures(
    seen: Mapping[str, Frames], recorded: Recorded, settings: Mapping[str, tuple[Any, Any]]
) -> tuple[list[Finding], list[Picture]]:
    """Compare the environment's first frames with the recorded ones, under the policy's names.

    Args:
        seen: First frames of the environment. Of a dataset with reset seeds those of its rows, in their order.
        recorded: The data.
        settings: Of the environment to what the recording had and what it has now, where these differ.

    Returns:
        A finding per camera, and pictures of one episode.
    """
    findings, pictures = [], []
    firsts = {camera: _first_frames(recorded, camera) for camera in recorded.readers}
    for camera, frames in seen.items():
        if camera not in firsts:
            continue
        size = firsts[camera].shape[2:]
        ours = resize_frames(frames, (int(size[0]), int(size[1])))
        findings.append(_check(camera, ours, firsts, recorded, settings))
        pictures.append(Picture(camera, "recorded", firsts[camera][0].transpose(1, 2, 0)))
        pictures.append(Picture(camera, "environment", ours[0].transpose(1, 2, 0)))
    return findings, pictures


def _first_frames(recorded: Recorded, camera: str) -> Frames:
    return recorded.readers[camera].read(np.array([row.start for row in recorded.rows]))


def _check(
    camera: str, ours: Frames, firsts: Mapping[str, Frames], recorded: Recorded, settings: Mapping[str, tuple[Any, Any]]
) -> Finding:
    """Try every explanation of what differs on all first frames at once."""
    tried: dict[tuple[str, str, str], float] = {}
    for other, frames in firsts.items():
        theirs = resize_frames(frames, (ours.shape[2], ours.shape[3]))
        for view, (down, across) in _VIEWS.items():
            for order in ("", "red and blue swapped"):
                changed = ours[:, :: -1 if order else 1, ::down, ::across]
                tried[other, view, order] = _difference(changed, theirs, paired=recorded.seeded)
    same = tried[camera, "", ""]
    best = min(tried, key=lambda key: tried[key])
    usual = _usual(recorded, camera, firsts[camera])
    evidence = {"camera": camera, "difference": round(same, 2), "usual": round(usual, 2)}
    if best != (camera, "", "") and tried[best] <= _EXPLAINS * same:
        return _named(camera, best, same, tried[best], evidence)
    levels = f"{same:.1f} grey levels from the recorded first frame"
    if same <= usual:
        text = f"{camera} is {levels}; {usual:.1f} are usual within an episode"
        return passed("environment", "pictures", text, **evidence)
    text = f"{camera} is {levels}, more than is usual within an episode ({usual:.1f})"
    if settings:
        said = settings_in_words(settings)
        fix = " ".join(f"env.{name}={then}" for name, (then, _) in settings.items())
        return failed("environment", "pictures", "picture_differs", f"{text}: {said}", fix, **evidence)
    if not recorded.seeded:
        return undecided(
            "environment", "pictures", f"{text}; the data do not say from which seeds they began", **evidence
        )
    fix = "compare camera, rendering and versions with the recording's"
    return failed("environment", "pictures", "picture_differs", text, fix, **evidence)


def _named(camera: str, best: tuple[str, str, str], same: float, left: float, evidence: Mapping[str, Any]) -> Finding:
    other, view, order = best
    said = [f"shows what was recorded as {other}"] if other != camera else []
    said += [f"is {view}"] if view else []
    said += [f"has {order} (BGR)"] if order else []
    fault = "camera_swapped" if other != camera else "image_flipped" if view else "channels_swapped"
    text = f"{camera} {' and '.join(said)}: {same:.1f} grey levels from the recorded first frame, {left:.1f} without it"
    fixes = {
        "camera_swapped": f"give the camera by its own name: --rename-map, or the environment's; recorded is {other}",
        "image_flipped": "turn the picture over in the environment or its processor, as the recording had it",
        "channels_swapped": "give pictures as RGB",
    }
    return failed("environment", "pictures", fault, text, fixes[fault], explained=round(left, 2), **evidence)


def _difference(ours: Frames, theirs: Frames, *, paired: bool) -> float:
    """Mean difference in grey levels; of frames that belong to no others, to the nearest one."""
    a, b = ours.astype(np.int16), theirs.astype(np.int16)
    if paired:
        return float(np.abs(a - b).mean())
    return float(np.mean([min(np.abs(frame - other).mean() for other in b) for frame in a]))


def _usual(recorded: Recorded, camera: str, firsts: Frames) -> float:
    """The largest difference between the first frame of an episode and any of eight later ones.

    At least a tenth of a picture's contrast: where hardly anything moves, what the video's compression left out of a
    frame is more than that.
    """
    largest = _SHARE_OF_CONTRAST * float(np.abs(firsts - firsts.mean((2, 3), keepdims=True)).mean())
    for row in recorded.rows:
        later = np.unique(np.linspace(row.start, row.end - 1, 9).astype(np.int64))
        frames = recorded.readers[camera].read(later).astype(np.int16)
        largest = max([largest, *(float(np.abs(frame - frames[0]).mean()) for frame in frames[1:])])
    return largest
