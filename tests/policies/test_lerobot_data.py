"""`LeRobotDataModule`: LeRobot's samples and LeRobot's order, from LeRobot's reader or from the frame store."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler

from hlrp.data.columns import read_columns
from hlrp.data.dataset_info import read_dataset
from hlrp.data.lerobot_data_module import LeRobotDataModule
from hlrp.data.policy_samples import HeldOutSampler, PolicySampler
from hlrp.errors import UserError


def _configs() -> dict[str, Any]:
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig

    return {
        "one frame, a chunk of actions": ACTConfig(device="cpu", chunk_size=5, n_action_steps=5),
        "two frames": DiffusionConfig(device="cpu", horizon=8, n_action_steps=4, drop_n_last_frames=3),
        "a window of one frame": DiffusionConfig(device="cpu", n_obs_steps=1, horizon=8, n_action_steps=4),
    }


def _data(root: Path, config: Any, cache: str, **more: Any) -> LeRobotDataModule:
    options: dict[str, Any] = {"batch_size": 5, "num_workers": 0, "seed": 3, "video_backend": "pyav", **more}
    data = LeRobotDataModule(root=root, cache=cache, **options)  # type: ignore[arg-type]
    data.for_policy(config)
    return data


def _assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, torch.Tensor):
            assert (value.dtype, value.shape) == (b[key].dtype, b[key].shape), key
            assert torch.equal(value, b[key]), key
        else:
            assert value == b[key], key


@pytest.mark.parametrize("name", list(_configs()))
@pytest.mark.parametrize("split", [0.0, 0.4])
def test_cached_batches_are_those_of_lerobots_reader(name: str, split: float, square_root: Path) -> None:
    """Keys, types, shapes, values and order, of the whole epoch and of the held-out episodes."""
    config = _configs()[name]
    direct, cached = (_data(square_root, config, cache, eval_split=split) for cache in ("off", "ram"))
    pairs = [(direct.train_dataloader(), cached.train_dataloader()), (direct.val_dataloader(), cached.val_dataloader())]
    for ours, theirs in pairs:
        batches = list(ours), list(theirs)
        assert len(batches[0]) == len(batches[1])
        for a, b in zip(*batches, strict=True):
            _assert_same(a, b)
    first = next(iter(cached.train_dataloader()))
    assert first["observation.image"].dtype == torch.uint8
    assert first["task"] == ["move the square"] * 5
    assert bool(list(cached.val_dataloader())) == bool(split)


def test_rows_are_placed_by_index_and_missing_ones_are_refused(square_root: Path, tmp_path: Path) -> None:
    """Zeros in place of rows that are not there would be trained on."""
    import pyarrow.parquet as pq

    root = tmp_path / "rows"
    shutil.copytree(square_root, root)
    (path,) = (root / "data").rglob("*.parquet")
    table = pq.read_table(path)
    info, names = read_dataset(None, root), ["action", "index", "episode_index"]
    whole = read_columns(info, names)
    assert whole["action"].shape == (120, 3) and whole["action"].any(1).all()
    assert whole["index"].tolist() == list(range(120))
    assert whole["episode_index"].tolist() == [i // 24 for i in range(120)]
    pq.write_table(table.take(list(reversed(range(120)))), path)
    turned = read_columns(info, names)
    assert all((turned[name] == whole[name]).all() for name in names)
    pq.write_table(table.take([i for i in range(120) if i not in (0, 50, 119)]), path)
    with pytest.raises(UserError, match="117 of the 120 frames"):
        read_columns(info, names)


def test_workers_give_the_same_batches(square_root: Path) -> None:
    config = _configs()["two frames"]
    for cache in ("off", "disk"):
        alone = _data(square_root, config, cache, cache_root=square_root.parent / "frames")
        forked = _data(square_root, config, cache, num_workers=2, cache_root=square_root.parent / "frames")
        for a, b in zip(alone.train_dataloader(), forked.train_dataloader(), strict=True):
            _assert_same(a, b)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_order_is_lerobots_and_accelerates(world: int) -> None:
    """Every process's batches of three epochs, the short last one included, and from any place on."""
    from accelerate.data_loader import BatchSamplerShard
    from lerobot.datasets.sampler import EpisodeAwareSampler

    def order() -> EpisodeAwareSampler:
        return EpisodeAwareSampler([0, 9, 20], [9, 20, 33], [0, 2], drop_n_last_frames=1, shuffle=True, seed=5)

    for rank in range(world):
        batches = BatchSampler(order(), 3, drop_last=False)  # type: ignore[arg-type]
        native = BatchSamplerShard(batches, world, rank) if world > 1 else batches
        ours = PolicySampler(order(), 3, rank=rank, world_size=world)
        for epoch in range(3):
            ours.set_epoch(epoch)
            expected = list(native)
            assert list(ours) == expected
            assert len(ours) == len(expected)
            resumed = PolicySampler(order(), 3, rank=rank, world_size=world)
            resumed.load_state_dict({"epoch": epoch, "position": 2})
            assert list(resumed) == expected[2:]
            resumed.set_epoch(epoch + 1)
            ours.set_epoch(epoch + 1)
            assert list(resumed) == list(ours)


def test_held_out_batches_are_shared_out_evenly() -> None:
    parts = [list(HeldOutSampler(range(10), 3, rank=r, world_size=3)) for r in range(3)]
    assert [len(part) for part in parts] == [2, 2, 2]
    assert sorted({i for part in parts for batch in part for i in batch}) == list(range(10))
    assert list(HeldOutSampler(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]


def test_transforms_reach_training_frames_only(square_root: Path) -> None:
    config = _configs()["one frame, a chunk of actions"]
    data = _data(square_root, config, "ram", eval_split=0.4, image_transforms=lambda image: image * 0)
    assert not next(iter(data.train_dataloader()))["observation.image"].any()
    assert next(iter(data.val_dataloader()))["observation.image"].any()


def test_fewer_held_out_samples_are_spread(square_root: Path) -> None:
    config = _configs()["one frame, a chunk of actions"]
    data = _data(square_root, config, "ram", eval_split=0.4, max_val_samples=4)
    index = torch.cat([batch["index"] for batch in data.val_dataloader()])
    assert index.tolist() == [72, 84, 96, 108]


def test_mistakes_are_named(square_root: Path) -> None:
    config = _configs()["one frame, a chunk of actions"]
    cases = {
        "observation.imagine": lambda: LeRobotDataModule(root=square_root, cameras=["observation.imagine"]),
        "0 to 4": lambda: LeRobotDataModule(root=square_root, episodes=[7]),
        "for_policy": lambda: LeRobotDataModule(root=square_root).train_dataloader(),
        "cache_limit_gb": lambda: _data(square_root, config, "ram", cache_limit_gb=1e-6),
        "drop_n_last_frames": lambda: _data(square_root, _long(), "ram").train_dataloader(),
    }
    for said, mistake in cases.items():
        with pytest.raises(UserError, match=said):
            mistake()


def _long() -> Any:
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig

    return DiffusionConfig(device="cpu", drop_n_last_frames=24)


def test_resuming_on_other_data_is_refused(square_root: Path) -> None:
    config = _configs()["one frame, a chunk of actions"]
    state = _data(square_root, config, "ram").state_dict()
    _data(square_root, config, "ram").load_state_dict(state)
    with pytest.raises(UserError, match="global_batch was 5 and is now 6"):
        _data(square_root, config, "ram", batch_size=6).load_state_dict(state)
