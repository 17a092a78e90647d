"""The lesson's loop beside production's: twenty steps, the same losses."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from firsthand.lessons import training as lesson
from firsthand.objectives.base import Batch
from firsthand.objectives.pretrain import Pretrain
from firsthand.training import schedule
from firsthand.training.config import TrainConfig
from firsthand.training.groups import build
from firsthand.training.loop import steps
from tests.kit import gap, ids, tiny

CONFIG = TrainConfig(steps=20, warmup=4, learning_rate=1e-2, min_learning_rate=1e-3, weight_decay=0.2)


def test_cross_entropy_is_torchs():
    scores = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.tensor([[4, 0, 1], [2, 2, 3]])
    expected = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none").view(2, 3)
    assert gap(lesson.cross_entropy(scores, targets), expected) < 1e-12


def test_who_knows_nothing_pays_the_logarithm_of_the_vocabulary():
    loss = lesson.cross_entropy(torch.zeros(1, 1, 8), torch.tensor([[3]]))
    assert loss.item() == pytest.approx(math.log(8))


def test_the_learning_rate_is_that_of_production():
    factor = schedule.build(CONFIG)
    for step in range(20):
        assert lesson.learning_rate(step, 20, 1e-2, 4, 1e-3) == pytest.approx(1e-2 * factor(step), rel=1e-14)


@pytest.mark.parametrize("variant", ["gpt2", "fast"])
def test_twenty_steps_give_the_losses_of_production(variant):
    pairs = [(ids(3, 7, seed=10 + n), ids(3, 7, seed=40 + n)) for n in range(20)]
    slow = tiny(variant)
    optimizer = lesson.AdamW(slow.parameters(), 0.9, 0.95, decay=0.2)
    expected = lesson.train(slow, pairs, optimizer, lambda step: lesson.learning_rate(step, 20, 1e-2, 4, 1e-3))

    model = tiny(variant)
    batches = (Batch(x, y, torch.full((3,), 7), 21) for x, y in pairs)
    run = steps(model, Pretrain(), batches, build(model, CONFIG), schedule=schedule.build(CONFIG))
    losses = [record.loss for record in itertools.islice(run, 20)]

    assert losses == pytest.approx(expected, abs=1e-10)
    assert losses[-1] < losses[0] - 0.1
    for a, b in zip(model.parameters(), slow.parameters(), strict=True):
        assert gap(a.detach(), b.detach()) < 1e-10
