"""Fixtures shared by all rooms' tests."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Nothing in a test may reach a hub; a download attempt is a bug that must show.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests share two cores with their own subprocesses: threads that wait must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def hlrp_argv(*args: str | Path) -> list[str]:
    """The installed command, as a list for a subprocess."""
    return [str(Path(sys.executable).with_name("hlrp")), *map(str, args)]


def hlrp(
    *args: str | Path, cwd: Path | None = None, timeout: float = 300, env: dict[str, str] | None = None
) -> Finished:
    """Run the installed command as a user does."""
    done = subprocess.run(
        hlrp_argv(*args),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | (env or {}),
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def assert_user_error(done: Finished, *mentions: str) -> None:
    """One message that mentions all of ``mentions``, exit code 2, no traceback."""
    assert done.code == 2, done
    assert "Traceback" not in done.err + done.out, done.err
    assert done.err.count("error:") == 1, done.err
    for text in mentions:
        assert text in done.err, (text, done.err)


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
