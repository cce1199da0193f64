"""Lightning trains LeRobot's policies to the numbers of LeRobot's own loop."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hlrp.config import load_config
from hlrp.runs import RunDirectory

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import TINY, train_natively

from trainers.lightning_trainer import LightningTrainer
from trainers.parity import compare_runs, relative

STEPS = 20


def _train(policy: str, root: Path, out: Path, **keys: Any) -> Path:
    values = {
        "trainer_type": "lightning",
        "model.policy_type": policy,
        **{f"model.{k}": v for k, v in TINY[policy].items()},
        "data.root": str(root),
        "data.video_backend": "pyav",
        "data.num_workers": 0,
        "trainer.steps": STEPS,
        "trainer.batch_size": 4,
        "trainer.log_freq": 1,
        "trainer.save_freq": STEPS,
        "trainer.device": "cpu",
        "output_dir": str(out),
        **keys,
    }
    run: Any = load_config(None, (), {k: (v, "test") for k, v in values.items()}).config
    return LightningTrainer().fit(run=run).path


def _rows(run: Path, key: str) -> list[float]:
    return [row[key] for row in RunDirectory.open(run).metrics() if key in row]


@pytest.mark.parametrize("policy", ["act", "diffusion", "vqbet"])
def test_twenty_steps_equal_lerobots_own_loop(
    policy: str, square_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, gradient norms, rates and weights; frames read by LeRobot, and from the frame store."""
    with monkeypatch.context() as patch:
        native = train_natively(policy, square_root, tmp_path / "native", patch, steps=STEPS)
    assert len(native.loss) == STEPS
    for cache in ("off", "ram"):
        run = _train(policy, square_root, tmp_path / cache, **{"data.cache": cache})
        for key in ("loss", "grad_norm", "lr"):
            assert _rows(run, key) == pytest.approx(getattr(native, key), rel=1e-5), (cache, key)
        latest = RunDirectory.open(run).latest()
        assert latest is not None
        saved = load_file(latest.pretrained / "model.safetensors")
        for name, values in native.weights.items():
            if name in saved:  # safetensors keeps one of tensors that share memory
                torch.testing.assert_close(saved[name], values, rtol=1e-5, atol=1e-7, msg=f"{cache} {name}")
        assert set(saved) <= set(native.weights)
    assert native.loss[-1] != native.loss[0]


def test_held_out_loss_is_lerobots(square_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same episodes, same frames, mean over batches; LeRobot prints four digits."""
    split = {"dataset.eval_split": 0.4, "eval_steps": 5}
    with monkeypatch.context() as patch:
        native = train_natively("act", square_root, tmp_path / "native", patch, steps=10, **split)
    keys = {"trainer.eval_split": 0.4, "trainer.eval_steps": 5, "trainer.steps": 10, "data.cache": "ram"}
    run = _train("act", square_root, tmp_path / "run", **keys)
    assert len(native.eval_loss) == 2
    # ACT draws nothing when it validates; after LeRobot's first validation its loader has drawn a seed more.
    assert _rows(run, "val_loss")[0] == pytest.approx(native.eval_loss[0], abs=6e-5)
    assert _rows(run, "loss")[:5] == pytest.approx(native.loss[:5], rel=1e-5)


def test_a_difference_is_seen(square_root: Path, tmp_path: Path) -> None:
    """`compare_runs` tells another seed by losses and weights, and equal runs by zeros."""
    one = _train("act", square_root, tmp_path / "one", **{"data.cache": "ram"})
    same = _train("act", square_root, tmp_path / "same", **{"data.cache": "ram"})
    other = _train("act", square_root, tmp_path / "other", **{"data.cache": "ram", "trainer.seed": 3})
    assert compare_runs(one, same).worst == 0
    found = compare_runs(one, other)
    assert found.loss[0] > 1e-3 and found.weights[STEPS] > 1e-3 and found.worst_tensor
    assert relative(1.0, float("nan")) == float("inf") and relative(2.0, 1.0) == 0.5
