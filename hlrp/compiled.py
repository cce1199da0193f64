"""torch.compile for a model's own blocks, in place: names of weights, checkpoints and copies stay as they are."""

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from hlrp.errors import UserError

_VERSIONS = 64
"""Of one block's code, over all layers: each shape, mode and precision is one. PyTorch stops at 8 and runs it plain."""

_COMPILERS = {"win32": ("cl",), "darwin": ("clang++",)}


@runtime_checkable
class HasBlocks(Protocol):
    """A module that knows which of its parts are compiled; of others it is the items of their lists of modules."""

    def blocks_to_compile(self) -> Iterable[nn.Module]:
        """Modules that are called as such."""


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """What is compiled of a model, each for itself: the layers that it has lists of, or else its children."""
    found = [block for block in _listed(module) if next(block.parameters(), None) is not None]
    return found or [child for child in module.children() if next(child.parameters(), None) is not None]


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, HasBlocks):
        yield from module.blocks_to_compile()
        return
    for child in module.children():
        if isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield child
        else:
            yield from _listed(child)


def compile_blocks(module: nn.Module, *, where: str = "trainer.compile", **options: Any) -> int:
    """Have torch.compile compile a model's blocks when they are first called, as torchtitan does.

    What is equal among layers is compiled once. Around the blocks nothing is traced: logging, labels and the optimizer
    stay plain Python. A copy of the module is not compiled.

    Args:
        module: The model, on its device or not.
        where: The setting that asks for it, for messages.
        **options: Of `torch.compile`.

    Returns:
        How many blocks there are.

    Raises:
        UserError: This machine has no compiler.
    """
    require_compiler(where)
    torch._dynamo.config.recompile_limit = max(_VERSIONS, torch._dynamo.config.recompile_limit)
    blocks = blocks_of(module)
    for block in blocks:
        # Kinds of layers share their code and not their shapes, which PyTorch would take for shapes that vary.
        block.compile(**{"dynamic": False} | options)
    return len(blocks)


def require_compiler(where: str = "trainer.compile") -> None:
    """Refuse to compile where it cannot be: torch.compile writes C++, on a GPU too.

    Raises:
        UserError: There is no C++ compiler.
    """
    names = tuple(filter(None, [os.environ.get("CXX")])) or _COMPILERS.get(sys.platform, ("g++", "clang++"))
    if not any(map(shutil.which, names)):
        raise UserError(
            f"torch.compile needs a C++ compiler, and there is no {' or '.join(names)}",
            where=where,
            fix="install one, or leave it out",
        )
