"""Cameras of a run: an only camera under two names, short names, and what of it LeRobot's own loop is told."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from make_dataset import make_dataset
from tiny_policies import save_tiny_act

from hlrp.config import LeRobotRun, LightningRun, load_config
from hlrp.data import read_dataset
from hlrp.data.renaming import rename_features
from hlrp.errors import UserError
from trainers import get_trainer
from trainers.camera_names import with_camera_names
from trainers.lerobot.data_hooks import rename_cameras
from trainers.policy_labels import mixture_of

UNNAMED, FRONT, SIDE = "observation.image", "observation.images.front", "observation.images.side"
BOTH = pytest.mark.parametrize("trainer", ["lerobot", "lightning"])


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes as `hlrp collect` recorded them before cameras had names, of a size that PushT's ACT takes."""
    return make_dataset(tmp_path_factory.mktemp("data") / "old", size=96, length=12, action_dim=2)


@pytest.fixture(scope="module")
def new(old: Path) -> Path:
    """The same with a camera of a name."""
    rename_features(read_dataset(None, old), {UNNAMED: FRONT}, old.with_name("new"))
    return old.with_name("new")


@pytest.fixture(scope="module")
def act(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of the old data."""
    return save_tiny_act(tmp_path_factory.mktemp("act") / "pretrained_model")


def _run(trainer: str, overrides: list[str], **keys: Any) -> LeRobotRun | LightningRun:
    flags = {"trainer_type": trainer, "trainer.device": "cpu", "model.policy_type": "act"}
    flags |= {key.replace("__", "."): value for key, value in keys.items()}
    run = load_config(None, overrides, {k: (v, "test") for k, v in flags.items()}).config
    assert isinstance(run, LeRobotRun | LightningRun)
    return run


@BOTH
def test_an_old_policy_goes_on_with_new_data_and_one_line_says_so(
    trainer: str, act: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _run(trainer, [], model__init_from=str(act), data__root=str(new), output_dir=str(tmp_path / "run"))
    shown = get_trainer(trainer).dry_run(run)
    line = f"camera {FRONT} is taken for {UNNAMED}: there is one on each side"
    assert capsys.readouterr().err.count(line) == 1
    assert with_camera_names(run, print).data.rename_map == {FRONT: UNNAMED}
    if trainer == "lerobot":
        assert "--rename_map=" in shown and json.dumps({FRONT: UNNAMED}) in shown


@BOTH
def test_names_of_their_own_have_to_be_told_and_the_message_says_how(trainer: str, new: Path, tmp_path: Path) -> None:
    policy = save_tiny_act(tmp_path / "side", camera=SIDE)
    run = _run(trainer, [], model__init_from=str(policy), data__root=str(new), output_dir=str(tmp_path / "run"))
    with pytest.raises(UserError) as refused:
        get_trainer(trainer).dry_run(run)
    pair = f"data.rename_map.{FRONT}={SIDE}"
    assert pair in str(refused.value)
    told = run.model_copy(update={"data": run.data.model_copy(update={"rename_map": {FRONT: SIDE}})})
    assert get_trainer(trainer).dry_run(told)
    assert load_config(None, ["model.policy_type=act", pair]).config.data.rename_map == {FRONT: SIDE}


@BOTH
@pytest.mark.parametrize("started", [False, True])
def test_old_and_new_data_are_one_mixture_of_one_camera(
    trainer: str, started: bool, old: Path, new: Path, act: Path
) -> None:
    sources = [{"root": str(old)}, {"root": str(new)}]
    more = {"model__init_from": str(act)} if started else {}
    said: list[str] = []
    run = with_camera_names(_run(trainer, [], data__sources=sources, **more), said.append)
    mixture = mixture_of(run)
    assert mixture is not None
    # The policy's name for it, where there is a policy already.
    name, at, other = (UNNAMED, 1, FRONT) if started else (FRONT, 0, UNNAMED)
    assert mixture.cameras == [name] and mixture.partial_cameras == []
    assert said == [f"data.sources.{at}: camera {other} is taken for {name}: there is one on each side"]
    assert [s.rename_map for s in run.data.sources] == [{other: name} if number == at else {} for number in (0, 1)]


def test_a_map_of_a_source_that_leads_to_the_old_name_leads_on(old: Path, new: Path) -> None:
    phone = {"root": str(new), "rename_map": {FRONT: UNNAMED}}
    side = old.with_name("side")
    rename_features(read_dataset(None, old), {UNNAMED: SIDE}, side)
    run = with_camera_names(_run("lightning", [], data__sources=[phone, {"root": str(side)}]), lambda _: None)
    assert [s.rename_map for s in run.data.sources] == [{FRONT: SIDE}, {}]


@BOTH
def test_short_names_of_cameras(trainer: str, new: Path, tmp_path: Path) -> None:
    run = _run(trainer, ["data.cameras=[front]"], data__root=str(new), output_dir=str(tmp_path / "run"))
    assert with_camera_names(run, print).data.cameras == [FRONT]
    assert get_trainer(trainer).dry_run(run)
    wrong = _run(trainer, ["data.cameras=[frnt]"], data__root=str(new), output_dir=str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"no camera 'frnt'(.|\n)*did you mean 'front'"):
        get_trainer(trainer).dry_run(wrong)


@pytest.fixture
def loop() -> Iterator[Any]:
    """LeRobot's training script, in this process, with what the worker changes of its names."""
    from lerobot.scripts import lerobot_train

    names = ("make_pre_post_processors", "make_env_pre_post_processors")
    kept = {name: getattr(lerobot_train, name) for name in names}
    rename_cameras(lerobot_train)
    yield lerobot_train
    for name, value in kept.items():
        setattr(lerobot_train, name, value)


def test_renamed_pictures_are_normalised_in_lerobots_loop(loop: Any, act: Path, new: Path) -> None:
    """LeRobot hands over the statistics under the dataset's names, and normalises no picture that was renamed."""
    import torch
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.datasets import LeRobotDatasetMetadata

    stats = LeRobotDatasetMetadata("new", root=new).stats
    config = PreTrainedConfig.from_pretrained(act)
    normalizer = {
        "features": {**config.input_features, **config.output_features},
        "norm_map": config.normalization_mapping,
        "stats": stats,
    }
    before, _ = loop.make_pre_post_processors(
        policy_cfg=config,
        pretrained_path=str(act),
        dataset_stats=stats,
        preprocessor_overrides={
            "rename_observations_processor": {"rename_map": {FRONT: UNNAMED}},
            "normalizer_processor": normalizer,
        },
    )
    seen = before({FRONT: torch.full((1, 3, 96, 96), 0.5), "observation.state": torch.zeros(1, 2)})
    mean, std = (torch.as_tensor(stats[FRONT][name]).float() for name in ("mean", "std"))
    torch.testing.assert_close(seen[UNNAMED][0, :, :1, :1], (0.5 - mean) / (std + 1e-8))


def test_rollouts_in_lerobots_loop_know_an_only_camera(loop: Any, act: Path) -> None:
    from lerobot.configs.policies import PreTrainedConfig

    from hlrp.sim.metaworld_light import MetaworldLightEnv

    config = PreTrainedConfig.from_pretrained(act)
    before, _ = loop.make_env_pre_post_processors(env_cfg=MetaworldLightEnv(), policy_cfg=config)
    seen = before({"observation.images.corner2": 1, "observation.state": 2})
    assert {k: v for k, v in seen.items() if k.startswith("observation")} == {UNNAMED: 1, "observation.state": 2}
    config.input_features["observation.images.corner2"] = config.input_features.pop(UNNAMED)
    before, _ = loop.make_env_pre_post_processors(env_cfg=MetaworldLightEnv(), policy_cfg=config)
    assert before.steps == []
