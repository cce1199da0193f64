"""Losses over what is supervised, by hand, of one process and of two."""

import pytest
import torch
from bundle_toys import make_batch, make_policy
from two_processes import averaged, first_of_two

from lerobot_policy_felix_bundle.policies.common.losses import Term, reduce_terms

ACTION = Term(
    torch.tensor([[[1.0, 3.0], [5.0, torch.nan]], [[7.0, 9.0], [2.0, 2.0]]]),
    # Of the first sample one action of two numbers, of the second none.
    torch.tensor([[True, False], [False, False]]),
)
LATENT = Term(torch.tensor([[2.0, 4.0], [6.0, torch.inf]]), torch.tensor([[True, True], [True, False]]), weight=0.1)


def test_the_loss_is_the_weighted_sum_of_the_terms_means():
    loss, logged = reduce_terms({"action": ACTION, "latent": LATENT}, "mean")
    assert float(loss) == pytest.approx(2 + 0.1 * 4)
    expected = {"action_loss": 2, "latent_loss": 4, "action_labelled": 0.5, "latent_labelled": 1, "loss": 2.4}
    assert logged == pytest.approx(expected)


def test_of_each_sample_the_loss_is_the_weighted_sum_of_its_own_means():
    losses, logged = reduce_terms({"action": ACTION, "latent": LATENT}, "none")
    assert losses.tolist() == pytest.approx([2 + 0.1 * 3, 0.1 * 6])
    assert logged["loss"] == pytest.approx((2.3 + 0.6) / 2)
    assert logged["action_loss"] == pytest.approx(1) and logged["latent_loss"] == pytest.approx(4.5)


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
