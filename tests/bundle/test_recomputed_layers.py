"""`trainer.activation_checkpointing` with the policies: the same gradients, whoever reads keys and values of layers."""

import pytest
import torch
from bundle_toys import gradients, make_batch, make_policy, same

from trainers.lightning.layers import recompute_layers, stacks

EXPERT = "hlrp_action_expert_direct"
KEPT = {"bottleneck_prefix": "kept"}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (EXPERT, {"vlm": "cotrained"}),
        ("hlrp_action_expert_latent", {"vlm": "cotrained", **KEPT}),
        ("hlrp_vla_direct", {"vlm": "cotrained"}),
        ("hlrp_vla_direct", {"vlm": "cotrained", "backend": "qwen3vl_chat"}),
        (EXPERT, {"vlm": "lora"}),
        ("hlrp_vla_direct", {"vlm": "lora", "vlm_dtype": "bfloat16"}),
    ],
)
def test_policies_learn_the_same_from_layers_that_are_computed_twice(name, fields):
    """LoRA beside an expert: LeRobot keeps the VLM in evaluation mode. On a CPU bfloat16 has attention of its own."""
    if fields["vlm"] == "lora":
        pytest.importorskip("peft")
    policy, batch = make_policy(name, **fields), make_batch(2)
    kept = gradients(policy, batch)
    calls = []
    layers = [layer for stack in stacks(policy.backend) for layer in stack]
    forwards = [layer.forward for layer in layers]
    for layer, forward in zip(layers, forwards, strict=True):
        layer.forward = lambda *a, forward=forward, **k: (calls.append(torch.is_grad_enabled()), forward(*a, **k))[1]
    policy(batch)
    once = sum(calls)
    calls.clear()
    recompute_layers(policy)
    again = gradients(policy, batch)
    assert same(kept, again) and sum(calls) > 1.5 * once
    chunk = policy.eval().predict_action_chunk(batch)
    assert chunk.isfinite().all()
