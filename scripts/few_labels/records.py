"""The study's rows in a CSV, one for each task of a cell; a cell's appear all at once, and then it is done."""

import csv
import hashlib
import io
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from filelock import FileLock

from few_labels.design import Cell, fingerprint
from hlrp.files import write_text


@dataclass(frozen=True)
class Row:
    """What one cell's policy did in one task.

    Args:
        tier: The cell's.
        arm: The cell's.
        k: The cell's.
        seed: The cell's.
        task: Of the simulator.
        successes: 1 or 0 for each evaluation seed, in their order, as text.
        trust: Mean R2 of the map from latents to actions on labelled episodes that were left out; empty without a map.
        unlabelled_r2: The same on all unlabelled episodes, which the policies cannot know.
        seconds: The cell's, training and evaluation.
        study: `design.fingerprint` of the tier.
    """

    tier: str
    arm: str
    k: int
    seed: int
    task: str
    successes: str
    trust: str
    unlabelled_r2: str
    seconds: int
    study: str

    @property
    def cell(self) -> Cell:
        """Whose it is."""
        return Cell(self.tier, self.arm, self.k, self.seed)  # type: ignore[arg-type]

    @property
    def outcomes(self) -> list[int]:
        """``successes`` as numbers."""
        return [int(digit) for digit in self.successes]


NAMES = [field.name for field in fields(Row)]
_INTEGERS = ("k", "seed", "seconds")


def read_rows(path: Path) -> list[Row]:
    """All rows of a file that is there; none otherwise."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != NAMES:
            raise SystemExit(f"{path} has columns {reader.fieldnames}, not {NAMES}: give another --csv")
        return [Row(**{**row, **{name: int(row[name]) for name in _INTEGERS}}) for row in reader]


def done_cells(rows: Iterable[Row]) -> set[Cell]:
    """Cells of this study that have rows."""
    return {row.cell for row in rows if row.study == fingerprint(row.cell.tier)}


def append(path: Path, new: list[Row]) -> None:
    """Add a cell's rows; other processes may do the same. A kill leaves all of them or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]
    with FileLock(Path(tempfile.gettempdir()) / f"few-labels-{name}.lock"):
        rows = [row for row in read_rows(path) if row.cell != new[0].cell] + new
        rows.sort(key=lambda r: (r.tier, r.arm, r.k, r.seed, r.task))
        write_csv(path, NAMES, [asdict(row) for row in rows])


def write_csv(path: Path, names: list[str], rows: list[dict[str, Any]]) -> None:
    """Write a file that appears whole."""
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def by_cell(rows: Iterable[Row]) -> dict[Cell, list[Row]]:
    """Rows of this study of each cell, in the order of tasks."""
    found: dict[Cell, list[Row]] = defaultdict(list)
    for row in rows:
        if row.study == fingerprint(row.cell.tier):
            found[row.cell].append(row)
    return {cell: sorted(mine, key=lambda r: r.task) for cell, mine in found.items()}
