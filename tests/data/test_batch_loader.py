"""The thread that gathers batches beside the training step: the same batches, errors and end as without it."""

import threading
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from hlrp.data.batch_loader import LoaderBesideStep, batch_loader
from hlrp.data.sampler import ResumableSampler


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
