"""The folder `OUTPUT.partial/`: finished attempts, written so that a killed recording loses and doubles nothing."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.errors import UserError
from hlrp.files import new_file
from hlrp.locks import FolderLock
from hlrp.outputs import changed_settings

if TYPE_CHECKING:
    from hlrp.sim.experts import Demonstration

_PICTURE = "picture."


def partial_path(output: Path) -> Path:
    """Staging folder that belongs to an output folder."""
    return output.with_name(output.name + ".partial")


class Staging:
    """Attempts on disk: `<task>/<k>.npz` for a success, `<task>/<k>.failed` for a failure, `settings.json`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    @contextlib.contextmanager
    def open(cls, output: Path, settings: dict[str, Any]) -> Iterator["Staging"]:
        """Create or continue the staging folder of ``output`` and hold its lock.

        Raises:
            UserError: It was begun with other settings, or another process records there.
        """
        root = partial_path(output)
        with FolderLock(root):
            _check_settings(root / "settings.json", settings)
            yield cls(root)

    @property
    def log(self) -> Path:
        """What the recording processes and the video encoder said."""
        return self.root / "log.txt"

    @property
    def dataset(self) -> Path:
        """Where the dataset is built before it is renamed to its final name."""
        return self.root / "dataset"

    def outcomes(self, task: str) -> dict[int, bool]:
        """Whether each finished attempt succeeded, by attempt number."""
        folder = self.root / task
        if not folder.is_dir():
            return {}
        kinds = {".npz": True, ".failed": False}
        files = (file for file in folder.iterdir() if file.suffix in kinds and file.stem.isdecimal())
        return {int(file.stem): kinds[file.suffix] for file in files}

    def save(self, task: str, number: int, demonstration: "Demonstration | None") -> None:
        """Store the outcome of attempt ``number``; None stands for a failure."""
        import numpy as np

        folder = self.root / task
        folder.mkdir(exist_ok=True)
        final = folder / f"{number:06d}{'.failed' if demonstration is None else '.npz'}"
        # A full disk must not be kept full by the half that did not fit: `new_file` removes it.
        with new_file(final) as temporary:
            if demonstration is not None:
                with temporary.open("wb") as file:  # to a name numpy would add its suffix
                    np.savez(
                        file,
                        allow_pickle=False,
                        **{f"{_PICTURE}{name}": images for name, images in demonstration.images.items()},
                        state=demonstration.state,
                        action=demonstration.action,
                        reset_seed=np.int64(demonstration.reset_seed),
                    )

    def load(self, task: str, number: int) -> "Demonstration":
        """Read a successful attempt."""
        import numpy as np

        from hlrp.sim.experts import Demonstration

        with np.load(self.root / task / f"{number:06d}.npz", allow_pickle=False) as file:
            images = {name.removeprefix(_PICTURE): file[name] for name in file.files if name.startswith(_PICTURE)}
            return Demonstration(task, int(file["reset_seed"]), images, file["state"], file["action"])

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.root)


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    differing = changed_settings(path, settings, "recording")
    differing.pop("episodes", None)  # attempts are the same, however many are wanted
    if differing:
        pairs = "; ".join(f"{key}: begun with {old!r}, asked now {new!r}" for key, (old, new) in differing.items())
        raise UserError(
            f"an unfinished recording has other settings ({pairs})",
            where=str(path.parent),
            fix=f"repeat the command with the first settings, choose another --output, or delete {path.parent}",
        )
