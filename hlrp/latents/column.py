"""Latent labels as columns of a dataset: a new dataset folder whose videos are links to those of the old one."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hlrp.data.columns import read_column
from hlrp.data.dataset_info import INFO, DatasetInfo
from hlrp.data.episodes import read_episodes
from hlrp.data.identity import content_of, digest, visible_files
from hlrp.data.linked_copy import (
    LINKED,
    alone,
    column_of,
    place,
    refuse_inside,
    rewrite_json,
    rewrite_table,
    with_columns,
)
from hlrp.data.problems import Problem
from hlrp.errors import UserError
from hlrp.files import new_folder, write_json
from hlrp.latents.shards import LatentIdentity
from hlrp.latents.spec import describe
from hlrp.latents.table import LatentTable

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

CODES, VALID = "latent_codes", "latent_valid"
"""Names of the columns. Not `observation.*`: LeRobot would make them inputs of a policy."""

PROVENANCE = Path("meta/hlrp_latents.json")
_LABELLED_FRAMES, _PLACES = "labelled_frames", "episodes"
_LOG = logging.getLogger("hlrp.latents")


@dataclass(frozen=True)
class ColumnResult:
    """What `write_column` made.

    Args:
        output: Folder of the new dataset.
        linked: Files that are hard links.
        symlinked: Files that are symbolic links, since hard ones were not possible.
        copied: Files that were copied.
    """

    output: Path
    linked: int
    symlinked: int
    copied: int


def check_column(info: DatasetInfo, output: Path, identity: LatentIdentity) -> bool:
    """Check, before any work, that a dataset with latent columns can be written.

    Returns:
        Whether it is there already, with the same labels.

    Raises:
        UserError: The folder holds something else or lies inside the dataset, or the dataset has such columns.
    """
    if output.exists():
        if _labels_of(output) == identity:
            return True
        raise UserError(
            f"{output} exists and is not this dataset with these labels",
            where="--write-column",
            fix="choose a new folder, or delete the old one",
        )
    refuse_inside(info.root, output, "--write-column")
    there = [name for name in (CODES, VALID) if name in info.features]
    if there:
        raise UserError(
            f"the dataset has a column {there[0]!r} already",
            where=str(info.root / INFO),
            fix="label the dataset that it was made from",
        )
    return False


def _labels_of(folder: Path) -> LatentIdentity | None:
    try:
        said = json.loads((folder / PROVENANCE).read_text(encoding="utf8"))
        return LatentIdentity.model_validate(said["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _labelled_frames(info: DatasetInfo, camera: str) -> dict[str, str]:
    """Fingerprints of what decides the frames of a camera: where episodes lie, and of its videos those that are here.

    Nothing else of the dataset, which may well be edited after it was labelled: actions, statistics, other cameras.
    """
    table, found = read_episodes(info), hashlib.sha256()
    paths, seconds = table.video.get(camera, ([], np.zeros(0)))
    numbers = {path: number for number, path in enumerate(dict.fromkeys(paths))}
    for values in (table.start, table.end, seconds, np.array([numbers[path] for path in paths], np.int64)):
        found.update(values.tobytes())
    names = {path.relative_to(info.root).as_posix(): path for path in numbers if path.is_file()}
    marks = {name: digest([content_of("", name, path)], map) for name, path in names.items()}
    return {_PLACES: f"{info.fps:g} fps, {found.hexdigest()[:14]}", **marks}


class LatentColumn:
    """The labels that a dataset carries itself, looked up as in a `LatentTable`. All that are here are read at once;
    those of episodes whose files are not here are not valid.

    Args:
        info: A dataset that `write_column` made.

    Raises:
        UserError: It has no such columns, does not say what they mean, or they are not what it says.
    """

    def __init__(self, info: DatasetInfo) -> None:
        absent = [name for name in (CODES, VALID) if name not in info.features]
        identity = _labels_of(info.root)
        if absent or identity is None:
            problem = f"no column {absent[0]!r}" if absent else f"no {PROVENANCE} that says what its codes mean"
            raise UserError(
                f"the dataset has {problem}",
                where=str(info.root),
                fix="label it with hlrp precompute-latents --write-column, or give a table with --latents",
            )
        self.info, self.identity = info, identity
        pairs, positions = identity.num_frames - 1, identity.code_seq_len
        stored = [list(info.features[name]["shape"]) for name in (CODES, VALID)]
        if stored != [[pairs, positions], [pairs]] or identity.rows != info.frames:
            raise UserError(
                f"the columns of codes have shapes {stored} for {info.frames} frames, {PROVENANCE} says "
                f"{[[pairs, positions], [pairs]]} for {identity.rows}",
                where=str(info.root),
                fix="write the dataset again with hlrp precompute-latents --write-column",
            )
        there = read_episodes(info).present or None  # of none at all the reader says what is missing
        self._codes = read_column(info, CODES, there).astype(np.int64).reshape(-1, pairs, positions)
        self._valid = read_column(info, VALID, there).astype(bool).reshape(-1, pairs)
        self._codes[~self._valid] = 0

    def check(self, *, dataset: DatasetInfo | None = None, **asked: object) -> None:
        """As `LatentTable.check`; the dataset is the one that the codes are part of.

        Raises:
            UserError: Naming both sides of everything that differs, or what was edited after it was labelled.
        """
        if dataset is not None:
            self._refuse_edited()
        differ = self.identity.misfits(None, asked)
        if differ:
            raise UserError(
                f"the dataset's codes do not fit: {describe(differ, 'the column', 'asked for is')}",
                where=str(self.info.root),
                fix="label the dataset again with hlrp precompute-latents",
            )

    def _refuse_edited(self) -> None:
        """Refuse codes of other frames than the dataset has now."""
        camera, root = self.identity.camera, self.info.root
        then = json.loads((root / PROVENANCE).read_text(encoding="utf8")).get(_LABELLED_FRAMES)
        if then is None:
            _LOG.warning(
                "an older hlrp wrote the codes of %s, and not what they were made of: if its videos or episodes were "
                "edited since, label anew",
                root,
            )
            return
        now = _labelled_frames(self.info, camera)
        changed = [name for name, mark in now.items() if then.get(name) != mark]
        if camera not in self.info.cameras or changed:
            what = f"there is no {camera}, which is labelled, among its cameras"
            if camera in self.info.cameras:
                what = f"{camera} of its episodes lies elsewhere" if changed[0] == _PLACES else f"{changed[0]} is other"
            raise UserError(
                f"the dataset was edited after its codes were written: {what}",
                where=str(root),
                fix="undo that, or edit the dataset that was labelled, and label that one again with "
                "hlrp precompute-latents --write-column",
            )

    def codes(self, indices: "ArrayLike") -> "tuple[Tensor, Tensor]":
        """As `LatentTable.codes`."""
        import torch

        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        return torch.from_numpy(self._codes[wanted]), torch.from_numpy(self._valid[wanted])

    def vectors(self, indices: "ArrayLike") -> "Tensor":
        """A column holds codes alone.

        Raises:
            UserError: Always.
        """
        raise UserError(
            "the dataset's column holds codes, no continuous latents",
            where=str(self.info.root),
            fix="label with --vectors --output DIR, and give that table with --latents",
        )


def column_problems(info: DatasetInfo) -> list[Problem]:
    """What is wrong with the codes that a dataset carries itself; codes that say nothing of themselves hurt no one."""
    if CODES not in info.features:
        return []
    try:
        LatentColumn(info).check(dataset=info)
    except UserError as error:
        return [Problem.of(error, fatal=(info.root / PROVENANCE).is_file())]
    return []


def rows_of(
    table: Path | None, info: DatasetInfo, shared: LatentTable | None = None
) -> LatentTable | LatentColumn | None:
    """The labels of one dataset of a mixture.

    Args:
        table: A table of its own; None: it has none.
        info: The dataset.
        shared: A table of one of the mixture's datasets, whichever that is.

    Returns:
        A table or the dataset's column; None: it has no labels.

    Raises:
        UserError: A table is not of the dataset, or a column of frames that it had before.
    """
    if table is not None:
        found = LatentTable.open(table)
        found.check(dataset=info)
        return found
    if shared is not None and info.known_as(shared.identity.dataset_fingerprint):
        shared.check(dataset=info)
        return shared
    if CODES not in info.features:
        return None
    column = LatentColumn(info)
    column.check(dataset=info)
    return column


def write_column(table: LatentTable, info: DatasetInfo, output: Path, *, copy: bool = False) -> ColumnResult:
    """Make a dataset that has the codes as `latent_codes` ``[T-1, S]`` int64 and `latent_valid` ``[T-1]`` bool.

    Nothing is decoded or encoded again, and the source is not changed. The folder appears when it is complete; if it is
    there already with the same labels, nothing is done.

    Args:
        table: Labels of the dataset.
        info: The dataset.
        output: Folder of the new dataset.
        copy: Copy the videos; otherwise they are hard links, or symbolic ones where the file system allows no others.

    Raises:
        UserError: The table is of another dataset, or as for `check_column`.
    """
    table.check(dataset=info)
    check_column(info, output, table.identity)  # a refusal leaves nothing, the lock neither
    with alone(output):
        if check_column(info, output, table.identity):
            return ColumnResult(output, 0, 0, 0)
        counts = {"linked": 0, "symlinked": 0, "copied": 0}
        with new_folder(output) as temporary:
            for name, source in visible_files(info.root):
                relative = Path(name)
                target = temporary / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                if relative.parts[0] == "data" and source.suffix == ".parquet":
                    rewrite_table(source, target, lambda rows: _labelled(rows, table))
                elif relative == INFO:
                    rewrite_json(source, target, lambda said: said | {"features": said["features"] | _features(table)})
                else:
                    counts[place(source, target, link=relative.parts[0] in LINKED and not copy)] += 1
            said = {"identity": table.identity.model_dump(), "bad_episodes": table.manifest.bad_episodes}
            said[_LABELLED_FRAMES] = _labelled_frames(info, table.identity.camera)
            write_json(temporary / PROVENANCE, said)
    return ColumnResult(output, **counts)


def _features(table: LatentTable) -> dict[str, dict[str, Any]]:
    pairs, positions = table.identity.num_frames - 1, table.identity.code_seq_len
    return {
        CODES: {"dtype": "int64", "shape": [pairs, positions], "names": None},
        VALID: {"dtype": "bool", "shape": [pairs], "names": None},
    }


def _labelled(rows: Any, table: LatentTable) -> Any:
    codes, valid = table.codes(rows.column("index").to_numpy())
    return with_columns(rows, {CODES: column_of(codes.numpy()), VALID: column_of(valid.numpy())})
