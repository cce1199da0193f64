"""Samples of a policy's mixture: what a source has is LeRobot's, what it lacks is flagged and reaches nothing."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from mixtures import CAMERA, SIDE, TOP, edit_column, joined, make_sources, sections, tables

from hlrp.config import load_config
from hlrp.data.policy_data_module import MixtureDataModule
from hlrp.data.policy_mixture import LoopSamples, MixtureMetadata, PolicyMixture
from hlrp.errors import UserError

CHUNK = 6
CONFIG: Any = SimpleNamespace(
    observation_delta_indices=None, action_delta_indices=list(range(CHUNK)), reward_delta_indices=None
)
STATE = "observation.state"


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_sources(tmp_path_factory.mktemp("mixture"))


def _samples(sources: list[dict[str, Any]], **more: Any) -> PolicyMixture:
    mixture = joined(sources, **more)
    return PolicyMixture(mixture, CONFIG, [kept for kept, _ in mixture.split(0.0)])


def test_what_a_source_has_is_what_lerobot_reads(roots: dict[str, Path]) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    samples = _samples(sections(roots))
    stamps = {"action": [i / 10 for i in range(CHUNK)]}
    for first, name, camera, episodes in ((0, "robot", CAMERA, 4), (72, "video", TOP, 3)):
        dataset = LeRobotDataset(name, root=roots[name], delta_timestamps=stamps if name == "robot" else None)
        for index in (0, 20, 40):
            sample, theirs = samples[first + index], dataset[index]
            pixels = (theirs[camera] * 255).round().to(torch.uint8)
            assert (sample[CAMERA].int() - pixels.int()).abs().max() <= 3, "LeRobot's decoder rounds otherwise"
            assert sample["index"] == first + index
            assert sample["task"] == theirs["task"]
            assert sample["episode_index"] == theirs["episode_index"] + (4 if name == "video" else 0)
            labelled = name == "robot" and int(theirs["episode_index"]) in (1, 2)
            assert sample[f"{STATE}_is_pad"] == (not labelled)
            expected = theirs["action_is_pad"] if labelled else torch.ones(CHUNK, dtype=torch.bool)
            assert sample["action_is_pad"].equal(expected)
            if labelled:
                assert sample["action"].equal(theirs["action"]) and sample[STATE].equal(theirs[STATE])
            else:
                assert not sample["action"].any() and not sample[STATE].any()
        assert dataset.num_episodes == episodes
    assert samples.tasks == ["push the square", "pull it", "look"]


def test_numbers_that_are_not_labelled_reach_no_sample(roots: dict[str, Path], tmp_path: Path) -> None:
    """NaN in place of every one of them gives the same samples and statistics, bit for bit."""
    blank = {name: tmp_path / name for name in roots}
    for name, root in roots.items():
        shutil.copytree(root, blank[name])
    for name, hidden in (("robot", [0, 3]), ("other", [0, 1]), ("video", [0, 1, 2])):
        (path,) = tables(blank[name])
        frames = np.isin(
            np.arange({"robot": 72, "other": 40, "video": 60}[name]) // (18 if name == "robot" else 20), hidden
        )
        for column in ("action", STATE) if name != "video" else (STATE,):
            edit_column(path, column, lambda values, frames=frames: np.where(frames[:, None], np.nan, values))
    whole, empty = _samples(sections(roots)), _samples(sections(blank))
    first, second = (s.__getitems__(range(len(s))) for s in (whole, empty))
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert values == second[name] if isinstance(values, list) else values.equal(second[name]), name
    stats = [MixtureMetadata(joined(sections(r))).stats for r in (roots, blank)]
    for feature in ("action", STATE):
        assert all(np.array_equal(v, stats[1][feature][k]) for k, v in stats[0][feature].items())


def test_frames_of_a_mixture_are_transformed_in_both_trainers(roots: dict[str, Path]) -> None:
    def invert(frames: torch.Tensor) -> torch.Tensor:
        return 255 - frames

    batches = []
    for transforms in (None, invert):
        data = MixtureDataModule(
            joined(sections(roots)), batch_size=4, seed=0, num_workers=0, image_transforms=transforms
        )
        data.for_policy(CONFIG)
        batches.append(next(iter(data.train_dataloader())))
    plain, inverted = batches
    assert inverted[CAMERA].equal(255 - plain[CAMERA])
    assert inverted["index"].equal(plain["index"]) and inverted["action"].equal(plain["action"])
    samples = _samples(sections(roots))
    loop = LoopSamples(samples, MixtureMetadata(joined(sections(roots))), invert)
    assert loop[3][CAMERA].equal(255 - samples[3][CAMERA])


def test_a_camera_that_a_source_lacks_is_flagged(roots: dict[str, Path]) -> None:
    sources = [{"root": str(roots["robot"])}, {"root": str(roots["other"]), "labelled_episodes": "none"}]
    batch = _samples(sources).__getitems__([0, 71, 72, 111])
    assert batch[f"{TOP}_is_pad"].tolist() == [True, True, False, False]
    assert f"{CAMERA}_is_pad" not in batch
    assert not batch[TOP][:2].any() and batch[TOP][2:].any() and batch[TOP].shape == (4, 3, SIDE, SIDE)
    only = _samples(sources, cameras=[CAMERA]).__getitems__([0, 111])
    assert TOP not in only


def test_pictures_of_several_sizes_come_at_the_policys(roots: dict[str, Path], tmp_path: Path) -> None:
    from make_dataset import make_dataset

    small = make_dataset(tmp_path / "small", episodes=1, size=64, action=False)
    sources = [{"root": str(roots["robot"])}, {"root": str(small)}]
    with pytest.raises(UserError, match=r"'observation.image' differ in size: .*96x96, .*64x64") as refused:
        joined(sources)
    assert "model.image_size" in str(refused.value)
    samples = _samples(sources, image_size=[48, 56])
    assert samples.__getitems__([0, 80])[CAMERA].shape == (2, 3, 48, 56)


def test_statistics_are_those_of_the_joined_tables_without_any_video(roots: dict[str, Path], tmp_path: Path) -> None:
    copies = [shutil.copytree(roots["robot"], tmp_path / name) for name in ("one", "two")]
    (path,) = tables(copies[1])
    edit_column(path, "action", lambda values: values * 3 + 1)
    for copy in copies:
        shutil.rmtree(copy / "videos")
    sources = [{"root": str(copies[0]), "labelled_episodes": [1, 2], "weight": 9}, {"root": str(copies[1])}]
    stats = MixtureMetadata(joined(sources)).stats
    import pyarrow.parquet as pq

    for name in ("action", STATE):
        rows = [np.array(pq.ParquetFile(tables(c)[0]).read().column(name).to_pylist(), np.float64) for c in copies]
        both = np.concatenate([rows[0][18:54], rows[1]])
        found = stats[name]
        assert found["mean"] == pytest.approx(both.mean(0), abs=1e-6)
        assert found["std"] == pytest.approx(both.std(0), abs=1e-6)
        assert found["min"] == pytest.approx(both.min(0), abs=1e-6)
        assert found["max"] == pytest.approx(both.max(0), abs=1e-6)
        assert found["count"].tolist() == [108]


def test_lerobots_loop_is_given_the_same_samples_and_workers_can_be_sent_them(roots: dict[str, Path]) -> None:
    import pickle

    samples = _samples(sections(roots))
    loop = pickle.loads(pickle.dumps(LoopSamples(samples, MixtureMetadata(joined(sections(roots))))))
    assert len(loop) == len(samples) == 172
    whole = samples.__getitems__([5, 90])
    for position, sample in enumerate(loop.__getitems__([5, 90])):
        assert sample.keys() == whole.keys()
        for name, value in sample.items():
            assert value == whole[name][position] if name == "task" else value.equal(whole[name][position])


def _refused(sources: list[dict[str, Any]], *words: str, policy: str = "hlrp_vla_direct", **more: Any) -> None:
    with pytest.raises(UserError) as refused:
        joined(sources, policy, **more)
    message = " ".join(str(refused.value).split())
    for word in words:
        assert word in message, message


def test_sources_that_do_not_fit_are_refused_by_name(roots: dict[str, Path], tmp_path: Path) -> None:
    robot, video, other = ({"root": str(roots[n])} for n in ("robot", "video", "other"))
    _refused([robot, other], "'action' differs in width: data.sources.0 (robot) 3, data.sources.1 (other) 5")
    _refused([video], "no source has labelled episodes")
    _refused([robot, video], "video has none of the cameras observation.image", "rename_map", cameras=[CAMERA])
    _refused([robot, video | {"labelled_episodes": [0]}], "has labelled episodes, but no 'action'", "data.sources.1")
    _refused([robot | {"labelled_episodes": [9]}], "episodes [9] do not exist")
    _refused([robot, video | {"rename_map": {"top": CAMERA}}], "has no feature 'top'", "data.sources.1.rename_map")
    _refused([other | {"rename_map": {TOP: CAMERA}}, robot], "would be called 'observation.image'")
    slow = shutil.copytree(roots["robot"], tmp_path / "slow")
    info = json.loads((slow / "meta/info.json").read_text())
    (slow / "meta/info.json").write_text(json.dumps(info | {"fps": 5}))
    _refused([robot, {"root": str(slow)}], "different times: data.sources.0 (robot) 10, data.sources.1 (slow) 5")
    assert joined([robot, {"root": str(slow), "labelled_episodes": "none"}]).info.fps == 10


def test_lerobots_own_policies_take_whole_samples_only(roots: dict[str, Path]) -> None:
    robot, video, other = ({"root": str(roots[n])} for n in ("robot", "video", "other"))
    same = [robot, robot | {"weight": 3}]
    assert "action_is_pad" in _samples(same, policy="act")[0]
    assert f"{STATE}_is_pad" not in _samples(same, policy="act")[0]
    renamed = video | {"rename_map": {TOP: CAMERA}}
    _refused([robot, renamed], "policy 'act' cannot mask", "video lacks action", "data.sources.1", policy="act")
    _refused([robot, robot | {"labelled_episodes": [0]}], "in 1 of its 4 episodes only", policy="act")
    _refused([robot, other], "'action' differs in width", policy="act")


def _run(
    sources: list[dict[str, Any]], *overrides: str, trainer: str = "lerobot", policy: str = "hlrp_vla_direct"
) -> Any:
    keys = {"trainer_type": trainer, "model.policy_type": policy, "data.sources": sources}
    return load_config(None, overrides, {k: (v, "test") for k, v in keys.items()}).config


def test_settings_that_mean_one_dataset_are_refused(roots: dict[str, Path], tmp_path: Path) -> None:
    from trainers.lerobot.trainer import plan

    robot, video = {"root": str(roots["robot"])}, {"root": str(roots["video"]), "rename_map": {TOP: CAMERA}}
    for overrides, words in (
        (["model.labelled_episodes=[0]"], "model.labelled_episodes does not say which of data.sources"),
        (["data.rename_map={a: b}", "model.init_from=x"], "data.rename_map does not say which"),
        (["trainer.lerobot_args={dataset.use_imagenet_stats: false}"], "which does not read mixtures"),
        (["latents.source=precomputed"], "no dataset of the run has labels"),
    ):
        with pytest.raises(UserError) as refused:
            plan(_run([robot, video], *overrides), tmp_path / "run")
        assert words in str(refused.value)
    with pytest.raises(UserError, match="policy 'act' has no use for latent labels"):
        plan(_run([robot | {"table": str(tmp_path)}], policy="act"), tmp_path / "run")
    with pytest.raises(UserError, match="is no latent table"):
        plan(_run([robot | {"table": str(tmp_path)}, video]), tmp_path / "run")


def test_action_spaces_are_named_of_all_or_none(roots: dict[str, Path]) -> None:
    robot, other = {"root": str(roots["robot"])}, {"root": str(roots["other"]), "labelled_episodes": [0]}
    _refused(
        [robot, other | {"action_space": "other"}], "data.sources.0 (robot) has labelled episodes and no action_space"
    )
    lost = {"root": str(roots["video"]), "rename_map": {TOP: CAMERA}, "action_space": "robo"}
    _refused([robot | {"action_space": "robot"}, lost], "no labelled source has the action space 'robo'", "'robot'")
    both = [robot | {"action_space": "robot"}, other | {"action_space": "other"}]
    _refused(both, "has one action space, the sources have 2: robot, other", policy="act", cameras=[CAMERA])
    samples = _samples(both, cameras=[CAMERA])
    batch = samples.__getitems__([0, 72, 92])
    assert batch["action_space_is_pad"].tolist() == [[False, True], [True, False], [True, False]]
    assert batch["action"].shape == (3, CHUNK, 8) and batch[STATE].shape == (3, 4)
    assert not batch["action"][0, :, 3:].any() and not batch["action"][1, :, :3].any()
    assert batch["action_is_pad"][2].all(), "the second episode of the other is not labelled"
    stats = MixtureMetadata(joined(both, cameras=[CAMERA])).stats
    alone = [MixtureMetadata(joined([source], cameras=[CAMERA])).stats for source in both]
    for name in ("action", STATE):
        for key in ("mean", "std", "q01"):
            assert np.array_equal(stats[name][key], np.concatenate([part[name][key] for part in alone]))


def test_a_mixture_made_in_python_says_how_to_make_it_again(roots: dict[str, Path]) -> None:
    from lerobot.transforms import ImageTransforms, ImageTransformsConfig

    from hlrp.config import DataSection
    from hlrp.data import MixtureDataModule

    transforms = ImageTransforms(ImageTransformsConfig(enable=True, max_num_transforms=2))
    data = MixtureDataModule(joined(sections(roots)), cache="ram", eval_split=0.2, image_transforms=transforms)
    said = data.describe()
    assert data.undescribed() == [] and DataSection(**said["data"]).image_transforms.max_num_transforms == 2
    again = joined(DataSection(**said["data"]).model_dump(exclude_none=True)["sources"])
    assert [s.describe() for s in again.sources] == said["data"]["sources"]
    assert again.info == joined(sections(roots)).info
    assert said["trainer"] == {"batch_size": 8, "eval_split": 0.2}


def test_codes_are_looked_up_in_each_sources_own_table(roots: dict[str, Path], tmp_path: Path) -> None:
    from make_labels import make_quantizer, make_table

    from hlrp.latents.joined import JoinedRows
    from hlrp.latents.table import LatentTable

    laq = make_quantizer(tmp_path / "laq")
    tables = [LatentTable.open(make_table(roots[n], laq, tmp_path / n)) for n in ("robot", "video")]
    rows = JoinedRows([tables[0], None, tables[1]], [72, 40, 60])
    codes, valid = rows.codes([5, 80, 112 + 50, 70, 112])
    for number, (table, index) in enumerate(((0, 5), (None, 0), (1, 50), (0, 70), (1, 0))):
        if table is None:
            assert not codes[number].any() and not valid[number].any()
            continue
        own_codes, own_valid = tables[table].codes([index])
        assert codes[number].equal(own_codes[0]) and valid[number].equal(own_valid[0])
    other = LatentTable.open(make_table(roots["video"], make_quantizer(tmp_path / "laq2", seed=4), tmp_path / "other"))
    with pytest.raises(UserError, match="quantizer"):
        JoinedRows([tables[0], other], [72, 60])
    with pytest.raises(UserError, match="no dataset of the run has labels"):
        JoinedRows([None], [72])


def test_labels_of_a_mixture_are_of_the_one_camera_that_it_reads(roots: dict[str, Path], tmp_path: Path) -> None:
    """The other robot's are of its top camera; the video's only camera is the top one, under a name of its own."""
    from make_labels import make_quantizer, make_table

    from hlrp.policies.build import policy_config
    from lerobot_policy_felix_bundle.policies.common.meaning import resolve_meaning
    from trainers.policy_checks import check_policy_run

    latent, laq = "hlrp_action_expert_latent", make_quantizer(tmp_path / "laq", camera=TOP)
    other = {"root": str(roots["other"]), "labelled_episodes": [0]}
    other["table"] = str(make_table(roots["other"], laq, tmp_path / "other", camera=TOP))
    video = {"root": str(roots["video"]), "table": str(make_table(roots["video"], laq, tmp_path / "video"))}

    def checked(renamed: dict[str, str], camera: str | None, **labels: str | None) -> list[str]:
        """What a trainer refuses before the start, and the policy when it is made."""
        sources = [other | labels, video | {"rename_map": renamed}]
        cameras = {} if camera is None else {"cameras": [camera]}
        mixture = joined(sources, latent, **cameras)
        run = _run(sources, *[f"data.{key}={value}" for key, value in cameras.items()], policy=latent)
        fields = {"latent_source": "precomputed", "latent_camera": camera}
        policy: Any = policy_config(latent, fields, device="cpu")
        refused = []
        for check in (
            lambda: check_policy_run(run, mixture.info),
            lambda: resolve_meaning(policy, MixtureMetadata(mixture)),
        ):
            try:
                check()
            except UserError as error:
                refused.append(error.what)
        return refused

    differ = f"the latent table does not fit: camera: the table has {TOP}, asked for is {CAMERA}"
    assert checked({TOP: CAMERA}, CAMERA) == [differ, differ]
    assert checked({TOP: CAMERA}, None) == checked({}, TOP) == []
    assert checked({TOP: CAMERA}, CAMERA, table=None) == [], "the video's are of the camera that is renamed"
