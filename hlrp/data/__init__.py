"""LeRobotDataset access: metadata, frames in order, windows of frames, and the loaders that training reads from.

`DatasetInfo` and `read_dataset` cost nothing to import; torch and Lightning are imported with the names that need them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hlrp.data.dataset_info import DatasetInfo, read_dataset

if TYPE_CHECKING:
    from hlrp.data.data_module import FrameDataModule
    from hlrp.data.decode import FrameChunk, sequential_frames
    from hlrp.data.episodes import read_episodes, split_episodes, window_offset
    from hlrp.data.frame_store import FrameStore
    from hlrp.data.images import BadVideoError
    from hlrp.data.lerobot_data_module import LeRobotDataModule
    from hlrp.data.sampler import ResumableSampler
    from hlrp.data.windows import FrameWindows, WindowSource

_LAZY = {
    "BadVideoError": "images",
    "FrameChunk": "decode",
    "FrameDataModule": "data_module",
    "FrameStore": "frame_store",
    "FrameWindows": "windows",
    "LeRobotDataModule": "lerobot_data_module",
    "ResumableSampler": "sampler",
    "WindowSource": "windows",
    "read_episodes": "episodes",
    "sequential_frames": "decode",
    "split_episodes": "episodes",
    "window_offset": "episodes",
}

__all__ = [
    "BadVideoError",
    "DatasetInfo",
    "FrameChunk",
    "FrameDataModule",
    "FrameStore",
    "FrameWindows",
    "LeRobotDataModule",
    "ResumableSampler",
    "WindowSource",
    "read_dataset",
    "read_episodes",
    "sequential_frames",
    "split_episodes",
    "window_offset",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hlrp.data.{_LAZY[name]}"), name)
