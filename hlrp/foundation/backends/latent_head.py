"""Heads that read latents from the hidden states of a language model, one per position.

Shapes: B batch, N tokens, W their width, S positions, D width of a continuous latent.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody reads

_HIDDEN, _TIME_WIDTH = 256, 64
# pi0 and SmolVLA: periods of the time embedding, and times drawn more often near noise.
_PERIODS = (4e-3, 4.0)
_TIMES = {"alpha": 1.5, "beta": 1.0, "scale": 0.999, "offset": 0.001}


class LatentHead(nn.Module):
    """S learned queries that attend once over all tokens; a pooled mean would lose where in the image things are.

    Args:
        width: Width W of the hidden states.
        positions: Positions S that are read.
        outputs: Numbers per position, for example the codes K.
    """

    def __init__(self, width: int, positions: int, outputs: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(positions, width) * width**-0.5)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, math.gcd(width, 8), batch_first=True)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Read the positions.

        Args:
            hidden: ``[B, N, W]``, any floating type.
            mask: bool ``[B, N]``, True where there is a token; at least one per sample.

        Returns:
            ``[B, S, outputs]``.
        """
        tokens = self.norm(hidden.to(self.queries.dtype))
        queries = self.queries.expand(len(tokens), -1, -1)
        read, _ = self.attention(queries, tokens, tokens, key_padding_mask=~mask, need_weights=False)
        read = queries + read
        return self.out(read + self.feed(read))


class FlowHead(nn.Module):
    """Velocity of a flow from noise (time 1) to a latent (time 0), per position.

    Args:
        width: Width D of a latent.
        condition: Width of what each position is conditioned on.
    """

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.width = width
        self.net = nn.Sequential(
            nn.Linear(width + condition + _TIME_WIDTH, _HIDDEN),
            nn.SiLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.SiLU(),
            nn.Linear(_HIDDEN, width),
        )

    def forward(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """The velocity, ``[B, S, D]`` float32.

        Args:
            noisy: Point on the way, ``[B, S, D]``.
            time: ``[B]`` in [0, 1].
            condition: ``[B, S, condition]``.
        """
        from lerobot.policies.common.vla_utils import create_sinusoidal_pos_embedding

        waves = create_sinusoidal_pos_embedding(time, _TIME_WIDTH, *_PERIODS, device=time.device)
        waves = waves.to(noisy)[:, None].expand(-1, noisy.shape[1], -1)
        return self.net(torch.cat([noisy, condition.to(noisy), waves], dim=-1)).float()

    def losses(self, target: Tensor, condition: Tensor) -> Tensor:
        """Squared error of the velocity at a random time, ``[B, S]``.

        Args:
            target: Standardised latents ``[B, S, D]``.
            condition: ``[B, S, condition]``.
        """
        from lerobot.policies.common.flow_matching import sample_time_beta

        noise = torch.randn_like(target)
        time = sample_time_beta(len(target), target.device, **_TIMES)
        noisy = torch.lerp(target, noise, time[:, None, None])
        return F.mse_loss(self(noisy, time, condition), noise - target, reduction="none").mean(-1)

    def sample(
        self,
        condition: Tensor,
        *,
        steps: int = 10,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Follow the flow from noise to standardised latents, ``[B, S, D]``.

        Args:
            condition: ``[B, S, condition]``.
            steps: Euler steps.
            temperature: Standard deviation of the noise; 0: the flow from the middle of the noise, the same each time.
            generator: Source of randomness; None: the global one.
        """
        from lerobot.policies.common.flow_matching import euler_integrate

        shape = (*condition.shape[:2], self.width)
        if temperature > 0:
            source = condition.device if generator is None else generator.device
            noise = torch.randn(shape, generator=generator, device=source).to(condition.device) * temperature
        else:
            noise = condition.new_zeros(shape, dtype=torch.float32)
        return euler_integrate(lambda x, time: self(x, time, condition), noise, steps)
