"""Files that an older version wrote still load: runs, checkpoints, a quantizer, latent tables and columns, policies.

Each `files-VERSION.tar.xz` was made by `scripts/make_old_files.py` in a checkout of that version.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hlrp.data import read_dataset
from hlrp.latents import LatentTable
from hlrp.runs import RunDirectory, list_runs, resolve_pretrained

ARCHIVES = sorted(Path(__file__).parent.glob("files-*.tar.xz"))


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.name)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("old").resolve()
    with tarfile.open(request.param) as archive:
        archive.extractall(root, filter="data")
    for path in root.rglob("*"):
        if path.suffix in (".json", ".yaml", ".jsonl", ".txt") and "@ROOT@" in (text := path.read_text()):
            path.write_text(text.replace("@ROOT@", str(root)))
    return root


def test_runs_are_listed_with_what_they_said(files: Path) -> None:
    runs = {run.path.name: run for run in list_runs(files)}
    assert sorted(runs) == ["act", "foundation", "laq", "latent_expert"]
    manifests = {name: run.manifest for name, run in runs.items()}
    assert {name: (m.trainer, m.policy, m.status, m.steps) for name, m in manifests.items()} == {
        "act": ("lerobot", "act", "finished", 2),
        "foundation": ("lightning", "foundation", "finished", 2),
        "laq": ("lightning", "laq", "finished", 4),
        "latent_expert": ("lightning", "hlrp_action_expert_latent", "finished", 2),
    }
    assert [row["step"] for row in runs["laq"].metrics()][-1] == 4


def test_latent_table_and_column_hold_the_same_codes(files: Path) -> None:
    from hlrp.latents.column import LatentColumn

    said = json.loads((files / "expected.json").read_text())
    info, labelled = read_dataset(None, files / "data"), read_dataset(None, files / "labelled")
    table, column = LatentTable.open(files / "table"), LatentColumn(labelled)
    table.check(dataset=info, num_frames=2, offset_seconds=0.2, laq_sha256=said["identity"]["laq_sha256"])
    # What decoded the videos was not written down then: there was one decoder.
    assert table.identity.model_dump() == {"video_backend": "pyav", **said["identity"]}
    for rows in (table, column):
        codes, valid = rows.codes(np.arange(said["frames"]))
        assert codes.tolist() == said["codes"]
        assert valid.tolist() == said["valid"]
    assert table.vectors([0]).shape == (1, 1, 2, table.identity.vector_dim)


def test_quantizer_and_foundation_model_load_and_predict(files: Path) -> None:
    from hlrp.foundation import Foundation
    from hlrp.laq import LAQ

    laq = LAQ.from_checkpoint(files / "laq")
    assert laq.encode(torch.zeros(1, 2, 3, 24, 24, dtype=torch.uint8)).shape == (1, 1, 2)
    codes = Foundation.from_checkpoint(files / "foundation").predict_codes(torch.zeros(3, 48, 48), "push the square")
    assert codes.shape == (2,)
    assert int(codes.min()) >= 0 and int(codes.max()) < 8


@pytest.mark.parametrize("name", ["act", "latent_expert"])
def test_policies_of_both_trainers_act(files: Path, name: str) -> None:
    from hlrp.policies import LeRobotPolicyAdapter

    policy = LeRobotPolicyAdapter.from_pretrained(resolve_pretrained(files / name))
    picture, state = torch.zeros(1, 3, 48, 48), torch.zeros(1, 2)
    action = policy.select_action({"observation.image": picture, "observation.state": state, "task": ["push"]})
    assert action.shape == (1, 3)
    assert torch.isfinite(action).all()


def test_a_run_goes_on_from_its_checkpoint(files: Path) -> None:
    from hlrp.config import LightningRun, load_config
    from trainers import LightningTrainer

    directory = RunDirectory.open(files / "laq")
    run = load_config(directory.path / "config.yaml").config
    assert isinstance(run, LightningRun)
    result = LightningTrainer().resume(directory, run, steps=6)
    assert result.checkpoint is not None and result.checkpoint.name == "000006"
    assert [row["step"] for row in directory.metrics()] == [1, 2, 3, 4, 5, 6]
