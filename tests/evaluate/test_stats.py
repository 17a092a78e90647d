"""Intervals, against numbers worked by hand and against all resamples counted out."""

from itertools import product

import numpy as np
import pytest

from firsthand.evaluate.stats import bootstrap, wilson


def test_wilson_worked_by_hand():
    # 8 of 10, z = 1.959964: centre (0.8 + 0.192073) / 1.384146 = 0.716740, half width 0.226578
    assert wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)


def test_wilson_is_honest_at_the_ends():
    assert wilson(0, 10) == pytest.approx((0, 0.277533), abs=1e-6)  # z² / (10 + z²)
    assert wilson(10, 10) == pytest.approx((1 - 0.277533, 1), abs=1e-6)


def test_wilson_of_failures_mirrors_wilson_of_successes():
    low, high = wilson(3, 17, level=0.9)
    assert wilson(14, 17, level=0.9) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_the_bootstrap_is_what_counting_all_resamples_gives():
    values = [1.0, 2.0, 4.0, 8.0]
    means = np.sort([np.mean(drawn) for drawn in product(values, repeat=4)])  # 256, equally likely
    low, high = bootstrap(values, level=0.8, draws=40_000)
    below, above = np.mean(means < low), np.mean(means > high)
    assert 0.05 < below <= 0.1 and 0.05 < above <= 0.1  # steps of 1/256 to 12/256: the tails hold at most a tenth
    assert low in means and high in means


def test_the_bootstrap_of_many_values_is_plus_minus_two_standard_errors():
    values = np.random.default_rng(3).normal(5.0, 2.0, size=900)
    low, high = bootstrap(values)
    error = 1.96 * values.std() / 30
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.1 * error)


def test_the_bootstrap_repeats_itself():
    values = np.arange(13.0)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1) != bootstrap(values, seed=2)


def test_values_without_spread_have_an_interval_of_one_point():
    assert bootstrap([2.5] * 7) == (2.5, 2.5)
