"""Conversion of LeRobot's batches to the observations of a foundation backend."""

from collections.abc import Mapping
from typing import Any

import torch
from lerobot.utils.constants import OBS_STATE
from torch import Tensor, nn

from hlrp.foundation.backends.interfaces import FoundationBatch
from lerobot_policy_felix_bundle.policies.common.action_spaces import own_numbers
from lerobot_policy_felix_bundle.policies.common.configuration import HLRPPolicyConfig


def foundation_batch(config: HLRPPolicyConfig, batch: Mapping[str, Any]) -> FoundationBatch:
    """The observations of a preprocessed batch.

    A camera that the batch lacks, or whose sample says that it does, is masked: `<camera>_padding_mask` (bool ``[B]``,
    True: there) and `<camera>_is_pad` (bool ``[B]`` or ``[B, 1]``, True: absent) are both known to LeRobot.

    Args:
        config: The policy's configuration.
        batch: Images ``[B, 3, H, W]`` in [0, 1], `observation.state` ``[B, D]``, `task` as B strings.

    Raises:
        ValueError: There is no camera of the policy's in the batch, the state is missing, or flags contradict.
    """
    there = [name for name in config.cameras if batch.get(name) is not None]
    if not there:
        raise ValueError(f"the batch has none of the policy's cameras: {', '.join(config.cameras)}")
    count, device = len(batch[there[0]]), batch[there[0]].device
    images, masks = {}, {}
    for name in config.cameras:
        image = batch.get(name)
        if image is None:
            images[name] = torch.zeros(count, *config.image_features[name].shape, device=device)
            masks[name] = torch.zeros(count, dtype=torch.bool, device=device)
            continue
        images[name] = prepare_image(config, image)
        mask = _present(name, batch)
        if mask is not None:
            masks[name] = mask
    return FoundationBatch(
        images=images,
        instruction=_instructions(config, batch, count),
        image_masks=masks or None,
        state=newest_state(config, batch),
    )


def prepare_image(config: HLRPPolicyConfig, image: Tensor) -> Tensor:
    """An image ``[B, 3, H, W]`` (or a history of them, of which the newest counts) at the size that is asked for."""
    frame = image[:, -1] if image.ndim == 5 else image
    if config.image_size is None or tuple(frame.shape[-2:]) == tuple(config.image_size):
        return frame
    pixels = frame.float() / 255 if frame.dtype == torch.uint8 else frame
    return nn.functional.interpolate(
        pixels, size=tuple(config.image_size), mode="bilinear", antialias=True, align_corners=False
    ).clamp(0, 1)


def _present(name: str, batch: Mapping[str, Any]) -> Tensor | None:
    valid, padded = batch.get(f"{name}_padding_mask"), batch.get(f"{name}_is_pad")
    if padded is not None:
        padded = ~padded.bool().reshape(len(padded), -1)[:, -1]
    if valid is None:
        return padded
    valid = valid.bool().reshape(-1)
    # Only where it costs nothing: a GPU would have to be waited for.
    if padded is not None and valid.device.type == "cpu" and bool((padded != valid).any()):
        raise ValueError(f"{name}_padding_mask and {name}_is_pad contradict each other")
    return valid


def _instructions(config: HLRPPolicyConfig, batch: Mapping[str, Any], count: int) -> list[str]:
    task = batch.get("task") if config.use_language else None
    if isinstance(task, str):
        return [task] * count
    return [str(text) for text in task] if task else [""] * count


def newest_state(config: HLRPPolicyConfig, batch: Mapping[str, Any]) -> Tensor | None:
    """The state of a batch, ``[B, D]``, of a history the newest; None: the policy reads none.

    Raises:
        ValueError: It reads one, and the batch has none.
    """
    if config.state_dim is None:
        return None
    state = batch.get(OBS_STATE)
    if state is None:
        raise ValueError(f"the batch lacks {OBS_STATE}, which the policy was trained with")
    newest: Tensor = state[:, -1] if state.ndim == 3 else state
    own = own_numbers(config, batch, OBS_STATE, newest.device)
    return newest if own is None else torch.where(own, newest, 0.0)
