"""Frames in Lightning: order, workers, held-out episodes, and the check on resume."""

import sys

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from small_datasets import TOP

from hlrp.config import LightningRun
from hlrp.data import FrameDataModule, ResumableSampler
from hlrp.errors import UserError


def run_of(root, *, eval_split=0.3, batch_size=8, **data):
    trainer = {"batch_size": batch_size, "eval_split": eval_split, "seed": 7}
    section = {"num_workers": 2, "offset_seconds": 0.2, "cache": "ram", **data}
    if root is not None:
        section["root"] = str(root)
    model = {"kind": "laq", "preset": "tiny"}
    return LightningRun.model_validate(
        {"trainer_type": "lightning", "trainer": trainer, "model": model, "data": section}
    )


class Recorder(LightningModule):
    """Learns the mean colour, and writes down what it was given."""

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(3))
        self.seen, self.held_out, self.kinds = [], set(), set()

    def training_step(self, batch, _):
        self.seen.append(batch["index"].tolist())
        self.kinds.add((batch["frames"].dtype, tuple(batch["frames"].shape)))
        return ((batch["frames"].float() / 255).mean((1, 3, 4)) - self.mean).square().mean()

    def validation_step(self, batch, _):
        self.held_out |= set(batch["episode_index"].tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module, data, tmp_path, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **quiet,
        **options,
    )
    trainer.fit(module, datamodule=data)
    return trainer


def test_lightning_trains_in_the_samplers_order_on_episodes_that_are_not_held_out(video_root, tmp_path):
    data = FrameDataModule(run_of(video_root), size=24, cameras=[TOP])
    module = Recorder()
    fit(module, data, tmp_path, max_epochs=2)
    windows = data.train_windows
    sampler = ResumableSampler(windows.lengths, 8, weights=windows.weights, seed=7)
    expected = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        expected += [windows.ids(batch)[:, 1].tolist() for batch in sampler]
    assert module.seen == expected
    assert module.kinds == {(torch.uint8, (8, 2, 3, 24, 24))}
    assert module.held_out == {3, 4}  # the last of each task
    assert windows.sources[0].episodes == [0, 1, 2]


def test_nothing_held_out_means_no_validation(video_root, tmp_path):
    data = FrameDataModule(run_of(video_root, eval_split=0.0), size=24, cameras=[TOP])
    module = Recorder()
    fit(module, data, tmp_path, max_steps=2)
    assert module.held_out == set() and len(module.seen) == 2


def test_held_out_windows_are_spread_and_limited(video_root):
    data = FrameDataModule(run_of(video_root, num_workers=0), size=24, cameras=[TOP], max_val_windows=11)
    batches = list(data.val_dataloader())
    index = torch.cat([b["index"] for b in batches]).tolist()
    assert len(index) == len(set(index)) == 11 and index == sorted(index)
    assert {e for b in batches for e in b["episode_index"].tolist()} == {3, 4}


def test_several_sources_come_by_weight(video_root, image_root):
    sources = [{"root": str(image_root), "weight": 1.0}, {"root": str(image_root), "weight": 3.0}]
    data = FrameDataModule(run_of(None, sources=sources, num_workers=0, eval_split=0.0, batch_size=4), size=24)
    source = torch.cat([b["source"] for b in data.train_dataloader()])
    assert abs(int((source == 1).sum()) - 3 * int((source == 0).sum())) <= 4
    mixed = [{"root": str(image_root)}, {"root": str(video_root)}]
    with pytest.raises(UserError, match="2 cameras"):
        FrameDataModule(run_of(None, sources=mixed, eval_split=0.0), size=24).setup("fit")


def test_other_data_are_refused_on_resume(video_root, image_root):
    data = FrameDataModule(run_of(video_root, num_workers=0), size=24, cameras=[TOP])
    data.setup("fit")
    state = data.state_dict()
    data.load_state_dict(state)
    with pytest.raises(UserError, match=r"fingerprints was .* and is now"):
        data.load_state_dict(state | {"fingerprints": ["0123"]})
    with pytest.raises(UserError, match="global_batch"):
        data.load_state_dict(state | {"global_batch": 99})


def test_an_offset_must_come_from_somewhere(video_root):
    with pytest.raises(UserError, match="time between the frames"):
        FrameDataModule(run_of(video_root, offset_seconds=None))
    assert FrameDataModule(run_of(video_root, offset_seconds=None), offset_seconds=0.4)


def test_the_cache_needs_no_workers_unless_they_are_asked_for(image_root):
    asked = FrameDataModule(run_of(image_root, eval_split=0.0), size=24)
    assert asked.train_dataloader().num_workers == 2
    run = run_of(image_root, eval_split=0.0)
    data = run.data.model_dump(exclude_unset=True)
    del data["num_workers"]
    for cache, workers in (("ram", 0), ("off", run.data.num_workers)):
        section = type(run.data).model_validate(data | {"cache": cache})
        module = FrameDataModule(run.model_copy(update={"data": section}), size=24)
        assert module.train_dataloader().num_workers == workers


def test_a_decoder_that_cannot_be_loaded_is_refused(video_root, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(UserError, match=r"torchcodec cannot decode here: it is not installed") as caught:
        FrameDataModule(run_of(video_root, video_backend="torchcodec"))
    assert "data.video_backend" in str(caught.value) and "PyAV brings its own" in str(caught.value)


def test_a_run_that_does_not_say_goes_on_in_the_order_of_old(video_root):
    data = FrameDataModule(run_of(video_root, num_workers=0), size=24, cameras=[TOP])
    data.setup("fit")
    state = data.state_dict()
    assert state["shuffling"] == data.train_sampler().shuffling == "computed"
    del state["shuffling"]
    again = FrameDataModule(run_of(video_root, num_workers=0), size=24, cameras=[TOP])
    again.load_state_dict(state)
    again.setup("fit")
    assert again.train_sampler().shuffling == "drawn"
    again.load_state_dict(data.state_dict())
    assert again.train_sampler().shuffling == "computed"
