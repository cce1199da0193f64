"""One validation of a foundation model: labels held out, predicted with and without their true instruction."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from hlrp.foundation.backends.interfaces import BackendMode, FoundationBatch, LossOutput, VLABackend
from hlrp.foundation.config import BackendConfig
from hlrp.foundation.metrics import CodeMeter, CodeScores, VectorMeter
from hlrp.foundation.pictures import Sample, write_samples

FREE_SAMPLES = 512
"""Samples, about, whose codes are generated one by one, where a backend does that: slower than one forward pass."""

_PICTURES = 8


class Validation:
    """Collects one pass over held-out batches.

    Args:
        backend: What is judged.
        config: Its configuration.
        tasks: Distinct instructions of the training data; with two or more, each is also replaced by the next one.
        batches: Batches of the pass.
        device: Where they are.
    """

    def __init__(
        self, backend: VLABackend, config: BackendConfig, tasks: Sequence[str], *, batches: int, device: torch.device
    ) -> None:
        self._backend = backend
        self._config = config
        self._device = device
        self._other = {task: tasks[(i + 1) % len(tasks)] for i, task in enumerate(tasks)} if len(tasks) > 1 else {}
        self._codes = self._code_meter()
        self._shuffled = self._code_meter()
        self._free = self._code_meter()
        self._vectors, self._shuffled_vectors = VectorMeter(device), VectorMeter(device)
        self._one_by_one = backend.one_by_one
        self._batches = batches
        self._shown = 0
        self._samples: list[Sample] = []

    def _code_meter(self) -> CodeMeter:
        return CodeMeter(self._config.spec.positions, self._config.spec.codebook_size, self._device)

    def update(self, batch: FoundationBatch, number: int) -> LossOutput:
        """Measure one batch, the ``number``-th; returns its loss."""
        codes, mask = batch.target_codes, batch.target_mask
        assert codes is not None and mask is not None
        out = self._backend.loss_from_batch(batch)
        if self._config.mode is BackendMode.CODES:
            assert out.logits is not None
            predicted = out.logits.argmax(-1)
            self._codes.update(predicted, codes, mask)
            if self._other:
                other = self._backend.loss_from_batch(self._misled(batch))
                assert other.logits is not None
                self._shuffled.update(other.logits.argmax(-1), codes, mask)
            free = self._generate(batch, number)
            if free is not None:
                self._free.update(free, codes, mask)
            if not self._one_by_one or free is not None:
                self._show(batch, predicted if free is None else free)
        else:
            self._measure_vectors(batch, mask)
        return out

    def _misled(self, batch: FoundationBatch) -> FoundationBatch:
        """The same pictures with the instruction of another task."""
        return replace(batch, instruction=[self._other.get(s, next(iter(self._other))) for s in batch.instruction])

    def _generate(self, batch: FoundationBatch, number: int) -> Tensor | None:
        """Codes predicted without sight of the labels before them; None where that is what was measured already.

        Batches are left out evenly beyond `FREE_SAMPLES`.
        """
        if not self._one_by_one or number % self._free_every(batch):
            return None
        return self._backend.latent_from_batch(batch.without_targets()).codes

    def _measure_vectors(self, batch: FoundationBatch, mask: Tensor) -> None:
        assert batch.target_vectors is not None
        pairs = [(self._vectors, batch)]
        if self._other:
            pairs.append((self._shuffled_vectors, self._misled(batch)))
        for meter, inputs in pairs:
            # The same noise for both: only the instruction differs.
            generator = torch.Generator(self._device).manual_seed(0)
            predicted = self._backend.latent_from_batch(inputs.without_targets(), generator=generator).vectors
            assert predicted is not None
            meter.update(predicted, batch.target_vectors, mask)

    def _free_every(self, batch: FoundationBatch) -> int:
        return max(1, round(self._batches * batch.batch_size / FREE_SAMPLES))

    def _show(self, batch: FoundationBatch, predicted: Tensor) -> None:
        """Keep the batch's first sample as a picture, if its turn has come: they are spread over the whole pass."""
        usable = self._batches // (self._free_every(batch) if self._one_by_one else 1)
        number, self._shown = self._shown, self._shown + 1
        if number % max(1, usable // _PICTURES) or len(self._samples) == _PICTURES:
            return
        codes, mask = batch.target_codes, batch.target_mask
        assert codes is not None and mask is not None
        frame = batch.images[self._config.cameras[0]][0].cpu()
        if frame.dtype != torch.uint8:
            frame = (frame.clamp(0, 1) * 255).round().to(torch.uint8)
        index = batch.meta.get("index")
        self._samples.append(
            Sample(
                frame=frame,
                instruction=batch.instruction[0],
                predicted=predicted[0].tolist(),
                true=torch.where(mask[0], codes[0], -1).tolist(),
                name="" if index is None else f"frame {int(index[0])}",
            )
        )

    def compute(self, majority: Tensor) -> dict[str, float]:
        """All metrics by the name that they are logged under; nan where nothing was measured.

        Args:
            majority: The most frequent code of each position in training, ``[P]``.
        """
        if self._config.mode is not BackendMode.CODES:
            scored = {"val_r2": self._vectors.compute()}
            return scored | ({"val_r2_shuffled": self._shuffled_vectors.compute()} if self._other else {})
        scores = self._codes.compute(majority)
        metrics = _named("val_", scores)
        metrics["val_majority"] = scores.mean_majority
        metrics["val_gain"] = scores.mean_accuracy - scores.mean_majority
        metrics["val_gain_least"] = min(
            (a - m for a, m in zip(scores.accuracy, scores.majority, strict=True) if math.isfinite(a)), default=math.nan
        )
        metrics |= {f"val_majority_{p}": share for p, share in enumerate(scores.majority)}
        metrics |= {f"val_codes_predicted_{p}": used for p, used in enumerate(scores.used)}
        metrics |= {f"val_perplexity_{p}": spread for p, spread in enumerate(scores.perplexity)}
        if self._other:
            metrics |= _named("val_shuffled_", self._shuffled.compute(majority))
        if self._one_by_one:
            metrics |= _named("val_free_", self._free.compute(majority))
        return metrics

    def write_pictures(self, path: Path) -> None:
        """Write the samples that were kept, if any, as a PNG."""
        if self._samples:
            write_samples(self._samples, path)


def _named(prefix: str, scores: CodeScores) -> dict[str, float]:
    named = {f"{prefix}accuracy": scores.mean_accuracy, f"{prefix}sequence_accuracy": scores.sequence_accuracy}
    return named | {f"{prefix}accuracy_{s}": value for s, value in enumerate(scores.accuracy)}
