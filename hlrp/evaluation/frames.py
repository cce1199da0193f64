"""Frames drawn only when the policy will read them: between two chunks of actions nothing looks at the picture."""

from collections import deque
from typing import Any

ON_DEMAND = "frames_on_demand"
"""Key of an environment's `metadata`: its copies have `draw_frames(wanted)`."""

# Policies whose `select_action` is known: between chunks they take actions from a queue, and what they keep of
# observations meanwhile is in the other queues of `_queues`. For any other policy every frame is drawn.
_QUEUE_POLICIES = {
    *("act", "diffusion", "multi_task_dit", "pi0", "pi05", "pi0_fast", "smolvla", "tdmpc", "vqbet"),
    *("hlrp_action_expert_direct", "hlrp_action_expert_latent", "hlrp_vla_direct"),
}


def queue_is_known(policy: Any) -> bool:
    """Whether `reads_next_observation` can tell anything of this policy."""
    return getattr(policy, "name", None) in _QUEUE_POLICIES


def reads_next_observation(policy: Any) -> bool:
    """Whether a LeRobot policy will use the observation that follows the action it just gave.

    It will not while actions are queued, except for the last observations of a policy with a history: its chunk is
    computed from that observation and those of the steps before. True where it cannot be known.
    """
    if not queue_is_known(policy):
        return True
    queues = getattr(policy, "_queues", {})
    actions = getattr(policy, "_action_queue", None)
    if actions is None:
        actions = queues.get("action")
    if not isinstance(actions, deque):
        # ACT with temporal ensembling has no queue: it predicts at every step.
        return True
    history = max((queue.maxlen or 1 for key, queue in queues.items() if key != "action"), default=1)
    return len(actions) < history


class FramesOnDemand:
    """A vector environment that draws the frame after a step only where the policy reads it.

    Rewards, ends and the policy's actions are those of drawing every frame; a frame that is not drawn is black in the
    observation. `render` draws what it shows, so that videos are whole. Everything else is the environment's own.

    Args:
        env: LeRobot's vector environment. Without `metadata["frames_on_demand"]` every frame is drawn.
        policy: LeRobot's policy, asked after each of its actions.
    """

    def __init__(self, env: Any, policy: Any) -> None:
        self._env = env
        self._policy = policy
        self._able = bool((env.metadata or {}).get(ON_DEMAND))
        self._drawing = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def step(self, actions: Any) -> Any:
        """As the environment's own."""
        wanted = not self._able or reads_next_observation(self._policy)
        if wanted != self._drawing:
            self._env.call("draw_frames", wanted)
            self._drawing = wanted
        return self._env.step(actions)
