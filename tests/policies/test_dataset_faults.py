"""Datasets that are in order though LeRobot's reader stumbles over them: the same samples as from tidy ones."""

import json
import shutil
from pathlib import Path

import pytest

from hlrp.data.lerobot_data_module import LeRobotDataModule
from hlrp.errors import UserError


@pytest.fixture(scope="module")
def two_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes, `push` and `pull`, whose table of tasks has its rows the other way round."""
    import pandas as pd
    from make_dataset import make_dataset

    root = make_dataset(tmp_path_factory.mktemp("tasks") / "two", length=6, tasks=("push", "pull"))
    path = root / "meta" / "tasks.parquet"
    pd.read_parquet(path).iloc[::-1].to_parquet(path)
    return root


def _config() -> object:
    from lerobot.policies.act.configuration_act import ACTConfig

    return ACTConfig(device="cpu", chunk_size=4, n_action_steps=4)


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_every_sample_has_the_sentence_of_its_tasks_number(cache: str, two_tasks: Path) -> None:
    data = LeRobotDataModule(root=two_tasks, cache=cache, num_workers=0, batch_size=12, video_backend="pyav")  # type: ignore[arg-type]
    data.for_policy(_config())
    batch = next(iter(data.train_dataloader()))
    spoken = {(int(episode), task) for episode, task in zip(batch["episode_index"], batch["task"], strict=True)}
    assert spoken == {(0, "push"), (1, "pull")}


def test_lerobots_own_training_gets_the_same_sentences(two_tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the worker does to LeRobot before its loop starts."""
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from trainers.lerobot.hooks import mend_all_metadata

    monkeypatch.setattr(LeRobotDatasetMetadata, "_load_metadata", LeRobotDatasetMetadata._load_metadata)
    mend_all_metadata(LeRobotDatasetMetadata)
    dataset = LeRobotDataset("two", root=two_tasks, video_backend="pyav")
    assert [dataset[i]["task"] for i in (0, 5, 6, 11)] == ["push", "push", "pull", "pull"]


def test_numbers_of_tasks_with_a_gap_are_looked_up_too(two_tasks: Path) -> None:
    import pandas as pd

    from hlrp.compat import mend_metadata

    class Meta:
        tasks = pd.DataFrame({"task_index": [3, 0]}, index=pd.Index(["pull", "push"], name="task"))
        stats = None
        camera_keys = ("a", "b")
        depth_keys = ("b",)

    mend_metadata(Meta)
    assert [Meta.tasks.iloc[i].name for i in (0, 3)] == ["push", "pull"]
    assert Meta.stats == {"a": {}}


def test_pictures_without_statistics_are_normalised_as_any(two_tasks: Path, tmp_path: Path) -> None:
    from lerobot.configs.train import DatasetConfig, TrainPipelineConfig
    from lerobot.datasets.factory import make_dataset as lerobot_dataset

    root = Path(shutil.copytree(two_tasks, tmp_path / "bare"))
    path = root / "meta" / "stats.json"
    stats = json.loads(path.read_text())
    del stats["observation.image"]
    path.write_text(json.dumps(stats))
    data = LeRobotDataModule(root=root, cache="ram", num_workers=0)
    assert data.meta.stats["observation.image"]["mean"].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

    from trainers.lerobot.hooks import mend_all_metadata

    load = LeRobotDatasetMetadata._load_metadata
    try:
        mend_all_metadata(LeRobotDatasetMetadata)
        config = TrainPipelineConfig(
            dataset=DatasetConfig(repo_id="bare", root=str(root), video_backend="pyav"),
            policy=_config(),  # type: ignore[arg-type]
        )
        found = lerobot_dataset(config).meta.stats["observation.image"]
    finally:
        LeRobotDatasetMetadata._load_metadata = load  # type: ignore[method-assign]
    assert found["mean"].equal(data.meta.stats["observation.image"]["mean"])
    assert found["std"].equal(data.meta.stats["observation.image"]["std"])


def test_a_cache_folder_that_cannot_be_written_stops_nothing_that_can_do_without(
    two_tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file stands in place of the folder: root may write into any folder."""
    from hlrp.catalog import build_catalog, cached_catalog
    from hlrp.foundation.backbones.folders import _cached_tiny

    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("HLRP_CACHE", str(tmp_path / "cache"))
    assert "act" in build_catalog().policies
    assert cached_catalog() is None
    assert (_cached_tiny("smol_latent_head") / "config.json").is_file()
    data = LeRobotDataModule(root=two_tasks, cache="disk", num_workers=0)
    with pytest.raises(UserError, match=r"cannot be kept there(.|\n)*HLRP_CACHE"):
        data.for_policy(_config())


def test_quantiles_that_are_the_same_are_refused_for_policies_that_divide_by_them(two_tasks: Path) -> None:
    from lerobot.configs.types import NormalizationMode
    from lerobot.utils.feature_utils import dataset_to_policy_features

    from hlrp.compat import check_normalisation

    meta = LeRobotDataModule(root=two_tasks).meta
    features, config = dataset_to_policy_features(meta.features), _config()
    check_normalisation(config, features, meta.stats, "stats.json")
    stats = {key: dict(value) for key, value in meta.stats.items()}
    stats["action"] |= {"q01": [0.5, 0, 0], "q99": [0.5, 1, 1], "min": [0, 0, 0], "max": [1, 1, 1]}
    check_normalisation(config, features, stats, "stats.json")
    config.normalization_mapping = dict.fromkeys(("ACTION", "STATE"), NormalizationMode.QUANTILES)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="'act' normalises 'action' by quantiles, and q01 and q99 of dimension 0"):
        check_normalisation(config, features, stats, "stats.json")
    del stats["action"]["q99"]
    with pytest.raises(UserError, match="its statistics have no q99"):
        check_normalisation(config, features, stats, "stats.json")


def test_a_policy_that_learns_from_rewards_is_refused_data_without_them(two_tasks: Path) -> None:
    """By both trainers before a step, and in a dry run, which makes the policy as Lightning does."""
    from types import SimpleNamespace

    from lerobot.policies.tdmpc.configuration_tdmpc import TDMPCConfig

    from hlrp.policies.build import check_dataset
    from trainers.lerobot.data_hooks import check_policy_features

    meta = LeRobotDataModule(root=two_tasks).meta
    config = TDMPCConfig(device="cpu")
    said = "policy 'tdmpc' learns from rewards, and the dataset has no 'next.reward'"
    with pytest.raises(UserError, match=said):
        check_dataset(config, meta)
    data = SimpleNamespace(root=two_tasks, repo_id="two", revision=None, image_transforms=SimpleNamespace(enable=False))
    native = SimpleNamespace(policy=config, dataset=data, resume=False, rename_map={})
    data.use_imagenet_stats = True
    with pytest.raises(UserError, match=said):
        check_policy_features(native)
    check_policy_features(SimpleNamespace(**{**vars(native), "policy": _config()}))
    meta.info.features["next.reward"] = {"dtype": "float32", "shape": (1,), "names": None}
    check_dataset(config, meta)
