"""LIBERO's pick-and-place tasks solved from the simulator's state: find a grasp, lift, carry, let go, try again."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import mujoco
import numpy as np

OPEN, CLOSED = -1.0, 1.0
_GAIN = 16.0  # of position errors in metres; the controller moves the hand up to 5 cm for an action of 1
_TURN_GAIN, _FASTEST_TURN, _FASTEST_TILT = 2.0, 0.6, 0.5
_OPENING = 0.072  # between the open fingers in metres, a little spared
_FINGER = 0.05  # from the middle of a grasp to a finger, in metres
_CLEARANCE = 0.1  # above an object, before and after it is gripped
_LIFT, _OVER_TARGET = 0.15, 0.12
_CARRYING, _LOWERING = 0.7, 0.5  # the largest action while something is in the hand
_SLIPPED = 0.06  # metres that an object moves in the hand before it counts as lost
_ATTEMPTS = 5
_MOST_POINTS = 2000
_BLOCKED = 1.0  # what it costs that nothing of a finger has room
_DOWN = np.array([0.0, 0.0, -1.0])


class Grasp(NamedTuple):
    """Where the hand grips: position [3] in metres, angle of the line through both fingers, heights of the object."""

    position: np.ndarray
    angle: float
    top: float
    bottom: float


class Scene:
    """What the expert reads of the simulator.

    Args:
        env: LIBERO's environment, robosuite's kind.
    """

    def __init__(self, env: Any) -> None:
        self._model: mujoco.MjModel = env.sim.model._model
        self._data: mujoco.MjData = env.sim.data._data
        self.bodies: dict[str, int] = dict(env.obj_body_id)
        self._hand = env.robots[0].eef_site_id
        self._fingers = [self._model.body(f"gripper0_{side}finger").id for side in ("left", "right")]

    @property
    def hand(self) -> np.ndarray:
        """Position [3] between the finger tips in metres."""
        return self._data.site_xpos[self._hand].copy()

    @property
    def pointing(self) -> np.ndarray:
        """Direction [3] in which the hand points."""
        return self._data.site_xmat[self._hand].reshape(3, 3)[:, 2]

    @property
    def finger_angle(self) -> float:
        """Angle of the line through both fingers, seen from above."""
        left, right = self._data.xpos[self._fingers]
        return float(np.arctan2(*(left - right)[1::-1]))

    def position(self, name: str) -> np.ndarray:
        """Position [3] of an object, or of a region of one, in metres."""
        if name in self.bodies:
            return self._data.xpos[self.bodies[name]].copy()
        return self._data.site(name).xpos.copy()

    def blocked(self, places: list[np.ndarray], height: float) -> float:
        """Share of places [2] over which something stands higher than ``height``, as seen from above it."""
        groups, geom, above = np.array([1, 0, 0, 0, 0, 0], np.uint8), np.zeros(1, np.int32), height + _CLEARANCE
        hits = 0
        for place in places:
            distance = mujoco.mj_ray(self._model, self._data, np.append(place, above), _DOWN, groups, 1, -1, geom)
            hits += 0 <= distance < _CLEARANCE
        return hits / len(places)

    def points(self, name: str) -> np.ndarray:
        """Points [N, 3] in metres that span what can be touched of an object."""
        model, data, bodies = self._model, self._data, {self.bodies[name]}
        for body in range(self.bodies[name] + 1, model.nbody):
            if model.body_parentid[body] in bodies:
                bodies.add(body)
        touched = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
        geoms = [geom for geom in np.flatnonzero(touched) if model.geom_bodyid[geom] in bodies]
        found = [data.geom_xpos[g] + self._corners(g) @ data.geom_xmat[g].reshape(3, 3).T for g in geoms]
        points = np.concatenate(found)
        return points[:: -(-len(points) // _MOST_POINTS)]

    def _corners(self, geom: int) -> np.ndarray:
        """Points [N, 3] of a geom in its own frame."""
        model, kind, size = self._model, self._model.geom_type[geom], self._model.geom_size[geom]
        if kind == mujoco.mjtGeom.mjGEOM_MESH:
            mesh = model.geom_dataid[geom]
            first = model.mesh_vertadr[mesh]
            return model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
        if kind in (mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_CAPSULE):
            around = np.linspace(0, 2 * np.pi, 20, endpoint=False)
            circle = size[0] * np.stack([np.cos(around), np.sin(around)], 1)
            return np.concatenate([np.insert(circle, 2, height, axis=1) for height in (-size[1], size[1])])
        half = np.full(3, size[0]) if kind == mujoco.mjtGeom.mjGEOM_SPHERE else size
        return half * (np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, 8).T)


def _turn(angle: float) -> float:
    """The shortest turn that is the same for two fingers: within a quarter of a circle."""
    return float(np.arctan2(np.sin(2 * angle), np.cos(2 * angle)) / 2)


def find_grasp(scene: Scene, name: str, attempt: int) -> Grasp:
    """A grasp of an object from above.

    Across it where it fits between the fingers, else with one finger inside of its rim. Of the angles that remain, the
    one that keeps clear of the neighbours and turns the hand little; later attempts take other ones.

    Args:
        scene: The scene.
        name: The object.
        attempt: How many grasps of it have failed.
    """
    points = scene.points(name)
    top, bottom = points[:, 2].max(), points[:, 2].min()
    flat, middle = points[:, :2], (points[:, :2].max(0) + points[:, :2].min(0)) / 2
    height = max(top - 0.035, bottom + 0.012)
    near = [scene.points(n) for n in scene.bodies if n != name and np.linalg.norm(scene.position(n)[:2] - middle) < 0.3]
    others = np.concatenate([[[9.0, 9.0]], *(p[p[:, 2] > height - 0.01, :2] for p in near)])
    options: list[tuple[float, float, np.ndarray]] = []
    for angle in np.deg2rad(np.arange(-90, 90, 5)):
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        reach = [(flat @ axis).max() + (flat @ axis).min() for axis in (along, across)]
        width, centre = np.ptp(flat @ along), (reach[0] * along + reach[1] * across) / 2
        if width < _OPENING:
            fingers = [centre + side * _FINGER * along + way * across for side in (-1, 1) for way in (-0.01, 0, 0.01)]
            cost = 0.006 * abs(_turn(angle - np.pi / 2)) + 0.1 * width - min(_clearance(others, fingers), 0.025)
            cost += _BLOCKED * scene.blocked(fingers, height)
            options.append((cost, angle, centre))
    if not options:
        height = max(top - 0.03, bottom + 0.012)
        options = _rim_grasps(scene, points[points[:, 2] > top - 0.01, :2], middle, others, height)
    options.sort(key=lambda option: option[0])
    _, angle, place = options[min(6 * attempt, len(options) - 1)]
    return Grasp(np.append(place, height), angle, top, bottom)


def _rim_grasps(
    scene: Scene, rim: np.ndarray, middle: np.ndarray, others: np.ndarray, height: float
) -> list[tuple[float, float, np.ndarray]]:
    """Grasps of a bowl as (cost, angle, place [2]): away from the neighbours, and rather on the robot's side."""
    found = []
    for angle in np.deg2rad(np.arange(0, 360, 15)):
        outwards = np.array([np.cos(angle), np.sin(angle)])
        place = middle + outwards * ((rim @ outwards).max() - middle @ outwards - 0.004)
        aside = np.array([-outwards[1], outwards[0]])
        finger = [place + out * outwards + way * aside for out in (0.03, 0.04, 0.05) for way in (-0.01, 0, 0.01)]
        cost = 0.03 * abs(_turn(angle - np.pi / 2)) + 0.02 * place[0] - min(_clearance(others, finger), 0.06)
        found.append((cost + _BLOCKED * scene.blocked(finger, height), angle, place))
    return found


def _clearance(others: np.ndarray, places: list[np.ndarray]) -> float:
    return float(np.linalg.norm(others[None] - np.stack(places)[:, None], axis=-1).min())


class GraspExpert:
    """Brings the object of a task's goal to where it belongs, and begins again if it is lost.

    Each action is chosen for the state of that moment.

    Args:
        env: LIBERO's environment, at the start of an episode; its goal is one object in or on something.
    """

    def __init__(self, env: Any) -> None:
        self._scene = Scene(env)
        self._relation, self._object, self._target = env.parsed_problem["goal_state"][0]
        self._actions = self._episode()

    def act(self) -> np.ndarray:
        """The next action [7]; after the last one, standing still with an open hand."""
        return next(self._actions, np.array([0, 0, 0, 0, 0, 0, OPEN]))

    def _episode(self) -> Iterator[np.ndarray]:
        for attempt in range(_ATTEMPTS):
            grasp = find_grasp(self._scene, self._object, attempt)
            yield from self._grip(grasp)
            if self._scene.points(self._object)[:, 2].min() > grasp.bottom + 0.03:
                yield from self._place(grasp)
            yield from self._move(self._risen(_CLEARANCE), OPEN, within=0.02, steps=20)

    def _grip(self, grasp: Grasp) -> Iterator[np.ndarray]:
        above = np.append(grasp.position[:2], max(grasp.top + _CLEARANCE, self._scene.hand[2]))
        yield from self._move(lambda: above, OPEN, within=0.012, steps=60, angle=grasp.angle)
        yield from self._move(lambda: grasp.position, OPEN, within=0.006, steps=25, angle=grasp.angle)
        yield from self._move(lambda: grasp.position, CLOSED, within=0, steps=12)
        yield from self._move(self._risen(_LIFT), CLOSED, within=0.03, steps=40, fastest=_CARRYING)

    def _place(self, grasp: Grasp) -> Iterator[np.ndarray]:
        held = grasp.position[2] - grasp.bottom
        drop = 0.06 if self._relation == "in" else 0.012

        def over(height: float) -> Callable[[], np.ndarray]:
            # The object may have shifted in the hand: it is the object that is to be over the target.
            def goal() -> np.ndarray:
                target = self._scene.position(self._target)
                offset = (self._scene.hand - self._scene.position(self._object))[:2]
                return np.append(target[:2] + offset, target[2] + held + height)

            return goal

        carried = max(_OVER_TARGET, grasp.position[2] + _LIFT - self._scene.position(self._target)[2] - held)
        gripped = self._scene.hand - self._scene.position(self._object)
        ways = (
            self._move(over(carried), CLOSED, within=0.015, steps=60, fastest=_CARRYING),
            self._move(over(drop), CLOSED, within=0.01, steps=60, fastest=_LOWERING),
        )
        for action in chain(*ways):
            if np.linalg.norm(self._scene.hand - self._scene.position(self._object) - gripped) > _SLIPPED:
                return
            yield action
        yield from self._move(self._risen(0.0), OPEN, within=0, steps=6)

    def _risen(self, height: float) -> Callable[[], np.ndarray]:
        goal = self._scene.hand - height * _DOWN
        return lambda: goal

    def _move(
        self,
        goal: Callable[[], np.ndarray],
        grip: float,
        *,
        within: float,
        steps: int,
        angle: float | None = None,
        fastest: float = 1.0,
    ) -> Iterator[np.ndarray]:
        """Actions until the hand is within so many metres of the goal, and turned; at most so many steps."""
        for _ in range(steps):
            error = goal() - self._scene.hand
            turn = 0.0 if angle is None else _turn(angle - self._scene.finger_angle)
            if np.linalg.norm(error) < within and abs(turn) < 0.06:
                return
            tilt = np.cross(self._scene.pointing, _DOWN)[:2]
            yield np.concatenate(
                [
                    np.clip(_GAIN * error, -fastest, fastest),
                    np.clip(_TURN_GAIN * tilt, -_FASTEST_TILT, _FASTEST_TILT),
                    [np.clip(_TURN_GAIN * turn, -_FASTEST_TURN, _FASTEST_TURN), grip],
                ]
            )
