"""Toy video whose motion is known."""

import torch
from torch import Tensor

EPISODES, LENGTH = 6, 21
"""Of the recording that is labelled, the fixture `root`."""


def moving_square(count: int, frames: int, size: tuple[int, int] = (16, 24)) -> tuple[Tensor, Tensor]:
    """Windows of a bright square that moves by -4, 0 or 4 pixels across, the same in each step of a window.

    Returns:
        Frames uint8 ``[count, frames, 3, H, W]`` and the motion ``[count]`` in pixels.
    """
    generator = torch.Generator().manual_seed(1)
    shape = (count,)
    motion = torch.randint(-1, 2, shape, generator=generator) * 4
    column = torch.randint(8, size[1] - 12, shape, generator=generator)
    row = torch.randint(0, size[0] - 6, shape, generator=generator)
    video = torch.full((count, frames, 3, *size), 30, dtype=torch.uint8)
    for i in range(count):
        for t in range(frames):
            left = int((column[i] + t * motion[i]).clamp(0, size[1] - 6))
            video[i, t, :, int(row[i]) : int(row[i]) + 6, left : left + 6] = 220
    return video, motion
