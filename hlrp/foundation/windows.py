"""Samples of the foundation model: one frame, its instruction and state, and what its label is made from."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hlrp.camera_names import UNNAMED, with_only_camera
from hlrp.data import DatasetInfo, WindowSource
from hlrp.data.columns import read_column, read_columns, read_tasks
from hlrp.data.compact import FrameRanges
from hlrp.data.decode import frame_size, target_size
from hlrp.data.episodes import check_camera
from hlrp.data.mixture import Batch, Mixture
from hlrp.data.readers import FrameReader, FramesWanted, open_readers
from hlrp.data.windows import SourceWindows, read_window
from hlrp.errors import UserError, suggest
from hlrp.latents.sources import FRAMES, VALID, LabelSource

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_log = logging.getLogger("hlrp.data")
STATE = "observation.state"
INSTRUCTION = "instruction"
_PRESENT = ".present"
_ROWS = 65_536
# Sums in parts round differently: runs on fewer rows have the numbers that they always had.
_ROWS_AT_ONCE = 1 << 20


class _LabelledFrames(SourceWindows):
    """What `FoundationSamples` keeps of one source; starts are the frames that a label may begin at."""

    def __init__(self, spec: WindowSource, number: int, labels: LabelSource, cameras: Sequence[str]) -> None:
        super().__init__(spec, labels.spec.num_frames, labels.spec.offset_seconds)
        self.number, self.labels = number, labels
        # Without one pair inside the episode there is no label, whatever makes them: all sources give the same samples.
        self.keep_valid()
        self.cameras = own_cameras(spec.info, cameras)
        if not self.cameras:
            raise UserError(
                f"{spec.info.repo_id} has none of the cameras {', '.join(cameras)}",
                where="data.cameras",
                fix=f"choose from {', '.join(spec.info.cameras) or 'another dataset: this one has none'}",
            )
        for own in self.cameras.values():
            check_camera(spec.info, own)
        self.task_index = read_columns(spec.info, ["task_index"], spec.episodes)["task_index"]
        self.states: NDArray[np.float32] | None = None
        # By camera, in the order and with the sizes of the whole mixture.
        self.sizes: dict[str, tuple[int, int]] = {}
        self.readers: dict[str, FrameReader] = {}
        self.label_reader: FrameReader | None = None
        self.partial = False
        self.state_dim = 0

    def read(self, starts: "NDArray[np.int64]") -> "dict[str, NDArray[Any]]":
        import numpy as np

        count = len(starts)
        result: dict[str, NDArray[Any]] = {"index": starts, "episode_index": self.table.episode_of(starts)}
        for camera, size in self.sizes.items():
            reader = self.readers.get(camera)
            result[camera] = np.zeros((count, 3, *size), np.uint8) if reader is None else reader.read(starts)
            if self.partial:
                result[camera + _PRESENT] = np.full(count, reader is not None)
        if self.states is not None:
            result[STATE] = np.zeros((count, self.state_dim), np.float32)
            result[STATE][:, : self.states.shape[1]] = self.states[starts]
        if self.label_reader is not None:
            indices, result[VALID] = self.window(starts, result["episode_index"])
            result[FRAMES] = read_window(self.label_reader, indices)
        return result | {"task_index": self.task_index[starts]} | self.labels.read(self.number, starts)


class FoundationSamples(Mixture):
    """Single frames with instruction, for every frame after which at least one pair of the label's window fits.

    A sample is a dictionary:

    - one entry per camera: uint8 `[3, H, W]`; with a camera that a source lacks, also `<camera>.present`, bool;
    - `instruction`: the task in words; `task_index`: its number in the source;
    - with ``use_state``: `observation.state`, float32 `[D]`, as recorded, zero-padded to the widest source;
    - `index`, `episode_index`, `source`: int64; (`source`, `index`) names a sample for good;
    - what `LabelSource.read` gives; with online labels `label_frames`, uint8 `[T, 3, h, w]`, and `label_valid`, bool
      `[T-1]`.

    Args:
        sources: Datasets; `cameras` of a source is not read.
        labels: Where labels come from.
        cameras: What the model sees.
        size: Height and width, or one number for a square; none: as recorded.
        use_state: Whether to give the state.
        cache: off: decode at every access; ram, disk: from a frame store, made now if need be.
        cache_root: Where frame stores live; none: in the platform's cache folder.
        cache_limit_gb: Most decoded frames in the cache, in GB; see `open_readers`.
        announce: Given a sentence before frames are decoded into the cache.
        progress: Called meanwhile as (frames done, frames to do).

    Raises:
        UserError: A source lacks what is asked for, or the cache would be too large.
    """

    def __init__(
        self,
        sources: Sequence[WindowSource],
        labels: LabelSource,
        *,
        cameras: Sequence[str],
        size: int | tuple[int, int] | None = None,
        use_state: bool = False,
        cache: Literal["off", "ram", "disk"] = "off",
        cache_root: Path | None = None,
        cache_limit_gb: float = 50.0,
        announce: Callable[[str], None] = _log.warning,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        parts = [_LabelledFrames(source, number, labels, cameras) for number, source in enumerate(sources)]
        super().__init__(parts, [source.weight for source in sources])
        self.sources = tuple(sources)
        self._parts: Sequence[_LabelledFrames] = parts
        self._tasks = [read_tasks(source.info) for source in sources]
        self._set_sizes(cameras, size)
        if use_state:
            self._read_states()
        wanted = [
            FramesWanted(p.table, own, p.sizes[c], p.spec.episodes) for p in parts for c, own in p.cameras.items()
        ]
        if labels.window is not None:
            wanted += [
                FramesWanted(p.table, labels.window.cameras[p.number], labels.window.size, p.spec.episodes)
                for p in parts
            ]
        readers = iter(
            open_readers(
                wanted, cache=cache, root=cache_root, limit_gb=cache_limit_gb, announce=announce, progress=progress
            )
        )
        for part in parts:
            part.readers = {camera: next(readers) for camera in part.cameras}
        if labels.window is not None:
            for part in parts:
                part.label_reader = next(readers)

    def _set_sizes(self, cameras: Sequence[str], size: int | tuple[int, int] | None) -> None:
        """One size per camera over all sources, since they share batches."""
        sizes: dict[str, tuple[int, int]] = {}
        for camera in cameras:
            found = {
                p.spec.info.repo_id: target_size(size, frame_size(p.spec.info, p.cameras[camera]))
                for p in self._parts
                if camera in p.cameras
            }
            if not found:
                known = sorted({c for p in self._parts for c in p.spec.info.cameras})
                raise UserError(
                    f"no dataset of the run has a camera {camera!r}", where="data.cameras", fix=suggest(camera, known)
                )
            if len(set(found.values())) > 1:
                listed = "; ".join(f"{repo}: {h}x{w}" for repo, (h, w) in found.items())
                raise UserError(
                    f"{camera} differs in size ({listed})", where="model.image_size", fix="ask for one, e.g. 512"
                )
            sizes[camera] = next(iter(found.values()))
        partial = any(len(p.cameras) < len(cameras) for p in self._parts)
        for part in self._parts:
            part.sizes, part.partial = sizes, partial

    def _read_states(self) -> None:
        for part in self._parts:
            part.states = read_column(part.spec.info, STATE, part.spec.episodes)
        width = max(p.states.shape[1] for p in self._parts if p.states is not None)
        for part in self._parts:
            part.state_dim = width

    @property
    def starts(self) -> list[FrameRanges]:
        """Global frame indices of the samples of each source."""
        return [part.starts for part in self._parts]

    @property
    def state_dim(self) -> int | None:
        """Width of the state; None if it is not given."""
        return self._parts[0].state_dim or None

    @property
    def tasks(self) -> list[str]:
        """The distinct instructions of the samples, sorted."""
        import numpy as np

        return sorted(
            {
                self._instruction(part.number, int(task))
                for part in self._parts
                for starts in part.starts.blocks(_ROWS)
                for task in np.unique(part.task_index[starts])
            }
        )

    def state_statistics(self) -> "tuple[NDArray[np.float64], NDArray[np.float64]] | None":
        """Mean and standard deviation of the state over all samples, float64 `[D]` each; None without state."""
        import numpy as np

        parts = [(p, p.states) for p in self._parts if p.states is not None and len(p.starts)]
        if not parts:
            return None

        def blocks(rows: int) -> "Iterator[NDArray[np.float64]]":
            for part, states in parts:
                for starts in part.starts.blocks(rows):
                    missing = part.state_dim - states.shape[1]
                    yield np.pad(states[starts], ((0, 0), (0, missing))).astype(np.float64)

        count = sum(len(part.starts) for part, _ in parts)
        if count <= _ROWS_AT_ONCE:
            values = np.concatenate([*blocks(count)])
            return values.mean(0), values.std(0)
        mean = sum(block.sum(0) for block in blocks(_ROWS)) / count
        return mean, np.sqrt(sum(((block - mean) ** 2).sum(0) for block in blocks(_ROWS)) / count)

    def _instruction(self, source: int, task: int) -> str:
        tasks = self._tasks[source]
        return tasks[task] if 0 <= task < len(tasks) else ""

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        batch = super().__getitems__(positions)
        named = zip(batch["source"].tolist(), batch["task_index"].tolist(), strict=True)
        batch[INSTRUCTION] = [self._instruction(source, task) for source, task in named]
        return batch


def cameras_of(infos: Sequence[DatasetInfo], asked: Sequence[str] | None, labels: LabelSource) -> tuple[str, ...]:
    """The cameras that a model sees: those asked for, else those that the labels are made from.

    Of datasets with one camera each, those that have no name for it have the camera of the others.
    """
    if asked is not None:
        return tuple(asked)
    names = tuple(dict.fromkeys(labels.cameras[: len(infos)]))
    named = tuple(name for name in names if name != UNNAMED)
    return named if len(named) == 1 and all(len(info.cameras) == 1 for info in infos) else names


def own_cameras(info: DatasetInfo, cameras: Sequence[str]) -> dict[str, str]:
    """Those of a model's cameras that a dataset has, with the names that they have there."""
    same = {camera: camera for camera in cameras if camera in info.cameras}
    return same or {camera: own for own, camera in with_only_camera(info.cameras, cameras, {}).items()}


def is_read_on_host(key: str) -> bool:
    """Whether an entry of a batch stays on the CPU: which cameras there are, and the state, may become prompts."""
    return key == STATE or key.endswith(_PRESENT)


def present(batch: Mapping[str, Any], camera: str) -> Any:
    """Which samples of a batch have the camera, bool `[B]`; None: all."""
    return batch.get(camera + _PRESENT)
