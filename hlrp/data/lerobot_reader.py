"""LeRobot's own dataset class with this project's video decoder: the same pixels as from the frame store."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lerobot.datasets.dataset_reader import DatasetReader

from hlrp.data.images import declared_size
from hlrp.data.open_video import OpenVideos
from hlrp.data.video_backends import VideoBackend


class OnePictureReader(DatasetReader):
    """LeRobot's reader; colour videos are decoded by `hlrp.data.open_video`, each file opened once.

    LeRobot's PyAV decoder turns nothing, converts every video as BT.601, and loses frames of an open group of
    pictures; its torchcodec decoder mirrors nothing and may take full range for limited. Depth maps stay LeRobot's. A
    class that can be imported, since data workers are sent the dataset.
    """

    _videos: dict[str, OpenVideos]

    def open_videos(self, backend: VideoBackend) -> None:
        """Prepare what `_query_videos` reads from; nothing is opened yet."""
        keys = [key for key in self._meta.video_keys if key not in self._meta.depth_keys]
        sizes = {key: declared_size(self._meta.features[key]) for key in keys}
        self._videos = {key: OpenVideos(size, self._tolerance_s, backend) for key, size in sizes.items()}

    def _query_videos(self, query_timestamps: dict[str, list[float]], ep_idx: int) -> dict[str, Any]:
        ours = {key: stamps for key, stamps in query_timestamps.items() if key in self._videos}
        rest = {key: stamps for key, stamps in query_timestamps.items() if key not in ours}
        result = super()._query_videos(rest, ep_idx) if rest else {}
        if len(ours) > 1:
            with ThreadPoolExecutor(len(ours)) as pool:
                result |= dict(zip(ours, pool.map(self._read, ours, ours.values(), [ep_idx] * len(ours)), strict=True))
        else:
            result |= {key: self._read(key, stamps, ep_idx) for key, stamps in ours.items()}
        return {key: result[key] for key in query_timestamps}

    def _read(self, key: str, stamps: list[float], ep_idx: int) -> Any:
        import numpy as np
        import torch

        begin = self._meta.episodes[ep_idx][f"videos/{key}/from_timestamp"]
        seconds, back = np.unique(np.asarray(stamps, np.float64) + begin, return_inverse=True)
        path = self.root / self._meta.get_video_file_path(ep_idx, key)
        frames = self._videos[key].read(path, seconds, ep_idx)[back].transpose(0, 3, 1, 2)
        tensor = torch.from_numpy(np.ascontiguousarray(frames)).squeeze(0)
        return tensor if self._return_uint8 else tensor.type(torch.float32) / 255


def show_one_picture(dataset: Any, video_backend: VideoBackend | None = None) -> Any:
    """Have a `LeRobotDataset` read its videos through `hlrp.data.open_video`.

    Args:
        dataset: Changed in place; datasets of other classes are left as they are.
        video_backend: What decodes them; none: PyAV.

    Returns:
        ``dataset``.
    """
    reader: Any = getattr(dataset, "reader", None)
    if type(reader) is DatasetReader:
        reader.__class__ = OnePictureReader
        reader.open_videos(video_backend or "pyav")
    return dataset


def install_reader(script: Any) -> None:
    """Have the datasets of `lerobot.scripts.lerobot_train` show one picture, in its data workers too."""
    make = script.make_train_eval_datasets

    def make_train_eval_datasets(cfg: Any) -> tuple[Any, Any]:
        train, held_out = make(cfg)
        backend = cfg.dataset.video_backend
        return show_one_picture(train, backend), show_one_picture(held_out, backend)

    script.make_train_eval_datasets = make_train_eval_datasets
