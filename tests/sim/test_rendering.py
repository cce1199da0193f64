"""Choice and probe of the OpenGL backend."""

import os
import sys
from pathlib import Path

import pytest

from hlrp.errors import UserError
from hlrp.sim import rendering


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "hlrp"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has a default")
def test_a_users_backend_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert rendering.configure_gl() == "osmesa" == os.environ["MUJOCO_GL"]
    monkeypatch.delenv("MUJOCO_GL")
    assert rendering.configure_gl() == "egl" == os.environ["MUJOCO_GL"]


def test_a_working_probe_is_remembered(cache: Path) -> None:
    rendering.probe_rendering()
    assert len(list(cache.iterdir())) == 1
    # No process can start and answer within a microsecond: a second probe would raise.
    rendering.probe_rendering(timeout_s=1e-6)


def test_a_wrong_backend_is_named_and_not_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    with pytest.raises(UserError) as error:
        rendering.probe_rendering()
    assert error.value.where == "MUJOCO_GL=nonsense" and "egl, osmesa, glfw" in str(error.value.fix)
    assert not cache.exists()


def test_a_hanging_probe_ends_in_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(UserError, match="no frame within") as error:
        rendering.probe_rendering(timeout_s=0.05)
    assert "libegl1" in str(error.value.fix)
    assert not cache.exists()
