"""A held-out loss that could never be measured is refused before training, by both trainers and by a dry run."""

from pathlib import Path
from typing import Any

import pytest
from make_dataset import make_dataset

from hlrp.config import load_config
from hlrp.errors import UserError
from trainers import get_trainer
from trainers.policy_labels import check_held_out
from trainers.run_data import find_datasets

DIRECT = "hlrp_action_expert_direct"
LATENT = "hlrp_action_expert_latent"
BOTH = ("lerobot", "lightning")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of one task: the last is held out."""
    return make_dataset(tmp_path_factory.mktemp("held") / "toy", episodes=3, length=6)


def _run(trainer: str, out: Path, *arguments: str, policy: str = DIRECT, eval_steps: int = 2) -> Any:
    settings: dict[str, Any] = {"trainer_type": trainer, "model.policy_type": policy, "output_dir": out}
    settings |= {
        "trainer.device": "cpu",
        "trainer.eval_split": 0.3,
        "trainer.eval_steps": eval_steps,
        "trainer.steps": 2,
    }
    return load_config(None, list(arguments), {key: (value, f"--{key}") for key, value in settings.items()}).config


def _warnings(trainer: str, out: Path, *arguments: str, **more: Any) -> list[str]:
    run = _run(trainer, out, *arguments, **more)
    return check_held_out(run, find_datasets(run))


@pytest.mark.parametrize("trainer", BOTH)
def test_a_run_and_its_dry_run_say_so_and_leave_nothing(trainer: str, root: Path, tmp_path: Path) -> None:
    run = _run(trainer, tmp_path / "run", f"data.root={root}", "model.labelled_episodes=0-1")
    for begin in (lambda: get_trainer(trainer).dry_run(run), lambda: get_trainer(trainer)().fit(run=run)):
        with pytest.raises(UserError) as refused:
            begin()
        said = str(refused.value)
        assert "none of the held-out episodes, the last of every task, has labelled actions" in said
        assert "trainer.eval_split, model.labelled_episodes" in said and "label one of them" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("trainer", BOTH)
def test_what_can_be_measured_is_not_refused(trainer: str, root: Path, tmp_path: Path) -> None:
    data, few = f"data.root={root}", "model.labelled_episodes=0-1"
    for labelled in ([], ["model.labelled_episodes=0,2"], ["data.episodes=0-1", few]):
        assert _warnings(trainer, tmp_path, data, *labelled) == [], labelled
    # Codes are measured without actions; who reads the figures is told.
    (said,) = _warnings(trainer, tmp_path, data, few, "latents.source=precomputed", policy=LATENT)
    assert "the held-out loss is that of the codes alone (model.labelled_episodes, trainer.eval_split)" in said
    with pytest.raises(UserError, match="no held-out loss"):
        labels = ["latents.source=precomputed", "model.latent_weight=0"]
        _warnings(trainer, tmp_path, data, few, *labels, policy=LATENT)


@pytest.mark.parametrize("trainer", BOTH)
def test_lerobots_loop_measures_only_if_asked(trainer: str, root: Path, tmp_path: Path) -> None:
    """Lightning does after every epoch."""
    unasked = (f"data.root={root}", "model.labelled_episodes=0-1")
    if trainer == "lerobot":
        assert _warnings(trainer, tmp_path, *unasked, eval_steps=0) == []
    else:
        with pytest.raises(UserError, match="no held-out loss"):
            _warnings(trainer, tmp_path, *unasked, eval_steps=0)


def test_of_a_mixture_one_source_is_enough(root: Path, tmp_path: Path) -> None:
    other = f"{{root: {root}, labelled_episodes: none}}"
    for named, fine in (("all", True), ("[0, 1]", False), ("[1, 2]", True)):
        mixture = f"data.sources=[{{root: {root}, labelled_episodes: {named}}}, {other}]"
        if fine:
            assert _warnings("lightning", tmp_path, mixture) == [], named
        else:
            with pytest.raises(UserError, match=r"data\.sources: labelled_episodes"):
                _warnings("lightning", tmp_path, mixture)
