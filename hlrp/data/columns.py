"""Columns of a dataset's tables, by global frame index, read without LeRobot."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.data.compact import release_memory, zeros
from hlrp.data.dataset_info import INFO, DatasetInfo
from hlrp.data.episodes import read_episodes
from hlrp.errors import UserError, suggest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TASKS = Path("meta/tasks.parquet")

ACTION_SOURCE, ACTION_CONFIDENCE = "hlrp_action_source", "hlrp_action_confidence"
"""Columns of a dataset with pseudo-labels: int64 of shape (1,), see `RECORDED`, and float32 [A] in [0, 1].

Not `action_*` or `observation.*`: LeRobot would make them outputs or inputs of a policy.
"""

RECORDED, PREDICTED, UNKNOWN = 0, 1, 2
"""Where a frame's action is from: the recording, a map from latents, or neither."""


def read_columns(
    info: DatasetInfo, names: Sequence[str], episodes: Sequence[int] | None = None
) -> "dict[str, NDArray[Any]]":
    """Features of all frames, with the types that LeRobot gives them: float32, int64, bool, or text.

    Args:
        info: The dataset.
        names: Features that are no pictures.
        episodes: Episodes whose rows must be there, and whose files alone are read; none: all. Rows that were not read
            are NaN, or the smallest integer.

    Returns:
        Arrays `[frames]` for features of shape (1,), `[frames, *shape]` for others; row i is the frame of `index` i.

    Raises:
        UserError: The tables cannot be read, lack frames or columns, hold a frame twice, or hold a type that only
            LeRobot's own reader knows.
    """
    import numpy as np
    import pyarrow as pa

    needed: NDArray[np.bool_] = np.ones(info.frames, bool)
    paths: Sequence[Path] = info.tables
    if episodes is not None:
        table = read_episodes(info)
        needed = table.frame_ranges(episodes).mark(np.zeros(info.frames, bool))
        paths = sorted({table.tables[e] for e in episodes}) if table.tables else paths
    found: dict[str, NDArray[Any]] = {}
    seen, rows = np.zeros(info.frames, bool), 0
    try:
        for batch in _batches(paths, ["index", *(n for n in names if n != "index")]):
            index = flat_values(batch.column("index"), "index")
            _check_index(index, info)
            for name in names:
                values = _values(batch.column(name), info.features[name], name)
                if name not in found:
                    found[name] = zeros((info.frames, *values.shape[1:]), values.dtype)
                found[name][index] = values
            seen[index] = True
            rows += len(index)
    except (OSError, ValueError, KeyError, IndexError, pa.ArrowException) as error:
        raise UserError(
            f"the tables cannot be read ({', '.join(names)}): {error}",
            where=str(info.root / "data"),
            fix="restore the dataset",
        ) from error
    release_memory()
    _check_rows(info, seen, needed, rows)
    for values in found.values():
        if values.dtype.kind in "fi" and rows < info.frames:
            values[~seen] = np.nan if values.dtype.kind == "f" else np.iinfo(values.dtype).min
    return found


def read_column(info: DatasetInfo, name: str, episodes: Sequence[int] | None = None) -> "NDArray[np.float32]":
    """One numeric feature for every frame of the dataset.

    Args:
        info: The dataset.
        name: Feature of a fixed shape, such as `action` or `timestamp`.
        episodes: As for `read_columns`.

    Returns:
        float32 `[frames, width]`; row i belongs to the frame whose `index` is i.

    Raises:
        UserError: No such column, or as for `read_columns`.
    """
    import numpy as np

    if name not in info.features:
        raise UserError(
            f"the dataset has no feature {name!r}", where=str(info.root), fix=suggest(name, sorted(info.features))
        )
    values = read_columns(info, [name], episodes)[name]
    return values.reshape(info.frames, -1).astype(np.float32, copy=False)


def _batches(paths: Sequence[Path], columns: list[str]) -> Iterator[Any]:
    import pyarrow.parquet as pq

    for path in paths:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=65_536, columns=columns)
        del file  # its table of contents, up to 100 MiB, would stay beside the next one's


def _check_index(index: "NDArray[Any]", info: DatasetInfo) -> None:
    outside = index[(index < 0) | (index >= info.frames)]
    if len(outside):
        raise UserError(
            f"the tables hold a frame with `index` {outside[0]}, but {INFO} counts {info.frames} frames",
            where=str(info.root / "data"),
            fix="restore the dataset",
        )


def _check_rows(info: DatasetInfo, seen: "NDArray[np.bool_]", needed: "NDArray[np.bool_]", rows: int) -> None:
    where = str(info.root / "data")
    there = int((seen & needed).sum())
    if there != needed.sum():
        raise UserError(
            f"the tables hold {there} of the {int(needed.sum())} frames that are needed of the {info.frames} in {INFO}",
            where=where,
            fix="the dataset is incomplete: copy or record it again",
        )
    if rows != seen.sum():
        raise UserError(
            f"{rows - int(seen.sum())} rows of the tables have the `index` of another row",
            where=where,
            fix="a table lies there twice, or two datasets were mixed: restore the dataset",
        )


def _values(column: Any, feature: dict[str, Any], name: str) -> "NDArray[Any]":
    import numpy as np

    count, shape = len(column), feature["shape"]
    values = flat_values(column, name).reshape((count,) if list(shape) == [1] else (count, *shape))
    # LeRobot casts to the declared type and makes tensors of Python's numbers: float32 and int64.
    kinds: dict[str, Any] = {"float": np.float32, "int": np.int64, "uint": np.int64, "bool": np.bool_}
    wanted = kinds.get(str(feature["dtype"]).rstrip("0123456789"), values.dtype)
    if wanted is np.int64 and values.dtype.kind == "f" and (values != np.trunc(values)).any():
        raise ValueError(f"{name} is declared as {feature['dtype']}, but holds fractions")
    return values.astype(wanted, copy=False)


def flat_values(column: Any, name: str) -> "NDArray[Any]":
    """What the cells of an Arrow column hold, one after the other.

    Raises:
        ValueError: A cell is empty, or cells are of different lengths.
        UserError: A type that only LeRobot's own reader knows.
    """
    import numpy as np
    import pyarrow as pa

    while not (pa.types.is_primitive(column.type) or pa.types.is_string(column.type)):
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
            continue
        if not pa.types.is_nested(column.type) or pa.types.is_struct(column.type):
            raise UserError(
                f"feature {name!r} is of type {column.type}, which only LeRobot's own reader knows",
                where="data.cache",
                fix="use data.cache=off",
            )
        if column.null_count:
            raise ValueError(f"{name}: {column.null_count} cells are empty")
        if not pa.types.is_fixed_size_list(column.type):
            lengths = np.diff(np.from_dlpack(column.offsets))
            if len(lengths) and lengths.min() != lengths.max():
                raise ValueError(f"{name}: cells hold from {lengths.min()} to {lengths.max()} numbers")
        column = column.flatten()
    if column.null_count:
        raise ValueError(f"{name}: {column.null_count} cells are empty")
    numbers = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    # Arrow's own conversion would import pandas: most of a second.
    values: NDArray[Any] = np.from_dlpack(column) if numbers else column.to_numpy(zero_copy_only=False)
    return values


def read_tasks(info: DatasetInfo) -> list[str]:
    """The task sentences of a dataset by `task_index`; empty if it has none.

    Raises:
        UserError: The table of tasks cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = info.root / TASKS
    if not path.is_file():
        return []
    try:
        with pq.ParquetFile(path) as file:
            columns = file.read().to_pydict()
        numbers = columns.pop("task_index")
        # The sentences are the index of a data frame; what the column is called depends on the writer.
        sentences = next(values for values in columns.values() if all(isinstance(v, str) for v in values))
        result = [""] * (max(numbers, default=-1) + 1)
        for number, sentence in zip(numbers, sentences, strict=True):
            result[number] = sentence
    except (OSError, ValueError, KeyError, StopIteration, pa.ArrowException) as error:
        raise UserError(
            f"the table of tasks cannot be read: {error!r}", where=str(path), fix="restore the dataset"
        ) from error
    return result
