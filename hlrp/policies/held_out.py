"""What both engines ask of held-out batches: the loss over all of them, and how far a policy acts on its codes.

And what they tell policies that have a schedule of their own: a run's length.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hlrp.policies.figures import Figures, TermSums, in_double

_MOST = 128
"""Samples that are asked about: by them an R2 is known to a few hundredths, at the price of some steps of training."""


class HeldOutLoss:
    """The loss over all held-out batches together, of which some may have little to measure, or nothing.

    A policy of this project says how much each batch has of each term (`Figures.terms`): the loss is, as in training,
    the weighted sum of the terms' means over what is supervised. Of any other policy it is the mean over batches, as
    LeRobot takes it. Nothing is read from the device before `measure`.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to measure."""
        return bool(self._sums)

    def add(self, loss: Tensor, outputs: Any) -> None:
        """Take the loss of a batch, and what the policy reports beside it."""
        mean = loss.mean()
        terms = outputs.terms if isinstance(outputs, Figures) else {}
        for name, term in (terms or {"": TermSums(mean, torch.ones_like(mean), 1.0)}).items():
            sums = in_double(torch.stack([term.total, term.count]))
            self._sums[name] = self._sums[name] + sums if name in self._sums else sums
            self._weights[name] = term.weight

    def measure(self, prefix: str, add_up: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The figures of what was added, which is then forgotten.

        Args:
            prefix: Of their names.
            add_up: Sum over processes, each of which calls it.

        Returns:
            `PREFIX_loss`, and `PREFIX_NAME_loss` of each term; without those of which no sample has anything.
        """
        names, sums, self._sums = list(self._sums), list(self._sums.values()), {}
        if not names:
            return {}
        totals = dict(zip(names, add_up(torch.stack(sums)).tolist(), strict=True))
        means = {name: total / count for name, (total, count) in totals.items() if count > 0}
        loss = sum(self._weights[name] * mean for name, mean in means.items())
        whole = {f"{prefix}_loss": loss} if any(self._weights[name] > 0 for name in means) else {}
        return whole | {f"{prefix}_{name}_loss": mean for name, mean in means.items() if name}


class CodeEffectMeter:
    """Collects samples spread evenly over held-out batches, whose number need not be known, and measures on them.

    Neighbouring frames have the same codes: of a batch in the dataset's order another sample's codes would say little.

    Args:
        most: Samples kept at most, in the host's memory.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._samples: list[dict[str, Any]] = []
        self._common: dict[str, Any] = {}
        self._seen, self._stride = 0, 1

    def add(self, policy: Any, batch: Mapping[str, Any]) -> None:
        """Take what is due of a preprocessed batch with `action` ``[B, H, A]``, if there is anything to measure."""
        if not getattr(policy, "conditioned_on_codes", False):
            return
        count = len(batch["action"])
        columns = {k: v for k, v in batch.items() if _length(v) == count}
        self._common = {k: v for k, v in batch.items() if k not in columns}
        first = -self._seen % self._stride
        for number in range(first, count, self._stride):
            self._samples.append(
                {k: v[number].cpu() if isinstance(v, Tensor) else v[number] for k, v in columns.items()}
            )
        self._seen += count
        while len(self._samples) > self._most:
            self._samples, self._stride = self._samples[::2], 2 * self._stride

    def measure(self, policy: Any) -> dict[str, float]:
        """The figures of `HLRPPolicy.code_effect` on what was collected, which is then forgotten.

        Nothing without samples, nor of weights that are spread over processes: all would have to take part.
        """
        samples, self._samples, self._seen, self._stride = self._samples, [], 0, 1
        names = {type(module).__name__ for module in policy.modules()}
        if len(samples) < 2 or any(name.startswith(("FSDP", "FullySharded")) for name in names):
            return {}
        device = next(policy.parameters()).device
        return dict(policy.code_effect({**self._common, **_batch(samples, device)}) or {})


def tell_length(steps: int, *policies: Any) -> None:
    """Tell policies that have a schedule of their own how many steps their run has."""
    for policy in policies:
        if callable(begin := getattr(policy, "begin_run", None)):
            begin(steps)


def _length(value: Any) -> int | None:
    """Entries of what may be a column of a batch."""
    return len(value) if isinstance(value, list) or (isinstance(value, Tensor) and value.ndim > 0) else None


def _batch(samples: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    columns = {key: [sample[key] for sample in samples] for key in samples[0]}
    return {k: torch.stack(v).to(device) if isinstance(v[0], Tensor) else v for k, v in columns.items()}
