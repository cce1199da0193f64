"""What the policies have in common: labels, a backend, a queue of actions, and a checkpoint that needs nothing else."""

from abc import abstractmethod
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

from hlrp.errors import UserError
from hlrp.foundation.backends.interfaces import VLABackend
from hlrp.policies.figures import Figures
from lerobot_policy_felix_bundle.policies.common.action_spaces import own_numbers
from lerobot_policy_felix_bundle.policies.common.configuration import HLRPPolicyConfig
from lerobot_policy_felix_bundle.policies.common.effect import Conditioned, measure_effect
from lerobot_policy_felix_bundle.policies.common.labels import (
    ACTION_MASK,
    ACTION_WEIGHT,
    CODE_MASK,
    CODES,
    LatentLabelsStep,
)
from lerobot_policy_felix_bundle.policies.common.losses import Term, reduce_terms
from lerobot_policy_felix_bundle.policies.common.meaning import resolve_meaning

BACKBONE = "backbone"
"""Folder beside a checkpoint's weights: configuration, tokenizer and processor of the VLM."""


class HLRPPolicy(PreTrainedPolicy):
    """Base of the policies: `build`, `terms` and `chunk` are what each has of its own.

    Args:
        config: The configuration; what it leaves open is filled in.
        backbone_folder: Folder to rebuild the backbone from, without weights; None: a fresh policy, whose backbone's
            weights are loaded.
        dataset_meta: LeRobot's metadata of the dataset that is trained on; None at inference. A foundation model that
            reads the state brings the statistics to normalise it with: they take the place of the dataset's.

    Raises:
        UserError: Labels, backbone or foundation model do not fit.
    """

    config_class = HLRPPolicyConfig
    name = "hlrp_policy"
    config: HLRPPolicyConfig
    backend: VLABackend

    # Layers that FSDP wraps; Accelerate reads the second name.
    _fsdp_wrap_modules: ClassVar[list[str]] = ["LlamaDecoderLayer", "SmolVLMEncoderLayer"]
    _no_split_modules: ClassVar[list[str]] = _fsdp_wrap_modules

    def __init__(
        self,
        config: HLRPPolicyConfig,
        *,
        backbone_folder: Path | None = None,
        dataset_meta: Any | None = None,
        **_: Any,
    ) -> None:
        super().__init__(config)
        config.validate_features()
        resolve_meaning(config, dataset_meta)
        self._labels = LatentLabelsStep.of(config)
        self._action_queue: deque[Tensor] = deque(maxlen=config.n_action_steps)
        self.build(backbone_folder)
        if config.state_statistics is not None and dataset_meta is not None:
            stats = dict(dataset_meta.stats or {})
            # The processors are made afterwards, from these.
            dataset_meta.stats = stats | {OBS_STATE: {**stats.get(OBS_STATE, {}), **config.state_statistics}}

    @abstractmethod
    def build(self, backbone_folder: Path | None) -> None:
        """Make the modules, `backend` among them; with a folder their weights are loaded later."""

    @abstractmethod
    def terms(self, batch: Mapping[str, Any], **given: Any) -> dict[str, Term]:
        """The losses of a labelled batch."""

    @abstractmethod
    def chunk(self, batch: Mapping[str, Any], **given: Any) -> Tensor:
        """A chunk of normalised actions ``[B, chunk_size, A]``."""

    @property
    def conditioned_on_codes(self) -> bool:
        """Whether the actions are made from codes, so that other codes could make others."""
        return False

    def conditioned(self, batch: Mapping[str, Any], actions: Tensor, noise: Tensor, time: Tensor) -> Conditioned:
        """A batch as the policy sees it at inference, to be asked with its own codes and with others.

        Args:
            batch: Preprocessed.
            actions: Its chunks ``[B, chunk_size, A]``.
            noise: For losses and chunks alike, ``[B, chunk_size, A]``.
            time: Of the losses, ``[B]``.
        """
        raise NotImplementedError

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Everything that is trained, in one group that PyTorch updates with its fused kernel."""
        # An option of the group: of the whole optimizer, Lightning would refuse to clip gradients in mixed precision.
        return [{"params": [p for p in self.parameters() if p.requires_grad], "fused": True}]

    def reset(self) -> None:
        """Forget the actions that are left; called when an episode begins."""
        self._action_queue.clear()

    def forward(self, batch: dict[str, Any], reduction: str = "mean", **given: Any) -> tuple[Tensor, Figures]:
        """The training loss.

        Args:
            batch: A preprocessed batch: images ``[B, 3, H, W]``, `action` ``[B, chunk_size, A]``, `action_is_pad`
                ``[B, chunk_size]``, `task`, and what `LatentLabelsStep` adds.
            reduction: `mean`: a scalar over what is supervised; `none`: per sample ``[B]``, zero where nothing is.
            **given: `noise` and `time` of the flow, in place of random ones.

        Returns:
            The loss, and numbers to log.
        """
        # A preprocessor that came with other weights may have had other labels, or none.
        return reduce_terms(self.terms(self._without_hidden_states(self._labels.label(batch)), **given), reduction)

    def _without_hidden_states(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with a normalised state of 0, the mean, where there is none or the actions are not labelled."""
        labelled, state = batch.get(ACTION_MASK), batch.get(OBS_STATE)
        if self.config.state_of_unlabelled:
            labelled = None
        absent = batch.get(f"{OBS_STATE}_is_pad")
        if absent is not None:
            there = ~absent.reshape(len(absent), -1)[:, -1]
            labelled = there if labelled is None else there & labelled
        if labelled is None or state is None:
            return batch
        # Not a product: what is masked may be NaN.
        return batch | {OBS_STATE: torch.where(labelled.reshape(-1, *[1] * (state.ndim - 1)), state, 0.0)}

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Any], **given: Any) -> Tensor:
        """A chunk of normalised actions for an observation.

        Args:
            batch: A preprocessed observation; labels in it are not read.
            **given: `noise` to start from; LeRobot's arguments of real-time chunking.

        Returns:
            ``[B, chunk_size, A]`` float32; the postprocessor brings them to the dataset's units.
        """
        self.eval()
        return self.chunk(batch, **given).float()

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **given: Any) -> Tensor:
        """The next action ``[B, A]``, normalised; every `n_action_steps` calls a chunk is predicted."""
        self.eval()
        if not self._action_queue:
            actions = self.predict_action_chunk(batch, **given)
            self._action_queue.extend(actions.transpose(0, 1)[: self.config.n_action_steps])
        return self._action_queue.popleft()

    def action_term(self, losses: Tensor, mask: Tensor, batch: Mapping[str, Any], weight: float = 1.0) -> Term:
        """The term of the actions' losses ``[B, chunk_size, A]``, counted by confidence where the dataset has any."""
        return Term(losses, mask, weight, confidence=batch.get(ACTION_WEIGHT))

    @torch.no_grad()
    def code_effect(self, batch: Mapping[str, Any], *, seed: int = 0) -> Figures | None:
        """How far the actions depend on the codes: what changes with those of other samples in the batch.

        The policy's mode and the global random numbers stay as they are.

        Args:
            batch: Preprocessed and held out, at least 2 samples; labels do not count.
            seed: Of the noise, and of who is given whose codes.

        Returns:
            The figures of `measure_effect`; None for a policy whose actions are not made from codes.
        """
        if not self.conditioned_on_codes:
            return None
        # Labelling makes of the frames of a label's window the observation.
        batch = self._without_hidden_states(self._labels.label(batch))
        actions = chunk_of(batch, self.config.chunk_size)
        padded = batch.get("action_is_pad")
        there = actions.isfinite().all(-1) if padded is None else actions.isfinite().all(-1) & ~padded
        actions = torch.where(there[..., None], actions, 0.0)
        random = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(actions), generator=random).to(actions.device)
        noise = torch.randn(actions.shape, generator=random).to(actions.device)
        time = (torch.arange(len(actions), device=actions.device) + 0.5) / len(actions)
        training = self.training
        self.eval()
        try:
            view = self.conditioned(batch, actions, noise, time[order])
            return measure_effect(view, actions, there, self.config.n_action_steps, order)
        finally:
            self.train(training)

    def action_mask(self, batch: Mapping[str, Any]) -> Tensor:
        """Which actions of the chunks are trained on, bool ``[B, chunk_size]``."""
        actions = batch[ACTION]
        padded = batch.get("action_is_pad")
        mask = torch.ones(actions.shape[:2], dtype=torch.bool, device=actions.device) if padded is None else ~padded
        labelled = batch.get(ACTION_MASK)
        return mask if labelled is None else mask & labelled[:, None]

    def supervised_actions(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The chunks ``[B, H, A]``, 0 where nothing is trained on, and which count: bool ``[B, H]`` or ``[B, H, A]``.

        What is masked may be NaN, and a NaN that goes through the expert reaches every gradient.
        """
        mask, chunk = self.action_mask(batch), chunk_of(batch, self.config.chunk_size)
        own = self.own_actions(batch, mask.device)
        if own is None:
            return torch.where(mask[..., None], chunk, 0.0), mask
        mask = mask[..., None] & own[:, None]
        return torch.where(mask, chunk, 0.0), mask

    def own_actions(self, batch: Mapping[str, Any], device: torch.device) -> Tensor | None:
        """Which numbers of an action are of a sample's own action space, bool ``[B, A]``; None: there is one space."""
        return own_numbers(self.config, batch, ACTION, device)

    def codes(self, batch: Mapping[str, Any], positions: int) -> tuple[Tensor, Tensor]:
        """The batch's codes int64 ``[B, P]`` and where they hold, bool ``[B, P]``; all False without labels."""
        if CODES in batch:
            mask: Tensor = batch[CODE_MASK]
            # An invalid pair's code means nothing; a fixed one keeps it out of every computation.
            return torch.where(mask, batch[CODES], 0), mask
        count, device = len(batch[ACTION]), batch[ACTION].device
        codes = torch.zeros(count, positions, dtype=torch.int64, device=device)
        return codes, torch.zeros_like(codes, dtype=torch.bool)

    def _validate_peft_config(self, peft_config: Any) -> None:
        super()._validate_peft_config(peft_config)
        if self.config.vlm_mode == "lora":
            raise UserError(
                "the policy has adapters in its language model already, which those of peft.* would turn off",
                where="peft, policy.vlm",
                fix="leave peft.* out, or start from a policy that was not trained with vlm=lora",
            )

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        super()._save_pretrained(save_directory, state_dict=state_dict)
        self.backend.save_backbone(save_directory / BACKBONE)

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: str | Path, **options: Any) -> Self:
        """Load a policy; see LeRobot's `PreTrainedPolicy.from_pretrained`. Weights must fit name by name.

        Raises:
            UserError: They do not, or the folder lacks its `backbone`.
        """
        folder = _backbone_folder(str(pretrained_name_or_path), options)
        policy: Self = super().from_pretrained(
            pretrained_name_or_path, **{**options, "strict": True, "backbone_folder": folder}
        )
        return policy

    @classmethod
    def _load_as_safetensor(cls, model: Self, model_file: str, map_location: str, strict: bool) -> Self:
        try:
            return super()._load_as_safetensor(model, model_file, map_location, strict)
        except (RuntimeError, KeyError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise UserError(
                f"the weights do not fit the policy: {'; '.join(lines[:6])}",
                where=model_file,
                fix="leave the fields that decide sizes (backbone, chunk_size, vlm_layers, ...) as in its config.json",
            ) from error


def _backbone_folder(name: str, options: Mapping[str, Any]) -> Path:
    if Path(name).is_dir():
        folder = Path(name) / BACKBONE
    else:
        from huggingface_hub import snapshot_download

        known = {k: options[k] for k in ("revision", "cache_dir", "local_files_only", "token") if options.get(k)}
        folder = Path(snapshot_download(name, allow_patterns=[f"{BACKBONE}/*"], **known)) / BACKBONE
    if not (folder / "config.json").is_file():
        raise UserError(
            f"the checkpoint has no {BACKBONE}/config.json, from which its vision-language model is rebuilt",
            where=name,
            fix="copy the whole pretrained_model folder",
        )
    return folder


def chunk_of(batch: Mapping[str, Any], size: int) -> Tensor:
    """The batch's actions ``[B, chunk_size, A]``.

    Raises:
        ValueError: They are not chunks of that size.
    """
    actions: Tensor = batch[ACTION]
    if actions.ndim != 3 or actions.shape[1] != size:
        raise ValueError(f"action: [B, {size}, A] is needed, got {list(actions.shape)}")
    return actions
