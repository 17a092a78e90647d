"""Lesson: how numbers that mean nothing become vectors that mean something.

A token id is a row number in a table; the vector is the row. That is all an embedding is. Two questions remain:
why can a table be *learned*, and how does the model know which token came first?

V vocabulary, T tokens, C width.
"""

import torch
from torch import Tensor


def lookup(ids: Tensor, table: Tensor) -> Tensor:
    """The rows of the table that the ids name: (T,), (V, C) -> (T, C).

    Id 3 costs as much as id 49,999: nothing is computed, a row is copied.
    """
    rows = [table[i] for i in ids.tolist()]
    return torch.stack(rows)


def one_hot(ids: Tensor, vocab_size: int) -> Tensor:
    """Every id as a vector of zeros with a single 1 at its place: (T,) -> (T, V)."""
    hot = torch.zeros(len(ids), vocab_size)
    for t, i in enumerate(ids.tolist()):
        hot[t, i] = 1.0
    return hot


def matrix_product(ids: Tensor, table: Tensor) -> Tensor:
    """The same rows, by multiplying: (T,), (V, C) -> (T, C).

    A row of zeros with one 1 picks one row of the table: 0 x row 0 + 1 x row 1 + 0 x row 2 + ... So a lookup is a
    linear layer whose input is one-hot, and its gradient is known: a row that was named receives the gradient of its
    vector (of all of them, if it was named twice), and a row that was not named receives nothing.
    """
    hot = one_hot(ids, len(table)).to(table.dtype)  # (T, V)
    return hot @ table


def with_positions(ids: Tensor, table: Tensor, positions: Tensor) -> Tensor:
    """Vectors that know what they are and where they stand: (T,), (V, C), (context, C) -> (T, C).

    Attention adds up what it sees and would not notice if the tokens changed places: "dog bites man" would be
    "man bites dog". GPT-2 learns a second table, one row a position, and adds it. The sum loses nothing that matters:
    in hundreds of dimensions, "what" and "where" find directions of their own.
    Source: Radford et al. 2019, section 2.3.
    """
    what = lookup(ids, table)
    where = positions[: len(ids)]
    return what + where
