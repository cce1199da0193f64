"""The device that a command computes on."""

import os

from hlrp.errors import UserError


def choose_device(asked: str | None) -> str:
    """Check a device, or choose the best one there is; of several GPUs, each process of torchrun or Slurm has its own.

    Args:
        asked: cpu, cuda, cuda:N or mps; None: the best.

    Raises:
        UserError: There is no such device.
    """
    import torch

    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    counts = {"cpu": 1, "cuda": cuda, "mps": int(torch.backends.mps.is_available())}
    if asked is None:
        asked = next(kind for kind in ("cuda", "mps", "cpu") if counts[kind])
    kind, _, number = asked.partition(":")
    if kind not in counts or (number and not number.isdecimal()) or int(number or 0) >= counts[kind]:
        there = ", ".join(name for name, count in counts.items() if count)
        raise UserError(f"there is no device {asked!r}", where="--device", fix=f"here are: {there}")
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", ""))
    return f"cuda:{int(local) % cuda}" if asked == "cuda" and local.isdecimal() else asked
