"""A policy that drives a robot through LeRobot's control loop: in this process, or behind a server."""

import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lerobot.processor import RelativeActionsProcessorStep, make_default_processors
from lerobot.rollout import (
    InferenceEngine,
    RolloutConfig,
    RolloutContext,
    RTCInferenceConfig,
    SyncInferenceConfig,
    create_inference_engine,
)
from lerobot.rollout.context import (
    DatasetContext,
    HardwareContext,
    PolicyContext,
    ProcessorContext,
    RuntimeContext,
)
from lerobot.rollout.inference.rtc import supports_rtc_inference
from lerobot.rollout.robot_wrapper import ThreadSafeRobot
from lerobot.rollout.strategies.base import BaseStrategy
from lerobot.utils.feature_utils import build_dataset_frame, hw_to_dataset_features
from lerobot.utils.robot_utils import precise_sleep

from hlrp.camera_names import NAMED
from hlrp.errors import UserError, WorkError
from hlrp.evaluation.frames import queue_is_known

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from hlrp.deploy.client import PolicyClient
    from hlrp.deploy.rollout.checks import RobotSide
    from hlrp.deploy.served import Served

_BACK_HZ = 50


@dataclass
class Driver:
    """A policy that may act, whichever way it is reached.

    Args:
        metadata: What it says of itself, in `hlrp serve`'s words.
        name: Run, checkpoint or address, as the user gave it.
        served: The policy, in this process; None: it is behind ``client``.
        client: The connection to it.
    """

    metadata: dict[str, Any]
    name: str
    served: "Served | None" = None
    client: "PolicyClient | None" = None


class WatchedRobot(ThreadSafeRobot):
    """A robot that counts the actions it is sent, and takes none that is not finite."""

    def __init__(self, robot: Any) -> None:
        super().__init__(robot)
        self.begin()

    def begin(self) -> None:
        """Count anew."""
        self.sent, self._first, self._last = 0, 0.0, 0.0

    @property
    def rate(self) -> float:
        """Actions per second since the first."""
        return (self.sent - 1) / (self._last - self._first) if self.sent > 1 else 0.0

    def send_action(self, action: dict[str, Any]) -> Any:
        """As the robot's own.

        Raises:
            WorkError: A number is not finite; the robot keeps its last target.
        """
        wrong = [name for name, value in action.items() if not np.isfinite(value)]
        if wrong:
            raise WorkError(f"the policy gave actions that are not finite ({', '.join(wrong)}); they were not sent")
        done = super().send_action(action)
        self.sent, self._last = self.sent + 1, time.monotonic()
        self._first = self._first if self.sent > 1 else self._last
        return done


class RemoteEngine(InferenceEngine):
    """Actions of a policy behind `hlrp serve`, chunk by chunk.

    Args:
        client: The connection.
        metadata: What its policy reads.
        task: The instruction, for one that reads it.
    """

    def __init__(self, client: "PolicyClient", metadata: dict[str, Any], task: str) -> None:
        self._client, self._names = client, list(metadata["observation"])
        self._prompt = {} if metadata["prompt"] == "unused" or not task else {"prompt": task}
        self.reset()

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Nothing to stop."""

    def reset(self) -> None:
        """Begin an episode."""
        self._queued: deque[Any] = deque()
        self._fresh = True

    def get_action(self, obs_frame: dict[str, Any] | None) -> torch.Tensor | None:
        """The next action `[A]`; asks the server where none is left of its last answer.

        Raises:
            WorkError: The server refuses, is gone, or answers no actions.
        """
        if obs_frame is None:
            return None
        if not self._queued:
            # Of a policy of a mixture not all cameras need be there; what it cannot do without, its server says.
            shown = {name: obs_frame[name] for name in self._names if name in obs_frame}
            actions = self._client.infer({**shown, **self._prompt, "reset": self._fresh}).get("actions")
            if not isinstance(actions, np.ndarray) or actions.ndim != 2 or not len(actions):
                raise WorkError("the server answers with no actions")
            self._fresh = False
            self._queued.extend(torch.from_numpy(np.array(actions)))
        return self._queued.popleft()


class TrialStrategy(BaseStrategy):
    """LeRobot's autonomous control loop, one trial after another on a robot that stays connected."""

    def trial(self, ctx: RolloutContext) -> None:
        """Reset the policy and let it act until the loop's end: its time, or the event of the context.

        Raises:
            WorkError: Inference failed in its thread.
        """
        self.setup(ctx)
        try:
            self.run(ctx)
        finally:
            ctx.policy.inference.stop()
        if ctx.policy.inference.failed:
            raise WorkError("the policy failed in real-time chunking; the reason is above")

    def go_back(self, ctx: RolloutContext, seconds: float, stopped: "Callable[[], bool]") -> None:
        """Bring the robot to where it stood when it was connected, in a straight line of its joints.

        Args:
            ctx: The trial's.
            seconds: Duration; 0: the robot stays.
            stopped: Asked before each step; once it says yes, the robot stays where it is then. LeRobot's own way back
                asks nobody.
        """
        robot, target = ctx.hardware.robot_wrapper, ctx.hardware.initial_position
        if seconds <= 0 or not target:
            return
        start = {name: value for name, value in robot.get_observation().items() if name in target}
        steps = max(1, round(seconds * _BACK_HZ))
        for step in range(1, steps + 1):
            if stopped():
                return
            robot.send_action({name: value + (target[name] - value) * step / steps for name, value in start.items()})
            precise_sleep(1 / _BACK_HZ)


class TrialConfig(RolloutConfig):
    """LeRobot's settings of a rollout, with a policy that is loaded already."""

    def __post_init__(self) -> None:
        """Nothing: LeRobot's looks for the policy's path among this process's own arguments."""


def features_of(side: "RobotSide", metadata: dict[str, Any]) -> dict[str, Any]:
    """LeRobot's features of what a policy reads of a robot and of what it commands, in the robot's order."""
    read = dict.fromkeys(side.states_for(metadata), float)
    pictures = {
        name.removeprefix(NAMED): shape for name, shape in side.cameras.items() if name in metadata["observation"]
    }
    action = dict.fromkeys(side.action, float)
    return {
        **hw_to_dataset_features({**read, **pictures}, "observation"),
        **hw_to_dataset_features(action, "action"),
    }


def make_context(
    driver: Driver,
    robot: WatchedRobot,
    observation: dict[str, Any],
    features: dict[str, Any],
    config: TrialConfig,
    inference: Any,
    over: "Event",
) -> RolloutContext:
    """LeRobot's context of a rollout with a policy that has acted once, on an observation, without the robot moving.

    Args:
        driver: The policy.
        robot: The robot, connected.
        observation: Of it.
        features: From `features_of`.
        config: Rate, time and instruction.
        inference: LeRobot's configuration: sync or rtc.
        over: Ends the control loop when it is set.

    Raises:
        UserError: The policy cannot act this way.
        WorkError: It fails on the observation.
    """
    read = {name: feature for name, feature in features.items() if name != "action"}
    common = {
        "robot_wrapper": robot,
        "hw_features": read,
        "dataset_features": features,
        "ordered_action_keys": features["action"]["names"],
        "task": config.task,
        "fps": config.fps,
        "shutdown_event": over,
    }
    if driver.served is None:
        assert driver.client is not None
        if isinstance(inference, RTCInferenceConfig):
            raise _needs_process(driver)
        engine: Any = RemoteEngine(driver.client, driver.metadata, config.task)
        parts = (None, None, None)
    else:
        loaded = driver.served.loaded
        parts = (loaded.policy, loaded.preprocessor, loaded.postprocessor)
        names = ("policy", "preprocessor", "postprocessor")
        common |= dict(zip(names, parts, strict=True)) | {"device": str(loaded.config.device)}
        check_inference(driver, inference)
        _set_chunking(loaded.policy, None)
        engine = create_inference_engine(SyncInferenceConfig(), **common)
    _try_once(engine, build_dataset_frame(read, observation, prefix="observation"), features, driver)
    if isinstance(inference, RTCInferenceConfig):
        _set_chunking(parts[0], inference.rtc)
        engine = create_inference_engine(inference, **common)
    initial = {name: value for name, value in observation.items() if name.endswith(".pos")}
    return RolloutContext(
        runtime=RuntimeContext(config, over),
        hardware=HardwareContext(robot, None, initial),
        policy=PolicyContext(*parts, engine),
        processors=ProcessorContext(*make_default_processors()),
        data=DatasetContext(None, features, read, features["action"]["names"]),
    )


def check_inference(driver: Driver, inference: Any) -> None:
    """Refuse a policy that cannot act the way that is asked for, before a robot is connected.

    Raises:
        UserError: Real-time chunking of a policy, server or chunk that does not do it; relative actions without it of a
            policy of which it is not known when it predicts.
    """
    chunking = isinstance(inference, RTCInferenceConfig)
    if driver.served is None:
        if chunking:
            raise _needs_process(driver)
        return
    loaded, kind = driver.served.loaded, driver.metadata["policy"]
    if not chunking:
        # Of the others `hlrp.evaluation.relative_actions` keeps the state that a chunk is relative to.
        relative = any(isinstance(s, RelativeActionsProcessorStep) and s.enabled for s in loaded.preprocessor.steps)
        if relative and not queue_is_known(loaded.policy):
            raise UserError(
                f"it cannot be known when policy {kind!r} predicts, and its actions are relative to the state then",
                where=f"--inference.type=sync, {driver.name}",
                fix="use --inference.type=rtc, or `hlrp serve` it and give the address in place of the run",
            )
        return
    if not supports_rtc_inference(loaded.policy):
        raise UserError(
            f"policy {kind!r} does not do real-time chunking: that guides the denoising steps of a flow, as of "
            "smolvla, the pi family, hlrp_action_expert_direct and hlrp_action_expert_latent",
            where=f"--inference.type=rtc, {driver.name}",
            fix="leave it out: actions are then predicted between two steps",
        )
    chunk, horizon = driver.metadata["chunk_size"], inference.rtc.execution_horizon
    if horizon > chunk:
        raise UserError(
            f"an execution horizon of {horizon} steps is longer than the policy's chunk of {chunk}",
            where=f"--inference.rtc.execution_horizon, {driver.name}",
            fix=f"give --inference.rtc.execution_horizon={max(1, chunk // 2)}",
        )


def _needs_process(driver: Driver) -> UserError:
    return UserError(
        "real-time chunking needs the policy in this process: a server's protocol knows whole chunks alone",
        where=f"--inference.type=rtc, {driver.name}",
        fix="leave it out, or give the run itself",
    )


def _set_chunking(policy: Any, rtc: Any) -> None:
    """Turn real-time chunking on or off; a checkpoint may have been saved with it."""
    if hasattr(policy.config, "rtc_config"):
        policy.config.rtc_config = rtc
    if hasattr(policy, "init_rtc_processor"):
        policy.init_rtc_processor()


def _try_once(engine: Any, frame: dict[str, Any], features: dict[str, Any], driver: Driver) -> None:
    """Have a policy look at a frame: what fails, fails before the robot moves, and the first trial starts warm."""
    engine.reset()
    try:
        action = engine.get_action(frame)
    except (UserError, WorkError):
        raise
    except Exception as error:
        raise WorkError(
            f"the policy fails on the robot's first observation: {type(error).__name__}: {error}\n"
            f"  where: {driver.name}; the robot has not moved"
        ) from error
    count = len(features["action"]["names"])
    if action is None or tuple(action.shape) != (count,) or not bool(torch.isfinite(action).all()):
        shown = None if action is None else [round(float(number), 4) for number in action.flatten()]
        raise WorkError(f"the policy gives no action of {count} finite numbers but {shown}; the robot has not moved")
    engine.reset()


class LateSteps(logging.Filter):
    """Counts LeRobot's warning of every step that came late, in place of showing each."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep what is no such warning."""
        late = "running slower" in record.getMessage()
        self.count += late
        return not late
