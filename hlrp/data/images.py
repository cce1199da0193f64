"""Image features: pictures kept as PNG or JPEG bytes inside the dataset's tables."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.data.episodes import Episodes
from hlrp.errors import UserError, WorkError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class BadVideoError(WorkError):
    """Frames of one episode cannot be decoded."""

    def __init__(self, path: Path, episode: int, reason: str) -> None:
        self.path, self.episode, self.reason = path, episode, reason
        super().__init__(
            f"the frames of episode {episode} cannot be decoded: {reason}\n  where: {path}\n"
            "  fix:   copy the file again, or leave the episode out"
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
        self._groups: list[tuple[Any, int]] = []
        first: list[int] = []
        for path in table.info.tables:
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    index = file.read_row_group(group, columns=["index"]).column("index")
                    self._groups.append((path, group))
                    first.append(index[0].as_py())
        if not first:
            raise UserError("the dataset has no tables", where=str(table.info.root / "data"), fix="restore it")
        order = np.argsort(first)
        self._groups = [self._groups[i] for i in order]
        self._first = np.asarray(first)[order]
        self._loaded = -1
        self._cells: Any = None

    def _cell(self, index: int) -> dict[str, Any]:
        import numpy as np
        import pyarrow.parquet as pq

        group = int(np.searchsorted(self._first, index, side="right")) - 1
        if group != self._loaded:
            path, number = self._groups[group]
            with pq.ParquetFile(path) as file:
                self._cells = file.read_row_group(number, columns=[self._camera]).column(self._camera)
            self._loaded = group
        cell: dict[str, Any] = self._cells[index - int(self._first[group])].as_py()
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
        """
        import numpy as np
        from PIL import Image

        frames = []
        try:
            for index in indices.tolist():
                cell = self._cell(index)
                data = cell["bytes"]
                with Image.open(
                    io.BytesIO(data) if data is not None else self._table.info.root / cell["path"]
                ) as image:
                    frames.append(np.asarray(image.convert("RGB")))
        except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
            path = self._table.info.root / "data"
            raise BadVideoError(path, episode, f"{self._camera}: {type(error).__name__}: {error}") from error
        return np.stack(frames).transpose(0, 3, 1, 2)
