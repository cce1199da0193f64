"""What a dataset's tables really hold, against what its metadata says: rows, types, numbers, times and tasks."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.data.columns import flat_values
from hlrp.data.compact import release_memory
from hlrp.data.dataset_info import INFO
from hlrp.data.episodes import Episodes
from hlrp.data.problems import Problem
from hlrp.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROW_COLUMNS = ("index", "episode_index", "frame_index", "timestamp", "task_index")
_RESTORE = "restore the table, or record again"
_KINDS = {"float": "f", "int": "i", "uint": "i", "bool": "b", "string": "U"}
_TOLERANCE_S = 1e-4


@dataclass
class Extremes:
    """Smallest and largest finite number of each dimension of a column, `[width]`, over the rows that were read."""

    low: "NDArray[np.float64]"
    high: "NDArray[np.float64]"


def table_problems(
    table: Episodes,
    episodes: Sequence[int],
    columns: Collection[str],
    extremes: dict[str, Extremes],
    *,
    tasks: Collection[int] | None,
    by_lerobot: bool,
    only: Mapping[str, Sequence[int]],
) -> Iterator[Problem]:
    """Read the tables of some episodes once, a batch of rows at a time.

    Args:
        table: Episode table of the dataset.
        episodes: Episodes to check.
        columns: Columns whose numbers are used in training: what is not finite in them is fatal, elsewhere a warning.
        extremes: Filled with those of the numeric columns.
        tasks: Numbers that the table of tasks has; None: it could not be read.
        by_lerobot: Whether LeRobot's own reader will read the tables; it refuses columns that are not declared.
        only: Columns whose numbers count in some episodes alone, and these.
    """
    check = _Tables(table, episodes, set(columns), extremes, tasks, by_lerobot, only)
    for path in table.info.tables if not table.tables else sorted({table.tables[e] for e in episodes}):
        yield from check.file(path)
    yield from check.end()
    release_memory()


class _Tables:
    def __init__(
        self,
        table: Episodes,
        episodes: Sequence[int],
        used: set[str],
        extremes: dict[str, Extremes],
        tasks: Collection[int] | None,
        by_lerobot: bool,
        only: Mapping[str, Sequence[int]],
    ) -> None:
        import numpy as np

        self.table = table
        self.info = table.info
        self.used = used
        self.extremes = extremes
        self.tasks = tasks
        self.by_lerobot = by_lerobot
        self.only = only
        self.wanted = np.zeros(len(table), bool)
        self.wanted[list(episodes)] = True
        self.seen = np.zeros(table.info.frames, bool)
        self.last = -1
        self.said: set[tuple[str, str]] = set()

    def once(self, kind: str, name: str, problem: Problem) -> Iterator[Problem]:
        """The first problem of a kind in a column; the others would only repeat it."""
        if (kind, name) not in self.said:
            self.said.add((kind, name))
            yield problem

    def file(self, path: Path) -> Iterator[Problem]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
                found = list(self._schema(path, schema))
                for name, problem in found:
                    yield from self.once("schema", name, problem)
                bad = {name for name, problem in found if problem.fatal}
                if bad & set(ROW_COLUMNS):
                    return
                declared = {n: _declared(str(f["dtype"])) for n, f in self.info.features.items() if n not in bad}
                numeric = [n for n in schema.names if n not in ROW_COLUMNS and declared.get(n) in ("f", "i", "b")]
                for batch in file.iter_batches(batch_size=65_536, columns=[*ROW_COLUMNS, *numeric]):
                    yield from self._rows(path, batch, numeric)
        except (OSError, pa.ArrowException, ValueError) as error:
            yield Problem(f"the table cannot be read: {error}", str(path), _RESTORE)

    def _schema(self, path: Path, schema: Any) -> Iterator[tuple[str, Problem]]:
        """Types of the columns against `features`; the values' own lengths show when they are read."""
        for name, feature in self.info.features.items():
            declared = _declared(str(feature["dtype"]))
            where = f"{path}, column {name}"
            if feature["dtype"] == "video" or (declared is None and name not in schema.names):
                continue
            if name not in schema.names:
                yield name, Problem(f"{INFO} declares {name!r}, the table has no such column", where, _RESTORE)
            elif declared is not None and (kind := _declared(real := _leaf(schema.field(name).type))) != declared:
                # Whole numbers are read as what they are declared to be, by LeRobot too.
                lossless = kind == "i" and declared == "f"
                problem = f"{INFO} declares {name!r} as {feature['dtype']}, it holds {real}"
                yield name, Problem(problem, where, f"correct {INFO}, or restore the table", fatal=not lossless)
        for name in sorted(set(schema.names) - set(self.info.features)):
            problem = f"the table has a column {name!r} that {INFO} does not declare: LeRobot's reader refuses it"
            fix = f"declare it in {INFO}, or write the table without it"
            yield name, Problem(problem, f"{path}, column {name}", fix, fatal=self.by_lerobot)

    def _rows(self, path: Path, batch: Any, numeric: Sequence[str]) -> Iterator[Problem]:
        import numpy as np

        try:
            rows = {n: flat_values(batch.column(n), n) for n in ROW_COLUMNS}
        except (ValueError, UserError) as error:
            yield from self.once("cells", "rows", Problem(str(error), str(path), _RESTORE))
            return
        index = rows["index"]
        if len(outside := index[(index < 0) | (index >= self.info.frames)]):
            problem = f"a row has index {outside[0]}, {INFO} counts {self.info.frames} frames"
            yield from self.once("outside", "index", Problem(problem, f"{path}, column index", _RESTORE))
            return
        yield from self._order(path, index)
        mine = self.wanted[self.table.episode_of(index)]
        yield from self._places(path, {n: v[mine] for n, v in rows.items()})
        for name in numeric:
            counts = mine & np.isin(self.table.episode_of(index), self.only[name]) if name in self.only else mine
            yield from self._numbers(path, name, batch.column(name), index, counts)
        self.last = int(index[-1]) if len(index) else self.last
        self.seen[index[mine]] = np.True_

    def _order(self, path: Path, index: "NDArray[np.int64]") -> Iterator[Problem]:
        import numpy as np

        before = np.concatenate([[self.last], index[:-1]])
        for at in np.flatnonzero(index <= before)[:1]:
            what = "again" if self.seen[index[at]] or index[at] == before[at] else "out of order"
            yield from self.once(
                "order",
                "index",
                Problem(
                    f"frame {index[at]} comes {what}: the row before it is frame {before[at]}. LeRobot takes the rows "
                    "of all files by their number, so frames and actions would be mixed up",
                    f"{path}, column index, episode {int(self.table.episode_of(index[at : at + 1])[0])}",
                    "write the tables again, sorted by `index`",
                ),
            )

    def _places(self, path: Path, rows: "dict[str, NDArray[Any]]") -> Iterator[Problem]:
        """What every row says of its own place, against the episode table."""
        import numpy as np

        index = rows["index"]
        episode = self.table.episode_of(index)
        frame = index - self.table.start[episode]
        for name, right in (("episode_index", episode), ("frame_index", frame)):
            for at in np.flatnonzero(rows[name] != right)[:1]:
                problem = f"{name} is {rows[name][at]}, by the episode table it is {right[at]}"
                where = f"{path}, column {name}, frame {index[at]}"
                yield from self.once("place", name, Problem(problem, where, "the dataset is mixed up: record it again"))
        if self.tasks is not None:
            for at in np.flatnonzero(~np.isin(rows["task_index"], list(self.tasks)))[:1]:
                problem = f"task_index is {rows['task_index'][at]}, but the table of tasks has no such number"
                where = f"{path}, column task_index, episode {episode[at]}, frame {frame[at]}"
                yield from self.once("task", "task_index", Problem(problem, where, "restore meta/tasks.parquet"))
        yield from self._times(path, rows["timestamp"].astype(np.float64), episode, frame)

    def _times(
        self, path: Path, stamps: "NDArray[np.float64]", episode: "NDArray[np.int64]", frame: "NDArray[np.int64]"
    ) -> Iterator[Problem]:
        import numpy as np

        for at in np.flatnonzero(~np.isfinite(stamps))[:1]:
            problem, where = f"the time of a frame is {stamps[at]}", f"episode {episode[at]}, frame {frame[at]}"
            yield from self.once("nan", "timestamp", Problem(problem, f"{path}, column timestamp, {where}", _RESTORE))
        inside = np.flatnonzero((np.diff(episode) == 0) & (np.diff(frame) == 1))
        steps = np.diff(stamps)[inside]
        for at in np.flatnonzero(_wrong(steps, stamps[1:][inside], self.info.fps))[:1]:
            after = inside[at] + 1
            yield from self.once(
                "rate",
                "timestamp",
                Problem(
                    f"frame {frame[after]} comes {steps[at]:.4f} s after the one before it, at {self.info.fps:g} fps "
                    f"it is {1 / self.info.fps:.4f} s: offsets and chunks count frames, so they mean other times",
                    f"{path}, column timestamp, episode {episode[after]}",
                    f"correct `fps` in {INFO}, or the times",
                    fatal=False,
                ),
            )

    def _numbers(
        self, path: Path, name: str, column: Any, index: "NDArray[np.int64]", mine: "NDArray[np.bool_]"
    ) -> Iterator[Problem]:
        import numpy as np

        where, shape = f"{path}, column {name}", list(self.info.features[name]["shape"])
        width = int(np.prod(shape or [1]))
        try:
            values = flat_values(column, name)
            if len(values) != len(index) * width:
                raise ValueError(f"cells hold {len(values) // max(1, len(index))} numbers, {INFO} says {shape}")
        except (ValueError, UserError) as error:
            yield from self.once("cells", name, Problem(str(error), where, f"correct {INFO}, or restore the table"))
            return
        with np.errstate(over="ignore"):
            values = values.reshape(-1, width)[mine].astype(np.float32)  # as they will be trained on
        if not len(values):
            return
        finite = np.isfinite(values)
        if not finite.all():
            yield from self.once("finite", name, self._not_finite(where, name, values, index[mine]))
            values = np.where(finite, values, np.nan)
            if not finite.any(axis=0).all():
                return
        low, high = (f(values, axis=0).astype(np.float64) for f in (np.nanmin, np.nanmax))
        before = self.extremes.get(name, Extremes(low, high))
        self.extremes[name] = Extremes(np.minimum(before.low, low), np.maximum(before.high, high))

    def _not_finite(self, where: str, name: str, values: "NDArray[np.float32]", index: "NDArray[np.int64]") -> Problem:
        import numpy as np

        row, dimension = (int(i[0]) for i in np.nonzero(~np.isfinite(values)))
        episode = int(self.table.episode_of(index[row : row + 1])[0])
        rows = int((~np.isfinite(values)).any(axis=1).sum())
        return Problem(
            f"{name!r} is {values[row, dimension]} in dimension {dimension} at frame "
            f"{int(index[row] - self.table.start[episode])} of episode {episode}"
            + (f", and in {rows - 1} further rows near it" if rows > 1 else ""),
            f"{where}, episode {episode}, frame {int(index[row] - self.table.start[episode])}",
            "leave the episode out with --episodes, or correct the table",
            fatal=name in self.used,
        )

    def end(self) -> Iterator[Problem]:
        import numpy as np

        wanted = self.table.frame_ranges(np.flatnonzero(self.wanted))
        needed = wanted.mark(np.zeros(self.info.frames, bool))
        missing = np.flatnonzero(needed & ~self.seen)
        if len(missing):
            episodes = np.unique(self.table.episode_of(missing)).tolist()
            yield Problem(
                f"the tables lack {len(missing)} of the {int(needed.sum())} frames that {INFO} counts, of episodes "
                f"{', '.join(map(str, episodes[:5]))}{', ...' if len(episodes) > 5 else ''}",
                str(self.info.root / "data"),
                "the dataset is incomplete: copy or record it again",
            )


def wrong_steps(stamps: "NDArray[np.float64]", fps: float) -> "NDArray[np.int64]":
    """Frames of an episode after which the next does not come 1/fps later, from their times `[n]` in seconds."""
    import numpy as np

    return np.flatnonzero(_wrong(np.diff(stamps), stamps[1:], fps))


def _wrong(steps: "NDArray[np.float64]", stamps: "NDArray[np.float64]", fps: float) -> "NDArray[np.bool_]":
    """Which steps, each up to one of ``stamps``, are not 1/fps long."""
    import numpy as np

    # Long episodes: float32 has no more digits.
    allowed = _TOLERANCE_S + 2 * np.spacing(np.abs(stamps).astype(np.float32)).astype(np.float64)
    wrong: NDArray[np.bool_] = np.abs(steps - 1 / fps) > allowed
    return wrong


def _declared(dtype: str) -> str | None:
    """Kind of number that a name of a type stands for; None for pictures and what only LeRobot's reader knows."""
    name = {"double": "float64", "halffloat": "float16", "boolean": "bool", "large_string": "string"}.get(dtype, dtype)
    return _KINDS.get(name.rstrip("0123456789"))


def _leaf(arrow: Any) -> str:
    import pyarrow as pa

    while True:
        if isinstance(arrow, pa.BaseExtensionType):
            arrow = arrow.storage_type
        elif pa.types.is_list(arrow) or pa.types.is_large_list(arrow) or pa.types.is_fixed_size_list(arrow):
            arrow = arrow.value_type
        else:
            return str(arrow)
