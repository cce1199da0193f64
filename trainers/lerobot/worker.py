"""The process that runs LeRobot's own training: `python -m trainers.lerobot.worker ARGUMENTS OF lerobot-train`.

It is started with `hlrp.processes.child_environment`, so that the current folder's own `trainers/` is none of it.

Nothing heavy is imported at module level: LeRobot spawns its data workers, and each imports this module again.
"""

import json
import os
import select
import signal
import stat
import sys
import threading
import traceback
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from hlrp import compat
from hlrp.devices import choose_device
from hlrp.errors import HlrpError
from hlrp.finite import FiniteLoss, NonFiniteError
from hlrp.processes import StoppedBySignal, StopRequests, stop_signals
from trainers.lerobot.events import (
    ALLOW_DOWNLOAD,
    ASKED_DEVICE,
    ASKED_FILTER,
    ASKED_POLICY,
    MAX_NONFINITE_STEPS,
    SHUFFLING_ASKED,
    SOURCES,
    TF32_OFF,
    Emitter,
)

if TYPE_CHECKING:
    from hlrp.data.policy_mixture import MixtureMetadata


def _stop_with_parent() -> None:
    """Save and stop once the process that reads our output is gone, however it went."""
    if not stat.S_ISFIFO(os.fstat(1).st_mode):
        return

    def watch() -> None:
        pipe = select.poll()
        pipe.register(1, 0)  # errors only: the reading end was closed
        pipe.poll()
        # Whatever is printed from here on would raise in the middle of a step.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="hlrp-parent-watch").start()


def requested_mixture() -> "Callable[[Any], MixtureMetadata] | None":
    """What gives the mixture that this process was started with; None: LeRobot's own dataset is read."""
    if SOURCES not in os.environ:
        return None
    from hlrp.config import DataSection
    from hlrp.data.policy_mixture import MixtureMetadata
    from hlrp.data.source_sections import read_policy_sources
    from trainers.policy_labels import OURS

    data = DataSection.model_validate_json(os.environ[SOURCES])

    @cache
    def of_policy(name: str, image_size: tuple[int, int] | None, states_shown: bool) -> MixtureMetadata:
        masks = name.startswith(OURS)
        return MixtureMetadata(
            read_policy_sources(data, name, masks=masks, image_size=image_size, states_shown=states_shown)
        )

    def of(cfg: Any) -> MixtureMetadata:
        policy = cfg.policy
        size = getattr(policy, "image_size", None)
        shown = bool(getattr(policy, "state_of_unlabelled", False))
        return of_policy(policy.type, None if size is None else tuple(size), shown)

    return of


def _preflight(emit: Emitter, mixture: "Callable[[Any], MixtureMetadata] | None") -> Any:
    from trainers.lerobot.data_hooks import check_policy_features, choose_cameras

    def check(cfg: Any) -> None:
        if os.environ.get(ALLOW_DOWNLOAD) != "1":
            warning = compat.offline_backbone(cfg.policy)
            if warning:
                emit("warning", message=warning)
        if mixture is None:  # which knows its cameras already
            choose_cameras(cfg, json.loads(os.environ.get(ASKED_POLICY, "{}")).get("cameras"))
        check_policy_features(cfg, None if mixture is None else mixture(cfg))

    return check


def main() -> int:
    """Run LeRobot's training with the arguments given, reporting events on standard output.

    Returns:
        0 finished, 1 failed, 2 a mistake in what was asked, 128 + signal when stopped.
    """
    emit = Emitter()
    from trainers.lerobot.command import expand_arguments

    sys.argv[1:] = expand_arguments(sys.argv[1:])
    _stop_with_parent()
    stop = StopRequests()

    def on_signal(number: int, _frame: object) -> None:
        if not stop.training:
            # Nothing is trained yet: there is nothing to save.
            emit("interrupted", signal=number)
            os._exit(128 + number)
        stop.number = number

    for number in stop_signals():
        signal.signal(number, on_signal)
    try:
        _train(emit, stop)
    except StoppedBySignal:
        emit("interrupted", signal=stop.number)
        sys.stdout.flush()
        # Other ranks may be waiting in a collective; leaving the group in order would wait for them.
        os._exit(128 + (stop.number or 0))
    except NonFiniteError as error:
        emit("failed", error=type(error).__name__, message=str(error))
        return error.exit_code
    except HlrpError as error:
        emit("refused", message=str(error), code=error.exit_code, trained=stop.training)
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        emit("failed", error=type(error).__name__, message=str(error))
        return 1
    return 0


def _train(emit: Emitter, stop: StopRequests) -> None:
    """LeRobot's training, from its import to its end."""

    def report(event: str, **fields: Any) -> None:
        if event == "step":
            stop.training = True
        emit(event, **fields)

    _leave_out_packages()
    from lerobot.utils.import_utils import register_third_party_plugins

    emit("imported")
    register_third_party_plugins()
    _check_policy()
    if asked := os.environ.get(ASKED_DEVICE):
        choose_device(asked, where="--device / trainer.device")
    from trainers.lerobot.hooks import install_training_hooks

    loss = FiniteLoss(int(os.environ[MAX_NONFINITE_STEPS]))
    mixture, filtered = requested_mixture(), os.environ.get(ASKED_FILTER)
    options: dict[str, Any] = {"tf32": TF32_OFF not in os.environ}
    if SHUFFLING_ASKED in os.environ:
        options["shuffling"] = os.environ[SHUFFLING_ASKED]
    install_training_hooks(report, stop, _preflight(emit, mixture), loss, mixture, filtered, **options)()


def _leave_out_packages() -> None:
    """A new policy's training does not need all that LeRobot imports; adapters may need peft."""
    policy = json.loads(os.environ.get(ASKED_POLICY, "null"))
    if policy and policy["fresh"] and not policy["adapters"]:
        compat.without_unused_packages(policy["name"])


def _check_policy() -> None:
    """LeRobot and the plugins are imported here anyway: check against them, and leave the list for the next command."""
    from hlrp.catalog import policy_catalog

    catalog = policy_catalog()
    if asked := os.environ.get(ASKED_POLICY):
        policy = json.loads(asked)
        catalog.check_fields(policy["name"], policy["fields"])
        if policy["fresh"]:
            compat.check_policy_values(policy["name"], policy["fields"])


if __name__ == "__main__":
    sys.exit(main())
