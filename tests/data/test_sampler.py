"""The order of the data: a function of seed and epoch, entered anywhere, the same for any number of processes."""

from itertools import islice

import numpy as np
import pytest

from hlrp.data import ResumableSampler, shuffling
from hlrp.data.frame_order import FrameOrder
from hlrp.data.permutation import Permutation
from hlrp.data.policy_samples import PolicySampler
from hlrp.data.sampler import MixtureOrder, shares
from hlrp.errors import UserError


@pytest.fixture(autouse=True, params=["drawn", "computed"])
def rules(request, monkeypatch):
    """Small orders are drawn, large ones computed: what holds of the ones holds of the others."""
    if request.param == "computed":
        monkeypatch.setattr(shuffling, "DRAWN_SAMPLES", 0)
    return request.param


def flat(batches):
    return [i for batch in batches for i in batch]


def test_the_order_depends_on_seed_and_epoch_alone():
    first, again = ResumableSampler([103], 8, seed=3), ResumableSampler([103], 8, seed=3)
    list(first)  # what was read before does not matter
    assert list(first) == list(again)
    again.set_epoch(1)
    assert list(again) != list(first)
    assert list(ResumableSampler([103], 8, seed=4)) != list(first)
    order = flat(first)
    assert len(order) == 96 == len(set(order)) and max(order) <= 102


@pytest.mark.parametrize("position", [0, 1, 5, 12])
def test_it_continues_where_it_was_left(position):
    whole = ResumableSampler([103], 8, seed=3)
    whole.set_epoch(2)
    resumed = ResumableSampler([103], 8, seed=3)
    resumed.load_state_dict(whole.state_dict(position))
    assert list(resumed) == list(whole)[position:]
    assert len(resumed) == len(whole) == 12
    for sampler in (whole, resumed):
        sampler.set_epoch(3)
    assert list(resumed) == list(whole)


def test_an_iterator_keeps_its_epoch():
    sampler = ResumableSampler([40], 4, seed=1)
    expected = list(sampler)
    batches = iter(sampler)
    sampler.set_epoch(1)
    assert list(batches) == expected


@pytest.mark.parametrize("processes", [2, 3, 4])
@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_share_the_global_batches_of_one(processes, shuffle):
    one = ResumableSampler([50, 70], 12, seed=9, weights=[1, 2], shuffle=shuffle)
    parts = [
        ResumableSampler(
            [50, 70], 12 // processes, seed=9, weights=[1, 2], shuffle=shuffle, rank=r, world_size=processes
        )
        for r in range(processes)
    ]
    for whole, *theirs in zip(one, *parts, strict=True):
        assert sorted(whole) == sorted(flat(theirs))
        assert len({len(s) for s in theirs}) == 1
    for part in parts:
        part.load_state_dict({"epoch": 0, "position": 4})
    assert sorted(list(one)[4]) == sorted(flat(next(iter(p)) for p in parts))


def test_sources_are_mixed_by_weight():
    sampler = ResumableSampler([10, 1000], 10, seed=0, weights=[1, 1])
    positions = np.asarray(flat(sampler))
    small = positions[positions < 10]
    assert len(small) == len(positions) / 2 == 505
    counts = np.bincount(small, minlength=10)
    assert counts.max() - counts.min() <= 1  # passed over in rounds, not drawn blindly
    large = positions[positions >= 10]
    assert len(set(large.tolist())) == len(large)
    sampler.set_epoch(1)
    assert set(flat(sampler)) - set(positions.tolist())  # another part of the large one


def test_what_is_left_after_rounding_down_goes_to_the_largest_remainders():
    assert shares([100, 100, 100], [1, 1, 5], 10) == [2, 1, 7]  # exactly 1.43, 1.43 and 7.14
    assert shares([100, 100, 100], [1, 1, 5], 14) == [2, 2, 10]
    assert shares([100, 0, 100], [3, 8, 1], 11) == [8, 0, 3]  # 8.25, none, 2.75


def test_without_shuffling_everything_is_read_once():
    assert flat(ResumableSampler([7, 4], 4, shuffle=False)) == list(range(11))
    parts = [flat(ResumableSampler([11], 2, shuffle=False, rank=r, world_size=2)) for r in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted([*range(11), 0])


def test_an_order_of_other_data_is_refused():
    state = ResumableSampler([103], 8, seed=3).state_dict(5)
    for other in (ResumableSampler([104], 8, seed=3), ResumableSampler([103], 4, seed=3), ResumableSampler([103], 8)):
        with pytest.raises(UserError, match=r"was .* and is now"):
            other.load_state_dict(state)
    doubled = ResumableSampler([103], 4, seed=3, world_size=2)
    doubled.load_state_dict(state)  # the same global batches
    with pytest.raises(UserError, match="fewer than one batch"):
        ResumableSampler([3], 4)


def test_a_loader_reads_whole_batches_of_the_sampler():
    from torch.utils.data import DataLoader

    sampler = ResumableSampler([20], 4, seed=2)
    loader = DataLoader(list(range(20)), batch_sampler=sampler)
    assert [b.tolist() for b in islice(loader, 5)] == list(sampler)


def test_every_stretch_of_a_mixture_has_its_shares():
    order = MixtureOrder([500, 37, 2000], [3, 1, 6], seed=2)
    positions = list(order)
    assert len(positions) == len(order) == 2537
    source = np.searchsorted([500, 537], positions, side="right")
    for stop in (10, 100, 1000, 2537):
        assert np.bincount(source[:stop], minlength=3) == pytest.approx(np.array([0.3, 0.1, 0.6]) * stop, abs=2)
    small = [p for p in positions if 500 <= p < 537]
    assert len(set(small[:37])) == 37, "each sample of a small source comes once before any comes again"
    assert set(np.bincount(np.array(small) - 500)) == {6, 7}


def test_a_mixtures_order_is_entered_anywhere_and_each_epoch_has_another():
    whole = MixtureOrder([40, 60], [1, 1], seed=5)
    first, second = list(whole), list(whole)
    assert first != second and sorted(first) != sorted(second)
    resumed = MixtureOrder([40, 60], [1, 1], seed=5)
    resumed.load_state_dict({"epoch": 1, "start_index": 17})
    assert list(resumed) == second[17:]
    assert resumed.state_dict() == {"epoch": 2, "start_index": 0}
    resumed.set_epoch(0)
    assert list(resumed) == first
    assert list(MixtureOrder([40, 60], [1, 1], seed=6)) != first


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_global_batches_of_a_mixture(processes):
    one = PolicySampler(MixtureOrder([50, 70], [1, 2], seed=9), 8)
    parts = [
        PolicySampler(MixtureOrder([50, 70], [1, 2], seed=9), 8 // processes, rank=r, world_size=processes)
        for r in range(processes)
    ]
    for sampler in (one, *parts):
        sampler.load_state_dict({"epoch": 1, "position": 3})
    for whole, *theirs in zip(one, *parts, strict=True):
        assert whole == flat(theirs)


@pytest.mark.parametrize("length", [0, 1, 2, 5, 4096, 4097, 5000, 65_536, 65_537])
def test_a_permutation_has_every_number_once_and_each_key_another(length):
    places = np.arange(length)
    found = Permutation(length, 7, 1)(places)
    assert np.array_equal(np.sort(found), places)
    assert np.array_equal(Permutation(length, 7, 1)(places[3:]), found[3:])
    if length > 2:
        assert not np.array_equal(Permutation(length, 7, 2)(places), found)
        assert not np.array_equal(Permutation(length, 7, 1, 0)(places), found)


def test_the_numbers_of_a_permutation_do_not_depend_on_their_places():
    # Of 20,000 of them a share of 1/50 lies in a fiftieth, whatever came before: chi-squared of 2,500 cells, 4 sigma.
    found = Permutation(10**9, 3)(np.arange(20_000)) * 50 // 10**9
    cells = np.bincount(found[:-1] * 50 + found[1:], minlength=2500)
    assert ((cells - 8) ** 2 / 8).sum() < 2499 + 4 * (2 * 2499) ** 0.5
    assert np.bincount(found, minlength=50) == pytest.approx(400, abs=5 * 20)


def test_a_run_of_the_old_rules_has_the_old_order(rules):
    """Numbers as hlrp 0.1 drew them, whatever the rules of runs that begin now."""
    windows = ResumableSampler([7, 4], 4, seed=3, shuffling="drawn")
    assert flat(windows) == [8, 4, 5, 1, 9, 2, 7, 6]
    mixture = MixtureOrder([7, 4], [1, 1], seed=3, shuffling="drawn")
    assert list(mixture) == [7, 5, 8, 6, 2, 10, 1, 9, 4, 7, 3]
    frames = FrameOrder([0, 9], [5, 12], shuffle=True, seed=3, shuffling="drawn")
    assert list(frames) == [10, 3, 11, 2, 0, 1, 9, 4]
    now = flat(ResumableSampler([7, 4], 4, seed=3)), list(MixtureOrder([7, 4], [1, 1], seed=3))
    mixture.set_epoch(0)
    assert [a == b for a, b in zip(now, (flat(windows), list(mixture)), strict=True)] == [rules == "drawn"] * 2


def test_the_order_of_a_billion_samples_costs_nothing():
    lengths = [10**9, 3 * 10**6]
    windows = ResumableSampler(lengths, 4, weights=[1, 1], seed=3)
    windows.load_state_dict({"epoch": 5, "position": 10**8})
    first = next(iter(windows))
    mixture = MixtureOrder(lengths, [1, 1], seed=3)
    mixture.load_state_dict({"epoch": 5, "start_index": 4 * 10**8})
    assert len(set(first)) == 4 and max(*first, *islice(mixture, 4)) < sum(lengths)
    frames = FrameOrder([0], [10**9], shuffle=True, seed=3)
    frames.load_state_dict({"epoch": 5, "start_index": 10**8})
    assert frames.state_dict()["epoch"] == 5
    assert max(islice(frames, 4)) < 10**9
    assert frames.state_dict() == {"epoch": 6, "start_index": 0}


@pytest.mark.parametrize("start", [0, 1, 17, 3000])
def test_a_mixtures_order_does_not_depend_on_the_block_that_it_is_computed_in(start):
    lengths, weights = [500, 0, 37, 9000], [3, 2, 1, 6]
    whole = list(MixtureOrder(lengths, weights, seed=2))
    assert max(np.bincount(whole)[537:]) <= 2
    entered = MixtureOrder(lengths, weights, seed=2)
    entered.load_state_dict({"epoch": 0, "start_index": start})
    assert list(entered) == whole[start:]
