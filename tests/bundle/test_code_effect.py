"""Whether actions depend on codes: the bottleneck that leaves no way around them, and the meter of it."""

import pytest
import torch
from bundle_toys import ACTIONS, CAMERAS, CHUNK, POSITIONS, gradients, make_batch, make_policy

from hlrp.policies.held_out import CodeEffectMeter
from lerobot_policy_felix_bundle.policies.common.effect import Conditioned, measure_effect

LATENT, VLA = "hlrp_action_expert_latent", "hlrp_vla_direct"
KEPT = {"bottleneck_prefix": "kept", "prefix_dropout": 1.0}


def one_hot(codes):
    return torch.nn.functional.one_hot(codes, 8).float()


@pytest.mark.parametrize("fields", [{}, KEPT])
def test_behind_the_bottleneck_codes_change_the_actions_and_pictures_do_not(fields):
    policy, batch = make_policy(LATENT, conditioning="bottleneck", **fields), make_batch()
    noise, time = torch.randn(4, CHUNK, ACTIONS), torch.full((4,), 0.5)
    repainted = batch | {CAMERAS[0]: 1 - batch[CAMERAS[0]], "task": batch["task"][::-1]}

    def losses(seen, codes):
        prefix = policy._for_expert(policy.prefix(seen)).without(torch.ones(4, dtype=torch.bool))
        condition = policy._condition(seen, one_hot(codes))
        return policy.expert.flow_losses(prefix, batch["action"], condition, noise=noise, time=time)

    codes = batch["hlrp.codes"]
    reference = losses(batch, codes)
    torch.testing.assert_close(losses(repainted, codes), reference, rtol=1e-5, atol=1e-6)
    for changed in (losses(batch, (codes + 1) % 8), losses(batch | {"observation.state": torch.ones(4, 2)}, codes)):
        assert bool(((changed - reference).abs().flatten(1).max(1).values > 1e-3).all())


def test_what_is_not_dropped_of_the_observation_reaches_the_actions():
    policy, batch = make_policy(LATENT, **KEPT | {"prefix_dropout": 0.0}), make_batch()
    noise, repainted = torch.randn(4, CHUNK, ACTIONS), batch | {CAMERAS[0]: 1 - batch[CAMERAS[0]]}
    condition, chunks = policy._condition(batch, one_hot(batch["hlrp.codes"])), []
    for seen in (batch, repainted):
        with torch.no_grad():
            chunks.append(policy.expert.sample(policy._for_expert(policy.prefix(seen)), condition, noise=noise))
    assert (chunks[0] - chunks[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [1 + POSITIONS + CHUNK] * 4),
        ({"conditioning": "tokens"}, [POSITIONS + CHUNK, 0] * 2),
        ({"conditioning": "tokens", "self_attn_every_n_layers": 1}, [POSITIONS + CHUNK] * 4),
    ],
)
def test_every_layer_behind_the_bottleneck_sees_the_codes(fields, expected):
    """Keys of each layer less those of the observation; of LeRobot's layers every second sees nothing else."""
    policy, batch = make_policy(LATENT, **fields), make_batch()
    layers, attention, seen = policy.expert.vlm_with_expert, policy.expert.vlm_with_expert.get_attention_interface(), []

    def watched(mask, batch_size, head, queries, keys, values):
        seen.append(keys.shape[1])
        return attention(mask, batch_size, head, queries, keys, values)

    layers.__dict__["get_attention_interface"] = lambda: watched
    prefix = policy._for_expert(policy.prefix(batch))
    condition = policy._condition(batch, one_hot(batch["hlrp.codes"]))
    policy.expert.velocity(prefix, torch.randn(4, CHUNK, ACTIONS), torch.full((4,), 0.5), condition)
    assert [count - prefix.mask.shape[1] for count in seen] == expected


@pytest.mark.parametrize(
    ("fields", "reached"),
    [
        ({}, False),
        ({"bottleneck_prefix": "kept", "prefix_dropout": 0.0}, False),
        ({"bottleneck_prefix": "kept", "prefix_dropout": 0.0, "expert_grad_to_vlm": True}, True),
        ({"conditioning": "tokens"}, True),
        ({"conditioning": "tokens", "expert_grad_to_vlm": False}, False),
    ],
)
def test_the_actions_loss_trains_the_vlm_only_where_it_is_asked_to(fields, reached):
    policy = make_policy(LATENT, **fields)
    policy.terms(make_batch())["action"].mean().backward()
    assert any(p.grad is not None and p.grad.any() for p in policy.backend.parameters()) is reached
    assert policy.latents.table.weight.grad.any()


def test_an_observation_that_is_dropped_may_be_no_number():
    policy, batch = make_policy(LATENT, bottleneck_prefix="kept"), make_batch()
    noise, time = torch.randn(4, CHUNK, ACTIONS), torch.full((4,), 0.5)
    dropped, found = torch.tensor([False, True, False, True]), []
    for value in (0.0, torch.nan):
        prefix = policy.prefix(batch)
        for layer in prefix.cache.layers:
            layer.keys[dropped], layer.values[dropped] = value, value
        policy.zero_grad()
        condition = policy._condition(batch, one_hot(batch["hlrp.codes"]))
        seen = policy._for_expert(prefix).without(dropped)
        losses = policy.expert.flow_losses(seen, batch["action"], condition, noise=noise, time=time)
        losses.mean().backward()
        found.append((losses.detach(), policy.latents.table.weight.grad.clone()))
    assert found[0][0].isfinite().all()
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_settings_that_contradict_the_bottleneck_are_refused():
    for fields, said in (
        ({"self_attn_every_n_layers": 2}, "every layer sees the codes"),
        ({"expert_grad_to_vlm": True}, "nothing leads to the VLM"),
        ({"conditioning": "tokens", "bottleneck_prefix": "kept"}, "has no meaning"),
        ({"conditioning": "suffix", "expert_grad_to_vlm": False}, "through the expert alone"),
        ({"bottleneck_prefix": "half"}, "choose from none, kept"),
    ):
        with pytest.raises(ValueError, match=said):
            make_policy(LATENT, **fields)


def test_figures_of_actions_that_are_their_codes():
    """By hand: samples 0, 1, 2 do codes 0, 1, 2 as actions; each is then given the next one's."""
    codes = one_hot(torch.tensor([[0], [1], [2]]))
    actions = torch.tensor([0.0, 1.0, 2.0])[:, None, None].expand(3, 2, 1)

    def sample(shares):
        return shares.argmax(-1).float()[:, :, None].expand(3, 2, 1)

    view = Conditioned(codes, lambda shares: (sample(shares) - actions).square(), sample)
    # The second action of the first sample lies past the episode's end; it is not executed anyway.
    there = torch.tensor([[True, False], [True, True], [True, True]])
    found = measure_effect(view, actions, there, 1, torch.tensor([0, 1, 2]))
    # Moves of 1, 1 and -2, squared 6; the spread of 0, 1, 2 is 2; losses of the five that are there: 1 + 2 * 1 + 2 * 4.
    expected = {"code_effect": 11 / 5, "code_shift": 3**0.5, "action_r2": 1, "action_r2_permuted": 1 - 6 / 2}
    assert dict(found) == pytest.approx(expected)
    deaf = Conditioned(codes, lambda _: actions * 0, lambda _: actions * 0)
    found = measure_effect(deaf, actions, there, 1, torch.tensor([0, 1, 2]))
    assert dict(found) == {"code_effect": 0, "code_shift": 0, "action_r2": -1.5, "action_r2_permuted": -1.5}


@pytest.mark.parametrize(
    ("name", "fields"), [(LATENT, {}), (LATENT, {"conditioning": "tokens"}), (LATENT, KEPT), (VLA, {})]
)
def test_a_policy_that_is_deaf_to_codes_has_no_effect_of_them(name, fields):
    policy, batch = make_policy(name, **fields).train(), make_batch()
    batch["hlrp.code_mask"][:], batch["action"][0, 3:], batch["action_is_pad"][0, 3:] = False, torch.nan, True
    head = policy.backend.head.out[-1]
    with torch.no_grad():
        head.weight.mul_(20)  # codes of random weights are nearly the same for all samples
    state = torch.get_rng_state()
    hears = policy.code_effect(batch)
    assert hears["code_shift"] > 1e-4 and hears["code_effect"] != 0
    assert hears["action_r2"] != hears["action_r2_permuted"]
    assert dict(policy.code_effect(batch)) == dict(hears)
    # Of four samples two seeds may give the same cycle.
    assert any(dict(policy.code_effect(batch, seed=seed)) != dict(hears) for seed in range(1, 5))
    assert policy.training and torch.equal(torch.get_rng_state(), state)
    table = policy.decoder.learned if name == VLA else policy.latents.table.weight
    with torch.no_grad():
        table.zero_()
    deaf = policy.code_effect(batch)
    assert deaf["code_effect"] == 0 and deaf["code_shift"] == 0 and deaf["action_r2"] == deaf["action_r2_permuted"]


def test_policies_whose_actions_are_not_made_from_codes_have_none():
    for policy in (make_policy("hlrp_action_expert_direct"), make_policy(LATENT, conditioning="suffix")):
        assert policy.code_effect(make_batch()) is None and not policy.conditioned_on_codes


def test_the_meter_takes_samples_evenly_from_batches_of_any_number():
    class Policy(torch.nn.Linear):
        conditioned_on_codes = True

        def code_effect(self, batch):
            seen.append(batch)
            return {"code_effect": 1.0}

    meter, policy, seen = CodeEffectMeter(most=8), Policy(1, 1), []
    assert meter.measure(policy) == {}
    for start, size in ((0, 10), (10, 7), (17, 6)):
        numbers = torch.arange(start, start + size)
        meter.add(
            policy, {"action": numbers[:, None].float(), "task": [f"t{n}" for n in numbers.tolist()], "stamp": "once"}
        )
    assert meter.measure(policy) == {"code_effect": 1.0}
    assert seen[0]["action"].flatten().tolist() == [0, 4, 8, 12, 16, 20]
    assert seen[0]["task"] == ["t0", "t4", "t8", "t12", "t16", "t20"] and seen[0]["stamp"] == "once"
    # Weights that are spread over processes, which would all have to take part; and no policy that acts on codes.
    meter.add(policy, {"action": torch.zeros(4, 1), "scalar": torch.tensor(1)})
    assert meter.measure(type("FSDPPolicy", (Policy,), {})(1, 1)) == {}
    meter.add(torch.nn.Linear(1, 1), {"action": torch.zeros(4, 1)})
    assert meter.measure(policy) == {}, "each measurement begins anew"


def test_a_checkpoint_in_the_middle_of_the_schedule_goes_on_exactly(tmp_path):
    policy = make_policy(LATENT, own_codes=0.9, own_codes_warmup=0.7)
    policy.begin_run(10)
    for _ in range(3):
        policy.update()
    policy.save_pretrained(tmp_path)
    restored = type(policy).from_pretrained(tmp_path)
    assert float(restored.own_share()) == float(policy.own_share()) == pytest.approx(0.9 * 3 / 7)
    first, second = (gradients(p, make_batch()) for p in (policy, restored))
    assert first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)
