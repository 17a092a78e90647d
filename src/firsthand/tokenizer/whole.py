"""tiktoken's short cut, compiled: a piece that is a token as a whole is that token, whether or not merges lead there.

With merges in order of training it changes nothing, and there the table stays empty; with hand-made ranks it does.
"""

from typing import NamedTuple

import numpy as np

from firsthand.tokenizer.compiled import compiled, lean
from firsthand.tokenizer.merge import MIX


class Tables(NamedTuple):
    """What the compiled code knows of a vocabulary of V tokens and P pairs."""

    byte_ids: np.ndarray  # (256,) uint32: the id of every single byte
    byte_scores: np.ndarray  # (65536,) uint64: the score of every two single bytes, one after the other
    pairs: np.ndarray  # (size,) uint64: see merge.build_table
    names: np.ndarray  # uint8: the bytes of all tokens, one behind the other
    starts: np.ndarray  # (V + 1,) int64: where each token begins in `names`
    slots: np.ndarray  # (size,) int32: ids by the hash of their bytes, -1 where there is none; () without the short cut


@lean
def slot_of(data, at, length, mask):
    """Where the search for a token begins."""
    mixed = np.uint64(length)
    for step in range(length):
        mixed = (mixed ^ np.uint64(data[at + step])) * MIX
    return (mixed >> np.uint64(24)) & mask


@lean
def is_token(data, at, length, token, names, starts):
    """Whether data[at : at + length] are the bytes of this token."""
    first = starts[token]
    if starts[token + 1] - first != length:
        return False
    step = np.int64(0)
    while step < length and names[first + step] == data[at + step]:
        step += 1
    return step == length


@lean
def whole_token(data, at, length, tables):
    """The id of the token that is data[at : at + length], or -1."""
    if len(tables.slots) == 0:
        return np.int64(-1)
    mask = np.uint64(len(tables.slots) - 1)
    slot = slot_of(data, at, length, mask)
    while tables.slots[slot] >= 0:
        token = np.int64(tables.slots[slot])
        if is_token(data, at, length, token, tables.names, tables.starts):
            return token
        slot = (slot + np.uint64(1)) & mask
    return np.int64(-1)


@compiled
def fill_slots(slots, names, starts):
    """Put all tokens that have bytes into empty slots."""
    mask = np.uint64(len(slots) - 1)
    for token in range(len(starts) - 1):
        length = starts[token + 1] - starts[token]
        if length > 0:
            slot = slot_of(names, starts[token], length, mask)
            while slots[slot] >= 0:
                slot = (slot + np.uint64(1)) & mask
            slots[slot] = token


def build_slots(names: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The ids by the hash of their bytes, at most half full: -> (size,) int32. A token without bytes is left out."""
    slots = np.full(1 << max(4, (2 * len(starts)).bit_length()), -1, np.int32)
    fill_slots(slots, names, starts)
    return slots
