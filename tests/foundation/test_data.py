"""Samples: one frame with its instruction and state, the same whatever makes the labels, and in the same order."""

import numpy as np
import pytest
import torch
from foundation_toys import CAMERA, TASKS, make_run, make_table
from make_dataset import make_dataset

from hlrp.data import FrameWindows, WindowSource, read_dataset, read_episodes
from hlrp.data.columns import read_column
from hlrp.data.motion import MotionScores
from hlrp.data.renaming import rename_features
from hlrp.errors import UserError
from hlrp.foundation import FoundationDataModule
from hlrp.foundation.windows import STATE, present
from hlrp.latents.sources import FRAMES, VALID


def test_a_sample_is_the_frame_the_task_and_the_state(square_root, table2):
    run = make_run(square_root, {"table": table2}, model={"use_state": True, "image_size": 48})
    data = FoundationDataModule(run)
    samples = data.train_samples
    # 4 of 6 episodes; the last 2 of 20 frames have nothing 0.2 s after them.
    assert len(samples) == 4 * 18
    batch = samples.__getitems__([0, 17, 18, 71])
    info = read_dataset(None, square_root)
    frames = FrameWindows([WindowSource(info, [0, 1, 2, 3])], offset_seconds=0.2, size=48, drop_invalid=True)
    assert torch.equal(batch[CAMERA], frames.__getitems__([0, 17, 18, 71])["frames"][:, 0])
    assert batch[CAMERA].dtype == torch.uint8
    assert batch["index"].tolist() == [0, 17, 20, 77]
    assert batch["episode_index"].tolist() == [0, 0, 1, 3]
    assert batch["instruction"] == [TASKS[0], TASKS[0], TASKS[1], TASKS[1]]
    recorded = read_column(info, STATE)
    assert torch.equal(batch[STATE], torch.from_numpy(recorded[[0, 17, 20, 77]]))
    mean, std = samples.state_statistics()
    used = recorded[samples.ids()[:, 1]].astype("float64")
    assert mean == pytest.approx(used.mean(0)) and std == pytest.approx(used.std(0))
    assert samples.tasks == sorted(TASKS)
    assert samples[0]["instruction"] == TASKS[0]
    assert FRAMES not in batch


def test_online_labels_bring_their_window_and_nothing_else_changes(square_root, table3, laq3):
    looked_up, online = (FoundationDataModule(make_run(square_root, x)) for x in ({"table": table3}, {"laq": laq3}))
    a, b = next(iter(looked_up.train_dataloader())), next(iter(online.train_dataloader()))
    for key in (CAMERA, "index", "source", "task_index"):
        assert torch.equal(a[key], b[key])
    assert a["instruction"] == b["instruction"]
    assert b[FRAMES].shape == (6, 3, 3, 24, 24)
    assert b[VALID].shape == (6, 2)
    info = read_dataset(None, square_root)
    windows = FrameWindows([WindowSource(info)], num_frames=3, offset_seconds=0.2, size=24)
    assert torch.equal(b[FRAMES], windows.__getitems__(b["index"].tolist())["frames"])


def test_transforms_change_what_the_model_sees_and_not_what_is_labelled(square_root, laq3):
    bright = {"enable": True, "tfs": {"a": {"type": "ColorJitter", "kwargs": {"brightness": [0.4, 0.6]}}}}
    runs = [make_run(square_root, {"laq": laq3}, image_transforms=given) for given in (bright, False)]
    modules = [FoundationDataModule(run) for run in runs]
    changed, plain = (next(iter(module.train_dataloader())) for module in modules)
    ratio = changed[CAMERA].double().mean((1, 2, 3)) / plain[CAMERA].double().mean((1, 2, 3))
    assert ratio.min() > 0.38 and ratio.max() < 0.62 and ratio.max() - ratio.min() > 0.02
    assert torch.equal(changed[FRAMES], plain[FRAMES]) and torch.equal(changed["index"], plain["index"])
    assert torch.equal(*(next(iter(module.val_dataloader()))[CAMERA] for module in modules))


def test_a_filter_leaves_frames_out_by_the_motion_of_the_labels_pair(square_root, table2, tmp_path):
    plain = FoundationDataModule(make_run(square_root, {"table": table2}))
    table, episodes = read_episodes(read_dataset(None, square_root)), plain.train_sources[0].episodes
    motion = MotionScores(table, CAMERA, plain.filtered_size, 2, root=tmp_path).read(episodes)[0]
    starts = plain.train_samples.ids()[:, 1]
    middle = float(np.median(motion[starts]))
    run = make_run(square_root, {"table": table2}, filter={"motion": {"below": middle, "above": middle}})
    filtered = FoundationDataModule(run, cache_root=tmp_path)
    filtered.setup("fit")
    assert filtered.train_samples.ids()[:, 1].tolist() == starts[motion[starts] >= middle].tolist()
    assert filtered.val_windows is not None and len(filtered.val_windows) == 2 * 18
    assert filtered.state_dict()["filter"] != plain.state_dict()["filter"] == []


def test_held_out_episodes_and_workers(square_root, table2):
    data = FoundationDataModule(make_run(square_root, {"table": table2}, num_workers=1, cache="off"))
    held_out = torch.cat([b["episode_index"] for b in data.val_dataloader()])
    assert set(held_out.tolist()) == {4, 5}
    seen = [b["index"].tolist() for b in data.train_dataloader()]
    ram = FoundationDataModule(make_run(square_root, {"table": table2}))
    assert [b["index"].tolist() for b in ram.train_dataloader()] == seen
    assert len(seen) == 72 // 6
    spread = torch.cat([b["index"] for b in ram.spread(10)])
    assert len(spread) == 10 and spread.tolist() == sorted(spread.tolist())


def test_a_camera_that_a_source_lacks_is_marked(square_root, table2, tmp_path):
    other = make_dataset(tmp_path / "other", episodes=2, length=12, size=96, camera="observation.wrist")
    sources = [{"root": str(square_root)}, {"root": str(other)}]
    run = make_run(None, {"table": table2}, sources=sources, cameras=[CAMERA, "observation.wrist"])
    samples = FoundationDataModule(run).train_samples
    batch = samples.__getitems__([0, len(samples) - 1])
    assert present(batch, CAMERA).tolist() == [True, False]
    assert present(batch, "observation.wrist").tolist() == [False, True]
    assert batch[CAMERA][1].sum() == 0 and batch[CAMERA][0].sum() > 0
    both = FoundationDataModule(make_run(square_root, {"table": table2})).train_samples
    assert present(both.__getitems__([0]), CAMERA) is None


def test_what_the_data_lack_is_said(square_root, table2, tmp_path):
    other = make_dataset(tmp_path / "wrist", episodes=2, length=12, size=64, camera="observation.wrist")
    sources = [{"root": str(square_root)}, {"root": str(other)}]
    with pytest.raises(UserError, match="has none of the cameras"):
        _ = FoundationDataModule(make_run(None, {"table": table2}, sources=sources)).train_samples
    small = make_dataset(tmp_path / "small", episodes=2, length=12, size=64)
    sources = [{"root": str(square_root)}, {"root": str(small)}]
    with pytest.raises(UserError, match="differs in size"):
        _ = FoundationDataModule(make_run(None, {"table": table2}, sources=sources)).train_samples
    run = make_run(None, {"table": table2}, sources=sources, model={"image_size": 32})
    assert FoundationDataModule(run).train_samples[0][CAMERA].shape == (3, 32, 32)


def test_other_labels_are_refused_on_resume(square_root, table2, table3):
    state = FoundationDataModule(make_run(square_root, {"table": table2})).state_dict()
    FoundationDataModule(make_run(square_root, {"table": table2})).load_state_dict(state)
    with pytest.raises(UserError, match=r"laq_sha256 was .* and is now"):
        FoundationDataModule(make_run(square_root, {"table": table3})).load_state_dict(state)


def test_an_only_camera_without_a_name_is_that_of_the_other_datasets(square_root, laq2, table2, tmp_path):
    front = "observation.images.front"
    rename_features(read_dataset(None, square_root), {CAMERA: front}, tmp_path / "named")
    tables = {square_root: table2, tmp_path / "named": make_table(tmp_path / "named", laq2, tmp_path / "table")}
    sources = [{"root": str(root), "table": str(table)} for root, table in tables.items()]
    bright = {"enable": True, "tfs": {"a": {"type": "ColorJitter", "kwargs": {"brightness": [1.0, 1.0]}}}}
    for labels in ({}, {"laq": laq2}):
        given = [{"root": s["root"]} for s in sources] if labels else sources
        data = FoundationDataModule(make_run(None, labels, sources=given, image_transforms=bright))
        assert data.cameras == (front,)
        samples = data.train_samples
        half = len(samples) // 2
        batch = samples.__getitems__([0, 40, half, half + 40])
        assert batch["source"].tolist() == [0, 0, 1, 1] and front + ".present" not in batch
        assert torch.equal(batch[front][:2], batch[front][2:]) and batch[front].any()
        assert data.filtered_cameras(data.train_sources[0]) == [CAMERA]
