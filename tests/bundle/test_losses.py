"""What the policies learn from: losses over what is supervised, of one process and of two, and what they are shown."""

import pytest
import torch
from bundle_toys import ACTIONS, CHUNK, CONFIGS, gradients, make_batch, make_policy, same
from two_processes import averaged, first_of_two

from lerobot_policy_felix_bundle.policies.common.losses import Term, reduce_terms

NAMES = sorted(CONFIGS)
LATENT = "hlrp_action_expert_latent"
QWEN = {"backend": "qwen3vl_chat"}
ACTION = Term(
    torch.tensor([[[1.0, 3.0], [5.0, torch.nan]], [[7.0, 9.0], [2.0, 2.0]]]),
    # Of the first sample one action of two numbers, of the second none.
    torch.tensor([[True, False], [False, False]]),
)
LABELS = Term(torch.tensor([[2.0, 4.0], [6.0, torch.inf]]), torch.tensor([[True, True], [True, False]]), weight=0.1)


def test_the_loss_is_the_weighted_sum_of_the_terms_means():
    loss, logged = reduce_terms({"action": ACTION, "latent": LABELS}, "mean")
    assert float(loss) == pytest.approx(2 + 0.1 * 4)
    expected = {"action_loss": 2, "latent_loss": 4, "action_labelled": 0.5, "latent_labelled": 1, "loss": 2.4}
    assert logged == pytest.approx(expected)


def test_of_each_sample_the_loss_is_the_weighted_sum_of_its_own_means():
    losses, logged = reduce_terms({"action": ACTION, "latent": LABELS}, "none")
    assert losses.tolist() == pytest.approx([2 + 0.1 * 3, 0.1 * 6])
    assert logged["loss"] == pytest.approx((2.3 + 0.6) / 2)
    assert logged["action_loss"] == pytest.approx(1) and logged["latent_loss"] == pytest.approx(4.5)


def test_losses_count_by_confidence():
    """Beside a mask: what counts nothing may be NaN, and a sum of less than 1 is divided by as it is."""
    confidence = torch.tensor([[[1.0, 0.25], [1.0, 1.0]], [[0.5, 0.0], [0.25, 0.0]]])
    losses = torch.tensor([[[1.0, 4.0], [5.0, torch.nan]], [[8.0, torch.nan], [2.0, torch.inf]]])
    mask = torch.tensor([[True, False], [True, True]])
    term = Term(losses, mask, weight=2.0, confidence=confidence)
    loss, logged = reduce_terms({"action": term}, "mean")
    assert float(loss) == pytest.approx(2 * (1 + 0.25 * 4 + 0.5 * 8 + 0.25 * 2) / (1 + 0.25 + 0.5 + 0.25))
    assert logged["action_labelled"] == 1
    each, _ = reduce_terms({"action": term}, "none")
    assert each.tolist() == pytest.approx([2 * 2 / 1.25, 2 * 4.5 / 0.75])
    little = Term(losses, mask, confidence=confidence * 0.01)
    assert float(little.mean()) == pytest.approx(float(term.mean()))
    nothing = Term(losses, mask, confidence=torch.zeros_like(confidence))
    assert float(nothing.mean()) == 0 and float(nothing.covered()) == 0 and nothing.per_sample().tolist() == [0, 0]


@pytest.mark.parametrize("name", ["hlrp_action_expert_latent", "hlrp_vla_direct"])
def test_a_policys_weights_reach_its_loss(name):
    policy = make_policy(name, latent_weight=0.25, **({"action_weight": 3.0} if name == "hlrp_vla_direct" else {}))
    loss, logged = policy(make_batch())
    weight = 3.0 if name == "hlrp_vla_direct" else 1.0
    assert loss.item() == pytest.approx(weight * logged["action_loss"] + 0.25 * logged["latent_loss"], rel=1e-5)


def test_two_processes_that_have_unlike_much_to_learn_from_learn_as_one(tmp_path):
    policy, batch = make_policy("hlrp_vla_direct", latent_weight=0.25), make_batch()
    batch["action_is_pad"][0, 1:] = True
    batch["hlrp.action_mask"] = torch.tensor([True, False, True, True])
    batch["hlrp.code_mask"][0] = False
    # Of the first process's actions less than one counts.
    batch["hlrp.action_weight"] = torch.full((4, CHUNK, ACTIONS), 0.125)
    batch["hlrp.action_weight"][2:] = torch.rand(2, CHUNK, ACTIONS)
    policy.train()
    policy(batch)[0].backward()
    expected = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()

    def share(rank: int) -> dict[str, torch.Tensor]:
        part = {k: v[2 * rank : 2 * rank + 2] for k, v in batch.items()}
        policy(part)[0].backward()
        return averaged({n: p.grad for n, p in policy.named_parameters() if p.grad is not None})

    found = first_of_two(share, tmp_path / "meeting")
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_the_flow_runs_from_noise_at_time_1_to_the_actions_at_time_0(monkeypatch):
    """Training and sampling by one clock; the loss is that of the velocity, noise less actions."""
    policy, batch = make_policy("hlrp_action_expert_direct"), make_batch(2)
    prefix, actions, noise = policy.prefix(batch), batch["action"], torch.randn(2, CHUNK, ACTIONS)
    seen = []

    def velocity(prefix, noisy, time, condition):
        seen.append((noisy, time))
        return torch.full_like(noisy, 0.5)

    monkeypatch.setattr(policy.expert, "velocity", velocity)
    losses = policy.expert.flow_losses(prefix, actions, noise=noise, time=torch.tensor([1.0, 0.0]))
    assert torch.equal(seen[0][0][0], noise[0]) and torch.equal(seen[0][0][1], actions[1])
    assert torch.allclose(losses, (0.5 - (noise - actions)).square())
    policy.expert.flow_losses(prefix, actions, noise=noise, time=torch.full((2,), 0.25))
    assert torch.allclose(seen[1][0], 0.25 * noise + 0.75 * actions)
    seen.clear()
    chunk = policy.expert.sample(prefix, noise=noise)
    assert [float(time[0]) for _, time in seen] == pytest.approx([1, 2 / 3, 1 / 3], abs=1e-5)
    assert torch.equal(seen[0][0], noise) and torch.allclose(chunk, noise - 0.5, atol=1e-5)


def shares(codes):
    return torch.nn.functional.one_hot(codes, 8).float()


@pytest.mark.parametrize("conditioning", ["tokens", "bottleneck"])
def test_codes_condition_the_actions_and_dropped_ones_do_not(conditioning):
    policy = make_policy(LATENT, conditioning=conditioning, condition_dropout=0.0, own_codes=0.0)
    batch, own = make_batch(), shares(torch.full((4, 4), 3))
    torch.manual_seed(0)
    shown, known = policy._shown(batch["hlrp.codes"], batch["hlrp.code_mask"], own)
    assert torch.equal(shown, shares(batch["hlrp.codes"])) and known.all()
    prefix, noisy, time = policy.prefix(batch), torch.randn(4, CHUNK, ACTIONS), torch.full((4,), 0.5)
    seen, other = policy._for_expert(prefix), shown.roll(1, -1)
    one = policy.expert.velocity(seen, noisy, time, policy._condition(batch, shown, known))
    two = policy.expert.velocity(seen, noisy, time, policy._condition(batch, other, known))
    assert not torch.allclose(one, two)
    unknown = torch.zeros_like(known)
    assert torch.equal(policy._condition(batch, shown, unknown), policy._condition(batch, other, unknown))
    # Without a label there is nothing else to show.
    assert torch.equal(policy._shown(batch["hlrp.codes"], unknown, own)[0], own)
    assert make_policy(LATENT, condition_dropout=1.0)._shown(batch["hlrp.codes"], known, own)[1].any().item() is False


def test_own_codes_come_in_by_the_runs_length_or_as_of_old_by_a_number_of_updates():
    policy = make_policy(LATENT, own_codes=0.8, own_codes_warmup=0.25)
    policy.begin_run(16)
    shares_of_own = []
    for _ in range(6):
        shares_of_own.append(float(policy.own_share()))
        policy.update()
    assert shares_of_own == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8])
    old = make_policy(LATENT, own_codes=0.5, own_codes_steps=2, run_steps=1000)
    old.update()
    assert float(old.own_share()) == pytest.approx(0.25)
    assert float(make_policy(LATENT, own_codes=1.0, own_codes_warmup=0.0).own_share()) == 1
    # Nobody has told it: the length of the preset's schedule.
    alone = make_policy(LATENT, own_codes=1.0, own_codes_warmup=0.5, scheduler_decay_steps=20)
    alone.update()
    assert float(alone.own_share()) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="exclude each other"):
        make_policy(LATENT, own_codes_steps=2, own_codes_warmup=0.1)
    batch, own = make_batch(), shares(torch.full((4, 4), 3))
    policy = make_policy(LATENT, own_codes=1.0, own_codes_warmup=0.0)
    assert torch.equal(policy._shown(batch["hlrp.codes"], batch["hlrp.code_mask"], own)[0], own)


@pytest.mark.parametrize("soft", [False, True])
def test_the_expert_is_shown_the_models_own_codes_where_there_is_no_label(monkeypatch, soft):
    policy, batch = make_policy(LATENT, condition_dropout=0.0, own_codes=0.0, soft_codes=soft), make_batch()
    batch["hlrp.code_mask"][1] = False
    own, seen, condition = policy.predict_codes(batch), [], policy._condition
    assert not torch.equal(own, batch["hlrp.codes"])
    monkeypatch.setattr(policy, "_condition", lambda batch, *shown: seen.append(shown[0]) or condition(batch, *shown))
    _, logged = policy(batch)
    there = batch["hlrp.code_mask"]
    assert torch.equal(seen[0].argmax(-1), torch.where(there, batch["hlrp.codes"], own))
    assert torch.equal(seen[0][0], shares(batch["hlrp.codes"])[0])
    distribution = policy._code_logits(policy.prefix(batch)).softmax(-1)
    torch.testing.assert_close(seen[0][1], distribution[1] if soft else shares(own)[1])
    assert logged["latent_accuracy"] == pytest.approx(float((own == batch["hlrp.codes"])[there].float().mean()))


def test_held_out_losses_are_those_of_acting():
    """On the policy's own codes and the whole observation, whatever the schedules of training show it."""
    fields = {"own_codes": 0.0, "condition_dropout": 0.5, "bottleneck_prefix": "kept", "prefix_dropout": 1.0}
    policy, batch = make_policy(LATENT, conditioning="bottleneck", **fields), make_batch()
    other = batch | {"hlrp.codes": (batch["hlrp.codes"] + 1) % 8}
    given = {"noise": torch.randn(4, CHUNK, ACTIONS), "time": torch.full((4,), 0.5)}

    def losses(batch):
        torch.manual_seed(0)
        return policy.terms(batch, **given)["action"].losses

    assert not torch.allclose(losses(batch), losses(other)), "in training it is shown the labels"
    policy.eval()
    seen, condition = policy.observe(batch)
    acting = policy.expert.flow_losses(seen, policy.supervised_actions(batch)[0], condition, **given)
    for held_out in (losses(batch), losses(other)):
        torch.testing.assert_close(held_out, acting)


@pytest.mark.parametrize("fields", [{}, QWEN])
def test_the_decoders_loss_does_not_reach_the_backend(fields):
    policy = make_policy("hlrp_vla_direct", **fields)
    policy.terms(make_batch())["action"].mean().backward()
    assert all(p.grad is None or not p.grad.any() for p in policy.backend.parameters())
    assert all(p.grad is not None and p.grad.any() for p in policy.decoder.parameters() if p.ndim > 1)


@pytest.mark.parametrize("name", NAMES)
def test_loss_per_sample_and_of_nothing(name):
    policy, batch = make_policy(name).eval(), make_batch()
    torch.manual_seed(2)
    loss, _ = policy(batch)
    torch.manual_seed(2)
    per_sample, _ = policy(batch, reduction="none")
    assert per_sample.shape == (4,) and torch.allclose(per_sample.mean(), loss, rtol=1e-5)
    batch["hlrp.action_mask"] = torch.zeros(4, dtype=torch.bool)
    batch["hlrp.code_mask"][:] = False
    loss, logged = policy(batch)
    assert loss.item() == 0 and loss.requires_grad and logged["action_labelled"] == 0
    loss.backward()
    with pytest.raises(ValueError, match="reduction"):
        policy(batch, reduction="sum")
    with pytest.raises(ValueError, match="action"):
        policy(batch | {"action": batch["action"][:, :2]})


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        *((name, {}) for name in NAMES),
        (LATENT, {"conditioning": "tokens"}),
        (LATENT, {"conditioning": "suffix"}),
        (LATENT, {"bottleneck_prefix": "kept"}),
        ("hlrp_vla_direct", QWEN),
    ],
)
def test_what_is_not_supervised_changes_no_gradient(name, fields):
    policy, batch = make_policy(name, **fields), make_batch()
    batch["action_is_pad"][1, 3:] = True
    batch["hlrp.action_mask"] = torch.tensor([True, True, False, True])
    batch["hlrp.code_mask"][0, 2:] = False
    batch["hlrp.code_mask"][3] = False
    reference = gradients(policy, batch)

    def changed(key, where, value):
        other = dict(batch) | {key: batch[key].clone()}
        other[key][where] = value
        return not same(reference, gradients(policy, other))

    for value in (9.0, float("nan")):
        assert not changed("action", (2, slice(None)), value)
        assert not changed("action", (1, slice(3, None)), value)
    assert changed("action", (1, 2), 9.0)
    if name in (LATENT, "hlrp_vla_direct"):
        assert not changed("hlrp.codes", (0, slice(2, None)), 5)
        assert not changed("hlrp.codes", (3, slice(None)), 7)
        assert changed("hlrp.codes", (0, 0), (int(batch["hlrp.codes"][0, 0]) + 1) % 8)
