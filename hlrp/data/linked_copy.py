"""A new dataset folder whose videos are links to those of another one, and whose tables are written anew."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hlrp.errors import UserError
from hlrp.locks import file_lock

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Only these are linked. LeRobot rewrites tables and metadata in place, which would reach the source through a link.
LINKED = ("videos", "images")


_HUGGINGFACE = b"huggingface"


def refuse_inside(root: Path, output: Path, where: str) -> None:
    """Refuse a new dataset that would lie inside the one that it is made from.

    Raises:
        UserError: ``where`` names the flag.
    """
    if output.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"{output} lies inside the dataset that it is made from", where=where, fix="choose a folder beside it"
        )


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Keep other processes from making the same dataset at once; they wait, and find it made."""
    output.parent.mkdir(parents=True, exist_ok=True)
    # Left in place: unlinked, it would be another file for who comes next than for who waits already.
    with file_lock(output.with_name(f".{output.name}.lock")):
        yield


def place(source: Path, target: Path, *, link: bool) -> str:
    """Link or copy one file.

    Returns:
        linked, symlinked (where no hard link is possible) or copied.
    """
    real = source.resolve()  # a Hub snapshot consists of links
    if not link:
        shutil.copy2(real, target)
        return "copied"
    try:
        target.hardlink_to(real)
    except OSError:
        target.symlink_to(real)
        return "symlinked"
    return "linked"


def rewrite_json(source: Path, target: Path, change: Callable[[Any], Any]) -> None:
    """Write what ``change`` makes of a JSON file, as LeRobot writes its own."""
    content = change(json.loads(source.read_text(encoding="utf8")))
    target.write_text(json.dumps(content, indent=4, ensure_ascii=False), encoding="utf8")


def rewrite_table(source: Path, target: Path, change: Callable[[Any], Any]) -> None:
    """Write what ``change`` makes of a parquet file, one row group at a time: LeRobot reads an episode per row group.

    Args:
        source: The file.
        target: The new one, compressed alike.
        change: Gets a `pyarrow.Table` and gives another, always with the same schema.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file:
        groups = file.num_row_groups
        compression = file.metadata.row_group(0).column(0).compression if groups else "SNAPPY"
        compression = {"UNCOMPRESSED": "NONE"}.get(compression, compression)  # writers call it otherwise than files
        writer: Any = None
        try:
            for group in range(groups):
                rows = change(file.read_row_group(group))
                writer = writer or pq.ParquetWriter(target, rows.schema, compression=compression)
                writer.write_table(rows)
            if not groups:
                pq.write_table(change(file.schema_arrow.empty_table()), target, compression=compression)
        finally:
            if writer is not None:
                writer.close()


class Column(NamedTuple):
    """A column to put into a table.

    Args:
        values: Arrow's array, or a chunked one.
        described: What `datasets` calls its type; not read where a column of that name is replaced.
    """

    values: Any
    described: dict[str, Any]


def column_of(values: "NDArray[Any]") -> Column:
    """Values ``[n, *shape]`` of a feature of up to two dimensions, stored as LeRobot stores it.

    Those of shape (1,) are plain values, one dimension makes lists of a fixed size, two make lists of lists.
    """
    import numpy as np
    import pyarrow as pa

    count, *shape = values.shape
    flat, kind = pa.array(values.reshape(-1)), str(values.dtype)
    value = {"dtype": kind, "_type": "Value"}
    if shape == [1]:
        return Column(flat, value)
    if len(shape) == 1:
        described = {"feature": value, "length": shape[0], "_type": "List"}
        return Column(pa.FixedSizeListArray.from_arrays(flat, shape[0]), described)
    rows, width = shape
    inner = pa.ListArray.from_arrays(np.arange(0, values.size + 1, width, dtype=np.int32), flat)
    outer = pa.ListArray.from_arrays(np.arange(0, count * rows + 1, rows, dtype=np.int32), inner)
    return Column(outer, {"shape": [rows, width], "dtype": kind, "_type": "Array2D"})


def with_columns(rows: Any, columns: Mapping[str, Column]) -> Any:
    """A `pyarrow.Table` with these columns, in place of those of the same name, and its own description of new ones."""
    described = {name: column.described for name, column in columns.items() if name not in rows.column_names}
    for name, column in columns.items():
        if name in rows.column_names:
            rows = rows.set_column(rows.column_names.index(name), name, column.values)
        else:
            rows = rows.append_column(name, column.values)
    return rows.replace_schema_metadata(redescribed(rows.schema.metadata, lambda features: features | described))


def redescribed(
    metadata: Mapping[bytes, bytes] | None, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[bytes, bytes]:
    """A table's own description of its columns, changed; `datasets` trusts it when it is given no other."""
    found = dict(metadata or {})
    if _HUGGINGFACE in found:
        said = json.loads(found[_HUGGINGFACE])
        features = said.get("info", {}).get("features") or {}
        said.setdefault("info", {})["features"] = change(features)
        found[_HUGGINGFACE] = json.dumps(said).encode()
    return found
