"""What a robot and a policy must agree on: joints, units, cameras, rate, in words with both sides; blind orders."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from hlrp.deploy.rollout import checks
from hlrp.deploy.rollout.flags import split_flags
from hlrp.deploy.rollout.series import order
from hlrp.errors import UserError
from hlrp.evaluation.units import Reading

JOINTS = ["pan.pos", "lift.pos", "gripper.pos"]
POLICY: dict[str, Any] = {
    "observation": {
        "observation.images.top": {"dtype": "uint8", "shape": [48, 64, 3], "resized": False},
        "observation.images.side": {"dtype": "uint8", "shape": [48, 64, 3], "resized": False},
        "observation.state": {"dtype": "float32", "shape": [3], "names": JOINTS},
    },
    "action": {"dtype": "float32", "shape": [3], "names": JOINTS},
    "fps": 30.0,
}
ROBOT = checks.RobotSide(
    JOINTS, JOINTS, {f"observation.images.{name}": (48, 64, 3) for name in ("top", "side")}, {"top": 30.0}
)


def said(found: Any) -> list[tuple[str, str]]:
    return [(mismatch.kind, mismatch.what) for mismatch in found]


def test_a_robot_like_that_of_the_data_fits() -> None:
    assert said(checks.joint_mismatches(ROBOT, POLICY)) == []
    assert checks.camera_mismatches(ROBOT, POLICY, remote=False) == ([], [])
    assert checks.rate_mismatches(ROBOT, POLICY, None) == (30.0, [])


def test_swapped_other_and_unnamed_joints() -> None:
    swapped = [JOINTS[1], JOINTS[0], JOINTS[2]]
    state, action = checks.joint_mismatches(dataclasses.replace(ROBOT, state=swapped, action=swapped), POLICY)
    assert said([state, action]) == [
        ("joints", f"the {w} has its joints in another order") for w in ("state", "action")
    ]
    assert (action.robot, action.policy) == ("3: lift.pos, pan.pos, gripper.pos", "3: pan.pos, lift.pos, gripper.pos")
    other = ["pan.pos", "tilt.pos", "gripper.pos"]
    (mismatch,) = checks.joint_mismatches(dataclasses.replace(ROBOT, action=other), POLICY)
    assert mismatch.what.endswith("the robot lacks lift.pos; the policy does not know tilt.pos") and mismatch.passable
    (mismatch,) = checks.joint_mismatches(dataclasses.replace(ROBOT, action=JOINTS[:2]), POLICY)
    assert not mismatch.passable, "two numbers cannot be three, whatever a user allows"
    unnamed = {**POLICY, "action": {**POLICY["action"], "names": None}}
    (mismatch,) = checks.joint_mismatches(ROBOT, unnamed)
    assert "nothing says which joints" in mismatch.what and "--dataset-root DIR" in mismatch.fix
    more = dataclasses.replace(ROBOT, state=["current", *JOINTS])
    assert said(checks.joint_mismatches(more, POLICY)) == [], "a robot may report what was not recorded"
    assert more.states_for(POLICY) == JOINTS
    environment = {**POLICY["observation"], "observation.environment_state": {"dtype": "float32", "shape": [2]}}
    (mismatch,) = checks.joint_mismatches(ROBOT, {**POLICY, "observation": environment})
    assert "observation.environment_state" in mismatch.what and not mismatch.passable


def test_cameras_that_lack_differ_or_are_too_many() -> None:
    def with_cameras(**sizes: tuple[int, int, int]) -> checks.RobotSide:
        return dataclasses.replace(ROBOT, cameras={f"observation.images.{n}": size for n, size in sizes.items()})

    (mismatch,), notes = checks.camera_mismatches(
        with_cameras(top=(48, 64, 3), front=(48, 64, 3)), POLICY, remote=False
    )
    assert mismatch.what == "the robot has no observation.images.side" and notes == []
    assert "--rename-map observation.images.front=observation.images.side" in mismatch.fix
    both = {"top": (48, 64, 3), "side": (48, 64, 3)}
    found, (note,) = checks.camera_mismatches(with_cameras(**both, rear=(9, 9, 3)), POLICY, remote=False)
    assert found == [] and "does not look at observation.images.rear" in note
    larger = with_cameras(top=(48, 64, 3), side=(480, 640, 3))
    (mismatch,), _ = checks.camera_mismatches(larger, POLICY, remote=False)
    assert "another size" in mismatch.what and "side 640x480" in mismatch.robot and "side 64x48" in mismatch.policy
    assert "width 64 and height 48" in mismatch.fix
    resizes = {n: {**s, "resized": True} for n, s in POLICY["observation"].items()}
    found, (note,) = checks.camera_mismatches(larger, {**POLICY, "observation": resizes}, remote=False)
    assert found == [] and "640x480" in note
    (mismatch,), _ = checks.camera_mismatches(with_cameras(**{**both, "top": (48, 64, 1)}), POLICY, remote=False)
    assert "channels" in mismatch.what and not mismatch.passable


def test_a_policy_of_a_mixture_sees_with_the_cameras_that_are_there() -> None:
    seen = {n: {**s, "optional": True} if "images" in n else s for n, s in POLICY["observation"].items()}
    top = dataclasses.replace(ROBOT, cameras={"observation.images.top": (48, 64, 3)})
    found, (note,) = checks.camera_mismatches(top, {**POLICY, "observation": seen}, remote=False)
    assert found == [] and note.startswith("the robot has no observation.images.side: ")
    none = dataclasses.replace(ROBOT, cameras={})
    (mismatch,), notes = checks.camera_mismatches(none, {**POLICY, "observation": seen}, remote=False)
    assert mismatch.what == "the robot has no observation.images.top, observation.images.side" and notes == []


def test_the_rate_is_that_of_the_data() -> None:
    fps, (mismatch,) = checks.rate_mismatches(ROBOT, POLICY, 15.0)
    assert (fps, mismatch.kind, mismatch.robot, mismatch.policy) == (15.0, "fps", "15 steps/s (--fps)", "30 steps/s")
    _, (mismatch,) = checks.rate_mismatches(dataclasses.replace(ROBOT, rates={"top": 15.0}), POLICY, None)
    assert "the same frame twice" in mismatch.what and mismatch.robot == "top 15 frames/s"
    assert checks.rate_mismatches(ROBOT, {**POLICY, "fps": None}, 30.0) == (30.0, [])
    with pytest.raises(UserError, match=r"(?s)nothing says how many steps.*--dataset-root DIR"):
        checks.rate_mismatches(ROBOT, {**POLICY, "fps": None}, None)


def test_a_refusal_holds_both_sides_of_all_and_what_may_pass() -> None:
    slow = checks.rate_mismatches(ROBOT, POLICY, 15.0)[1]
    found = [*slow, *checks.joint_mismatches(dataclasses.replace(ROBOT, action=JOINTS[:2]), POLICY)]
    with pytest.raises(UserError) as refusal:
        checks.refuse(found, [])
    text = str(refusal.value)
    assert "    robot:  15 steps/s (--fps)\n    policy: 30 steps/s" in text and "--allow-mismatch fps" in text
    assert "--allow-mismatch joints" not in text
    with pytest.raises(UserError, match="joints"):
        checks.refuse(found, ["fps", "joints"])
    (warning,) = checks.refuse(slow, ["fps"])
    assert "15 steps/s" in warning and "30 steps/s" in warning


def read(values: list[float], *, degrees: bool = False, **more: Any) -> str | None:
    """The problem of a pose beside data of an arm that waves, in radians or degrees."""
    times = np.linspace(0, 20, 400)
    poses = np.stack([0.8 + 0.6 * np.sin(times), -1.2 + 0.5 * np.cos(times), 0.9 + 0.8 * np.sin(2 * times)], 1)
    poses = np.degrees(poses) if degrees else poses
    reading = Reading(["pan.pos", "lift.pos", "wrist.pos"], np.array(values), poses.min(0), poses.max(0), poses, **more)
    return reading.problem()


POSE = [0.9, -1.5, 1.2]


@pytest.mark.parametrize("scale", [1.0, 0.8])
def test_a_pose_like_those_of_the_data_is_fine(scale: float) -> None:
    assert read([scale * value for value in POSE]) is None
    assert read(list(np.degrees(POSE) * scale), degrees=True) is None
    # A pose that nobody recorded, between those that were.
    assert read([0.4, -0.9, 0.2]) is None


def test_degrees_for_radians_and_the_other_way_are_named() -> None:
    assert (
        read(list(np.degrees(POSE))) == "the robot seems to report degrees, the data are in radians: a factor of 57.3"
    )
    assert read(POSE, degrees=True) == "the robot seems to report radians, the data are in degrees: a factor of 57.3"
    # Beside data whose range holds zero, a small number is no outlier: only that no pose like it was recorded tells.
    wide = np.stack([np.linspace(-90, 90, 200), np.full(200, 60.0), np.linspace(-80, 80, 200)], 1)
    wide = np.concatenate([wide, wide * [1, -1, 1]])
    reading = Reading(["a", "b", "c"], np.radians([40, 60, 35]), wide.min(0), wide.max(0), wide)
    assert reading.problem() == "the robot seems to report radians, the data are in degrees: a factor of 57.3"
    assert dataclasses.replace(reading, values=np.array([40.0, 60, 35])).problem() is None
    assert dataclasses.replace(reading, recorded=None).problem() is None, "nothing to tell by"


def test_a_gripper_in_percent_does_not_hide_what_the_arm_is_in() -> None:
    names, low, high = ["pan.pos", "lift.pos", "gripper.pos"], np.array([-1.5, -1, 0]), np.array([1.5, 0.2, 100])
    reading = Reading(names, np.array([0.5, -0.8, 40]), low, high)
    assert reading.problem() is None
    degrees = dataclasses.replace(reading, values=np.array([28.6, -45.8, 40]))
    assert "report degrees, the data are in radians" in str(degrees.problem())
    still = dataclasses.replace(reading, low=np.array([-1.5, 0.1, 0]), high=np.array([1.5, 0.1, 100]))
    assert "lift.pos" in str(still.problem())
    assert dataclasses.replace(still, values=np.array([0.5, 0.2, 40])).problem() is None


def test_what_the_arm_says_of_its_unit_is_held_against_the_data() -> None:
    """At home all joints are at zero in every unit."""
    assert read([0.8, -1.2, 0.9], use_degrees=True) == (
        "the robot reports degrees (robot.use_degrees=true), the data seem to be in radians: a factor of 57.3"
    )
    joints, low, high = ["pan.pos", "gripper.pos"], np.array([-140.0, 0]), np.array([120.0, 100])
    normalised = Reading(joints, np.array([50.0, 5]), low, high, None, use_degrees=False)
    assert "-100 to 100" in str(normalised.problem()) and "the data reach 140" in str(normalised.problem())
    assert dataclasses.replace(normalised, use_degrees=True).problem() is None
    within = dataclasses.replace(normalised, low=np.array([-98.0, 0]), high=np.array([99.0, 100]))
    assert within.problem() is None


def test_a_pose_that_no_unit_explains_names_the_joint() -> None:
    assert read([0.9, -1.5, 9.0]) == "the robot is far outside of the poses of the data: wrist.pos"


def test_lerobots_flags_are_told_from_ours() -> None:
    own, theirs = split_flags(["run", "--robot.type", "simarm", "--episodes", "3", "--inference.type=rtc"])
    assert own == ["run", "--episodes", "3"] and theirs == ["--robot.type=simarm", "--inference.type=rtc"]
    with pytest.raises(UserError, match=r"--robot\.id is given twice"):
        split_flags(["--robot.id=a", "--robot.id", "b"])
    with pytest.raises(UserError, match=r"--robot\.id has no value"):
        split_flags(["--robot.id"])


def test_the_order_is_balanced_and_does_not_change_when_trials_are_added() -> None:
    rows = list(itertools.islice(order(7, True), 40))
    assert [row.scene for row in rows] == [scene for scene in range(20) for _ in "ab"]
    first, second = ([row.side for row in rows[start::2]] for start in (0, 1))
    assert [1 - side for side in first] == second
    assert all(sum(first[i : i + 2]) == 1 for i in range(0, 20, 2))
    orders = {tuple(t.side for t in itertools.islice(order(seed, True), 40)) for seed in range(20)}
    assert len(orders) == 20
    assert {t.side for t in itertools.islice(order(7, False), 40)} == {0}
