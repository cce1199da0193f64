"""What few numbers tell: intervals of a success rate, of a paired difference of two, and of a mean over seeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a success probability, as fractions in [0, 1].

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927). Unlike the normal
    approximation it stays inside [0, 1] and is not of zero width at 0 of n or n of n.

    Args:
        successes: Number of successes, in [0, n].
        n: Number of trials; 0 says nothing and gives (0, 1).
        confidence: Two-sided coverage, in (0, 1).

    Raises:
        ValueError: An argument is out of its range.
    """
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"successes must lie in [0, n], got {successes} of {n}")
    z = _z(confidence)
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


@dataclass(frozen=True)
class PairedDifference:
    """Difference of two success rates measured on the same trials.

    Args:
        n: Number of pairs.
        only_first: Pairs in which only the first succeeded.
        only_second: Pairs in which only the second succeeded.
        difference: Rate of the first minus rate of the second, in [-1, 1].
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    n: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """'better', 'worse' (the interval excludes 0) or 'no difference shown', of the first against the second."""
        if self.high < 0:
            return "worse"
        return "better" if self.low > 0 else "no difference shown"


def _score(delta: float, b: int, c: int, n: int) -> float:
    """Tango's score statistic for the hypothesis that the difference is ``delta``."""
    # q is the probability of 'only second' that is most likely under the hypothesis, given the counts.
    linear = -b - c + (2 * n - b + c) * delta
    q = (math.sqrt(max(0.0, linear * linear + 8 * n * c * delta * (1 - delta))) - linear) / (4 * n)
    variance = n * (2 * q + delta * (1 - delta))
    numerator = b - c - n * delta
    if variance <= 0:
        return 0.0 if numerator == 0 else math.copysign(math.inf, numerator)
    return numerator / math.sqrt(variance)


def _crossing(falling: Callable[[float], float], start: float, stop: float) -> float:
    """Where a falling function crosses zero between ``start`` and ``stop``."""
    low, high = start, stop
    for _ in range(100):
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def paired_difference(first: Sequence[bool], second: Sequence[bool], confidence: float = 0.95) -> PairedDifference:
    """Compare two sets of outcomes of the same trials, with Tango's score interval.

    Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
    Statistics in Medicine 17 (1998) 891-908. The interval excludes 0 exactly when McNemar's test rejects equality, and
    is of use where the normal approximation is not: few trials, or no discordant pair at all.

    Args:
        first: Outcome of each trial for the first.
        second: Outcome of the same trials, in the same order, for the second.
        confidence: Two-sided coverage, in (0, 1).

    Raises:
        ValueError: The sequences differ in length or are empty.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"outcomes must come in pairs, got {len(first)} and {len(second)}")
    z, n = _z(confidence), len(first)
    b = sum(bool(x) and not y for x, y in zip(first, second, strict=True))
    c = sum(bool(y) and not x for x, y in zip(first, second, strict=True))
    difference = (b - c) / n
    low = -1.0 if difference == -1 else _crossing(lambda d: _score(d, b, c, n) - z, -1.0, difference)
    high = 1.0 if difference == 1 else _crossing(lambda d: _score(d, b, c, n) + z, difference, 1.0)
    return PairedDifference(n, b, c, difference, low, high)


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its two-sided interval.

    Args:
        mean: Of the values.
        low: Lower end; None: one value says nothing of the others.
        high: Upper end, likewise.
        n: Number of values.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        ends = "" if self.low is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.mean:.4g}{ends}"


def mean_interval(values: Sequence[float], confidence: float = 0.95, *, rates: bool = False) -> MeanInterval:
    """Student's interval for the mean of what the values are a sample of.

    Student, "The probable error of a mean", Biometrika 6 (1908).

    Args:
        values: Finite, at least one.
        confidence: Two-sided coverage, in (0, 1).
        rates: The values lie in [0, 1], and so does their mean: no more of the interval is given.

    Raises:
        ValueError: There is no value.
    """
    if not values:
        raise ValueError("there is no value to take the mean of")
    mean, n = fmean(values), len(values)
    if n == 1:
        return MeanInterval(mean, None, None, 1)
    half = student_quantile(confidence, n - 1) * stdev(values) / math.sqrt(n)
    low, high = mean - half, mean + half
    return MeanInterval(mean, max(low, 0.0), min(high, 1.0), n) if rates else MeanInterval(mean, low, high, n)


def student_quantile(coverage: float, freedom: int) -> float:
    """The x with P(|t| < x) = ``coverage``, of Student's distribution.

    Args:
        coverage: In (0, 1).
        freedom: Degrees of freedom, >= 1.
    """
    # With t = sqrt(freedom) tan(angle) the density becomes a power of a cosine.
    scale = 2 * math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)

    def missing(angle: float) -> float:
        steps = 400
        weights = [1, *(4 if i % 2 else 2 for i in range(1, steps)), 1]
        heights = (w * math.cos(angle * i / steps) ** (freedom - 1) for i, w in enumerate(weights))
        return coverage - scale * angle / (3 * steps) * math.fsum(heights)

    return math.sqrt(freedom) * math.tan(_crossing(missing, 0.0, math.pi / 2))
