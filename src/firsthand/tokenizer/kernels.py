"""Text -> ids, compiled: cut off a piece, look it up among the words met before, else merge it and remember it.

The cache of words is built like a processor's: 2^14 sets of two rows each, chosen by a hash; a new word takes the first
row of its set, the word there moves to the second, the word there is forgotten. It never grows and never fills up. A
hit counts only after all bytes of the word, and its length, were found equal.

    row = 16 uint64 = two cache lines: the word (4), length and count (1), its ids two by two (11)
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from firsthand.tokenizer.compiled import ALONE, compiled, lean, load64, store64
from firsthand.tokenizer.merge import HALF, LOW, MIX, SCANNED, Links, merge_long, merge_short
from firsthand.tokenizer.split import PADDING, look, next_piece
from firsthand.tokenizer.whole import whole_token

SET_BITS = 14
ROW = np.uint64(16)
LONGEST, MOST = 32, 22  # bytes and ids of a word that a row can hold
SPARE = 4  # ids that `recall` may write beyond the end
CHUNK = 1 << 18  # bytes looked at together: their kinds and marks stay in the processor's cache
SAFE = re.compile(rb"[!-~](?= )")  # every pattern cuts between a visible sign and a space, whatever follows
MIX1, MIX2, MIX3 = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F), np.uint64(0xE7037ED1A0B428DB)
ZERO, ALL = np.uint64(0), np.uint64(0xFFFFFFFFFFFFFFFF)


def empty_cache() -> np.ndarray:
    """A cache without words, its rows on the borders of cache lines: -> (2^19,) uint64. No word has the length 0."""
    size = 2 * int(ROW) << SET_BITS
    room = np.zeros(size + 8, np.uint64)
    start = -(room.ctypes.data // 8) % 8
    return room[start : start + size]


class Room(NamedTuple):
    """Room for the work on a chunk of N bytes."""

    kinds: np.ndarray  # (N + PADDING,) uint8
    marks: np.ndarray  # (N + PADDING,) uint8
    scores: np.ndarray  # (>= N,) uint64
    links: Links


def room_for(size: int) -> Room:
    """Room for a chunk of `size` bytes; what is never touched costs no memory."""
    kinds, marks = np.empty((2, size + PADDING), np.uint8)
    links = Links(np.empty(size, np.int32), np.empty(size, np.int32), np.empty(2 * size, np.uint64))
    return Room(kinds, marks, np.empty(max(size, SCANNED), np.uint64), links)


def chunks(data: bytes, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of chunks of `size` bytes, or as many more as it takes to a place where every pattern cuts."""
    start = 0
    while start < len(data):
        found = SAFE.search(data, start + size)
        stop = found.end() if found else len(data)
        yield start, stop
        start = stop


@lean
def eight_of(data, at, length):
    """Up to eight bytes of a word as one number, zeros above; `length` > 0 of them are left in the word."""
    return load64(data, at) & (ALL >> np.uint64(64 - 8 * min(length, 8)))


@lean
def word_at(data, at, length):
    """The word of up to 32 bytes as four numbers. Reads eight bytes at a time, up to 7 beyond the word."""
    second, third, fourth = ZERO, ZERO, ZERO
    if length > 8:
        second = eight_of(data, at + 8, length - 8)
    if length > 16:
        third = eight_of(data, at + 16, length - 16)
    if length > 24:
        fourth = eight_of(data, at + 24, length - 24)
    return eight_of(data, at, length), second, third, fourth


@lean
def set_of(word):
    """Where the set of a word begins in the cache."""
    mixed = word[0] * MIX + word[1] * MIX1 + word[2] * MIX2 + word[3] * MIX3
    mixed = (mixed ^ (mixed >> HALF)) * MIX
    return (mixed >> np.uint64(64 - SET_BITS)) * (ROW + ROW)


@lean
def holds(cache, row, word, length):
    """Whether this row is this word: every byte is compared, and the length."""
    return (
        (cache[row] == word[0])
        & (cache[row + np.uint64(1)] == word[1])
        & (cache[row + np.uint64(2)] == word[2])
        & (cache[row + np.uint64(3)] == word[3])
        & (cache[row + np.uint64(4)] >> HALF == np.uint64(length))
    )


@lean
def recall(cache, row, out, count):
    """Append the ids of a row to out[:count], four at least, whatever is then overwritten: -> how many they were."""
    kept = np.int64(cache[row + np.uint64(4)] & LOW)
    store64(out, 4 * count, cache[row + np.uint64(5)])
    store64(out, 4 * count + 8, cache[row + np.uint64(6)])
    for pair in range(2, (kept + 1) >> 1):
        store64(out, 4 * count + 8 * pair, cache[row + np.uint64(5 + pair)])
    return kept


@lean
def remember(cache, row, word, length, out, count, kept):
    """Write a word and its ids, out[count : count + kept], into the first row; what was there moves to the second."""
    for step in range(ROW):
        cache[row + ROW + step] = cache[row + step]
    cache[row], cache[row + np.uint64(1)] = word[0], word[1]
    cache[row + np.uint64(2)], cache[row + np.uint64(3)] = word[2], word[3]
    cache[row + np.uint64(4)] = np.uint64(length) << HALF | np.uint64(kept)
    for pair in range((kept + 1) >> 1):
        cache[row + np.uint64(5 + pair)] = load64(out, 4 * count + 8 * pair)


@lean
def merge_piece(data, at, length, tables, room, out, count):
    """Append the ids of a piece that was not met before to out[:count]: -> how many they are."""
    token = whole_token(data, at, length, tables)
    if token >= 0:
        out[count] = token
        return np.int64(1)
    for step in range(length):  # a piece never has more ids than bytes: there is room to merge in place
        out[count + step] = tables.byte_ids[data[at + step]]
    if length <= SCANNED:
        for step in range(length - 1):
            room.scores[step] = tables.byte_scores[np.int64(data[at + step]) << 8 | data[at + step + 1]]
        return merge_short(out, count, length, tables.pairs, room.scores)
    return merge_long(out, count, length, tables.pairs, room.scores, room.links)


@partial(compiled, options=ALONE)
def encode(data, classes, pattern, tables, cache, room, out, count):
    """Append the ids of a chunk of text to out[:count]: (N,) uint8 -> the new count. `out` has SPARE in reserve."""
    look(data, classes, pattern, room.kinds, room.marks)
    at = np.int64(0)
    while at < len(data):
        end = next_piece(data, room.kinds, room.marks, at, pattern)
        length = end - at
        if length <= LONGEST and at + LONGEST <= len(data):
            word = word_at(data, at, length)
            row = set_of(word)
            if not holds(cache, row, word, length):
                row += ROW
            if holds(cache, row, word, length):
                count += recall(cache, row, out, count)
            else:
                kept = merge_piece(data, at, length, tables, room, out, count)
                if kept <= MOST:
                    remember(cache, row - ROW, word, length, out, count, kept)
                count += kept
        else:
            count += merge_piece(data, at, length, tables, room, out, count)
        at = end
    return count
