"""OpenGL for headless machines: which backend MuJoCo uses, and whether it works before minutes are spent on it."""

import contextlib
import hashlib
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hlrp.errors import UserError

_BACKENDS = ("egl", "osmesa", "glfw")

# One frame through the same calls that a simulator makes; closed by hand, as contexts left to exit print tracebacks.
_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom size="1 1 .1" type="plane" rgba="1 1 1 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
frame = renderer.render()
renderer.close()
print("rendered", int(frame.max()))
"""


def configure_gl() -> str:
    """Set `MUJOCO_GL=egl` on Linux when it is unset; a user's value stays. Call before mujoco is imported.

    Returns:
        The value in force ("" where MuJoCo chooses by itself).
    """
    if sys.platform.startswith("linux") and not os.environ.get("MUJOCO_GL"):
        os.environ["MUJOCO_GL"] = "egl"
    return os.environ.get("MUJOCO_GL", "")


def probe_rendering(timeout_s: float = 10.0) -> None:
    """Render one frame in a subprocess. A success is remembered until the next boot, so that it costs nothing again.

    Raises:
        UserError: The frame failed or did not come within ``timeout_s`` seconds; says what to install.
    """
    backend = configure_gl()
    marker = _marker(backend)
    with contextlib.suppress(OSError):
        if marker.is_file():
            return
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PROBE], capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _failure(backend, f"no frame within {timeout_s:g} s") from error
    if done.returncode != 0 or not done.stdout.startswith("rendered") or done.stdout.split()[1] == "0":
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise _failure(backend, lines[-1].strip() if lines else f"exit code {done.returncode}, black frame")
    # Only a shortcut: where the cache folder cannot be written, the probe runs again next time.
    with contextlib.suppress(OSError):
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def _failure(backend: str, reason: str) -> UserError:
    others = [name for name in _BACKENDS if name != backend]
    if backend and backend not in _BACKENDS:
        fix = f"unset MUJOCO_GL, or set it to one of {', '.join(_BACKENDS)}"
    elif backend == "osmesa":
        fix = "install OSMesa (Debian/Ubuntu: apt-get install libosmesa6), or set MUJOCO_GL=egl"
    elif backend == "glfw":
        fix = "glfw needs a display; without one set MUJOCO_GL=egl (GPU or Mesa) or MUJOCO_GL=osmesa"
    else:
        fix = (
            "install EGL (Debian/Ubuntu: apt-get install libegl1 libgl1 libgl1-mesa-dri; with NVIDIA also the driver's "
            f"EGL library), or set MUJOCO_GL to {' or '.join(others)} (osmesa: apt-get install libosmesa6)"
        )
    return UserError(
        f"OpenGL rendering does not work here: {reason}", where=f"MUJOCO_GL={backend or '(unset)'}", fix=fix
    )


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    import psutil

    return str(int(psutil.boot_time()))


def _marker(backend: str) -> Path:
    from platformdirs import user_cache_path

    try:
        mujoco = version("mujoco")
    except PackageNotFoundError as error:
        raise UserError("mujoco is not installed", fix="pip install -e '.[sim]'") from error
    # Drivers and containers change without a new boot; the library path stands for the container.
    parts = (mujoco, backend, _boot_id(), sys.executable, os.environ.get("LD_LIBRARY_PATH", ""))
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return user_cache_path("hlrp") / f"rendering-{key}.ok"
