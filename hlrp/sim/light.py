"""Light rendering for MuJoCo environments: one camera at a chosen size, without what makes software rendering slow."""

# ruff: noqa: E402  (the OpenGL backend has to be chosen before mujoco is imported, in worker processes too)
from hlrp.sim.rendering import configure_gl

configure_gl()

import atexit
import weakref
from functools import lru_cache

import mujoco
import numpy as np

_SHAKE_HZ = (0.3, 0.8, 1.7)


def lighten(model: mujoco.MjModel, size: int, *, shadows: bool, multisampling: bool) -> None:
    """Drop what makes software rendering slow: a 4096-pixel shadow map, reflections, multisampling, big buffers."""
    if not shadows:
        model.vis.quality.shadowsize = 0
        model.light_castshadow[:] = 0
        model.mat_reflectance[:] = 0.0
    if not multisampling:
        model.vis.quality.offsamples = 0
    model.vis.global_.offwidth = model.vis.global_.offheight = size


class Frames:
    """Draws a model's frames through MuJoCo's own renderer.

    Gymnasium's draws into whichever OpenGL context is current. With several environments in one process, as in a
    `SyncVectorEnv`, that is another one's: black frames where their sizes differ.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, size: int, camera_name: str) -> None:
        self._model = model
        self._data = data
        self._size = size
        self._camera_name = camera_name
        self._renderer: mujoco.Renderer | None = None
        self.black = False

    def render(self, _render_mode: str = "rgb_array") -> np.ndarray:
        """Frame [S, S, 3] uint8 of the current state; zeros, at no cost, while `black` is set."""
        if self.black:
            return np.zeros((self._size, self._size, 3), np.uint8)
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self._model, self._size, self._size, max_geom=1000)
            _close_frames_at_exit()
            _open_frames.add(self)
        self._renderer.update_scene(self._data, self._camera_name)
        return self._renderer.render()

    def close(self) -> None:
        """Free the OpenGL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
            _open_frames.discard(self)


_open_frames: "weakref.WeakSet[Frames]" = weakref.WeakSet()


def _close_open_frames() -> None:
    for frames in list(_open_frames):
        frames.close()


@lru_cache(maxsize=1)
def _close_frames_at_exit() -> None:
    # Exit handlers run last in, first out: after the first frame, ours is registered later than the one that ends EGL,
    # so contexts are freed while there is still a display to free them on.
    atexit.register(_close_open_frames)


class CameraShake:
    """A camera that drifts as if held by hand: slow sines along each axis, whose phases the episode's seed decides.

    Args:
        metres: How far it drifts at most; 0: it stands still.
    """

    def __init__(self, metres: float) -> None:
        self._metres = metres
        self._random = np.random.default_rng()
        self._phases: np.ndarray = np.zeros((len(_SHAKE_HZ), 3))

    def begin(self, seed: int | None) -> None:
        """Draw the phases of a new episode."""
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self._phases = self._random.uniform(0, 2 * np.pi, (len(_SHAKE_HZ), 3))

    def move(
        self, model: mujoco.MjModel, data: mujoco.MjData, camera_name: str, home: np.ndarray, step: int, fps: int
    ) -> None:
        """Put the camera where it is after so many steps of an episode, around ``home`` [3] in metres."""
        if not self._metres:
            return
        turns = 2 * np.pi * np.asarray(_SHAKE_HZ)[:, None] * step / fps
        model.cam_pos[model.camera(camera_name).id] = home + self._metres * np.sin(turns + self._phases).mean(0)
        mujoco.mj_camlight(model, data)
