"""LeRobot's own dataset class with this project's video decoder: the same pixels as from the frame store."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from lerobot.datasets.dataset_reader import DatasetReader

from hlrp.data.images import declared_size
from hlrp.data.lerobot_tables import make_large_pieces
from hlrp.data.open_video import OpenVideos
from hlrp.data.video_backends import VideoBackend
from hlrp.data.video_times import without_rounding


class RowsOfFrames(Mapping[int, int]):
    """The row of a table that holds each frame, by global frame index: runs of frames, where LeRobot has a dictionary.

    Args:
        index: Arrow's chunks of the column `index`.
    """

    def __init__(self, index: Any) -> None:
        begins, rows, row, last = [], [], 0, -2
        for chunk in index.chunks:
            frames = np.asarray(np.from_dlpack(chunk), np.int64)
            if len(frames):
                new = np.flatnonzero(np.diff(frames, prepend=last) != 1)
                begins.append(frames[new])
                rows.append(new + row)
                row, last = row + len(frames), int(frames[-1])
        self._begins, self._rows = (np.concatenate([*parts, np.zeros(0, np.int64)]) for parts in (begins, rows))
        self._lengths, self._count = np.diff(self._rows, append=row), row
        order = np.argsort(self._begins, kind="stable")
        self._begins, self._rows, self._lengths = self._begins[order], self._rows[order], self._lengths[order]

    def __getitem__(self, frame: int) -> int:
        run = int(np.searchsorted(self._begins, frame, side="right")) - 1
        if run < 0 or frame - self._begins[run] >= self._lengths[run]:
            raise KeyError(frame)
        return int(self._rows[run] + frame - self._begins[run])

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        for begin, length in zip(self._begins.tolist(), self._lengths.tolist(), strict=True):
            yield from range(begin, begin + length)


def read_compactly() -> None:
    """Have LeRobot's datasets and metadata keep little of every row and episode.

    Tables are made in large pieces (`hlrp.data.lerobot_tables`), and datasets of some episodes keep where the frames
    are as `RowsOfFrames`.
    """
    make_large_pieces()

    def _build_index_mapping(self: Any) -> None:
        chosen = self.episodes is not None and self.hf_dataset is not None
        self._absolute_to_relative_idx = RowsOfFrames(self.hf_dataset.data.column("index")) if chosen else None

    DatasetReader._build_index_mapping = _build_index_mapping


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
        import torch

        begin = self._meta.episodes[ep_idx][f"videos/{key}/from_timestamp"]
        inside = without_rounding(np.asarray(stamps, np.float64), self._meta.fps)
        seconds, back = np.unique(inside + begin, return_inverse=True)
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
    read_compactly()
    make = script.make_train_eval_datasets

    def make_train_eval_datasets(cfg: Any) -> tuple[Any, Any]:
        train, held_out = make(cfg)
        backend = cfg.dataset.video_backend
        return show_one_picture(train, backend), show_one_picture(held_out, backend)

    script.make_train_eval_datasets = make_train_eval_datasets
