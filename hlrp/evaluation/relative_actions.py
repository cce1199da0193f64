"""Actions relative to a state: each belongs to the state from which its chunk was predicted."""

import weakref
from typing import Any

from lerobot.processor import AbsoluteActionsProcessorStep, RelativeActionsProcessorStep
from torch import Tensor

from hlrp.evaluation.frames import queue_is_known, reads_next_observation


class ChunkReference(RelativeActionsProcessorStep):
    """LeRobot's step, which keeps the state of a chunk's observation while actions of that chunk are queued.

    LeRobot's own keeps the state of every observation, and its loops show it one for every action: an action of the
    chunk would be added to a state that the chunk's earlier actions have changed already.

    Args:
        step: As it was loaded.
        policy: Whose queue tells.
    """

    def __init__(self, step: RelativeActionsProcessorStep, policy: Any) -> None:
        super().__init__(step.enabled, step.exclude_joints, step.action_names)
        # Not the policy itself: copying the processor would copy it.
        self._policy = weakref.ref(policy)

    def __call__(self, transition: Any) -> Any:
        """As LeRobot's."""
        reference, policy = self.get_cached_state(), self._policy()
        done = super().__call__(transition)
        if reference is not None and policy is not None and not reads_next_observation(policy):
            self._last_state: Tensor | None = reference
        return done


def keep_references(policy: Any, preprocessor: Any, postprocessor: Any) -> list[str]:
    """Have processors with relative actions add them to the states that they are relative to.

    Args:
        policy: LeRobot's policy.
        preprocessor: Its processors; changed in place, as ``postprocessor`` is, where actions are relative.
        postprocessor: See ``preprocessor``.

    Returns:
        A warning where it cannot be known when the policy predicts.
    """
    steps = getattr(preprocessor, "steps", [])
    places = [i for i, s in enumerate(steps) if isinstance(s, RelativeActionsProcessorStep) and s.enabled]
    if not places:
        return []
    if not queue_is_known(policy):
        return [
            "it gives actions relative to the state, and it cannot be known when it predicts them: actions of a chunk "
            "after its first are added to the state of their own step, as LeRobot's loop does it"
        ]
    for place in places:
        steps[place] = ChunkReference(steps[place], policy)
    for step in postprocessor.steps:
        if isinstance(step, AbsoluteActionsProcessorStep):
            step.relative_step = steps[places[-1]]
    return []
