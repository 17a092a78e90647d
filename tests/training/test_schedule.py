"""Learning rates, by hand."""

import math

import pytest

from firsthand.errors import ConfigError
from firsthand.training.config import TrainConfig
from firsthand.training.schedule import build, cosine, stable_decay


def test_cosine_by_hand():
    factors = [cosine(step, steps=12, warmup=3, floor=0.1) for step in range(13)]
    assert factors[:3] == pytest.approx([0.25, 0.5, 0.75])
    assert factors[3] == 1.0
    assert factors[6] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 3)) / 2)  # a third of the way: 0.775
    assert factors[12] == pytest.approx(0.1)


def test_cosine_stays_at_the_floor_after_the_end():
    assert cosine(50, steps=12, warmup=3, floor=0.1) == pytest.approx(0.1)


def test_stable_decay_by_hand():
    factors = [stable_decay(step, steps=10, warmup=1, cooldown=0.4, floor=0.0) for step in range(11)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0.0])


@pytest.mark.parametrize("name", ["cosine", "stable-decay", "constant"])
def test_a_schedule_rises_to_one_and_never_above(name):
    config = TrainConfig(steps=50, warmup=7, schedule=name, learning_rate=1e-3, min_learning_rate=1e-4)
    factors = [build(config)(step) for step in range(50)]
    assert max(factors) == 1.0 and factors[7] == 1.0
    assert factors[:8] == sorted(factors[:8])
    assert min(factors[8:]) >= 0.1


def test_a_floor_above_the_peak_is_refused():
    with pytest.raises(ConfigError, match=r"min_learning_rate 0.1 is above learning_rate 0.01; try .*=0.001 \[FH034\]"):
        TrainConfig(learning_rate=0.01, min_learning_rate=0.1)


def test_betas_of_one_are_refused():
    with pytest.raises(ConfigError, match="must lie in"):
        TrainConfig(betas=(0.9, 1.0))
