"""A foundation model that reads the state brings its own statistics of it, whatever data the policy is trained on."""

from pathlib import Path

import pytest
import torch
from bundle_toys import CONFIGS
from lerobot.configs.types import NormalizationMode
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.policies.factory import make_pre_post_processors
from test_labels_step import CAMERA, INDEX, batch_of, build, config_of

from hlrp.errors import UserError
from hlrp.evaluation.diagnosis.normalisation import statistics_in
from hlrp.evaluation.policy import LoadedPolicy
from hlrp.foundation.backbones import resolve_backbone
from hlrp.foundation.backends.interfaces import FoundationBatch
from hlrp.foundation.backends.smol_latent_head_backend import SmolLatentHeadBackend
from hlrp.foundation.checkpoint import LabelStatistics, record_backbone, save
from hlrp.foundation.config import BackendConfig
from hlrp.foundation.model import Foundation
from hlrp.latents import CodeSpec, LatentTable
from lerobot_policy_felix_bundle.policies.common.observations import foundation_batch

STATE = "observation.state"
MEAN, STD = [0.1, 0.9], [0.02, 0.6]
"""Far from those of the data."""


@pytest.fixture(scope="module")
def foundation(table2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of random weights whose codes depend on the state."""
    torch.manual_seed(7)
    identity = LatentTable.open(table2).identity
    folder = resolve_backbone("tiny", "smol_latent_head", allow_download=False)
    spec: CodeSpec = identity.codes()
    config = BackendConfig(backend="smol_latent_head", spec=spec, cameras=(identity.camera,), state_dim=2)
    backend = SmolLatentHeadBackend.from_backbone(config, folder).eval()
    with torch.no_grad():
        for parameter in backend.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    out = tmp_path_factory.mktemp("foundation") / "model"
    statistics = LabelStatistics(code_counts=[[1] * 8] * spec.positions, state_mean=MEAN, state_std=STD)
    save(backend, out, backbone=record_backbone("tiny", folder), statistics=statistics)
    return out


@torch.no_grad()
def logits(policy, batch):
    return policy.backend.latent_from_batch(foundation_batch(policy.config, batch)).logits


@pytest.mark.parametrize("name", ["hlrp_vla_direct", "hlrp_action_expert_latent"])
def test_a_policy_reads_the_state_as_its_foundation_model_did(foundation, squares, name, tmp_path):
    own = LeRobotDatasetMetadata(squares.name, root=squares).stats
    policy, before, after, dataset = build(config_of(name, init_from=str(foundation)), squares)
    raw = batch_of(dataset, INDEX)
    assert policy.config.state_statistics == {"mean": MEAN, "std": STD}
    model = Foundation.from_checkpoint(foundation)
    images, state = {CAMERA: raw[CAMERA]}, (raw[STATE] - torch.tensor(MEAN)) / torch.tensor(STD)
    expected = model.backend.latent_from_batch(FoundationBatch(images, raw["task"], state=state)).logits
    torch.testing.assert_close(logits(policy, before(dict(raw))), expected)
    codes = model.predict_codes(raw[CAMERA], raw["task"], raw[STATE])
    assert torch.equal(policy.predict_codes(before(dict(raw))), codes)
    data = {**before(dict(raw)), STATE: (raw[STATE] - own[STATE]["mean"]) / own[STATE]["std"]}
    assert not torch.allclose(logits(policy, data), expected, atol=1e-2), "with the data's own it says something else"
    assert torch.allclose(after(torch.zeros(1, 6, 3)), torch.as_tensor(own["action"]["mean"]).float())
    # Fine-tuned: LeRobot's training gives a checkpoint's processors the statistics of the new data.
    for part in (policy, before, after):
        part.save_pretrained(tmp_path)
    config = CONFIGS[name].from_pretrained(tmp_path)
    config.pretrained_path = tmp_path
    tuned, _, _, again = build(config, squares)
    stats = {"stats": again.meta.stats}
    overrides = {"preprocessor_overrides": {"normalizer_processor": stats}}
    loaded, _ = make_pre_post_processors(config, pretrained_path=str(tmp_path), **overrides)
    torch.testing.assert_close(logits(tuned, loaded(dict(raw))), expected)
    # A diagnosis compares statistics with the recorded numbers; these are not of them.
    assert {one.feature for one in statistics_in(LoadedPolicy(policy, policy.config, before, after))} == {"action"}


def test_a_state_that_is_normalised_in_another_way_is_refused(foundation, squares):
    mapping = dict.fromkeys(("STATE", "ACTION"), NormalizationMode.MIN_MAX)
    config = config_of("hlrp_vla_direct", init_from=str(foundation), normalization_mapping=mapping)
    with pytest.raises(UserError, match=r"reads the state by its mean and deviation, the policy .*MIN_MAX"):
        build(config, squares)
