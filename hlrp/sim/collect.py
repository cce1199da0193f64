"""Recording demonstrations of scripted experts: which attempts, in how many processes, and where they end up."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hlrp.errors import Interrupted, UserError, suggest
from hlrp.files import new_folder
from hlrp.outputs import check_new_output, disk_error
from hlrp.processes import SignalError, leave_closed_terminal, signal_handlers, stop_signals
from hlrp.ranks import cores
from hlrp.sim.attempts import Attempts
from hlrp.sim.catalog import (
    MAX_CAMERA_SHAKE,
    MAX_IMAGE_SIZE,
    MIN_IMAGE_SIZE,
    envs_catalog,
    expand_tasks,
    recording_of,
    require_installed,
)
from hlrp.sim.dataset import SCHEMA_VERSION, build_dataset
from hlrp.sim.interface import Recording
from hlrp.sim.memory import fitting
from hlrp.sim.pool import ExpertPool, run_apart
from hlrp.sim.rendering import probe_rendering
from hlrp.sim.staging import Staging, partial_path


@dataclass(frozen=True)
class CollectRequest:
    """What to record.

    Attributes:
        output: Folder of the dataset; must not exist, its parent must.
        tasks: Task names or groups; each entry may be a comma list.
        episodes: Successful episodes per task, at least 1.
        env: A simulator with an expert, by LeRobot's type or this project's light one (the same here).
        image_size: Side of the square frames in pixels; None for the simulator's.
        noise: Standard deviation of the Gaussian added to actions, in their own units; None for the simulator's.
        seed: Reset seed of each task's first attempt; attempt k uses ``seed + k``.
        workers: Processes; None for one per available core. The result does not depend on it.
        camera_shake: How far in metres the camera drifts, as if held by hand.
    """

    output: Path
    tasks: tuple[str, ...]
    episodes: int = 20
    env: str = "metaworld"
    image_size: int | None = None
    noise: float | None = None
    seed: int = 0
    workers: int | None = None
    camera_shake: float = 0.0

    def check(self) -> list[str]:
        """Return the single task names, having checked everything that can be known before any work.

        Raises:
            UserError: What is wrong with the request.
        """
        recording = recording_of(self.env)
        tasks = expand_tasks(recording.env_type, self.tasks)
        if lacking := [task for task in tasks if recording.tasks and task not in recording.tasks]:
            others = [task for task in tasks if task in recording.tasks]
            fix = f"ask for {','.join(others)}" if others else suggest(lacking[0], recording.tasks)
            raise UserError(f"no scripted expert solves {', '.join(lacking)}", where="--tasks", fix=fix)
        self._check_ranges()
        states = self.attempts.different
        if states is not None and self.episodes > states:
            what = f"a task has {states} first states, and without noise each gives one episode, not {self.episodes}"
            raise UserError(what, where="--episodes", fix=f"ask for {states} or fewer, or give --noise")
        self._check_frames(recording)
        check_new_output(self.output)
        require_installed(recording.env_type)
        return tasks

    @property
    def action_noise(self) -> float:
        """The noise that is asked for, or else the simulator's own."""
        return recording_of(self.env).noise if self.noise is None else self.noise

    @property
    def pixels(self) -> int:
        """The image size that is asked for, or else the simulator's own."""
        return recording_of(self.env).image_size if self.image_size is None else self.image_size

    @property
    def attempts(self) -> Attempts:
        """The attempts at each task. Without noise as many differ as there are first states."""
        states = envs_catalog()[recording_of(self.env).env_type].first_states
        return Attempts(self.episodes, self.seed, None if self.action_noise else states)

    def _check_ranges(self) -> None:
        limits = (
            ("--episodes", self.episodes, 1, 1_000_000),
            ("--image-size", self.pixels, MIN_IMAGE_SIZE, MAX_IMAGE_SIZE),
            ("--noise", self.action_noise, 0.0, 10.0),
            ("--camera-shake", self.camera_shake, 0.0, MAX_CAMERA_SHAKE),
            ("--seed", self.seed, 0, 2**31 - 1),
            ("--workers", 1 if self.workers is None else self.workers, 1, 1024),
        )
        for flag, value, low, high in limits:
            # Written so that a NaN is refused too.
            if not low <= value <= high:
                raise UserError(f"{flag} {value} is out of range", where=flag, fix=f"choose {low} to {high}")
        # AV1 with 4:2:0 colours halves each side.
        if self.pixels % 2:
            what = f"--image-size {self.pixels} is odd, which video encoders refuse"
            raise UserError(what, where="--image-size", fix=f"use {self.pixels + 1}")

    def _check_frames(self, recording: Recording) -> None:
        """Refuse what the evaluation of LeRobot's own type could not show a policy."""
        if recording.env_fields is None:
            return
        if self.pixels != recording.image_size:
            what = f"frames of {recording.env_type} have {recording.image_size} pixels, not {self.pixels}"
            raise UserError(what, where="--image-size", fix="leave --image-size out")
        if self.camera_shake:
            what = f"the camera of {recording.env_type} stands still"
            raise UserError(what, where="--camera-shake", fix="leave --camera-shake out")


@dataclass(frozen=True)
class CollectProgress:
    """How far a recording is.

    Attributes:
        phase: `simulate` or `encode`.
        done: Episodes finished in this phase, those of an earlier, killed command included.
        total: Episodes wanted.
        frames: Frames finished by this command in this phase.
        elapsed_s: Seconds since the phase began.
    """

    phase: str
    done: int
    total: int
    frames: int
    elapsed_s: float


@dataclass(frozen=True)
class CollectResult:
    """What was recorded.

    Attributes:
        output: The dataset's folder.
        episodes: Episodes per task.
        frames: Frames in all.
        failed_attempts: Attempts per task that the expert did not solve.
        simulate_s: Seconds of simulation in this command.
        encode_s: Seconds of writing the dataset.
    """

    output: Path
    episodes: dict[str, int]
    frames: int
    failed_attempts: dict[str, int]
    simulate_s: float
    encode_s: float


Report = Callable[[CollectProgress], None]


def collect(request: CollectRequest, report: Report = lambda _: None) -> CollectResult:
    """Record a LeRobotDataset v3.0 of successful expert episodes.

    Finished episodes are staged in `OUTPUT.partial/`; the same request continues after a kill. The dataset appears
    under its final name only when it is complete.

    Args:
        request: What to record.
        report: Called after each episode.

    Raises:
        UserError: The request cannot be met: see `CollectRequest.check`, unfinished recording with other settings, no
            rendering, no space.
        WorkError: An expert fails too often, or a process died.
        Interrupted: SIGINT or SIGTERM; finished episodes are kept.
    """
    tasks = request.check()
    if envs_catalog()[recording_of(request.env).env_type].needs_gl:
        probe_rendering()
    try:
        with _signals_raise() as check, Staging.open(request.output, _settings(request, tasks)) as staging:

            def checked(progress: CollectProgress) -> None:
                check()
                report(progress)

            return _record(request, tasks, staging, checked)
    except SignalError as stop:
        kept = partial_path(request.output)
        what = f"stopped; finished episodes are kept in {kept}\n  fix:   the same command continues"
        raise Interrupted(what, stop.number) from None
    except OSError as error:
        raise disk_error(error, request.output) from error


def _record(request: CollectRequest, tasks: list[str], staging: Staging, report: Report) -> CollectResult:
    began = time.monotonic()
    _simulate(request, tasks, staging, report)
    simulated = time.monotonic()
    # One episode of each task in turn, so that any stretch of the dataset holds all of them.
    known = {task: request.attempts.that_count(staging.outcomes(task)) for task in tasks}
    kept = {task: request.attempts.kept(outcomes) for task, outcomes in known.items()}
    chosen = [(task, kept[task][index]) for index in range(request.episodes) for task in tasks]
    failed = {task: sum(not ok for ok in outcomes.values()) for task, outcomes in known.items()}
    with new_folder(request.output, temporary=staging.dataset):
        frames = _encode(staging, chosen, _metadata(request, tasks, failed), report)
    staging.discard()
    encoded = time.monotonic()
    counts = dict.fromkeys(tasks, request.episodes)
    return CollectResult(request.output, counts, frames, failed, simulated - began, encoded - simulated)


def _simulate(request: CollectRequest, tasks: list[str], staging: Staging, report: Report) -> None:
    """Run attempts until each task has its successes.

    An attempt starts only while successes and attempts under way together are too few. So the attempts made are those
    that one process would make one after another, whatever the number of processes.
    """
    attempts = request.attempts
    known = {task: attempts.that_count(staging.outcomes(task)) for task in tasks}
    began, frames, total = time.monotonic(), 0, request.episodes * len(tasks)

    def successes() -> int:
        return sum(sum(outcomes.values()) for outcomes in known.values())

    for task in tasks:
        attempts.check(task, known[task])
    if successes() == total:
        return
    recording = recording_of(request.env)
    workers = min(request.workers or cores(), total - successes())
    workers = fitting(workers, recording.process_gib, recording.process_gib, "recording processes")
    report(CollectProgress("simulate", successes(), total, 0, 0.0))
    switches: dict[str, Any] = {"image_size": request.pixels, "episode_length": recording.episode_length}
    if recording.env_fields is None:
        switches |= {"camera_name": recording.camera_name, "camera_shake": request.camera_shake}
    with ExpertPool(workers, staging.root, recording, switches, request.action_noise) as pool:
        under_way: dict[str, set[int]] = {task: set() for task in tasks}
        while successes() < total:
            while pool.has_idle and (job := attempts.next_job(known, under_way)):
                under_way[job.task].add(job.number)
                pool.submit(job)
            for outcome in pool.collect():
                job = outcome.job
                under_way[job.task].discard(job.number)
                known[job.task][job.number] = outcome.success
                frames += outcome.frames
                attempts.check(job.task, known[job.task])
                report(CollectProgress("simulate", successes(), total, frames, time.monotonic() - began))


def _encode(staging: Staging, chosen: list[tuple[str, int]], metadata: dict[str, Any], report: Report) -> int:
    began, done, frames = time.monotonic(), 0, 0

    def count(episode_frames: int) -> None:
        nonlocal done, frames
        done, frames = done + 1, frames + episode_frames
        report(CollectProgress("encode", done, len(chosen), frames, time.monotonic() - began))

    run_apart(build_dataset, (staging.root, chosen, metadata), staging.log, count)
    return frames


def _settings(request: CollectRequest, tasks: list[str]) -> dict[str, Any]:
    """Everything that the recorded episodes depend on; the number of processes is not part of it."""
    wanted = {key: value for key, value in asdict(request).items() if key not in ("output", "workers", "env")}
    recording = recording_of(request.env)
    return {
        **wanted,
        "cameras": list(recording.cameras.values()),
        "image_size": request.pixels,
        "noise": request.action_noise,
        "tasks": tasks,
        "versions": {name: version(name) for name in recording.packages},
    }


def _metadata(request: CollectRequest, tasks: list[str], failed: dict[str, int]) -> dict[str, Any]:
    recording = recording_of(request.env)
    packages = ("lerobot", *recording.packages, "lerobot_policy_felix_bundle")
    return {
        "schema_version": SCHEMA_VERSION,
        "env_type": recording.env_type,
        "camera_name": recording.camera_name,
        "image_size": request.pixels,
        "tasks": tasks,
        "noise": request.action_noise,
        "camera_shake": request.camera_shake,
        "seed": request.seed,
        "failed_attempts": failed,
        "versions": {name: version(name) for name in packages},
    }


@contextmanager
def _signals_raise() -> Iterator[Callable[[], None]]:
    """Raise where a signal arrives; what is given raises once more, should a destructor have swallowed the first."""
    received: list[int] = []

    def check() -> None:
        if received:
            raise SignalError(received[0])

    wanted = stop_signals()

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        # A second signal must not break into the clean-up; it takes seconds at most.
        for each in wanted:
            signal.signal(each, signal.SIG_IGN)
        leave_closed_terminal()
        raise SignalError(number)

    with signal_handlers(stop, wanted):
        yield check
