"""Datasets with pseudo-labels in a mixture, or with `labelled_episodes`: what actions are normalised with, and whose
zeros are refused."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from make_dataset import make_dataset
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
from mixtures import CAMERA, edit_column, joined, tables
from tiny_runs import SMALL_CHUNKS

from hlrp.config import LeRobotRun, LightningRun, load_config
from hlrp.data import read_dataset
from hlrp.data.action_statistics import rewrite_action_statistics
from hlrp.data.columns import ACTION_CONFIDENCE, ACTION_SOURCE, PREDICTED, RECORDED, UNKNOWN, read_columns
from hlrp.data.labelled_statistics import LabelledRows, labelled_statistics
from hlrp.data.linked_copy import column_of, rewrite_json, rewrite_table, with_columns
from hlrp.data.policy_mixture import MixtureMetadata
from hlrp.errors import UserError
from hlrp.runs import RunDirectory
from trainers.lightning.trainer import LightningTrainer
from trainers.run_data import check_data

LENGTH, STATE = 12, "observation.state"
OURS = "hlrp_action_expert_direct"
KINDS = [RECORDED, PREDICTED, UNKNOWN, RECORDED]


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 episodes of 12 frames; actions of an arm at about 1."""
    root = make_dataset(tmp_path_factory.mktemp("recorded") / "robot", episodes=4, length=LENGTH, size=96)
    edit_column(tables(root)[0], "action", lambda values: 1 + values / 10)
    return root


def pseudo(source: Path, root: Path, kinds: list[int]) -> Path:
    """A copy that says where each episode's actions are from: predictions lie about 3, what is not known is zero."""
    shutil.copytree(source, root)
    kind = np.repeat(kinds, LENGTH).astype(np.int64)
    described = {
        ACTION_SOURCE: {"dtype": "int64", "shape": [1], "names": None},
        ACTION_CONFIDENCE: {"dtype": "float32", "shape": [3], "names": None},
    }

    def filled(rows: Any) -> Any:
        of = kind[rows.column("index").to_numpy()][:, None]
        actions = np.array(rows.column("action").to_pylist(), np.float32)
        actions = np.where(of == UNKNOWN, 0, np.where(of == PREDICTED, actions + 2, actions)).astype(np.float32)
        confidence = np.where(of == UNKNOWN, 0, np.ones_like(actions))
        columns = {"action": actions, ACTION_SOURCE: of, ACTION_CONFIDENCE: confidence}
        return with_columns(rows, {name: column_of(values) for name, values in columns.items()})

    rewrite_json(
        source / "meta/info.json", root / "meta/info.json", lambda s: s | {"features": s["features"] | described}
    )
    for path in tables(source):
        rewrite_table(path, root / path.relative_to(source), filled)
    rewrite_action_statistics(read_dataset(None, source), read_dataset(None, root))
    return root


@pytest.fixture(scope="module")
def labelled(robot: Path) -> Path:
    """Two episodes recorded, one predicted, and one of which nothing is known."""
    return pseudo(robot, robot.parent / "labelled", KINDS)


def _rows(root: Path, name: str, episodes: list[int]) -> np.ndarray:
    values = read_columns(read_dataset(None, root), [name])[name].astype(np.float64)
    return values[np.isin(np.arange(len(values)) // LENGTH, episodes)]


def _mixed(*sources: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return MixtureMetadata(joined(list(sources), OURS)).stats


def _assert_of(found: dict[str, Any], rows: np.ndarray) -> None:
    assert found["count"].tolist() == [len(rows)]
    for name, expected in {"mean": rows.mean(0), "std": rows.std(0), "min": rows.min(0), "max": rows.max(0)}.items():
        assert found[name] == pytest.approx(expected, abs=1e-6), name


def test_recorded_actions_alone_are_counted_as_in_a_dataset_of_its_own(labelled: Path) -> None:
    recorded = _rows(labelled, "action", [0, 3])
    found = _mixed({"root": str(labelled)})
    _assert_of(found["action"], recorded)
    _assert_of(found[STATE], _rows(labelled, STATE, [0, 1, 2, 3]))
    alone = json.loads((labelled / "meta/stats.json").read_text())["action"]
    for name in ("mean", "std", "min", "max", "count"):
        assert found["action"][name] == pytest.approx(alone[name], abs=1e-5)
    of_policy = labelled_statistics(LabelledRows(read_dataset(None, labelled), [0, 1, 2]))
    _assert_of(of_policy["action"], _rows(labelled, "action", [0]))
    _assert_of(of_policy[STATE], _rows(labelled, STATE, [0, 1, 2]))


def test_predictions_are_counted_where_nothing_is_recorded(robot: Path, labelled: Path, tmp_path: Path) -> None:
    predicted = _rows(labelled, "action", [1])
    some = {"root": str(labelled), "labelled_episodes": [1, 2]}
    _assert_of(_mixed(some)["action"], predicted)
    _assert_of(_mixed(some, {"root": str(robot), "labelled_episodes": [2]})["action"], _rows(robot, "action", [2]))
    _assert_of(_mixed(some, {"root": str(labelled), "labelled_episodes": [3]})["action"], _rows(robot, "action", [3]))
    apart = [some | {"action_space": "a"}, {"root": str(robot), "labelled_episodes": [2], "action_space": "b"}]
    both = np.concatenate([predicted.mean(0), _rows(robot, "action", [2]).mean(0)])
    assert _mixed(*apart)["action"]["mean"] == pytest.approx(both, abs=1e-6), "each robot has statistics of its own"
    with pytest.raises(UserError, match="no action of the labelled episodes is known") as refused:
        _ = _mixed({"root": str(labelled), "labelled_episodes": [2]})
    assert str(labelled / "data") in str(refused.value)


def test_a_source_that_names_its_columns_otherwise(labelled: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(labelled, tmp_path / "own"))
    names = {"action": "joints", STATE: "observation.pose"}

    def renamed(said: dict[str, Any]) -> dict[str, Any]:
        return said | {"features": {names.get(n, n): f for n, f in said["features"].items()}}

    rewrite_json(labelled / "meta/info.json", own / "meta/info.json", renamed)
    for path in tables(labelled):
        rewrite_table(
            path,
            own / path.relative_to(labelled),
            lambda t: t.rename_columns([names.get(n, n) for n in t.column_names]),
        )
    found = _mixed({"root": str(own), "rename_map": {new: old for old, new in names.items()}})
    _assert_of(found["action"], _rows(labelled, "action", [0, 3]))


@pytest.mark.parametrize("trainer", ["lerobot", "lightning"])
def test_zeros_are_refused_to_policies_that_know_no_confidence(trainer: str, robot: Path, labelled: Path) -> None:
    plain = {"root": str(robot)}

    def check(source: dict[str, Any], policy: str, *more: str) -> list[str]:
        keys = {"trainer_type": trainer, "model.policy_type": policy, "data.sources": [plain, source]}
        run = load_config(None, more, {k: (v, "test") for k, v in keys.items()}).config
        assert isinstance(run, LeRobotRun | LightningRun)
        return check_data(run, [])

    alike = "model.use_action_confidence=false"
    with pytest.raises(UserError, match="no action is known of episodes 2: zeros stand there") as refused:
        check({"root": str(labelled)}, "act")
    assert "lerobot-edit-dataset" in str(refused.value) and "--episodes" not in str(refused.value)
    with pytest.raises(UserError, match="zeros stand there") as refused:
        check({"root": str(labelled)}, OURS, alike)
    assert "leave these episodes out of data.sources.1.labelled_episodes" in str(refused.value)
    check({"root": str(labelled)}, OURS)
    check({"root": str(labelled), "labelled_episodes": [0, 1, 3]}, OURS, alike)


def test_a_resumed_run_keeps_the_statistics_that_it_was_saved_with(labelled: Path, tmp_path: Path) -> None:
    """Those of a run of an older version, which counted other rows."""
    sizes = {"steps": 1, "batch_size": 2, "save_freq": 1, "log_freq": 1, "device": "cpu"}
    run = {"trainer_type": "lightning", "trainer": sizes, "model": {"policy_type": OURS, **SMALL_CHUNKS}}
    run["data"] = {"sources": [{"root": str(labelled)}], "num_workers": 0, "cameras": [CAMERA]}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    config: Any = load_config(path, [f"output_dir={tmp_path / 'run'}"]).config
    directory = RunDirectory.open(LightningTrainer().fit(run=config).path)
    first = directory.latest()
    assert first is not None
    saved = {p.name: load_file(p) for p in first.pretrained.glob("policy_*.safetensors")}
    assert len(saved) == 2
    for name, numbers in saved.items():
        assert numbers["action.count"].item() == 2 * LENGTH, "a new run counts what was recorded"
        saved[name] = numbers | {"action.mean": numbers["action.mean"] / 2, "action.std": numbers["action.std"] * 9}
        save_file(saved[name], first.pretrained / name)
    LightningTrainer().resume(directory, load_config(directory.path / "config.yaml").config, steps=2)  # type: ignore[arg-type]
    last = RunDirectory.open(directory.path).latest()
    assert last is not None and last.step == 2
    for name, numbers in saved.items():
        found = load_file(last.pretrained / name)
        assert found.keys() == numbers.keys() and all(found[n].equal(numbers[n]) for n in numbers)
