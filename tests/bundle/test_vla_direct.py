"""`hlrp_vla_direct` from continuous latents, and its decoder fitted on labels first."""

from types import SimpleNamespace

import pytest
import torch
from bundle_toys import (
    CAMERAS,
    CHUNK,
    MEANING,
    POSITIONS,
    gradients,
    make_batch,
    make_config,
    make_policy,
    same,
    save_foundation,
)
from make_labels import make_table
from test_labels_step import INDEX, batch_of, build, config_of

from hlrp.errors import UserError
from hlrp.latents import CodeSpec, LatentTable

NAME, WIDTH = "hlrp_vla_direct", 8
BLANK = dict.fromkeys(MEANING)


def make_foundation(out, mode, spec, camera):
    vectors = (torch.arange(WIDTH).float(), torch.full((WIDTH,), 3.0))
    return save_foundation(out, spec, camera, mode=mode, state_dim=2, vectors=vectors)


@pytest.fixture(scope="module", params=["vectors", "flow"])
def foundation(request, tmp_path_factory):
    """Its mode, its folder, and what it predicts for a batch."""
    from lerobot_policy_felix_bundle.policies.common.observations import foundation_batch

    out = tmp_path_factory.mktemp("continuous") / "model"
    backend = make_foundation(out, request.param, CodeSpec(**MEANING, vector_dim=WIDTH), CAMERAS[0])
    with torch.no_grad():
        vectors = backend.latent_from_batch(foundation_batch(make_config(NAME), make_batch())).vectors
    return request.param, out, vectors


def decoded(policy, batch, call=None):
    """What the decoder is given in a step of training, or in what ``call`` does."""
    seen = []
    hook = policy.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    policy(batch) if call is None else call()
    hook.remove()
    return seen[0]


def with_vectors(batch):
    return batch | {"hlrp.vectors": torch.randn(4, POSITIONS, WIDTH, generator=torch.Generator().manual_seed(2))}


def test_continuous_latents_are_predicted_and_decoded(foundation, tmp_path):
    mode, path, vectors = foundation
    policy = make_policy(NAME, init_from=str(path), **BLANK)
    assert (policy.config.latent_mode, policy.config.vector_dim) == (mode, WIDTH)
    batch = with_vectors(make_batch())
    standardised = (vectors - torch.arange(WIDTH)) / 3
    torch.testing.assert_close(decoded(policy, batch), standardised)
    # Labels that do not hold may be NaN, and those that do are learned.
    batch["hlrp.code_mask"][1, 2:] = False
    masked = batch | {"hlrp.vectors": batch["hlrp.vectors"].masked_fill(~batch["hlrp.code_mask"][..., None], torch.nan)}
    clean, found = gradients(policy, batch), gradients(policy, masked)
    assert same(clean, found) and all(g.isfinite().all() for g in found.values())
    assert any(".flow." in n or ".head." in n for n in found) and any("decoder" in n for n in found)
    other = batch | {"hlrp.vectors": batch["hlrp.vectors"] + 1}
    assert not same(clean, gradients(policy, other))
    bare = {k: v for k, v in batch.items() if not k.startswith("hlrp.")}
    assert policy(bare)[1]["latent_labelled"] == 0
    assert "accuracy" not in " ".join(policy(batch)[1])
    policy.save_pretrained(tmp_path)
    restored = type(policy).from_pretrained(tmp_path)
    chunk = policy.predict_action_chunk(batch)
    assert torch.equal(restored.predict_action_chunk(batch), chunk) and chunk.shape == (4, CHUNK, 3)
    with pytest.raises(ValueError, match="no codes"):
        policy.predict_codes(batch)


def test_what_continuous_latents_cannot_do_is_refused(foundation):
    mode, path, _ = foundation
    with pytest.raises(UserError, match="policy 'hlrp_action_expert_latent' needs codes"):
        make_policy("hlrp_action_expert_latent", init_from=str(path), **BLANK)
    with pytest.raises(UserError, match="embeds codes"):
        make_policy(NAME, init_from=str(path), decoder="both", **BLANK)
    with pytest.raises(UserError, match=f"latent_mode is codes, the foundation model predicts {mode}"):
        make_policy(NAME, init_from=str(path), latent_mode="codes", **BLANK)
    with pytest.raises(UserError, match="no foundation model"):
        make_policy(NAME, latent_mode=mode)
    with pytest.raises(ValueError, match="embeds codes"):
        make_config(NAME, latent_mode=mode, decoder="laq")


def test_labels_of_continuous_latents(squares, laq2, table2, tmp_path):
    """From a table that has them, or made while training; a table of codes alone is refused."""
    table, model = make_table(squares, laq2, tmp_path / "table", vectors=True), tmp_path / "model"
    identity = LatentTable.open(table).identity
    make_foundation(model, "vectors", identity.codes(vectors=True), identity.camera)
    fields = {"init_from": str(model), "true_latents": 1.0, "run_steps": 10}
    policy, before, _, dataset = build(config_of(NAME, latent_table=str(table), **fields), squares)
    batch = before(batch_of(dataset, INDEX))
    expected = LatentTable.open(table).vectors(INDEX).flatten(1, 2)
    known = batch["hlrp.code_mask"]
    assert torch.equal(batch["hlrp.vectors"], expected) and known.any(1).sum() == 3
    given = decoded(policy.train(), batch)
    torch.testing.assert_close(given[known], policy.backend.standardised(expected)[known])
    assert not torch.equal(given[~known], policy.backend.standardised(expected)[~known])
    _, preprocess, _, windows = build(config_of(NAME, latent_laq=str(laq2), latent_offset_frames=2, **fields), squares)
    made = preprocess(batch_of(windows, INDEX))
    torch.testing.assert_close(made["hlrp.vectors"][known], expected[known], rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="width of the continuous latents: the table has None, asked for is 8"):
        build(config_of(NAME, latent_table=str(table2), **fields), squares)


@pytest.mark.parametrize("fields", [{}, {"decode_expectation": False}])
def test_the_decoder_is_given_labels_first_and_predictions_then(fields, tmp_path):
    labels = {"latent_source": "precomputed"}
    policy = make_policy(NAME, true_latents=0.5, **labels, **fields).train()
    batch = make_batch()
    batch["hlrp.code_mask"][0] = False
    never = make_policy(NAME, **fields)
    predicted = decoded(never, batch)
    policy.begin_run(4)
    true = torch.nn.functional.one_hot(batch["hlrp.codes"], 8).float()
    for _ in range(2):
        given = decoded(policy, batch)
        assert torch.equal(given[1:], true[1:]) and torch.equal(given[0], predicted[0]), "without a label: predicted"
        policy.update()
    assert torch.equal(decoded(policy, batch), predicted)
    policy.save_pretrained(tmp_path)
    assert int(type(policy).from_pretrained(tmp_path).updates) == 2, "a resumed run goes on with the schedule"
    policy.updates.zero_()
    assert torch.equal(decoded(policy.eval(), batch), predicted), "held-out losses are those of acting"
    for value, said in ((1.5, "between 0 and 1"), (0.5, "needs labels")):
        with pytest.raises(ValueError, match=said):
            make_config(NAME, true_latents=value)


@pytest.mark.parametrize("expectation", [True, False])
def test_codes_one_by_one_are_decoded_in_training_as_when_acting(expectation):
    policy = make_policy(NAME, backend="qwen3vl_chat", decode_expectation=expectation)
    with torch.no_grad():  # random weights hardly attend; a trained model's codes depend on those before
        for name, weight in policy.backend.named_parameters():
            if "language_model.layers" in name and weight.ndim > 1:
                weight.mul_(4)
    batch = make_batch()
    given = [decoded(policy, batch | {"hlrp.codes": codes}) for codes in (batch["hlrp.codes"], batch["hlrp.codes"] ^ 3)]
    assert torch.equal(*given), "labels say nothing about what is predicted"
    acting = decoded(policy, batch, lambda: policy.predict_action_chunk(batch))
    torch.testing.assert_close(given[0], acting, atol=1e-5, rtol=1e-5)
    codes = policy.predict_codes(batch)
    assert torch.equal(acting.argmax(-1), codes) and (acting.amax(-1) < 1).any() == expectation
    alone = make_policy(NAME, backend="qwen3vl_chat", decode_expectation=expectation, code_seq_len=1, num_frames=2)
    batch |= {name: batch[name][:, :1] for name in ("hlrp.codes", "hlrp.code_mask")}
    torch.testing.assert_close(decoded(alone, batch), decoded(alone, batch, lambda: alone.predict_action_chunk(batch)))


@pytest.mark.parametrize("backend", ["smol_latent_head", "qwen3vl_chat"])
def test_lerobots_adapters_train_and_are_loaded_again(backend, tmp_path):
    from lerobot.policies import factory

    policy, batch = make_policy("hlrp_vla_direct", backend=backend), make_batch()
    policy.save_pretrained(tmp_path / "start")
    policy.config.pretrained_path = tmp_path / "start"
    adapted = policy.wrap_with_peft(peft_cli_overrides={"r": 2})
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert {name.split(".")[-3] for name in trained} == {"lora_A", "lora_B"}
    parts = {"q_proj", "v_proj", "decoder"} | ({"head", "state_projection"} if backend == "smol_latent_head" else set())
    assert {part for part in (*parts, "vision", "head") if any(f".{part}." in name for name in trained)} == parts
    optimizer = torch.optim.SGD(policy.get_optim_params()[0]["params"], lr=0.1)
    for _ in range(2):  # B begins at zero, so that A moves from the second step on
        optimizer.zero_grad()
        adapted(batch)[0].backward()
        optimizer.step()
    assert [name for name, p in trained.items() if not p.grad.any()] == []
    chunk = adapted.predict_action_chunk(batch)

    adapted.save_pretrained(tmp_path / "adapted")
    adapted.config.pretrained_path = tmp_path / "adapted"
    features = {**policy.config.input_features, **policy.config.output_features}
    world = SimpleNamespace(features=features, features_map={name: name for name in features})
    again = factory.make_policy(adapted.config, env_cfg=world)
    torch.testing.assert_close(again.predict_action_chunk(batch), chunk)
    with torch.no_grad(), again.disable_adapter():
        assert not torch.allclose(again.predict_action_chunk(batch), chunk)


def test_lerobots_adapters_do_not_turn_off_the_policys_own():
    policy = make_policy("hlrp_vla_direct", vlm="lora")
    policy.config.pretrained_path = "start"
    with pytest.raises(UserError, match=r"has adapters .* would turn off"):
        policy.wrap_with_peft(peft_cli_overrides={"r": 2})
