"""The policies on a vision-language model: Lightning trains them, and smolvla, to the numbers of LeRobot's own loop."""

import sys
from pathlib import Path

import pytest
from make_dataset import make_dataset
from make_labels import make_quantizer, make_table

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import STEPS, assert_equal_runs, rows_of


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dataset of two tasks at 96 pixels, the size of the tiny backbone; a quantizer, and its table of the dataset."""
    folder = tmp_path_factory.mktemp("labelled")
    # More than an epoch would not be equal: without workers, LeRobot's loader draws a number from the model's generator
    # whenever it begins one.
    root = make_dataset(folder / "squares", episodes=5, length=18, size=96, tasks=("push the square", "pull it"))
    laq = make_quantizer(folder / "laq")
    return {"root": root, "latents.laq": laq, "latents.table": make_table(root, laq, folder / "table")}


@pytest.mark.parametrize(
    ("policy", "labels"),
    [
        pytest.param("smolvla", None, marks=pytest.mark.slow),
        pytest.param("hlrp_action_expert_direct", None, marks=pytest.mark.slow),
        pytest.param("hlrp_action_expert_latent", "latents.table", marks=pytest.mark.slow),
        ("hlrp_action_expert_latent", "latents.laq"),
        ("hlrp_vla_direct", "latents.table"),
    ],
)
def test_twenty_steps_on_the_tiny_backbone_equal_lerobots_own_loop(
    policy: str, labels: str | None, labelled: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {} if labels is None else {labels: str(labelled[labels])}
    run = assert_equal_runs(policy, labelled["root"], tmp_path, monkeypatch, **keys)
    if labels is not None:
        assert len(rows_of(run, "latent_loss")) == STEPS and min(rows_of(run, "latent_labelled")) > 0
