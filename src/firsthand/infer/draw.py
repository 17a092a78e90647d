"""The innermost loop: scores from the model, a choice, and again; for every way of choosing. V vocabulary."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from firsthand.infer.constrain import Limit
from firsthand.infer.sample import Sampler, pick
from firsthand.model.cache import Cache
from firsthand.model.config import ModelConfig


class Reader(Protocol):
    """A model as these loops see it: GPT, or the fast engine (fast.py)."""

    config: ModelConfig
    training: bool

    def last(self, ids: Tensor, count: int, cache: Cache | None = None) -> Tensor:
        """Scores after the last `count` ids of every row: (B, T) -> (B, count, V)."""
        ...

    def new_cache(self, batch: int = 1, length: int | None = None) -> Cache:
        """A cache for so many rows of at most so many tokens."""
        ...

    def train(self, mode: bool = True) -> Any:
        """With dropout, or without."""
        ...


class Drawn(NamedTuple):
    """A token that was chosen, and the scores it was chosen from."""

    id: int
    scores: Tensor  # (V,) as the model gave them


def chooser(
    sampler: Sampler, generator: torch.Generator, ids: list[int], limit: Limit | None = None
) -> Callable[[Tensor], int]:
    """How to choose what follows `ids`, which grow: the penalties look back at them, a grammar follows the answer."""
    begin, stage = len(ids), None if limit is None else limit.stage

    def choose(scores: Tensor) -> int:
        id = pick(scores, sampler, ids, generator, begin, stage)
        if limit is not None:
            limit.take(id)
        return id

    return choose


def draw(model: Reader, ids: list[int], choose: Callable[[Tensor], int], cache: Cache | None = None) -> Iterator[Drawn]:
    """Tokens that follow `ids`, for ever; each is appended to `ids` before it is given. The caller stops when it likes.

    What the cache does not hold yet is computed. Without one that is everything, each time: equal, and slower.
    """
    while True:
        seen = 0 if cache is None else int(cache.lengths[0])
        scores = last_scores(model, ids[seen:], 1, cache)[0]
        ids.append(choose(scores))
        yield Drawn(ids[-1], scores)


@torch.inference_mode()  # on a function, not around a `yield`: there it would leak into the caller's training
def last_scores(model: Reader, ids: Sequence[int], count: int, cache: Cache | None = None) -> Tensor:
    """The scores of every token that may follow each of the last `count` ids: T ids -> (count, V)."""
    with evaluating(model):
        return model.last(torch.tensor([list(ids)]), count, cache)[0]


def next_scores(model: Reader, ids: Sequence[int], cache: Cache | None = None) -> Tensor:
    """The scores of every token that may come next: T ids -> (V,)."""
    return last_scores(model, ids, 1, cache)[0]


@contextmanager
def evaluating(model: Reader) -> Iterator[None]:
    """Without dropout inside the `with`; afterwards the model trains again, if it did before."""
    training = model.training
    if training:
        model.train(False)
    try:
        yield
    finally:
        if training:
            model.train()
