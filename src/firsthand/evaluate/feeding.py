"""How rows of ids are given to a model: alone, side by side, in pieces through a cache; one way a form is run.

T tokens of a row, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from firsthand.checkpoint.bundle import Bundle
from firsthand.model.cache import Cache
from firsthand.model.config import ModelConfig
from firsthand.model.gpt import GPT

Rows = Sequence[Tensor]
Scores = Callable[[Rows], Iterator[Tensor]]
Run = Callable[[GPT, Rows], Iterator[Tensor]]
Open = Callable[[Bundle], AbstractContextManager[Scores]]
Make = Callable[[ModelConfig, int, int], Cache]  # of so many rows of at most so many tokens


class NotHere(Exception):
    """Why a form of this model, or on this machine, cannot be."""


def one_by_one(model: GPT, rows: Rows) -> Iterator[Tensor]:
    """Each row alone, without a cache."""
    return (model(row[None])[0] for row in rows)


def in_batches(model: GPT, rows: Rows, size: int = 4) -> Iterator[Tensor]:
    """Rows of different lengths side by side, padded on the right with a token that must not matter."""
    for first in range(0, len(rows), size):
        batch = rows[first : first + size]
        scores = model(torch.nn.utils.rnn.pad_sequence(list(batch), batch_first=True, padding_value=1))
        yield from (scores[at, : len(row)] for at, row in enumerate(batch))


PIECES = (1, 2, 1, 17, 1, 5, 64)  # tokens fed at a time, in turn


def fed_alone(make: Make, model: GPT, rows: Rows) -> Iterator[Tensor]:
    """Each row alone through a cache of its own, in pieces of several sizes, single tokens among them."""
    for row in rows:
        cache, parts, turn = make(model.config, 1, len(row)), [], 0
        while (seen := int(cache.lengths[0])) < len(row):
            parts.append(model(row[None, seen : seen + PIECES[turn % len(PIECES)]], cache)[0])
            turn += 1
        yield torch.cat(parts)


def fed_together(make: Make, model: Any, rows: Rows, size: int = 4) -> Iterator[Tensor]:
    """Four rows share a cache, each at a place of its own; one that is done rests while the others go on."""
    for first in range(0, len(rows), size):
        batch = rows[first : first + size]
        cache, parts, turn = make(model.config, len(batch), max(map(len, batch))), [[] for _ in batch], 0
        while any(int(seen) < len(row) for seen, row in zip(cache.lengths, batch, strict=True)):
            wished = PIECES[turn % len(PIECES)]
            starts = cache.lengths.tolist()
            given = [
                row[a : a + max(1, wished - 3 * at)] for at, (row, a) in enumerate(zip(batch, starts, strict=True))
            ]
            counts = torch.tensor([len(piece) for piece in given])
            ids = torch.nn.utils.rnn.pad_sequence(given, batch_first=True, padding_value=1)
            for part, scores, count in zip(parts, model(ids, cache, counts), counts.tolist(), strict=True):
                part.append(scores[:count])
            turn += 1
        yield from map(torch.cat, parts)


def in_one_graph(model: GPT, rows: Rows) -> Iterator[Tensor]:
    """Compiled. Every row padded to one length: each other shape would be compiled anew."""
    compiled = torch.compile(model, dynamic=False)
    longest = max(map(len, rows))
    for row in rows:
        padded = torch.nn.functional.pad(row, (0, longest - len(row)), value=1)
        yield compiled(padded[None])[0, : len(row)]
