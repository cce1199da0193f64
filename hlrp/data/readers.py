"""Ways to get the frames of one camera by global frame index."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from hlrp.data.decode import FrameTimes, frame_size, resize_frames, target_size
from hlrp.data.episodes import Episodes
from hlrp.data.frame_shards import EpisodeShards
from hlrp.data.frame_store import FrameStore
from hlrp.data.images import EmbeddedImages
from hlrp.data.open_video import OpenVideos
from hlrp.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class FrameReader(Protocol):
    """Frames of one camera of one dataset."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames."""

    def read(self, indices: "NDArray[np.int64]") -> "NDArray[np.uint8]":
        """Frames by global index `[n]`, any order: uint8 `[n, C, H, W]`."""


class DirectReader:
    """Decodes the asked frames each time: no preparation and little memory, but slow.

    Args:
        table: Episode table of the dataset.
        camera: Feature to read.
        size: Height and width asked for; none: as recorded.
    """

    def __init__(self, table: Episodes, camera: str, size: int | tuple[int, int] | None = None) -> None:
        self._table, self._camera = table, camera
        recorded = frame_size(table.info, camera)
        self.size = target_size(size, recorded)
        self._is_video = table.info.features[camera]["dtype"] == "video"
        self._times = FrameTimes(table, camera) if self._is_video else None
        self._images = None if self._is_video else EmbeddedImages(table, camera)
        self._videos = OpenVideos(recorded, table.info.tolerance_s, table.info.video_backend)

    def read(self, indices: "NDArray[np.int64]") -> "NDArray[np.uint8]":
        """Frames by global index `[n]`, any order: uint8 `[n, C, H, W]`.

        Raises:
            BadVideoError: Naming file and episode.
            UserError: Frames of another size than `meta/info.json` declares.
        """
        import numpy as np

        wanted, back = np.unique(indices, return_inverse=True)
        result = np.empty((len(wanted), 3, *self.size), np.uint8)
        episodes = self._table.episode_of(wanted)
        for episode in np.unique(episodes):
            rows = np.flatnonzero(episodes == episode)
            result[rows] = resize_frames(self._decode(wanted[rows], int(episode)), self.size)
        return result[back]

    def _decode(self, indices: "NDArray[np.int64]", episode: int) -> "NDArray[np.uint8]":
        if self._images is not None:
            return self._images.read_frames(indices, episode)
        assert self._times is not None
        seconds = self._times.seconds(episode)[indices - int(self._table.start[episode])]
        path = self._table.info.here(self._table.video[self._camera][0][episode])
        return self._videos.read(path, seconds, episode).transpose(0, 3, 1, 2)


class FramesWanted(NamedTuple):
    """Frames that are going to be read.

    Args:
        table: Episode table of the dataset.
        camera: Feature to read.
        size: Height and width.
        episodes: Episodes that they lie in; none: all.
    """

    table: Episodes
    camera: str
    size: tuple[int, int]
    episodes: list[int] | None


def open_readers(
    wanted: Sequence[FramesWanted],
    *,
    cache: Literal["off", "ram", "disk"],
    root: Path | None,
    limit_gb: float,
    announce: Callable[[str], None],
    progress: Callable[[int, int], None] | None,
) -> list[FrameReader]:
    """A reader for each item of ``wanted``; what is wanted twice is kept and decoded once.

    Args:
        wanted: What will be read.
        cache: off: decode at every access; ram, disk: from a `FrameStore`, made now if need be. On disk what would be
            more than the limit, or is of a streamed dataset, is decoded when it is needed: `EpisodeShards`.
        root: Where the frame stores live; none: in the platform's cache folder.
        limit_gb: Most decoded frames of all items, in GB, of those that are not in their stores yet.
        announce: Given a sentence before frames are decoded into the cache, saying how much that is.
        progress: Called meanwhile as (frames done, frames to do).

    Raises:
        UserError: Memory beyond the limit, or too little room for one episode.
    """
    if cache == "off":
        return [DirectReader(w.table, w.camera, w.size) for w in wanted]
    stores: dict[tuple[Path, str, tuple[int, int]], FrameStore] = {}
    episodes: dict[FrameStore, list[int] | None] = {}
    readers: list[FrameStore] = []
    for table, camera, size, some in wanted:
        key = (table.info.root.resolve(), camera, size)
        store = stores.setdefault(key, FrameStore(table, camera, size, where=cache, root=root))
        before = episodes.get(store, [])
        episodes[store] = None if before is None or some is None else sorted({*before, *some})
        readers.append(store)
    need = {store: store.bytes_to_make(some) for store, some in episodes.items()}
    whole, streamed = sum(need.values()), any(store.table.info.stream is not None for store in stores.values())
    if cache == "disk" and (whole > limit_gb * 1e9 or streamed):
        limits = {store: int(limit_gb * 1e9 * part / max(1, whole)) for store, part in need.items()}
        shards = {store: EpisodeShards(store, limit) for store, limit in limits.items()}
        for store, some in episodes.items():
            shards[store].prepare(some, announce=announce)
        return [shards[store] for store in readers]
    if whole > limit_gb * 1e9:
        raise UserError(
            f"decoded frames would take {whole / 1e9:.1f} GB, more than the limit of {limit_gb:g} GB",
            where="data.cache_limit_gb",
            fix="raise it, use fewer episodes or smaller frames, or data.cache=disk, which keeps to it, or off",
        )
    for store, some in episodes.items():
        store.prepare(some, announce=announce, progress=progress)
    return [*readers]
