"""Shards of a latent table: safetensors files of contiguous episodes, each of which says what its codes mean."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from pydantic import ValidationError

from hlrp.data.dataset_info import DatasetInfo
from hlrp.data.episodes import Episodes, window_offset
from hlrp.data.video_backends import VideoBackend
from hlrp.errors import UserError
from hlrp.files import write_bytes
from hlrp.latents.spec import CodeSpec, Difference
from hlrp.runs.model_folder import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARD_FRAMES = 4096
"""Frames of a shard, at least: what a kill can cost, and the grain in which ranks share the work."""

_MOST_SHARDS = 4096

_METADATA_KEY = "hlrp"
_DTYPES = {"I64": np.int64, "I32": np.int32, "I16": np.int16, "BOOL": np.bool_, "F32": np.float32}
_MAX_HEADER = 1 << 20
_MOST_COUNTS = 1 << 16
"""Counts of codes that are written into a header: with ten digits each they stay below its limit."""


class LatentIdentity(CodeSpec):
    """What the codes of a table mean and which frames they belong to. Two tables are the same if all of it agrees."""

    NAMES: ClassVar[dict[str, str]] = CodeSpec.NAMES | {
        "dataset_fingerprint": "dataset",
        "camera": "camera",
        "offset_frames": "offset in frames",
        "rows": "frames",
        "episodes": "episodes",
        "shard_frames": "frames of a shard",
        "video_backend": "video decoder",
    }

    dataset_fingerprint: str
    camera: str
    offset_frames: int
    """`offset_seconds` in frames of this dataset."""
    rows: int
    episodes: int
    shard_frames: int
    video_backend: VideoBackend = "pyav"
    """What decoded the videos; tables that do not say were all made by PyAV."""

    def misfits(self, dataset: DatasetInfo | None, asked: Mapping[str, object]) -> list[Difference]:
        """Where these labels do not belong to ``dataset``, or are not ``asked`` for, as for `CodeSpec.differences`."""
        wanted = dict(asked)
        if dataset is not None:
            mine = self.dataset_fingerprint
            wanted |= {
                "dataset_fingerprint": mine if dataset.known_as(mine) else dataset.fingerprint(),
                "rows": dataset.frames,
                "episodes": dataset.episodes,
                "offset_frames": window_offset(self.offset_seconds, dataset.fps),
            }
        return self.differences(wanted)


class ShardRange(Record):
    """Which episodes and rows a shard holds; ends are exclusive."""

    number: int
    first_episode: int
    end_episode: int
    first_row: int
    end_row: int

    @property
    def name(self) -> str:
        """File name of the shard."""
        return f"shard-{self.number:05d}.safetensors"

    @property
    def rows(self) -> int:
        """Frames of the shard."""
        return self.end_row - self.first_row


class ShardHeader(NamedTuple):
    """What a shard says of itself.

    Args:
        identity: Meaning of its codes.
        range: Its episodes and rows.
        bad_episodes: Episodes that could not be decoded; none of their rows is valid.
        decoded_by: What decoded the frames, with versions; none: the file is older than this entry.
        arrays: Name to dtype, shape and first byte.
        code_counts: How often each code is valid at each position, int64 `[P, K]`; none: the file is older than this
            entry, or the codebook is very large.
    """

    identity: LatentIdentity
    range: ShardRange
    bad_episodes: list[int]
    decoded_by: str | None
    arrays: dict[str, tuple[type, tuple[int, ...], int]]
    code_counts: "NDArray[np.int64] | None"


def shard_frames_for(frames: int, folder: Path) -> int:
    """Frames of a shard of a new table: so many that it has no more files than a folder and a process hold with ease.

    Args:
        frames: Of the dataset.
        folder: Of the table; where it has been begun, its shards stay of the size that they are.
    """
    begun = next(iter(sorted(folder.glob("shard-*.safetensors"))), None)
    return read_header(begun).identity.shard_frames if begun else max(SHARD_FRAMES, -(-frames // _MOST_SHARDS))


def plan_shards(table: Episodes, shard_frames: int = SHARD_FRAMES) -> list[ShardRange]:
    """Divide a dataset into shards of whole episodes with at least ``shard_frames`` frames (the last may have fewer).

    The plan depends on the dataset alone, not on how many processes label it.
    """
    shards: list[ShardRange] = []
    first = 0
    for episode in range(len(table)):
        full = int(table.end[episode] - table.start[first]) >= shard_frames
        if full or episode == len(table) - 1:
            rows = int(table.start[first]), int(table.end[episode])
            shards.append(
                ShardRange(
                    number=len(shards), first_episode=first, end_episode=episode + 1, first_row=rows[0], end_row=rows[1]
                )
            )
            first = episode + 1
    return shards


def code_dtype(codebook_size: int) -> type:
    """The integer type that codes are stored as."""
    return np.int16 if codebook_size <= 1 << 15 else np.int32


class ShardRows:
    """The rows of one shard while they are filled; all invalid at first.

    Args:
        identity: Meaning of the codes.
        shard: Episodes and rows.
        table: Episode table of the dataset.
        decoded_by: What decodes the frames, with versions; none: it is not said.
    """

    def __init__(
        self, identity: LatentIdentity, shard: ShardRange, table: Episodes, decoded_by: str | None = None
    ) -> None:
        self.identity, self.range, self._decoded_by = identity, shard, decoded_by
        pairs, positions = identity.num_frames - 1, identity.code_seq_len
        episodes = np.arange(shard.first_episode, shard.end_episode)
        lengths = table.lengths[shard.first_episode : shard.end_episode]
        self.codes: NDArray[Any] = np.zeros((shard.rows, pairs, positions), code_dtype(identity.codebook_size))
        self.valid = np.zeros((shard.rows, pairs), np.bool_)
        self.vectors = (
            np.zeros((shard.rows, pairs, positions, identity.vector_dim), np.float32) if identity.vector_dim else None
        )
        self._episode_index = np.repeat(episodes, lengths).astype(np.int64)
        self.bad_episodes: list[int] = []

    def fill(
        self, rows: "NDArray[np.int64]", codes: "NDArray[Any]", valid: "NDArray[np.bool_]", vectors: Any = None
    ) -> None:
        """Set rows by global index ``[n]``: codes ``[n, T-1, S]``, valid ``[n, T-1]``, vectors ``[n, T-1, S, D]``."""
        if (self.vectors is None) != (vectors is None):
            raise ValueError(
                f"the table has vectors: {self.vectors is not None}, given are some: {vectors is not None}"
            )
        local = rows - self.range.first_row
        self.codes[local] = np.where(valid[..., None], codes, 0)
        self.valid[local] = valid
        if self.vectors is not None:
            self.vectors[local] = np.where(valid[..., None, None], vectors, 0)

    def spoil(self, episode: int) -> None:
        """Mark an episode as one that cannot be decoded."""
        rows = self._episode_index == episode
        self.codes[rows], self.valid[rows] = 0, False
        if self.vectors is not None:
            self.vectors[rows] = 0
        self.bad_episodes.append(episode)

    def _code_counts(self) -> list[list[int]] | None:
        size = self.identity.codebook_size
        if self.identity.positions * size > _MOST_COUNTS:
            return None
        counts: list[list[int]] = count_codes(self.codes, self.valid, size).tolist()
        return counts

    def write(self, folder: Path) -> None:
        """Write the shard into ``folder``, whole or not at all."""
        from safetensors.numpy import save

        arrays: dict[str, Any] = {
            "index": np.arange(self.range.first_row, self.range.end_row, dtype=np.int64),
            "episode_index": self._episode_index,
            "codes": self.codes,
            "valid": self.valid,
        }
        if self.vectors is not None:
            arrays["vectors"] = self.vectors
        said = {
            "identity": self.identity.model_dump(),
            "range": self.range.model_dump(),
            "bad_episodes": sorted(self.bad_episodes),
            "decoded_by": self._decoded_by,
            "code_counts": self._code_counts(),
        }
        path = folder / self.range.name
        try:
            # One key only: safetensors writes several in an order that changes from process to process.
            write_bytes(path, save(arrays, {_METADATA_KEY: json.dumps(said)}))
        except FileNotFoundError:
            if not path.is_file():  # else the same command ran twice at once, and the other one was done first
                raise


def count_codes(codes: "NDArray[Any]", valid: "NDArray[np.bool_]", size: int) -> "NDArray[np.int64]":
    """How often each code is valid at each position.

    Args:
        codes: `[rows, T - 1, S]`, from 0 to ``size`` where they are valid.
        valid: `[rows, T - 1]`.
        size: Of the codebook, K.

    Returns:
        int64 `[P, K]`, where P is (T - 1) * S.
    """
    places = np.ndindex(codes.shape[1:])
    return np.stack([np.bincount(codes[valid[:, pair], pair, place], minlength=size) for pair, place in places])


def read_header(path: Path) -> ShardHeader:
    """Read what a shard says of itself.

    Raises:
        UserError: It is no whole shard of a latent table.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > _MAX_HEADER:
                raise ValueError(f"a header of {size} bytes")
            header: Mapping[str, Any] = json.loads(file.read(size))
        said = json.loads(header["__metadata__"][_METADATA_KEY])
        arrays, end = {}, 0
        for name, entry in header.items():
            if name != "__metadata__":
                begin, stop = entry["data_offsets"]
                arrays[name] = (_DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + size + begin)
                end = max(end, 8 + size + stop)
        if path.stat().st_size != end:
            raise ValueError(f"{path.stat().st_size} bytes instead of {end}")
        result = ShardHeader(
            LatentIdentity.model_validate(said["identity"]),
            ShardRange.model_validate(said["range"]),
            list(said["bad_episodes"]),
            said.get("decoded_by"),
            arrays,
            _read_counts(said.get("code_counts")),
        )
        _check_shapes(result)
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise UserError(
            f"the shard cannot be read: {type(error).__name__}: {error}",
            where=str(path),
            fix="delete it and run precompute-latents again: only this shard is made anew",
        ) from error
    return result


def _read_counts(said: Any) -> "NDArray[np.int64] | None":
    return None if said is None else np.asarray(said, np.int64)


def _check_shapes(header: ShardHeader) -> None:
    identity, rows = header.identity, header.range.rows
    codes = (rows, identity.num_frames - 1, identity.code_seq_len)
    expected: dict[str, tuple[int, ...]] = {"index": (rows,), "episode_index": (rows,), "codes": codes}
    expected["valid"] = codes[:2]
    if identity.vector_dim:
        expected["vectors"] = (*codes, identity.vector_dim)
    found = {name: shape for name, (_, shape, _) in header.arrays.items()}
    if found != expected:
        raise ValueError(f"arrays {found} instead of {expected}")
    counts = header.code_counts
    if counts is not None and counts.shape != (identity.positions, identity.codebook_size):
        raise ValueError(f"counts of codes {counts.shape} instead of {(identity.positions, identity.codebook_size)}")


def map_arrays(path: Path, header: ShardHeader | None = None) -> "dict[str, NDArray[Any]]":
    """The arrays of a shard, read-only: one mapping of the file for all, and no file is left open."""
    from torch import UntypedStorage, empty, uint8

    header = header or read_header(path)
    # Python's own mmap keeps the file open: a table of a million frames would need more files than one may have.
    storage: Any = UntypedStorage.from_file(str(path), shared=False, nbytes=path.stat().st_size)
    mapped = empty(0, dtype=uint8).set_(storage).numpy()
    mapped.flags.writeable = False
    return {
        name: np.ndarray(shape, dtype, mapped.data, offset) for name, (dtype, shape, offset) in header.arrays.items()
    }
