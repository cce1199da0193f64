"""Runs with `data.filter`: the same samples in both trainers, said before the start, the same filter on resume."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command import hlrp
from idle_dataset import LENGTH, make_idle_dataset
from lerobot_runs import TINY_ACT
from test_run_data import _config, _dry_run, _stored

from hlrp.config import DataSection, FilterSection, SourceSection, load_config
from hlrp.data.dataset_info import read_dataset
from hlrp.data.lerobot_data_module import LeRobotDataModule
from hlrp.errors import UserError

BOTH = ("lerobot", "lightning")
IDLE = {*range(10, 25), *range(2 * LENGTH, 2 * LENGTH + 15), *range(3 * LENGTH + 40, 4 * LENGTH)}
"""Frames in which nothing changes for 0.5 s, by their global index."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_idle_dataset(tmp_path_factory.mktemp("filtered") / "idle")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HLRP_CACHE", str(tmp_path_factory.getbasetemp() / "filter-cache"))


def test_both_trainers_see_the_same_samples_in_the_same_order(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lerobot.configs.default import DatasetConfig
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.scripts import lerobot_train as script

    from trainers.lerobot.data_hooks import filter_samples

    for name in ("make_train_eval_datasets", "EpisodeAwareSampler", "MetricsTracker"):
        monkeypatch.setattr(script, name, getattr(script, name))
    section = FilterSection.model_validate({"idle": True})
    filter_samples(script, DataSection.model_validate_json(DataSection(filter=section).model_dump_json()))
    policy = DiffusionConfig(device="cpu", horizon=8, n_action_steps=4, drop_n_last_frames=7)
    dataset = DatasetConfig(repo_id="idle", root=str(root), eval_split=0.5, video_backend="pyav")
    train, held_out = script.make_train_eval_datasets(TrainPipelineConfig(dataset=dataset, policy=policy))
    # As LeRobot's loop makes it.
    native: Any = script.EpisodeAwareSampler(
        train.meta.episodes["dataset_from_index"],
        train.meta.episodes["dataset_to_index"],
        episode_indices_to_use=train.episodes,
        drop_n_last_frames=7,
        shuffle=True,
        seed=3,
        absolute_to_relative_idx=train.absolute_to_relative_idx,
    )
    frames = set(range(2 * LENGTH)) - IDLE - {*range(53, 60), *range(113, 120)}
    assert {int(train.hf_dataset[i]["index"]) for i in native.indices} == frames
    assert held_out is not None and len(held_out) == 2 * LENGTH, "held-out frames are never filtered"
    options: dict[str, Any] = {"eval_split": 0.5, "seed": 3, "batch_size": 5, "frame_filter": section}
    direct, cached = (LeRobotDataModule(root=root, cache=c, **options) for c in ("off", "ram"))  # type: ignore[arg-type]
    for data in (direct, cached):
        data.for_policy(policy)
    samplers = direct.train_sampler(), cached.train_sampler()
    for epoch in range(3):
        expected = list(native)
        for sampler in samplers:
            sampler.set_epoch(epoch)
            assert [i for batch in sampler for i in batch] == expected
    assert sum(len(batch["index"]) for batch in direct.val_dataloader()) == 2 * LENGTH
    tracker = script.MetricsTracker(5, train.num_frames, train.num_episodes, {})
    assert tracker._num_frames == len(frames), "an epoch is what is trained on"


def test_a_mixture_is_filtered_source_by_source_in_both_trainers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lerobot.scripts import lerobot_train as script

    from hlrp.data.policy_data_module import MixtureDataModule
    from hlrp.data.policy_mixture import MixtureMetadata
    from hlrp.data.source_sections import read_policy_sources
    from trainers.lerobot.data_hooks import read_mixture

    given = [SourceSection(root=root), SourceSection(root=root, weight=2.0)]
    sources = read_policy_sources(DataSection(sources=given), "hlrp_vla_direct", masks=True)
    section = FilterSection.model_validate({"idle": True})
    policy: Any = SimpleNamespace(
        observation_delta_indices=None, action_delta_indices=[0, 1], reward_delta_indices=None
    )
    data = MixtureDataModule(sources, batch_size=5, seed=3, num_workers=0, frame_filter=section)
    data.for_policy(policy)
    left = set(range(4 * LENGTH)) - IDLE
    samples: Any = data._train
    assert {*samples.__getitems__(range(len(samples)))["index"].tolist()} == left | {4 * LENGTH + i for i in left}
    for name in ("make_train_eval_datasets", "EpisodeAwareSampler"):
        monkeypatch.setattr(script, name, getattr(script, name))
    read_mixture(script, lambda _: MixtureMetadata(sources), section)
    transforms = SimpleNamespace(enable=False)
    cfg: Any = SimpleNamespace(
        trainable_config=policy, dataset=SimpleNamespace(eval_split=0.0, image_transforms=transforms)
    )
    train, _ = script.make_train_eval_datasets(cfg)
    assert train.num_frames == 2 * len(left)
    order: Any = script.EpisodeAwareSampler
    assert [*order(seed=3)] == [i for batch in data.train_sampler() for i in batch]
    marks = [selection.mark for selection in data.selections()]
    assert data.state_dict()["filter"] == marks and len(marks) == 2


@pytest.mark.parametrize("trainer", BOTH)
def test_a_dry_run_says_what_is_left_out(trainer: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = _dry_run(_config(trainer, root, "data.filter.idle=true", *TINY_ACT)) + capsys.readouterr().err
    assert "20.8% of 240 training frames begin no sample (idle 20.8%); 190 are left" in text
    with pytest.raises(UserError, match="the filter leaves none of the 240"):
        _dry_run(_config(trainer, root, "data.filter.motion=200", *TINY_ACT))


@pytest.mark.parametrize("trainer", BOTH)
def test_numbers_that_must_stay_unknown_choose_no_frames(trainer: str, root: Path) -> None:
    ours = ["model.policy_type=hlrp_vla_direct", "model.labelled_episodes=[0]", "data.filter.idle=true"]
    run: Any = load_config(None, [*ours, f"trainer_type={trainer}", f"data.root={root}"]).config
    with pytest.raises(UserError, match="of which those of unlabelled episodes are to stay unknown") as refused:
        _dry_run(run)
    assert "use data.filter.motion" in str(refused.value)


def test_epochs_are_of_what_is_left(root: Path, tmp_path: Path) -> None:
    from trainers.lerobot.trainer import plan

    keys = ["model.policy_type=act", f"data.root={root}", "data.filter.idle=true"]
    run: Any = load_config(None, [*keys, "trainer.max_epochs=2", "trainer.batch_size=19"]).config
    assert plan(run, tmp_path / "run").steps == 20


@pytest.mark.parametrize("trainer", BOTH)
def test_a_run_goes_on_with_the_same_filter_only(trainer: str, root: Path, tmp_path: Path) -> None:
    from trainers.run_data import describe_data

    keys = ("trainer.eval_split=0.5", *TINY_ACT)
    run = _config(trainer, root, "data.filter.idle=true", *keys)
    directory = _stored(run, tmp_path / "run", root)
    data = LeRobotDataModule(root=root, frame_filter=run.data.filter, eval_split=0.5)
    record = describe_data([read_dataset(None, root)], data.selections())
    assert record.filter is not None and record.filter.startswith("105 of 120 frames (")
    directory.update(dataset=record)
    assert _dry_run(run, resume=directory)
    for other in ("data.filter.idle=1.6", "trainer.seed=1000"):
        with pytest.raises(UserError, match=r"the filter of the run has changed: it left 105 of 120"):
            _dry_run(_config(trainer, root, other, *keys), resume=directory)


@pytest.mark.slow
def test_both_trainers_come_to_the_same_weights_with_a_filter(root: Path, tmp_path: Path) -> None:
    sizes = ["--steps", "4", "--batch-size", "8", "--output-dir", str(tmp_path), "data.num_workers=0"]
    done = hlrp(
        "parity", "--policy", "act", "--dataset-root", root, *sizes, *TINY_ACT, "data.filter.idle=true", "--json"
    )
    assert done.code == 0, done.err
    marks = [json.loads((tmp_path / t / "run.json").read_text())["dataset"]["filter"] for t in BOTH]
    assert marks[0] == marks[1] and marks[0].startswith("190 of 240 frames (")
