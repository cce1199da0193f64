"""A diagnosis names each of ten faults, planted one at a time, and calls a healthy run healthy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from arm_world import RENAMED, record, train
from safetensors.torch import load_file, save_file

from hlrp.evaluation.diagnosis.findings import Diagnosis
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


def test_without_an_environment_the_data_are_compared(copy: Path) -> None:
    (copy / "data" / "meta" / "hlrp_collect.json").unlink()
    found = diagnosis(copy)
    assert found.healthy and found.success is None
    assert found.verdict == "healthy: data, processors and weights agree with each other; no environment was looked at"
    assert not [f for f in found.findings if f.layer == "environment"]
    stale_normaliser(copy)
    assert diagnosis(copy).faults[0].fault == "stale_normaliser"
