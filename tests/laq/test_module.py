"""Training: what Lightning calls, the codebook's upkeep, warnings, optional targets, exact state."""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from laq_toys import moving_square
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader
from two_processes import averaged, first_of_two, in_processes

from hlrp.config import LightningRun
from hlrp.errors import UserError
from hlrp.laq import LAQ, LAQModule
from hlrp.laq.losses import masked_mean, pixel_loss
from hlrp.laq.module import _windows
from hlrp.laq.schedules import learning_rate_factor, replacement_at
from hlrp.runs import RunDirectory
from trainers.lightning.trainer import LightningTrainer

warnings.filterwarnings("ignore", module="lightning")


def make_run(steps: int = 30, frames: int = 2, **model: Any) -> LightningRun:
    return LightningRun.model_validate(
        {
            "trainer_type": "lightning",
            "trainer": {"steps": steps, "batch_size": 16},
            "model": {"kind": "laq", "preset": "tiny", "image_size": [24, 24], **model},
            "data": {"root": "toy", "num_frames": frames},
        }
    )


def make_batches(count: int, frames: int = 2, sources: int = 1) -> DataLoader[Any]:
    video, _ = moving_square(16 * count, frames, (24, 24))
    valid = torch.ones(len(video), frames - 1, dtype=torch.bool)
    valid[::5, -1] = frames == 2
    source = torch.arange(len(video)) % sources
    batches = [
        {"frames": f, "valid": v, "source": s}
        for f, v, s in zip(video.split(16), valid.split(16), source.split(16), strict=True)
    ]
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def fit(
    module: LAQModule,
    steps: int,
    train: DataLoader[Any],
    val: DataLoader[Any] | None = None,
    ckpt_path: Path | None = None,
    **options: Any,
) -> Trainer:
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(module, train, val, ckpt_path=ckpt_path, weights_only=False)
    return trainer


@pytest.mark.parametrize("quantizer", ["nsvq", "fsq", "vq"])
def test_training_uses_the_codes_and_beats_copying(quantizer: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = LAQModule(make_run(150, quantizer=quantizer))
    trainer = fit(module, 150, make_batches(16), make_batches(4), check_val_every_n_epoch=5)
    scores = {k: float(v) for k, v in trainer.callback_metrics.items()}
    assert scores["val_psnr_gain"] > 3
    # Three motions are all there is to tell apart.
    assert scores["val_permutation_gap"] > 0.5
    assert max(scores[f"val_codes_used_{s}"] for s in range(4)) > 2 / 16
    assert {"loss_pixel", "codes_used", "perplexity", "val_loss"} <= scores.keys()

    module.save_pretrained(tmp_path)
    loaded, frames = LAQ.from_checkpoint(tmp_path), next(iter(make_batches(1)))["frames"]
    assert loaded.manifest is not None
    assert loaded.manifest.step == 150
    assert torch.equal(loaded.encode(frames), module.laq.encode(frames))


def test_validation_changes_no_weight_and_no_count() -> None:
    module = LAQModule(make_run())
    fit(module, 4, make_batches(4))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).validate(module, make_batches(3), verbose=False)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_unused_codes_are_replaced_after_the_step_and_once_per_step() -> None:
    module = LAQModule(make_run(40))
    module.initialised.fill_(True)
    with torch.no_grad():
        module.laq.quantizer.codes[:, 4:] = 1e3
    fit(module, 9, make_batches(4))
    assert float(module.laq.quantizer.codes[:, 4:].detach().min()) > 900
    module = LAQModule(make_run(40))
    module.initialised.fill_(True)
    with torch.no_grad():
        module.laq.quantizer.codes[:, 4:] = 1e3
    fit(module, 10, make_batches(20), accumulate_grad_batches=2)
    assert float(module.laq.quantizer.codes[:, 4:].detach().max()) < 900
    assert int(module.uses.sum()) == 0


def test_a_resumed_run_with_accumulation_replaces_nothing_before_its_next_step(tmp_path: Path) -> None:
    replaced: list[int] = []

    class Watched(LAQModule):
        def _replace(self, threshold: float) -> None:
            replaced.append(self.global_step)
            super()._replace(threshold)

    fit(Watched(make_run(40)), 10, make_batches(20), accumulate_grad_batches=2).save_checkpoint(tmp_path / "ten")
    assert replaced == [10]
    fit(Watched(make_run(40)), 20, make_batches(20), accumulate_grad_batches=2, ckpt_path=tmp_path / "ten")
    assert replaced == [10, 20]


def test_codes_are_counted_in_all_processes(tmp_path: Path) -> None:
    """DDP gives all of them the first one's buffers before every step; then the second's counts would be lost."""
    checkpoint = tmp_path / "checkpoint"

    def work() -> None:
        torch.set_num_threads(1)
        rank = int(os.environ["LOCAL_RANK"])
        valid = torch.zeros(16, 1, dtype=torch.bool)
        valid[: (4, 16)[rank]] = True
        frames = next(iter(make_batches(1)))["frames"]
        batches = [{"frames": frames, "valid": valid, "source": torch.zeros(16, dtype=torch.int64)}] * 8
        loader = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
        two = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
        module = LAQModule(make_run())
        fit(module, 5, loader, **two).save_checkpoint(checkpoint)
        assert int(module.uses.sum()) == 4 * 5 * (4, 16)[rank]
        fit(module := LAQModule(make_run()), 6, loader, ckpt_path=checkpoint, **two)
        assert int(module.uses.sum()) == 4 * (5 * (4 + 16) + 4 if rank == 0 else 16)

    in_processes(2, work)
    saved = torch.load(checkpoint, weights_only=False)["state_dict"]
    assert int(saved["uses"].sum()) == int(saved["window"].sum()) == 4 * 5 * (4 + 16)


def test_the_losses_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    """Averaged gradients; the first process has one valid pair, the second five, and other pixels move."""
    frames, target = torch.rand(4, 3, 3, 4, 4), torch.rand(4, 2)
    recon = torch.rand(4, 2, 3, 4, 4).requires_grad_(True)
    valid = torch.tensor([[True, False], [False, False], [True, True], [True, True]])
    values = torch.rand(4, 2).requires_grad_(True)
    inputs = {"recon": recon, "values": values}

    def gradients(rows: slice) -> dict[str, torch.Tensor]:
        loss = pixel_loss(recon[rows], frames[rows], valid[rows], 0.1)
        loss = loss + masked_mean((values - target).square()[rows], valid[rows])
        return dict(zip(inputs, torch.autograd.grad(loss, list(inputs.values())), strict=True))

    whole = gradients(slice(0, 4))
    shared = first_of_two(lambda rank: averaged(gradients(slice(2 * rank, 2 * rank + 2))), tmp_path / "meeting")
    for name, expected in whole.items():
        torch.testing.assert_close(shared[name], expected)
    # By hand: the mean over the five valid pairs alone.
    expected = torch.where(valid, 2 * (values - target).detach() / 5, 0.0)
    torch.testing.assert_close(whole["values"], expected)


def test_masked_pairs_count_as_no_use() -> None:
    module = LAQModule(make_run(3, frames=3))
    loader = make_batches(3, frames=3)
    fit(module, 3, loader)
    valid = sum(int(batch["valid"].sum()) for batch in loader)
    assert valid < 3 * 16 * 2
    assert int(module.uses.sum()) == 4 * valid
    assert int(module.window.sum()) == 4 * valid


def test_a_collapsed_codebook_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    module = LAQModule(make_run(400, codebook_size=32))
    module._seen_step = 0
    module.window[:, 3] = 1000
    with caplog.at_level(logging.WARNING, "hlrp.train"):
        module._warn(1 / 32, "training", 1000)
        assert caplog.messages == []  # too early to tell
        trainer = fit(module, 0, make_batches(1))
        trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed = 0
        trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = 250
        module._warn(1 / 32, "training", 10)
        assert caplog.messages == []  # too few uses to tell
        module._warn(1 / 32, "training", 1000)
        module._warn(1 / 32, "training", 1000)
    assert len(caplog.messages) == 1
    assert "only 3 % of the codes" in caplog.messages[0]


def test_several_sources_are_scored_apart() -> None:
    module = LAQModule(make_run())
    module._sources = [_source("first"), _source("second")]
    trainer = fit(module, 2, make_batches(2), make_batches(2, sources=2), limit_train_batches=2)
    assert "val_first_codes_used_0" in trainer.callback_metrics
    assert "val_second_perplexity_3" in trainer.callback_metrics


def _source(name: str) -> Any:
    from hlrp.laq.checkpoint import LAQSource

    return LAQSource(repo_id=name, fingerprint="0" * 16, fps=10)


def test_several_cameras_are_windows_of_their_own() -> None:
    module = LAQModule(make_run())
    video, _ = moving_square(32, 2, (24, 24))
    views = video.view(16, 2, 2, 3, 24, 24).transpose(1, 2)
    loader: Any = DataLoader([{"frames": views, "valid": torch.ones(16, 1, dtype=torch.bool)}], batch_size=None)
    fit(module, 1, loader)
    assert int(module.uses.sum()) == 32 * 4


def test_windows_of_each_camera_keep_their_frames_in_order() -> None:
    views = torch.arange(2 * 3 * 2).view(2, 3, 2, 1, 1, 1)  # frame t of camera v of sample i: 6 i + 2 t + v
    batch = {"frames": views, "valid": torch.tensor([[True, False], [True, True]]), "source": torch.tensor([4, 7])}
    frames, valid, source = _windows(batch)
    assert frames.flatten(1).tolist() == [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11]]
    assert valid.tolist() == [[True, False], [True, False], [True, True], [True, True]]
    assert source.tolist() == [4, 4, 7, 7]


def test_feature_and_flow_targets_teach_their_heads(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torchvision.models.optical_flow import raft_small
    from transformers import Dinov2Config, Dinov2Model

    dino = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=7)
    Dinov2Model(dino).save_pretrained(tmp_path / "dino")
    save_file(raft_small(weights=None, progress=False).state_dict(), tmp_path / "raft.safetensors")
    run = make_run(4, feature_model=tmp_path / "dino", flow_model=tmp_path / "raft.safetensors")
    module = LAQModule(run)
    before = {k: v.clone() for k, v in module.heads.state_dict().items()}
    trainer = fit(module, 3, make_batches(3))
    assert {"loss_feature", "loss_flow"} <= trainer.callback_metrics.keys()
    assert float(trainer.callback_metrics["loss_feature"]) > 0
    assert not any(torch.equal(before[k], v) for k, v in module.heads.state_dict().items() if "weight" in k)
    assert not any("dino" in k or "teacher" in k for k in module.state_dict())
    assert all(not p.requires_grad for t in module._teachers.values() for p in t.parameters())
    features = module._teachers["feature"](torch.rand(2, 3, 24, 24))
    assert features.shape == (2, 4, 16)
    assert module._teachers["flow"](torch.rand(2, 3, 24, 24), torch.rand(2, 3, 24, 24)).shape == (2, 2, 24, 24)
    module.save_pretrained(tmp_path / "laq")
    LAQ.from_checkpoint(tmp_path / "laq")


def test_missing_or_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model folder"):
        LAQModule(make_run(feature_model=tmp_path / "none"))
    with pytest.raises(UserError, match="flow model cannot be read"):
        LAQModule(make_run(flow_model=tmp_path / "none.safetensors"))
    LAQModule(make_run(codebook_size=8)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"quantizer.codes: file \(4, 8, 32\), model \(4, 16, 32\)"):
        LAQModule(make_run(init_from=str(tmp_path)))
    started = LAQModule(make_run(codebook_size=8, init_from=str(tmp_path)))
    assert bool(started.initialised)


def test_learning_rate_and_replacement_schedules() -> None:
    rates = [learning_rate_factor(step, 1000) for step in range(1001)]
    assert rates[0] == pytest.approx(1 / 50)
    assert max(rates) == rates[50] == pytest.approx(1)
    assert rates[1000] == pytest.approx(0.01)
    assert [s for s in range(1, 250) if replacement_at(s, 1000)] == [*range(10, 101, 10), 150, 200]
    assert replacement_at(900, 1000) is None


@pytest.mark.parametrize("processes", [1, 2])
def test_the_parts_of_a_row_add_up_to_its_loss(tmp_path: Path, processes: int) -> None:
    """Means over the batches of a row, the last one too, and over processes that read other samples."""
    settings = {"steps": 10, "log_freq": 4, "device": "cpu", "devices": processes, "accumulate_grad_batches": 2}
    run, out, loader = make_run(10, quantizer="vq"), tmp_path / "run", make_batches(40)

    def work() -> None:
        LightningTrainer(**settings).fit(LAQModule(run), loader, output_dir=out)

    if processes == 1:
        work()
    else:
        in_processes(2, work)
    rows = list(RunDirectory.open(out).metrics())
    assert [row["step"] for row in rows] == [4, 8, 10]
    assert all(row["loss_quantizer"] > 0 for row in rows)
    sums = [row["loss_pixel"] + row["loss_quantizer"] for row in rows]
    assert sums == pytest.approx([row["loss"] for row in rows], rel=1e-5)
