"""`hlrp_action_expert_latent`: the action expert knows the latent codes of what happens next.

Shapes: B batch, P code positions, K codes, W width of the expert.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lerobot_policy_felix_bundle.policies.common.effect import Conditioned
from lerobot_policy_felix_bundle.policies.common.expert import Prefix, one_block
from lerobot_policy_felix_bundle.policies.common.expert_policy import ExpertPolicy
from lerobot_policy_felix_bundle.policies.common.losses import Term
from lerobot_policy_felix_bundle.policies.common.meaning import spec_of
from lerobot_policy_felix_bundle.policies.common.observations import newest_state
from lerobot_policy_felix_bundle.policies.hlrp_action_expert_latent.configuration_hlrp_action_expert_latent import (
    HLRPActionExpertLatentConfig,
)


class CodeTokens(nn.Module):
    """Condition tokens of codes: one embedding for each code of each position, and one for an unknown code there.

    Args:
        positions: P.
        codebook_size: K.
        width: W.
        state_dim: Width D of a state that stands before them as a token of its own; None: there is none.
    """

    def __init__(self, positions: int, codebook_size: int, width: int, state_dim: int | None = None) -> None:
        super().__init__()
        self.shape = (positions, codebook_size + 1)
        self.table = nn.Embedding(positions * (codebook_size + 1), width)
        self.state = nn.Linear(state_dim, width) if state_dim is not None else None

    def forward(self, shares: Tensor, known: Tensor, state: Tensor | None = None) -> Tensor:
        """Tokens ``[B, P, W]``, or ``[B, 1 + P, W]`` with a state.

        Args:
            shares: How much of each code, ``[B, P, K]``, summing to 1 over K: a distribution, or one code.
            known: Where it is known, bool ``[B, P]``.
            state: Normalised, ``[B, D]``.
        """
        codes, unknown = self.table.weight.unflatten(0, self.shape).split((self.shape[1] - 1, 1), 1)
        tokens = torch.einsum("bpk,pkw->bpw", shares.to(codes.dtype), codes)
        tokens = torch.where(known[..., None], tokens, unknown[:, 0])
        if self.state is None:
            return tokens
        assert state is not None, "the policy reads a state"
        return torch.cat([self.state(state.to(tokens.dtype))[:, None], tokens], 1)


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
        config, spec = self.config, spec_of(self.config)
        self.positions, self.codebook_size = spec.positions, spec.codebook_size
        if config.conditioning == "suffix":
            self.latents: CodeSuffix | CodeTokens = CodeSuffix(spec.positions, spec.codebook_size, self.expert.width)
            self.backend.drop_head()
        else:
            # Behind a bottleneck the state would not reach the actions otherwise.
            state_dim = config.state_dim if config.conditioning == "bottleneck" else None
            self.latents = CodeTokens(spec.positions, spec.codebook_size, self.expert.width, state_dim)
        # Saved, so that a resumed run goes on with the schedule.
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def update(self) -> None:
        """Count an optimizer step; LeRobot's loop calls it."""
        self.updates += 1

    def begin_run(self, steps: int) -> None:
        """Take a run's length, by which the schedule of `own_codes` goes."""
        self.config.run_steps = steps

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

    def _shares(self, logits: Tensor) -> Tensor:
        """What the expert is given of the VLM's prediction, ``[B, P, K]``; no loss of the actions reaches it."""
        if self.config.gives_soft_codes:
            return logits.detach().softmax(-1)
        return nn.functional.one_hot(logits.argmax(-1), self.codebook_size).to(logits.dtype)

    def _for_expert(self, prefix: Prefix) -> Prefix:
        """What the expert sees of an observation at inference."""
        if self.config.conditioning == "bottleneck" and self.config.bottleneck_prefix == "none":
            return prefix.emptied()
        return prefix if self.config.trains_vlm_by_actions else prefix.without_gradient()

    def _condition(self, batch: Mapping[str, Any], shares: Tensor, known: Tensor | None = None) -> Tensor:
        """The tokens that the actions are made from, ``[B, tokens, W]``; see `CodeTokens.forward`."""
        assert isinstance(self.latents, CodeTokens)
        if known is None:
            known = torch.ones(shares.shape[:2], dtype=torch.bool, device=shares.device)
        tokens: Tensor = self.latents(shares, known, newest_state(self.config, batch))
        return tokens

    def terms(self, batch: Mapping[str, Any], **given: Any) -> dict[str, Term]:
        """The flow's squared error given codes, and the cross-entropy of the codes."""
        actions, mask = self.supervised_actions(batch)
        codes, known = self.codes(batch, self.positions)
        prefix = self.prefix(batch)
        logits = self._code_logits(prefix)
        seen, condition = self._for_expert(prefix), None
        if isinstance(self.latents, CodeTokens):
            condition = self._condition(batch, *self._shown(codes, known, self._shares(logits)))
        if self.config.bottleneck_prefix == "kept":
            dropped = torch.rand(len(codes), device=codes.device) < self.config.prefix_dropout
            seen = seen.without(dropped & self.training)
        losses = self.expert.flow_losses(seen, actions, condition, **given)
        surprise = nn.functional.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none")
        right = (logits.argmax(-1) == codes) & known
        accuracy = right.sum() / known.sum().clamp(min=1)
        return {
            "action": self.action_term(losses, mask, batch),
            "latent": Term(surprise.view_as(codes), known, self.config.latent_weight, {"accuracy": accuracy}),
        }

    def _shown(self, codes: Tensor, known: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """What the expert is shown: labels; the VLM's own codes where there are none, and more and more often.

        Held-out losses are those of acting: there it is shown the VLM's own codes, and all of them.

        Args:
            codes: Labels, int64 ``[B, P]``.
            known: Where there are any, bool ``[B, P]``.
            own: The VLM's own, ``[B, P, K]``.

        Returns:
            Shares ``[B, P, K]``, and where codes are not dropped, bool ``[B, P]``.
        """
        draws = torch.rand(2, len(codes), 1, device=codes.device)
        if not self.training:
            return own, torch.ones_like(known)
        use_own = ~known | (draws[0] < self.own_share())
        dropped = draws[1] < self.config.condition_dropout
        labels = nn.functional.one_hot(codes, self.codebook_size).to(own.dtype)
        return torch.where(use_own[..., None], own, labels), (~dropped).expand_as(codes)

    def own_share(self) -> Tensor:
        """Share of samples that are shown the VLM's own codes at this update, a scalar."""
        until = self.config.own_codes_updates
        grown = (self.updates / until).clamp(max=1) if until > 0 else torch.ones_like(self.updates, dtype=torch.float32)
        return self.config.own_codes * grown

    def observe(self, batch: Mapping[str, Any]) -> tuple[Prefix, Tensor | None]:
        """Predict codes from the observation; the actions are denoised given them."""
        prefix = self.prefix(batch)
        if isinstance(self.latents, CodeSuffix):
            return prefix, None
        condition = self._condition(batch, self._shares(self._code_logits(prefix)))
        return self._for_expert(prefix), condition

    @property
    def conditioned_on_codes(self) -> bool:
        """Not with `suffix`: there codes and actions are predicted side by side."""
        return self.config.conditioning != "suffix"

    def conditioned(self, batch: Mapping[str, Any], actions: Tensor, noise: Tensor, time: Tensor) -> Conditioned:
        """See `HLRPPolicy.conditioned`; one pass of the VLM serves all that is asked."""
        prefix = self.prefix(batch)
        seen = self._for_expert(prefix)
        return Conditioned(
            codes=self._shares(self._code_logits(prefix)),
            losses=lambda codes: self.expert.flow_losses(
                seen, actions, self._condition(batch, codes), noise=noise, time=time
            ),
            sample=lambda codes: self.expert.sample(seen, self._condition(batch, codes), noise=noise),
        )
