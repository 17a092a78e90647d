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


class Repeated(NamedTuple):
    """How much higher the first of two scores is on the same examples, over several seeds, and how sure that is."""

    mean: float
    interval: Interval  # 95 %, over examples and seeds
    by_seed: tuple[float, ...]

    @property
    def sign(self) -> int:
        """1 if the first is higher, -1 if it is lower, 0 if they are not distinguishable.

        The interval must leave out 0, and every seed must agree: of three seeds alone, an interval says too much.
        """
        sure = not self.interval.low <= 0 <= self.interval.high
        alike = len({np.sign(one) for one in self.by_seed}) == 1
        return int(np.sign(self.mean)) if sure and alike else 0


def repeated(first: np.ndarray, second: np.ndarray, sizes: np.ndarray | None = None, draws: int = 2_000) -> Repeated:
    """Two scores of every example under every seed, compared pair by pair: rows are seeds, columns examples.

    Seeds and examples are drawn anew, each for themselves, so that both kinds of luck are in the interval; it counts
    few seeds as less luck than they are. Where scores are sums (over tokens), `sizes` says of how many, per example.
    Source: Owen 2007, "The pigeonhole bootstrap", section 3.
    """
    apart = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    sizes = np.ones(apart.shape[1]) if sizes is None else np.asarray(sizes, dtype=np.float64)
    by_seed = apart.sum(axis=1) / sizes.sum()
    return Repeated(float(by_seed.mean()), crossed(apart, sizes, draws), tuple(by_seed.tolist()))


def crossed(scores: np.ndarray, sizes: np.ndarray, draws: int = 2_000, seed: int = 0) -> Interval:
    """The 95 % interval of a mean over seeds (rows) and examples (columns), both drawn anew."""
    generator, (seeds, examples) = np.random.default_rng(seed), scores.shape
    rows = generator.multinomial(seeds, [1 / seeds] * seeds, size=draws)  # how often each seed was drawn
    columns = generator.multinomial(examples, [1 / examples] * examples, size=draws)
    means = ((rows @ scores) * columns).sum(axis=1) / (columns @ sizes) / seeds
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(low), float(high))


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
