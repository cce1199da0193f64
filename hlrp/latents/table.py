"""Latent tables: the codes of every frame of a dataset, in a folder of shards with a manifest, looked up by index.

A folder without `manifest.json` is a table that is not finished.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field

from hlrp.data import DatasetInfo
from hlrp.errors import UserError
from hlrp.files import sha256_of, write_json
from hlrp.latents.shards import LatentIdentity, ShardRange, map_arrays, read_header
from hlrp.latents.spec import describe
from hlrp.runs.kinds import refuse_other
from hlrp.runs.model_folder import MANIFEST, Record, parse_manifest

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

SCHEMA_VERSION = 1
_KIND = "latent_table"
# Of the 65,530 mappings that Linux allows a process.
_MOST_MAPPED = 16_384


class ShardEntry(Record):
    """A shard as the manifest lists it."""

    range: ShardRange
    sha256: str


class TableManifest(Record):
    """What a finished table is."""

    schema_version: int
    kind: str
    identity: LatentIdentity
    valid_pairs: int
    """Pairs with codes; the others reach past the end of their episode, or could not be decoded."""
    bad_episodes: list[int]
    """Episodes that could not be decoded."""
    decoded_by: list[str] = Field(default=[])
    """What decoded the frames, with versions: more than one if they changed between shards."""
    shards: list[ShardEntry]


def check_same_work(folder: Path, identity: LatentIdentity) -> None:
    """Check that what ``folder`` already holds, if anything, is of the same labelling.

    Raises:
        UserError: It is not; both sides are named.
    """
    if (folder / MANIFEST).is_file():
        theirs = _read_manifest(folder).identity
    else:
        shards = sorted(folder.glob("shard-*.safetensors"))
        if not shards:
            return
        theirs = read_header(shards[0]).identity
    differ = theirs.differences(identity)
    if differ:
        raise UserError(
            f"the folder holds labels of another kind ({describe(differ, 'the folder', 'asked for is')})",
            where=str(folder),
            fix="choose another --output, or delete the folder",
        )


def finish_table(folder: Path, identity: LatentIdentity, shards: Sequence[ShardRange]) -> bool:
    """Write the manifest if every shard is there; any number of processes may at once, also while a shard is replaced.

    They need no lock, which not every file system that nodes share has.

    Returns:
        Whether the table is complete.

    Raises:
        UserError: A shard is not whole, or is of another labelling.
    """
    while (written := _written(folder, shards)) is not None:
        _write_manifest(folder, _describe_shards(folder, identity, shards))
        # Who replaced one meanwhile has written its manifest too, perhaps before this older one.
        if _written(folder, shards) == written:
            return True
    return False


def _written(folder: Path, shards: Sequence[ShardRange]) -> list[tuple[int, int]] | None:
    """When each shard was written, and its size; None: one is not there."""
    try:
        found = [(folder / shard.name).stat() for shard in shards]
    except FileNotFoundError:
        return None
    return [(status.st_mtime_ns, status.st_size) for status in found]


def _write_manifest(folder: Path, manifest: TableManifest) -> None:
    for left_over in folder.glob(".*.tmp"):
        left_over.unlink(missing_ok=True)  # of writers that were killed
    while True:
        try:
            write_json(folder / MANIFEST, manifest.model_dump())
        except FileNotFoundError:
            # Another process that finishes the table took the half-written one for a leftover.
            if not folder.is_dir():
                raise
        else:
            return


def _describe_shards(folder: Path, identity: LatentIdentity, shards: Sequence[ShardRange]) -> TableManifest:
    entries, bad, valid_pairs = [], [], 0
    decoded_by: set[str] = set()
    for shard in shards:
        header = read_header(folder / shard.name)
        differ = header.identity.differences(identity)
        if differ or header.range != shard:
            raise UserError(
                f"the shard is of another labelling ({describe(differ, 'the shard', 'the table') or 'other rows'})",
                where=str(folder / shard.name),
                fix="delete it and run again",
            )
        if header.code_counts is None:
            valid_pairs += int(map_arrays(folder / shard.name, header)["valid"].sum())
        else:  # all positions of a pair are valid together
            valid_pairs += int(header.code_counts.sum()) // identity.code_seq_len
        bad += header.bad_episodes
        decoded_by |= {header.decoded_by} if header.decoded_by else set()
        entries.append(ShardEntry(range=shard, sha256=sha256_of(folder / shard.name)))
    return TableManifest(
        schema_version=SCHEMA_VERSION,
        kind=_KIND,
        identity=identity,
        valid_pairs=valid_pairs,
        bad_episodes=sorted(bad),
        decoded_by=sorted(decoded_by),
        shards=entries,
    )


def _read_manifest(folder: Path) -> TableManifest:
    refuse_other(folder, "a latent table", "--latents / latents.table")
    path = folder / MANIFEST
    if not path.is_file():
        made = len(list(folder.glob("shard-*.safetensors")))
        if made:
            raise UserError(
                f"the latent table is not finished: it has {made} shards and no {MANIFEST}",
                where=str(folder),
                fix="run the same precompute-latents command again: it continues",
            )
        raise UserError(
            f"{folder} is no latent table: it has no {MANIFEST}",
            where="--latents / latents.table",
            fix="give the folder that hlrp precompute-latents wrote",
        )
    fix = "delete it and run precompute-latents again: shards that are whole are kept"
    return parse_manifest(path, TableManifest, _KIND, SCHEMA_VERSION, name="the latent table", fix=fix)


class LatentTable:
    """The codes of every frame of a dataset. Opening reads the manifest; shards are mapped when first asked for.

    Pickles as its manifest alone, so that data workers get it at no cost.

    Args:
        folder: The table's folder.
        manifest: What it is.
    """

    def __init__(self, folder: Path, manifest: TableManifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._maps: OrderedDict[int, dict[str, NDArray[Any]]] = OrderedDict()
        self._ends: NDArray[np.int64] | None = None

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open a finished table.

        Raises:
            UserError: It is missing, unfinished, or of a schema that this version does not know.
        """
        return cls(Path(folder), _read_manifest(Path(folder)))

    @property
    def identity(self) -> LatentIdentity:
        """What the codes mean."""
        return self.manifest.identity

    def __len__(self) -> int:
        return self.identity.rows

    def check(self, *, dataset: DatasetInfo | None = None, **asked: object) -> None:
        """Check that the table is what a run needs; what is None is not checked.

        Args:
            dataset: The dataset to label.
            **asked: Fields of `LatentIdentity`: ``laq_sha256``, ``camera``, ``offset_seconds``, ``num_frames``, ...

        Raises:
            UserError: Naming both sides of everything that differs.
        """
        differ = self.identity.misfits(dataset, asked)
        if differ:
            raise UserError(
                f"the latent table does not fit: {describe(differ, 'the table', 'asked for is')}",
                where=str(self.folder),
                fix="label the dataset again with hlrp precompute-latents, or use the table that belongs to it",
            )

    def codes(self, indices: "ArrayLike") -> "tuple[Tensor, Tensor]":
        """Codes by global frame index (LeRobot's ``index``).

        Args:
            indices: ``[B]`` integers in ``[0, rows)``, any order: a list, an array or a tensor on the CPU.

        Returns:
            Codes ``[B, T-1, S]`` int64 in ``[0, K)`` (0 where not valid), and valid ``[B, T-1]`` bool.

        Raises:
            UserError: An index that the table does not have, or a shard that cannot be read.
        """
        import torch

        wanted = self._indices(indices)
        codes = self._take("codes", wanted).astype(np.int64)
        return torch.from_numpy(codes), torch.from_numpy(self._take("valid", wanted))

    def vectors(self, indices: "ArrayLike") -> "Tensor":
        """Continuous latents by global frame index: ``[B]`` gives ``[B, T-1, S, D]`` float32 (0 where not valid).

        Raises:
            UserError: The table has none, or as for `codes`.
        """
        import torch

        if self.identity.vector_dim is None:
            raise UserError(
                "the latent table has no continuous latents", where=str(self.folder), fix="label with --vectors"
            )
        return torch.from_numpy(self._take("vectors", self._indices(indices)))

    def array(self, shard: int, name: str) -> "NDArray[Any]":
        """One array of one shard (`index`, `episode_index`, `codes`, `valid`, `vectors`), mapped read-only."""
        if shard not in self._maps:
            self._maps[shard] = map_arrays(self.folder / self.manifest.shards[shard].range.name)
            if len(self._maps) > _MOST_MAPPED:
                self._maps.popitem(last=False)
        self._maps.move_to_end(shard)
        return self._maps[shard][name]

    def code_counts(self, shard: int) -> "NDArray[np.int64] | None":
        """How often each code is valid at each position of a shard, as it says itself, `[P, K]`; None: it does not."""
        return read_header(self.folder / self.manifest.shards[shard].range.name).code_counts

    def _indices(self, indices: "ArrayLike") -> "NDArray[np.int64]":
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        wrong = wanted[(wanted < 0) | (wanted >= len(self))]
        if len(wrong):
            raise UserError(
                f"the latent table has no row for frame {wrong[0]}: it has {len(self)}",
                where=str(self.folder),
                fix="use the table that belongs to the dataset",
            )
        return wanted

    def _take(self, name: str, wanted: "NDArray[np.int64]") -> "NDArray[Any]":
        if self._ends is None:
            self._ends = np.asarray([entry.range.end_row for entry in self.manifest.shards])
        shards = np.searchsorted(self._ends, wanted, side="right")
        first = int(shards[0]) if len(shards) else 0
        if (shards == first).all():
            return self._rows(first, name, wanted)
        result: NDArray[Any] | None = None
        for shard in np.unique(shards).tolist():
            mine = np.flatnonzero(shards == shard)
            rows = self._rows(shard, name, wanted[mine])
            if result is None:
                result = np.empty((len(wanted), *rows.shape[1:]), rows.dtype)
            result[mine] = rows
        assert result is not None
        return result

    def _rows(self, shard: int, name: str, wanted: "NDArray[np.int64]") -> "NDArray[Any]":
        return np.asarray(self.array(shard, name)[wanted - self.manifest.shards[shard].range.first_row])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": OrderedDict()}
