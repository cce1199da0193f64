"""What both engines do for policies that act on codes: tell them a run's length, ask how far they act on the codes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_MOST = 128
"""Samples that are asked about: by them an R2 is known to a few hundredths, at the price of some steps of training."""


class CodeEffectMeter:
    """Collects samples spread evenly over held-out batches, whose number need not be known, and measures on them.

    Neighbouring frames have the same codes: of a batch in the dataset's order another sample's codes would say little.

    Args:
        most: Samples kept at most, in the host's memory.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._samples: list[dict[str, Any]] = []
        self._seen, self._stride = 0, 1

    def add(self, policy: Any, batch: Mapping[str, Any]) -> None:
        """Take what is due of a preprocessed batch with `action` ``[B, H, A]``, if there is anything to measure."""
        if not getattr(policy, "conditioned_on_codes", False):
            return
        count = len(batch["action"])
        first = -self._seen % self._stride
        self._samples += [_sample(batch, number, count) for number in range(first, count, self._stride)]
        self._seen += count
        while len(self._samples) > self._most:
            self._samples, self._stride = self._samples[::2], 2 * self._stride

    def measure(self, policy: Any) -> dict[str, float]:
        """The figures of `HLRPPolicy.code_effect` on what was collected, which is then forgotten.

        Nothing without samples, nor of weights that are spread over processes: all would have to take part.
        """
        samples, self._samples, self._seen, self._stride = self._samples, [], 0, 1
        weight = next(policy.parameters())
        if len(samples) < 2 or type(weight.data).__name__ == "DTensor":
            return {}
        return dict(policy.code_effect(_batch(samples, weight.device)) or {})


def tell_length(steps: int, *policies: Any) -> None:
    """Tell policies that have a schedule of their own how many steps their run has."""
    for policy in policies:
        if callable(begin := getattr(policy, "begin_run", None)):
            begin(steps)


def _sample(batch: Mapping[str, Any], number: int, count: int) -> dict[str, Any]:
    """One sample; what a batch has once for all of them is left as it is."""
    return {
        key: value[number].detach().cpu() if isinstance(value, Tensor) else value[number]
        for key, value in batch.items()
        if isinstance(value, Tensor | list) and len(value) == count
    }


def _batch(samples: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    columns = {key: [sample[key] for sample in samples] for key in samples[0]}
    return {k: torch.stack(v).to(device) if isinstance(v[0], Tensor) else v for k, v in columns.items()}
