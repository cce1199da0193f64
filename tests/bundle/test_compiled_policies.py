"""The policies under torch.compile: no graph breaks, the same numbers, the same names of weights."""

import copy
from collections.abc import Iterator

import pytest
import torch
from bundle_toys import ACTIONS, CHUNK, gradients, make_batch, make_policy
from torch._dynamo.utils import counters

from hlrp.compiled import blocks_of, compile_blocks

DIRECT, LATENT, VLA = "hlrp_action_expert_direct", "hlrp_action_expert_latent", "hlrp_vla_direct"
CHEAP = {"fullgraph": True, "backend": "eager"}
VARIANTS = [
    pytest.param(DIRECT, {}, marks=pytest.mark.slow),
    pytest.param(LATENT, {"conditioning": "tokens"}, marks=pytest.mark.slow),
    pytest.param(LATENT, {"conditioning": "suffix"}, marks=pytest.mark.slow),
    pytest.param(LATENT, {"bottleneck_prefix": "kept"}, marks=pytest.mark.slow),
    (VLA, {}),
]


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(("name", "fields"), VARIANTS)
def test_gradients_are_those_of_the_plain_policy(name, fields):
    plain, policy, batch = make_policy(name, **fields), make_policy(name, **fields), make_batch(2)
    blocks = compile_blocks(policy, **CHEAP)
    expected, found = gradients(plain, batch), gradients(policy, batch)
    assert expected.keys() == found.keys()
    for weight, gradient in expected.items():
        torch.testing.assert_close(found[weight], gradient, rtol=1e-4, atol=1e-6)
    # Layers of a picture encoder are one, and so are those of a language model that keeps nothing.
    assert counters["stats"]["unique_graphs"] == 3 < blocks
    assert list(policy.state_dict()) == list(plain.state_dict())


def test_a_policy_that_compiles_itself_acts_as_it_did(monkeypatch, tmp_path):
    plain, batch = make_policy(DIRECT), make_batch(2)
    modes = []

    def cheap(module, **options):
        modes.append(options.get("mode"))
        module._compiled_call_impl = torch.compile(module._call_impl, dynamic=False, **CHEAP)

    monkeypatch.setattr(torch.nn.Module, "compile", cheap)
    policy = make_policy(DIRECT, compile_model=True, compile_mode="max-autotune")
    policy.load_state_dict(plain.state_dict())
    assert modes == [None] * len(blocks_of(policy)) + ["max-autotune"]
    noise = torch.randn(2, CHUNK, ACTIONS)
    chunk = policy.predict_action_chunk(batch, noise=noise)
    torch.testing.assert_close(chunk, plain.predict_action_chunk(batch, noise=noise), rtol=1e-5, atol=1e-6)
    graphs = counters["stats"]["unique_graphs"]
    # A layer of the encoder, the language model, the denoising step: one each, and none at the next chunk.
    assert graphs == 3
    policy.predict_action_chunk(make_batch(2, seed=2), noise=noise)
    assert counters["stats"]["unique_graphs"] == graphs
    # A copy, as of a running average, has weights of its own, and not the compiled code of the others.
    average = copy.deepcopy(policy)
    assert all(block._compiled_call_impl is None for block in blocks_of(average))
    with torch.no_grad():
        average.expert.action_out_proj.bias += 1.0
    assert not torch.allclose(average.predict_action_chunk(batch, noise=noise), chunk, atol=0.1)
    policy.save_pretrained(tmp_path)
    loaded = type(policy).from_pretrained(tmp_path)
    assert loaded.config.compile_model and loaded.config.compile_mode == "max-autotune"
    assert list(loaded.state_dict()) == list(plain.state_dict())


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="compile_mode is 'fast'; choose from default, reduce-overhead"):
        make_policy(DIRECT, compile_mode="fast")


@pytest.mark.slow
def test_the_compiler_gives_the_same_chunk():
    plain, batch = make_policy(DIRECT), make_batch(2)
    policy = make_policy(DIRECT, compile_model=True)
    policy.load_state_dict(plain.state_dict())
    noise = torch.randn(2, CHUNK, ACTIONS)
    expected = plain.predict_action_chunk(batch, noise=noise)
    torch.testing.assert_close(policy.predict_action_chunk(batch, noise=noise), expected, rtol=1e-4, atol=1e-5)
