"""A CUDA device on any machine: tensors on it have shape, type and device, and no values.

What mixes devices, or needs a value of such a tensor, fails where a GPU would fail or wait, and the failure names the
line. Tensors on the CPU are real: tokenizers, tables and samplers work as they always do. Autocast casts nothing.
"""

import itertools
import linecache
import math
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

CUDA = torch.device("cuda", 0)
_PROJECT = Path(__file__).resolve().parents[2]
_OURS = ("hlrp", "lerobot_policy_felix_bundle", "trainers", "tests")
# Where a mask picks entries, PyTorch fetches how many there are, unless one number is to be written to all of them.
_PUTS = (torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)
_CONVERTED = (Tensor, torch.device, torch.Generator)
aten = torch.ops.aten


class HostReadError(AssertionError):
    """A value of the device was needed on the host: a GPU would be waited for."""


class WrongDeviceError(AssertionError):
    """Tensors, or a generator, of two devices met."""


@dataclass(frozen=True)
class Place:
    """Who called PyTorch: a line of this project, and one of the library that it called, if any.

    Args:
        ours: File, line and function of this project, the innermost.
        library: The same of the innermost library, PyTorch aside.
        text: The line.
    """

    ours: str
    library: str
    text: str

    @classmethod
    def current(cls) -> "Place":
        frame, library, text = sys._getframe(1), "", ""
        while frame is not None:
            path, line, name = Path(frame.f_code.co_filename), frame.f_lineno, frame.f_code.co_name
            if path != Path(__file__) and "torch" not in path.parts and path.is_file():
                text = text or linecache.getline(str(path), line).strip()
                if path.is_relative_to(_PROJECT) and path.relative_to(_PROJECT).parts[0] in _OURS:
                    return cls(f"{path.relative_to(_PROJECT)}:{line} in {name}", library, text)
                library = library or f"{path.name}:{line} in {name}"
            frame = frame.f_back
        return cls("", library, text)

    @property
    def function(self) -> str:
        """File and function, the library's where there is one: what does not change when lines move."""
        file, _, line_and_name = (self.library or self.ours).partition(":")
        return f"{file}:{line_and_name.rpartition(' ')[2]}"

    def __str__(self) -> str:
        return f"{self.ours}{f', {self.library}' if self.library else ''}: {self.text}"


class PretendedCuda(FakeTensorMode):
    """While it is entered, ``cuda`` is a device without values; see `pretended_cuda`.

    Attributes:
        strict: Whether a value that is read on the host is an error; else, as where a run begins, it is 1 or True.
        picked: Entries of a batch ``[B, N, ...]`` that a mask picks where its number is read; None: all.
        reads: Where values were read while it was strict, which functions that are known may do.
    """

    def __init__(self, known: Collection[str]) -> None:
        super().__init__(allow_non_fake_inputs=False)
        self.known = frozenset(known)
        self.reads: list[Place] = []
        self.strict = True
        self.picked: int | None = None

    def __deepcopy__(self, memo: Any) -> "PretendedCuda":
        return self  # of a tensor's copy

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default and not self.in_kernel_invocation:
            # Python asks the class. This is PyTorch's own code, which would look for streams of a real device.
            return torch.device("meta")
        kwargs = kwargs or {}
        leaves = list(_leaves(args, kwargs))
        fake = next((x for x in leaves if isinstance(x, FakeTensor)), None)
        target = next((x for x in leaves if isinstance(x, torch.device)), None)
        # A skeleton of a model, made on `meta` and filled later.
        skeleton = torch.device("meta") == torch.utils._device.CURRENT_DEVICE
        if fake is None and (target is None or target.type == "cpu" or skeleton):
            return func(*args, **kwargs)
        if fake is not None and target is not None and target.type == "cpu":
            self._read(func)
            return torch.ones(fake.shape, dtype=kwargs.get("dtype") or fake.dtype)
        if func is aten.copy_.default and not isinstance(args[0], FakeTensor):
            self._read(func)
            return args[0].fill_(1)
        if any(isinstance(x, _CONVERTED) and not isinstance(x, FakeTensor) for x in leaves):
            args, kwargs = tree_map(self._converted, (args, kwargs))
        return self._run(func, types, args, kwargs)

    def _converted(self, value: Any) -> Any:
        if isinstance(value, torch.device) and value.type == "meta":
            return CUDA
        if isinstance(value, torch.Generator):
            raise WrongDeviceError(f"{Place.current()}\na generator of {value.device} for numbers on {CUDA}")
        if isinstance(value, Tensor) and not isinstance(value, FakeTensor):
            return self.from_tensor(value.detach(), static_shapes=True)
        return value

    def _run(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is aten._local_scalar_dense.default:
            self._read(func)
            return torch.ones((), dtype=args[0].dtype).item()
        masked = func in _PUTS and any(x is not None and x.dtype == torch.bool for x in args[1])
        if (masked and args[2].numel() != 1) or func is aten.masked_scatter_backward.default:
            self._read(func)
        try:
            return super().__torch_dispatch__(func, types, args, kwargs)
        except DynamicOutputShapeException:
            self._read(func)
            ones = tree_map(_ones, (args, kwargs))
            found = func(*ones[0], **ones[1])
            if func is aten.nonzero.default and self.picked is not None:
                found = found[: self.picked * math.prod(args[0].shape[2:])]
            return tree_map(self._on_device, found)
        except RuntimeError as error:
            if "two different devices" not in str(error):
                raise
            raise WrongDeviceError(f"{Place.current()}\n{error}") from error

    def _on_device(self, value: Any) -> Any:
        with self:
            return value.to(CUDA) if isinstance(value, Tensor) else value

    def _read(self, func: Any) -> None:
        if not self.strict:
            return
        place = Place.current()
        if place.function not in self.known:
            raise HostReadError(f"{place}\n{func} needs a value of the device ({place.function})")
        self.reads.append(place)


def _leaves(args: Any, kwargs: Any) -> Iterator[Any]:
    """An operation's arguments, lists of tensors opened; faster than PyTorch's own trees."""
    for value in itertools.chain(args, kwargs.values()):
        if isinstance(value, list | tuple):
            yield from value
        else:
            yield value


def _ones(value: Any) -> Any:
    """What a pretended tensor is taken for where its values decide a shape."""
    return torch.ones(value.shape, dtype=value.dtype) if isinstance(value, FakeTensor) else value


class _Functions(TorchFunctionMode):
    """What PyTorch decides by a tensor's device before it dispatches anything."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not (args and isinstance(args[0], FakeTensor)):
            return func(*args, **kwargs)
        if func is Tensor.to:
            return _to(func, *args, **kwargs)
        if func in (Tensor.numpy, Tensor.__array__):
            return func(args[0].cpu(), *args[1:], **kwargs)
        if func is Tensor.__format__ and args[0].ndim == 0:
            return format(args[0].item(), args[1])
        if func == Tensor.is_cuda.__get__:
            return True
        return func(*args, **kwargs)


def _to(func: Any, tensor: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
    """`Tensor.to`, which copies nothing where the tensor is on the device already."""
    device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
    layout = {} if memory_format is None else {"memory_format": memory_format}
    if device is None or device.type == "cuda":
        return func(tensor, dtype or tensor.dtype, non_blocking, copy, **layout)
    return func(tensor, device, dtype or tensor.dtype, non_blocking, copy, **layout)


def _apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`Module._apply`, which cannot exchange a real parameter for a pretended one; what is tied stays tied."""
    changed: dict[int, Any] = {}
    for part in module.modules() if recurse else [module]:
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in changed:
                    with torch.no_grad():
                        new = change(tensor)
                    is_new = new is not tensor and isinstance(tensor, nn.Parameter)
                    changed[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if is_new else new
                tensors[name] = changed[id(tensor)]
    return module


def move(batch: Any) -> Any:
    """A batch of any nesting on the device."""
    return tree_map(lambda x: x.to(CUDA) if isinstance(x, Tensor) else x, batch)


@contextmanager
def pretended_cuda(*, known: Collection[str] = (), strict: bool = True) -> Iterator[PretendedCuda]:
    """Inside, ``cuda`` is a device without values, and modules move to it as ever.

    Args:
        known: Functions that may read values on the host, as ``file.py:function``.
        strict: See `PretendedCuda`, where it can be changed.

    Raises:
        HostReadError: Another one does.
        WrongDeviceError: An operation is given tensors of two devices.
        AssertionError: On leaving, that one of ``known`` does so no longer.
    """
    mode = PretendedCuda(known)
    mode.strict = strict
    with ExitStack() as stack:
        stack.enter_context(patch.object(nn.Module, "_apply", _apply))
        # With a driver too nothing may reach it; without one, PyTorch would look for it at every operation.
        stack.enter_context(patch("torch.cuda.is_available", return_value=False))
        # transformers takes another way, which reads nothing, for pretended tensors.
        stack.enter_context(patch("transformers.utils.import_utils.is_fake_tensor", return_value=False))
        stack.enter_context(mode)
        stack.enter_context(_Functions())
        yield mode
    idle = mode.known - {place.function for place in mode.reads}
    assert not idle, f"these read nothing on the host any more, take them off the list: {sorted(idle)}"
