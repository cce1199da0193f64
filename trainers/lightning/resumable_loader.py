"""A loader that continues in the middle of an epoch, and the random states that its order is drawn from."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.data import _set_sampler_epoch
from torch import Tensor
from torch.utils.data import DataLoader

from hlrp.data_workers import keep_reading


def rng_states() -> dict[str, Any]:
    """State of every random generator that training draws from, in this process."""
    states: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    states["numpy"] = np.random.get_state(legacy=False)
    if torch.cuda.is_initialized():
        # Of the process's own GPU: its number may be another one where the run goes on.
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_rng_states(states: dict[str, Any]) -> None:
    """Set what `rng_states` returned; the state of a GPU is that of this process's own, if there is one."""
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    if "cuda" in states and torch.cuda.is_available():
        saved = states["cuda"]
        # Earlier versions saved those of all GPUs, by number. The process drew from its own: it has gone furthest.
        torch.cuda.set_rng_state(max(saved, key=_drawn) if isinstance(saved, list) else saved)


def _drawn(state: Tensor) -> int:
    """How far a GPU's generator has gone: behind its seed, as PyTorch lays out the state of one."""
    return int(state[8:].view(torch.int64))


def _resumable_sampler(loader: Any) -> Any:
    """The loader's sampler that can start anywhere, if it has one."""
    for name in ("batch_sampler", "sampler"):
        sampler = getattr(loader, name, None)
        if hasattr(sampler, "state_dict") and hasattr(sampler, "load_state_dict"):
            return sampler
    return None


class ResumableLoader:
    """A loader that continues at the batch where it was left.

    A sampler with `state_dict` and `load_state_dict` starts there at once; with any other, the epoch's order is drawn
    again from the random state it began with, and the batches that were trained on are read and dropped.

    Args:
        loader: Any iterable of batches; `len` is that of the loader.
        repeats: Whether every epoch has the order of the first one.
    """

    def __init__(self, loader: Any, *, repeats: bool = False) -> None:
        self.loader, self._repeats = loader, repeats
        self._epoch = self._delivered = 0
        self._ended = False
        self._order: dict[str, Any] | None = None
        if isinstance(loader, DataLoader):
            keep_reading(loader)

    def __len__(self) -> int:
        return len(self.loader)

    def start_epoch(self, epoch: int) -> None:
        """Say which pass over the data the next iteration is; the one that was loaded keeps its position."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._delivered = 0
            self._ended = False
            self._order = None

    def __iter__(self) -> Iterator[Any]:
        # Lightning asks for the iterator before it says which epoch it is: nothing happens until the first batch.
        if self._ended:
            self._delivered = 0
            self._ended = False
            self._order = None
        for batch in self._continue():
            self._delivered += 1
            yield batch
        self._ended = True

    def _continue(self) -> Iterator[Any]:
        epoch = 0 if self._repeats else self._epoch
        _set_sampler_epoch(self.loader, epoch)
        sampler = _resumable_sampler(self.loader)
        if sampler is not None:
            sampler.load_state_dict({"epoch": epoch, "position": self._delivered})
        if self._delivered == 0 or (sampler is None and self._order is None):
            self._order = rng_states() if sampler is None else None
            return iter(self.loader)
        # A loader draws a seed for its workers: the run drew it when the epoch began.
        now = rng_states()
        if sampler is None and self._order is not None:
            set_rng_states(self._order)
        batches = iter(self.loader)
        if sampler is None:
            for _ in range(self._delivered):
                next(batches, None)
        set_rng_states(now)
        return batches

    def close(self) -> None:
        """End the worker processes, if there are any."""
        iterator = getattr(self.loader, "_iterator", None)
        if iterator is not None and hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()
            self.loader._iterator = None

    def state_dict(self, ahead: int = 0) -> dict[str, Any]:
        """Where the training is, ``ahead`` batches before what was read."""
        return {"epoch": self._epoch, "delivered": self._delivered - ahead, "order": self._order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._epoch, self._delivered = state["epoch"], state["delivered"]
        self._order, self._ended = state["order"], False
