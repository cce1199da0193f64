"""The action expert: LeRobot's, from SmolVLA, on the keys and values that a backend's VLM left of the prefix.

Shapes: B batch, N tokens of the prefix, M tokens of the expert, H actions of a chunk, A width of an action, P code
positions, W width of the expert.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.common.vla_utils import make_att_2d_masks
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import VLAFlowMatching
from torch import Tensor, nn
from transformers import DynamicCache

from hlrp.policies.key_values import cache_of, cache_tensors
from lerobot_policy_felix_bundle.policies.common.expert_configuration import HLRPExpertConfig


@dataclass(frozen=True)
class Prefix:
    """What the VLM made of an observation.

    Args:
        hidden: Last hidden states, ``[B, N, width]``.
        mask: bool ``[B, N]``, True for tokens that are there.
        cache: Keys and values of every layer.
        own: Which numbers of an action are of the sample's own action space, bool ``[B or 1, A]``; None: all.
    """

    hidden: Tensor
    mask: Tensor
    cache: DynamicCache
    own: Tensor | None = None
    _layouts: dict[tuple[int, ...], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def without_gradient(self) -> "Prefix":
        """The same, from which no loss reaches the VLM."""
        return self._changed(torch.Tensor.detach, self.mask)

    def without(self, dropped: Tensor) -> "Prefix":
        """The same, of which some samples, bool ``[B]``, have nothing; whatever it was, NaN too, is out of reach."""
        gone = dropped[:, None, None, None]
        return self._changed(lambda x: torch.where(gone, torch.zeros_like(x), x), self.mask & ~dropped[:, None])

    def in_space(self, actions: Tensor) -> Tensor:
        """Actions ``[B, H, A]`` with the numbers of each sample's own action space alone."""
        return actions if self.own is None else actions * self.own[:, None].to(actions.dtype)

    def emptied(self) -> "Prefix":
        """A prefix of no tokens."""
        return self._changed(lambda x: x[:, :, :0], self.mask[:, :0])

    def _changed(self, change: Callable[[Tensor], Tensor], mask: Tensor) -> "Prefix":
        cache = DynamicCache()
        for number, layer in enumerate(self.cache.layers):
            cache.update(change(layer.keys), change(layer.values), number)
        return Prefix(self.hidden, mask, cache, self.own)

    def tensors(self) -> dict[str, Tensor]:
        """All of it that the expert reads, by name; `of_tensors` makes the same prefix of them."""
        own = {} if self.own is None else {"own": self.own}
        return {"mask": self.mask, **own, **cache_tensors(self.cache)}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """A prefix that an expert can read; the hidden states are empty."""
        mask, cache = tensors["mask"], cache_of(tensors)
        return cls(mask.new_zeros(len(mask), 0, 0, dtype=torch.float32), mask, cache, tensors.get("own"))

    def layout(self, blocks: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Who sees whom among M tokens behind the prefix, and where they stand; made once for all denoising steps.

        Args:
            blocks: M numbers, 1 where a block begins that the tokens before cannot see.

        Returns:
            bool ``[B, M, N + M]`` and positions int64 ``[B, M]``.
        """
        if blocks not in self._layouts:
            count, device = len(blocks), self.mask.device
            begins = torch.tensor(blocks, device=device)[None].expand(len(self.mask), -1)
            among = make_att_2d_masks(torch.ones_like(begins, dtype=torch.bool), begins)
            seen = torch.cat([self.mask[:, None].expand(-1, count, -1), among], dim=2)
            positions = self.mask.sum(1, keepdim=True) + torch.arange(count, device=device)
            self._layouts[blocks] = (seen, positions)
        return self._layouts[blocks]


class _Borrowed:
    """What LeRobot's expert asks of its VLM, for one that belongs to another module."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config

    def eval(self) -> None:
        self.model.eval()


class ActionExpert(VLAFlowMatching):
    """LeRobot's flow-matching expert without a VLM of its own.

    Args:
        config: The policy's configuration; its features are known.
        vlm: The VLM that makes prefixes, a `SmolVLMModel`. Not a child of this module: it belongs to the backend.
        folder: Folder of the backbone, which LeRobot reads the expert's sizes from.
        rtc: Real-time chunking, if it is on.
    """

    def __init__(self, config: HLRPExpertConfig, vlm: nn.Module, folder: Path, rtc: RTCProcessor | None = None) -> None:
        super().__init__(_smolvla_config(config, folder), rtc_processor=rtc)
        # LeRobot builds a VLM and a projection of the state beside its expert; those that are trained are the
        # backend's, registered once, there.
        del self.vlm_with_expert.vlm, self.state_proj
        self.vlm_with_expert.__dict__["vlm"] = _Borrowed(vlm)
        self.vlm_with_expert.__dict__["get_attention_interface"] = _attention_interface
        self.action_dim = config.action_dim
        self._learns = False
        # A tuple, so that the copy is no child of this module and not saved.
        self._lowered: tuple[Any, Any] = (None, None)

    @property
    def width(self) -> int:
        """Width W of the expert's tokens."""
        return int(self.vlm_with_expert.expert_hidden_size)

    def attend(self, prefix: Prefix, tokens: Tensor, blocks: tuple[int, ...]) -> Tensor:
        """Run tokens through the expert; they see the prefix, and of each other what the blocks allow.

        Args:
            prefix: Keys and values; unchanged afterwards.
            tokens: ``[B, M, W]``.
            blocks: M numbers, 1 where a block begins that the tokens before cannot see.

        Returns:
            ``[B, M, W]`` float32.
        """
        mask, positions = prefix.layout(blocks)
        outputs, _ = self.vlm_with_expert.forward(
            attention_mask=mask,
            position_ids=positions,
            past_key_values=prefix.cache,
            inputs_embeds=[None, tokens],
            use_cache=True,
        )
        # Self-attention layers append their own keys and values.
        prefix.cache.crop(prefix.mask.shape[1])
        result: Tensor = outputs[1].float()
        return result

    def velocity(self, prefix: Prefix, noisy: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """The flow at ``noisy`` ``[B, H, A]`` and ``time`` ``[B]``, given condition tokens ``[B, P, W]`` if any."""
        tokens = self.embed_suffix(prefix.in_space(noisy), time)[0]
        blocks = (1,) * noisy.shape[1]
        if condition is not None:
            tokens = torch.cat([condition.to(tokens.dtype), tokens], dim=1)
            blocks = one_block(condition.shape[1]) + blocks
        flow: Tensor = self.action_out_proj(self.attend(prefix, tokens, blocks)[:, -noisy.shape[1] :])
        return prefix.in_space(flow)

    def forward(self, encoded: Mapping[str, Tensor], noisy: Tensor, time: Tensor) -> Tensor:
        """`velocity` of tensors by name, as `ExpertPolicy.encoded` gives them: what can be compiled and exported."""
        return self.velocity(Prefix.of_tensors(encoded), noisy, time, encoded.get("condition"))

    def _flow(self, prefix: Prefix, noisy: Tensor, time: Tensor, condition: Tensor | None) -> Tensor:
        """`velocity`, compiled if this module is."""
        if self._compiled_call_impl is None:
            return self.velocity(prefix, noisy, time, condition)
        encoded = prefix.tensors() | ({} if condition is None else {"condition": condition})
        flow: Tensor = self(encoded, noisy, time)
        return flow

    def flow_losses(
        self,
        prefix: Prefix,
        actions: Tensor,
        condition: Tensor | None = None,
        *,
        noise: Tensor | None = None,
        time: Tensor | None = None,
    ) -> Tensor:
        """Squared errors of the flow at a random time.

        Args:
            prefix: The observation.
            actions: Normalised chunk ``[B, H, A]``.
            condition: ``[B, P, W]``.
            noise: As actions; drawn if None.
            time: ``[B]`` in [0, 1], 1 being noise; drawn if None.

        Returns:
            ``[B, H, A]`` float32.
        """
        self._learns = self._learns or torch.is_grad_enabled()
        noise = self.sample_noise(actions.shape, actions.device) if noise is None else noise
        time = self.sample_time(len(actions), actions.device) if time is None else time
        weight = time[:, None, None]
        noisy = weight * noise + (1 - weight) * actions
        flow = self._flow(prefix, noisy, time, condition)
        return nn.functional.mse_loss(flow, (noise - actions).float(), reduction="none")

    def sample(
        self, prefix: Prefix, condition: Tensor | None = None, *, noise: Tensor | None = None, **guidance: Any
    ) -> Tensor:
        """A chunk ``[B, H, A]``, normalised; the prefix serves every denoising step.

        Args:
            prefix: The observation.
            condition: ``[B, P, W]``.
            noise: ``[B, H, A]`` to start from; drawn if None.
            **guidance: LeRobot's arguments of real-time chunking.
        """
        if noise is None:
            shape = (len(prefix.mask), self.config.chunk_size, self.action_dim)
            noise = self.sample_noise(shape, prefix.mask.device)
        noise = prefix.in_space(noise)
        # While it learns, layers may be copied for each chunk, and each copy would be compiled. A guided step has
        # gradients, and would be compiled at the second chunk, while a robot moves.
        flow = self.velocity if self._learns or self._rtc_enabled() else self._flow
        with self._in_precision_of_vlm():
            return euler_integrate(
                lambda noisy, time: flow(prefix, noisy, time, condition),
                noise,
                self.config.num_steps,
                rtc_processor=self.rtc_processor,
                rtc_enabled=self._rtc_enabled(),
                inference_delay=guidance.get("inference_delay"),
                prev_chunk_left_over=guidance.get("prev_chunk_left_over"),
                execution_horizon=guidance.get("execution_horizon"),
            )

    @contextmanager
    def _in_precision_of_vlm(self) -> Iterator[None]:
        """Inside, the layers are copies in the VLM's type.

        Weights are trained in float32. A chunk reads all of them once for each denoising step and does little with
        them, so that half of the bytes is nearly half of the time.
        """
        modules, own = self.vlm_with_expert._modules, self.vlm_with_expert.lm_expert
        dtype = self.vlm_with_expert.vlm.model.dtype
        # Of several processes each may hold a part of the weights only.
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        if several or dtype == next(own.parameters()).dtype:
            yield
            return
        modules["lm_expert"] = self._lowered_copy(own, dtype)
        try:
            yield
        finally:
            modules["lm_expert"] = own

    def _lowered_copy(self, own: nn.Module, dtype: torch.dtype) -> nn.Module:
        # Fused optimizers change weights without a trace: where one may be at work, a copy serves a single chunk.
        stamp = None if self._learns else (dtype, [(w.data_ptr(), w._version) for w in own.parameters()])
        if stamp is not None and stamp == self._lowered[0]:
            return self._lowered[1]
        # Guidance differentiates with respect to the actions, which tensors of inference mode do not allow.
        with torch.inference_mode(False):
            lowered = copy.deepcopy(own).to(dtype).requires_grad_(False)
        self._lowered = (stamp, lowered if stamp is not None else None)
        return lowered


def one_block(count: int) -> tuple[int, ...]:
    """Tokens that all see one another."""
    return (1, *(0,) * (count - 1))


def _attention_interface() -> Any:
    return _attention


def _attention(mask: Tensor, batch: int, head: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What LeRobot's `eager_attention_forward` computes, by PyTorch's own kernel.

    Args:
        mask: bool ``[B, M, L]``, True where a query sees a key; it sees at least one.
        batch: B.
        head: Width of a head.
        queries: ``[B, M, heads, head]``.
        keys: ``[B, L, key heads, head]``.
        values: As keys.

    Returns:
        ``[B, M, heads * head]``.
    """
    queries, keys, values = (x.to(values.dtype).transpose(1, 2) for x in (queries, keys, values))
    seen = _masked(queries, keys, values, mask[:, None], shared=queries.device.type == "cpu")
    return seen.transpose(1, 2).reshape(batch, -1, seen.shape[1] * head)


def _masked(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, *, shared: bool) -> Tensor:
    """Attention of ``[B, heads, tokens, head]``, where several query heads have a key head in common.

    With a mask, the kernels that PyTorch has for a GPU want a key head for each query head: to those that are shared it
    would apply the plain formula, whose weights lie in memory. A CPU's kernel takes them as they are.
    """
    if not shared:
        keys, values = (x.repeat_interleave(queries.shape[1] // x.shape[1], 1) for x in (keys, values))
    return nn.functional.scaled_dot_product_attention(queries, keys, values, mask, enable_gqa=shared)


def _smolvla_config(config: HLRPExpertConfig, folder: Path) -> SmolVLAConfig:
    frozen = config.vlm_mode != "cotrained"
    return SmolVLAConfig(
        device=config.device,
        push_to_hub=False,
        chunk_size=config.chunk_size,
        n_action_steps=config.n_action_steps,
        num_steps=config.num_steps,
        vlm_model_name=str(folder),
        load_vlm_weights=False,
        train_expert_only=frozen,
        freeze_vision_encoder=not config.trains_vision,
        num_vlm_layers=config.vlm_layers or 0,
        self_attn_every_n_layers=config.self_attention_interval,
        expert_width_multiplier=config.expert_width_multiplier,
        min_period=config.min_period,
        max_period=config.max_period,
        max_state_dim=1,
        max_action_dim=config.action_dim,
        rtc_config=config.rtc_config,
    )
