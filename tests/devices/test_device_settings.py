"""What both trainers do for a GPU: TF32, fused optimizers, batches that are moved without waiting."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from planted_reads import planted_read
from pretended_cuda import CUDA, move, pretended_cuda
from torch import nn

from hlrp.devices import choose_device, fuse


@pytest.fixture
def _tf32_afterwards_as_before() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("_tf32_afterwards_as_before")
def test_tf32_is_allowed_unless_it_is_refused_and_only_for_cuda() -> None:
    def allowed() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with (
        patch("torch.cuda.is_available", return_value=True),
        patch("torch.cuda.device_count", return_value=2),
        patch("torch.cuda.set_device"),
    ):
        assert choose_device("cpu") == "cpu" and allowed() == (False, False)
        assert choose_device(None) == "cuda" and allowed() == (True, True)
        assert choose_device("cuda:1", tf32=False) == "cuda:1" and allowed() == (False, False)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_optimizers_are_fused_on_a_gpu_and_nowhere_else(kind: Any) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    groups = [{"params": list(part.parameters())} for part in net]
    with pretended_cuda():
        optimizer = kind(groups, lr=0.1)
        fuse(optimizer)
        assert [g["fused"] for g in optimizer.param_groups] == [None, None]
        net[0].to("cuda")
        groups = [{"params": list(part.parameters())} for part in net]
        optimizer = kind(groups, lr=0.1)
        fuse(optimizer)
        assert [g["fused"] for g in optimizer.param_groups] == [True, None]
        asked = kind([{"params": list(net[0].parameters()), "fused": False}], lr=0.1)
        fuse(asked)
        assert asked.param_groups[0]["fused"] is False
        rprop = torch.optim.Rprop(net[0].parameters())
        fuse(rprop)
        assert "fused" not in rprop.param_groups[0]


def _loops_script() -> Any:
    """LeRobot's loop as the hooks change it, its own module left as it is."""
    from lerobot.scripts import lerobot_train

    from trainers.lerobot.device_hooks import use_device

    names = ("cycle", "make_optimizer_and_scheduler", "update_policy")
    script = SimpleNamespace(**{name: getattr(lerobot_train, name) for name in names})
    script.MetricsTracker = type("Tracker", (lerobot_train.MetricsTracker,), {})
    use_device(script, tf32=True)
    return script


def test_lerobots_loop_gets_batches_without_waiting_and_looks_labels_up_on_the_host() -> None:
    from accelerate.data_loader import DataLoaderShard

    samples = [{"observation.state": torch.full((2,), float(i)), "index": torch.tensor(i)} for i in range(6)]
    waited: list[bool] = []
    real = torch.Tensor.to

    def watched(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        waited.append(not options.get("non_blocking", False))
        return real(tensor, *args, **options)

    with pretended_cuda(), patch.object(torch.Tensor, "to", watched):
        loader = DataLoaderShard(samples, device=CUDA, batch_size=2)
        batches = _loops_script().cycle(loader)
        first = [next(batches) for _ in range(4)]
    assert [b["index"].tolist() for b in first] == [[0, 1], [2, 3], [4, 5], [0, 1]]
    assert all(b["observation.state"].device == CUDA for b in first)
    assert waited and not any(waited)
    loader = DataLoaderShard(samples, device=torch.device("cpu"), batch_size=3)
    batches = _loops_script().cycle(loader)
    assert [next(batches)["observation.state"][:, 0].tolist() for _ in range(2)] == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.usefixtures("_tf32_afterwards_as_before")
def test_lerobots_step_reads_nothing_but_what_it_logs() -> None:
    """LeRobot reads its loss and the gradient's norm at every step; our policy adds nothing to it."""
    from lerobot.utils.logging_utils import AverageMeter
    from test_device_policies import DIRECT, make_batch, make_policy

    policy, script = make_policy(DIRECT), _loops_script()
    accelerator: Any = SimpleNamespace(
        autocast=lambda: torch.autocast("cpu", enabled=False),
        backward=lambda loss: loss.backward(),
        clip_grad_norm_=nn.utils.clip_grad_norm_,
        unwrap_model=lambda model, **_: model,
    )
    meters = {name: AverageMeter(name) for name in ("loss", "grad_norm", "lr", "update_s")}
    tracker = script.MetricsTracker(2, 20, 2, meters)
    with pretended_cuda(known={"lerobot_train.py:update_policy"}) as cuda:
        cuda.strict = False
        policy.to("cuda")
        batch = move(make_batch())
        preset = policy.config.get_optimizer_preset()
        config = SimpleNamespace(use_policy_training_preset=False, optimizer=preset, scheduler=None)
        optimizer, _ = script.make_optimizer_and_scheduler(config, policy)
        policy(batch)
        cuda.strict = True
        assert all(group["fused"] for group in optimizer.param_groups) and torch.backends.cuda.matmul.allow_tf32
        step = (tracker, policy, batch, optimizer, 1.0)
        for _ in range(2):
            script.update_policy(*step, accelerator=accelerator)
        assert len(cuda.reads) == 4
        with planted_read():
            script.update_policy(*step, accelerator=accelerator)
        cuda.strict = False
        assert "action_loss" not in tracker.metrics
        tracker.reduce_across_ranks()
        assert (tracker.metrics["action_loss"].count, tracker.metrics["action_loss"].avg) == (2, 1)
