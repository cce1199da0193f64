"""Light rendering for MuJoCo environments: one camera at a chosen size, without what makes software rendering slow."""

# ruff: noqa: E402  (the OpenGL backend has to be chosen before mujoco is imported, in worker processes too)
from hlrp.sim.rendering import configure_gl

configure_gl()

import atexit
import weakref
from functools import lru_cache
from typing import Any

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

    Args:
        model: The model.
        data: Its state; what is drawn is always the one of now.
        size: Side of the square frames in pixels.
        camera_name: The camera that is drawn when none is named.
        hidden: Groups of geoms that are not drawn.

    Gymnasium's draws into whichever OpenGL context is current. With several environments in one process, as in a
    `SyncVectorEnv`, that is another one's: black frames where their sizes differ.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        size: int,
        camera_name: str,
        hidden: tuple[int, ...] = (),
    ) -> None:
        self._options = mujoco.MjvOption()
        self._options.geomgroup[list(hidden)] = 0
        self.model = model
        self.data = data
        self._size = size
        self._camera_name = camera_name
        self._renderer: mujoco.Renderer | None = None
        self.black = False

    def render(self, _render_mode: str = "rgb_array") -> np.ndarray:
        """Frame [S, S, 3] uint8 of the current state; zeros, at no cost, while `black` is set."""
        return self.of(self._camera_name)

    def of(self, camera_name: str) -> np.ndarray:
        """The same of a camera of that name."""
        if self.black:
            return np.zeros((self._size, self._size, 3), np.uint8)
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self.model, self._size, self._size, max_geom=1000)
            _close_frames_at_exit()
            _open_frames.add(self)
        self._renderer.update_scene(self.data, camera_name, self._options)
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


class LightEnv:
    """What light environments have in common; a base beside the simulator's own class.

    Frames are drawn on demand, the first camera drifts as if held by hand, and an episode ends honestly: its last frame
    is its own, and a time limit truncates it.
    """

    metadata: dict[str, Any]

    def _set_switches(
        self,
        cameras: tuple[str, ...],
        image_size: int,
        *,
        episode_length: int,
        shadows: bool,
        multisampling: bool,
        camera_shake: float,
    ) -> None:
        """Take the switches. No constructor, as those of the simulators' classes differ, and some build the simulator.

        Args:
            cameras: The simulator's names of the cameras; the first is the one that drifts, and that videos show.
            image_size: Side of the square frames in pixels.
            episode_length: Steps after which an episode is truncated.
            shadows: Draw shadows and reflections.
            multisampling: Smooth edges.
            camera_shake: How far in metres the first camera drifts at most.
        """
        self._light_cameras, self._image_size = cameras, image_size
        self._max_episode_steps = episode_length
        self._shadows, self._multisampling = shadows, multisampling
        self._shake = CameraShake(camera_shake)
        self._elapsed, self._over, self._drawing = 0, False, True
        self._frame: np.ndarray | None = None

    def _draw_from(self, model: mujoco.MjModel, data: mujoco.MjData, hidden: tuple[int, ...] = ()) -> None:
        """Make the model light; frames are drawn from this state from now on."""
        lighten(model, self._image_size, shadows=self._shadows, multisampling=self._multisampling)
        self._frames = Frames(model, data, self._image_size, self._light_cameras[0], hidden)
        self._camera_home = model.camera(self._light_cameras[0]).pos.copy()

    def _begin(self, seed: int | None) -> None:
        """Start an episode."""
        self._shake.begin(seed)
        self._elapsed, self._over = 0, False

    def _count_step(self, terminated: bool) -> bool:
        """Count a step that was made; whether the time limit has come."""
        self._elapsed += 1
        truncated = self._elapsed >= self._max_episode_steps
        self._over = terminated or truncated
        return truncated

    def _aim(self) -> None:
        """Before the pictures of a state: put the camera where it is now, and leave black what nobody looks at."""
        frames, camera, fps = self._frames, self._light_cameras[0], int(self.metadata["render_fps"])
        self._shake.move(frames.model, frames.data, camera, self._camera_home, self._elapsed, fps)
        frames.black = not (self._drawing or self._elapsed == 0 or self._over)

    def _keep(self, pictures: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """After the pictures of a state, that of the first camera first: `render` shows it."""
        self._frame = None if self._frames.black else next(iter(pictures.values()))
        self._frames.black = False
        return pictures

    def draw_frames(self, wanted: bool) -> None:
        """Draw the frames of the next steps, or leave them black; an episode's first and last are always drawn."""
        self._drawing = wanted

    def _film(self) -> np.ndarray:
        """Frame [S, S, 3] uint8 of the first camera, now."""
        return self._frames.render()

    def render(self) -> np.ndarray:
        """Frame [S, S, 3] uint8 of the current state; the one of the last observation, not drawn twice."""
        if self._frame is None:
            self._frame = self._film().copy()
        return self._frame.copy()
