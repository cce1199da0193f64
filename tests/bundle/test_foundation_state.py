"""A foundation model that reads the state brings its own statistics of it, whatever data the policy is trained on."""

import json
from pathlib import Path

import pytest
import torch
from bundle_toys import CONFIGS, save_foundation
from lerobot.configs.types import NormalizationMode
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.policies.factory import make_pre_post_processors
from test_labels_step import CAMERA, INDEX, batch_of, build, config_of

from hlrp.errors import UserError
from hlrp.evaluation.diagnosis.normalisation import statistics_in
from hlrp.evaluation.policy import LoadedPolicy
from hlrp.foundation.backends.interfaces import FoundationBatch
from hlrp.foundation.model import Foundation
from hlrp.latents import LatentTable
from lerobot_policy_felix_bundle.policies.common.observations import foundation_batch

STATE = "observation.state"
MEAN, STD = [0.1, 0.9], [0.02, 0.6]
"""Far from those of the data."""


def make_foundation(out: Path, table: Path, state_dim: int | None) -> Path:
    identity = LatentTable.open(table).identity
    known = {} if state_dim is None else {"state_mean": MEAN, "state_std": STD}
    save_foundation(out, identity.codes(), identity.camera, noise=0.05, state_dim=state_dim, **known)
    return out


@pytest.fixture(scope="module")
def foundation(table2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_foundation(tmp_path_factory.mktemp("foundation") / "model", table2, 2)


@pytest.fixture(scope="module")
def stateless(table2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_foundation(tmp_path_factory.mktemp("stateless") / "model", table2, None)


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


@pytest.mark.parametrize(
    ("name", "fields", "token"),
    [
        ("hlrp_vla_direct", {}, False),
        ("hlrp_action_expert_latent", {}, False),
        ("hlrp_action_expert_latent", {"conditioning": "tokens"}, True),
        ("hlrp_vla_direct", {"vlm": "cotrained"}, True),
        ("hlrp_vla_direct", {"vlm_state": True}, True),
        ("hlrp_action_expert_direct", {}, True),
    ],
)
def test_a_frozen_foundation_model_is_shown_no_state_that_it_does_not_know(stateless, squares, name, fields, token):
    """Where the actions get it otherwise."""
    config = config_of(name, init_from=str(stateless), **({"vlm": "frozen"} | fields))
    policy, before, _, dataset = build(config, squares)
    assert policy.config.vlm_state is token and (policy.backend.state_projection is not None) == token
    assert policy.config.state_statistics is None
    raw = batch_of(dataset, INDEX)
    batch, other = before(dict(raw)), before({**raw, STATE: raw[STATE] + 1})
    noise = torch.zeros(len(INDEX), 6, 3)
    with torch.no_grad():
        chunk = policy.predict_action_chunk(batch, noise=noise)
        assert not torch.equal(policy.predict_action_chunk(other, noise=noise), chunk), (
            "the actions depend on the state"
        )
    if not token:
        model = Foundation.from_checkpoint(stateless)
        expected = model.backend.latent_from_batch(FoundationBatch({CAMERA: raw[CAMERA]}, raw["task"])).logits
        assert torch.equal(logits(policy, batch), expected)


def test_a_checkpoint_says_whether_its_vlm_reads_the_state(stateless, squares, tmp_path):
    """One of before that was said does read it."""
    for value, written in ((None, False), (True, None)):
        config = config_of("hlrp_vla_direct", init_from=str(stateless), vlm="frozen", vlm_state=value)
        policy, before, _, dataset = build(config, squares)
        policy.save_pretrained(tmp_path / str(value))
        path = tmp_path / str(value) / "config.json"
        saved = json.loads(path.read_text())
        assert saved.pop("vlm_state") is (value is True)
        path.write_text(json.dumps(saved if written is None else {**saved, "vlm_state": written}))
        restored = type(policy).from_pretrained(tmp_path / str(value))
        batch = before(batch_of(dataset, INDEX))
        assert torch.equal(restored.predict_action_chunk(batch), policy.predict_action_chunk(batch))


def test_a_state_that_nobody_would_read_is_refused(foundation, squares):
    with pytest.raises(ValueError, match="nothing but the VLM would read the state"):
        config_of("hlrp_action_expert_direct", vlm_state=False)
    with pytest.raises(UserError, match="reads the state, and vlm_state is false"):
        build(config_of("hlrp_vla_direct", init_from=str(foundation), vlm_state=False), squares)
