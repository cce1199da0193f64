"""The torch device to compute on. Torch is imported when one is asked for."""

import os
from contextlib import suppress

from hlrp.errors import UserError


def choose_device(
    asked: str | None,
    *,
    saved: str | None = None,
    count: int = 1,
    where: str = "--device",
    per_process: bool = False,
) -> str:
    """Check a torch device, or choose the best one there is. LeRobot would switch to another one in silence.

    Args:
        asked: cpu, cuda, cuda:N, mps or xpu; None: ``saved``, or the best.
        saved: What a checkpoint was saved with; taken if it is here.
        count: Devices of that kind that are needed; of the CPU there are as many as one likes.
        where: Named in errors.
        per_process: Of several GPUs, `cuda` is one of its own for each process of torchrun or Slurm.

    Raises:
        UserError: There is no such device on this machine.
    """
    import torch

    xpu = torch.xpu.device_count() if torch.xpu.is_available() else 0
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = {"cuda": cuda, "mps": int(torch.backends.mps.is_available()), "xpu": xpu, "cpu": max(1, count)}
    best = next(kind for kind in ("cuda", "mps", "cpu") if there[kind])

    def exists(name: str) -> bool:
        device = torch.device(name)
        return there.get(device.type, 0) >= (count if device.index is None else device.index + 1)

    try:
        if asked is None:
            with suppress(RuntimeError):
                asked = saved if saved and exists(saved) else None
        asked = asked or best
        found = exists(asked)
    except RuntimeError as error:
        what = f"there is no device {asked!r}: {asked!r} is no torch device"
        raise UserError(what, where=where, fix="cpu, cuda, cuda:1 or mps") from error
    if not found:
        here = ", ".join(f"{number} x {kind}" for kind, number in there.items() if number and kind != "cpu")
        raise UserError(
            f"device {asked!r}{f' x {count}' if count > 1 else ''} does not exist on this machine"
            + (f", which has {here}" if here else ""),
            where=where,
            fix=f"leave it out, or --device {best}; `hlrp doctor` shows what is there",
        )
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", ""))
    return f"cuda:{int(local) % cuda}" if per_process and asked == "cuda" and local.isdecimal() else asked
