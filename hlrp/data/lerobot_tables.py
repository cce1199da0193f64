"""LeRobot's tables in memory-mapped Arrow files, made in large pieces: what a process keeps of them does not grow.

LeRobot has `datasets` convert them by row groups, of which a recording has one an episode: milliseconds each, and an
object in memory for each from then on. Here a piece has up to 65,536 rows. The rows are the same, in the same order.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.builder import Key
from datasets.packaged_modules.parquet.parquet import Parquet, ParquetConfig
from datasets.table import table_cast

from hlrp.data.compact import release_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EPISODE, _STATISTICS = "episode_index", "stats/"
_PIECE_ROWS = 65_536
_PIECE_BYTES = 32 << 20
_LEAST_ROWS = 2  # single rows `datasets` would collect in memory
_RULES = "1"
"""Part of the name of what is made: to be changed with what is written."""


@dataclass
class _Config(ParquetConfig):
    """What is read: all of the files, or the rows of some episodes."""

    episodes: list[int] | None = None


class LeRobotTables(Parquet):
    """`datasets`' reader of Parquet files, which writes as many rows at a time as fit into a piece.

    Statistics of single episodes are left out: of the table of episodes LeRobot drops them after reading.
    """

    BUILDER_CONFIG_CLASS = _Config
    DEFAULT_WRITER_BATCH_SIZE = _PIECE_ROWS

    def _split_generators(self, dl_manager: Any) -> Any:
        splits = super()._split_generators(dl_manager)
        kept = {name: f for name, f in self.info.features.items() if not name.startswith(_STATISTICS)}
        self.info.features = datasets.Features(kept)
        return splits

    def _generate_tables(self, files: Iterable[str], row_groups_list: Any) -> Iterator[tuple[Any, pa.Table]]:
        chosen = None if self.config.episodes is None else _marked(self.config.episodes)
        schema = self.info.features.arrow_schema
        for file_number, path in enumerate(files):
            for piece_number, piece in enumerate(_pieces(path, schema.names, chosen)):
                yield Key(file_number, piece_number), table_cast(piece, schema)


def _marked(episodes: Sequence[int]) -> "NDArray[np.bool_]":
    chosen = np.zeros(max(episodes, default=-1) + 2, bool)  # the last stands for all episodes behind
    chosen[list(episodes)] = True
    return chosen


def _pieces(path: str, columns: list[str], chosen: "NDArray[np.bool_] | None") -> Iterator[pa.Table]:
    """Columns of the rows of a file in order, or of those of the marked episodes."""
    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        rows = sum(group.num_rows for group in groups)
        row_bytes = sum(group.total_byte_size for group in groups) / max(1, rows)
        size = max(_LEAST_ROWS, min(_PIECE_ROWS, int(_PIECE_BYTES / max(1.0, row_bytes))))
        wanted = [i for i, group in enumerate(groups) if chosen is None or _may_hold(group, chosen)]
        for batch in file.iter_batches(batch_size=size, row_groups=wanted, columns=columns):
            table = pa.Table.from_batches([batch])
            if chosen is not None:
                episode = np.minimum(np.asarray(table[_EPISODE]), len(chosen) - 1)
                table = table.filter(pa.array(chosen[episode]))
            if len(table):
                yield table


def _may_hold(group: Any, chosen: "NDArray[np.bool_]") -> bool:
    """Whether a row group may hold rows of a marked episode, by its table of contents."""
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema == _EPISODE and column.is_stats_set and column.statistics.has_min_max:
            return bool(chosen[column.statistics.min : column.statistics.max + 1].any())
    return True


def load_tables(
    folder: Path, features: datasets.Features | None = None, episodes: list[int] | None = None
) -> datasets.Dataset:
    """What LeRobot's `load_nested_dataset` gives: the rows of the Parquet files of a folder, mapped into memory.

    Args:
        folder: Holds `chunk-*/file-*.parquet`.
        features: The columns' types; none: those of the files.
        episodes: Whose rows; none: all.

    Raises:
        FileNotFoundError: There is no such file.
    """
    paths = sorted(map(str, folder.glob("*/*.parquet")))
    if not paths:
        raise FileNotFoundError(f"no tables in {folder}")
    chosen: dict[str, Any] = {} if episodes is None else {"episodes": list(episodes)}
    builder = LeRobotTables(data_files={"train": paths}, features=features, hash=_RULES, **chosen)
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        builder.download_and_prepare()
        dataset: datasets.Dataset = builder.as_dataset(split="train")
    finally:
        if shown:
            datasets.enable_progress_bars()
        release_memory()
    return dataset


def all_there(reader: Any) -> bool:
    """Whether LeRobot's reader has the rows of its episodes, and their videos lie on this machine.

    LeRobot's own answer, which takes a third of a millisecond an episode.

    Args:
        reader: A `DatasetReader` that has its rows.
    """
    meta, table = reader._meta, reader.hf_dataset
    if table is None or not len(table):
        return False
    wanted = np.zeros(meta.total_episodes, bool)
    wanted[slice(None) if reader.episodes is None else list(reader.episodes)] = True
    there = np.zeros_like(wanted)
    for chunk in table.data.column(_EPISODE).chunks:
        there[np.asarray(chunk)] = True
    if (wanted & ~there).any():
        return False
    places = meta.episodes.data
    for key in meta.video_keys:
        names = [f"videos/{key}/{part}_index" for part in ("chunk", "file")]
        files = np.stack([np.asarray(places.column(name)) for name in names], axis=1)
        _, firsts = np.unique(files[wanted], axis=0, return_index=True)
        for episode in np.flatnonzero(wanted)[firsts].tolist():
            if not (reader.root / meta.get_video_file_path(episode, key)).exists():
                return False
    return True


def make_large_pieces() -> None:
    """Have LeRobot's datasets and metadata read their tables with `load_tables`."""
    from lerobot.datasets import dataset_reader, io_utils

    dataset_reader.load_nested_dataset = io_utils.load_nested_dataset = load_tables
    dataset_reader.DatasetReader._check_cached_episodes_sufficient = all_there
