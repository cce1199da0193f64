"""What is changed of LeRobot's own training loop for a GPU, so that it waits no more than it must.

Nothing of LeRobot is imported at module level: the worker first chooses what LeRobot is to import.
"""

from collections.abc import Iterator
from typing import Any

from hlrp.devices import LOOKED_UP, allow_tf32, fuse
from hlrp.policies.figures import Figures


def use_device(script: Any, *, tf32: bool) -> None:
    """Fuse the optimizer, move batches without waiting, and compute float32 products as the run says.

    What our policies report is read when a row is due: the sums are those of LeRobot's tracker, to the last digit.

    Args:
        script: `lerobot.scripts.lerobot_train`.
        tf32: Whether float32 products may be rounded to TF32, which LeRobot always allows.
    """
    make, cycle = script.make_optimizer_and_scheduler, script.cycle

    def make_optimizer_and_scheduler(cfg: Any, policy: Any) -> Any:
        allow_tf32(tf32)
        optimizer, scheduler = make(cfg, policy)
        if not isinstance(optimizer, dict):
            fuse(optimizer)
        return optimizer, scheduler

    def cycle_on_device(loader: Any) -> Iterator[Any]:
        device = getattr(loader, "device", None)
        if device is None or device.type != "cuda":
            yield from cycle(loader)
            return
        from accelerate.utils import send_to_device

        # Accelerate's loader would wait for every tensor that it copies, though they are in pinned memory.
        loader.device = None
        for batch in cycle(loader):
            yield send_to_device(batch, device, non_blocking=True, skip_keys=list(LOOKED_UP))

    _read_figures_when_due(script.MetricsTracker)
    script.make_optimizer_and_scheduler = make_optimizer_and_scheduler
    script.cycle = cycle_on_device


def _read_figures_when_due(tracker_class: Any) -> None:
    update, reduce = tracker_class.update_metrics, tracker_class.reduce_across_ranks
    unread: list[Figures] = []

    def update_metrics(self: Any, values: Any) -> None:
        if isinstance(values, Figures):
            unread.append(values)
        else:
            update(self, values)

    def reduce_across_ranks(self: Any) -> None:
        # LeRobot calls it in every process, right before it logs.
        for values in unread:
            update(self, values)
        unread.clear()
        reduce(self)

    tracker_class.update_metrics = update_metrics
    tracker_class.reduce_across_ranks = reduce_across_ranks
