"""Inference with a trained foundation model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody reads

from hlrp.data.decode import resize_tensor
from hlrp.errors import UserError
from hlrp.foundation.backends.interfaces import FoundationBatch, LatentOutput, VLABackend
from hlrp.foundation.checkpoint import FoundationManifest, load_backend
from hlrp.foundation.config import BackendConfig


class Foundation:
    """Predicts, from one frame and an instruction, the latent codes of what happens next.

    Args:
        backend: In evaluation mode.
        manifest: What it is.
    """

    def __init__(self, backend: VLABackend, manifest: FoundationManifest) -> None:
        self.backend, self.manifest = backend, manifest

    @classmethod
    def from_checkpoint(cls, path: Path | str, device: torch.device | str = "cpu") -> Self:
        """Load a model from its folder, a checkpoint folder or a run folder (its newest complete checkpoint).

        Raises:
            UserError: No model there, or the files do not fit together; both sides are named.
        """
        return cls(*load_backend(Path(path), device))

    @property
    def config(self) -> BackendConfig:
        """What it sees and predicts."""
        return self.manifest.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.backend.parameters()).device

    def predict_codes(
        self,
        image: Tensor | Mapping[str, Tensor],
        instruction: str | Sequence[str],
        state: Tensor | None = None,
        *,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The codes of the transitions that follow a frame.

        Args:
            image: ``[3, H, W]`` or ``[B, 3, H, W]``, uint8 in [0, 255] or floating point in [0, 1], of any size, on any
                device; with several cameras a mapping from dataset key to such frames.
            instruction: The task in words; one for all samples, or one each.
            state: As recorded, ``[D]`` or ``[B, D]``; needed if and only if the model was trained with it.
            temperature: 0: the most likely codes; above: sampled.
            generator: Source of randomness; None: the global one.

        Returns:
            int64 ``[P]``, or ``[B, P]`` for batched frames, in ``[0, K)``; P = (T - 1) * S, the earliest transition
            first.

        Raises:
            UserError: Frames, state or mode do not fit the model.
        """
        if self.config.mode.value != "codes":
            raise UserError(
                f"the model predicts continuous latents (mode {self.config.mode.value}), no codes",
                fix="call predict_vectors",
            )
        out, single = self._predict(image, instruction, state, temperature, generator)
        assert out.codes is not None
        return out.codes[0] if single else out.codes

    def predict_vectors(
        self,
        image: Tensor | Mapping[str, Tensor],
        instruction: str | Sequence[str],
        state: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continuous latents, in the quantizer's own units: ``[P, D]`` or ``[B, P, D]``; arguments as `predict_codes`.

        Raises:
            UserError: Frames, state or mode do not fit the model.
        """
        if self.config.mode.value == "codes":
            raise UserError("the model predicts codes, no continuous latents", fix="call predict_codes")
        out, single = self._predict(image, instruction, state, 0.0, generator)
        assert out.vectors is not None
        return out.vectors[0] if single else out.vectors

    @torch.no_grad()
    def _predict(
        self,
        image: Tensor | Mapping[str, Tensor],
        instruction: str | Sequence[str],
        state: Tensor | None,
        temperature: float,
        generator: torch.Generator | None,
    ) -> tuple[LatentOutput, bool]:
        images = dict(image) if isinstance(image, Mapping) else {self.config.cameras[0]: image}
        if set(images) != set(self.config.cameras):
            raise UserError(
                f"frames of {', '.join(images)} are given, the model sees {', '.join(self.config.cameras)}",
                fix="give one frame of each camera, by its dataset key",
            )
        single = next(iter(images.values())).ndim == 3
        images = {camera: self._frames(camera, images[camera], single) for camera in self.config.cameras}
        count = len(next(iter(images.values())))
        texts = [instruction] * count if isinstance(instruction, str) else list(instruction)
        try:
            batch = FoundationBatch(images=images, instruction=texts, state=self._state(state, single))
        except ValueError as error:
            raise UserError(str(error), fix="give one frame, instruction and state per sample") from error
        out = self.backend.latent_from_batch(batch, temperature=temperature, generator=generator)
        return out, single

    def _frames(self, camera: str, frames: Tensor, single: bool) -> Tensor:
        if frames.ndim != (3 if single else 4) or frames.shape[-3] != 3:
            raise UserError(
                f"frames of {camera} have shape {tuple(frames.shape)}", fix="give [3, H, W] or [B, 3, H, W], RGB"
            )
        batch = (frames[None] if single else frames).to(self.device)
        size = self.config.image_size
        if size is None or tuple(batch.shape[-2:]) == size:
            return batch
        # As frames are resized when they are read for training; what are bytes here a GPU cannot resize as such.
        if batch.dtype == torch.uint8:
            return resize_tensor(batch, size)
        return F.interpolate(batch, size=size, mode="bilinear", antialias=True, align_corners=False)

    def _state(self, state: Tensor | None, single: bool) -> Tensor | None:
        statistics, width = self.manifest.statistics, self.config.state_dim
        if (state is None) != (width is None):
            given = "is not given" if state is None else "is given"
            raise UserError(
                f"the state {given}, but the model was trained {'without' if width is None else 'with'} it",
                fix="leave it out" if width is None else f"give {width} numbers per sample",
            )
        if state is None or statistics.state_mean is None or statistics.state_std is None:
            return None
        batch = (state[None] if single else state).to("cpu", torch.float32)  # where backends read it
        if batch.shape[-1] != width:
            raise UserError(f"the state has {batch.shape[-1]} numbers, the model takes {width}")
        mean, std = (torch.tensor(v) for v in (statistics.state_mean, statistics.state_std))
        return (batch - mean) / std
