"""How far a measured number may be off: an interval beside every estimate, and whether two of them differ at all."""

from collections.abc import Callable, Sequence
from math import comb
from statistics import NormalDist
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """Where the true value lies, with the confidence that was asked for."""

    low: float
    high: float


def bootstrap(values: Sequence[float] | np.ndarray, level: float = 0.95, draws: int = 2_000, seed: int = 0) -> Interval:
    """The interval of a mean: draw the sample anew from itself, with repetition, and see where the means fall.

    Assumes that the values are independent; the same seed gives the same interval. Source: Efron 1979, percentiles.
    """
    values = np.asarray(values, dtype=np.float64)
    return resampled(lambda drawn: float(values[drawn].mean()), len(values), level, draws, seed)


def resampled(
    statistic: Callable[[np.ndarray], float], count: int, level: float = 0.95, draws: int = 2_000, seed: int = 0
) -> Interval:
    """The same of any statistic: it is given which of `count` things were drawn, (count,) of indices."""
    generator = np.random.default_rng(seed)
    found = [statistic(generator.integers(count, size=count)) for _ in range(draws)]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


class Difference(NamedTuple):
    """How much better the first of two is on the same examples, and how sure that is."""

    mean: float
    interval: Interval  # 95 %, paired
    p: float | None  # of McNemar's test, where examples are right or wrong

    @property
    def verdict(self) -> str:
        """In words: what the sign of the difference is, if it has one."""
        sure = self.p < 0.05 if self.p is not None else not self.interval.low <= 0 <= self.interval.high
        return "not distinguishable" if not sure else "better" if self.mean > 0 else "worse"


def paired(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> Difference:
    """Two scores of every example, compared pair by pair: what both find hard or easy falls out of the difference."""
    ours, theirs = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    binary = bool(np.isin([ours, theirs], (0, 1)).all())
    p = mcnemar(int(((ours == 1) & (theirs == 0)).sum()), int(((ours == 0) & (theirs == 1)).sum())) if binary else None
    return Difference(float((ours - theirs).mean()), bootstrap(ours - theirs), p)


def mcnemar(first: int, second: int) -> float:
    """How likely so uneven a count is if both are equally good: examples that only the first, or second, got right.

    Exact and two-sided: a fair coin thrown first + second times. Source: McNemar 1947; the binomial form.
    """
    thrown = first + second
    tail = sum(comb(thrown, heads) for heads in range(min(first, second) + 1))
    return min(1.0, 2 * tail / 2**thrown)


def wilson(successes: int, total: int, level: float = 0.95) -> Interval:
    """The interval of a share such as an accuracy; honest near 0 and 1 too, where the usual plus-minus is not.

    Source: Wilson 1927, the roots of (share - p)² = z² p (1 - p) / total.
    """
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    share = successes / total
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = (z2 * share * (1 - share) / total + z2**2 / (4 * total**2)) ** 0.5 / (1 + z2 / total)
    return Interval(max(centre - half, 0.0), min(centre + half, 1.0))
