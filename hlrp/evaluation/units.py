"""Whether joints are reported in the units of the data: degrees for radians are 57 times too large."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DEGREES = math.degrees(1.0)
CONVERSIONS = (
    (1 / _DEGREES, "degrees", "radians"),
    (_DEGREES, "radians", "degrees"),
)
"""What numbers are multiplied with to be in the unit of the data; the unit that they are in; that of the data."""
_MARGIN, _LEAST_MARGIN = 0.25, 0.1
_FAR, _NEARER = 0.2, 4.0
_NORMALISED = 100.0
_TURN = 2.02 * math.pi


@dataclass(frozen=True)
class Reading:
    """Where a robot stands, beside the data that a policy was trained on.

    Args:
        names: Of the joints.
        values: What the robot reports, `[S]`.
        low: Smallest values of the data, `[S]`.
        high: Largest values of the data, `[S]`.
        recorded: States of the data, `[N, S]`; None: the data are not here.
        use_degrees: What the robot's configuration says of this name, as LeRobot's arms have it: degrees, or
            -100..100; None: it says nothing.
        source: What reports it, in words.
    """

    names: list[str]
    values: "NDArray[np.float64]"
    low: "NDArray[np.float64]"
    high: "NDArray[np.float64]"
    recorded: "NDArray[np.float32] | None" = None
    use_degrees: bool | None = None
    source: str = "robot"

    def problem(self) -> str | None:
        """What is wrong with the units, in words; None: nothing that can be seen.

        A pose far outside of the data is wrong in any case. One inside of them is, where it is far from every recorded
        pose and a conversion brings it beside one, or where the robot's configuration says another unit than the data.
        """
        if declared := self._declared():
            return declared
        wrong = self._outside(self.values)
        for factor, robot, data in CONVERSIONS:
            if self._may_be(robot) and (
                not self._outside(self.values * factor)[self._joints].any() if wrong.any() else self._explains(factor)
            ):
                ratio = max(factor, 1 / factor)
                return f"the {self.source} seems to report {robot}, the data are in {data}: a factor of {ratio:.1f}"
        if wrong.any():
            which = ", ".join(self.names[i] for i in np.flatnonzero(wrong))
            return f"the {self.source} is far outside of the poses of the data: {which}"
        return None

    def robot_side(self) -> str:
        """The reading in words."""
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(self.names, self.values, strict=True))

    def data_side(self) -> str:
        """The data's ranges in words."""
        rows = zip(self.names, self.low, self.high, strict=True)
        return ", ".join(f"{name} {low:.4g} to {high:.4g}" for name, low, high in rows)

    @property
    def _joints(self) -> list[int]:
        """Those with a unit: LeRobot's grippers are in percent whatever the arm is in."""
        return [i for i, name in enumerate(self.names) if "gripper" not in name]

    @property
    def _width(self) -> "NDArray[np.float64]":
        width = self.high - self.low
        # A joint that hardly moved in the data may stand a little elsewhere.
        usual = float(np.median(width[self._joints])) if self._joints else 0.0
        return np.maximum(width, max(_LEAST_MARGIN / _MARGIN * usual, 1e-6))

    def _outside(self, values: "NDArray[np.float64]") -> "NDArray[np.bool_]":
        margin = _MARGIN * self._width
        outside: NDArray[np.bool_] = (values < self.low - margin) | (values > self.high + margin)
        return outside

    def _may_be(self, unit: str) -> bool:
        """Whether the reading looks like radians, which no joint has many of; or like degrees, of which some has."""
        largest = float(np.abs(self.values[self._joints]).max(initial=0.0))
        return (largest <= _TURN) == (unit == "radians")

    def _explains(self, factor: float) -> bool:
        far = self._distance(1.0)
        return far > _FAR and self._distance(factor) < far / _NEARER

    def _distance(self, factor: float) -> float:
        """To the nearest recorded pose, in shares of the joints' ranges; that of the worst joint."""
        if self.recorded is None or not len(self.recorded):
            return 0.0
        off = np.abs(self.recorded - self.values * factor) / self._width
        return float(off[:, self._joints].max(1, initial=0.0).min())

    def _declared(self) -> str | None:
        if self.use_degrees is None or not self._joints:
            return None
        largest = float(np.abs([self.low[self._joints], self.high[self._joints]]).max())
        robot = "degrees" if self.use_degrees else "-100 to 100"
        said = f"the robot reports {robot} (robot.use_degrees={str(self.use_degrees).lower()})"
        if largest <= _TURN:
            times = f": a factor of {_DEGREES:.1f}" if self.use_degrees else ""
            return f"{said}, the data seem to be in radians{times}"
        if not self.use_degrees and largest > 1.05 * _NORMALISED:
            return f"{said}, the data reach {largest:.0f}: they seem to be in degrees"
        return None


def reading_of(names: list[str], observation: dict[str, Any], said: dict[str, Any], **more: Any) -> Reading | None:
    """A robot's reading beside what a policy says of its states; None where that says no ranges."""
    if not said.get("low") or not said.get("high"):
        return None
    values = np.asarray([float(observation[name]) for name in names])
    return Reading(names, values, np.asarray(said["low"], float), np.asarray(said["high"], float), **more)
