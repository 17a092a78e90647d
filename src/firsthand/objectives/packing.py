"""Several texts in one row, so that hardly any of it is padding: no text sees another, and each begins at position 0.

    one text a row     5 6 7 8 - -      inputs, padded to the longest
                       1 2 - - - -
    packed             5 6 7 8 1 2      positions 0 1 2 3 0 1

A text of n tokens takes n - 1 places, for its last one is only a target. Nothing is cut and nothing left out.

B rows, T positions.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any

import torch

from firsthand.errors import DataError
from firsthand.objectives.base import IGNORE, Batch
from firsthand.objectives.rows import Example, rows


def pack(examples: Sequence[Example], room: int) -> list[list[Example]]:
    """Rows of at most `room` places: each example, longest first, goes where it leaves the least room (best fit).

    At most 11/9 of the fewest rows there could be, and 4 more (Johnson et al. 1974, "Worst-case performance bounds for
    simple one-dimensional packing algorithms"). Examples of a row, and the rows, keep the order of the data.
    """
    kept: list[list[int]] = []
    left: list[tuple[int, int]] = []  # room and number of every row, sorted
    for index in sorted(range(len(examples)), key=lambda index: -len(examples[index][0])):
        need = len(examples[index][0]) - 1
        if need > room:
            raise DataError(
                f"an example of {need + 1:,} tokens does not fit into rows of {room:,}; leave it out or use longer rows"
            )
        place = bisect_left(left, (need, -1))
        free, row = left.pop(place) if place < len(left) else (room, len(kept))
        if row == len(kept):
            kept.append([])
        kept[row].append(index)
        insort(left, (free - need, row))
    return [[examples[index] for index in row] for row in sorted(sorted(row) for row in kept)]


def facts(packing: Sequence[Sequence[Example]], room: int) -> dict[str, Any]:
    """What packing made of the data: rows, examples, the places they take, and their share of all places."""
    places = sum(len(ids) - 1 for row in packing for ids, _ in row)
    examples = sum(len(row) for row in packing)
    share = places / (room * len(packing)) if packing else 0.0
    return {"rows": len(packing), "examples": examples, "tokens": places, "filled": share}


def packed(packing: Sequence[Sequence[Example]]) -> Batch:
    """Inputs (B, T), targets (B, T) and positions (B, T); count: learned targets. Padding is cut into texts as well."""
    joined = [[rows([example]) for example in row] for row in packing]  # (1, n - 1) each
    lengths = torch.tensor([sum(one.inputs.shape[1] for one in row) for row in joined])
    inputs = torch.zeros(len(packing), int(lengths.max()), dtype=torch.long)
    targets = torch.full_like(inputs, IGNORE)
    longest = max(one.inputs.shape[1] for row in joined for one in row)
    positions = torch.arange(inputs.shape[1]).expand_as(inputs).clone()
    for b, (row, length) in enumerate(zip(joined, lengths.tolist(), strict=True)):
        inputs[b, :length] = torch.cat([one.inputs[0] for one in row])
        targets[b, :length] = torch.cat([one.targets[0] for one in row])
        positions[b, :length] = torch.cat([torch.arange(one.inputs.shape[1]) for one in row])
        positions[b, length:] = (positions[b, length:] - length) % longest  # no text of padding is the longest
    return Batch(inputs, targets, lengths, sum(one.count for row in joined for one in row), positions)
