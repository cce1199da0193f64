"""Series of trials on a simulated arm, in this process, with a person who follows a script."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arm import FPS, TASK
from lerobot.rollout import SyncInferenceConfig
from lerobot_robot_simarm import SimArm, SimArmConfig

from hlrp.deploy.observations import Request
from hlrp.deploy.rollout.operator import Operator, Outcome, Stop
from hlrp.deploy.rollout.request import RolloutRequest, Source
from hlrp.deploy.rollout.run import rollout
from hlrp.deploy.served import load_served
from hlrp.deploy.session import Session
from hlrp.errors import UserError
from hlrp.evaluation.request import EvalResult


class Scripted(Operator):
    """Presses the key of the next outcome when the arm has been sent so many actions; then ends the series."""

    def __init__(self, stop: Stop, say: Any, outcomes: list[Outcome | None], journal: Path, steps: int) -> None:
        super().__init__(stop, say)
        self.outcomes, self._journal, self._steps = outcomes, journal, steps

    def ready(self, what: str) -> bool:
        self._say(what)
        return bool(self.outcomes)

    def outcome(self) -> Outcome | None:
        return Outcome.FAILURE

    @contextlib.contextmanager
    def watching(self) -> Iterator[list[Outcome]]:
        said: list[Outcome] = []
        before, done = len(actions(self._journal)), threading.Event()

        def press() -> None:
            while len(actions(self._journal)) < before + self._steps and not done.is_set():
                time.sleep(0.005)
            outcome = self.outcomes.pop(0)
            if done.is_set():
                return
            if outcome is None:
                signal.raise_signal(signal.SIGINT)
            else:
                said.append(outcome)
                self._stop.trial_over.set()

        thread = threading.Thread(target=press)
        thread.start()
        try:
            yield said
        finally:
            done.set()
            thread.join(30)


def journal_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def actions(path: Path) -> list[list[float]]:
    """What the arm was sent."""
    return [list(map(float, line.split()[1:])) for line in journal_of(path) if line.startswith("action ")]


class Trials:
    """Runs series on the arm, in this process."""

    def __init__(self, folder: Path) -> None:
        self.journal, self._folder = folder / "journal", folder
        self.log: list[str] = []

    def run(
        self,
        policy: Path | str,
        outcomes: list[Outcome | None],
        *,
        steps: int = 3,
        arm: dict[str, Any] | None = None,
        against: Path | None = None,
        inference: Any = None,
        **fields: Any,
    ) -> EvalResult:
        source = Source(path=policy) if isinstance(policy, Path) else Source(address=policy)
        config = SimArmConfig(calibration_dir=self._folder, journal=self.journal, fps=FPS, **(arm or {}))
        request = RolloutRequest(
            source,
            config,
            inference or SyncInferenceConfig(),
            against=None if against is None else Source(path=against),
            **{"return_seconds": 0.0, "output": self._folder / "results", "device": "cpu", **fields},
        )
        stop = Stop()
        operator = Scripted(stop, self.log.append, outcomes, self.journal, steps)
        return rollout(request, operator, stop, self.log.append)

    def refused(self, *args: Any, error: type[Exception] = UserError, **fields: Any) -> str:
        """The message of a refusal; the arm has not moved and is nobody's."""
        with pytest.raises(error) as refusal:
            self.run(*args, **fields)
        lines = journal_of(self.journal)
        assert lines in ([], ["connect", "disconnect"]), lines
        assert not (self._folder / "results" / "results.json").exists() or lines
        return str(refusal.value)


def first_chunk(run: Path, *, swapped: bool = False) -> np.ndarray:
    """What the policy does from the arm's first pose on, as `select_action` in process says it."""
    arm = SimArm(SimArmConfig(calibration_dir=run, fps=FPS))
    arm.connect()
    seen = arm.get_observation()
    arm.disconnect()
    names = ("front", "wrist")
    shown = zip(names, reversed(names) if swapped else names, strict=True)
    arrays = {f"observation.images.{name}": seen[given].transpose(2, 0, 1).copy() for name, given in shown}
    arrays["observation.state"] = np.array([seen[f"{j}.pos"] for j in arm.config.joints], np.float32)
    return Session(load_served(run, device="cpu").loaded, alone=True).act(Request(arrays, TASK))
