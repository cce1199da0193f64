"""What a sample lacks reaches no gradient: a state, a camera, the numbers of another action space."""

import pytest
import torch
from bundle_toys import ACTIONS, CAMERAS, CHUNK, CONFIGS, STATE, gradients, make_batch, make_policy, same

TWO_ROBOTS = {"action_spaces": {"arm": {"action": 2, "state": 1}, "hand": {"action": 1, "state": 1}}}
POLICIES = [(name, {}) for name in CONFIGS] + [("hlrp_vla_direct", {"backend": "qwen3vl_chat"})]


@pytest.mark.parametrize(("name", "fields"), POLICIES, ids=str)
def test_a_missing_state_or_camera_changes_no_gradient(name: str, fields: dict) -> None:
    policy, batch = make_policy(name, cameras=CAMERAS, **fields), make_batch(cameras=CAMERAS)
    lacking = torch.tensor([True, False, False, True])
    flags = {"observation.state_is_pad": lacking, f"{CAMERAS[1]}_is_pad": lacking}
    absent = batch | flags
    expected = gradients(policy, absent)
    state = torch.where(lacking[:, None], torch.nan, batch["observation.state"])
    pixels = torch.where(lacking[:, None, None, None], 0.7, batch[CAMERAS[1]])
    assert same(gradients(policy, absent | {"observation.state": state, CAMERAS[1]: pixels}), expected)
    assert not same(gradients(policy, batch), expected), "it matters whether they are there"
    mean = batch | {"observation.state": torch.where(lacking[:, None], 0.0, batch["observation.state"])}
    only_state = batch | {"observation.state_is_pad": lacking[:, None]}
    assert same(gradients(policy, only_state), gradients(policy, mean)), "a missing state is the mean"


@pytest.mark.parametrize("name", [*CONFIGS])
def test_numbers_of_another_action_space_change_no_gradient(name: str) -> None:
    policy, batch = make_policy(name, **TWO_ROBOTS), make_batch()
    hand = torch.tensor([False, True, False, True])
    batch |= {"action_space_is_pad": torch.stack([hand, ~hand], 1)}
    expected = gradients(policy, batch)
    own_action = torch.stack([~hand, ~hand, hand], 1)[:, None].expand(-1, CHUNK, -1)
    own_state = torch.stack([~hand, hand], 1)
    assert own_action.shape == (4, CHUNK, ACTIONS) and own_state.shape == (4, STATE)
    other = {
        "action": torch.where(own_action, batch["action"], torch.nan),
        "observation.state": torch.where(own_state, batch["observation.state"], torch.nan),
    }
    assert same(gradients(policy, batch | other), expected)
    assert all(bool(g.isfinite().all()) for g in expected.values())
    arm = {key: values[:1] for key, values in batch.items()}
    changed = gradients(policy, arm)
    rows = [g for g in changed.values() if g.ndim == 2 and len(g) in (3, 3 * CHUNK)][-1]
    per_number = rows.reshape(-1, 3, rows.shape[1]).abs().sum((0, 2))
    assert per_number[:2].min() > 0 and per_number[2] == 0, "each robot has its own projection"


@pytest.mark.parametrize("name", [*CONFIGS])
def test_a_policy_acts_in_one_of_its_spaces(name: str) -> None:
    from lerobot.policies.factory import make_pre_post_processors

    policy = make_policy(name, **TWO_ROBOTS, action_space="hand")
    stats = {
        "action": {"mean": torch.tensor([10.0, 20.0, 30.0]), "std": torch.ones(3)},
        "observation.state": {"mean": torch.tensor([1.0, 5.0]), "std": torch.tensor([1.0, 2.0])},
    }
    before, after = make_pre_post_processors(policy.config, dataset_stats=stats)
    seen = {CAMERAS[0]: torch.rand(3, 64, 80), "observation.state": torch.tensor([9.0]), "task": "push"}
    prepared = before(seen)
    assert prepared["observation.state"].tolist() == [[-1.0, 2.0]], "among the numbers of both, normalised by its own"
    torch.manual_seed(0)
    chunk = policy.predict_action_chunk(prepared)
    assert chunk.shape == (1, CHUNK, 3) and not chunk[..., :2].any() and bool(chunk[..., 2].any())
    torch.testing.assert_close(after(chunk[:, 0]), chunk[:, 0, 2:] + 30)
    prepared["observation.state"][:, 0] = 77.0
    torch.manual_seed(0)
    assert policy.predict_action_chunk(prepared).equal(chunk), "the other robot's state is not read"
    with pytest.raises(ValueError, match="action_space is 'leg'; the policy knows arm, hand"):
        make_policy(name, **TWO_ROBOTS, action_space="leg")
