"""Image features: pictures kept as PNG or JPEG bytes inside the dataset's tables."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hlrp.data.episodes import Episodes
from hlrp.errors import UserError, WorkError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class BadVideoError(WorkError):
    """Frames of one episode cannot be decoded.

    Attributes:
        path: The file; like the others not set where a data-loading process met it, of which only the message comes.
        episode: Whose frames were asked for.
        reason: Why, as its reader says it.
    """

    path: Path
    episode: int
    reason: str

    @classmethod
    def of(
        cls, path: Path, episode: int, reason: str, fix: str = "copy the file again, or leave the episode out"
    ) -> Self:
        """The error of a file and an episode."""
        what = f"the frames of episode {episode} cannot be decoded: {reason}"
        error = cls(f"{what}\n  where: {path}\n  fix:   {fix}")
        error.path, error.episode, error.reason = path, episode, reason
        return error


def declared_size(feature: dict[str, Any]) -> tuple[int, int]:
    """Height and width of an image or video feature, as `meta/info.json` has it."""
    shape, names = list(feature["shape"]), feature.get("names") or []
    channels_first = names[:1] in (["channels"], ["channel"]) or (not names and shape[0] in (1, 3, 4))
    height, width = shape[1:] if channels_first else shape[:2]
    return int(height), int(width)


def require_size(found: Sequence[int], declared: tuple[int, int] | None, path: Path) -> None:
    """Check that frames have the size that their dataset declares, both as height and width.

    Raises:
        UserError: Naming both.
    """
    if declared is not None and tuple(found) != declared:
        raise UserError(
            f"frames of {found[0]}x{found[1]} (height x width), but meta/info.json says {declared[0]}x{declared[1]}",
            where=str(path),
            fix="write the real size into the feature's `shape` in meta/info.json, or make the files again",
        )


class EmbeddedImages:
    """Pictures of one image feature by global frame index; keeps one row group in memory (LeRobot: an episode).

    Args:
        table: Episode table of the dataset.
        camera: An image feature.
    """

    def __init__(self, table: Episodes, camera: str) -> None:
        import numpy as np
        import pyarrow.parquet as pq

        self._table, self._camera = table, camera
        self._size = declared_size(table.info.features[camera])
        self._groups: list[tuple[Path, int]] = []
        # Where each frame lies: which row group, and which row of it; -1 where it is not on this machine.
        self._place = np.full((table.info.frames, 2), -1, np.int32)
        for path in table.info.tables:
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    index = file.read_row_group(group, columns=["index"]).column("index").to_numpy()
                    self._place[index, 0], self._place[index, 1] = len(self._groups), np.arange(len(index))
                    self._groups.append((path, group))
            del file  # its table of contents would stay beside the next one's
        if not self._groups:
            raise UserError("the dataset has no tables", where=str(table.info.root / "data"), fix="restore it")
        self._loaded = -1
        self._cells: Any = None

    def _cell(self, index: int) -> dict[str, Any]:
        import pyarrow.parquet as pq

        group, row = self._place[index].tolist()
        if group < 0:
            raise ValueError(f"no table holds frame {index}")
        if group != self._loaded:
            path, number = self._groups[group]
            with pq.ParquetFile(path) as file:
                self._cells = file.read_row_group(number, columns=[self._camera]).column(self._camera)
            self._loaded = group
        cell: dict[str, Any] = self._cells[row].as_py()
        return cell

    def read_frames(self, indices: "NDArray[np.int64]", episode: int) -> "NDArray[np.uint8]":
        """Pictures of the given frames.

        Args:
            indices: Global frame indices, `[n]`.
            episode: Named in errors.

        Returns:
            uint8 `[n, C, H, W]`.

        Raises:
            BadVideoError: A picture cannot be decoded, or its table cannot be read.
            UserError: A picture of another size than declared.
        """
        import numpy as np
        from PIL import ExifTags, Image, ImageOps

        frames = []
        try:
            for index in indices.tolist():
                cell = self._cell(index)
                data = cell["bytes"]
                with Image.open(
                    io.BytesIO(data) if data is not None else self._table.info.root / cell["path"]
                ) as image:
                    # Cameras may say beside the pixels how a picture is to be turned; LeRobot's reader obeys.
                    turned = image.getexif().get(ExifTags.Base.Orientation) is not None
                    upright = ImageOps.exif_transpose(image) if turned else image
                    frames.append(np.asarray(upright.convert("RGB")))
                    require_size(frames[-1].shape[:2], self._size, self._table.info.root / "data")
        except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
            path = self._table.info.root / "data"
            raise BadVideoError.of(path, episode, f"{self._camera}: {type(error).__name__}: {error}") from error
        return np.stack(frames).transpose(0, 3, 1, 2)
