"""What a run's metrics say of how far its policy acts on its codes."""

import pytest

from hlrp.runs.code_effect import NEAR_ZERO, code_effect_warning, describe_code_effect, last_code_effect

ROW = {"step": 4, "code_effect": 0.5, "code_shift": 0.25, "action_r2": 0.9, "action_r2_permuted": 0.4}


def test_the_last_figures_up_to_a_checkpoint_count() -> None:
    later = {**ROW, "step": 8, "action_r2": 0.95, "val_loss": 1.0}
    rows = [{"step": 2, "loss": 1.0}, ROW, {"step": 6, "loss": 0.5}, later]
    assert last_code_effect(rows, 7) == ROW
    assert last_code_effect(rows) == {**ROW, "step": 8, "action_r2": 0.95}
    assert last_code_effect(rows[:1]) is None and last_code_effect(rows, 3) is None


@pytest.mark.parametrize(("lost", "warned"), [(0.0, True), (NEAR_ZERO - 0.01, True), (NEAR_ZERO + 0.01, False)])
def test_codes_that_hardly_count_are_warned_of(lost: float, warned: bool) -> None:
    said = code_effect_warning({**ROW, "action_r2_permuted": 0.9 - lost})
    assert (said is not None) is warned
    if said is not None:
        assert f"is 0.90 with the policy's own and {0.9 - lost:.2f} with other samples' codes (step 4)" in said


def test_figures_in_a_line_and_those_that_are_no_numbers() -> None:
    assert describe_code_effect(ROW) == (
        "R2 of the actions on held-out data 0.90, with other samples' codes 0.40 "
        "(loss 0.50 higher, actions moved by 0.25 of their spread; step 4)"
    )
    unknown = {**ROW, "action_r2": None}
    assert "held-out data nan," in describe_code_effect(unknown) and code_effect_warning(unknown) is None
