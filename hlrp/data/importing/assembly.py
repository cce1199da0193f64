"""Written episodes as a LeRobotDataset v3.0: tables and metadata by LeRobot's own classes, one at a time."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from hlrp.data.importing.episode import Encoder, Written, read_written
from hlrp.data.importing.plan import Part
from hlrp.files import fsync_folder, fsync_tree

_EPISODES_AT_ONCE = 200
RECORD = Path("meta") / "hlrp_import.jsonl"
"""Where each episode came from, a line each."""


@dataclass(frozen=True)
class Assembly:
    """What is put together.

    Args:
        work: Folder of the unfinished import.
        name: Of the dataset.
        feature: Name of the video feature.
        fps: Frames per second.
        size: Height and width.
        columns: Of the state; none: there is none.
    """

    work: Path
    name: str
    feature: str
    fps: Fraction
    size: tuple[int, int]
    columns: tuple[str, ...]

    @property
    def clips(self) -> Path:
        """Where episodes are written, by their numbers in the plan."""
        return self.work / "clips"

    @property
    def dataset(self) -> Path:
        """Where the dataset is built."""
        return self.work / "dataset"

    @property
    def rate(self) -> int | float:
        """Frames per second as `meta/info.json` has it."""
        return self.fps.numerator if self.fps.denominator == 1 else float(self.fps)

    def take_back(self) -> None:
        """Undo what a stopped `build` has moved: every written episode's video lies in `clips` again.

        Which episodes there are may change: one more that can be written gives all later ones another number.
        An episode whose video is not to be found is one to write.
        """
        videos, inside = self.work / "videos", self.dataset / "videos"
        if inside.exists():
            inside.rename(videos)
        written = sorted(int(path.stem) for path in self.clips.glob("*.json"))
        gone = [number for number in written if not self._clip(number).exists()]
        # Later parts go to later places: whichever were moved, both are in the same order.
        moved = sorted(videos.glob("*/*/*.mp4"), key=lambda path: (len(str(path)), path))
        if len(moved) == len(gone):
            for number, place in zip(gone, moved, strict=True):
                place.rename(self._clip(number))
            for folder in (self.clips, *videos.glob("*/*")):
                fsync_folder(folder)
            gone = []
        if videos.exists():
            shutil.rmtree(videos)
        for number in gone:
            self._clip(number).with_suffix(".json").unlink()

    def build(self, parts: Sequence[tuple[int, Part, str]], report: Callable[[int], None]) -> int:
        """Write all but the videos, and move those in; stopped at any moment, `take_back` undoes it.

        Args:
            parts: The episodes in order: number in the plan, part, and name of its source.
            report: Called with the number of episodes that are done.

        Returns:
            Number of frames.
        """
        videos = self.work / "videos"
        shutil.rmtree(self.dataset, ignore_errors=True)
        tables = _Tables(self, sorted({part.task for _, part, _ in parts}))
        with (tables.meta.root / RECORD).open("w", encoding="utf8") as record:
            for episode, (number, part, name) in enumerate(parts):
                written = read_written(self.clips / f"{number:06d}.json")
                place = self.work / tables.video_place(episode)
                place.parent.mkdir(parents=True, exist_ok=True)
                self._clip(number).rename(place)
                tables.add(episode, written, part.task, self._states(number))
                record.write(json.dumps(_line(episode, name, part.task, written), ensure_ascii=False) + "\n")
                report(episode + 1)
        tables.close()
        fsync_tree(self.dataset)
        # The files are on disk; their new names must be so too.
        for folder in (*videos.glob("*/*"), *videos.glob("*"), videos):
            fsync_folder(folder)
        videos.rename(self.dataset / "videos")
        fsync_folder(self.dataset)
        return tables.frames

    def _clip(self, number: int) -> Path:
        return self.clips / f"{number:06d}.mp4"

    def _states(self, number: int) -> Any:
        import numpy as np

        return np.load(self.clips / f"{number:06d}.npy", allow_pickle=False) if self.columns else None


def _line(episode: int, name: str, task: str, written: Written) -> dict[str, Any]:
    said = {"episode_index": episode, "source": name, "first_frame": written.first, "frames": written.frames}
    return said | {"task": task, "copied": not written.encoded, "reason": written.encoded}


def lerobot_encoder() -> Encoder:
    """LeRobot's own settings for pictures, with one thread: the result must not depend on the machine's cores."""
    from lerobot.configs.video import RGBEncoderConfig

    config = RGBEncoderConfig()
    return Encoder(config.vcodec, config.pix_fmt, config.get_codec_options(encoder_threads=1, as_strings=True))


class _Tables:
    """The tables of a dataset that grows by an episode at a time; memory stays constant."""

    def __init__(self, assembly: Assembly, tasks: list[str]) -> None:
        from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
        from lerobot.datasets.feature_utils import get_hf_features_from_features

        height, width = assembly.size
        features: dict[str, dict[str, Any]] = {
            assembly.feature: {
                "dtype": "video",
                "shape": (height, width, 3),
                "names": ["height", "width", "channels"],
            }
        }
        if assembly.columns:
            shape = (len(assembly.columns),)
            features["observation.state"] = {"dtype": "float32", "shape": shape, "names": list(assembly.columns)}
        self._assembly = assembly
        self.meta = LeRobotDatasetMetadata.create(
            f"local/{assembly.name}",
            assembly.rate,
            features,
            root=assembly.dataset,
            use_videos=True,
            # What a parquet file says of its row groups stays in memory until it is closed: few, large ones.
            metadata_buffer_size=_EPISODES_AT_ONCE,
        )
        # All at once: LeRobot writes the whole table for each that is new.
        self.meta.save_episode_tasks(tasks)
        self._task_index = {task: index for index, task in enumerate(tasks)}
        self._schema = get_hf_features_from_features(self.meta.features).arrow_schema
        self._writer: Any = None
        self._chunk, self._file = 0, 0
        self._statistics: list[str] = []
        self.frames = 0

    def video_place(self, episode: int) -> str:
        """Path of an episode's video inside the dataset."""
        chunk, file = divmod(episode, self.meta.chunks_size)
        return str(self.meta.video_path.format(video_key=self._assembly.feature, chunk_index=chunk, file_index=file))

    def add(self, episode: int, written: Written, task: str, states: Any) -> None:
        """Add an episode, whose video is in its place.

        Args:
            episode: Its number.
            written: What is known of it.
            task: Its sentence.
            states: float32 `[frames, D]`; none: the dataset has no state.
        """
        import numpy as np
        from lerobot.datasets.compute_stats import compute_episode_stats

        if episode == 0:
            self._describe_video()
        count, feature = written.frames, self._assembly.feature
        numbers: dict[str, Any] = {
            "timestamp": (np.arange(count) / float(self._assembly.fps)).astype(np.float32),
            "frame_index": np.arange(count),
            "episode_index": np.full(count, episode),
            "index": np.arange(self.frames, self.frames + count),
            "task_index": np.full(count, self._task_index[task]),
        }
        if states is not None:
            numbers["observation.state"] = states if states.shape[1] > 1 else states[:, 0]
        stats = compute_episode_stats(numbers, self.meta.features)
        stats[feature] = {
            name: np.asarray(values, np.int64 if name == "count" else np.float64).reshape(
                (1,) if name == "count" else (3, 1, 1)
            )
            for name, values in written.stats.items()
        }
        self._statistics = self._statistics or [*stats]
        self._write_rows(numbers)
        chunk, file = divmod(episode, self.meta.chunks_size)
        place = {
            "data/chunk_index": self._chunk,
            "data/file_index": self._file,
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + count,
            f"videos/{feature}/chunk_index": chunk,
            f"videos/{feature}/file_index": file,
            f"videos/{feature}/from_timestamp": 0.0,
            f"videos/{feature}/to_timestamp": count / float(self._assembly.fps),
        }
        self.meta.save_episode(episode, count, [task], stats, place)
        self.frames += count

    def close(self) -> None:
        """Finish the files."""
        from lerobot.datasets.io_utils import write_stats

        if self._writer is not None:
            self._writer.close()
        self.meta.finalize()
        # LeRobot merges them in the order of a set, another one in every process.
        found = self.meta.stats
        assert found is not None
        write_stats({name: found[name] for name in self._statistics}, self.meta.root)

    def _describe_video(self) -> None:
        """What LeRobot keeps of the first video, as it does; its rate is not rounded."""
        from lerobot.datasets.video_utils import get_video_info

        described = get_video_info(self._assembly.work / self.video_place(0))
        self.meta.info.features[self._assembly.feature]["info"] = described | {"video.fps": self._assembly.rate}

    def _write_rows(self, numbers: dict[str, Any]) -> None:
        """A row group an episode, as LeRobot writes them; a new file where the last one is large."""
        import pyarrow as pa
        import pyarrow.parquet as pq
        from lerobot.datasets.utils import update_chunk_file_indices

        columns = []
        for field in self._schema:
            values = numbers[field.name]
            if values.ndim == 2:
                flat = pa.array(values.reshape(-1), field.type.value_type)
                columns.append(pa.FixedSizeListArray.from_arrays(flat, values.shape[1]).cast(field.type))
            else:
                columns.append(pa.array(values, field.type))
        if self._writer is not None and self._path().stat().st_size >= self.meta.data_files_size_in_mb << 20:
            self._writer.close()
            self._writer = None
            self._chunk, self._file = update_chunk_file_indices(self._chunk, self._file, self.meta.chunks_size)
        if self._writer is None:
            self._path().parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._path(), self._schema, compression="snappy", use_dictionary=True)
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def _path(self) -> Path:
        return self._assembly.dataset / self.meta.data_path.format(chunk_index=self._chunk, file_index=self._file)
