"""The baseline is the best of its kind: a convex problem solved, and nothing but counts of words in it."""

from math import log

import numpy as np
import pytest
import torch

from firsthand.evaluate.words import BagOfWords, majority

TEXTS = ["win a prize now", "win money now", "see you at home", "home by now", "a prize at home", "money for you"]
TARGETS = [1, 1, 0, 0, 1, 0]


def dense(bag, texts):
    """The features as a matrix: (E, F)."""
    found = torch.zeros(len(texts), len(bag.index) + 1, dtype=torch.float64)
    for row, text in enumerate(texts):
        for at, value in zip(*bag._bag(text), strict=True):
            found[row, at] += value
    return found


@pytest.mark.parametrize("weights", [(), (1.0, 3.0)])
def test_it_is_where_newton_s_method_ends(weights):
    bag = BagOfWords(TEXTS, TARGETS, 2, weights, pull=0.05)
    x, y = torch.cat([dense(bag, TEXTS), torch.ones(6, 1)], dim=1), torch.tensor(TARGETS, dtype=torch.float64)
    share = torch.tensor([dict(enumerate(weights or (1, 1)))[label] for label in TARGETS], dtype=torch.float64)
    share = share / share.sum()
    # two labels, W of mean zero: the difference w of both columns has the pull |w|^2 / 4, the bias none
    w = torch.zeros(x.shape[1], dtype=torch.float64)
    ridge = torch.full_like(w, 0.05 / 2)
    ridge[-1] = 0
    for _ in range(30):
        p = torch.sigmoid(x @ w)
        slope = x.mT @ (share * (p - y)) + ridge * w
        curve = x.mT @ ((share * p * (1 - p))[:, None] * x) + torch.diag(ridge) + 1e-14 * torch.eye(len(w))
        w = w - torch.linalg.solve(curve, slope)
    expected = torch.sigmoid(x @ w)
    assert bag.probabilities(TEXTS)[:, 1] == pytest.approx(expected.numpy(), abs=1e-6)


def test_features_worked_by_hand():
    bag = BagOfWords(TEXTS, TARGETS, 2)
    # in two texts or more: a, a prize, at, at home, home, money, now, prize, win, you
    assert sorted(bag.index) == ["a", "a prize", "at", "at home", "home", "money", "now", "prize", "win", "you"]
    at, values = bag._bag("Home, home! NOW")
    assert at == [bag.index["home"], bag.index["now"], len(bag.index)]
    length = (log(3) ** 2 + log(2) ** 2) ** 0.5  # home twice: log(1 + 2); now once: log(1 + 1)
    assert values == pytest.approx([log(3) / length, log(2) / length, 0])


def test_it_learns_what_words_can_tell_and_shrugs_at_words_it_never_saw():
    bag = BagOfWords(TEXTS * 5, TARGETS * 5, 2)
    assert bag.probabilities(TEXTS).argmax(axis=1).tolist() == TARGETS
    unknown = bag.probabilities(["xylophone", ""])
    assert unknown[0] == pytest.approx(unknown[1])


def test_it_gives_the_same_numbers_each_time():
    assert np.array_equal(BagOfWords(TEXTS, TARGETS, 2).weight.detach(), BagOfWords(TEXTS, TARGETS, 2).weight.detach())


def test_the_majority_says_of_every_text_what_training_was_like():
    assert majority([1, 0, 1, 1], 2, 3).tolist() == [[0.25, 0.75, 0], [0.25, 0.75, 0]]
