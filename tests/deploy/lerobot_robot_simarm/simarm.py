"""The arm: three hinges with position servos; a camera that looks at them, and one on the last link."""

import math
import os
from functools import cached_property
from typing import Any

import numpy as np
from lerobot.robots import Robot

from .config_simarm import SimArmConfig

JOINTS = ("shoulder", "elbow", "wrist")
_LINK = """
<body name="{name}" pos="{x} 0 0"><joint name="{name}" axis="0 1 0" range="-2.6 2.6" limited="true" damping="1"/>
<geom type="capsule" fromto="0 0 0 .3 0 0" size=".04" rgba="{rgba} 1"/>{inner}</body>"""


def _model_text(size: int) -> str:
    inner = '<camera name="wrist" pos=".2 0 .2" xyaxes="0 -1 0 .5 0 1" fovy="70"/>'
    for name, rgba in zip(reversed(JOINTS), (".2 .3 .9", ".2 .8 .3", ".9 .3 .2"), strict=True):
        inner = _LINK.format(name=name, rgba=rgba, inner=inner, x=0 if name == JOINTS[0] else 0.3)
    servos = "".join(f'<position name="{name}" joint="{name}" kp="60"/>' for name in JOINTS)
    return f"""
<mujoco><option timestep=".005" gravity="0 0 0"/>
<visual><global offwidth="{size}" offheight="{size}"/><quality shadowsize="0" offsamples="0"/></visual>
<worldbody><light pos="0 -2 3"/><geom type="plane" size="2 2 .1" pos="0 0 -1" rgba=".7 .7 .6 1"/>
<camera name="front" pos=".4 -1.8 .3" xyaxes="1 0 0 0 .1 1" fovy="55"/>{inner}</worldbody>
<actuator>{servos}</actuator></mujoco>"""


class SimArm(Robot):
    """LeRobot's interface to it."""

    config_class = SimArmConfig
    name = "simarm"

    def __init__(self, config: SimArmConfig) -> None:
        super().__init__(config)
        self.config = config
        self._scale = math.degrees(1) if config.degrees else 1.0
        self._data: Any = None
        self._sent = 0

    @cached_property
    def observation_features(self) -> dict[str, Any]:
        pictures = dict.fromkeys(self.config.names, (self.config.size, self.config.size, 3))
        return {**self.action_features, **pictures}

    @cached_property
    def action_features(self) -> dict[str, Any]:
        return {f"{joint}.pos": float for joint in self.config.joints}

    @property
    def is_connected(self) -> bool:
        return self._data is not None

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do."""

    def connect(self, calibrate: bool = True) -> None:
        os.environ.setdefault("MUJOCO_GL", "egl")
        import mujoco

        self._mujoco = mujoco
        self._model = mujoco.MjModel.from_xml_string(_model_text(self.config.size))
        self._data = mujoco.MjData(self._model)
        for joint, angle in zip(JOINTS, self.config.pose, strict=True):
            self._data.joint(joint).qpos[0] = self._data.actuator(joint).ctrl[0] = angle
        mujoco.mj_forward(self._model, self._data)
        self._renderer = mujoco.Renderer(self._model, self.config.size, self.config.size)
        self._steps = round(1 / self.config.fps / self._model.opt.timestep)
        self._note("connect")

    def get_observation(self) -> dict[str, Any]:
        found = {f"{j}.pos": float(self._data.joint(j).qpos[0]) * self._scale for j in self.config.joints}
        for name in self.config.names:
            self._renderer.update_scene(self._data, camera=name)
            found[name] = self._renderer.render()
        return found

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        self._sent += 1
        if self._sent == self.config.breaks_at:
            raise ConnectionError("no answer on the bus")
        self._note("action " + " ".join(f"{action[f'{joint}.pos']:.6f}" for joint in self.config.joints))
        for joint in self.config.joints:
            self._data.actuator(joint).ctrl[0] = np.clip(action[f"{joint}.pos"] / self._scale, -2.6, 2.6)
        self._mujoco.mj_step(self._model, self._data, self._steps)
        return action

    def disconnect(self) -> None:
        self._renderer.close()
        self._data = None
        self._note("disconnect")

    def _note(self, text: str) -> None:
        if self.config.journal is not None:
            with self.config.journal.open("a") as file:
                file.write(f"{text}\n")
