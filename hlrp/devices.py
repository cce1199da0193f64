"""The torch device to compute on, and what makes it fast there. Torch is imported when one is asked for."""

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hlrp.errors import UserError

if TYPE_CHECKING:
    from torch.optim import Optimizer

LOOKED_UP = ("index", "episode_index")
"""Numbers of frames in a policy's batch: labels are looked up by them on the host, so that they stay there."""


def choose_device(
    asked: str | None,
    *,
    saved: str | None = None,
    count: int = 1,
    where: str = "--device",
    per_process: bool = False,
    tf32: bool = True,
) -> str:
    """Check a torch device, or choose the best one there is. LeRobot would switch to another one in silence.

    On CUDA float32 products are computed as ``tf32`` says, from then on and in the whole process; and the one GPU that
    is answered, if it is one by number, is the current one of the thread that asks: streams, events and memory that
    name no device are its own.

    Args:
        asked: cpu, cuda, cuda:N, mps or xpu; None: ``saved``, or the best.
        saved: What a checkpoint was saved with; taken if it is here.
        count: Devices of that kind that are needed; of the CPU there are as many as one likes.
        where: Named in errors.
        per_process: Of several GPUs, `cuda` is one of its own for each process of torchrun or Slurm.
        tf32: See `allow_tf32`.

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
    if torch.device(asked).type == "cuda":
        allow_tf32(tf32)
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", ""))
    chosen = f"cuda:{int(local) % cuda}" if per_process and asked == "cuda" and local.isdecimal() else asked
    if chosen.startswith("cuda:"):
        torch.cuda.set_device(chosen)
    return chosen


def visible_gpus() -> list[str]:
    """CUDA's GPUs that this process sees, in their order, each as `CUDA_VISIBLE_DEVICES` names it alone.

    CUDA is not begun here.
    """
    import torch

    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if named is None else (name.strip() for name in named.split(","))
    return list(names)[:count]  # what stands behind a name that is none is not seen


def without_number(device: str) -> str:
    """A device as a process knows it that was started with `alone_on_gpu`: its GPU is the only one."""
    return "cuda" if device.startswith("cuda:") else device


def alone_on_gpu(device: str, processes: int) -> dict[str, str]:
    """Variables of a process to be started that has to see one GPU alone: the one of a number; none for other devices.

    Args:
        device: cpu, cuda, cuda:N or mps, as a run asks for it.
        processes: Of the run.

    Raises:
        UserError: There is no GPU of this number, or several are needed.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number:
        return {}
    if processes > 1:
        raise UserError(
            f"device {device!r} is one GPU, but {processes} devices were asked for",
            where="--device, --devices",
            fix="use --device cuda",
        )
    gpus = visible_gpus()
    if not number.isdecimal() or int(number) >= len(gpus):
        raise UserError(
            f"device {device!r} does not exist on this machine, which has {len(gpus)} x cuda",
            where="--device / trainer.device",
            fix="leave it out, or --device cuda; `hlrp doctor` shows what is there",
        )
    return {"CUDA_VISIBLE_DEVICES": gpus[int(number)]}


def allow_tf32(allowed: bool) -> None:
    """Whether CUDA may round the factors of float32 products and convolutions to TF32, 10 bits of mantissa.

    Training, encoding and acting do alike, so that codes made in one are those made in the other. LeRobot's loop allows
    it; PyTorch by itself in convolutions alone.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def fuse(optimizer: "Optimizer") -> None:
    """Have PyTorch update the parameters with its fused kernel, where it has one and all of a group are on a GPU.

    Without it every step is a kernel for each of several operations. On a CPU nothing changes.
    """
    groups: list[dict[str, Any]] = optimizer.param_groups
    for group in groups:
        # An option of the group: of the whole optimizer, Lightning would refuse to clip gradients in mixed precision.
        if group.get("fused", True) is None and all(p.device.type == "cuda" for p in group["params"]):
            group["fused"] = True
