"""The latent action quantizer: an encoder from frames to codes of what changes, and a decoder to the next frame.

Shapes: B batch, T frames of a window, C channels, H x W pixels, S code positions, D width of a code, K codes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from hlrp.errors import UserError
from hlrp.laq.config import LAQConfig
from hlrp.laq.image_model import FrozenFeatures
from hlrp.laq.layers import Block, FeatureEmbedding, PatchEmbedding, sincos_positions
from hlrp.laq.quantizers import make_quantizer

if TYPE_CHECKING:
    from hlrp.laq.checkpoint import LAQManifest


@dataclass(frozen=True)
class LAQOutput:
    """What a forward pass gives for the T-1 pairs of each window.

    Args:
        recon: Predicted following frames, ``[B, T-1, C, H, W]``, about [0, 1], not clamped.
        codes: ``[B, T-1, S]`` int64 in ``[0, K)``.
        vectors: Differences before quantisation, ``[B, T-1, S, D]``.
        quantized: What the decoder was given, ``[B, T-1, S, D]``.
        quantizer_loss: Extra loss of each pair, ``[B, T-1]``.
        tokens: The decoder's last features, ``[B, T-1, N, dim]``, for losses on other targets than pixels.
        features: With a feature space: the predicted features of the following frames, ``[B, T-1, N, width]``.
        feature_target: What they should be: the image model's of these frames, as `features`.
    """

    recon: Tensor
    codes: Tensor
    vectors: Tensor
    quantized: Tensor
    quantizer_loss: Tensor
    tokens: Tensor
    features: Tensor | None = None
    feature_target: Tensor | None = None


def _embedding(config: LAQConfig, width: int | None) -> nn.Module:
    """Of patches of pixels, or of an image model's features of that width."""
    if width is None:
        return PatchEmbedding(config.channels, config.patch_size, config.grid, config.dim)
    return FeatureEmbedding(width, config.grid, config.dim)


class Encoder(nn.Module):
    """Windows ``[B, T, C, H, W]``, or their features ``[B, T, N, width]``, to differences ``[B, T-1, S, D]``.

    Attention is spatial inside each frame, then temporal and causal at each patch: no frame sees a later one, so a
    pair's difference depends on the frames up to its second one only.
    """

    def __init__(self, config: LAQConfig) -> None:
        super().__init__()
        dim, heads = config.dim, config.heads
        self.dim = dim
        self.embed = _embedding(config, config.feature_width)
        self.spatial = nn.ModuleList(Block(dim, heads) for _ in range(config.spatial_layers))
        self.temporal = nn.ModuleList(Block(dim, heads, causal=True) for _ in range(config.temporal_layers))
        self.norm = nn.LayerNorm(dim)
        # Every code position sees the whole grid, as a learned weighting of all patches.
        patches = config.grid[0] * config.grid[1]
        self.narrow = nn.Linear(dim, config.code_dim, bias=False)
        self.gather = nn.Linear(patches * config.code_dim, config.code_seq_len * config.code_dim, bias=False)
        self.code_dim = config.code_dim

    def forward(self, frames: Tensor) -> Tensor:
        """``[B, T, C, H, W]`` in [0, 1], or features ``[B, T, N, width]``, to ``[B, T-1, S, D]``."""
        batch, time = frames.shape[:2]
        x = rearrange(self.embed(frames), "b t n d -> (b t) n d")
        for block in self.spatial:
            x = block(x)
        x = rearrange(x, "(b t) n d -> (b n) t d", b=batch)
        x = x + sincos_positions(torch.arange(time, device=x.device), self.dim).to(x.dtype)
        for block in self.temporal:
            x = block(x)
        x = self.narrow(self.norm(rearrange(x, "(b n) t d -> b t n d", b=batch)))
        difference = x[:, 1:] - x[:, :-1]
        gathered = self.gather(rearrange(difference, "b t n d -> b t (n d)"))
        return rearrange(gathered, "b t (s d) -> b t s d", d=self.code_dim)


class TokenDecoder(nn.Module):
    """One frame and one transition's vectors ``[B, S, D]`` to tokens ``[B, N, dim]`` that say how the next one differs.

    It has an embedding of its own: the encoder's tokens of frame t have no place here, and neither has any later frame.

    Args:
        config: The quantizer's.
        feature_width: Width of the features that frames are given as; None: pixels.
    """

    def __init__(self, config: LAQConfig, feature_width: int | None = None) -> None:
        super().__init__()
        self.embed = _embedding(config, feature_width)
        self.widen = nn.Linear(config.code_dim, config.dim)
        self.code_positions = nn.Parameter(torch.randn(config.code_seq_len, config.dim) * 0.02)
        self.blocks = nn.ModuleList(Block(config.dim, config.heads, cross=True) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.dim)

    def decode(self, frame: Tensor, quantized: Tensor) -> Tensor:
        """The tokens."""
        context = self.widen(quantized) + self.code_positions
        x = self.embed(frame)
        for block in self.blocks:
            x = block(x, context)
        return self.norm(x)


def _from_nothing(layer: nn.Linear) -> nn.Linear:
    """An untrained decoder copies its frame: what is learned is the change."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Decoder(TokenDecoder):
    """One frame ``[B, C, H, W]`` and one transition's vectors ``[B, S, D]`` to the next frame."""

    def __init__(self, config: LAQConfig) -> None:
        super().__init__(config)
        self.patch_size, self.grid = config.patch_size, config.grid
        self.to_pixels = _from_nothing(nn.Linear(config.dim, config.channels * config.patch_size**2))

    def forward(self, frame: Tensor, quantized: Tensor) -> tuple[Tensor, Tensor]:
        """The next frame ``[B, C, H, W]`` and the last features ``[B, N, dim]``."""
        x = self.decode(frame, quantized)
        p, (rows, _) = self.patch_size, self.grid
        change = rearrange(self.to_pixels(x), "b (h w) (p q c) -> b c (h p) (w q)", h=rows, p=p, q=p)
        return frame + change, x


class FeatureDecoder(TokenDecoder):
    """An image model's features of one frame ``[B, N, width]`` and vectors ``[B, S, D]`` to those of the next frame."""

    def __init__(self, config: LAQConfig, width: int) -> None:
        super().__init__(config, width)
        self.to_features = _from_nothing(nn.Linear(config.dim, width))

    def forward(self, features: Tensor, quantized: Tensor) -> Tensor:
        """``[B, N, width]``."""
        change: Tensor = self.to_features(self.decode(features, quantized))
        return features + change


class LAQ(nn.Module):
    """A latent action quantizer.

    With ``config.features`` it reads and predicts the features of a frozen image model, whose weights are part of its
    own: nothing outside of its folder is needed to use it. Pixels are predicted all the same, for pictures and scores,
    from vectors that no gradient of theirs reaches.

    Args:
        config: Shapes and meaning of the codes.

    Attributes:
        manifest: Where the weights came from; None for a model that was not loaded.
    """

    def __init__(self, config: LAQConfig) -> None:
        super().__init__()
        self.config = config
        self.manifest: LAQManifest | None = None
        self.encoder = Encoder(config)
        self.quantizer = make_quantizer(config.quantizer, config.code_dim, config.codebook_size, config.code_seq_len)
        self.decoder = Decoder(config)
        self.image_model = self.feature_decoder = None
        if config.features is not None:
            self.image_model = FrozenFeatures(config.features, config.grid)
            self.feature_decoder = FeatureDecoder(config, config.features.width)

    def forward(self, frames: Tensor, valid: Tensor | None = None) -> LAQOutput:
        """Encode every pair of a window and predict each following frame from its current frame and codes.

        Args:
            frames: ``[B, T, C, H, W]``, T >= 2, uint8 in [0, 255] or floating point in [0, 1].
            valid: ``[B, T-1]`` bool; pairs that are False take part in nothing that has a gradient. None: all.
        """
        pixels = self._pixels(frames)
        seen = self._seen(pixels)
        vectors = self.encoder(seen)
        batch = len(pixels)
        quantized, codes, loss = self.quantizer(vectors.flatten(0, 1))
        shown = quantized if self.feature_decoder is None else quantized.detach()
        recon, tokens = self.decoder(pixels[:, :-1].flatten(0, 1), shown)
        features = target = None
        if self.feature_decoder is not None:
            features, target = self.feature_decoder(seen[:, :-1].flatten(0, 1), quantized), seen[:, 1:]
        if valid is not None:
            keep = valid.flatten()
            recon = torch.where(keep[:, None, None, None], recon, recon.detach())
            tokens = torch.where(keep[:, None, None], tokens, tokens.detach())
            loss = torch.where(keep, loss, loss.new_zeros(()))
            features = None if features is None else torch.where(keep[:, None, None], features, features.detach())
        parts = (recon, codes, quantized, loss, tokens)
        recon, codes, quantized, loss, tokens = (x.unflatten(0, (batch, -1)) for x in parts)
        features = None if features is None else features.unflatten(0, (batch, -1))
        return LAQOutput(recon, codes, vectors, quantized, loss, tokens, features, target)

    def _seen(self, pixels: Tensor) -> Tensor:
        """What the encoder reads of frames ``[B, T, C, H, W]``: themselves, or their features ``[B, T, N, width]``."""
        if self.image_model is None:
            return pixels
        return self.image_model(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2]).to(pixels.dtype)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Codes of every pair of a window.

        Args:
            frames: ``[B, T, C, H, W]`` at ``config.image_size``, T >= 2, uint8 in [0, 255] or floating point in
                [0, 1], ``config.offset_seconds`` apart; on any device.

        Returns:
            ``[B, T-1, S]`` int64 in ``[0, K)``, on the model's device. Always as in evaluation: no noise.

        Raises:
            UserError: The frames' shape or type does not fit the model.
        """
        return self._quantize_quietly(self.encode_vectors(frames)).codes

    @torch.no_grad()
    def encode_vectors(self, frames: Tensor) -> Tensor:
        """Continuous latents of every pair, before quantisation: ``[B, T-1, S, D]``; frames as for `encode`."""
        with evaluating(self.encoder):
            return self.encoder(self._seen(self._pixels(frames.to(self.device))))

    @torch.no_grad()
    def codes_of(self, vectors: Tensor) -> Tensor:
        """Codes ``[..., S]`` of continuous latents ``[..., S, D]`` from `encode_vectors`."""
        return self._quantize_quietly(vectors).codes

    @torch.no_grad()
    def decode(self, frame: Tensor, codes: Tensor) -> Tensor:
        """Predict the frame that follows.

        Args:
            frame: ``[B, C, H, W]``, uint8 in [0, 255] or floating point in [0, 1].
            codes: ``[B, S]`` int64 in ``[0, K)``.

        Returns:
            ``[B, C, H, W]`` floating point in [0, 1].

        Raises:
            UserError: Shapes do not fit the model.
        """
        if codes.shape[1:] != (self.config.code_seq_len,) or len(codes) != len(frame):
            raise UserError(
                f"codes have shape {tuple(codes.shape)} beside {len(frame)} frames",
                fix=f"this model takes [B, {self.config.code_seq_len}], one row per frame",
            )
        pixels = self._pixels(frame.to(self.device)[:, None])[:, 0]
        with evaluating(self.decoder):
            return self.decoder(pixels, self.quantizer.lookup(codes.to(self.device)))[0].clamp(0, 1)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.to_pixels.weight.device

    def parameter_count(self) -> int:
        """Trained numbers, without a frozen image model's."""
        return sum(p.numel() for name, p in self.named_parameters() if not name.startswith("image_model."))

    @classmethod
    def from_checkpoint(cls, path: Path | str, device: torch.device | str = "cpu") -> Self:
        """Load a model from its folder, a checkpoint folder or a run folder (its newest complete checkpoint).

        Raises:
            UserError: No model there, or the files do not fit together; both sides are named.
        """
        from hlrp.laq.checkpoint import load

        return load(cls, Path(path), device)

    def save(self, folder: Path, **provenance: Any) -> None:
        """Write ``model.safetensors`` and ``manifest.json`` into ``folder``; see `hlrp.laq.checkpoint.save`."""
        from hlrp.laq.checkpoint import save

        save(self, folder, **provenance)

    def _quantize_quietly(self, vectors: Tensor) -> Any:
        with evaluating(self.quantizer):
            flat = vectors.reshape(-1, *vectors.shape[-2:])
            quantized = self.quantizer(flat)
        return quantized._replace(codes=quantized.codes.view(vectors.shape[:-1]))

    def _pixels(self, frames: Tensor) -> Tensor:
        expected = (self.config.channels, *self.config.image_size)
        if frames.ndim != 5 or tuple(frames.shape[2:]) != expected:
            raise UserError(
                f"frames have shape {tuple(frames.shape)}, the model takes [B, T, {', '.join(map(str, expected))}]",
                fix="resize the frames to the model's image_size, channels first",
            )
        if frames.dtype == torch.uint8:
            return frames.to(self.encoder.narrow.weight.dtype) / 255
        if not frames.is_floating_point():
            raise UserError(f"frames are {frames.dtype}", fix="give uint8 in [0, 255] or floating point in [0, 1]")
        return frames


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a block, the former mode afterwards."""
    was = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was)
