"""Measures of a classifier, against counts made by hand."""

import numpy as np
import pytest
import torch
from kit import tiny

from firsthand.evaluate.labels import calibration_error, classification, probabilities
from firsthand.evaluate.stats import wilson
from firsthand.objectives.classify import Classify

# eight examples of a, b, c: called a a b b b c a c
TARGETS = np.array([0, 0, 0, 1, 1, 2, 2, 2])
CHANCES = np.array([
    [0.8, 0.1, 0.1], [0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [0.1, 0.9, 0.0],
    [0.3, 0.4, 0.3], [0.1, 0.3, 0.6], [0.45, 0.15, 0.4], [0.0, 0.0, 1.0],
])  # fmt: skip


def test_every_number_worked_by_hand():
    found = classification(CHANCES, TARGETS, ("a", "b", "c"))
    assert found.count == 8
    assert found.accuracy == 6 / 8
    assert found.interval == wilson(6, 8)
    assert found.confusion == [[2, 1, 0], [0, 2, 0], [1, 0, 2]]
    a, b, c = found.labels
    assert (a.label, a.count, a.precision, a.recall, a.f1) == ("a", 3, 2 / 3, 2 / 3, 2 / 3)
    assert (b.count, b.precision, b.recall, b.f1) == (2, 2 / 3, 1.0, 0.8)
    assert (c.count, c.precision, c.recall, c.f1) == (3, 1.0, 2 / 3, 0.8)
    assert (a.precision_interval, c.recall_interval) == (wilson(2, 3), wilson(2, 3))
    for score in found.labels:
        assert score.f1_interval.low <= score.f1 <= score.f1_interval.high


def test_the_calibration_error_worked_by_hand():
    # certainty .8 .5 .7 .9 .4 .6 .45 1: bins .4-.5 holds (.4 right, .45 wrong), every other one example, 1.0 in .9-1
    gaps = [2 * abs(0.425 - 0.5), abs(0.5 - 1), abs(0.6 - 1), abs(0.7 - 0), abs(0.8 - 1), 2 * abs(0.95 - 1)]
    found = classification(CHANCES, TARGETS, ("a", "b", "c"))
    assert found.calibration_error == pytest.approx(sum(gaps) / 8)
    assert sum(count for *_, count in found.bins) == 8
    assert found.calibration_interval.low <= found.calibration_interval.high


def test_honest_certainty_has_no_calibration_error():
    certain = np.array([0.75] * 4 + [1.0] * 3)
    assert calibration_error(certain, np.array([1, 1, 1, 0, 1, 1, 1], dtype=bool)) == 0


def test_a_label_that_is_never_called_has_no_precision_and_says_so():
    found = classification(np.array([[0.9, 0.1]] * 5), np.array([0, 0, 0, 1, 1]), ("a", "b"))
    assert found.labels[1].precision == found.labels[1].recall == found.labels[1].f1 == 0
    assert found.labels[1].precision_interval == (0, 1)


def test_probabilities_come_in_the_order_of_the_rows_whatever_the_batches():
    model = tiny("llama", torch.float64)
    Classify(("a", "b", "c")).prepare(model)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    rows = [[1, 2, 3, 4], [5], [6, 7], [8, 9, 10, 1, 2, 3], [4, 4]]
    found = probabilities(model, rows, batch_size=2)
    assert found.sum(axis=1) == pytest.approx(1)
    for row, chances in zip(rows, found, strict=True):
        alone = model(torch.tensor([row]))[0, -1].softmax(dim=0)
        assert chances == pytest.approx(alone.detach().numpy(), abs=1e-10)
