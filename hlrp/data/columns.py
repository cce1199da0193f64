"""Numeric columns of a dataset's tables, by global frame index, read without LeRobot."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hlrp.data.dataset_info import DatasetInfo
from hlrp.errors import UserError, suggest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def _batches(info: DatasetInfo, columns: list[str]) -> Iterator[Any]:
    import pyarrow.parquet as pq

    for path in sorted((info.root / "data").rglob("*.parquet")):
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=65_536, columns=columns)


def read_column(info: DatasetInfo, name: str) -> "NDArray[np.float32]":
    """One numeric feature for every frame of the dataset.

    Args:
        info: The dataset.
        name: Feature of a fixed shape, such as `action` or `timestamp`.

    Returns:
        float32 `[frames, width]`; row i belongs to the frame whose `index` is i.

    Raises:
        UserError: No such column, or the tables lack frames that `meta/info.json` counts.
    """
    import numpy as np
    import pyarrow as pa

    if name not in info.features:
        raise UserError(
            f"the dataset has no feature {name!r}", where=str(info.root), fix=suggest(name, sorted(info.features))
        )
    width = int(np.prod(info.features[name]["shape"] or [1]))
    values = np.zeros((info.frames, width), np.float32)
    seen = np.zeros(info.frames, bool)
    try:
        for batch in _batches(info, ["index", name]):
            index = batch.column("index").to_numpy()
            column = batch.column(name)
            while not pa.types.is_primitive(column.type):
                column = column.flatten()
            values[index] = column.to_numpy(zero_copy_only=False).reshape(len(index), width)
            seen[index] = True
    except (OSError, ValueError, KeyError, IndexError, pa.ArrowException) as error:
        raise UserError(
            f"column {name!r} cannot be read: {error}", where=str(info.root / "data"), fix="restore the dataset"
        ) from error
    if not seen.all():
        raise UserError(
            f"the tables hold {int(seen.sum())} of the {info.frames} frames that meta/info.json counts",
            where=str(info.root / "data"),
            fix="the dataset is incomplete: copy or record it again",
        )
    return values


def read_tasks(info: DatasetInfo) -> list[str]:
    """The task sentences of a dataset by `task_index`; empty if it has none.

    Raises:
        UserError: The table of tasks cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = info.root / "meta" / "tasks.parquet"
    if not path.is_file():
        return []
    try:
        columns = pq.read_table(path).to_pydict()
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
