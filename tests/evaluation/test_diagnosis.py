"""A diagnosis names each of ten faults, planted one at a time, and calls a healthy run healthy."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from arm_world import RENAMED, ArmWorld, ArmWorldConfig, record, train
from command import hlrp
from safetensors.torch import load_file, save_file

from hlrp.data.columns import ACTION_SOURCE, PREDICTED
from hlrp.errors import UserError
from hlrp.evaluation.diagnosis.findings import Diagnosis
from hlrp.evaluation.diagnosis.normalisation import outside
from hlrp.evaluation.diagnosis.run import diagnose
from hlrp.evaluation.request import EvalRequest

NORMALISERS = ("policy_preprocessor", "policy_postprocessor")


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recording `data`, and a `run` that has learned it."""
    folder = tmp_path_factory.mktemp("arm")
    record(folder / "data", range(6))
    train(folder / "run", folder / "data", 110)
    return folder


@pytest.fixture
def copy(arm: Path, tmp_path: Path) -> Path:
    """The same to break; its settings name the copy of the data."""
    shutil.copytree(arm, tmp_path / "copy")
    config = tmp_path / "copy" / "run" / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["data"]["root"] = str(tmp_path / "copy" / "data")
    config.write_text(yaml.safe_dump(settings))
    return tmp_path / "copy"


def checkpoint(folder: Path) -> Path:
    return next((folder / "run" / "checkpoints").iterdir())


def diagnosis(folder: Path, **fields: Any) -> Diagnosis:
    output = folder / f"diagnosis-{len(list(folder.iterdir()))}"
    return diagnose(EvalRequest(checkpoint(folder), episodes=3, seed=1000, output=output, env_fields=fields))


def edit_statistics(folder: Path, edit: Callable[[np.ndarray], np.ndarray], feature: str, *, saved: bool) -> None:
    """Change the mean and spread of a feature where the checkpoint normalises, and, if ``saved``, in the dataset."""
    for name in NORMALISERS:
        for path in (checkpoint(folder) / "pretrained_model").glob(f"{name}_step_*.safetensors"):
            stats = load_file(path)
            stats |= {k: v * 0 + edit(v) for k, v in stats.items() if k in (f"{feature}.mean", f"{feature}.std")}
            save_file(stats, path)
    if saved:
        path = folder / "data" / "meta" / "stats.json"
        said = json.loads(path.read_text())
        for key in ("mean", "std"):
            said[feature][key] = np.asarray(edit(np.asarray(said[feature][key]))).tolist()
        path.write_text(json.dumps(said))


def wrong_statistics(folder: Path) -> None:
    """The dataset's statistics are not of its numbers; the run was trained with them."""
    edit_statistics(folder, lambda value: value * 4 + 1, "action", saved=True)


def stale_normaliser(folder: Path) -> None:
    edit_statistics(folder, lambda value: value * 3 + 2, "observation.state", saved=False)


def shifted_actions(folder: Path) -> None:
    """Every action is recorded two steps after it was executed."""
    for path in (folder / "data" / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        episode = table.column("episode_index").to_numpy()
        actions = np.stack(table.column("action").to_numpy())
        late = actions.copy()
        late[2:] = np.where((episode[2:] == episode[:-2])[:, None], actions[:-2], actions[2:])
        column = table.column_names.index("action")
        kind = table.schema.field("action").type
        pq.write_table(table.set_column(column, "action", pa.array(list(late), kind)), path)


def untrained_weights(folder: Path) -> None:
    import torch
    from lerobot.policies.act.modeling_act import ACTPolicy

    path = checkpoint(folder) / "pretrained_model"
    torch.manual_seed(3)
    ACTPolicy(ACTPolicy.from_pretrained(path).config).save_pretrained(path)


def lost_rename_map(folder: Path) -> None:
    path = checkpoint(folder) / "pretrained_model" / "policy_preprocessor.json"
    said = json.loads(path.read_text())
    steps = [s for s in said["steps"] if s["registry_name"] == "rename_observations_processor"]
    assert steps[0]["config"]["rename_map"] == RENAMED
    steps[0]["config"]["rename_map"] = {}
    path.write_text(json.dumps(said))


FAULTS: list[tuple[str, str, Callable[[Path], None] | dict[str, Any], list[str]]] = [
    ("image_flipped", "environment", {"flip": True}, ["observation.images.high is upside down", "grey levels"]),
    ("camera_swapped", "environment", {"swap": True}, ["high shows what was recorded as observation.images.low"]),
    ("channels_swapped", "environment", {"bgr": True}, ["observation.images.high has red and blue swapped (BGR)"]),
    ("other_unit", "environment", {"degrees": True}, ["in degrees, the data are in radians", "pan, lift, goal_pan"]),
    ("other_rate", "environment", {"fps": 20}, ["it makes 20 steps per second, the data have 10"]),
    ("wrong_statistics", "data", wrong_statistics, ["meta/stats.json is not of the recorded numbers: action, "]),
    ("actions_shifted", "data", shifted_actions, ["recorded 2 steps too late", "shifted back by"]),
    ("rename_map_lost", "processors", lost_rename_map, ["renames nothing", "images.top=observation.images.high"]),
    ("stale_normaliser", "processors", stale_normaliser, ["preprocessor", "not of this dataset", "with the dataset's"]),
    ("weights_untrained", "weights", untrained_weights, ["the nearest recorded state's action explains"]),
]


@pytest.mark.parametrize(("fault", "layer", "plant", "said"), FAULTS, ids=[f[0] for f in FAULTS])
def test_a_planted_fault_is_named(
    copy: Path, fault: str, layer: str, plant: Callable[[Path], None] | dict[str, Any], said: list[str]
) -> None:
    if not isinstance(plant, dict):
        plant(copy)
    found = diagnosis(copy, **(plant if isinstance(plant, dict) else {}))
    assert not found.healthy
    assert (found.layer, found.faults[0].fault) == (layer, fault), found.verdict
    for text in said:
        assert text in found.verdict
    # Nothing else is blamed for it, but for what it leads to.
    follows = {"other_rate": {"replay_differs"}, "wrong_statistics": {"weights_untrained"}}
    follows["actions_shifted"] = {"actions_shifted"}
    assert {f.fault for f in found.faults[1:]} <= {fault, *follows.get(fault, set())}, found.verdict
    saved = json.loads((found.folder / "diagnosis.json").read_text())
    assert (saved["layer"], saved["fault"], saved["healthy"]) == (layer, fault, False)
    assert saved["verdict"] == found.verdict and saved["findings"] == [f.to_json() for f in found.findings]


def test_a_healthy_run_is_called_healthy(arm: Path) -> None:
    found = diagnosis(arm)
    assert found.healthy and found.faults == [] and found.layer is None, found.verdict
    assert found.verdict.startswith("healthy: data, environment, processors and weights agree")
    assert {f.check for f in found.findings if f.status == "pass"} >= {
        *("features", "statistics", "states", "pictures", "rate", "replay", "normaliser", "open loop")
    }
    loop = next(f for f in found.findings if f.check == "open loop")
    assert loop.evidence["explained"] > 0.9 and set(loop.evidence["joints"]) == {"pan", "lift"}
    assert [len(trace.recorded) for trace in found.traces] == [len(trace.predicted) for trace in found.traces]
    assert {h.joint for h in found.histograms} == {"pan", "lift"}
    for histogram in found.histograms:
        assert set(histogram.shares) == {"recorded", "on recorded pictures", "acting"}
        assert all(sum(shares) == pytest.approx(1, abs=1e-3) for shares in histogram.shares.values())
    assert {p.label for p in found.pictures} == {"recorded", "environment"}


def test_a_policy_of_relative_actions_acts_in_its_diagnosis(copy: Path) -> None:
    folder = checkpoint(copy) / "pretrained_model"
    relative = {"enabled": True, "exclude_joints": [], "action_names": None}
    for name, beside, step in (
        (NORMALISERS[0], "normalizer_processor", ("relative_actions_processor", relative)),
        (NORMALISERS[1], "unnormalizer_processor", ("absolute_actions_processor", {"enabled": True})),
    ):
        file = folder / f"{name}.json"
        saved = json.loads(file.read_text())
        place = [s["registry_name"] for s in saved["steps"]].index(beside)
        step_saved = {"registry_name": step[0], "config": step[1]}
        saved["steps"].insert(place + (name == NORMALISERS[1]), step_saved)
        file.write_text(json.dumps(saved))
    found = diagnosis(copy)
    # It was trained to say where to be, and is taken to say how far to go.
    assert found.success == (0, 3) and {f.layer for f in found.faults} == {"weights"}, found.verdict


def test_where_memory_allows_one_environment_the_episodes_are_acted_in_turn(
    arm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = ArmWorldConfig.create_envs
    monkeypatch.setattr(ArmWorldConfig, "create_envs", lambda self, n_envs, use_async_envs=False: create(self, 1))
    found = diagnosis(arm)
    assert found.healthy and found.success is not None and found.success[1] == 3


def test_without_an_environment_the_data_are_compared(copy: Path) -> None:
    (copy / "data" / "meta" / "hlrp_collect.json").unlink()
    found = diagnosis(copy)
    assert found.healthy and found.success is None
    assert found.verdict == "healthy: data, processors and weights agree with each other; no environment was looked at"
    assert not [f for f in found.findings if f.layer == "environment"]
    stale_normaliser(copy)
    assert diagnosis(copy).faults[0].fault == "stale_normaliser"


def test_a_dataset_whose_actions_were_all_predicted_is_refused(copy: Path) -> None:
    info = copy / "data" / "meta" / "info.json"
    said = json.loads(info.read_text())
    said["features"][ACTION_SOURCE] = {"dtype": "int64", "shape": [1], "names": None}
    info.write_text(json.dumps(said))
    for path in (copy / "data" / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.append_column(ACTION_SOURCE, pa.array([PREDICTED] * len(table), pa.int64())), path)
    with pytest.raises(UserError, match="none of its actions was recorded"):
        diagnosis(copy)


def test_without_reset_seeds_the_ranges_are_compared(copy: Path) -> None:
    """Data from elsewhere: first frames and states are held against all recorded ones."""
    path = copy / "data" / "meta" / "hlrp_collect.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"episodes": []}))
    found = diagnosis(copy)
    assert found.healthy, found.verdict
    assert [f.status for f in found.findings if f.check == "replay"] == ["open"]
    for plant, fault in (
        ({"degrees": True}, "other_unit"),
        ({"flip": True}, "image_flipped"),
        ({"fps": 20}, "other_rate"),
    ):
        broken = diagnosis(copy, **plant)
        assert (broken.layer, broken.faults[0].fault) == ("environment", fault), broken.verdict


def test_an_environment_that_ends_early_and_one_that_takes_degrees(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = diagnosis(copy, episode_length=12)
    assert short.faults[0].fault == "replay_differs" and "it ends them after 12 steps" in short.verdict
    step = ArmWorld.step
    monkeypatch.setattr(ArmWorld, "step", lambda self, action: step(self, np.radians(action)))
    found = diagnosis(copy)
    assert found.faults[0].fault == "other_unit", found.verdict
    assert "it takes actions in degrees, the data have radians" in found.verdict


def test_statistics_of_some_episodes_are_of_the_data_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    episodes = [rng.normal(place, 1 + place, (200, 2)).astype(np.float32) for place in (0.0, 0.5, 3.0)]
    for chosen in ([0], [2], [0, 1], [0, 1, 2]):
        some = np.concatenate([episodes[i] for i in chosen]).astype(np.float64)
        assert outside(episodes, {"mean": some.mean(0), "std": some.std(0)})[1] == 0, chosen
        assert outside(episodes, {"min": some.min(0), "max": some.max(0)})[1] == 0, chosen
    everything = np.concatenate(episodes).astype(np.float64)
    mean, std = everything.mean(0), everything.std(0)
    moved = np.array([mean[0], mean[1] + 2 * std[1]])
    beyond = (moved[1] - episodes[2][:, 1].mean()) / std[1]
    assert outside(episodes, {"mean": moved, "std": std}) == (1, pytest.approx(beyond, rel=1e-4))
    for wrong in ({"mean": mean, "std": std * [3, 1]}, {"mean": mean, "std": std * [0.1, 1]}):
        worst, excess = outside(episodes, wrong)
        assert worst == 0 and excess > 0.05
    assert outside(episodes, {"q01": everything.min(0) - 5, "q99": everything.max(0)})[1] > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "task", "package", "cameras"),
    [
        ("metaworld", "drawer-close-v3", "metaworld", 1),
        ("aloha", "transfer_cube", "gym_aloha", 1),
        ("libero", "libero_object_0", "libero", 2),
    ],
)
def test_the_simulators_agree_with_their_recordings(
    env: str, task: str, package: str, cameras: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded, and trained for three steps: only the weights fail; then pictures are turned over."""
    if find_spec(package) is None:  # not imported: MuJoCo must not be before the way of rendering is chosen
        pytest.skip(f"{package} is not installed")
    from hlrp.sim import light

    collect = ["collect", "--env", env, "--tasks", task, "--episodes", "2", "--image-size", "64"]
    train = [
        "train",
        "--trainer",
        "lightning",
        "--policy",
        "act",
        "--steps",
        "3",
        "--batch-size",
        "2",
        "--device",
        "cpu",
    ]
    tiny = ["model.dim_model=32", "model.n_heads=2", "model.pretrained_backbone_weights=null"]
    data, run = tmp_path / "data", tmp_path / "run"
    for command in (
        [*collect, "--output", data],
        [*train, "--dataset-root", data, "--output-dir", run, *tiny],
    ):
        done = hlrp(*command)
        assert done.code == 0, done.err
    request = EvalRequest(tmp_path / "run", episodes=2, output=tmp_path / "first", env_fields={"episode_length": 350})
    found = diagnose(request)
    assert [f.fault for f in found.faults] == ["weights_untrained"], found.verdict
    assert [f.status for f in found.findings if f.layer == "environment"] == ["pass"] * (4 + cameras)
    upright = light.Frames.of
    monkeypatch.setattr(light.Frames, "of", lambda self, camera: upright(self, camera)[::-1].copy())
    found = diagnose(replace(request, output=tmp_path / "second"))
    assert (found.layer, found.faults[0].fault) == ("environment", "image_flipped"), found.verdict
