"""Lightning trains LeRobot's policies to the numbers of LeRobot's own loop."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import assert_equal_runs, rows_of, train_in_lightning, train_natively

from trainers.parity import compare_runs, parity_runs, relative


@pytest.mark.parametrize(
    "policy", ["act", *(pytest.param(name, marks=pytest.mark.slow) for name in ("diffusion", "vqbet"))]
)
def test_twenty_steps_equal_lerobots_own_loop(
    policy: str, square_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, gradient norms, rates and weights; frames read by LeRobot, and from the frame store."""
    assert_equal_runs(policy, square_root, tmp_path, monkeypatch)


def test_held_out_loss_is_lerobots(square_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same episodes, same frames, mean over batches; LeRobot prints four digits."""
    split = {"dataset.eval_split": 0.4, "eval_steps": 5}
    with monkeypatch.context() as patch:
        native = train_natively("act", square_root, tmp_path / "native", patch, steps=10, **split)
    keys = {"trainer.eval_split": 0.4, "trainer.eval_steps": 5, "trainer.steps": 10, "data.cache": "ram"}
    run = train_in_lightning("act", square_root, tmp_path / "run", **keys)
    assert len(native.eval_loss) == 2
    # ACT draws nothing when it validates; after LeRobot's first validation its loader has drawn a seed more.
    assert rows_of(run, "val_loss")[0] == pytest.approx(native.eval_loss[0], abs=6e-5)
    assert rows_of(run, "loss")[:5] == pytest.approx(native.loss[:5], rel=1e-5)


def test_a_difference_is_seen(square_root: Path, tmp_path: Path) -> None:
    """`compare_runs` tells another seed by losses and weights, and equal runs by zeros."""
    few = {"data.cache": "ram", "trainer.steps": 5, "trainer.save_freq": 5}
    one = train_in_lightning("act", square_root, tmp_path / "one", **few)
    same = train_in_lightning("act", square_root, tmp_path / "same", **few)
    other = train_in_lightning("act", square_root, tmp_path / "other", **few, **{"trainer.seed": 3})
    assert compare_runs(one, same).worst == 0
    found = compare_runs(one, other)
    assert found.loss[0] > 1e-3 and found.weights[5] > 1e-3 and found.worst_tensor
    assert relative(1.0, float("nan")) == float("inf") and relative(2.0, 1.0) == 0.5


@pytest.mark.parametrize(
    ("cache_flag", "overrides", "in_file", "expected"),
    [
        ("ram", ["data.cache_limit_gb=3"], "", ("ram", 3.0)),
        (None, ["data.cache=ram"], "", ("ram", 50.0)),
        (None, [], "data: {cache: disk, cache_limit_gb: 2}", ("disk", 2.0)),
        ("off", [], "data: {cache: disk}", ("off", 50.0)),
    ],
)
def test_the_frame_store_is_lightnings_alone(
    cache_flag: str | None, overrides: list[str], in_file: str, expected: tuple[str, float], tmp_path: Path
) -> None:
    """LeRobot, which has none and would refuse it, is given the rest of the same configuration."""
    (tmp_path / "run.yaml").write_text(f"model: {{policy_type: act, chunk_size: 6}}\n{in_file}\n")
    flags = {"data.root": ("data", "--dataset-root"), "data.cache": (cache_flag, "--cache")}
    native, lightning = parity_runs(flags, overrides, str(tmp_path / "run.yaml"), steps=4, output=tmp_path)
    assert (lightning.data.cache, lightning.data.cache_limit_gb) == expected
    assert (native.data.cache, native.data.cache_limit_gb) == ("off", 50.0)
    assert native.model == lightning.model
