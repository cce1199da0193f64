"""With `labelled_episodes`, no number of other episodes' actions and states reaches a policy, in either trainer."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from make_dataset import make_dataset
from make_labels import make_quantizer, make_table
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "data"))
from edits import edit_column, edit_stats, tables
from tiny_runs import rows_of, train_in_lightning, train_natively

LABELLED, FRAMES, STEPS = [1, 2], 18, 3
LATENT = "hlrp_action_expert_latent"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """A dataset and one that differs in what must not matter, each with a table of the same codes."""
    folder = tmp_path_factory.mktemp("pair")
    root = make_dataset(folder / "whole", episodes=4, length=FRAMES, size=96, tasks=("push the square", "pull it"))
    shutil.copytree(root, folder / "blank")
    others = ~np.isin(np.arange(4 * FRAMES) // FRAMES, LABELLED)
    for name in ("action", "observation.state"):
        (path,) = tables(folder / "blank")
        edit_column(path, name, lambda values: np.where(others[:, None], np.nan, values))
        edit_stats(folder / "blank", lambda stats, name=name: stats.update({name: _nothing(stats[name])}))
    laq = make_quantizer(folder / "laq")
    return {n: (folder / n, make_table(folder / n, laq, folder / f"{n}_codes")) for n in ("whole", "blank")}


def _nothing(statistics: dict[str, list[float]]) -> dict[str, list[float]]:
    return {key: [float("nan")] * len(value) if key != "count" else value for key, value in statistics.items()}


def _saved(run: Path) -> dict[str, dict]:
    """Weights and normalisers of a run's checkpoint, by file."""
    folders = [*run.glob("checkpoints/0*/pretrained_model")]
    assert len(folders) == 1, folders
    files = {path.name: load_file(path) for path in sorted(folders[0].glob("*.safetensors"))}
    assert len(files) == 3 and "model.safetensors" in files, [*files]
    return files


def _assert_same(first: dict[str, dict], second: dict[str, dict]) -> None:
    assert first.keys() == second.keys()
    for file, tensors in first.items():
        assert tensors.keys() == second[file].keys()
        for name, value in tensors.items():
            assert value.isfinite().all(), (file, name)
            assert value.equal(second[file][name]), (file, name)


@pytest.mark.parametrize("policy", ["hlrp_action_expert_direct", LATENT, "hlrp_vla_direct"])
def test_lightning(policy: str, pair: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    found = {}
    for name, (root, table) in pair.items():
        labels = {} if policy.endswith("expert_direct") else {"latents.table": str(table)}
        steps = {"trainer.steps": STEPS, "trainer.save_freq": STEPS, "data.cache": "ram"}
        train_in_lightning(policy, root, tmp_path / name, **{"model.labelled_episodes": LABELLED, **labels, **steps})
        found[name] = _saved(tmp_path / name)
        losses = rows_of(tmp_path / name, "loss"), rows_of(tmp_path / name, "grad_norm")
        assert len(losses[0]) == STEPS and np.isfinite(losses).all()
        assert losses == found.setdefault("losses", losses)
    _assert_same(found["whole"], found["blank"])


def test_lerobot(pair: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for name, (root, table) in pair.items():
        more = {"policy.latent_table": str(table), "policy.labelled_episodes": LABELLED}
        saving = {"save_checkpoint": True, "save_freq": STEPS}
        with monkeypatch.context() as patch:
            native = train_natively(LATENT, root, tmp_path / name, patch, steps=STEPS, **more, **saving)
        found[name] = _saved(tmp_path / name)
        losses = native.loss, native.grad_norm
        assert len(losses[0]) == STEPS and np.isfinite(losses).all()
        assert losses == found.setdefault("losses", losses)
    _assert_same(found["whole"], found["blank"])
