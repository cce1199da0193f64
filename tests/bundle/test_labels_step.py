"""Labels in LeRobot's loop: from a table, a column or a quantizer, through saved preprocessors, refused where wrong."""

from pathlib import Path

import pytest
import torch
from bundle_toys import CONFIGS, gradients, same
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.factory import make_policy, make_pre_post_processors
from make_labels import make_table

from hlrp.data import read_dataset
from hlrp.data.renaming import rename_features
from hlrp.errors import UserError
from hlrp.latents import LatentTable
from hlrp.latents.column import write_column
from lerobot_policy_felix_bundle.policies.common.meaning import resolve_meaning

LATENT, CAMERA = "hlrp_action_expert_latent", "observation.image"


def config_of(name=LATENT, **fields):
    return CONFIGS[name](device="cpu", push_to_hub=False, chunk_size=6, n_action_steps=4, **fields)


def build(config, root: Path):
    """Policy, processors and dataset as LeRobot's training makes them."""
    torch.manual_seed(0)
    meta = LeRobotDatasetMetadata(root.name, root=root)
    dataset = LeRobotDataset(root.name, root=root, delta_timestamps=resolve_delta_timestamps(config, meta))
    policy = make_policy(config, ds_meta=dataset.meta)
    before, after = make_pre_post_processors(config, dataset_stats=dataset.meta.stats)
    return policy, before, after, dataset


def batch_of(dataset, index):
    return torch.utils.data.default_collate([dataset[i] for i in index])


INDEX = [3, 17, 18, 41, 79]
"""Of episodes of 20 frames with labels 2 frames ahead: the third and the last have none."""


@pytest.fixture(scope="module")
def precomputed(squares, table2):
    return build(config_of(latent_table=str(table2)), squares)


def test_codes_of_the_table_reach_the_policy(precomputed, squares, table2):
    policy, before, _, dataset = precomputed
    batch = before(batch_of(dataset, INDEX))
    codes, valid = LatentTable.open(table2).codes(INDEX)
    assert torch.equal(batch["hlrp.codes"], codes.flatten(1))
    assert torch.equal(batch["hlrp.code_mask"], valid.repeat_interleave(2, 1))
    assert batch["hlrp.code_mask"].any(1).tolist() == [True, True, False, True, False]
    assert (policy.config.codebook_size, policy.config.num_frames, policy.config.latent_camera) == (8, 2, CAMERA)
    _, logged = policy(batch)
    assert logged["latent_labelled"] == pytest.approx(0.6)


def test_a_saved_preprocessor_labels_again_and_is_inert_at_inference(precomputed, squares, table2, tmp_path):
    policy, before, after, dataset = precomputed
    for part in (policy, before, after):
        part.save_pretrained(tmp_path)
    loaded, _ = make_pre_post_processors(policy.config, pretrained_path=str(tmp_path))
    raw = batch_of(dataset, INDEX)
    assert torch.equal(loaded(dict(raw))["hlrp.codes"], before(dict(raw))["hlrp.codes"])
    # At inference the table may be gone.
    gone, _ = make_pre_post_processors(
        policy.config,
        pretrained_path=str(tmp_path),
        preprocessor_overrides={"hlrp_latent_labels": {"table": "/no/such/table"}},
    )
    seen = {CAMERA: raw[CAMERA][0], "observation.state": raw["observation.state"][0], "task": "push the square"}
    batch = gone(dict(seen))
    assert not any(key.startswith("hlrp.") for key in batch)
    restored = type(policy).from_pretrained(tmp_path)
    actions = after(restored.predict_action_chunk(batch))
    assert actions.shape == (1, 6, 3)
    stats = dataset.meta.stats["action"]
    normal = restored.predict_action_chunk(batch, noise=torch.zeros(1, 6, 3))
    expected = normal * torch.as_tensor(stats["std"]) + torch.as_tensor(stats["mean"])
    assert torch.allclose(after(normal), expected.float(), atol=1e-5)
    with pytest.raises(UserError, match="/no/such/table"):
        gone(dict(raw))


def test_a_preprocessor_of_other_labels_is_not_believed(precomputed, squares, laq2, tmp_path):
    """Fine-tuning with another table: LeRobot restores the checkpoint's preprocessor, which knows the old one."""
    policy, before, _, dataset = precomputed
    codes, _ = LatentTable.open(policy.config.latent_table).codes(INDEX)
    stale = before(batch_of(dataset, INDEX))
    stale["hlrp.codes"], stale["hlrp.labels"] = torch.zeros_like(stale["hlrp.codes"]), "others"
    labelled = policy._labels.label(stale)
    assert torch.equal(labelled["hlrp.codes"], codes.flatten(1)) and labelled["hlrp.labels"] != "others"
    bare = {k: v for k, v in stale.items() if not k.startswith("hlrp.")}
    assert torch.equal(policy._labels.label(bare)["hlrp.codes"], codes.flatten(1))


def test_labels_made_while_training_give_the_same_loss(precomputed, squares, laq2):
    policy, before, _, dataset = precomputed
    config = config_of(latent_laq=str(laq2), latent_offset_frames=2)
    online, preprocess, _, windows = build(config, squares)
    random = torch.get_rng_state()
    first, second = before(batch_of(dataset, INDEX)), preprocess(batch_of(windows, INDEX))
    assert torch.equal(torch.get_rng_state(), random), "a resumed run opens its quantizer in the middle of its order"
    assert windows[3][CAMERA].shape[0] == 2 and second[CAMERA].shape == first[CAMERA].shape
    assert second["observation.state"].shape == first["observation.state"].shape
    assert torch.equal(first["hlrp.code_mask"], second["hlrp.code_mask"])
    assert torch.equal(first["hlrp.codes"], second["hlrp.codes"])
    assert same(gradients(policy, first), gradients(online, second))


def test_labels_of_data_that_call_the_policys_camera_otherwise(squares, laq2, tmp_path):
    """A policy of old recordings goes on with new ones, whose only camera has a name; batches have the policy's."""
    front, new = "observation.images.front", tmp_path / "new"
    rename_features(read_dataset(None, squares), {CAMERA: front}, new)
    table, meta = make_table(new, laq2, tmp_path / "table"), LeRobotDatasetMetadata("new", root=new)
    online = {"latent_laq": str(laq2), "latent_offset_frames": 2}

    def camera_after(camera, **fields):
        seen = {CAMERA: PolicyFeature(FeatureType.VISUAL, (3, 96, 96))}
        config = config_of(input_features=seen, latent_camera=camera, **fields)
        resolve_meaning(config, meta)
        return config.latent_camera

    assert [camera_after(camera, **online) for camera in (CAMERA, None)] == [CAMERA, CAMERA]
    assert camera_after(CAMERA, latent_table=str(table)) == front
    for labels in (online, {"latent_table": str(table)}):
        with pytest.raises(UserError, match=r"observation\.images\.typo"):
            camera_after("observation.images.typo", **labels)


def test_three_frames(squares, table3, laq3):
    policy, before, _, dataset = build(config_of(latent_table=str(table3)), squares)
    batch = before(batch_of(dataset, [3, 16, 17, 19]))
    codes, _ = LatentTable.open(table3).codes([3, 16, 17, 19])
    assert batch["hlrp.codes"].shape == (4, 4) and torch.equal(batch["hlrp.codes"], codes.flatten(1))
    # The first pair of a window may lie in the episode, the second not.
    half = [True, True, False, False]
    assert batch["hlrp.code_mask"].tolist() == [[True] * 4, half, half, [False] * 4]
    policy(batch)[0].backward()


def test_a_datasets_own_column(squares, table2, tmp_path):
    output = tmp_path / "labelled"
    write_column(LatentTable.open(table2), read_dataset(None, squares), output)
    _, before, _, dataset = build(config_of(latent_source="precomputed"), output)
    codes, _ = LatentTable.open(table2).codes(INDEX)
    assert torch.equal(before(batch_of(dataset, INDEX))["hlrp.codes"], codes.flatten(1))


@pytest.mark.parametrize("name", ["hlrp_action_expert_direct", LATENT])
def test_labelled_episodes_decide_whose_actions_count(name, squares, table2):
    labels = {"latent_table": str(table2)} if name == LATENT else {}
    policy, before, _, dataset = build(config_of(name, labelled_episodes=[0, 3], **labels), squares)
    batch = before(batch_of(dataset, INDEX))
    assert batch["hlrp.action_mask"].tolist() == [True, True, True, False, True]
    _, logged = policy(batch)
    assert logged["action_labelled"] == pytest.approx(0.8)
    with pytest.raises(UserError, match=r"\[9\]"):
        build(config_of(name, labelled_episodes=[9], **labels), squares)
    with pytest.raises(UserError, match="nothing to normalise"):
        build(config_of(name, labelled_episodes=[], **labels), squares)


@pytest.mark.parametrize("name", [LATENT, "hlrp_vla_direct"])
def test_states_of_other_episodes_are_the_mean_unless_asked_for(name, squares, table2):
    def step(change, **fields):
        config = config_of(name, labelled_episodes=[0, 3], latent_table=str(table2), **fields)
        policy, before, _, dataset = build(config, squares)
        batch = before(batch_of(dataset, INDEX))
        batch["observation.state"] = change(batch["observation.state"].clone())
        return gradients(policy, batch)

    def lost(state):
        state[3] = torch.nan  # the one whose episode is not labelled
        return state

    def mean(state):
        state[3] = 0
        return state

    hidden = step(lost)
    assert all(g.isfinite().all() for g in hidden.values())
    assert same(hidden, step(mean)) and same(hidden, step(lambda state: state))
    assert not same(hidden, step(lambda state: state * 2)), "the labelled ones' are seen"
    seen = step(lambda state: state, state_of_unlabelled=True)
    assert not same(hidden, seen) and not same(seen, step(mean, state_of_unlabelled=True))


def test_a_policy_normalises_with_statistics_of_the_labelled_episodes(squares):
    config = config_of("hlrp_action_expert_direct", labelled_episodes=[3, 1])
    _, before, after, dataset = build(config, squares)
    rows = [*range(20, 40), *range(60, 80)]
    for key in ("action", "observation.state"):
        values = torch.stack([torch.as_tensor(v) for v in dataset.hf_dataset[key]])[rows]
        found = {k: torch.as_tensor(v) for k, v in dataset.meta.stats[key].items()}
        close = {"rtol": 1e-4, "atol": 1e-5, "check_dtype": False}  # LeRobot sums squares in float32
        torch.testing.assert_close(found["mean"], values.mean(0), **close)
        torch.testing.assert_close(found["std"], values.std(0, correction=0), **close)
        assert torch.equal(found["max"].float(), values.amax(0)) and found["count"].tolist() == [40]
    assert before(batch_of(dataset, rows))["observation.state"].mean(0).abs().max() < 1e-5
    mean = torch.as_tensor(dataset.meta.stats["action"]["mean"]).float()
    torch.testing.assert_close(after(torch.zeros(1, 1, 3)).flatten(), mean)


def test_labels_that_do_not_fit_are_refused_before_the_first_step(squares, toy_root, table2, table3, laq2, laq3):
    with pytest.raises(UserError, match="dataset: the table has"):
        build(config_of(latent_table=str(table2)), toy_root)
    for field, value, said in (
        ("codebook_size", 16, "codes K: the table has 8, asked for is 16"),
        ("code_seq_len", 4, "code positions S of a transition: the table has 2, asked for is 4"),
        ("num_frames", 3, "frames T of a window: the table has 2, asked for is 3"),
        ("offset_seconds", 0.5, "offset in seconds: the table has 0.2, asked for is 0.5"),
        ("laq_sha256", "b" * 64, "quantizer"),
    ):
        with pytest.raises(UserError, match=said):
            build(config_of(latent_table=str(table2), **{field: value}), squares)
    with pytest.raises(UserError, match="disagree"):
        build(config_of(latent_laq=str(laq2), latent_offset_frames=2, codebook_size=16), squares)
    with pytest.raises(UserError, match="are 2 frames"):
        build(config_of(latent_laq=str(laq2), latent_offset_frames=3), squares)
    with pytest.raises(ValueError, match="latent_offset_frames"):
        build(config_of(latent_laq=str(laq2)), squares)
    with pytest.raises(UserError, match="not a latent table"):
        build(config_of(latent_table=str(squares)), squares)


@pytest.mark.parametrize("decoder", ["laq", "both"])
def test_a_decoder_keeps_the_quantizers_code_vectors(decoder, squares, table2, laq2, laq3, tmp_path):
    fields = {"latent_table": str(table2), "decoder": decoder}
    policy, before, _, dataset = build(config_of("hlrp_vla_direct", decoder_laq=str(laq2), **fields), squares)
    assert policy.decoder.vectors.shape == (2, 8, 8) and policy.decoder.vectors.std() == pytest.approx(1.0, abs=0.01)
    batch = before(batch_of(dataset, INDEX))
    policy(batch)[0].backward()
    policy.config.decoder_laq = "/no/such/run"
    policy.save_pretrained(tmp_path)
    restored = type(policy).from_pretrained(tmp_path)
    assert torch.equal(restored.predict_action_chunk(batch), policy.predict_action_chunk(batch))
    with pytest.raises(UserError, match="decoder_laq"):
        build(config_of("hlrp_vla_direct", **fields), squares)
    with pytest.raises(UserError, match="SHA-256"):
        build(config_of("hlrp_vla_direct", decoder_laq=str(laq3), **fields), squares)
