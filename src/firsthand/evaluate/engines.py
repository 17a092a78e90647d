"""The forms of a model that are the fast engine (infer/fast.py): its weights as they are, or rounded by it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice

import torch

from firsthand.checkpoint.bundle import Bundle
from firsthand.errors import ConfigError
from firsthand.evaluate.feeding import PIECES, NotHere, Open, Scores, fed_together
from firsthand.infer.draw import draw
from firsthand.infer.fast import Activations, Fast, Weights, one_torch_thread
from firsthand.linear.shrink import layers
from firsthand.model.gpt import GPT


def engined(weights: Weights, activations: Activations = "float32") -> Open:
    """How to open a form that is the fast engine, its rows fed together."""

    @contextmanager
    def open(bundle: Bundle) -> Iterator[Scores]:
        fast = engine(bundle.model, weights, activations)
        yield partial(fed_together, lambda config, batch, length: fast.new_cache(batch), fast)

    return open


def engine(model: GPT, weights: Weights = "own", activations: Activations = "float32") -> Fast:
    """The fast engine with room for four texts."""
    if model.embed.weight.dtype != torch.float32:
        raise NotHere("the fast engine computes in float32")
    if weights != "own" and layers(model):
        raise NotHere("its weights are quantized already; they are what `engine` uses")
    try:
        return Fast(model, weights, activations, tokens=4 * (model.config.context_length + PIECES[-1]))
    except ConfigError as error:  # no Numba, or layers that it does not know
        raise NotHere(str(error)) from error


def by_engine(model: GPT, ids: list[int], count: int) -> list[int]:
    """Greedy text as `firsthand chat` writes it, by the fast engine."""
    fast = engine(model)
    drawn = draw(fast, list(ids), lambda scores: int(scores.argmax()), fast.new_cache())
    with one_torch_thread():
        return [*ids, *(one.id for one in islice(drawn, count))]
