"""Scripted experts for ALOHA's two tasks: waypoints of the grippers, followed by inverse kinematics of both arms."""

from itertools import pairwise
from typing import NamedTuple

import mujoco
import numpy as np
from gym_aloha.constants import START_ARM_POSE

PLAN_STEPS = 400
_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
_TIP = np.array([0.145, 0.0, 0.0])  # between the finger tips, in the frame of gripper_link
_ACROSS, _UP = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])  # from the left arm to the right one
_TURN_WEIGHT = 0.3  # metres that an error of one radian counts for
_DAMPING = 1e-4
_TOLERANCE = 5e-4
_ITERATIONS = 12
_LARGEST_STEP = 0.2
OPEN, CLOSED = 1.0, 0.0


class Waypoint(NamedTuple):
    """Where a gripper is to be at a step: position [3] in metres, orientation as quaternion [4], opening in [0, 1]."""

    step: int
    position: np.ndarray
    orientation: np.ndarray
    opening: float


class _Arm:
    """One arm in a copy of the simulator's data that only inverse kinematics moves."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, side: str) -> None:
        self._model, self._data = model, data
        self._body = model.body(f"vx300s_{side}/gripper_link").id
        joints = [model.joint(f"vx300s_{side}/{name}") for name in _JOINTS]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dof = np.array([joint.dofadr[0] for joint in joints])
        self._low, self._high = np.array([joint.range for joint in joints]).T

    def pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] between the finger tips and orientation [4] of the gripper."""
        offset = np.zeros(3)
        mujoco.mju_rotVecQuat(offset, _TIP, self._data.xquat[self._body])
        return self._data.xpos[self._body] + offset, self._data.xquat[self._body].copy()

    def solve(self, position: np.ndarray, orientation: np.ndarray) -> np.ndarray:
        """Joint angles [6] that bring the gripper there, by damped least squares from where the arm is."""
        turn, jacobian = np.zeros(3), np.zeros((2, 3, self._model.nv))
        for _ in range(_ITERATIONS):
            mujoco.mj_kinematics(self._model, self._data)
            mujoco.mj_comPos(self._model, self._data)
            here, turned = self.pose()
            mujoco.mju_subQuat(turn, orientation, turned)
            mujoco.mju_rotVecQuat(turn, turn.copy(), turned)
            error = np.concatenate([position - here, _TURN_WEIGHT * turn])
            if np.linalg.norm(error) < _TOLERANCE:
                break
            mujoco.mj_jac(self._model, self._data, jacobian[0], jacobian[1], here, self._body)
            rows = np.concatenate([jacobian[0][:, self._dof], _TURN_WEIGHT * jacobian[1][:, self._dof]])
            change = rows.T @ np.linalg.solve(rows @ rows.T + _DAMPING * np.eye(6), error)
            change = np.clip(change, -_LARGEST_STEP, _LARGEST_STEP)
            self._data.qpos[self._qpos] = np.clip(self._data.qpos[self._qpos] + change, self._low, self._high)
        return self._data.qpos[self._qpos].copy()


def plan(model: mujoco.MjModel, scene: str, first_state: np.ndarray) -> np.ndarray:
    """Actions that solve an episode.

    Args:
        model: gym-aloha's model of the scene.
        scene: `transfer_cube` or `insertion`.
        first_state: The simulator's positions at the episode's start; the objects' follow those of 16 joints.

    Returns:
        [400, 14] float32, as the environment takes them.
    """
    data = mujoco.MjData(model)
    data.qpos[:16] = START_ARM_POSE
    mujoco.mj_kinematics(model, data)
    arms = [_Arm(model, data, side) for side in ("left", "right")]
    left, right = (Waypoint(0, *arm.pose(), CLOSED) for arm in arms)
    objects = first_state[16:].reshape(-1, 7)[:, :2]
    if scene == "transfer_cube":
        paths = _transfer(left, right, objects[0])
    else:
        paths = _insert(left, right, peg=objects[0], socket=objects[1])
    actions = np.zeros((PLAN_STEPS, 2, 7), np.float32)
    for step in range(PLAN_STEPS):
        for side, (arm, path) in enumerate(zip(arms, paths, strict=True)):
            goal = _between(path, step + 1)
            actions[step, side, :6] = arm.solve(goal.position, goal.orientation)
            actions[step, side, 6] = goal.opening
    return actions.reshape(PLAN_STEPS, 14)


Paths = tuple[list[Waypoint], list[Waypoint]]


def _transfer(left: Waypoint, right: Waypoint, cube: np.ndarray) -> Paths:
    """The right hand lifts the cube and holds it out; the left grips it from the side, the right lets go."""
    at, meet = np.array([*cube, 0.02]), np.array([0.0, 0.5, 0.28])
    level, above, sideways = _turned(z=180), _turned(z=180, y=-60), _turned(x=90)
    held = meet - 0.012 * _ACROSS
    return [
        left,
        Waypoint(150, meet - 0.14 * _ACROSS, sideways, OPEN),
        Waypoint(240, meet - 0.12 * _ACROSS, sideways, OPEN),
        Waypoint(290, held, sideways, OPEN),
        Waypoint(325, held, sideways, CLOSED),
        Waypoint(PLAN_STEPS, held, sideways, CLOSED),
    ], [
        right,
        Waypoint(80, at + 0.09 * _UP, above, OPEN),
        Waypoint(115, at, above, OPEN),
        Waypoint(145, at, above, CLOSED),
        Waypoint(185, at + 0.12 * _UP, above, CLOSED),
        Waypoint(240, meet, level, CLOSED),
        Waypoint(330, meet, level, CLOSED),
        Waypoint(345, meet, level, OPEN),
        Waypoint(385, meet + 0.12 * _ACROSS, level, OPEN),
        Waypoint(PLAN_STEPS, meet + 0.12 * _ACROSS, level, OPEN),
    ]


def _insert(left: Waypoint, right: Waypoint, peg: np.ndarray, socket: np.ndarray) -> Paths:
    """Each hand lifts its part; they meet in the middle."""

    def path(home: Waypoint, at: np.ndarray, grip: np.ndarray, side: int) -> list[Waypoint]:
        def middle(distance: float) -> np.ndarray:
            return np.array([side * distance, 0.5, 0.2])

        return [
            home,
            Waypoint(90, at + 0.08 * _UP, grip, OPEN),
            Waypoint(125, at, grip, OPEN),
            Waypoint(155, at, grip, CLOSED),
            Waypoint(200, middle(0.16), grip, CLOSED),
            Waypoint(260, middle(0.12), grip, CLOSED),
            Waypoint(380, middle(0.045), grip, CLOSED),
            Waypoint(PLAN_STEPS, middle(0.045), grip, CLOSED),
        ]

    return (
        path(left, np.array([*socket, 0.018]), _turned(y=60), -1),
        path(right, np.array([*peg, 0.012]), _turned(z=180, y=-60), 1),
    )


def _turned(*, z: float = 0, y: float = 0, x: float = 0) -> np.ndarray:
    """Quaternion [4] of rotations by degrees about fixed axes, in this order."""
    orientation = np.zeros(4)
    mujoco.mju_euler2Quat(orientation, np.deg2rad([z, y, x]), "ZYX")
    return orientation


def _between(path: list[Waypoint], step: int) -> Waypoint:
    """The pose at a step: positions and openings on a line, orientations on the shortest arc."""
    for before, after in pairwise(path):
        if step <= after.step:
            share = (step - before.step) / (after.step - before.step)
            turn, orientation = np.zeros(3), before.orientation.copy()
            mujoco.mju_subQuat(turn, after.orientation, before.orientation)
            mujoco.mju_quatIntegrate(orientation, turn, share)
            position = before.position + share * (after.position - before.position)
            return Waypoint(step, position, orientation, before.opening + share * (after.opening - before.opening))
    return path[-1]
