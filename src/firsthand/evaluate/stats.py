"""How far a measured number may be off: an interval beside every estimate."""

from collections.abc import Sequence
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
    generator = np.random.default_rng(seed)
    means = np.array([values[generator.integers(len(values), size=len(values))].mean() for _ in range(draws)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def wilson(successes: int, total: int, level: float = 0.95) -> Interval:
    """The interval of a share such as an accuracy; honest near 0 and 1 too, where the usual plus-minus is not.

    Source: Wilson 1927, the roots of (share - p)² = z² p (1 - p) / total.
    """
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    share = successes / total
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = (z2 * share * (1 - share) / total + z2**2 / (4 * total**2)) ** 0.5 / (1 + z2 / total)
    return Interval(max(centre - half, 0.0), min(centre + half, 1.0))
