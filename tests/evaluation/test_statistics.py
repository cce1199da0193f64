"""Intervals against published values, against an independent likelihood search, and by simulation."""

import math
import random

import pytest

from hlrp.evaluation.statistics import paired_difference, wilson_interval


# Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3 (Wilson without continuity correction).
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_matches_newcombe(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_at_the_edges():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(20, 20)
    assert high == 1.0 and low == pytest.approx(1 - wilson_interval(0, 20)[1])
    narrow, wide = wilson_interval(9, 10, 0.8), wilson_interval(9, 10, 0.99)
    assert wide[0] < narrow[0] < 0.9 < narrow[1] < wide[1]
    for bad in ((3, 2), (-1, 2), (0, -1)):
        with pytest.raises(ValueError, match="successes"):
            wilson_interval(*bad)
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(1, 2, 1.0)


def outcomes(both: int, only_first: int, only_second: int, neither: int):
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second


# Fagerland, Lydersen, Laake, Statistics in Medicine 33 (2014) 2850-2875 (airway hyper-responsiveness: 1, 1, 7, 12), and
# Tango 1998 (36, 12, 2, 0).
@pytest.mark.parametrize(("table", "low", "high"), [((1, 1, 7, 12), -0.517, -0.026), ((36, 12, 2, 0), 0.061, 0.345)])
def test_paired_interval_matches_published(table, low, high):
    result = paired_difference(*outcomes(*table))
    assert (result.low, result.high) == pytest.approx((low, high), abs=6e-4)


def constrained_score(b: int, c: int, n: int, delta: float) -> float:
    """Score statistic with the nuisance parameter found by a search of the likelihood, not by the closed form."""

    def log_likelihood(q: float) -> float:
        p = q + delta
        rest = 1 - p - q
        return sum(k * math.log(max(x, 1e-300)) for k, x in ((b, p), (c, q), (n - b - c, rest)) if k or x < 0)

    low, high = max(0.0, -delta), (1 - delta) / 2
    for _ in range(200):
        a, d = low + (high - low) / 3, high - (high - low) / 3
        low, high = (a, high) if log_likelihood(a) < log_likelihood(d) else (low, d)
    q = (low + high) / 2
    return (b - c - n * delta) / math.sqrt(n * (2 * q + delta - delta * delta))


@pytest.mark.parametrize(("b", "c", "n"), [(3, 1, 20), (12, 2, 50), (5, 9, 40), (1, 6, 18)])
def test_paired_limits_solve_the_score_equation(b, c, n):
    result = paired_difference(*outcomes(n - b - c, b, c, 0))
    assert result.difference == pytest.approx((b - c) / n)
    assert constrained_score(b, c, n, result.low) == pytest.approx(1.959964, abs=1e-4)
    assert constrained_score(b, c, n, result.high) == pytest.approx(-1.959964, abs=1e-4)


def test_paired_verdict_is_mcnemars():
    for b in range(12):
        for c in range(12):
            result = paired_difference(*outcomes(4, b, c, 4))
            significant = b + c > 0 and abs(b - c) / math.sqrt(b + c) > 1.959964
            assert (result.verdict != "no difference shown") == significant, (b, c)
            assert significant is False or result.verdict == ("better" if b > c else "worse")
            assert -1 <= result.low <= result.difference <= result.high <= 1


def test_paired_without_any_discordance_still_has_width():
    result = paired_difference(*outcomes(20, 0, 0, 0))
    assert result.difference == 0 and result.low == pytest.approx(-result.high) and 0.1 < result.high < 0.2
    everything = paired_difference([True] * 10, [False] * 10)
    assert (everything.difference, everything.high) == (1.0, 1.0) and 0.4 < everything.low < 1
    with pytest.raises(ValueError, match="pairs"):
        paired_difference([True], [])


def test_coverage_is_near_nominal():
    random.seed(0)
    trials, n = 1500, 20
    for p in (0.1, 0.5, 0.9):
        hits = 0
        for _ in range(trials):
            low, high = wilson_interval(sum(random.random() < p for _ in range(n)), n)
            hits += low <= p <= high
        assert 0.93 <= hits / trials <= 0.99, p
    # Success of the first 0.7, of the second 0.5, positively dependent through a shared difficulty.
    hits = 0
    for _ in range(trials):
        draws = [(random.random(), random.random()) for _ in range(n)]
        first = [u < 0.7 for u, _ in draws]
        second = [(u if v < 0.5 else random.random()) < 0.5 for u, v in draws]
        result = paired_difference(first, second)
        hits += result.low <= 0.2 <= result.high
    assert 0.93 <= hits / trials <= 0.99
