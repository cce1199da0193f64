"""Exports of policies that round resized pictures to levels: what lies at the border of two is rounded either way."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporting import TASKS, UNIT, export
from tiny_policies import VLM_FIELDS, save_tiny

from hlrp.deploy.export import check
from hlrp.deploy.export.observed import Observed
from hlrp.deploy.served import load_served
from hlrp.errors import WorkError
from hlrp.runtime import load

TOLERANCE = 1e-4


def test_flipped_levels_are_told_from_another_policy(tmp_path: Path, monkeypatch: Any) -> None:
    """Pictures of 96 pixels, which here are noise, are brought to 48. Both errors are below what flipped levels do."""
    import lerobot_policy_felix_bundle  # noqa: F401 - registers ours

    torch.set_num_threads(1)
    fields = {**VLM_FIELDS["hlrp_action_expert_direct"], "image_size": (48, 48), "num_steps": 1}
    policy = save_tiny("hlrp_action_expert_direct", tmp_path / "pretrained_model", fields=fields)
    said = export(policy, tmp_path / "export").check
    assert 10 * TOLERANCE < said["max_error"] < said["tolerance"] < 0.1

    eager, runtime = check.Eager(load_served(policy, device="cpu").loaded), load(tmp_path / "export")
    picture = np.random.default_rng(0).integers(0, 256, (1, 3, 96, 96), np.uint8)
    frame = {"observation.image": picture, "observation.state": np.full((1, 2), 200.0, np.float32)}
    shown, large = [Observed([frame], TASKS[0])], check.Errors(0.005, 0.005 * UNIT)
    assert TOLERANCE < check.allowed_error(eager, runtime, shown, large) < 0.1
    assert check.allowed_error(eager, runtime, shown, check.Errors(TOLERANCE, TOLERANCE * UNIT)) == TOLERANCE
    honest = check.exported_chunk
    monkeypatch.setattr(check, "exported_chunk", lambda *given: honest(*given) + np.float32(2e-4 * UNIT))
    with pytest.raises(WorkError, match=r"differ by up to 0\.000\d+ in normalised units .* more than 0\.0001; nothing"):
        check.allowed_error(eager, runtime, shown, large)
