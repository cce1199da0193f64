"""What policies that count all actions alike are told, or refused, of a dataset with pseudo-labels."""

from pathlib import Path

import numpy as np
import pytest
from action_toys import label, record

from hlrp.config import LeRobotRun, LightningRun, load_config
from hlrp.data import read_dataset
from hlrp.data.pseudo_label_checks import unweighted_problems
from hlrp.errors import UserError
from hlrp.latents.actions import ActionDecoder, fit_actions
from hlrp.latents.pseudo_labels import PseudoLabelRequest, pseudo_label
from trainers.run_data import check_data

LENGTHS, LABELLED, UNREADABLE = [30, 24, 30, 20], [0, 2], 3


@pytest.fixture(scope="module")
def untrusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labelled episodes, one that is told badly in its second dimension, and one whose video cannot be read."""
    folder, rng = tmp_path_factory.mktemp("untrusted"), np.random.default_rng(0)
    mapping = rng.normal(size=(4, 3))
    latents = [rng.normal(size=(n, 4)) for n in LENGTHS]
    states = [rng.normal(size=(n, 2)) for n in LENGTHS]
    info = read_dataset(None, record(folder / "data", [z @ mapping for z in latents], states=states))
    table = label(info, folder / "table", latents, spoiled=(UNREADABLE,))
    fitted = fit_actions(table, info, LABELLED, offsets=[0])
    first, second, third = fitted.manifest.dimensions
    low = [first, second.model_copy(update={"r2": 0.25}), third]
    decoder = ActionDecoder(fitted.manifest.model_copy(update={"dimensions": low}), fitted._weights)
    result = pseudo_label(PseudoLabelRequest(info, decoder, table, folder / "out", mask_below_floor=True))
    assert result.zeros == [UNREADABLE]
    return folder / "out"


def test_invented_zeros_are_fatal_and_untrusted_dimensions_a_warning(untrusted: Path) -> None:
    info = read_dataset(None, untrusted)
    zeros, masked = unweighted_problems(info, "act")
    assert zeros.fatal and zeros.message.startswith("no action is known of episodes 3: zeros stand there")
    (told,) = unweighted_problems(info, "act", [0, 1, 2])
    assert not told.fatal and masked.message.endswith("in 1 of 3 dimensions (confidence 0)")
    # A window of the last frames reaches past the end: these are neither recorded nor predicted.
    assert " of 84 frames have predicted ones" in told.message
    assert list(unweighted_problems(info, "act", LABELLED)) == []


@pytest.mark.parametrize("trainer", ["lerobot", "lightning"])
def test_only_policies_that_know_no_confidence_are_told(trainer: str, untrusted: Path) -> None:
    info = read_dataset(None, untrusted)

    def check(policy: str, *more: str) -> list[str]:
        keys = [f"trainer_type={trainer}", f"model.policy_type={policy}", f"data.root={untrusted}", *more]
        run = load_config(None, keys).config
        assert isinstance(run, LeRobotRun | LightningRun)
        return [w for w in check_data(run, [info]) if "confidence 0" in w]

    ours = "hlrp_action_expert_direct"
    for alike in (["act"], [ours, "model.use_action_confidence=false"]):
        with pytest.raises(UserError, match="zeros stand there"):
            check(*alike)
        assert len(check(*alike, "data.episodes=0-2")) == 1
        assert check(*alike, "data.episodes=0,2") == []
    assert check(ours) == []
