"""From predicted latents, codes or continuous ones, to a chunk of actions.

Shapes: B batch, P code positions, K codes, E width of an embedding, D width of the quantizer's code vectors and of
continuous latents, H actions of a chunk, A width of an action.
"""

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from hlrp.errors import UserError
from hlrp.latents import CodeSpec

_EMBEDDING = 64


class CodeDecoder(nn.Module):
    """A multi-layer perceptron on embedded codes, and the state if there is one.

    Args:
        spec: What the codes mean.
        kind: `mlp`: learned embeddings; `laq`: the quantizer's vectors; `both`: both.
        code_dim: D, for the latter two; the vectors are set by `set_vectors` or loaded with the weights.
        state_dim: Width of the state; None: there is none.
        chunk: Actions H and their width A.
        width: Width of hidden layers.
        layers: Their number.
    """

    vectors: Tensor

    def __init__(
        self,
        spec: CodeSpec,
        kind: str,
        *,
        code_dim: int | None,
        state_dim: int | None,
        chunk: tuple[int, int],
        width: int,
        layers: int,
    ) -> None:
        super().__init__()
        positions, codes = spec.positions, spec.codebook_size
        self.chunk = chunk
        self.learned = nn.Parameter(torch.randn(positions, codes, _EMBEDDING)) if kind in ("mlp", "both") else None
        self.transitions = spec.num_frames - 1
        if kind in ("laq", "both"):
            if code_dim is None:
                raise ValueError("the width of the quantizer's code vectors is not known")
            self.register_buffer("vectors", torch.zeros(positions, codes, code_dim))
        self._fixed = kind in ("laq", "both")
        each = (_EMBEDDING if self.learned is not None else 0) + (code_dim or 0) * self._fixed
        self.net = _perceptron(positions * each + (state_dim or 0), [width] * layers, chunk[0] * chunk[1])

    def set_vectors(self, vectors: Tensor) -> None:
        """The quantizer's code vectors of one transition, ``[S, K, D]``; scaled to unit variance."""
        with torch.no_grad():
            self.vectors.copy_((vectors / vectors.std().clamp(min=1e-6)).repeat(self.transitions, 1, 1))

    def forward(self, shares: Tensor, state: Tensor | None) -> Tensor:
        """Actions ``[B, H, A]``, normalised.

        Args:
            shares: How much of each code, ``[B, P, K]``, summing to 1 over K: a distribution, or one code.
            state: Normalised state ``[B, D_state]``.
        """
        tables: list[Tensor] = [self.learned] if self.learned is not None else []
        tables += [self.vectors] if self._fixed else []
        embedded = torch.einsum("bsk,ske->bse", shares, torch.cat(tables, -1).to(shares.dtype))
        return _decode(self.net, embedded, state, self.chunk)


class VectorDecoder(nn.Module):
    """A multi-layer perceptron on continuous latents, and the state if there is one.

    Args:
        positions: P.
        vector_dim: D.
        state_dim: Width of the state; None: there is none.
        chunk: Actions H and their width A.
        width: Width of hidden layers.
        layers: Their number.
    """

    def __init__(
        self,
        positions: int,
        vector_dim: int,
        *,
        state_dim: int | None,
        chunk: tuple[int, int],
        width: int,
        layers: int,
    ) -> None:
        super().__init__()
        self.chunk = chunk
        self.net = _perceptron(positions * vector_dim + (state_dim or 0), [width] * layers, chunk[0] * chunk[1])

    def forward(self, vectors: Tensor, state: Tensor | None) -> Tensor:
        """Actions ``[B, H, A]``, normalised, from standardised latents ``[B, P, D]`` and the state ``[B, D_state]``."""
        return _decode(self.net, vectors, state, self.chunk)


def _perceptron(inputs: int, hidden: list[int], outputs: int) -> nn.Sequential:
    layers = [part for a, b in pairwise([inputs, *hidden]) for part in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], outputs))


def _decode(net: nn.Sequential, embedded: Tensor, state: Tensor | None, chunk: tuple[int, int]) -> Tensor:
    """Actions ``[B, H, A]`` from what stands at the positions, ``[B, P, any]``."""
    inputs = embedded.flatten(1)
    if state is not None:
        inputs = torch.cat([inputs, state.to(inputs.dtype)], 1)
    actions: Tensor = net(inputs).float()
    return actions.unflatten(1, chunk)


def read_vectors(path: Path, sha256: str) -> Tensor:
    """Code vectors of a quantizer, ``[S, K, D]``.

    Args:
        path: Its run, checkpoint or model folder.
        sha256: The weights that the policy's codes come from.

    Raises:
        UserError: No quantizer there, or another one.
    """
    from hlrp.laq import LAQ
    from hlrp.laq.checkpoint import find_model, read_manifest

    folder = find_model(path)
    found = read_manifest(folder).weights_sha256
    if found != sha256:
        raise UserError(
            f"the quantizer has SHA-256 {found[:16]}..., the policy's codes come from {sha256[:16]}...",
            where=str(path),
            fix="give the quantizer that made the labels, as policy.decoder_laq",
        )
    laq = LAQ.from_checkpoint(folder)
    codes = torch.arange(laq.config.codebook_size)[:, None].expand(-1, laq.config.code_seq_len)
    with torch.no_grad():
        return laq.quantizer.lookup(codes).transpose(0, 1).float().clone()
