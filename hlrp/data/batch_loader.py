"""The loader of a run's batches: forked workers, or, from a frame store on a GPU, a thread that gathers ahead."""

import multiprocessing
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset

from hlrp.data.augmentation import AugmentedSamples

_AHEAD = 2
"""Batches that wait: one for the next step, one that is gathered during it."""


def batch_loader(
    samples: Dataset[Any],
    sampler: Any,
    *,
    collate: Callable[[Any], Any],
    workers: int,
    seed: int,
    trainer: Trainer | None,
    stored: bool,
    prefetch: int | None = None,
) -> DataLoader[Any]:
    """A loader whose order is the sampler's alone, whichever way the batches are read.

    On a GPU batches are in pinned memory, from which copies do not wait, and none is gathered or pinned inside a step:
    workers have a thread for it in PyTorch, batches from a store get one here.

    Args:
        samples: What is read.
        sampler: Gives the positions of a batch.
        collate: Of samples, or of a batch that was gathered whole.
        workers: Processes that read; 0: this one.
        seed: Of the workers' seeds, which are not drawn from the generator that the model uses.
        trainer: Whose device it is; None: a GPU where there is one.
        stored: Whether frames come from a store, which any thread may read.
        prefetch: Batches that each worker reads ahead; None: PyTorch's number.
    """
    gpu = torch.cuda.is_available() if trainer is None else trainer.strategy.root_device.type == "cuda"
    forked = workers > 0 and "fork" in multiprocessing.get_all_start_methods()
    # Image transforms draw from the generator of the whole process, which the step may draw from meanwhile.
    beside = gpu and stored and workers == 0 and not isinstance(samples, AugmentedSamples)
    loader: type[DataLoader[Any]] = LoaderBesideStep if beside else DataLoader
    return loader(
        samples,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=gpu,
        multiprocessing_context="fork" if forked else None,
        persistent_workers=workers > 0,
        prefetch_factor=prefetch if workers else None,
        generator=torch.Generator().manual_seed(seed % 2**63),
    )


class LoaderBesideStep(DataLoader[Any]):
    """A loader without workers whose batches are gathered, and pinned, in a thread: the same ones in the same order."""

    def __iter__(self) -> Any:
        # Where an order begins is read now, and in this thread.
        return self._beside(super().__iter__())

    def _beside(self, batches: Iterator[Any]) -> Iterator[Any]:
        ahead: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(_AHEAD)
        stop, device = threading.Event(), torch.cuda.current_device() if torch.cuda.is_available() else None

        def put(batch: Any, error: BaseException | None) -> None:
            while not stop.is_set():
                try:
                    ahead.put((batch, error), timeout=0.2)
                except queue.Full:
                    continue
                return

        def gather() -> None:
            try:
                if device is not None:
                    torch.cuda.set_device(device)  # pinned memory belongs to a process's own GPU
                for batch in batches:
                    put(batch, None)
                    if stop.is_set():
                        return
                put(None, StopIteration())
            except BaseException as error:  # whatever it is, it belongs to the thread that waits for a batch
                put(None, error)

        thread = threading.Thread(target=gather, name="batches", daemon=True)
        thread.start()
        try:
            while True:
                batch, error = ahead.get()
                if isinstance(error, StopIteration):
                    return
                if error is not None:
                    raise error
                yield batch
        finally:
            stop.set()
            thread.join()
