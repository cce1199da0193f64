"""Trials of a policy, or of two in a blind order, on a robot: checks, LeRobot's control loop, outcomes, results."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hlrp.data.columns import read_column
from hlrp.data.dataset_info import DatasetInfo, feature_names, read_dataset
from hlrp.data.episodes import read_episodes
from hlrp.deploy.rollout import checks
from hlrp.deploy.rollout.engines import (
    Driver,
    LateSteps,
    TrialConfig,
    TrialStrategy,
    WatchedRobot,
    check_inference,
    features_of,
    make_context,
)
from hlrp.deploy.rollout.operator import Operator, Stop
from hlrp.deploy.rollout.request import RolloutRequest, Source
from hlrp.deploy.rollout.robot import connected, make_robot, settings_of
from hlrp.deploy.rollout.series import Series, Terms, Trial, unfinished_series
from hlrp.deploy.served import load_served
from hlrp.errors import HlrpError, Interrupted, UserError, WorkError
from hlrp.evaluation.plan import find_run
from hlrp.evaluation.policy import effective_rename_map
from hlrp.evaluation.request import EvalResult
from hlrp.evaluation.units import reading_of
from hlrp.locks import FolderLock
from hlrp.runs import claim_folder, resolve_pretrained
from hlrp.runs.directory import name_of_now

_MOST_POSES = 20_000
_EPISODES_OF_POSES = 50
_NAME = "rollout"


def rollout(request: RolloutRequest, operator: Operator, stop: Stop, log: Callable[[str], None]) -> EvalResult:
    """Check that robot and policies fit, run the trials that the series lacks, and write `results.json`.

    Args:
        request: What to run.
        operator: Says when a trial may begin and how it went.
        stop: Takes signals over while trials run; the one that ``operator`` waits by.
        log: Given a line at a time.

    Returns:
        Results of the trials so far; with the comparison where the series is complete.

    Raises:
        UserError: Robot and policy do not fit, or something asked for is not there; the robot has not moved.
        WorkError: Robot or policy failed; trials that had ended are kept.
        Interrupted: By a signal; trials that had ended are kept, and the robot is disconnected.
    """
    with contextlib.ExitStack() as stack:
        sources = [request.policy, *([request.against] if request.against else [])]
        drivers = [_driver(source, request, stack, log) for source in sources]
        for driver in drivers:
            check_inference(driver, request.inference)
        robot = make_robot(request.robot)
        side = checks.RobotSide.of(robot)
        fps, warnings = _check_before_connecting(request, drivers, side, log)
        data = _data(request, drivers)
        terms = _terms(request, drivers, sources, fps, _task(request, drivers, data))
        series = stack.enter_context(_series(request, terms, log))
        if series.next() is not None:
            stack.enter_context(connected(robot, log))
            session = _Session(request, drivers, robot, side, terms, stop)
            warnings += session.prepare(data)
            for text in warnings:
                log(f"warning: {text}")
            series.warn(warnings)
            with stop, operator:
                session.run(series, operator, log)
        result = series.finish()
    if stop.number is not None:
        left = series.total - series.done
        raise Interrupted(
            f"interrupted: {series.done} trials are kept in {result.folder}; run it again for the other {left}",
            stop.number,
        )
    return result


def _driver(source: Source, request: RolloutRequest, stack: contextlib.ExitStack, log: Callable[[str], None]) -> Driver:
    log(f"policy   {source.name}")
    if source.path is None:
        # Only this needs the packages of the extra `serve`.
        from hlrp.deploy.client import PolicyClient

        client: PolicyClient = stack.enter_context(
            PolicyClient(str(source.address), token=request.token, certificate=request.certificate)
        )
        said = client.metadata
        if not isinstance(said.get("observation"), dict) or not isinstance(said.get("action"), dict):
            raise UserError(
                "the server does not say what its policy reads", where=source.name, fix="start it with `hlrp serve`"
            )
        if request.dataset_root is not None:
            _fill_in(said, read_dataset(None, request.dataset_root, where="--dataset-root"))
        return Driver(said, source.name, client=client)
    served = load_served(
        source.path,
        device=request.device,
        rename=request.rename_map,
        dataset_root=request.dataset_root,
        action_space=request.action_space,
    )
    for text in served.loaded.warnings:
        log(f"warning: {text}")
    return Driver(served.metadata, source.name, served=served)


def _fill_in(said: dict[str, Any], data: DatasetInfo) -> None:
    """Have a server's policy know what its server does not: rate and names, where the data are only here."""
    said["fps"] = said.get("fps") or data.fps
    for name, feature in ((checks.STATE, said["observation"].get(checks.STATE)), ("action", said["action"])):
        if feature is not None and not feature.get("names"):
            feature["names"] = feature_names(data.features.get(name, {}), feature["shape"][0])


def _check_before_connecting(
    request: RolloutRequest, drivers: list[Driver], side: checks.RobotSide, log: Callable[[str], None]
) -> tuple[float, list[str]]:
    rates, found = set(), []
    for driver in drivers:
        fps, slow = checks.rate_mismatches(side, driver.metadata, request.fps)
        cameras, notes = checks.camera_mismatches(side, driver.metadata, remote=driver.served is None)
        found += [*checks.joint_mismatches(side, driver.metadata), *cameras, *slow]
        rates.add(fps)
        for note in notes:
            log(f"note: {note}")
    warnings = checks.refuse(list(dict.fromkeys(found)), request.allowed)
    if len(rates) > 1:
        raise UserError(
            f"the two policies were trained on other rates: {' and '.join(f'{r:g}' for r in sorted(rates))} steps/s",
            where="--against",
            fix="compare policies of data of the same rate",
        )
    return rates.pop(), warnings


def _data(request: RolloutRequest, drivers: list[Driver]) -> DatasetInfo | None:
    here = next((d.served.data for d in drivers if d.served is not None and d.served.data is not None), None)
    if here is None and request.dataset_root is not None:
        return read_dataset(None, request.dataset_root, where="--dataset-root")
    return here


def _task(request: RolloutRequest, drivers: list[Driver], data: DatasetInfo | None) -> str:
    if request.task is not None:
        return request.task
    # Of a server that was given one, or of an export.
    own = {text for driver in drivers if isinstance(text := driver.metadata.get("task"), str)}
    if len(own) == 1:
        return own.pop()
    if data is not None:
        known = sorted({text for text in read_episodes(data).task if text})
    else:
        known = sorted({text for d in drivers if d.served is not None for text in d.served.reader.known_tasks or ()})
    if len(known) == 1:
        return known[0]
    if any(driver.metadata["prompt"] == "needed" for driver in drivers):
        which = f"there are {len(known)}: {', '.join(map(repr, known[:5]))}" if known else "its data are not here"
        raise UserError(f"the policy reads an instruction, and {which}", where="--task", fix="give --task TEXT")
    return "trial"


def _terms(request: RolloutRequest, drivers: list[Driver], sources: list[Source], fps: float, task: str) -> Terms:
    policies = []
    for driver, source in zip(drivers, sources, strict=True):
        said = driver.metadata
        path = str(resolve_pretrained(source.path.absolute())) if source.path else driver.name
        run = said.get("run") or {}
        told = {"step": run.get("step"), "type": said.get("policy"), "device": said.get("device")}
        more = {"export": run.get("export"), "action_space": said.get("action_space")}
        more = {name: value for name, value in more.items() if value}
        policies.append({"path": path, **told, "weights_sha256": run.get("weights_sha256"), **more})
    own = [effective_rename_map(resolve_pretrained(s.path.absolute()), {}) for s in sources if s.path]
    # A checkpoint's own map is told by the checkpoint.
    renamed = request.rename_map if any(request.rename_map != pairs for pairs in own) else {}
    settings = settings_of(request.robot, "robot") | settings_of(request.inference, "inference")
    return Terms(
        robot=request.robot.type,
        robot_id=request.robot.id,
        fps=fps,
        seconds=request.seconds,
        task=task,
        inference=request.inference.type,
        settings=settings | {f"rename_map.{name}": policy_name for name, policy_name in renamed.items()},
        policies=tuple(policies),
    )


@contextlib.contextmanager
def _series(request: RolloutRequest, terms: Terms, log: Callable[[str], None]) -> Iterator[Series]:
    """The series to go on with or to begin, its folder locked."""
    run = find_run(resolve_pretrained(request.policy.path.absolute())) if request.policy.path else None
    parent = Path("outputs", _NAME) if run is None else run.path / _NAME
    begun = request.output if request.output is not None else unfinished_series(parent, terms, request.episodes)
    with claim_folder(parent / name_of_now()) if begun is None else FolderLock(begun) as lock:
        series = Series(lock.folder, terms, request.episodes, seed=request.seed)
        if series.done:
            idle = "" if series.next() is not None else "; nothing was run"
            log(f"goes on with {lock.folder}: {series.done} of {series.total} trials are done{idle}")
            if request.output is None:
                log("         for a new series give --output")
        yield series


class _Session:
    """The policies and a connected robot."""

    def __init__(
        self,
        request: RolloutRequest,
        drivers: list[Driver],
        robot: Any,
        side: checks.RobotSide,
        terms: Terms,
        stop: Stop,
    ) -> None:
        self._request, self._drivers, self._side = request, drivers, side
        self._robot, self._stop = WatchedRobot(robot), stop
        self._config = TrialConfig(
            robot=request.robot, fps=terms.fps, duration=terms.seconds, task=terms.task, play_sounds=False
        )
        self._strategy = TrialStrategy(self._config.strategy)
        self._contexts: list[Any] = []

    def prepare(self, data: DatasetInfo | None) -> list[str]:
        """Compare what the robot reports with the data, and have each policy look once; the robot does not move.

        Returns:
            Warnings about mismatches that the user allows.
        """
        observation = self._robot.get_observation()
        found = list(checks.picture_mismatches(self._side, observation))
        for driver in self._drivers:
            found += self._units(driver, observation, data)
        warnings = checks.refuse(list(dict.fromkeys(found)), self._request.allowed)
        for driver in self._drivers:
            features = features_of(self._side, driver.metadata)
            over = self._stop.trial_over
            self._contexts.append(
                make_context(driver, self._robot, observation, features, self._config, self._request.inference, over)
            )
        return warnings

    def _units(
        self, driver: Driver, observation: dict[str, Any], data: DatasetInfo | None
    ) -> Iterator[checks.Mismatch]:
        said = driver.metadata["observation"].get(checks.STATE, {})
        names = self._side.states_for(driver.metadata)
        own = data if driver.served is None else driver.served.data
        recorded = _poses(own) if own is not None and checks.STATE in own.features else None
        recorded = recorded if recorded is not None and recorded.shape[1] == len(names) else None
        declared = getattr(self._request.robot, "use_degrees", None)
        reading = reading_of(names, observation, said, recorded=recorded, use_degrees=declared)
        if reading is not None and (problem := reading.problem()):
            fix = "set the robot to the unit of the data, or bring it into a pose of the data"
            yield checks.Mismatch("units", problem, reading.robot_side(), reading.data_side(), fix)

    def run(self, series: Series, operator: Operator, log: Callable[[str], None]) -> None:
        """Trial after trial, until the series is complete, the operator ends it, or a signal does."""
        late = LateSteps()
        loggers = [logging.getLogger(f"lerobot.{name}") for name in ("rollout.strategies.base", "policies.rtc")]
        loggers[0].addFilter(late)
        # That a chunk came a step later than its predecessor is what real-time chunking is made for.
        loggers[1].setLevel(logging.ERROR)
        try:
            while not self._stop.wished and (trial := series.next()) is not None:
                self._stop.trial_over.clear()
                scene = f", scene {trial.scene + 1}" if len(self._drivers) > 1 else ""
                if self._stop.wished or not operator.ready(f"trial {series.done + 1} of {series.total}{scene}"):
                    return
                late.count = 0
                self._trial(series, trial, operator, log, late)
        except HlrpError:
            raise
        except Exception as error:
            raise WorkError(
                f"the trial broke off: {type(error).__name__}: {error}\n"
                f"  {series.done} of {series.total} trials are kept; run it again to go on"
            ) from error
        finally:
            loggers[0].removeFilter(late)

    def _trial(
        self, series: Series, trial: Trial, operator: Operator, log: Callable[[str], None], late: LateSteps
    ) -> None:
        context = self._contexts[trial.side]
        self._robot.begin()
        began = time.monotonic()
        with operator.watching() as said:
            self._strategy.trial(context)
        seconds = time.monotonic() - began
        slow = f", {late.count} of them late" if late.count else ""
        log(f"ended after {seconds:.1f} s: {self._robot.sent} actions at {self._robot.rate:.1f} per second{slow}")
        if not self._robot.sent and not self._stop.wished:
            chunk = self._drivers[trial.side].metadata["chunk_size"]
            lasts = chunk / self._config.fps
            log(
                f"warning: no action was sent: a chunk of {chunk} steps lasts {lasts:.2f} s, and is over before it is "
                "predicted; use a policy with longer chunks, or a faster device"
            )
        outcome = said[0] if said else None if self._stop.wished else operator.outcome()
        if outcome is None:
            return
        series.record(trial, outcome, self._robot.sent, seconds)
        log(outcome.value)
        self._strategy.go_back(context, self._request.return_seconds, lambda: self._stop.wished)


def _poses(data: DatasetInfo) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Recorded states `[N, S]`, of at most `_MOST_POSES` frames."""
    episodes = read_episodes(data).present[:_EPISODES_OF_POSES]
    values = read_column(data, checks.STATE, episodes)
    values = values[np.isfinite(values).all(1)]
    return values[:: max(1, len(values) // _MOST_POSES)]
