"""The scores: each against a number that can be worked out by hand or a model whose quality is known."""

import math
from collections.abc import Callable

import pytest
import torch
from laq_toys import moving_square

from hlrp.laq import LAQ
from hlrp.laq.card.probe import probe, probe_all, probe_inputs
from hlrp.laq.metrics import LAQMeter, code_counts, moving_pixels, perplexity, psnr, random_laq, shuffled

Build = Callable[..., LAQ]


def test_counts_count_every_use_at_its_position() -> None:
    codes = torch.tensor([[0, 2], [0, 2], [1, 2]])
    assert code_counts(codes, 3).tolist() == [[2, 1, 0], [0, 0, 3]]


def test_perplexity_of_even_single_and_no_use() -> None:
    values = perplexity(torch.tensor([[5, 5, 5, 5], [7, 0, 0, 0], [0, 0, 0, 0]]))
    assert values.tolist() == pytest.approx([4, 1, 0])


def test_psnr_and_moving_pixels() -> None:
    assert psnr(1.0, 100) == pytest.approx(20)
    assert math.isnan(psnr(0.0, 0))
    first, second = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    second[0, 1, 0, 0], second[0, :, 0, 1] = 0.2, 0.09
    assert moving_pixels(first, second).tolist() == [[[[True, False]]]]


@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_pair_is_given_the_codes_of_another_one(count: int) -> None:
    others = shuffled(count, torch.Generator().manual_seed(0))
    assert sorted(others.tolist()) == list(range(count))
    assert not bool((others == torch.arange(count)).any())


def test_an_untrained_model_is_a_copy_and_masked_pairs_do_not_count(small: Build) -> None:
    laq, (video, _) = small(num_frames=3), moving_square(12, 3)
    torch.nn.init.zeros_(laq.decoder.to_pixels.weight)
    valid = torch.ones(12, 2, dtype=torch.bool)
    meter = LAQMeter(laq.config, 2)
    meter.update(laq.train(), video, valid, torch.arange(12) % 2)
    scores = meter.compute()
    assert laq.training
    assert scores.pairs == 24
    assert scores.psnr_gain == pytest.approx(0, abs=1e-6)
    assert scores.permutation_gap == pytest.approx(0, abs=1e-6)
    assert [meter.compute(i).pairs for i in (0, 1)] == [12, 12]

    masked, noise = LAQMeter(laq.config), video.clone()
    noise[:, 2] = torch.randint(0, 255, noise[:, 2].shape, dtype=torch.uint8)
    only_first = valid.clone()
    only_first[:, 1] = False
    masked.update(laq, noise, only_first)
    alone = LAQMeter(laq.config)
    alone.update(laq, video[:, :2], valid[:, :1])
    assert masked.compute() == alone.compute()


def test_a_model_that_needs_its_codes_has_a_permutation_gap(small: Build) -> None:
    laq = small(quantizer="fsq", dim=64)
    video, motion = moving_square(256, 2)
    optimizer = torch.optim.AdamW(laq.parameters(), lr=3e-3)
    for step in range(120):
        frames = video[step * 32 % 256 :][:32]
        loss = ((laq(frames).recon - frames[:, 1:].float() / 255) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    meter = LAQMeter(laq.config)
    meter.update(laq, video, torch.ones(256, 1, dtype=torch.bool))
    scores = meter.compute()
    assert scores.psnr_gain > 3
    assert scores.permutation_gap > 1
    assert max(scores.codes_used) >= 3
    codes = laq.encode(video)
    assert scores.codes_used == [len(codes[..., s].unique()) for s in range(4)]
    assert scores.codebook_used == len(codes.unique()) / 16

    batch = {
        "frames": video,
        "valid": torch.ones(256, 1, dtype=torch.bool),
        "action_sum": motion.float().view(-1, 1, 1),
        "episode_index": torch.arange(256) // 16,
        "has_action": torch.arange(256) < 200,
    }
    trained = probe_all(probe_inputs(laq, [batch]))
    untrained = probe_all(probe_inputs(random_laq(laq.config, [video]), [batch]))
    assert trained["codes"].samples == 200
    assert trained["codes"].r2 > 0.8
    # One frame does not say where the square will go; the codes add all of it.
    assert trained["frames"].r2 < 0.2
    assert trained["frames_codes"].r2 > 0.7
    assert trained["codes"].r2 > untrained["codes"].r2 + 0.05


def test_the_random_model_depends_on_its_seed_alone_and_leaves_the_random_state(small: Build) -> None:
    config, (video, _) = small().config, moving_square(64, 2)
    state = torch.get_rng_state()
    codes = random_laq(config, [video], seed=5).encode(video)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(codes, random_laq(config, [video], seed=5).encode(video))
    assert not torch.equal(codes, random_laq(config, [video], seed=6).encode(video))
    assert len(codes.unique()) >= 3


def test_episodes_of_two_sources_are_not_taken_for_one_another(small: Build) -> None:
    """Both number their episodes from 0: each is held out as itself."""
    laq, (video, motion) = small(), moving_square(12, 2)
    batch = {
        "frames": video,
        "valid": torch.ones(12, 1, dtype=torch.bool),
        "action_sum": motion.float().view(-1, 1, 1),
        "episode_index": torch.arange(12) % 3,
        "source": torch.arange(12) // 6,
    }
    episodes = probe_inputs(laq, [batch]).episodes.tolist()
    assert [len(set(part)) for part in (episodes, episodes[:6], episodes[6:])] == [6, 3, 3]


def test_a_feature_that_never_varies_where_it_is_fitted_says_nothing_elsewhere() -> None:
    episodes = torch.arange(600) // 30
    features = torch.randn(600, 4)
    targets = features @ torch.randn(4, 2) + 0.1 * torch.randn(600, 2)
    # It moves in one episode alone, and by rounding in all others: where that one is held out, nobody has seen it.
    odd = 5 + 1e-9 * torch.randn(600, 1, dtype=torch.float64) + torch.where(episodes == 7, 1e3, 0.0)[:, None]
    assert probe(torch.cat([features.double(), odd], 1), targets, episodes).r2 > 0.95


def test_probe_finds_a_linear_rule_and_nothing_in_noise() -> None:
    features, episodes = torch.randn(600, 10), torch.arange(600) // 30
    targets = features[:, :3] @ torch.randn(3, 2) + 0.1 * torch.randn(600, 2)
    targets = torch.cat([targets, torch.full((600, 1), 4.0)], dim=1)
    found = probe(features, targets, episodes)
    assert found.r2 > 0.97
    assert found.r2_per_dim[2] is None
    assert (found.samples, found.episodes) == (600, 20)
    assert abs(probe(torch.randn(600, 10), targets, episodes).r2) < 0.1


def test_a_large_group_of_features_does_not_drown_a_small_one() -> None:
    episodes = torch.arange(600) // 30
    told = torch.randn(600, 4)
    targets = told @ torch.randn(4, 2) + torch.randn(600, 2)
    noise = torch.randn(600, 150)
    alone = probe(told, targets, episodes).r2
    assert probe(noise, targets, episodes).r2 < 0.1
    assert probe(torch.cat([noise, told], dim=1), targets, episodes).r2 < alone - 0.03
    assert probe(noise, targets, episodes, beside=told).r2 > alone - 0.02
    assert probe(told, targets, episodes, beside=noise).r2 > alone - 0.02


def test_probe_does_not_learn_an_episode_by_heart() -> None:
    episodes = torch.arange(400) // 20
    targets = torch.randn(20, 1)[episodes]
    features = torch.nn.functional.one_hot(episodes, 20).float()
    assert probe(features, targets, episodes).r2 < 0.1
    with pytest.raises(ValueError, match="3 episodes"):
        probe(features[:40], targets[:40], episodes[:40])
