"""Several action spaces in one policy: each has numbers of its own in `action` and in `observation.state`.

They stand behind one another, so that one matrix holds a projection for each. A sample has numbers in its own space
alone; in training a flag says which that is, at inference the configuration.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lerobot.lerobot_types import EnvTransition, TransitionKey
from lerobot.processor import ProcessorStepRegistry
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

from hlrp.data.policy_mixture import SPACE_FLAGS
from lerobot_policy_felix_bundle.policies.common.configuration import HLRPPolicyConfig
from lerobot_policy_felix_bundle.policies.common.saved_step import SavedStep

_KINDS = {ACTION: "action", OBS_STATE: "state"}


def own_numbers(config: HLRPPolicyConfig, batch: Mapping[str, Any], name: str, device: torch.device) -> Tensor | None:
    """Which numbers of `action` or `observation.state` are of a sample's own space; None: there is one space.

    Args:
        config: The policy's.
        batch: With `SPACE_FLAGS` ``[B, spaces]`` in training; else all are of the space that the policy acts in.
        name: `action` or `observation.state`.
        device: Where the answer is wanted.

    Returns:
        bool ``[B, numbers]``, or ``[1, numbers]`` where all samples are alike.
    """
    blocks = config.blocks(_KINDS[name])
    if not blocks:
        return None
    flags = batch.get(SPACE_FLAGS)
    if flags is None:
        acting = config.action_space or next(iter(blocks))
        flags = torch.tensor([[space != acting for space in blocks]])
    widths = torch.tensor([len(block) for block in blocks.values()], device=flags.device)
    total = max(block.stop for block in blocks.values())
    return (~flags).repeat_interleave(widths, 1, output_size=total).to(device, non_blocking=True)


@ProcessorStepRegistry.register(name="hlrp_action_space_state")
@dataclass
class PlaceState(SavedStep):
    """Puts the state of a robot among those of all action spaces, before it is normalised.

    Args:
        spaces: `HLRPPolicyConfig.action_spaces`.
        acting: The one that the robot has.
    """

    spaces: dict[str, dict[str, int]] = field(default_factory=dict)
    acting: str = ""

    def __call__(self, transition: EnvTransition) -> EnvTransition:
        """Place a state; those of a training batch stand where they belong.

        Raises:
            ValueError: It has not as many numbers as the space.
        """
        observation = transition.get(TransitionKey.OBSERVATION) or {}
        if SPACE_FLAGS in (transition.get(TransitionKey.COMPLEMENTARY_DATA) or {}) or OBS_STATE not in observation:
            return transition
        state, bounds = observation[OBS_STATE], _bounds(self.spaces, "state", self.acting)
        if bounds.stop > bounds.start and state.shape[-1] != bounds.stop - bounds.start:
            raise ValueError(
                f"{OBS_STATE} has {state.shape[-1]} numbers, action space {self.acting!r} has "
                f"{bounds.stop - bounds.start}"
            )
        placed = state.new_zeros(*state.shape[:-1], sum(space["state"] for space in self.spaces.values()))
        if bounds.stop > bounds.start:  # else its sources have no state, and none is read
            placed[..., bounds] = state
        result = dict(transition)
        result[TransitionKey.OBSERVATION] = {**observation, OBS_STATE: placed}
        return result


@ProcessorStepRegistry.register(name="hlrp_action_space_action")
@dataclass
class TakeAction(SavedStep):
    """Takes the numbers of one action space out of an action, in the dataset's units.

    Args:
        spaces: `HLRPPolicyConfig.action_spaces`.
        acting: The one to act in.
    """

    spaces: dict[str, dict[str, int]] = field(default_factory=dict)
    acting: str = ""

    def __call__(self, transition: EnvTransition) -> EnvTransition:
        """The same with the space's own action."""
        action = transition.get(TransitionKey.ACTION)
        if not isinstance(action, Tensor):
            return transition
        result = dict(transition)
        result[TransitionKey.ACTION] = action[..., _bounds(self.spaces, "action", self.acting)]
        return result


def _bounds(spaces: Mapping[str, Mapping[str, int]], kind: str, acting: str) -> slice:
    first = 0
    for name, widths in spaces.items():
        if name == acting:
            return slice(first, first + widths[kind])
        first += widths[kind]
    raise ValueError(f"there is no action space {acting!r}: {', '.join(spaces)}")
