"""A value that is read on the host in the middle of a step, put there on purpose: the step has to fail and name it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pretended_cuda import HostReadError
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._pytree import tree_leaves


def _in_a_module(_: Any, __: Any, output: Any) -> None:
    for value in tree_leaves(output):
        if isinstance(value, FakeTensor):
            value.detach().sum().item()


def _after_an_update(optimizer: Any, _: Any, __: Any) -> None:
    optimizer.param_groups[0]["params"][0].detach().sum().item()


@contextmanager
def planted_read(*, in_optimizer: bool = False, now: bool = True) -> Iterator[Callable[[], None]]:
    """Inside, what follows has to fail, since every module, or every optimizer's step, reads a value on the host.

    Args:
        in_optimizer: Plant it behind the optimizer's step.
        now: Plant it at once; else when what is given is called.
    """
    where = _after_an_update if in_optimizer else _in_a_module
    handles: list[Any] = []

    def plant() -> None:
        handles.append(
            register_optimizer_step_post_hook(_after_an_update)
            if in_optimizer
            else register_module_forward_hook(_in_a_module)
        )

    if now:
        plant()
    try:
        with pytest.raises(HostReadError, match=rf"planted_reads.py:\d+ in {where.__name__}: .*item"):
            yield plant
    finally:
        for handle in handles:
            handle.remove()
