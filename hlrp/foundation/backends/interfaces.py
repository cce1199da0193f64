"""The interface of the backends of the foundation model: `VLABackend`, its batches and its outputs.

`P` is the number of code positions that a backend predicts. With `T` frames in a label window and `S` codes per
transition it is `(T - 1) * S`: transitions follow one another, earliest first. `K` is the number of codes per position.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import Cache, SmolVLMModel

    from hlrp.foundation.config import BackendConfig


class BackendMode(StrEnum):
    """What a backend is supervised on and predicts."""

    CODES = "codes"
    """Discrete codes, by cross-entropy."""
    VECTORS = "vectors"
    """Continuous latents, by regression of standardised targets."""
    FLOW = "flow"
    """Continuous latents, by flow matching."""


@dataclass(frozen=True)
class FoundationBatch:
    """One observation per sample, and what is known of its future. Checked when made.

    ``image_masks`` and ``state`` may be on the CPU whatever the device of the rest, and should be: a backend that
    writes prompts reads them on the host, where values of a GPU would have to be waited for.

    Args:
        images: Camera to frames at time t, ``[B, 3, H, W]``, uint8 in 0..255 or floating point in [0, 1]; at least one
            camera, all of one batch size; cameras may differ in size.
        instruction: The task in words, B strings; an empty string where there is none.
        image_masks: Camera to bool ``[B]``, True where the sample has this camera; None, or no entry: all have it.
        state: Robot state, floating point ``[B, D_state]``; None: no state.
        target_codes: int64 ``[B, P]`` in ``[0, K)`` wherever ``target_mask`` holds; None: no labels.
        target_vectors: Continuous latents, floating point ``[B, P, D]``; None: no such labels.
        target_mask: bool ``[B, P]``, True where the label may be trained on; None: everywhere.
        meta: Anything that backends do not read, such as `index` and `source`.

    Raises:
        ValueError: A field has a wrong shape, type or range; the message names the field and what it should be.
    """

    images: Mapping[str, Tensor]
    instruction: Sequence[str]
    image_masks: Mapping[str, Tensor] | None = None
    state: Tensor | None = None
    target_codes: Tensor | None = None
    target_vectors: Tensor | None = None
    target_mask: Tensor | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("images: at least one camera is needed")
        for camera, image in self.images.items():
            _expect(f"images[{camera!r}]", image, "[B, 3, H, W]", (self.batch_size, 3, None, None))
            if image.dtype != torch.uint8 and not image.is_floating_point():
                raise ValueError(f"images[{camera!r}]: uint8 or floating point is needed, not {image.dtype}")
        if len(self.instruction) != self.batch_size or not all(isinstance(s, str) for s in self.instruction):
            raise ValueError(
                f"instruction: {self.batch_size} strings are needed, one per sample, got {len(self.instruction)}"
            )
        self._check_masks()
        if self.state is not None:
            _expect("state", self.state, "[B, D_state]", (self.batch_size, None))
        self._check_targets()

    def _check_masks(self) -> None:
        masks = self.image_masks or {}
        if unknown := masks.keys() - self.images.keys():
            raise ValueError(f"image_masks: no such camera: {', '.join(sorted(unknown))}; {', '.join(self.images)}")
        for camera, mask in masks.items():
            _expect(f"image_masks[{camera!r}]", mask, "[B]", (self.batch_size,))
            _expect_type(f"image_masks[{camera!r}]", mask, torch.bool)

    def _check_targets(self) -> None:
        codes, vectors, mask = self.target_codes, self.target_vectors, self.target_mask
        positions = None
        if codes is not None:
            _expect("target_codes", codes, "[B, P]", (self.batch_size, None))
            _expect_type("target_codes", codes, torch.int64)
            positions = codes.shape[1]
        if vectors is not None:
            _expect("target_vectors", vectors, "[B, P, D]", (self.batch_size, positions, None))
            positions = vectors.shape[1]
        if mask is not None:
            if positions is None:
                raise ValueError("target_mask: there are neither target_codes nor target_vectors that it could mask")
            _expect("target_mask", mask, "[B, P]", (self.batch_size, positions))
            _expect_type("target_mask", mask, torch.bool)

    @property
    def batch_size(self) -> int:
        """Number of samples B."""
        return len(next(iter(self.images.values())))

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return next(iter(self.images.values())).device

    def to(self, device: torch.device | str) -> Self:
        """The same batch on ``device``; ``image_masks`` and ``state`` stay where they are."""

        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=True)
            return {k: move(v) for k, v in value.items()} if isinstance(value, Mapping) else value

        moved = [f.name for f in fields(self) if f.name not in ("image_masks", "state")]
        return replace(self, **{name: move(getattr(self, name)) for name in moved})

    def without_targets(self) -> Self:
        """The same observations without what is known of their future."""
        return replace(self, target_codes=None, target_vectors=None, target_mask=None)

    def check_codes(self, positions: int, codebook_size: int) -> tuple[Tensor, Tensor]:
        """The code labels and where they hold, checked against what a backend predicts.

        Returns:
            Codes int64 ``[B, P]`` and mask bool ``[B, P]``.

        Raises:
            ValueError: There are no code labels, or not P of them, or a supervised one lies outside ``[0, K)``.
        """
        codes = self.target_codes
        if codes is None:
            raise ValueError("target_codes: the batch has no labels")
        if codes.shape[1] != positions:
            raise ValueError(f"target_codes: {codes.shape[1]} positions, this model predicts {positions}")
        mask = torch.ones_like(codes, dtype=torch.bool) if self.target_mask is None else self.target_mask
        outside = mask & ((codes < 0) | (codes >= codebook_size))
        # One synchronisation with the device a batch; on the CPU it costs nothing.
        if codes.device.type == "cpu" and bool(outside.any()):
            raise ValueError(f"target_codes: {int(codes[outside][0])} is outside [0, {codebook_size})")
        return codes, mask


@dataclass(frozen=True)
class LatentOutput:
    """What a backend predicts.

    Args:
        codes: int64 ``[B, P]``, each in ``[0, K)``; None in the continuous modes.
        logits: ``[B, P, K]``, unnormalised, one by one given the codes chosen before; None in the continuous modes.
        vectors: In the units of the labels, ``[B, P, D]``; None in mode `codes`.
    """

    codes: Tensor | None = None
    logits: Tensor | None = None
    vectors: Tensor | None = None


@dataclass(frozen=True)
class LossOutput:
    """The loss of a batch.

    Args:
        loss: Scalar, the mean over supervised positions; a zero that is connected to the parameters if there are none.
        per_sample: ``[B]``, the mean over each sample's supervised positions; zero where it has none.
        supervised: bool ``[B]``, whether the sample has any supervised position.
        logits: ``[B, P, K]``, one by one given the labels before, detached; None in the continuous modes.
        metrics: Further numbers to log, detached.
        vectors: As predicted, ``[B, P, D]``, detached; None where the loss does not need them.
    """

    loss: Tensor
    per_sample: Tensor
    supervised: Tensor
    logits: Tensor | None = None
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    vectors: Tensor | None = None


class VLABackend(nn.Module, ABC):
    """A vision-language model that predicts latents. Nothing of a backend is used that is not named here."""

    model_type: ClassVar[str]
    """`model_type` that the `config.json` of its backbones has."""
    latent_weights: ClassVar[tuple[str, ...]] = ()
    """How the names of weights begin that are only there to predict latents; a policy without codes starts without."""
    state_weights: ClassVar[tuple[str, ...]] = ()
    """How the names of weights begin that only read the state."""
    keeps_bfloat16: ClassVar[bool] = False
    """Whether what is frozen of vision and language may be kept in bfloat16 while the rest is float32."""
    one_by_one: ClassVar[bool] = False
    """Whether each code is predicted given those before it: labels in a loss, in a prediction what was chosen."""

    def __init__(self, config: "BackendConfig") -> None:
        super().__init__()
        self.config = config

    @property
    def codebook_size(self) -> int:
        """Codes K per position."""
        return self.config.spec.codebook_size

    @property
    def positions(self) -> int:
        """Codes of a whole window that are predicted: those of each of its T - 1 transitions."""
        return self.config.spec.positions

    @property
    def mode(self) -> BackendMode:
        """What it is supervised on."""
        return self.config.mode

    @classmethod
    @abstractmethod
    def from_backbone(cls, config: "BackendConfig", folder: Path, *, weights: bool = True) -> Self:
        """Build it from a model folder, set up.

        Args:
            config: What is predicted from what.
            folder: The backbone's files, or those that `save_backbone` wrote.
            weights: Read the backbone's weights; False: random ones, for a checkpoint's that follow.

        Raises:
            UserError: The files are incomplete or do not fit the configuration.
        """

    @abstractmethod
    def save_backbone(self, folder: Path) -> None:
        """Write what `from_backbone` needs, without weights, into ``folder``, which is made if missing."""

    @classmethod
    @abstractmethod
    def write_tiny_backbone(cls, folder: Path, seed: int) -> None:
        """Write a small backbone of random weights: `config.json`, `model.safetensors`, and what else it needs.

        Args:
            folder: An empty folder.
            seed: PyTorch's global generator is seeded with it.
        """

    @abstractmethod
    def setup(self) -> None:
        """Check that tokenizer, processor and model fit each other; called once before the first batch.

        Raises:
            UserError: They do not; the message names both sides.
        """

    @abstractmethod
    def loss_from_batch(self, batch: FoundationBatch) -> LossOutput:
        """The training loss.

        Raises:
            ValueError: The batch lacks the labels that the mode needs.
        """

    @abstractmethod
    def latent_from_batch(
        self, batch: FoundationBatch, *, temperature: float = 0.0, generator: torch.Generator | None = None
    ) -> LatentOutput:
        """Predict from the observations alone; targets in the batch are not read.

        Args:
            batch: The observations.
            temperature: 0: the most likely codes; above: sampled.
            generator: Source of randomness; None: the global one.
        """

    @abstractmethod
    def part(self, name: str) -> Sequence[nn.Module]:
        """The modules of a part, `vision`, `language` or `head`; together they hold every parameter once."""

    def set_target_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set what continuous targets are standardised with; a wrong mode, shape or number is a ValueError.

        Args:
            mean: ``[D]``, in the units of the labels.
            std: ``[D]``; a latent that never changes may have 0.
        """
        raise ValueError(f"mode {self.mode.value!r} has no continuous targets")

    def standardised(self, vectors: Tensor) -> Tensor:
        """Continuous latents ``[..., D]`` by the statistics that were set; a ValueError in mode `codes`."""
        raise ValueError(f"mode {self.mode.value!r} has no continuous targets")


class PrefixBackend(VLABackend):
    """A backend on a SmolVLM, whose keys and values an action expert reads."""

    vlm: "SmolVLMModel"
    """The vision-language model, of which LeRobot's expert uses the language model's layers."""
    head: nn.Module
    """From what `features` gives to logits of codes, ``[B, P, K]``."""

    @abstractmethod
    def features(self, batch: FoundationBatch, *, cache: "Cache | None" = None) -> tuple[Tensor, Tensor]:
        """The language model's last hidden states.

        Args:
            batch: The observations.
            cache: An empty cache of transformers, which is given the keys and values of every layer.

        Returns:
            ``[B, N, W]`` and bool ``[B, N]``, False on padding and on the tokens of missing cameras.

        Raises:
            ValueError: A camera or the state that the model sees is missing from the batch.
        """

    @abstractmethod
    def drop_head(self) -> None:
        """Leave out ``head`` and what only its input depends on: from here on, keys and values are all it gives."""


def masked_losses(losses: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Reduce losses per position over what is supervised.

    Args:
        losses: ``[B, P]``; entries outside the mask may hold anything, NaN included.
        mask: bool ``[B, P]``.

    Returns:
        Scalar mean over the mask (a graph-connected zero if it is empty), mean per sample ``[B]`` and bool ``[B]``.
    """
    kept = torch.where(mask, losses, torch.zeros_like(losses))
    total, count = kept.sum(), mask.sum()
    per_sample = kept.sum(1) / mask.sum(1).clamp(min=1)
    return total / count.clamp(min=1), per_sample, mask.any(1)


def _expect(name: str, value: Tensor, shape: str, sizes: Sequence[int | None]) -> None:
    fits = value.ndim == len(sizes) and all(n in (None, m) for n, m in zip(sizes, value.shape, strict=False))
    if not fits:
        raise ValueError(f"{name}: {shape} with B = {sizes[0]} is needed, got {list(value.shape)}")


def _expect_type(name: str, value: Tensor, dtype: torch.dtype) -> None:
    if value.dtype != dtype:
        raise ValueError(f"{name}: {dtype} is needed, not {value.dtype}")
