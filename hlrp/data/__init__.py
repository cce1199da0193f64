"""LeRobotDataset access: metadata, frames in order, windows of frames, and the loaders that training reads from.

`DatasetInfo` and `read_dataset` cost nothing to import; torch and Lightning are imported with the names that need them.
"""

from typing import TYPE_CHECKING

from hlrp.data.dataset_info import DatasetInfo, read_dataset
from hlrp.lazy import lazy_names

if TYPE_CHECKING:
    from hlrp.data.data_module import FrameDataModule
    from hlrp.data.decode import FrameChunk, sequential_frames
    from hlrp.data.episodes import read_episodes, split_episodes, window_offset
    from hlrp.data.frame_store import FrameStore
    from hlrp.data.images import BadVideoError
    from hlrp.data.lerobot_data_module import LeRobotDataModule
    from hlrp.data.policy_data_module import MixtureDataModule
    from hlrp.data.sampler import ResumableSampler
    from hlrp.data.windows import FrameWindows, WindowSource

__all__ = [
    "BadVideoError",
    "DatasetInfo",
    "FrameChunk",
    "FrameDataModule",
    "FrameStore",
    "FrameWindows",
    "LeRobotDataModule",
    "MixtureDataModule",
    "ResumableSampler",
    "WindowSource",
    "read_dataset",
    "read_episodes",
    "sequential_frames",
    "split_episodes",
    "window_offset",
]

__getattr__ = lazy_names(
    __name__,
    {
        "data_module": ["FrameDataModule"],
        "decode": ["FrameChunk", "sequential_frames"],
        "episodes": ["read_episodes", "split_episodes", "window_offset"],
        "frame_store": ["FrameStore"],
        "images": ["BadVideoError"],
        "lerobot_data_module": ["LeRobotDataModule"],
        "policy_data_module": ["MixtureDataModule"],
        "sampler": ["ResumableSampler"],
        "windows": ["FrameWindows", "WindowSource"],
    },
)
