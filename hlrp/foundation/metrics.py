"""Metrics of predicted labels: accuracy beside that of the most frequent code, perplexity, and R2 of vectors.

Shapes: B batch, P positions, K codes, D width of a vector.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hlrp.laq.metrics import code_counts, perplexity, summed


@dataclass(frozen=True)
class CodeScores:
    """Scores of predicted codes; nan where nothing was measured.

    Args:
        accuracy: Share of labels that are predicted, per position.
        majority: The same if the code that is most frequent in training were always predicted.
        sequence_accuracy: Share of samples, among those with all P labels, of which every position is right.
        used: Distinct codes that are predicted, per position.
        perplexity: Perplexity of the predicted codes' distribution, per position.
    """

    accuracy: list[float]
    majority: list[float]
    sequence_accuracy: float
    used: list[int]
    perplexity: list[float]

    @property
    def mean_accuracy(self) -> float:
        """Over the positions that have labels."""
        return _mean(self.accuracy)

    @property
    def mean_majority(self) -> float:
        """Over the positions that have labels."""
        return _mean(self.majority)


class CodeMeter:
    """Counts over batches; what several processes have counted is added up in the end.

    Args:
        positions: P.
        codebook_size: K.
        device: Where the batches are.
    """

    def __init__(self, positions: int, codebook_size: int, device: torch.device) -> None:
        self._size = codebook_size
        self._correct = torch.zeros(positions, dtype=torch.int64, device=device)
        self._whole = torch.zeros(2, dtype=torch.int64, device=device)
        self._true = torch.zeros(positions, codebook_size, dtype=torch.int64, device=device)
        self._predicted = torch.zeros_like(self._true)

    def update(self, predicted: Tensor, codes: Tensor, mask: Tensor) -> None:
        """Count a batch: predicted and true codes int64 ``[B, P]``, and where there is a label, bool ``[B, P]``."""
        right = (predicted == codes) & mask
        complete = mask.all(1)
        self._correct += right.sum(0)
        self._whole += torch.stack([(right.all(1) & complete).sum(), complete.sum()])
        self._true += code_counts(codes, self._size, mask)
        self._predicted += code_counts(predicted, self._size, mask)

    def compute(self, majority: Tensor) -> CodeScores:
        """The scores of all that was counted.

        Args:
            majority: The most frequent code of each position in training, int64 ``[P]``.
        """
        counts = (self._correct, self._whole, self._true, self._predicted)
        correct, whole, true, predicted = (summed(count).cpu().double() for count in counts)
        total = true.sum(1)
        hits = true.gather(1, majority.cpu()[:, None])[:, 0]
        return CodeScores(
            accuracy=(correct / total).tolist(),
            majority=(hits / total).tolist(),
            sequence_accuracy=(whole[0] / whole[1]).item(),
            used=(predicted > 0).sum(1).tolist(),
            perplexity=perplexity(predicted).tolist(),
        )


class VectorMeter:
    """Coefficient of determination of predicted continuous latents, over all positions and widths together."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(4, dtype=torch.float64, device=device)

    def update(self, predicted: Tensor, vectors: Tensor, mask: Tensor) -> None:
        """Count a batch: vectors ``[B, P, D]`` and where there is a label, bool ``[B, P]``."""
        true = torch.where(mask[..., None], vectors.double(), 0)
        error = torch.where(mask[..., None], predicted.double() - true, 0)
        width = vectors.shape[-1]
        self._sums += torch.stack([error.square().sum(), true.sum(), true.square().sum(), mask.sum() * width])

    def compute(self) -> float:
        """R²: 0 is as good as always predicting the mean of these labels; nan without labels."""
        error, total, squares, count = summed(self._sums).tolist()
        spread = squares - total * total / count if count else 0.0
        return 1 - error / spread if spread > 0 else math.nan


def _mean(values: list[float]) -> float:
    return torch.tensor(values, dtype=torch.float64).nanmean().item()
