"""Fixtures shared by all rooms' tests."""

import faulthandler
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

# Nothing in a test may reach a hub; a download attempt is a bug that must show.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests share two cores with their own subprocesses: a second thread of each would be waited for, and must not spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))
# A test command that was started in the background, or under nohup, hands on that these are ignored; whatever the tests
# start must not inherit it.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_runtest_call(item: pytest.Item) -> None:
    """Undo what other packages leave behind.

    SVT-AV1, run as root, makes the calling thread a realtime one; every process started from it would be one too, and
    take both cores from all others. After a training Lightning takes pytest's handlers of crashes away: a worker that
    dies would not say where.
    """
    faulthandler.disable()  # or it thinks that they are there
    faulthandler.enable(item.config.stash[fault_handler_stderr_fd_key])
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture(scope="session")
def g1_root() -> Path:
    """Real robot episodes (Unitree G1, 240x320, 30 fps); kept beside the checkout, so absent for most people."""
    root = Path(__file__).resolve().parents[2] / "shared" / "data" / "g1_pick_bottle"
    if not (root / "meta" / "info.json").is_file():
        pytest.skip("the G1 episodes are not on this machine")
    return root


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short episodes of a moving square with real encoded video; see `make_dataset`."""
    from make_dataset import make_dataset

    return make_dataset(tmp_path_factory.mktemp("data") / "toy")
