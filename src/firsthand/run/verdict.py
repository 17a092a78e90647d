"""Before and after, of the same examples: how far they are apart, with an interval, and whether that is sure."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from firsthand.evaluate.stats import Difference, bootstrap, paired, wilson

AGAINST = "model_against_untuned"  # the key under which a report holds what stands here
Scores = Sequence[float] | np.ndarray


def amount(values: Scores) -> dict[str, Any]:
    """The mean of some numbers, with its interval, and how many they were."""
    return {"mean": float(np.mean(values)), "interval_95": list(bootstrap(values)), "count": len(values)}


def share(right: Scores) -> dict[str, Any]:
    """The share of ones among zeros and ones, with its interval, and how many they were."""
    count = int(np.sum(right))
    return {"mean": count / len(right), "interval_95": list(wilson(count, len(right))), "count": len(right)}


def gained(after: Scores, before: Scores) -> dict[str, Any]:
    """The difference after - before of scores that shall be high."""
    return _told(paired(after, before), 1)


def lowered(found: Difference) -> dict[str, Any]:
    """The difference after - before of something that shall be low, from how much lower it was found."""
    return _told(found, -1)


def lower(after: Scores, before: Scores) -> dict[str, Any]:
    """The difference after - before of scores that shall be low."""
    return lowered(paired(-np.asarray(after, np.float64), -np.asarray(before, np.float64)))


def _told(found: Difference, sign: int) -> dict[str, Any]:
    ends = sorted(sign * end for end in found.interval)
    p = {} if found.p is None else {"p_mcnemar": found.p}
    return {"difference": sign * found.mean, "interval_95": ends, **p, "verdict": found.verdict}
