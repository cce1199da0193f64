"""A short evaluation that keeps what the policy did, and how far that is from what was recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlrp.evaluation.diagnosis.findings import Finding, Histogram, passed, undecided
from hlrp.evaluation.diagnosis.recorded import ACTION, Recorded
from hlrp.evaluation.environment import build_environments
from hlrp.evaluation.policy import LoadedPolicy
from hlrp.evaluation.request import Episode, EvalRequest, Listener
from hlrp.evaluation.rollout import Film, run_task
from hlrp.evaluation.run import batch_size

_BINS = 24
_MUCH = 2.0
Actions = NDArray[np.float32]  # [T, A]


class _Kept:
    """A postprocessor that keeps what it gives."""

    def __init__(self, postprocessor: Any) -> None:
        self._postprocessor = postprocessor
        self.actions: list[Actions] = []

    def __call__(self, action: Any) -> Any:
        given = self._postprocessor(action)
        self.actions.append(given.float().cpu().numpy())
        return given


def act(
    loaded: LoadedPolicy, env_cfgs: Sequence[Any], request: EvalRequest, listener: Listener
) -> tuple[tuple[int, int], list[Actions]]:
    """Let a policy act as in an evaluation of the request, whose episodes its tasks share.

    Args:
        loaded: The policy.
        env_cfgs: LeRobot's configuration of the environment of each task.
        request: Its episodes, seed and batch size.
        listener: Told of progress.

    Returns:
        Successes and episodes; and the actions of each episode, up to its end.
    """
    from lerobot.envs import close_envs, make_env_pre_post_processors

    episodes: list[Episode] = []
    actions: list[Actions] = []
    count = -(-request.episodes // len(env_cfgs))
    for env_cfg in env_cfgs:
        environments = build_environments(env_cfg, min(batch_size(request, env_cfg), count), use_async=False)
        processors = make_env_pre_post_processors(env_cfg, loaded.config)
        try:
            for task, vec in environments:
                batch = vec.num_envs  # fewer than asked for where memory is short
                for first in range(0, count, batch):
                    kept = _Kept(loaded.postprocessor)
                    part = run_task(
                        task,
                        vec,
                        replace(loaded, postprocessor=kept),
                        processors,
                        episodes=min(batch, count - first),
                        seed=request.seed + first,
                        film=Film(Path(), 0, 1),
                        listener=listener,
                    )
                    together = np.stack(kept.actions, 1)
                    actions += [together[i, : episode.length] for i, episode in enumerate(part.episodes)]
                    episodes += part.episodes
        finally:
            close_envs([vec for _, vec in environments])
    return (sum(episode.success for episode in episodes), len(episodes)), actions


def check_actions(acted: Sequence[Actions], recorded: Recorded, *, succeeds: bool) -> Finding:
    """Whether the policy acts in the environment as was recorded, up to the length of a recorded episode.

    How far a single recorded episode is from all others says what is usual. A policy that mostly ``succeeds`` may act
    in its own way.
    """
    everything, spread = np.concatenate(recorded.by_episode(ACTION)), recorded.spread(ACTION)
    length = int(np.median([row.length for row in recorded.rows]))
    ours = np.concatenate([actions[:length] for actions in acted])
    far = _distance(ours, everything) / spread
    each = [recorded.of(ACTION, row) for row in recorded.rows]
    usual = np.max([_distance(values, everything) / spread for values in each if values is not None], 0)
    names = recorded.joints(ACTION)
    worst = int(np.argmax(far / np.maximum(usual, 1e-3)))
    outside = float(((ours < everything.min(0)) | (ours > everything.max(0))).mean(0)[worst])
    evidence = {"distances": {n: round(float(f), 4) for n, f in zip(names, far, strict=True)}}
    evidence |= {"within_the_data": {n: round(float(u), 4) for n, u in zip(names, usual, strict=True)}}
    text = (
        f"{names[worst]} is {far[worst]:.2g} of its spread from the recorded actions (a recorded episode up to "
        f"{usual[worst]:.2g}), {outside:.0%} outside of their range"
    )
    if succeeds:
        return passed("weights", "actions", f"in the environment the policy succeeds; its {text}", **evidence)
    if far[worst] > _MUCH * usual[worst]:
        line = f"in the environment the policy acts unlike the data: {text}"
        return undecided("weights", "actions", line, **evidence)
    return passed("weights", "actions", f"in the environment the policy acts as in the data: {text}", **evidence)


def _distance(a: Actions, b: Actions) -> NDArray[np.float64]:
    """Wasserstein distance of each joint's values, `[A]`."""
    at = np.linspace(0, 1, 101)
    return np.abs(np.quantile(a, at, axis=0) - np.quantile(b, at, axis=0)).mean(0)


def histograms_of(actions: Mapping[str, Sequence[Actions]], recorded: Recorded) -> list[Histogram]:
    """Joint by joint the shares of actions by value.

    Args:
        actions: Whose actions to those of episodes; all in common bins.
        recorded: For the joints' names.
    """
    joined = {whose: np.concatenate(list(episodes)) for whose, episodes in actions.items() if episodes}
    found = []
    for d, name in enumerate(recorded.joints(ACTION)):
        values = {whose: numbers[:, d][np.isfinite(numbers[:, d])] for whose, numbers in joined.items()}
        low, high = min(v.min() for v in values.values()), max(v.max() for v in values.values())
        edges = np.linspace(low, high if high > low else low + 1e-6, _BINS + 1)
        shares = {whose: (np.histogram(v, edges)[0] / len(v)).round(5).tolist() for whose, v in values.items()}
        found.append(Histogram(name, edges.round(6).tolist(), shares))
    return found
