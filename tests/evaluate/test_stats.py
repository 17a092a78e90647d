"""Intervals and comparisons, against numbers worked by hand and against all resamples counted out."""

from itertools import product

import numpy as np
import pytest

from firsthand.evaluate.stats import bootstrap, mcnemar, paired, resampled, wilson


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


def test_the_bootstrap_of_any_statistic():
    values = np.random.default_rng(1).exponential(size=101)
    assert resampled(lambda drawn: values[drawn].mean(), 101) == bootstrap(values)
    low, high = resampled(lambda drawn: float(np.median(values[drawn])), 101)
    assert low < np.median(values) < high


def test_mcnemar_worked_by_hand():
    # 1 against 5: (C(6,0) + C(6,1)) / 2^6, twice: 2 * 7 / 64
    assert mcnemar(1, 5) == mcnemar(5, 1) == 14 / 64
    assert mcnemar(0, 0) == mcnemar(3, 3) == mcnemar(1, 2) == 1.0
    assert mcnemar(0, 6) == 2 / 64
    assert mcnemar(900, 1100) == pytest.approx(8.5e-6, rel=0.05)  # normal: z = 199 / sqrt(2000) = 4.45


def test_what_both_find_hard_falls_out_of_a_paired_difference():
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 10, size=200)
    found = paired(hard + 0.5 + generator.normal(0, 0.1, size=200), hard)
    assert found.p is None
    assert found.verdict == "better"
    assert found.interval.high - found.interval.low < 0.05
    assert paired(hard, hard + 0.5).verdict == "worse"


def test_right_and_wrong_are_compared_by_mcnemar():
    ours, theirs = [1] * 90 + [0] * 10, [1] * 85 + [0] * 5 + [1] * 1 + [0] * 9  # 5 only ours, 1 only theirs
    found = paired(ours, theirs)
    assert found.mean == pytest.approx(0.04)
    assert found.p == 14 / 64
    assert found.verdict == "not distinguishable"
    assert paired([1] * 10, [0] * 10).verdict == "better"
    assert paired([0] * 10, [1] * 10).verdict == "worse"
    assert paired([1, 0], [1, 0]).verdict == "not distinguishable"
