"""Running one task's episodes through LeRobot's rollout, keeping numbers and the videos that are asked for."""

import contextlib
import time
from pathlib import Path
from typing import Any

from hlrp.compat import evaluation_without_bars
from hlrp.evaluation.environment import without_prints
from hlrp.evaluation.frames import FramesOnDemand
from hlrp.evaluation.policy import LoadedPolicy
from hlrp.evaluation.request import Episode, Listener, TaskResult

# Frames of a running batch are held until its outcomes are known; beyond this, fewer of its episodes are filmed.
FRAME_BUDGET_BYTES = 1 << 30


class Film:
    """Keeps frames of the running batch while videos of an outcome are still wanted, and writes the first of each.

    Args:
        folder: Where the videos of this task go; made when the first is written.
        wanted: Videos of failures, and as many of successes.
        fps: Frames per second of the videos.
    """

    def __init__(self, folder: Path, wanted: int, fps: int) -> None:
        self._folder, self._fps = folder, fps
        self._left = {True: wanted, False: wanted}
        self._frames: list[list[Any]] = []
        self._over: list[bool] = []
        self.written: list[Path] = []

    @property
    def wanted(self) -> bool:
        """Whether any outcome still lacks a video."""
        return any(self._left.values())

    def begin(self, count: int) -> None:
        """Start a batch whose first ``count`` environments are episodes."""
        self._frames = [[] for _ in range(count)]
        self._over = [False] * count

    def capture(self, vec: Any) -> None:
        """Add the current frame of every filmed environment whose episode still runs (or just ended)."""
        if hasattr(vec, "envs"):
            for i, (env, frames) in enumerate(zip(vec.envs, self._frames, strict=False)):
                if not self._over[i]:
                    frames.append(env.render())
                    self._over[i] = env.is_frozen
        else:
            for frame, frames in zip(vec.call("render"), self._frames, strict=False):
                frames.append(frame)
        self._limit(vec)

    def _limit(self, vec: Any) -> None:
        if self._frames and len(self._frames[0]) == 1:
            longest = int(vec.call("_max_episode_steps")[0]) + 1
            allowed = max(1, FRAME_BUDGET_BYTES // (int(self._frames[0][0].nbytes) * longest))
            del self._frames[allowed:]

    def finish(self, episodes: list[Episode]) -> None:
        """Write what is still wanted of the batch; forget the rest."""
        from lerobot.utils.io_utils import write_video

        for episode, frames in zip(episodes, self._frames, strict=False):
            if self._left[episode.success] <= 0 or not frames:
                continue
            self._left[episode.success] -= 1
            self._folder.mkdir(parents=True, exist_ok=True)
            outcome = "success" if episode.success else "failure"
            path = self._folder / f"episode_{episode.index:03d}_{outcome}.mp4"
            partial = path.with_name(f".{path.stem}.partial.mp4")
            # One frame before the first step, one after each.
            write_video(partial, frames[: episode.length + 1], self._fps)
            partial.replace(path)
            self.written.append(path)
        self._frames = []


def _batch_episodes(task: str, first: int, seeds: list[int], data: dict[str, Any]) -> list[Episode]:
    """Episodes of one rollout; what an environment does after its episode's end is not counted."""
    episodes = []
    for i, seed in enumerate(seeds):
        length = int(data["done"][i].int().argmax()) + 1
        episodes.append(
            Episode(
                task=task,
                index=first + i,
                seed=seed,
                success=bool(data["success"][i, :length].any()),
                total_reward=float(data["reward"][i, :length].double().sum()),
                length=length,
            )
        )
    return episodes


def run_task(
    task: str,
    vec: Any,
    loaded: LoadedPolicy,
    env_processors: tuple[Any, Any],
    *,
    episodes: int,
    seed: int,
    film: Film,
    listener: Listener,
) -> TaskResult:
    """Evaluate ``episodes`` episodes, the i-th reset with ``seed + i``, and return their outcomes.

    Torch's, NumPy's and Python's random numbers start from ``seed``, so a task's result does not depend on which tasks
    ran before. Observations are not kept, and frames that the policy will not read are not drawn, where that is known.
    """
    import torch
    from lerobot.scripts.lerobot_eval import rollout
    from lerobot.utils.random_utils import set_seed

    set_seed(seed)
    start = time.monotonic()
    result = TaskResult(task, [])
    listener.started(task, episodes)
    device = torch.device(loaded.config.device)
    env = FramesOnDemand(vec, loaded.policy)
    amp = torch.autocast(device_type=device.type) if loaded.config.use_amp else contextlib.nullcontext()

    def after_step(env: Any) -> None:
        listener.stepped(task)
        if film.wanted:
            film.capture(env)

    with torch.no_grad(), amp, evaluation_without_bars(), without_prints():
        for first in range(0, episodes, vec.num_envs):
            seeds = [seed + first + i for i in range(vec.num_envs)]
            count = min(vec.num_envs, episodes - first)
            film.begin(count)
            data = rollout(
                env,
                loaded.policy,
                *env_processors,
                loaded.preprocessor,
                loaded.postprocessor,
                seeds=seeds,
                render_callback=after_step,
            )
            batch = _batch_episodes(task, first, seeds[:count], data)
            film.finish(batch)
            result.episodes += batch
            listener.finished(task, len(result.episodes), sum(e.success for e in result.episodes))
    result.videos = [str(p) for p in film.written]
    result.seconds = time.monotonic() - start
    return result
