"""Points are compared pair by pair, over examples and seeds, against a slow form and numbers worked by hand."""

import random

import numpy as np
import pytest

from firsthand.errors import ConfigError
from firsthand.evaluate.stats import crossed, repeated
from firsthand.study.points import against, best, points
from firsthand.study.sweep_page import pair_table, sweep_facts


def slow(apart, sizes, draws):
    """Draw seeds, draw examples, add up one number after the other; a sorted list of the means."""
    chance, means = random.Random(1), []
    for _ in range(draws):
        rows = [chance.randrange(len(apart)) for _ in apart]
        columns = [chance.randrange(len(sizes)) for _ in sizes]
        total = sum(apart[row][column] for row in rows for column in columns)
        means.append(total / len(rows) / sum(sizes[column] for column in columns))
    return sorted(means)


@pytest.mark.parametrize("sizes", [None, [3.0, 1.0, 7.0, 2.0, 2.0, 5.0, 1.0, 4.0]])
def test_the_interval_is_that_of_the_slow_form(sizes):
    generator = np.random.default_rng(5)
    first = generator.normal(0.3, 1.0, size=(3, 8)) + generator.normal(0, 0.5, size=(3, 1))
    second = generator.normal(0.0, 1.0, size=(3, 8))
    found = repeated(first, second, None if sizes is None else np.array(sizes), draws=20_000)
    means = slow((first - second).tolist(), sizes or [1.0] * 8, 20_000)
    spread = means[-1] - means[0]
    assert found.interval.low == pytest.approx(means[500], abs=0.02 * spread)  # 2.5 % of 20,000
    assert found.interval.high == pytest.approx(means[19_500], abs=0.02 * spread)


def test_means_worked_by_hand():
    # two seeds, three examples: differences 1 0 2 and 3 0 0; of sizes 1 1 2
    found = repeated(np.array([[2, 5, 4], [3, 1, 1]]), np.array([[1, 5, 2], [0, 1, 1]]), np.array([1, 1, 2]))
    assert found.by_seed == (3 / 4, 3 / 4)
    assert found.mean == 3 / 4
    assert repeated(np.array([[1.0, 2.0]]), np.array([[0.0, 0.0]])).by_seed == (1.5,)


def test_luck_of_the_seed_is_in_the_interval_and_what_all_share_is_not():
    generator = np.random.default_rng(2)
    hard = generator.normal(0, 10, size=(1, 400))
    lucky = np.array([[0.5], [-0.1], [0.3], [-0.4]])
    found = repeated(hard + lucky, np.repeat(hard, 4, axis=0))
    assert found.interval.high - found.interval.low > 0.4  # the seeds alone are 0.9 apart; examples do not matter
    assert found.sign == 0
    assert crossed(np.full((3, 5), 2.0), np.ones(5)) == (2.0, 2.0)


def test_every_seed_must_agree():
    apart = np.repeat(np.array([[1.0], [1.1], [-0.01]]), 50, axis=1)
    assert repeated(apart[:2], np.zeros((2, 50))).sign == 1
    assert repeated(-apart[:2], np.zeros((2, 50))).sign == -1
    assert repeated(apart, np.zeros((3, 50))).sign == 0


def result(point, seed, loss, right=(), error=None):
    return {
        "name": f"{point},seed={seed}", "point": point, "seed": seed, "words": [], "error": error,
        "validation_loss": loss, "scores": {"accuracy": list(right)} if right else {}, "peak_bytes": 7,
        "parameters_learned": 5, "seconds": {"cell": 2.0},
    }  # fmt: skip


def test_a_point_is_its_seeds_and_what_failed_is_counted():
    results = [result("a", 1, 0.5, [1, 0]), result("a", 2, 0.7, [1, 1]), {**result("a", 3, 0), "error": "no"}]
    (point,) = points(results)
    facts = point.facts()
    assert (facts["seeds"], facts["failed"], facts["validation_loss"]) == ([1, 2], 1, pytest.approx(0.6))
    assert facts["scores"]["accuracy"]["mean"] == 0.75
    assert facts["scores"]["accuracy"]["by_seed"] == [0.5, 1.0]


def test_the_best_is_chosen_by_validation_and_compared_on_the_test():
    good, bad = [1] * 45 + [0] * 5, [1] * 20 + [0] * 30
    results = [result("a", seed, 0.9, good) for seed in (1, 2)] + [result("b", seed, 0.3, bad) for seed in (1, 2)]
    able = points(results)
    assert best(able).name == "b"  # although its test accuracy is lower
    told = sweep_facts(results, "command")
    assert (told["best"], told["comparisons"][0]["verdict"]) == ("b", "worse")
    assert told["comparisons"][0]["difference"] == pytest.approx(-0.5)
    assert told["verdict"].startswith("By validation loss b is best: test accuracy 0.4 [")
    assert told["verdict"].endswith("over 2 seeds; worse than a.")
    assert '<td>accuracy</td><td class="number">-0.5</td>' in pair_table(told["comparisons"])


def test_of_a_loss_less_is_better():
    results = [result(name, seed, loss) for name, loss in (("a", 1.0), ("b", 2.0)) for seed in (1, 2, 3)]
    a, b = points(results)
    assert against(a, b, "validation_loss")["verdict"] == "better"
    assert against(b, a, "validation_loss")["verdict"] == "worse"


def test_only_seeds_that_both_have_are_compared():
    first, second = points([result("a", 1, 1.0), result("a", 2, 9.0), result("b", 2, 9.5), result("b", 3, 0.1)])
    told = against(first, second, "validation_loss")
    assert told["seeds"] == [2]
    assert told["difference"] == pytest.approx(-0.5)
    (lonely,) = points([result("c", 7, 1.0)])
    alone = against(first, lonely, "validation_loss")
    assert alone["verdict"] == "not compared: no seed has both"
    assert "no seed has both" in pair_table([alone])


def test_other_examples_are_not_compared():
    first, second = points([result("a", 1, 1.0, [1, 0]), result("b", 1, 1.0, [1, 0, 1])])
    assert against(first, second, "accuracy")["verdict"] == "not compared: they were tested on different examples"
    (mixed,) = points([result("a", 1, 1.0, [1, 0]), result("a", 2, 1.0, [1, 0, 1])])
    with pytest.raises(ConfigError, match="its seeds were tested on different examples"):
        mixed.mean("accuracy")


def test_a_sweep_in_which_all_failed_says_so():
    told = sweep_facts([result("a", 1, 0, error="no")], "command")
    assert told["verdict"] == "no cell ended well; see the errors"
