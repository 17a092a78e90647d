"""The learning rate as a pure function of the step: a factor between 0 and 1 of the peak."""

import math
from collections.abc import Callable

from firsthand.training.config import TrainConfig

Schedule = Callable[[int], float]


def cosine(step: int, steps: int, warmup: int, floor: float) -> float:
    """Up in a straight line for `warmup` steps, then down half a cosine to `floor` at `steps`.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5, without restarts.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    way = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * (1 + math.cos(math.pi * way)) / 2


def stable_decay(step: int, steps: int, warmup: int, cooldown: float, floor: float) -> float:
    """Up for `warmup` steps, level, then straight down to `floor` over the last `cooldown` of all steps.

    Source: Hu et al. 2024, arXiv:2404.06395, section 4 (warm-up, stable, decay).
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = (steps - step) / max(1.0, cooldown * steps)
    return floor + (1 - floor) * max(0.0, min(1.0, left))


def build(config: TrainConfig) -> Schedule:
    """The schedule that the settings name."""
    floor = config.min_learning_rate / config.learning_rate
    if config.schedule == "constant":
        return lambda step: min(1.0, (step + 1) / (config.warmup + 1))
    if config.schedule == "cosine":
        return lambda step: cosine(step, config.steps, config.warmup, floor)
    return lambda step: stable_decay(step, config.steps, config.warmup, config.cooldown, floor)
