"""`LeRobotPolicyAdapter` in Python: training, saving, acting, resuming, its options and its refusals."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hlrp.config import load_config
from hlrp.data import LeRobotDataModule
from hlrp.errors import UserError
from hlrp.policies import LeRobotPolicyAdapter
from hlrp.runs import RunDirectory

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import TINY

from trainers.lightning.trainer import LightningTrainer

SETTINGS: dict[str, Any] = {"steps": 12, "save_freq": 6, "log_freq": 1, "device": "cpu"}


def _act(**more: Any) -> LeRobotPolicyAdapter:
    return LeRobotPolicyAdapter("act", **{**TINY["act"], **more})


def _data(root: Path, **more: Any) -> LeRobotDataModule:
    return LeRobotDataModule(root=root, **{"cache": "ram", "batch_size": 4, **more})


def _rows(run: Path) -> list[dict[str, Any]]:
    timed = {"update_s", "data_s", "data_wait", "samples_per_s", "rss_mb", "time"}
    return [{k: v for k, v in row.items() if k not in timed} for row in RunDirectory.open(run).metrics()]


def _saved(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"{step:06d}" / "pretrained_model"


@pytest.fixture(scope="module")
def trained(square_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 steps of ACT with a held-out loss every 6."""
    out = tmp_path_factory.mktemp("adapter") / "run"
    data = _data(square_root, eval_split=0.4, num_workers=0)
    LightningTrainer(**SETTINGS, eval_steps=6).fit(_act(learning_rate=1e-3), data, output_dir=out)
    return out


def test_the_run_is_recorded_as_one_of_the_command(trained: Path, square_root: Path) -> None:
    manifest = RunDirectory.open(trained).manifest
    assert (manifest.policy, manifest.status) == ("act", "finished")
    assert manifest.dataset.root == str(square_root)
    run: Any = load_config(trained / "config.yaml").config
    assert run.model.policy_fields["optimizer_lr"] == 1e-3
    assert (run.trainer.batch_size, run.trainer.eval_split, run.data.cache) == (4, 0.4, "ram")
    rows = _rows(trained)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
    assert {"l1_loss", "kld_loss"} <= rows[0].keys()
    assert [row["step"] for row in rows if "val_loss" in row] == [6, 12]


def test_the_policys_own_figures_are_means_over_the_batches_of_a_row(
    trained: Path, square_root: Path, tmp_path: Path
) -> None:
    data = _data(square_root, eval_split=0.4, num_workers=0)
    settings = {**SETTINGS, "steps": 4, "log_freq": 2}
    LightningTrainer(**settings).fit(_act(learning_rate=1e-3), data, output_dir=tmp_path / "run")
    each = {row["step"]: row for row in _rows(trained) if "loss" in row}
    rows = _rows(tmp_path / "run")
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        for name in ("l1_loss", "kld_loss"):
            mean = (each[row["step"] - 1][name] + each[row["step"]][name]) / 2
            assert row[name] == pytest.approx(mean, rel=1e-5), name


def test_a_resumed_run_repeats_the_uninterrupted_one(trained: Path, tmp_path: Path) -> None:
    """From the recorded configuration alone, in the middle of an epoch: losses, held-out losses and weights."""
    run = tmp_path / "resumed"
    shutil.copytree(trained, run)
    shutil.rmtree(run / "checkpoints" / "000012")
    config: Any = load_config(run / "config.yaml").config
    LightningTrainer().resume(RunDirectory.open(run), config)
    assert _rows(run) == _rows(trained)
    for name in ("pretrained_model/model.safetensors", "training_state/lightning.safetensors"):
        assert (run / "checkpoints/000012" / name).read_bytes() == (trained / "checkpoints/000012" / name).read_bytes()


def test_the_checkpoint_is_lerobots(trained: Path) -> None:
    """LeRobot's own loader takes it, and the adapter acts as LeRobot's policy does."""
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    folder = _saved(trained, 12)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "policy_preprocessor.json", "policy_postprocessor.json"} <= names
    config = PreTrainedConfig.from_pretrained(folder)
    policy = get_policy_class(config.type).from_pretrained(folder)
    before, after = make_pre_post_processors(config, pretrained_path=str(folder))
    observation = {"observation.image": torch.rand(1, 3, 64, 64), "observation.state": torch.ones(1, 2)}
    native = after(policy.select_action(before(dict(observation))))
    adapter = LeRobotPolicyAdapter.from_pretrained(trained)
    assert torch.equal(adapter.select_action(observation), native)
    assert native.shape == (1, 3)
    first = adapter.select_action(observation)
    adapter.reset()
    assert torch.equal(adapter.select_action(observation), native)
    assert not torch.equal(first, native)  # the chunk's second action


def test_the_processors_go_to_the_very_device_that_is_asked_for(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to the first one of its kind. PyTorch numbers CPUs too; LeRobot and safetensors know none but "cpu"."""
    from lerobot.processor import DeviceProcessorStep

    monkeypatch.setattr("lerobot.configs.policies.is_torch_device_available", lambda _: True)
    monkeypatch.setattr("lerobot.policies.pretrained.resolve_safetensors_device", lambda _: "cpu")
    adapter = LeRobotPolicyAdapter("act", init_from=trained)
    adapter.load("cpu:0")
    steps = [step for step in adapter.built.preprocessor.steps if isinstance(step, DeviceProcessorStep)]
    assert [step.tensor_device for step in steps] == [torch.device("cpu:0")]


def test_training_goes_on_from_a_checkpoint_with_the_new_statistics(
    trained: Path, tmp_path: Path, square_root: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(square_root, other)
    stats = json.loads((other / "meta" / "stats.json").read_text())
    stats["action"]["mean"] = [5.0, 5.0, 5.0]
    (other / "meta" / "stats.json").write_text(json.dumps(stats))
    adapter = LeRobotPolicyAdapter("act", init_from=trained)
    LightningTrainer(**{**SETTINGS, "steps": 1}).fit(adapter, _data(other), output_dir=tmp_path / "run")
    assert adapter.built.config.chunk_size == 6, "the checkpoint's own settings"
    saved = load_file(next(_saved(tmp_path / "run", 1).glob("policy_postprocessor*.safetensors")))
    assert saved["action.mean"].tolist() == [5.0, 5.0, 5.0]
    before, after = (load_file(_saved(r, s) / "model.safetensors") for r, s in ((trained, 12), (tmp_path / "run", 1)))
    moved = max(float((before[k] - after[k]).abs().max()) for k in before if before[k].is_floating_point())
    assert 0 < moved < 2e-3, "one step of 1e-3 away from where the checkpoint stood"


def test_the_average_is_saved_and_validated(square_root: Path, tmp_path: Path) -> None:
    decay, steps = 0.5, 3
    kept: list[dict[str, torch.Tensor]] = []
    held_out: list[tuple[float, float]] = []

    class Watched(LeRobotPolicyAdapter):
        def on_train_batch_end(self, *args: Any) -> None:
            kept.append({k: v.detach().clone() for k, v in self.policy.state_dict().items()})
            super().on_train_batch_end(*args)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            losses = [float(module(batch)[0]) for module in (self.average.module, self.policy)]
            held_out.append((losses[0], losses[1]))
            super().validation_step(batch, batch_idx)

    adapter = Watched("act", **TINY["act"], ema_decay=decay, learning_rate=1e-2)
    data = _data(square_root, eval_split=0.2, max_val_samples=8)
    LightningTrainer(**{**SETTINGS, "steps": steps}, eval_steps=steps).fit(adapter, data, output_dir=tmp_path / "run")
    saved = load_file(_saved(tmp_path / "run", steps) / "model.safetensors")
    name = "model.action_head.weight"
    expected = kept[0][name]  # the first step's weights begin the average
    for weights in kept[1:]:
        expected = decay * expected + (1 - decay) * weights[name]
    torch.testing.assert_close(saved[name], expected)
    assert not torch.equal(saved[name], kept[-1][name])
    shown = next(row["val_loss"] for row in _rows(tmp_path / "run") if "val_loss" in row)
    average, raw = (sum(losses) / len(losses) for losses in zip(*held_out, strict=True))
    assert len(held_out) == 2 and shown == pytest.approx(average, rel=1e-5)
    assert abs(average - raw) > 1e-3 * raw


def test_optimizer_schedule_and_clipping_can_be_replaced(square_root: Path, tmp_path: Path) -> None:
    adapter = _act(
        optimizer={"type": "sgd", "lr": 0.5, "grad_clip_norm": 1e-3},
        scheduler={"type": "constant_with_warmup", "num_warmup_steps": 2},
    )
    LightningTrainer(**{**SETTINGS, "steps": 3}).fit(adapter, _data(square_root), output_dir=tmp_path / "run")
    assert isinstance(adapter.trainer.optimizers[0], torch.optim.SGD)
    rows = _rows(tmp_path / "run")
    assert [row["lr"] for row in rows] == [0.25, 0.5, 0.5]
    assert all(row["grad_norm"] > 1e-3 for row in rows), "measured before clipping"
    moved = [p for p in adapter.policy.parameters() if p.grad is not None]
    assert float(torch.nn.utils.get_total_norm([p.grad for p in moved])) == pytest.approx(1e-3, rel=1e-3)


def test_accumulated_batches_step_once(square_root: Path, tmp_path: Path) -> None:
    counted: list[int] = []
    settings = {"steps": 3, "log_freq": 1, "device": "cpu", "accumulate_grad_batches": 2}

    class Counting(LeRobotPolicyAdapter):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            counted.append(batch_idx)
            return super().training_step(batch, batch_idx)

        def forward(self, batch: Any) -> Any:
            loss, outputs = super().forward(batch)
            losses.append((float(loss), outputs["l1_loss"]))
            return loss, outputs

    losses: list[tuple[float, float]] = []
    adapter, run = Counting("act", **TINY["act"], ema_decay=0.9), tmp_path / "run"
    LightningTrainer(**settings, save_freq=1).fit(adapter, _data(square_root), output_dir=run)
    assert len(counted) == 6
    assert int(adapter.average.n_averaged) == 3
    # A row tells of all batches of its step: not a half of their loss, and not the last one's figures.
    means = [[(losses[i][k] + losses[i + 1][k]) / 2 for i in (0, 2, 4)] for k in (0, 1)]
    assert [row["loss"] for row in _rows(run)] == pytest.approx(means[0], rel=1e-5)
    assert [row["l1_loss"] for row in _rows(run)] == pytest.approx(means[1], rel=1e-5)
    resumed = tmp_path / "resumed"
    shutil.copytree(run, resumed, symlinks=True)
    shutil.rmtree(resumed / "checkpoints" / "000003")
    config: Any = load_config(resumed / "config.yaml").config
    again = Counting("act", **TINY["act"], ema_decay=0.9)
    LightningTrainer().resume(RunDirectory.open(resumed), config, module=again)
    assert _rows(resumed) == _rows(run)
    weights = [(_saved(folder, 3) / "model.safetensors").read_bytes() for folder in (run, resumed)]
    assert weights[0] == weights[1], "the average is of three steps, not of a batch more"


def test_samples_are_weighted_where_the_policy_can(square_root: Path, tmp_path: Path) -> None:
    from lerobot.utils.sample_weighting import UniformWeighter

    with pytest.raises(UserError, match="reduction='none'"):
        adapter = _act(sample_weighter=UniformWeighter(torch.device("cpu")))
        LightningTrainer(**SETTINGS).fit(adapter, _data(square_root), output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()

    class Weighted(LeRobotPolicyAdapter):
        """The formula on a policy that can: per-sample losses 1, 2, 3, 6 with weights 1, 1, 0, 3."""

    weighted = Weighted("act")
    weighted.policy = _PerSample()
    weighted._weighter = _Weights()
    weighted.train()
    loss, outputs = weighted({"x": torch.tensor([1.0, 2.0, 3.0, 6.0])})
    assert float(loss) == pytest.approx((1 + 2 + 18) / 5, rel=1e-5)
    assert outputs == {"mine": 1.0, "sample_weight_mean": 1.0}


class _PerSample(torch.nn.Module):
    def forward(self, batch: Any, reduction: str = "mean") -> Any:
        return (batch["x"] if reduction == "none" else batch["x"].mean()), {"mine": 1.0}


class _Weights:
    def compute_batch_weights(self, batch: Any) -> Any:
        return torch.tensor([1.0, 1.0, 0.0, 3.0]), {"mean": 1.0}


def _without_stats(root: Path, tmp: Path) -> Path:
    shutil.copytree(root, tmp / "bare")
    stats = json.loads((tmp / "bare/meta/stats.json").read_text())
    del stats["action"]
    (tmp / "bare/meta/stats.json").write_text(json.dumps(stats))
    return tmp / "bare"


def _other_camera(root: Path, tmp: Path) -> Path:
    from make_dataset import make_dataset

    return make_dataset(tmp / "camera", camera="observation.images.top", episodes=1)


def _damaged(run: Path, tmp: Path) -> Path:
    folder = tmp / "damaged"
    shutil.copytree(_saved(run, 12), folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.action_head.bias"]
    weights["model.other_head.bias"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors")
    return folder


def test_mistakes_are_one_message_with_the_difference(trained: Path, square_root: Path, tmp_path: Path) -> None:
    """And nothing is left on disk."""
    wider = {**TINY["act"], "hidden_dim": 64}
    cases: list[tuple[list[str], Any, Any]] = [
        (["'chunk_sice'", "chunk_size"], _act(chunk_sice=3), square_root),
        (["'akt'", "'act'"], LeRobotPolicyAdapter("akt"), square_root),
        (["chunk_size", "n_action_steps"], LeRobotPolicyAdapter("act", chunk_size=2, n_action_steps=4), square_root),
        (["device"], _act(device="cpu"), square_root),
        (["statistics", "action"], _act(), _without_stats(square_root, tmp_path)),
        (
            ["observation.image,", "observation.images.top"],
            LeRobotPolicyAdapter("act", init_from=trained),
            _other_camera(square_root, tmp_path),
        ),
        (
            ["model.action_head.bias", "model.other_head.bias"],
            LeRobotPolicyAdapter("act", init_from=_damaged(trained, tmp_path)),
            square_root,
        ),
        (["do not fit", "size mismatch"], LeRobotPolicyAdapter("act", init_from=trained, **wider), square_root),
        (["'act'", "'vqbet'"], LeRobotPolicyAdapter("vqbet", init_from=trained), square_root),
        (["rename_map"], _act(rename_map={"a": "b"}), square_root),
    ]
    for said, adapter, root in cases:
        data = _data(root)
        with pytest.raises(UserError) as error:
            adapter.build(data.meta, cameras=data.cameras)
        for text in said:
            assert text in str(error.value), (text, str(error.value))
    # What shows itself when training begins; and a mistake from above, told by `fit` as well.
    for said, adapter in ((["adams", "adam"], _act(optimizer={"type": "adams"})), (["'chunk_sice'"], cases[0][1])):
        with pytest.raises(UserError) as error:
            LightningTrainer(**SETTINGS).fit(adapter, _data(square_root), output_dir=tmp_path / "run")
        assert all(text in str(error.value) for text in said)
        assert not (tmp_path / "run").exists(), said
    with pytest.raises(UserError, match="LeRobotDataModule"):
        LightningTrainer(**SETTINGS).fit(_act(), torch.utils.data.DataLoader([1, 2]), output_dir=tmp_path / "run")
    with pytest.raises(UserError, match="not made yet"):
        _act().select_action({})
    with pytest.raises(UserError, match="between 0 and 1"):
        _act(ema_decay=1.5)
    with pytest.raises(UserError, match="Got 100 for") as error:
        LeRobotPolicyAdapter("act", chunk_size=10).make_config("cpu")
    assert error.value.where == "model (chunk_size)", "what was not given is not to blame"


def test_cameras_can_be_renamed_for_a_pretrained_policy(trained: Path, square_root: Path, tmp_path: Path) -> None:
    root = _other_camera(square_root, tmp_path)
    names = {"observation.images.top": "observation.image"}
    adapter = LeRobotPolicyAdapter("act", init_from=trained, rename_map=names)
    LightningTrainer(**{**SETTINGS, "steps": 1}).fit(adapter, _data(root), output_dir=tmp_path / "run")
    saved = json.loads((_saved(tmp_path / "run", 1) / "policy_preprocessor.json").read_text())
    assert names in [step.get("config", {}).get("rename_map") for step in saved["steps"]]
