"""`hlrp_action_expert_latent`: the action expert knows the latent codes of what happens next.

Shapes: B batch, P code positions, K codes, W width of the expert.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lerobot_policy_felix_bundle.policies.common.expert import Prefix, one_block
from lerobot_policy_felix_bundle.policies.common.expert_policy import ExpertPolicy
from lerobot_policy_felix_bundle.policies.common.losses import Term
from lerobot_policy_felix_bundle.policies.common.meaning import spec_of
from lerobot_policy_felix_bundle.policies.hlrp_action_expert_latent.configuration_hlrp_action_expert_latent import (
    HLRPActionExpertLatentConfig,
)


class CodeTokens(nn.Module):
    """Condition tokens of codes: one embedding for each code of each position, and one for an unknown code there.

    Args:
        positions: P.
        codebook_size: K.
        width: W.
    """

    first: Tensor

    def __init__(self, positions: int, codebook_size: int, width: int) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.table = nn.Embedding(positions * (codebook_size + 1), width)
        self.register_buffer("first", torch.arange(positions) * (codebook_size + 1), persistent=False)

    def forward(self, codes: Tensor, known: Tensor) -> Tensor:
        """Codes int64 ``[B, P]`` and which of them are known, bool ``[B, P]``, to ``[B, P, W]``."""
        tokens: Tensor = self.table(torch.where(known, codes, self.codebook_size) + self.first)
        return tokens


class CodeSuffix(nn.Module):
    """Queries that the expert turns into logits of codes: a suffix of its own, beside that of the actions.

    Args:
        positions: P.
        codebook_size: K.
        width: W.
    """

    def __init__(self, positions: int, codebook_size: int, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(positions, width))
        self.out = nn.Linear(width, codebook_size)

    def tokens(self, batch: int) -> Tensor:
        """The queries for each sample, ``[B, P, W]``."""
        return self.queries.expand(batch, -1, -1)


class HLRPActionExpertLatentPolicy(ExpertPolicy):
    """See `HLRPActionExpertLatentConfig`; loss, chunks and queue are documented in `HLRPPolicy`."""

    config_class = HLRPActionExpertLatentConfig
    name = "hlrp_action_expert_latent"
    config: HLRPActionExpertLatentConfig
    updates: Tensor

    def build(self, backbone_folder: Path | None) -> None:
        """The VLM with its head, the expert, and the tokens of the codes."""
        super().build(backbone_folder)
        spec = spec_of(self.config)
        self.positions = spec.positions
        part = CodeTokens if self.config.conditioning == "tokens" else CodeSuffix
        self.latents = part(spec.positions, spec.codebook_size, self.expert.width)
        if self.config.conditioning == "suffix":
            self.backend.drop_head()
        # Saved, so that a resumed run goes on with the schedule.
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def update(self) -> None:
        """Count an optimizer step; LeRobot's loop calls it."""
        self.updates += 1

    def predict_codes(self, batch: Mapping[str, Any]) -> Tensor:
        """The likeliest codes for a preprocessed observation, int64 ``[B, P]``."""
        with torch.no_grad():
            return self._code_logits(self.prefix(batch)).argmax(-1)

    def _code_logits(self, prefix: Prefix) -> Tensor:
        """``[B, P, K]``."""
        if isinstance(self.latents, CodeSuffix):
            tokens = self.latents.tokens(len(prefix.mask))
            logits: Tensor = self.latents.out(self.expert.attend(prefix, tokens, one_block(tokens.shape[1])))
            return logits
        logits = self.backend.head(prefix.hidden, prefix.mask)
        return logits.float()

    def terms(self, batch: Mapping[str, Any], **given: Any) -> dict[str, Term]:
        """The flow's squared error given codes, and the cross-entropy of the codes."""
        actions, mask = self.supervised_actions(batch)
        codes, known = self.codes(batch, self.positions)
        prefix = self.prefix(batch)
        logits = self._code_logits(prefix)
        own, condition = logits.detach().argmax(-1), None
        if isinstance(self.latents, CodeTokens):
            condition = self.latents(*self._shown(codes, known, own))
        losses = self.expert.flow_losses(prefix, actions, condition, **given)
        surprise = nn.functional.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none")
        right = (own == codes) & known
        accuracy = right.sum() / known.sum().clamp(min=1)
        return {
            "action": self.action_term(losses, mask, batch),
            "latent": Term(surprise.view_as(codes), known, self.config.latent_weight, {"accuracy": accuracy}),
        }

    def _shown(self, codes: Tensor, known: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """What the expert is shown: labels; the VLM's own codes where there are none, and more and more often."""
        draws = torch.rand(2, len(codes), 1, device=codes.device)
        share = self.config.own_codes * (self.updates / self.config.own_codes_steps).clamp(max=1)
        use_own = ~known | (draws[0] < share)
        dropped = draws[1] < self.config.condition_dropout
        return torch.where(use_own, own, codes), (~dropped).expand_as(codes)

    def chunk(self, batch: Mapping[str, Any], **given: Any) -> Tensor:
        """Predict codes from the observation, then denoise a chunk given them; both use one pass of the VLM."""
        prefix = self.prefix(batch)
        if isinstance(self.latents, CodeSuffix):
            return self.expert.sample(prefix, **given)
        codes = self._code_logits(prefix).argmax(-1)
        return self.expert.sample(prefix, self.latents(codes, torch.ones_like(codes, dtype=torch.bool)), **given)
