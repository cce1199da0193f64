"""A thread that gathers batches beside the training step, or processes: the same batches, errors and end."""

import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from index_videos import TOP, Kind, index_dataset, video_path
from torch.utils.data import DataLoader, Dataset

from hlrp.config import load_config
from hlrp.data import BadVideoError, FrameDataModule
from hlrp.data.batch_loader import LoaderBesideStep, batch_loader
from hlrp.data.lerobot_reader import show_one_picture
from hlrp.data.sampler import ResumableSampler
from hlrp.errors import HlrpError, UserError, WorkError
from trainers.lightning.resumable_loader import ResumableLoader


class Numbers(Dataset[Any]):
    """Squares; the number ``bad`` cannot be read."""

    def __init__(self, bad: int = -1) -> None:
        self.bad, self.threads = bad, set[str]()

    def __getitems__(self, indices: list[int]) -> Any:
        self.threads.add(threading.current_thread().name)
        if self.bad in indices:
            raise OSError(f"cannot read {self.bad}")
        return {"x": torch.tensor(indices) ** 2}


def make(kind: type[DataLoader[Any]], samples: Numbers, *, start: int = 0) -> DataLoader[Any]:
    sampler = ResumableSampler([12], 3, seed=5)
    sampler.load_state_dict({"epoch": 1, "position": start})
    return kind(samples, batch_sampler=sampler, collate_fn=lambda batch: batch)


@pytest.mark.parametrize("start", [0, 2])
def test_the_batches_are_those_of_the_plain_loader(start: int) -> None:
    samples = Numbers()
    found = [[b["x"].tolist() for b in make(kind, samples, start=start)] for kind in (DataLoader, LoaderBesideStep)]
    assert found[0] == found[1] and len(found[0]) == 4 - start
    assert samples.threads == {"MainThread", "batches"}


def test_an_error_comes_where_its_batch_would() -> None:
    loader = make(LoaderBesideStep, Numbers(bad=4))
    plain, seen = make(DataLoader, Numbers()), []
    with pytest.raises(OSError, match="cannot read 4"):
        seen.extend(b["x"].tolist() for b in loader)
    whole = [b["x"].tolist() for b in plain]
    assert seen == whole[: next(i for i, batch in enumerate(whole) if 16 in batch)]


def test_the_thread_ends_with_the_one_who_asks() -> None:
    batches = iter(make(LoaderBesideStep, Numbers()))
    next(batches)
    assert [t for t in threading.enumerate() if t.name == "batches"]
    batches.close()
    assert not [t for t in threading.enumerate() if t.name == "batches"]


def test_a_cpu_has_no_thread_and_nothing_pinned() -> None:
    loader = batch_loader(
        Numbers(), None, collate=lambda batch: batch, workers=0, seed=0, trainer=None, stored=True, prefetch=4
    )
    assert type(loader) is DataLoader and not loader.pin_memory


class Fails(Dataset[Any]):
    """Nothing of it can be read."""

    def __init__(self, error: HlrpError) -> None:
        self.error = error

    def __getitem__(self, index: int) -> Any:
        raise self.error from UserError("of another file", where="a.mp4", fix="look at it")


@pytest.mark.parametrize(
    "error",
    [
        UserError("frames of 62x96\nwere found", where="b.mp4", fix="make them again"),
        UserError("no more than that"),
        WorkError("the disk is gone\n  fix:   bring it back"),
        BadVideoError.of(Path("videos/file-003.mp4"), 7, "no frame at 1.2 s"),
    ],
)
def test_an_error_of_a_data_process_reads_as_one_of_this_process(error: HlrpError) -> None:
    loader = batch_loader(Fails(error), [[0]], collate=list, workers=1, seed=0, trainer=None, stored=False)
    with pytest.raises(type(error)) as caught:
        next(iter(loader))
    ResumableLoader(loader).close()  # left to the collector of garbage, PyTorch waits five seconds for each worker
    assert type(caught.value) is type(error) and str(caught.value) == str(error)
    if isinstance(caught.value, UserError) and isinstance(error, UserError):
        told = caught.value
        assert (told.what, told.where, told.fix) == (error.what, error.where, error.fix)


def test_a_bad_video_error_can_be_pickled() -> None:
    error = BadVideoError.of(Path("videos/file-003.mp4"), 7, "no frame at 1.2 s")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and vars(again) == vars(error)
    assert (again.path, again.episode, again.reason) == (Path("videos/file-003.mp4"), 7, "no frame at 1.2 s")


@pytest.fixture(scope="module")
def torn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with frames 20 ms later than its table says."""
    late = Kind(times=lambda i: i / 10 + (0.02 if i == 5 else 0))
    return index_dataset(tmp_path_factory.mktemp("torn"), late, cameras=(TOP,))


def test_a_bad_video_is_the_same_message_with_data_processes_for_both_trainers(torn: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    said = []
    for workers in (0, 2):
        keys = ["trainer_type=lightning", "model.kind=laq", "trainer.batch_size=4", "data.offset_seconds=0.1"]
        run = load_config(None, [*keys, f"data.root={torn}", f"data.num_workers={workers}"]).config
        lerobots = show_one_picture(LeRobotDataset("local/index", root=torn, video_backend="pyav"))
        one_by_one = DataLoader(lerobots, batch_size=4, num_workers=workers, persistent_workers=workers > 0)
        for batches in (FrameDataModule(run, size=24, cameras=[TOP]).train_dataloader(), one_by_one):
            with pytest.raises(BadVideoError, match="the nearest in the video is at") as caught:
                list(batches)
            ResumableLoader(batches).close()
            said.append(str(caught.value))
    assert said[:2] == said[2:]
    assert [message.count("\n") for message in said] == [2] * 4 and str(video_path(torn, TOP, 0)) in said[1]
