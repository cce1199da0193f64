"""A policy's metrics beside its loss, left on the device until they are read."""

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TermSums:
    """One term of a loss over some samples: enough to take its mean over these and others together.

    Args:
        total: Sum of its losses, each times how much it counts; a scalar.
        count: Sum of how much they count; a scalar.
        weight: Of the term's mean in the loss.
    """

    total: Tensor
    count: Tensor
    weight: float


class Figures(MutableMapping[str, float]):
    """Numbers to log. They stay on the device until one of them is asked for; then all come in one transfer.

    A policy that gave plain numbers would wait for the device in every step, whether a row is due or not.

    Args:
        values: Name to scalar; other numbers may be among them.
        terms: What the loss is made of, by name; empty where nobody asks, as in training.
    """

    def __init__(self, values: Mapping[str, Tensor | float], terms: Mapping[str, TermSums] | None = None) -> None:
        self._values = dict(values)
        self.terms = dict(terms or {})

    def unread(self) -> dict[str, Tensor | float]:
        """The same without waiting: scalars in double precision, in which means of numbers are taken too."""
        return {k: in_double(v) if isinstance(v, Tensor) else v for k, v in self._values.items()}

    def __getitem__(self, name: str) -> float:
        waiting = {k: v for k, v in self._values.items() if isinstance(v, Tensor)}
        if waiting:
            numbers = torch.stack([value.float() for value in waiting.values()]).tolist()
            self._values.update(zip(waiting, numbers, strict=True))
        return float(self._values[name])

    def __setitem__(self, name: str, value: float) -> None:
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def unread(outputs: Any) -> dict[str, Any] | None:
    """What a policy reports, left on the device where it allows that."""
    return outputs.unread() if isinstance(outputs, Figures) else outputs


def in_double(value: Tensor) -> Tensor:
    """A number as precise as its device allows, without gradient."""
    single = value.detach().float()
    return single if single.device.type == "mps" else single.double()  # Apple's GPUs have no double precision
