"""Observations that an export is compared on: recorded ones where the data is here, else made up to the statistics."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hlrp.data.columns import read_column, read_tasks
from hlrp.data.dataset_info import DatasetInfo, read_dataset
from hlrp.data.episodes import read_episodes
from hlrp.data.readers import DirectReader
from hlrp.errors import UserError
from hlrp.evaluation.policy import LoadedPolicy
from hlrp.runtime.manifest import Input

if TYPE_CHECKING:
    from numpy.typing import NDArray

COUNT = 8


@dataclass(frozen=True)
class Observed:
    """What a policy is shown at once.

    Args:
        frames: By the policy's names, the newest last: pictures uint8 ``[1, C, H, W]``, numbers float32 ``[1, ...]``.
        task: The instruction.
    """

    frames: "list[dict[str, NDArray[Any]]]"
    task: str


def find_data(roots: list[Path], inputs: dict[str, Input], rename: dict[str, str]) -> DatasetInfo | None:
    """The first dataset that is here and holds what a policy reads, in the sizes that it reads."""
    for root in roots:
        try:
            info = read_dataset(None, root)
        except UserError:
            continue
        if all(_fits(info, _data_name(name, rename), wanted) for name, wanted in inputs.items()):
            return info
    return None


def _data_name(name: str, rename: dict[str, str]) -> str:
    return next((data for data, policy in rename.items() if policy == name), name)


def _fits(info: DatasetInfo, name: str, wanted: Input) -> bool:
    feature = info.features.get(name)
    if feature is None:
        return False
    shape = tuple(feature["shape"])
    return sorted(shape) == sorted(wanted.shape) if wanted.picture else shape == wanted.shape


def tasks_of(info: DatasetInfo) -> list[str]:
    """The instructions of a dataset."""
    return [task for task in dict.fromkeys(read_tasks(info)) if task]


def recorded(info: DatasetInfo, inputs: dict[str, Input], rename: dict[str, str], history: int) -> list[Observed]:
    """Observations from all over a dataset's first episodes.

    Raises:
        UserError: The dataset cannot be read.
    """
    table = read_episodes(info)
    episodes = table.present[: COUNT // 2]
    columns: dict[str, NDArray[Any]] = {}
    readers: dict[str, DirectReader] = {}
    for name, wanted in inputs.items():
        stored = _data_name(name, rename)
        if wanted.picture:
            readers[name] = DirectReader(table, stored)
        else:
            columns[name] = read_column(info, stored, episodes)
    found = []
    for number in range(COUNT):
        episode = episodes[number % len(episodes)]
        start, end = int(table.start[episode]), int(table.end[episode])
        newest = start + (end - start) * number // COUNT
        frames = []
        for index in range(newest - history + 1, newest + 1):
            at = max(index, start)
            frame = {name: reader.read(np.asarray([at])) for name, reader in readers.items()}
            frames.append(frame | {name: values[at : at + 1] for name, values in columns.items()})
        found.append(Observed(frames, str(table.task[episode])))
    return found


def made_up(loaded: LoadedPolicy, inputs: dict[str, Input], tasks: list[str], history: int) -> list[Observed]:
    """Random pictures, and numbers drawn as the statistics say that the policy was trained on."""
    rng = np.random.default_rng(0)
    statistics: dict[str, Any] = {}
    for step in loaded.preprocessor.steps:
        statistics |= getattr(step, "_tensor_stats", {})

    def values(name: str, wanted: Input) -> "NDArray[Any]":
        if wanted.picture:
            return rng.integers(0, 256, (1, *wanted.shape), np.uint8)
        stats = statistics.get(name, {})
        if "min" in stats and "max" in stats:
            low, high = stats["min"].numpy(), stats["max"].numpy()
            return (low + (high - low) * rng.random((1, *wanted.shape))).astype(np.float32)
        mean, std = (stats[key].numpy() if key in stats else float(key == "std") for key in ("mean", "std"))
        return (mean + std * rng.standard_normal((1, *wanted.shape))).astype(np.float32)

    frames = [
        [{name: values(name, wanted) for name, wanted in inputs.items()} for _ in range(history)] for _ in range(COUNT)
    ]
    return [Observed(frame, tasks[i % len(tasks)]) for i, frame in enumerate(frames)]
