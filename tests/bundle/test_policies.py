"""The policies on the tiny backbone: losses, chunks and queue, checkpoints, starts from a foundation model."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from bundle_toys import (
    ACTIONS,
    CAMERAS,
    CHUNK,
    CONFIGS,
    MEANING,
    gradients,
    make_batch,
    make_config,
    make_policy,
    save_foundation,
)

from hlrp.errors import UserError
from lerobot_policy_felix_bundle.policies.common.expert import _masked

NAMES = sorted(CONFIGS)
LATENT = "hlrp_action_expert_latent"
EXPERTS = [n for n in NAMES if "expert" in n]
QWEN = {"backend": "qwen3vl_chat"}


def test_registering_imports_no_model():
    code = (
        "import sys, lerobot_policy_felix_bundle\n"
        "from lerobot.configs.policies import PreTrainedConfig\n"
        f"assert set({NAMES}) <= set(PreTrainedConfig.get_known_choices())\n"
        "heavy = [m for m in sys.modules if m.startswith('lerobot.policies') or '.modeling_' in m and 'hlrp' in m]\n"
        "assert not heavy, heavy\n"
        "assert 'transformers.models.smolvlm.modeling_smolvlm' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_loss_gradients_and_chunks(name):
    policy = make_policy(name)
    batch = make_batch()
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    assert gradients(policy, batch).keys() == {n for n, p in policy.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=1e-3)
    losses = []
    for _ in range(30):
        torch.manual_seed(3)
        loss, logged = policy(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0], losses
    assert all(isinstance(v, float) for v in logged.values()) and logged["action_labelled"] == 1.0
    assert any(not torch.equal(before[n], p) for n, p in policy.named_parameters() if "vision_model" in n)
    chunk = policy.predict_action_chunk(make_batch(2))
    assert chunk.shape == (2, CHUNK, ACTIONS) and chunk.isfinite().all() and chunk.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "fields"), [*((name, {}) for name in EXPERTS), (LATENT, {"bottleneck_prefix": "kept"})]
)
def test_one_pass_of_the_vlm_serves_a_chunk(name, fields):
    policy, passes = make_policy(name, **fields), []
    policy.backend.vlm.text_model.register_forward_hook(lambda *_: passes.append(1))
    batch = make_batch(2)
    policy.reset()
    torch.manual_seed(4)
    chunk = policy.predict_action_chunk(batch)
    passes.clear()
    torch.manual_seed(4)
    actions = [policy.select_action(batch) for _ in range(4)]
    assert len(passes) == 1 and torch.equal(torch.stack(actions, 1), chunk[:, :4])
    policy.select_action(batch)
    assert len(passes) == 2
    policy.reset()
    policy.select_action(batch)
    assert len(passes) == 3
    # Keys and values that serve several denoising steps are those of the observation alone.
    prefix = policy.prefix(batch)
    noisy, time = torch.randn(2, CHUNK, ACTIONS), torch.full((2,), 0.5)
    first = policy.expert.velocity(prefix, noisy, time)
    policy.expert.velocity(prefix, torch.randn(2, CHUNK, ACTIONS), time)
    assert torch.equal(first, policy.expert.velocity(prefix, noisy, time))
    assert torch.allclose(first, policy.expert.velocity(policy.prefix(batch), noisy, time), atol=1e-6)


def test_the_velocity_is_that_of_lerobots_own_denoising_step():
    policy, batch = make_policy("hlrp_action_expert_direct"), make_batch(2)
    prefix, noisy, time = policy.prefix(batch), torch.randn(2, CHUNK, ACTIONS), torch.full((2,), 0.3)
    theirs = policy.expert.denoise_step(prefix.mask, prefix.cache, noisy, time)
    assert torch.allclose(policy.expert.velocity(prefix, noisy, time), theirs, atol=1e-6)


def test_the_attention_is_lerobots():
    policy = make_policy("hlrp_action_expert_direct")
    theirs, ours = policy.expert.vlm_with_expert, policy.expert.vlm_with_expert.get_attention_interface()
    queries, keys, values = torch.randn(2, 5, 4, 32), torch.randn(2, 9, 2, 32), torch.randn(2, 9, 2, 32)
    mask = torch.rand(2, 5, 9) < 0.5
    mask[..., 0] = True
    expected = theirs.eager_attention_forward(mask, 2, 32, queries, keys, values)
    assert torch.allclose(ours(mask, 2, 32, queries, keys, values), expected, atol=1e-6)
    # As a GPU is given the heads: its kernels want a key head for each query head.
    each = _masked(*(x.transpose(1, 2) for x in (queries, keys, values)), mask[:, None], shared=False)
    assert torch.allclose(each.transpose(1, 2).flatten(2), expected, atol=1e-6)


@pytest.mark.parametrize(("name", "fields"), [*((name, {}) for name in NAMES), ("hlrp_vla_direct", QWEN)])
def test_layers_that_fsdp_wraps_are_there(name, fields):
    policy = make_policy(name, **fields)
    found = {type(module).__name__ for module in policy.modules()}
    assert len(found & set(policy._fsdp_wrap_modules)) == 2 and policy._no_split_modules == policy._fsdp_wrap_modules


@pytest.mark.parametrize("name", EXPERTS)
def test_cameras_that_are_missing_do_not_count(name):
    policy = make_policy(name, cameras=CAMERAS)
    noise = torch.randn(2, CHUNK, ACTIONS)
    both = make_batch(2, cameras=CAMERAS)
    alone = {k: v for k, v in both.items() if k != CAMERAS[1]}
    masked = both | {f"{CAMERAS[1]}_padding_mask": torch.zeros(2, dtype=torch.bool)}
    padded = both | {f"{CAMERAS[1]}_is_pad": torch.ones(2, 1, dtype=torch.bool)}
    chunks = [policy.predict_action_chunk(b, noise=noise) for b in (both, alone, masked, padded)]
    assert not torch.allclose(chunks[0], chunks[1])
    assert torch.allclose(chunks[1], chunks[2], atol=1e-5) and torch.allclose(chunks[1], chunks[3], atol=1e-5)
    with pytest.raises(ValueError, match="none of the policy's cameras"):
        policy.predict_action_chunk({"observation.state": both["observation.state"], "task": both["task"]})
    with pytest.raises(ValueError, match="contradict"):
        policy.predict_action_chunk(masked | {f"{CAMERAS[1]}_is_pad": torch.zeros(2, 1, dtype=torch.bool)})


@pytest.mark.parametrize("name", NAMES)
def test_without_state_and_language(name):
    policy = make_policy(name, state=False, use_language=False)
    batch = make_batch(2)
    noise = {} if name == "hlrp_vla_direct" else {"noise": torch.randn(2, CHUNK, ACTIONS)}
    chunk = policy.predict_action_chunk({CAMERAS[0]: batch[CAMERAS[0]]}, **noise)
    assert torch.equal(chunk, policy.predict_action_chunk(batch, **noise))
    policy(batch)[0].backward()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("hlrp_action_expert_direct", {"vlm_layers": 2}),
        (LATENT, {}),
        (LATENT, {"conditioning": "suffix"}),
        (LATENT, {"conditioning": "tokens"}),
        (LATENT, {"bottleneck_prefix": "kept"}),
        (LATENT, {"vlm": "lora", "lora_rank": 2}),
        ("hlrp_vla_direct", {"vlm": "frozen"}),
        ("hlrp_vla_direct", QWEN),
    ],
)
def test_a_checkpoint_needs_nothing_else(name, fields, tmp_path):
    policy = make_policy(name, **fields)
    trained = {n for n, p in policy.named_parameters() if p.requires_grad}
    gradients(policy, make_batch())
    torch.optim.SGD(policy.get_optim_params(), lr=0.1).step()
    if name == LATENT:
        policy.update()
    folder = tmp_path / "pretrained_model"
    policy.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["type"] == name
    config["backbone"] = "/no/such/folder"
    config["latent_table"], config["latent_source"] = "/no/such/table", "precomputed"
    if name == "hlrp_action_expert_direct":
        config["latent_table"], config["latent_source"] = None, "none"
    config["init_from"] = "/no/such/model"
    (folder / "config.json").write_text(json.dumps(config))
    restored = type(policy).from_pretrained(folder)
    noise = {} if name == "hlrp_vla_direct" else {"noise": torch.randn(2, CHUNK, ACTIONS)}
    batch = make_batch(2)
    assert torch.equal(restored.predict_action_chunk(batch, **noise), policy.predict_action_chunk(batch, **noise))
    if fields.get("vlm") == "lora":
        language = {n for n in trained if "text_model" in n}
        assert language and all("lora_" in n for n in language)
        assert not any("vision_model" in n for n in trained)
    if fields.get("vlm") == "frozen":
        assert not any("vlm" in n for n in trained) and any("head" in n for n in trained)
    if name == LATENT:
        assert restored.updates == 1
    shutil.rmtree(folder / "backbone")
    with pytest.raises(UserError, match=r"backbone/config\.json"):
        type(policy).from_pretrained(folder)


@pytest.mark.parametrize("name", ["hlrp_action_expert_direct", LATENT, "hlrp_vla_direct"])
@pytest.mark.parametrize("vlm", ["frozen", "lora"])
def test_a_pretrained_vlm_that_is_not_trained_is_bfloat16(name, vlm, tiny_folder, tmp_path):
    """As in SmolVLA; what is trained is float32, and a float32 VLM acts nearly the same."""
    fields = {"vlm": vlm, "lora_rank": 2, "backbone": str(tiny_folder)}
    policy, exact = make_policy(name, **fields), make_policy(name, **fields, vlm_dtype="float32")
    assert policy.config.vlm_dtype == "bfloat16", "auto, for a pretrained backbone"
    for parameters, frozen, trained in ((policy, torch.bfloat16, torch.float32), (exact, torch.float32, torch.float32)):
        own = {n: p for n, p in parameters.backend.vlm.named_parameters() if "lora_" not in n}
        kept = {p.dtype for p in own.values() if not p.requires_grad}
        assert kept == {frozen}
        assert {p.dtype for p in parameters.parameters() if p.requires_grad} == {trained}
    found = gradients(policy, make_batch())
    assert all(torch.isfinite(g).all() for g in found.values())
    policy.save_pretrained(tmp_path)
    restored = type(policy).from_pretrained(tmp_path)
    noise = {} if name == "hlrp_vla_direct" else {"noise": torch.randn(2, CHUNK, ACTIONS)}
    batch = make_batch(2)
    chunk = policy.predict_action_chunk(batch, **noise)
    assert torch.equal(restored.predict_action_chunk(batch, **noise), chunk)
    if name == "hlrp_action_expert_direct":
        assert not torch.equal(exact.predict_action_chunk(batch, **noise), chunk)
        torch.testing.assert_close(exact.predict_action_chunk(batch, **noise), chunk, atol=0.05, rtol=0.05)


def test_chunks_are_denoised_in_the_precision_of_the_vlm(tiny_folder, tmp_path):
    policy = make_policy("hlrp_action_expert_direct", backbone=str(tiny_folder))
    own, names = policy.expert.vlm_with_expert.lm_expert, set(policy.state_dict())
    batch, noise = make_batch(2), torch.randn(2, CHUNK, ACTIONS, generator=torch.Generator().manual_seed(0))

    def chunk():
        return policy.predict_action_chunk(batch, noise=noise)

    with pytest.MonkeyPatch.context() as patch:
        # As one of several processes does, which may not have all weights: with the layers that are trained.
        patch.setattr(torch.distributed, "is_initialized", lambda: True)
        exact = chunk()
    first = chunk()
    assert not torch.equal(first, exact), "bfloat16 rounds"
    torch.testing.assert_close(first, exact, atol=0.05, rtol=0.05)
    assert torch.equal(chunk(), first)
    assert {p.dtype for p in own.parameters()} == {torch.float32} and set(policy.state_dict()) == names
    # Weights that are loaded, and a step of training, are followed.
    own.load_state_dict({n: p + 0.1 for n, p in own.state_dict().items()})
    loaded = chunk()
    assert not torch.allclose(loaded, first, atol=0.05) and torch.equal(loaded, chunk())
    gradients(policy, batch)
    torch.optim.AdamW(policy.get_optim_params(), lr=1e-2).step()
    trained = chunk()
    assert not torch.allclose(trained, loaded, atol=0.05)
    policy.save_pretrained(tmp_path)
    restored = type(policy).from_pretrained(tmp_path)
    assert torch.equal(restored.predict_action_chunk(batch, noise=noise), trained)


def test_trained_weights_stay_float32():
    assert make_policy(LATENT).config.vlm_dtype == "float32"
    with pytest.raises(ValueError, match="co-trained"):
        make_policy(LATENT, vlm_dtype="bfloat16")
    with pytest.raises(UserError, match="vlm_dtype"):
        make_policy("hlrp_vla_direct", **QWEN, vlm="frozen", vlm_dtype="bfloat16")


def test_weights_must_fit(tmp_path):
    policy = make_policy("hlrp_action_expert_direct")
    policy.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for field, value, said in (("expert_width_multiplier", 0.5, "size mismatch"), ("vlm_layers", 2, "nexpected key")):
        (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
        with pytest.raises(UserError, match=said):
            type(policy).from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "fields"),
    [("hlrp_action_expert_direct", {}), (LATENT, {}), (LATENT, {"bottleneck_prefix": "kept"})],
)
def test_real_time_chunking(name, fields):
    policy = make_policy(name, rtc_config={"enabled": True, "execution_horizon": 4}, **fields)
    batch, noise = make_batch(2), torch.randn(2, CHUNK, ACTIONS)
    assert policy.supports_rtc()
    free = policy.predict_action_chunk(batch, noise=noise)
    before = torch.zeros(2, CHUNK, ACTIONS)
    guided = policy.predict_action_chunk(batch, noise=noise, prev_chunk_left_over=before, inference_delay=2)
    assert guided[:, :2].abs().mean() < free[:, :2].abs().mean()
    with pytest.raises(ValueError, match="real-time"):
        policy.select_action(batch)


@pytest.fixture(scope="module")
def foundation(tmp_path_factory):
    """A foundation model with random weights, and its codes for a batch."""
    from hlrp.latents import CodeSpec
    from lerobot_policy_felix_bundle.policies.common.observations import foundation_batch

    out = tmp_path_factory.mktemp("foundation") / "model"
    backend = save_foundation(out, CodeSpec(**MEANING), CAMERAS[0], noise=0.02, state_dim=2)
    observed = foundation_batch(make_config(LATENT), make_batch())
    with torch.no_grad():
        return out, backend.latent_from_batch(observed).logits


def test_a_policy_predicts_what_its_foundation_model_predicted(foundation):
    path, logits = foundation
    blank = dict.fromkeys(MEANING)
    for name in (LATENT, "hlrp_vla_direct"):
        policy = make_policy(name, init_from=str(path), **blank)
        assert torch.equal(policy.predict_codes(make_batch()), logits.argmax(-1))
        assert policy.config.codebook_size == 8 and policy.config.laq_sha256 == "a" * 64
    direct = make_policy("hlrp_action_expert_direct", init_from=str(path))
    latent = make_policy(LATENT, init_from=str(path), **blank)
    ours, theirs = direct.backend.vlm.state_dict(), latent.backend.vlm.state_dict()
    dropped = theirs.keys() - ours.keys()
    assert dropped and all(".norm." in n or ".layers.3.mlp." in n for n in dropped)
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


def test_a_foundation_model_that_does_not_fit_is_refused(foundation):
    path, _ = foundation
    with pytest.raises(UserError, match=r"codes K: the foundation model \S+ has 8, the policy 16"):
        make_policy(LATENT, init_from=str(path), codebook_size=16, laq_sha256=None)
    with pytest.raises(UserError, match="all language layers"):
        make_policy(LATENT, init_from=str(path), vlm_layers=2, laq_sha256=None)
    with pytest.raises(UserError, match="up to 48 tokens of an instruction, the policy asks for 200"):
        make_policy(LATENT, init_from=str(path), max_text_tokens=200, laq_sha256=None)
    with pytest.raises(UserError, match="needs qwen3vl_chat"):
        make_policy("hlrp_vla_direct", init_from=str(path), backend="qwen3vl_chat")
    with pytest.raises(UserError, match="nothing says which"):
        make_policy(LATENT, **dict.fromkeys(MEANING))
    with pytest.raises(ValueError, match="no use for latent labels"):
        make_config("hlrp_action_expert_direct", latent_table="x")


def test_a_policy_that_lacks_a_part_of_its_own_says_which():
    from lerobot_policy_felix_bundle.policies.common.policy import HLRPPolicy

    class Half(HLRPPolicy):
        config_class = HLRPPolicy.config_class
        name = "half"

        def build(self, backbone_folder):
            pass

        def terms(self, batch, **given):
            return {}

    with pytest.raises(TypeError, match=r"abstract class Half .*'chunk'"):
        Half(None)
