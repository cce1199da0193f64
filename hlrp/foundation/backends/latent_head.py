"""Heads that read latents from the hidden states of a language model, one per position.

Shapes: B batch, N tokens, W their width, P positions, D width of a continuous latent.
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
    """P learned queries that attend once over all tokens; a pooled mean would lose where in the image things are.

    Args:
        width: Width W of the hidden states.
        positions: Positions P that are read.
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
            ``[B, P, outputs]``.
        """
        tokens = self.norm(hidden.to(self.queries.dtype))
        read = self.queries + self._attend(tokens, mask)
        return self.out(read + self.feed(read))

    def _attend(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """What `self.attention` computes, ``[B, P, W]``, without keys and values for every token.

        The queries are few and the same for all samples: the projection of the keys is applied to them, and that of the
        values to what they read. The sums are the same, in another order, and most of the head's time is saved.
        """
        heads = self.attention.num_heads
        to_query, to_key, to_value = (w.unflatten(0, (heads, -1)) for w in self.attention.in_proj_weight.chunk(3))
        # A bias of the keys adds the same to all scores of a query, which the softmax takes out.
        query_bias, _, value_bias = (b.unflatten(0, (heads, -1)) for b in self.attention.in_proj_bias.chunk(3))
        queries = torch.einsum("sw,hdw->shd", self.queries, to_query) + query_bias
        asked = torch.einsum("shd,hdw->hsw", queries * queries.shape[-1] ** -0.5, to_key).flatten(0, 1)
        scores = (tokens @ asked.T).transpose(1, 2).masked_fill(~mask[:, None], -torch.inf)
        seen = (scores.softmax(-1) @ tokens).unflatten(1, (heads, -1))
        values = torch.einsum("bhsw,hdw->bshd", seen, to_value) + value_bias
        read: Tensor = self.attention.out_proj(values.flatten(2))
        return read


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
        """The velocity, ``[B, P, D]`` float32.

        Args:
            noisy: Point on the way, ``[B, P, D]``.
            time: ``[B]`` in [0, 1].
            condition: ``[B, P, condition]``.
        """
        from lerobot.policies.common.vla_utils import create_sinusoidal_pos_embedding

        waves = create_sinusoidal_pos_embedding(time, _TIME_WIDTH, *_PERIODS, device=time.device)
        waves = waves.to(noisy)[:, None].expand(-1, noisy.shape[1], -1)
        return self.net(torch.cat([noisy, condition.to(noisy), waves], dim=-1)).float()

    def losses(self, target: Tensor, condition: Tensor) -> Tensor:
        """Squared error of the velocity at a random time, ``[B, P]``.

        Args:
            target: Standardised latents ``[B, P, D]``.
            condition: ``[B, P, condition]``.
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
        """Follow the flow from noise to standardised latents, ``[B, P, D]``.

        Args:
            condition: ``[B, P, condition]``.
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
