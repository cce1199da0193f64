"""One picture, whatever reads it: every reader gives every frame that carries its index, whatever the file is like."""

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from index_videos import CAMERAS, FILE_OF_EPISODE, KINDS, LENGTHS, SECOND_CAMERA, TOP, index_dataset, number_of, picture
from numpy.typing import NDArray

from hlrp.data import FrameStore, FrameWindows, LeRobotDataModule, WindowSource, read_dataset, read_episodes
from hlrp.data.decode import SequentialDecoder
from hlrp.data.episodes import Episodes
from hlrp.data.frame_pipeline import FramePipeline
from hlrp.data.lerobot_reader import install_reader
from hlrp.data.readers import DirectReader

MOST_ERROR = 3.6
"""Mean over a picture, of 255: what encoders lose. Another matrix or range than tagged costs 4.4 and more."""
FRAMES = sum(LENGTHS)
STARTS = np.cumsum([0, *LENGTHS])


def _linked(root: Path) -> None:
    """Folders and files of the dataset are links to another disk, so to say."""
    store = root.with_name("store")
    shutil.move(root, store)
    for folder in ("data", *(f"videos/{c}" for c in CAMERAS)):
        (root / folder).mkdir(parents=True)
    (root / "data/chunk-000").symlink_to(store / "data/chunk-000")
    (root / f"videos/{CAMERAS[0]}/chunk-000").symlink_to(store / f"videos/{CAMERAS[0]}/chunk-000")
    files = root / f"videos/{CAMERAS[1]}/chunk-000"
    files.mkdir()
    for path in (store / f"videos/{CAMERAS[1]}/chunk-000").iterdir():
        (files / path.name).symlink_to(path)
    (root / "meta").symlink_to(store / "meta")


def _partial(root: Path) -> None:
    """Only the files of the last two episodes are here."""
    for path in [*root.glob("data/*/file-000.parquet"), *root.glob("videos/*/*/file-000.mp4")]:
        path.unlink()


PLACES = {"links": _linked, "partial download": _partial}


@pytest.fixture(scope="module", params=[*KINDS, *PLACES])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Episodes, list[int]]:
    """A dataset of each kind, and the episodes of it that are here."""
    root = index_dataset(tmp_path_factory.mktemp("index") / "data", KINDS.get(request.param, KINDS["h264"]))
    if request.param in PLACES:
        PLACES[request.param](root)
    here = [e for e in range(len(LENGTHS)) if request.param != "partial download" or FILE_OF_EPISODE[e] == 1]
    return read_episodes(read_dataset(None, root)), here


def _indices(episodes: list[int]) -> NDArray[np.int64]:
    return np.concatenate([np.arange(STARTS[e], STARTS[e + 1]) for e in episodes])


def _assert_shown(frames: NDArray[np.uint8], indices: Any, camera: int) -> None:
    """Frames `[n, 3, H, W]` show the numbers of their indices, in their colours."""
    wanted = [int(i) + camera * SECOND_CAMERA for i in indices]
    pictures = np.asarray(frames).transpose(0, 2, 3, 1)
    assert [number_of(p) for p in pictures] == wanted
    errors = [np.abs(p.astype(int) - picture(n)).mean() for p, n in zip(pictures, wanted, strict=True)]
    assert max(errors) < MOST_ERROR


def test_in_order(dataset: tuple[Episodes, list[int]]) -> None:
    table, here = dataset
    for number, camera in enumerate(CAMERAS):
        chunks = list(SequentialDecoder(table, camera).frames(here, chunk=5))
        assert [c.episode for c in chunks if c.start == 0] == here
        _assert_shown(np.concatenate([c.frames for c in chunks]), _indices(here), number)


def test_one_at_a_time_in_any_order(dataset: tuple[Episodes, list[int]]) -> None:
    table, here = dataset
    for number, camera in enumerate(CAMERAS):
        reader = DirectReader(table, camera)
        for index in np.random.default_rng(number).permutation(_indices(here)):
            _assert_shown(reader.read(np.asarray([index])), [index], number)


def test_some_together_and_in_another_process(dataset: tuple[Episodes, list[int]]) -> None:
    table, here = dataset
    picked = np.random.default_rng(2).choice(_indices(here), 12)
    reader = DirectReader(table, TOP)
    _assert_shown(reader.read(picked), picked, 0)
    _assert_shown(pickle.loads(pickle.dumps(reader)).read(picked[::-1]), picked[::-1], 0)


@pytest.mark.parametrize("where", ["ram", "disk"])
def test_from_the_store(dataset: tuple[Episodes, list[int]], where: Any, tmp_path: Path) -> None:
    table, here = dataset
    for number, camera in enumerate(CAMERAS):
        store = FrameStore(table, camera, where=where, root=tmp_path)
        store.prepare(here)
        _assert_shown(store.read(_indices(here)[::-1]), _indices(here)[::-1], number)


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_windows_of_the_quantizer(dataset: tuple[Episodes, list[int]], cache: Any) -> None:
    table, here = dataset
    source = WindowSource(table.info, here, list(CAMERAS))
    windows = FrameWindows([source], num_frames=3, offset_seconds=0.2, cache=cache)
    assert len(windows) == len(_indices(here))
    for item in (windows[i] for i in range(len(windows))):
        index, end = int(item["index"]), STARTS[int(item["episode_index"]) + 1]
        for step in range(3):
            shown = min(index + 2 * step, end - 1)
            for number in range(len(CAMERAS)):
                _assert_shown(np.asarray(item["frames"])[step, number][None], [shown], number)


def test_labelling(dataset: tuple[Episodes, list[int]]) -> None:
    table, here = dataset
    for number, camera in enumerate(CAMERAS):
        chunks = list(FramePipeline(SequentialDecoder(table, camera), here, torch.device("cpu"), chunk=4, workers=2))
        assert all(not isinstance(chunk, Exception) for chunk in chunks)
        frames = np.concatenate([chunk.frames.numpy() for chunk in chunks])  # type: ignore[union-attr]
        _assert_shown(frames.transpose(0, 3, 1, 2), _indices(here), number)


def test_lerobots_trainer(dataset: tuple[Episodes, list[int]]) -> None:
    """What LeRobot's loop is given, and what one of its data workers is sent."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    table, here = dataset

    def make(cfg: Any) -> tuple[Any, Any]:
        # The frame before comes second: deltas need not ascend.
        stamps = {camera: [0.0, -0.1] for camera in CAMERAS}
        given: Any = {"root": table.info.root, "delta_timestamps": stamps, "video_backend": cfg.dataset.video_backend}
        return LeRobotDataset("local/index", episodes=here, return_uint8=True, **given), None

    script = SimpleNamespace(make_train_eval_datasets=make)
    install_reader(script)
    data, held_out = script.make_train_eval_datasets(SimpleNamespace(dataset=SimpleNamespace(video_backend="pyav")))
    assert held_out is None
    for reader, count in ((data, len(data)), (pickle.loads(pickle.dumps(data)), 6)):
        for item in (reader[int(i)] for i in np.random.default_rng(3).permutation(len(reader))[:count]):
            index, begin = int(item["index"]), STARTS[int(item["episode_index"])]
            for number, camera in enumerate(CAMERAS):
                frames = item[camera]
                frames = (frames * 255).round().to(torch.uint8) if frames.is_floating_point() else frames
                _assert_shown(frames.numpy(), [index, max(index - 1, begin)], number)


def test_lerobots_loop_is_given_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What LeRobot's script calls by that name is replaced."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.scripts import lerobot_train

    root = index_dataset(tmp_path / "data", KINDS["turned 180"])
    data = LeRobotDataset("local/index", root=root, video_backend="pyav", return_uint8=True)
    monkeypatch.setattr(lerobot_train, "make_train_eval_datasets", lambda cfg: (data, None))
    install_reader(lerobot_train)
    cfg = SimpleNamespace(dataset=SimpleNamespace(video_backend="pyav"))
    shown, _ = lerobot_train.make_train_eval_datasets(cfg)
    _assert_shown(shown[5][TOP].numpy()[None], [5], 0)


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_policies_with_lightning(dataset: tuple[Episodes, list[int]], cache: Any) -> None:
    from lerobot.policies.act.configuration_act import ACTConfig

    table, here = dataset
    episodes = None if len(here) == len(LENGTHS) else here
    data = LeRobotDataModule(root=table.info.root, episodes=episodes, cache=cache, num_workers=0, batch_size=4)
    data.for_policy(ACTConfig(device="cpu", chunk_size=2, n_action_steps=2))
    seen = []
    for batch in _batches(data):
        for number, camera in enumerate(CAMERAS):
            frames = batch[camera]
            frames = (frames * 255).round().to(torch.uint8) if frames.is_floating_point() else frames
            _assert_shown(frames.numpy(), batch["index"].tolist(), number)
        seen += batch["index"].tolist()
    assert sorted(seen) == _indices(here).tolist()


def _batches(data: LeRobotDataModule) -> Iterator[dict[str, Any]]:
    yield from data.train_dataloader()
